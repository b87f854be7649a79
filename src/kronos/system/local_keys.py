"""Local keys: what a host knows of itself and no pool does, in a small file that outlives the daemon."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

from kronos.system.files import write_whole

log = logging.getLogger(__name__)

_lock = threading.Lock()


class LocalKeys:
    """Names and values, durable once written. One object or several on a file: each look reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, name: str, otherwise: str = "") -> str:
        """The value of a key; `otherwise` for one that was never written."""
        return self._read().get(name, otherwise)

    def put(self, name: str, value: str) -> None:
        """Write a key; an empty value removes it. Raises OSError."""
        with _lock:
            found = self._read()
            if found.get(name, "") == value:
                return
            found[name] = value
            kept = {key: text for key, text in sorted(found.items()) if text}
            write_whole(self.path, json.dumps(kept, indent=1).encode() + b"\n", 0o600)

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.error("%s cannot be read and counts as empty: %s", self.path, error)
            return {}
        return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
