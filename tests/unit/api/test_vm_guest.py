"""What agents inside guests tell."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress

from kronos.api.vm import guest, state
from kronos.datamodel.errors import Failure
from kronos.db.records import VIF, VM, Network, VM_guest_metrics
from kronos.hypervisor.base import Domain, Firmware, GuestInfo


def test_guests_that_tell_their_addresses_at_once_do_not_lose_each_others(xapi, monkeypatch):
    network = xapi.db.create(Network)
    vifs = []
    for number in range(2):
        vm = xapi.db.create(VM)
        vifs.append(
            xapi.db.create(VIF, VM=vm.ref, network=network.ref, device="0", MAC=f"02:00:00:00:00:0{number}")
        )
        guest.born(xapi.db, vm)
    both = threading.Barrier(2)
    write = xapi.db.write

    def together(row, fields):
        if "assigned_ips" in fields:  # both have read it by now, if nothing keeps them from it
            with suppress(threading.BrokenBarrierError):
                both.wait(0.2)
        write(row, fields)

    monkeypatch.setattr(xapi.db, "write", together)
    infos = [GuestInfo(networks={vif.MAC: (f"192.0.2.{n}",)}) for n, vif in enumerate(vifs)]
    threads = [
        threading.Thread(target=guest.write, args=(xapi.db, xapi.db.get(VM, vif.VM), info))
        for vif, info in zip(vifs, infos, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert network.assigned_ips == {vifs[0].ref: "192.0.2.0", vifs[1].ref: "192.0.2.1"}


def test_a_guest_is_asked_until_its_interfaces_have_addresses(xapi, monkeypatch):
    """An agent answers early: there is the loopback, and what the kernel gave the interface by itself."""
    monkeypatch.setattr(guest, "LOOKS", (0.0, 0.01, 0.01, 30.0))
    vm = xapi.db.create(VM, power_state="Running", domid=7)
    mac = "02:00:00:00:00:01"
    xapi.db.create(
        VIF, VM=vm.ref, network=xapi.db.create(Network).ref, device="0", MAC=mac, currently_attached=True
    )
    guest.born(xapi.db, vm)
    early = {"00:00:00:00:00:00": ("127.0.0.1",), mac: ("fe80::1",)}
    told = [early, early, early | {mac: ("fe80::1", "192.0.2.7")}]
    asked = iter(told)
    monkeypatch.setattr(xapi.hypervisor, "guest_info", lambda uuid: GuestInfo(networks=next(asked)))

    guest.refresh_later(xapi.db, xapi.machine, vm)

    wanted = {"0/ip": "192.0.2.7", "0/ipv4/0": "192.0.2.7", "0/ipv6/0": "fe80::1"}
    assert eventually(lambda: networks_of(xapi, vm) == wanted)


def test_a_thousand_guests_that_tell_nothing_yet_take_a_few_threads(xapi, monkeypatch):
    monkeypatch.setattr(guest, "LOOKS", (0.0, 0.3, 0.3))
    network = xapi.db.create(Network).ref
    asked: Counter[str] = Counter()

    def silent(uuid):
        asked[uuid] += 1
        raise Failure("VM_MISSING_PV_DRIVERS", uuid)

    monkeypatch.setattr(xapi.hypervisor, "guest_info", silent)
    vms = [xapi.db.create(VM, power_state="Running", domid=7) for _ in range(1000)]
    for vm in vms:
        xapi.db.create(VIF, VM=vm.ref, network=network, device="0", currently_attached=True)
    before = threading.active_count()
    for vm in vms:
        guest.refresh_later(xapi.db, xapi.machine, vm)
    assert threading.active_count() - before <= 10
    assert eventually(lambda: asked == {vm.uuid: 3 for vm in vms})


def test_an_interface_that_comes_and_goes_is_asked_after(host, monkeypatch):
    monkeypatch.setattr(guest, "LOOKS", (0.0, 0.05, 0.05, 0.05))
    vm = host.vm()
    host.hypervisor.start(Domain(vm.uuid, "vm", 1 << 30, 1 << 30, Firmware()))
    host.db.write(vm, {"power_state": "Running", "resident_on": host.host.ref})
    guest.born(host.db, vm)
    vif = host("VIF.create", {"VM": vm.ref, "network": host.net().ref, "device": "0", "MTU": 1500})
    info = GuestInfo(networks={host("VIF.get_MAC", vif).lower(): ("192.0.2.7",)})
    monkeypatch.setattr(
        host.hypervisor, "guest_info", lambda uuid: info if host.hypervisor.devices(uuid) else GuestInfo()
    )

    host("VIF.plug", vif)
    assert eventually(lambda: networks_of(host, vm).get("0/ip") == "192.0.2.7")
    host("VIF.unplug", vif)
    assert eventually(lambda: networks_of(host, vm) == {})


def resumed(host, *, paused: bool = False, **fields: object) -> VM:
    """A VM that was suspended and runs again."""
    vm = host.vm()
    domid = host.hypervisor.start(Domain(vm.uuid, "vm", 1 << 30, 1 << 30, Firmware()))
    host.db.write(vm, {"power_state": "Suspended", **fields})
    state.started(host.db, host.machine, vm, domid, paused=paused)
    return vm


def test_the_agent_of_a_resumed_guest_is_asked_again(host, monkeypatch):
    """The news that it is there comes before the records say that the VM runs."""
    monkeypatch.setattr(host.hypervisor, "guest_info", lambda uuid: GuestInfo(os={"name": "tiny"}))
    vm = resumed(host)
    assert eventually(lambda: host.db.get(VM_guest_metrics, vm.guest_metrics).os_version == {"name": "tiny"})


def test_the_agent_of_a_guest_that_was_resumed_paused_is_asked_as_it_goes_on(host, monkeypatch):
    monkeypatch.setattr(guest, "LOOKS", (0.0,))
    vm = resumed(host, paused=True)
    host.hypervisor.pause(vm.uuid)
    monkeypatch.setattr(host.hypervisor, "guest_info", lambda uuid: GuestInfo(os={"name": "tiny"}))
    host("VM.unpause", vm.ref)
    assert eventually(lambda: host.db.get(VM_guest_metrics, vm.guest_metrics).os_version == {"name": "tiny"})


def test_what_a_guest_said_over_its_channel_is_known_after_its_resumption(host):
    said = {"data/updated": "1", "data/os_name": "tiny", "attr/vif/0/ipv4/0": "192.0.2.7"}
    vm = resumed(host, channel_data=said)
    assert networks_of(host, vm) == {"0/ip": "192.0.2.7", "0/ipv4/0": "192.0.2.7"}


def networks_of(host, vm):
    return host.db.get(VM_guest_metrics, vm.guest_metrics).networks


def eventually(reached):
    deadline = time.monotonic() + 10
    while not reached() and time.monotonic() < deadline:
        time.sleep(0.01)
    return reached()
