"""Disks of transfers with the real qemu-nbd: what it reads, what it writes, and what becomes of it."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from harness.daemon import wait_until
from kronos.system.commands import CommandFailed, run
from kronos.transfer import changes, disk

pytestmark = pytest.mark.integration
MIB = 1 << 20


def image(path: Path, size: int = 64 * MIB, backing: Path | None = None) -> Path:
    base = ["-b", str(backing), "-F", "qcow2"] if backing is not None else []
    run(["qemu-img", "create", "-q", "-f", "qcow2", *base, str(path), str(size)])
    return path


def write(path: Path, pattern: int, at: int, length: int = MIB) -> None:
    run(["qemu-io", "-f", "qcow2", "-c", f"write -q -P {pattern} {at} {length}", str(path)])


def servers(path: Path) -> list[int]:
    """The processes that have an image open as a disk of a transfer."""
    found = subprocess.run(["pgrep", "-f", f"^qemu-nbd .*{path}$"], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def test_what_is_written_is_read_by_the_next_one(tmp_path):
    path, noise = image(tmp_path / "a.qcow2"), random.Random(1).randbytes(MIB)
    with disk.opened(path, "qcow2", writable=True) as opened:
        assert opened.size == 64 * MIB
        disk.put(opened, 10 * MIB, memoryview(noise))
        disk.put(opened, 20 * MIB, memoryview(bytes(MIB)))
        opened.flush()
    assert servers(path) == []
    with disk.opened(path, "qcow2") as opened:
        assert list(opened.data(0, opened.size)) == [(10 * MIB, MIB)], "zeros took no space"
        ((offset, view),) = opened.blocks([(10 * MIB, MIB)])
        assert (offset, bytes(view)) == (10 * MIB, noise)


def test_many_blocks_come_in_their_order(tmp_path):
    path = image(tmp_path / "a.qcow2")
    for number in range(20):
        write(path, number + 1, number * 3 * MIB)
    with disk.opened(path, "qcow2") as opened:
        places = disk.pieces(opened.data(0, opened.size))
        found = [(offset // MIB, view[0], view[-1], len(view)) for offset, view in opened.blocks(places)]
    assert found == [(number * 3, number + 1, number + 1, MIB) for number in range(20)]


def test_what_held_data_can_be_cleared(tmp_path):
    path = image(tmp_path / "a.qcow2")
    write(path, 7, 0, 8 * MIB)
    with disk.opened(path, "qcow2", writable=True) as opened:
        disk.clear(opened, 2 * MIB, 4 * MIB)
        opened.flush()
        assert list(opened.data(0, opened.size)) == [(0, 2 * MIB), (6 * MIB, 2 * MIB)]


def test_layers_are_told_by_their_depth(tmp_path):
    base = image(tmp_path / "base.qcow2")
    write(base, 1, 0, 2 * MIB)
    top = image(tmp_path / "top.qcow2", backing=base)
    write(top, 2, MIB, MIB)
    with disk.opened(top, "qcow2", layers=True) as opened:
        found = [(offset, depth) for offset, _, depth in opened.layers(0, 3 * MIB)]
        assert found == [(0, 2), (MIB, 1), (2 * MIB, 0)]


def test_two_snapshots_are_compared_above_what_they_share(tmp_path):
    base = image(tmp_path / "base.qcow2")
    write(base, 1, 0, 32 * MIB)
    old, new = image(tmp_path / "old.qcow2", backing=base), image(tmp_path / "new.qcow2", backing=base)
    write(old, 2, 5 * MIB)
    write(new, 3, 9 * MIB)
    write(new, 1, 20 * MIB)  # the same as beneath
    with disk.opened(new, "qcow2", layers=True) as news, disk.opened(old, "qcow2", layers=True) as olds:
        found = changes.Changed(news, olds, MIB, (1, 1), lambda _: None)
        assert list(found) == [(5, 1), (9, 1)]


def test_an_image_that_is_none_is_refused_with_what_qemu_says(tmp_path):
    path = tmp_path / "a.qcow2"
    path.write_bytes(b"no image" * 1000)
    with pytest.raises(CommandFailed, match="not in qcow2 format"), disk.opened(path, "qcow2"):
        pass
    with pytest.raises(CommandFailed, match="No such file"), disk.opened(tmp_path / "none", "raw"):
        pass


def test_a_full_file_system_is_told_as_one(tmp_path):
    run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(tmp_path)])
    try:
        path = image(tmp_path / "a.qcow2")
        with pytest.raises(OSError) as full, disk.opened(path, "qcow2", writable=True) as opened:
            for number in range(8):
                opened.write(number * MIB, memoryview(random.randbytes(MIB)))
            opened.flush()
        assert full.value.errno == errno.ENOSPC
        wait_until(lambda: servers(path) == [], 20, "the server stays")
    finally:
        run(["umount", str(tmp_path)])


def test_a_server_that_dies_is_an_error(tmp_path):
    path = image(tmp_path / "a.qcow2")
    write(path, 1, 0, 32 * MIB)
    with pytest.raises(OSError), disk.opened(path, "qcow2") as opened:
        (pid,) = servers(path)
        os.kill(pid, signal.SIGKILL)
        list(opened.blocks(disk.pieces([(0, 32 * MIB)])))


def test_a_server_ends_with_whoever_began_it(tmp_path):
    path = image(tmp_path / "a.qcow2")
    program = (
        "import sys, time; from pathlib import Path; from kronos.transfer import disk\n"
        "with disk.opened(Path(sys.argv[1]), 'qcow2', writable=True) as opened:\n"
        "    print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        ["/usr/bin/python3", "-c", program, str(path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(disk.__file__).parents[2])},
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"open\n"
        assert servers(path) != []
        holder.kill()
    wait_until(lambda: servers(path) == [], 20, "the server stays", pause=0.05)


def test_a_server_that_was_never_spoken_to_ends_too(tmp_path):
    path = image(tmp_path / "a.qcow2")
    program = (
        "import os, sys; from contextlib import ExitStack; from kronos.transfer import disk\n"
        "argv = ['qemu-nbd', '--format=qcow2', '--shared=3', sys.argv[1]]\n"
        "disk._connected(argv, 2, ExitStack(), open('/dev/null', 'wb')); os.kill(os.getpid(), 9)"
    )
    where = os.environ | {"PYTHONPATH": str(Path(disk.__file__).parents[2])}
    done = subprocess.run(["/usr/bin/python3", "-c", program, str(path)], env=where, check=False)
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: servers(path) == [], 20, "the server stays", pause=0.05)


def test_writing_is_refused_where_it_was_not_asked_for(tmp_path):
    with disk.opened(image(tmp_path / "a.qcow2"), "qcow2") as opened, pytest.raises(OSError):
        opened.write(0, memoryview(b"x" * 512))
        opened.flush()


def test_a_large_empty_disk_holds_nothing(tmp_path):
    path = image(tmp_path / "a.qcow2", 16 << 40)
    with disk.opened(path, "qcow2") as opened:
        assert (opened.size, list(opened.data(0, opened.size))) == (16 << 40, [])
