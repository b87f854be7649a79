"""Keeping: the archives of everything that is measured now in memory, and of everything else in files.

A file is written when its object is not measured any more, when the daemon stops, when somebody asks, and otherwise
every ten minutes: so much is lost at most when the daemon is killed or the power fails.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from kronos.metrics.archive import NAN, Archive, unpacked
from kronos.metrics.sources import Owner, Source, source
from kronos.system.files import write_whole

log = logging.getLogger(__name__)

SAVED_EVERY: Final = 600.0
"""Seconds that pass between two times that an archive is written to its file."""
AT_ONCE: Final = 60
"""Of how many archives one is written in a round at most; rounds come every five seconds."""
_FILE: Final = re.compile(r"(host|vm|sr)\.([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


class Key(NamedTuple):
    owner: Owner
    uuid: str


class Listed(NamedTuple):
    """A data source as clients see it. `enabled`: it is measured and recorded."""

    source: Source
    enabled: bool
    value: float


class UnknownSource(KeyError):
    """No data source of that name."""


class _Kept:
    __slots__ = ("archive", "values", "saved", "dropped")

    def __init__(self, archive: Archive, saved: float) -> None:
        self.archive = archive
        self.values: Mapping[str, float] = {}
        self.saved = saved
        self.dropped = False


class Keeping:
    """Every archive of this host. Safe from any thread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.RLock()
        self._kept: dict[Key, _Kept] = {}
        self._backup_due: float | None = None
        self._files_kept = True

    # What is measured

    def take(self, key: Key, moment: float, values: Mapping[str, float], *, extremes: bool = False) -> None:
        """Take in what was measured of an object at a moment (seconds since 1970), all sources of it, by name."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                archive = self._read(key) or Archive(extremes=extremes)
                archive.resume(moment)
                kept = self._kept[key] = _Kept(archive, time.monotonic())
            archive = kept.archive
            if kept.dropped or kept.values.keys() != values.keys():
                kept.dropped = False
                for name in values.keys() - set(archive.names):
                    found = source(key.owner, name)
                    if found is not None and found.standard:
                        archive.add(found.column)
            kept.values = values
            archive.update(moment, [values.get(column.name, NAN) for column in archive.columns])

    def measured(self) -> set[Key]:
        """The objects whose archives are in memory."""
        with self._lock:
            return set(self._kept)

    def rest(self, key: Key) -> None:
        """The object is not measured any more: its archive goes into its file."""
        with self._lock:
            kept = self._kept.pop(key, None)
            if kept is not None:
                self._write(key, kept)

    def forget(self, known: Collection[Key]) -> None:
        """Remove the archives of all objects that are not among those `known`."""
        with self._lock:
            for key in self._kept.keys() - set(known):
                del self._kept[key]
            for path in self._files():
                if self._key(path) not in known:
                    path.unlink(missing_ok=True)

    # What is asked

    def archive(self, key: Key) -> Archive | None:
        """A copy of an object's archive, which may be of a VM that is halted; None where there is none."""
        with self._lock:
            kept = self._kept.get(key)
            return kept.archive.copy() if kept is not None else self._read(key)

    def archives(self, keys: Collection[Key], level: Callable[[int], int]) -> dict[Key, Archive]:
        """Copies of those that are measured now, in the order asked for, of one level alone: `level` chooses it by the
        time of the newest value."""
        with self._lock:
            found = {key: self._kept[key].archive for key in keys if key in self._kept}
            index = level(max((archive.last for archive in found.values()), default=0))
            return {key: archive.copy(index) for key, archive in found.items()}

    def sources(self, key: Key) -> list[Listed]:
        """The data sources of an object, by name: those measured, and those that only its archive has."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                return []
            recorded = {column.name: column for column in kept.archive.columns}
            found = []
            for name in sorted(kept.values.keys() | recorded.keys()):
                known = source(key.owner, name)
                if known is None:  # recorded by another version
                    if name not in recorded:
                        continue
                    _, kind, minimum, maximum = recorded[name]
                    known = Source(name, "", "", kind, False, minimum, maximum)
                found.append(
                    Listed(known, name in recorded and name in kept.values, kept.values.get(name, NAN))
                )
            return found

    def newest(self, key: Key, name: str) -> float:
        """The last value of a recorded data source; NaN where it is unknown. Raises UnknownSource."""
        with self._lock:
            kept = self._kept.get(key)
            try:
                return kept.archive.newest(name) if kept is not None else self._missing(name)
            except KeyError:
                return self._missing(name)

    def record(self, key: Key, name: str) -> None:
        """Record a data source from now on. Raises UnknownSource for one that is not measured."""
        with self._lock:
            kept = self._kept.get(key)
            found = source(key.owner, name)
            if kept is None or found is None or name not in kept.values:
                self._missing(name)
            else:
                kept.archive.add(found.column)

    def drop(self, key: Key, name: str) -> None:
        """Drop what is recorded of a data source; a standard one begins anew. Without effect where there is none."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                return
            kept.archive.remove(name)
            kept.dropped = True  # what is standard is added again with the next values

    def _missing(self, name: str) -> float:
        raise UnknownSource(name)

    # Files

    def keep_files(self, wanted: bool) -> None:
        """Whether archives are written to files; where they are not, those that were are removed."""
        with self._lock:
            self._files_kept = wanted
            for path in () if wanted else self._files():
                path.unlink(missing_ok=True)

    def backup(self, delay: float = 0.0) -> None:
        """Write every archive to its file in `delay` seconds, or before this returns where that is none."""
        if delay > 0:
            with self._lock:
                due = time.monotonic() + delay
                self._backup_due = due if self._backup_due is None else min(due, self._backup_due)
            return
        for key in self.measured():
            self._save(key)

    def save_due(self) -> None:
        """Write those archives whose turn it is."""
        now = time.monotonic()
        with self._lock:
            if self._backup_due is not None and self._backup_due <= now:
                self._backup_due = None
                due = list(self._kept)
            else:
                late = sorted(
                    (kept.saved, key) for key, kept in self._kept.items() if kept.saved + SAVED_EVERY <= now
                )
                due = [key for _, key in late[: len(self._kept) // AT_ONCE + 1]]
        for key in due:
            self._save(key)

    def _save(self, key: Key) -> None:
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._write(key, kept)

    def _write(self, key: Key, kept: _Kept) -> None:
        kept.saved = time.monotonic()
        if not self._files_kept:
            return
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self._path(key), kept.archive.packed(), 0o600)
        except OSError as error:  # a full disk must not stop what is measured
            log.warning("The metrics of %s %s were not saved: %s", key.owner, key.uuid, error)

    def _read(self, key: Key) -> Archive | None:
        path = self._path(key)
        try:
            return unpacked(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("The metrics of %s %s begin anew: %s", key.owner, key.uuid, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None

    def _path(self, key: Key) -> Path:
        return self.directory / f"{key.owner}.{key.uuid}"

    def _files(self) -> list[Path]:
        return list(self.directory.iterdir()) if self.directory.exists() else []

    def _key(self, path: Path) -> Key | None:
        found = _FILE.fullmatch(path.name)
        # The pattern lets only owners through.
        return Key(found[1], found[2]) if found is not None else None  # type: ignore[arg-type]
