"""The command xe-reset-networking: the management interface and its addresses said anew, without the daemon."""

from __future__ import annotations

import argparse
import os
import re
import sys
from ipaddress import IPv4Interface, IPv6Interface, ip_address

from kronos.network import names
from kronos.network.configuration import links, tools
from kronos.network.configuration.base import Addressing, Refused
from kronos.network.configuration.program import device_of, say, tell_daemon
from kronos.network.configuration.readdressing import perform, planned
from kronos.network.configuration.transaction import PATIENCE, STATE, RolledBack, Transaction
from kronos.system.commands import CommandFailed

_WARNING = """\
The network of this host is about to be set up anew. Connections over it may end. If the host
is not reached afterwards, everything is put back as it is now; virtual machines run on.
"""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="xe-reset-networking",
        description="Set up the management interface of this host anew. It takes effect at once, without a reboot; "
        "where the host is not reached afterwards it is taken back.",
    )
    option = parser.add_argument
    option("-m", "--master", dest="address", help="refused: this host is in no pool with others")
    option("--device", help="the interface (default: the one that is it now)")
    option(
        "--mode",
        default="dhcp",
        type=str.lower,
        choices=("none", "dhcp", "static"),
        help="of IPv4 (default: dhcp)",
    )
    option(
        "--mode-v6",
        default="none",
        type=str.lower,
        choices=("none", "dhcp", "autoconf", "static"),
        help="of IPv6 (default: none)",
    )
    option("--novlan", action="store_true", help="without a VLAN, as always")
    option("--vlan", help="refused: a management interface on a VLAN is not there yet")
    option("--ip", default="", help="address of IPv4, with --mode=static")
    option("--netmask", default="", help="its netmask")
    option("--ipv6", default="", help="address of IPv6 and the length of its prefix, with --mode-v6=static")
    option("--gateway", default="", help="router of IPv4")
    option("--gateway-v6", default="", help="router of IPv6")
    option("--dns", default="", help="name servers, separated by commas")
    option(
        "--keep-interface-name-rules", action="store_true", help="taken and without effect: none are reset"
    )
    return parser.parse_args(arguments)


def addressing_of(options: argparse.Namespace) -> Addressing:
    """What the options ask for. Raises Refused."""
    if options.address is not None:
        raise Refused("--master: this host is in no pool with others")
    if options.vlan is not None:
        raise Refused("--vlan: a management interface on a VLAN is not there yet")
    if options.mode == "none" and options.mode_v6 == "none":
        raise Refused("one of --mode and --mode-v6 is to be other than none")
    if options.mode == "static" and not (options.ip and options.netmask):
        raise Refused("--mode=static takes --ip and --netmask")
    if options.mode_v6 == "static" and "/" not in options.ipv6:
        raise Refused("--mode-v6=static takes --ipv6=<address>/<length of the prefix>")
    try:
        static = options.mode == "static"
        static_v6 = options.mode_v6 == "static"
        return Addressing(
            ipv4=options.mode,
            address=IPv4Interface(f"{options.ip}/{options.netmask}") if static else None,
            gateway=str(ip_address(options.gateway)) if static and options.gateway else "",
            ipv6=options.mode_v6,
            address_v6=IPv6Interface(options.ipv6) if static_v6 else None,
            gateway_v6=str(ip_address(options.gateway_v6)) if static_v6 and options.gateway_v6 else "",
            dns=tuple(str(ip_address(each)) for each in re.split(r"[,;\s]+", options.dns) if each),
        )
    except ValueError as error:
        raise Refused(str(error)) from error


def management(transaction: Transaction) -> str:
    """The NIC that has the host's addresses now. Raises Refused."""
    device = links.default_device()
    if not device and (made := transaction.made()) is not None:
        return made.port.device
    if not links.is_bridge(device):
        return device_of("auto")
    for member in links.members(device):
        if names.bridge_of(member) == device:
            return member
    raise Refused(f"{device} was not made by xapi-network: say the NIC with --device")


def confirmed(device: str, options: argparse.Namespace) -> bool:
    """Whether somebody says yes to it."""
    say(_WARNING)
    named = {
        "Management interface": device,
        "IPv4": " ".join(filter(None, (options.mode, options.ip, options.netmask))),
        "IPv6": " ".join(filter(None, (options.mode_v6, options.ipv6))),
        "Gateways": " ".join(filter(None, (options.gateway, options.gateway_v6))),
        "DNS": options.dns,
    }
    for name, value in named.items():
        if value:
            say(f"{name + ':':24}{value}")
    return input("\nType 'yes' to go on, anything else to leave it: ").strip() == "yes"


def reset(transaction: Transaction, options: argparse.Namespace) -> int:
    """Raises Refused, RolledBack."""
    addressing = addressing_of(options)
    with transaction.alone():
        transaction.settle(tools.TOOLS, live=True)
        device = device_of(options.device) if options.device else management(transaction)
        tool, change = planned(transaction, device, addressing)
        if not confirmed(device, options):
            return 1
        perform(transaction, tool, change)
    say(f"{change.port.bridge}, over {device}, is the management interface, by {tool.name}")
    tell_daemon("restart")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command `xe-reset-networking`."""
    options = parse(arguments)
    if os.geteuid() != 0:
        print("xe-reset-networking: this takes root's rights", file=sys.stderr)
        return 1
    try:
        return reset(Transaction(STATE, patience=PATIENCE), options)
    except (Refused, RolledBack, CommandFailed, OSError, EOFError) as why:
        print(f"xe-reset-networking: {why}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
