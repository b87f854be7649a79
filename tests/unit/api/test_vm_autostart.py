"""VMs that start with their host."""

from __future__ import annotations

import pytest

from kronos.api.vm import lifecycle
from kronos.background.autostart import start_after_boot
from kronos.db.records import VM, Message, Pool
from kronos.system import hardware


@pytest.fixture
def boot(host, tmp_path, monkeypatch):
    """The host has booted, and its daemon starts."""
    pool = next(iter(host.db.all(Pool)))
    host("pool.add_to_other_config", pool.ref, "auto_poweron", "true")
    boots = []

    def boot(again=True):
        if again:
            boots.append(f"boot {len(boots)}")
        monkeypatch.setattr(hardware, "boot_id", lambda: boots[-1])
        start_after_boot(host.pipeline, tmp_path)

    return boot


def chosen(host, **fields: object) -> VM:
    return host.halted_vm(other_config={"auto_poweron": "true"}, **fields)


def test_those_that_are_to_are_started_and_no_others(host, boot):
    wanted, other = chosen(host), host.halted_vm()
    boot()
    assert (wanted.power_state, other.power_state) == ("Running", "Halted")


def test_a_restart_of_the_daemon_starts_nothing(host, boot):
    boot()
    vm = chosen(host)
    boot(again=False)
    assert vm.power_state == "Halted"
    boot()
    assert vm.power_state == "Running"


def test_a_pool_without_it_starts_nothing(host, boot):
    pool = next(iter(host.db.all(Pool)))
    host("pool.remove_from_other_config", pool.ref, "auto_poweron")
    vm = chosen(host)
    boot()
    assert vm.power_state == "Halted"


def test_they_start_in_their_order_and_wait_for_each_other(host, boot, monkeypatch):
    waited = []
    vms = [chosen(host, order=order, start_delay=delay) for order, delay in ((2, 1), (0, 20), (1, 5))]

    def linger(call, seconds):
        waited.append((seconds, {vm.order for vm in vms if vm.power_state == "Running"}))

    monkeypatch.setattr(lifecycle, "linger", linger)
    boot()
    assert waited == [(20, {0}), (5, {0, 1}), (1, {0, 1, 2})]


def test_one_that_cannot_be_started_is_told_and_the_others_start(host, boot):
    broken, fine = chosen(host), chosen(host, order=1)
    for name in ("static_min", "static_max", "dynamic_min", "dynamic_max"):
        setattr(broken, f"memory_{name}", 1 << 50)
    boot()
    assert (broken.power_state, fine.power_state) == ("Halted", "Running")
    assert [row.obj_uuid for row in host.db.all(Message) if row.name == "VM_START_FAILED"] == [broken.uuid]
