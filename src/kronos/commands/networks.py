"""VLANs, tunnels and virtual interfaces."""

from __future__ import annotations

import secrets

from kronos.commands import grammar
from kronos.commands.errors import UsageError
from kronos.commands.invocation import Invocation, command
from kronos.datamodel.errors import Failure


@command("vlan-create")
def vlan_create(invocation: Invocation) -> None:
    """A VLAN; what is printed is the uuid of the interface that carries it."""
    tag = invocation.arguments.number("vlan")
    pif, network = invocation.ref("PIF", "pif-uuid"), invocation.ref("network", "network-uuid")
    vlan = invocation.api("VLAN.create", pif, tag, network)
    invocation.print_uuid("PIF", invocation.api("VLAN.get_untagged_PIF", vlan))


@command("vlan-destroy")
def vlan_destroy(invocation: Invocation) -> None:
    """By the uuid of the VLAN or, as in old scripts, of its interface."""
    try:
        vlan = invocation.ref("VLAN")
    except Failure as failure:
        if failure.code != "UUID_INVALID":
            raise
        try:
            pif = invocation.ref("PIF")
        except Failure:
            raise failure from None
        invocation.api("PIF.destroy", pif)
        return
    invocation.api("VLAN.destroy", vlan)


@command("tunnel-create")
def tunnel_create(invocation: Invocation) -> None:
    """A tunnel; what is printed is the uuid of the interface on its inside."""
    protocol = grammar.one_of("protocol", invocation.arguments.get("protocol", "gre"), ("gre", "vxlan"))
    pif, network = invocation.ref("PIF", "pif-uuid"), invocation.ref("network", "network-uuid")
    tunnel = invocation.api("tunnel.create", pif, network, protocol)
    invocation.print_uuid("PIF", invocation.api("tunnel.get_access_PIF", tunnel))


@command("vif-create")
def vif_create(invocation: Invocation) -> None:
    arguments = invocation.arguments
    mac = arguments.get("mac")
    network = invocation.find("network", "network-uuid")
    record = {
        "device": arguments["device"],
        "network": network.ref,
        "VM": invocation.ref("VM", "vm-uuid"),
        "MAC": _random_mac() if mac == "random" else mac,
        "MTU": network["MTU"],
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    }
    invocation.print_uuid("VIF", invocation.api("VIF.create", record))


def _random_mac() -> str:
    """A locally administered unicast address."""
    first, *rest = secrets.token_bytes(6)
    return ":".join(f"{part:02x}" for part in (first & 0xFC | 0x02, *rest))


@command("vif-unplug")
def vif_unplug(invocation: Invocation) -> None:
    force = invocation.arguments.flag("force")
    invocation.api("VIF.unplug_force" if force else "VIF.unplug", invocation.ref("VIF"))


@command("vif-configure-ipv4")
def vif_configure_ipv4(invocation: Invocation) -> None:
    invocation.api("VIF.configure_ipv4", *_address(invocation))


@command("vif-configure-ipv6")
def vif_configure_ipv6(invocation: Invocation) -> None:
    invocation.api("VIF.configure_ipv6", *_address(invocation))


def _address(invocation: Invocation) -> tuple[str, str, str, str]:
    arguments = invocation.arguments
    mode = grammar.one_of("mode", arguments["mode"], ("None", "Static"))
    address = arguments.get("address")
    if mode == "Static" and not address:
        raise UsageError("Required parameter not found: address")
    return invocation.ref("VIF"), mode, address, arguments.get("gateway")
