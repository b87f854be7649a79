from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.boot.initramfs import Archive


def entries(packed: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content of each name, read by the format's description and not by the writer's code."""
    found, position = {}, 0
    while True:
        assert packed[position : position + 6] == b"070701"
        field = [int(packed[position + 6 + 8 * n : position + 14 + 8 * n], 16) for n in range(13)]
        name = packed[position + 110 : position + 110 + field[11] - 1].decode()
        content = (position + 110 + field[11] + 3) & ~3
        if name == "TRAILER!!!":
            assert content == len(packed)
            return found
        assert name not in found
        found[name] = (field[1], packed[content : content + field[6]])
        position = (content + field[6] + 3) & ~3


names = st.text("abcdeg", min_size=1, max_size=9)


@given(
    st.dictionaries(
        st.lists(names, min_size=1, max_size=3).map(lambda parts: "/".join(["d", *parts, "file"])),
        st.binary(),
    )
)
def test_every_file_is_there_below_its_directories(files: dict[str, bytes]) -> None:
    archive = Archive()
    for path, content in files.items():
        archive.file(path, content)
    found = entries(archive.packed())
    for path, content in files.items():
        assert found[path] == (stat.S_IFREG | 0o644, content)
        assert stat.S_ISDIR(found[path.rpartition("/")[0]][0])


@pytest.mark.skipif(not shutil.which("cpio") or os.geteuid() != 0, reason="needs cpio and root")
def test_cpio_reads_all_kinds(tmp_path: Path) -> None:
    archive = Archive()
    archive.file("bin/busybox", b"program", executable=True)
    archive.link("bin/sh", "busybox")
    archive.device("dev/console", 5, 1)
    archive.directory("proc")
    subprocess.run(["cpio", "-i", "--quiet"], input=archive.packed(), cwd=tmp_path, check=True)
    assert (tmp_path / "bin/sh").read_bytes() == b"program"
    assert os.access(tmp_path / "bin/busybox", os.X_OK)
    assert os.stat(tmp_path / "dev/console").st_rdev == os.makedev(5, 1)
    assert (tmp_path / "proc").is_dir()


def test_the_same_input_makes_the_same_bytes() -> None:
    def make() -> bytes:
        archive = Archive()
        archive.file("init", b"#!/bin/sh\n", executable=True)
        return archive.packed()

    assert make() == make()
