"""G17, one host's part: 10,000 VMs, 200 tasks under way, 100 clients that wait for events. And no call whose time grows
with the square of their number: twice as many VMs take no more than a little over twice as long."""

from __future__ import annotations

from typing import Final

from bench.client import JSON, XML, Client, json_call, wrk, xml_call
from bench.process import Child
from bench.report import Row
from bench.run import Run, best, seconds

CALLS: Final = (
    ("VM.get_all", ()),
    ("VM.get_all_records", ()),
    ("VM.get_by_name_label", ("vm-00007",)),
    ("VM.get_all_records_where", ('field "name__label" = "vm-00007"',)),
    ("VBD.get_all_records", ()),
    ("event.from", (["*"], "", 0.0)),
)


def measure(run: Run) -> list[Row]:
    large = run.scaled(10_000)
    half = _times(run, large // 2)
    whole = _times(run, large)
    rows = [
        Row("G17", f"{name}, {large} VMs", whole[name] * 1e3, "ms", half[name] * 1e3, "half as many VMs", 2.3)
        for name, _ in CALLS
        # Below a millisecond it is the round trip that is measured.
        if whole[name] > 1e-3
    ]
    return [*rows, *_crowded(run, large)]


def _times(run: Run, vms: int) -> dict[str, float]:
    directory = run.directory / f"scale-{vms}"
    directory.mkdir()
    with Child("bench.server", directory=str(directory), vms=vms, derive=False) as server:
        client = Client(server.ready["port"])
        bodies = {name: json_call(name, server.ready["session"], *args) for name, args in CALLS}
        for body in bodies.values():
            client.post(JSON, body)
        calls = {
            name: (lambda body=body: seconds(lambda: client.post(JSON, body)))
            for name, body in bodies.items()
        }
        found = best(calls, max(2, run.rounds // 2))
        client.close()
    return found


def _crowded(run: Run, vms: int) -> list[Row]:
    """A small call, alone and among tasks, waiting clients and changes."""
    directory = run.directory / "crowded"
    directory.mkdir()
    with Child("bench.server", directory=str(directory), vms=vms) as server:
        session, vm, port = server.ready["session"], server.ready["vm"], server.ready["port"]
        target = (port, XML, xml_call("VM.get_power_state", session, vm), 16, run.seconds)
        alone = min(wrk(*target).p99 for _ in range(run.rounds))
        server.ask("tasks", count=200)
        client = Client(port)
        token = client.call("event.from", session, [f"VM/{vm}"], "", 0.0)["token"]
        client.close()
        options = {"port": port, "session": session, "vm": vm, "token": token, "clients": 100}
        with Child("bench.listeners", **options) as listeners:
            crowded = min(wrk(*target).p99 for _ in range(run.rounds))
            server.ask("update", count=run.scaled(100), rate=50.0)
            told = listeners.ask("collect")
    what = f"99 % of VM.get_power_state within, {vms} VMs, 200 tasks, 100 event clients"
    return [
        Row("G17", what, crowded, "us", alone, "the same VMs, nobody else", 5.0),
        Row("G17", "99 % of changes told within, among so many", told["p99"], "ms"),
    ]
