"""What the planners of network tools have in common: texts of files in, texts of files out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

Texts = Mapping[str, str]
"""Files by path. Bytes that are no UTF-8 come and go as surrogates, so that they are kept."""


class Refused(Exception):
    """A configuration that is not changed; the text says what stands in the way, and nothing was touched."""


@dataclass(frozen=True, slots=True)
class Port:
    """A NIC and the bridge that takes its place."""

    device: str
    bridge: str
    mac: str
    mtu: int = 1500


@dataclass(frozen=True, slots=True)
class Addressing:
    """The addresses that an interface is to have: `ipv4` is none, dhcp or static, `ipv6` also autoconf."""

    ipv4: str = "dhcp"
    address: IPv4Interface | None = None
    gateway: str = ""
    ipv6: str = "none"
    address_v6: IPv6Interface | None = None
    gateway_v6: str = ""
    dns: tuple[str, ...] = ()


def text_of(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
