"""What ties a VM to its host."""

from __future__ import annotations

import pytest

from kronos.db.database import Database
from kronos.db.records import PBD, PIF, SR, VBD, VDI, VIF, VM, Host, Network
from kronos.rules import agility


class Pool:
    """Two hosts, and a VM with a disk and an interface that both could serve."""

    def __init__(self) -> None:
        self.db = db = Database()
        self.hosts = [db.create(Host, enabled=True) for _ in range(2)]
        self.sr = db.create(SR, shared=True)
        self.pbds = [db.create(PBD, host=h.ref, SR=self.sr.ref, currently_attached=True) for h in self.hosts]
        self.network = db.create(Network)
        self.nics = [db.create(PIF, host=h.ref, network=self.network.ref) for h in self.hosts]
        self.vm = db.create(VM)
        self.vbd = db.create(VBD, VM=self.vm.ref, VDI=db.create(VDI, SR=self.sr.ref).ref, empty=False)
        db.create(VBD, VM=self.vm.ref, empty=True, type="CD")
        db.create(VIF, VM=self.vm.ref, network=self.network.ref)

    def told(self) -> list[str]:
        failure = agility.obstacle(self.db, self.vm)
        return failure.description if failure else []


@pytest.fixture
def pool() -> Pool:
    return Pool()


def test_a_vm_on_what_all_hosts_have_could_run_anywhere(pool: Pool) -> None:
    assert pool.told() == []


def test_local_storage_ties_it(pool: Pool) -> None:
    pool.sr.shared = False
    assert pool.told() == ["HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", pool.sr.ref]


def test_so_does_shared_storage_that_a_host_has_not_plugged_in(pool: Pool) -> None:
    pool.pbds[1].currently_attached = False
    assert pool.told()[0] == "HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED"
    pool.hosts[1].enabled = False
    assert pool.told() == []


def test_a_network_that_a_host_has_no_nic_of_its_own_on_ties_it(pool: Pool) -> None:
    pool.nics[1].bond_slave_of = "OpaqueRef:bond"
    assert pool.told() == ["HA_CONSTRAINT_VIOLATION_NETWORK_NOT_SHARED", pool.network.ref]
