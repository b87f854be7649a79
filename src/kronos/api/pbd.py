"""PBD: how a host reaches an SR, and whether it does now."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from typing import Any

from kronos.api import secret
from kronos.api.sr import contents
from kronos.api.vdi import volumes
from kronos.datamodel.errors import Failure
from kronos.db.records import PBD, SR, VBD, VDI, VM, Host
from kronos.dispatch.call import Call
from kronos.dispatch.fields import constructor_fields
from kronos.dispatch.registry import message

log = logging.getLogger(__name__)

# Storage that is being attached or detached is in nobody's list: one at a time on a host, as in the reference.
_turn = threading.Lock()


@message("PBD.create")
def create(call: Call, args: dict[str, Any]) -> str:
    """Say how a host is to reach an SR. Raises PBD_EXISTS [sr, host, pbd]."""
    fields = constructor_fields("PBD", args)
    sr, host = call.db.get(SR, fields["SR"]), call.db.get(Host, fields["host"])
    with call.pipeline.holds.hold(sr, "pbd_create", call.task), call.db.transaction():
        for pbd in (call.db.get(PBD, ref) for ref in sr.PBDs):
            if pbd.host == host.ref:
                raise Failure("PBD_EXISTS", sr.ref, host.ref, pbd.ref)
        fields["device_config"] = secret.stored(call.db, fields["device_config"])
        return call.db.create(PBD, **fields).ref


@message("PBD.destroy")
def destroy(call: Call, self: str) -> None:
    """Forget how a host reaches an SR. Raises OPERATION_NOT_ALLOWED while it is plugged in."""
    pbd = call.db.get(PBD, self)
    sr = call.db.find(SR, pbd.SR)
    if sr is None:
        _forget(call, pbd)
        return
    with call.pipeline.holds.hold(sr, "pbd_destroy", call.task), call.db.transaction():
        _check_unplugged(pbd)
        _forget(call, pbd)


def _forget(call: Call, pbd: PBD) -> None:
    with call.db.transaction():
        call.db.delete(pbd)
        secret.forget(call.db, pbd.device_config)


@message("PBD.set_device_config")
def set_device_config(call: Call, self: str, value: dict[str, str]) -> None:
    """Reach the SR another way from the next plug on. Raises OPERATION_NOT_ALLOWED while it is plugged in."""
    pbd = call.db.get(PBD, self)
    with call.db.transaction():
        _check_unplugged(pbd)
        before = pbd.device_config
        pbd.device_config = secret.stored(call.db, value)
        secret.forget(call.db, before)


def _check_unplugged(pbd: PBD) -> None:
    if pbd.currently_attached:
        raise Failure("OPERATION_NOT_ALLOWED", f"PBD '{pbd.uuid}' is currently attached")


@message("PBD.plug")
def plug(call: Call, self: str) -> None:
    """Make an SR usable on its host and bring its VDIs' records up to date. Nothing happens if it is already.

    Raises SR_NOT_SHARABLE [sr, host], SR_UNKNOWN_DRIVER [type], what the driver raises.
    """
    pbd = _own(call, self)
    sr = call.db.get(SR, pbd.SR)
    with call.pipeline.holds.hold(sr, "plug", call.task), _turn:
        if sr.uuid in call.machine.storage:
            pbd.currently_attached = True
            return
        _check_sharing(call, sr, pbd)
        driver = call.machine.open_storage(sr.type, sr.uuid, secret.resolved(call.db, pbd.device_config))
        with volumes.named_by_reference(sr), ExitStack() as undo:
            driver.attach()
            undo.callback(driver.detach)
            volumes.settle(call.db, call.machine, sr, driver)
            contents.synchronise(call.db, call.machine, sr, driver)
            undo.pop_all()
        call.machine.storage[sr.uuid] = driver
        pbd.currently_attached = True


@message("PBD.unplug")
def unplug(call: Call, self: str) -> None:
    """Let go of an SR on its host. Nothing happens if it is not plugged in. Raises VDI_IN_USE [vdi, …]."""
    pbd = _own(call, self)
    sr = call.db.get(SR, pbd.SR)
    with call.pipeline.holds.hold(sr, "unplug", call.task), _turn:
        driver = call.machine.storage.get(sr.uuid)
        if driver is not None:
            _check_unused(call, sr)
            # From here on nobody finds the driver any more.
            del call.machine.storage[sr.uuid]
            try:
                with volumes.named_by_reference(sr):
                    driver.detach()
            except BaseException:
                call.machine.storage[sr.uuid] = driver
                raise
        pbd.currently_attached = False


def _own(call: Call, ref: str) -> PBD:
    """A PBD of this host. Raises HOST_OFFLINE [host] for another's."""
    pbd = call.db.get(PBD, ref)
    if pbd.host != call.machine.host_ref:
        raise Failure("HOST_OFFLINE", pbd.host)
    return pbd


def _check_sharing(call: Call, sr: SR, pbd: PBD) -> None:
    """An SR that is not shared has one host at a time."""
    if sr.shared:
        return
    for other in (call.db.get(PBD, ref) for ref in sr.PBDs):
        if other is not pbd and other.currently_attached:
            raise Failure("SR_NOT_SHARABLE", sr.ref, other.host)


def _check_unused(call: Call, sr: SR) -> None:
    """No VM of this host may have a disk of the SR open."""
    db = call.db
    used = []
    for vdi in (db.get(VDI, ref) for ref in sr.VDIs):
        for vbd in (db.get(VBD, ref) for ref in vdi.VBDs):
            vm = db.find(VM, vbd.VM)
            if vbd.currently_attached and vm is not None and vm.resident_on == call.machine.host_ref:
                used.append(vdi.ref)
    if used:
        raise Failure("VDI_IN_USE", *dict.fromkeys(used))
