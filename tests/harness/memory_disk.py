"""Disks and streams in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

PIECE = 64 << 10


class MemoryDisk:
    """A disk that knows which of its pieces were written; those that were not read as zeros."""

    def __init__(
        self, size: int, content: bytes = b"", layers: list[tuple[int, int, int]] | None = None
    ) -> None:
        self.size = size
        self.pieces: dict[int, bytearray] = {}
        self.depths = layers
        self.writes = 0
        for at in range(0, len(content), PIECE):
            if any(content[at : at + PIECE]):
                self.pieces[at // PIECE] = bytearray(content[at : at + PIECE].ljust(PIECE, b"\0"))

    def data(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        for number in sorted(self.pieces):
            first, last = max(start, number * PIECE), min(end, (number + 1) * PIECE)
            if first < last:
                yield first, last - first

    def layers(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        assert self.depths is not None
        return iter(self.depths)

    def blocks(self, places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, memoryview]]:
        for offset, length in places:
            assert 0 < length <= 1 << 20 and offset + length <= self.size
            yield offset, memoryview(self.read(offset, length))

    def read(self, offset: int, length: int) -> bytes:
        first, last = offset // PIECE, -(-(offset + length) // PIECE)
        whole = b"".join(bytes(self.pieces.get(n, bytes(PIECE))) for n in range(first, last))
        return whole[offset - first * PIECE :][:length]

    def write(self, offset: int, data: memoryview) -> None:
        assert len(data) <= 1 << 20 and offset + len(data) <= self.size
        self.writes += len(data)
        content, done = bytes(data), 0
        while done < len(content):
            number, at = divmod(offset + done, PIECE)
            step = min(PIECE - at, len(content) - done)
            self.pieces.setdefault(number, bytearray(PIECE))[at : at + step] = content[done : done + step]
            done += step

    def zero(self, offset: int, length: int) -> None:
        for at in range(offset, offset + length, 1 << 20):
            self.write(at, memoryview(bytes(min(1 << 20, offset + length - at))))
        for number in range(-(-offset // PIECE), (offset + length) // PIECE):
            self.pieces.pop(number, None)

    def flush(self) -> None: ...

    @property
    def content(self) -> bytes:
        return self.read(0, self.size)


class Pipe:
    """What is sent can be received, in steps of at most `step` bytes."""

    def __init__(self, data: bytes = b"", step: int = 1 << 30) -> None:
        self.sent = bytearray(data)
        self.step = step
        self._at = 0

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def recv_into(self, view: memoryview) -> int:
        count = min(len(view), len(self.sent) - self._at, self.step)
        view[:count] = self.sent[self._at : self._at + count]
        self._at += count
        return count
