"""PIFs: the NICs of a host."""

from __future__ import annotations

import pytest

from kronos.datamodel.types import NULL
from kronos.db.records import PIF, VIF, VLAN, Host, Network, PIF_metrics
from kronos.network.base import PhysicalInterface

ETH0 = PhysicalInterface("eth0", "52:54:00:00:00:01", up=True, carrier=True, speed_mbit=1000)
ETH1 = PhysicalInterface("eth1", "52:54:00:00:00:02")


@pytest.fixture
def pif(xapi) -> PIF:
    xapi.network.add_nic(ETH1)
    return xapi.db.get(PIF, xapi("PIF.introduce", xapi.host.ref, ETH1.mac, "", True))


def test_a_scan_finds_nics_and_gives_each_a_network(xapi):
    xapi.network.add_nic(ETH0)
    xapi("PIF.scan", xapi.host.ref)
    (row,) = xapi.db.all(PIF)
    network = xapi.db.get(Network, row.network)
    assert (row.device, row.MAC, row.VLAN, row.host) == ("eth0", ETH0.mac, -1, xapi.host.ref)
    assert xapi.db.get(PIF_metrics, row.metrics).speed == 1000
    assert (network.bridge, network.name_label) == ("xenbr0", "Pool-wide network associated with eth0")


def test_a_second_scan_tells_what_changed(xapi):
    xapi.network.add_nic(ETH0)
    xapi("PIF.scan", xapi.host.ref)
    xapi.network.set_carrier("eth0", False)
    xapi("PIF.scan", xapi.host.ref)
    (row,) = xapi.db.all(PIF)
    assert not xapi.db.get(PIF_metrics, row.metrics).carrier


def test_a_nic_is_introduced_by_its_mac_or_its_name(xapi):
    xapi.network.add_nic(ETH0)
    xapi.network.add_nic(ETH1)
    xapi("PIF.introduce", xapi.host.ref, ETH0.mac.upper(), "")
    xapi("PIF.introduce", xapi.host.ref, "", "eth1", False)
    assert [(row.device, row.managed) for row in xapi.db.all(PIF)] == [("eth0", True), ("eth1", False)]


def test_what_cannot_be_introduced(xapi):
    xapi.network.add_nic(ETH0)
    xapi.network.add_nic(ETH1)

    def refused(mac, device):
        return xapi.refused("PIF.introduce", xapi.host.ref, mac, device)

    assert refused("no mac", "") == ["MAC_INVALID", "no mac"]
    assert refused("", "") == ["MAC_INVALID", ""]
    assert refused("52:54:00:00:00:09", "") == ["MAC_DOES_NOT_EXIST", "52:54:00:00:00:09"]
    code = "COULD_NOT_FIND_NETWORK_INTERFACE_WITH_SPECIFIED_DEVICE_NAME_AND_MAC_ADDRESS"
    assert refused(ETH0.mac, "eth1") == [code, "eth1", ETH0.mac]
    xapi("PIF.introduce", xapi.host.ref, ETH0.mac, "")
    assert refused(ETH0.mac, "") == ["DUPLICATE_PIF_DEVICE_NAME", "eth0"]


def test_plugging_puts_the_nic_into_its_networks_bridge(xapi, pif):
    xapi("PIF.plug", pif.ref)
    (bridge,) = xapi.network.bridges()
    assert (bridge.name, bridge.members, pif.currently_attached) == ("xenbr1", ("eth1",), True)
    xapi("PIF.unplug", pif.ref)
    assert (xapi.network.bridges(), pif.currently_attached) == ([], False)
    assert xapi.network.physical_interfaces()[0].bridge == ""


def test_a_nic_over_which_the_host_talks_is_not_cut_off(xapi):
    xapi.network.add_nic(
        PhysicalInterface("eth2", "52:54:00:00:00:03", ip="192.0.2.1", netmask="255.255.255.0")
    )
    ref = xapi("PIF.introduce", xapi.host.ref, "", "eth2")
    assert xapi.refused("PIF.plug", ref)[0] == "OPERATION_NOT_ALLOWED"
    assert xapi.network.bridges() == []


