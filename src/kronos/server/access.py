"""Access: who stands at a door other than RPC (a console, the command line, a transfer), and what they may do there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any, Final

from kronos.commands.protocol import API, Login
from kronos.datamodel.errors import Failure
from kronos.datamodel.model import model
from kronos.db.records import Session
from kronos.db.records import Task as TaskRow
from kronos.dispatch import roles
from kronos.dispatch.call import Origin
from kronos.dispatch.pipeline import Pipeline
from kronos.server.routing import Credentials

log = logging.getLogger(__name__)

CLI_ORIGINATOR: Final = "cli"
"""Whose the sessions of the command line are, as XenServer's `xe` says of itself."""
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_SAID_OVER_AND_OVER: Final = frozenset({"get_rrd_updates", "rrd_updates", "post_remote_db_access"})
"""HTTP actions that are asked for all the time and change nothing: they are audited only when denied."""


class SessionAPI:
    """XenAPI as one session sees it, for code that runs on a worker thread."""

    def __init__(self, pipeline: Pipeline, origin: Origin, session: Session) -> None:
        self._pipeline = pipeline
        self._origin = origin
        self._session = session

    @property
    def session(self) -> str:
        return self._session.ref

    def __call__(self, method: str, *args: object) -> Any:
        """Make a call; its value. Raises Failure: SESSION_INVALID when the session has ended meanwhile."""
        if not self._pipeline.sessions.alive(self._session):
            raise Failure("SESSION_INVALID", self._session.ref)
        value = self._pipeline.perform(self._origin, self._session, method, args)
        self._pipeline.durability.block()
        return value

    def task(self, method: str, *args: object, progress: Callable[[float], None] | None = None) -> Any:
        """Make a call as a task that others can see and cancel; `progress` hears of it from 0.0 to 1.0."""
        route = self._pipeline.route(method)
        name = f"Async.{method}" if route is not None and route.message.asynchronous else method
        if progress is None:
            return self(name, *args)
        with self._reported(name, progress):
            return self(name, *args)

    @contextmanager
    def _reported(self, label: str, progress: Callable[[float], None]) -> Iterator[None]:
        """Tell `progress`, which may block, how far this session's task of that name is, from a thread of its own."""
        changed, ended = threading.Event(), threading.Event()
        reporter = threading.Thread(
            target=self._report, args=(label, progress, changed, ended), name="progress", daemon=True
        )
        reporter.start()
        try:
            with self._pipeline.db.listening(changed.set):
                yield
        finally:
            ended.set()
            changed.set()
            reporter.join()

    def _report(
        self,
        label: str,
        progress: Callable[[float], None],
        changed: threading.Event,
        ended: threading.Event,
    ) -> None:
        shown = -1.0
        while changed.wait() and not ended.is_set():
            changed.clear()
            for row in self._pipeline.db.all(TaskRow):
                mine = row.session == self.session and row.name_label == label and row.status == "pending"
                if mine and row.progress != shown:
                    shown = row.progress
                    try:
                        progress(shown)
                    except OSError as error:  # the client has gone, as its command is about to find out
                        log.debug("Progress of %s: %s", label, error)
                        return

    def using(self, session: str) -> API:
        return SessionAPI(self._pipeline, self._origin, self._pipeline.sessions.require(session))

    def remote(self, address: str, username: str, password: str) -> AbstractContextManager[API]:
        """Another pool's XenAPI. Raises CANNOT_CONTACT_HOST: hosts do not yet call each other."""
        raise Failure("CANNOT_CONTACT_HOST", address)


class Access:
    """Turns credentials into sessions. Every method blocks: doors call it from threads of their own."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def login(
        self, origin: Origin, user: str, password: str, *, originator: str = "", local: bool = False
    ) -> Session:
        """Log in. Raises SESSION_AUTHENTICATION_FAILED."""
        name = "session.slave_local_login_with_password" if local else "session.login_with_password"
        said = originator or origin.user_agent
        arguments = (user, password) if local else (user, password, "2.21", said)
        ref = self.pipeline.perform(origin, None, name, arguments)
        return self.pipeline.sessions.local(ref) if local else self.pipeline.sessions.require(ref)

    @contextmanager
    def session_of(self, credentials: Credentials) -> Iterator[Session]:
        """The session that a request names, or one that lasts as long as the block does.

        Raises SESSION_INVALID, SESSION_AUTHENTICATION_FAILED.
        """
        if credentials.session:
            yield self.pipeline.sessions.require(credentials.session)
            return
        if not (credentials.username or credentials.origin.local):
            raise Failure("SESSION_INVALID", "")
        session = self.login(credentials.origin, credentials.username, credentials.password)
        try:
            yield session
        finally:
            self.pipeline.sessions.end(session)

    @contextmanager
    def reported(self, origin: Origin, session: Session, task: str) -> Iterator[None]:
        """The task that a request names, if any, begins with the block and ends with it.

        Raises HANDLE_INVALID, RBAC_PERMISSION_DENIED for a task of somebody else's.
        """
        if not task:
            yield
            return
        api = SessionAPI(self.pipeline, origin, session)
        api("task.set_progress", task, 0.0)
        try:
            yield
        except BaseException as error:
            described = error.description if isinstance(error, Failure) else ["INTERNAL_ERROR", str(error)]
            api("task.set_error_info", task, described)
            api("task.set_status", task, "failure")
            raise
        api("task.set_status", task, "success")

    def require(self, session: Session, action: str, query: Mapping[str, str] = _NOTHING) -> None:
        """Raises RBAC_PERMISSION_DENIED unless the session may use this HTTP action, such as `connect_console`.

        Both is audited, with what `query` names. A sub-action follows its action: `connect_console/host_console`.
        """
        known = model().http_actions[action.partition("/")[0]]
        try:
            if known["checked"]:
                roles.require(session, f"http/{action}")
        except Failure:
            self.pipeline.audit.http(session, action, query, allowed=False)
            raise
        if action not in _SAID_OVER_AND_OVER:
            self.pipeline.audit.http(session, action, query, allowed=True)

    def open(self, origin: Origin) -> Callable[[Login], AbstractContextManager[API]]:
        """What a command uses to get its session: the one it names, or a new one that ends with it."""

        @contextmanager
        def opened(login: Login) -> Iterator[API]:
            if login.session:
                yield SessionAPI(self.pipeline, origin, self.pipeline.sessions.require(login.session))
                return
            session = self.login(
                origin, login.username, login.password, originator=CLI_ORIGINATOR, local=login.local
            )
            try:
                yield SessionAPI(self.pipeline, origin, session)
            finally:
                self.pipeline.sessions.end(session)

        return opened
