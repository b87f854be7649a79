"""eliloader's sandbox and the real programs behind it: servers of each kind, a CD, and nothing of the host in view."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.daemon import wait_until
from harness.guests import CACHE
from harness.host import Host
from harness.repository import Repository
from kronos.boot.eliloader import frontends, loading, plan, sandbox
from kronos.boot.eliloader.loading import Boot, Circumstances, Image
from kronos.boot.eliloader.refusal import InstallFailed
from kronos.boot.initramfs import Archive
from kronos.boot.tiny_guest import tiny_guest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="the daemon that starts the sandbox is root"),
]

KERNEL = b"MZ, and a kernel" * 1000
RAMDISK = gzip.compress(b"a ramdisk" * 1000)
PLACE = "images/pxeboot"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of the EL family with its checksums."""
    tree = tmp_path / "tree"
    (tree / PLACE).mkdir(parents=True)
    (tree / PLACE / "vmlinuz").write_bytes(KERNEL)
    (tree / PLACE / "initrd.img").write_bytes(RAMDISK)
    sums = {f"{PLACE}/vmlinuz": KERNEL, f"{PLACE}/initrd.img": RAMDISK}
    lines = [f"{path} = sha256:{hashlib.sha256(content).hexdigest()}" for path, content in sums.items()]
    (tree / ".treeinfo").write_text("[checksums]\n" + "\n".join(lines))
    for path in (tmp_path, *tmp_path.parents):  # servers read it as nobody
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)
    return tree


@pytest.fixture
def web(tree: Path) -> Iterator[Repository]:
    made = Repository(tree, "127.0.0.1")
    yield made
    made.close()


def load(repository: str, destination: Path, image: Image | None = None, **circumstances: object) -> Boot:
    destination.mkdir(exist_ok=True)
    host = Circumstances(**{"seconds": 60.0} | circumstances)  # type: ignore[arg-type]
    return loading.load(plan.read({"install-repository": repository}), image, destination, host)


def content(boot: Boot) -> tuple[bytes, bytes]:
    assert boot.ramdisk is not None
    return boot.kernel.read_bytes(), boot.ramdisk.read_bytes()


def in_sandbox(script: str) -> str:
    """What a shell in the sandbox prints."""
    command = sandbox._command(None)
    argv = [*command[: command.index(sys.executable)], "/bin/sh", "-c", script]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30).stdout


# --- servers ---------------------------------------------------------------------------------------------------------


def test_a_tree_on_the_web(web: Repository, tmp_path: Path) -> None:
    boot = load(web.url, tmp_path / "out")
    assert content(boot) == (KERNEL, RAMDISK)
    assert boot.arguments == f"method={web.url}/ inst.repo={web.url}/"


def test_a_tree_that_is_damaged_on_its_way(web: Repository, tmp_path: Path) -> None:
    (web.directory / PLACE / "initrd.img").write_bytes(RAMDISK[:-1])
    with pytest.raises(InstallFailed) as caught:
        load(web.url, tmp_path / "out")
    assert caught.value.params == (f"{web.url}/{PLACE}/initrd.img", "Its SHA256 is not the repository's")


def test_a_tree_without_a_kernel_names_what_was_looked_for(web: Repository, tmp_path: Path) -> None:
    (web.directory / PLACE / "vmlinuz").unlink()
    with pytest.raises(InstallFailed) as caught:
        load(web.url, tmp_path / "out")
    assert caught.value.code == "INVALID_SOURCE"
    assert f"{web.url}/isolinux/vmlinuz" in caught.value.params


