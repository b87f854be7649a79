"""Initial RAM disks: an archive in the `newc` form of cpio.

Form: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat


class Archive:
    """Files to be the guest's root: all of them root's, dated 1970, so that the same input makes the same bytes."""

    def __init__(self) -> None:
        self._entries = bytearray()
        self._directories: set[str] = set()
        self._count = 0

    def directory(self, path: str) -> None:
        """A directory, with those above it; without effect when it is there already."""
        parent = path.rpartition("/")[0]
        if parent:
            self.directory(parent)
        if path not in self._directories:
            self._directories.add(path)
            self._append(path, stat.S_IFDIR | 0o755)

    def file(self, path: str, content: bytes, *, executable: bool = False) -> None:
        """A regular file, with the directories above it."""
        self._make_parent(path)
        self._append(path, stat.S_IFREG | (0o755 if executable else 0o644), content)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self._make_parent(path)
        self._append(path, stat.S_IFLNK | 0o777, target.encode())

    def device(self, path: str, major: int, minor: int) -> None:
        """A character device."""
        self._make_parent(path)
        self._append(path, stat.S_IFCHR | 0o600, device=(major, minor))

    def packed(self) -> bytes:
        """The archive as bytes, with its end mark."""
        end = _entry(0, "TRAILER!!!", 0, b"", (0, 0))
        return bytes(self._entries) + end

    def _make_parent(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        if parent:
            self.directory(parent)

    def _append(self, path: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._count += 1
        self._entries += _entry(self._count, path, mode, content, device)


def _entry(number: int, path: str, mode: int, content: bytes, device: tuple[int, int]) -> bytes:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    head += bytes(-len(head) % 4)
    return head + content + bytes(-len(content) % 4)
