"""A NIC's addresses and routes carried onto its bridge and back: one run of `ip -batch`, so that a few milliseconds
lie between the old place and the new."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from kronos.network import names
from kronos.network.configuration.base import Port, Refused
from kronos.system.commands import CommandFailed, run

_SYSFS = Path("/sys/class/net")
_PROC = Path("/proc/sys/net")
_FOREVER = 0xFFFFFFFF
_ANSWER = 3.0
"""Seconds that a neighbour gets to say where it is."""


@dataclass(frozen=True, slots=True)
class Address:
    """An address with its prefix. Lifetimes are in seconds, 2^32 - 1 for ever."""

    family: str
    text: str
    broadcast: str = ""
    scope: str = "global"
    valid: int = _FOREVER
    preferred: int = _FOREVER
    metric: int = 0

    @property
    def lasts(self) -> bool:
        return self.valid == _FOREVER

    def added(self, device: str) -> str:
        broadcast = f" broadcast {self.broadcast}" if self.broadcast else ""
        nodad = " nodad" if self.family == "inet6" else ""
        metric = f" metric {self.metric}" if self.metric else ""
        lifetimes = "" if self.lasts else f" valid_lft {self.valid} preferred_lft {self.preferred}"
        return (
            f"addr replace {self.text}{broadcast} dev {device} scope {self.scope}{metric}{lifetimes}{nodad}"
        )


SOME_ROUTE = ("-4", "default")
"""A default route over whomever; only of what is expected."""


@dataclass(frozen=True, slots=True)
class Held:
    """What an interface has: its addresses, and its routes in the words of `ip`, each with its family's option."""

    addresses: tuple[Address, ...] = ()
    routes: tuple[tuple[str, str], ...] = ()
    gateways: tuple[str, ...] = ()
    empty: bool = False
    """That it has no address; only of what is expected."""

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Held:
        return cls(
            tuple(Address(**each) for each in said["addresses"]),
            tuple((family, words) for family, words in said["routes"]),
            tuple(said["gateways"]),
            bool(said.get("empty")),
        )

    def lasting(self) -> set[str]:
        """The addresses by which the host is to be found afterwards: those of IPv4, and of IPv6 those given for ever.
        What a router announces is made anew."""
        return {
            each.text
            for each in self.addresses
            if each.scope == "global" and (each.family == "inet" or each.lasts)
        }


def exists(device: str) -> bool:
    return (_SYSFS / device).exists()


def is_bridge(device: str) -> bool:
    return (_SYSFS / device / "bridge").exists()


def bridges() -> list[str]:
    return sorted(path.parent.name for path in _SYSFS.glob("*/bridge"))


def has_carrier(device: str) -> bool:
    """Whether something is at the other end of its cable; a device that is down has none."""
    try:
        return (_SYSFS / device / "carrier").read_text().strip() == "1"
    except OSError:
        return False


def members(bridge: str) -> list[str]:
    """What is in a bridge."""
    return sorted(path.name for path in (_SYSFS / bridge).glob("brif/*"))


def master(device: str) -> str:
    """The bridge or bond that a device is in, or nothing."""
    link = _SYSFS / device / "master"
    return link.resolve().name if link.exists() else ""


def port(device: str, bridge: str) -> Port:
    """Raises Refused where there is no such NIC, or it is none that a bridge takes."""
    directory = _SYSFS / device
    if not directory.exists():
        raise Refused(f"there is no interface {device}")
    if (directory / "wireless").exists() or (directory / "phy80211").exists():
        raise Refused(f"{device} is wireless: an access point takes no frames of guests")
    if (directory / "type").read_text().strip() != "1":
        raise Refused(f"{device} is not Ethernet")
    if kind := re.search(r"^DEVTYPE=(.*)$", (directory / "uevent").read_text(), re.M):
        raise Refused(f"{device} is no NIC, but of the kind {kind[1]}")
    mac = (directory / "address").read_text().strip()
    return Port(device, bridge, mac, int((directory / "mtu").read_text()))


def default_device() -> str:
    """The interface of the default route, IPv4's if there is one, or nothing."""
    for family in ("-4", "-6"):
        routes = sorted(_listed(family, "route", "show", "default"), key=lambda route: route.get("metric", 0))
        for route in routes:
            if "dev" in route:
                return str(route["dev"])
    return ""


