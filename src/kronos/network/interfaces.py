"""The NICs of this host: what sysfs says of the devices, and netlink of their links and addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Interface, ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any

from kronos.network.base import PhysicalInterface
from kronos.network.dumps import whole
from kronos.network.netlink import IPRoute

_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_PCI_IDS = (Path("/usr/share/misc/pci.ids"), Path("/usr/share/hwdata/pci.ids"))
_ARPHRD_ETHER = 1
_IFF_UP = 1
_IFA_F_PERMANENT = 0x80
_SCOPE_GLOBAL = 0
# Behind the local stub of systemd-resolved are the servers it asks, in the second file.
RESOLV_CONF = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))


@dataclass(frozen=True, slots=True)
class _Addressing:
    """Who has which address, as one look at netlink saw it."""

    names: dict[int, str]
    bridges: frozenset[int]
    addresses: list[Any]
    routes: list[Any]

    @classmethod
    def look(cls, netlink: IPRoute, links: list[Any]) -> _Addressing:
        return cls(
            {link["index"]: link.get_attr("IFLA_IFNAME") for link in links},
            frozenset(link["index"] for link in links if kind_of(link) == "bridge"),
            whole(netlink.get_addr),
            whole(netlink.get_default_routes),
        )

    def gateway(self, family: int, index: int) -> str:
        for route in self.routes:
            if route["family"] == family and route.get_attr("RTA_OIF") == index:
                return str(route.get_attr("RTA_GATEWAY") or "")
        return ""

    def of(self, family: int, index: int) -> list[Any]:
        """The global addresses of a link, in the order the kernel chose them."""
        return [
            address
            for address in self.addresses
            if address["family"] == family and address["index"] == index and address["scope"] == _SCOPE_GLOBAL
        ]


def kind_of(link: Any) -> str:
    """The kernel's name for a software device (bridge, veth, tun), empty for hardware."""
    information = link.get_attr("IFLA_LINKINFO")
    return (information.get_attr("IFLA_INFO_KIND") or "") if information is not None else ""


def physical_interfaces(sysfs: Path, resolv_conf: tuple[Path, ...] = RESOLV_CONF) -> list[PhysicalInterface]:
    """The NICs by name, or the holder of the default route where there is none."""
    with IPRoute() as netlink:
        links = whole(netlink.get_links)
        addressing = _Addressing.look(netlink, links)
    dns = name_servers(resolv_conf)
    ethernet = [link for link in links if link["ifi_type"] == _ARPHRD_ETHER]
    found = [link for link in ethernet if is_physical(sysfs, link.get_attr("IFLA_IFNAME"))]
    chosen = found or [link for link in ethernet if _routes_out(addressing, link)]
    interfaces = (_interface(sysfs, link, addressing, dns, physical=bool(found)) for link in chosen)
    return sorted(interfaces, key=lambda interface: interface.device)


def is_physical(sysfs: Path, device: str) -> bool:
    """Whether a network device is a NIC: hardware is behind it, which is no virtual function of another and no guest of
    Xen."""
    hardware = sysfs / "class/net" / device / "device"
    is_guests = (hardware / "subsystem").resolve().name == "xen-backend"
    return hardware.exists() and not (hardware / "physfn").exists() and not is_guests


def is_addressed(netlink: IPRoute, index: int) -> bool:
    """Whether this host talks over a link: it has a default route, or an address that no router gave."""
    if any(route.get_attr("RTA_OIF") == index for route in whole(netlink.get_default_routes)):
        return True
    return any(
        address["scope"] == _SCOPE_GLOBAL and (address["family"] == AF_INET or _is_permanent(address))
        for address in whole(netlink.get_addr, index=index)
    )


def name_servers(resolv_conf: tuple[Path, ...] = RESOLV_CONF) -> tuple[str, ...]:
    """The DNS servers of this host, without a stub of its own."""
    for path in resolv_conf:
        servers = []
        for line in _read(path).splitlines():
            match line.split():
                case ["nameserver", untrusted_server, *_]:
                    try:
                        if not ip_address(untrusted_server.partition("%")[0]).is_loopback:
                            servers.append(untrusted_server)
                    except ValueError:
                        continue
        if servers:
            return tuple(servers)
    return ()


def _routes_out(addressing: _Addressing, link: Any) -> bool:
    return any(route.get_attr("RTA_OIF") == link["index"] for route in addressing.routes)


