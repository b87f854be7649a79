"""A system VM on a Xen host whose paravirtual guests are switched off: an emulated PC that starts from its disk."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness import guests
from harness.daemon import Daemon, wait_until
from harness.xen.guest import xl

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

BOOT = 240.0
SCREEN = 0xB8000
"""Where an emulated PC has the text of its screen: a letter and its colour, 80 times 25."""


def screen(domid: str) -> str:
    """The text on a guest's screen."""
    dump = xl("qemu-monitor-command", domid, f"xp /4000xb {SCREEN:#x}")
    found = bytes(int(word, 16) for line in dump.splitlines() for word in line.partition(":")[2].split())
    return found[::2].decode("latin-1")


def test_where_the_setting_says_so_a_system_vm_is_an_emulated_pc_that_grub_starts(
    new_daemon: Callable[..., Daemon],
) -> None:
    daemon = new_daemon(system_vm_mode="hvm")
    client = daemon.client(timeout=120)
    (template,) = client("VM.get_by_name_label", "Kronos system VM")
    vm = guests.clone_and_provision(client, template, "emulated")
    client("VM.start", vm, False, False)
    assert client("VM.get_domain_type", vm) == "hvm"
    domid = str(client("VM.get_domid", vm))
    wait_until(
        lambda: "GRUB" in screen(domid), BOOT, lambda: f"its screen shows {screen(domid)!r}", pause=0.5
    )
    client("VM.hard_shutdown", vm)
    client.close()
