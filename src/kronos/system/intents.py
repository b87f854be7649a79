"""Intents: what is being made or removed outside the database, so that a crash leaves nothing of it behind.

An intent is a file, durable before the first step and gone after the last. At the next start the intents that are
left name what has to be cleaned up.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kronos.system.files import sync_directory, write_whole


class Intents:
    """The intents of one host, a file each in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def declared(self, name: str, facts: dict[str, str]) -> Iterator[Callable[[str, str], None]]:
        """An intent for as long as the block runs; an exception withdraws it as well, since the block undid itself.

        The block gets a function that adds a fact, durably, as the work goes on.
        """
        path = self.directory / name
        known = dict(facts)

        def note(key: str, value: str) -> None:
            known[key] = value
            write_whole(path, json.dumps(known).encode(), 0o600)

        write_whole(path, json.dumps(known).encode(), 0o600)
        try:
            yield note
        finally:
            path.unlink(missing_ok=True)
            sync_directory(self.directory)

    def left(self) -> dict[str, dict[str, str]]:
        """What a crash left, by name."""
        found = {}
        for path in sorted(self.directory.iterdir()):
            if path.name.startswith("."):
                if not path.name.endswith(f".{os.getpid()}.new"):  # one that is just being written
                    path.unlink(missing_ok=True)
            else:
                found[path.name] = json.loads(path.read_text())
        return found

    def settle(self, name: str) -> None:
        """An intent that was left has been dealt with."""
        (self.directory / name).unlink(missing_ok=True)
        sync_directory(self.directory)