def held(device: str) -> Held:
    """What a device has now. Raises CommandFailed."""
    addresses = tuple(
        Address(
            info["family"],
            f"{info['local']}/{info['prefixlen']}",
            info.get("broadcast", ""),
            info["scope"],
            info["valid_life_time"],
            info["preferred_life_time"],
            info.get("metric", 0),
        )
        for link in _listed("", "addr", "show", "dev", device)
        for info in link.get("addr_info", ())
    )
    # The kernel makes these of the addresses by itself; a client may have put its own in their place.
    connected = {str(ip_interface(each.text).network) for each in addresses}
    routes = []
    gateways = []
    for family in ("-4", "-6"):
        for line in run(["ip", family, "route", "show", "table", "all", "dev", device]).splitlines():
            if (words := _again(line)) is None or words.split()[0] in connected:
                continue
            routes.append((family, words))
            if found := re.match(r"default via (\S+)", words):
                gateways.append(found[1])
    return Held(addresses, tuple(routes), tuple(dict.fromkeys(gateways)))


def _again(line: str) -> str | None:
    """A route as `ip` takes it, of one that `ip` shows; None for those that the kernel makes of an address."""
    if line[:1].isspace() or re.match(r"(local|broadcast|multicast|anycast|fe80::/64|ff00::/8) ", line):
        return None
    if " proto kernel " in f"{line} " and not line.startswith("default"):
        return None
    line = re.sub(r"\b(linkdown|dead|pervasive|offload|rt_trap|notify)\b|error -?\d+", "", line)
    return " ".join(re.sub(r"expires (-?\d+)sec", r"expires \1", line).split())


def into_bridge(port: Port, has: Held) -> None:
    """Make the bridge if it is not there yet, put the NIC in, and give it what the NIC has. Raises CommandFailed."""
    nic, bridge = port.device, port.bridge
    if exists(bridge):
        clear(bridge)
        if _is_the_daemons(bridge):  # which keeps the host out of the network of its guests
            (_PROC / "ipv6/conf" / bridge / "disable_ipv6").write_text("0")
    else:
        kind = "type bridge stp_state 0 forward_delay 0"
        _batch([f"link add name {bridge} address {port.mac} mtu {port.mtu} {kind}"])
        _copy_sysctls(nic, bridge)
    steps = [f"link set dev {bridge} up", f"link set dev {nic} up", f"link set dev {nic} master {bridge}"]
    _batch([*steps, *_carried(nic, bridge, has)])
    _drop_routes(nic)
    _routes(bridge, has)


def out_of_bridge(port: Port, has: Held) -> None:
    """Give the NIC what its bridge has; the bridge goes, unless somebody else is in it. Raises CommandFailed."""
    nic, bridge = port.device, port.bridge
    steps = [f"link set dev {nic} up"]
    if master(nic) == bridge:
        steps.insert(0, f"link set dev {nic} nomaster")
    if is_bridge(bridge):
        steps += _carried(bridge, nic, has)
        if not set(members(bridge)) - {nic}:
            steps.append(f"link del dev {bridge}")
    else:
        steps += [address.added(nic) for address in has.addresses]
    _batch(steps)
    _drop_routes(bridge)
    _routes(nic, has)
    if not has.addresses:
        _begin_ipv6(nic)


def _begin_ipv6(device: str) -> None:
    """Have the kernel give itself addresses, as it does where a device comes up."""
    switch = _PROC / "ipv6/conf" / device / "disable_ipv6"
    with contextlib.suppress(OSError):
        value = switch.read_text()
        switch.write_text("1")
        switch.write_text(value)


def _carried(source: str, target: str, has: Held) -> list[str]:
    present = held(source).addresses
    steps = [f"addr del {each.text} dev {source}" for each in present]
    return steps + [each.added(target) for each in has.addresses]


def _routes(device: str, has: Held) -> None:
    """One by one, and those first over which others go; one that cannot be had again is no reason to go back. Others to
    the same place, over other interfaces, stay beside them."""
    for family, words in sorted(has.routes, key=lambda route: " via " in route[1]):
        with contextlib.suppress(CommandFailed):
            run(["ip", family, "route", "append", *words.split(), "dev", device], timeout=10)


