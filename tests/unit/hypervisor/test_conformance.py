"""What every hypervisor driver does: the fake, libvirt's test driver and real QEMU pass the same tests."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from kronos.datamodel.errors import Failure
from kronos.hypervisor.base import DeviceId, Disk, EventKind, Hypervisor, Reason, State

NOBODY = "00000000-0000-4000-8000-000000000000"


def refused(code: str, call: Any, *args: Any, **named: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        call(*args, **named)
    assert caught.value.code == code, caught.value
    return caught.value


def test_the_interface_has_at_most_fifteen_methods_to_write() -> None:
    assert len(Hypervisor.__abstractmethods__) <= 15


def test_a_started_vm_runs(world: Any) -> None:
    domain = world.domain()

    domid = world.hypervisor.start(domain)

    assert [one.domid for one in world.hypervisor.statuses() if one.uuid == domain.uuid] == [domid]
    assert world.states()[domain.uuid] == "Running"
    assert world.wait_for(domain.uuid, EventKind.STARTED)


def test_a_vm_started_paused_waits_for_unpause(world: Any) -> None:
    domain = world.domain()

    world.hypervisor.start(domain, paused=True)
    assert world.states()[domain.uuid] == "Paused"
    world.hypervisor.unpause(domain.uuid)

    assert world.states()[domain.uuid] == "Running"
    assert world.wait_for(domain.uuid, EventKind.RESUMED)


def test_pause_and_unpause_are_told(world: Any) -> None:
    domain = world.started()

    world.hypervisor.pause(domain.uuid)
    assert world.states()[domain.uuid] == "Paused"
    world.wait_for(domain.uuid, EventKind.PAUSED)
    world.hypervisor.unpause(domain.uuid)

    world.wait_for(domain.uuid, EventKind.RESUMED)


def test_pausing_twice_is_refused(world: Any) -> None:
    domain = world.started()
    world.hypervisor.pause(domain.uuid)

    failure = refused("VM_BAD_POWER_STATE", world.hypervisor.pause, domain.uuid)

    assert failure.params == (domain.uuid, "running", "paused")


def test_unpausing_a_running_vm_is_refused(world: Any) -> None:
    domain = world.started()

    failure = refused("VM_BAD_POWER_STATE", world.hypervisor.unpause, domain.uuid)

    assert failure.params == (domain.uuid, "paused", "running")


def test_a_destroyed_vm_is_gone(world: Any) -> None:
    domain = world.started()

    world.hypervisor.destroy(domain.uuid)

    assert domain.uuid not in world.states()
    assert world.wait_for(domain.uuid, EventKind.HALTED).reason is Reason.DESTROYED


def test_a_paused_vm_can_be_destroyed(world: Any) -> None:
    domain = world.domain()
    world.hypervisor.start(domain, paused=True)

    world.hypervisor.destroy(domain.uuid)

    assert domain.uuid not in world.states()


def test_a_vm_that_halted_can_be_started_again_with_a_new_domid(world: Any) -> None:
    domain = world.domain()
    first = world.hypervisor.start(domain)
    world.hypervisor.destroy(domain.uuid)

    assert world.hypervisor.start(domain) != first


def test_a_second_start_of_the_same_vm_is_refused(world: Any) -> None:
    domain = world.domain()
    domid = world.hypervisor.start(domain)

    failure = refused("DOMAIN_EXISTS", world.hypervisor.start, domain)

    assert failure.params == (domain.uuid, str(domid))
    assert world.states()[domain.uuid] == "Running"


def test_two_vms_may_have_the_same_name(world: Any) -> None:
    first, second = world.started(name="twin"), world.started(name="twin")

    assert {first.uuid, second.uuid} <= world.states().keys()


@pytest.mark.parametrize(
    "name", ["", " ", "line\nbreak", "bell\a and \ud800 surrogate", "ü" * 300, "</title>"]
)
def test_any_name_can_be_started(world: Any, name: str) -> None:
    domain = world.started(name=name)

    assert domain.uuid in world.states()


@pytest.mark.parametrize("call", ["destroy", "shutdown", "reboot", "pause", "unpause"])
def test_a_call_about_a_halted_vm_is_refused(world: Any, call: str) -> None:
    failure = refused("VM_BAD_POWER_STATE", getattr(world.hypervisor, call), NOBODY)

    assert failure.params[0] == NOBODY
    assert failure.params[2] == "halted"


def test_suspending_a_halted_vm_is_refused_and_writes_nothing(world: Any, tmp_path: Path) -> None:
    refused("VM_BAD_POWER_STATE", world.hypervisor.suspend, NOBODY, tmp_path / "image")

    assert not (tmp_path / "image").exists()


def test_a_guest_that_obeys_shuts_down(world: Any) -> None:
    domain = world.started()
    world.ready(domain.uuid)

    world.hypervisor.shutdown(domain.uuid)

    assert world.wait_for(domain.uuid, EventKind.HALTED).reason is Reason.SHUTDOWN
    assert domain.uuid not in world.states()


def test_a_reboot_keeps_the_vm(world: Any) -> None:
    domain = world.started()
    if not world.reboots:
        pytest.skip("this driver does not tell of reboots")
    world.ready(domain.uuid)

    world.hypervisor.reboot(domain.uuid)

    world.wait_for(domain.uuid, EventKind.REBOOTED)
    assert world.states()[domain.uuid] == "Running"


@pytest.mark.parametrize("paused", [False, True])
def test_a_suspended_vm_comes_back(world: Any, tmp_path: Path, paused: bool) -> None:
    domain = world.started()
    world.ready(domain.uuid)

    world.hypervisor.suspend(domain.uuid, tmp_path / "image")
    (tmp_path / "half").write_bytes((tmp_path / "image").read_bytes()[:10])
    assert world.hypervisor.is_saved(tmp_path / "image")
    assert not world.hypervisor.is_saved(tmp_path / "half")
    assert domain.uuid not in world.states()
    assert world.wait_for(domain.uuid, EventKind.SUSPENDED)
    assert EventKind.HALTED not in world.kinds(domain.uuid)
    world.hypervisor.resume(domain, tmp_path / "image", paused=paused)

    assert world.states()[domain.uuid] == ("Paused" if paused else "Running")


def test_memory_is_saved_beside_a_paused_vm_which_goes_on_or_comes_back_from_it(
    world: Any, tmp_path: Path
) -> None:
    domain = world.started()
    if not world.hypervisor.saves_beside:
        pytest.skip("this driver ends a guest to write its memory")
    world.ready(domain.uuid)

    world.hypervisor.pause(domain.uuid)
    world.hypervisor.save_memory(domain.uuid, tmp_path / "image")

    assert world.states()[domain.uuid] == "Paused"
    assert world.hypervisor.is_saved(tmp_path / "image")
    world.hypervisor.unpause(domain.uuid)
    assert world.states()[domain.uuid] == "Running"
    world.hypervisor.destroy(domain.uuid)
    world.hypervisor.resume(domain, tmp_path / "image")
    assert world.states()[domain.uuid] == "Running"


def test_the_saved_memory_of_one_vm_wakes_as_another(world: Any, tmp_path: Path) -> None:
    domain = world.started()
    if not world.hypervisor.saves_beside:
        pytest.skip("this driver's images are not known")
    world.ready(domain.uuid)
    world.hypervisor.suspend(domain.uuid, tmp_path / "image")

    another = world.domain()
    world.hypervisor.readdress(tmp_path / "image", domain.uuid, another.uuid)
    world.hypervisor.resume(another, tmp_path / "image")

    assert world.states()[another.uuid] == "Running"
    assert domain.uuid not in world.states()


def test_the_state_of_a_vm_is_told_without_the_others(world: Any) -> None:
    domain = world.started()
    assert world.hypervisor.state(domain.uuid) is State.RUNNING
    world.hypervisor.pause(domain.uuid)
    assert world.hypervisor.state(domain.uuid) is State.PAUSED
    assert world.hypervisor.state(NOBODY) is None


def test_resuming_a_vm_that_runs_is_refused(world: Any, tmp_path: Path) -> None:
    domain = world.started()
    world.ready(domain.uuid)
    world.hypervisor.suspend(domain.uuid, tmp_path / "image")
    world.hypervisor.start(domain)

    refused("DOMAIN_EXISTS", world.hypervisor.resume, domain, tmp_path / "image")


def test_resuming_from_something_else_is_refused(world: Any, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"not an image" * 1000)

    with pytest.raises(Failure):
        world.hypervisor.resume(world.domain(), tmp_path / "image")


def test_one_watcher_that_fails_costs_the_others_nothing(world: Any) -> None:
    def broken(event: object) -> None:
        raise ValueError("a watcher's mistake")

    stop = world.hypervisor.watch(broken)
    domain = world.started()
    stop()

    world.wait_for(domain.uuid, EventKind.STARTED)


def test_a_watcher_that_stopped_hears_nothing_more(world: Any) -> None:
    heard: list[object] = []
    stop = world.hypervisor.watch(heard.append)
    stop()

    world.started()
    world.settle()

    assert heard == []


def test_a_watcher_may_call_the_driver(world: Any) -> None:
    seen: list[int] = []
    stop = world.hypervisor.watch(lambda event: seen.append(len(world.hypervisor.statuses())))

    domain = world.started()
    world.wait_for(domain.uuid, EventKind.STARTED)
    world.settle()
    stop()

    assert seen and seen[0] >= 1


def test_vms_are_started_side_by_side(world: Any) -> None:
    domains = [world.domain() for _ in range(6)]

    with ThreadPoolExecutor(3) as pool:
        domids = list(pool.map(world.hypervisor.start, domains))

    assert len(set(domids)) == len(domains)
    assert {domain.uuid for domain in domains} <= world.states().keys()


def test_many_starts_of_one_vm_make_one(world: Any) -> None:
    domain = world.domain()

    def attempt(_: int) -> str:
        try:
            world.hypervisor.start(domain)
        except Failure as failure:
            return failure.code
        return "started"

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(attempt, range(4))) == ["DOMAIN_EXISTS"] * 3 + ["started"]


def test_a_disk_is_plugged_and_unplugged(world: Any, tmp_path: Path) -> None:
    if not world.hotplug:
        pytest.skip("this driver has no hot plug")
    domain = world.started()
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    disk = Disk(3, tmp_path / "disk")
    world.ready(domain.uuid)

    world.hypervisor.plug_disk(domain.uuid, disk)
    refused("DEVICE_ALREADY_ATTACHED", world.hypervisor.plug_disk, domain.uuid, disk)
    assert world.hypervisor.devices(domain.uuid) == {DeviceId("disk", 3)}
    world.hypervisor.unplug_disk(domain.uuid, 3)

    assert world.hypervisor.devices(domain.uuid) == set()
    assert world.wait_for(domain.uuid, EventKind.DEVICE_REMOVED).device == DeviceId("disk", 3)
    refused("DEVICE_ALREADY_DETACHED", world.hypervisor.unplug_disk, domain.uuid, 3)


def test_a_vhd_is_plugged_and_unplugged(world: Any, tmp_path: Path) -> None:
    if not world.hotplug:
        pytest.skip("this driver has no hot plug")
    subprocess.run(["qemu-img", "create", "-q", "-f", "vpc", tmp_path / "disk", "8M"], check=True, timeout=60)
    domain = world.started()
    world.ready(domain.uuid)

    world.hypervisor.plug_disk(domain.uuid, Disk(3, tmp_path / "disk", format="vhd"))
    assert world.hypervisor.devices(domain.uuid) == {DeviceId("disk", 3)}
    world.hypervisor.unplug_disk(domain.uuid, 3)

    assert world.hypervisor.devices(domain.uuid) == set()


def test_a_cd_is_changed_and_ejected(world: Any, tmp_path: Path) -> None:
    if not (world.hotplug and world.media):
        pytest.skip("this driver cannot change media")
    for name in ("first", "second"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
    drive = Disk(3, tmp_path / "first", cdrom=True, read_only=True)
    domain = world.started(disks=(drive,))
    world.ready(domain.uuid)

    world.hypervisor.change_media(domain.uuid, replace(drive, path=tmp_path / "second"))
    world.hypervisor.change_media(domain.uuid, replace(drive, path=None))
    world.hypervisor.change_media(domain.uuid, drive)

    refused("DEVICE_ALREADY_DETACHED", world.hypervisor.change_media, domain.uuid, replace(drive, device=4))


def test_what_is_kept_of_a_vm_can_be_forgotten(world: Any) -> None:
    domain = world.started()
    world.hypervisor.destroy(domain.uuid)

    world.hypervisor.forget(domain.uuid)
    world.hypervisor.forget(str(uuid4()))

    assert world.hypervisor.start(domain) > 0
