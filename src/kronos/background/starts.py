"""Starts of VMs that nobody asked for by a call, so that nobody waits for what becomes of them."""

from __future__ import annotations

import logging

from kronos.datamodel.errors import Failure
from kronos.db.records import VM
from kronos.dispatch.pipeline import Pipeline

log = logging.getLogger(__name__)


def start_or_tell(pipeline: Pipeline, vm: VM, name: str, what: str) -> None:
    """Start a halted VM, its start_delay included. Where that fails its owner finds it down, and a message of this
    name on it, which says `what` went wrong and why. One that somebody else was quicker to start or destroy is no
    failure."""
    _do_or_tell(pipeline, vm, "Async.VM.start", name, what, paused=False)


def resume_or_tell(pipeline: Pipeline, vm: VM, name: str, what: str, *, paused: bool) -> None:
    """The same for a suspended VM, which goes on, or is `paused` again. Where that fails it stays suspended."""
    _do_or_tell(pipeline, vm, "Async.VM.resume", name, what, paused=paused)


def _do_or_tell(pipeline: Pipeline, vm: VM, call: str, name: str, what: str, *, paused: bool) -> None:
    try:
        pipeline.perform_internal(call, vm.ref, paused, False)
    except Failure as failure:
        if failure.code not in ("HANDLE_INVALID", "VM_BAD_POWER_STATE"):
            _tell(pipeline, vm, name, f"{what}: {failure}")


def _tell(pipeline: Pipeline, vm: VM, name: str, body: str) -> None:
    log.warning("VM %s: %s", vm.uuid, body)
    try:
        pipeline.perform_internal("message.create", name, 3, "VM", vm.uuid, body)
    except Failure as refused:
        log.debug("No message was left: %s", refused)
