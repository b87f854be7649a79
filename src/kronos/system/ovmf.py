"""The firmware for UEFI guests that the distribution has, by the descriptions that come with it (QEMU's interop)."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

_PLACES: Final = ("usr/share/qemu/firmware", "etc/qemu/firmware")
_ENROLLED: Final = frozenset({"secure-boot", "enrolled-keys"})


def template(*, enrolled: bool, root: Path = Path("/")) -> bytes | None:
    """The variables that a new guest begins with: with the keys for secure boot, or with none.

    None where the distribution has no such firmware, as libvirt would choose it.
    """
    for description in _descriptions(root):
        with suppress(KeyError, TypeError, OSError):
            if _fits(description, enrolled):
                path = Path(description["mapping"]["nvram-template"]["filename"])
                return (root / path.relative_to("/")).read_bytes()
    return None


def executables(root: Path = Path("/")) -> frozenset[str]:
    """The files of firmware that guests may be given."""
    found = set()
    for description in _descriptions(root):
        with suppress(KeyError, TypeError):
            found.add(str(description["mapping"]["executable"]["filename"]))
    return frozenset(found)


def _fits(description: dict[str, Any], enrolled: bool) -> bool:
    features = _ENROLLED & set(description["features"])
    return (
        "uefi" in description["interface-types"]
        and description["mapping"]["device"] == "flash"
        and description["mapping"]["nvram-template"]["format"] == "raw"
        and features == (_ENROLLED if enrolled else frozenset())
        and any(
            target["architecture"] == "x86_64" and any("q35" in machine for machine in target["machines"])
            for target in description["targets"]
        )
    )


def _descriptions(root: Path) -> list[dict[str, Any]]:
    """In the order of their names, those of the administrator in the place of the distribution's."""
    files: dict[str, Path] = {}
    for place in _PLACES:
        files |= {path.name: path for path in (root / place).glob("*.json")}
    found = []
    for _, path in sorted(files.items()):
        with suppress(OSError, ValueError):
            description = json.loads(path.read_text())
            if isinstance(description, dict):
                found.append(description)
    return found
