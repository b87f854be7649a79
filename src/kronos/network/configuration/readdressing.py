"""Other addresses for a NIC's bridge: what that takes of the host's tool, and the program that does it for the daemon.

The daemon's service may not write to /etc, and may be killed in the middle. This program runs as a unit of its own,
with the request on its standard input, and ends with why not on its standard error.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict, dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address
from pathlib import Path
from typing import Any

from kronos.datamodel.errors import Failure
from kronos.network import names
from kronos.network.configuration import links, tools
from kronos.network.configuration.base import Addressing, Port, Refused
from kronos.network.configuration.links import Address, Held
from kronos.network.configuration.program import RESOLV_CONF, contents, keep_originals, noted
from kronos.network.configuration.transaction import Change, RolledBack, Transaction, content
from kronos.system.commands import CommandFailed


@dataclass(frozen=True, slots=True)
class Request:
    """The addresses that the bridge of a NIC is to have. With `moves` it becomes the management interface: the one that
    was gives its own up."""

    device: str
    addressing: Addressing
    moves: bool = False

    def as_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, untrusted_text: str) -> Request:
        """Raises Refused."""
        try:
            said: dict[str, Any] = json.loads(untrusted_text)
            fields: dict[str, Any] = said["addressing"]
            address, address_v6 = fields["address"], fields["address_v6"]
            for each in (fields["gateway"], fields["gateway_v6"], *fields["dns"]):
                if each:
                    ip_address(each)
            addressing = Addressing(
                **fields
                | {
                    "address": IPv4Interface(address) if address else None,
                    "address_v6": IPv6Interface(address_v6) if address_v6 else None,
                    "dns": tuple(fields["dns"]),
                }
            )
            return cls(names.check_device(said["device"]), addressing, bool(said["moves"]))
        except (ValueError, KeyError, TypeError, Failure) as error:
            raise Refused(f"this is no request: {error!r}") from error


def expected(addressing: Addressing) -> Held:
    """What the interface is to have afterwards: some address, where a server gives it."""
    addresses = []
    if addressing.address is not None:
        addresses.append(Address("inet", str(addressing.address)))
    if addressing.address_v6 is not None:
        addresses.append(Address("inet6", str(addressing.address_v6)))
    gateways = tuple(filter(None, (addressing.gateway, addressing.gateway_v6)))
    empty = addressing.ipv4 == addressing.ipv6 == "none"
    return Held(tuple(addresses), (), gateways, empty)


def planned(
    transaction: Transaction, device: str, addressing: Addressing, *, moves: bool = True
) -> tuple[tools.Tool, Change]:
    """Raises Refused."""
    made = transaction.made()
    port = links.port(device, names.bridge_of(device))
    within = links.master(device)
    if within not in ("", port.bridge):
        raise Refused(f"{device} is in {within}")
    tool = tools.TOOLS[made.tool] if made is not None else tools.tool_for(device)
    texts = tool.readdressed(port, addressing, _former(made, port) if moves else "")
    if tool.name == "ifupdown" and addressing.dns and not _is_kept_by_others(Path(RESOLV_CONF)):
        texts[RESOLV_CONF] = "".join(f"nameserver {server}\n" for server in addressing.dns)
    is_bridged = links.is_bridge(port.bridge)
    has = links.held(port.bridge if is_bridged else port.device)
    change = Change(
        tool=tool.name,
        step="renew",
        back="join" if is_bridged else "leave",
        port=port,
        has=has,
        before=contents(texts),
        after=texts,
        expected=expected(addressing),
    )
    return tool, noted(change, transaction.state, made)


def _former(made: Change | None, port: Port) -> str:
    """Who has the addresses now, where it is another."""
    holder = links.default_device() or (made.port.bridge if made is not None else "")
    return holder if holder not in (port.device, port.bridge) else ""


def _is_kept_by_others(resolv_conf: Path) -> bool:
    return resolv_conf.is_symlink() or "resolvconf" in (content(resolv_conf) or "")


def perform(transaction: Transaction, tool: tools.Tool, change: Change) -> None:
    """Make a planned change, which others may then undo. The caller is alone. Raises Refused, RolledBack."""
    transaction.perform(change, tool)
    links.disown(change.port.bridge)
    if (made := transaction.made()) is not None:
        keep_originals(transaction.state, made)


def carry_out(transaction: Transaction, request: Request) -> None:
    """Raises Refused, RolledBack, CommandFailed, OSError."""
    with transaction.alone():
        transaction.settle(tools.TOOLS, live=True)
        tool, change = planned(transaction, request.device, request.addressing, moves=request.moves)
        perform(transaction, tool, change)


def main() -> int:
    """Standard error is the answer: of what is logged only the worst belongs there."""
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    try:
        carry_out(Transaction(), Request.from_json(sys.stdin.read()))
    except (Refused, RolledBack, CommandFailed, OSError) as why:
        print(why, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