def test_a_tree_on_an_ftp_server(tree: Path, tmp_path: Path) -> None:
    script = """\
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
authorizer = DummyAuthorizer()
authorizer.add_anonymous(sys.argv[1])
authorizer.add_user("me", "secret", sys.argv[1])
FTPHandler.authorizer = authorizer
server = FTPServer(("127.0.0.1", 0), FTPHandler)
print(server.address[1], flush=True)
server.serve_forever()
"""
    argv = ["/usr/bin/python3", "-W", "ignore", "-c", script, str(tree)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            assert content(load(f"ftp://127.0.0.1:{port}", tmp_path / "out")) == (KERNEL, RAMDISK)
            private = f"ftp://me:secret@127.0.0.1:{port}"
            assert content(load(private, tmp_path / "private")) == (KERNEL, RAMDISK)
            with pytest.raises(InstallFailed) as caught:
                load(f"ftp://me:wrong@127.0.0.1:{port}", tmp_path / "wrong")
            assert caught.value.code == "INVALID_SOURCE"
        finally:
            server.kill()


_GANESHA = """\
NFS_CORE_PARAM {{ Enable_NLM = false; Enable_RQUOTA = false; Protocols = {versions}; }}
NFSv4 {{ RecoveryBackend = fs; Graceless = true; }}
EXPORT {{ Export_Id = 1; Path = {tree}; Pseudo = {tree}; Access_Type = RO; Squash = none; SecType = sys;
    PrivilegedPort = true; FSAL {{ Name = VFS; }} }}
"""
_SERVE = """\
mount -t tmpfs tmpfs /run && mkdir -p /run/ganesha /run/rpcbind /run/sendsigs.omit.d
mount -t tmpfs tmpfs /var/lib/nfs
rpcbind -w -f & sleep 0.3
exec ganesha.nfsd -F -L "$1/log" -f "$1/conf" -p "$1/pid"
"""
_LOAD = """\
import sys, pathlib
from kronos.boot.eliloader import loading, plan
wanted = plan.read({"install-repository": sys.argv[1]})
boot = loading.load(wanted, None, pathlib.Path(sys.argv[2]), loading.Circumstances(seconds=60.0))
print(boot.arguments)
"""


@contextlib.contextmanager
def nfs_server(host: Host, tree: Path, work: Path, versions: str) -> Iterator[None]:
    """A server on `host` that serves `tree` to clients on privileged ports alone, as Linux's own does."""
    work.mkdir()
    (work / "conf").write_text(_GANESHA.format(tree=tree, versions=versions))
    argv = ["ip", "netns", "exec", host.name, "unshare", "-m", "sh", "-c", _SERVE, "sh", str(work)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        try:
            yield
        finally:
            host.close()  # and all that runs on it


def exportable(place: Path) -> bool:
    """Whether a server in user space can give away what lies there: a whole file system on a disk, not a part of one
    that is mounted by itself, and nothing layered or in memory."""
    mounts = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    over = [mount for mount in mounts if place.is_relative_to(mount[4])]
    nearest = max(over, key=lambda mount: len(mount[4]))
    return nearest[3] == "/" and nearest[nearest.index("-") + 1] in ("ext4", "xfs", "btrfs")


@pytest.mark.skipif(
    not exportable(Path("/var/tmp")), reason="a server cannot give away what lies in /var/tmp here"
)
@pytest.mark.parametrize("versions", ["3", "4"])
def test_a_tree_on_an_nfs_server(tree: Path, tmp_path: Path, versions: str) -> None:
    host = Host()
    # Not below /tmp, which may lie in memory: the server cannot give that away.
    served = Path(tempfile.mkdtemp(prefix="krs-nfs-", dir="/var/tmp"))
    try:
        served.chmod(0o755)
        shutil.copytree(tree, served / "tree")
        with nfs_server(host, served / "tree", tmp_path / "server", versions):
            log = tmp_path / "server" / "log"
            wait_until(lambda: log.exists() and "NFS SERVER INITIALIZED" in log.read_text(), 60, "no server")
            (tmp_path / "out").mkdir()
            host.run(
                sys.executable, "-c", _LOAD, f"nfs:127.0.0.1:{served}/tree", str(tmp_path / "out"), timeout=90
            )
            assert (tmp_path / "out" / "kernel").read_bytes() == KERNEL
            assert (tmp_path / "out" / "ramdisk").read_bytes() == RAMDISK
    finally:
        host.close()
        shutil.rmtree(served)


def test_a_tree_on_a_cd(tree: Path, tmp_path: Path) -> None:
    argv = ["xorriso", "-as", "mkisofs", "-quiet", "-r", "-J", "-o", tmp_path / "cd.iso", tree]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    boot = load("cdrom", tmp_path / "out", Image(tmp_path / "cd.iso", "raw"))
    assert content(boot) == (KERNEL, RAMDISK)
    assert boot.arguments == ""


def test_a_cd_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "cd.iso").write_bytes(bytes(1 << 20))
    with pytest.raises(InstallFailed) as caught:
        load("cdrom", tmp_path / "out", Image(tmp_path / "cd.iso", "raw"))
    assert caught.value.code == "INVALID_SOURCE"


# --- drivers ---------------------------------------------------------------------------------------------------------


def test_an_installer_without_xens_drivers_is_not_begun(web: Repository, tmp_path: Path) -> None:
    archive = Archive()
    archive.file("init", b"#!/bin/sh\n", executable=True)
    (web.directory / PLACE / "initrd.img").write_bytes(gzip.compress(archive.packed()))
    (web.directory / ".treeinfo").unlink()
    kernel = tiny_guest(CACHE / "tiny-guest").kernel
    (web.directory / PLACE / "vmlinuz").write_bytes(kernel.read_bytes())
    with pytest.raises(InstallFailed) as caught:
        load(web.url, tmp_path / "out", wanted=("xen_netfront",))
    assert caught.value.code == "SUPPORT_PACKAGE_MISSING"


def test_drivers_that_were_added_are_loaded_before_the_installer_begins(tmp_path: Path) -> None:
    """In a real kernel, with a driver that this machine's guests have a use for."""
    tiny = tiny_guest(CACHE / "tiny-guest")
    (tmp_path / "tiny").mkdir()
    unpacked = subprocess.run(["xz", "-dc", tiny.ramdisk], capture_output=True, check=True, timeout=30).stdout
    unpack = ["cpio", "-idm", "--quiet", "--no-absolute-filenames"]
    subprocess.run(unpack, input=unpacked, cwd=tmp_path / "tiny", check=True, timeout=30)
    (modules,) = (tmp_path / "tiny/lib/modules").iterdir()
    (modules / "modules.builtin").write_text("")
    installer = Archive()
    installer.device("dev/console", 5, 1)
    installer.directory("proc")
    installer.file("bin/busybox", (tmp_path / "tiny/bin/busybox").read_bytes(), executable=True)
    for name in ("sh", "insmod", "mount", "cat", "poweroff"):
        installer.link(f"bin/{name}", "busybox")
    script = b"#!/bin/sh\nmount -t proc p /proc\ncat /proc/modules\necho the installer begins\npoweroff -f\n"
    installer.file("init", script, executable=True)
    packed = gzip.compress(installer.packed())
    kernel = tiny.kernel.read_bytes()
    added, argument = frontends.additions(kernel, ["virtio_net"], modules.parent)
    ramdisk = tmp_path / "ramdisk"
    ramdisk.write_bytes(packed + bytes(-len(packed) % 4) + added)
    machine = [
        "qemu-system-x86_64",
        "-machine",
        "q35",
        "-accel",
        "tcg",
        "-m",
        "256",
        "-no-reboot",
        "-nographic",
    ]
    boot = ["-kernel", tiny.kernel, "-initrd", ramdisk]
    arguments = f"console=ttyS0 quiet no_timer_check panic=-1 {argument}"
    done = subprocess.run(
        [*machine, *boot, "-append", arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=120
    )
    output = done.stdout.decode(errors="replace")
    assert "the installer begins" in output
    assert re.search(r"virtio_net \d+ \d+ - Live", output), output


# --- the sandbox -----------------------------------------------------------------------------------------------------


def test_the_sandbox_is_nobody_with_one_right() -> None:
    lines = dict(
        line.split(":\t") for line in in_sandbox("cat /proc/self/status").splitlines() if ":\t" in line
    )
    assert lines["Uid"].split() == ["65534"] * 4
    assert lines["Gid"].split() == ["65534"] * 4
    assert lines["Groups"].strip() == ""
    assert int(lines["CapEff"], 16) == int(lines["CapBnd"], 16) == 1 << 10, "CAP_NET_BIND_SERVICE"
    assert lines["NoNewPrivs"] == "1"


def test_the_sandbox_sees_nothing_of_the_host_but_its_programs() -> None:
    seen = in_sandbox("ls -A / /etc; ls -d /var /root /home /run /proc/[0-9]*").split()
    assert not {"/var", "/root", "/home", "/run", "shadow", "xapi.toml", "libvirt"} & set(seen)
    assert len([each for each in seen if each.startswith("/proc/")]) < 5
    assert "refused" in in_sandbox("touch /usr/x /etc/x || echo refused")


def test_what_takes_too_long_is_ended(web: Repository, tmp_path: Path) -> None:
    asked = threading.Event()
    ends: list[object] = []

    def on_cancel(end) -> None:  # type: ignore[no-untyped-def]
        ends.append(end)
        threading.Thread(target=lambda: (asked.wait(10), end()), daemon=True).start()

    slow = web.server.RequestHandlerClass

    class Silent:
        def __init__(self, *args: object, **named: object) -> None:
            asked.set()
            time.sleep(20)

    web.server.RequestHandlerClass = Silent  # type: ignore[assignment]
    try:
        with pytest.raises(InstallFailed) as caught:
            load(web.url, tmp_path / "out", on_cancel=on_cancel)
    finally:
        web.server.RequestHandlerClass = slow
    assert "cancelled" in caught.value.params[1]
    assert len(ends) == 1
