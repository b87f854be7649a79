"""JOURNAL: the journal beside its floors: a raw append and fdatasync, and a bare SELECT."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.report import Row
from bench.run import Run
from kronos.db.journal import Change, Journal

COMMITS = 1500
OBJECTS = 120_000
CHANGE = {"name_description": "x" * 120}


def median(call: Callable[[], object]) -> float:
    """Seconds that half of the calls stay under."""
    times = []
    for _ in range(COMMITS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def one_client(directory: Path, rounds: int) -> tuple[float, float]:
    """Median seconds of a journalled change, and of a raw durable append of 200 bytes: the round of the best ratio."""
    raw = os.open(directory / "raw", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def raw_append() -> None:
        os.write(raw, b"x" * 200)
        os.fdatasync(raw)

    journal = Journal(directory / "one.db")
    journal.append([Change("create", "VM", f"OpaqueRef:{n:036}", record(n)) for n in range(100)])
    refs = random.Random(1).choices(range(100), k=100)

    def setter() -> None:
        ref = f"OpaqueRef:{refs[time.perf_counter_ns() % 100]:036}"
        journal.wait(journal.append([Change("write", "VM", ref, CHANGE)]))

    found = []
    for _ in range(rounds):
        floor, ours = median(raw_append), median(setter)
        found.append((ours / floor, ours, floor))
    journal.close()
    os.close(raw)
    _, ours, floor = min(found)
    return ours, floor


def many_tasks(directory: Path, clients: int, seconds: float) -> float:
    """Durable changes a second by asyncio tasks that each wait for their own: the daemon's way with setters."""
    journal = Journal(directory / f"tasks{clients}.db")
    journal.append([Change("create", "VM", f"OpaqueRef:{n:036}", record(n)) for n in range(clients)])
    waiting: list[tuple[int, asyncio.Future[None]]] = []
    count = 0

    def release(ticket: int) -> None:
        nonlocal waiting
        still = [each for each in waiting if each[0] > ticket]
        for wanted, future in waiting:
            if wanted <= ticket:
                future.set_result(None)
        waiting = still

    async def client(number: int, end: float) -> None:
        nonlocal count
        change = [Change("write", "VM", f"OpaqueRef:{number:036}", CHANGE)]
        while time.monotonic() < end:
            ticket = journal.append(change)
            if ticket > journal.durable:
                future = asyncio.get_running_loop().create_future()
                waiting.append((ticket, future))
                await future
            count += 1

    async def everyone() -> None:
        loop = asyncio.get_running_loop()

        def durable(ticket: int) -> None:
            loop.call_soon_threadsafe(release, ticket)

        journal.subscribe(durable)
        end = time.monotonic() + seconds
        await asyncio.gather(*(client(number, end) for number in range(clients)))

    asyncio.run(everyone())
    journal.close()
    return count / seconds


def many_threads(directory: Path, clients: int, seconds: float) -> float:
    """Durable changes a second by threads that each wait for their own."""
    journal = Journal(directory / f"many{clients}.db")
    journal.append([Change("create", "VM", f"OpaqueRef:{n:036}", record(n)) for n in range(clients)])
    counts = [0] * clients
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        change = [Change("write", "VM", f"OpaqueRef:{number:036}", CHANGE)]
        while time.monotonic() < end:
            journal.wait(journal.append(change))
            counts[number] += 1

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    return sum(counts) / seconds


def record(number: int) -> dict[str, object]:
    """About as large as a VM's."""
    fields: dict[str, object] = {f"field_{n}": f"value {number} {n} of some length" for n in range(60)}
    fields |= {f"map_{n}": {"key": "value", "number": str(number)} for n in range(12)}
    return fields | {f"number_{n}": number * n for n in range(20)}


def load(directory: Path, objects: int, rounds: int) -> tuple[float, float, float]:
    """Seconds to open a journal and load every object, to SELECT them, and to open it after a crash."""
    path = directory / "large.db"
    journal = Journal(path)
    small = {"pad": "x" * 700}
    for first in range(0, objects, 1000):
        fields = (record(n) if n % 12 == 0 else small for n in range(first, min(first + 1000, objects)))
        ticket = journal.append(
            [Change("create", "VM", f"OpaqueRef:{n:036}", each) for n, each in enumerate(fields, first)]
        )
        journal.wait(ticket)
    journal.close()
    found = []
    for _ in range(rounds):
        floor = timed(lambda: bare_select(path), objects)
        opened = time.perf_counter()
        journal = Journal(path)
        opening = time.perf_counter() - opened
        ours = opening + timed(journal.load, objects)
        journal.close()
        found.append((ours / floor, ours, floor))
    crash(path, objects)
    start = time.perf_counter()
    Journal(path).close()
    _, ours, floor = min(found)
    return ours, floor, time.perf_counter() - start


def bare_select(path: Path) -> list[object]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT ref, cls, body FROM objects").fetchall()
    connection.close()
    return rows


def crash(path: Path, objects: int) -> None:
    """What a crash leaves at its worst: a megabyte of changes, each of another object, none folded."""
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM meta WHERE key = 'journal.clean'")
    size, number, ticket = 0, 0, 10**6
    while size < 1024 * 1024:
        body = json.dumps([["write", "VM", f"OpaqueRef:{number:036}", {"name_label": "new"}]]).encode()
        connection.execute("INSERT INTO changes VALUES (?, ?)", (ticket, body))
        size, number, ticket = size + len(body), (number + 12) % objects, ticket + 1
    connection.commit()
    connection.close()


def timed(call: Callable[[], Iterable[object]], objects: int) -> float:
    """Seconds to make the call and hold everything it gives at once."""
    start = time.perf_counter()
    rows = list(call())
    seconds = time.perf_counter() - start
    assert len(rows) == objects
    return seconds


def measure(run: Run) -> list[Row]:
    directory = run.directory / "journal"
    directory.mkdir()
    ours, floor = one_client(directory, run.rounds)
    rows = [
        Row("JOURNAL", "one change, appended and on disk, median", ours * 1e6, "us", floor * 1e6,
            "append and fdatasync of 200 bytes", 2.5)
    ]  # fmt: skip
    for kind, many, least in (("asyncio tasks", many_tasks, 8.0), ("threads", many_threads, None)):
        single, together = many(directory, 1, run.seconds), many(directory, 64, run.seconds)
        rows.append(
            Row("JOURNAL", f"64 {kind}, each waiting for its own", together, "changes/s", single, "one alone",
                least, at_least=True)
        )  # fmt: skip
    objects = run.scaled(OBJECTS)
    ours, floor, recovery = load(directory, objects, run.rounds)
    note = f"after a crash with a megabyte of changes it takes {recovery * 1e3:.0f} ms to open"
    rows.append(
        Row(
            "JOURNAL",
            f"load of {objects} objects",
            ours * 1e3,
            "ms",
            floor * 1e3,
            "a bare SELECT",
            1.5,
            note=note,
        )
    )
    return rows
