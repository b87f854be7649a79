"""What every network driver does: the fake and the real one pass the same tests."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest

from kronos.datamodel.errors import Failure
from kronos.network.base import LinkState, LockingMode, NetworkDriver, VifPort
from kronos.network.subnet import Subnet, subnet_of_options

MAC = "02:00:00:00:00:01"
INTERNAL = subnet_of_options(
    {"ip_begin": "169.254.0.1", "ip_end": "169.254.255.254", "netmask": "255.255.0.0"}
)
BAD_NAMES = ["", ".", "..", "-x", "a/b", "a b", 'a"b', "a\nb", "a;b", "{a}", "sixteen-letters!", "a" * 16]


@pytest.fixture
def driver(world: Any) -> NetworkDriver:
    return world.driver  # type: ignore[no-any-return]


def refused(code: str, call: Any, *args: Any, **named: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        call(*args, **named)
    assert caught.value.code == code
    return caught.value


def test_a_new_bridge_is_up_and_has_what_was_asked_for(driver: NetworkDriver) -> None:
    ids = {"network": "a b=c&d", "empty": ""}

    bridge = driver.create_bridge("xenbr0", mtu=9000, external_ids=ids)

    assert bridge in driver.bridges()
    assert (bridge.name, bridge.mtu, bridge.up, bridge.managed) == ("xenbr0", 9000, True, True)
    assert bridge.external_ids == ids
    assert bridge.members == ()


def test_making_a_bridge_again_changes_it_in_place(driver: NetworkDriver) -> None:
    first = driver.create_bridge("xenbr0", mtu=1500, external_ids={"a": "1"})

    second = driver.create_bridge("xenbr0", mtu=1400, external_ids={"b": "2"})

    assert second.mac == first.mac
    assert (second.mtu, second.external_ids) == (1400, {"b": "2"})
    assert driver.bridges() == [second]


def test_a_bridge_can_be_destroyed_twice(driver: NetworkDriver) -> None:
    driver.create_bridge("xenbr0")
    driver.destroy_bridge("xenbr0")
    driver.destroy_bridge("xenbr0")
    assert driver.bridges() == []


def test_bridges_come_by_name(driver: NetworkDriver) -> None:
    for name in ("xenbr2", "xapi0", "xenbr10"):
        driver.create_bridge(name)
    assert [bridge.name for bridge in driver.bridges()] == ["xapi0", "xenbr10", "xenbr2"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_could_mean_something_else_is_refused_everywhere(
    driver: NetworkDriver, name: str
) -> None:
    driver.create_bridge("xenbr0")
    refused("INVALID_VALUE", driver.create_bridge, name)
    refused("INVALID_VALUE", driver.destroy_bridge, name)
    refused("INVALID_VALUE", driver.enslave, name, "eth0")
    refused("INVALID_VALUE", driver.enslave, "xenbr0", name)
    refused("INVALID_VALUE", driver.release, name)
    refused("INVALID_VALUE", driver.serve_addresses, name, INTERNAL)
    refused("INVALID_VALUE", driver.stop_addresses, name)
    refused("INVALID_VALUE", driver.leases, name)
    refused("INVALID_VALUE", driver.secure, VifPort(name, MAC))
    refused("INVALID_VALUE", driver.unsecure, name)


@pytest.mark.parametrize("mtu", [-1, 0, 67, 65536])
def test_an_mtu_that_no_bridge_has_is_refused(driver: NetworkDriver, mtu: int) -> None:
    assert refused("INVALID_VALUE", driver.create_bridge, "xenbr0", mtu=mtu).params == ("MTU", str(mtu))
    assert driver.bridges() == []


def test_the_name_of_another_device_is_taken(world: Any, driver: NetworkDriver) -> None:
    world.add_nic("nic0")
    assert refused("BRIDGE_NAME_EXISTS", driver.create_bridge, "nic0").params == ("nic0",)


def test_a_nic_gives_its_mac_to_the_bridge_and_takes_its_mtu(world: Any, driver: NetworkDriver) -> None:
    world.add_nic("nic0", mac="02:00:00:00:00:bb")
    driver.create_bridge("xenbr0", mtu=1400)

    driver.enslave("xenbr0", "nic0")
    driver.enslave("xenbr0", "nic0")

    (bridge,) = driver.bridges()
    assert (bridge.members, bridge.mac, bridge.mtu) == (("nic0",), "02:00:00:00:00:bb", 1400)


def test_a_released_nic_takes_its_mac_along(world: Any, driver: NetworkDriver) -> None:
    world.add_nic("nic0")
    driver.create_bridge("xenbr0")
    driver.enslave("xenbr0", "nic0")

    driver.release("nic0")
    driver.release("nic0")
    driver.release("absent")

    (bridge,) = driver.bridges()
    assert bridge.members == ()
    assert bridge.mac != "02:00:00:00:00:aa"


def test_a_nic_is_in_one_bridge_at_most(world: Any, driver: NetworkDriver) -> None:
    world.add_nic("nic0")
    driver.create_bridge("xenbr0")
    driver.create_bridge("xenbr1")
    driver.enslave("xenbr0", "nic0")

    refused("DEVICE_ALREADY_ATTACHED", driver.enslave, "xenbr1", "nic0")

    assert [bridge.members for bridge in driver.bridges()] == [("nic0",), ()]


def test_a_nic_outlives_its_bridge(world: Any, driver: NetworkDriver) -> None:
    world.add_nic("nic0")
    driver.create_bridge("xenbr0")
    driver.enslave("xenbr0", "nic0")
    driver.destroy_bridge("xenbr0")

    driver.create_bridge("xenbr1")
    driver.enslave("xenbr1", "nic0")

    assert driver.bridges()[0].members == ("nic0",)


def test_what_is_missing_is_named(world: Any, driver: NetworkDriver) -> None:
    world.add_nic("nic0")
    driver.create_bridge("xenbr0")
    refused("BRIDGE_NOT_AVAILABLE", driver.enslave, "xenbr9", "nic0")
    refused("PIF_DEVICE_NOT_FOUND", driver.enslave, "xenbr0", "nic9")
    refused("BRIDGE_NOT_AVAILABLE", driver.serve_addresses, "xenbr9", INTERNAL)


def test_a_nic_with_the_hosts_address_stays_out_of_bridges(world: Any, driver: NetworkDriver) -> None:
    world.add_nic("nic0", address="10.7.0.2/24")
    driver.create_bridge("xenbr0", mtu=1400)

    refused("OPERATION_NOT_ALLOWED", driver.enslave, "xenbr0", "nic0")

    assert driver.bridges()[0].members == ()


def test_addresses_can_be_served_and_stopped_again_and_again(driver: NetworkDriver) -> None:
    driver.create_bridge("xenapi")
    driver.serve_addresses("xenapi", INTERNAL)
    driver.serve_addresses("xenapi", INTERNAL)
    assert driver.leases("xenapi") == []
    driver.stop_addresses("xenapi")
    driver.stop_addresses("xenapi")
    driver.serve_addresses("xenapi", INTERNAL)
    driver.destroy_bridge("xenapi")
    assert driver.leases("xenapi") == []


def test_a_subnet_that_the_host_has_elsewhere_is_refused(world: Any, driver: NetworkDriver) -> None:
    world.add_nic("nic0", address="169.254.7.2/24")
    driver.create_bridge("xenapi")
    refused("OPERATION_NOT_ALLOWED", driver.serve_addresses, "xenapi", INTERNAL)


def test_two_bridges_cannot_serve_one_subnet(driver: NetworkDriver) -> None:
    driver.create_bridge("xenapi")
    driver.create_bridge("other")
    driver.serve_addresses("xenapi", INTERNAL)
    part = Subnet(IPv4Interface("169.254.9.1/24"), IPv4Address("169.254.9.2"), IPv4Address("169.254.9.9"))
    refused("OPERATION_NOT_ALLOWED", driver.serve_addresses, "other", part)


def test_a_bridge_with_a_nic_serves_no_addresses(tmp_path: Any, world: Any, driver: NetworkDriver) -> None:
    (tmp_path / "sys/class/net/nic0/device").mkdir(parents=True)
    world.add_nic("nic0")
    driver.create_bridge("xenbr0")
    driver.enslave("xenbr0", "nic0")
    refused("OPERATION_NOT_ALLOWED", driver.serve_addresses, "xenbr0", INTERNAL)


def test_ports_are_remembered_until_they_are_forgotten(driver: NetworkDriver) -> None:
    assert driver.secured() == set()
    driver.unsecure("tap0.0")
    driver.secure(VifPort("tap0.0", MAC, LockingMode.LOCKED, (IPv4Address("10.0.0.1"),)))
    driver.secure(VifPort("tap0.0", MAC, LockingMode.DISABLED))
    driver.secure(VifPort("tap1.0", MAC, rate_kbytes=100), VifPort("tap2.0", MAC))
    driver.unsecure("tap2.0")
    assert driver.secured() == {"tap0.0", "tap1.0"}

    driver.unsecure("tap0.0", "tap9.0")

    assert driver.secured() == {"tap1.0"}


def test_a_port_with_values_that_cannot_be_is_refused(driver: NetworkDriver) -> None:
    refused("MAC_INVALID", driver.secure, VifPort("tap0.0", "no mac"))
    refused("INVALID_VALUE", driver.secure, VifPort("tap0.0", MAC, rate_kbytes=-1))
    assert driver.secured() == set()


def test_a_watch_sees_bridges_come_and_go(driver: NetworkDriver, seen: Any) -> None:
    with driver.watch(seen):
        driver.create_bridge("xenbr0")
        seen.wait_for(lambda state: state.device == "xenbr0" and state.up)
        driver.destroy_bridge("xenbr0")
        seen.wait_for(lambda state: state == LinkState("xenbr0", present=False))


def test_a_watch_sees_the_cable_and_the_bridge_of_a_nic(world: Any, driver: NetworkDriver, seen: Any) -> None:
    world.add_nic("nic0")
    driver.create_bridge("xenbr0")
    with driver.watch(seen):
        assert seen.states == []
        world.set_carrier("nic0", False)
        seen.wait_for(lambda state: state.device == "nic0" and not state.carrier)
        world.set_carrier("nic0", True)
        seen.wait_for(lambda state: state.device == "nic0" and state.carrier)
        driver.enslave("xenbr0", "nic0")
        seen.wait_for(lambda state: state.device == "nic0" and state.master == "xenbr0")
        driver.release("nic0")
        seen.wait_for(lambda state: state == LinkState("nic0", up=True, carrier=True))
        assert all(state.present for state in seen.states if state.device == "nic0")


def test_a_watch_calls_on_one_thread_of_its_own_until_it_is_closed(driver: NetworkDriver, seen: Any) -> None:
    threads = set()

    def callback(state: LinkState) -> None:
        threads.add(threading.get_ident())
        seen(state)
        raise ValueError("a caller's mistake")

    watch = driver.watch(callback)
    driver.create_bridge("xenbr0")
    driver.create_bridge("xenbr1")
    seen.wait_for(lambda state: state.device == "xenbr1")
    watch.close()
    watch.close()
    before = len(seen.states)
    driver.create_bridge("xenbr2")
    assert len(seen.states) == before
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_many_threads_may_call_at_once(driver: NetworkDriver) -> None:
    def cycle(number: int) -> None:
        for _ in range(3):
            driver.create_bridge(f"xapi{number}")
            driver.secure(VifPort(f"tap{number}.0", MAC, LockingMode.LOCKED, (IPv4Address("10.0.0.1"),)))
            driver.create_bridge("shared")
            driver.unsecure(f"tap{number}.0")
            driver.destroy_bridge(f"xapi{number}")
        driver.create_bridge(f"last{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(cycle, range(8)))
    assert [bridge.name for bridge in driver.bridges()] == [*(f"last{n}" for n in range(8)), "shared"]
    assert driver.secured() == set()
