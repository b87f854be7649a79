"""The IPv4 subnet of a host-internal network, read from the options that XenAPI keeps as strings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from kronos.datamodel.errors import Failure

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}


@dataclass(frozen=True, slots=True)
class Subnet:
    """Addresses served on a bridge: `host` is this host's own, guests lease from `first` to `last`.

    `nat` lets guests reach the host's networks behind the host's address, and offers them a default route and
    a DNS server; without it they are offered neither, so that a guest's other interfaces keep theirs.
    """

    host: IPv4Interface
    first: IPv4Address
    last: IPv4Address
    domain: str = ""
    nat: bool = False
    lease_seconds: int = 3600

    @property
    def network(self) -> IPv4Network:
        return self.host.network

    @property
    def size(self) -> int:
        """How many addresses guests may lease."""
        return int(self.last) - int(self.first) + 1


def subnet_of_options(untrusted_options: Mapping[str, str]) -> Subnet:
    """The subnet that a network's other_config describes.

    `ip_begin` is the host's address and guests get the ones after it up to `ip_end`, as on XenServer's host
    internal management network; `netmask` completes them. `domain` and `nat` are this project's additions.

    Raises INVALID_IP_ADDRESS_SPECIFIED, INVALID_VALUE.
    """
    begin = _address(untrusted_options, "ip_begin")
    end = _address(untrusted_options, "ip_end")
    host = _interface(begin, untrusted_options.get("netmask", ""))
    last_usable = host.network.broadcast_address - 1
    if begin <= host.network.network_address or begin >= last_usable:
        raise Failure("INVALID_VALUE", "ip_begin", str(begin))
    if not begin < end <= last_usable:
        raise Failure("INVALID_VALUE", "ip_end", str(end))
    untrusted_nat = untrusted_options.get("nat", "")
    if untrusted_nat.lower() not in _BOOLEANS:
        raise Failure("INVALID_VALUE", "nat", untrusted_nat)
    domain = _domain(untrusted_options.get("domain", ""))
    return Subnet(host, begin + 1, end, domain, _BOOLEANS[untrusted_nat.lower()])


def free_subnet(taken: Iterable[IPv4Network], *, domain: str = "", nat: bool = False) -> Subnet:
    """A subnet that overlaps none of `taken`: 169.254.0.0/16 as on XenServer, or a private /24.

    Raises OPERATION_NOT_ALLOWED when all are taken.
    """
    networks = list(taken)
    for candidate in _candidates():
        if not any(candidate.overlaps(network) for network in networks):
            begin = candidate.network_address + 1
            host = IPv4Interface((begin, candidate.prefixlen))
            return Subnet(host, begin + 1, candidate.broadcast_address - 1, domain, nat)
    raise Failure("OPERATION_NOT_ALLOWED", "no private subnet is free for an internal network")


def _candidates() -> Iterator[IPv4Network]:
    yield IPv4Network("169.254.0.0/16")
    yield from IPv4Network("192.168.128.0/17").subnets(new_prefix=24)
    yield from IPv4Network("172.28.0.0/14").subnets(new_prefix=24)


def _address(untrusted_options: Mapping[str, str], key: str) -> IPv4Address:
    try:
        return IPv4Address(untrusted_options[key])
    except (KeyError, ValueError) as error:
        raise Failure("INVALID_IP_ADDRESS_SPECIFIED", key) from error


def _interface(address: IPv4Address, untrusted_netmask: str) -> IPv4Interface:
    # Only the dotted form: ipaddress would also take a wildcard mask or a prefix length for a netmask.
    try:
        mask = int(IPv4Address(untrusted_netmask))
    except ValueError as error:
        raise Failure("INVALID_VALUE", "netmask", untrusted_netmask) from error
    prefix = mask.bit_count()
    if mask != (0xFFFFFFFF << (32 - prefix)) & 0xFFFFFFFF or not 8 <= prefix <= 29:
        raise Failure("INVALID_VALUE", "netmask", untrusted_netmask)
    return IPv4Interface((address, prefix))


def _domain(untrusted_domain: str) -> str:
    domain = untrusted_domain.lower()
    if domain and (len(domain) > 253 or not _DOMAIN.fullmatch(domain)):
        raise Failure("INVALID_VALUE", "domain", untrusted_domain)
    return domain
