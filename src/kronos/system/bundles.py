"""Bundles: repositories that came as one file each. One is in force; another is made beside it, and takes its place."""

from __future__ import annotations

import logging
import shutil
import uuid as uuids
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from kronos.system.files import sync_directory

log = logging.getLogger(__name__)

_CURRENT: Final = "current"
_NEXT: Final = ".next"


class Bundles:
    """The folders of bundles: which of them is in force is a link, that changes in one step."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def current(self) -> Path | None:
        """The folder of the bundle in force, None where there is none."""
        link = self.place / _CURRENT
        return self.place / link.readlink() if link.is_dir() else None

    @contextmanager
    def another(self) -> Iterator[Path]:
        """An empty folder for a bundle. It is in force once the block ends, and the one before is gone.

        Where the block fails it is gone itself, and nothing has changed. Raises OSError.
        """
        made = self.place / str(uuids.uuid4())
        made.mkdir(0o700, parents=True)
        try:
            yield made
            self._take(made)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        self.tidy()

    def _take(self, made: Path) -> None:
        link = self.place / _NEXT
        link.unlink(missing_ok=True)
        link.symlink_to(made.name)
        sync_directory(made)
        sync_directory(self.place)
        link.replace(self.place / _CURRENT)
        sync_directory(self.place)

    def tidy(self) -> None:
        """Remove what is not in force: older ones, and what a crash left of one that was on its way."""
        kept = {self.place / _CURRENT, self.current()}
        for path in self._there():
            if path not in kept:
                _remove(path)

    def clear(self) -> None:
        """Remove them all; the one in force is none from the first step on."""
        with suppress(FileNotFoundError):
            (self.place / _CURRENT).unlink()
        for path in self._there():
            _remove(path)

    def _there(self) -> list[Path]:
        return list(self.place.iterdir()) if self.place.is_dir() else []


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink(missing_ok=True)
        return
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        log.warning("%s cannot be removed", path)
