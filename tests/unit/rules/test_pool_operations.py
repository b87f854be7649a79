from __future__ import annotations

import pytest

from kronos.db.records import Cluster, Cluster_host, Host_metrics, Network, VM_appliance
from kronos.rules import operations


def test_vms_do_not_come_to_a_host_that_they_are_leaving(world):
    world.host.current_operations = {"T1": "evacuate"}
    expected = ["OTHER_OPERATION_IN_PROGRESS", "host", world.host.ref, "evacuate", "T1"]
    assert world.refused(world.host, "vm_migrate") == expected
    assert world.refused(world.host, "vm_start") is None


def test_a_host_that_vms_come_to_is_not_evacuated(world):
    world.host.current_operations = {"T1": "vm_migrate"}
    expected = ["OTHER_OPERATION_IN_PROGRESS", "host", world.host.ref, "VM.migrate", "T1"]
    assert world.refused(world.host, "evacuate") == expected


def test_a_host_is_disabled_before_it_goes_down(world):
    assert world.refused(world.host, "reboot") == ["HOST_NOT_DISABLED"]
    world.host.enabled = False
    assert world.refused(world.host, "reboot") is None
    assert "reboot" in world.host.allowed_operations


def test_only_a_host_that_is_down_is_switched_on(world):
    assert world.refused(world.host, "power_on") == ["HOST_IS_LIVE", world.host.ref]
    world.db.get(Host_metrics, world.host.metrics).live = False
    assert world.refused(world.host, "power_on") == ["HOST_POWER_ON_MODE_DISABLED"]
    world.host.power_on_mode = "wake-on-lan"
    assert "power_on" in world.host.allowed_operations


def test_high_availability_is_switched_on_once(world):
    assert world.refused(world.pool, "ha_disable") == ["HA_NOT_ENABLED"]
    world.pool.ha_enabled = True
    assert world.refused(world.pool, "ha_enable") == ["HA_IS_ENABLED"]
    assert world.refused(world.pool, "tls_verification_enable") == ["HA_IS_ENABLED"]


def test_a_pool_operation_that_is_under_way_is_told_by_its_own_error(world):
    world.pool.current_operations = {"T1": "ha_enable"}
    assert world.refused(world.pool, "apply_updates") == ["HA_ENABLE_IN_PROGRESS"]
    assert world.refused(world.pool, "eject") == ["OTHER_OPERATION_IN_PROGRESS", "pool", world.pool.ref]


def test_everybody_waits_for_the_pools_short_operations(world):
    world.pool.current_operations = {"T1": "cert_refresh"}
    expected = ["OTHER_OPERATION_IN_PROGRESS", "pool", world.pool.ref, "cert_refresh", "T1"]
    assert world.refused(world.pool, "ha_enable") == world.refused(world.pool, "eject") == expected
    assert world.pool.allowed_operations == ()


def test_there_is_one_cluster_in_a_pool(world):
    world.db.create(Cluster)
    assert world.refused(world.pool, "cluster_create") == ["CLUSTER_ALREADY_EXISTS"]
    assert "cluster_create" not in world.pool.allowed_operations


@pytest.mark.parametrize(
    ("current", "shown"),
    [({"T1": "add"}, ["add", "T1"]), ({"T1": "add", "T2": "enable"}, ["{add,enable}", "{T1,T2}"])],
)
def test_a_cluster_does_one_thing_at_a_time(world, current, shown):
    cluster = world.db.create(Cluster, current_operations=current)
    assert world.refused(cluster, "remove") == ["OTHER_OPERATION_IN_PROGRESS", "Cluster", cluster.ref, *shown]


def test_during_a_rolling_upgrade_only_what_old_hosts_know_starts(world):
    vdi, cluster = world.vdi(), world.db.create(Cluster)
    world.pool.other_config = {"rolling_upgrade_in_progress": "true"}
    refused = ["NOT_SUPPORTED_DURING_UPGRADE"]
    assert world.refused(vdi, "snapshot") is None
    assert world.refused(vdi, "mirror") == world.refused(world.sr, "vdi_mirror") == refused
    assert (
        world.refused(cluster, "destroy") == world.refused(world.pool, "tls_verification_enable") == refused
    )


def test_a_member_joins_its_cluster_before_it_is_enabled(world):
    member = world.db.create(Cluster_host, joined=False)
    assert world.refused(member, "enable") == ["CLUSTER_HOST_NOT_JOINED", member.ref]
    member.joined = True
    assert "enable" in member.allowed_operations


@pytest.mark.parametrize(
    ("states", "may"),
    [
        (["Halted"], {"start"}),
        (["Running"], {"clean_shutdown", "hard_shutdown", "shutdown"}),
        (["Halted", "Running"], {"start", "clean_shutdown", "hard_shutdown", "shutdown"}),
        (["Suspended"], {"hard_shutdown", "shutdown"}),
        ([], set()),
    ],
)
def test_an_appliance_does_what_makes_sense_for_one_of_its_vms(world, states, may):
    appliance = world.db.create(VM_appliance)
    for state in states:
        world.vm(state, appliance=appliance.ref)
    assert {
        name
        for name in ("start", "clean_shutdown", "hard_shutdown", "shutdown")
        if not world.refused(appliance, name)
    } == may


def test_an_appliance_follows_the_power_of_its_vms(world):
    appliance = world.db.create(VM_appliance)
    vm = world.vm()
    vm.appliance = appliance.ref
    assert appliance.allowed_operations == ("start",)
    vm.power_state = "Running"
    assert "start" not in appliance.allowed_operations


def test_a_class_without_rules_refuses_nothing_and_keeps_its_list(world):
    network = world.db.create(
        Network, current_operations={"T1": "attaching"}, allowed_operations=("attaching",)
    )
    assert world.refused(network, "attaching") is None
    assert operations.allowed(world.db, network) == ("attaching",)
