"""A libvirtd of the tests' own, and guests of one page that do as they are told."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.xen import control_domain
from kronos.datamodel.errors import Failure
from kronos.hypervisor.base import DirectKernel, Domain, Event, EventKind, Platform
from kronos.hypervisor.kvm import QEMU
from kronos.hypervisor.xen import URI as XEN_URI
from kronos.hypervisor.xen import Xen
from kronos.system.libvirtd import PrivateLibvirtd

HERE = Path(__file__).parent


def load(name: str) -> ModuleType:
    """A module of the unit tests, which are no package."""
    path = HERE.parents[1] / "unit" / "hypervisor" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"unit_hypervisor_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


World = load("conftest").World


@dataclass
class RealWorld(World):  # type: ignore[misc, valid-type]
    """World with guests that take the kernel `obedient.S`."""

    kernel: Path = Path()
    patience: float = 60.0
    lines: list[socket.socket] = field(default_factory=list)

    def domain(self, **changes: Any) -> Domain:
        changes.setdefault("boot", DirectKernel(self.kernel))
        changes.setdefault("platform", Platform(vga="none", usb=False))
        return super().domain(**changes)  # type: ignore[no-any-return]

    def log(self, uuid: str) -> bytes:
        return bytes(self.hypervisor.places.serial_log(uuid).read_bytes())

    def ready(self, uuid: str) -> None:
        self.printed(uuid, b"ready\n")

    def printed(self, uuid: str, text: bytes) -> None:
        """Wait until the guest has printed this and nothing else."""
        until = time.monotonic() + self.patience
        while self.log(uuid) != text:
            assert time.monotonic() < until, f"the guest printed {self.log(uuid)!r}"
            time.sleep(0.01)

    def say(self, uuid: str, text: bytes) -> None:
        """Type on the guest's serial console, which is kept open: one that closes takes along what was not read."""
        line = socket.socket(socket.AF_UNIX)
        self.lines.append(line)
        line.connect(os.fspath(self.hypervisor.serial(uuid).socket))
        line.sendall(text)

    def hang_up(self) -> None:
        """Close the consoles that were typed on."""
        for line in self.lines:
            line.close()


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("guest")
    subprocess.run(["as", "--32", HERE / "obedient.S", "-o", directory / "o"], check=True)
    link = ["ld", "-m", "elf_i386", "-Ttext", "0x100000", "-e", "0x100000", "--oformat", "binary"]
    subprocess.run([*link, directory / "o", "-o", directory / "guest"], check=True)
    return directory / "guest"


@pytest.fixture(scope="session")
def libvirtd() -> Iterator[PrivateLibvirtd]:
    if os.geteuid() != 0:
        pytest.skip("a libvirtd of one's own needs root")
    directory = Path(tempfile.mkdtemp(prefix="kh-", dir="/tmp"))  # short: unix sockets lie below
    daemon = PrivateLibvirtd(directory)
    daemon.start(90)
    yield daemon
    daemon.stop()
    shutil.rmtree(directory)


@dataclass
class XenWorld(RealWorld):
    """World on the Xen that runs this machine."""

    ramdisk: Path = Path()
    patience: float = 90.0
    media: bool = False  # of paravirtual drives, which these guests have

    def domain(self, **changes: Any) -> Domain:
        memory = {"memory_static_max": control_domain.MEMORY, "memory_target": control_domain.MEMORY}
        kernel = DirectKernel(control_domain.KERNEL, self.ramdisk, control_domain.COMMAND_LINE)
        return super().domain(**{"boot": kernel, "kind": control_domain.KIND} | memory | changes)

    def wait_for(self, uuid: str, kind: EventKind, timeout: float = 60.0) -> Event:
        return super().wait_for(uuid, kind, timeout)  # type: ignore[no-any-return]


@pytest.fixture
def xen_world(tmp_path: Path) -> Iterator[XenWorld]:
    run = Path(tempfile.mkdtemp(prefix="kh-", dir="/run"))
    hypervisor = Xen(XEN_URI, run)
    ramdisk = control_domain.obedient(Path("/var/cache/kronos/tests"))
    made = XenWorld(hypervisor, tmp_path, hypervisor.settle, ramdisk=ramdisk)
    hypervisor.watch(made.events.append)
    yield made
    made.hang_up()
    for uuid in made.states():
        with suppress(Failure):  # it may be ending by itself
            hypervisor.destroy(uuid)
    hypervisor.close()
    shutil.rmtree(run)


@pytest.fixture
def world(request: pytest.FixtureRequest) -> RealWorld:
    """The hypervisor that this machine has."""
    return request.getfixturevalue("xen_world" if control_domain.here() else "qemu_world")  # type: ignore[no-any-return]


@pytest.fixture
def qemu_world(libvirtd: PrivateLibvirtd, kernel: Path, tmp_path: Path) -> Iterator[RealWorld]:
    hypervisor = QEMU(libvirtd.start(90), libvirtd.directory / "vm")
    made = RealWorld(hypervisor, tmp_path, hypervisor.settle, kernel=kernel)
    hypervisor.watch(made.events.append)
    yield made
    made.hang_up()
    for uuid in made.states():
        hypervisor.destroy(uuid)
    hypervisor.close()
