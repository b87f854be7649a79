"""What only real guests show: consoles, hot plug, snapshots, crashes, and libvirtd coming and going."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt
import pytest

from harness.daemon import wait_until
from kronos.datamodel.errors import Failure
from kronos.hypervisor.base import (
    DeviceId,
    DirectKernel,
    Disk,
    Domain,
    EventKind,
    Firmware,
    Interface,
    Limits,
    Platform,
    Reason,
)
from kronos.hypervisor.kvm import QEMU
from kronos.hypervisor.probe import try_guest
from kronos.system.libvirtd import PrivateLibvirtd, system_uri

pytestmark = pytest.mark.integration

MIB = 1 << 20
BARE = Platform(vga="none", usb=False)


def image(path: Path, *options: str, size: str = "8M") -> Path:
    backing = [] if "-b" in options else [size]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, *backing], check=True)
    return path


def virsh_view(world: Any, uuid: str) -> str:
    handle = libvirt.open(world.hypervisor.uri)
    try:
        return str(handle.lookupByUUIDString(uuid).XMLDesc())
    finally:
        handle.close()


@pytest.fixture
def bridge() -> Iterator[str]:
    name = f"khv{os.getpid() % 100000}"
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    yield name
    subprocess.run(["ip", "link", "del", name], check=True)


def test_what_the_guest_printed_before_anyone_looked_is_kept(world: Any) -> None:
    domain = world.started()
    world.ready(domain.uuid)

    assert world.hypervisor.serial(domain.uuid).log.read_bytes() == b"ready\n"


def test_the_serial_console_talks_both_ways_and_to_one_client_after_the_other(world: Any) -> None:
    domain = world.started()
    world.ready(domain.uuid)

    for text in (b"hello", b"again"):
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(60)
            line.connect(os.fspath(world.hypervisor.serial(domain.uuid).socket))
            for letter in text:
                line.sendall(bytes([letter]))
                assert line.recv(1) == bytes([letter])

    world.printed(domain.uuid, b"ready\nhelloagain")


def test_the_screen_speaks_rfb(world: Any) -> None:
    domain = world.started(platform=Platform())

    with socket.socket(socket.AF_UNIX) as screen:
        screen.settimeout(60)
        screen.connect(os.fspath(world.hypervisor.vnc(domain.uuid)))
        assert screen.recv(12) == b"RFB 003.008\n"

    assert world.hypervisor.screenshot(domain.uuid)[:4] in (b"\x89PNG", b"P6\n7", b"P6\n6")


def test_consoles_of_a_halted_vm_are_refused(world: Any) -> None:
    domain = world.started()
    world.hypervisor.destroy(domain.uuid)

    for call in (world.hypervisor.vnc, world.hypervisor.serial):
        with pytest.raises(Failure) as caught:
            call(domain.uuid)
        assert caught.value.code == "VM_BAD_POWER_STATE"


def test_a_headless_vm_lacks_a_screen(world: Any) -> None:
    domain = world.started(platform=replace(BARE, vnc=False))

    with pytest.raises(Failure) as caught:
        world.hypervisor.vnc(domain.uuid)
    assert caught.value.code == "VM_LACKS_FEATURE"


def test_a_guest_that_switches_itself_off_has_shut_down(world: Any) -> None:
    domain = world.started()
    world.ready(domain.uuid)

    world.say(domain.uuid, b"q")

    assert world.wait_for(domain.uuid, EventKind.HALTED).reason is Reason.SHUTDOWN


def test_a_guest_that_resets_itself_goes_on_in_the_same_domain(world: Any) -> None:
    domain = world.started()
    world.ready(domain.uuid)

    world.say(domain.uuid, b"r")

    world.wait_for(domain.uuid, EventKind.REBOOTED)
    assert world.states()[domain.uuid] == "Running"


def test_a_guest_whose_reboot_is_left_to_others_halts_and_says_that_it_asked_for_one(world: Any) -> None:
    domain = world.started(on_reboot="destroy")
    world.ready(domain.uuid)

    world.say(domain.uuid, b"r")

    assert world.wait_for(domain.uuid, EventKind.HALTED).reason is Reason.REBOOTED


def test_a_guest_that_may_not_reboot_switches_itself_off_all_the_same(world: Any) -> None:
    domain = world.started(on_reboot="destroy")
    world.ready(domain.uuid)

    world.say(domain.uuid, b"q")

    assert world.wait_for(domain.uuid, EventKind.HALTED).reason is Reason.SHUTDOWN


def test_a_guest_that_crashes_has_crashed(world: Any) -> None:
    domain = world.started()
    world.ready(domain.uuid)

    world.say(domain.uuid, b"p")

    assert world.wait_for(domain.uuid, EventKind.HALTED).reason is Reason.CRASHED


def test_a_crashed_guest_can_be_kept_for_who_wants_to_look(world: Any) -> None:
    domain = world.started(on_crash="preserve")
    world.ready(domain.uuid)

    world.say(domain.uuid, b"p")

    world.wait_for(domain.uuid, EventKind.CRASHED)
    assert world.states()[domain.uuid] == "Paused"


def test_a_process_that_dies_is_noticed(world: Any, libvirtd: PrivateLibvirtd) -> None:
    domain = world.started()
    pid = int((libvirtd.directory / "run" / "qemu" / f"{domain.uuid}.pid").read_text())

    os.kill(pid, signal.SIGKILL)

    assert world.wait_for(domain.uuid, EventKind.HALTED).reason in (Reason.CRASHED, Reason.FAILED)


def test_more_memory_than_there_is_is_refused_with_both_figures(world: Any) -> None:
    domain = world.domain(memory_static_max=1 << 47, memory_target=1 << 47)

    with pytest.raises(Failure) as caught:
        world.hypervisor.start(domain)

    assert caught.value.code == "HOST_NOT_ENOUGH_FREE_MEMORY"
    assert caught.value.params[0] == str(1 << 47)
    assert 0 < int(caught.value.params[1]) < 1 << 47
    assert domain.uuid not in world.states()


def test_a_missing_disk_fails_the_start_and_leaves_nothing(world: Any, tmp_path: Path) -> None:
    domain = world.domain(disks=(Disk(0, tmp_path / "absent"),))

    with pytest.raises(Failure) as caught:
        world.hypervisor.start(domain)

    assert caught.value.code == "INTERNAL_ERROR"
    assert "absent" in caught.value.params[0]
    assert domain.uuid not in world.states()


def test_an_interface_is_plugged_and_unplugged(world: Any, bridge: str) -> None:
    domain = world.started(interfaces=(Interface(0, "52:54:00:00:00:01", bridge=bridge),))
    world.ready(domain.uuid)

    world.hypervisor.plug_interface(domain.uuid, Interface(1, "52:54:00:00:00:02", bridge=bridge))
    world.hypervisor.set_carrier(domain.uuid, 1, False)
    assert 'link state="down"' in virsh_view(world, domain.uuid).replace("'", '"')
    world.hypervisor.set_carrier(domain.uuid, 1, True)
    world.hypervisor.unplug_interface(domain.uuid, 1)

    assert world.wait_for(domain.uuid, EventKind.DEVICE_REMOVED).device == DeviceId("interface", 1)
    assert "52:54:00:00:00:02" not in virsh_view(world, domain.uuid)


def test_a_tap_of_the_callers_is_used_and_left(world: Any) -> None:
    tap = f"kht{os.getpid() % 100000}"
    subprocess.run(["ip", "tuntap", "add", tap, "mode", "tap"], check=True)
    try:
        domain = world.started(interfaces=(Interface(0, "52:54:00:00:00:01", tap=tap),))
        world.hypervisor.destroy(domain.uuid)
        assert Path("/sys/class/net", tap).exists()
    finally:
        subprocess.run(["ip", "link", "del", tap], check=True)


def test_a_guest_that_does_not_let_go_times_out_and_keeps_the_disk(world: Any, tmp_path: Path) -> None:
    domain = world.started(disks=(Disk(1, image(tmp_path / "d"), format="qcow2"),))
    world.ready(domain.uuid)
    world.hypervisor.pause(domain.uuid)

    began = time.monotonic()
    with pytest.raises(Failure) as caught:
        world.hypervisor.unplug_disk(domain.uuid, 1, timeout=0.3)
    assert caught.value.code == "DEVICE_DETACH_TIMEOUT"
    assert time.monotonic() - began < 20
    world.hypervisor.unpause(domain.uuid)

    assert world.wait_for(domain.uuid, EventKind.DEVICE_REMOVED).device == DeviceId("disk", 1)


def test_sixteen_disks_can_be_plugged(world: Any, tmp_path: Path) -> None:
    domain = world.started()
    files = [image(tmp_path / f"d{number}") for number in range(1, 17)]

    for number, file in enumerate(files, start=1):
        world.hypervisor.plug_disk(domain.uuid, Disk(number, file, format="qcow2"))

    assert virsh_view(world, domain.uuid).count("ua-disk-") == 16


def test_a_live_snapshot_leaves_the_old_file_alone(world: Any, tmp_path: Path) -> None:
    base, other = image(tmp_path / "base"), image(tmp_path / "other")
    overlay = image(tmp_path / "overlay", "-b", os.fspath(base), "-F", "qcow2")
    domain = world.started(disks=(Disk(0, base, format="qcow2"), Disk(1, other, format="qcow2")))

    world.hypervisor.snapshot_disk(domain.uuid, 0, overlay)

    view = virsh_view(world, domain.uuid)
    assert f"<source file='{overlay}' index=" in view
    assert f"<source file='{other}' index=" in view
    held = subprocess.run(["qemu-img", "info", base], capture_output=True, text=True, check=False)
    assert held.returncode == 0, held.stderr


def test_a_snapshot_of_a_disk_that_is_not_there_is_refused(world: Any, tmp_path: Path) -> None:
    domain = world.started()

    with pytest.raises(Failure) as caught:
        world.hypervisor.snapshot_disk(domain.uuid, 5, tmp_path / "o")
    assert caught.value.code == "DEVICE_ALREADY_DETACHED"


def test_a_live_disk_grows_and_is_limited(world: Any, tmp_path: Path) -> None:
    disk = image(tmp_path / "d")
    domain = world.started(disks=(Disk(0, disk, format="qcow2"),))

    world.hypervisor.resize_disk(domain.uuid, 0, 32 * MIB)
    world.hypervisor.limit_disk(domain.uuid, 0, Limits(10 * MIB, 100))

    info = subprocess.run(["qemu-img", "info", "-U", disk], capture_output=True, text=True, check=True).stdout
    assert f"({32 * MIB} bytes)" in info
    assert f"<total_bytes_sec>{10 * MIB}</total_bytes_sec>" in virsh_view(world, domain.uuid)


def test_a_resumed_guest_goes_on_where_it_was_with_its_disk_elsewhere(world: Any, tmp_path: Path) -> None:
    old = image(tmp_path / "old")
    domain = world.started(name="before", disks=(Disk(0, old, format="qcow2"), Disk(3, None, cdrom=True)))
    world.ready(domain.uuid)
    plugged = image(tmp_path / "plugged")
    world.hypervisor.plug_disk(domain.uuid, Disk(7, plugged, format="qcow2"))
    world.hypervisor.suspend(domain.uuid, tmp_path / "memory")
    new = old.rename(tmp_path / "new")

    moved = replace(
        domain,
        name="after",
        disks=(Disk(0, new, format="qcow2"), Disk(3, None, cdrom=True), Disk(7, plugged, format="qcow2")),
    )
    world.hypervisor.resume(moved, tmp_path / "memory")

    assert os.fspath(new) in virsh_view(world, domain.uuid)
    assert "<title>after</title>" in virsh_view(world, domain.uuid)
    # The guest printed "ready" once, in its first life; now it answers without having booted again.
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(60)
        line.connect(os.fspath(world.hypervisor.serial(domain.uuid).socket))
        line.sendall(b"x")
        assert line.recv(1) == b"x"
    assert b"ready" not in world.log(domain.uuid)


def test_a_suspended_image_cannot_bring_a_disk_of_its_own(world: Any, tmp_path: Path) -> None:
    domain = world.started(disks=(Disk(0, image(tmp_path / "mine"), format="qcow2"),))
    world.hypervisor.suspend(domain.uuid, tmp_path / "memory")

    with pytest.raises(Failure) as caught:
        world.hypervisor.resume(replace(domain, disks=()), tmp_path / "memory")

    assert caught.value.code == "VM_CHECKPOINT_RESUME_FAILED"
    assert domain.uuid not in world.states()


def test_memory_and_cpus_of_a_live_vm_change(world: Any) -> None:
    domain = world.started(memory_static_max=32 * MIB, memory_target=32 * MIB, vcpus_max=2)

    world.hypervisor.set_memory_target(domain.uuid, 24 * MIB)
    world.hypervisor.set_vcpus(domain.uuid, 2)

    assert "<vcpu placement='static'>2</vcpu>" in virsh_view(world, domain.uuid)


def test_a_running_vm_is_renamed_for_those_who_look_with_virsh(world: Any) -> None:
    domain = world.started(name="before")

    world.hypervisor.rename(domain.uuid, "after\nall")

    assert "<title>after all</title>" in virsh_view(world, domain.uuid)


def test_a_guest_without_an_agent_is_told_as_such(world: Any) -> None:
    domain = world.started()

    with pytest.raises(Failure) as caught:
        world.hypervisor.guest_info(domain.uuid)
    assert caught.value.code == "VM_MISSING_PV_DRIVERS"


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_firmware_starts_from_disk_cd_and_network(
    world: Any, bridge: str, tmp_path: Path, machine: Any
) -> None:
    disks = (
        Disk(0, image(tmp_path / "d"), format="qcow2", bootable=True),
        Disk(1, image(tmp_path / "e"), format="qcow2", bus="sata"),
        Disk(2, image(tmp_path / "f"), format="qcow2", bus="scsi"),
        Disk(3, None, cdrom=True),
    )
    nics = (Interface(0, "52:54:00:00:00:01", bridge=bridge, model="e1000"),)
    domain = world.started(
        boot=Firmware(order="dcn"),
        disks=disks,
        interfaces=nics,
        platform=Platform(machine=machine, hpet=True),
    )

    assert world.states()[domain.uuid] == "Running"


@pytest.mark.skipif(
    not Path("/usr/share/qemu/firmware/60-edk2-x86_64.json").exists(), reason="no UEFI firmware"
)
@pytest.mark.parametrize("secure", [False, True])
def test_uefi_keeps_its_variables_in_the_file_given(world: Any, tmp_path: Path, secure: bool) -> None:
    boot = Firmware("uefi", secure_boot=secure, nvram=tmp_path / "nvram")
    domain = world.started(boot=boot, memory_static_max=128 * MIB, memory_target=128 * MIB)
    world.hypervisor.destroy(domain.uuid)

    assert (tmp_path / "nvram").stat().st_size > 0


def test_a_vm_with_every_option_starts(world: Any) -> None:
    every = Platform(
        acpi=True,
        viridian=True,
        hpet=True,
        nested=True,
        nx=False,
        vga="cirrus",
        videoram=16,
        usb_tablet=False,
    )
    domain = world.started(platform=every, vcpus_max=4, cores_per_socket=2, mask=(0, 1), clock_offset=-3600)

    assert world.states()[domain.uuid] == "Running"


def test_guests_outlive_libvirtd_and_are_found_again(world: Any, libvirtd: PrivateLibvirtd) -> None:
    domain, doomed = world.started(), world.started()
    world.ready(domain.uuid)
    pid = libvirtd.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    doomed_pid = int((libvirtd.directory / "run" / "qemu" / f"{doomed.uuid}.pid").read_text())
    os.kill(doomed_pid, signal.SIGKILL)
    wait_until(lambda: libvirtd.pid() != pid, 60, "libvirtd cannot be killed")

    libvirtd.start(90)

    # A call made meanwhile waits for the connection, and nothing but the connection's own thread restores it.
    assert world.states() == {domain.uuid: "Running"}
    assert world.wait_for(doomed.uuid, EventKind.HALTED).reason in (
        Reason.UNKNOWN,
        Reason.FAILED,
        Reason.CRASHED,
    )
    world.hypervisor.pause(domain.uuid)
    world.wait_for(domain.uuid, EventKind.PAUSED)
    assert world.kinds(domain.uuid).count(EventKind.STARTED) == 1


def test_without_libvirtd_calls_fail_in_time(libvirtd: PrivateLibvirtd, tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        QEMU(f"qemu:///system?socket={tmp_path}/nothing", libvirtd.directory / "vm")
    assert caught.value.code == "INTERNAL_ERROR"


def test_a_long_suspend_does_not_hold_up_other_vms(world: Any, tmp_path: Path) -> None:
    saved, other = world.started(), world.started()
    os.mkfifo(tmp_path / "slow")
    reader = os.open(tmp_path / "slow", os.O_RDONLY | os.O_NONBLOCK)
    thread = threading.Thread(target=_quietly, args=(world.hypervisor.suspend, saved.uuid, tmp_path / "slow"))
    thread.start()
    time.sleep(0.5)
    assert thread.is_alive()  # nobody reads, so it waits
    try:
        began = time.monotonic()
        world.hypervisor.pause(other.uuid)
        assert len(world.hypervisor.statuses()) == 2
        assert time.monotonic() - began < 20
    finally:
        while thread.is_alive():
            try:
                os.read(reader, 1 << 20)
            except BlockingIOError:
                time.sleep(0.01)
        os.close(reader)


def _quietly(call: Any, *args: Any) -> None:
    try:
        call(*args)
    except Failure:
        pass


def test_the_trial_guest_runs_under_emulation() -> None:
    assert try_guest("tcg") is None


def test_a_second_libvirtd_on_the_same_directory_is_the_first(libvirtd: PrivateLibvirtd) -> None:
    again = PrivateLibvirtd(libvirtd.directory)

    assert again.start() == libvirtd.uri
    assert again.pid() == libvirtd.pid()


def test_an_ended_libvirtd_takes_its_guests_with_it(kernel: Path, tmp_path: Path) -> None:
    directory = Path(tempfile.mkdtemp(prefix="kh-", dir="/tmp"))
    daemon = PrivateLibvirtd(directory)
    hypervisor = QEMU(daemon.start(90), directory / "vm")
    try:
        uuid = "11111111-2222-4333-8444-555555555555"
        hypervisor.start(Domain(uuid, "x", 16 * MIB, 16 * MIB, DirectKernel(kernel), platform=BARE))
        assert len(daemon.guests()) == 1
    finally:
        hypervisor.close()
        daemon.stop()

    assert daemon.pid() is None
    assert daemon.guests() == []
    shutil.rmtree(directory)


def test_the_systems_libvirt_is_found_by_its_socket(tmp_path: Path) -> None:
    assert system_uri([tmp_path / "absent"]) is None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "sock"))
        assert system_uri([tmp_path / "absent", tmp_path / "sock"]) == "qemu:///system"
