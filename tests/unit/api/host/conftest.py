"""A host whose operating system is a folder."""

from __future__ import annotations

import pytest

from harness.outside import NotedOutside


@pytest.fixture
def system(xapi, tmp_path):
    """The operating system around the daemon: its files lie below `root`."""
    outside = NotedOutside()
    outside.root = tmp_path / "root"
    outside.root.mkdir()
    xapi.machine.outside = outside
    xapi.machine.root = outside.root
    return outside


@pytest.fixture
def put(system):
    """Write a file of the host."""

    def write(path: str, content: str = "", mode: int = 0o644):
        file = system.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(mode)
        return file

    return write
