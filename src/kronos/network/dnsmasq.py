"""DHCP and DNS for an internal network: one dnsmasq per bridge, found again after a restart of the daemon."""

from __future__ import annotations

import os
import select
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

from kronos.network.base import Lease
from kronos.network.subnet import Subnet
from kronos.system import commands, files

# dnsmasq keeps a record in memory for each lease; beyond this many the subnet is large, not the network.
_MOST_LEASES = 65536
_STOP_MILLISECONDS = 3000


class AddressService:
    """The dnsmasq processes of this host, each with a directory of its own under `state`.

    What runs is told from the process's own command line, never from its number alone: numbers are used
    again.
    """

    def __init__(self, state: Path) -> None:
        self._state = state

    def start(self, bridge: str, subnet: Subnet) -> None:
        """Have dnsmasq serve `subnet` on `bridge`; one that already does is left running.

        When this returns it is bound and answering. Raises CommandFailed.
        """
        directory = self._state / bridge
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        content = configuration(bridge, subnet, directory).encode()
        path = directory / "dnsmasq.conf"
        if self.pid(bridge) is not None:
            if path.exists() and path.read_bytes() == content:
                return
            self.stop(bridge)
        files.write_whole(path, content)
        # dnsmasq goes into the background itself once it is bound, and says so by its exit status.
        commands.run(["dnsmasq", f"--conf-file={path}"], timeout=20.0)

    def stop(self, bridge: str) -> None:
        """End the dnsmasq of `bridge`, if any."""
        pid = self.pid(bridge)
        if pid is not None:
            self._end(bridge, pid)
        (self._state / bridge / "pid").unlink(missing_ok=True)

    def forget(self, bridge: str) -> None:
        """As `stop`, and drop the leases."""
        self.stop(bridge)
        with suppress(FileNotFoundError):
            shutil.rmtree(self._state / bridge)

    def pid(self, bridge: str) -> int | None:
        """The process that serves `bridge`, or None."""
        try:
            pid = int((self._state / bridge / "pid").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if self._is_ours(bridge, pid) else None

    def leases(self, bridge: str) -> list[Lease]:
        """The leases of `bridge` that hold now, by address."""
        try:
            untrusted_text = (self._state / bridge / "leases").read_text(errors="replace")
        except FileNotFoundError:
            return []
        return leases_of(untrusted_text, time.time())

    def _is_ours(self, bridge: str, pid: int) -> bool:
        wanted = f"--conf-file={self._state / bridge / 'dnsmasq.conf'}".encode()
        try:
            return wanted in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            return False

    def _end(self, bridge: str, pid: int) -> None:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        try:
            # Only now that the handle holds the number is the check of the command line worth something.
            if not self._is_ours(bridge, pid):
                return
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
                if ended.poll(_STOP_MILLISECONDS):
                    return
        finally:
            os.close(handle)


def configuration(bridge: str, subnet: Subnet, directory: Path) -> str:
    """The configuration file for one bridge: this interface alone, and none of the host's own names."""
    lines = [
        f"interface={bridge}",
        "except-interface=lo",
        "bind-dynamic",
        "no-hosts",
        f"pid-file={directory / 'pid'}",
        f"dhcp-leasefile={directory / 'leases'}",
        f"dhcp-range={subnet.first},{subnet.last},{subnet.network.netmask},{subnet.lease_seconds}",
        f"dhcp-lease-max={min(subnet.size, _MOST_LEASES)}",
        "dhcp-authoritative",
        # The subnet is ours alone, so asking by ping before each offer would only delay it.
        "no-ping",
        "quiet-dhcp",
        "domain-needed",
        "bogus-priv",
        # A guest that calls itself wpad would become the proxy of its neighbours (CERT VU#598349).
        "dhcp-name-match=set:wpad,wpad",
        "dhcp-ignore-names=tag:wpad",
    ]
    if subnet.domain:
        lines += [f"domain={subnet.domain}", f"local=/{subnet.domain}/"]
    if not subnet.nat:
        # An option without a value is not sent.
        lines += ["no-resolv", "dhcp-option=option:router", "dhcp-option=option:dns-server"]
    return "\n".join(lines) + "\n"


def leases_of(untrusted_text: str, now: float) -> list[Lease]:
    """The IPv4 leases in dnsmasq's file that hold at `now`; a line half written is passed over."""
    leases = []
    for line in untrusted_text.splitlines():
        match line.split():
            case [expiry, mac, ip, hostname, _client] if expiry.isdigit() and "." in ip:
                if expiry == "0" or int(expiry) > now:
                    leases.append(Lease(mac, ip, "" if hostname == "*" else hostname, int(expiry)))
    return sorted(leases, key=lambda lease: tuple(map(int, lease.ip.split("."))))
