from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from kronos.system.probe_kernel import PROBE_LINE, probe_kernel

needs_qemu = pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="no QEMU")


def test_is_about_a_hundred_bytes() -> None:
    assert len(probe_kernel()) <= 128


@needs_qemu
@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_writes_its_line_and_powers_off(machine: str, tmp_path: Path) -> None:
    kernel = tmp_path / "probe"
    kernel.write_bytes(probe_kernel())
    argv = ["qemu-system-x86_64", "-machine", machine, "-accel", "tcg", "-m", "16", "-kernel", str(kernel)]
    argv += ["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]
    started = time.monotonic()
    # The exit status says that the guest ended QEMU, and not the limit.
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
    print(f"{machine}: {time.monotonic() - started:.2f} s")
    assert f"{PROBE_LINE}\n" in done.stdout.replace("\r", "")
