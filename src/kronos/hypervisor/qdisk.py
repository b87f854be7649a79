"""Operations on the disks of a running Xen guest: what libvirt does for KVM, done with the guest's QEMU itself.

Xen's part of QEMU makes the node `xvda-qcow2` (or `xvda-raw`) for a disk; those made here are called `k-xvda-…`. Nodes
with a name keep their files open until they are deleted, whoever uses them, and Xen does not know of those made here.

The disk's name for Xen (see claims) is changed just before the guest's writes go elsewhere: at that moment both files
show the same content, and a guest that reboots then finds what it wrote. Changed later, it would find the old file, on
which others were built meanwhile. QEMU's own node is no longer allowed to go by that name then, since QEMU opens files
anew when a layer becomes writable again, and would get another.

An NBD server is never started in such a QEMU: version 7.2 dies when its first client leaves.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from kronos.datamodel.errors import Failure
from kronos.hypervisor import blockgraph
from kronos.hypervisor.base import Limits
from kronos.hypervisor.blockgraph import Graph, Node
from kronos.hypervisor.claims import Claims, Mode, identity
from kronos.hypervisor.disk_facts import Bitmap, DiskStatistics, Progress
from kronos.hypervisor.jobs import Job, abandon, action, bitmap, carry, delete
from kronos.hypervisor.qmp import Monitor, Monitors
from kronos.hypervisor.turns import Turns

log = logging.getLogger(__name__)

_OURS = "k-"
_PLUG_TIMEOUT = 30.0
_CLOSE_TIMEOUT = 10.0
_LOOK_AGAIN = 0.1


class QdiskDisks:
    """The disks, by Xen's names for them (xvda), of all guests of this host. `monitor(uuid)` is a monitor of ours on
    the guest's QEMU; `claims` says where the links are. Those that change one disk take turns; others do not wait.

    Failures are INTERNAL_ERROR with QEMU's words, DEVICE_ALREADY_DETACHED for a disk that is not there.
    """

    def __init__(self, monitor: Callable[[str], Path], claims: Claims) -> None:
        self.claims = claims
        self._monitors = Monitors(monitor)
        self._turns = Turns()

    # Coming and going

    def claim(self, uuid: str, target: str, image: Path, mode: Mode, *, form: str) -> Path:
        """Take an image for a disk that is about to be plugged or started; the name to give to Xen. See Claims."""
        return self.claims.claim(uuid, target, image, mode, form=form)

    def await_plugged(self, uuid: str, target: str, timeout: float = _PLUG_TIMEOUT) -> None:
        """See that a disk that libvirt says it plugged is there: it says so too when QEMU refused.

        Raises INTERNAL_ERROR when it does not appear within `timeout` seconds.
        """
        with self._monitors.of(uuid) as monitor:
            if not _awaited(timeout, lambda: target in blockgraph.targets(monitor)):
                raise Failure("INTERNAL_ERROR", f"QEMU has not made the disk {target}")

    def unplugged(self, uuid: str, target: str, timeout: float = _PLUG_TIMEOUT) -> None:
        """A disk was unplugged: have QEMU let go of all files that it consisted of, and give the images free.

        What Xen leaves behind after a snapshot would keep the files open, and make the next plug fail without a word.
        Raises DEVICE_DETACH_TIMEOUT when the disk is still there after `timeout` seconds.
        """
        with self._changing(uuid, target) as monitor:
            if not _awaited(timeout, lambda: target not in blockgraph.targets(monitor)):
                raise Failure("DEVICE_DETACH_TIMEOUT", "VBD", uuid)
            # The device is gone a moment before it lets go of its files.
            if not _awaited(_CLOSE_TIMEOUT, lambda: _pruned(monitor, target)):
                log.warning("VM %s: QEMU still has files of %s open", uuid, target)
        self.claims.release(uuid, target)

    def reconcile(self, uuid: str) -> None:
        """After a restart of the daemon: end what an operation that was cut short left behind in a running guest's
        QEMU, and have the disks' names mean the files that the guest writes to. QEMU is right."""
        with self._monitors.of(uuid) as monitor:
            abandon(monitor)
            graph = blockgraph.read(monitor)
            for target in self.claims.targets(uuid):
                chain = graph.chain(target)
                if not chain:
                    continue
                file = self._real(uuid, target, chain[0].file)
                if file != self.claims.top(uuid, target):
                    log.warning("VM %s: %s is %s, not %s", uuid, target, file, self.claims.top(uuid, target))
                    self.claims.flip(uuid, target, file, form=chain[0].driver)
                _prune(monitor, target)
                self._tidy(monitor, uuid, target)

    # Snapshots and merging

    def snapshot(
        self, uuid: str, overlays: Mapping[str, Path], bitmaps: Mapping[str, str] | None = None
    ) -> None:
        """As Hypervisor.snapshot_disks."""
        with self._changing(uuid, *overlays) as monitor, ExitStack() as undo:
            actions: list[dict[str, Any]] = []
            roots = {target: self._settled(monitor, uuid, target) for target in overlays}
            for target, overlay in overlays.items():
                root = roots[target]
                new = _new_name(target)
                _add_node(monitor, new, overlay, "qcow2", like=root, backing=None)
                undo.callback(delete, monitor, new)
                actions.append(action("blockdev-snapshot", node=root.name, overlay=new))
                names = [one.name for one in root.bitmaps if one.usable]
                names += [name for name in [(bitmaps or {}).get(target)] if name]
                actions += [action("block-dirty-bitmap-add", **bitmap(new, name)) for name in names]
            changing = {
                target for target in overlays if roots[target].file == self.claims.source(uuid, target)
            }
            for target, overlay in overlays.items():
                if target not in changing:
                    before = self.claims.flip(uuid, target, overlay)
                    undo.callback(self.claims.flip, uuid, target, before, form=roots[target].driver)
            monitor.execute("transaction", {"actions": actions})
            undo.pop_all()
            for target in changing:
                self.claims.flip(uuid, target, overlays[target])
            for target in overlays:
                self._settled(monitor, uuid, target)
                self._tidy(monitor, uuid, target)

    def commit(self, uuid: str, target: str, layer: Path, progress: Progress | None = None) -> None:
        """As Hypervisor.commit_disk."""
        with self._changing(uuid, target) as monitor:
            self._settled(monitor, uuid, target)
            chain = blockgraph.read(monitor).chain(target)
            place = _place(chain, layer)
            if place + 1 >= len(chain):
                raise Failure("INTERNAL_ERROR", f"There is nothing beneath {layer}")
            root, top, base = chain[0], chain[place], chain[place + 1]
            base_file = self._real(uuid, target, base.file)
            self.claims.check_merge(uuid, target, base_file)
            arguments: dict[str, Any] = {"device": root.name, "top-node": top.name, "base-node": base.name}
            if place:
                arguments["backing-file"] = _backing_name(top, chain[place - 1])
            carried = [(top.name, one.name) for one in top.bitmaps if one.usable]
            with self._job(monitor, "block-commit", target, arguments, carried) as job:
                if place:
                    job.await_end(progress, _carry(monitor, base.name, carried))
                else:
                    job.await_ready(progress)
                    with self._renamed(uuid, target, base_file, base.driver, root):
                        job.complete(_carry(monitor, base.name, carried))
            _prune(monitor, target)
            self._tidy(monitor, uuid, target)

    def mirror(
        self,
        uuid: str,
        target: str,
        to: Path,
        *,
        form: Literal["raw", "qcow2"] = "qcow2",
        shallow: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """As Hypervisor.mirror_disk."""
        with self._changing(uuid, target) as monitor, ExitStack() as undo:
            root = self._settled(monitor, uuid, target)
            copied = blockgraph.read(monitor).chain(target)[: 1 if shallow else None]
            new = _new_name(target)
            _add_node(
                monitor, new, to, form, like=root, **({} if shallow or form == "raw" else {"backing": None})
            )
            undo.callback(delete, monitor, new)
            arguments = {"device": root.name, "target": new, "sync": "top" if shallow else "full"}
            wanted = {one.name for one in root.bitmaps if one.usable}
            carried = [(node.name, one.name) for node in copied for one in node.bitmaps if one.name in wanted]
            with self._job(monitor, "blockdev-mirror", target, arguments, carried) as job:
                job.await_ready(progress)
                with self._renamed(uuid, target, to, form, root):
                    job.complete(_carry(monitor, new, carried))
            undo.pop_all()
            _prune(monitor, target)
            self._tidy(monitor, uuid, target)

    def take_over(self, uuid: str, target: str, image: Path, form: str) -> None:
        """Have a disk that its guest has not used yet show another image of the same size, as it is: the guest came
        from another host, and its image may only be opened when that one has let go of it."""
        with self._changing(uuid, target) as monitor, ExitStack() as undo:
            root = _root(blockgraph.read(monitor), uuid, target)
            new = _new_name(target)
            _add_node(monitor, new, image, form, like=root)
            undo.callback(delete, monitor, new)
            arguments = {"device": root.name, "target": new, "sync": "none"}
            with self._job(monitor, "blockdev-mirror", target, arguments, []) as job:
                job.await_ready(None)
                with self._renamed(uuid, target, image, form, root):
                    job.complete(lambda: None)
            undo.pop_all()
            _prune(monitor, target)
            self._tidy(monitor, uuid, target)

    # Properties

    def resize(self, uuid: str, target: str, size: int) -> None:
        """As Hypervisor.resize_disk; a paravirtual guest sees the new size at once."""
        with self._monitors.of(uuid) as monitor:
            root = _root(blockgraph.read(monitor), uuid, target)
            monitor.execute("block_resize", {"node-name": root.name, "size": size})

    def limit(self, uuid: str, target: str, limits: Limits) -> None:
        """As Hypervisor.limit_disk. Holds as long as this QEMU does: no longer than to the guest's next reboot."""
        with self._monitors.of(uuid) as monitor:
            devices = blockgraph.targets(monitor)
            if target not in devices:
                raise Failure("DEVICE_ALREADY_DETACHED", uuid)
            values = {"bps": limits.bytes_per_second, "iops": limits.requests_per_second}
            unused = dict.fromkeys(("bps_rd", "bps_wr", "iops_rd", "iops_wr"), 0)
            monitor.execute("block_set_io_throttle", {"id": devices[target], **values, **unused})

    def statistics(self, uuid: str) -> dict[str, DiskStatistics]:
        """As Hypervisor.disk_statistics, by target."""
        with self._monitors.of(uuid) as monitor:
            by_path = {path: target for target, path in blockgraph.targets(monitor).items()}
            found = {}
            for untrusted in monitor.execute("query-blockstats"):
                target = by_path.get(str(untrusted.get("qdev", "")))
                if target is not None:
                    found[target] = _statistics(untrusted["stats"])
            return found

    def bitmap_add(self, uuid: str, target: str, name: str) -> None:
        """As Hypervisor.bitmap_add; a raw image cannot keep any, and QEMU says so."""
        with self._monitors.of(uuid) as monitor:
            root = _root(blockgraph.read(monitor), uuid, target)
            monitor.execute("block-dirty-bitmap-add", bitmap(root.name, name))

    def bitmap_remove(self, uuid: str, target: str, name: str) -> None:
        """As Hypervisor.bitmap_remove."""
        with self._monitors.of(uuid) as monitor:
            root = _root(blockgraph.read(monitor), uuid, target)
            if name in {one.name for one in root.bitmaps}:
                monitor.execute("block-dirty-bitmap-remove", {"node": root.name, "name": name})

    def bitmaps(self, uuid: str, target: str) -> list[Bitmap]:
        """As Hypervisor.bitmaps."""
        with self._monitors.of(uuid) as monitor:
            return list(_root(blockgraph.read(monitor), uuid, target).bitmaps)

    # Inside

    @contextmanager
    def _changing(self, uuid: str, *targets: str) -> Iterator[Monitor]:
        """The monitor of a guest, when nothing else changes these disks."""
        with ExitStack() as turns:
            for target in sorted(targets):
                turns.enter_context(self._turns.of(f"{uuid}/{target}"))
            yield turns.enter_context(self._monitors.of(uuid))

    def _settled(self, monitor: Monitor, uuid: str, target: str) -> Node:
        """The node that a disk shows, once none beneath it goes by the disk's changing name."""
        graph = blockgraph.read(monitor)
        root = _root(graph, uuid, target)
        _check_alone(graph, uuid, target, root)
        for above, node in pairwise(graph.chain(target)):
            if node.file == self.claims.source(uuid, target):
                fresh = _new_name(target)
                _add_node(monitor, fresh, above.file.parent / above.backing_name, node.driver, like=node)
                try:
                    options = {
                        "node-name": above.name,
                        "file": graph.child(above.name, "file"),
                        "backing": fresh,
                    }
                    monitor.execute(
                        "blockdev-reopen", {"options": [{**_format_options(above.driver, above), **options}]}
                    )
                except BaseException:
                    delete(monitor, fresh)
                    raise
                _prune(monitor, target)
        return root

    def _tidy(self, monitor: Monitor, uuid: str, target: str) -> None:
        """QEMU may go by a link to what was beneath when it began, also when that has become the top."""
        place = self.claims.source(uuid, target).parent
        files = [node.file for node in blockgraph.read(monitor).nodes.values()]
        self.claims.tidy(uuid, target, keep={file.name for file in files if file.parent == place})

    def _real(self, uuid: str, target: str, file: Path) -> Path:
        """Where a file is that QEMU opened by one of our links."""
        if file.parent == self.claims.source(uuid, target).parent:
            with suppress(OSError):
                return file.readlink()
        return file

    @contextmanager
    def _renamed(self, uuid: str, target: str, image: Path, form: str, root: Node) -> Iterator[None]:
        """Have the disk's name mean another image, unless the block fails."""
        before = self.claims.flip(uuid, target, image, form=form)
        try:
            yield
        except BaseException:
            self.claims.flip(uuid, target, before, form=root.driver)
            raise

    @contextmanager
    def _job(
        self,
        monitor: Monitor,
        command: str,
        target: str,
        arguments: Mapping[str, Any],
        carried: list[tuple[str, str]],
    ) -> Iterator[Job]:
        """A block job that is cancelled when the block fails. It waits for its last step where bitmaps must move."""
        with monitor.events() as events:
            job = Job(monitor, events, target)
            monitor.execute(command, {**arguments, "job-id": job.id, "auto-finalize": not carried})
            try:
                yield job
            except BaseException:
                job.cancel()
                raise


def _awaited(timeout: float, condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK_AGAIN)
    return True


def _root(graph: Graph, uuid: str, target: str) -> Node:
    chain = graph.chain(target)
    if not chain:
        raise Failure("DEVICE_ALREADY_DETACHED", uuid)
    return chain[0]


def _check_alone(graph: Graph, uuid: str, target: str, root: Node) -> None:
    """A PC's disk is there twice until its guest has taken up the paravirtual one, and a change of the one would not be
    seen by the other. Raises VM_LACKS_FEATURE."""
    own = identity(root.file)
    for other in graph.devices:
        chain = graph.chain(other)
        if other != target and chain and chain[0].file.exists() and identity(chain[0].file) == own:
            raise Failure("VM_LACKS_FEATURE", uuid)


def _place(chain: list[Node], layer: Path) -> int:
    wanted = identity(layer)
    for place, node in enumerate(chain):
        if identity(node.file) == wanted:
            return place
    raise Failure("INTERNAL_ERROR", f"{layer} is no part of the disk")


def _backing_name(layer: Node, above: Node) -> str:
    """What the image above is to say of the one beneath when `layer` between them is gone."""
    name = layer.backing_name
    if name.startswith("/") or layer.file.parent == above.file.parent:
        return name
    return os.fspath(layer.file.parent / name)


def _carry(monitor: Monitor, node: str, carried: list[tuple[str, str]]) -> Callable[[], None]:
    def last_step() -> None:
        present = {one.name for one in blockgraph.read(monitor).nodes[node].bitmaps}
        carry(monitor, node, carried, present)

    return last_step


def _prune(monitor: Monitor, target: str) -> None:
    """Delete the nodes that were made for a disk and that nothing uses: each keeps its file open. Top first."""
    while True:
        unused = [name for name in blockgraph.read(monitor).parentless() if _belongs(name, target)]
        for name in unused:
            monitor.execute("blockdev-del", {"node-name": name})
        if not unused:
            return


def _pruned(monitor: Monitor, target: str) -> bool:
    """Whether no node of a disk is left, once those that nothing uses are gone."""
    _prune(monitor, target)
    return not any(_belongs(name, target) for name in blockgraph.read(monitor).nodes)


def _belongs(name: str, target: str) -> bool:
    return name.startswith((f"{target}-", f"{_OURS}{target}-"))


def _new_name(target: str) -> str:
    return f"{_OURS}{target}-{secrets.token_hex(8)}"


def _add_node(monitor: Monitor, name: str, image: Path, form: str, *, like: Node, **more: Any) -> None:
    options = {"node-name": name, "file": _file_options(image), **_format_options(form, like), **more}
    monitor.execute("blockdev-add", options)


def _format_options(form: str, like: Node) -> dict[str, Any]:
    cache = {"direct": like.direct, "no-flush": like.no_flush}
    # Without `discard` what the guest discards would stay in the file.
    return {"driver": form, "read-only": like.read_only, "cache": cache, "discard": "unmap"}


def _file_options(image: Path) -> dict[str, Any]:
    """The rest a file takes over from the image in it, also when that becomes writable."""
    driver = "host_device" if stat.S_ISBLK(image.stat().st_mode) else "file"
    return {"driver": driver, "filename": os.fspath(image), "discard": "unmap"}


def _statistics(untrusted: Mapping[str, Any]) -> DiskStatistics:
    names = [
        "rd_bytes",
        "rd_operations",
        "rd_total_time_ns",
        "wr_bytes",
        "wr_operations",
        "wr_total_time_ns",
        "flush_operations",
        "flush_total_time_ns",
    ]
    return DiskStatistics(*(int(untrusted.get(name, 0)) for name in names))
