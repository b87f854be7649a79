"""VDI copy: a disk with a content of its own, in any SR."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Iterator
from contextlib import contextmanager

from kronos.api.sr import contents
from kronos.api.vdi import volumes
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.records import SR, VBD, VDI
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.rules.surroundings import features
from kronos.storage.base import Attachment
from kronos.storage.faults import as_failures
from kronos.system.conversion import convert

RAW = {"type": "raw"}
"""The sm_config of a disk whose file is its content: a VM's memory, which the hypervisor reads by itself."""


_KEPT = ("other_config", "xenstore_data", "tags", "allow_caching")


@message("VDI.copy", holds="copy")
def copy(call: Call, vdi: str, sr: str, base_vdi: str, into_vdi: str) -> str:
    """Copy a disk into a new one of `sr`, or over the content of `into_vdi`. The whole of it is written, so that
    `base_vdi`, the part that `into_vdi` has already, makes no difference.

    Raises VDI_READONLY [vdi], VDI_TOO_SMALL [vdi, size], VDI_IN_USE [vdi, operation], SR_BACKEND_FAILURE_44,
    TASK_CANCELLED.
    """
    source = call.db.get(VDI, vdi)
    if base_vdi != NULL:
        call.db.get(VDI, base_vdi)
    if into_vdi != NULL:
        target = call.db.get(VDI, into_vdi)
        _copy_over(call, source, target)
        return target.ref
    return copy_to_new(call, source, call.db.get(SR, sr), str(uuids.uuid4())).ref


def copy_to_new(call: Call, source: VDI, sr: SR, uuid: str) -> VDI:
    """A copy of a disk that the caller holds, with the uuid that it is to have.

    The record appears when the copy is complete: until then the disk is of no use to anybody."""
    driver = volumes.plugged(call.machine, sr)
    with volumes.being_made(call, sr, uuid) as undo, volumes.named_by_reference(sr):
        with call.pipeline.holds.hold(sr, "vdi_create", call.task):
            driver.volume_create(
                uuid,
                source.virtual_size,
                name_label=source.name_label,
                name_description=source.name_description,
                type=source.type,
                sharable=source.sharable,
                sm_config=RAW if source.type == "suspend" else {},
            )
            undo.callback(volumes.drop, driver, uuid)
        with volumes.opened(call, source, writable=False) as origin:
            attachment = driver.volume_attach(uuid, True)
            try:
                _convert(call, origin, attachment, target_is_zero=True)
            finally:
                driver.volume_detach(uuid)
        kept = {name: source.stored()[name] for name in _KEPT}
        if "VDI_RESET_ON_BOOT" in features(call.db, sr):
            kept["on_boot"] = source.on_boot
        row = volumes.introduce(call.db, sr, driver.volume(uuid), **kept)
        undo.callback(volumes.forget, call.db, row)
    contents.look_again(call, sr)
    return row


def _copy_over(call: Call, source: VDI, target: VDI) -> None:
    if target.read_only:
        raise Failure("VDI_READONLY", target.ref)
    if target.virtual_size < source.virtual_size:
        raise Failure("VDI_TOO_SMALL", target.ref, str(source.virtual_size))
    sr = call.db.get(SR, target.SR)
    with kept_from_others(call, target), volumes.opened(call, source, writable=False) as origin:
        with volumes.opened(call, target, writable=True) as attachment:
            _convert(call, origin, attachment, target_is_zero=False)
        volumes.refresh(call.db, sr, target, volumes.plugged(call.machine, sr).volume(target.uuid))
    contents.look_again(call, sr)


@contextmanager
def kept_from_others(call: Call, target: VDI) -> Iterator[None]:
    """No VM may take up a disk while it is written over, and none may have it open."""
    with call.pipeline.holds.hold(target, "blocked", call.task):
        if any(call.db.get(VBD, ref).currently_attached for ref in target.VBDs):
            raise Failure("VDI_IN_USE", target.ref, "copy")
        yield


def _convert(call: Call, source: Attachment, target: Attachment, *, target_is_zero: bool) -> None:
    with as_failures():
        convert(
            source.path,
            source.format,
            target.path,
            target.format,
            target_is_zero=target_is_zero,
            progress=call.task.progress,
        )
