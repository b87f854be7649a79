from __future__ import annotations

import lzma
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kronos.boot import kernel_source
from kronos.boot import tiny_guest as module
from kronos.boot.bzimage import TooLarge
from kronos.boot.kernel_source import Kernel
from kronos.boot.tiny_guest import tiny_guest
from kronos.datamodel.errors import Failure

pytestmark = pytest.mark.skipif(not Path("/bin/busybox").exists(), reason="no busybox")


@pytest.fixture
def kernel(
    tmp_path: Path, small_kernel: bytes, module_tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Kernel:
    names = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "button", "evdev")
    tree = module_tree({f"{name}.ko": {} for name in names})
    image = tmp_path / "vmlinuz"
    image.write_bytes(small_kernel)
    made = Kernel("6.1.0-test", image, tree)
    monkeypatch.setattr(kernel_source, "installed", lambda: made)
    return made


def test_it_is_made_once(kernel: Kernel, tmp_path: Path) -> None:
    lines: list[str] = []
    first = tiny_guest(tmp_path / "tiny", progress=lines.append)
    made = [path.stat().st_mtime_ns for path in (first.kernel, first.ramdisk)]
    assert lines
    lines.clear()
    assert tiny_guest(tmp_path / "tiny", progress=lines.append) == first
    assert lines == []
    assert [path.stat().st_mtime_ns for path in (first.kernel, first.ramdisk)] == made


def test_a_new_kernel_makes_it_anew_under_the_same_names(kernel: Kernel, tmp_path: Path) -> None:
    first = tiny_guest(tmp_path / "tiny")
    os.utime(kernel.image, (1, 1))
    lines: list[str] = []
    assert tiny_guest(tmp_path / "tiny", progress=lines.append) == first
    assert lines


@pytest.mark.parametrize("lost", ["tiny-guest-vmlinuz", "tiny-guest-initrd", "tiny-guest.json"])
def test_a_lost_file_makes_it_anew(kernel: Kernel, tmp_path: Path, lost: str) -> None:
    guest = tiny_guest(tmp_path / "tiny")
    before = guest.kernel.read_bytes(), guest.ramdisk.read_bytes()
    (tmp_path / "tiny" / lost).unlink()
    tiny_guest(tmp_path / "tiny")
    assert (guest.kernel.read_bytes(), guest.ramdisk.read_bytes()) == before


def test_a_crash_between_the_files_is_noticed(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = tiny_guest(tmp_path / "tiny")
    whole = guest.ramdisk.read_bytes()
    os.utime(kernel.image, (1, 1))
    written: list[Path] = []

    def crash_at_second(path: Path, content: bytes, mode: int = 0o644) -> None:
        written.append(path)
        if len(written) == 2:
            raise OSError("power cut")
        path.write_bytes(content)

    with monkeypatch.context() as broken:
        broken.setattr(module, "write_whole", crash_at_second)
        with pytest.raises(Failure):
            tiny_guest(tmp_path / "tiny")
    lines: list[str] = []
    tiny_guest(tmp_path / "tiny", progress=lines.append)
    assert lines
    assert guest.ramdisk.read_bytes() == whole


def test_two_at_once_make_it_once(kernel: Kernel, tmp_path: Path) -> None:
    lines: list[str] = []
    threads = [
        threading.Thread(target=tiny_guest, args=(tmp_path / "tiny",), kwargs={"progress": lines.append})
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([line for line in lines if line.startswith("made ")]) == 1


def test_no_static_busybox_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BUSYBOX_PLACES", (str(tmp_path / "none"),))
    with pytest.raises(Failure, match="busybox-static"):
        tiny_guest(tmp_path / "tiny")


def test_a_damaged_kernel_is_said(kernel: Kernel, tmp_path: Path) -> None:
    kernel.image.write_bytes(b"not a kernel")
    with pytest.raises(Failure, match="no Linux bzImage"):
        tiny_guest(tmp_path / "tiny")


def test_a_kernel_that_is_too_large_to_be_repacked_stays_as_it_is(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(image: bytes) -> bytes:
        raise TooLarge("it does not fit")

    monkeypatch.setattr(module, "repack", too_large)
    lines: list[str] = []
    guest = tiny_guest(tmp_path / "tiny", progress=lines.append)
    assert guest.kernel.read_bytes() == kernel.image.read_bytes()
    assert "it stays as it is: it does not fit" in lines


def test_the_ram_disk_is_a_root_that_can_start(kernel: Kernel, tmp_path: Path) -> None:
    guest = tiny_guest(tmp_path / "tiny")
    root = tmp_path / "root"
    root.mkdir()
    if os.geteuid() == 0:
        subprocess.run(
            ["cpio", "-i", "--quiet"], input=lzma.decompress(guest.ramdisk.read_bytes()), cwd=root, check=True
        )
        assert os.access(root / "init", os.X_OK)
        assert (root / "bin/getty").resolve() == (root / "bin/busybox").resolve()
        assert (root / "sbin/modprobe").exists()
        assert (root / "lib/modules/6.1.0-test/virtio_blk.ko").exists()


@pytest.mark.parametrize(
    "script", sorted((Path(module.__file__).parent / "guest").glob("*.sh")), ids=lambda path: path.name
)
def test_the_guests_scripts_are_sound_for_busybox(script: Path) -> None:
    subprocess.run(["/bin/busybox", "sh", "-n", str(script)], check=True)
