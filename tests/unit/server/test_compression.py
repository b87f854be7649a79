"""Large replies with gzip."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from kronos.server import compression
from kronos.server.routing import Reply

RECORDS = (b"a" * 5000, b"b" * 5000)


@pytest.fixture(autouse=True)
def packed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, ...]]:
    """What was really compressed; nothing is kept from other tests."""
    done: list[tuple[bytes, ...]] = []
    monkeypatch.setattr(compression, "_kept", compression._Kept())
    real = compression._gzip
    monkeypatch.setattr(compression, "_gzip", lambda parts: done.append(parts) or real(parts))
    return done


def sent(*parts: bytes) -> bytes:
    reply = asyncio.run(compression.compress(Reply(200, parts)))
    assert ("Content-Encoding", "gzip") in reply.headers
    return gzip.decompress(b"".join(reply.body))


def test_the_same_records_are_compressed_once(packed: list[object]) -> None:
    assert {sent(b"<head/>", *RECORDS) for _ in range(3)} == {b"<head/>" + b"".join(RECORDS)}
    assert len(packed) == 1


def test_another_head_or_another_record_is_another_body(packed: list[object]) -> None:
    changed = (RECORDS[0], bytes(bytearray(RECORDS[1])))
    bodies = [
        (b'{"id":1', *RECORDS),
        (b'{"id":2', *RECORDS),
        (b'{"id":1', *changed),
        (b'{"id":1', *RECORDS, b"x"),
    ]
    for body in bodies:
        assert sent(*body) == b"".join(body)
    assert len(packed) == len(bodies)


def test_few_bodies_are_kept_and_not_for_ever(packed: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(compression.KEPT + 1):
        sent(b"%d" % number, *RECORDS)
    sent(b"0", *RECORDS)
    assert len(packed) == compression.KEPT + 2
    monkeypatch.setattr(compression, "KEPT_FOR", 0.0)
    compression._kept.forget_old()
    sent(b"0", *RECORDS)
    assert len(packed) == compression.KEPT + 3
