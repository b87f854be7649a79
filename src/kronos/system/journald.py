"""journald's own protocol: log entries with fields, as datagrams. See systemd's JOURNAL_NATIVE_PROTOCOL.

python3-systemd does the same with a library and a compiler behind it; this is one system call.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
MOST = 700 * 1024
"""Bytes of a value that are sent; what is beyond is cut off. journald itself takes 768 KiB from a field."""


def encoded(fields: Mapping[str, str]) -> bytes:
    """Fields as an entry; empty ones are left out. Names are capital letters, digits and `_`."""
    parts = []
    for name, text in fields.items():
        value = text.encode("utf-8", "backslashreplace")[:MOST]
        if b"\n" in value:
            parts += [name.encode(), b"\n", struct.pack("<Q", len(value)), value, b"\n"]
        elif value:
            parts += [name.encode(), b"=", value, b"\n"]
    return b"".join(parts)


class Journal:
    """A way to the journal. Nobody waits: an entry that journald has no room for is lost, as is usual there."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)

    def send(self, fields: Mapping[str, str]) -> None:
        """Send an entry. Raises OSError where there is no journal."""
        entry = encoded(fields)
        try:
            self._socket.sendto(entry, socket.MSG_DONTWAIT, self._path)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_file(entry)

    def _send_file(self, entry: bytes) -> None:
        """An entry that is too long goes as a sealed file in memory, of which the descriptor is sent."""
        descriptor = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(entry)
            _seal(descriptor)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
            self._socket.sendmsg([], [rights], socket.MSG_DONTWAIT, self._path)
        except BlockingIOError:
            return
        finally:
            os.close(descriptor)

    def close(self) -> None:
        self._socket.close()


def _seal(descriptor: int) -> None:
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
