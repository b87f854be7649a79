"""G8: a start with 10,000 VMs. The floor is a SELECT of the same rows, undecoded."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from bench.client import Client
from bench.process import Child
from bench.report import Row
from bench.run import Run, best, seconds


def measure(run: Run) -> list[Row]:
    directory = run.directory / "restart"
    directory.mkdir()
    vms = run.scaled(10_000)
    with Child("bench.server", directory=str(directory), vms=vms, derive=False):
        pass
    database = directory / "state.db"
    objects, blobs = _sizes(database)
    first: list[dict[str, float]] = []
    floor = best({"floor": lambda: seconds(lambda: _select(database))}, run.rounds)["floor"]
    for _ in range(run.rounds):
        first.append(_start(directory))
    least = {name: min(each[name] for each in first) for name in first[0]}
    return [
        Row("G8", f"rows loaded and a first call answered, {vms} VMs, {objects} objects", least["loaded"] * 1e3,
            "ms", floor * 1e3, "SELECT of every row, undecoded", 4.0,
            note="the roles, the routes of all calls and the doors included"),
        Row("G8", "the same from exec, Python's imports and all", least["reply"] * 1e3, "ms", limit=1300),
        Row("G8", "memory that the rows take", (least["rss"] - least["unloaded"]) / 1e6, "MB", blobs / 1e6,
            "bytes of the rows on disk", 4.0),
        Row("G8", "memory in all", least["rss"] / 1e6, "MB", limit=500),
        Row("G8", "longest pause of the garbage collector afterwards", least["pause"] * 1e3, "ms", limit=10,
            note="during VM.get_all_records of all of them, which decodes them"),
    ]  # fmt: skip


def _sizes(database: Path) -> tuple[int, int]:
    connection = sqlite3.connect(database)
    count, size = connection.execute("SELECT count(*), sum(length(body)) FROM objects").fetchone()
    connection.close()
    return int(count), int(size)


def _select(database: Path) -> list[object]:
    connection = sqlite3.connect(database)
    rows = connection.execute("SELECT ref, cls, body FROM objects").fetchall()
    connection.close()
    return rows


def _start(directory: Path) -> dict[str, float]:
    began = time.perf_counter()
    with Child("bench.server", directory=str(directory), load=True) as server:
        client = Client(server.ready["socket"])
        answered = time.perf_counter()
        client.call("session.login_with_password", "root", "")
        now = time.perf_counter()
        found = {
            "reply": now - began,
            "loaded": server.ready["seconds"] + now - answered,
            "unloaded": float(server.ready["unloaded"]),
            "rss": float(server.ask("used")["rss"]),
        }
        server.ask("watch_pauses")
        session = server.ready["session"]
        client.call("VM.get_all_records", session)
        for ref in client.call("VM.get_all", session)[:2000]:
            client.call("VM.set_name_description", session, ref, "changed")
        found["pause"] = server.ask("longest_pause")["seconds"]
        client.close()
    return found
