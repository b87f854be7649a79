"""Lists from the kernel, by netlink."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kronos.network.netlink import NetlinkDumpInterrupted

_ATTEMPTS = 100


def whole(ask: Callable[..., Iterable[Any]], **filters: Any) -> list[Any]:
    """All answers of a request such as `IPRoute.get_links`.

    The kernel says so when what it lists changed while it did, as it does when guests start next to one another; the
    list may have a gap then, and is asked for again. Raises NetlinkError, NetlinkDumpInterrupted.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return list(ask(**filters))
        except NetlinkDumpInterrupted:
            continue
    return list(ask(**filters))
