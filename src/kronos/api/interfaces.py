"""PIF and host: the addresses of the host's interfaces, changed by the host's own network tool, and the records that
tell of them."""

from __future__ import annotations

import logging
import sys
from threading import Lock

from kronos.api.pif import by_device, describe, forget_record, here, introduce_nic
from kronos.api.vm.state import place_consoles
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.database import Database
from kronos.db.records import PIF, VLAN, Bond, Cluster_host, Host, Network, Network_sriov, Pool, Tunnel
from kronos.dispatch.call import Call
from kronos.dispatch.machine import Machine
from kronos.dispatch.registry import message
from kronos.network.base import NetworkDriver, PhysicalInterface
from kronos.network.configuration.readdressing import Request
from kronos.network.configuration.transaction import Transaction
from kronos.rules import addressing
from kronos.system import hardware
from kronos.system.commands import CommandFailed
from kronos.system.power import NotTheService

log = logging.getLogger(__name__)

PATIENCE = 240.0
"""Seconds for the network tool: longer than it takes to find that nobody is reached, and to take everything back."""
_PROGRAM = (sys.executable, "-m", "kronos.network.configuration.readdressing")
_MANAGEMENT, _DISABLED = "management", "disabled"
_changing = Lock()

# --- records ---------------------------------------------------------------------------------------------------------


def refresh(db: Database, host: Host, driver: NetworkDriver) -> None:
    """Bring PIFs and their networks up to date with the NICs of this host, and see which of them are up."""
    with db.transaction():
        for nic in _look(db, host, driver):
            row = by_device(db, host)[nic.device]
            row.currently_attached = nic.up
            _take_bridge(db, row, nic)


def _look(db: Database, host: Host, driver: NetworkDriver) -> list[PhysicalInterface]:
    """Write down what the NICs of this host are and have; records of NICs that went are kept."""
    nics = driver.physical_interfaces()
    with db.transaction():
        known = by_device(db, host)
        for nic in nics:
            row = known[nic.device] = known.get(nic.device) or introduce_nic(db, host, nic)
            describe(db, row, nic)
        _choose_management(known, [nic.device for nic in nics if nic.gateway])
    return nics


@message("PIF.scan")
def scan(call: Call, host: str) -> None:
    """Bring the PIFs of a host's NICs up to date; records of NICs that are gone stay until they are forgotten."""
    _look(call.db, here(call, host), call.machine.network)
    keep_disabled(call.db, call.machine)


def _choose_management(known: dict[str, PIF], routed: list[str]) -> None:
    """The NIC with the default route is the management interface. It stays the one that it is until another has that
    route and it has not: `xe-reset-networking` moves it without the daemon."""
    managing = [device for device, row in known.items() if row.management]
    if not routed or any(device in routed for device in managing):
        return
    for device, row in known.items():
        row.management = device == routed[0]


def _take_bridge(db: Database, row: PIF, nic: PhysicalInterface) -> None:
    """The bridge that somebody else has put a NIC into is its network's, unless another network has that one."""
    network = db.get(Network, row.network)
    if nic.bridge not in ("", network.bridge) and all(
        other.bridge != nic.bridge for other in db.all(Network)
    ):
        network.bridge = nic.bridge


def management_address(driver: NetworkDriver, device: str = "") -> str:
    """The address by which clients reach this host: the management interface's, else that of the NIC with the default
    route, else any."""
    nics = [nic for nic in driver.physical_interfaces() if nic.ip]
    nics.sort(key=lambda nic: (nic.device != device, not nic.gateway))
    return nics[0].ip if nics else "127.0.0.1"


def take_stock(db: Database, machine: Machine) -> None:
    """Have the records say what the host's network is now: its PIFs, its address and where its consoles are."""
    host = db.get(Host, machine.host_ref)
    refresh(db, host, machine.network)
    if not is_managed_remotely(machine):
        keep_disabled(db, machine)
        return
    if machine.address:
        return  # the settings name it
    managing = next((row.device for row in db.all(PIF) if row.management and row.host == host.ref), "")
    address = management_address(machine.network, managing)
    if host.address != address:
        with db.transaction():
            host.address = address
            place_consoles(db, machine)


