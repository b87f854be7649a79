"""G13: real guests. The floor is libvirt itself, given the same documents; both start them paused and end them."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Final

import libvirt

from bench.client import Client
from bench.process import Child
from bench.report import Row
from bench.run import Run, seconds
from bench.together import all_at_once
from kronos.system.libvirtd import PrivateLibvirtd

VMS: Final = 8


def measure(run: Run) -> list[Row]:
    if os.geteuid() != 0:
        raise PermissionError("a libvirtd of one's own needs root")
    directory = run.directory / "g13"
    directory.mkdir()
    daemon = PrivateLibvirtd(directory / "libvirt")
    uri = daemon.start()
    try:
        options = {"hypervisor": "qemu", "uri": uri, "disks": 0, "interfaces": 0, "pinned": False}
        with (
            Child("bench.server", directory=str(directory), vms=VMS, refs=VMS, **options) as server,
            ExitStack() as stack,
        ):
            guests = _Guests(server, stack)
            handle = libvirt.open(uri)
            stack.callback(handle.close)
            _all(guests.start)  # the first start makes directories that the others find
            _all(guests.stop)
            return _rows(guests, _Bare(handle, server.ask("documents")["documents"]), run)
    finally:
        daemon.stop()


class _Guests:
    """The VMs through XenAPI, each by a client of its own."""

    def __init__(self, server: Child, stack: ExitStack) -> None:
        self.session, self.vms = server.ready["session"], server.ready["vms"]
        self.clients = [Client(server.ready["port"]) for _ in self.vms]
        for client in self.clients:
            stack.callback(client.close)

    def start(self, number: int) -> None:
        self.clients[number].call("VM.start", self.session, self.vms[number], True, False)

    def stop(self, number: int) -> None:
        self.clients[number].call("VM.hard_shutdown", self.session, self.vms[number])


class _Bare:
    """The same VMs, by libvirt's own calls."""

    def __init__(self, handle: Any, documents: Sequence[str]) -> None:
        self.handle = handle
        self.documents = documents
        self.running: dict[int, Any] = {}

    def start(self, number: int) -> None:
        self.running[number] = self.handle.createXML(self.documents[number], libvirt.VIR_DOMAIN_START_PAUSED)

    def stop(self, number: int) -> None:
        self.running.pop(number).destroy()


def _rows(guests: _Guests, bare: _Bare, run: Run) -> list[Row]:
    starts: dict[str, list[float]] = {"ours": [], "bare": []}
    stops: dict[str, list[float]] = {"ours": [], "bare": []}
    rates: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(run.rounds):
        for name, side in (("bare", bare), ("ours", guests)):
            for number in range(3):
                starts[name].append(seconds(lambda s=side, n=number: s.start(n)))  # type: ignore[misc]
                stops[name].append(seconds(lambda s=side, n=number: s.stop(n)))  # type: ignore[misc]
            rates[name].append(VMS / _all(side.start))
            _all(side.stop)
    start, start_floor = (min(starts[name]) * 1e3 for name in ("ours", "bare"))
    stop, stop_floor = (min(stops[name]) * 1e3 for name in ("ours", "bare"))
    medians = {name: statistics.median(values) * 1e3 for name, values in starts.items()}
    return [
        Row("G13", "VM.start, paused", start, "ms", start_floor, "createXML of the same document; QEMU emulates", 1.10,
            note=f"{start - start_floor:+.0f} ms; medians {medians['ours']:.0f} and {medians['bare']:.0f} ms"),
        Row("G13", f"VM.start, {VMS} at once", max(rates["ours"]), "starts/s", max(rates["bare"]),
            "the same by libvirt", 0.9, at_least=True),
        Row("G13", "VM.hard_shutdown", stop, "ms", stop_floor, "libvirt's destroy", 1.1,
            note=f"{stop - stop_floor:+.0f} ms"),
    ]  # fmt: skip


def _all(call: Callable[[int], None]) -> float:
    return all_at_once([lambda n=number: call(n) for number in range(VMS)])  # type: ignore[misc]
