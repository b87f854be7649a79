"""Allowed operations are not kept on disk: after a start every row's are derived anew."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice

from kronos.db.database import Database
from kronos.db.record import Record
from kronos.rules import operations

AT_ONCE = 1000
"""Rows derived before the doors open; those of a larger database follow while it serves."""
CHUNK = 100


def refresh(db: Database) -> None:
    """Derive allowed_operations of every row: of the first ones before this returns, of the rest soon after."""
    rows = iter([row for name in operations.RULES for row in db.tables[name].rows.values()])
    operations.refresh(db, islice(rows, AT_ONCE))
    threading.Thread(target=_rest, args=(db, rows), name="operations", daemon=True).start()


def _rest(db: Database, rows: Iterator[Record]) -> None:
    while chunk := list(islice(rows, CHUNK)):
        with db.transaction():
            operations.refresh(db, (row for row in chunk if row.ref in db.rows))
