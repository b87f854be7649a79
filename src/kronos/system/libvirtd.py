"""A libvirtd of one's own, for developers, tests and the demo: beside the system's, and without touching it.

As root libvirtd has its paths compiled in, so it runs in a mount namespace of its own where private
directories lie over /run/libvirt and the others; only its socket is outside. It and its guests go on when
the process that started it dies: whoever starts it again on the same directory adopts them.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from kronos.system import subreaper

SYSTEM_URI = "qemu:///system"
# One daemon for all, or one for each hypervisor: distributions are moving from the first to the second.
_SYSTEM_SOCKETS = (Path("/run/libvirt/libvirt-sock"), Path("/run/libvirt/virtqemud-sock"))

_PRIVATE = {
    "run": "/run/libvirt",
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
}
# libvirtd does not start where the user that its packager meant for guests is missing, even if told to use
# another: Debian's and Fedora's names, which the bare libvirt-daemon package does not make.
_ACCOUNTS = ("libvirt-qemu", "qemu", "kvm")
_DAEMON_CONF = """\
unix_sock_dir = "{directory}/sock"
auth_unix_rw = "none"
auth_unix_ro = "none"
host_uuid = "{host_uuid}"
log_level = 3
log_outputs = "3:file:{directory}/libvirtd.log"
max_client_requests = 20
listen_tls = 0
"""
# Guests run as root without labels: one user, one machine, and no systemd-machined or virtlogd to talk to.
_QEMU_CONF = """\
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
migration_address = "0.0.0.0"
"""
_LISTEN_CONF = """\
listen_tcp = 1
auth_tcp = "none"
listen_addr = "{address}"
"""
# A network namespace needs a sysfs of its own, or libvirtd looks for its interfaces in the wrong place;
# where /sys is already that of this namespace, the kernel refuses the second mount, and there is nothing to
# do.
_ENTER = """\
set -e
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
mount --rbind /sys/fs/cgroup "$1/cgroup"
if mount -t sysfs sysfs /sys 2>/dev/null; then
    mount --rbind "$1/cgroup" /sys/fs/cgroup
fi
directory=$1
shift
while [ "$1" != -- ]; do
    mkdir -p "$2"
    mount --bind "$directory/$1" "$2"
    shift 2
