"""Observers: the spans of calls that ended, sent on together a little later, or written to a file."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path

from kronos.api import observer
from kronos.db.records import Host, Observer, Pool
from kronos.dispatch.appointments import Appointments
from kronos.dispatch.pipeline import Pipeline
from kronos.rules import tracing
from kronos.rules.tracing import Span
from kronos.system.posting import PostFailed, post

log = logging.getLogger(__name__)

INTERVAL = 2.0
"""Seconds that a span waits for others that are sent with it."""
BATCH = 2000
FILE_MOST = 16 << 20
"""Bytes of a file of spans; the one before it is kept beside it."""
COMPLAINTS = 300.0
"""Seconds between two lines in the log about spans that nobody took."""


class Observers:
    """Sends what the tracer keeps to the endpoints of everybody who observes this host."""

    def __init__(self, pipeline: Pipeline, state: Path) -> None:
        self.pipeline = pipeline
        self.db = pipeline.db
        self.tracer = pipeline.tracer
        self.file = state / "dt" / "spans.ndjson"
        self._appointments = Appointments("spans", 1)
        self._guard = threading.Lock()
        self._appointed = False
        self._complained = -COMPLAINTS
        self.tracer.told = self._told
        observer.resume(pipeline)

    def _told(self) -> None:
        if self._appointed:
            return
        with self._guard:
            if self._appointed:
                return
            self._appointed = True
        self._appointments.make(INTERVAL, self.flush)

    def flush(self) -> None:
        """Send everything that waits."""
        self._appointed = False
        observers = observer.observing(self.db, self.pipeline.machine.host_ref)
        while spans := self.tracer.take(BATCH):
            for row in observers:
                for endpoint in row.endpoints or (tracing.FILE,):
                    self._send(endpoint, spans, self._attributes(row))

    def _attributes(self, row: Observer) -> dict[str, str]:
        host = self.db.find(Host, self.pipeline.machine.host_ref)
        pool = next(iter(self.db.all(Pool)), None)
        known = {"xs.observer.name": row.name_label, "xs.observer.uuid": row.uuid}
        if host is not None:
            known |= {"xs.host.name": host.name_label, "xs.host.uuid": host.uuid}
        if pool is not None:
            known |= {"xs.pool.uuid": pool.uuid}
        return known | row.attributes

    def _send(self, endpoint: str, spans: list[Span], attributes: dict[str, str]) -> None:
        try:
            if endpoint == tracing.FILE:
                self._write(spans, attributes)
            else:
                made = tracing.otlp if tracing.is_otlp(endpoint) else tracing.zipkin
                post(endpoint, json.dumps(made(spans, attributes)).encode(), "application/json")
        except (PostFailed, OSError) as error:
            if time.monotonic() - self._complained >= COMPLAINTS:
                self._complained = time.monotonic()
                lost = len(spans) + self.tracer.lost
                log.warning("%d spans of calls were lost: %s", lost, error)

    def _write(self, spans: list[Span], attributes: dict[str, str]) -> None:
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.file.exists() and self.file.stat().st_size > FILE_MOST:
            self.file.replace(self.file.with_suffix(".1.ndjson"))
        lines = (json.dumps(each) + "\n" for each in tracing.zipkin(spans, attributes))
        with self.file.open("a") as file:
            file.writelines(lines)
