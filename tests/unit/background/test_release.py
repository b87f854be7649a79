"""What is taken back of a host's network when the package goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kronos.background.release import networks
from kronos.network.base import Bridge, PhysicalInterface
from kronos.network.fake import FakeNetwork


class Host(FakeNetwork):
    """A host with a NIC, guests' interfaces in its bridges, and a bridge that somebody else has made."""

    def __init__(self, guests: Mapping[str, tuple[str, ...]] | None = None) -> None:
        super().__init__([PhysicalInterface("eth1", "02:00:00:00:00:01")])
        self.guests = guests or {}

    def bridges(self) -> list[Bridge]:
        found = [
            replace(each, members=each.members + self.guests.get(each.name, ())) for each in super().bridges()
        ]
        return [*found, Bridge("virbr0", "02:00:00:00:00:09", 1500, True, (), False, {})]


def left(host: Host) -> set[str]:
    return {bridge.name for bridge in host.bridges()}


def test_bridges_that_no_guest_uses_go() -> None:
    host = Host()
    host.create_bridge("xenapi")
    host.create_bridge("xapi1")

    assert networks(["xenapi", "xapi1", "xapi2"], host) == ["xapi1", "xenapi"]
    assert left(host) == {"virbr0"}


def test_a_nic_of_the_host_keeps_no_bridge_and_is_released() -> None:
    host = Host()
    host.create_bridge("xenbr0")
    host.enslave("xenbr0", "eth1")

    assert networks(["xenbr0"], host) == ["xenbr0"]
    assert host.physical_interfaces()[0].bridge == ""


def test_a_bridge_with_a_guest_stays() -> None:
    host = Host({"xenapi": ("tm7in13v.0",)})
    host.create_bridge("xenapi")

    assert networks(["xenapi"], host) == []
    assert "xenapi" in left(host)


def test_what_is_not_ours_stays() -> None:
    """Another daemon's bridge, whose name our database does not have, and one that was there before."""
    host = Host()
    host.create_bridge("xapi7")

    assert networks(["virbr0"], host) == []
    assert left(host) == {"xapi7", "virbr0"}
