"""Raw, VHD and qcow2: what was written is read again, and what is wrong is refused."""

from __future__ import annotations

import random
import struct
import uuid as uuids

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from harness.memory_disk import PIECE, MemoryDisk, Pipe
from kronos.transfer import changes, qcow2, raw, vhd
from kronos.transfer.stream import BadStream, PrematureEnd, Reader, TooBig, announced

MIB = 1 << 20
UUID = "12345678-1234-1234-1234-123456789abc"
PARENT = "12345678-1234-1234-1234-123456789abd"


def ignored(size: int) -> None:
    """Nobody wants to know how far a transfer is."""


def content_of(size: int, pieces: dict[int, int]) -> bytes:
    """A disk with noise in some of its pieces: number -> seed."""
    data = bytearray(size)
    for number, seed in pieces.items():
        noise = random.Random(seed).randbytes(PIECE)[: max(0, size - number * PIECE)]
        data[number * PIECE : number * PIECE + len(noise)] = noise
    return bytes(data)


def some_disks(most: int = 4 * MIB):
    """Sizes and noisy pieces of disks, for `content_of`: whole sectors."""
    sizes = some.integers(1, most // 512).map(lambda sectors: sectors * 512)
    return some.tuples(
        sizes, some.dictionaries(some.integers(0, most // PIECE), some.integers(0, 9), max_size=6)
    )


STEPS = some.integers(10_000, 3 * MIB)
"""Bytes that arrive at once."""


def as_vhd(content: bytes) -> bytes:
    disk, pipe = MemoryDisk(len(content), content), Pipe()
    blocks = changes.Allocated(disk, vhd.BLOCK)
    vhd.send(disk, blocks, pipe, ignored, UUID)
    assert len(pipe.sent) == vhd.length(disk.size, blocks)
    return bytes(pipe.sent)


def from_vhd(image: bytes, disk: MemoryDisk, step: int = 1 << 30, limit: int | None = None) -> bytes:
    vhd.receive(Reader(Pipe(image, step), limit), disk, ignored)
    return disk.content


# --- there and back --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(some_disks(), STEPS)
def test_a_raw_stream_is_the_disk(disk, step):
    content = content_of(*disk)
    source, pipe = MemoryDisk(len(content), content), Pipe(step=step)
    raw.send(source, pipe, ignored)
    assert pipe.sent == content
    target = MemoryDisk(len(content))
    raw.receive(Reader(pipe, len(content)), target, ignored)
    assert target.content == content
    assert target.pieces.keys() == source.pieces.keys(), "zeros take no space"


@settings(deadline=None, max_examples=25)
@given(some_disks(), some_disks(2 * MIB), STEPS)
def test_a_dynamic_vhd_becomes_the_whole_disk(disk, before, step):
    content, earlier = content_of(*disk), content_of(*before)
    size = max(len(content), len(earlier))
    target = MemoryDisk(size, earlier.ljust(size, b"\1"))
    assert from_vhd(as_vhd(content), target, step) == content.ljust(size, b"\0")


@settings(deadline=None, max_examples=25)
@given(some_disks(3 * MIB), some.integers(0, 4), some.booleans())
def test_a_fixed_vhd_becomes_the_whole_disk(disk, more, told):
    content = content_of(*disk)
    image = content + vhd._footer(len(content), UUID, 2)
    size = len(content) + more * 512
    target = MemoryDisk(size, bytes(b"\1" * size))
    assert from_vhd(image, target, limit=len(image) if told else None) == content.ljust(size, b"\0")


@settings(deadline=None, max_examples=25)
@given(some_disks(), some_disks())
def test_a_delta_brings_the_old_disk_to_the_new(after, before):
    new = content_of(*after)
    old = content_of(*before)[: len(new)]
    news, olds = MemoryDisk(len(new), new), MemoryDisk(len(old), old)
    blocks = changes.Changed(news, olds, vhd.BLOCK, None, ignored)
    pipe = Pipe()
    vhd.send(news, blocks, pipe, ignored, UUID, PARENT)
    assert len(pipe.sent) == vhd.length(len(new), blocks, differencing=True)
    target = MemoryDisk(len(new), old)
    assert from_vhd(bytes(pipe.sent), target) == new


def test_disks_with_a_common_parent_are_compared_above_it_alone():
    size = 8 * MIB
    new = MemoryDisk(size, content_of(size, {1: 1, 40: 2}), [(0, PIECE * 2, 2), (PIECE * 40, PIECE, 1)])
    old = MemoryDisk(size, content_of(size, {1: 1, 100: 3}), [(0, PIECE * 2, 2), (PIECE * 100, PIECE, 1)])
    read: list[int] = []
    found = changes.Changed(new, old, PIECE, (1, 1), lambda _: read.append(1))
    assert list(found) == [(40, 1), (100, 1)]
    assert len(read) == 2, "what lies beneath is not read"


@settings(deadline=None, max_examples=25)
@given(some_disks())
def test_a_qcow2_image_holds_the_disk(spec):
    content = content_of(*spec)
    disk, pipe = MemoryDisk(len(content), content), Pipe()
    clusters = changes.Allocated(disk, qcow2.CLUSTER)
    qcow2.send(disk, clusters, pipe, ignored)
    assert len(pipe.sent) == qcow2.length(disk.size, clusters)
    assert read_qcow2(bytes(pipe.sent)) == content


def read_qcow2(image: bytes) -> bytes:
    """The content, by the description of the format; every cluster has to be counted once."""
    size, _, entries, l1, refcounts = struct.unpack_from(">QIIQQ", image, 24)
    used = len(image) // PIECE
    (block,) = struct.unpack_from(">Q", image, refcounts)
    counts = struct.unpack_from(f">{used}H", image, block)
    assert set(counts) == {1} and len(image) % PIECE == 0
    data = bytearray(-(-size // PIECE) * PIECE)
    for table, entry in enumerate(struct.unpack_from(f">{entries}Q", image, l1)):
        if not entry:
            continue
        for number, place in enumerate(struct.unpack_from(f">{PIECE // 8}Q", image, entry & ~(1 << 63))):
            if place:
                at = (table * (PIECE // 8) + number) * PIECE
                data[at : at + PIECE] = image[place & ~(1 << 63) :][:PIECE]
    return bytes(data[:size])


def test_pieces_of_xenapi_go_where_they_say():
    target = MemoryDisk(MIB, b"\1" * MIB)
    stream = (
        struct.pack("<qi", 512, 4)
        + b"here"
        + struct.pack("<qi", 4096, 8)
        + bytes(8)
        + struct.pack("<qi", 0, 0)
    )
    raw.receive_pieces(Reader(Pipe(stream)), target, ignored)
    expected = bytearray(b"\1" * MIB)
    expected[512:516], expected[4096:4104] = b"here", bytes(8)
    assert target.content == expected


# --- VHDs of others --------------------------------------------------------------------------------------------------


def test_sectors_that_a_bitmap_does_not_show_are_zeros():
    image = bytearray(as_vhd(content_of(2 * MIB, {0: 1})))
    bitmap = 512 + 1024 + 512
    image[bitmap] = 0b10100000
    expected = bytearray(content_of(2 * MIB, {0: 1}))
    expected[512:1024] = bytes(512)
    expected[3 * 512 : 8 * 512] = bytes(5 * 512)
    assert from_vhd(bytes(image), MemoryDisk(2 * MIB, b"\1" * 2 * MIB)) == expected


def test_sectors_that_a_delta_does_not_show_stay():
    disk, pipe = MemoryDisk(2 * MIB, content_of(2 * MIB, {0: 1})), Pipe()
    vhd.send(disk, changes.Allocated(disk, vhd.BLOCK), pipe, ignored, UUID, PARENT)
    bitmap = 512 + 1024 + 512 + 512
    pipe.sent[bitmap : bitmap + 512] = b"\x80" + bytes(511)
    found = from_vhd(bytes(pipe.sent), MemoryDisk(2 * MIB, b"\1" * 2 * MIB))
    assert found == disk.content[:512] + b"\1" * (2 * MIB - 512)


def test_blocks_may_come_in_any_order_of_the_disk():
    content = content_of(6 * MIB, {1: 1, 33: 2, 70: 3})
    image = bytearray(as_vhd(content))
    step, first = 512 + vhd.BLOCK, 512 + 1024 + 512
    one, two = bytes(image[first : first + step]), bytes(image[first + step : first + 2 * step])
    image[first : first + 2 * step] = two + one
    table = 512 + 1024
    a, b = struct.unpack_from(">II", image, table)
    struct.pack_into(">II", image, table, b, a)
    assert from_vhd(bytes(image), MemoryDisk(6 * MIB)) == content


def test_a_disk_that_is_larger_than_its_place_is_refused_unwritten():
    target = MemoryDisk(MIB, b"\1" * MIB)
    with pytest.raises(TooBig) as big:
        from_vhd(as_vhd(bytes(2 * MIB)), target)
    assert big.value.size == 2 * MIB and target.content == b"\1" * MIB
    with pytest.raises(TooBig):
        raw.receive(Reader(Pipe(bytes(2 * MIB)), 2 * MIB), target, ignored)


def test_a_raw_stream_of_unknown_length_has_to_fill_the_disk():
    with pytest.raises(PrematureEnd):
        raw.receive(Reader(Pipe(bytes(MIB - 512))), MemoryDisk(MIB), ignored)
    raw.receive(Reader(Pipe(bytes(MIB))), MemoryDisk(MIB), ignored)


@pytest.mark.parametrize("cut", [0, 100, 512, 1000, 1536, 2048, 3000, -512, -1])
def test_a_vhd_that_breaks_off_is_noticed(cut):
    image = as_vhd(content_of(2 * MIB, {0: 1}))
    with pytest.raises(PrematureEnd):
        from_vhd(image[:cut], MemoryDisk(2 * MIB))


@settings(deadline=None, max_examples=100)
@given(some.data())
def test_a_vhd_with_wrong_bytes_is_refused_or_read_and_never_more(data):
    """Any bytes in the tables: an error of ours, or a disk; nothing is written outside of it."""
    image = bytearray(as_vhd(content_of(2 * MIB, {0: 1, 20: 2})))
    for _ in range(data.draw(some.integers(1, 4))):
        at = data.draw(some.one_of(some.integers(0, 2600), some.integers(0, len(image) - 1)))
        image[at] = data.draw(some.integers(0, 255))
    try:
        from_vhd(bytes(image), MemoryDisk(2 * MIB))
    except (BadStream, PrematureEnd, TooBig):
        pass


def table(
    size: int, *, entries: int | None = None, block: int = vhd.BLOCK, blocks: list[int] | None = None
) -> bytes:
    """The front of a dynamic VHD with tables that say anything, their checksums right."""
    header = bytearray(vhd._header(entries if entries is not None else 1, "", 0))
    struct.pack_into(">I", header, 32, block)
    struct.pack_into(">I", header, 36, 0)
    struct.pack_into(">I", header, 36, vhd._checksum(bytes(header)))
    places = struct.pack(f">{len(blocks or [])}I", *(blocks or []))
    return vhd._footer(size, UUID, 3) + bytes(header) + places.ljust(512, b"\xff")


@pytest.mark.parametrize(
    "image",
    [
        table(2 * MIB, block=3 << 20),
        table(2 * MIB, block=512),
        table(2 * MIB, block=1 << 30),
        table(8 * MIB, entries=1),
        table(2 * MIB, entries=0xFFFFFFF),
        table(2 * MIB, blocks=[0]),
        table(4 * MIB, entries=2, blocks=[4, 5]) + bytes(8 * MIB),
    ],
    ids=[
        "odd block",
        "tiny block",
        "huge block",
        "short table",
        "huge table",
        "in the header",
        "overlapping",
    ],
)
def test_tables_that_cannot_be_are_refused(image):
    with pytest.raises(BadStream):
        from_vhd(image, MemoryDisk(16 * MIB))


def test_lengths_that_clients_announce():
    assert announced("") is None and announced("0") == 0 and announced("4096") == 4096
    assert announced(str(1 << 50)) is None, "Xen Orchestra's word for: I do not know"
    for odd in ("-1", "1e3", "x", "9" * 30):
        with pytest.raises(BadStream):
            announced(odd)


@settings(deadline=None)
@given(some.lists(some.tuples(some.integers(0, 200), some.integers(1, 50))), some.sampled_from([1, 7, 16]))
def test_runs_of_bytes_become_runs_of_blocks(runs, grain):
    runs.sort()
    found = list(changes.coarse(runs, grain))
    covered = {byte // grain for offset, length in runs for byte in range(offset, offset + length)}
    assert {block for first, count in found for block in range(first, first + count)} == covered
    assert all(a[0] + a[1] < b[0] for a, b in zip(found, found[1:], strict=False)), "none touch"


def test_identities_are_in_the_vhd():
    image = as_vhd(bytes(MIB))
    assert uuids.UUID(bytes=image[68:84]) == uuids.UUID(UUID)
    assert image[:512] == image[-512:]
