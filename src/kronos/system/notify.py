"""Telling the service manager how the daemon is: systemd's notification socket, see sd_notify(3)."""

from __future__ import annotations

import os
import socket


def notify(*assignments: str) -> bool:
    """Send assignments such as READY=1, STOPPING=1, WATCHDOG=1, STATUS=…; False when nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            # A leading @ stands for the NUL byte of Linux's abstract names.
            sender.sendto("\n".join(assignments).encode(), address.replace("@", "\0", 1))
        except OSError:
            return False
    return True


def watchdog_interval() -> float | None:
    """Seconds until WATCHDOG=1 is due again, half of what the manager allows; None when it does not watch."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2e6 if microseconds.isascii() and microseconds.isdigit() else None