def test_what_keeps_a_pif_from_being_unplugged(xapi, pif):
    xapi("PIF.plug", pif.ref)
    xapi("PIF.set_disallow_unplug", pif.ref, True)
    assert xapi.refused("PIF.unplug", pif.ref) == ["PIF_DOES_NOT_ALLOW_UNPLUG", pif.ref]
    xapi("PIF.set_disallow_unplug", pif.ref, False)
    vif = xapi.db.create(VIF, network=pif.network, currently_attached=True)
    assert xapi.refused("PIF.unplug", pif.ref) == ["VIF_IN_USE", pif.network, vif.ref]
    pif.management = True
    assert xapi.refused("PIF.unplug", pif.ref) == ["PIF_IS_MANAGEMENT_INTERFACE", pif.ref]
    pif.managed = False
    assert xapi.refused("PIF.unplug", pif.ref) == ["PIF_UNMANAGED", pif.ref]


def test_a_nic_in_somebody_elses_bridge_stays_there(xapi, pif):
    xapi.network.create_bridge("admin")
    xapi.network.enslave("admin", "eth1")
    xapi("PIF.unplug", pif.ref)
    assert xapi.network.physical_interfaces()[0].bridge == "admin"


def test_the_management_interface_is_plugged_already(xapi, pif):
    xapi.db.write(pif, {"management": True, "currently_attached": True})
    xapi("PIF.plug", pif.ref)
    assert xapi.network.bridges() == []


def test_forgetting_leaves_the_nic_alone(xapi, pif):
    xapi("PIF.plug", pif.ref)
    xapi("PIF.forget", pif.ref)
    assert xapi.db.all(PIF) == xapi.db.all(PIF_metrics) == []
    assert xapi.network.bridges()[0].members == ("eth1",)


def test_a_pif_that_something_is_built_on_is_not_forgotten(xapi, pif):
    pif.management = True
    assert xapi.refused("PIF.forget", pif.ref) == ["PIF_IS_MANAGEMENT_INTERFACE", pif.ref]
    pif.management = False
    xapi.db.create(VLAN, tagged_PIF=pif.ref)
    assert xapi.refused("PIF.forget", pif.ref) == ["PIF_VLAN_STILL_EXISTS", pif.ref]
    vlan = xapi.db.create(PIF, VLAN=7, host=xapi.host.ref)
    assert xapi.refused("PIF.forget", vlan.ref) == ["PIF_IS_NOT_PHYSICAL", vlan.ref]
    assert xapi.refused("PIF.plug", vlan.ref) == ["PIF_IS_NOT_PHYSICAL", vlan.ref]


def test_the_primary_address_must_exist(xapi, pif):
    refused = xapi.refused("PIF.set_primary_address_type", pif.ref, "IPv6")
    assert refused == ["PIF_INCOMPATIBLE_PRIMARY_ADDRESS_TYPE", pif.ref]
    pif.ipv6_configuration_mode = "Static"
    xapi("PIF.set_primary_address_type", pif.ref, "IPv6")
    assert pif.primary_address_type == "IPv6"


def test_a_pif_of_another_host_is_only_a_record(xapi):
    other, network = xapi.db.create(Host), xapi.net()
    given = (
        "eth0",
        network.ref,
        other.ref,
        ETH0.mac,
        1500,
        -1,
        True,
        "DHCP",
        "",
        "",
        "",
        "",
        NULL,
        NULL,
        False,
        {},
    )
    row = xapi.db.get(PIF, xapi("PIF.db_introduce", *given))
    assert (row.device, row.ip_configuration_mode, row.currently_attached) == ("eth0", "DHCP", False)
    assert xapi.refused("PIF.plug", row.ref) == ["HOST_OFFLINE", other.ref]
    xapi("PIF.db_forget", row.ref)
    assert xapi.db.all(PIF) == []
