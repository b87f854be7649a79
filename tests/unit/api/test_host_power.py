"""host: its own power, and what becomes of its VMs when it goes down."""

from __future__ import annotations

import time

import pytest

from kronos.api.host import departure
from kronos.api.host.power import enabled_after_start
from kronos.api.vm import lifecycle
from kronos.background.autostart import start_after_boot
from kronos.db.records import VM, Host, Host_metrics, Pool, Secret
from kronos.system import hardware
from kronos.system.power import NoPower

MEMORY = ("static_min", "static_max", "dynamic_min", "dynamic_max")


class RecordingPower:
    """Hands that only remember what they were told to do."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def power_off(self) -> None:
        self.done.append("power off")

    def reboot(self) -> None:
        self.done.append("reboot")

    def restart_daemon(self) -> None:
        self.done.append("restart")

    def stop_daemon(self) -> None:
        self.done.append("stop")


@pytest.fixture
def power(host):
    host.machine.power = RecordingPower()
    return host.machine.power


@pytest.fixture
def boots(monkeypatch):
    """The kernel's boots; the last is the one that runs."""
    boots = ["first boot"]
    monkeypatch.setattr(hardware, "boot_id", lambda: boots[-1])
    return boots


def started(host, wish: str = "", **fields: object) -> VM:
    """A VM that runs, and what it says is to be done with it when the host goes down."""
    memory = {f"memory_{name}": 64 << 20 for name in MEMORY}
    vm = host.db.create(
        VM,
        name_label="vm",
        HVM_boot_policy="BIOS order",
        domain_type="hvm",
        VCPUs_max=1,
        VCPUs_at_startup=1,
        **memory | ({"other_config": {"kronos:host_shutdown": wish}} if wish else {}) | fields,
    )
    host("VM.start", vm.ref, False, False)
    return vm


def disobey(host, vm: VM) -> None:
    """The guest does not shut down when it is asked to."""
    host.hypervisor.guests[vm.uuid].obeys = False


def prepare(host) -> None:
    host("host.prepare_for_poweroff", host.host.ref)


# --- the host --------------------------------------------------------------------------------------------------------


def test_a_host_goes_down_only_when_it_takes_no_vms(host, power):
    for name in ("host.shutdown", "host.reboot"):
        assert host.refused(name, host.host.ref) == ["HOST_NOT_DISABLED"]
    assert power.done == []


@pytest.mark.parametrize(("name", "done"), [("host.shutdown", "power off"), ("host.reboot", "reboot")])
def test_a_disabled_host_goes_down_and_does_nothing_else_meanwhile(host, power, name, done):
    host("host.disable", host.host.ref)
    assert {"shutdown", "reboot"} <= set(host.host.allowed_operations)
    host(name, host.host.ref)
    assert power.done == [done]
    other = {"shutdown": "reboot", "reboot": "shutdown"}[name.removeprefix("host.")]
    assert not {other, "provision", "vm_resume", "vm_migrate"} & set(host.host.allowed_operations)
    assert list(host.host.current_operations.values()) == [name.removeprefix("host.")]


def test_a_daemon_that_is_no_service_leaves_its_machine_alone(host):
    host.machine.power = NoPower()
    host("host.disable", host.host.ref)
    for name in ("host.shutdown", "host.reboot", "host.restart_agent"):
        assert host.refused(name, host.host.ref)[0] == "OPERATION_NOT_ALLOWED"
    assert host.refused("host.shutdown_agent")[0] == "OPERATION_NOT_ALLOWED"
    assert host.host.current_operations == {}


def test_the_daemon_is_restarted_and_stopped(host, power):
    host("host.restart_agent", host.host.ref)
    host("host.shutdown_agent")
    assert power.done == ["restart", "stop"]


