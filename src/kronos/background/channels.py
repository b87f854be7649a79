"""Channels: what guests say and are told over the guest channel, for all guests in one thread.

A guest is untrusted. What it may cost is bounded: the bytes of a line, of what is kept of it and of what waits for it;
how often its record is written; and for how long it is listened to before others have their turn.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import queue
import selectors
import socket
import stat
import termios
import threading
import time
import tty
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path

from kronos.api.vm import guest as guest_records
from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.record import Record
from kronos.db.records import VM, VM_guest_metrics
from kronos.dispatch.machine import Machine
from kronos.hypervisor.base import GUEST_CHANNEL, Event, EventKind
from kronos.rules import guest_channel
from kronos.rules.surroundings import has_drivers

log = logging.getLogger(__name__)

GAP = 1.0
"""Seconds between two writes of what a guest says; more for one that never stops."""
LONGEST_GAP = 10.0
RATE = 256 << 10
"""Bytes a second that a guest is listened to."""
REST = 0.01
"""Seconds of rest after each piece read, at the least."""
DEAR = 30
"""How often the processor time that its words cost a guest rests at the least: none takes more than three percent."""
BACKLOG = 128 << 10
"""Bytes that wait for a guest that does not read; answers beyond are dropped, the configuration is told later."""
FIRST_RETRY, LAST_RETRY = 1.0, 30.0
IDLE_SHARE = 4
"""For each second that guests keep the thread busy, it leaves the processor to others for so many."""

SLACK = 0.05
"""Seconds of that which may be owed."""

_CHUNK = 64 << 10
_DRIVERS = "attr/PVAddons/MajorVersion"
_WATCHED = frozenset({"channel_config", "xenstore_data"})


class _Guest:
    """One VM's channel."""

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self.descriptor = -1
        self.inbox = bytearray()
        self.outbox = bytearray()
        self.overlong = False
        self.asked = False
        self.owed = False
        self.resting = False
        self.said: dict[str, str] = {}
        self.unwritten = False
        self.written_at = -LONGEST_GAP
        self.gap = GAP
        self.retry = FIRST_RETRY
        self.gone = False


