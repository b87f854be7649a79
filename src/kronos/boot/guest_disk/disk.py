"""A guest's disk as devices, directories and files, by the names that GRUB gives them; read through a jail."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from typing import Protocol

from kronos.boot.guest_disk.jail import Jail, ReaderFailed

LARGEST_TEXT = 1 << 20
_MOST_TEXT = 4 << 20  # of all configuration files together
_LARGEST_LISTING = 1 << 20
_MOST_DEVICES = 32
_MOST_NAMES = 10_000

_DEVICE = re.compile(
    r"^\s*(?:Device|Partition) (?P<name>loop0(?:,[a-z0-9]+)*|lvm/[A-Za-z0-9+_.-]{1,256}|md/[A-Za-z0-9_.:-]{1,64}):"
    r"(?: Filesystem type (?P<kind>[A-Za-z0-9*_]+))?"
    r"(?P<rest>.*)$"
)
_LABEL = re.compile(r"Label `([^']{1,64})'")
_UUID = re.compile(r"UUID ([0-9A-Fa-f-]{4,36})")
_START = re.compile(r"Partition start at ([0-9]{1,18})(?:\.5)?KiB")


class NotThere(Exception):
    """A file cannot be read; the text says why."""


@dataclass(frozen=True)
class Device:
    """A disk, partition or logical volume that holds a file system."""

    name: str
    kind: str = ""
    label: str = ""
    uuid: str = ""
    start: int | None = None  # bytes from the disk's beginning, of a partition


class Disk(Protocol):
    """What is on a guest's disk. Every method raises BootUnreadable when time is over or the reader is gone."""

    def devices(self) -> list[Device]:
        """All that hold a file system."""

    def names(self, device: str, directory: str) -> list[str]:
        """The names in a directory, of directories with a slash behind; none if it cannot be read."""

    def text(self, device: str, path: str) -> str | None:
        """A configuration file; None if it cannot be read or is larger than LARGEST_TEXT."""

    def copy(self, device: str, path: str, output: int, limit: int) -> None:
        """Write a file to the descriptor, which may then hold `limit` bytes at most. Raises NotThere."""


class JailedDisk:
    """The disk of a jail."""

    def __init__(self, jail: Jail) -> None:
        self.jail = jail
        self.text_left = _MOST_TEXT
        self.listings: dict[tuple[str, str], list[str]] = {}

    def devices(self) -> list[Device]:
        untrusted_output = self._output(["ls", "-l"], _LARGEST_LISTING) or ""
        found: dict[str, Device] = {}
        for untrusted_line in untrusted_output.split("\n"):
            match = _DEVICE.match(untrusted_line)
            if match and match["kind"] and match["name"] not in found and len(found) < _MOST_DEVICES:
                found[match["name"]] = _device(match["name"], match["kind"], match["rest"])
        return list(found.values())

    def names(self, device: str, directory: str) -> list[str]:
        key = (device, directory)
        if key not in self.listings:
            path = f"({device}){directory.rstrip('/')}/"
            untrusted_output = self._output(["ls", path], _LARGEST_LISTING) or ""
            self.listings[key] = untrusted_output.split(None, _MOST_NAMES)[:_MOST_NAMES]
        return self.listings[key]

    def text(self, device: str, path: str) -> str | None:
        untrusted_text = self._output(["cat", f"({device}){path}"], min(LARGEST_TEXT, self.text_left))
        self.text_left -= len(untrusted_text or "")
        return untrusted_text

    def copy(self, device: str, path: str, output: int, limit: int) -> None:
        try:
            self.jail.read(["cat", f"({device}){path}"], output, limit)
        except ReaderFailed as failure:
            raise NotThere(str(failure)) from failure

    def _output(self, arguments: list[str], limit: int) -> str | None:
        with tempfile.TemporaryFile() as file:
            try:
                self.jail.read(arguments, file.fileno(), limit)
            except ReaderFailed:
                return None
            file.seek(0, os.SEEK_SET)
            return file.read(limit).decode("utf-8", "replace")


def _device(name: str, kind: str, untrusted_rest: str) -> Device:
    label, uuid, start = (
        _LABEL.search(untrusted_rest),
        _UUID.search(untrusted_rest),
        _START.search(untrusted_rest),
    )
    offset = None
    if start:
        offset = int(start[1]) * 1024 + (512 if start[0].endswith(".5KiB") else 0)
    return Device(name, kind, label[1] if label else "", uuid[1] if uuid else "", offset)
