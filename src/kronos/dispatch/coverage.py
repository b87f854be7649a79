"""Coverage: which messages are not served yet, and what each of them waits for."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

from kronos.datamodel.model import Message, model
from kronos.db.database import Database
from kronos.dispatch.fields import implied
from kronos.dispatch.registry import HANDLERS

REASONS: Final = (
    ("*.ha_*", "high availability"),
    ("pool.*able_ha", "high availability"),
    ("pool.set_ha_*", "high availability"),
    ("host.preconfigure_ha", "high availability"),
    ("host.*tach_static_vdis", "high availability"),
    ("pool.enable_redo_log", "high availability"),
    ("VM.assert_agile", "high availability"),
    ("VM.*migrat*", "migration"),
    ("host.migrate_receive", "migration"),
    ("VDI.pool_migrate", "migration"),
    ("host.allocate_resources_for_vm", "migration"),
    ("Cluster*.*", "clusters"),
    ("PVS_*.*", "a PVS farm"),
    ("DR_task.*", "disaster recovery"),
    ("VDI.open_database", "disaster recovery"),
    ("VDI.read_database_pool_uuid", "disaster recovery"),
    ("SR.*able_database_replication", "disaster recovery"),
    ("Repository.*", "a copy of a repository that pools fetch from each other"),
    ("Caller.*", "limits by caller"),
    ("Rate_limit.*", "limits by caller"),
    ("SDN_controller.*", "networks"),
    ("Bond.*", "networks"),
    ("PIF.*", "networks"),
    ("VLAN.*", "networks"),
    ("tunnel.*", "networks"),
    ("network*.*", "networks"),
    ("pool.create_VLAN*", "networks"),
    ("host.*network*", "networks"),
    ("host.sync_*", "networks"),
    ("host.update_firewalld_service_status", "networks"),
    ("Host_driver.*", "drivers in several versions"),
    ("Driver_variant.*", "drivers in several versions"),
    ("LVHD.*", "storage"),
    ("SR.*", "storage"),
    ("VDI.*", "storage"),
    ("VBD.*", "storage"),
    ("host.sm_dp_destroy", "storage"),
    ("*.*wlb*", "a workload balancing service"),
    ("session.*", "a pool"),
    ("pool.*", "a pool"),
    ("host.*", "a pool"),
)
"""What an unserved message waits for, by its name; the first line that fits counts."""


def is_served(db: Database, message: Message) -> bool:
    return message.full_name in HANDLERS or implied(db, message) is not None


def coverage() -> dict[str, tuple[int, int]]:
    """Messages served and messages known, by class."""
    db = Database()
    found: dict[str, tuple[int, int]] = {}
    for cls in model().classes.values():
        known = [each for each in cls.messages.values() if each.state != "removed"]
        found[cls.name] = (sum(is_served(db, each) for each in known), len(known))
    return found


def reason(message: Message) -> str:
    """What a message waits for; empty where nobody has said it."""
    return next((why for pattern, why in REASONS if fnmatchcase(message.full_name, pattern)), "")


def unserved() -> dict[tuple[str, str], list[Message]]:
    """The messages that are not served, by class and what they wait for; removed ones are answered as such."""
    db = Database()
    found: dict[tuple[str, str], list[Message]] = {}
    for cls in model().classes.values():
        for each in cls.messages.values():
            if each.state != "removed" and not is_served(db, each):
                found.setdefault((cls.name, reason(each)), []).append(each)
    return found