def test_a_disabled_host_starts_no_vm(host):
    vm = started(host)
    host("VM.hard_shutdown", vm.ref)
    host("host.disable", host.host.ref)
    assert host.refused("VM.start_on", vm.ref, host.host.ref, False, False) == [
        "HOST_DISABLED",
        host.host.ref,
    ]
    assert host.refused("VM.start", vm.ref, False, False) == ["NO_HOSTS_AVAILABLE"]
    host("host.enable", host.host.ref)
    host("VM.start", vm.ref, False, False)


def test_a_vm_on_a_disabled_host_may_reboot(host):
    vm = started(host)
    host("host.disable", host.host.ref)
    host("VM.hard_reboot", vm.ref)
    assert vm.power_state == "Running"


def test_a_host_disabled_for_good_stays_so_until_it_is_enabled(host, boots):
    host("host.disable", host.host.ref, False)
    boots.append("second boot")
    assert not enabled_after_start(host.machine.keys)
    host("host.enable", host.host.ref)
    assert enabled_after_start(host.machine.keys)


def test_a_host_disabled_otherwise_takes_vms_after_the_next_start(host, boots):
    host("host.disable", host.host.ref)
    assert enabled_after_start(host.machine.keys)


def test_this_host_is_not_switched_on_or_declared_dead_or_forgotten_by_itself(host):
    for name in ("host.power_on", "host.declare_dead"):
        assert host.refused(name, host.host.ref) == ["HOST_IS_LIVE", host.host.ref]


def test_a_dead_hosts_vms_are_halted(host):
    dead = host.db.create(Host, enabled=True, metrics=host.db.create(Host_metrics, live=False).ref)
    vm = host.db.create(VM, power_state="Running", resident_on=dead.ref)
    host("host.declare_dead", dead.ref)
    assert (vm.power_state, dead.enabled) == ("Halted", False)


def test_another_host_is_switched_on_by_a_plugin_that_is_missing(host):
    dead = host.db.create(Host, metrics=host.db.create(Host_metrics, live=False).ref)
    assert host.refused("host.power_on", dead.ref) == ["HOST_POWER_ON_MODE_DISABLED"]
    host("host.set_power_on_mode", dead.ref, "wake-on-lan", {})
    assert host.refused("host.power_on", dead.ref) == ["XENAPI_MISSING_PLUGIN", "power-on-host"]


def test_a_former_power_on_modes_password_is_forgotten(host):
    secret = host.db.create(Secret, value="hush")
    host("host.set_power_on_mode", host.host.ref, "DRAC", {"power_on_password_secret": secret.uuid})
    assert secret.ref in host.db.rows
    host("host.set_power_on_mode", host.host.ref, "", {})
    assert secret.ref not in host.db.rows
    assert (host.host.power_on_mode, host.host.power_on_config) == ("", {})


# --- evacuation ------------------------------------------------------------------------------------------------------


def test_the_vms_of_a_pools_only_host_have_nowhere_to_go(host):
    vm = started(host)
    error = ["NO_HOSTS_AVAILABLE", vm.ref]
    assert host("host.get_vms_which_prevent_evacuation", host.host.ref) == {vm.ref: tuple(error)}
    assert host.refused("host.assert_can_evacuate", host.host.ref) == [
        "CANNOT_EVACUATE_HOST",
        ",".join(error),
    ]
    assert host.refused("host.evacuate", host.host.ref, "OpaqueRef:NULL", 0) == error
    assert vm.power_state == "Running"


def test_an_empty_host_is_evacuated(host):
    host("host.assert_can_evacuate", host.host.ref)
    host("host.evacuate", host.host.ref, "OpaqueRef:NULL", 0)
    assert host("host.get_vms_which_prevent_evacuation", host.host.ref) == {}


def test_there_is_no_workload_balancing(host):
    assert host.refused("host.retrieve_wlb_evacuate_recommendations", host.host.ref) == [
        "WLB_NOT_INITIALIZED"
    ]


# --- before the power goes -------------------------------------------------------------------------------------------


def test_vms_are_shut_down_or_suspended_as_they_wish(host, boots):
    plain, kept, moved = started(host), started(host, "suspend"), started(host, "migrate")
    prepare(host)
    assert (plain.power_state, kept.power_state, moved.power_state) == ("Halted", "Suspended", "Halted")


