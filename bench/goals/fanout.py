"""G9: one change told to many. The floor encodes each change once and writes it to everybody who waits."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

from bench.client import Client
from bench.listeners import Listener  # noqa: F401  # the module that the children run
from bench.process import Child
from bench.report import Row
from bench.run import Run
from kronos.dispatch import changes

RATE: Final = 50.0
BATCHING: Final = changes.BATCHING * 1e3


def measure(run: Run) -> list[Row]:
    directory = run.directory / "fanout"
    directory.mkdir()
    rows: list[Row] = []
    with Child("bench.server", directory=str(directory), vms=run.scaled(1000)) as server:
        client = Client(server.ready["port"])
        session, vm = server.ready["session"], server.ready["vm"]
        record = directory / "record.json"
        record.write_text(json.dumps(client.call("VM.get_record", session, vm)))
        for clients, limit in ((100, 5.0), (500, 20.0)):
            token = client.call("event.from", session, [f"VM/{vm}"], "", 0.0)["token"]
            bare: list[dict[str, Any]] = []
            ours: list[dict[str, Any]] = []
            for _ in range(run.rounds):
                bare.append(_bare(record, clients, run.scaled(200)))
                ours.append(_ours(server, token, clients, run.scaled(200)))
            rows += _rows(clients, limit, bare, ours)
        client.close()
    return rows


def _rows(clients: int, limit: float, bare: list[dict[str, Any]], ours: list[dict[str, Any]]) -> list[Row]:
    p99, p50 = min(each["p99"] for each in ours), min(each["p50"] for each in ours)
    return [
        Row("G9", f"{clients} clients of event.from, 99 % told within", p99, "ms", limit=limit + BATCHING,
            note=f"median {p50:.1f} ms; {BATCHING:g} ms of it are batching, waited on purpose;"
            f" {max(each['told'] for each in ours):.0%} of the changes told one by one"),
        Row("G9", f"processor time per change told to {clients}", min(each["cpu"] for each in ours), "ms",
            min(each["cpu"] for each in bare), "a bare server: one rendering, a write each, the next polls read",
            1.5 if clients == 100 else None),
    ]  # fmt: skip


def _ours(server: Child, token: str, clients: int, count: int) -> dict[str, Any]:
    options = {"port": server.ready["port"], "session": server.ready["session"], "vm": server.ready["vm"]}
    with Child("bench.listeners", clients=clients, token=token, **options) as listeners:
        return _told(server, listeners, clients, count)


def _bare(record: Path, clients: int, count: int) -> dict[str, Any]:
    with (
        Child("bench.floors", kind="poll", path=str(record)) as floor,
        Child("bench.listeners", clients=clients, port=floor.ready["port"]) as listeners,
    ):
        return _told(floor, listeners, clients, count)


def _told(server: Child, listeners: Child, clients: int, count: int) -> dict[str, Any]:
    time.sleep(0.3)
    server.ask("update", count=3, rate=RATE)  # the first ones find connections that are still being made
    listeners.ask("collect")
    used = server.ask("update", count=count, rate=RATE)["cpu"]
    found = listeners.ask("collect")
    if found["count"] < clients:
        raise RuntimeError(f"{found['count']} changes were told to {clients} clients")
    return found | {"cpu": used / count * 1e3, "told": found["count"] / clients / count}
