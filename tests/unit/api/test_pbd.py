"""PBDs: how a host reaches its SRs."""

from __future__ import annotations

import threading

from kronos.db.records import PBD, SR, Host

SECOND = {"location": "elsewhere"}


def pbd_of(xapi, sr: SR) -> PBD:
    return xapi.db.get(PBD, sr.PBDs[0])


def test_a_host_reaches_an_sr_in_one_way(xapi):
    sr = xapi.sr()
    record = {"host": xapi.host.ref, "SR": sr.ref, "device_config": SECOND}
    assert xapi.refused("PBD.create", record) == ["PBD_EXISTS", sr.ref, xapi.host.ref, sr.PBDs[0]]


def test_unplugging_lets_go_and_plugging_takes_up_again(xapi):
    sr = xapi.sr()
    vdi, driver = xapi.vdi(sr), xapi.driver(sr)
    pbd = pbd_of(xapi, sr)
    xapi("PBD.unplug", pbd.ref)
    assert (pbd.currently_attached, xapi.machine.storage, driver._attached) == (False, {}, False)
    assert "resize" not in vdi.allowed_operations
    xapi("PBD.plug", pbd.ref)
    assert pbd.currently_attached and sr.VDIs == (vdi.ref,) and "resize" in vdi.allowed_operations


def test_doing_it_twice_is_harmless(xapi):
    pbd = pbd_of(xapi, xapi.sr())
    driver = xapi.driver(xapi.db.get(SR, pbd.SR))
    xapi("PBD.plug", pbd.ref)
    assert xapi.driver(xapi.db.get(SR, pbd.SR)) is driver
    xapi("PBD.unplug", pbd.ref)
    xapi("PBD.unplug", pbd.ref)
    assert not pbd.currently_attached


def test_plugging_at_once_makes_one_driver(xapi, monkeypatch):
    sr = xapi.sr()
    pbd = pbd_of(xapi, sr)
    xapi("PBD.unplug", pbd.ref)
    opened, build = [], xapi.machine.open_storage

    def count(*given):
        opened.append(given)
        threading.Event().wait(0.05)
        return build(*given)

    xapi.machine.open_storage = count
    threads = [threading.Thread(target=xapi, args=("PBD.plug", pbd.ref)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1 and pbd.currently_attached


def test_an_sr_whose_disk_a_vm_has_open_stays(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    vm = xapi.vm(vdi, running=True)
    pbd = pbd_of(xapi, sr)
    assert xapi.refused("PBD.unplug", pbd.ref) == ["VDI_IN_USE", vdi.ref]
    assert pbd.currently_attached
    xapi.db.write(vm, {"resident_on": xapi.db.create(Host).ref})
    xapi("PBD.unplug", pbd.ref)


def test_an_sr_that_is_not_shared_has_one_host(xapi):
    sr = xapi.sr()
    pbd = pbd_of(xapi, sr)
    xapi("PBD.unplug", pbd.ref)
    other = xapi.db.create(Host)
    xapi.db.create(PBD, SR=sr.ref, host=other.ref, currently_attached=True)
    assert xapi.refused("PBD.plug", pbd.ref) == ["SR_NOT_SHARABLE", sr.ref, other.ref]
    xapi("SR.set_shared", sr.ref, True)
    xapi("PBD.plug", pbd.ref)


def test_a_plugged_pbd_is_neither_destroyed_nor_changed(xapi):
    pbd = pbd_of(xapi, xapi.sr())
    text = f"PBD '{pbd.uuid}' is currently attached"
    assert xapi.refused("PBD.destroy", pbd.ref) == ["OPERATION_NOT_ALLOWED", text]
    assert xapi.refused("PBD.set_device_config", pbd.ref, SECOND) == ["OPERATION_NOT_ALLOWED", text]
    xapi("PBD.unplug", pbd.ref)
    xapi("PBD.set_device_config", pbd.ref, SECOND)
    assert pbd.device_config == SECOND
    assert xapi.refused("PBD.plug", pbd.ref)[0] == "SR_BACKEND_FAILURE_47"
    assert xapi.machine.storage == {} and not pbd.currently_attached
    xapi("PBD.destroy", pbd.ref)
    assert xapi.db.all(PBD) == []


def test_a_pbd_whose_sr_is_gone_can_be_destroyed(xapi):
    pbd = xapi.db.create(PBD, SR="OpaqueRef:gone", host=xapi.host.ref)
    xapi("PBD.destroy", pbd.ref)
    assert xapi.db.all(PBD) == []
