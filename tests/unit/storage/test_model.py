"""Any sequence of operations on an SR of each type, against a model of what is on its disks."""

from __future__ import annotations

import shutil
import tempfile
import uuid as uuids
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from kronos.storage.fake import FakeDriver

BLOCKS = 4
BLOCK = 65536
GROWTH = 2 * BLOCK


class Machine(RuleBasedStateMachine):
    """The model of a disk is a pattern for each of its blocks."""

    disks = Bundle("disks")
    make_bench: Callable[[Path], Any]

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.bench = type(self).make_bench(self.place)
        self.driver = self.bench.ready()
        self.model: dict[str, list[int]] = {}
        self.names: dict[str, str] = {}

    def teardown(self) -> None:
        self.driver.detach()
        shutil.rmtree(self.place)
        FakeDriver.places.clear()

    @rule(target=disks)
    def create(self) -> str:
        uuid = str(uuids.uuid4())
        self.driver.volume_create(uuid, BLOCKS * BLOCK)
        self.model[uuid], self.names[uuid] = [0] * BLOCKS, ""
        return uuid

    @rule(target=disks, source=disks, clone=st.booleans(), live=st.booleans())
    def branch(self, source: str, clone: bool, live: bool) -> str:
        uuid = str(uuids.uuid4())
        call = self.driver.volume_clone if clone else self.driver.volume_snapshot
        new = call(source, uuid, live=(lambda *_: None) if live else None)
        assert new.snapshot_of == ("" if clone else source)
        self.model[uuid], self.names[uuid] = list(self.model[source]), self.names[source]
        return uuid

    @rule(uuid=disks, block=st.integers(0, BLOCKS - 1), pattern=st.integers(1, 255))
    def write(self, uuid: str, block: int, pattern: int) -> None:
        self.bench.write(self.driver, uuid, block, pattern)
        self.model[uuid][block] = pattern

    @rule(uuid=disks, block=st.integers(0, 20))
    def read(self, uuid: str, block: int) -> None:
        block %= len(self.model[uuid])
        assert self.bench.holds(self.driver, uuid, block, self.model[uuid][block])

    @rule(uuid=disks)
    def grow(self, uuid: str) -> None:
        self.driver.volume_resize(uuid, len(self.model[uuid]) * BLOCK + GROWTH)
        self.model[uuid] += [0, 0]

    @rule(uuid=disks, source=disks)
    def revert(self, uuid: str, source: str) -> None:
        if uuid != source:
            self.driver.volume_revert(uuid, source)
            self.model[uuid] = list(self.model[source])

    @rule(uuid=disks, name=st.text(max_size=5))
    def name(self, uuid: str, name: str) -> None:
        self.driver.volume_update(uuid, name_label=name)
        self.names[uuid] = name

    @rule(uuid=consumes(disks))
    def destroy(self, uuid: str) -> None:
        self.driver.volume_destroy(uuid)
        del self.model[uuid]

    @rule()
    def restart(self) -> None:
        self.driver.detach()
        self.driver = self.bench.build()
        self.driver.attach()

    @invariant()
    def the_sr_shows_the_disks(self) -> None:
        found = self.driver.scan()
        shown = {each.uuid: (each.virtual_size, each.name_label) for each in found if each.managed}
        assert shown == {uuid: (len(blocks) * BLOCK, self.names[uuid]) for uuid, blocks in self.model.items()}
        uuids_found = {each.uuid for each in found}
        assert len(uuids_found) == len(found)
        assert {each.parent for each in found if each.parent} == {e.uuid for e in found if not e.managed}


def test_an_sr_agrees_with_the_model(disks: Any, tmp_path: Path) -> None:
    class Tried(Machine):
        @staticmethod
        def make_bench(place: Path) -> Any:
            return type(disks)(disks.sr_type, place)

    quick = settings(
        max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(Tried, settings=quick)
