"""What the kernel, nft and dnsmasq refuse, as an error that an administrator can read."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from kronos.datamodel.errors import Failure
from kronos.network.netlink import NetlinkError
from kronos.system.commands import CommandFailed

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

_NOT_ROOT = "this takes the rights of root (CAP_NET_ADMIN)"


def in_words(failed: str) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """A driver's method whose raw failures become INTERNAL_ERROR with `failed` and the cause: "A bridge cannot be made
    (xenbr0): Operation not permitted". The method's first argument, a name, is put in."""

    def wrap(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        @wraps(method)
        def told(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return method(self, *args, **kwargs)
            except (NetlinkError, CommandFailed, OSError) as error:
                subject = f" ({args[0]})" if args and isinstance(args[0], str) else ""
                text = f"{failed}{subject}: {cause(error)}"
                log.warning("%s", text)
                raise Failure("INTERNAL_ERROR", text) from error

        return told

    return wrap


def cause(error: NetlinkError | CommandFailed | OSError) -> str:
    """Why something was refused, in words and without a place in the source."""
    if isinstance(error, CommandFailed):
        return str(error).rstrip(": ")
    number = error.code if isinstance(error, NetlinkError) else error.errno
    if number in (errno.EPERM, errno.EACCES):
        return f"{os.strerror(number)}; {_NOT_ROOT}"
    return os.strerror(number) if number else str(error)
