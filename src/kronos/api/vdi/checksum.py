"""VDI.checksum: what a disk holds, in one number, so that copies of it can be compared."""

from __future__ import annotations

import hashlib

from kronos.api.vdi import streaming
from kronos.db.records import VDI
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message


class _Digest:
    """A sink that keeps nothing but the sum. MD5 is what the reference answers; it proves nothing against malice."""

    def __init__(self) -> None:
        self._sum = hashlib.md5(usedforsecurity=False)

    def sendall(self, data: bytes | bytearray | memoryview, /) -> None:
        self._sum.update(data)

    def text(self) -> str:
        return self._sum.hexdigest()


@message("VDI.checksum")
def checksum(call: Call, self: str) -> str:
    """The MD5 sum of a disk's bytes, as a guest reads them. Raises VDI_IN_USE [vdi, copy], SR_HAS_NO_PBDS."""
    digest = _Digest()
    with streaming.exported(call, call.db.get(VDI, self), "raw") as export:
        export.send(digest)
    return digest.text()
