"""QEMU's block jobs: copying that goes on beside the guest, waited for by its events."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kronos.datamodel.errors import Failure
from kronos.hypervisor.disk_facts import Progress
from kronos.hypervisor.qmp import Event, Events, Monitor, Refusal

_OURS = "kronos-"
_INTERVAL = 1.0  # seconds between two reports of progress
_GIVE_UP = 60.0  # seconds that a job may take to end once it is cancelled
_READY, _PENDING, _DONE = (
    "BLOCK_JOB_READY",
    "BLOCK_JOB_PENDING",
    ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED"),
)


class Job:
    """The job of one disk; `events` must have been listened to from before it began."""

    def __init__(self, monitor: Monitor, events: Events, target: str) -> None:
        self.id = _OURS + target
        self._monitor = monitor
        self._events = events

    def await_ready(self, progress: Progress | None) -> None:
        """Wait until the target is as the disk is, and stays so."""
        self._await((_READY,), progress)

    def complete(self, last_step: Callable[[], None]) -> None:
        """Have the disk go on where the job copied to. `last_step` is done in between where the job was made to wait
        for it: while it waits the guest's requests do too, and both sides are alike."""
        self._monitor.execute("block-job-complete", {"device": self.id})
        self.await_end(None, last_step)

    def await_end(self, progress: Progress | None, last_step: Callable[[], None]) -> None:
        """Wait until a job has ended that needs no word from here, except for `last_step`, as in `complete`."""
        if self._await((_PENDING, *_DONE), progress) == _PENDING:
            last_step()
            self._monitor.execute("block-job-finalize", {"id": self.id})
            self._await(_DONE, progress)

    def cancel(self) -> None:
        """End the job with the disk where it was; without effect when it has ended."""
        with suppress(Failure):
            self._monitor.execute("block-job-cancel", {"device": self.id, "force": True})
            while (event := self._events.next(_GIVE_UP)) is not None:
                if self._kind(event) in _DONE:
                    return

    def _await(self, kinds: tuple[str, ...], progress: Progress | None) -> str:
        self._report(progress)
        while True:
            event = self._events.next(_INTERVAL)
            kind = "" if event is None else self._kind(event)
            if event is None:
                self._report(progress)
            elif kind in _DONE:
                self._check(event, kind, expected=kind in kinds)
                return kind
            elif kind in kinds:
                return kind

    def _kind(self, event: Event) -> str:
        data = event.get("data", {})
        return str(event["event"]) if self.id in (data.get("device"), data.get("id")) else ""

    def _check(self, event: Event, kind: str, *, expected: bool) -> None:
        error = event["data"].get("error")
        if error is not None or not expected or kind != _DONE[0]:
            raise Failure("INTERNAL_ERROR", f"QEMU: {error or 'the copying was cancelled'}")

    def _report(self, progress: Progress | None) -> None:
        if progress is None:
            return
        for untrusted in self._monitor.execute("query-block-jobs"):
            if untrusted.get("device") == self.id:
                progress(int(untrusted["offset"]), int(untrusted["len"]))


def abandon(monitor: Monitor) -> None:
    """Cancel the jobs of a daemon that is no more."""
    with monitor.events() as events:
        for untrusted in monitor.execute("query-block-jobs"):
            name = str(untrusted.get("device", ""))
            if name.startswith(_OURS):
                Job(monitor, events, name.removeprefix(_OURS)).cancel()


def carry(monitor: Monitor, node: str, bitmaps: list[tuple[str, str]], present: set[str]) -> None:
    """Add to a node's bitmaps, some of which it has, what those of other nodes say; each is (node, name)."""
    actions: list[dict[str, Any]] = []
    for name in dict.fromkeys(name for _, name in bitmaps):
        if name not in present:
            actions.append(action("block-dirty-bitmap-add", **bitmap(node, name)))
        sources = [{"node": source, "name": name} for source, each in bitmaps if each == name]
        actions.append(action("block-dirty-bitmap-merge", node=node, target=name, bitmaps=sources))
    if actions:
        monitor.execute("transaction", {"actions": actions})


def action(kind: str, **data: Any) -> dict[str, Any]:
    """One step of a transaction."""
    return {"type": kind, "data": data}


def bitmap(node: str, name: str) -> dict[str, Any]:
    """The arguments of a new bitmap that is kept in the image."""
    return {"node": node, "name": name, "persistent": True, "granularity": 65536}


def delete(monitor: Monitor, node: str) -> None:
    """Take a node away that may be gone, or still be needed."""
    with suppress(Refusal):
        monitor.execute("blockdev-del", {"node-name": node})
