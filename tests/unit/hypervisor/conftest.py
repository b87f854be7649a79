"""Hypervisors that need neither root nor processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

import pytest

from kronos.hypervisor.base import DirectKernel, Domain, Event, EventKind, Hypervisor
from kronos.hypervisor.fake import Fake
from kronos.hypervisor.simulated import Simulated


@dataclass
class World:
    """A hypervisor, a way to make domains for it, and what it told."""

    hypervisor: Hypervisor
    directory: Path
    settle: Callable[[], bool]
    hotplug: bool = True
    media: bool = True
    reboots: bool = True
    events: list[Event] = field(default_factory=list)

    def domain(self, **changes: object) -> Domain:
        memory = 16 << 20
        plain = Domain(
            uuid=str(uuid4()),
            name="a name, with <signs> & 'quotes'",
            memory_static_max=memory,
            memory_target=memory,
            boot=DirectKernel(self.directory / "kernel"),
        )
        return replace(plain, **changes)

    def started(self, **changes: object) -> Domain:
        domain = self.domain(**changes)
        self.hypervisor.start(domain)
        return domain

    def ready(self, uuid: str) -> None:
        """Wait until the guest listens; these guests always do."""

    def kinds(self, uuid: str) -> list[EventKind]:
        self.settle()
        return [event.kind for event in self.events if event.uuid == uuid]

    def wait_for(self, uuid: str, kind: EventKind, timeout: float = 60.0) -> Event:
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            for event in list(self.events):
                if event.uuid == uuid and event.kind is kind:
                    return event
            time.sleep(0.005)
        raise AssertionError(f"{kind} did not come; {self.events}")

    def states(self) -> dict[str, str]:
        return {status.uuid: status.state.value for status in self.hypervisor.statuses()}


@pytest.fixture(params=["fake", "simulated"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    hypervisor: Fake | Simulated
    if request.param == "fake":
        hypervisor = Fake(tmp_path)
        made = World(hypervisor, tmp_path, hypervisor.settle)
    else:
        hypervisor = Simulated(tmp_path)
        # libvirt's test driver says nothing when it "reboots", and has no hot plug.
        made = World(hypervisor, tmp_path, hypervisor.settle, hotplug=False, reboots=False)
    hypervisor.watch(made.events.append)
    yield made
    for uuid in made.states():
        hypervisor.destroy(uuid)
    hypervisor.close()
