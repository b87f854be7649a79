"""A host of its own for a daemon: a network namespace with one NIC, a host name, and accounts to log in with.

Nothing of the machine is touched: bridges, taps, packet filters and address services live in the namespace, and
whatever still runs there at the end is known by it. The test reaches the host at `address`, on any port.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

PASSWORD = "a password of the tests"
_HASH = (
    "$6$kronostests$oHKKaucsB0vxR4e8QQ9IAtmy1ratY9CgmVWsRWRVXepgurGqVOgBKxhWJM3gs0ZadNoso1n5ROMRm9VFSnRWx/"
)
_PREFIX = "krs"
_PAM = Path(__file__).resolve().parents[2] / "packaging" / "pam.d"
_numbers = itertools.count()

# Its own accounts, PAM service and names over the machine's, and the devices of its own network in /sys.
_ENTER = """\
set -e
for name in passwd group shadow hosts pam.d; do mount --bind "$1/$name" "/etc/$name"; done
mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$1/cgroup" /sys/fs/cgroup
hostname "$2"
shift 2
exec "$@"
"""


class Host:
    """One simulated host. `close` ends every process in it and removes it; root only."""

    def __init__(self, label: str = "") -> None:
        number = next(_numbers)
        self.name = f"{_PREFIX}{os.getpid()}-{number}"
        self.hostname = label or f"host{number}"
        # Short, because unix sockets lie below; without underscores, which the Python SDK takes for slashes.
        self.directory = Path(f"/tmp/{self.name}")
        # A process that was killed may have had the number of this one, in a container above all.
        self.close()
        self.gateway, self.address = _free_addresses()
        self._make_namespace()
        self._make_files()

    def _make_namespace(self) -> None:
        cable = f"{_PREFIX}{os.getpid() % 100000:05}{self.name.rpartition('-')[2]}"[:15]
        _ip("netns", "add", self.name)
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("addr", "add", f"{self.gateway}/30", "dev", cable)
        _ip("link", "set", cable, "up")
        for words in (
            ("link", "set", "lo", "up"),
            ("addr", "add", f"{self.address}/30", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("route", "add", "default", "via", self.gateway),
        ):
            _ip("-n", self.name, *words)

    def _make_files(self) -> None:
        etc = self.directory / "etc"
        (etc / "cgroup").mkdir(parents=True)
        shutil.copytree("/etc/pam.d", etc / "pam.d")
        fedora = not (etc / "pam.d" / "common-auth").exists()
        shutil.copy(_PAM / ("xapi.fedora" if fedora else "xapi"), etc / "pam.d" / "xapi")
        for name in ("passwd", "group"):
            shutil.copy(f"/etc/{name}", etc / name)
        lines = Path("/etc/shadow").read_text().splitlines()
        others = [line for line in lines if not line.startswith("root:")]
        (etc / "shadow").write_text("\n".join([f"root:{_HASH}:20000:0:99999:7:::", *others]) + "\n")
        (etc / "shadow").chmod(0o600)
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.hostname}\n")

    def add_user(self, name: str, uid: int, *groups: str) -> None:
        """An account with PASSWORD, in a group of its own and others that there are."""
        self._append(
            "passwd", f"{name}:x:{uid}:{uid}:{name.title()} of the tests:/nonexistent:/usr/sbin/nologin"
        )
        self._append("shadow", f"{name}:{_HASH}:20000:0:99999:7:::")
        self._append("group", f"{name}:x:{uid}:")
        for group in groups:
            self.change("group", rf"(?m)^({group}:.*?),?$", rf"\1,{name}", r":,", ":")

    def add_group(self, name: str, gid: int) -> None:
        self._append("group", f"{name}:x:{gid}:")

    def change(self, database: str, *patterns: str) -> None:
        """Replace patterns in `passwd`, `group` or `shadow`, each followed by what takes its place."""
        path = self.directory / "etc" / database
        text = path.read_text()
        for pattern, replacement in zip(patterns[::2], patterns[1::2], strict=True):
            text = re.sub(pattern, replacement, text)
        path.write_text(text)  # in place: it is mounted over the machine's

    def _append(self, database: str, line: str) -> None:
        path = self.directory / "etc" / database
        path.write_text(f"{path.read_text()}{line}\n")

    def command(self, *argv: str) -> list[str]:
        """The command line that runs `argv` in this host."""
        enter = ["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", _ENTER, "sh"]
        place = [str(self.directory / "etc"), self.hostname]
        return ["nsenter", f"--net=/run/netns/{self.name}", *enter, *place, *argv]

    def run(self, *argv: str, timeout: float = 30) -> str:
        """Run a command in the host's network; its output. Raises AssertionError where it fails."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *argv], capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, f"{argv} in {self.name}: {done.stdout}{done.stderr}"
        return done.stdout

    def succeeds(self, *argv: str, timeout: float = 30) -> bool:
        """Whether a command in the host's network ends well."""
        argv = ("ip", "netns", "exec", self.name, *argv)
        return subprocess.run(argv, capture_output=True, timeout=timeout).returncode == 0

    def links(self) -> dict[str, str]:
        """The network devices of the host and their kinds: bridge, tun, veth…"""
        listed = json.loads(self.run("ip", "-json", "-details", "link", "show"))
        return {link["ifname"]: link.get("linkinfo", {}).get("info_kind", "") for link in listed}

    def processes(self) -> dict[int, str]:
        """What runs in the host: command lines by process id."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, timeout=30
        )
        return {pid: line for pid in map(int, listed.stdout.split()) if (line := _command_line(pid))}

    def close(self) -> None:
        """End everything in it and remove it. Harmless when it was done before."""
        remove(self.name)
        shutil.rmtree(self.directory, ignore_errors=True)


def remove(name: str) -> None:
    """End whatever runs in a namespace and delete it."""
    if not Path("/run/netns", name).exists():
        return
    until = time.monotonic() + 60
    while pids := subprocess.run(
        ["ip", "netns", "pids", name], capture_output=True, text=True, timeout=30
    ).stdout.split():
        end(map(int, pids))
        assert time.monotonic() < until, f"{pids} in {name} cannot be ended"
    _ip("netns", "del", name)


def end(pids: Sequence[int] | map[int]) -> None:
    """Kill processes and wait until they have gone."""
    handles = []
    for pid in pids:
        try:
            handles.append(os.pidfd_open(pid))
        except ProcessLookupError:
            continue
    try:
        for handle in handles:
            try:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for handle in handles:
            select.select([handle], [], [], 5)
    finally:
        for handle in handles:
            os.close(handle)


def sweep() -> None:
    """Remove what a run of the tests that was itself killed has left."""
    for entry in Path("/run/netns").glob(f"{_PREFIX}*-*"):
        owner = entry.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            remove(entry.name)
            shutil.rmtree(f"/tmp/{entry.name}", ignore_errors=True)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)


def _free_addresses() -> tuple[str, str]:
    """Two neighbours of 198.18.0.0/15, which is set aside for tests of networks (RFC 2544)."""
    listed = json.loads(subprocess.run(["ip", "-json", "-4", "addr"], capture_output=True, check=True).stdout)
    taken = {info["local"] for link in listed for info in link.get("addr_info", ())}
    while True:
        third, fourth = random.randrange(256), 4 * random.randrange(64)
        block = f"198.{random.choice((18, 19))}.{third}."
        if f"{block}{fourth + 1}" not in taken:
            return f"{block}{fourth + 1}", f"{block}{fourth + 2}"