@message("host.signal_networking_change")
def signal_networking_change(call: Call) -> None:
    """Somebody has changed the host's network or name: look at it anew."""
    take_stock(call.db, call.machine)
    host, name = call.db.get(Host, call.machine.host_ref), hardware.hostname()
    if host.hostname != name:
        host.hostname = name


@message("host.sync_pif_currently_attached")
def sync_pif_currently_attached(call: Call, host: str, bridges: tuple[str, ...]) -> None:
    """Have PIFs be attached whose networks' bridges a host has, and no others."""
    db = call.db
    with db.transaction():
        for row in (db.get(PIF, ref) for ref in db.get(Host, host).PIFs):
            network = db.find(Network, row.network)
            attached = network is not None and network.bridge in bridges
            if row.sriov_logical_PIF_of == () and row.currently_attached != attached:
                row.currently_attached = attached


@message("host.reset_networking")
def reset_networking(call: Call, host: str) -> None:
    """Forget a host's PIFs and what is built on them; networks stay, and so does what the host itself has. PIF.scan
    finds its NICs again."""
    db = call.db
    row = db.get(Host, host)
    with db.transaction():
        own = set(row.PIFs)
        built: tuple[Bond | VLAN | Tunnel | Network_sriov, ...] = (
            *(each for each in db.all(Bond) if each.master in own),
            *(each for each in db.all(VLAN) if each.untagged_PIF in own),
            *(each for each in db.all(Tunnel) if each.access_PIF in own),
            *(each for each in db.all(Network_sriov) if each.physical_PIF in own),
        )
        for each in built:
            db.delete(each)
        for ref in own:
            forget_record(db, db.get(PIF, ref))


def follow_change(db: Database, machine: Machine) -> None:
    """Wait for the end of a change of the network that is under way, and see what has become of it."""
    with Transaction().alone():
        log.info("the change of the host's network that was under way has ended")
    take_stock(db, machine)


# --- addresses -------------------------------------------------------------------------------------------------------


@message("PIF.reconfigure_ip")
def reconfigure_ip(call: Call, self: str, mode: str, ip: str, netmask: str, gateway: str, dns: str) -> None:
    """Give an interface other addresses of IPv4, now and at each boot. What was there comes back where the gateway does
    not answer then.

    Raises PIF_UNMANAGED [pif], PIF_IS_NOT_PHYSICAL [pif], HOST_OFFLINE [host], HA_IS_ENABLED, REDO_LOG_IS_ENABLED,
    CLUSTERING_ENABLED [cluster_host], INVALID_IP_ADDRESS_SPECIFIED [parameter], PIF_IS_MANAGEMENT_INTERFACE [pif],
    OPERATION_NOT_ALLOWED where this daemon is not the host's service, PIF_CONFIGURATION_ERROR [pif, reason].
    """
    row = _changeable(call, self)
    if (mode, ip, netmask, gateway) != ("Static", row.IP, row.netmask, row.gateway) or _mode(row, 4) != mode:
        _assert_unprotected(call.db, row)
    wanted = addressing.v4(mode, ip, netmask, gateway, dns)
    if row.management and mode == "None" and row.primary_address_type == "IPv4":
        raise Failure("PIF_IS_MANAGEMENT_INTERFACE", row.ref)
    _readdress(call, row, wanted, addressing.v6_of(row))


@message("PIF.reconfigure_ipv6")
def reconfigure_ipv6(call: Call, self: str, mode: str, ipv6: str, gateway: str, dns: str) -> None:
    """The same for IPv6. Raises as PIF.reconfigure_ip, and INVALID_CIDR_ADDRESS_SPECIFIED [IPv6]."""
    row = _changeable(call, self)
    if (mode, (ipv6,), gateway) != ("Static", row.IPv6, row.ipv6_gateway) or _mode(row, 6) != mode:
        _assert_unprotected(call.db, row)
    wanted = addressing.v6(mode, ipv6, gateway, dns)
    if row.management and mode == "None" and row.primary_address_type == "IPv6":
        raise Failure("PIF_IS_MANAGEMENT_INTERFACE", row.ref)
    _readdress(call, row, addressing.v4_of(row), wanted)


def become_management(call: Call, row: PIF) -> None:
    """Have clients reach the host by an interface, over which it reaches the world from now on; the one that it was
    gives its addresses up. Raises as PIF.reconfigure_ip does."""
    _changeable(call, row.ref)
    if not is_managed_remotely(call.machine) and _leads_to_the_world(call.machine, row.device):
        call.machine.outside.require()  # it is that all but in name
        row.management = True
    else:
        _readdress(call, row, addressing.v4_of(row), addressing.v6_of(row), moves=True)
    _enable_management(call.machine)
    take_stock(call.db, call.machine)


