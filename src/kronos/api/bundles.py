"""Updates from a bundle: a repository that comes as one tar file, and is looked at where it was unpacked."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from kronos.api import updates
from kronos.api.vdi.streaming import Progress
from kronos.datamodel.errors import Failure
from kronos.db.records import Pool, Repository
from kronos.dispatch.call import Call
from kronos.rules.updates import for_updates
from kronos.system.commands import CommandFailed
from kronos.system.packages import Manager, NoRepository, Update
from kronos.transfer import tree
from kronos.transfer.stream import BadStream, PrematureEnd, Reader

log = logging.getLogger(__name__)

MOST: Final = 1 << 30
"""Bytes of a bundle, as in the reference; every file counts 4 KiB beside its content."""
_AFTER: Final = 1 << 20
"""Bytes that may follow the end of the tar file: it is filled up to whole records."""


def enabled(call: Call, pool: Pool) -> Repository:
    """The repository that a bundle would fill.

    Raises NO_REPOSITORY_ENABLED, MULTIPLE_UPDATE_REPOSITORIES_ENABLED, BUNDLE_REPO_NOT_ENABLED, OPERATION_NOT_ALLOWED.
    """
    repository = for_updates(updates.enabled(call.db, pool))
    if repository.origin != "bundle":
        raise Failure("BUNDLE_REPO_NOT_ENABLED")
    updates.any_manager(call.machine)
    return repository


def take(call: Call, pool: Pool, repository: Repository, reader: Reader) -> None:
    """Unpack a bundle and look what updates it has; it takes the place of the one before, or nothing has changed.

    Raises BUNDLE_UNPACK_FAILED [text], BUNDLE_SYNC_FAILED, TASK_CANCELLED.
    """
    with _unpacking(call), updates.bundles(call.machine).another() as place:
        _unpack(call, reader, place / "tree")
        pending = _look(call, repository, place)
        call.task.check()
    updates.looked_at(call, pool, repository, pending)


def _unpack(call: Call, reader: Reader, place: Path) -> None:
    place.mkdir()
    announced = reader.left if reader.left is not None else MOST
    tree.unpack(reader, place, MOST, Progress(call, announced * 5 // 4))
    if reader.left is not None:
        reader.skip(min(reader.left, _AFTER))


@contextmanager
def _unpacking(call: Call) -> Iterator[None]:
    try:
        yield
    except (BadStream, PrematureEnd, OSError) as error:
        call.task.check()  # whoever cancels it breaks the stream off
        text = (error.strerror or "") if isinstance(error, OSError) else str(error)
        log.warning("A bundle was not unpacked: %s", error)
        raise Failure("BUNDLE_UNPACK_FAILED", text) from error


def _look(call: Call, repository: Repository, place: Path) -> list[Update]:
    manager: Manager = updates.any_manager(call.machine).at(place / "lists")
    try:
        manager.sync(manager.sources(place / "tree", repository.name_label, repository.gpgkey_path), None)
        call.task.progress(0.9)
        return manager.pending()
    except (CommandFailed, NoRepository) as failed:
        log.warning("A bundle was not looked at: %s", failed)
        raise Failure("BUNDLE_SYNC_FAILED") from failed
