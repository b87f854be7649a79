"""Addresses of a host's interfaces by XenAPI: what its network tool is asked for, and what the records say then."""

from __future__ import annotations

import json
import socket
from dataclasses import replace

import pytest

from kronos.datamodel.types import NULL
from kronos.db.records import PIF, VLAN, VM, Bond, Console
from kronos.network.base import PhysicalInterface
from kronos.network.configuration.readdressing import Request
from kronos.system.commands import CommandFailed
from kronos.system.outside import NoOutside

ETH0 = PhysicalInterface(
    "eth0",
    "52:54:00:00:00:01",
    up=True,
    ip_mode="DHCP",
    ip="192.0.2.9",
    netmask="255.255.255.0",
    gateway="192.0.2.1",
    dns=("192.0.2.1",),
)
ETH1 = PhysicalInterface("eth1", "52:54:00:00:00:02", up=True)
STATIC = ("Static", "198.51.100.5", "255.255.255.0", "198.51.100.1", "198.51.100.3")


class Tool(NoOutside):
    """A network tool that does as it is told, or says why not."""

    def __init__(self, xapi) -> None:
        self.network = xapi.network
        self.asked: list[Request] = []
        self.refusal = ""

    def require(self) -> None:
        pass

    def change(self, argv, *, stdin="", timeout=0.0) -> str:
        request = Request.from_json(stdin)
        self.asked.append(request)
        if self.refusal:
            raise CommandFailed(argv, 1, self.refusal)
        told = request.addressing
        for nic in self.network.physical_interfaces():
            if request.moves and nic.gateway:
                self.network.add_nic(PhysicalInterface(nic.device, nic.mac, up=True))
        nic = next(each for each in self.network.physical_interfaces() if each.device == request.device)
        has = {"static": "Static", "dhcp": "DHCP", "none": "None"}[told.ipv4]
        changed = replace(nic, ip_mode=has, ip="", netmask="", gateway="", dns=())
        if told.address is not None:
            changed = replace(
                changed,
                ip=str(told.address.ip),
                netmask=str(told.address.netmask),
                gateway=told.gateway,
                dns=told.dns,
            )
        self.network.add_nic(changed)
        return ""


@pytest.fixture
def tool(xapi) -> Tool:
    xapi.network.add_nic(ETH0)
    xapi.network.add_nic(ETH1)
    xapi("PIF.scan", xapi.host.ref)
    xapi.machine.outside = Tool(xapi)
    return xapi.machine.outside


def pif(xapi, device: str) -> PIF:
    (row,) = (row for row in xapi.db.all(PIF) if row.device == device)
    return row


def test_the_management_interface_gets_another_address(xapi, tool):
    row = pif(xapi, "eth0")
    assert row.management
    xapi("PIF.reconfigure_ip", row.ref, "Static", "192.0.2.5", "255.255.255.0", "192.0.2.1", "192.0.2.3")
    (request,) = tool.asked
    assert json.loads(request.as_json())["addressing"] == {
        "ipv4": "static",
        "address": "192.0.2.5/24",
        "gateway": "192.0.2.1",
        "ipv6": "none",
        "address_v6": None,
        "gateway_v6": "",
        "dns": ["192.0.2.3"],
    }
    assert (row.ip_configuration_mode, row.IP, row.gateway, row.DNS) == (
        "Static",
        "192.0.2.5",
        "192.0.2.1",
        "192.0.2.3",
    )
    assert xapi.host.address == "192.0.2.5"


def test_consoles_are_at_the_new_address(xapi, tool):
    vm = xapi.db.create(VM, resident_on=xapi.host.ref)
    console = xapi.db.create(Console, VM=vm.ref, protocol="rfb", location="https://192.0.2.9/console")
    address = ("192.0.2.5", "255.255.255.0", "192.0.2.1", "")
    xapi("PIF.reconfigure_ip", pif(xapi, "eth0").ref, "Static", *address)
    assert console.location == f"https://192.0.2.5/console?uuid={console.uuid}"


def test_another_interface_keeps_its_gateway_until_it_is_the_management_interface(xapi, tool):
    row = pif(xapi, "eth1")
    xapi("PIF.reconfigure_ip", row.ref, *STATIC)
    assert (tool.asked[0].addressing.gateway, tool.asked[0].addressing.dns) == ("", ())
    xapi("PIF.scan", xapi.host.ref)
    assert (row.IP, row.gateway, row.DNS) == ("198.51.100.5", "198.51.100.1", "198.51.100.3")
    assert xapi.host.address == "192.0.2.9"

    xapi("host.management_reconfigure", row.ref)
    assert tool.asked[1].moves and tool.asked[1].addressing.gateway == "198.51.100.1"
    assert xapi("host.get_management_interface", xapi.host.ref) == row.ref
    assert (xapi.host.address, pif(xapi, "eth0").IP) == ("198.51.100.5", "")


def test_ipv6_comes_beside_what_ipv4_has(xapi, tool):
    row = pif(xapi, "eth1")
    xapi("PIF.reconfigure_ip", row.ref, *STATIC)
    xapi("PIF.reconfigure_ipv6", row.ref, "Static", "2001:db8::5/64", "", "")
    told = tool.asked[1].addressing
    assert (str(told.address), str(told.address_v6)) == ("198.51.100.5/24", "2001:db8::5/64")


