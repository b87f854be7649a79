"""UEFI: the variables that a guest's firmware keeps, as a file of its flash, as text of VM.NVRAM, and one by one.

The file is the one of EDK II with authenticated variables: a firmware volume's header, a store's, and variables one
after the other, of which deleted ones stay until the firmware tidies up. Nothing here trusts what is in it.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import struct
import uuid
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

FIELD: Final = "EFI-variables"
"""The key of VM.NVRAM."""

PLATFORM = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
SECURITY = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
KEYS: Final = {"PK": PLATFORM, "KEK": PLATFORM, "db": SECURITY, "dbx": SECURITY}
"""What secure boot goes by: the owner's key, those that may change lists, what may boot, and what may not."""

_STORE = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
_VOLUME = struct.Struct("<16s16sQ4sIH")
_STORE_HEADER = struct.Struct("<16sIBB6x")
_VARIABLE = struct.Struct("<HBxIQ16sIII16s")
_MARK = 0x55AA
_LIVE = (0x3F, 0x3E)  # added; being replaced by one that is not whole yet
_DELETED = 0xFD
_NAMES = 1024
_SMALLEST, _LARGEST = 1 << 12, 1 << 24


class UnusableStore(Exception):
    """Not such a file, or one without room."""


@dataclass(frozen=True)
class Variable:
    """One variable; `stamp` is the time by which an authenticated one is replaced."""

    name: str
    vendor: uuid.UUID
    attributes: int
    stamp: bytes
    data: bytes


def text_of(store: bytes) -> str:
    """A file as VM.NVRAM holds it: gzip, as nearly all of it is empty, and base64."""
    return base64.b64encode(gzip.compress(store, mtime=0)).decode()


def store_of(untrusted_text: str) -> bytes | None:
    """The file in a text of VM.NVRAM; None for what is no store of ours, such as XenServer's own form."""
    try:
        packed = base64.b64decode(untrusted_text, validate=True)
        unpacker = zlib.decompressobj(wbits=31)
        store = unpacker.decompress(packed, _LARGEST)
        _extent(store)
    except (binascii.Error, ValueError, zlib.error, UnusableStore):
        return None
    return store


def variables(store: bytes) -> dict[tuple[str, uuid.UUID], Variable]:
    """The variables of a store. Raises UnusableStore."""
    return {(found.name, found.vendor): found for _, found in _walk(store) if found is not None}


def key_names(store: bytes) -> set[str]:
    """Which of KEYS a store has. Raises UnusableStore."""
    present = variables(store)
    return {name for name, vendor in KEYS.items() if (name, vendor) in present}


def readiness(store: bytes | None, *, secure: bool) -> str:
    """XenAPI's vm_secureboot_readiness of a UEFI guest with these variables, None before its first start."""
    if not secure:
        return "disabled"
    if store is None:
        return "first_boot"
    present = key_names(store)
    if "PK" not in present:
        return "setup_mode"
    if {"KEK", "db"} <= present:
        return "ready" if "dbx" in present else "ready_no_dbx"
    return "certs_incomplete"


def in_setup_mode(store: bytes) -> bytes:
    """The store without keys, so that the guest may bring its own. Raises UnusableStore."""
    return with_keys(store, {})


def with_keys(store: bytes, template: Mapping[tuple[str, uuid.UUID], Variable]) -> bytes:
    """The store with the keys of another in the place of its own. Raises UnusableStore."""
    changed = bytearray(store)
    for start, found in _walk(store):
        if found is not None and KEYS.get(found.name) == found.vendor:
            changed[start + 2] &= _DELETED
    new = [template[key] for key in KEYS.items() if key in template]
    return bytes(_appended(changed, new))


def lacks(store: bytes, template: Mapping[tuple[str, uuid.UUID], Variable]) -> bool:
    """Whether the distribution's lists have a certificate, or a revocation, that a store with lists has not."""
    own = variables(store)
    return any(
        key in own and key in template and not _entries(template[key].data) <= _entries(own[key].data)
        for key in KEYS.items()
        if key[0] != "PK"
    )