def _interface(
    sysfs: Path, link: Any, addressing: _Addressing, dns: tuple[str, ...], *, physical: bool
) -> PhysicalInterface:
    device = link.get_attr("IFLA_IFNAME")
    directory = sysfs / "class/net" / device
    master = link.get_attr("IFLA_MASTER")
    speed = _read(directory / "speed")
    interface = PhysicalInterface(
        device=device,
        # A bond gives its members one address; the NIC's own is what identifies it.
        mac=_read(directory / "bonding_slave/perm_hwaddr") or link.get_attr("IFLA_ADDRESS"),
        mtu=link.get_attr("IFLA_MTU"),
        up=bool(link["flags"] & _IFF_UP),
        carrier=bool(link.get_attr("IFLA_CARRIER")),
        speed_mbit=int(speed) if speed.isdigit() else 0,
        full_duplex=_read(directory / "duplex") == "full",
        physical=physical,
        bridge=addressing.names.get(master, "") if master in addressing.bridges else "",
    )
    holder = master if interface.bridge else link["index"]
    interface = _with_addresses(interface, addressing, holder, dns)
    return _with_hardware(interface, directory / "device") if physical else interface


def _with_addresses(
    interface: PhysicalInterface, addressing: _Addressing, holder: int, dns: tuple[str, ...]
) -> PhysicalInterface:
    gateway = addressing.gateway(AF_INET, holder)
    ipv6_gateway = addressing.gateway(AF_INET6, holder)
    interface = replace(
        interface, gateway=gateway, ipv6_gateway=ipv6_gateway, dns=dns if gateway or ipv6_gateway else ()
    )
    if ipv4 := addressing.of(AF_INET, holder):
        first = ipv4[0]
        address = IPv4Interface((first.get_attr("IFA_LOCAL"), first["prefixlen"]))
        mode = "Static" if _is_permanent(first) else "DHCP"
        interface = replace(interface, ip_mode=mode, ip=str(address.ip), netmask=str(address.netmask))
    if ipv6 := addressing.of(AF_INET6, holder):
        interface = replace(
            interface,
            ipv6_mode="Static" if _is_permanent(ipv6[0]) else "Autoconf",
            ipv6=tuple(f"{address.get_attr('IFA_ADDRESS')}/{address['prefixlen']}" for address in ipv6),
        )
    return interface


def _with_hardware(interface: PhysicalInterface, hardware: Path) -> PhysicalInterface:
    driver = hardware / "driver"
    interface = replace(interface, driver=driver.resolve().name if driver.exists() else "")
    for directory in (hardware.resolve(), *hardware.resolve().parents):
        # A virtio NIC hangs on a bus of its own, a step below its PCI function.
        if _PCI_ADDRESS.fullmatch(directory.name):
            vendor = _read(directory / "vendor").removeprefix("0x")
            device = _read(directory / "device").removeprefix("0x")
            vendor_name, device_name = pci_names(vendor, device)
            virtual_functions = _read(directory / "sriov_totalvfs")
            return replace(
                interface,
                pci_bus_path=directory.name,
                vendor_id=vendor,
                vendor_name=vendor_name,
                device_id=device,
                device_name=device_name,
                capabilities=("sriov",) if virtual_functions not in ("", "0") else (),
            )
    return interface


@lru_cache(maxsize=256)
def pci_names(vendor: str, device: str) -> tuple[str, str]:
    """What the distribution's pci.ids calls a vendor and a device; empty where it knows neither."""
    for path in _PCI_IDS:
        if path.exists():
            return names_in(path, vendor, device)
    return "", ""


def names_in(pci_ids: Path, vendor: str, device: str) -> tuple[str, str]:
    """`pci_names`, from one file: vendors at the margin, their devices one tab in."""
    with pci_ids.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith(f"{vendor}  "):
                return line[len(vendor) + 2 :].strip(), _device_name(lines, device)
    return "", ""


def _device_name(lines: Iterator[str], device: str) -> str:
    for line in lines:
        if line.startswith(f"\t{device}  "):
            return line[len(device) + 3 :].strip()
        if line[:1] not in ("\t", "#"):
            break
    return ""


def _is_permanent(address: Any) -> bool:
    return bool((address.get_attr("IFA_FLAGS") or address["flags"]) & _IFA_F_PERMANENT)


def _read(path: Path) -> str:
    """A sysfs attribute; empty where there is none, or the driver cannot tell (link down)."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
