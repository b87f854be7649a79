"""What a transfer reads from and writes to, and how it ends too soon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

Advance = Callable[[int], None]
"""Told of bytes of a disk that are done; what it raises ends the transfer."""

SKIP_STEP: Final = 256 << 10
_HUGE: Final = 1 << 50


class Sink(Protocol):
    """Where a transfer writes to. `sendall` raises OSError when nobody takes it any more."""

    def sendall(self, data: bytes | bytearray | memoryview, /) -> None: ...


class Source(Protocol):
    """Where a transfer reads from; 0 is the end. Raises OSError."""

    def recv_into(self, buffer: memoryview, /) -> int: ...


class Gone(Exception):
    """Whoever takes the stream takes no more of it."""


class PrematureEnd(Exception):
    """The stream ended, or broke off, before what it holds was complete."""


class BadStream(Exception):
    """The stream is not of the format that it should be, or is one that is not taken; the text says why."""


class TooBig(Exception):
    """The stream holds a disk of `size` bytes, more than there is room for."""

    def __init__(self, size: int) -> None:
        super().__init__(f"a disk of {size} bytes")
        self.size = size


def announced(content_length: str) -> int | None:
    """The length that a client announces; None where it does not know it. Raises BadStream.

    Clients that do not know theirs may announce a pebibyte, and hang up when they are done.
    """
    if not content_length:
        return None
    if not content_length.isdecimal() or len(content_length) > 19:
        raise BadStream(f"a length of {content_length[:40]!r}")
    length = int(content_length)
    return None if length >= _HUGE else length


class Reader:
    """A source that is read in exact pieces; `limit` is how many bytes of it there are, None for up to its end."""

    def __init__(self, source: Source, limit: int | None = None) -> None:
        self._source = source
        self.left = limit
        self.offset = 0
        self._kept = b""
        self._scratch: memoryview | None = None

    def some(self, view: memoryview) -> int:
        """Fill a part of `view`; 0 at the end. Raises PrematureEnd where the end comes before the limit."""
        if self._kept:
            count = min(len(view), len(self._kept))
            view[:count] = self._kept[:count]
            self._kept = self._kept[count:]
            self.offset += count
            return count
        if self.left is not None:
            view = view[: self.left]
        if not view:
            return 0
        try:
            count = self._source.recv_into(view)
        except OSError as error:
            raise PrematureEnd(str(error)) from error
        if not count and self.left is not None:
            raise PrematureEnd(f"{self.left} bytes are missing")
        self.offset += count
        if self.left is not None:
            self.left -= count
        return count

    def recv_into(self, view: memoryview) -> int:
        """The rest of the stream as a source."""
        return self.some(view)

    def unread(self, data: bytes) -> None:
        """Put back what was read last."""
        self._kept = data + self._kept
        self.offset -= len(data)

    def fill(self, view: memoryview) -> int:
        """Fill `view` as far as the stream goes."""
        done = 0
        while done < len(view) and (count := self.some(view[done:])):
            done += count
        return done

    def into(self, view: memoryview) -> None:
        """Fill all of `view`. Raises PrematureEnd."""
        if self.fill(view) < len(view):
            raise PrematureEnd(f"the stream ends after {self.offset} bytes")

    def exactly(self, size: int) -> bytes:
        """The next `size` bytes. Raises PrematureEnd."""
        buffer = bytearray(size)
        self.into(memoryview(buffer))
        return bytes(buffer)

    def skip(self, size: int) -> None:
        """Read `size` bytes and throw them away. Raises PrematureEnd."""
        if self._scratch is None:
            self._scratch = memoryview(bytearray(SKIP_STEP))
        while size:
            part = self._scratch[: min(size, SKIP_STEP)]
            self.into(part)
            size -= len(part)
