"""Memory of this process that it has freed, and that the C library keeps."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def give_back() -> None:
    """Give what is free inside the C library's heaps back to the host; where it has no such function, nothing.

    It keeps a heap for each of the threads that worked at once, and of each what lies between two things still in use.
    Takes milliseconds, in which a thread may wait that wants memory of the same heap.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
