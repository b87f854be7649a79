"""The crash dumps of this host's kernel, as records."""

from __future__ import annotations

from pathlib import Path

from kronos.datamodel.types import at
from kronos.db.database import Database
from kronos.db.records import Host, Host_crashdump
from kronos.system import crashes


def refresh(db: Database, host: Host, place: Path = crashes.PLACE) -> None:
    """A record for each dump that there is, and none for those that are gone."""
    there = {dump.name: dump for dump in crashes.dumps(place)}
    with db.transaction():
        for row in db.all(Host_crashdump):
            if row.host == host.ref and there.pop(row.filename, None) is None:
                db.delete(row)
        for dump in there.values():
            db.create(
                Host_crashdump, host=host.ref, filename=dump.name, timestamp=at(dump.made), size=dump.size
            )
