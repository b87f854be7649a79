"""The tiny guest, booted by QEMU without libvirt. `-s` shows what was measured."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kronos.boot.tiny_guest import MEMORY, TinyGuest

pytestmark = pytest.mark.integration

Boot = Callable[..., Any]
USER_NETWORK = ("-netdev", "user,id=n0")
VIRTIO_NIC = (*USER_NETWORK, "-device", "virtio-net-pci,netdev=n0")


def test_its_image_is_less_than_16_megabytes(tiny: TinyGuest) -> None:
    print(f"\nkernel {tiny.kernel.stat().st_size}, RAM disk {tiny.ramdisk.stat().st_size} bytes")
    assert tiny.size < 16_000_000


def test_it_says_its_name_and_logs_root_in_on_serial_and_screen(boot: Boot) -> None:
    guest = boot(cmdline="hostname=guest7")
    guest.expect("Kronos tiny guest")
    guest.expect("guest7 login: ")
    print(f"\nlogin prompt after {time.monotonic() - guest.started:.1f} s with {MEMORY >> 20} MiB")
    guest.serial.sendall(b"root\n")
    guest.expect("root@guest7:")
    assert guest.shell("whoami; id -u").split() == ["root", "0"]
    assert "guest7 login:" in guest.until("cat /dev/vcs1", "login:")
    assert "oom" not in guest.shell("dmesg").lower()


def test_its_screen_is_not_blank(boot: Boot, tmp_path: Path) -> None:
    guest = boot()
    guest.log_in()
    guest.until("cat /dev/vcs1", "login:")
    guest.monitor("screendump", filename=str(tmp_path / "screen"))
    header, _, pixels = (tmp_path / "screen").read_bytes().partition(b"\n255\n")
    assert header == b"P6\n720 400"
    lit = sum(1 for byte in pixels if byte)
    assert 1000 < lit < len(pixels) / 2


def test_typing_on_the_screens_keyboard_logs_in(boot: Boot) -> None:
    guest = boot()
    guest.log_in()
    guest.until("cat /dev/vcs1", "login:")
    for key in ("r", "o", "o", "t", "ret"):
        guest.monitor("send-key", keys=[{"type": "qcode", "data": key}])
    guest.until("cat /dev/vcs1", r"root@tiny:")


@pytest.mark.parametrize("model", ["virtio-net-pci", "e1000"])
def test_it_asks_dhcp_for_an_address(boot: Boot, model: str) -> None:
    guest = boot(*USER_NETWORK, "-device", f"{model},netdev=n0")
    guest.log_in()
    guest.until("ip -4 addr show eth0", r"inet 10\.0\.2\.15/24")
    assert "default via 10.0.2.2" in guest.shell("ip route")
    assert "nameserver 10.0.2.3" in guest.shell("cat /etc/resolv.conf")
    assert " 0% packet loss" in guest.shell("ping -c 1 -W 5 10.0.2.2")


def test_an_interface_plugged_in_gets_an_address_and_may_go_and_come_back(boot: Boot) -> None:
    guest = boot("-device", "pcie-root-port,id=rp1,chassis=1", *USER_NETWORK)
    guest.log_in()
    for _ in range(2):
        guest.monitor("device_add", driver="virtio-net-pci", id="nic", bus="rp1", netdev="n0")
        guest.until("ip -4 addr show eth0", r"inet 10\.0\.2\.15/24")
        guest.monitor("device_del", id="nic")
        guest.wait_for_event("DEVICE_DELETED")
        guest.until("ls /sys/class/net; ps", r"\A(?!(?s:.*)(eth0|udhcpc -f))")


def test_a_disk_keeps_what_is_written_to_it(boot: Boot, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    os.truncate(disk, 64 << 20)
    guest = boot("-drive", f"file={disk},format=raw,if=virtio")
    guest.log_in()
    guest.shell("mke2fs /dev/vda && mount /dev/vda /mnt && echo kept >/mnt/file")
    assert " ext4 " in guest.shell("mount")
    guest.serial.sendall(b"poweroff\n")
    guest.wait_for_event("SHUTDOWN")
    # Unmounted cleanly, or the words would still be in the guest's memory.
    assert b"kept\n" in disk.read_bytes()


def test_the_power_button_powers_it_off(boot: Boot) -> None:
    guest = boot()
    guest.log_in()
    pressed = time.monotonic()
    guest.monitor("system_powerdown")
    assert guest.wait_for_event("SHUTDOWN")["data"]["guest"] is True
    print(f"\noff {time.monotonic() - pressed:.1f} s after the button")
    assert guest.process.wait(timeout=30) == 0


def test_it_reboots_to_its_prompt_with_the_last_runs_data_in_memory(boot: Boot) -> None:
    guest = boot()
    guest.log_in()
    guest.serial.sendall(b"reboot\n")
    assert guest.wait_for_event("RESET")["data"]["reason"] == "guest-reset"
    guest.log_in()


class TestGuestAgent:
    def test_it_is_in_step_after_a_sync(self, boot: Boot) -> None:
        guest = boot()
        guest.expect("login: ")
        # What a host sends when it does not know what came before: a mark, garbage in front of it.
        guest.agent.sendall(b'{"execute": "guest-p\xff')
        assert guest.ask_agent("guest-sync-delimited", id=1234567) == {"return": 1234567}
        assert guest.ask_agent("guest-sync", id=-5) == {"return": -5}
        assert guest.ask_agent("guest-ping") == {"return": {}}

    def test_it_tells_of_the_guest(self, boot: Boot) -> None:
        guest = boot(*VIRTIO_NIC, cmdline="hostname=guest7")
        guest.log_in()
        guest.until("ip -4 addr show eth0", "10.0.2.15")
        assert guest.ask_agent("guest-get-host-name") == {"return": {"host-name": "guest7"}}
        system = guest.ask_agent("guest-get-osinfo")["return"]
        assert system["pretty-name"].startswith("Kronos tiny guest")
        assert system["kernel-release"] == guest.shell("uname -r").strip()
        interfaces = {
            each["name"]: each for each in guest.ask_agent("guest-network-get-interfaces")["return"]
        }
        assert interfaces["eth0"]["hardware-address"] == "52:54:00:12:34:56"
        address = {"ip-address": "10.0.2.15", "ip-address-type": "ipv4", "prefix": 24}
        assert address in interfaces["eth0"]["ip-addresses"]
        assert abs(guest.ask_agent("guest-get-time")["return"] / 1e9 - time.time()) < 60

    def test_it_serves_every_command_that_it_names_and_no_other(self, boot: Boot) -> None:
        guest = boot()
        guest.expect("login: ")
        info = guest.ask_agent("guest-info")["return"]
        for command in info["supported_commands"]:
            if command["success-response"] and "sync" not in command["name"]:
                assert "return" in guest.ask_agent(command["name"]), command
        assert guest.ask_agent("guest-exec")["error"]["class"] == "CommandNotFound"
        assert guest.ask_agent("guest-shutdown", mode="sideways")["error"]["class"] == "GenericError"
        guest.agent.sendall(b"{}\n")
        assert b"execute" in guest.agent.recv(4096)

    @pytest.mark.parametrize(
        ("mode", "event"),
        [({}, "SHUTDOWN"), ({"mode": "powerdown"}, "SHUTDOWN"), ({"mode": "reboot"}, "RESET")],
    )
    def test_it_shuts_the_guest_down(self, boot: Boot, mode: dict[str, str], event: str) -> None:
        guest = boot()
        guest.expect("login: ")
        guest.ask_agent("guest-ping")
        guest.tell_agent("guest-shutdown", **mode)
        assert guest.wait_for_event(event)["data"]["guest"] is True

    def test_it_outlives_a_host_that_hangs_up(self, boot: Boot) -> None:
        guest = boot()
        guest.expect("login: ")
        guest.ask_agent("guest-ping")
        guest.redial_agent()
        assert guest.ask_agent("guest-sync", id=7) == {"return": 7}


def test_the_balloon_gives_memory_back(boot: Boot) -> None:
    guest = boot("-device", "virtio-balloon-pci,id=balloon", memory=128 << 20)
    guest.log_in()

    def free() -> int:
        return int(re.search(r"MemAvailable: +(\d+)", guest.shell("cat /proc/meminfo")).group(1))  # type: ignore[union-attr]

    before = free()
    guest.monitor("balloon", value=104 << 20)
    deadline = time.monotonic() + 90
    while guest.monitor("query-balloon")["actual"] != 104 << 20:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert free() < before - (16 << 10)
