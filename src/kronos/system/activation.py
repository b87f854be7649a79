"""Sockets that the service manager holds for the daemon, see sd_listen_fds(3): clients wait there while it is away."""

from __future__ import annotations

import os
import socket

_FIRST = 3


def inherited() -> list[socket.socket]:
    """The listening sockets that systemd gave this process; none where it gave none, or to another.

    To be called once: afterwards they belong to whoever called, and no program that is run here hears of them.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not (count.isascii() and count.isdecimal()):
        return []
    found = []
    for descriptor in range(_FIRST, _FIRST + int(count)):
        os.set_inheritable(descriptor, False)
        found.append(socket.socket(fileno=descriptor))
    return found
