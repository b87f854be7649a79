#!/usr/bin/env python3
"""The journal beside its floors, in one run: a raw append and fdatasync, and a bare SELECT.

    bench/journal.py [DIRECTORY]     a directory on the disk to measure; default: the current one

Only the ratios mean anything. Exits with 1 when one is past its limit.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from kronos.db.journal import Change, Journal  # noqa: E402

COMMITS = 1500
ROUNDS = 5
OBJECTS = 120_000
CHANGE = {"name_description": "x" * 120}


def median_and_tail(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds that half, and 99 of 100, calls stay under."""
    times = []
    for _ in range(COMMITS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    times.sort()
    return statistics.median(times), times[len(times) * 99 // 100]


def one_client(directory: Path) -> tuple[float, float]:
    """The ratio of a journalled change to a raw durable append of 200 bytes, and the changes a second."""
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

    rounds = []
    for _ in range(ROUNDS):
        (floor, floor_tail), (ours, tail) = median_and_tail(raw_append), median_and_tail(setter)
        rounds.append((ours / floor, ours))
        print(
            f"  raw {floor * 1e6:.0f}/{floor_tail * 1e6:.0f} us, journal {ours * 1e6:.0f}/{tail * 1e6:.0f} us"
            f" (p50/p99): {ours / floor:.2f}x"
        )
    journal.close()
    ratio, seconds = min(rounds)
    return ratio, 1 / seconds


def many_tasks(directory: Path, clients: int, seconds: float = 1.5) -> float:
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
        journal.subscribe(lambda ticket: loop.call_soon_threadsafe(release, ticket) and None)
        end = time.monotonic() + seconds
        await asyncio.gather(*(client(number, end) for number in range(clients)))

    asyncio.run(everyone())
    journal.close()
    return count / seconds


def many_threads(directory: Path, clients: int, seconds: float = 1.5) -> float:
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


def load(directory: Path) -> tuple[float, float]:
    """The ratio of a load of 120,000 objects to a bare SELECT of them, and that of an open after a crash."""
    path = directory / "large.db"
    journal = Journal(path)
    small = {"pad": "x" * 700}
    start = time.perf_counter()
    for first in range(0, OBJECTS, 1000):
        fields = (record(n) if n % 12 == 0 else small for n in range(first, first + 1000))
        ticket = journal.append(
            [Change("create", "VM", f"OpaqueRef:{n:036}", each) for n, each in enumerate(fields, first)]
        )
        journal.wait(ticket)
    journal.close()
    print(f"  written in {time.perf_counter() - start:.1f} s, {path.stat().st_size / 1e6:.0f} MB")
    rounds = []
    for _ in range(ROUNDS):
        floor = timed(lambda: bare_select(path))
        opened = time.perf_counter()
        journal = Journal(path)
        opening = time.perf_counter() - opened
        ours = timed(journal.load)
        journal.close()
        rounds.append(((opening + ours) / floor, floor, opening, ours))
    ratio, floor, opening, ours = min(rounds)
    print(
        f"  SELECT {floor * 1e3:.0f} ms; open {opening * 1e3:.1f} ms, load {ours * 1e3:.0f} ms: {ratio:.2f}x"
    )
    crash(path)
    start = time.perf_counter()
    Journal(path).close()
    recovery = time.perf_counter() - start
    print(f"  open after a crash with a megabyte of unfolded changes: {recovery * 1e3:.0f} ms")
    return ratio, recovery / floor


def bare_select(path: Path) -> list[object]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT ref, cls, body FROM objects").fetchall()
    connection.close()
    return rows


def crash(path: Path) -> None:
    """What a crash leaves at its worst: a megabyte of changes, each of another object, none folded."""
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM meta WHERE key = 'journal.clean'")
    size, number, ticket = 0, 0, 10**6
    while size < 1024 * 1024:
        body = json.dumps([["write", "VM", f"OpaqueRef:{number:036}", {"name_label": "new"}]]).encode()
        connection.execute("INSERT INTO changes VALUES (?, ?)", (ticket, body))
        size, number, ticket = size + len(body), (number + 12) % OBJECTS, ticket + 1
    connection.commit()
    connection.close()


def timed(call: Callable[[], Iterable[object]]) -> float:
    """Seconds to make the call and hold everything it gives at once."""
    start = time.perf_counter()
    rows = list(call())
    seconds = time.perf_counter() - start
    assert len(rows) == OBJECTS
    return seconds


def main() -> int:
    where = sys.argv[1] if len(sys.argv) > 1 else "."
    print(f"load average {os.getloadavg()[0]:.2f}")
    missed = []
    with tempfile.TemporaryDirectory(dir=where) as name:
        directory = Path(name)
        print("one client, append and wait:")
        ratio, rate = one_client(directory)
        missed += ["one client"] * (ratio > 2.5)
        print("64 clients:")
        for kind, many, least in (("tasks", many_tasks, 8), ("threads", many_threads, 0)):
            single, together = many(directory, 1), many(directory, 64)
            print(f"  {kind}: {together:.0f}/s, one alone {single:.0f}/s: {together / single:.1f}x")
            missed += [f"64 {kind}"] * (together / single < least)
        print(f"load of {OBJECTS} objects:")
        ratio, _ = load(directory)
        missed += ["load"] * (ratio > 1.5)
    print(f"load average {os.getloadavg()[0]:.2f}")
    print(f"past the limit: {', '.join(missed)}" if missed else "all within limits")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