done
shift
exec "$@"
"""


def system_uri(sockets: Sequence[Path] = _SYSTEM_SOCKETS) -> str | None:
    """The URI of the libvirt that the distribution runs, None where there is none."""
    return SYSTEM_URI if any(socket.is_socket() for socket in sockets) else None


@dataclass(frozen=True)
class Estate:
    """Where a libvirt keeps things of guests: `seen` as itself sees it, `real` for everybody else."""

    seen: Path
    real: Path
    settings: Path
    tpms: str = "swtpm"


def estate(uri: str) -> Estate:
    """Those of the libvirt behind a URI, that runs on this host."""
    split = urlsplit(uri)
    (socket,) = parse_qs(split.query).get("socket", [""])
    directory = Path(socket).parent.parent
    if socket and (directory / "host_uuid").exists():
        return Estate(Path(_PRIVATE["lib"]), directory / "lib", directory / "etc")
    if split.path == "/session" or os.geteuid() != 0:
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "libvirt"
        return Estate(home, home, home, "qemu/swtpm")
    return Estate(Path(_PRIVATE["lib"]), Path(_PRIVATE["lib"]), Path(_PRIVATE["etc"]))


class PrivateLibvirtd:
    """The libvirtd whose whole state lies in `directory`; root only, and in the caller's network namespace.

    With `listen_address` it also takes migrations and qemu+tcp there, unauthenticated: for test networks
    alone.
    """

    def __init__(self, directory: Path, *, listen_address: str | None = None) -> None:
        self.directory = directory.absolute()
        self.listen_address = listen_address
        self.socket = self.directory / "sock" / "libvirt-sock"
        self._process: subprocess.Popen[bytes] | None = None
        if len(os.fsencode(self.socket)) > 100:
            raise ValueError(f"{self.socket} is too long for a unix socket")

    @property
    def uri(self) -> str:
        return f"qemu:///system?socket={self.socket}"

    def start(self, timeout: float = 20.0) -> str:
        """Its URI, once it listens; an instance that already runs is adopted.

        Raises OSError when it cannot be started, TimeoutError with the end of its log when it does not come
        up.
        """
        if self.pid() is None:
            self._write_configuration()
            self.socket.unlink(missing_ok=True)
            self._pid_file.unlink(missing_ok=True)
            self._spawn()
        until = time.monotonic() + timeout
        while not (self._listens() and self.pid() is not None):
            died = self._process is not None and self._process.poll() is not None
            if died or time.monotonic() > until:
                raise TimeoutError(f"libvirtd in {self.directory} did not come up: {self._last_words()}")
            time.sleep(0.01)
        return self.uri

    def stop(self, *, kill_guests: bool = True, timeout: float = 10.0) -> None:
        """End it, and, unless told otherwise, the guests first; without guests nothing of it is left
        running."""
        daemon = self.pid()
        if daemon is not None:
            _end(daemon, timeout)
        if kill_guests:
            for pid in self.guests():
                _end(pid, timeout)

    def pid(self) -> int | None:
        """The process id of the running libvirtd."""
        return _running(self._pid_file, str(self.directory))

    def guests(self) -> list[int]:
        """The process ids of the guests that run under it, or did when it was last seen."""
        found = (_running(file, "qemu") for file in sorted((self.directory / "run" / "qemu").glob("*.pid")))
        return [pid for pid in found if pid is not None]

    @property
    def _pid_file(self) -> Path:
        return self.directory / "libvirtd.pid"

    def _write_configuration(self) -> None:
        for name in (*_PRIVATE, "sock", "cgroup"):
            (self.directory / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        host_uuid = self.directory / "host_uuid"
        if not host_uuid.exists():
            host_uuid.write_text(str(uuid.uuid4()))
        conf = _DAEMON_CONF.format(directory=self.directory, host_uuid=host_uuid.read_text())
        qemu = _QEMU_CONF
        if self.listen_address is not None:
            conf += _LISTEN_CONF.format(address=self.listen_address)
            qemu += f'migration_host = "{self.listen_address}"\n'
        (self.directory / "etc" / "libvirtd.conf").write_text(conf)
        (self.directory / "etc" / "qemu.conf").write_text(qemu)

        for name, line in (("passwd", "{}:x:64055:64055::/:/usr/sbin/nologin\n"), ("group", "{}:x:64055:\n")):
            known = Path("/etc", name).read_text()
            present = {entry.partition(":")[0] for entry in known.splitlines()}
            missing = [line.format(account) for account in _ACCOUNTS if account not in present]
            (self.directory / name).write_text(known.rstrip("\n") + "\n" + "".join(missing))

    def _spawn(self) -> None:
        libvirtd = shutil.which("libvirtd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if libvirtd is None:
            raise FileNotFoundError("libvirtd is not installed")
        daemon = [libvirtd, "--config", str(self.directory / "etc" / "libvirtd.conf")]
        daemon += ["--pid-file", str(self.directory / "run" / "libvirtd.pid")]
        if self.listen_address is not None:
            daemon.append("--listen")
        reaper = [sys.executable, subreaper.__file__, "--pid-file", str(self._pid_file), "--", *daemon]
        enter = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            _ENTER,
            "sh",
            str(self.directory),
        ]
        binds = [part for name, target in _PRIVATE.items() for part in (name, target)]
        with (self.directory / "output.log").open("ab") as output:
            # A session of its own, because it outlives whoever starts it: commands.run would wait for it.
            self._process = subprocess.Popen(
                [*enter, *binds, "--", *reaper],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
            )

    def _listens(self) -> bool:
        """Whether somebody takes connections: a socket is there a moment before it does."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(os.fspath(self.socket)) == 0

    def _last_words(self) -> str:
        logs = [self.directory / "output.log", self.directory / "libvirtd.log"]
        return "\n".join(log.read_text(errors="replace")[-1000:] for log in logs if log.exists())


def _running(pid_file: Path, mark: str) -> int | None:
    """The process id in a file, if a process whose command line contains `mark` still has it."""
    try:
        pid = int(pid_file.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if mark.encode() in command else None


def _end(pid: int, timeout: float) -> None:
    """Ask a process to end, make it after `timeout` seconds, and wait until it has."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(handle, number)
            if select.select([handle], [], [], timeout)[0]:
                return
    except ProcessLookupError:
        return
    finally:
        os.close(handle)
