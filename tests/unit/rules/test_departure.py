"""What becomes of VMs when their host goes down, and in which order."""

from __future__ import annotations

import pytest

from kronos.rules.departure import Wish, stages, wish

ACTION, LIMIT = "kronos:host_shutdown", "kronos:host_shutdown_timeout"


def wanted(world, vms=None, pools=None):
    world.pool.other_config = pools or {}
    return wish(world.vm("Running", other_config=vms or {}), world.pool)


def test_a_guest_is_shut_down_within_a_minute_unless_somebody_says_otherwise(world):
    assert wanted(world) == Wish("shutdown", 60)


def test_a_vm_is_heard_before_its_pool(world):
    pools = {ACTION: "suspend", LIMIT: "300"}
    assert wanted(world, pools=pools) == Wish("suspend", 300)
    assert wanted(world, {ACTION: "migrate", LIMIT: "5"}, pools) == Wish("migrate", 5)


@pytest.mark.parametrize("limit", ["", "-1", "1.5", "soon", "9" * 40, "²"])
def test_what_is_no_number_of_seconds_was_not_said(world, limit):
    assert wanted(world, {LIMIT: limit}, {LIMIT: "90"}) == Wish("shutdown", 90)


def test_an_unknown_action_was_not_said(world):
    assert wanted(world, {ACTION: "explode"}, {ACTION: "suspend"}) == Wish("suspend", 60)


def test_one_that_somebody_else_sees_to_is_left_alone(world):
    assert wanted(world, {"auto_poweroff": "", ACTION: "suspend"}) is None


def test_those_of_one_order_go_together_and_the_last_to_start_first(world):
    vms = [world.vm("Running", order=order) for order in (0, 2, 0, -1)]
    assert [{vm.order for vm in stage} for stage in stages(vms)] == [{-1}, {2}, {0}]
    assert [len(stage) for stage in stages(vms)] == [1, 1, 2]
