"""G3: every record of 1000 VMs in one reply. The floor for a warm one is a server that sends the same bytes.

G4: with gzip over TLS beside without gzip. G5: ten times as many VMs, and how long the loop is kept.
"""

from __future__ import annotations

import json
import xmlrpc.client
from collections.abc import Callable
from typing import Any, Final

from bench.client import JSON, XML, Client, json_call, xml_call
from bench.process import CLIENT_CORE, Child, pin
from bench.report import Row
from bench.run import Run, best, seconds

FLOOR: Final = "the same bytes, ready made, from a bare server"
CALL: Final = "VM.get_all_records"


def measure(run: Run) -> list[Row]:
    directory = run.directory / "listing"
    directory.mkdir()
    count = run.scaled(1000)
    pin(CLIENT_CORE)
    with Child("bench.server", directory=str(directory), vms=count, tls=True) as server:
        client = Client(server.ready["port"])
        session = server.ready["session"]
        rows: list[Row] = []
        for name, path, body in (
            ("XML-RPC", XML, xml_call(CALL, session)),
            ("JSON-RPC", JSON, json_call(CALL, session)),
        ):
            blob = directory / "blob"
            blob.write_bytes(client.post(path, body))
            with Child("bench.floors", kind="blob", path=str(blob)) as bare:
                static = Client(bare.ready["port"])
                found = best(
                    {
                        "floor": _timer(static, path, body),
                        "warm": _timer(client, path, body),
                    },
                    run.rounds * 4,
                )
                static.close()
            size = f"{blob.stat().st_size / 1e6:.1f} MB"
            rows.append(
                Row("G3", f"{CALL}, {count} VMs, {name}, kept", found["warm"] * 1e3, "ms",
                    found["floor"] * 1e3, FLOOR, 2.0, note=size)
            )  # fmt: skip
        rows.append(_compressed(server, session, run.rounds))
        few = _times(client, session, run.rounds)
        rows.append(_cold(server, client, session, count, run.rounds))
        client.close()
    return rows + _many(run, few)


def _compressed(server: Child, session: str, rounds: int) -> Row:
    clients = {
        name: Client(server.ready["tls_port"], tls=True, gzip=name == "gzip") for name in ("gzip", "plain")
    }
    body = xml_call(CALL, session)
    for client in clients.values():
        client.post(XML, body)
    found = best({name: _timer(client, XML, body) for name, client in clients.items()}, rounds * 4)
    for client in clients.values():
        client.close()
    return Row("G4", f"{CALL}, XML-RPC, gzip over TLS", found["gzip"] * 1e3, "ms", found["plain"] * 1e3,
               "the same over TLS without gzip", 1.0)  # fmt: skip


def _times(client: Client, session: str, rounds: int) -> dict[str, float]:
    bodies = {"XML-RPC": (XML, xml_call(CALL, session)), "JSON-RPC": (JSON, json_call(CALL, session))}
    for path, body in bodies.values():
        client.post(path, body)
    return best({name: _timer(client, *each) for name, each in bodies.items()}, rounds * 2)


def _many(run: Run, few: dict[str, float]) -> list[Row]:
    directory = run.directory / "many"
    directory.mkdir()
    count = run.scaled(10_000)
    with Child(
        "bench.server", directory=str(directory), vms=count, disks=0, interfaces=0, metrics=0
    ) as server:
        client = Client(server.ready["port"])
        server.ask("watch_loop")
        many = _times(client, server.ready["session"], max(2, run.rounds // 2))
        stall = server.ask("longest_stall")["seconds"]
        client.close()
    return [
        *(Row("G5", f"{CALL}, {count} VMs, {name}, kept", many[name] * 1e3, "ms", few[name] * 1e3,
              f"a tenth of the VMs, {name}", 12.0) for name in few),
        Row("G5", "longest time that the loop was kept, first rendering and all", stall * 1e3, "ms", limit=20),
    ]  # fmt: skip


def _timer(client: Client, path: str, body: bytes) -> Callable[[], float]:
    return lambda: seconds(lambda: client.post(path, body))


def _cold(server: Child, client: Client, session: str, count: int, rounds: int) -> Row:
    """After a change of every record, beside the standard library's rendering alone."""
    body = xml_call(CALL, session)
    records = json.loads(bytes(client.post(JSON, json_call(CALL, session))))["result"]
    plain = {ref: {name: _plain(value) for name, value in record.items()} for ref, record in records.items()}

    def cold() -> float:
        server.ask("dirty")
        return seconds(lambda: client.post(XML, body))

    found = best(
        {
            "floor": lambda: seconds(lambda: xmlrpc.client.dumps((plain,), methodresponse=True)),
            "cold": cold,
        },
        rounds,
    )
    return Row(
        "G3", f"{CALL}, {count} VMs, XML-RPC, all changed", found["cold"] * 1e3, "ms",
        found["floor"] * 1e3, "xmlrpc.client.dumps of the same records, nothing sent", 1.0,
    )  # fmt: skip


def _plain(value: Any) -> Any:
    """As xmlrpc.client can write it, and as XenAPI sends it: integers as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value
