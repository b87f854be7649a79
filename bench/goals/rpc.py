"""G1: small calls. The floor is a server that parses HTTP and answers a few bytes, without looking at the call.

G2: the same over TLS, beside itself without.
"""

from __future__ import annotations

from typing import Final

from bench.client import JSON, NOTHING, XML, Load, json_call, wrk, xml_call
from bench.process import Child
from bench.report import Row
from bench.run import Run

FLOOR: Final = "asyncio, httptools and uvloop, the same bytes for every request"


def measure(run: Run) -> list[Row]:
    (run.directory / "rpc").mkdir()
    with (
        Child("bench.floors", kind="echo") as echo,
        Child("bench.server", directory=str(run.directory / "rpc"), vms=run.scaled(1000), tls=True) as server,
    ):
        session, vm = server.ready["session"], server.ready["vm"]
        xml = xml_call("VM.get_power_state", session, vm)
        targets = {
            "echo": (echo.ready["port"], XML, xml),
            "xml": (server.ready["port"], XML, xml),
            "json": (server.ready["port"], JSON, json_call("VM.get_power_state", session, vm)),
        }
        many: dict[str, Load] = {}
        one: dict[str, Load] = {}
        for _ in range(run.rounds):
            for name, target in targets.items():
                many[name] = max(many.get(name, NOTHING), wrk(*target, 16, run.seconds), key=_rate)
                one[name] = min(one.get(name, NOTHING), wrk(*target, 1, run.seconds), key=_p50)
            for name in ("xml", "json"):
                secure = wrk(server.ready["tls_port"], *targets[name][1:], 16, run.seconds, tls=True)
                many[f"{name} tls"] = max(many.get(f"{name} tls", NOTHING), secure, key=_rate)
    return [
        Row("G1", "VM.get_power_state, XML-RPC, 16 connections", many["xml"].rate, "calls/s",
            many["echo"].rate, FLOOR, 0.30, at_least=True),
        Row("G1", "VM.get_power_state, JSON-RPC, 16 connections", many["json"].rate, "calls/s",
            many["echo"].rate, "", 0.40, at_least=True),
        Row("G2", "XML-RPC over TLS, 16 connections", many["xml tls"].rate, "calls/s", many["xml"].rate,
            "the same without", 0.7, at_least=True),
        Row("G2", "JSON-RPC over TLS, 16 connections", many["json tls"].rate, "calls/s", many["json"].rate, "", 0.7,
            at_least=True),
        Row("G1", "median of XML-RPC, 1 connection", one["xml"].p50, "us", one["echo"].p50, "", 3.0),
        Row("G1", "median of JSON-RPC, 1 connection", one["json"].p50, "us", one["echo"].p50, "", 3.0),
    ]  # fmt: skip


def _rate(load: Load) -> float:
    return load.rate


def _p50(load: Load) -> float:
    return load.p50
