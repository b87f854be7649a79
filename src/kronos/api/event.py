"""event: what changed, in order, after every earlier write.

Sources of the rules: SEMANTICS of event.from (coalescing, tokens, groups) and what xen-api and CloudStack read.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from kronos.datamodel.errors import Failure
from kronos.datamodel.model import model
from kronos.db.database import Database
from kronos.db.record import Record
from kronos.db.records import KINDS, Session
from kronos.dispatch.answer import EventsAnswer
from kronos.dispatch.call import Call
from kronos.dispatch.changes import BATCHING, Changes
from kronos.dispatch.registry import message

LONGEST = 3600.0

CLASS_OF = {cls.name.lower(): cls.name for cls in model().classes.values() if cls.generates_events}


@dataclass(frozen=True, slots=True)
class Filter:
    """What a caller wants to hear of: whole classes, and single objects by reference."""

    classes: frozenset[str]
    refs: frozenset[str]
    only_tasks: bool = False

    def wants(self, cls: str, ref: str) -> bool:
        return cls in self.classes or ref in self.refs


def parse_filter(untrusted_classes: tuple[str, ...]) -> Filter:
    """`*`, `vm`, `VM/OpaqueRef:…`, in any case. Raises EVENT_SUBSCRIPTION_PARSE_FAILURE [text]."""
    if sum(map(len, untrusted_classes)) > _LONGEST_KEPT:
        return _parse_filter(untrusted_classes)
    return _kept_filter(untrusted_classes)


def _parse_filter(untrusted_classes: tuple[str, ...]) -> Filter:
    classes: set[str] = set()
    refs: set[str] = set()
    only_tasks = True
    for text in untrusted_classes:
        name, slash, ref = text.partition("/")
        only_tasks = only_tasks and name.lower() == "task"
        if text == "*":
            classes |= set(CLASS_OF.values())
        elif name.lower() not in CLASS_OF and name.lower() not in {c.lower() for c in model().classes}:
            raise Failure("EVENT_SUBSCRIPTION_PARSE_FAILURE", text)
        elif slash:
            refs.add("OpaqueRef:" + ref.partition(":")[2] if ref.lower().startswith("opaqueref:") else ref)
        elif name.lower() in CLASS_OF:
            classes.add(CLASS_OF[name.lower()])
    return Filter(frozenset(classes), frozenset(refs), only_tasks)


# Clients ask for the same again and again.
_LONGEST_KEPT = 4096
_kept_filter = lru_cache(256)(_parse_filter)


def parse_token(untrusted_token: str) -> int:
    """The generation in a token; an empty one is the beginning. Raises EVENT_FROM_TOKEN_PARSE_FAILURE [token]."""
    if not untrusted_token:
        return 0
    found = re.fullmatch(r"([0-9]{1,20}),([0-9]{1,20})", untrusted_token)
    if found is None:
        raise Failure("EVENT_FROM_TOKEN_PARSE_FAILURE", untrusted_token)
    return int(found.group(1))


def token_of(generation: int) -> str:
    return f"{generation:020d},{0:020d}"


def _events_since(
    db: Database, since: int, wanted: Filter, timestamp: str = "0.0"
) -> list[tuple[Mapping[str, str], Record | None]]:
    """One event an object, oldest first within each group: added, modified, deleted."""
    added: list[tuple[Mapping[str, str], Record | None]] = []
    modified: list[tuple[Mapping[str, str], Record | None]] = []
    gone: list[tuple[Mapping[str, str], Record | None]] = []
    for row in db.changed_since(since):
        cls = row.kind
        if cls.generates_events and wanted.wants(cls.name, row.ref):
            new = row.born > since
            head = _head(row.touched, cls.name, "add" if new else "mod", row.ref, timestamp)
            (added if new else modified).append((head, row))
    for deletion in db.deleted_since(since):
        if deletion.cls.lower() in CLASS_OF and wanted.wants(deletion.cls, deletion.ref):
            gone.append((_head(deletion.generation, deletion.cls, "del", deletion.ref, timestamp), None))
    return [*reversed(added), *reversed(modified), *reversed(gone)]


def _head(generation: int, cls: str, operation: str, ref: str, timestamp: str) -> Mapping[str, str]:
    return {
        "id": str(generation),
        "timestamp": timestamp,
        "class": cls.lower(),
        "operation": operation,
        "ref": ref,
    }


def _counts(db: Database) -> dict[str, int]:
    return {lower: len(db.tables[name].rows) for lower, name in CLASS_OF.items() if name in KINDS}


@message("event.from")
async def from_(call: Call, classes: tuple[str, ...], token: str, timeout: float) -> EventsAnswer:
    """Wait until something wanted changed after `token`, at most `timeout` seconds, and tell it.

    A daemon that stops answers at once what it has, if only a token.

    Raises EVENT_SUBSCRIPTION_PARSE_FAILURE, EVENT_FROM_TOKEN_PARSE_FAILURE, SESSION_INVALID when logged out,
    TASK_CANCELLED where the daemon stops already.
    """
    wanted = parse_filter(classes)
    since = parse_token(token)
    db, changes, session = call.db, call.pipeline.changes, call.user.ref
    deadline = time.monotonic() + min(max(timeout, 0.0), LONGEST)
    if since > db.generation:
        since = 0  # a token of another database: start again from the beginning
    looked_until = since
    waited = wanted.only_tasks
    _refuse_to_wait(call)
    while True:
        generation = db.generation
        answer = None
        if generation > looked_until:
            answer = _answer(changes, looked_until, wanted, shared=bool(token))
        news = answer is not None and bool(answer.events)
        left = deadline - time.monotonic()
        if news or left <= 0 or changes.closed:
            if news and token and not waited:
                await asyncio.sleep(BATCHING)
                answer = None
            if answer is None or looked_until != since:
                answer = _answer(changes, since, wanted, shared=bool(token))
            return answer
        looked_until = generation
        future = changes.register(at_once=wanted.only_tasks)
        if db.generation != generation:
            changes.forget(future)  # it changed between the look and the registration: look again
            continue
        waited = await changes.next(future, left)
        if session not in db.rows:
            raise Failure("SESSION_INVALID", session)


def _refuse_to_wait(call: Call) -> None:
    """Whoever asks a stopping daemon again and again, such as a command in it, would get empty answers without end."""
    if call.pipeline.changes.closed:
        raise Failure("TASK_CANCELLED", call.task.ref)


def _answer(changes: Changes, since: int, wanted: Filter, *, shared: bool) -> EventsAnswer:
    """What has changed since. Those who keep up get one answer; a first one is as large as the database."""
    if not shared:
        return _told(changes.db, since, wanted, changes.db.generation)
    return changes.shared((since, wanted), lambda now: _told(changes.db, since, wanted, now))


def _told(db: Database, since: int, wanted: Filter, generation: int) -> EventsAnswer:
    return EventsAnswer(_events_since(db, since, wanted), _counts(db), token_of(generation))


@message("event.inject", inline=True)
def inject(call: Call, class_: str, ref: str) -> str:
    """Touch an object and return a token from just before: event.from with it returns at once.

    Raises HANDLE_INVALID [class, ref].
    """
    name = CLASS_OF.get(class_.lower())
    if name is None:
        raise Failure("HANDLE_INVALID", class_, ref)
    row = call.db.get(KINDS[name], ref)
    with call.db.transaction():
        before = call.db.generation
        call.db.touch(row)
    return token_of(before)


@message("event.get_current_id", inline=True)
def get_current_id(call: Call) -> int:
    """The number of the newest event."""
    return call.db.generation


@dataclass(slots=True)
class Subscription:
    """What a session registered for with the old calls, and how far it has been told."""

    classes: set[str]
    refs: set[str]
    told: int


_subscriptions: dict[str, Subscription] = {}


@message("event.register", inline=True)
def register(call: Call, classes: tuple[str, ...]) -> None:
    """Start telling this session of these classes by event.next."""
    wanted = parse_filter(classes)
    for ref in [ref for ref in _subscriptions if call.db.find(Session, ref) is None]:
        del _subscriptions[ref]
    known = _subscriptions.setdefault(call.user.ref, Subscription(set(), set(), call.db.generation))
    known.classes |= wanted.classes
    known.refs |= wanted.refs


@message("event.unregister", inline=True)
def unregister(call: Call, classes: tuple[str, ...]) -> None:
    """Stop telling this session of these classes."""
    known = _subscriptions.get(call.user.ref)
    if known is not None:
        unwanted = parse_filter(classes)
        known.classes -= unwanted.classes
        known.refs -= unwanted.refs
        if not known.classes and not known.refs:
            del _subscriptions[call.user.ref]


@message("event.next")
async def next_(call: Call) -> EventsAnswer:
    """Wait, without limit, for the next events of the registered classes.

    Raises SESSION_NOT_REGISTERED [session], EVENTS_LOST, SESSION_INVALID when logged out, TASK_CANCELLED when
    the daemon stops.
    """
    db, changes, session = call.db, call.pipeline.changes, call.user.ref
    while True:
        known = _subscriptions.get(session)
        if known is None:
            raise Failure("SESSION_NOT_REGISTERED", session)
        future = changes.register(at_once=True)
        if known.told < db.forgotten and db.deletions:
            changes.forget(future)
            known.told = db.generation
            raise Failure("EVENTS_LOST")
        generation = db.generation
        wanted = Filter(frozenset(known.classes), frozenset(known.refs))
        events = _events_since(db, known.told, wanted, f"{int(time.time())}.")
        known.told = generation
        if events:
            changes.forget(future)
            return EventsAnswer(events, None, "")
        _refuse_to_wait(call)
        await changes.next(future, LONGEST)
        if session not in db.rows:
            _subscriptions.pop(session, None)
            raise Failure("SESSION_INVALID", session)
