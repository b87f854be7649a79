"""Observer: who is told of the calls that this host serves, as spans of OpenTelemetry."""

from __future__ import annotations

from typing import Any

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import Host, Observer
from kronos.dispatch.call import Call
from kronos.dispatch.fields import constructor_fields
from kronos.dispatch.pipeline import Pipeline
from kronos.dispatch.registry import message
from kronos.rules import tracing


def observing(db: Database, host: str) -> list[Observer]:
    """The observers of a host that are told of its calls."""
    return [
        row
        for row in db.all(Observer)
        if row.enabled
        and (not row.hosts or host in row.hosts)
        and (not row.components or tracing.OURS in row.components)
    ]


def resume(pipeline: Pipeline) -> None:
    """Trace calls from now on if anybody observes them; after each change of an observer, and at the start."""
    pipeline.tracer.on = bool(observing(pipeline.db, pipeline.machine.host_ref))


def _write(call: Call, ref: str, **fields: Any) -> None:
    call.db.write(call.db.get(Observer, ref), fields)
    resume(call.pipeline)


def _assert_hosts(db: Database, hosts: tuple[str, ...]) -> None:
    for ref in hosts:
        if db.find(Host, ref) is None:
            raise Failure("INVALID_VALUE", "host", ref)


@message("Observer.create")
def create(call: Call, args: dict[str, Any]) -> str:
    """Raises INVALID_VALUE ["component" | "endpoint" | "host" | "attributes", value]."""
    fields = constructor_fields("Observer", args)
    tracing.assert_components(fields["components"])
    tracing.assert_endpoints(fields["endpoints"])
    _assert_hosts(call.db, fields["hosts"])
    tracing.assert_attributes(fields["attributes"])
    row = call.db.create(Observer, **fields)
    resume(call.pipeline)
    return row.ref


@message("Observer.destroy")
def destroy(call: Call, self: str) -> None:
    call.db.delete(call.db.get(Observer, self))
    resume(call.pipeline)


@message("Observer.register")
def register(call: Call, self: str, host: str) -> None:
    """Have a host look at its observers anew."""
    call.db.get(Observer, self)
    call.db.get(Host, host)
    resume(call.pipeline)


@message("Observer.unregister")
def unregister(call: Call, self: str, host: str) -> None:
    """The same: a host is observed by those that are enabled for it."""
    register(call, self, host)


@message("Observer.set_enabled")
def set_enabled(call: Call, self: str, value: bool) -> None:
    _write(call, self, enabled=value)


@message("Observer.set_hosts")
def set_hosts(call: Call, self: str, value: tuple[str, ...]) -> None:
    """The hosts whose calls are traced; none for all. Raises INVALID_VALUE ["host", host]."""
    _assert_hosts(call.db, value)
    _write(call, self, hosts=value)


@message("Observer.set_attributes")
def set_attributes(call: Call, self: str, value: dict[str, str]) -> None:
    """What every span says beside its own. Raises INVALID_VALUE ["attributes", "key:value"]."""
    tracing.assert_attributes(value)
    _write(call, self, attributes=value)


@message("Observer.set_endpoints")
def set_endpoints(call: Call, self: str, value: tuple[str, ...]) -> None:
    """Where spans are sent: URLs, or `bugtool` for a file. Raises INVALID_VALUE ["endpoint", url]."""
    tracing.assert_endpoints(value)
    _write(call, self, endpoints=value)


@message("Observer.set_components")
def set_components(call: Call, self: str, value: tuple[str, ...]) -> None:
    """Whose calls are traced; none for all. Raises INVALID_VALUE ["component", name]."""
    tracing.assert_components(value)
    _write(call, self, components=value)
