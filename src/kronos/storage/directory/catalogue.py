"""What lies in an SR's directory: sidecars, images, and which image is based on which."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from kronos.storage.directory.files import UNFINISHED, Files
from kronos.storage.directory.sidecar import UUID, BadSidecar, Sidecar, read_sidecar
from kronos.storage.images.image import Image, format_of, inspect, is_plain
from kronos.storage.images.qcow2 import BadImage

LONGEST_CHAIN = 30  # as XenServer's; each layer costs QEMU a file and a look-up
SIDECAR = ".json"
INTENT = ".intent-"

_Signature = tuple[int, int, int, int]
_Seen = tuple[_Signature, Sidecar | Image | str]
_LOOK_AGAIN = (-1, -1, -1, -1)


@dataclass
class Contents:
    """A look at the whole directory."""

    sidecars: dict[str, Sidecar] = field(default_factory=dict)
    bad_sidecars: dict[str, str] = field(default_factory=dict)
    """uuid -> what is wrong with `<uuid>.json`"""
    images: dict[str, Image] = field(default_factory=dict)
    bad_images: dict[str, str] = field(default_factory=dict)
    intents: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    """What a write leaves behind when the process is killed within it"""

    def heads(self) -> dict[str, str]:
        """image -> uuid of the volume that it is"""
        return {sidecar.head: uuid for uuid, sidecar in self.sidecars.items()}

    def parents(self) -> set[str]:
        """The images that others are based on."""
        return {each.backing for each in self.images.values() if each.backing}

    def image(self, name: str) -> Image:
        """Raises BadImage."""
        if name in self.images:
            return self.images[name]
        raise BadImage(self.bad_images.get(name, f"{name} is missing"))

    def loose(self) -> list[str]:
        """Images that nothing refers to and whose name is a uuid: volumes that have no sidecar (yet)."""
        used = self.heads().keys() | self.parents()
        return sorted(
            name
            for name in (*self.images, *self.bad_images)
            if name not in used and UUID.fullmatch(Path(name).stem) and Path(name).stem not in self.sidecars
        )


class Catalogue:
    """Reads the directory; what has not changed since the last look is not read again."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._seen: dict[str, _Seen] = {}

    def forget(self, name: str) -> None:
        """The file was just written: its times alone may not show that."""
        self._seen.pop(name, None)

    def sidecar(self, uuid: str) -> Sidecar | None:
        """The sidecar of a volume, if it has one. Raises BadSidecar."""
        if not UUID.fullmatch(uuid):
            return None
        try:
            return read_sidecar(uuid, self._files.read(uuid + SIDECAR))
        except FileNotFoundError:
            return None

    def image(self, name: str) -> Image:
        """Raises BadImage; a file that is not there is one too."""
        try:
            return inspect(self._files.root / name)
        except FileNotFoundError:
            raise BadImage(f"{name} is missing") from None

    def contents(self) -> Contents:
        """Look at everything. Raises OSError."""
        found = Contents()
        seen: dict[str, _Seen] = {}
        with os.scandir(self._files.root) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(INTENT) and name.endswith(SIDECAR):
                    found.intents.append(name)
                elif name.startswith(".") and name.endswith(UNFINISHED):
                    found.unfinished.append(name)
                elif is_plain(name) and (format_of(name) or _sidecar_uuid(name)):
                    info = entry.stat(follow_symlinks=False)
                    signature = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
                    known = self._seen.get(name)
                    if known is None or known[0] != signature:
                        known = self._look(name, signature)
                    seen[name] = known
                    _enter(found, name, known[1])
        self._seen = seen
        return found

    def _look(self, name: str, signature: _Signature) -> _Seen:
        """What the file is, or what is wrong with it."""
        uuid = _sidecar_uuid(name)
        try:
            path = self._files.root / name
            return signature, read_sidecar(uuid, self._files.read(name)) if uuid else inspect(path)
        except (BadSidecar, BadImage) as error:
            return signature, str(error) or "unreadable"
        except OSError as error:
            return _LOOK_AGAIN, str(error) or "unreadable"


def chain(head: str, look: Callable[[str], Image]) -> dict[str, Image]:
    """An image and all it is based on, from the top down. Raises BadImage."""
    layers: dict[str, Image] = {}
    while head:
        if head in layers or len(layers) > 2 * LONGEST_CHAIN:
            raise BadImage(f"endless chain at {head}")
        layers[head] = look(head)
        head = layers[head].backing
    return layers


def _sidecar_uuid(name: str) -> str:
    stem = name.removesuffix(SIDECAR)
    return stem if stem != name and UUID.fullmatch(stem) else ""


def _enter(contents: Contents, name: str, what: Sidecar | Image | str) -> None:
    uuid = _sidecar_uuid(name)
    if isinstance(what, Sidecar):
        contents.sidecars[uuid] = what
    elif isinstance(what, Image):
        contents.images[name] = what
    elif uuid:
        contents.bad_sidecars[uuid] = what
    else:
        contents.bad_images[name] = what
