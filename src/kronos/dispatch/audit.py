"""Audit: one line for each call that changes something, allowed or denied, with who, what and how it ended.

What a line shows of a call's arguments is picked: names, and references with the name and uuid behind them. Nothing
else of what a client sent is written, so that no secret is; a session is shown by a hash of its reference.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

from kronos.datamodel.errors import Failure
from kronos.datamodel.model import Message
from kronos.datamodel.types import NULL
from kronos.db.database import Database
from kronos.db.record import Record
from kronos.db.records import Session, Subject
from kronos.dispatch.sessions import Sessions
from kronos.rules.redaction import without_passwords
from kronos.system.audit_file import NoSink, Sink, stamped

log = logging.getLogger(__name__)

_SILENT: Final = frozenset(
    {"session.logout", "session.local_logout", "event.next", "event.from", "host.tickle_heartbeat"}
)
"""The first two end sessions, which have a line of their own; the others are said over and over, and change nothing."""
_NAMES: Final = frozenset(
    {"name", "label", "description", "name_label", "name_description", "new_name", "key", "hostname"}
)
"""Parameters and fields of any call that are shown as they are."""
_SHOWN: Final[Mapping[str, frozenset[str]]] = {
    "host.create": frozenset({"address", "external_auth_type", "external_auth_service_name", "edition"}),
    "VM.create": frozenset(
        {
            "is_a_template",
            "memory_target",
            "memory_static_max",
            "memory_dynamic_max",
            "memory_dynamic_min",
            "memory_static_min",
            "ha_always_run",
            "ha_restart_priority",
        }
    ),
    "VM.pool_migrate": frozenset({"live"}),
    "VM.start": frozenset({"start_paused", "force"}),
    "VM.start_on": frozenset({"start_paused", "force"}),
    "pool.create_VLAN": frozenset({"device", "VLAN"}),
    "pool.join": frozenset({"master_address"}),
    "pool.join_force": frozenset({"master_address"}),
    "pool.enable_external_auth": frozenset({"service_name", "auth_type"}),
    "host.enable_external_auth": frozenset({"service_name", "auth_type"}),
    "host.call_plugin": frozenset({"plugin", "fn"}),
    "subject.create": frozenset({"subject_identifier"}),
    "session.logout_subject_identifier": frozenset({"subject_identifier"}),
    "message.create": frozenset({"cls", "obj_uuid"}),
    "secret.introduce": frozenset({"uuid"}),
}
"""Parameters of single calls that are too."""
_OF_QUERIES: Final = frozenset({"uuid", "sr_uuid", "vm_uuid", "host_uuid", "since", "format"})
"""What HTTP actions are about, where it is no reference."""
_LONGEST: Final = 256
"""Characters of a name."""
_LONGEST_RESULT: Final = 1024
_REFERENCE: Final = re.compile(r"OpaqueRef:[0-9a-fA-F-]{36}")


def changes_something(message: Message) -> bool:
    """Whether calls of a message are audited: every one but the getters, and a few that say nothing."""
    return not message.name.startswith("get_") and message.full_name not in _SILENT


class Entry:
    """One call that is under way; it is written when it is known how it ended.

    What the arguments name is read at the beginning: afterwards a destroyed object has no name any more.
    """

    __slots__ = ("audit", "session", "about", "name", "shown")

    def __init__(self, audit: Audit, session: Session | None, about: str, name: str, shown: str) -> None:
        self.audit = audit
        self.session = session
        self.about = about
        self.name = name
        self.shown = shown

    def ended(self, failure: str = "", *, allowed: bool = True) -> None:
        """`allowed`: not where the handler itself found that the caller may not: another's task, say."""
        self.audit.write(
            self.session,
            "ALLOWED" if allowed else "DENIED",
            f"ERROR:{self.audit.harmless(failure)}" if failure else "OK",
            self.name,
            self.shown,
            self.about,
        )

    def denied(self) -> None:
        self.audit.write(self.session, "DENIED", "", self.name, self.shown, self.about)


@contextmanager
def recorded(entry: Entry | None) -> Iterator[None]:
    """Write the entry when the block has ended, by how it did."""
    if entry is None:
        yield
        return
    try:
        yield
    except Failure as failure:
        entry.ended(str(failure), allowed=failure.code != "RBAC_PERMISSION_DENIED")
        raise
    except BaseException as error:
        entry.ended(f"INTERNAL_ERROR({type(error).__name__})")
        raise
    entry.ended()


