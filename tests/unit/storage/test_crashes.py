"""An SR in a directory after the process was killed, or the file system failed, between any two of its steps.

What a guest wrote is modelled by an entry in a file's L1 table, which is all that this package reads of it, and by a
tag that the test remembers for the file: a volume's content is the set of tags along its chain.
"""

from __future__ import annotations

import errno
import os
import uuid as uuids
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from kronos.datamodel.errors import Failure
from kronos.storage.directory import access
from kronos.storage.directory.files import Files
from kronos.storage.file import FileDriver
from kronos.storage.images.qcow2 import CLUSTER

MIB = 1 << 20
T = TypeVar("T")


class Killed(BaseException):
    """The process is gone: nothing in it runs any more, no clean-up either."""


class Fault:
    """Where the next failure strikes: before or in the middle of step `at`."""

    def __init__(self) -> None:
        self.at: int | None = None
        self.step = 0
        self.error: type[BaseException] = Killed
        self.dead = False

    def arm(self, at: int, error: type[BaseException] = Killed) -> None:
        self.at, self.step, self.error, self.dead = at, 0, error, False

    def disarm(self) -> bool:
        """Did it strike?"""
        struck = self.at is not None and self.step > self.at
        self.at, self.dead = None, False
        return struck

    def strike(self) -> bool:
        """Count half a step. Even halves fall before a step, odd ones in its middle."""
        if self.dead:
            raise Killed
        self.step += 1
        if self.at is None or self.step - 1 != self.at:
            return False
        self.dead = self.error is Killed
        return True

    def fail(self) -> None:
        raise Killed if self.error is Killed else OSError(errno.ENOSPC, "No space left on device")


FAULT = Fault()


