"""Which boot of the system this is."""

from __future__ import annotations

from pathlib import Path

import pytest

from kronos.system import hardware


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hardware, "PROC", tmp_path)
    monkeypatch.setattr(hardware, "CONTAINER", tmp_path / "container")
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("3c5a\n")
    (tmp_path / "1").mkdir()
    started(tmp_path, 17)
    return tmp_path


def started(proc: Path, ticks: int) -> None:
    (proc / "1/stat").write_text(f"1 (a (b) c) S {' '.join(['0'] * 18)} {ticks} 0 0\n")


def test_the_kernel_tells_the_boots_of_a_machine(proc: Path) -> None:
    before = hardware.boot_id()
    started(proc, 18)
    assert hardware.boot_id() == before
    (proc / "sys/kernel/random/boot_id").write_text("4d6b\n")
    assert hardware.boot_id() != before


def test_a_container_boots_while_the_kernel_runs_on(proc: Path) -> None:
    (proc / "container").write_text("lxc")
    before = hardware.boot_id()
    started(proc, 18)
    assert hardware.boot_id() != before