class Channels:
    """The host's end of every guest's channel."""

    def __init__(self, db: Database, machine: Machine) -> None:
        self.db = db
        self.machine = machine
        self._guests: dict[str, _Guest] = {}
        self._suspended: set[str] = set()
        self._selector = selectors.DefaultSelector()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._woken, self._wake = socket.socketpair()
        self._due_at = 0.0
        self._ended = False
        self._unwatch: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="channels", daemon=True)
        for end in (self._woken, self._wake):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)

    def start(self) -> None:
        """Open the channels of the guests that run, and of all that start from now on."""
        self._unwatch = self.machine.hypervisor.watch(
            lambda event: self._later(lambda: self._happened(event))
        )
        self.db.derive(self._changed)
        for status in self.machine.hypervisor.statuses():
            # Defaults of a lambda have no place for a type.
            self._later(lambda uuid=status.uuid: self._take(uuid))  # type: ignore[misc]
        self._thread.start()

    def close(self) -> None:
        """Write down what was said, and let go; guests run on."""
        self._unwatch()
        self._later(self._end)
        self._thread.join(5)

    # --- from other threads ------------------------------------------------------------------------------------

    def _later(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)
        with suppress(OSError):  # it is full, so the thread wakes anyway; or closed
            self._wake.send(b"x")

    def _changed(self, db: Database, touched: Mapping[Record, AbstractSet[str]]) -> None:
        for row, names in touched.items():
            if not isinstance(row, VM):
                continue
            if names & _WATCHED:
                # Defaults of a lambda have no place for a type.
                self._later(lambda uuid=row.uuid: self._configured(uuid))  # type: ignore[misc]
            if "power_state" in names and row.power_state == "Halted" and row.uuid in self._suspended:
                # Defaults of a lambda have no place for a type.
                self._later(lambda uuid=row.uuid: self._suspended.discard(uuid))  # type: ignore[misc]

    # --- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ended:
            ready = self._selector.select(self._patience())
            began = time.thread_time()
            for key, mask in ready:
                if key.data is None:
                    with suppress(BlockingIOError):
                        self._woken.recv(4096)
                else:
                    # Defaults of a lambda have no place for a type.
                    self._guarded(lambda guest=key.data, mask=mask: self._ready(guest, mask))  # type: ignore[misc]
            while not self._jobs.empty():
                self._guarded(self._jobs.get())
            while self._timers and self._timers[0][0] <= time.monotonic():
                self._guarded(heapq.heappop(self._timers)[2])
            self._make_room(time.thread_time() - began)

    def _make_room(self, busy: float) -> None:
        """Leave the processor to others after so many seconds of it: a crowd that talks must not keep the API waiting.
        What a few ask costs too little to wait for."""
        now = time.monotonic()
        self._due_at = max(self._due_at, now) + busy * IDLE_SHARE
        if self._due_at - now > SLACK and not self._ended:
            time.sleep(min(self._due_at - now, 1.0))

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:  # one guest's trouble must not cost the others
            log.exception("A guest's channel")

    def _patience(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _after(self, seconds: float, step: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._count), step))

    def _end(self) -> None:
        self._ended = True
        for guest in list(self._guests.values()):
            self._drop(guest)
        self._selector.close()
        self._woken.close()
        self._wake.close()

    # --- guests that come and go -------------------------------------------------------------------------------

    def _happened(self, event: Event) -> None:
        known = self._guests.get(event.uuid)
        match event.kind:
            case EventKind.STARTED:
                if known is not None:
                    self._drop(known)
                self._take(event.uuid, anew=not self._comes_back(event.uuid))
            case EventKind.RESUMED if known is None or known.descriptor < 0:
                self._take(event.uuid)
            case EventKind.REBOOTED if known is not None:
                # The same wire, and another guest at its end.
                known.inbox.clear()
                known.overlong = known.asked = known.owed = False
                self._note(known, {})
                if known.descriptor < 0:
                    self._open(known)
            case EventKind.HALTED | EventKind.SUSPENDED:
                if event.kind is EventKind.SUSPENDED:
                    self._suspended.add(event.uuid)
                if known is not None:
                    self._drop(known)
            case _:
                pass

    def _comes_back(self, uuid: str) -> bool:
        """Whether a VM that starts goes on with the memory that it had, and so with what it said."""
        if uuid in self._suspended:
            self._suspended.discard(uuid)
            return True
        vm = self._record(uuid)  # the daemon may have been started again meanwhile
        return vm is not None and vm.power_state == "Suspended"

    def _take(self, uuid: str, *, anew: bool = False) -> None:
        """Begin with a guest; `anew` where it is a new run, of which nothing is known."""
        vm = self._record(uuid)
        if vm is None:
            return  # not ours
        guest = self._guests.get(uuid)
        if guest is None:
            guest = self._guests[uuid] = _Guest(uuid)
            guest.said = dict(vm.channel_data)
        if anew:
            self._note(guest, {})
        if guest.descriptor < 0:
            self._open(guest)

    def _drop(self, guest: _Guest) -> None:
        """A guest is gone: its last words count."""
        if guest.descriptor >= 0:
            for _ in range(4):
                if not self._read(guest):
                    break
        self._hang_up(guest)
        self._write_down(guest)
        guest.gone = True
        self._guests.pop(guest.uuid, None)

    def _open(self, guest: _Guest) -> None:
        if guest.gone or guest.descriptor >= 0:
            return
        path = self.machine.hypervisor.channel(guest.uuid, GUEST_CHANNEL)
        if path is None:
            return  # started by an earlier version, or by somebody else
        try:
            guest.descriptor = _opened(path)
        except OSError as error:
            log.debug("Channel of VM %s: %s", guest.uuid, error)
            self._retry(guest)
            return
        self._selector.register(guest.descriptor, selectors.EVENT_READ, guest)
        self._send(guest, guest_channel.hello())

    def _retry(self, guest: _Guest) -> None:
        self._after(guest.retry, lambda: self._open(guest))
        guest.retry = min(2 * guest.retry, LAST_RETRY)

    def _hang_up(self, guest: _Guest) -> None:
        if guest.descriptor >= 0:
            with suppress(KeyError):
                self._selector.unregister(guest.descriptor)
            os.close(guest.descriptor)
        guest.descriptor = -1
        guest.inbox.clear()
        guest.outbox.clear()
        guest.overlong = guest.asked = guest.owed = guest.resting = False

    # --- bytes -------------------------------------------------------------------------------------------------

    def _ready(self, guest: _Guest, mask: int) -> None:
        if mask & selectors.EVENT_WRITE and guest.descriptor >= 0:
            self._flush(guest)
        if mask & selectors.EVENT_READ and guest.descriptor >= 0:
            began = time.thread_time()
            size = self._read(guest)
            if size:
                guest.retry = FIRST_RETRY
                guest.resting = True
                rest = max(REST, size / RATE, DEAR * (time.thread_time() - began))
                self._after(rest, lambda: self._rested(guest))
                self._listen(guest)

    def _rested(self, guest: _Guest) -> None:
        guest.resting = False
        self._listen(guest)

    def _listen(self, guest: _Guest) -> None:
        """Say which of the guest's news are waited for."""
        if guest.descriptor < 0:
            return
        wanted = (0 if guest.resting else selectors.EVENT_READ) | (
            selectors.EVENT_WRITE if guest.outbox else 0
        )
        with suppress(KeyError):
            self._selector.unregister(guest.descriptor)
        if wanted:
            self._selector.register(guest.descriptor, wanted, guest)

    def _read(self, guest: _Guest) -> int:
        """Take one piece of what a guest says; its size, 0 where there is none."""
        try:
            untrusted = os.read(guest.descriptor, _CHUNK)
        except BlockingIOError:
            return 0
        except OSError:  # a terminal whose other end is gone
            untrusted = b""
        if not untrusted:
            self._hang_up(guest)
            self._retry(guest)
            return 0
        self._hear(guest, untrusted)
        return len(untrusted)

    def _hear(self, guest: _Guest, untrusted: bytes) -> None:
        """Take lines apart. However many of a piece are wrong, it is answered once."""
        guest.inbox += untrusted
        *lines, rest = guest.inbox.split(b"\n")
        if guest.overlong and lines:
            lines.pop(0)
            guest.overlong = False
        refusal: bytes = b""
        if len(rest) > guest_channel.LINE:
            refusal = b"" if guest.overlong else guest_channel.error("the line is too long")
            guest.overlong = True
            rest = bytearray()
        elif guest.overlong:
            rest = bytearray()
        guest.inbox = rest
        for line in lines:
            try:
                if len(line) > guest_channel.LINE:
                    raise guest_channel.Refused("the line is too long")
                request = guest_channel.request(bytes(line))
                if request is not None:
                    self._serve(guest, request)
            except guest_channel.Refused as error:
                refusal = refusal or guest_channel.error(str(error))
        if refusal:
            self._send(guest, refusal)

    def _send(self, guest: _Guest, line: bytes) -> None:
        if guest.descriptor >= 0 and len(guest.outbox) + len(line) <= BACKLOG:
            guest.outbox += line
            self._flush(guest)

    def _flush(self, guest: _Guest) -> None:
        try:
            del guest.outbox[: os.write(guest.descriptor, guest.outbox)]
        except BlockingIOError:
            pass
        except OSError:  # reading tells that it ended
            guest.outbox.clear()
        if guest.owed and not guest.outbox:
            guest.owed = False
            self._tell(guest)
        else:
            self._listen(guest)

    # --- words -------------------------------------------------------------------------------------------------

    def _serve(self, guest: _Guest, request: guest_channel.Request) -> None:
        if request.says:
            self._note(guest, guest_channel.noted(guest.said, request.says))
        if request.asks:
            guest.asked = True
            self._tell(guest, request.mark)
        elif request.mark is not None:
            self._send(guest, guest_channel.said(len(guest.said), request.mark))

    def _configured(self, uuid: str) -> None:
        """What a guest is given has changed."""
        guest = self._guests.get(uuid)
        if guest is not None and guest.asked:
            if guest.outbox:
                guest.owed = True
            else:
                self._tell(guest)

    def _tell(self, guest: _Guest, mark: guest_channel.Mark = None) -> None:
        with self.db.lock:  # a change that is being made is waited for
            vm = self._record(guest.uuid)
            if vm is None:
                return
            values = guest_channel.given(vm.channel_config, vm.xenstore_data)
        self._send(guest, guest_channel.config(values, mark))

    def _note(self, guest: _Guest, said: dict[str, str]) -> None:
        if said == guest.said:
            return
        guest.said = said
        if not guest.unwritten:
            guest.unwritten = True
            soon = max(0.0, guest.written_at + guest.gap - time.monotonic())
            self._after(soon, lambda: self._write_down(guest))

    def _write_down(self, guest: _Guest) -> None:
        """Put into the record what the guest has said since the last time."""
        if guest.gone or not guest.unwritten:
            return
        now = time.monotonic()
        restless = now - guest.written_at < 2 * guest.gap
        guest.gap = min(2 * guest.gap, LONGEST_GAP) if restless else GAP
        guest.written_at, guest.unwritten = now, False
        vm = self._record(guest.uuid)
        if vm is not None:
            self.db.write(vm, {"channel_data": dict(guest.said)})
            metrics = self.db.find(VM_guest_metrics, vm.guest_metrics)
            # Who has told of drivers by another way, as Xen's agents do in xenstore, knows more.
            if not has_drivers(metrics) or _DRIVERS in guest.said:
                guest_records.heard(self.db, vm, guest.said)

    def _record(self, uuid: str) -> VM | None:
        try:
            return self.db.by_uuid(VM, uuid)
        except Failure:
            return None


def _opened(path: Path) -> int:
    """A descriptor for the host's end of a channel, which never blocks. Raises OSError."""
    if stat.S_ISSOCK(path.stat().st_mode):
        with socket.socket(socket.AF_UNIX) as end:
            end.setblocking(False)
            end.connect(os.fspath(path))
            return end.detach()
    descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        tty.setraw(descriptor, termios.TCSANOW)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
