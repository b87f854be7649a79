"""What the toolstack asks of a host's network: interfaces, bridges, address service and guests' ports."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Self

from kronos.datamodel.errors import Failure
from kronos.network.subnet import Subnet


@dataclass(frozen=True, slots=True)
class PhysicalInterface:
    """A NIC as PIF and PIF_metrics show it. Unknown strings are empty, an unknown speed is 0.

    Addresses are those of the bridge when the NIC is in one. `physical` is false for the interface of a
    container or the like, which has no device behind it.
    """

    device: str
    mac: str
    mtu: int = 1500
    up: bool = False
    carrier: bool = False
    speed_mbit: int = 0
    full_duplex: bool = False
    physical: bool = True
    bridge: str = ""
    driver: str = ""
    pci_bus_path: str = ""
    vendor_id: str = ""
    vendor_name: str = ""
    device_id: str = ""
    device_name: str = ""
    capabilities: tuple[str, ...] = ()
    """`sriov` where the device has virtual functions."""
    ip_mode: str = "None"
    """PIF.ip_configuration_mode as seen from outside: None, DHCP (an address that expires) or Static."""
    ip: str = ""
    netmask: str = ""
    gateway: str = ""
    dns: tuple[str, ...] = ()
    ipv6_mode: str = "None"
    """None, Autoconf (an address that expires) or Static."""
    ipv6: tuple[str, ...] = ()
    """Global addresses as address/prefix."""
    ipv6_gateway: str = ""


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge of this host. `managed` tells that the toolstack made it, and may change and destroy it."""

    name: str
    mac: str
    mtu: int
    up: bool
    members: tuple[str, ...]
    managed: bool
    external_ids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Lease:
    """An address leased to a guest. `expiry` is in seconds since 1970, 0 for never."""

    mac: str
    ip: str
    hostname: str
    expiry: int


class LockingMode(enum.Enum):
    """What a guest's port lets through."""

    UNLOCKED = "unlocked"
    LOCKED = "locked"
    DISABLED = "disabled"

    @classmethod
    def effective(cls, untrusted_vif_mode: str, untrusted_network_default: str = "unlocked") -> Self:
        """VIF.locking_mode, or network.default_locking_mode where it says network_default.

        Raises INVALID_VALUE.
        """
        mode = untrusted_vif_mode
        if mode == "network_default":
            mode = untrusted_network_default
            if mode == "locked":
                raise Failure("INVALID_VALUE", "default_locking_mode", mode)
        try:
            return cls(mode)
        except ValueError as error:
            raise Failure("INVALID_VALUE", "locking_mode", mode) from error


@dataclass(frozen=True, slots=True)
class VifPort:
    """The host's end of a VIF: the tap `device`, which need not exist yet.

    `ipv4_allowed` and `ipv6_allowed` matter when locked: with both empty nothing passes. `rate_kbytes` limits
    what the guest sends, in kB/s of 1024 bytes (qos_algorithm_params:kbps of XenAPI, which counts bytes); 0
    means no limit. Without `carrier` nothing passes, as with the cable out.
    """

    device: str
    mac: str
    locking_mode: LockingMode = LockingMode.UNLOCKED
    ipv4_allowed: tuple[IPv4Address, ...] = ()
    ipv6_allowed: tuple[IPv6Address, ...] = ()
    rate_kbytes: int = 0
    carrier: bool = True


@dataclass(frozen=True, slots=True)
class LinkState:
    """A network device after a change; `present` is false when it is gone, `master` its bridge or bond."""

    device: str
    present: bool = True
    up: bool = False
    carrier: bool = False
    master: str = ""


class Watch(ABC):
    """A running watch; closing it returns after the last callback. Also a context manager."""

    @abstractmethod
    def close(self) -> None:
        """Stop calling back. Idempotent; not to be called from the callback."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class NetworkDriver(ABC):
    """The network of one host. Methods block and may be called from any thread.

    All that change something can be repeated, and leave what they found when they fail. What the kernel or
    nft refuses and no XenAPI code describes is INTERNAL_ERROR in plain words.
    """

    @abstractmethod
    def physical_interfaces(self) -> list[PhysicalInterface]:
        """The NICs of this host by name: no bridges, taps, veths, bonds, VLANs or virtual functions.

        Where there is no NIC (a container), the interface that holds the default route stands in.
        """

    @abstractmethod
    def bridges(self) -> list[Bridge]:
        """Every bridge of this host by name, also those made by others."""

    @abstractmethod
    def create_bridge(
        self, name: str, *, mtu: int = 1500, external_ids: Mapping[str, str] | None = None
    ) -> Bridge:
        """Make a bridge and bring it up, or bring an existing one of ours to this MTU and these ids.

        A bridge made by somebody else is taken into use unchanged, with `managed` false.

        Raises INVALID_VALUE, BRIDGE_NAME_EXISTS (the name is another kind of device).
        """

    @abstractmethod
    def destroy_bridge(self, name: str) -> None:
        """End the address service of a bridge, and remove the bridge where it is ours; its members stay.

        Raises INVALID_VALUE.
        """

    @abstractmethod
    def enslave(self, bridge: str, device: str) -> None:
        """Put a NIC into a bridge, which takes over the NIC's MAC; the NIC takes the bridge's MTU.

        Raises INVALID_VALUE, BRIDGE_NOT_AVAILABLE, PIF_DEVICE_NOT_FOUND, DEVICE_ALREADY_ATTACHED (to
        another), OPERATION_NOT_ALLOWED (it carries addresses, which would be cut off).
        """

    @abstractmethod
    def release(self, device: str) -> None:
        """Take a device out of the bridge it is in, if any. Raises INVALID_VALUE."""

    @abstractmethod
    def serve_addresses(self, bridge: str, subnet: Subnet) -> None:
        """Give the host its address on `bridge`, and serve DHCP and DNS there, to that bridge alone.

        The service outlives this process and is found again; calling this again restarts it if it died.

        Raises INVALID_VALUE, BRIDGE_NOT_AVAILABLE, OPERATION_NOT_ALLOWED (a NIC is in the bridge, or the
        subnet overlaps another of this host).
        """

    @abstractmethod
    def stop_addresses(self, bridge: str) -> None:
        """End the service of `bridge` and take its address away; leases are kept for the next time.

        Raises INVALID_VALUE.
        """

    @abstractmethod
    def leases(self, bridge: str) -> list[Lease]:
        """The leases of `bridge` that hold now, by address. Raises INVALID_VALUE."""

    @abstractmethod
    def secure(self, *ports: VifPort) -> None:
        """Replace the rules of ports in one step, even before the devices exist, so that no frame slips by.

        Raises INVALID_VALUE, MAC_INVALID.
        """

    @abstractmethod
    def unsecure(self, *devices: str) -> None:
        """Forget the rules of ports, in one step. Raises INVALID_VALUE."""

    @abstractmethod
    def secured(self) -> set[str]:
        """The devices that have rules, whether or not they exist."""

    @abstractmethod
    def watch(self, callback: Callable[[LinkState], None]) -> Watch:
        """Call back on a thread of its own for each device that comes, goes, or changes its LinkState."""
