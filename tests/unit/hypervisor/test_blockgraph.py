"""What is made of a QEMU's own words about its block layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kronos.hypervisor import blockgraph


class Monitor:
    """One disk, xvda, of three files, whose nodes QEMU describes in these words."""

    def __init__(self, *descriptions: str) -> None:
        self.descriptions = descriptions

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        return {
            "query-named-block-nodes": self._nodes,
            "query-block": lambda: [
                {"qdev": "/machine/peripheral/xvda", "inserted": {"node-name": "image0"}}
            ],
            "x-debug-query-block-graph": self._graph,
        }[command]()

    def _nodes(self) -> list[dict[str, Any]]:
        images = [
            {"node-name": f"image{n}", "drv": "qcow2", "file": said}
            for n, said in enumerate(self.descriptions)
        ]
        files = [{"node-name": f"file{n}", "drv": "file", "file": f"/sr/{n}"} for n in range(len(images))]
        return images + files

    def _graph(self) -> dict[str, Any]:
        count = len(self.descriptions)
        nodes = [{"id": n, "type": "block-driver", "name": f"image{n}"} for n in range(count)]
        nodes += [{"id": 100 + n, "type": "block-driver", "name": f"file{n}"} for n in range(count)]
        edges = [{"parent": n, "child": 100 + n, "name": "file"} for n in range(count)]
        edges += [{"parent": n, "child": n + 1, "name": "backing"} for n in range(count - 1)]
        return {"nodes": nodes, "edges": edges}


def test_a_chain_has_the_files_top_first():
    graph = blockgraph.read(Monitor("/sr/0", "/sr/1", "/sr/2"))
    assert [node.file for node in graph.chain("xvda")] == [Path("/sr/0"), Path("/sr/1"), Path("/sr/2")]


def test_the_file_of_a_node_that_is_described_in_json_is_found():
    described = json.dumps({"driver": "qcow2", "file": {"driver": "file", "filename": "/sr/0"}})
    graph = blockgraph.read(Monitor(f"json:{described}", "/sr/1"))
    assert graph.nodes["image0"].file == Path("/sr/0")


def test_a_description_that_qemu_cut_off_hides_no_file():
    graph = blockgraph.read(Monitor('json:{"driver": "qcow2", "backing": {"driver": "qco', "/sr/1"))
    assert [node.file for node in graph.chain("xvda")] == [Path("/sr/0"), Path("/sr/1")]
