"""A disc with one file on it, as ISO 9660 (ECMA-119) has it, which every system reads.

Sectors of 2 KiB: sixteen that nobody reads, the volume's description, its end, the table of folders in both byte
orders, the one folder, and the file.
"""

from __future__ import annotations

import re
import struct

SECTOR = 2048
_DESCRIPTION, _LITTLE, _BIG, _FOLDER, _FILE = 16, 18, 19, 20, 21
_NAME = re.compile(r"[A-Z0-9_]{1,8}\.[A-Z0-9_]{1,3}")
_NEVER = b"0" * 16 + b"\0"


def disc(label: str, name: str, content: bytes) -> bytes:
    """The image of a disc. `name` has at most eight and three letters of A-Z, 0-9 and _, which systems show as they
    like; `label` up to 32. Raises ValueError."""
    if not _NAME.fullmatch(name) or not re.fullmatch(r"[A-Z0-9_]{1,32}", label):
        raise ValueError(f"{label}/{name} is no name on a disc")
    body = content + bytes(-len(content) % SECTOR)
    total = _FILE + len(body) // SECTOR
    entries = (
        _entry(b"\0", _FOLDER, SECTOR, folder=True)
        + _entry(b"\1", _FOLDER, SECTOR, folder=True)
        + _entry(name.encode() + b";1", _FILE, len(content), folder=False)
    )
    sectors = [
        bytes(_DESCRIPTION * SECTOR),
        _description(label, total),
        b"\xffCD001\x01",
        struct.pack("<BBIH2s", 1, 0, _FOLDER, 1, b"\0\0"),
        struct.pack(">BBIH2s", 1, 0, _FOLDER, 1, b"\0\0"),
        entries,
    ]
    return b"".join(each + bytes(-len(each) % SECTOR) for each in sectors) + body


def _both(number: int, form: str) -> bytes:
    """A number in both byte orders."""
    return struct.pack(f"<{form}", number) + struct.pack(f">{form}", number)


def _entry(name: bytes, place: int, size: int, *, folder: bool) -> bytes:
    body = (
        b"\0"
        + _both(place, "I")
        + _both(size, "I")
        + bytes(7)  # no date
        + bytes([2 if folder else 0, 0, 0])
        + _both(1, "H")
        + bytes([len(name)])
        + name
    )
    body += bytes((len(body) + 1) % 2)
    return bytes([len(body) + 1]) + body


def _description(label: str, total: int) -> bytes:
    return b"".join(
        (
            b"\x01CD001\x01\0",
            b" " * 32,
            label.encode().ljust(32),
            bytes(8),
            _both(total, "I"),
            bytes(32),
            _both(1, "H"),
            _both(1, "H"),
            _both(SECTOR, "H"),
            _both(10, "I"),
            struct.pack("<II", _LITTLE, 0),
            struct.pack(">II", _BIG, 0),
            _entry(b"\0", _FOLDER, SECTOR, folder=True),
            b" " * (4 * 128 + 3 * 37),
            _NEVER * 4,
            b"\x01\0",
        )
    )
