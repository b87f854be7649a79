"""The part of eliloader that meets strangers: fetches kernel and RAM disk, checks them, adds drivers.

A process of its own, started by `sandbox`, without rights and without a view of the host. Its order is JSON on
standard input; what it makes goes into two open files that it is given; its answer is JSON on standard output.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from kronos.boot.eliloader import checksums, frontends
from kronos.boot.eliloader.fetching import Absent, Fetcher
from kronos.boot.eliloader.refusal import InstallFailed
from kronos.boot.eliloader.source import Source

KERNEL_LIMIT = 64 << 20
RAMDISK_LIMIT = 512 << 20
_INDEX_LIMIT = 4 << 20
_MEMORY = 3 << 30  # a RAM disk and what it unpacks to, while drivers are looked for


@dataclass
class Made:
    """The two files, open for reading and writing; nobody, whom this runs as, could not open them by a name."""

    kernel: BinaryIO
    ramdisk: BinaryIO


def perform(order: dict[str, Any], made: Made) -> dict[str, Any]:
    """Carry out an order. Raises InstallFailed."""
    answer: dict[str, Any] = {"candidate": 0, "argument": ""}
    if order["source"] is not None:
        answer["candidate"] = _fetch(order, made)
    if order["wanted"] and _size(made.ramdisk):
        answer["argument"] = _add_drivers(order, made)
    answer["ramdisk"] = _size(made.ramdisk) > 0
    return answer


def _fetch(order: dict[str, Any], made: Made) -> int:
    fetcher = Fetcher(Source(**order["source"]), order["proxy"], order["seconds"])
    for number, (kernel, ramdisk) in enumerate(order["candidates"]):
        try:
            fetcher.fetch(kernel, made.kernel, KERNEL_LIMIT)
        except Absent:
            continue
        if ramdisk:
            try:
                fetcher.fetch(ramdisk, made.ramdisk, RAMDISK_LIMIT)
            except Absent as error:
                raise _absent(fetcher.source, ramdisk) from error
        _verify(fetcher, order, {kernel: made.kernel} | ({ramdisk: made.ramdisk} if ramdisk else {}))
        return number
    raise _absent(fetcher.source, *(kernel for kernel, _ in order["candidates"]))


def _absent(source: Source, *paths: str) -> InstallFailed:
    return InstallFailed(
        "INVALID_SOURCE", *(source.url(path) for path in paths), "The repository has no such file"
    )


def _verify(fetcher: Fetcher, order: dict[str, Any], files: dict[str, BinaryIO]) -> None:
    """Compare with the repository's own checksums, where it has them. Raises INVALID_SOURCE [url, reason]."""
    if not order["index"]:
        return
    index = io.BytesIO()
    try:
        fetcher.fetch(order["index"], index, _INDEX_LIMIT)
    except Absent:
        return
    known = checksums.read(index.getvalue().decode("utf-8", "replace"), order["checksums"], order["index"])
    for path, file in files.items():
        if path in known and not checksums.matches(file, *known[path]):
            kind = known[path][0].upper()
            raise InstallFailed(
                "INVALID_SOURCE", fetcher.source.url(path), f"Its {kind} is not the repository's"
            )


def _add_drivers(order: dict[str, Any], made: Made) -> str:
    kernel, ramdisk = _content(made.kernel), _content(made.ramdisk)
    missing = frontends.lacking(kernel, ramdisk, order["wanted"])
    if not missing:
        return ""
    drivers = Path(order["drivers"]) if order["drivers"] else None
    added, argument = frontends.additions(kernel, missing, drivers)
    made.ramdisk.seek(0, os.SEEK_END)
    # The kernel looks for a further archive at multiples of four alone.
    made.ramdisk.write(bytes(-len(ramdisk) % 4) + added)
    made.ramdisk.flush()
    return argument


def _content(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def main() -> int:
    """One order; the answer says how it went, and the status whether there is one."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (RAMDISK_LIMIT * 2, RAMDISK_LIMIT * 2))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    order = json.loads(sys.stdin.read())
    kernel, ramdisk = order["files"]
    with open(kernel, "r+b") as kernel_file, open(ramdisk, "r+b") as ramdisk_file:  # noqa: PTH123  # descriptors
        try:
            answer = perform(order, Made(kernel_file, ramdisk_file))
        except InstallFailed as failure:
            answer = {"error": failure.code, "params": failure.params}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
