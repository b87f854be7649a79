"""The packages as an administrator meets them: a signed repository, stock machines, apt-get, a guest.

A stock Debian machine, emulated, gets nothing but `apt-get install xenserver-core` from the repository, reboots into
Xen by its own boot loader, and runs a paravirtualised guest, which lives through an upgrade; then all is purged, and
what is left behind is looked for. The same with `xapi-kvm`, without Xen. Takes half an hour; the time of each step is
printed.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from harness.stock.machine import Stock, disk
from harness.xen.machine import Broken
from kronos import __version__

ROOT = Path(__file__).resolve().parents[1]
OURS = ("python3-kronos", "xapi", "xapi-sm", "xapi-eliloader", "xapi-xe", "xenserver-core", "xapi-kvm")
TEMPLATE = "Kronos tiny guest"
SOURCE = """\
Types: deb
URIs: http://10.0.2.2:{port}/debian
Suites: stable
Components: main
Architectures: amd64
Signed-By: /etc/apt/keyrings/kronos.gpg
"""
NIC, BRIDGE = "ens3", "brens3"
INTERFACES = "cat /etc/network/interfaces"
VERSION = "dpkg-query -W -f '${Version}' xapi"
TRACES = (
    "find / -xdev \\( -iname '*xapi*' -o -iname '*kronos*' -o -iname '*eliloader*' -o -name xe -o -path '*/lib/xcp*'"
    " \\)"
    " ! -path '/proc/*' ! -path '/var/log/*' ! -path '/etc/apt/*' ! -path '/var/lib/apt/lists/*'"
    " ! -path '/var/cache/apt/*' ! -path '/tmp/*'"
)


class Host:
    """A stock machine that becomes a host, by a package of this name."""

    def __init__(self, package: str, repository: Path, port: int) -> None:
        self.package = package
        self.repository = repository
        self.machine = Stock(disk(progress=say))
        self.port = port
        self.times: list[tuple[str, float]] = []
        self.interfaces = ""

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        say(f"{self.package}: {what}")
        began = time.monotonic()
        yield
        self.times.append((what, time.monotonic() - began))

    def run(self, command: str, timeout: float = 120) -> str:
        return self.machine.run(f"export DEBIAN_FRONTEND=noninteractive; {command}", timeout).strip()

    def install(self) -> None:
        with self.step("a stock machine boots"):
            self.machine.start()
        with self.step("apt-get update, with our repository"):
            self.run("mkdir -p /etc/apt/keyrings")
            self.machine.run(
                "cat >/etc/apt/keyrings/kronos.gpg", input=(self.repository / "kronos.gpg").read_bytes()
            )
            source = SOURCE.format(port=self.port).encode()
            self.machine.run("cat >/etc/apt/sources.list.d/kronos.sources", input=source)
            self.run("apt-get update -q", timeout=600)
        with self.step(f"apt-get install {self.package}"):
            before = self.installed()
            self.interfaces = self.run(INTERFACES)
            self.run(f"apt-get install -q -y {self.package}", timeout=3600)
            say(f"{self.package}: {len(self.installed() - before)} packages are new")

    def bridged(self) -> None:
        """The interface by which this very connection comes is in a bridge, and the daemon knows it."""
        with self.step("the management interface is a bridge"):
            self.machine.until("xe host-list --minimal", 300)
            assert "10.0.2.15/" in self.run(f"ip -brief -4 address show {BRIDGE}")
            assert f"master {BRIDGE}" in self.run(f"ip -o link show {NIC}")
            assert f"default via 10.0.2.2 dev {BRIDGE}" in self.run("ip route")
            known = self.run("xe pif-list management=true params=device,IP,gateway")
            assert NIC in known and "10.0.2.15" in known, known
            network = self.run("xe pif-list management=true params=network-uuid --minimal")
            assert self.run(f"xe network-param-get uuid={network} param-name=bridge") == BRIDGE

    def installed(self) -> set[str]:
        return set(self.run("dpkg-query -W -f '${binary:Package}\\n'").split())

    def into_xen(self) -> None:
        # The emulated processor lacks a feature that each CPU model of libvirt's has, and its Xen driver would not
        # start: docs/testing.md. No real machine needs this.
        self.run("sed -i \"/<feature name='vme'\\/>/d\" /usr/share/libvirt/cpu_map/x86_*.xml")
        with self.step("it reboots into Xen by its own boot loader"):
            self.machine.reboot()
            assert "xen" in self.run("cat /sys/hypervisor/type"), "this is no Xen"
            self.run("test -e /proc/xen/capabilities && grep -q control_d /proc/xen/capabilities")

    def guest(self) -> str:
        """A running guest's UUID; it has answered."""
        with self.step("xapi is ready, the tiny guest's template there"):
            self.machine.until("xe host-list --minimal", 300)
            say(self.run("xe host-list params=name-label,software-version,capabilities"))
            self.machine.until(f"xe template-list name-label='{TEMPLATE}' --minimal", 600)
        with self.step("xe vm-install"):
            uuid = self.run(f"xe vm-install template='{TEMPLATE}' new-name-label=first", timeout=300)
            if self.package == "xenserver-core":
                self.run(f"xe vm-param-set uuid={uuid} domain-type=pv")
            network = self.run("xe network-list bridge=xenapi --minimal")
            self.run(f"xe vif-create vm-uuid={uuid} network-uuid={network} device=0 mac=random")
            outside = self.run("xe pif-list management=true params=network-uuid --minimal")
            self.run(f"xe vif-create vm-uuid={uuid} network-uuid={outside} device=1 mac=random")
        with self.step("xe vm-start"):
            self.run(f"xe vm-start uuid={uuid}", timeout=300)
        with self.step("the guest has an address and answers"):
            networks = f"xe vm-param-get uuid={uuid} param-name=networks"
            self.machine.until(f"{networks} | grep -o '0/ip: [0-9.]*'", 600)
            self.answers(uuid)
        with self.step("the guest has an address from outside, over the management bridge"):
            self.machine.until(f"{networks} | grep -o '1/ip: 10.0.2.[0-9]*'", 600)
        return uuid

    def answers(self, uuid: str) -> None:
        address = (
            f"$(xe vm-param-get uuid={uuid} param-name=networks | grep -o '0/ip: [0-9.]*' | cut -d' ' -f2)"
        )
        self.run(f'test "$(xe vm-param-get uuid={uuid} param-name=power-state)" = running')
        self.run(f"ping -c 3 -W 5 {address}")

    def comes_back(self, uuid: str) -> None:
        pool = self.run("xe pool-list --minimal")
        self.run(f"xe pool-param-set uuid={pool} other-config:auto_poweron=true")
        self.run(f"xe vm-param-set uuid={uuid} other-config:auto_poweron=true")
        with self.step("the host reboots, and the guest starts with it"):
            self.machine.reboot()
            state = f"xe vm-param-get uuid={uuid} param-name=power-state"
            self.machine.until(f"{state} | grep running", 600)
            self.machine.until(
                f"xe vm-param-get uuid={uuid} param-name=networks | grep -o '0/ip: [0-9.]*'", 600
            )
        # The host put its guest away before it went down, rather than cut its power.
        told = self.run(f"xe message-list obj-uuid={uuid} params=name --minimal")
        assert "VM_SHUTDOWN" in told.split(",") or "VM_SUSPENDED" in told.split(","), told
        self.answers(uuid)
        self.bridged()

    def upgrade(self, uuid: str) -> None:
        domid = f"xe vm-param-get uuid={uuid} param-name=dom-id"
        before = self.run(domid), self.run(VERSION)
        self.run("printf '\\n# ours\\nlog_level = \"debug\"\\n' >>/etc/xapi.toml")
        with self.step("apt-get upgrade while it runs"):
            self.run("apt-get update -q", timeout=600)
            self.run(f"apt-get install -q -y --only-upgrade {' '.join(sorted(self.ours()))}", timeout=900)
        self.machine.until("xe host-list --minimal", 300)
        after = self.run(domid), self.run(VERSION)
        assert after[0] == before[0], f"the guest is another: {before[0]}, {after[0]}"
        assert after[1] == __version__ != before[1], f"{before[1]} is now {after[1]}"
        self.answers(uuid)
        assert 'log_level = "debug"' in self.run("cat /etc/xapi.toml"), "an administrator's change is lost"

    def ours(self) -> set[str]:
        return self.installed() & set(OURS)

    def purge(self, uuid: str) -> None:
        self.run(f"xe vm-shutdown uuid={uuid} force=true", timeout=300)
        self.run(f"xe vm-uninstall uuid={uuid} force=true", timeout=300)
        with self.step("apt-get purge"):
            self.run(f"apt-get purge -q -y {' '.join(sorted(self.ours()))}", timeout=900)
        left = self.run(TRACES)
        assert not left, f"this is left behind:\n{left}"
        links = self.run("ip -brief link")
        assert "xenapi" not in links and BRIDGE not in links, "a bridge is left behind"
        assert self.run(INTERFACES) == self.interfaces, "the network's configuration is not what it was"
        assert "10.0.2.15/" in self.run(f"ip -brief -4 address show {NIC}")
        assert not self.run(
            "systemctl list-units --all --plain --no-legend '*xapi*'"
        ), "a unit is left behind"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def served(directory: Path) -> Iterator[int]:
    """The port of a web server for a folder, for machines whose network ends at this one."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(directory)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()


def publish(version: str, repository: Path) -> None:
    subprocess.run([ROOT / "tools/deb"], env={**os.environ, "VERSION": version}, check=True, timeout=600)
    subprocess.run([ROOT / "tools/repository", repository], check=True, timeout=120)


def tried(package: str, repository: Path, port: int) -> list[tuple[str, float]]:
    """What the steps with one package took. Raises Broken, AssertionError."""
    host = Host(package, repository, port)
    try:
        host.install()
        if package == "xenserver-core":
            host.into_xen()
        host.bridged()
        uuid = host.guest()
        host.comes_back(uuid)
        publish(__version__, repository)
        host.upgrade(uuid)
        host.purge(uuid)
    finally:
        host.machine.close()
    return host.times


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", nargs="*", help="xenserver-core, xapi-kvm; both where none is named")
    packages = parser.parse_args().packages or ["xenserver-core", "xapi-kvm"]
    times = []
    failed = False
    for package in packages:
        directory = Path(tempfile.mkdtemp(prefix="krepo-"))
        try:
            publish(f"{__version__}~before", directory)
            with served(directory) as port:
                times += [(package, *step) for step in tried(package, directory, port)]
        except (Broken, AssertionError) as why:
            say(f"{package}: {why}")
            failed = True
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    for package, what, seconds in times:
        say(f"{seconds:7.1f} s  {package}: {what}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
