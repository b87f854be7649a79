"""What a hypervisor tells of a live disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class DiskStatistics(NamedTuple):
    """What a guest has done with a disk since its VM started or the disk was plugged: bytes, requests, and the time in
    nanoseconds that these took, added up. A driver that cannot tell a figure says 0."""

    read_bytes: int = 0
    read_requests: int = 0
    read_time: int = 0
    write_bytes: int = 0
    write_requests: int = 0
    write_time: int = 0
    flush_requests: int = 0
    flush_time: int = 0


class Bitmap(NamedTuple):
    """Which parts of a disk changed since the bitmap was added, kept in the image file: `dirty` is their size in bytes,
    in steps of 64 KiB. One that is not `usable` missed changes (its hypervisor was killed): all counts as changed."""

    name: str
    dirty: int
    usable: bool = True


Progress = Callable[[int, int], None]
"""Told at the start and about once a second how much is done, of how much. What it raises ends the operation, which is
undone."""
