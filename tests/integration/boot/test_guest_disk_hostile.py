"""Disks that mean harm: each load ends clearly, within the jail's limits on time and memory.

`pytest -s` shows what each took; `docs/guest-disk.md` has the figures.
"""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import guest_disks
from kronos.boot.guest_disk import jail, loader, pace
from kronos.boot.guest_disk.jail import Jail
from kronos.boot.guest_disk.loader import BootUnreadable, load

pytestmark = pytest.mark.integration

MENU = "menuentry m { linux /boot/vmlinuz-1 root=/dev/xvda1 }"
GOOD: dict[str, bytes | str] = {"/boot/grub/grub.cfg": MENU, "/boot/vmlinuz-1": b"k" * 100_000}
MEMORY = 100 << 10  # KiB, of all processes of the jail together


class _MeasuredJail(Jail):
    """A jail that tells, when it is closed, what it took."""

    peaks: list[int] = []
    seconds_taken: list[float] = []

    def __init__(self, image: Path, form: str, seconds: float) -> None:
        self.started = time.monotonic()
        super().__init__(image, form, seconds)

    def close(self) -> None:
        if self.process.poll() is None:
            try:
                self.peaks.append(sum(self.usage().values()))
            except (BootUnreadable, OSError):
                pass  # one that was stuck cannot tell
        super().close()
        self.seconds_taken.append(time.monotonic() - self.started)


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[list[int]]:
    """Every load is measured and its memory checked, whatever else a test is about."""
    peaks: list[int] = []
    monkeypatch.setattr(_MeasuredJail, "peaks", peaks)
    monkeypatch.setattr(loader, "Jail", _MeasuredJail)
    monkeypatch.setattr(_MeasuredJail, "seconds_taken", taken := list[float]())
    yield peaks
    assert all(peak < MEMORY for peak in peaks)
    print(f"\n{request.node.name}: {max(taken, default=0):.2f} s, {max(peaks, default=0) >> 10} MiB")


@pytest.fixture
def disk(tmp_path: Path) -> Callable[..., Path]:
    """`disk(files, links, specials, kind)`: an unpartitioned disk."""

    def make(
        files: dict[str, bytes | str],
        links: dict[str, str] | None = None,
        specials: dict[str, str] | None = None,
        kind: str = "ext4",
    ) -> Path:
        content = guest_disks.tree(tmp_path / "content", files, links)
        for name, sort in (specials or {}).items():
            guest_disks.special(content, name, sort)
        return guest_disks.file_system(kind, content, tmp_path / "disk")

    return make


def _refusal(image: Path, tmp_path: Path, form: str = "raw", arguments: str = "") -> str:
    destination = tmp_path / "destination"
    destination.mkdir()
    with pytest.raises(BootUnreadable) as refused:
        load(image, form, destination, arguments=arguments)
    assert list(destination.iterdir()) == []
    assert len(str(refused.value)) < 5000
    return str(refused.value)


def test_links_in_a_circle(disk: Callable[..., Path], tmp_path: Path) -> None:
    links = {"/boot/vmlinuz-1": "b", "/boot/b": "vmlinuz-1", "/boot/grub": "../boot/grub"}
    assert "symlink" in _refusal(disk({"/x": ""}, links), tmp_path, arguments="--kernel=/boot/vmlinuz-1")


def test_a_directory_that_is_a_link_to_itself(disk: Callable[..., Path], tmp_path: Path) -> None:
    files = {"/grub/grub.cfg": "menuentry m { linux /boot" + "/boot" * 150 + "/vmlinuz }"}
    assert "no kernel" in _refusal(disk(files, {"/boot": "."}), tmp_path)


@pytest.mark.parametrize(
    "path", ["../../../../../etc/shadow", "(host)/etc/passwd", "(proc)/version", "/disk/0"]
)
def test_paths_that_climb_out_find_nothing_of_the_host(
    disk: Callable[..., Path], tmp_path: Path, path: str
) -> None:
    files = {"/boot/grub/grub.cfg": f"menuentry m {{ linux {path} }}"}
    assert "not found" in _refusal(disk(files), tmp_path)