def disable_management(call: Call) -> None:
    """Have no interface by which clients reach the host, also after a restart."""
    call.machine.keys.put(_MANAGEMENT, _DISABLED)
    keep_disabled(call.db, call.machine)
    if call.machine.doors is not None:
        call.machine.doors.allow_remote(False)


def _enable_management(machine: Machine) -> None:
    machine.keys.put(_MANAGEMENT, "")
    if machine.doors is not None:
        machine.doors.allow_remote(True)


def is_managed_remotely(machine: Machine) -> bool:
    return machine.keys.get(_MANAGEMENT) != _DISABLED


def keep_disabled(db: Database, machine: Machine) -> None:
    """Where nobody is to reach the host, no record says how."""
    if is_managed_remotely(machine):
        return
    host = db.get(Host, machine.host_ref)
    with db.transaction():
        for row in (db.get(PIF, ref) for ref in host.PIFs):
            row.management = False
        host.address = machine.address


def _mode(row: PIF, family: int) -> str:
    return row.ip_configuration_mode if family == 4 else row.ipv6_configuration_mode


def _changeable(call: Call, ref: str) -> PIF:
    row = call.db.get(PIF, ref)
    if not row.managed:
        raise Failure("PIF_UNMANAGED", row.ref)
    if row.host != call.machine.host_ref:
        raise Failure("HOST_OFFLINE", row.host)
    if row.VLAN != -1 or row.bond_master_of or row.tunnel_access_PIF_of or row.sriov_logical_PIF_of:
        raise Failure("PIF_IS_NOT_PHYSICAL", row.ref)
    if row.bond_slave_of != NULL:
        raise Failure("PIF_ALREADY_BONDED", row.ref)
    return row


def _assert_unprotected(db: Database, row: PIF) -> None:
    """Other hosts that watch over this one must not find it gone."""
    pool = db.all(Pool)[0]
    if row.currently_attached and pool.ha_enabled:
        raise Failure("HA_IS_ENABLED")
    if row.currently_attached and pool.redo_log_enabled:
        raise Failure("REDO_LOG_IS_ENABLED")
    for member in db.all(Cluster_host):
        if row.ref == member.PIF and member.enabled:
            raise Failure("CLUSTERING_ENABLED", member.ref)


def _readdress(
    call: Call, row: PIF, ipv4: addressing.V4, ipv6: addressing.V6, *, moves: bool = False
) -> None:
    manages = row.management or moves or _leads_to_the_world(call.machine, row.device)
    told = addressing.addressing(ipv4, ipv6, manages=manages)
    request = Request(row.device, told, moves)
    with _changing:
        try:
            call.machine.outside.change(_PROGRAM, stdin=request.as_json(), timeout=PATIENCE)
        except NotTheService as refused:
            raise Failure("OPERATION_NOT_ALLOWED", str(refused)) from refused
        except CommandFailed as failed:
            take_stock(call.db, call.machine)
            raise Failure("PIF_CONFIGURATION_ERROR", row.ref, failed.stderr or str(failed)) from failed
        with call.db.transaction():
            if moves:
                for other in call.db.all(PIF):
                    if other.host == row.host:
                        other.management = other.ref == row.ref
            _keep(call.db, row, ipv4, ipv6)
        take_stock(call.db, call.machine)


def _leads_to_the_world(machine: Machine, device: str) -> bool:
    """Whether the host's default route is over it, be it that nobody manages the host by it."""
    return any(nic.device == device and nic.gateway for nic in machine.network.physical_interfaces())


def _keep(db: Database, row: PIF, ipv4: addressing.V4, ipv6: addressing.V6) -> None:
    """What the host itself does not tell: gateways and name servers of interfaces that are not the management's."""
    fields = {"gateway": ipv4.gateway, "ipv6_gateway": ipv6.gateway, "DNS": ",".join(ipv4.dns + ipv6.dns)}
    if ipv4.address is not None:
        fields |= {"IP": str(ipv4.address.ip), "netmask": str(ipv4.address.netmask)}
    db.write(row, fields)
