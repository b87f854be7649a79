"""Guest metrics: what an agent inside a guest writes below its domain's path in xenstore, as VM_guest_metrics has it.

The layout is the one that XenServer's agents for Linux and Windows write. Whatever is there was written by the guest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any

WATCHED = ("attr", "control", "data", "drivers", "feature", "xenserver/attr")
"""The subtrees, relative to the domain's path, that `fields` reads."""

LONGEST = 1024
"""Characters of a value that are kept."""

MOST = 256
"""Keys of the maps whose keys the guest chooses."""

_PV_DRIVERS = {
    "drivers/xenevtchn": "xenevtchn",
    "drivers/xenvbd": "xenvbd",
    "drivers/xennet": "xennet",
    "attr/PVAddons/MajorVersion": "major",
    "attr/PVAddons/MinorVersion": "minor",
    "attr/PVAddons/MicroVersion": "micro",
    "attr/PVAddons/BuildVersion": "build",
    "attr/PVAddons/Application": "application",
}
_OS = {
    "data/os_name": "name",
    "data/os_uname": "uname",
    "data/os_distro": "distro",
    "data/os_majorver": "major",
    "data/os_minorver": "minor",
    "attr/os/spmajor": "spmajor",
    "attr/os/spminor": "spminor",
}
_NETBIOS = {"data/host_name": "host_name", "data/domain": "domain"}
_MEMORY = {"data/meminfo_free": "free", "data/meminfo_total": "total"}
_TRISTATE = {"0": "no", "1": "yes"}

_INDEXED = re.compile(r"(?:attr/vif|xenserver/attr/net-sriov-vf)/([0-9]{1,3})/(ipv4|ipv6)/([0-9]{1,4})")
_OLD = re.compile(
    r"(?:attr|xenserver/attr)/(?:eth|xenbr|eno|ens|emp|enx)([0-9]{1,3})/(?:(ip)|ipv6/([0-9]{1,4})/addr)"
)
_CONTROL = re.compile(r"control/([A-Za-z0-9_-]{1,64})")


def fields(untrusted_tree: Mapping[str, str]) -> dict[str, Any] | None:
    """The fields of VM_guest_metrics for what a guest wrote, by paths relative to its domain's; None before the agent
    says that it has written everything (data/updated)."""
    if "data/updated" not in untrusted_tree:
        return None
    tree = {path: _printable(value) for path, value in untrusted_tree.items()}
    drivers = _picked(tree, _PV_DRIVERS)
    if drivers and "micro" not in drivers:
        drivers["micro"] = "-1"  # agents from before there was one
    detected = {"major", "minor"} <= drivers.keys()
    return {
        "PV_drivers_version": drivers,
        "PV_drivers_detected": detected,
        "PV_drivers_up_to_date": detected,
        "os_version": _picked(tree, _OS),
        "netbios_name": _picked(tree, _NETBIOS),
        "memory": _picked(tree, _MEMORY),
        "networks": networks(tree),
        "other": _other(tree),
        "can_use_hotplug_vbd": _TRISTATE.get(tree.get("feature/hotplug/vbd", ""), "unspecified"),
        "can_use_hotplug_vif": _TRISTATE.get(tree.get("feature/hotplug/vif", ""), "unspecified"),
        "live": True,
    }


def networks(tree: Mapping[str, str]) -> dict[str, str]:
    """The addresses of a guest by VIF: `0/ip`, `0/ipv4/0`, `0/ipv6/0`. Agents that number all addresses write no other
    kind; those that know one IPv4 address write it below the interface's name."""
    found = list(_indexed(tree)) or list(_old(tree))
    out: dict[str, str] = {}
    for device, version, index, address in sorted(found)[:MOST]:
        if version == "ipv4" and f"{device}/ip" not in out:
            out[f"{device}/ip"] = address
        out[f"{device}/{version}/{index}"] = address
    return out


def _indexed(tree: Mapping[str, str]) -> Iterable[tuple[int, str, int, str]]:
    for path, value in tree.items():
        match = _INDEXED.fullmatch(path)
        if match is not None and _is_address(value, match[2]):
            yield int(match[1]), match[2], int(match[3]), value


def _old(tree: Mapping[str, str]) -> Iterable[tuple[int, str, int, str]]:
    for path, value in tree.items():
        match = _OLD.fullmatch(path)
        if match is None:
            continue
        version, index = ("ipv4", 0) if match[2] else ("ipv6", int(match[3]))
        if _is_address(value, version):
            yield int(match[1]), version, index, value


def _is_address(untrusted: str, version: str) -> bool:
    try:
        return ip_address(untrusted).version == (4 if version == "ipv4" else 6)
    except ValueError:
        return False


def _other(tree: Mapping[str, str]) -> dict[str, str]:
    """Every control key; why the guest cannot be suspended stands in the place of its word that it can be."""
    out = {
        match[1]: value
        for path, value in sorted(tree.items())[: 16 * MOST]
        if (match := _CONTROL.fullmatch(path)) is not None
    }
    out = dict(list(out.items())[:MOST])
    reason = tree.get("data/cant_suspend_reason")
    if reason is not None and out.pop("feature-suspend", None) is not None:
        out["data-cant-suspend-reason"] = reason
    if "data/ts" in tree:
        out["data-ts"] = tree["data/ts"]
    return out


def _picked(tree: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    return {name: tree[path] for path, name in names.items() if path in tree}


def _printable(untrusted: str) -> str:
    return "".join(character for character in untrusted[:LONGEST] if character.isprintable())
