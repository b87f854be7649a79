"""Sessions: who is logged in, and for how long."""

from __future__ import annotations

import random
import threading
import time
import uuid as uuids
from collections.abc import Callable, Iterable
from typing import Final

from kronos.datamodel.errors import Failure
from kronos.datamodel.model import model
from kronos.datamodel.types import NULL, at, now
from kronos.db.database import Database
from kronos.db.record import stored_defaults
from kronos.db.records import Session, Task
from kronos.dispatch.call import Origin

INACTIVITY: Final = 24 * 3600.0
REFRESH: Final = 600.0
"""Seconds between two writings of last_active; who was used least lately is known exactly."""
REVALIDATION: Final = 1800.0
"""Seconds after which a directory's user is looked at again, and up to a third more: not all of them at once."""
PER_ORIGINATOR: Final = 500
PER_USER: Final = 500
ANONYMOUS: Final = 400
OF_POOL: Final = 400
MOST: Final = 10_000
"""Sessions from the network at all: an originator may be anything that a client says."""

LONGEST: Final = 256
"""Characters of an originator."""

Group = tuple[bool, str, str]
"""Sessions that make room for each other: from the Unix socket or not, of what kind, and whose."""

_NOBODY: Final[Group] = (True, "", "")


class Sessions:
    """The sessions of this host. They live in memory: a restart ends them, and clients log in again."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self.db = db
        self.clock = clock
        self.revalidation = REVALIDATION
        self.on_begin: list[Callable[[Session], None]] = []
        self.on_end: list[Callable[[Session], None]] = []
        self._guard = threading.RLock()  # sessions begin on the loop and end on any thread
        # Least recently used first: a session that is used is put in anew, at the end.
        self._used: dict[str, float] = {}
        self._written: dict[str, float] = {}
        self._groups: dict[str, Group] = {}
        self._members: dict[Group, dict[str, None]] = {}  # in the same order
        self._remote = 0
        self._subjects: dict[str, frozenset[str]] = {}
        self._due: dict[str, float] = {}
        self._local: dict[str, Session] = {}

    def require(self, ref: str, call: str = "") -> Session:
        """The session of that reference, alive. A local one serves the emergency calls alone.

        Raises SESSION_INVALID [ref].
        """
        row = self.db.rows.get(ref)
        if type(row) is not Session:
            if ref in self._local and call in model().emergency_calls:
                return self._local[ref]
            raise Failure("SESSION_INVALID", ref)
        moment = self.clock()
        if moment - self._used.pop(ref, moment) > INACTIVITY:
            self.end(row)
            raise Failure("SESSION_INVALID", ref)
        self._used[ref] = moment
        members = self._members.get(self._groups.get(ref, _NOBODY))
        if members is not None and members.pop(ref, False) is None:
            members[ref] = None
        if moment - self._written.get(ref, 0.0) > REFRESH:
            self._written[ref] = moment
            row.last_active = at(moment)
        return row

    def alive(self, row: Session) -> bool:
        """Whether a session that was found earlier has not ended since."""
        return self.db.rows.get(row.ref) is row or row.ref in self._local

    def begin(
        self,
        *,
        user: str,
        host: str,
        origin: Origin,
        originator: str,
        superuser: bool = True,
        permissions: tuple[str, ...] = (),
        subjects: tuple[str, ...] = (),
        sid: str = "",
        pool: bool = False,
        certificate: bool = False,
    ) -> Session:
        """Log somebody in whose password or `certificate` was checked. Old sessions beyond the limits end.

        `subjects` are those that the rights come from, if any: the session ends with any of them.
        """
        said = (originator or origin.user_agent)[:LONGEST]
        group = _group(origin.local, pool, user, said)
        with self._guard:
            self._make_room(group)
        row = self.db.create(
            Session,
            this_host=host,
            last_active=now(),
            pool=pool,
            is_local_superuser=superuser,
            subject=subjects[0] if subjects else NULL,
            validation_time=now(),
            auth_user_sid=sid,
            auth_user_name=user,
            rbac_permissions=permissions,
            originator=said,
            client_certificate=certificate,
        )
        moment = self.clock()
        with self._guard:
            self._used[row.ref] = self._written[row.ref] = moment
            self._groups[row.ref] = group
            self._members.setdefault(group, {})[row.ref] = None
            self._remote += not origin.local
        if subjects:
            self._subjects[row.ref] = frozenset(subjects)
            self._due[row.ref] = self._next_look()
        for hook in self.on_begin:
            hook(row)
        return row

    def begin_local(self, user: str, host: str) -> Session:
        """A session of this host alone, kept outside the database."""
        fields = stored_defaults(Session.kind) | {
            "uuid": str(uuids.uuid4()),
            "this_host": host,
            "is_local_superuser": True,
            "auth_user_name": user,
            "last_active": now(),
        }
        row = Session(self.db, f"OpaqueRef:{uuids.uuid4()}", fields, 0)
        while len(self._local) >= PER_USER:
            del self._local[next(iter(self._local))]
        self._local[row.ref] = row
        return row

    def local(self, ref: str) -> Session:
        """A session of begin_local. Raises SESSION_INVALID."""
        row = self._local.get(ref)
        if row is None:
            raise Failure("SESSION_INVALID", ref)
        return row

    def end(self, row: Session) -> None:
        """Log out: whatever waits on this session is woken and told SESSION_INVALID. What it started runs on."""
        if self._local.pop(row.ref, None) is not None:
            return
        if self.db.rows.get(row.ref) is row:
            for hook in self.on_end:
                hook(row)
        self._forget(row.ref)
        self.db.delete(row)

    def _forget(self, ref: str) -> None:
        self._used.pop(ref, None)
        self._written.pop(ref, None)
        self._subjects.pop(ref, None)
        self._due.pop(ref, None)
        with self._guard:
            group = self._groups.pop(ref, None)
            if group is not None:
                self._remote -= not group[0]
                members = self._members[group]
                members.pop(ref, None)
                if not members:
                    del self._members[group]

    def is_remote(self, row: Session) -> bool:
        """Whether somebody came over the network, not through the Unix socket."""
        group = self._groups.get(row.ref)
        return group is not None and not group[0]

    def expire(self) -> None:
        """End every session that was idle for a day; called when a session begins."""
        limit = self.clock() - INACTIVITY
        if next(iter(self._used.values()), limit) >= limit:
            return
        for ref, used in list(self._used.items()):
            if used >= limit:
                break
            self._end(ref)

    def _end(self, ref: str) -> None:
        row = self.db.find(Session, ref)
        if row is None:
            self._forget(ref)
        else:
            self.end(row)

    # --- users of a directory --------------------------------------------------------------------------------

    def external(self) -> list[Session]:
        """The sessions of the directory's users, oldest first."""
        return [row for ref in list(self._subjects) if (row := self.db.find(Session, ref)) is not None]

    def subjects_of(self, row: Session) -> frozenset[str]:
        """References of the subjects that a session's rights come from."""
        return self._subjects.get(row.ref, frozenset())

    def end_of_subject(self, subject: str) -> None:
        """End every session that has rights from a subject which goes."""
        self.end_all(row for row in self.external() if subject in self.subjects_of(row))

    def end_all(self, rows: Iterable[Session]) -> None:
        for row in list(rows):
            self.end(row)

    def due(self) -> list[Session]:
        """The sessions whose users are to be looked at again."""
        moment = self.clock()
        return [row for row in self.external() if self._due.get(row.ref, 0.0) <= moment]

    def validated(self, row: Session, subjects: tuple[str, ...]) -> None:
        """A session's user may stay, for these subjects."""
        self._due[row.ref] = self._next_look()
        self.db.write(row, {"validation_time": now(), "subject": subjects[0]})

    def _next_look(self) -> float:
        # Nobody gains by guessing it.
        return self.clock() + self.revalidation + random.uniform(0, self.revalidation / 3)  # noqa: S311

    # --- limits ----------------------------------------------------------------------------------------------

    def _make_room(self, group: Group) -> None:
        self.expire()
        members = self._members.get(group, {})
        beyond = len(members) - _LIMITS[group[1]] + 1
        if beyond > 0:
            self._end_idle(beyond, list(members))
        if not group[0] and self._remote >= MOST:
            remote = (ref for ref in list(self._used) if not self._groups.get(ref, _NOBODY)[0])
            self._end_idle(self._remote - MOST + 1, remote)

    def _end_idle(self, number: int, refs: Iterable[str]) -> None:
        """End the first of these, which were used least recently; those whose tasks still run stay."""
        for ref in refs:
            if number <= 0:
                return
            if not self._has_work(ref):
                self._end(ref)
                number -= 1

    def _has_work(self, ref: str) -> bool:
        row = self.db.find(Session, ref)
        tasks = row.tasks if row is not None else ()
        return any(
            (task := self.db.find(Task, each)) is not None and task.status == "pending" for each in tasks
        )


_LIMITS: Final = {
    "pool": OF_POOL,
    "anonymous": ANONYMOUS,
    "originator": PER_ORIGINATOR,
    "user": PER_USER,
}


def _group(local: bool, pool: bool, user: str, originator: str) -> Group:
    """Root's sessions are counted by their originator, others by their user."""
    if pool:
        return local, "pool", ""
    if user not in ("", "root"):
        return local, "user", user
    return (local, "originator", originator) if originator else (local, "anonymous", "")
