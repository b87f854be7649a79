"""NetworkManager: two profiles of ours, which come before the NIC's own; that one stays as it is."""

from __future__ import annotations

import re
import uuid

from kronos.network.configuration.base import Addressing, Port, Refused

FOLDER = "/etc/NetworkManager/system-connections"
_OURS = uuid.UUID("6f2f1a36-20b5-4b0e-9f6a-5a0d3a0f5b7e")
_OF_THE_BRIDGE = ("ipv4", "ipv6", "proxy", "user")
_FIRST = 500


def files_of(bridge: str) -> tuple[str, str]:
    """The paths of the bridge's profile and the NIC's."""
    return f"{FOLDER}/xapi-{bridge}.nmconnection", f"{FOLDER}/xapi-{bridge}-port.nmconnection"


def bridged(keyfile: str, port: Port) -> dict[str, str]:
    """The files to add, of the keyfile by which the NIC is connected. Raises Refused."""
    sections = _sections(keyfile)
    connection = _values(sections.get("connection", ""))
    kind = connection.get("type", "")
    if kind not in ("ethernet", "802-3-ethernet"):
        raise Refused(f"{port.device} is connected by a profile of the type {kind or 'nothing'}")
    if connection.get("master") or connection.get("controller"):
        raise Refused(
            f"{port.device} is a part of {connection.get('master') or connection.get('controller')}"
        )
    bridge, nic = files_of(port.bridge)
    zone = f"zone={connection['zone']}\n" if connection.get("zone") else ""
    first = f"autoconnect-priority={_FIRST}\n"
    head = _head(f"xapi-{port.bridge}", "bridge", port.bridge)
    mtu = _values(sections.get("ethernet", "")).get("mtu", "")
    wire = f"\n[ethernet]\nmtu={mtu}\n" if mtu else ""
    stp = f"\n[bridge]\nstp=false\nforward-delay=0\nmac-address={port.mac.upper()}\n{wire}"
    addresses = "".join(f"\n[{name}]\n{sections[name]}" for name in _OF_THE_BRIDGE if name in sections)
    own = "".join(
        f"\n[{name}]\n{body}"
        for name, body in sections.items()
        if name not in ("connection", *_OF_THE_BRIDGE) and not name.startswith(".")
    )
    member = f"master={_identity(port.bridge)}\nslave-type=bridge\n"
    return {
        bridge: f"{head}{first}autoconnect-slaves=1\n{zone}{stp}{addresses}",
        nic: f"{_head(f'xapi-{port.bridge}-port', 'ethernet', port.device)}{first}{member}{own}",
    }


def readdressed(port: Port, addressing: Addressing) -> dict[str, str]:
    """The files of a bridge that has these addresses, whatever else configures its NIC."""
    dns = {
        family: [each for each in addressing.dns if (":" in each) == (family == "ipv6")]
        for family in ("ipv4", "ipv6")
    }
    methods = {"none": "disabled", "dhcp": "auto", "autoconf": "auto", "static": "manual"}
    text = "[connection]\ntype=ethernet\n"
    for family, kind, address, gateway in (
        ("ipv4", addressing.ipv4, addressing.address, addressing.gateway),
        ("ipv6", addressing.ipv6, addressing.address_v6, addressing.gateway_v6),
    ):
        method = "dhcp" if (family, kind) == ("ipv6", "dhcp") else methods[kind]
        text += f"\n[{family}]\nmethod={method}\n"
        if kind == "static" and address is not None:
            text += f"address1={address}{f',{gateway}' if gateway else ''}\n"
        if dns[family] and kind != "none":
            text += f"dns={';'.join(dns[family])};\n"
    return bridged(text, port)


def _head(name: str, kind: str, device: str) -> str:
    own = _identity(device if kind == "bridge" else name)
    return f"# Made by xapi-network.\n[connection]\nid={name}\nuuid={own}\ntype={kind}\ninterface-name={device}\n"


def _identity(name: str) -> str:
    return str(uuid.uuid5(_OURS, name))


def _sections(text: str) -> dict[str, str]:
    parts = re.split(r"^\[([^\]\n]+)\][ \t]*$", text, flags=re.M)
    return {name: body.strip("\n") + "\n" for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def _values(body: str) -> dict[str, str]:
    return dict(re.findall(r"^\s*([\w.-]+)\s*=\s*(.*?)\s*$", body, re.M))
