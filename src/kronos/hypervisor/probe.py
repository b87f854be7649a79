"""Whether this host's CPUs really run guests: a guest of one page that tries what kernels do, `probe.S` as
bytes.

/dev/kvm alone says little. Under some nested hypervisors it opens, and even runs simple code, but a guest's
kernel never gets ring 0 or its interrupts, and hangs before its first message.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from kronos.system.commands import CommandFailed, run

TIME_LIMIT = 5.0
"""Seconds; real KVM takes about a tenth of one."""

EMULATOR = "qemu-system-x86_64"
COMPLETE = "ABCDEF!"
_SIZE = 724  # with its stack

IMAGE = bytes.fromhex(
    """
    02b0ad1b00000100fe4f51e40000100000001000000000000000000020001000fcbcd4021000b041e877000000bf0000
    20000f22df31c0b9000c0000f3abc7050000200003102000c7050010200003202000bf00202000b883000000890783c7
    0805000020003d8300000175ef0f20e083c8200f22e0b9800000c00f320d000100000f300f20c00d000000800f22c0b0
    42e80e0000000f0115c0011000eaac00100008005266baf803ee5ac3b8100000008ed08ed88ec0b043e8990000008cc8
    a8030f858b000000b044e888000000488d05b0000000bb03000000e87d000000488d05ac000000bb20000000e86c0000
    000f011dce000000ccb011e620b020e621b004e621b001e621b0fee621b034e643b09ce640b02ee640be6400000031c0
    31c90fa2ffce75f6fbf4833d9f0000000572f6fab046e81c000000b021e815000000b00ae80e00000066ba040666b800
    2066effaf4ebfc66baf803eec3c1e304488d9b0030200066890366c74302080066c74304008ec1e8106689430648c743
    0800000000c35052b045e8c8ffffff5a5848cf50ff0536000000b020e6205848cf0f1f80000000000000000000000000
    ffff0000009aaf00ffff00000092cf001700a80110000f02003020
    """
).ljust(_SIZE, b"\0")
_STEPS = {
    "": "did not start",
    "A": "could not turn paging on",
    "AB": "could not run 64-bit code",
    "ABC": "was not in ring 0",
    "ABCD": "could not take an exception",
    "ABCDE": "was not woken by its timer",
}


def try_guest(accelerator: str, *, emulator: str = EMULATOR, limit: float = TIME_LIMIT) -> str | None:
    """Run the probe under `accelerator` ('kvm' or 'tcg') with the CPU that guests will get; None when it
    came through, else what went wrong as the end of a sentence. Takes at most about `limit` seconds."""
    with tempfile.TemporaryDirectory(prefix="kronos-probe-") as directory:
        image, said = Path(directory, "image"), Path(directory, "said")
        image.write_bytes(IMAGE)
        cpu = "host" if accelerator == "kvm" else "max"
        machine = ["-machine", "q35", "-accel", accelerator, "-cpu", cpu, "-m", "16", "-kernel", str(image)]
        quiet = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        trouble = ""
        try:
            run([emulator, *machine, *quiet, "-serial", f"file:{said}"], timeout=limit)
        except CommandFailed as failed:
            trouble = "" if failed.status is None else failed.stderr.splitlines()[-1] if failed.stderr else ""
        progress = said.read_text(errors="replace").strip() if said.exists() else ""
    if progress.startswith(COMPLETE):
        return None
    step = _STEPS.get(progress, "behaved strangely")
    return f"a trial guest {step}" + (f" ({trouble})" if trouble else "")
