"""Fetching the package lists by itself, as often as the pool asks for it."""

from __future__ import annotations

import logging
import threading
import time

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import seconds_of
from kronos.db.records import Pool
from kronos.dispatch.pipeline import Pipeline
from kronos.rules import updates

log = logging.getLogger(__name__)

LOOKS = 3600.0
"""Seconds between two looks, and after a failure until the next try."""


class UpdateSync:
    """Looks once an hour whether a day has come on which the lists are to be fetched."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def start(self) -> None:
        threading.Thread(target=self._keep, name="update-sync", daemon=True).start()

    def _keep(self) -> None:
        while True:
            time.sleep(LOOKS)
            self.look(time.time())

    def look(self, moment: float) -> None:
        """Fetch the lists if that is due."""
        for pool in self.pipeline.db.all(Pool):
            if not updates.is_sync_due(pool, seconds_of(pool.last_update_sync), moment):
                continue
            try:
                self.pipeline.perform_internal("Async.pool.sync_updates", pool.ref, False, "", "", "", "")
            except Failure as failure:
                log.warning("Updates were not looked for: %s", failure)
