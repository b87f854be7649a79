"""Networks on the kernel's own bridges, by netlink."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import IPv4Interface
from pathlib import Path
from socket import AF_INET
from typing import Any
from urllib.parse import parse_qsl, urlencode

from kronos.datamodel.errors import Failure
from kronos.network import firewall, interfaces, names
from kronos.network.base import Bridge, Lease, LinkState, NetworkDriver, PhysicalInterface, VifPort, Watch
from kronos.network.dnsmasq import AddressService
from kronos.network.dumps import whole
from kronos.network.mac import random_mac
from kronos.network.netlink import IPRoute, NetlinkError
from kronos.network.subnet import Subnet
from kronos.network.watch import NetlinkWatch
from kronos.network.words import in_words

_LONGEST_ALIAS = 255
_IFF_UP = 1
_PROC_NET = Path("/proc/sys/net")


class BridgeNetwork(NetworkDriver):
    """A host whose networks are Linux bridges, with taps put in by the hypervisor.

    `state` keeps the address service's files; `sysfs` is where the kernel shows its devices.
    """

    def __init__(self, state: Path, *, sysfs: Path = Path("/sys")) -> None:
        self._sysfs = sysfs
        self._addresses = AddressService(state)
        # Everything below takes milliseconds but the start of dnsmasq (tens of them), so one lock serves all
        # bridges.
        self._changes = threading.Lock()
        self._rules = threading.Lock()

    def physical_interfaces(self) -> list[PhysicalInterface]:
        return interfaces.physical_interfaces(self._sysfs)

    def bridges(self) -> list[Bridge]:
        with IPRoute() as netlink:
            return bridges_of(whole(netlink.get_links))

    @in_words("A bridge cannot be made")
    def create_bridge(
        self, name: str, *, mtu: int = 1500, external_ids: Mapping[str, str] | None = None
    ) -> Bridge:
        names.check_bridge(name)
        names.check_mtu(mtu)
        alias = _alias(external_ids or {})
        with self._changes, IPRoute() as netlink, ExitStack() as undo:
            link = _find(netlink, name)
            if link is None:
                link = self._add_bridge(netlink, name, undo)
            elif interfaces.kind_of(link) != "bridge":
                raise Failure("BRIDGE_NAME_EXISTS", name)
            elif not _is_managed(link):
                undo.pop_all()
                return self._bridge(netlink, name)
            index = link["index"]
            if link.get_attr("IFLA_IFALIAS") != alias or link.get_attr("IFLA_GROUP") == names.UNFINISHED:
                netlink.link("set", index=index, IFLA_IFALIAS=alias, group=0)
            # Said aloud even when it is this already: a bridge that was not told follows its smallest port.
            netlink.link("set", index=index, mtu=mtu)
            netlink.link("set", index=index, state="up")
            undo.pop_all()
            return self._bridge(netlink, name)

    @in_words("A bridge cannot be removed")
    def destroy_bridge(self, name: str) -> None:
        names.check_bridge(name)
        with self._changes, IPRoute() as netlink:
            # What serves addresses is ours in somebody else's bridge, too.
            firewall.untranslate(name)
            self._addresses.forget(name)
            link = _find(netlink, name)
            if link is not None and _is_managed(link):
                with _gone_already():
                    netlink.link("del", index=link["index"])

    @in_words("A device cannot join a bridge")
    def enslave(self, bridge: str, device: str) -> None:
        names.check_bridge(bridge)
        names.check_device(device)
        with self._changes, IPRoute() as netlink, ExitStack() as undo:
            master = _find_bridge(netlink, bridge)
            link = _find(netlink, device)
            if link is None or interfaces.kind_of(link) == "bridge":
                raise Failure("PIF_DEVICE_NOT_FOUND")
            index, current = link["index"], link.get_attr("IFLA_MASTER")
            if current == master["index"]:
                netlink.link("set", index=index, state="up")
                return
            if current:
                raise Failure("DEVICE_ALREADY_ATTACHED", device)
            if interfaces.is_addressed(netlink, index):
                text = f"{device} has addresses of this host, which would be cut off in a bridge"
                raise Failure("OPERATION_NOT_ALLOWED", text)
            self._take_mtu(netlink, link, master, undo)
            if _is_managed(master):
                # The network outside knows the NIC by its MAC (leases, port security), so the host keeps it. Before it
                # is in the bridge: after a crash in between it would be there, and this would never be made good.
                netlink.link("set", index=master["index"], address=link.get_attr("IFLA_ADDRESS"))
                undo.callback(
                    netlink.link, "set", index=master["index"], address=master.get_attr("IFLA_ADDRESS")
                )
            netlink.link("set", index=index, master=master["index"])
            undo.callback(netlink.link, "set", index=index, master=0)
            netlink.link("set", index=index, state="up")
            undo.pop_all()

    @in_words("A device cannot leave its bridge")
    def release(self, device: str) -> None:
        names.check_device(device)
        with self._changes, IPRoute() as netlink:
            link = _find(netlink, device)
            if link is None or not link.get_attr("IFLA_MASTER"):
                return
            master = netlink.link("get", index=link.get_attr("IFLA_MASTER"))[0]
            netlink.link("set", index=link["index"], master=0)
            if _is_managed(master) and master.get_attr("IFLA_ADDRESS") == link.get_attr("IFLA_ADDRESS"):
                # The NIC goes elsewhere with its MAC; two of them would be mistaken for one another.
                netlink.link("set", index=master["index"], address=random_mac())

    @in_words("The address service of a bridge cannot be started")
    def serve_addresses(self, bridge: str, subnet: Subnet) -> None:
        names.check_bridge(bridge)
        with self._changes, IPRoute() as netlink, ExitStack() as undo:
            link = _find_bridge(netlink, bridge)
            self._assert_servable(netlink, link, subnet)
            self._address(netlink, link, subnet.host, undo)
            if subnet.nat:
                firewall.translate(bridge, subnet)
                undo.callback(firewall.untranslate, bridge)
                # Both ways pass other interfaces, so it is the host that forwards, not this bridge. It stays
                # on: whoever else relies on it by then cannot be known.
                (_PROC_NET / "ipv4/ip_forward").write_text("1")
            else:
                firewall.untranslate(bridge)
            self._addresses.start(bridge, subnet)
            undo.pop_all()

    @in_words("The address service of a bridge cannot be stopped")
    def stop_addresses(self, bridge: str) -> None:
        names.check_bridge(bridge)
        with self._changes, IPRoute() as netlink:
            self._addresses.stop(bridge)
            firewall.untranslate(bridge)
            link = _find(netlink, bridge)
            if link is not None and _is_managed(link):
                for address in _ipv4_addresses(netlink, link["index"]):
                    _remove_address(netlink, link["index"], address)

    def leases(self, bridge: str) -> list[Lease]:
        return self._addresses.leases(names.check_bridge(bridge))

    @in_words("The rules of guests' ports cannot be set")
    def secure(self, *ports: VifPort) -> None:
        with self._rules:
            firewall.secure(ports)

    @in_words("The rules of guests' ports cannot be removed")
    def unsecure(self, *devices: str) -> None:
        with self._rules:
            firewall.unsecure(devices)

    def secured(self) -> set[str]:
        return firewall.secured()

    def watch(self, callback: Callable[[LinkState], None]) -> Watch:
        return NetlinkWatch(callback)

    def _bridge(self, netlink: IPRoute, name: str) -> Bridge:
        return next(bridge for bridge in bridges_of(whole(netlink.get_links)) if bridge.name == name)

    def _add_bridge(self, netlink: IPRoute, name: str, undo: ExitStack) -> Any:
        """A new bridge, still down. It keeps the MAC it is given; without one it would follow its ports'."""
        netlink.link(
            "add",
            ifname=name,
            kind="bridge",
            group=names.UNFINISHED,
            address=random_mac(),
            br_stp_state=0,
            br_forward_delay=0,
        )
        link = netlink.link("get", ifname=name)[0]
        undo.callback(netlink.link, "del", index=link["index"])
        # Guests must not reach this host by an IPv6 address that the kernel gave the bridge by itself.
        with suppress(FileNotFoundError):
            (_PROC_NET / "ipv6/conf" / name / "disable_ipv6").write_text("1")
        return link

    def _take_mtu(self, netlink: IPRoute, link: Any, master: Any, undo: ExitStack) -> None:
        old, new = link.get_attr("IFLA_MTU"), master.get_attr("IFLA_MTU")
        if old == new:
            return
        try:
            netlink.link("set", index=link["index"], mtu=new)
        except NetlinkError as error:
            if error.code != errno.EINVAL:
                raise
            raise names.invalid("MTU", str(new)) from error
        undo.callback(netlink.link, "set", index=link["index"], mtu=old)

    def _assert_servable(self, netlink: IPRoute, link: Any, subnet: Subnet) -> None:
        for other in whole(netlink.get_links):
            device = other.get_attr("IFLA_IFNAME")
            if other.get_attr("IFLA_MASTER") == link["index"] and interfaces.is_physical(self._sysfs, device):
                text = f"{device} joins this bridge to a network that has its own address service"
                raise Failure("OPERATION_NOT_ALLOWED", text)
        for message in whole(netlink.get_addr, family=AF_INET):
            if message["index"] == link["index"]:
                continue
            taken = IPv4Interface((message.get_attr("IFA_LOCAL"), message["prefixlen"]))
            if taken.network.overlaps(subnet.network):
                text = f"{subnet.network} overlaps {taken}, an address of this host"
                raise Failure("OPERATION_NOT_ALLOWED", text)

    def _address(self, netlink: IPRoute, link: Any, host: IPv4Interface, undo: ExitStack) -> None:
        index = link["index"]
        present = _ipv4_addresses(netlink, index)
        if host not in present:
            netlink.addr("add", index=index, address=str(host.ip), prefixlen=host.network.prefixlen)
            undo.callback(_remove_address, netlink, index, host)
        for former in present:
            if former != host and _is_managed(link):
                _remove_address(netlink, index, former)
                undo.callback(
                    netlink.addr,
                    "add",
                    index=index,
                    address=str(former.ip),
                    prefixlen=former.network.prefixlen,
                )


