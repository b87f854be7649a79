"""A stock Debian machine that boots by its own boot loader, in emulation: what packages are installed on.

Its disk is made of the distribution's packages, with a partition and GRUB; each machine runs on a throw-away copy.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.xen.image import SUITE, Image, package_sources
from harness.xen.machine import Broken, Machine

CACHE = Path("/var/cache/kronos/stock")
HERE = Path(__file__).parent
PACKAGES = (
    *("systemd-sysv", "udev", "dbus", "kmod", "linux-image-amd64", "grub-pc", "initramfs-tools", "zstd"),
    *("ifupdown", "isc-dhcp-client", "iproute2", "iputils-ping", "openssh-server", "ca-certificates"),
    *("procps", "less", "nano", "netbase", "e2fsprogs"),
)
SIZE = 12 << 30
_START = 1 << 20
"""Where the partition begins, in bytes; GRUB lies before it."""

MEMORY = 4096
"""MiB."""
BOOT = 600.0


def disk(
    cache: Path = CACHE, progress: Callable[[str], None] = print, *, packages: Sequence[str] = ()
) -> Image:
    """The disk, made if need be in three minutes, and the key that opens it; nothing else of the image is there.

    With further `packages` on it, it wants a cache of its own.
    """
    parts = [path.read_bytes() for path in sorted(HERE.glob("*.*"))] + [name.encode() for name in packages]
    recipe = hashlib.sha256(b"".join(parts)).hexdigest()[:16]
    fortnight = int(time.time()) // (14 * 86400)
    made = cache / f"disk-{recipe}-{fortnight}"
    key = cache / "key"
    nothing = cache / "nothing"
    found = Image(nothing, nothing, nothing, made / "disk", key)
    if not found.disk.exists():
        cache.mkdir(parents=True, exist_ok=True)
        for old in cache.glob("disk-*"):
            shutil.rmtree(old)
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=30)
        _make(found, progress, (*PACKAGES, *packages))
    return found


def _make(found: Image, progress: Callable[[str], None], packages: Sequence[str]) -> None:
    directory = found.disk.parent
    root = directory / "root"
    root.mkdir(parents=True)
    progress(f"Installing {len(packages)} packages and what they need into a stock machine")
    sources = package_sources()
    hooks = [
        f"--customize-hook=copy-in {found.key}.pub {HERE}/furnish.sh /",
        f"--customize-hook=mv $1/{found.key.name}.pub $1/root.pub; chroot $1 sh -e /furnish.sh",
    ]
    argv = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", *hooks]
    argv += [f"--include={','.join(packages)}", SUITE, str(root), *sources]
    with (directory / "log").open("wb") as log:
        done = subprocess.run(argv, stdout=log, stderr=log, timeout=1200)
    if done.returncode != 0:
        tail = "\n".join((directory / "log").read_text(errors="replace").splitlines()[-20:])
        raise RuntimeError(f"mmdebstrap ended with {done.returncode}:\n{tail}")
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    (ramdisk,) = (root / "boot").glob("initrd.img-*")
    part = found.disk.with_suffix(".part")
    with part.open("wb") as file:
        file.truncate(SIZE)
    table = f"label: dos\nstart={_START // 512}, type=83, bootable\n"
    subprocess.run(["sfdisk", "-q", part], input=table, text=True, check=True, timeout=30)
    blocks = f"{(SIZE - _START) >> 10}k"
    options = ["-E", f"offset={_START},lazy_itable_init=1,lazy_journal_init=1,nodiscard"]
    subprocess.run(["mkfs.ext4", "-q", "-F", *options, "-d", root, part, blocks], check=True, timeout=300)
    progress("Having it install its own boot loader")
    first = Stock(
        Image(found.xen, kernel, ramdisk, part, found.key),
        options=("-kernel", str(kernel), "-initrd", str(ramdisk)),
        keep=True,
    )
    try:
        first.start()
        first.run("grub-install /dev/vda && update-grub && sync", timeout=300)
        first.run("nohup systemctl poweroff >/dev/null 2>&1 </dev/null &")
        first.await_end(120)
    finally:
        first.close()
    shutil.rmtree(root)
    part.rename(found.disk)


class Stock(Machine):
    """One machine. `keep`: what it writes goes to the image itself. `disks` are files: /dev/vdb, /dev/vdc, …"""

    def __init__(
        self,
        image: Image,
        *,
        options: tuple[str, ...] = (),
        keep: bool = False,
        disks: Sequence[Path] = (),
    ) -> None:
        super().__init__(image, memory=MEMORY)
        self._options = options
        self._keep = keep
        self._disks = disks

    def start(self) -> Stock:
        """Power on and wait until it answers. Raises Broken."""
        self._power_on()
        self._await_boot(lambda: True)
        return self

    def reboot(self) -> None:
        """As an administrator does, by its own boot loader. Raises Broken."""
        before = self._boot()
        self.run("nohup sh -c 'sleep 1; systemctl reboot' >/dev/null 2>&1 </dev/null &")
        self._disconnect()
        self._await_boot(lambda: self._boot() != before)

    def await_end(self, timeout: float) -> None:
        """Until it has powered itself off. Raises Broken."""
        assert self._process is not None
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired as late:
            raise self.broken(f"it is still on after {timeout:.0f} s") from late

    def until(self, command: str, timeout: float, every: float = 3.0) -> str:
        """What a command prints once it succeeds and prints something. Raises Broken."""
        until = time.monotonic() + timeout
        while True:
            said = ""
            try:
                if said := self.run(command, timeout=120).strip():
                    return said
            except Broken as broken:
                said = str(broken).partition("\n")[0]
            if time.monotonic() > until:
                raise self.broken(f"`{command}` still says {said!r} after {timeout:.0f} s")
            time.sleep(every)

    def _boot(self) -> str:
        return self.run("cat /proc/sys/kernel/random/boot_id", timeout=60).strip()

    def _await_boot(self, condition: Callable[[], bool]) -> None:
        def refusal() -> str:
            last = "" if self._control.exists() else self._connect()
            if not last:
                try:
                    if condition():
                        return ""
                    last = "it is still the boot before"
                except Broken as broken:
                    last = str(broken).partition("\n")[0]
                self._disconnect()
                self._control.unlink(missing_ok=True)
            return last

        self._await(refusal, "it does not answer", BOOT)

    def _command(self, port: int) -> list[str]:
        words = "root=/dev/vda1 ro console=ttyS0 kronos.host=0"
        disk = f"file={self.image.disk},if=none,id=disk,format=raw,cache=unsafe,discard=unmap"
        return [
            *("qemu-system-x86_64", "-name", "kronos.host", "-machine", "pc", "-accel", "tcg,thread=multi"),
            *("-cpu", "qemu64,+npt", "-smp", str(self.processors), "-m", str(self.memory)),
            *("-nodefaults", "-display", "none"),
            *("-qmp", f"unix:{self._monitor},server=on,wait=off"),
            *("-chardev", f"file,id=console,path={self.console}", "-serial", "chardev:console"),
            *(*self._options, *(("-append", words) if self._options else ())),
            *(
                "-drive",
                disk if self._keep else f"{disk},snapshot=on",
                "-device",
                "virtio-blk-pci,drive=disk,bootindex=1,addr=4",
            ),
            *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22"),
            *("-device", "virtio-net-pci,netdev=net,addr=3,romfile="),
            *(word for number, path in enumerate(self._disks) for word in _more(number, path)),
        ]


def _more(number: int, path: Path) -> tuple[str, ...]:
    """A further disk; its device `more<number>` can be taken away and put back while the machine runs."""
    node = f"driver=raw,node-name=node{number},file.driver=file,file.filename={path},discard=unmap,cache.no-flush=on"
    return (
        "-blockdev",
        node,
        "-device",
        f"virtio-blk-pci,drive=node{number},id=more{number},addr={5 + number}",
    )
