"""The addresses of an interface, as clients say them and as the host's network tool is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address
from typing import Final

from kronos.datamodel.errors import Failure
from kronos.db.records import PIF
from kronos.network.configuration.base import Addressing

MODES: Final = {"None": "none", "DHCP": "dhcp", "Static": "static", "Autoconf": "autoconf"}
"""PIF's modes, in the words of the tools."""


@dataclass(frozen=True, slots=True)
class V4:
    """What IPv4 is to be. An address is there where the mode is Static."""

    mode: str
    address: IPv4Interface | None = None
    gateway: str = ""
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class V6:
    """The same of IPv6."""

    mode: str
    address: IPv6Interface | None = None
    gateway: str = ""
    dns: tuple[str, ...] = ()


def v4(
    mode: str, untrusted_ip: str, untrusted_netmask: str, untrusted_gateway: str, untrusted_dns: str
) -> V4:
    """Name servers that are of another family, or none at all, are left out, as XenAPI has it.

    Raises INVALID_IP_ADDRESS_SPECIFIED [IP | netmask | gateway].
    """
    said = {"IP": untrusted_ip, "netmask": untrusted_netmask, "gateway": untrusted_gateway}
    for name, text in said.items():
        if text or (mode == "Static" and name != "gateway"):
            _require(IPv4Address, name, text)
    dns = servers(untrusted_dns, 4)
    if mode != "Static":
        return V4(mode, dns=dns)
    try:
        address = IPv4Interface(f"{untrusted_ip}/{untrusted_netmask}")
    except ValueError as error:
        raise _invalid("netmask") from error
    if address.netmask != IPv4Address(untrusted_netmask):  # Python takes it the other way round, too
        raise _invalid("netmask")
    if not _is_a_hosts(address.ip):
        raise _invalid("IP")
    gateway = untrusted_gateway and str(IPv4Address(untrusted_gateway))
    if gateway and (IPv4Address(gateway) not in address.network or IPv4Address(gateway) == address.ip):
        raise _invalid("gateway")
    return V4(mode, address, gateway, dns)


def v6(mode: str, untrusted_ipv6: str, untrusted_gateway: str, untrusted_dns: str) -> V6:
    """Raises INVALID_IP_ADDRESS_SPECIFIED [gateway], INVALID_CIDR_ADDRESS_SPECIFIED [IPv6]."""
    if untrusted_gateway:
        _require(IPv6Address, "gateway", untrusted_gateway)
    dns = servers(untrusted_dns, 6)
    address = None
    if untrusted_ipv6 or mode == "Static":
        try:
            address = IPv6Interface(untrusted_ipv6)
        except ValueError as error:
            raise Failure("INVALID_CIDR_ADDRESS_SPECIFIED", "IPv6") from error
        if "/" not in untrusted_ipv6 or "%" in untrusted_ipv6 or not _is_a_hosts(address.ip):
            raise Failure("INVALID_CIDR_ADDRESS_SPECIFIED", "IPv6")
    if mode != "Static":
        return V6(mode, dns=dns)
    gateway = untrusted_gateway and str(IPv6Address(untrusted_gateway))
    return V6(mode, address, gateway, dns)


def servers(untrusted_dns: str, family: int) -> tuple[str, ...]:
    """The addresses of one family in a list with commas."""
    found = []
    for each in untrusted_dns.split(","):
        try:
            address = ip_address(each.strip())
        except ValueError:
            continue
        if address.version == family and "%" not in each:
            found.append(str(address))
    return tuple(dict.fromkeys(found))


def _require(kind: type[IPv4Address | IPv6Address], name: str, untrusted_text: str) -> None:
    try:
        kind(untrusted_text)
    except ValueError as error:
        raise _invalid(name) from error
    if "%" in untrusted_text:
        raise _invalid(name)


def _invalid(name: str) -> Failure:
    return Failure("INVALID_IP_ADDRESS_SPECIFIED", name)


def _is_a_hosts(address: IPv4Address | IPv6Address) -> bool:
    return not (address.is_unspecified or address.is_multicast or address.is_loopback)


# --- what an interface has -------------------------------------------------------------------------------------------


def v4_of(row: PIF) -> V4:
    """What a PIF's record says. One that cannot be, as nobody checked it, counts as none. Name servers that came with
    an address from a server are not to stay when it goes."""
    mode = row.ip_configuration_mode
    try:
        return v4(mode, row.IP, row.netmask, row.gateway, row.DNS if mode == "Static" else "")
    except Failure:
        return V4("None")


def v6_of(row: PIF) -> V6:
    mode = row.ipv6_configuration_mode
    try:
        first = row.IPv6[0] if row.IPv6 else ""
        return v6(mode, first, row.ipv6_gateway, row.DNS if mode == "Static" else "")
    except Failure:
        return V6("None")


def addressing(ipv4: V4, ipv6: V6, *, manages: bool) -> Addressing:
    """Both, as the tools are told. Only the management interface leads to the world: the others' gateways and name
    servers are kept for when they become it."""
    whole = Addressing(
        ipv4=MODES[ipv4.mode],
        address=ipv4.address,
        gateway=ipv4.gateway,
        ipv6=MODES[ipv6.mode],
        address_v6=ipv6.address,
        gateway_v6=ipv6.gateway,
        dns=ipv4.dns + ipv6.dns,
    )
    return whole if manages else replace(whole, gateway="", gateway_v6="", dns=())


def obstacle_to_management(row: PIF) -> str:
    """The error code for an interface by which clients could not reach the host, or nothing."""
    if row.primary_address_type == "IPv6":
        return "PIF_HAS_NO_V6_NETWORK_CONFIGURATION" if row.ipv6_configuration_mode == "None" else ""
    return "PIF_HAS_NO_NETWORK_CONFIGURATION" if row.ip_configuration_mode == "None" else ""
