"""Benches on which a storage driver is tried: a place for its SR, and a guest that writes to its disks."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.fake_disks import FakeDisk, FakeDisks
from kronos.storage import registry
from kronos.storage.base import StorageDriver
from kronos.storage.fake import FakeDriver
from kronos.system.commands import CommandFailed, run

BLOCK = 65536


class Bench:
    """A driver whose disks are files: the guest is qemu-io. It serves every type that takes a `location`."""

    def __init__(self, sr_type: str, place: Path) -> None:
        self.sr_type = sr_type
        self.sr_uuid = str(uuids.uuid4())
        self.config = {"location": str(place / sr_type)}
        self.opened: dict[str, Path] = {}
        """What a running guest has open, whatever the SR says."""

    def build(self) -> StorageDriver:
        return registry.build(self.sr_type, self.sr_uuid, self.config)

    def ready(self) -> StorageDriver:
        driver = self.build()
        driver.create(0)
        driver.attach()
        return driver

    def write(self, driver: StorageDriver, uuid: str, block: int, pattern: int) -> None:
        self._guest(driver, uuid, f"write -q -P {pattern} {block * BLOCK} {BLOCK}", writable=True)

    def holds(self, driver: StorageDriver, uuid: str, block: int, pattern: int) -> bool:
        """Does the guest read `pattern` all over the block?"""
        try:
            self._guest(driver, uuid, f"read -q -P {pattern} {block * BLOCK} {BLOCK}", writable=False)
        except CommandFailed:
            return False
        return True

    def _guest(self, driver: StorageDriver, uuid: str, command: str, writable: bool) -> None:
        attachment = driver.volume_attach(uuid, writable)
        path = self.opened.get(uuid, attachment.path)
        run(["qemu-io", *([] if writable else ["-r"]), "-f", attachment.format, "-c", command, str(path)])
        driver.volume_detach(uuid)

    def close(self) -> None:
        FakeDriver.places.clear()


class FakeBench(Bench):
    def write(self, driver: StorageDriver, uuid: str, block: int, pattern: int) -> None:
        assert isinstance(driver, FakeDriver)
        driver.volume_attach(uuid, True)
        driver.write(uuid, block * BLOCK, bytes([pattern]) * BLOCK)
        driver.volume_detach(uuid)

    def holds(self, driver: StorageDriver, uuid: str, block: int, pattern: int) -> bool:
        assert isinstance(driver, FakeDriver)
        return driver.read(uuid, block * BLOCK, BLOCK) == bytes([pattern]) * BLOCK


class ExtBench(Bench):
    """Its programs are fakes, its files are real."""

    def __init__(self, sr_type: str, place: Path) -> None:
        super().__init__(sr_type, place)
        self.config = {"device": "/dev/sdx,/dev/sdy"}
        self.patch = pytest.MonkeyPatch()
        FakeDisks(place, self.patch, sdx=FakeDisk(), sdy=FakeDisk())

    def close(self) -> None:
        self.patch.undo()


BENCHES: dict[str, type[Bench]] = {"fake": FakeBench, "ext": ExtBench}


TYPES = sorted(registry.drivers(for_tests=True))


def bench_for(sr_type: str, place: Path) -> Iterator[Bench]:
    bench = BENCHES.get(sr_type, Bench)(sr_type, place)
    yield bench
    bench.close()


@pytest.fixture(params=TYPES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A bench for each SR type there is."""
    yield from bench_for(request.param, tmp_path)


@pytest.fixture(params=[each for each in TYPES if "VDI_CREATE" in registry.describe(each).capabilities])
def disks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A bench for each SR type in which disks can be made."""
    yield from bench_for(request.param, tmp_path)
