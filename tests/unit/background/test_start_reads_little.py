"""A start reads what it needs: with 10,000 VMs, reading all of them takes half a second and 60 MB."""

from __future__ import annotations

from pathlib import Path

from kronos.background.reconcile import reconcile
from kronos.db.database import Database
from kronos.db.journal import Journal
from kronos.db.records import VIF, VM, Host, Network
from kronos.dispatch.machine import Machine
from kronos.hypervisor.fake import Fake
from kronos.network.fake import FakeNetwork
from kronos.system.intents import Intents


def test_vms_that_do_not_run_are_left_undecoded(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state.db")
    first = Database(journal)
    host = first.create(Host)
    network = first.create(Network, bridge="xenbr0")
    halted = [first.create(VM, name_label="halted") for _ in range(20)]
    for vm in halted:
        first.create(VIF, VM=vm.ref, network=network.ref, device="0")
    gone = first.create(VM, name_label="gone", resident_on=host.ref, power_state="Running")
    journal.close()

    journal = Journal(tmp_path / "state.db")
    db = Database(journal)
    db.load()
    hypervisor = Fake()
    machine = Machine(
        hypervisor=hypervisor,
        network=FakeNetwork(),
        state=tmp_path,
        intents=Intents(tmp_path / "intents"),
        open_storage=lambda *_: None,  # type: ignore[arg-type,return-value]
        host_ref=host.ref,
    )
    reconcile(db, machine)
    assert db.get(VM, gone.ref).power_state == "Halted"
    assert [vm for vm in halted if db.get(VM, vm.ref)._fields is not None] == []
    hypervisor.close()
    journal.close()
