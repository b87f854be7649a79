"""XVA: archives there and back, older and odd ones, and what must be refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
from contextlib import contextmanager

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as some

from harness.memory_disk import PIECE, MemoryDisk, Pipe
from kronos.transfer import archive, compression, tar, value
from kronos.transfer.archive import Streamed, UnexpectedMember, WrongChecksum
from kronos.transfer.stream import BadStream, PrematureEnd, Reader

MIB = 1 << 20


def ignored(size: int) -> None:
    """Nobody wants to know how far a transfer is."""


def streamed(name: str, disk: MemoryDisk) -> Streamed:
    @contextmanager
    def opened():
        yield disk

    return Streamed(name, disk.size, opened)


def noise(size: int, *pieces: int) -> bytes:
    data = bytearray(size)
    for number in pieces:
        fresh = random.Random(number).randbytes(PIECE)[: max(0, size - number * PIECE)]
        data[number * PIECE : number * PIECE + len(fresh)] = fresh
    return bytes(data)


def packed(disks: dict[str, bytes], description: bytes = b"<value/>", kind: str = "") -> bytes:
    pipe = Pipe()
    each = [streamed(name, MemoryDisk(len(content), content)) for name, content in disks.items()]
    with compression.compressed(pipe, kind) as sink:
        archive.send(description, each, sink, ignored, 0)
    return bytes(pipe.sent)


def unpacked(
    data: bytes, sizes: dict[str, int], *, force: bool = False, step: int = 1 << 30
) -> dict[str, bytes]:
    reader = compression.decompressed(Reader(Pipe(data, step), len(data)))
    archive.read_description(reader)
    disks = {name: MemoryDisk(size) for name, size in sizes.items()}
    archive.receive(reader, [streamed(*each) for each in disks.items()], ignored, force=force)
    return {name: disk.content for name, disk in disks.items()}


def built(*members: tuple[str, bytes], description: bytes = b"<value/>") -> bytes:
    """An archive of these members, made by another program's tar."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as made:
        for name, data in (("ova.xml", description), *members):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return file.getvalue()


def block(name: str, data: bytes, kind: str = "checksum") -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    """A block with the checksum that older or newer hosts write."""
    import xxhash

    checksum = hashlib.sha1(data).hexdigest() if kind == "checksum" else xxhash.xxh64_hexdigest(data).upper()
    return (name, data), (f"{name}.{kind}", checksum.encode())


@settings(deadline=None, max_examples=25)
@given(
    some.dictionaries(
        some.sampled_from(["Ref:3", "Ref:10", "Ref:9"]),
        some.tuples(some.integers(1, 10_000), some.lists(some.integers(0, 80), max_size=6)),
        max_size=3,
    ),
    some.integers(10_000, 3 * MIB),
)
def test_what_was_packed_is_unpacked(disks, step):
    contents = {name: noise(sectors * 512, *pieces) for name, (sectors, pieces) in disks.items()}
    data = packed(contents)
    assert unpacked(data, {name: len(content) for name, content in contents.items()}, step=step) == contents


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_compressed_archives_are_recognised(kind):
    content = noise(5 * MIB, 3, 70)
    data = packed({"Ref:1": content}, kind=kind)
    plain = packed({"Ref:1": content})
    assert (
        gzip.decompress(data) if kind == "gzip" else zstandard.ZstdDecompressor().stream_reader(data).read()
    ) == plain
    assert unpacked(data, {"Ref:1": len(content)}, step=1000) == {"Ref:1": content}


def test_blocks_of_zeros_are_left_out_but_for_the_first_and_the_last():
    with tarfile.open(fileobj=io.BytesIO(packed({"Ref:1": noise(5 * MIB + 512, 20)}))) as made:
        names = [name for name in made.getnames() if "." not in name]
    assert names == ["Ref:1/00000000", "Ref:1/00000001", "Ref:1/00000005"]


