"""Provisioning: the disks that a template asks for, as other_config:disks writes them.

<provision><disk device="0" size="10737418240" sr="UUID" bootable="true" type="system"/></provision>
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from xml.parsers import expat  # document types are refused, so that no entity is ever expanded

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import escape

LONGEST = 64 * 1024
MOST_DISKS = 256
TYPES = ("system", "user", "ephemeral", "suspend", "crashdump")

_SIZE = re.compile(r"[0-9]{1,18}", re.ASCII)


class ProvisionedDisk(NamedTuple):
    """A disk to be made. `device` is its userdevice, `size` in bytes, `sr` an SR's uuid, or empty until a client has
    chosen one; `type` a VDI type."""

    device: str
    size: int
    sr: str
    bootable: bool
    type: str = "system"


def parse(untrusted_xml: str) -> list[ProvisionedDisk]:
    """The disks of a document, in its order. Raises INVALID_VALUE [field, reason]."""
    if len(untrusted_xml) > LONGEST:
        raise _invalid(f"longer than {LONGEST} characters")
    reader = _Reader()
    try:
        reader.parser.Parse(untrusted_xml, True)
    except (expat.ExpatError, UnicodeError) as error:
        raise _invalid(str(error)) from error
    return reader.disks


def render(disks: Iterable[ProvisionedDisk]) -> str:
    """The document that `parse` reads back."""
    return f"<provision>{''.join(_element(disk) for disk in disks)}</provision>"


def _element(disk: ProvisionedDisk) -> str:
    attributes = {
        "device": disk.device,
        "size": str(disk.size),
        "sr": disk.sr,
        "bootable": "true" if disk.bootable else "false",
        "type": disk.type,
    }
    return f"<disk {' '.join(f'{name}={_quoted(value)}' for name, value in attributes.items())}/>"


def _quoted(value: str) -> str:
    text = escape(value).replace('"', "&quot;").replace("\n", "&#10;").replace("\t", "&#9;")
    return f'"{text}"'


def _invalid(reason: str) -> Failure:
    return Failure("INVALID_VALUE", "other_config:disks", reason)


class _Reader:
    """Reads one document. Handlers of expat may raise: the exception ends the parse and passes through it."""

    def __init__(self) -> None:
        self.disks: list[ProvisionedDisk] = []
        self.depth = 0
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.StartDoctypeDeclHandler = self.document_type

    def document_type(self, *_: object) -> None:
        raise _invalid("a document type is not allowed")

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        self.depth += 1
        expected = {1: "provision", 2: "disk"}.get(self.depth)
        if name != expected:
            raise _invalid(f"unexpected element <{name[:40]}>")
        if self.depth == 2:
            if len(self.disks) == MOST_DISKS:
                raise _invalid(f"more than {MOST_DISKS} disks")
            self.disks.append(_disk(attributes))

    def end(self, _: str) -> None:
        self.depth -= 1


def _disk(attributes: Mapping[str, str]) -> ProvisionedDisk:
    missing = {"device", "size", "sr", "bootable"} - attributes.keys()
    if missing:
        raise _invalid(f"a disk without {', '.join(sorted(missing))}")
    size = attributes["size"]
    if not _SIZE.fullmatch(size):
        raise _invalid(f"size {size[:40]!r} is not a number of bytes")
    kind = attributes.get("type", "system")
    return ProvisionedDisk(
        device=attributes["device"],
        size=int(size),
        sr=attributes["sr"],
        bootable=attributes["bootable"] == "true",
        type=kind if kind in TYPES else "system",
    )
