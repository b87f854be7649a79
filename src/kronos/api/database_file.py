"""session: one that sees the rows of a dumped database instead of this host's."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Generator
from contextlib import closing
from typing import Final

from kronos.datamodel.errors import Failure
from kronos.db import dump
from kronos.db.database import Database
from kronos.db.dump import NotADump
from kronos.db.records import KINDS
from kronos.dispatch import roles
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message

USER: Final = "db-from-file"
MOST: Final = 128 << 20
"""Bytes of a dump that is looked at: its rows take several times as much in memory."""
_STEP: Final = 256 << 10
_REFERENCE: Final = re.compile(r"[A-Za-z0-9:_.|/-]{1,256}")


@message("session.create_from_db_file")
def create_from_db_file(call: Call, filename: str) -> str:
    """A session with the role read-only for which the database is that of a dump, a file of this host's.

    Nobody but root may call this. Raises INVALID_VALUE ["filename", text] for what cannot be read, or is no dump.
    """
    db = _loaded(filename)
    session = call.pipeline.sessions.begin(
        user=USER,
        host=call.machine.host_ref,
        origin=call.origin,
        originator="xapi",
        superuser=False,
        permissions=roles.permissions_of("read-only"),
        sid="readonly-sid",
    )
    call.pipeline.views.open(session, db)
    return session.ref


def _loaded(untrusted_path: str) -> Database:
    try:
        with closing(_parts(untrusted_path)) as parts:
            found = dump.read(parts)
        return _database(found)
    except (OSError, ValueError, NotADump) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Failure("INVALID_VALUE", "filename", f"{untrusted_path}: {reason}") from error


def _parts(untrusted_path: str) -> Generator[bytes, None, None]:
    """What is in the file. Raises OSError, ValueError for what is no file, or one that is too large."""
    if not untrusted_path.startswith("/"):
        raise ValueError("not an absolute path")
    # Without waiting: who opens a named pipe would wait for its other end.
    with os.fdopen(os.open(untrusted_path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a plain file")
        left = MOST
        while part := file.read(_STEP):
            left -= len(part)
            if left < 0:
                raise ValueError(f"more than {MOST} bytes")
            yield part


def _database(found: dump.Dump) -> Database:
    """Its rows. Raises NotADump."""
    db = Database()
    with db.transaction():
        for ref, (cls, fields) in found.rows.items():
            if _REFERENCE.fullmatch(ref) is None:
                raise NotADump(f"{ref[:80]!r} is no reference")
            db.create(KINDS[cls], ref, **fields)
    return db