def test_links_out_of_the_guest_lead_into_the_guest(disk: Callable[..., Path], tmp_path: Path) -> None:
    image = disk({"/etc/passwd": "the guest's own"}, {"/boot/vmlinuz-1": "../../../../etc/passwd"})
    loaded = load(image, "raw", tmp_path / "content", arguments="--kernel=/boot/vmlinuz-1")
    assert loaded.kernel.read_text() == "the guest's own"


def _sparse(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(b"#" * 4096)  # GRUB finds fault with a file that is all hole
        file.truncate(size)


@pytest.mark.parametrize("name", ["grub.cfg", "grubenv", "menu.lst"])
def test_a_configuration_of_ten_gigabytes(tmp_path: Path, name: str) -> None:
    content = guest_disks.tree(tmp_path / "content", {"/boot/x": "", "/boot/grub/grub.cfg": "load_env"})
    _sparse(content / "boot/grub" / name, 10 << 30)
    image = guest_disks.file_system("ext4", content, tmp_path / "disk")
    assert "too large" in _refusal(image, tmp_path) or name == "grubenv"


@pytest.mark.parametrize("kind", ["kernel", "ramdisk"])
def test_a_kernel_and_a_ramdisk_without_end(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "LARGEST_RAMDISK", 70 << 20)  # that the machine's disk need not take 512 MiB
    content = guest_disks.tree(tmp_path / "content", {"/kernel": b"k"})
    _sparse(content / "endless", 10 << 30)
    image = guest_disks.file_system("ext4", content, tmp_path / "disk")
    arguments = {"kernel": "--kernel=/endless", "ramdisk": "--kernel=/kernel --ramdisk=/endless"}
    assert "larger than" in _refusal(image, tmp_path, arguments=arguments[kind])


@pytest.mark.parametrize(
    ("kind", "reason"), [("directory", "not a regular file"), ("fifo", "not found"), ("device", "not found")]
)
def test_a_kernel_that_is_no_file(disk: Callable[..., Path], tmp_path: Path, kind: str, reason: str) -> None:
    image = disk({"/boot/grub/grub.cfg": MENU}, None, {"/boot/vmlinuz-1": kind})
    assert reason in _refusal(image, tmp_path)


def test_a_directory_with_more_names_than_anyone_has(disk: Callable[..., Path], tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {"/boot/grub/x": "", "/boot/vmlinuz-1": b"k"}
    content = guest_disks.tree(tmp_path / "content", files)
    for number in range(6000):  # the listing is larger than a listing may be
        os.link(content / "boot/grub/x", content / f"boot/{number:0>200}")
    assert "no kernel" in _refusal(disk(files, kind="btrfs"), tmp_path)


def test_an_extent_tree_that_leads_back_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Callable[..., Path]
) -> None:
    monkeypatch.setattr(pace, "of_this_host", lambda: 2.0)
    scattered = tmp_path / "content/boot/vmlinuz-1"
    scattered.parent.mkdir(parents=True)
    with scattered.open("wb") as file:
        for number in range(50):
            file.seek(number * 65536)
            file.write(b"k" * 4096)
    image = disk({"/boot/grub/grub.cfg": MENU})
    content = bytearray(image.read_bytes())
    magic = struct.pack("<HHHH", 0xF30A, 1, 4, 1)  # one entry of four, an index: it is in the inode
    root = content.index(magic)
    (leaf,) = struct.unpack_from("<I", content, root + 16)
    block = leaf * (4096 if content[1024 + 24] == 2 else 1024)
    assert content[block : block + 2] == magic[:2]
    struct.pack_into("<HHHHIIIHH", content, block, 0xF30A, 1, 84, 1, 0, 0, leaf, 0, 0)
    image.write_bytes(content)
    assert "within 2 s" in _refusal(image, tmp_path)


@pytest.mark.parametrize("opening", ["menuentry a {\n", "submenu a {\n", "if true; then\n", "function f {\n"])
def test_menus_ten_thousand_deep(disk: Callable[..., Path], tmp_path: Path, opening: str) -> None:
    assert "nested" in _refusal(disk({"/boot/grub/grub.cfg": opening * 10_000}), tmp_path)


def test_a_configuration_that_includes_itself_for_ever(disk: Callable[..., Path], tmp_path: Path) -> None:
    files = {
        "/boot/grub/grub.cfg": "source /boot/grub/grub.cfg\n" * 1000,
        "/extlinux.conf": "include extlinux.conf\n" * 1000,
    }
    assert "no Linux kernel" in _refusal(disk(files), tmp_path)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_disk_cut_short(disk: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    image = disk(GOOD, kind=kind)
    for number, size in enumerate((0, 511, 4096, 70_000, 2 << 20)):
        os.truncate(guest_disks.copied(image, tmp_path / "cut"), size)
        where = tmp_path / str(number)
        where.mkdir()
        _loads_or_refuses(tmp_path / "cut", where)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_disk_with_wrong_bytes(disk: Callable[..., Path], tmp_path: Path, kind: str, seed: int) -> None:
    image = disk(GOOD, kind=kind)
    chance = random.Random(seed)
    content = image.read_bytes()
    used = [at for at in range(0, len(content), 512) if content[at : at + 512].strip(b"\0k")]
    with image.open("r+b") as file:
        for _ in range(4 + 100 * seed):
            file.seek(chance.choice(used) + chance.randrange(512))
            file.write(bytes([chance.randrange(256)]))
    where = tmp_path / "destination"
    where.mkdir()
    _loads_or_refuses(image, where)


def _loads_or_refuses(image: Path, where: Path) -> None:
    try:
        loaded = load(image, "raw", where)
    except BootUnreadable as refusal:
        assert str(refusal)
        assert list(where.iterdir()) == []
    else:
        assert loaded.kernel.stat().st_size <= loader.LARGEST_KERNEL


@pytest.mark.parametrize("form", ["qcow2", "vpc"])
def test_an_image_with_wrong_bytes(disk: Callable[..., Path], tmp_path: Path, form: str) -> None:
    image = guest_disks.converted(disk(GOOD), form, tmp_path / "image")
    chance = random.Random(form)
    with image.open("r+b") as file:
        for _ in range(200):
            file.seek(chance.randrange(512, 300_000))
            file.write(bytes([chance.randrange(256)]))
    where = tmp_path / "destination"
    where.mkdir()
    try:
        load(image, form, where)
    except BootUnreadable as refusal:
        assert str(refusal)


def test_a_view_that_gets_no_memory_is_a_refusal(
    disk: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = guest_disks.converted(disk(GOOD), "qcow2", tmp_path / "image")
    monkeypatch.setitem(jail.VIEW_LIMITS, "RLIMIT_DATA", 64 << 10)
    assert "cannot be opened" in _refusal(image, tmp_path, "qcow2")


def test_volumes_that_overlap_and_point_past_the_disk(disk: Callable[..., Path], tmp_path: Path) -> None:
    image = guest_disks.physical_volume("vg", {"root": disk(GOOD)}, tmp_path / "volume")
    content = image.read_bytes()
    for number, (old, new) in enumerate(
        [
            (b"extent_count = 16", b"extent_count = 99"),
            (b'"pv0", 0]', b'"pv9", 0]'),
            (b"stripe_count = 1", b"stripe_count = 9"),
            (b"extent_size = 8192", b"extent_size = 0   "),
            (b"segment_count = 1", b"segment_count = 7"),
            (b"}", b"{"),
        ]
    ):
        assert old in content
        (tmp_path / "changed").write_bytes(content.replace(old, new))
        where = tmp_path / str(number)
        where.mkdir()
        _loads_or_refuses(tmp_path / "changed", where)


def test_partitions_without_end(tmp_path: Path) -> None:
    """An extended partition whose chain leads back to itself."""
    image = tmp_path / "disk"
    image.write_bytes(bytes(8 << 20))
    entry = bytes([0, 0, 0, 0, 5, 0, 0, 0]) + (2048).to_bytes(4, "little") + (4096).to_bytes(4, "little")
    table = bytes(446) + entry
    with image.open("r+b") as file:
        file.write(table.ljust(510, b"\0") + b"\x55\xaa")
        file.seek(2048 * 512)
        back = bytes([0, 0, 0, 0, 5, 0, 0, 0]) + bytes(4) + (4096).to_bytes(4, "little")
        file.write((bytes(446 + 16) + back).ljust(510, b"\0") + b"\x55\xaa")
    _refusal(image, tmp_path)


def test_a_reader_that_hangs_is_ended_with_everything_in_its_jail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "of_this_host", lambda: 1.0)
    monkeypatch.setattr(jail, "_READERS", ("python3",))  # which takes the image for its program
    (tmp_path / "disk").write_text("while True: pass\n")
    assert _refusal(tmp_path / "disk", tmp_path) == "the disk could not be read within 1 s"


_IN_THE_JAIL = {"agent.py", "bin", "dev", "disk", "lib", "lib64", "run", "sbin", "usr"}
TAKEN_OVER = """
import ctypes, json, os, socket, sys
def attempt(what):
    try:
        return repr(what())
    except BaseException as error:
        return type(error).__name__
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(name)
print(json.dumps({
    "root": sorted(os.listdir("/")),
    "uid": attempt(os.getuid),
    "fork": attempt(os.fork),
    "socket": attempt(socket.socket),
    "write the image": attempt(lambda: os.open("/disk/0", os.O_RDWR)),
    "make a file": attempt(lambda: os.open("/run/x", os.O_WRONLY | os.O_CREAT)),
    "mount": attempt(lambda: call("mount", b"none", b"/run", b"tmpfs", 0, None)),
    "unshare": attempt(lambda: call("unshare", 0x10000000)),
    "kill": attempt(lambda: os.kill(1, 9)),
    "ptrace": attempt(lambda: call("ptrace", 16, 1, 0, 0)),
    "memory": attempt(lambda: len(bytearray(100 << 20))),
    "the host's passwords": attempt(lambda: open("/etc/shadow").read()),
    "limits": __import__("resource").getrlimit(__import__("resource").RLIMIT_CORE),
}))
"""


def _taken_over(image: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the reader could do if the guest had it in its hands: here the image is the program that runs."""
    monkeypatch.setattr(jail, "_READERS", ("python3",))
    read, write = os.pipe()
    with Jail(image, form, 10.0) as started, open(read) as answers:
        try:
            started.read([], write, 1 << 20)
        finally:
            os.close(write)
        found: dict[str, Any] = json.loads(answers.read())
    return found


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_a_reader_taken_over_by_its_guest_can_read_and_compute_and_nothing_else(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raw").write_text(TAKEN_OVER + "#" * (4096 - len(TAKEN_OVER)) + "\n" * 61440)
    image = (
        tmp_path / "raw"
        if form == "raw"
        else guest_disks.converted(tmp_path / "raw", form, tmp_path / "image")
    )
    found = _taken_over(image, form, monkeypatch)
    assert set(found.pop("root")) <= {
        "agent.py",
        "bin",
        "dev",
        "disk",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "run",
        "sbin",
        "usr",
    }
    assert found.pop("memory") == "MemoryError"
    assert found.pop("uid") == "65534"
    assert found.pop("limits") == [0, 0]
    assert set(found.pop("the host's passwords").split()) == {"FileNotFoundError"}
    assert set(found.values()) <= {"OSError", "PermissionError"}, found


def test_nobody_but_root_needs_to_be_root(disk: Callable[..., Path]) -> None:
    """A user without any right boots from an image of its own."""
    image = disk(GOOD)
    program = (
        "import sys; from pathlib import Path; from kronos.boot.guest_disk.loader import load;"
        "print(load(Path('disk'), 'raw', Path('destination')).arguments)"
    )
    with tempfile.TemporaryDirectory() as directory:
        own = guest_disks.copied(image, Path(directory) / "disk")
        (own.parent / "destination").mkdir()
        for path in (own.parent, own, own.parent / "destination"):
            os.chown(path, 65534, 65534)
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
            + ["/usr/bin/python3", "-c", program],
            cwd=directory,
            env={"PYTHONPATH": str(Path(loader.__file__).parents[3]), "PATH": "/usr/bin:/usr/sbin"},
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert done.stdout == "root=/dev/xvda1\n", done.stderr
