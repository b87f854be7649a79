"""Checksums that a repository has of its own files: Fedora's .treeinfo, Debian's SHA256SUMS, SUSE's CHECKSUMS.

They tell a broken mirror or transfer. They are as trustworthy as the way they came: over https as the server is, over
anything else as the network is.
"""

from __future__ import annotations

import configparser
import hashlib
import re
from pathlib import PurePosixPath
from typing import BinaryIO

from kronos.boot.eliloader.plan import Checksums

_KINDS = ("sha512", "sha256", "sha1")
_HEX = re.compile(r"[0-9a-fA-F]{40,128}")
_LENGTHS = {128: "sha512", 64: "sha256", 40: "sha1"}


def read(untrusted_index: str, form: Checksums, index_path: str) -> dict[str, tuple[str, str]]:
    """Kind and digest of each file in an index, by its path below the repository; what cannot be read is left out."""
    directory = PurePosixPath(index_path).parent
    pairs = _treeinfo(untrusted_index) if form == "treeinfo" else _sums(untrusted_index)
    return {str(directory / path.removeprefix("./")): digest for path, digest in pairs}


def _treeinfo(untrusted: str) -> list[tuple[str, tuple[str, str]]]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # paths keep their case
    try:
        parser.read_string(untrusted)
    except configparser.Error:
        return []
    if not parser.has_section("checksums"):
        return []
    found = []
    for path, value in parser.items("checksums"):
        kind, _, digest = value.partition(":")
        if kind.lower() in _KINDS and _HEX.fullmatch(digest):
            found.append((path, (kind.lower(), digest.lower())))
    return found


def _sums(untrusted: str) -> list[tuple[str, tuple[str, str]]]:
    """`digest  path` lines; SUSE's older lists say `HASH SHA256 digest  path`."""
    found = []
    for line in untrusted.splitlines():
        words = line.removeprefix("HASH ").split()
        if words and words[0].lower() in _KINDS:
            words = words[1:]
        if len(words) == 2 and _HEX.fullmatch(words[0]) and len(words[0]) in _LENGTHS:
            found.append((words[1].removeprefix("*"), (_LENGTHS[len(words[0])], words[0].lower())))
    return found


def matches(file: BinaryIO, kind: str, digest: str) -> bool:
    """Whether a file has this digest. Raises OSError."""
    file.seek(0)
    found = hashlib.new(kind)
    while piece := file.read(1 << 20):
        found.update(piece)
    return found.hexdigest() == digest
