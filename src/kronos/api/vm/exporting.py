"""VM export: a VM and its disks, or what describes VMs, as an XVA archive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from kronos.api.vdi import streaming
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import now
from kronos.db.records import VM
from kronos.dispatch.call import Call
from kronos.rules import operations, packing
from kronos.transfer import archive, compression
from kronos.transfer.archive import Streamed
from kronos.transfer.stream import Sink


@contextmanager
def exported(call: Call, vm: VM, kind: str, *, running: bool = False) -> Iterator[Callable[[Sink], None]]:
    """What sends a VM's archive, compressed by `kind` ("", gzip, zstd); the VM stays as it is while the block runs.

    `running` is to keep the power state, which for a suspended VM would take its memory along: that is not done.

    Raises VM_BAD_POWER_STATE, VDI_IN_USE, OPERATION_NOT_ALLOWED, and as `streaming.told` does.
    """
    if running and vm.power_state == "Suspended":
        raise Failure("OPERATION_NOT_ALLOWED", "The memory of a suspended VM is not exported")
    with call.pipeline.holds.hold(vm, "export", call.task):
        packed = packing.pack(call.db, [vm])
        for _, vdi in packed.disks:
            refusal = operations.refusal(call.db, vdi, "copy")
            if refusal is not None:
                raise refusal
        text = packing.describe(packed, call.host, date=now())

        def send(sink: Sink) -> None:
            streamed = [
                Streamed(name, vdi.virtual_size, streaming.opener(call, vdi, writable=False))
                for name, vdi in packed.disks
            ]
            progress = streaming.Progress(call, sum(each.size for each in streamed))
            with streaming.told(call), compression.compressed(sink, kind) as compressing:
                archive.send(text, streamed, compressing, progress, int(time.time()))

        yield send


def metadata(call: Call, vms: Sequence[VM], *, snapshots: bool, left_out: frozenset[str]) -> bytes:
    """An archive that describes VMs, with the snapshots of each, and holds no disk."""
    packed = packing.pack(call.db, vms, snapshots=snapshots, left_out=left_out)
    text = packing.describe(packed, call.host, date=now(), snapshots=snapshots, running=True)
    parts: list[bytes] = []
    archive.send(text, [], _Kept(parts), lambda _: None, int(time.time()))
    return b"".join(parts)


class _Kept:
    """A sink that keeps what it is given."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        self._parts.append(bytes(data))
