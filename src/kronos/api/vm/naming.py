"""Naming: a driver names VMs by uuid, clients know references."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kronos.datamodel.errors import Failure
from kronos.db.records import VM


@contextmanager
def named_by_reference(vm: VM) -> Iterator[None]:
    """Failures inside that name the VM by its uuid leave with its reference."""
    try:
        yield
    except Failure as failure:
        raise Failure(failure.code, *(vm.ref if p == vm.uuid else p for p in failure.params)) from failure
