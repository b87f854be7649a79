"""What QEMU's agent in a guest tells of it, as libvirt hands it on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kronos.hypervisor.base import GuestInfo


def read(untrusted: Mapping[str, Any]) -> GuestInfo:
    """The fields of libvirt's flat answer to virDomainGetGuestInfo."""
    os_fields = {
        key.removeprefix("os."): str(value) for key, value in untrusted.items() if key.startswith("os.")
    }
    networks: dict[str, tuple[str, ...]] = {}
    for number in range(int(untrusted.get("if.count", 0))):
        prefix = f"if.{number}."
        mac = str(untrusted.get(prefix + "hwaddr", "")).lower()
        if mac:
            count = int(untrusted.get(prefix + "addr.count", 0))
            found = tuple(str(untrusted[f"{prefix}addr.{index}.addr"]) for index in range(count))
            networks[mac] = networks.get(mac, ()) + found
    return GuestInfo(hostname=str(untrusted.get("hostname", "")), os=os_fields, networks=networks)