class FailingFiles(Files):
    """Files whose every change can be where the process dies, or the disk is full."""

    def write(self, name: str, content: bytes) -> None:
        def torn() -> None:
            (self.root / f".{name}.1.new").write_bytes(content[: len(content) // 2])

        self._step(lambda: super(FailingFiles, self).write(name, content), torn)

    def make(self, name: str, fill: Callable[[BinaryIO], None]) -> None:
        def torn() -> None:
            (self.root / name).write_bytes(b"QFI\xfb\0\0")

        self._step(lambda: super(FailingFiles, self).make(name, fill), torn)

    def rename(self, old: str, new: str) -> None:
        self._step(lambda: super(FailingFiles, self).rename(old, new))

    def remove(self, name: str) -> None:
        self._step(lambda: super(FailingFiles, self).remove(name))

    def _step(self, whole: Callable[[], None], torn: Callable[[], None] = lambda: None) -> None:
        if FAULT.strike():
            FAULT.fail()
        if FAULT.strike():
            torn()
            FAULT.fail()
        whole()


class World:
    """An SR, and what a guest or an administrator knows to be on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sr_uuid = str(uuids.uuid4())
        self.tags: dict[str, set[int]] = {}
        self.next_tag = 1
        self.driver = FileDriver(self.sr_uuid, location=str(root))
        self.driver.create(0)
        self.driver.attach()

    def restart(self, killed_again_at: int | None = None) -> None:
        """A new process; the old one's locks went with it. The new one may be killed while it recovers."""
        FAULT.disarm()
        self.driver.detach()
        self.driver = FileDriver(self.sr_uuid, location=str(self.root))
        if killed_again_at is not None:
            FAULT.arm(killed_again_at)
        try:
            self.driver.attach()
        except Killed:
            self.restart()
        FAULT.disarm()

    def new(self) -> str:
        return str(uuids.uuid4())

    def write(self, uuid: str) -> None:
        self.write_to(self.driver.volume_attach(uuid, True).path)

    def write_to(self, path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(3 * CLUSTER)
            file.write(os.urandom(7) + b"\1")
        self.tags.setdefault(path.name, set()).add(self.next_tag)
        self.next_tag += 1

    def content(self, uuid: str) -> frozenset[int]:
        names = access.chain(
            self.driver.volume_attach(uuid, False).path.name, self.driver.directory.catalogue.image
        )
        return frozenset().union(*(self.tags.get(name, set()) for name in names))

    def contents(self) -> dict[str, frozenset[int]]:
        return {each.uuid: self.content(each.uuid) for each in self.driver.scan() if each.managed}

    def check(self) -> None:
        """Nothing is broken, nothing is left over, and no volume's file is another's parent."""
        contents = self.driver.directory.catalogue.contents()
        assert not contents.bad_images and not contents.bad_sidecars
        assert not contents.intents and not contents.unfinished
        used = {name for head in contents.heads() for name in access.chain(head, contents.image)}
        assert contents.images.keys() == used
        assert not contents.heads().keys() & contents.parents()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(access, "Files", FailingFiles)
    FAULT.disarm()
    yield World(tmp_path / "sr")
    FAULT.disarm()


def create(world: World) -> None:
    world.driver.volume_create(world.new(), MIB)


def snapshot(world: World) -> None:
    world.driver.volume_snapshot(sorted(world.contents(), key=world.content)[-1], world.new())


def clone_of_unwritten(world: World) -> None:
    snapshots = [each for each in world.driver.scan() if each.is_a_snapshot]
    world.driver.volume_clone(snapshots[0].uuid, world.new())


def destroy_snapshot(world: World) -> None:
    world.driver.volume_destroy(next(each.uuid for each in world.driver.scan() if each.is_a_snapshot))


def destroy_chain(world: World) -> None:
    """The last child of two parents."""
    for each in [each for each in world.driver.scan() if each.is_a_snapshot]:
        armed, FAULT.at = FAULT.at, None
        world.driver.volume_destroy(each.uuid)
        FAULT.at, FAULT.step = armed, 0
    (left,) = (each for each in world.driver.scan() if each.managed and each.parent)
    world.driver.volume_destroy(left.uuid)


def rename(world: World) -> None:
    world.driver.volume_update(sorted(world.contents())[0], name_label="new name")


OPERATIONS = [create, snapshot, clone_of_unwritten, destroy_snapshot, rename]


def prepared(world: World) -> dict[str, frozenset[int]]:
    """A written disk with two snapshots, and one that was never written."""
    uuid = world.driver.volume_create(world.new(), MIB).uuid
    for _ in range(2):
        world.write(uuid)
        world.driver.volume_snapshot(uuid, world.new())
    world.write(uuid)
    world.driver.volume_create(world.new(), MIB)
    return world.contents()


def strike_everywhere(world: World, operation: Callable[[World], None], error: type[BaseException]) -> int:
    """Fail at the first half step, the second, …, until the operation ends well. How many were there?"""
    at = 0
    while True:
        before = world.contents()
        FAULT.arm(at, error)
        try:
            operation(world)
        except Killed:
            assert FAULT.disarm()
            world.restart()
        except Failure as failure:
            assert FAULT.disarm()
            assert failure.code == "SR_BACKEND_FAILURE_44"
        else:
            if not FAULT.disarm():
                world.check()
                return at
        after = world.contents()
        for uuid in before.keys() & after.keys():
            assert after[uuid] == before[uuid]
        assert len(before.keys() ^ after.keys()) <= 1
        world.check()
        at += 1


@pytest.mark.parametrize("error", [Killed, OSError])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_failure_harms_what_was_there(
    world: World, operation: Callable[[World], None], error: type[BaseException]
) -> None:
    prepared(world)
    for _ in range(12):  # destroyed for good by some of the strikes
        world.driver.volume_snapshot(next(iter(world.contents())), world.new())
    assert strike_everywhere(world, operation, error) >= 2


@pytest.mark.parametrize("at", range(16))
def test_a_destroy_that_is_killed_is_finished_or_undone(world: World, at: int) -> None:
    before = prepared(world)
    FAULT.arm(at)
    try:
        destroy_chain(world)
    except Killed:
        world.restart()
    FAULT.disarm()
    after = world.contents()
    assert after.items() <= before.items() and len(after) in (1, 2)
    world.check()


@pytest.mark.parametrize("error", [Killed, OSError])
@pytest.mark.parametrize("written", [False, True])
def test_a_revert_that_fails_anywhere_leaves_the_old_content_or_the_new(
    world: World, written: bool, error: type[BaseException]
) -> None:
    at, struck = 0, True
    while struck:
        uuid, kept = world.driver.volume_create(world.new(), MIB).uuid, world.new()
        world.write(uuid)
        world.driver.volume_snapshot(uuid, kept)
        for each in (uuid, kept) if written else (uuid,):
            world.write(each)
        before = world.contents()
        FAULT.arm(at, error)
        try:
            world.driver.volume_revert(uuid, kept)
        except (Killed, Failure) as failed:
            assert isinstance(failed, Killed) or failed.code == "SR_BACKEND_FAILURE_44"
        struck = FAULT.disarm()
        if error is Killed:
            world.restart()
        after = world.contents()
        assert after[uuid] in (before[uuid], before[kept])
        assert struck or after[uuid] == before[kept]
        assert all(after[other] == before[other] for other in before if other != uuid)
        world.check()
        at += 1
    assert at > 10


@pytest.mark.parametrize("switched", [False, True])
@pytest.mark.parametrize("at", range(18))
def test_a_live_snapshot_that_is_killed_loses_no_write(world: World, at: int, switched: bool) -> None:
    """The guest runs on while the daemon is away, on the file it last moved to."""
    prepared(world)
    uuid = next(uuid for uuid, tags in world.contents().items() if len(tags) == 3)
    kept = world.new()
    before = world.contents()
    guest = [world.driver.volume_attach(uuid, True).path]

    def switch(_: str, overlay: Path) -> None:
        if switched:
            guest[0] = overlay
            world.write_to(overlay)
        else:
            raise TimeoutError

    FAULT.arm(at)
    try:
        world.driver.volume_snapshot(uuid, kept, live=switch)
    except Killed:
        world.write_to(guest[0])
        world.restart()
    except TimeoutError:
        world.write_to(guest[0])
    FAULT.disarm()
    names = access.chain(guest[0].name, world.driver.directory.catalogue.image)
    written = frozenset().union(*(world.tags.get(name, set()) for name in names))
    after = world.contents()
    assert after[uuid] == written
    assert after.get(kept, before[uuid]) == before[uuid]
    assert all(after[other] == before[other] for other in before if other != uuid)
    world.check()


def test_an_adoption_that_is_killed_is_finished_or_undone(world: World) -> None:
    for at in range(12):
        name = f"disk {at}.qcow2"
        image = world.driver.volume_create(world.new(), MIB).uuid
        (world.root / world.driver.volume_attach(image, True).path.name).rename(world.root / name)
        (world.root / f"{image}.json").unlink()
        world.write_to(world.root / name)
        uuid = world.new()
        FAULT.arm(at)
        try:
            world.driver.volume_introduce(uuid, name)
        except Killed:
            world.restart()
        struck = FAULT.disarm()
        try:
            found = world.driver.volume_introduce(uuid, name)
        except Failure:
            pytest.fail(f"lost at {at}")
        assert found.virtual_size == MIB and found.location == name and not (world.root / name).exists()
        world.tags = {k: v for k, v in world.tags.items() if k != name}
        world.check()
    assert not struck


def test_what_another_process_is_doing_is_left_alone(world: World) -> None:
    uuid = world.driver.volume_create(world.new(), MIB).uuid
    kept = world.new()
    with world.driver.live_snapshot(uuid, kept) as pending:
        overlay = pending.announce()
        other = FileDriver(world.sr_uuid, location=str(world.root))
        other.attach()
        assert [each.uuid for each in other.scan()] == [uuid]
        assert overlay.exists()
        world.write_to(overlay)
        with pytest.raises(Failure, match="VDI_IN_USE"):
            world.driver.volume_destroy(uuid)
    assert world.content(uuid) and not world.content(kept)
    world.check()


@settings(max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
class Machine(RuleBasedStateMachine):
    """Any sequence of operations, any of which may be killed or fail, against sets of tags."""

    volumes = Bundle("volumes")

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(access, "Files", FailingFiles)
        self.directory = Path(f"/dev/shm/kronos-storage-{uuids.uuid4()}")
        self.world = World(self.directory)
        self.model: dict[str, frozenset[int]] = {}
        self.shock: tuple[int, type[BaseException]] | None = None
        self.again: int | None = None

    def teardown(self) -> None:
        FAULT.disarm()
        self.world.driver.detach()
        self.patch.undo()
        for each in self.directory.iterdir():
            each.unlink()
        self.directory.rmdir()

    def attempt(self, operation: Callable[[], object]) -> bool:
        """Run, perhaps into a failure. Did it end well?"""
        if self.shock:
            FAULT.arm(*self.shock)
            self.shock = None
        try:
            operation()
        except Killed:
            self.world.restart(self.again)
            return False
        except Failure as failure:
            FAULT.disarm()
            assert failure.code in ("SR_BACKEND_FAILURE_44", "SR_BACKEND_FAILURE_109"), failure
            return False
        FAULT.disarm()
        return True

    @precondition(lambda self: self.shock is None)
    @rule(
        at=st.integers(0, 14), error=st.sampled_from([Killed, OSError]), again=st.none() | st.integers(0, 6)
    )
    def something_will_fail(self, at: int, error: type[BaseException], again: int | None) -> None:
        self.shock, self.again = (at, error), again

    @rule(target=volumes)
    def create(self) -> str:
        uuid = self.world.new()
        self._expect(uuid, frozenset(), self.attempt(lambda: self.world.driver.volume_create(uuid, MIB)))
        return uuid

    @rule(target=volumes, source=volumes, clone=st.booleans(), live=st.booleans(), works=st.booleans())
    def branch(self, source: str, clone: bool, live: bool, works: bool) -> str:
        uuid = self.world.new()
        if source not in self.model:
            return uuid
        before = self.model[source]

        def switch(_: str, overlay: Path) -> None:
            self.world.write_to(overlay)
            self.model[source] = before | {self.world.next_tag - 1}
            if not works:
                raise Failure("SR_BACKEND_FAILURE_44", "", "as if", "")

        call = self.world.driver.volume_clone if clone else self.world.driver.volume_snapshot
        self._expect(uuid, before, self.attempt(lambda: call(source, uuid, live=switch if live else None)))
        return uuid

    @rule(uuid=volumes)
    def write(self, uuid: str) -> None:
        if uuid in self.model:
            self.world.write(uuid)
            self.model[uuid] |= {self.world.next_tag - 1}

    @rule(uuid=consumes(volumes))
    def destroy(self, uuid: str) -> None:
        if uuid in self.model:
            content = self.model.pop(uuid)
            if not self.attempt(lambda: self.world.driver.volume_destroy(uuid)):
                self._expect(uuid, content, False)

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @invariant()
    def all_is_well(self) -> None:
        assert self.world.contents() == self.model
        self.world.check()

    def _expect(self, uuid: str, content: frozenset[int], certain: bool) -> None:
        """After a failure either outcome will do."""
        if certain or any(each.uuid == uuid for each in self.world.driver.scan()):
            self.model[uuid] = content


TestMachine = Machine.TestCase
