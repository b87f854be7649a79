"""Sessions: who is logged in, and for how long."""

from __future__ import annotations

import time
import uuid as uuids
from collections.abc import Callable

from kronos.datamodel.errors import Failure
from kronos.datamodel.model import model
from kronos.datamodel.types import NULL, at, now
from kronos.db.database import Database
from kronos.db.record import stored_defaults
from kronos.db.records import Session
from kronos.dispatch.call import Origin

INACTIVITY = 24 * 3600.0
REFRESH = 600.0
FAILED_LOGIN_DELAY = 5.0
PER_ORIGINATOR = 500
PER_USER = 500


class Sessions:
    """The sessions of this host. They live in memory: a restart ends them, and clients log in again."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self.db = db
        self.clock = clock
        self._used: dict[str, float] = {}
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
        used = self._used.get(ref, moment)
        if moment - used > REFRESH:
            if moment - used > INACTIVITY:
                self.end(row)
                raise Failure("SESSION_INVALID", ref)
            self._used[ref] = moment
            row.last_active = at(moment)
        return row

    def begin(
        self,
        *,
        user: str,
        host: str,
        origin: Origin,
        originator: str,
        superuser: bool = True,
        permissions: tuple[str, ...] = (),
        subject: str = NULL,
        sid: str = "",
        pool: bool = False,
    ) -> Session:
        """Log somebody in whose password was checked. Old sessions beyond the limits end."""
        self._make_room(user, originator)
        row = self.db.create(
            Session,
            this_host=host,
            last_active=now(),
            pool=pool,
            is_local_superuser=superuser,
            subject=subject,
            validation_time=now(),
            auth_user_sid=sid,
            auth_user_name=user,
            rbac_permissions=permissions,
            originator=originator or origin.user_agent,
        )
        self._used[row.ref] = self.clock()
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
        """Log out: whatever waits on this session is woken and told SESSION_INVALID."""
        self._local.pop(row.ref, None)
        self._used.pop(row.ref, None)
        self.db.delete(row)

    def expire(self) -> None:
        """End every session that was idle for a day; called when a session begins."""
        limit = self.clock() - INACTIVITY
        for row in self.db.all(Session):
            if self._used.get(row.ref, limit) < limit:
                self.end(row)

    def _make_room(self, user: str, originator: str) -> None:
        self.expire()
        for field, value, limit in (
            ("originator", originator, PER_ORIGINATOR),
            ("auth_user_name", user, PER_USER),
        ):
            alike = [row for row in self.db.all(Session) if getattr(row, field) == value]
            if len(alike) < limit:
                continue
            idle = sorted(
                (row for row in alike if not row.tasks), key=lambda row: self._used.get(row.ref, 0.0)
            )
            for row in idle[: len(alike) - limit + 1]:
                self.end(row)
