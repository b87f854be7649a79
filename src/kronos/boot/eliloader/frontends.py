"""Xen's front-end drivers in an installer: whether its kernel and RAM disk have them, and a RAM disk that adds them.

Linux has had them since 2.6.24 and every distribution builds them, most often as modules that their installers carry
or fetch. An installer for other machines may leave them out, and then it finds neither network nor disk. Drivers of
just this kernel are added from a directory that the host's administrator fills, named by the kernel's release.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from kronos.boot.bzimage import UnusableKernel, kernel_elf
from kronos.boot.compression import UnreadableData, decompress
from kronos.boot.eliloader.refusal import InstallFailed
from kronos.boot.initramfs import Archive
from kronos.boot.kernel_modules import MissingModule, closure

HOOK = "eliloader-drivers"
"""The first program of a RAM disk that drivers were added to."""

_LARGEST_RAMDISK = 1 << 30
_MAGIC, _VERSION_OFFSET = 0x202, 0x20E
_RELEASE = re.compile(rb"[0-9][A-Za-z0-9._+~-]{2,80}")
_NEWC = (b"070701", b"070702")
_HEADER = 110
# A parameter of each that its kernel names in full when the driver is built in.
_BUILT_IN = {
    "xen_netfront": b"xen_netfront.max_queues",
    "xen_blkfront": b"xen_blkfront.max_indirect_segments",
}
_SCRIPT = """\
#!/bin/sh
for module in /{directory}/*.ko; do insmod "$module"; done
exec /init "$@"
"""


def release(untrusted_kernel: bytes) -> str:
    """A bzImage's release, as in 6.1.0-50-amd64; '' where it says none."""
    if untrusted_kernel[_MAGIC : _MAGIC + 4] != b"HdrS":
        return ""
    (offset,) = struct.unpack_from("<H", untrusted_kernel, _VERSION_OFFSET)
    match = _RELEASE.match(untrusted_kernel, offset + 0x200)
    return match.group().decode("ascii") if match else ""


def lacking(untrusted_kernel: bytes, untrusted_ramdisk: bytes, wanted: Sequence[str]) -> list[str]:
    """The drivers that neither kernel nor RAM disk has. Nothing is said to lack where they cannot be looked into."""
    try:
        names = set(_modules(untrusted_ramdisk))
        missing = [name for name in wanted if name not in names]
        if not missing:
            return []
        kernel = kernel_elf(untrusted_kernel)
    except (UnusableKernel, UnreadableData, OSError, ValueError, struct.error):
        return []
    return [name for name in missing if _BUILT_IN.get(name, b"\xff") not in kernel]


def additions(untrusted_kernel: bytes, missing: Sequence[str], drivers: Path | None) -> tuple[bytes, str]:
    """What is put behind a RAM disk to add drivers, and the argument that has them loaded.

    `drivers` has a directory for each release, with modules anywhere below it. Raises SUPPORT_PACKAGE_MISSING.
    """
    name = release(untrusted_kernel)
    what = f"{', '.join(missing)} for kernel {name or 'of no release'}"
    if drivers is None or not name or not (drivers / name).is_dir():
        raise InstallFailed("SUPPORT_PACKAGE_MISSING", what)
    try:
        modules = closure(drivers / name, missing)
    except (MissingModule, UnreadableData, OSError) as error:
        raise InstallFailed("SUPPORT_PACKAGE_MISSING", what, str(error)) from error
    archive = Archive()
    for number, module in enumerate(modules):
        archive.file(f"{HOOK}.d/{number:02}-{module.name}.ko", module.content)
    archive.file(HOOK, _SCRIPT.format(directory=f"{HOOK}.d").encode(), executable=True)
    return archive.packed(), f"rdinit=/{HOOK}"


def _modules(untrusted_ramdisk: bytes) -> Iterator[str]:
    """Names of the modules in a RAM disk: archives one after the other, each plain or compressed."""
    position, data = 0, untrusted_ramdisk
    while position < len(data):
        if data[position] == 0:
            position += 1
        elif data.startswith(_NEWC, position):
            for path, after in _entries(data, position):
                position = after
                if ".ko" in path:
                    yield path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")
        else:
            # Nothing tells where compressed data ends, and no distribution puts anything behind it.
            data, position = decompress(data[position:], _LARGEST_RAMDISK), 0


def _entries(data: bytes, position: int) -> Iterator[tuple[str, int]]:
    """Path of each file of one archive, and the position behind it. Raises ValueError for a damaged one."""
    while data.startswith(_NEWC, position):
        size = int(data[position + 54 : position + 62], 16)
        name_size = int(data[position + 94 : position + 102], 16)
        start = position + _HEADER
        path = data[start : start + name_size - 1].decode("utf-8", "replace")
        content = (start + name_size + 3) // 4 * 4
        position = (content + size + 3) // 4 * 4
        if path == "TRAILER!!!":
            yield "", position
            return
        yield path, position
    raise ValueError("an archive without an end")
