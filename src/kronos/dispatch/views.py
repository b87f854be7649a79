"""Views: sessions that see another database than this host's, and only look at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import Session
from kronos.dispatch.call import Call
from kronos.dispatch.fields import implied
from kronos.dispatch.registry import Handler
from kronos.dispatch.sessions import Sessions

if TYPE_CHECKING:
    from kronos.dispatch.pipeline import Route

MOST: Final = 4
"""Databases that are open at once, each of them in memory; the oldest makes room."""
_READING: Final = frozenset(
    {
        "field_get",
        "get_record",
        "get_by_uuid",
        "get_by_name_label",
        "get_all",
        "get_all_records",
        "get_all_where",
        "get_all_records_where",
    }
)
_ASKED: Final = frozenset(
    {
        "VM.assert_can_boot_here",
        "VM.get_allowed_VBD_devices",
        "VM.get_allowed_VIF_devices",
        "VM.get_boot_record",
        "VM.get_cooperative",
        "VM.get_possible_hosts",
        "message.get",
        "message.get_all",
        "message.get_all_records",
        "message.get_all_records_where",
        "message.get_by_uuid",
        "message.get_record",
        "message.get_since",
        "pool.get_license_state",
    }
)
"""Messages whose handlers ask nothing but the database of their call."""
_OF_THE_DAEMON: Final = frozenset({"role", "session"})
"""Classes that are this daemon's whatever a session sees: its roles, and the session itself."""


class View:
    """How a session with a database of its own is served."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._routes: dict[str, Route] = {}

    def route(self, route: Route) -> Route:
        """The way of a method in this view. Raises OPERATION_NOT_ALLOWED [text] for one that asks more than rows."""
        message = route.message
        if message.cls in _OF_THE_DAEMON:
            return route
        found = self._routes.get(message.full_name) or self._made(route)
        if found is None or route.asynchronous:
            text = f"{message.full_name}: this session sees a database that is no host's"
            raise Failure("OPERATION_NOT_ALLOWED", text)
        self._routes[message.full_name] = found
        return found

    def _made(self, route: Route) -> Route | None:
        message, handler = route.message, route.handler
        if route.implied is not None and message.kind in _READING:
            return replace(route, implied=implied(self.db, message), audited=False)
        if handler is not None and message.full_name in _ASKED:
            return replace(route, handler=self._elsewhere(handler), audited=False)
        return None

    def _elsewhere(self, handler: Handler) -> Handler:
        function: Callable[..., Any] = handler.function

        def asked(call: Call, *arguments: Any) -> Any:
            return function(replace(call, db=self.db), *arguments)

        return replace(handler, function=asked)


class Views:
    """The views there are, by their sessions' references."""

    def __init__(self, sessions: Sessions) -> None:
        self.of: dict[str, View] = {}
        self._sessions = sessions
        sessions.on_end.append(lambda row: self._forget(row.ref))

    def open(self, session: Session, db: Database) -> None:
        """Have a session see that database until it ends. The oldest views' sessions end where there are too many."""
        self.of[session.ref] = View(db)
        for ref in list(self.of)[:-MOST]:
            row = self._sessions.db.find(Session, ref)
            if row is not None:
                self._sessions.end(row)
            self._forget(ref)

    def _forget(self, ref: str) -> None:
        self.of.pop(ref, None)
