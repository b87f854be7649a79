"""What the kernel tells of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from kronos.system import hardware
from kronos.system.hardware import Topology

CPU = "processor\t: {}\nphysical id\t: {}\nsiblings\t: 4\ncpu cores\t: 2\nflags\t\t: fpu\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "proc").mkdir()
    monkeypatch.setattr(hardware, "PROC", tmp_path / "proc")
    monkeypatch.setattr(hardware, "NODES", tmp_path / "node")
    return tmp_path


def test_sockets_nodes_and_threads_are_counted(machine: Path) -> None:
    cpus = (CPU.format(number, number % 2) for number in range(8))
    (machine / "proc/cpuinfo").write_text("\n".join(cpus))
    for name in ("node0", "node1", "power"):
        (machine / "node" / name).mkdir(parents=True)
    assert hardware.topology() == Topology(nodes=2, sockets=2, threads=2)


def test_a_kernel_that_does_not_say_has_one_of_each(machine: Path) -> None:
    (machine / "proc/cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert hardware.topology() == Topology(nodes=1, sockets=1, threads=1)
