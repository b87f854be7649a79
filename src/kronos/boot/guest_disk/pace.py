"""How long one disk may take: ten seconds, and more where the host itself is slow."""

from __future__ import annotations

import functools
import subprocess
import time

USUAL, LONGEST = 10.0, 60.0
"""Seconds."""
_STARTS = 300
"""As many starts of a program as a disk may take the time of: under 30 ms each on a host with processors of its own."""


def allowed(start: float) -> float:
    """The seconds that a disk may take on a host where a program takes `start` seconds to start."""
    return min(LONGEST, max(USUAL, _STARTS * start))


@functools.cache
def of_this_host() -> float:
    """The seconds that a disk may take here. Measured once, with a program of ours: no guest has a part in it."""
    return allowed(min(_start() for _ in range(3)))


def _start() -> float:
    began = time.monotonic()
    subprocess.run(["/usr/bin/python3", "-I", "-S", "-c", "pass"], check=False, timeout=LONGEST)
    return time.monotonic() - began
