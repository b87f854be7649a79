"""UEFI's variables: read from and written into the file that a guest's firmware keeps them in."""

from __future__ import annotations

import base64
import gzip
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.rules import uefi
from kronos.rules.uefi import KEYS, PLATFORM, UnusableStore, Variable

HEADER, SIZE, WHOLE = 72, 0x4000, 0x8000


def empty(size: int = SIZE) -> bytes:
    """A store without variables, as the firmware's own template is."""
    volume = struct.pack("<16x16xQ4sIHHHBB", WHOLE, b"_FVH", 0x4FEFF, HEADER, 0, 0, 0, 2).ljust(HEADER, b"\0")
    store = bytes.fromhex("782cf3aa7b949a43a1802e144ec37792") + struct.pack("<IBBHI", size, 0x5A, 0xFE, 0, 0)
    return (volume + store).ljust(WHOLE, b"\xff")


def variable(name: str, data: bytes) -> Variable:
    return Variable(name, KEYS.get(name, PLATFORM), 0x27, bytes(16), data)


def keys(**data: bytes) -> dict:
    found = [variable(name, content) for name, content in data.items()]
    return {(each.name, each.vendor): each for each in found}


def signatures(*contents: bytes) -> bytes:
    return b"".join(
        struct.pack("<16sIII", b"sha256 and so on", 28 + 16 + len(each), 0, 16 + len(each)) + bytes(16) + each
        for each in contents
    )


def test_what_is_put_in_is_read_again():
    store = uefi.with_keys(empty(), keys(PK=b"owner", db=b"odd"))
    assert uefi.variables(store) == keys(PK=b"owner", db=b"odd")
    assert len(store) == WHOLE


def test_keys_take_the_place_of_others_and_leave_the_rest():
    store = uefi.with_keys(empty(), keys(PK=b"old", KEK=b"old"))
    store = uefi.with_keys(store, keys(PK=b"new"))
    assert uefi.variables(store) == keys(PK=b"new")
    assert uefi.key_names(uefi.in_setup_mode(store)) == set()


def test_a_store_that_is_full_is_not_broken():
    with pytest.raises(UnusableStore):
        uefi.with_keys(empty(256), keys(PK=bytes(200)))


def test_lists_are_brought_up_to_date_and_keep_what_is_the_owners():
    mine = signatures(b"mine", b"shared")
    store = uefi.with_keys(empty(), keys(PK=b"mine", db=mine))
    newest = keys(PK=b"theirs", KEK=b"theirs", db=signatures(b"shared", b"newer"))
    assert uefi.lacks(store, newest)
    after = uefi.with_newer_lists(store, newest)
    assert not uefi.lacks(after, newest)
    found = uefi.variables(after)
    assert found["PK", PLATFORM].data == b"mine" and ("KEK", PLATFORM) not in found
    assert found["db", KEYS["db"]].data.startswith(mine)


def test_a_store_as_text_is_small():
    text = uefi.text_of(empty())
    assert len(text) < 300 and uefi.store_of(text) == empty()


@pytest.mark.parametrize(
    "text",
    ["", "€", "VkFSUwIAAAA=", base64.b64encode(b"\x1f\x8b rubbish").decode()]
    + [base64.b64encode(gzip.compress(each)).decode() for each in (b"", b"x" * 5000, empty()[:5000])],
)
def test_what_is_no_store_is_none(text):
    assert uefi.store_of(text) is None


def test_a_text_that_would_fill_the_memory_is_cut_short():
    bomb = base64.b64encode(gzip.compress(bytes(1 << 26))).decode()
    assert uefi.store_of(bomb) is None


@given(st.binary(max_size=400), st.integers(0, 400))
def test_a_damaged_store_is_refused_or_read(rubbish, place):
    damaged = bytearray(uefi.with_keys(empty(), keys(PK=b"owner")))
    damaged[place : place + len(rubbish)] = rubbish
    try:
        uefi.variables(bytes(damaged))
        uefi.with_newer_lists(bytes(damaged), keys(PK=b"x", db=rubbish))
    except UnusableStore:
        pass


@given(st.binary(max_size=200))
def test_damaged_lists_are_read_as_far_as_they_go(rubbish):
    store = uefi.with_keys(empty(), keys(db=rubbish, dbx=signatures(b"one") + rubbish))
    uefi.lacks(store, keys(db=signatures(b"a"), dbx=rubbish))
