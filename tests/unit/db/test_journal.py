from __future__ import annotations

import random
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos.datamodel.errors import Failure
from kronos.db import journal as journal_module
from kronos.db import sqlite as sqlite_module
from kronos.db.journal import (
    Change,
    Journal,
    JournalBroken,
    JournalBusy,
    JournalUnreadable,
    decode,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(path)
    yield opened
    opened.close()


def contents(path: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """What a start would find."""
    opened = Journal(path)
    try:
        return {stored.ref: (stored.cls, decode(stored.body)) for stored in opened.load()}
    finally:
        opened.close()


def store(journal: Journal, *changes: Change) -> None:
    journal.wait(journal.append(changes), timeout=10)


def test_a_new_journal_is_empty_and_for_its_owner_alone(journal: Journal, path: Path) -> None:
    store(journal, Change("create", "VM", "vm1", {"name_label": "a"}))

    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    journal.close()
    assert contents(path) == {"vm1": ("VM", {"name_label": "a"})}


def test_a_world_readable_file_is_closed_to_others(path: Path) -> None:
    path.touch(mode=0o644)
    Journal(path).close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_creations_writes_and_deletions_are_found_again_after_closing(journal: Journal, path: Path) -> None:
    store(
        journal,
        Change("create", "VM", "vm1", {"name_label": "a", "tags": ("x", "y"), "other_config": {"k": "v"}}),
        Change("create", "VM", "vm2", {"name_label": "b"}),
    )
    store(journal, Change("write", "VM", "vm1", {"name_label": "c"}), Change("delete", "VM", "vm2"))
    journal.close()

    assert contents(path) == {
        "vm1": ("VM", {"name_label": "c", "tags": ["x", "y"], "other_config": {"k": "v"}})
    }


def test_a_write_to_an_object_of_an_earlier_run_changes_only_its_fields(path: Path) -> None:
    first = Journal(path)
    first.append([Change("create", "VM", "vm1", {"a": 1, "b": 2})])
    first.close()
    second = Journal(path)
    second.append([Change("write", "VM", "vm1", {"b": 3})])
    second.close()

    assert contents(path) == {"vm1": ("VM", {"a": 1, "b": 3})}


def test_text_and_numbers_of_any_kind_come_back_as_they_were(journal: Journal, path: Path) -> None:
    fields = {
        "text": 'é"\\\0\u2028\ud800😀',
        "big": 2**63 - 1,
        "small": 5e-324,
        "all": float("inf"),
        "no": "",
    }
    store(journal, Change("create", "VM", "vm1", fields), Change("write", "VM", "vm1", {"nan": float("nan")}))
    journal.close()

    ((_, found),) = contents(path).values()
    assert str(found.pop("nan")) == "nan"
    assert found == fields


def test_a_row_that_changes_after_the_append_is_journalled_as_it_was(journal: Journal, path: Path) -> None:
    row = {"n": 1}
    ticket = journal.append([Change("create", "VM", "vm1", row)])
    row["n"] = 2
    journal.wait(ticket, timeout=10)
    journal.close()

    assert contents(path) == {"vm1": ("VM", {"n": 1})}


def test_what_json_cannot_hold_is_refused_and_leaves_the_journal_whole(journal: Journal, path: Path) -> None:
    with pytest.raises(TypeError):
        journal.append([Change("create", "VM", "vm1", {"n": object()})])
    store(journal, Change("create", "VM", "vm2", {"n": 1}))
    journal.close()

    assert contents(path) == {"vm2": ("VM", {"n": 1})}


def test_closing_in_the_middle_of_a_fold_folds_what_came_after_it_too(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_FOLD_AFTER", 2000)
    monkeypatch.setattr(journal_module, "_FOLD_OBJECTS", 1)
    journal = Journal(path)
    store(journal, *(Change("create", "VM", f"vm{n}", {"pad": "x" * 50}) for n in range(40)))
    journal.append([Change("create", "VM", "last", {})])
    journal.close()

    shell = sqlite3.connect(path)
    assert shell.execute("SELECT count(*) FROM objects").fetchone() == (41,)
    assert shell.execute("SELECT count(*) FROM changes").fetchone() == (0,)
    shell.close()


def test_tickets_grow_and_go_on_growing_after_a_restart(path: Path) -> None:
    first = Journal(path)
    tickets = [first.append([Change("create", "VM", f"vm{n}", {})]) for n in range(3)]
    first.close()
    second = Journal(path)
    assert second.durable == tickets[-1]
    tickets.append(second.append([Change("delete", "VM", "vm1")]))
    second.close()

    assert tickets == sorted(set(tickets))


def test_an_empty_batch_takes_no_ticket(journal: Journal) -> None:
    ticket = journal.append([Change("create", "VM", "vm1", {})])

    assert journal.append([]) == ticket


def test_a_second_daemon_is_turned_away_until_the_first_has_closed(journal: Journal, path: Path) -> None:
    with pytest.raises(JournalBusy):
        Journal(path)
    journal.close()
    Journal(path).close()


def test_every_commit_is_flushed_to_the_disk(journal: Journal) -> None:
    (level,) = journal._file._connection.execute("PRAGMA synchronous").fetchone()
    (mode,) = journal._file._connection.execute("PRAGMA journal_mode").fetchone()

    assert (level, mode) == (2, "wal")


def test_settings_are_kept_in_order_with_the_changes(journal: Journal, path: Path) -> None:
    assert journal.get_meta("generation", "0") == "0"
    journal.set_meta("generation", "1")
    assert list(journal.load()) == []  # a setting is no change of an object
    journal.wait(journal.set_meta("generation", "2"), timeout=10)
    journal.close()

    again = Journal(path)
    assert again.get_meta("generation") == "2"
    again.close()


def test_the_journals_own_settings_are_out_of_reach(journal: Journal) -> None:
    with pytest.raises(ValueError, match="journal.clean"):
        journal.set_meta("journal.clean", "yes")
    assert journal.get_meta("journal.clean") == ""


def test_loading_after_an_append_is_an_error_rather_than_an_old_view(journal: Journal) -> None:
    journal.append([Change("create", "VM", "vm1", {})])

    with pytest.raises(RuntimeError):
        journal.load()


def test_waiting_for_a_ticket_that_nobody_has_is_an_error(journal: Journal) -> None:
    with pytest.raises(ValueError, match="99"):
        journal.wait(99)


def test_batches_that_gather_during_a_commit_share_the_next_one(journal: Journal) -> None:
    in_commit, go_on = threading.Event(), threading.Event()
    commits: list[int] = []

    def told(ticket: int) -> None:
        commits.append(ticket)
        in_commit.set()
        go_on.wait(10)

    journal.subscribe(told)
    first = journal.append([Change("create", "VM", "vm0", {})])
    assert in_commit.wait(10)
    last = [journal.append([Change("create", "VM", f"vm{n}", {})]) for n in range(1, 50)][-1]
    go_on.set()
    journal.wait(last, timeout=10)

    journal.close()
    assert commits == [first, last]


def test_threads_that_wait_are_released_each_for_its_own_ticket(journal: Journal) -> None:
    late: list[int] = []

    def client(number: int) -> None:
        for n in range(20):
            ticket = journal.append([Change("create", "VM", f"vm{number}.{n}", {})])
            journal.wait(ticket, timeout=20)
            if journal.durable < ticket:
                late.append(ticket)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert late == []
    assert journal.durable == 16 * 20


def test_a_wait_that_takes_too_long_says_so(journal: Journal) -> None:
    go_on = threading.Event()
    journal.subscribe(lambda _: go_on.wait(10) and None)
    journal.append([Change("create", "VM", "vm1", {})])
    while journal.durable == 0:
        time.sleep(0.001)
    ticket = journal.append([Change("create", "VM", "vm2", {})])

    with pytest.raises(TimeoutError):
        journal.wait(ticket, timeout=0.05)
    go_on.set()
    journal.wait(ticket, timeout=10)


def test_a_subscriber_that_fails_harms_nobody_else(journal: Journal) -> None:
    heard: list[int] = []

    def fail(_: int) -> None:
        raise RuntimeError("the loop is closed")

    journal.subscribe(fail)
    journal.subscribe(heard.append)
    ticket = journal.append([Change("create", "VM", "vm1", {})])
    journal.wait(ticket, timeout=10)
    store(journal, Change("delete", "VM", "vm1"))

    assert heard[0] == ticket
    assert journal.failure is None


def test_an_idle_journal_uses_no_processor_time(journal: Journal) -> None:
    store(journal, Change("create", "VM", "vm1", {}))

    def used() -> float:
        before = time.process_time()
        time.sleep(0.3)
        return time.process_time() - before

    # Of the whole process: threads that other tests left may end meanwhile, but not each time.
    assert any(used() < 0.03 for _ in range(20))


def test_a_closed_journal_takes_no_more(journal: Journal) -> None:
    journal.close()

    with pytest.raises(JournalBroken):
        journal.append([Change("create", "VM", "vm1", {})])


# Failures of the disk


class Failing:
    """Stands before the real file, and fails as a disk does."""

    def __init__(self, file: Any, method: str, times: int) -> None:
        self._file = file
        self._method = method
        self.times = times

    def __getattr__(self, name: str) -> Any:
        if name == self._method and self.times:
            self.times -= 1
            return self._fail
        return getattr(self._file, name)

    def _fail(self, *_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")


def test_after_a_failed_commit_those_who_wait_and_all_later_writes_hear_of_it(journal: Journal) -> None:
    store(journal, Change("create", "VM", "vm1", {}))
    journal._file = Failing(journal._file, "append", 1)  # type: ignore[assignment]
    heard: list[JournalBroken] = []
    journal.subscribe(lambda _: None, heard.append)
    ticket = journal.append([Change("create", "VM", "vm2", {})])

    with pytest.raises(JournalBroken) as caught:
        journal.wait(ticket, timeout=10)
    assert isinstance(caught.value, Failure)
    assert caught.value.code == "INTERNAL_ERROR"
    with pytest.raises(JournalBroken, match="disk is full"):
        journal.append([Change("create", "VM", "vm3", {})])
    journal._writer.join(10)
    assert [error.code for error in heard] == ["INTERNAL_ERROR"]
    assert journal.failure is not None
    journal.wait(ticket - 1)  # what is durable stays so


def test_a_broken_journal_comes_back_with_what_was_durable(journal: Journal, path: Path) -> None:
    store(journal, Change("create", "VM", "vm1", {"n": 1}))
    journal._file = Failing(journal._file, "append", 1)  # type: ignore[assignment]
    with pytest.raises(JournalBroken):
        store(journal, Change("write", "VM", "vm1", {"n": 2}))
    journal.close()

    assert contents(path) == {"vm1": ("VM", {"n": 1})}


@pytest.mark.parametrize("method", ["fold", "discard", "tidy"])
def test_a_disk_too_full_to_fold_stops_no_commit(
    path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_FOLD_AFTER", 200)
    monkeypatch.setattr(sqlite_module, "_CHECKPOINT_PAGES", 50)
    journal = Journal(path)
    journal._file = Failing(journal._file, method, 2)  # type: ignore[assignment]
    for n in range(100):
        store(
            journal,
            Change("create", "VM", f"vm{n}", {"n": 0}),
            Change("write", "VM", f"vm{n // 2}", {"n": n}),
        )
    journal.close()

    assert journal._file.times == 0  # type: ignore[attr-defined]
    assert contents(path) == {f"vm{n}": ("VM", {"n": 2 * n + 1 if n < 50 else 0}) for n in range(100)}


FULL_DISK = """
import resource, sys
from pathlib import Path
from kronos.db.journal import Change, Journal, JournalBroken
journal = Journal(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
acknowledged = 0
try:
    for n in range(1, 10_000):
        journal.wait(journal.append([Change("create", "VM", f"vm{n}", {"n": n, "pad": "x" * 500})]))
        acknowledged = n
except JournalBroken as error:
    print(acknowledged, error)
journal.close()
"""


def test_a_real_limit_of_the_disk_loses_nothing_that_was_acknowledged(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, timeout=60, check=True
    )
    acknowledged = int(done.stdout.split()[0])

    assert 0 < acknowledged < 9_999
    assert {f"vm{n}" for n in range(1, acknowledged + 1)} <= contents(path).keys()


# Files that are not right


def test_a_file_of_another_kind_is_left_alone(path: Path) -> None:
    path.write_bytes(b"This is a letter, not a database. " * 100)

    with pytest.raises(JournalUnreadable):
        Journal(path)
    assert path.read_bytes().startswith(b"This is a letter")


def test_another_programs_database_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE bookmarks (url)")
    other.close()

    with pytest.raises(JournalUnreadable, match="not a database of this toolstack"):
        Journal(path)


def test_the_format_of_a_later_version_is_left_alone(path: Path) -> None:
    Journal(path).close()
    with sqlite3.connect(path) as later:
        later.execute("PRAGMA user_version=2")
    later.close()

    with pytest.raises(JournalUnreadable, match="format 2"):
        Journal(path)


def test_damage_is_found_at_the_start_after_a_crash(path: Path) -> None:
    first = Journal(path)
    for n in range(200):
        first.append([Change("create", "VM", f"OpaqueRef:{n}", {"pad": "x" * 500})])
    first.close()
    with sqlite3.connect(path) as shell:
        shell.execute("DELETE FROM meta WHERE key = 'journal.clean'")
        shell.commit()
        shell.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = shell.execute(
            "SELECT rootpage FROM sqlite_master WHERE name LIKE 'sqlite_autoindex%'"
        ).fetchone()
    shell.close()
    with path.open("r+b") as file:  # the index of refs, which loading alone would not look at
        file.seek((root - 1) * sqlite_module._PAGE + 8)
        file.write(random.Random(1).randbytes(2000))

    with pytest.raises(JournalUnreadable):
        Journal(path)
    # and the refusal left the lock free
    with pytest.raises(JournalUnreadable):
        Journal(path)


# Against a model


values = st.one_of(
    st.integers(-5, 5), st.text(max_size=4), st.booleans(), st.lists(st.text(max_size=2), max_size=2)
)
fields = st.dictionaries(st.sampled_from("abc"), values, max_size=3)
refs = st.sampled_from([f"ref{n}" for n in range(5)])
steps = st.lists(
    st.one_of(
        st.lists(
            st.tuples(st.sampled_from(["create", "write", "delete"]), refs, fields), min_size=1, max_size=4
        ),
        st.just("restart"),
        st.just("crash"),
    ),
    max_size=20,
)


def crash(journal: Journal) -> None:
    """Leave the file as a killed process does: nothing folded, nothing marked."""
    with journal._mutex:
        journal._closing = True
        journal._fold_all = lambda: False  # type: ignore[method-assign]
        journal._work.notify()
    journal._writer.join()


@settings(max_examples=60, deadline=None)
@given(steps=steps, fold_after=st.sampled_from([1, 60, 300, 10**6]), objects=st.integers(1, 3))
def test_whatever_is_written_and_whenever_it_stops_a_start_finds_the_sum(
    steps: list[Any], fold_after: int, objects: int
) -> None:
    model: dict[str, tuple[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module, "_FOLD_AFTER", fold_after)
        patch.setattr(journal_module, "_FOLD_OBJECTS", objects)
        path = Path(directory) / "state.db"
        journal = Journal(path)
        for step in steps:
            if isinstance(step, str):
                (crash if step == "crash" else Journal.close)(journal)
                journal = Journal(path)
                assert {s.ref: (s.cls, decode(s.body)) for s in journal.load()} == model
                continue
            batch = []
            for kind, ref, changed in step:
                if kind == "create":
                    model[ref] = ("VM", dict(changed))
                elif ref not in model:
                    continue
                elif kind == "write":
                    model[ref] = ("VM", model[ref][1] | changed)
                else:
                    del model[ref]
                    changed = {}
                batch.append(Change(kind, "VM", ref, changed))
            journal.append(batch)
        journal.close()
        assert contents(path) == model


# Against kill -9

VICTIM = """
import sys, threading
from pathlib import Path
from kronos.db import journal as module
module._FOLD_AFTER = 3000
module._FOLD_OBJECTS = 3
journal = module.Journal(Path(sys.argv[1]))
first = int(sys.argv[2])
print("open", flush=True)
Change = module.Change
def record(n):
    batch = [Change("write", "pool", "left", {"n": n}), Change("write", "pool", "right", {"n": n})]
    batch.append(Change("create", "VM", f"vm{n}", {"n": n, "pad": "x" * (n % 1500)}))
    if n % 3 == 0:
        batch.append(Change("delete", "VM", f"vm{n - 2}"))
    return journal.append(batch)
if first == 0:
    journal.append([Change("create", "pool", "left", {"n": 0}), Change("create", "pool", "right", {"n": 0})])
order = threading.Lock()
numbers = iter(range(first + 1, 10**9))
def client():
    while True:
        with order:
            n = next(numbers)
            ticket = record(n)
        journal.wait(ticket)
        sys.stdout.write(f"{n}\\n")
        sys.stdout.flush()
for _ in range(4):
    threading.Thread(target=client).start()
"""


def test_what_was_acknowledged_survives_kill_9_and_batches_survive_whole(path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    reached = rounds = 0
    # On a slow disk little comes of twenty times an instant.
    while rounds < 20 or (reached <= 100 and rounds < 500):
        rounds += 1
        acknowledged = reached
        with subprocess.Popen(
            [sys.executable, "-c", VICTIM, path, str(reached)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            threading.Timer(chance.uniform(0, 0.08), child.kill).start()
            for line in child.stdout:
                if line.endswith("\n"):
                    acknowledged = max(acknowledged, int(line))
        found = contents(path)
        left = found.get("left", ("", {"n": 0}))[1]["n"]
        assert left == found.get("right", ("", {"n": 0}))[1]["n"]
        assert left >= acknowledged
        alive = {n for n in range(1, left + 1) if not (n % 3 == 1 and n + 2 <= left)}
        assert {ref for ref, (cls, _) in found.items() if cls == "VM"} == {f"vm{n}" for n in alive}
        assert all(
            fields == {"n": n, "pad": "x" * (n % 1500)} for n in alive for fields in [found[f"vm{n}"][1]]
        )
        reached = left
    assert reached > 100
