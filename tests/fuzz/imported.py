"""What is fuzzed of disks and VMs that are imported."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from fuzz.target import target


def _ignored(size: int) -> None:
    """Nobody wants to know how far it is."""


def _empty_vhd() -> bytes:
    from harness.memory_disk import MemoryDisk, Pipe
    from kronos.transfer import changes, vhd

    disk, pipe = MemoryDisk(2 << 20), Pipe()
    uuid = "12345678-1234-1234-1234-123456789abc"
    vhd.send(disk, changes.Allocated(disk, vhd.BLOCK), pipe, _ignored, uuid)
    return bytes(pipe.sent)


@target(_empty_vhd(), words=(b"conectix", b"cxsparse", b"\xff\xff\xff\xff"))
def vhd_stream(data: bytes) -> None:
    """Of an upload; checksums are made right, as nothing else would be reached."""
    from harness.memory_disk import MemoryDisk, Pipe
    from kronos.transfer import vhd
    from kronos.transfer.stream import BadStream, PrematureEnd, Reader, TooBig

    image = bytearray(data)
    for start, length, field in ((0, 512, 64), (512, 1024, 36), (len(image) - 512, 512, 64)):
        if start >= 0 and len(image) >= start + length:
            part = image[start : start + length]
            part[field : field + 4] = bytes(4)
            image[start + field : start + field + 4] = (~sum(part) & 0xFFFFFFFF).to_bytes(4, "big")
    pipe = Pipe()
    pipe.sendall(bytes(image))
    with suppress(BadStream, PrematureEnd, TooBig):
        vhd.receive(Reader(pipe), MemoryDisk(2 << 20), _ignored)


def _archive() -> bytes:
    from kronos.transfer import tar

    block = bytes(512)
    checksum = b"da39a3ee5e6b4b0d"
    parts = [tar.header("Ref:1/00000000", len(block)), block]
    parts += [
        tar.header("Ref:1/00000000.xxhash", len(checksum)),
        checksum,
        tar.padding(len(checksum)),
        bytes(1024),
    ]
    return b"".join(parts)


def _summed(data: bytes) -> bytes:
    """A tar file whose headers' checksums are right, as nothing else would be reached."""
    image = bytearray(data)
    for start in range(0, len(image) - 511, 512):
        if image[start + 257 : start + 262] == b"ustar":
            image[start + 148 : start + 156] = b" " * 8
            image[start + 148 : start + 156] = b"%06o\0 " % sum(image[start : start + 512])
    return bytes(image)


@target(_archive(), words=(b"ustar", b"Ref:1/00000001", b".checksum", b"0000001000\0"))
def archive(data: bytes) -> None:
    """The disks of an XVA, from the second member on; headers' checksums are made right."""
    from contextlib import nullcontext

    from harness.memory_disk import MemoryDisk, Pipe
    from kronos.transfer import archive as form
    from kronos.transfer.stream import BadStream, PrematureEnd, Reader

    pipe = Pipe()
    pipe.sendall(_summed(data))
    disk = MemoryDisk(3 << 20)
    for force in (False, True):
        with suppress(BadStream, PrematureEnd, form.UnexpectedMember, form.WrongChecksum):
            streamed = [form.Streamed("Ref:1", 3 << 20, lambda: nullcontext(disk))]
            form.receive(Reader(pipe), streamed, _ignored, force=force)


@target(
    b"<value><struct><member><name>version</name><value><struct><member><name>export_vsn</name><value>2</value></member>"
    b"</struct></value></member><member><name>objects</name><value><array><data><value><struct><member><name>class</name>"
    b"<value>VM</value></member><member><name>id</name><value>Ref:0</value></member><member><name>snapshot</name><value>"
    b"<struct></struct></value></member></struct></value></data></array></value></member></struct></value>",
    words=(
        b"<value>",
        b"<boolean>1</boolean>",
        b"<double>",
        b"<dateTime.iso8601>",
        b"<!DOCTYPE a>",
        b"VBD",
        b"VDI",
    ),
)
def archive_description(data: bytes) -> None:
    """The ova.xml of an XVA, down to the records that would be made of it."""
    from kronos.datamodel.errors import Failure
    from kronos.rules import unpacking
    from kronos.transfer import value
    from kronos.transfer.stream import BadStream

    try:
        found = unpacking.read(value.parse(data))
        for vdi in found.of("VDI"):
            unpacking.vdi_fields(vdi)
        for vbd in found.of("VBD"):
            unpacking.vbd_fields(vbd, "vm", "vdi")
        for vif in found.of("VIF"):
            unpacking.vif_fields(vif, "vm", "network", restore=False)
    except BadStream:
        pass
    except Failure as failure:
        assert failure.code.startswith("IMPORT_"), failure


def _tree(form: int) -> bytes:
    import io
    import tarfile

    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as tar:
        for name, content in (("./dists/x/InRelease", b"abc"), (f"pool/{'long/' * 30}a.deb", bytes(600))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return made.getvalue()[:4096]


@target(
    _tree(0),
    _tree(1),
    _tree(2),
    words=(
        b"ustar",
        b"../",
        b"/etc/x",
        b"18 path=../../x/y\n",
        b"11 size=20\n",
        b"0000001000\0",
        b"5\0",
        b"L\0",
        b"x\0",
    ),
)
def bundle(data: bytes) -> None:
    """A repository that is uploaded: whatever its tar file says, nothing comes to lie beside the folder for it."""
    from harness.memory_disk import Pipe
    from kronos.transfer import tree
    from kronos.transfer.stream import BadStream, PrematureEnd, Reader

    pipe, most = Pipe(), 64 << 10
    pipe.sendall(_summed(data))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        place = Path(directory) / "a/b/tree"
        place.mkdir(parents=True)
        with suppress(BadStream, PrematureEnd):
            tree.unpack(Reader(pipe), place, most, _ignored)
        assert [each.name for each in Path(directory).glob("*")] == ["a"]
        assert [each.name for each in (place.parent).glob("*")] == ["tree"]
        found = list(place.rglob("*"))
        assert all(each.is_dir() or each.is_file() for each in found)
        assert not any(each.is_symlink() for each in found)
        assert sum(each.stat().st_size for each in found if each.is_file()) + 4096 * len(found) <= most