def _drop_routes(device: str, *which: str) -> None:
    """What routers have announced stays without an address, and would be a way that leads nowhere."""
    if exists(device):
        with contextlib.suppress(CommandFailed):
            run(["ip", "-6", "route", "flush", "dev", device, *which], timeout=10)


def clear(device: str) -> None:
    """Take all addresses away, and with them the routes."""
    run(["ip", "addr", "flush", "dev", device, "scope", "global"], timeout=10)
    _drop_routes(device, "proto", "ra")


def _is_the_daemons(bridge: str) -> bool:
    """Whether the daemon has made it, and takes it away when it needs it no more."""
    link = _SYSFS / bridge
    begun = int((link / "netdev_group").read_text()) == names.UNFINISHED
    return begun or (link / "ifalias").read_text().startswith(names.MARK)


def disown(bridge: str) -> None:
    """A bridge that the daemon made is the host's own from now on. Raises CommandFailed."""
    if exists(bridge) and _is_the_daemons(bridge):
        run(["ip", "link", "set", "dev", bridge, "group", "default", "alias", ""], timeout=10)


def extend(device: str, seconds: int) -> None:
    """Give the addresses of IPv4 that expire so long to live from now."""
    for address in held(device).addresses:
        if address.family == "inet" and not address.lasts:
            longer = replace(address, valid=seconds, preferred=seconds)
            _batch([longer.added(device)])


def _copy_sysctls(source: str, target: str) -> None:
    for family in ("ipv4", "ipv6"):
        for path in (_PROC / family / "conf" / source).glob("*"):
            with contextlib.suppress(OSError):
                value = path.read_text()
                copy = _PROC / family / "conf" / target / path.name
                if copy.read_text() != value:
                    copy.write_text(value)


# --- whether the host is reached -------------------------------------------------------------------------------------


def missing(device: str, before: Held, answering: Iterable[str]) -> str:
    """What a device lacks of what was there before, in words; nothing where it is as it was.

    `answering` are the gateways that are known to answer.
    """
    now = held(device)
    if before.empty:
        return f"{device} still has {', '.join(sorted(now.lasting()))}" if now.lasting() else ""
    if not before.addresses and not now.lasting():
        return f"{device} has got no address"
    if SOME_ROUTE in before.routes and not now.gateways:
        return "the default route is not back"
    lost = before.lasting() - {each.text for each in now.addresses}
    if lost:
        return f"{device} has not got {', '.join(sorted(lost))}"
    ways = [gateway for gateway in before.gateways if ":" not in gateway]
    if set(ways) - set(now.gateways):
        return f"the default route over {', '.join(ways)} is not back"
    for gateway in answering:
        if not answers(device, gateway):
            return f"the gateway {gateway} does not answer on {device}"
    return ""


def answers(device: str, gateway: str, patience: float = _ANSWER) -> bool:
    """Whether a neighbour says now where it is: by ARP or neighbour discovery, which nobody filters as pings are."""
    with contextlib.suppress(CommandFailed):
        run(["ip", "neigh", "del", gateway, "dev", device], timeout=10)
    family = socket.AF_INET6 if ":" in gateway else socket.AF_INET
    until = time.monotonic() + patience
    while time.monotonic() < until:
        with socket.socket(family, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            scope = (0, socket.if_nametoindex(device)) if family == socket.AF_INET6 else ()
            probe.sendto(b"\0", (gateway, 9, *scope))
        for each in _listed("", "neigh", "show", gateway, "dev", device):
            if {"REACHABLE", "PERMANENT", "NOARP"} & set(each.get("state", ())):
                return True
        time.sleep(0.1)
    return False


def _listed(family: str, *words: str) -> list[dict[str, Any]]:
    options = [family] if family else []
    said = run(["ip", *options, "-json", *words], timeout=10)
    return [each for each in json.loads(said or "[]") if each]


def _batch(lines: list[str]) -> None:
    run(["ip", "-batch", "-"], stdin="".join(f"{line}\n" for line in lines), timeout=20)
