"""Which hypervisor this host has: Xen if this system is its control domain, KVM if that really runs a guest,
else QEMU's emulation.

The one place that decides it: the daemon, the host's record and `xapi --check` all ask here.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kronos.hypervisor.probe import EMULATOR, try_guest
from kronos.system.files import write_whole

log = logging.getLogger(__name__)

Type = Literal["XEN", "KVM", "QEMU"]
CACHE = Path("/var/lib/kronos/hypervisor.json")
SLOW = "Virtual machines run on emulated CPUs, many times slower than the host's."


@dataclass(frozen=True)
class Detected:
    """What was found, why, and what the administrator should know (None: all is well)."""

    type: Type
    reason: str
    warning: str | None = None
    version: str = ""
    """Of Xen, as it tells itself: 4.17.6-pre."""
    capabilities: tuple[str, ...] = ()
    """The kinds of guests that Xen can run here: xen-3.0-x86_64 (PV), hvm-3.0-x86_64 (HVM and PVH)."""


def detect(
    cache: Path = CACHE, *, root: Path = Path("/"), probe: Callable[[str], str | None] = try_guest
) -> Detected:
    """Find out. The trial guest that tells for KVM takes up to 5 s, so its outcome is kept in `cache`: for
    good as long as kernel, QEMU and CPU stay the same if it ran, until the next boot of the host if it did
    not."""
    xen, role = _xen_role(root)
    if xen:
        return Detected("XEN", role, None, xen_version(root), xen_capabilities(root))
    kvm = root / "dev/kvm"
    if not kvm.exists():
        return _emulated(f"KVM is not available: there is no /dev/kvm.{role}")
    if not os.access(kvm, os.R_OK | os.W_OK):
        return _emulated(f"KVM is not available: /dev/kvm cannot be opened.{role}")
    trouble = _remembered(cache, _key(root), _text(root / "proc/sys/kernel/random/boot_id"), probe)
    if trouble is None:
        return Detected("KVM", f"KVM ran a trial guest.{role}")
    return _emulated(f"KVM is not usable: {trouble}.{role}")


def _emulated(why: str) -> Detected:
    return Detected("QEMU", why, f"{why} {SLOW}")


# --- Xen ---------------------------------------------------------------------------------------------------

GUEST_OF_XEN = " This system is itself a guest of Xen, not its control domain."
_DOM0 = 1 << 11
"""XENFEAT_dom0: the bit of properties/features that only the control domain has."""


def _xen_role(root: Path) -> tuple[bool, str]:
    """Whether this system controls a Xen, and the proof, or else what is to be known of its Xen.

    Guests of Xen see /sys/hypervisor/type too, whether PV, PVH or HVM: it takes more to tell the control domain.
    """
    if _text(root / "sys/hypervisor/type") != "xen":
        return False, ""
    if "control_d" in _text(root / "proc/xen/capabilities"):
        return True, "This system is Xen's control domain: /proc/xen/capabilities says control_d."
    # xenfs may not be mounted, or not yet: what the hypervisor says to the kernel is there anyway.
    try:
        features = int(_text(root / "sys/hypervisor/properties/features"), 16)
    except ValueError:
        return False, GUEST_OF_XEN
    if features & _DOM0:
        return True, "This system is Xen's control domain: /sys/hypervisor/properties/features says so."
    return False, GUEST_OF_XEN


def xen_version(root: Path = Path("/")) -> str:
    """Xen's version as it tells the kernel, such as 4.17.6-pre; empty without Xen."""
    there = root / "sys/hypervisor/version"
    numbers = [number for name in ("major", "minor") if (number := _text(there / name))]
    return ".".join(numbers) + _text(there / "extra") if numbers else ""


def xen_capabilities(root: Path = Path("/")) -> tuple[str, ...]:
    """The kinds of guests that this Xen runs on these CPUs, in its own words; none without Xen."""
    return tuple(_text(root / "sys/hypervisor/properties/capabilities").split())


# --- KVM ---------------------------------------------------------------------------------------------------


def _remembered(cache: Path, key: list[str], boot: str, probe: Callable[[str], str | None]) -> str | None:
    try:
        known = json.loads(cache.read_text())
        if known["key"] == key and (known["trouble"] is None or known["boot"] == boot):
            return None if known["trouble"] is None else str(known["trouble"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    trouble = probe("kvm")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_whole(cache, json.dumps({"key": key, "boot": boot, "trouble": trouble}).encode())
    except OSError as error:
        log.warning("the outcome of the trial guest cannot be kept: %s", error)
    return trouble


def _key(root: Path) -> list[str]:
    """What the outcome depends on."""
    return [platform.release(), _emulator_version(), _cpu_model(_text(root / "proc/cpuinfo"))]


def _emulator_version() -> str:
    # The file's identity, because asking QEMU for its version takes longer than the rest of the detection.
    path = shutil.which(EMULATOR)
    if path is None:
        return ""
    found = Path(path).stat()
    return f"{path} {found.st_size} {found.st_mtime_ns}"


def _cpu_model(cpuinfo: str) -> str:
    # The flags too: a nested host's virtualisation is switched on and off without a change of the name.
    wanted = ("model name", "flags", "microcode")
    first = cpuinfo.partition("\n\n")[0].splitlines()
    return "\n".join(line for line in first if line.partition("\t")[0].strip() in wanted)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