def test_the_pool_says_it_for_vms_that_do_not(host, boots):
    host("pool.add_to_other_config", host.pool.ref, "kronos:host_shutdown", "suspend")
    vm, other, strange = started(host), started(host, "shutdown"), started(host, "explode")
    prepare(host)
    assert (vm.power_state, other.power_state, strange.power_state) == ("Suspended", "Halted", "Suspended")


def test_one_whose_power_somebody_else_sees_to_is_left_alone(host, boots):
    vm = started(host, other_config={"auto_poweroff": "false"})
    prepare(host)
    assert vm.power_state == "Running"


def test_a_guest_that_does_not_obey_is_cut_off_after_its_time(host, boots):
    vm = started(host)
    disobey(host, vm)
    host("VM.add_to_other_config", vm.ref, "kronos:host_shutdown_timeout", "1")
    prepare(host)
    assert vm.power_state == "Halted"


def test_the_time_of_a_guest_does_not_cut_its_shutdown_delay(host, boots, monkeypatch):
    waited = []

    def linger(call, seconds):
        time.sleep(1.2)  # longer than the guest's time, which was enough for it
        waited.append((seconds, call.task.cancelled))

    vm = started(host, shutdown_delay=7)
    monkeypatch.setattr(lifecycle, "linger", linger)
    host("VM.add_to_other_config", vm.ref, "kronos:host_shutdown_timeout", "1")
    prepare(host)
    assert (vm.power_state, waited) == ("Halted", [(7, False)])


def test_one_that_cannot_be_suspended_is_shut_down(host, boots):
    next(iter(host.db.all(Pool))).default_SR = "OpaqueRef:NULL"
    vm = started(host, "suspend")
    prepare(host)
    assert vm.power_state == "Halted"


def test_those_that_start_last_end_first(host, boots, monkeypatch):
    ended = []
    cut = departure._put_away
    monkeypatch.setattr(
        departure, "_put_away", lambda call, vm, wanted: (ended.append(vm.order), cut(call, vm, wanted))
    )
    for order in (1, -1, 0, 2):
        started(host, order=order)
    prepare(host)
    assert ended == [-1, 2, 1, 0]


def test_no_vm_starts_until_the_machine_has_booted_again(host, boots):
    prepare(host)
    assert not host.host.enabled
    assert host.refused("host.enable", host.host.ref) == ["HOST_DISABLED_UNTIL_REBOOT", host.host.ref]
    assert not enabled_after_start(host.machine.keys)
    boots.append("second boot")
    assert enabled_after_start(host.machine.keys)


def test_what_was_suspended_goes_on_at_the_next_boot_and_only_that(host, boots, tmp_path):
    start_after_boot(host.pipeline, tmp_path)
    running, paused = started(host, "suspend"), started(host, "suspend")
    mine, down = started(host), started(host)
    host("VM.pause", paused.ref)
    host("VM.suspend", mine.ref)
    prepare(host)
    host.host.enabled = True
    start_after_boot(host.pipeline, tmp_path)  # the daemon was restarted, not the machine
    assert running.power_state == "Suspended"
    boots.append("second boot")
    start_after_boot(host.pipeline, tmp_path)
    states = [vm.power_state for vm in (running, paused, mine, down)]
    assert states == ["Running", "Paused", "Suspended", "Halted"]


def test_after_a_power_cut_only_auto_poweron_starts_vms(host, boots, tmp_path):
    start_after_boot(host.pipeline, tmp_path)
    host("pool.add_to_other_config", host.pool.ref, "auto_poweron", "true")
    chosen, other = started(host, other_config={"auto_poweron": "true"}), started(host, "suspend")
    for vm in (chosen, other):
        host("VM.power_state_reset", vm.ref)  # as a start of the daemon finds them: gone
    boots.append("second boot")
    start_after_boot(host.pipeline, tmp_path)
    assert (chosen.power_state, other.power_state) == ("Running", "Halted")
