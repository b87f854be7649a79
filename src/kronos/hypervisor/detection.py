"""Which hypervisor this host has: Xen if it runs on it, KVM if that really runs a guest, else QEMU's
emulation."""

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


def detect(
    cache: Path = CACHE, *, root: Path = Path("/"), probe: Callable[[str], str | None] = try_guest
) -> Detected:
    """Find out. The trial guest that tells for KVM takes up to 5 s, so its outcome is kept in `cache`: for
    good as long as kernel, QEMU and CPU stay the same if it ran, until the next boot of the host if it did
    not."""
    if _text(root / "sys/hypervisor/type") == "xen":
        return Detected("XEN", "This host runs on Xen.")
    kvm = root / "dev/kvm"
    if not kvm.exists():
        why = "KVM is not available: there is no /dev/kvm."
        return Detected("QEMU", why, f"{why} {SLOW}")
    if not os.access(kvm, os.R_OK | os.W_OK):
        why = "KVM is not available: /dev/kvm cannot be opened."
        return Detected("QEMU", why, f"{why} {SLOW}")
    trouble = _remembered(cache, _key(root), _text(root / "proc/sys/kernel/random/boot_id"), probe)
    if trouble is None:
        return Detected("KVM", "KVM ran a trial guest.")
    why = f"KVM is not usable: {trouble}."
    return Detected("QEMU", why, f"{why} {SLOW}")


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
        return path.read_text().strip()
    except OSError:
        return ""
