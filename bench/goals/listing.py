"""G3: every record of 1000 VMs in one reply. The floor for a warm one is a server that sends the same bytes."""

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
    with Child("bench.server", directory=str(directory), vms=count) as server:
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
        rows.append(_cold(server, client, session, count, run.rounds))
        client.close()
    return rows


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
