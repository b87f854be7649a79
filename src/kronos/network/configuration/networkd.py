"""systemd-networkd: three files of ours before the one that configures the NIC, which stays as it is.

netplan's files for networkd are understood in the same way: they lie in /run, and ours come first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kronos.network.configuration.base import Addressing, Port, Refused

FOLDER = "/etc/systemd/network"
_IN_THE_WAY = (
    "Bridge",
    "Bond",
    "VRF",
    "VLAN",
    "MACVLAN",
    "MACVTAP",
    "IPVLAN",
    "Tunnel",
    "BatmanAdvanced",
    "Xfrm",
)
_ASSIGNMENT = re.compile(r"^\s*([\w-]+)\s*=\s*(.*?)\s*$", re.M)


def files_of(bridge: str) -> tuple[str, str, str]:
    """The paths of the bridge, its own configuration and the NIC's."""
    start = f"{FOLDER}/00-xapi-{bridge}"
    return f"{start}.netdev", f"{start}.network", f"{start}-port.network"


def bridged(name: str, texts: Sequence[str], port: Port, client: str = "") -> dict[str, str]:
    """The files to add. `texts` are the NIC's .network file, whose base name is `name`, and its drop-ins in their
    order; `client` is the identifier by which a DHCP server knows the host, in hexadecimal, where there is a lease.

    Raises Refused.
    """
    netdev, network, nic = files_of(port.bridge)
    if name <= network.rpartition("/")[2]:
        raise Refused(f"{name} comes before any file of ours")
    sections = [each for text in texts for each in _sections(text)]
    for section, body in sections:
        if section == "Network":
            for key, value in _ASSIGNMENT.findall(body):
                if key in _IN_THE_WAY and value:
                    raise Refused(f"{name} has {key}={value} on {port.device}")
    kept = [(section, body) for section, body in sections if section not in ("Match", "Link", *_PORTS)]
    of_link = [(section, body) for section, body in sections if section == "Link"]
    iaid = _iaid(client)
    dhcp = f"\n[DHCPv4]\nIAID={iaid}\n\n[DHCPv6]\nIAID={iaid}\n" if iaid is not None else ""
    return {
        netdev: f"# Made by xapi-network.\n[NetDev]\nName={port.bridge}\nKind=bridge\nMACAddress={port.mac}\n"
        f"MTUBytes={port.mtu}\n\n[Bridge]\nSTP=no\nForwardDelaySec=0\n",
        network: f"# Made by xapi-network of {name}.\n[Match]\nName={port.bridge}\n\n{_joined(kept)}{dhcp}",
        nic: f"# Made by xapi-network.\n[Match]\nName={port.device}\n\n{_joined(of_link)}"
        f"[Network]\nBridge={port.bridge}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
    }


_PORTS = ("Bridge", "BridgeFDB", "BridgeVLAN", "SR-IOV", "QDisc", "CAN")


def readdressed(port: Port, addressing: Addressing) -> dict[str, str]:
    """The files of a bridge that has these addresses, whatever else configures its NIC."""
    text = f"[Match]\nName={port.device}\n\n[Network]\n{_network(addressing)}"
    return bridged("99-none.network", [text], port)


def is_silent(text: str) -> bool:
    """Whether the .network file of a bridge of ours gives it no address."""
    said = dict(_ASSIGNMENT.findall(text))
    return not said.get("Address") and said.get("DHCP", "no") == said.get("IPv6AcceptRA", "no") == "no"


def _network(addressing: Addressing) -> str:
    kinds = {(True, True): "yes", (True, False): "ipv4", (False, True): "ipv6", (False, False): "no"}
    lines = [f"DHCP={kinds[addressing.ipv4 == 'dhcp', addressing.ipv6 == 'dhcp']}"]
    lines.append(f"IPv6AcceptRA={'yes' if addressing.ipv6 in ('autoconf', 'dhcp') else 'no'}")
    for kind, address, gateway in (
        (addressing.ipv4, addressing.address, addressing.gateway),
        (addressing.ipv6, addressing.address_v6, addressing.gateway_v6),
    ):
        if kind == "static" and address is not None:
            lines += [f"Address={address}", *([f"Gateway={gateway}"] if gateway else [])]
    lines += [f"DNS={server}" for server in addressing.dns]
    return "".join(f"{line}\n" for line in lines)


def _sections(text: str) -> list[tuple[str, str]]:
    """Sections with their lines as they are, comments left out of what is before the first."""
    parts = re.split(r"^[ \t]*\[([^\]\n]+)\][ \t]*$", text, flags=re.M)
    return [(name, body.strip("\n") + "\n") for name, body in zip(parts[1::2], parts[2::2], strict=True)]


def _joined(sections: list[tuple[str, str]]) -> str:
    return "".join(f"[{name}]\n{body}\n" for name, body in sections)


def _iaid(client: str) -> int | None:
    """The number that networkd chose for the NIC's lease: by the bridge's name it would choose another, and the server
    would take the host for a new one."""
    match = re.fullmatch(r"ff([0-9a-f]{8})[0-9a-f]+", client.lower())
    return int(match[1], 16) if match else None
