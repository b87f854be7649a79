"""host: how its messages reach the operating system around the daemon."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kronos.datamodel.errors import Failure
from kronos.system.commands import CommandFailed
from kronos.system.power import NotTheService
from kronos.system.remote_shell import NoRemoteShell
from kronos.system.timekeeping import NoTimeService


@contextmanager
def asked_of_the_system() -> Iterator[None]:
    """What the system refuses, as XenAPI's errors: OPERATION_NOT_ALLOWED where this daemon may not ask at all or the
    host lacks what is needed, INTERNAL_ERROR with the command's own words."""
    try:
        yield
    except (NotTheService, NoTimeService, NoRemoteShell) as refused:
        raise Failure("OPERATION_NOT_ALLOWED", str(refused)) from refused
    except CommandFailed as failed:
        raise Failure("INTERNAL_ERROR", str(failed)) from failed
