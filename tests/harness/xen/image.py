"""A control domain's disk, made of the distribution's packages, for real Xen in an emulated machine.

Nothing is mounted and nothing is downloaded but packages. The disk is kept below `CACHE` and made again when it is
missing, or when what it is made of changes; every machine runs on a throw-away copy of it.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.debian import SUITE, alone, mmdebstrap, package_sources
from kronos.boot.bzimage import kernel_elf
from kronos.boot.initramfs import Archive
from kronos.boot.kernel_modules import closure

__all__ = ["CACHE", "REPOSITORY", "SUITE", "Image", "image", "package_sources", "packages"]

CACHE = Path("/var/cache/kronos/xen")
HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
SIZE = 8 << 30
"""Bytes of the disk as the control domain sees it; little of it is ever written."""

_DISK_MODULES = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic")
_LATER_MODULES = ("virtio_net",)
_LEFT_OUT = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/info/*")


@dataclass(frozen=True)
class Image:
    """What a machine boots: Xen, the control domain's kernel, RAM disk and disk, and the key that opens it."""

    xen: Path
    kernel: Path
    ramdisk: Path
    disk: Path
    key: Path


def packages() -> list[str]:
    """The control domain's packages: those of a host of ours, and what Xen needs."""
    found: list[str] = []
    for file in (REPOSITORY / "packages.apt", HERE / "packages.apt"):
        found += [line.partition("#")[0].strip() for line in file.read_text().splitlines()]
    return sorted({name for name in found if name})


def image(cache: Path = CACHE, progress: Callable[[str], None] = print) -> Image:
    """The image, made if need be: 2 to 3 minutes from nothing, half a minute from the packages' unpacked tree."""
    cache.mkdir(parents=True, exist_ok=True)
    with alone(cache / "lock"):
        tree = _tree(cache, progress)
        made = _made(cache / f"image-{_digest(tree.name.encode(), *_recipe())}")
        if not made.disk.exists():
            for old in cache.glob("image-*"):
                shutil.rmtree(old)
            _make(tree, made, progress)
    return made


def _made(directory: Path) -> Image:
    names = ("xen", "vmlinux", "initrd", "disk")
    # The key outlives the image: a machine may still run on the one before.
    return Image(*(directory / name for name in names), directory.parent / "key")


def _recipe() -> list[bytes]:
    return [
        path.read_bytes()
        for path in sorted(HERE.glob("*"))
        if path.is_file() and path.suffix in (".sh", ".apt") or path.name == "image.py"
    ]


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


# --- the packages ----------------------------------------------------------------------------------------------------


def _tree(cache: Path, progress: Callable[[str], None]) -> Path:
    """The packages as an archive; made afresh each fortnight, so that it does not grow old."""
    fortnight = str(int(time.time()) // (14 * 86400))
    archive = (
        cache
        / f"packages-{_digest(SUITE.encode(), fortnight.encode(), *map(str.encode, packages()))}.tar.zst"
    )
    if archive.exists():
        return archive
    for old in cache.glob("packages-*"):
        old.unlink()
    progress(
        f"Installing {len(packages())} packages and what they need into a control domain (about 2 minutes)"
    )
    part = archive.with_suffix(".part")
    argv = ["--variant=apt", "--format=tar", f"--include={','.join(packages())}"]
    argv += ['--aptopt=Apt::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"']
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    # Its own kernel packages would make RAM disks that nobody boots.
    argv += ['--setup-hook=mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/etc/kernel/postinst.d"']
    argv += ["--skip=check/empty,essential/unlink"]
    mmdebstrap(argv, part, archive.with_suffix(".log"))
    subprocess.run(["zstd", "-q", "-1", "--rm", part, "-o", archive], check=True, timeout=300)
    return archive


# --- the disk --------------------------------------------------------------------------------------------------------


def _make(archive: Path, made: Image, progress: Callable[[str], None]) -> None:
    progress("Making the control domain's disk")
    directory = made.disk.parent
    shutil.rmtree(directory, ignore_errors=True)
    root = directory / "root"
    root.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-p", "--zstd", "-f", archive, "-C", root], check=True, timeout=300)
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    release = kernel.name.partition("-")[2]
    (xen,) = (root / "boot").glob("xen-*-amd64.gz")
    made.xen.write_bytes(gzip.decompress(xen.read_bytes()))
    shutil.copy(kernel, made.kernel)
    made.ramdisk.write_bytes(_ramdisk(root, release))
    if not made.key.exists():
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", made.key], check=True, timeout=30
        )
    _furnish(root, made.key.with_suffix(".pub"))
    # Xen's domain builder takes the plain kernel as it is, and needs ten seconds here to unpack one.
    (root / "var/lib/kronos-tests").mkdir(parents=True)
    (root / "var/lib/kronos-tests/vmlinux").write_bytes(kernel_elf(kernel.read_bytes()))
    part = made.disk.with_suffix(".part")
    with part.open("wb") as disk:
        disk.truncate(SIZE)
    options = ["-O", "^has_journal,^metadata_csum", "-E", "lazy_itable_init=1,nodiscard", "-m", "0"]
    subprocess.run(["mkfs.ext4", "-q", "-F", *options, "-d", root, part], check=True, timeout=300)
    shutil.rmtree(root)
    part.rename(made.disk)


def _ramdisk(root: Path, release: str) -> bytes:
    """What finds the disk and goes on from there."""
    archive = Archive()
    archive.device("dev/console", 5, 1)
    for empty in ("proc", "sys", "newroot"):
        archive.directory(empty)
    archive.file("bin/busybox", (root / "bin/busybox").read_bytes(), executable=True)
    archive.link("bin/sh", "busybox")
    modules = closure(root / "lib/modules" / release, _DISK_MODULES, _LATER_MODULES)
    for module in modules:
        archive.file(f"modules/{module.name}.ko", module.content)
    archive.file("modules/order", "".join(f"{module.name}.ko\n" for module in modules).encode())
    archive.file("init", (HERE / "control-domain-init.sh").read_bytes(), executable=True)
    return gzip.compress(archive.packed(), 1)


def _furnish(root: Path, public_key: Path) -> None:
    """Make a tree of packages a control domain that is up quickly and opens to our key."""
    shutil.copy(public_key, root / "root.pub")
    shutil.copy(HERE / "furnish.sh", root / "furnish.sh")
    shutil.copy(HERE / "control-domain-identity.sh", root / "usr/local/sbin/control-domain-identity")
    (root / "usr/local/sbin/control-domain-identity").chmod(0o755)
    environment = os.environ | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    done = subprocess.run(
        ["chroot", root, "sh", "-e", "/furnish.sh"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode != 0:
        raise RuntimeError(f"furnish.sh: {done.stdout}{done.stderr}")
    for name in ("root.pub", "furnish.sh"):
        (root / name).unlink()
