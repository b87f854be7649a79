"""gzip and zstd around a stream, in bounded memory."""

from __future__ import annotations

import os
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from kronos.transfer.stream import BadStream, Reader, Sink, Source

if TYPE_CHECKING:
    from collections.abc import Iterator

_GZIP: Final = 31  # zlib's word for a gzip wrapping with the largest window
_FAST: Final = 1
_ZSTD_LEVEL: Final = 3
_LARGEST_WINDOW: Final = 1 << 27
"""What the zstd program takes without being asked to."""
_STEP: Final = 256 << 10
_MAGIC: Final = 4


class _Compressing:
    """A sink that compresses for another one."""

    def __init__(self, sink: Sink, compressor: Any) -> None:
        self._sink = sink
        self._compressor = compressor

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        done = self._compressor.compress(data)
        if done:
            self._sink.sendall(done)

    def finish(self) -> None:
        self._sink.sendall(self._compressor.flush())


@contextmanager
def compressed(sink: Sink, kind: str) -> Iterator[Sink]:
    """A sink for the block, whose stream reaches `sink` compressed: `gzip`, `zstd`, or "" for not at all."""
    if not kind:
        yield sink
        return
    compressing = _Compressing(sink, _compressor(kind))
    yield compressing
    compressing.finish()


def _compressor(kind: str) -> Any:
    if kind == "gzip":
        return zlib.compressobj(_FAST, wbits=_GZIP)
    import zstandard  # half a megabyte that most daemons never need

    threads = min(4, len(os.sched_getaffinity(0)))
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL, threads=threads).compressobj()


def decompressed(reader: Reader) -> Reader:
    """The stream without the compression that it begins with, if any."""
    start = reader.exactly(_MAGIC)
    reader.unread(start)
    if start[:2] == b"\x1f\x8b":
        return Reader(_Gunzip(reader))
    if start == b"\x28\xb5\x2f\xfd":
        return Reader(_Unzstd(reader))
    return reader


class _Gunzip:
    """A gzip stream, of one member or several."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._buffer = memoryview(bytearray(_STEP))
        self._inflating = zlib.decompressobj(_GZIP)
        self._waiting = b""
        self._begun = False

    def recv_into(self, view: memoryview) -> int:
        while True:
            if self._inflating.eof:
                self._waiting = self._inflating.unused_data
                self._inflating = zlib.decompressobj(_GZIP)
                self._begun = False
            if not self._waiting:
                count = self._source.recv_into(self._buffer)
                if not count:
                    if self._begun:
                        raise OSError("the gzip stream breaks off")
                    return 0
                self._waiting = bytes(self._buffer[:count])
            try:
                data = self._inflating.decompress(self._waiting, len(view))
            except zlib.error as error:
                raise BadStream(f"not a gzip stream: {error}") from error
            self._begun = True
            self._waiting = self._inflating.unconsumed_tail
            if data:
                view[: len(data)] = data
                return len(data)


class _Unzstd:
    """A zstd stream, of one frame or several."""

    def __init__(self, source: Source) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        file: Any = _File(source)
        self._reader = decompressor.stream_reader(file, read_size=_STEP, read_across_frames=True)

    def recv_into(self, view: memoryview) -> int:
        try:
            # Not readinto: that waits until all of the view is filled, though the end may come before.
            data: bytes = self._reader.read1(len(view))
        except self._error as error:
            raise BadStream(f"not a zstd stream: {error}") from error
        view[: len(data)] = data
        return len(data)


class _File:
    """A source as a file."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._buffer = memoryview(bytearray(_STEP))

    def read(self, size: int = _STEP) -> bytes:
        count = self._source.recv_into(self._buffer[: min(size, _STEP)])
        return bytes(self._buffer[:count])
