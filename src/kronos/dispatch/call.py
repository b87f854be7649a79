"""Call: one request in flight — who asks, the database, this host's drivers, the task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kronos.datamodel.errors import Failure
from kronos.datamodel.model import Message
from kronos.db.database import Database
from kronos.db.records import Host, Session
from kronos.dispatch.task import Task

if TYPE_CHECKING:
    from kronos.dispatch.audit import Entry
    from kronos.dispatch.machine import Machine
    from kronos.dispatch.pipeline import Pipeline


@dataclass(slots=True, frozen=True)
class Origin:
    """Where a request came from. `local` is the Unix socket, which only root can open: no password is needed."""

    local: bool = False
    address: str = ""
    tls: bool = False
    user_agent: str = ""
    names: tuple[str, ...] = ()
    """Whom the client's certificate is for, where it showed one that an authority of the pool's has signed."""
    traceparent: str = ""
    """The W3C header that makes a call a part of the client's own trace; not checked."""


INTERNAL = Origin(local=True, address="internal")


@dataclass(slots=True)
class Call:
    """What a handler gets. `session` is None only for the messages that take none (login)."""

    db: Database
    machine: Machine
    pipeline: Pipeline
    origin: Origin
    message: Message
    session: Session | None
    task: Task
    entry: Entry | None = None
    """What the audit log is to say of it, written when it has ended."""

    @property
    def host(self) -> Host:
        """This host's own record."""
        return self.db.get(Host, self.machine.host_ref)

    @property
    def user(self) -> Session:
        """The caller's session. Raises SESSION_INVALID where there is none."""
        if self.session is None:
            raise Failure("SESSION_INVALID", "")
        return self.session

    def invoke(self, name: str, *args: object) -> Any:
        """Make another XenAPI call as a part of this one, on this thread; returns the value."""
        return self.pipeline.invoke(self, name, args)
