"""The road that every call takes: find, check arity and types, session, role, hold, run, answer when durable."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from kronos.datamodel.errors import Failure
from kronos.datamodel.model import Message, model
from kronos.datamodel.types import NULL, STRING, VOID, parser
from kronos.db.database import Database
from kronos.db.record import Record
from kronos.db.records import KINDS, VM, Session
from kronos.dispatch import roles
from kronos.dispatch.admission import Admission
from kronos.dispatch.answer import Answer, RecordAnswer
from kronos.dispatch.audit import Audit, Entry, changes_something, recorded
from kronos.dispatch.call import INTERNAL, Call, Origin
from kronos.dispatch.callers import Callers
from kronos.dispatch.changes import Changes
from kronos.dispatch.durability import Durability
from kronos.dispatch.fields import VOID_ANSWER, Implied, implied
from kronos.dispatch.hold import Holds
from kronos.dispatch.machine import Machine
from kronos.dispatch.registry import FOLLOWING, HANDLERS, Handler
from kronos.dispatch.sessions import Sessions
from kronos.dispatch.task import Task, Tasks
from kronos.dispatch.tracing import Tracer
from kronos.dispatch.views import Views
from kronos.dispatch.workers import Workers
from kronos.rules import callers
from kronos.system import logs
from kronos.system.commands import CommandFailed

log = logging.getLogger(__name__)

WORKERS = 256
TASKS = 256
LOGINS = 16
LONGEST_NAME = 256
STRINGS = parser(lambda _: ())("string set")


class Fault(Exception):
    """An error of the RPC layer itself: an XML-RPC fault, not a XenAPI failure."""


@dataclass(frozen=True, slots=True)
class Route:
    """How one method name is served: by a function of the facts alone, by a handler, or not yet."""

    message: Message
    implied: Implied | None
    handler: Handler | None
    asynchronous: bool
    audited: bool


class Pipeline:
    """Serves every call of this host. `call` runs on the loop; handlers run on worker threads."""

    def __init__(self, db: Database, machine: Machine, loop: asyncio.AbstractEventLoop) -> None:
        self.db = db
        self.machine = machine
        self.loop = loop
        self.sessions = Sessions(db)
        self.views = Views(self.sessions)
        self.audit = Audit(db, machine.audit)
        self.admission = Admission(db, machine)
        self.tasks = Tasks(db)
        self.holds = Holds(db)
        self.tracer = Tracer()
        self.callers = Callers(db)
        self.durability = Durability(db, loop)
        self.changes = Changes(db, loop)
        self.workers: Executor = Workers(WORKERS, "call")
        self.task_workers: Executor = Workers(TASKS, "task")
        # Apart: a worker may wait for a login, and were there no other threads, all of them would wait for themselves.
        self.logins = ThreadPoolExecutor(LOGINS, "login")
        self.gate = self.admission.gate(self.logins)
        self.audit.follow(self.sessions)
        self._routes: dict[str, Route] = {}

    def route(self, name: str) -> Route | None:
        """How a method is served, None for one that is not known.

        It is found out when the method is first called: of the thousands that there are, most never will be.
        """
        found = self._routes.get(name)
        if found is None:
            found = self._find_route(name)
            if found is not None:
                self._routes[name] = found
        return found

    def _find_route(self, name: str) -> Route | None:
        prefix, _, rest = name.partition(".")
        asynchronous = prefix in ("Async", "InternalAsync")
        plain = rest if asynchronous else name
        messages = model().messages
        # VM_start is VM.start, for classes without an underscore in their own name.
        message = messages.get(plain) or messages.get(plain.replace("_", ".", 1))
        if message is None:
            return None
        handler = HANDLERS.get(message.full_name)
        function = None if handler is not None or message.state == "removed" else implied(self.db, message)
        return Route(message, function, handler, asynchronous, message.session and changes_something(message))

    # --- the road --------------------------------------------------------------------------------------------

    def call(self, origin: Origin, name: str, args: Sequence[object]) -> Answer | Awaitable[Answer]:
        """Serve one request. Reads of memory are answered at once; the rest is awaited.

        Raises Failure (XenAPI's errors) and Fault, here or when awaited.
        """
        route = self.route(name)
        if route is None:
            return self._system_call(name, args)
        message = route.message
        arguments, session_ref = unmarshal(message, args, name)
        session = self.sessions.require(session_ref, message.full_name) if message.session else None
        if route.asynchronous and not message.asynchronous:
            raise Fault(f"No async mode for this operation (rpc: {name})")
        if message.state == "removed":
            raise Failure("MESSAGE_REMOVED")
        if session is not None:
            self._authorise(session, message, arguments)
            if (view := self.views.of.get(session.ref)) is not None:
                route = view.route(route)
        if self.callers.on:
            delay = self.callers.admit(origin.user_agent, origin.address, cost_of(route))
            if delay > 0:
                return self._in_turn(delay, origin, route, session, arguments, name)
        return self._serve(origin, route, session, arguments, name)

    async def _in_turn(
        self,
        delay: float,
        origin: Origin,
        route: Route,
        session: Session | None,
        arguments: tuple[Any, ...],
        name: str,
    ) -> Answer:
        """A call of somebody who is limited, once it is its turn."""
        await asyncio.sleep(delay)
        answer = self._serve(origin, route, session, arguments, name)
        return answer if isinstance(answer, Answer) else await answer

    def _serve(
        self, origin: Origin, route: Route, session: Session | None, arguments: tuple[Any, ...], name: str
    ) -> Answer | Awaitable[Answer]:
        if route.asynchronous:
            return self._begin_task(origin, route, session, arguments, name)
        if route.implied is not None:
            if not route.audited:
                return self._when_durable(route.implied(*arguments))
            with recorded(self._entry(route, session, arguments, name)):
                answer = route.implied(*arguments)
            return self._when_durable(answer)
        return self._run(origin, route, session, arguments)

    def _entry(
        self, route: Route, session: Session | None, arguments: tuple[Any, ...], name: str
    ) -> Entry | None:
        """What the audit log is to say of a call that begins, None for one that it says nothing of."""
        return self.audit.begin(session, route.message, arguments, name) if route.audited else None

    def _authorise(self, session: Session, message: Message, arguments: Sequence[Any]) -> None:
        if session.is_local_superuser:
            return
        present: dict[str, str] | None = None
        is_map = len(arguments) == 2 and isinstance(arguments[1], dict)
        if is_map and message.field and message.name.startswith("set_"):
            row = self.db.find(KINDS[message.cls], arguments[0])
            present = getattr(row, message.field) if row is not None else {}
        try:
            roles.check(session, message, arguments, present)
        except Failure:
            self.audit.begin(session, message, arguments, message.full_name).denied()
            raise

    def _run(
        self, origin: Origin, route: Route, session: Session | None, arguments: tuple[Any, ...]
    ) -> Answer | Awaitable[Answer]:
        message, handler = route.message, route.handler
        if handler is None:
            raise Failure("NOT_IMPLEMENTED", message.full_name)
        task = Task(self.db, message.full_name)
        entry = self._entry(route, session, arguments, message.full_name)
        call = Call(self.db, self.machine, self, origin, message, session, task, entry)
        if handler.coroutine:
            return self._await(handler, call, arguments)
        if handler.inline:
            with recorded(entry):
                answer = answer_of(message, handler.function(call, *arguments))
            return self._when_durable(answer)
        work = self.loop.run_in_executor(self.workers, self._work, handler, call, arguments)
        return self._when_done(work)

    def _when_durable(self, answer: Answer) -> Answer | Awaitable[Answer]:
        return answer if answer.lazy or self.durability.reached() else self.durability.after(answer)

    def settled(self) -> bool:
        """Is everything that an answer may show by now on disk?"""
        return self.durability.reached()

    async def settle(self) -> None:
        """Wait until it is. Raises INTERNAL_ERROR when it never will be."""
        await self.durability.after(VOID_ANSWER)

    async def _await(self, handler: Handler, call: Call, arguments: tuple[Any, ...]) -> Answer:
        with recorded(call.entry):
            answer = answer_of(handler.message, await handler.function(call, *arguments))
        return answer if answer.lazy or self.durability.reached() else await self.durability.after(answer)

    async def _when_done(self, work: Awaitable[Answer]) -> Answer:
        try:
            answer = await work
        except Failure:
            await self.durability.after(VOID_ANSWER)
            raise
        return answer if answer.lazy else await self.durability.after(answer)

    def _work(self, handler: Handler, call: Call, arguments: tuple[Any, ...]) -> Answer:
        """A handler with its hold, on a worker thread. What is not a Failure becomes INTERNAL_ERROR."""
        mine = self.tasks.running.setdefault(call.task.ref, call.task) is call.task and call.task.row is None
        session = call.session.ref if call.session is not None else ""
        name = handler.message.full_name
        with logs.about(task=call.task.ref, session=session, method=name, vm=self._vm_of(arguments)):
            begun = time.monotonic()
            # Those that hold something are what an administrator looks for; most others only look.
            level = logging.INFO if handler.holds else logging.DEBUG
            try:
                traced = self.tracer.span(name, call.origin.traceparent, task=call.task.label)
                with traced, recorded(call.entry), self._hold(handler, call, arguments):
                    value = handler.function(call, *arguments)
                    if name in FOLLOWING:
                        FOLLOWING[name](call, arguments, value)
                    answer = answer_of(handler.message, value)
                log.log(level, "%s: done in %.1f s", name, time.monotonic() - begun)
                return answer
            except Failure as failure:
                log.log(level, "%s: %s after %.1f s", name, failure.code, time.monotonic() - begun)
                raise
            except CommandFailed as error:
                # A program of the host refused: what it said is what matters, not where.
                log.error("%s failed: %s", name, error)
                raise Failure("INTERNAL_ERROR", str(error)) from error
            except Exception as error:  # a defect must not take the daemon along
                log.exception("%s failed", name)
                raise Failure("INTERNAL_ERROR", f"{type(error).__name__}: {error}") from error
            finally:
                if mine:
                    self.tasks.ended(call.task)

    def _vm_of(self, arguments: tuple[Any, ...]) -> str:
        """The uuid of the VM that a call is about: its first argument, or what that belongs to. For the log."""
        first = arguments[0] if arguments else None
        row = self.db.rows.get(first) if isinstance(first, str) else None
        if row is not None and not isinstance(row, VM):
            owner = getattr(row, "VM", None)
            row = self.db.rows.get(owner) if isinstance(owner, str) else None
        return row.uuid if isinstance(row, VM) else ""

    def _hold(self, handler: Handler, call: Call, arguments: tuple[Any, ...]) -> Any:
        if not handler.holds:
            return nullcontext()
        row = self.db.get(KINDS[handler.message.cls], arguments[0])
        return self.holds.hold(row, handler.holds, call.task)

    # --- tasks -----------------------------------------------------------------------------------------------

    def _begin_task(
        self, origin: Origin, route: Route, session: Session | None, arguments: tuple[Any, ...], name: str
    ) -> Answer:
        if route.handler is None and route.implied is None:
            raise Failure("NOT_IMPLEMENTED", route.message.full_name)
        owner = session.ref if session is not None else ""
        label = name.replace("InternalAsync.", "Async.")
        task = self.tasks.start(label, "", owner, self.machine.host_ref)
        entry = self._entry(route, session, arguments, name)
        call = Call(self.db, self.machine, self, origin, route.message, session, task, entry)
        self.task_workers.submit(self.run_task, route, call, arguments)
        return Answer(STRING, task.ref)

    def run_task(self, route: Route, call: Call, arguments: tuple[Any, ...]) -> Any:
        """Run a call under its task and end the task by what comes of it; returns the value or raises Failure."""
        task = call.task
        try:
            return self._ran(route, call, arguments)
        except Failure as failure:
            task.fail(failure)
            raise
        except Exception as error:  # a defect, of the answer's writing perhaps: nobody is to wait for ever
            log.exception("%s failed", task.label)
            defect = Failure("INTERNAL_ERROR", f"{type(error).__name__}: {error}")
            task.fail(defect)
            raise defect from error
        finally:
            self.tasks.ended(task)

    def _ran(self, route: Route, call: Call, arguments: tuple[Any, ...]) -> Any:
        """The value of a call, with its task finished by it."""
        if route.handler is not None:
            answer = self._work(route.handler, call, arguments)
        else:
            assert route.implied is not None
            with recorded(call.entry):
                answer = route.implied(*arguments)
        self.durability.block()
        call.task.finish("" if answer.type is VOID else answer.xml().decode())
        return answer.value

    # --- calls from inside -----------------------------------------------------------------------------------

    def invoke(self, parent: Call, name: str, args: Iterable[object]) -> Any:
        """A call that is a part of another, for the same caller, on the calling thread: the plain value.

        Whoever may make the whole call may have its parts made: to suspend a VM takes a lower role than to create
        the VDI that this needs.
        """
        return self.perform(parent.origin, parent.session, name, tuple(args), parent.task, part=True)

    def perform(
        self,
        origin: Origin,
        session: Session | None,
        name: str,
        args: tuple[object, ...],
        task: Task | None = None,
        *,
        part: bool = False,
        subtask_of: str = NULL,
    ) -> Any:
        """The road for callers on worker threads: same checks, no task of its own unless `Async.` is asked for.

        The role is not asked for again where this is `part` of a call that was allowed. A task of its own is shown as
        one of `subtask_of`, and is cancelled with `task`.
        """
        route = self.route(name)
        if route is None:
            raise Failure("MESSAGE_METHOD_UNKNOWN", name)
        message = route.message
        sent = args if session is None or not message.session else (session.ref, *args)
        arguments, _ = unmarshal(message, sent, name)
        if message.state == "removed":
            raise Failure("MESSAGE_REMOVED")
        if session is not None and message.session and not part:
            self._authorise(session, message, arguments)
        if session is not None and (view := self.views.of.get(session.ref)) is not None:
            route = view.route(route)
        if route.implied is None and route.handler is None:
            raise Failure("NOT_IMPLEMENTED", message.full_name)
        entry = None if part else self._entry(route, session, arguments, name)
        if route.asynchronous:
            return self._perform_as_task(origin, route, session, arguments, name, task, subtask_of, entry)
        if route.implied is not None:
            with recorded(entry):
                return route.implied(*arguments).value
        assert route.handler is not None
        call = Call(self.db, self.machine, self, origin, message, session, task or Task(self.db, name), entry)
        if route.handler.coroutine:
            future = asyncio.run_coroutine_threadsafe(self._await(route.handler, call, arguments), self.loop)
            return future.result().value
        return self._work(route.handler, call, arguments).value

    def _perform_as_task(
        self,
        origin: Origin,
        route: Route,
        session: Session | None,
        arguments: tuple[Any, ...],
        name: str,
        whole: Task | None,
        subtask_of: str,
        entry: Entry | None,
    ) -> Any:
        """A call whose caller waits for it here, while others see its task; nobody is left to destroy that after."""
        owner = session.ref if session is not None else ""
        running = self.tasks.start(name, "", owner, self.machine.host_ref, subtask_of=subtask_of)
        if whole is not None:
            whole.on_cancel(running.cancel)
        try:
            call = Call(self.db, self.machine, self, origin, route.message, session, running, entry)
            return self.run_task(route, call, arguments)
        finally:
            if running.row is not None:
                self.db.delete(running.row)

    def perform_internal(self, name: str, *args: object) -> Any:
        """A call of the daemon itself, with the rights of the pool."""
        return self.perform(INTERNAL, self.own_session(), name, args)

    def own_session(self) -> Session:
        """The daemon's own session, made when it is first needed or was lost."""
        ref = getattr(self, "_own", "")
        row = self.db.find(Session, ref)
        if row is None:
            host = self.machine.host_ref
            row = self.sessions.begin(user="", host=host, origin=INTERNAL, originator="xapi", pool=True)
            self._own = row.ref
        return row

    # --- system.* --------------------------------------------------------------------------------------------

    def _system_call(self, name: str, args: Sequence[object]) -> Answer | Awaitable[Answer]:
        if name == "system.listMethods":
            return Answer(STRINGS, tuple(self.method_names()))
        if name.startswith("system.isAlive:"):
            return Answer(STRING, str(args[0]) if args else name)
        if not args or not isinstance(args[0], str):
            raise Failure("MESSAGE_METHOD_UNKNOWN", name)
        session = self.sessions.require(args[0])
        entry = Entry(self.audit, session, "host.call_extension", name[:LONGEST_NAME], "")
        try:
            roles.require(session, "host.call_extension")
        except Failure:
            entry.denied()
            raise
        return self._when_done(
            self.loop.run_in_executor(self.workers, self._extension, name, list(args), entry)
        )

    def _extension(self, name: str, args: list[object], entry: Entry) -> Answer:
        """A method of nobody else's may be an extension's. Loaded for it alone, with the XML-RPC that it needs."""
        from kronos.dispatch import extensions

        with recorded(entry):
            return extensions.call_extension(self.machine, Task(self.db, name), name, args)

    def method_names(self) -> list[str]:
        """Every method by its one official name, the asynchronous ones too."""
        names = [name for name, m in model().messages.items() if m.state != "removed" and not m.pool_internal]
        asynchronous = [f"Async.{name}" for name in names if model().messages[name].asynchronous]
        return [*names, *asynchronous, "system.listMethods"]

    def close(self) -> None:
        """Wait for nothing new: running calls go on until the process ends."""
        self.workers.shutdown(wait=False, cancel_futures=True)
        self.task_workers.shutdown(wait=False, cancel_futures=True)
        self.logins.shutdown(wait=False, cancel_futures=True)


def cost_of(route: Route) -> float:
    """The tokens that a call takes from whoever is limited."""
    if route.implied is not None:
        return callers.READ
    return callers.OPERATION if route.handler is not None and route.handler.holds else callers.CALL


def unmarshal(message: Message, args: Sequence[object], name: str) -> tuple[tuple[Any, ...], str]:
    """The arguments of a call, checked, and its session.

    Raises MESSAGE_PARAMETER_COUNT_MISMATCH [method, expected, received], and what the types raise.
    """
    session = ""
    offset = 1 if message.session else 0
    received = len(args) - offset
    params = message.params
    if received < message.required or (received > len(params) and message.required == len(params)):
        expected, got = str(message.required), str(max(received, 0))
        raise Failure("MESSAGE_PARAMETER_COUNT_MISMATCH", name, expected, got)
    if message.session:
        untrusted = args[0]
        if not isinstance(untrusted, str):
            raise Failure("SESSION_INVALID", str(untrusted)[:80])
        session = untrusted
    checked = [
        param.type.check(args[i + offset]) if i < received else param.default
        for i, param in enumerate(params)
    ]
    return tuple(checked), session


def answer_of(message: Message, value: Any) -> Answer:
    """What a handler returned, as an answer of the message's type."""
    if isinstance(value, Answer):
        return value
    if message.result is VOID:
        return VOID_ANSWER
    if isinstance(value, Record):
        return (
            RecordAnswer(value) if message.result is value.kind.record else Answer(message.result, value.ref)
        )
    return Answer(message.result, value)
