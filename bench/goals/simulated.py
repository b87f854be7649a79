"""G14: what a start costs above libvirt, whose test driver runs nothing. Each VM has a disk and an interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import libvirt

from bench.client import Client
from bench.process import CLIENT_CORE, Child, pin
from bench.report import Row
from bench.run import Run, seconds
from bench.together import all_at_once

CLIENTS: Final = 8
MEMORY: Final = 1 << 42


def measure(run: Run) -> list[Row]:
    directory = run.directory / "simulated"
    directory.mkdir()
    count = run.scaled(1000)
    pin(CLIENT_CORE)
    options = {"hypervisor": "simulated", "disks": 1, "interfaces": 1, "metrics": 1, "attachable": True}
    with Child(
        "bench.server", directory=str(directory), vms=count, refs=count, memory=MEMORY, **options
    ) as server:
        session, vms = server.ready["session"], server.ready["vms"]
        clients = [Client(server.ready["port"]) for _ in range(CLIENTS)]
        alone, together, stopping = [], [], []
        for _ in range(min(run.rounds, 3)):
            alone.append(count / seconds(lambda: _start(clients[0], session, vms)))
            _each(clients, lambda client, some: _stop(client, session, some), vms)
            together.append(count / _each(clients, lambda client, some: _start(client, session, some), vms))
            stopping.append(count / _each(clients, lambda client, some: _stop(client, session, some), vms))
        for client in clients:
            client.close()
    floor = _libvirt(count)
    return [
        Row("G14", f"VM.start, {count} VMs, {CLIENTS} clients, libvirt's test driver", max(together), "starts/s",
            limit=200, at_least=True, note=f"libvirt alone, one after the other: {floor:,.0f}/s"),
        Row("G14", f"VM.start, {count} VMs, 1 client", max(alone), "starts/s",
            note="each with its journal entries on disk"),
        Row("G14", f"VM.hard_shutdown, {count} VMs, {CLIENTS} clients", max(stopping), "stops/s"),
    ]  # fmt: skip


def _start(client: Client, session: str, vms: Sequence[str]) -> None:
    for vm in vms:
        client.call("VM.start", session, vm, False, False)


def _stop(client: Client, session: str, vms: Sequence[str]) -> None:
    for vm in vms:
        client.call("VM.hard_shutdown", session, vm)


def _each(
    clients: Sequence[Client], work: Callable[[Client, Sequence[str]], None], vms: Sequence[str]
) -> float:
    """Every client takes its share of the VMs; seconds until all are done."""
    shares = [vms[number :: len(clients)] for number in range(len(clients))]
    return all_at_once(
        [lambda c=client, s=share: work(c, s) for client, share in zip(clients, shares, strict=True)]  # type: ignore[misc]
    )


def _libvirt(count: int) -> float:
    """Starts a second of the test driver itself, with documents as small as they can be."""
    handle = libvirt.open("test:///default")
    documents = [
        f"<domain type='test'><name>v{n}</name><memory>8192</memory><os><type>hvm</type></os></domain>"
        for n in range(count)
    ]
    taken = seconds(lambda: [handle.createXML(document) for document in documents])
    handle.close()
    return count / taken
