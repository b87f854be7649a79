"""Snapshot schedules: runs that fall due are done, also when a restart cuts them short; those long missed are told.

A run is due at the quarters of an hour, in the host's own time zone. What this has looked at is remembered on disk, so
that a schedule made or changed at noon has not missed the morning's run.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from kronos.api import vmss
from kronos.db.records import VMSS
from kronos.dispatch.pipeline import Pipeline
from kronos.system.files import write_whole

log = logging.getLogger(__name__)

LOOKS = 60.0
"""Seconds between two looks, since the clock may be set meanwhile; schedules know quarters of an hour."""

LATE = 15 * 60.0
"""Seconds after which a run that nobody began is missed, and not done any more."""

_KIND = "vmss"
_RECORD = "schedules"


class Schedules:
    """Looks once a minute for runs that are due, on a thread of its own; each run is on one of the tasks' threads."""

    def __init__(self, pipeline: Pipeline, state: Path) -> None:
        self.pipeline = pipeline
        self.db = pipeline.db
        self.intents = pipeline.machine.intents
        self._record = state / _RECORD
        self._closed = threading.Event()
        self._looked: float | None = None
        # Read here, before the daemon's other parts declare intents of their own again.
        self._cut = {name: facts for name, facts in self.intents.left().items() if facts.get("kind") == _KIND}

    def start(self) -> None:
        """Take up what a crash cut short, and look from now on."""
        self.take_up(time.time())
        threading.Thread(target=self._keep, name="schedules", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _keep(self) -> None:
        while not self._closed.is_set():
            try:
                self.look(time.time())
            except Exception:  # the next look is to come all the same
                log.exception("Schedules were not looked at")
            self._closed.wait(LOOKS)

    def take_up(self, moment: float) -> None:
        """Do the runs that were begun and not ended when this daemon was killed."""
        cut, self._cut = self._cut, {}
        for name, facts in cut.items():
            ref = self.db.tables["VMSS"].by_uuid(facts["schedule"])
            schedule = self.db.find(VMSS, ref) if ref is not None else None
            if schedule is None or not self._begin(schedule, float(facts["due"]), moment):
                self.intents.settle(name)

    def look(self, moment: float) -> None:
        """Begin what fell due since the last look, this daemon's or an earlier one's."""
        schedules = self.db.all(VMSS)
        if not schedules:
            self._looked = moment
            self._record.unlink(missing_ok=True)
            return
        time.tzset()  # the host may have been given another time zone
        looked = self._read() if self._looked is None else self._looked
        self._looked = moment
        begun = [self._begin(schedule, due, moment) for schedule, due in self._due(schedules, looked, moment)]
        if begun or looked is None or int(looked // LATE) != int(moment // LATE) or not self._record.exists():
            write_whole(self._record, str(moment).encode())

    def _due(self, schedules: list[VMSS], looked: float | None, moment: float) -> list[tuple[VMSS, float]]:
        if looked is None:
            return []
        found = ((schedule, vmss.due(schedule, looked, moment)) for schedule in schedules)
        return [(schedule, due) for schedule, due in found if due is not None]

    def _read(self) -> float | None:
        try:
            return float(self._record.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _begin(self, schedule: VMSS, due: float, moment: float) -> bool:
        """Whether the run is done, under an intent; where it is too late it is told."""
        if moment - due >= LATE:
            body = f"The run of {time.strftime('%Y-%m-%d %H:%M', time.localtime(due))} was missed"
            vmss.alert(self.db, schedule, "VMSS_SNAPSHOT_MISSED_EVENT", body)
            return False
        log.info("Schedule %s is due", schedule.uuid)
        facts = {"kind": _KIND, "schedule": schedule.uuid, "due": str(due)}
        with ExitStack() as declared:
            declared.enter_context(self.intents.declared(f"{_KIND}-{schedule.uuid}-{int(due)}", facts))
            self.pipeline.task_workers.submit(self._run, schedule, declared.pop_all())
        return True

    def _run(self, schedule: VMSS, declared: ExitStack) -> None:
        with declared:
            try:
                vmss.run(self.pipeline, schedule)
            except Exception:  # nobody waits for it who could be told
                log.exception("Schedule %s", schedule.uuid)
