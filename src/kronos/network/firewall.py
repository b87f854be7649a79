"""nft rules: what a guest's port lets through, and address translation for an internal network.

The functions ending in `_script` are pure: values in, text for `nft -f -` out. nft applies one text as one
transaction, so that a port has its old rules or its new ones and never a part.

All ports share one table of the bridge family. A verdict map from the device's name to the port's chain costs
the same for one port as for a thousand; it matches by name, so that rules can stand before the device exists.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from kronos.network import mac, names
from kronos.network.base import LockingMode, VifPort
from kronos.network.subnet import Subnet
from kronos.system import commands

TABLE = "kronos"

_FRAME = f"""\
add table bridge {TABLE}
add map bridge {TABLE} from_port {{ type ifname : verdict; }}
add map bridge {TABLE} to_port {{ type ifname : verdict; }}
add chain bridge {TABLE} prerouting {{ type filter hook prerouting priority -300; policy accept; }}
add chain bridge {TABLE} postrouting {{ type filter hook postrouting priority 300; policy accept; }}
flush chain bridge {TABLE} prerouting
flush chain bridge {TABLE} postrouting
add rule bridge {TABLE} prerouting iifname vmap @from_port
add rule bridge {TABLE} postrouting oifname vmap @to_port
"""
# nft refills a byte bucket once a second at the rate; what it holds besides must fit the largest frame that a
# guest hands over unsegmented (64 KiB), or such a frame would never pass a low limit.
_BURST_KBYTES = 128


def secure(ports: Iterable[VifPort]) -> None:
    """Replace the rules of ports. Raises INVALID_VALUE, MAC_INVALID, CommandFailed."""
    script = "".join(secure_script(port) for port in ports)
    # The frame is there but for the first time, or after somebody flushed all of the host's rules; writing it anew
    # each time would cost ten milliseconds, for which the kernel waits before it frees the old.
    if _apply(script) is None:
        _apply(_FRAME + script)


def unsecure(devices: Iterable[str]) -> None:
    """Forget the rules of ports. Raises INVALID_VALUE, CommandFailed."""
    _apply(unsecure_script(devices))


def secured() -> set[str]:
    """The devices that have rules. Raises CommandFailed."""
    listing = _nft("-j", "list", "map", "bridge", TABLE, "from_port")
    if listing is None:
        return set()
    maps = [entry["map"] for entry in json.loads(listing)["nftables"] if "map" in entry]
    found = {key for entry in maps for key, _verdict in entry.get("elem", [])}
    return found - {names.emulated(device) for device in found}


def dismantle() -> None:
    """Take away the frame in which ports' rules are, unless a port has some. Raises CommandFailed."""
    if not secured():
        _nft("delete", "table", "bridge", TABLE)


def translate(bridge: str, subnet: Subnet) -> None:
    """Let an internal network's guests out behind the host's address, and nobody in.

    Raises INVALID_VALUE, CommandFailed.
    """
    _apply(translate_script(bridge, subnet))


def untranslate(bridge: str) -> None:
    """Take back `translate`, done or not. Raises INVALID_VALUE, CommandFailed."""
    _nft("delete", "table", "ip", f"{TABLE}-{names.check_bridge(bridge)}")


def _apply(script: str) -> str | None:
    """One transaction, and None when it names what is not there."""
    return _nft("-f", "-", stdin=script)


def _nft(*arguments: str, stdin: str = "") -> str | None:
    try:
        return commands.run(["nft", *arguments], stdin=stdin, env={**os.environ, "LC_ALL": "C"})
    except commands.CommandFailed as failed:
        if "No such file or directory" in failed.stderr:
            return None
        raise


def secure_script(port: VifPort) -> str:
    """Replace the rules of one port, in a table that has the frame. Raises INVALID_VALUE, MAC_INVALID."""
    device = names.check_device(port.device)
    address = mac.check(port.mac)
    if port.rate_kbytes < 0:
        raise names.invalid("rate_kbytes", str(port.rate_kbytes))
    shut = not port.carrier or port.locking_mode is LockingMode.DISABLED
    locked = port.locking_mode is LockingMode.LOCKED
    nothing_allowed = locked and not (port.ipv4_allowed or port.ipv6_allowed)
    if shut or nothing_allowed:
        outgoing, incoming = ["drop"], ["drop"]
    else:
        outgoing = _rate_rules(port.rate_kbytes) + (_locked_rules(port, address) if locked else [])
        incoming = _to_locked_rules(address) if locked else []
    lines = [*_chain(f"from-{device}", outgoing), *_chain(f"to-{device}", incoming)]
    for direction in ("from", "to"):
        lines.append(_element("add", direction, device))
    return "\n".join(lines) + "\n"