class Audit:
    """Writes the lines. It is never in a call's way: what goes wrong here is logged, and the call goes on."""

    def __init__(self, db: Database, sink: Sink | None = None) -> None:
        self.db = db
        self.sink = sink or NoSink()

    def follow(self, sessions: Sessions) -> None:
        """Write of each session over the network when it begins and when it ends. What comes through the Unix socket
        is root's own, a session for each command that only looks."""

        def told(action: str) -> Callable[[Session], None]:
            return lambda row: self._session(row, action) if sessions.is_remote(row) else None

        sessions.on_begin.append(told("session.create"))
        sessions.on_end.append(told("session.destroy"))

    def begin(self, session: Session | None, message: Message, arguments: Sequence[Any], about: str) -> Entry:
        """The entry of a call that begins."""
        try:
            shown = self._shown(message, [param.name for param in message.params], arguments)
        except Exception:  # what is only to be shown stops no call
            log.exception("the arguments of %s cannot be shown in the audit log", message.full_name)
            shown = ""
        return Entry(self, session, about, message.full_name, shown)

    def http(self, session: Session, action: str, query: Mapping[str, str], *, allowed: bool) -> None:
        """An HTTP action that begins, or is denied."""
        named = (self._argument(name, value, name in _OF_QUERIES) for name, value in query.items())
        shown = " ".join(filter(None, named))
        result = "OK" if allowed else ""
        self.write(session, "ALLOWED" if allowed else "DENIED", result, f"http/{action}", shown, "")

    def login(self, user: str, originator: str, address: str, failure: Failure) -> None:
        """A login that was refused: there is no session to name."""
        shown = " ".join(
            _quoted_four(name, value)
            for name, value in (("uname", user), ("originator", originator), ("address", address))
        )
        self.write(None, "DENIED", f"ERROR:{failure.code}", "session.login_with_password", shown, "", user)

    def _session(self, row: Session, action: str) -> None:
        shown = _quoted_four("originator", row.originator)
        if action == "session.create":
            shown = f"{_quoted_four('uname', row.auth_user_name)} {shown}"
        self.write(row, "ALLOWED", "OK", action, shown, "")

    def write(
        self,
        session: Session | None,
        allowed: str,
        result: str,
        name: str,
        shown: str,
        about: str,
        user: str = "",
    ) -> None:
        kind = "HTTP" if name.startswith("http/") else "API"
        came_of_it = f"'{allowed}' {_quoted(result, _LONGEST_RESULT)}"
        text = f"({_who(session, user)} {came_of_it} '{kind}' {_quoted(name)} ({shown}))"
        self.sink.append(stamped(about, text))

    # --- arguments -------------------------------------------------------------------------------------------

    def _shown(self, message: Message, names: Sequence[str], arguments: Sequence[Any]) -> str:
        chosen = _SHOWN.get(message.full_name, frozenset())
        parts: list[str] = []
        for name, value in zip(names, arguments, strict=False):
            if isinstance(value, dict) and message.kind == "ctor":
                parts += [self._argument(each, item, each in chosen) for each, item in value.items()]
            else:
                parts.append(self._argument(name, value, name in chosen))
        return " ".join(filter(None, parts))

    def _argument(self, name: str, value: Any, chosen: bool) -> str:
        if name == "session_id":
            return ""
        if chosen or name in _NAMES:
            if isinstance(value, bool):
                value = str(value).lower()
            return (
                _quoted_four(name, self.harmless(str(value))) if isinstance(value, str | int | float) else ""
            )
        if not isinstance(value, str):
            return ""
        row = self.db.rows.get(value)
        if row is not None:
            return self._object(name, row)
        if value.startswith("OpaqueRef:") and value != NULL:
            # Unknown, and perhaps a session that has ended: a hash of it is all that is shown.
            return _quoted_four(name, "", "", _track(value))
        return ""

    def harmless(self, text: str) -> str:
        """What a client may have said, without what opens something: sessions that are alive, passwords in URLs."""
        if "OpaqueRef:" in text:
            text = _REFERENCE.sub(self._unless_a_session, text)
        return without_passwords(text)

    def _unless_a_session(self, found: re.Match[str]) -> str:
        return _track(found[0]) if isinstance(self.db.rows.get(found[0]), Session) else found[0]

    def _object(self, name: str, row: Record) -> str:
        if isinstance(row, Session):
            return _quoted_four(name, row.auth_user_name, "", _track(row.ref))
        if isinstance(row, Subject):
            label = row.other_config.get("subject-name", "")
        else:
            label = str(row.stored().get("name_label", ""))
        return _quoted_four(name, label, str(row.stored().get("uuid", "")), row.ref)


def _who(session: Session | None, user: str) -> str:
    if session is None:
        return f"'' '' {_quoted(user)}"
    if session.is_local_superuser:
        sid = "LOCAL_SUPERUSER"
    else:
        sid = session.auth_user_sid
    return f"'{_track(session.ref)}' {_quoted(sid)} {_quoted(session.auth_user_name)}"


@lru_cache(4096)
def _track(ref: str) -> str:
    """A name for a session that does not open it, the same in every line."""
    return f"trackid={hashlib.md5(ref.encode('utf-8', 'replace'), usedforsecurity=False).hexdigest()}"


def _quoted_four(name: str, *values: str) -> str:
    """`('name' 'label' 'uuid' 'reference')`."""
    return f"({' '.join(map(_quoted, (name, *values, *('',) * (3 - len(values)))))})"


def _quoted(text: str, longest: int = _LONGEST) -> str:
    if len(text) > longest:
        text = f"{text[:longest]}…"
    if text.isidentifier():
        return f"'{text}'"
    safe = text.replace("\\", "\\\\").replace("'", "\\'")
    if not safe.isprintable():
        safe = "".join(letter if letter.isprintable() else " " for letter in safe)
    return f"'{safe}'"