def with_newer_lists(store: bytes, template: Mapping[tuple[str, uuid.UUID], Variable]) -> bytes:
    """The store with what its own lists lack of the distribution's; its owner's key stays. Raises UnusableStore."""
    own = variables(store)
    wanted = {key: found for key, found in own.items() if KEYS.get(key[0]) == key[1]}
    for key in KEYS.items():
        if key[0] != "PK" and key in own and key in template:
            missing = _entries(template[key].data) - _entries(own[key].data)
            data = own[key].data + b"".join(_list_of(*entry) for entry in sorted(missing))
            wanted[key] = replace(own[key], data=data)
    return with_keys(store, wanted)


# --- inside ----------------------------------------------------------------------------------------------------------


def _extent(store: bytes) -> tuple[int, int]:
    """Where variables begin, and where there is room for no more."""
    if len(store) < _SMALLEST:
        raise UnusableStore("too short")
    _, _, length, signature, _, header = _VOLUME.unpack_from(store)
    if signature != b"_FVH" or length > len(store) or header + _STORE_HEADER.size > len(store):
        raise UnusableStore("no firmware volume")
    kind, size, _, _ = _STORE_HEADER.unpack_from(store, header)
    if kind != _STORE or not _STORE_HEADER.size < size <= len(store) - header:
        raise UnusableStore("no store of authenticated variables")
    return header + _STORE_HEADER.size, header + size


def _walk(store: bytes) -> Iterator[tuple[int, Variable | None]]:
    """Each variable with its place, None for one that was deleted; at last the place after them all."""
    place, end = _extent(store)
    while place + _VARIABLE.size <= end:
        mark, state, attributes, _, stamp, _, names, size, vendor = _VARIABLE.unpack_from(store, place)
        if mark != _MARK:
            break
        body = place + _VARIABLE.size
        if names > _NAMES or body + names + size > end:
            raise UnusableStore("a variable longer than its store")
        found = None
        if state in _LIVE:
            name = store[body : body + names].decode("utf-16-le", "replace").rstrip("\0")
            data = store[body + names : body + names + size]
            found = Variable(name, uuid.UUID(bytes_le=vendor), attributes, stamp, data)
        yield place, found
        place = _aligned(body + names + size)
    yield place, None


def _appended(store: bytearray, new: list[Variable]) -> bytearray:
    *_, (place, _) = _walk(bytes(store))
    _, end = _extent(bytes(store))
    for each in new:
        name = (each.name + "\0").encode("utf-16-le")
        head = _VARIABLE.pack(
            _MARK, 0x3F, each.attributes, 0, each.stamp, 0, len(name), len(each.data), each.vendor.bytes_le
        )
        whole = head + name + each.data
        if place + len(whole) > end:
            raise UnusableStore("no room")
        store[place : place + len(whole)] = whole
        place = _aligned(place + len(whole))
    return store


def _aligned(place: int) -> int:
    return (place + 3) & ~3


def _list_of(kind: bytes, signature: bytes) -> bytes:
    """A signature list of one, whose owner is nobody."""
    size = 16 + len(signature)
    return struct.pack("<16sIII", kind, 28 + size, 0, size) + bytes(16) + signature


def _entries(untrusted_lists: bytes) -> set[tuple[bytes, bytes]]:
    """The signatures in a chain of signature lists, each with its kind; what is cut off at the end is left out."""
    found = set()
    place = 0
    while place + 28 <= len(untrusted_lists):
        kind, length, header, size = struct.unpack_from("<16sIII", untrusted_lists, place)
        if size < 16 or length < 28 + header or place + length > len(untrusted_lists):
            break
        for entry in range(place + 28 + header, place + length - size + 1, size):
            found.add((kind, untrusted_lists[entry + 16 : entry + size]))
        place += length
    return found