def test_nothing_is_left_out_behind_a_first_disk_of_less_than_a_block():
    contents = {"Ref:1": noise(MIB // 2, 0), "Ref:2": noise(4 * MIB, 0)}
    assert unpacked(packed(contents), {"Ref:1": MIB // 2, "Ref:2": 4 * MIB}) == contents


@pytest.mark.parametrize("kind", ["checksum", "xxhash"])
def test_archives_of_other_hosts_are_read(kind):
    first, last = noise(MIB, 1), noise(MIB // 2, 2)
    data = built(*block("Ref:4/00000000", first, kind), *block("Ref:4/00000003", last, kind))
    size = 3 * MIB + MIB // 2
    assert unpacked(data, {"Ref:4": size}) == {"Ref:4": first + bytes(2 * MIB) + last}


def test_a_block_that_keeps_the_connection_alive_is_none():
    first, last = noise(MIB, 1), noise(MIB, 2)
    members = (
        *block("Ref:4/00000000", first),
        *block("Ref:4/00000001", b""),
        *block("Ref:4/00000003", last),
    )
    assert unpacked(built(*members), {"Ref:4": 3 * MIB}) == {"Ref:4": first + bytes(MIB) + last}


def test_blocks_may_be_larger_than_ours():
    first, last = noise(3 * MIB, 1, 40), noise(3 * MIB, 2)
    data = built(*block("Ref:4/00000000", first, "xxhash"), *block("Ref:4/00000002", last, "checksum"))
    assert unpacked(data, {"Ref:4": 9 * MIB}) == {"Ref:4": first + bytes(3 * MIB) + last}


def test_a_disk_that_nobody_wants_is_passed_over():
    reader = Reader(Pipe(packed({"Ref:1": noise(MIB, 1), "Ref:2": noise(MIB, 2)})))
    archive.read_description(reader)
    disk = MemoryDisk(MIB)
    archive.receive(reader, [Streamed("Ref:1", MIB, None), streamed("Ref:2", disk)], ignored, force=False)
    assert disk.content == noise(MIB, 2)


def test_a_wrong_checksum_names_its_block_and_may_be_forced():
    (name, data), (checksum, text) = block("Ref:4/00000000", noise(MIB, 1))
    data = built((name, data), (checksum, text[::-1]))
    with pytest.raises(WrongChecksum, match="Ref:4/00000000"):
        unpacked(data, {"Ref:4": MIB})
    assert unpacked(data, {"Ref:4": MIB}, force=True) == {"Ref:4": noise(MIB, 1)}


@pytest.mark.parametrize(
    "members",
    [
        [("../../etc/passwd", b"x"), ("../../etc/passwd.checksum", b"x")],
        [("Ref:4/../x", b"x"), ("Ref:4/../x.checksum", b"x")],
        [*block("Ref:5/00000000", bytes(MIB))],
        [*block("Ref:4/00000001", bytes(MIB)), *block("Ref:4/00000001", bytes(MIB))],
        [*block("Ref:4/00000002", bytes(MIB)), *block("Ref:4/00000001", bytes(MIB))],
        [("Ref:4/00000000", bytes(MIB)), ("Ref:4/00000001", bytes(MIB))],
        [("Ref:4/00000000", bytes(MIB)), ("Ref:4/00000000.md5", b"x")],
        [*block("Ref:4/00000000", bytes(2 * MIB)), *block("Ref:4/00000001", b"more")],
    ],
    ids=["escape", "dots", "other disk", "twice", "backwards", "no checksum", "odd checksum", "too much"],
)
def test_members_that_are_not_due_are_refused(members):
    with pytest.raises((UnexpectedMember, BadStream)):
        unpacked(built(*members), {"Ref:4": 2 * MIB})


def test_numbers_that_lead_beyond_the_disk_are_refused():
    data = built(*block("Ref:4/00000000", bytes(MIB)), *block("Ref:4/99999999", bytes(MIB)))
    with pytest.raises(BadStream):
        unpacked(data, {"Ref:4": 2 * MIB})


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_only_plain_files_are_taken(kind):
    info = tarfile.TarInfo("ova.xml")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(BadStream):
        archive.read_description(Reader(Pipe(info.tobuf(tarfile.USTAR_FORMAT) + tar.END)))


def test_a_description_that_is_too_large_is_not_read():
    header = tar.header("ova.xml", archive.LONGEST_DESCRIPTION + 1)
    with pytest.raises(BadStream):
        archive.read_description(Reader(Pipe(header)))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["", "gzip", "zstd"])
def test_an_archive_that_breaks_off_is_noticed(kind, share):
    content = noise(4 * MIB, *range(60))
    data = packed({"Ref:1": content}, kind=kind)
    with pytest.raises((PrematureEnd, BadStream)):
        unpacked(data[: int(len(data) * share)], {"Ref:1": len(content)})


@settings(deadline=None, max_examples=80)
@given(some.data())
def test_archives_with_wrong_bytes_are_refused_or_read(data):
    image = bytearray(packed({"Ref:1": noise(MIB, 1), "Ref:2": noise(MIB, 9)}))
    for _ in range(data.draw(some.integers(1, 4))):
        image[data.draw(some.integers(0, len(image) - 1))] = data.draw(some.integers(0, 255))
    try:
        unpacked(bytes(image), {"Ref:1": MIB, "Ref:2": MIB})
    except (BadStream, PrematureEnd, UnexpectedMember, WrongChecksum):
        pass


@settings(deadline=None, max_examples=80)
@given(some.binary(max_size=3000), some.sampled_from([b"", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"]))
def test_noise_is_no_archive(data, magic):
    with pytest.raises((BadStream, PrematureEnd, UnexpectedMember)):
        unpacked(magic + data, {})


# --- descriptions ----------------------------------------------------------------------------------------------------


def test_a_value_is_read_as_its_types_say():
    text = (
        b"<?xml version='1.0'?>\n<value><struct><member><name>a</name><value>x &amp; y</value></member>\n"
        b"<member><name>b</name><value><array><data><value><int>3</int></value><value/><value> <struct/> </value>"
        b"</data></array></value></member><member><name>c</name><value><boolean>1</boolean></value></member>"
        b"</struct></value>"
    )
    assert value.parse(text) == {"a": "x & y", "b": [3, "", {}], "c": True}


@pytest.mark.parametrize(
    "text",
    [
        b'<!DOCTYPE v [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><value>&b;</value>',
        b'<!DOCTYPE v SYSTEM "file:///etc/passwd"><value/>',
        b"<value>" * 500 + b"</value>" * 500,
        b"<value><array><data>" * 200 + b"</data></array></value>" * 200,
        b"<methodCall/>",
        b"<value/><value/>",
        b"<value><int>1</int><int>2</int></value>",
        b"<value><struct><member><value/></member></struct></value>",
        b"<value><int>x</int></value>",
        b"<value>",
        b"",
        b"\xff\xfe",
    ],
)
def test_what_is_no_value_is_refused(text):
    with pytest.raises(BadStream):
        value.parse(text)


def test_there_is_an_end_to_the_elements_that_are_read(monkeypatch):
    monkeypatch.setattr(value, "MAX_ELEMENTS", 100)
    with pytest.raises(BadStream):
        value.parse(b"<value><array><data>" + b"<value/>" * 101 + b"</data></array></value>")
