"""The files that make up an image, found without asking any of them: only our own storage's names are followed.

A qcow2 header can name any file of the host as its backing file. Here a backing file must lie beside the image, its
form is told by the header's extension or by the name's ending (never by the contents), and what the jail then opens
are the files that were checked, in the order found: no name out of a header reaches QEMU.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from kronos.boot.guest_disk.unreadable import BootUnreadable, shown

FORMS = ("raw", "qcow2", "vpc")
_SUFFIXES = {".raw": "raw", ".img": "raw", ".qcow2": "qcow2"}
_LONGEST_CHAIN = 64
_FIRST_BYTES = 65536

_QCOW2 = struct.Struct(
    ">4sIQIIQI"
)  # magic, version, name's offset and length, cluster bits, size, encryption
_FEATURES, _HEADER_LENGTH = struct.Struct(">Q"), struct.Struct(">I")
_EXTENSION = struct.Struct(">II")
_BACKING_FORMAT = 0xE2792ACA
_DATA_FILE_FEATURE = 1 << 2

_VHD_FOOTER = struct.Struct(">8s52xI")  # cookie, then the disk's type 60 bytes in
_VHD_KINDS = (2, 3)  # fixed, dynamic; 4 is differencing


@dataclass(frozen=True)
class Layer:
    """One file of an image."""

    path: Path
    form: str


def layers(image: Path, form: str) -> list[Layer]:
    """The image and what it is based on, topmost first. Raises BootUnreadable."""
    if form not in FORMS:
        raise BootUnreadable(f"disks of the form {shown(form)} cannot be read")
    try:
        mode = image.stat().st_mode
    except OSError as error:
        raise BootUnreadable(f"{image}: {error.strerror}") from error
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):  # merely opening a fifo may take for ever
        raise BootUnreadable(f"{image} is neither a file nor a block device")
    found = [Layer(image.absolute(), form)]
    while len(found) <= _LONGEST_CHAIN:
        below = _below(found[-1])
        if below is None:
            return found
        found.append(below)
    raise BootUnreadable(f"the disk has more than {_LONGEST_CHAIN} layers")


def _below(layer: Layer) -> Layer | None:
    try:
        with layer.path.open("rb") as file:
            if layer.form == "qcow2":
                return _qcow2_backing(layer.path, file.read(_FIRST_BYTES))
            if layer.form == "vpc":
                file.seek(-512, os.SEEK_END)
                _check_vhd(file.read(512))
    except OSError as error:
        raise BootUnreadable(f"{layer.path}: {error.strerror}") from error
    return None


def _check_vhd(untrusted_footer: bytes) -> None:
    cookie, kind = _VHD_FOOTER.unpack_from(untrusted_footer)
    if cookie != b"conectix":
        raise BootUnreadable("the disk is not a VHD")
    if kind not in _VHD_KINDS:
        raise BootUnreadable("the disk is a VHD that depends on another one")


def _qcow2_backing(path: Path, untrusted: bytes) -> Layer | None:
    if len(untrusted) < _QCOW2.size or untrusted[:4] != b"QFI\xfb":
        raise BootUnreadable(f"{path.name} is not a qcow2 image")
    _, version, offset, length, _, _, encryption = _QCOW2.unpack_from(untrusted)
    if encryption:
        raise BootUnreadable(f"{path.name} is encrypted")
    header_length = 72  # of version 2
    if version >= 3:
        if len(untrusted) < 104:
            raise BootUnreadable(f"{path.name} is cut short")
        if _FEATURES.unpack_from(untrusted, 72)[0] & _DATA_FILE_FEATURE:
            raise BootUnreadable(f"{path.name} keeps its data in another file")
        header_length = _HEADER_LENGTH.unpack_from(untrusted, 100)[0]
    if not offset:
        return None
    if not 0 < length <= 1023 or offset + length > len(untrusted):
        raise BootUnreadable(f"{path.name} has a broken header")
    name = os.fsdecode(untrusted[offset : offset + length])
    beside = path.parent / name
    if "\0" in name or name in ("", ".", "..") or beside.parent != path.parent or not beside.is_file():
        raise BootUnreadable(f"{path.name} is based on {shown(name)}, which is no file beside it")
    if beside.is_symlink():
        raise BootUnreadable(f"{path.name} is based on {shown(name)}, which is a link")
    form = _backing_form(untrusted[:offset], header_length) or _SUFFIXES.get(beside.suffix, "")
    if form not in FORMS:
        raise BootUnreadable(f"{path.name} does not say in which form {shown(name)} is")
    return Layer(beside, form)


def _backing_form(untrusted: bytes, start: int) -> str:
    """The form of the backing file that a header extension tells, or nothing."""
    while start + _EXTENSION.size <= len(untrusted):
        kind, length = _EXTENSION.unpack_from(untrusted, start)
        start += _EXTENSION.size
        if kind == 0:
            break
        if kind == _BACKING_FORMAT:
            return untrusted[start : start + length].decode("ascii", "replace")
        start += -(-length // 8) * 8
    return ""
