"""A host's network in memory: for tests, and for trying the toolstack without touching a machine."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Interface

from kronos.datamodel.errors import Failure
from kronos.network import firewall, mac, names
from kronos.network.base import Bridge, Lease, LinkState, NetworkDriver, PhysicalInterface, VifPort, Watch
from kronos.network.subnet import Subnet

_log = logging.getLogger(__name__)


class FakeNetwork(NetworkDriver):
    """Bridges and ports that pass no frames, but keep every rule of the real ones."""

    def __init__(self, nics: Iterable[PhysicalInterface] = ()) -> None:
        self._lock = threading.RLock()
        self._nics = {nic.device: nic for nic in nics}
        self._bridges: dict[str, Bridge] = {}
        self._leases: dict[str, dict[str, Lease]] = {}
        self._watches: list[_FakeWatch] = []
        self.served: dict[str, Subnet] = {}
        """The subnet that each bridge serves now."""
        self.ports: dict[str, VifPort] = {}
        """The ports that have rules, by device."""

    def add_nic(self, nic: PhysicalInterface) -> None:
        """Put a NIC into the machine, or in the place of one."""
        with self._lock:
            self._nics[nic.device] = nic
            self._tell(_state(nic))

    def set_carrier(self, device: str, carrier: bool) -> None:
        """Plug a NIC's cable in, or pull it."""
        with self._lock:
            self._update(device, carrier=carrier)

    def grant(self, bridge: str, lease: Lease) -> None:
        """Lease an address to a guest."""
        with self._lock:
            self._leases.setdefault(bridge, {})[lease.ip] = lease

    def physical_interfaces(self) -> list[PhysicalInterface]:
        with self._lock:
            return [self._nics[device] for device in sorted(self._nics)]

    def bridges(self) -> list[Bridge]:
        with self._lock:
            return [self._with_members(self._bridges[name]) for name in sorted(self._bridges)]

    def create_bridge(
        self, name: str, *, mtu: int = 1500, external_ids: Mapping[str, str] | None = None
    ) -> Bridge:
        names.check_bridge(name)
        names.check_mtu(mtu)
        ids = dict(external_ids or {})
        with self._lock:
            if name in self._nics:
                raise Failure("BRIDGE_NAME_EXISTS", name)
            present = self._bridges.get(name)
            address = present.mac if present else mac.random_mac()
            bridge = Bridge(name, address, mtu, up=True, members=(), managed=True, external_ids=ids)
            self._bridges[name] = bridge
            if present is None:
                self._tell(LinkState(name, up=True))
            return self._with_members(bridge)

    def destroy_bridge(self, name: str) -> None:
        names.check_bridge(name)
        with self._lock:
            self.stop_addresses(name)
            self._leases.pop(name, None)
            if self._bridges.pop(name, None) is None:
                return
            for nic in self.physical_interfaces():
                if nic.bridge == name:
                    self._update(nic.device, bridge="")
            self._tell(LinkState(name, present=False))

    def enslave(self, bridge: str, device: str) -> None:
        names.check_bridge(bridge)
        names.check_device(device)
        with self._lock:
            master = self._bridge(bridge)
            nic = self._nics.get(device)
            if nic is None:
                raise Failure("PIF_DEVICE_NOT_FOUND")
            if nic.bridge not in ("", bridge):
                raise Failure("DEVICE_ALREADY_ATTACHED", device)
            if not nic.bridge and nic.ip:
                raise Failure("OPERATION_NOT_ALLOWED", f"{device} has addresses of this host")
            self._bridges[bridge] = replace(master, mac=nic.mac)
            self._update(device, bridge=bridge, mtu=master.mtu, up=True)

    def release(self, device: str) -> None:
        names.check_device(device)
        with self._lock:
            nic = self._nics.get(device)
            if nic is not None and nic.bridge:
                self._bridges[nic.bridge] = replace(self._bridges[nic.bridge], mac=mac.random_mac())
                self._update(device, bridge="")

    def serve_addresses(self, bridge: str, subnet: Subnet) -> None:
        names.check_bridge(bridge)
        with self._lock:
            self._bridge(bridge)
            for nic in self._nics.values():
                if nic.bridge == bridge:
                    raise Failure("OPERATION_NOT_ALLOWED", f"{nic.device} is in this bridge")
            taken = [other.network for name, other in self.served.items() if name != bridge]
            taken += [
                IPv4Interface(f"{nic.ip}/{nic.netmask}").network for nic in self._nics.values() if nic.ip
            ]
            if any(network.overlaps(subnet.network) for network in taken):
                raise Failure("OPERATION_NOT_ALLOWED", f"{subnet.network} overlaps an address of this host")
            self.served[bridge] = subnet

    def stop_addresses(self, bridge: str) -> None:
        names.check_bridge(bridge)
        with self._lock:
            self.served.pop(bridge, None)

    def leases(self, bridge: str) -> list[Lease]:
        names.check_bridge(bridge)
        with self._lock:
            return list(self._leases.get(bridge, {}).values())

    def secure(self, *ports: VifPort) -> None:
        for port in ports:
            firewall.secure_script(port)
        with self._lock:
            self.ports.update({port.device: port for port in ports})

    def unsecure(self, *devices: str) -> None:
        checked = [names.check_device(device) for device in devices]
        with self._lock:
            for device in checked:
                self.ports.pop(device, None)

    def secured(self) -> set[str]:
        with self._lock:
            return set(self.ports)

    def watch(self, callback: Callable[[LinkState], None]) -> Watch:
        with self._lock:
            watch = _FakeWatch(callback, self._unwatch)
            self._watches.append(watch)
            return watch

    def _bridge(self, name: str) -> Bridge:
        if name not in self._bridges:
            raise Failure("BRIDGE_NOT_AVAILABLE", name)
        return self._bridges[name]

    def _with_members(self, bridge: Bridge) -> Bridge:
        members = sorted(nic.device for nic in self._nics.values() if nic.bridge == bridge.name)
        return replace(bridge, members=tuple(members))

    def _update(self, device: str, **changes: object) -> None:
        before = self._nics[device]
        after = partial(replace, before)(**changes)
        self._nics[device] = after
        if _state(before) != _state(after):
            self._tell(_state(after))

    def _tell(self, state: LinkState) -> None:
        for watch in self._watches:
            watch.changes.put(state)

    def _unwatch(self, watch: _FakeWatch) -> None:
        with self._lock:
            if watch in self._watches:
                self._watches.remove(watch)


class _FakeWatch(Watch):
    def __init__(self, callback: Callable[[LinkState], None], unwatch: Callable[[_FakeWatch], None]) -> None:
        self.changes: queue.SimpleQueue[LinkState | None] = queue.SimpleQueue()
        self._callback = callback
        self._unwatch = unwatch
        self._thread = threading.Thread(target=self._run, name="network-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._unwatch(self)
        self.changes.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (state := self.changes.get()) is not None:
            try:
                self._callback(state)
            except Exception:  # noqa: BLE001  # as in the real watch, a caller's mistake does not end it
                _log.exception("the callback for network device %s failed", state.device)


def _state(nic: PhysicalInterface) -> LinkState:
    return LinkState(nic.device, up=nic.up, carrier=nic.carrier, master=nic.bridge)