def unsecure_script(devices: Iterable[str]) -> str:
    """Forget the rules of ports. Raises INVALID_VALUE."""
    lines = []
    for device in sorted({names.check_device(device) for device in devices}):
        for direction in ("from", "to"):
            # nft has no "delete if there": what is added first can always be deleted.
            lines.append(f"add chain bridge {TABLE} {direction}-{device}")
            lines.append(_element("add", direction, device))
            listed = ", ".join(f'"{name}"' for name in _names(device))
            lines.append(f"delete element bridge {TABLE} {direction}_port {{ {listed} }}")
            lines.append(f"flush chain bridge {TABLE} {direction}-{device}")
            lines.append(f"delete chain bridge {TABLE} {direction}-{device}")
    return "\n".join(lines) + "\n"


def translate_script(bridge: str, subnet: Subnet) -> str:
    """A table of its own for each bridge, so that the new one can take the old one's place as a whole."""
    names.check_bridge(bridge)
    network = subnet.network
    return f"""\
add table ip {TABLE}-{bridge}
delete table ip {TABLE}-{bridge}
table ip {TABLE}-{bridge} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {network} ip daddr != {network} oifname != "{bridge}" masquerade
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "{bridge}" ip saddr != {network} drop
    oifname "{bridge}" iifname != "{bridge}" ct state != {{ established, related }} drop
  }}
}}
"""


def _chain(name: str, rules: Iterable[str]) -> list[str]:
    return [
        f"add chain bridge {TABLE} {name}",
        f"flush chain bridge {TABLE} {name}",
        *(f"add rule bridge {TABLE} {name} {rule}" for rule in rules),
    ]


def _element(verb: str, direction: str, device: str) -> str:
    jumps = ", ".join(f'"{name}" : jump {direction}-{device}' for name in _names(device))
    return f"{verb} element bridge {TABLE} {direction}_port {{ {jumps} }}"


def _names(device: str) -> list[str]:
    """What one port may be called: a guest of Xen's may have an emulated card besides, which is none of its own."""
    other = names.emulated(device)
    return [device] if other is None else [device, other]


def _rate_rules(rate: int) -> list[str]:
    return [f"limit rate over {rate} kbytes/second burst {_BURST_KBYTES} kbytes drop"] if rate else []


def _locked_rules(port: VifPort, address: str) -> list[str]:
    """What a locked guest may send: from its own MAC, and from the allowed addresses only."""
    rules = [f"ether saddr != {address} drop"]
    if port.ipv4_allowed:
        rules += _locked_ipv4_rules(port.ipv4_allowed, address)
    if port.ipv6_allowed:
        rules += _locked_ipv6_rules(port.ipv6_allowed, address)
    return [*rules, "drop"]


def _locked_ipv4_rules(allowed: Iterable[IPv4Address], address: str) -> list[str]:
    addresses, sender = _set(allowed), f"arp saddr ether {address}"
    return [
        # A guest may ask for its lease (from 0.0.0.0, or from its address to renew) and may not give leases.
        "udp sport 68 udp dport 67 ip saddr 0.0.0.0 ip daddr 255.255.255.255 accept",
        "udp sport 67 udp dport 68 drop",
        f"{sender} arp saddr ip {addresses} accept",
        # The question that asks whether anybody has the address already has no sender address (RFC 5227).
        f"arp operation request {sender} arp saddr ip 0.0.0.0 arp daddr ip {addresses} accept",
        f"ip saddr {addresses} accept",
    ]


def _locked_ipv6_rules(allowed: Iterable[IPv6Address], address: str) -> list[str]:
    # A host cannot find its neighbours without its link-local address, so the one that follows from the MAC
    # is always allowed.
    addresses = sorted({*allowed, link_local(address)})
    # The advertised address lies 8 bytes into the message; not every nft in use has a name for it yet.
    solicited = [
        f"icmpv6 type nd-neighbor-solicit ip6 saddr :: @th,64,128 {int(a):#x} accept" for a in addresses
    ]
    advertised = [
        f"icmpv6 type nd-neighbor-advert ip6 saddr {_set(addresses)} @th,64,128 {int(a):#x} accept"
        for a in addresses
    ]
    return [
        "icmpv6 type { nd-router-advert, nd-redirect } drop",
        "udp sport 547 udp dport 546 drop",
        *solicited,
        *advertised,
        "icmpv6 type nd-neighbor-advert drop",
        # The report that joins the group for the question above is sent before there is an address (RFC
        # 3590).
        "ip6 saddr :: icmpv6 type mld2-listener-report accept",
        f"ip6 saddr {_set(addresses)} accept",
    ]


def _to_locked_rules(address: str) -> list[str]:
    """A locked guest gets its own frames and those for groups, not what a bridge floods to every port."""
    return [f"ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 ether daddr != {address} drop"]


def link_local(address: str) -> IPv6Address:
    """The link-local address that follows from a MAC (modified EUI-64, RFC 4291)."""
    octets = bytes.fromhex(address.replace(":", ""))
    host = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return IPv6Address(b"\xfe\x80" + bytes(6) + host)


def _set(addresses: Iterable[IPv4Address] | Iterable[IPv6Address]) -> str:
    return "{ " + ", ".join(str(a) for a in addresses) + " }"
