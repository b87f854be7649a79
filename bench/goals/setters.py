"""G6: a field written durably. The floor is one appended and flushed write, and the same call without a write."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

from bench.client import XML, Load, wrk, xml_call
from bench.process import Child
from bench.report import Row
from bench.run import Run

MARKER = b"NUMBER"


def measure(run: Run) -> list[Row]:
    directory = run.directory / "setters"
    directory.mkdir()
    with Child("bench.server", directory=str(directory), vms=run.scaled(1000)) as server:
        port, session, vm = server.ready["port"], server.ready["session"], server.ready["vm"]
        body = xml_call("VM.set_name_description", session, vm, f"description {MARKER.decode()}")
        reading = xml_call("VM.get_power_state", session, vm)
        flush: list[float] = []
        read: list[Load] = []
        one: list[Load] = []
        many: list[Load] = []
        for _ in range(run.rounds):
            flush.append(flushed_append(directory))
            read.append(wrk(port, XML, reading, 1, run.seconds))
            one.append(wrk(port, XML, body, 1, run.seconds, MARKER))
            many.append(wrk(port, XML, body, 64, run.seconds, MARKER))
    floor = min(flush) * 1e6 + min(load.p50 for load in read)
    alone, together = max(load.rate for load in one), max(load.rate for load in many)
    return [
        Row("G6", "VM.set_name_description, 1 client, median", min(load.p50 for load in one), "us", floor,
            "append and fdatasync of 200 bytes, and VM.get_power_state", 2.5,
            note=f"fdatasync {min(flush) * 1e6:.0f} us, call {min(load.p50 for load in read):.0f} us"),
        Row("G6", "VM.set_name_description, 64 clients", together, "setters/s", alone, "1 client", 8.0,
            at_least=True),
    ]  # fmt: skip


def flushed_append(directory: Path, count: int = 300) -> float:
    """Median seconds of a small append that is on disk."""
    file = os.open(directory / "raw", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        times = []
        for _ in range(count):
            start = time.perf_counter()
            os.write(file, b"x" * 200)
            os.fdatasync(file)
            times.append(time.perf_counter() - start)
    finally:
        os.close(file)
    return statistics.median(times)
