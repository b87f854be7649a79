"""Which tests run inside a real Xen's control domain, in which order, and how to run them there."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness import debian_installer
from harness.xen.image import image
from harness.xen.machine import SOURCE, Broken, Machine, Pair

NEEDED = 4 << 30
"""Bytes of free memory that a machine with guests takes."""

SMOKE_LIMIT, LIMIT = 600, 3600
"""Seconds after which a suite counts as hanging; the smoke run takes two minutes on idle cores."""


@dataclass(frozen=True)
class Suite:
    """Tests for guests of one kind, in pytest's words."""

    kind: str
    tests: tuple[str, ...]
    only: str = ""

    @property
    def name(self) -> str:
        return f"{self.kind}: {' '.join(Path(test).name for test in self.tests)}" + (
            f" ({self.only})" if self.only else ""
        )


SMOKE = Suite(
    "pv",
    ("tests/system/test_guest.py",),
    "address or agent_tells or disk_comes or suspended or virsh_shows or shut_down_cleanly",
)
_EVERYWHERE = (
    "tests/integration/hypervisor/test_conformance.py",
    "tests/system/test_guest.py",
    "tests/system/test_consoles.py",
    "tests/system/test_storage_and_network.py",
)
"""These prove KVM's guests too, and run here as they are."""

_GUESTS_OF_LOADERS = ("tests/system/test_installing.py", "tests/system/test_guest_channel.py")
_DEBIANS_INSTALLER = "tests/system/test_debian_installer.py"

FULL = (
    Suite("pv", _EVERYWHERE),
    Suite("pvh", _EVERYWHERE),
    Suite("pv", ("tests/integration/boot/test_guest_disk.py",), "ext4-none or backing_file"),
    Suite("pv", _GUESTS_OF_LOADERS[:1], "its_own_disk or stays_off or suspended or killed_in"),
    Suite("pv", (_GUESTS_OF_LOADERS[1], "tests/system/test_system_vm.py"), "not hostile"),
    Suite("pvh", _GUESTS_OF_LOADERS, "boots_from_its_own_disk or at_its_boot"),
    Suite("pv", (_DEBIANS_INSTALLER,)),
    Suite("pvh", ("tests/system/xen/test_live_disks.py",)),
    Suite("pv", ("tests/system/xen",)),
)


def missing() -> str:
    """Why this machine can run no Xen, in words; nothing where it can."""
    for program in ("qemu-system-x86_64", "mmdebstrap", "zstd", "ssh", "mkfs.ext4"):
        if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            return f"{program} is not installed"
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    if free < NEEDED:
        return f"it has {free >> 20} MiB of free memory, and {NEEDED >> 20} are needed"
    return ""


def bring(machine: Machine, tests: Sequence[str]) -> None:
    """Put what tests need, and a control domain cannot fetch, into one. Raises Broken, NotToBeHad."""
    if not any(Path(_DEBIANS_INSTALLER).name in test for test in tests):
        return
    found, place = debian_installer.debian_installer(), debian_installer.PLACE
    for name in debian_installer.FILES:
        part = f"{place}/{name}.part"
        put = f"mkdir -p {place}; test -e {place}/{name} || {{ cat >{part} && mv {part} {place}/{name}; }}"
        machine.run(put, timeout=180, input=(found / name).read_bytes())


def run(machine: Machine, suite: Suite, *, limit: float = LIMIT) -> bool:
    """Run a suite in a machine's control domain, its output on ours; whether all of it passed."""
    try:
        bring(machine, suite.tests)
    except (Broken, debian_installer.NotToBeHad) as why:
        print(f"{suite.name} has not what it needs: {why}", file=sys.stderr)
        return False
    words = ["-m", "pytest", "-p", "no:cacheprovider", "-ra", "--durations=5", *suite.tests]
    if suite.only:
        words += ["-k", suite.only]
    command = f"cd {SOURCE} && KRONOS_TEST_KIND={suite.kind} kronos-python {shlex.join(words)}"
    try:
        done = subprocess.run([*machine.ssh(), command], stdin=subprocess.DEVNULL, timeout=limit)
    except subprocess.TimeoutExpired:
        print(machine.broken(f"{suite.name} did not end within {limit:.0f} s"), file=sys.stderr)
        return False
    if done.returncode != 0:
        print(machine.broken(f"{suite.name} ended with {done.returncode}"), file=sys.stderr)
    return done.returncode == 0


def across_reboot(machine: Machine) -> bool:
    """Suspend a guest, reboot its host, resume it; whether it went on where it was."""
    program = f"cd {SOURCE} && PYTHONPATH=tests kronos-python tests/system/xen/across_reboot.py"
    try:
        machine.run(f"{program} before", timeout=600)
        machine.reboot()
        print(machine.run(f"{program} after", timeout=600), file=sys.stderr)
    except Broken as broken:
        print(broken, file=sys.stderr)
        return False
    return True


def across_hosts(say: Callable[[str], None]) -> bool:
    """Move guests to a second host, with what their disks were changed to meanwhile; whether nothing was lost."""
    program = f"cd {SOURCE} && PYTHONPATH=tests kronos-python tests/system/xen/across_hosts.py"
    with tempfile.TemporaryDirectory(prefix="kxen-") as directory:
        pair = Pair(Path(directory))
        small = {"processors": 1, "memory": 2048, "control_domain_memory": 1024}
        made = image(progress=say)
        here, there = machines = tuple(Machine(made, number=n, pair=pair, **small) for n in (1, 2))
        try:
            with ThreadPoolExecutor(2) as both:
                list(both.map(lambda machine: machine.start().install(packages=False), machines))
            there.run(f"({program} there) >/tmp/there.log 2>&1 </dev/null &")
            print(here.run(f"{program} here", timeout=LIMIT / 4), file=sys.stderr)
        except Broken as broken:
            print(broken, file=sys.stderr)
            if there.runs:
                print(there.run("cat /tmp/there.log || true"), file=sys.stderr)
            return False
        finally:
            for machine in machines:
                machine.close()
    return True


def run_all(
    suites: tuple[Suite, ...], say: Callable[[str], None], *, limit: float = LIMIT, reboot: bool = False
) -> bool:
    """Start a machine, run suites in it one after the other, and say how long each took; whether all passed. `reboot`:
    what only a reboot of the host and a second host show, at the end."""
    began = time.monotonic()
    machine = Machine(image(progress=say))
    times, passed = [], True
    try:
        machine.start()
        machine.install()
        times.append(("a Xen host with this checkout in it", time.monotonic() - began, "up"))
        for suite in suites:
            say(f"--- {suite.name}")
            start = time.monotonic()
            fine = run(machine, suite, limit=limit)
            times.append((suite.name, time.monotonic() - start, "passed" if fine else "FAILED"))
            passed = passed and fine
        machine.keep_guests()
        if reboot:
            start = time.monotonic()
            fine = across_reboot(machine)
            times.append(
                (
                    "a suspended guest across a reboot",
                    time.monotonic() - start,
                    "passed" if fine else "FAILED",
                )
            )
            passed = passed and fine
    finally:
        machine.close()
    if reboot:
        start = time.monotonic()
        fine = across_hosts(say)
        verdict = "passed" if fine else "FAILED"
        times.append(("guests that move between two hosts", time.monotonic() - start, verdict))
        passed = passed and fine
    for name, seconds, verdict in times:
        say(f"{seconds:7.1f} s  {verdict:6}  {name}")
    return passed
