"""The records of a host's NICs at each start: the management interface, and bridges that others made."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kronos.background.inventory.networks import refresh
from kronos.db.database import Database
from kronos.db.records import PIF, Host, Network
from kronos.network.base import PhysicalInterface
from kronos.network.fake import FakeNetwork

FIRST = PhysicalInterface("eth0", "02:00:00:00:00:01", up=True)
SECOND = PhysicalInterface("eth1", "02:00:00:00:00:02", up=True)


class Start:
    """A host that starts again and again, with the NICs that it has by then."""

    def __init__(self) -> None:
        self.db = Database()
        with self.db.transaction():
            self.host = self.db.create(Host)

    def __call__(self, *nics: PhysicalInterface) -> None:
        refresh(self.db, self.host, FakeNetwork(nics), "xenapi")

    def management(self) -> list[str]:
        return [row.device for row in self.db.all(PIF) if row.management]

    def bridge(self, device: str) -> str:
        (row,) = (row for row in self.db.all(PIF) if row.device == device)
        return self.db.get(Network, row.network).bridge


@pytest.fixture
def start() -> Start:
    return Start()


def test_the_nic_of_the_default_route_is_the_management_interface(start: Start) -> None:
    start(FIRST, replace(SECOND, gateway="192.0.2.1"))
    assert start.management() == ["eth1"]


def test_the_management_interface_stays_while_it_has_a_route_or_nobody_has(start: Start) -> None:
    start(replace(FIRST, gateway="192.0.2.1"), SECOND)
    start(replace(FIRST, gateway="192.0.2.1"), replace(SECOND, gateway="198.51.100.1"))
    start(FIRST, SECOND)
    assert start.management() == ["eth0"]


def test_the_management_interface_follows_the_route_to_another_nic(start: Start) -> None:
    start(replace(FIRST, gateway="192.0.2.1"), SECOND)
    start(FIRST, replace(SECOND, gateway="192.0.2.1"))
    assert start.management() == ["eth1"]


def test_the_bridge_that_an_administrator_made_is_the_networks(start: Start) -> None:
    start(FIRST)
    assert start.bridge("eth0") == "xenbr0"
    start(replace(FIRST, bridge="br0"))
    assert start.bridge("eth0") == "br0"


def test_two_networks_never_have_one_bridge(start: Start) -> None:
    start(replace(FIRST, bridge="br0"), replace(SECOND, bridge="br0"))
    assert [start.bridge("eth0"), start.bridge("eth1")] == ["br0", "xenbr1"]
