"""Networks: bridges that are there when somebody joins."""

from __future__ import annotations

import pytest

from kronos.db.records import PIF, VIF, VM, Host, Network, VIF_metrics


def test_a_network_gets_the_first_name_that_nobody_has(xapi):
    xapi.network.create_bridge("xapi1")
    assert [xapi.net().bridge for _ in range(3)] == ["xapi0", "xapi2", "xapi3"]
    assert "xapi0" not in {bridge.name for bridge in xapi.network.bridges()}


def test_a_bridge_can_be_named(xapi):
    assert xapi.net(bridge="br-lab", MTU=9000).MTU == 9000
    assert xapi.refused("network.create", {"bridge": "br-lab", "other_config": {}}) == [
        "BRIDGE_NAME_EXISTS",
        "br-lab",
    ]


@pytest.mark.parametrize(
    "name", ["xapi7", "vif1.0", "tap0", "eth0", "xenbr0", "a name", "much-too-long-a-name"]
)
def test_names_that_would_be_mistaken_are_refused(xapi, name):
    assert xapi.refused("network.create", {"bridge": name}) == ["INVALID_VALUE", "bridge", name]


def test_an_administrators_bridge_may_have_any_name_but_must_have_one(xapi):
    assert xapi.net(bridge="xenbr0", managed=False).bridge == "xenbr0"
    assert xapi.refused("network.create", {"managed": False}) == ["INVALID_VALUE", "bridge", ""]


def test_an_mtu_of_nothing_is_the_usual_one(xapi):
    assert xapi.net(MTU=0).MTU == 1500


def test_an_mtu_that_cannot_be_is_refused(xapi):
    assert xapi.refused("network.create", {"MTU": 10}) == ["INVALID_VALUE", "MTU", "10"]


def test_destroying_a_network_takes_its_bridge(xapi):
    network = xapi.net()
    xapi("network.attach", network.ref, xapi.host.ref)
    assert [bridge.name for bridge in xapi.network.bridges()] == ["xapi0"]
    assert network.current_operations == {}
    xapi("network.destroy", network.ref)
    assert xapi.network.bridges() == [] and xapi.db.all(Network) == []


def test_a_network_that_somebody_has_joined_stays(xapi):
    network = xapi.net()
    xapi.db.create(VIF, network=network.ref)
    vif = xapi.db.create(VIF, network=network.ref, currently_attached=True)
    assert xapi.refused("network.destroy", network.ref) == ["NETWORK_CONTAINS_VIF", vif.ref]
    xapi.db.delete(vif)
    pif = xapi.db.create(PIF, network=network.ref)
    assert xapi.refused("network.destroy", network.ref) == ["NETWORK_CONTAINS_PIF", pif.ref]


def test_the_internal_network_stays(xapi):
    network = xapi.net(other_config={"is_host_internal_management_network": "true"})
    assert xapi.refused("network.destroy", network.ref) == ["CANNOT_DESTROY_SYSTEM_NETWORK", network.ref]


def test_a_network_goes_with_the_interfaces_that_halted_vms_have_in_it(xapi):
    network = xapi.net()
    vm = xapi.db.create(VM)
    metrics = xapi.db.create(VIF_metrics)
    xapi.db.create(VIF, network=network.ref, VM=vm.ref, metrics=metrics.ref)
    xapi("network.destroy", network.ref)
    assert (vm.VIFs, xapi.db.find(VIF_metrics, metrics.ref)) == ((), None)


def test_but_not_while_one_of_them_is_on_its_way_up(xapi):
    network = xapi.net()
    vm = xapi.db.create(VM, scheduled_to_be_resident_on=xapi.host.ref)
    vif = xapi.db.create(VIF, network=network.ref, VM=vm.ref)
    assert xapi.refused("network.destroy", network.ref) == ["NETWORK_CONTAINS_VIF", vif.ref]


def test_the_internal_network_serves_addresses_when_it_comes_up(xapi):
    config = {"ip_begin": "169.254.0.1", "ip_end": "169.254.255.254", "netmask": "255.255.0.0"}
    network = xapi.net(other_config=config)
    xapi("network.attach", network.ref, xapi.host.ref)
    assert str(xapi.network.served[network.bridge].host) == "169.254.0.1/16"


def test_networks_come_up_for_a_vm_and_go_when_nothing_uses_them(xapi):
    vm = xapi.vm()
    idle, used, wired = xapi.net(), xapi.net(), xapi.net()
    for network in (idle, used, wired):
        xapi.db.create(VIF, network=network.ref, VM=vm.ref)
    xapi.db.create(VIF, network=used.ref, currently_attached=True)
    xapi.db.create(PIF, network=wired.ref, host=xapi.host.ref)
    xapi("network.attach_for_vm", xapi.host.ref, vm.ref)
    assert len(xapi.network.bridges()) == 3
    xapi("network.detach_for_vm", xapi.host.ref, vm.ref)
    assert {bridge.name for bridge in xapi.network.bridges()} == {used.bridge, wired.bridge}


def test_another_hosts_bridges_are_not_made_here(xapi):
    other = xapi.db.create(Host)
    assert xapi.refused("network.attach", xapi.net().ref, other.ref) == ["HOST_OFFLINE", other.ref]


def test_the_default_locking_mode_waits_for_vifs_to_be_unplugged(xapi):
    network = xapi.net()
    vif = xapi.db.create(VIF, network=network.ref, currently_attached=True)
    refused = xapi.refused("network.set_default_locking_mode", network.ref, "disabled")
    assert refused == ["VIF_IN_USE", network.ref, vif.ref]
    vif.currently_attached = False
    xapi("network.set_default_locking_mode", network.ref, "disabled")
    assert network.default_locking_mode == "disabled"


def test_the_two_purposes_exclude_each_other_in_the_whole_pool(xapi):
    one, other = xapi.net(), xapi.net()
    xapi("network.add_purpose", one.ref, "nbd")
    xapi("network.add_purpose", one.ref, "nbd")
    assert one.purpose == ("nbd",)
    refused = xapi.refused("network.add_purpose", other.ref, "insecure_nbd")
    assert refused == ["NETWORK_INCOMPATIBLE_PURPOSES", "insecure_nbd", "nbd"]
    xapi("network.remove_purpose", one.ref, "nbd")
    xapi("network.remove_purpose", one.ref, "nbd")
    xapi("network.add_purpose", other.ref, "insecure_nbd")


def test_a_network_of_another_host_is_taken_over_as_it_is(xapi):
    ref = xapi("network.pool_introduce", "n", "d", 1500, {"a": "1"}, "xenbr1", True, ["nbd"])
    row = xapi.db.get(Network, ref)
    assert (row.bridge, row.purpose, row.other_config) == ("xenbr1", ("nbd",), {"a": "1"})