def bridges_of(links: Iterable[Any]) -> list[Bridge]:
    """The bridges among the answers to a netlink request for all links."""
    links = list(links)
    members: dict[int, list[str]] = {}
    for link in links:
        members.setdefault(link.get_attr("IFLA_MASTER"), []).append(link.get_attr("IFLA_IFNAME"))
    found = [
        Bridge(
            name=link.get_attr("IFLA_IFNAME"),
            mac=link.get_attr("IFLA_ADDRESS"),
            mtu=link.get_attr("IFLA_MTU"),
            up=bool(link["flags"] & _IFF_UP),
            members=tuple(sorted(members.get(link["index"], []))),
            managed=_is_managed(link),
            external_ids=_external_ids(link.get_attr("IFLA_IFALIAS") or ""),
        )
        for link in links
        if interfaces.kind_of(link) == "bridge"
    ]
    return sorted(found, key=lambda bridge: bridge.name)


@contextmanager
def _gone_already() -> Iterator[None]:
    """What is to be removed may have gone by itself."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in (errno.ENODEV, errno.EADDRNOTAVAIL):
            raise


def _find(netlink: IPRoute, name: str) -> Any | None:
    try:
        return netlink.link("get", ifname=name)[0]
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise
        return None


def _find_bridge(netlink: IPRoute, name: str) -> Any:
    link = _find(netlink, name)
    if link is None or interfaces.kind_of(link) != "bridge":
        raise Failure("BRIDGE_NOT_AVAILABLE", name)
    return link


def _is_managed(link: Any) -> bool:
    """Whether the daemon has made this bridge, or has begun to when it or the host was cut short."""
    alias = link.get_attr("IFLA_IFALIAS") or ""
    return alias.startswith(names.MARK) or link.get_attr("IFLA_GROUP") == names.UNFINISHED


def _alias(external_ids: Mapping[str, str]) -> str:
    encoded = urlencode(sorted(external_ids.items()))
    if len(names.MARK + encoded) > _LONGEST_ALIAS:
        raise names.invalid("external_ids", encoded)
    return names.MARK + encoded


def _external_ids(alias: str) -> dict[str, str]:
    if not alias.startswith(names.MARK):
        return {}
    return dict(parse_qsl(alias.removeprefix(names.MARK), keep_blank_values=True))


def _ipv4_addresses(netlink: IPRoute, index: int) -> list[IPv4Interface]:
    return [
        IPv4Interface((message.get_attr("IFA_LOCAL"), message["prefixlen"]))
        for message in whole(netlink.get_addr, family=AF_INET, index=index)
    ]


def _remove_address(netlink: IPRoute, index: int, address: IPv4Interface) -> None:
    with _gone_already():
        netlink.addr("del", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
