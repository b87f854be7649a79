"""What rules of several classes ask about the rows around an object."""

from __future__ import annotations

from collections.abc import Collection

from kronos.db.database import Database
from kronos.db.records import SM, SR, VM, Host, Pool, VM_guest_metrics, VM_metrics

LIVE = ("Running", "Paused")


def pool(db: Database) -> Pool | None:
    """The pool; a database that is being filled for the first time has none yet."""
    row = next(iter(db.tables["pool"].rows.values()), None)
    return row if isinstance(row, Pool) else None


def upgrading(db: Database) -> bool:
    """Whether a rolling upgrade is under way, so that hosts of two versions are in the pool."""
    found = pool(db)
    return found is not None and "rolling_upgrade_in_progress" in found.other_config


def features(db: Database, sr: SR) -> Collection[str]:
    """The names of the abilities of an SR's type; none for a type that no driver serves."""
    drivers = db.referrers("SM", "type", sr.type)
    return db.get(SM, drivers[0]).features if drivers else ()


def is_true(value: str | None) -> bool:
    """How XenAPI's string maps write a flag: `1` or `true`."""
    return value is not None and (value == "1" or value.lower() == "true")


def has_drivers(metrics: VM_guest_metrics | None) -> bool:
    """Whether the guest has told the version of its paravirtual drivers; they imply every feature of a guest."""
    if metrics is None:
        return False
    version = metrics.PV_drivers_version
    return version.get("major", "").isdecimal() and version.get("minor", "").isdecimal()


def domain_type(db: Database, vm: VM) -> str:
    """What the VM runs as, or if it is halted would run as: hvm, pv, pv_in_pvh or pvh."""
    if vm.power_state != "Halted":
        metrics = db.find(VM_metrics, vm.metrics)
        if metrics is not None and metrics.current_domain_type != "unspecified":
            return metrics.current_domain_type
    if vm.domain_type != "unspecified":
        return vm.domain_type
    # Records older than the field say it by the policy: empty for paravirtual guests.
    return "hvm" if vm.HVM_boot_policy else "pv"


def is_domain_zero(db: Database, vm: VM) -> bool:
    """Whether the VM is a host itself, seen as a VM."""
    if not vm.is_control_domain:
        return False
    host = db.find(Host, vm.resident_on)
    return host is not None and host.control_domain == vm.ref
