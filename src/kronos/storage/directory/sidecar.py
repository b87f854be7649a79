"""The JSON files beside the images: what the SR keeps of a volume, and of itself.

Each is written whole. What is read may come from a file server that others can write to, so it is checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from kronos.storage.images.image import format_of, is_plain

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LARGEST = 1 << 20
_VERSION = 1
_Kind = TypeVar("_Kind", "Sidecar", "Intent")


class BadSidecar(ValueError):
    """The file is not what it should be."""


@dataclass(frozen=True)
class Sidecar:
    """`<uuid>.json`: a volume. `head` is the image file that the volume is, here and now."""

    uuid: str
    head: str
    location: str
    name_label: str = ""
    name_description: str = ""
    type: str = "user"
    sharable: bool = False
    read_only: bool = False
    is_a_snapshot: bool = False
    snapshot_of: str = ""
    snapshot_time: float = 0.0
    sm_config: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Raises BadSidecar for values too large to keep."""
        return _encode(asdict(self))


@dataclass(frozen=True)
class Intent:
    """`.intent-<uuid>.json`: what an operation is about to do, so that it can be finished or undone after a crash.

    `files`: images it makes or has no more use for; those that end up unused are removed.
    `volume`: the volume that it adds.
    `switched`, `previous`, `head`: the volume whose head it moves, where from and where to. If that move was not
    made, `volume` is undone.
    `switching`: a guest may have moved to `head` already, so that move has to be made.
    `renamed`: the image that becomes the head of `volume`, before it gets the name files[0].
    """

    files: tuple[str, ...] = ()
    volume: str = ""
    switched: str = ""
    previous: str = ""
    head: str = ""
    switching: bool = False
    renamed: str = ""

    def encode(self) -> bytes:
        return _encode(asdict(self))


def read_sidecar(uuid: str, untrusted: bytes) -> Sidecar:
    """Raises BadSidecar."""
    sidecar = _read(Sidecar, untrusted)
    if sidecar.uuid != uuid:
        raise BadSidecar(f"uuid {sidecar.uuid!r}")
    if not is_plain(sidecar.head) or not format_of(sidecar.head):
        raise BadSidecar(f"head {sidecar.head!r}")
    if sidecar.snapshot_of and not UUID.fullmatch(sidecar.snapshot_of):
        raise BadSidecar(f"snapshot_of {sidecar.snapshot_of!r}")
    return sidecar


def read_intent(untrusted: bytes) -> Intent:
    """Raises BadSidecar."""
    intent = _read(Intent, untrusted)
    names = [*intent.files, *(name for name in (intent.previous, intent.head, intent.renamed) if name)]
    if not all(is_plain(name) and format_of(name) for name in names):
        raise BadSidecar(f"files {names}")
    if not all(UUID.fullmatch(uuid) for uuid in (intent.volume, intent.switched) if uuid):
        raise BadSidecar("volumes")
    if intent.renamed and len(intent.files) != 1:
        raise BadSidecar("renamed to nothing")
    return intent


def encode_marker(sr_uuid: str, sr_type: str) -> bytes:
    """`sr.json`: whose directory this is."""
    return _encode({"uuid": sr_uuid, "type": sr_type})


def read_marker(untrusted: bytes) -> str:
    """The uuid of the SR. Raises BadSidecar."""
    uuid = _parse(untrusted).get("uuid")
    if not isinstance(uuid, str) or not UUID.fullmatch(uuid):
        raise BadSidecar(f"uuid {uuid!r}")
    return uuid


def _encode(values: Mapping[str, Any]) -> bytes:
    content = json.dumps({"version": _VERSION, **values}, indent=1).encode() + b"\n"
    if len(content) > LARGEST:
        raise BadSidecar("too large")
    return content


def _parse(untrusted: bytes) -> dict[str, Any]:
    try:
        values = json.loads(untrusted)
    except (ValueError, RecursionError) as error:
        raise BadSidecar(f"not JSON: {error}") from error
    if not isinstance(values, dict) or values.get("version") != _VERSION:
        raise BadSidecar("of an unknown version")
    return values


def _read(kind: type[_Kind], untrusted: bytes) -> _Kind:
    """Build a dataclass of JSON values, each of the type that its field is declared with."""
    values = _parse(untrusted)
    known: dict[str, Any] = {}
    for each in fields(kind):
        if each.name in values:
            value = values[each.name]
            if not _CHECKS[str(each.type)](value):
                raise BadSidecar(f"{each.name} {value!r:.100}")
            known[each.name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**known)
    except TypeError as error:
        raise BadSidecar(str(error)) from error


def _is_text(value: object) -> bool:
    return isinstance(value, str)


_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "str": _is_text,
    "bool": lambda value: isinstance(value, bool),
    "float": lambda value: type(value) in (int, float) and 0 <= value < 1 << 40,
    "tuple[str, ...]": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "Mapping[str, str]": lambda value: (
        isinstance(value, dict) and all(map(_is_text, value)) and all(map(_is_text, value.values()))
    ),
}
