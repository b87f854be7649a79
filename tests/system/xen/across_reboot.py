"""A suspended guest outlives its host's reboot. Run in a control domain as a program, `before` and `after` the reboot.

What is kept lies in a place that a start of the system does not clean.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from harness import guests
from harness.client import Client
from harness.console import Shell
from harness.daemon import Daemon, wait_until
from harness.guests import Images
from harness.xen.control_domain import ControlDomain

PLACE = Path("/var/lib/kronos-tests/reboot")
MARK = Path("/var/lib/kronos-tests/reboot.mark")


class Lasting(ControlDomain):
    """A control domain whose daemon keeps its files."""

    def __init__(self) -> None:
        super().__init__()
        self.directory.rmdir()
        self.directory = PLACE


def shell(running: Daemon, client: Client, vm: str) -> Shell:
    return Shell(running, client.session, vm).log_in(180)


def before() -> None:
    shutil.rmtree(PLACE, ignore_errors=True)
    running = Daemon(Lasting(), Images()).start()
    client = running.client(timeout=180)
    vm = guests.tiny_vm(client, "kept", start=True)
    log = running.directory / "run" / client("VM.get_uuid", vm) / "serial.log"
    wait_until(lambda: "tiny login:" in log.read_text(errors="replace"), 180, "no prompt")
    line = shell(running, client, vm)
    line.run("echo kept > /tmp/kept")
    boot = line.run("cat /proc/sys/kernel/random/boot_id")
    line.close()
    client("VM.suspend", vm)
    MARK.write_text(f"{vm} {boot}")
    running.stop()
    subprocess.run(["sync"], check=True, timeout=60)


def after() -> None:
    vm, boot = MARK.read_text().split()
    start = time.monotonic()
    running = Daemon(Lasting(), Images()).start()
    client = running.client(timeout=180)
    assert client("VM.get_power_state", vm) == "Suspended"
    client("VM.resume", vm, False, False)
    line = shell(running, client, vm)
    assert line.run("cat /tmp/kept") == "kept"
    assert line.run("cat /proc/sys/kernel/random/boot_id") == boot
    line.close()
    client("VM.hard_shutdown", vm)
    print(
        f"resumed after the reboot of its host, and went on where it was ({time.monotonic() - start:.0f} s)"
    )
    running.close()
    running.host.close()


if __name__ == "__main__":
    {"before": before, "after": after}[sys.argv[1]]()
