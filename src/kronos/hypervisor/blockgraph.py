"""What a QEMU's block layer is made of: its devices, the nodes that they show, and what lies beneath."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import digits
from typing import Any

from kronos.hypervisor.disk_facts import Bitmap
from kronos.hypervisor.qmp import Monitor

_DEEPEST = 256
_DESCRIBED = "json:"
_NAMED = "/machine/peripheral/"


@dataclass(frozen=True)
class Node:
    """One node of the graph. `file` is the image's name as QEMU opened it, `backing_name` what the image's header
    says of the one beneath."""

    name: str
    driver: str
    file: Path
    backing_name: str = ""
    backing_format: str = ""
    read_only: bool = False
    direct: bool = False
    no_flush: bool = False
    bitmaps: tuple[Bitmap, ...] = ()


@dataclass(frozen=True)
class Graph:
    """`devices` has QEMU's path of every disk device by target name, `roots` the node that each shows."""

    nodes: Mapping[str, Node]
    devices: Mapping[str, str]
    roots: Mapping[str, str]
    _edges: Sequence[tuple[int, int, str]] = ()
    _names: Mapping[int, str] = field(default_factory=dict)

    def chain(self, target: str) -> list[Node]:
        """The images that a disk consists of, top first; empty where there is no such disk."""
        found: list[Node] = []
        name: str | None = self.roots.get(target)
        while name is not None and name in self.nodes and len(found) < _DEEPEST:
            found.append(self.nodes[name])
            name = self.child(name, "backing")
        return found

    def child(self, name: str, role: str) -> str | None:
        """The node below another in this role (backing, file)."""
        for parent, child, edge in self._edges:
            if edge == role and self._names.get(parent) == name:
                return self._names.get(child)
        return None

    def storage(self, name: str) -> str:
        """The node at the bottom of this one, which has the file itself."""
        for _ in range(_DEEPEST):
            below = self.child(name, "file")
            if below is None or below not in self.nodes:
                break
            name = below
        return name

    def parentless(self) -> Iterator[str]:
        """The nodes that nothing uses."""
        used = {child for _, child, _ in self._edges}
        for number, name in self._names.items():
            if number not in used and name in self.nodes:
                yield name


def read(monitor: Monitor) -> Graph:
    """Ask a QEMU for all of it."""
    listed = {
        str(untrusted.get("node-name", "")): untrusted
        for untrusted in monitor.execute("query-named-block-nodes", {"flat": True})
    }
    devices: dict[str, str] = {}
    roots: dict[str, str] = {}
    for untrusted in monitor.execute("query-block"):
        path = str(untrusted.get("qdev", ""))
        target = _target(monitor, path)
        if target:
            devices[target] = path
            if "inserted" in untrusted:
                roots[target] = str(untrusted["inserted"].get("node-name", ""))
    # By names alone it can't be told which of two nodes on one file lies beneath another. No stable command says it.
    graph = monitor.execute("x-debug-query-block-graph")
    edges = [(int(edge["parent"]), int(edge["child"]), str(edge["name"])) for edge in graph["edges"]]
    names = {int(one["id"]): str(one["name"]) for one in graph["nodes"] if one["type"] == "block-driver"}
    found = Graph({name: _node(one) for name, one in listed.items()}, devices, roots, edges, names)
    # The description of a node holds those of all beneath it, and is cut off where it gets longer than a path may be:
    # after some twenty snapshots.
    files = {
        name: found.nodes[found.storage(name)].file
        for name, one in listed.items()
        if str(one.get("file", "")).startswith(_DESCRIBED)
    }
    nodes = {name: replace(node, file=files.get(name, node.file)) for name, node in found.nodes.items()}
    return replace(found, nodes=nodes)


def targets(monitor: Monitor) -> dict[str, str]:
    """The devices by target name, without the rest."""
    found = {}
    for untrusted in monitor.execute("query-block"):
        path = str(untrusted.get("qdev", ""))
        if target := _target(monitor, path):
            found[target] = path
    return found


def _target(monitor: Monitor, path: str) -> str:
    """What the toolstack calls a device: Xen's have a property for it, others are made with a name."""
    if path.startswith(_NAMED):
        return path.removeprefix(_NAMED).partition("/")[0]
    if not path.startswith("/"):
        return ""
    properties = {str(one["name"]) for one in monitor.execute("qom-list", {"path": path})}
    if "vdev" not in properties:
        return path
    # It says xvda0, with the number of a partition, though there is none.
    return str(monitor.execute("qom-get", {"path": path, "property": "vdev"})).rstrip(digits)


def _node(untrusted: Mapping[str, Any]) -> Node:
    image = untrusted.get("image", {})
    cache = untrusted.get("cache", {})
    return Node(
        name=str(untrusted.get("node-name", "")),
        driver=str(untrusted.get("drv", "")),
        file=_file(str(untrusted.get("file", ""))),
        backing_name=str(image.get("backing-filename", "")),
        backing_format=str(image.get("backing-filename-format", "")),
        read_only=bool(untrusted.get("ro", False)),
        direct=bool(cache.get("direct", False)),
        no_flush=bool(cache.get("no-flush", False)),
        bitmaps=tuple(_bitmap(one) for one in untrusted.get("dirty-bitmaps", []) if one.get("persistent")),
    )


def _bitmap(untrusted: Mapping[str, Any]) -> Bitmap:
    usable = bool(untrusted.get("recording")) and not untrusted.get("inconsistent", False)
    return Bitmap(str(untrusted.get("name", "")), int(untrusted.get("count", 0)), usable)


def _file(name: str) -> Path:
    """The file in QEMU's description of a node, which is JSON where a name would not say all; none in a part of one."""
    described: Any = name
    if name.startswith(_DESCRIBED):
        try:
            described = json.loads(name.removeprefix(_DESCRIBED))
        except ValueError:
            described = ""
    for _ in range(_DEEPEST):
        if not isinstance(described, dict):
            break
        described = described.get("filename", described.get("file", ""))
    return Path(described if isinstance(described, str) else "")
