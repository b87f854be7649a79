"""host: the interface that clients reach it by."""

from __future__ import annotations

from kronos.api.host.surroundings import asked_of_the_system
from kronos.api.interfaces import become_management, disable_management
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.records import PIF, Host, Network, Pool
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.rules import addressing


@message("host.get_management_interface")
def get_management_interface(call: Call, host: str) -> str:
    """The PIF that clients reach this host by. Raises HOST_HAS_NO_MANAGEMENT_IP."""
    row = call.db.get(Host, host)
    for pif in (call.db.get(PIF, ref) for ref in row.PIFs):
        if pif.management:
            return pif.ref
    raise Failure("HOST_HAS_NO_MANAGEMENT_IP")


@message("host.management_reconfigure")
def management_reconfigure(call: Call, pif: str) -> None:
    """Have clients reach the host by an interface; the one that it was gives its addresses up.

    Raises HA_IS_ENABLED, CANNOT_PLUG_BOND_SLAVE [pif], PIF_HAS_NO_NETWORK_CONFIGURATION [pif],
    PIF_HAS_NO_V6_NETWORK_CONFIGURATION [pif], and what PIF.reconfigure_ip raises where the host refuses it.
    """
    row = call.db.get(PIF, pif)
    _assert_unprotected(call)
    if row.managed:
        _assert_usable(row)
    if not row.management:
        become_management(call, row)


def _assert_unprotected(call: Call) -> None:
    if call.db.all(Pool)[0].ha_enabled:
        raise Failure("HA_IS_ENABLED")


def _assert_usable(row: PIF) -> None:
    if row.bond_slave_of != NULL:
        raise Failure("CANNOT_PLUG_BOND_SLAVE", row.ref)
    if code := addressing.obstacle_to_management(row):
        raise Failure(code, row.ref)


@message("host.management_disable")
def management_disable(call: Call) -> None:
    """Let no client in but this host's own root. `host.management_reconfigure` lets them in again.

    Raises HA_IS_ENABLED, OPERATION_NOT_ALLOWED where this daemon is not the host's service.
    """
    _assert_unprotected(call)
    with asked_of_the_system():
        call.machine.outside.require()
    disable_management(call)


@message("host.local_management_reconfigure")
def local_management_reconfigure(call: Call, interface: str) -> None:
    """Raises NOT_IN_EMERGENCY_MODE: a host that is its own coordinator never is."""
    raise Failure("NOT_IN_EMERGENCY_MODE")


@message("pool.management_reconfigure")
def pool_management_reconfigure(call: Call, network: str) -> None:
    """Have clients reach every host by its interface on a network.

    Raises PIF_NOT_PRESENT [host, network], PIF_INCOMPATIBLE_PRIMARY_ADDRESS_TYPE [pif], and what
    host.management_reconfigure raises.
    """
    row = call.db.get(Network, network)
    _assert_unprotected(call)
    interfaces = {pif.host: pif for pif in (call.db.get(PIF, ref) for ref in row.PIFs)}
    hosts = call.db.all(Host)
    for host in hosts:
        if host.ref not in interfaces:
            raise Failure("PIF_NOT_PRESENT", host.ref, row.ref)
    types = {pif.primary_address_type for pif in interfaces.values()}
    for pif in interfaces.values():
        if len(types) > 1:
            raise Failure("PIF_INCOMPATIBLE_PRIMARY_ADDRESS_TYPE", pif.ref)
        _assert_usable(pif)
    for host in hosts:
        call.invoke("host.management_reconfigure", interfaces[host.ref].ref)
