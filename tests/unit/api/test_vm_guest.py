"""What agents inside guests tell."""

from __future__ import annotations

import threading
from contextlib import suppress

from kronos.api.vm import guest
from kronos.db.records import VIF, VM, Network
from kronos.hypervisor.base import GuestInfo


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