def test_what_the_host_refuses_or_takes_back_is_said_and_nothing_has_changed(xapi, tool):
    row = pif(xapi, "eth0")
    before = xapi("PIF.get_record", row.ref)
    tool.refusal = "the gateway 192.0.2.7 does not answer on xenbr0"
    wrong = ("Static", "192.0.2.5", "255.255.255.0", "192.0.2.7", "")
    assert xapi.refused("PIF.reconfigure_ip", row.ref, *wrong) == [
        "PIF_CONFIGURATION_ERROR",
        row.ref,
        tool.refusal,
    ]
    assert xapi("PIF.get_record", row.ref) == before


def test_a_daemon_that_is_not_the_hosts_service_leaves_its_machine_alone(xapi, tool):
    xapi.machine.outside = NoOutside()
    row, other = pif(xapi, "eth0"), pif(xapi, "eth1")
    other.ip_configuration_mode = "DHCP"
    before = [xapi("PIF.get_record", each.ref) for each in (row, other)]
    for call in (
        ("PIF.reconfigure_ip", row.ref, "DHCP", "", "", "", ""),
        ("PIF.reconfigure_ipv6", row.ref, "Autoconf", "", "", ""),
        ("host.management_reconfigure", other.ref),
        ("pool.management_reconfigure", other.network),
        ("host.management_disable",),
    ):
        assert xapi.refused(*call)[0] == "OPERATION_NOT_ALLOWED"
    assert [xapi("PIF.get_record", each.ref) for each in (row, other)] == before


def test_what_cannot_be_asked_for(xapi, tool):
    row, other = pif(xapi, "eth0"), pif(xapi, "eth1")

    def refused(each: PIF, *words: str) -> list[str]:
        return xapi.refused("PIF.reconfigure_ip", each.ref, *words)

    assert refused(row, "None", "", "", "", "") == ["PIF_IS_MANAGEMENT_INTERFACE", row.ref]
    assert refused(row, "Static", "192.0.2", "", "", "") == ["INVALID_IP_ADDRESS_SPECIFIED", "IP"]
    assert xapi.refused("host.management_reconfigure", other.ref) == [
        "PIF_HAS_NO_NETWORK_CONFIGURATION",
        other.ref,
    ]
    other.managed = False
    assert refused(other, *STATIC) == ["PIF_UNMANAGED", other.ref]
    other.managed, other.bond_slave_of = True, xapi.db.create(Bond).ref
    assert refused(other, *STATIC) == ["PIF_ALREADY_BONDED", other.ref]
    other.bond_slave_of, other.VLAN = NULL, 7
    assert refused(other, *STATIC) == ["PIF_IS_NOT_PHYSICAL", other.ref]
    xapi.pool.ha_enabled = True
    assert refused(row, *STATIC) == ["HA_IS_ENABLED"]
    assert not tool.asked


def test_nobody_manages_a_host_from_afar_until_an_interface_is_named(xapi, tool):
    row = pif(xapi, "eth0")
    xapi("host.management_disable")
    assert xapi.refused("host.get_management_interface", xapi.host.ref) == ["HOST_HAS_NO_MANAGEMENT_IP"]
    xapi("PIF.scan", xapi.host.ref)
    assert not row.management and xapi.host.address == ""
    xapi("PIF.reconfigure_ip", row.ref, "Static", "192.0.2.9", "255.255.255.0", "192.0.2.1", "")
    assert tool.asked.pop().addressing.gateway == "192.0.2.1", "the host still reaches the world over it"
    xapi("host.management_reconfigure", row.ref)
    assert row.management and xapi.host.address == "192.0.2.9"
    assert not tool.asked, "it had all that it takes"


def test_what_a_host_is_reset_to_is_found_by_a_scan(xapi, tool):
    row = pif(xapi, "eth0")
    bond = xapi.db.create(Bond, master=row.ref)
    vlan = xapi.db.create(VLAN, untagged_PIF=pif(xapi, "eth1").ref, tagged_PIF=row.ref)
    networks = set(xapi("network.get_all"))
    xapi("host.reset_networking", xapi.host.ref)
    assert not xapi("PIF.get_all") and not xapi("PIF_metrics.get_all")
    assert not {bond.ref, vlan.ref} & xapi.db.rows.keys()
    xapi("PIF.scan", xapi.host.ref)
    assert {each.device: each.management for each in xapi.db.all(PIF)} == {"eth0": True, "eth1": False}
    assert {each.network for each in xapi.db.all(PIF)} <= networks == set(xapi("network.get_all"))


def test_a_signal_has_the_daemon_look_at_the_network_anew(xapi, tool):
    xapi.network.add_nic(replace(ETH0, ip="192.0.2.44"))
    xapi("host.signal_networking_change")
    assert xapi.host.address == pif(xapi, "eth0").IP == "192.0.2.44"
    assert xapi.host.hostname == socket.gethostname()


def test_pifs_are_attached_whose_bridges_are_there(xapi, tool):
    xapi("host.sync_pif_currently_attached", xapi.host.ref, ("xenbr1",))
    assert {row.device: row.currently_attached for row in xapi.db.all(PIF)} == {"eth0": False, "eth1": True}
