"""Which operations a VDI may start."""

from __future__ import annotations

from collections.abc import Iterator

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import PBD, SR, VBD, VDI, VM
from kronos.rules.operations.obstacle import Obstacle, bar, enumerated, first
from kronos.rules.surroundings import features, pool, upgrading

OPERATIONS = LISTED = enumerated("vdi_operations")
EVERY = frozenset(OPERATIONS)

# The ability of the SR's type that an operation needs; those that are not here need none.
NEEDS = {
    "snapshot": "VDI_SNAPSHOT",
    "destroy": "VDI_DELETE",
    "resize": "VDI_RESIZE",
    "update": "VDI_UPDATE",
    "resize_online": "VDI_RESIZE_ONLINE",
    "generate_config": "VDI_GENERATE_CONFIG",
    "clone": "VDI_CLONE",
    "revert_to": "VDI_CLONE",
    "revert_from": "VDI_CLONE",
    "mirror": "VDI_MIRROR",
    "enable_cbt": "VDI_CONFIG_CBT",
    "disable_cbt": "VDI_CONFIG_CBT",
    "data_destroy": "VDI_CONFIG_CBT",
    "list_changed_blocks": "VDI_CONFIG_CBT",
    "set_on_boot": "VDI_RESET_ON_BOOT",
}
# Beside a VM that uses the disk: data_destroy waits for its VBDs itself.
_LIVE = frozenset(
    "snapshot resize_online blocked clone revert_to mirror enable_cbt disable_cbt data_destroy".split()
)
_NOT_LIVE = EVERY - _LIVE
_NOT_BESIDE_READERS = _NOT_LIVE - {"copy"}
_OF_CHANGED_BLOCKS = frozenset(
    "blocked data_destroy destroy list_changed_blocks force_unlock forget generate_config update".split()
)
_NOT_OF_CHANGED_BLOCKS = EVERY - _OF_CHANGED_BLOCKS
_OF_UPGRADES = frozenset(
    "clone copy resize resize_online snapshot destroy forget update force_unlock generate_config blocked".split()
)
_NOT_OF_UPGRADES = EVERY - _OF_UPGRADES
_NOT_DATA_DESTROY = EVERY - {"data_destroy"}
_NOT_DESTROY = EVERY - {"destroy"}
_DESTROYING = frozenset({"destroy", "revert_from", "data_destroy"})
_TRACKING = frozenset({"enable_cbt", "disable_cbt"})
_RESIZING = frozenset({"resize", "resize_online"})
# The reference names types in an error as its own tools do, not as the API does.
_SHOWN_TYPES = {
    "ephemeral": "Ephemeral",
    "suspend": "Suspend",
    "crashdump": "Crashdump",
    "ha_statefile": "HA statefile",
    "metadata": "Metadata",
    "redo_log": "Redo log",
    "rrd": "rrd",
    "pvs_cache": "PVS cache",
    "cbt_metadata": "CBT metadata",
}


def obstacles(db: Database, vdi: VDI, *, strict: bool) -> Iterator[Obstacle]:
    """What keeps operations from starting, in the order in which clients are told of it."""
    sr = db.find(SR, vdi.SR)
    if sr is None:
        yield bar(EVERY, "HANDLE_INVALID", "SR", vdi.SR)
        return
    if upgrading(db):
        yield bar(_NOT_OF_UPGRADES, "NOT_SUPPORTED_DURING_UPGRADE")
    current = vdi.current_operations
    found = first(current, besides=("copy",)) if current else None
    if found is not None:
        task, name = found
        # A mirrored disk is destroyed as the last step of its migration.
        barred = _NOT_DESTROY if "mirror" in current.values() else EVERY
        yield bar(barred, "OTHER_OPERATION_IN_PROGRESS", "VDI", vdi.ref, name, task)
    if not any(_attached(db, ref) for ref in sr.PBDs):
        yield bar({"resize"}, "SR_HAS_NO_PBDS", sr.ref)
    yield from _users(db, vdi)
    able = features(db, sr)
    lacking = [name for name, feature in NEEDS.items() if feature not in able]
    yield bar(lacking, "SR_OPERATION_NOT_SUPPORTED", sr.ref)
    yield from _type(db, vdi, sr)


def _attached(db: Database, ref: str) -> bool:
    pbd = db.find(PBD, ref)
    return pbd is not None and pbd.currently_attached


def _users(db: Database, vdi: VDI) -> Iterator[Obstacle]:
    """VBDs that use the disk, and those in the middle of something."""
    active: list[VBD] = []
    busy: tuple[str, str] | None = None
    for ref in vdi.VBDs:
        vbd = db.find(VBD, ref)
        if vbd is None:
            continue
        if vbd.currently_attached or vbd.reserved:
            active.append(vbd)
        if vbd.current_operations and busy is None:
            busy = first(vbd.current_operations)
    if active:
        written = any(vbd.mode == "RW" for vbd in active)
        barred = _NOT_LIVE if written else _NOT_BESIDE_READERS
        if all(_of_snapshot(db, vbd) for vbd in active):
            barred = barred - {"list_changed_blocks", "copy"}
        yield Obstacle(barred, lambda name: Failure("VDI_IN_USE", vdi.ref, name))
    if busy is not None:
        task, name = busy
        yield bar(_NOT_DATA_DESTROY, "OTHER_OPERATION_IN_PROGRESS", "VDI", vdi.ref, name, task)


def _of_snapshot(db: Database, vbd: VBD) -> bool:
    # A checkpoint's disks are marked as attached although nothing uses them.
    vm = db.find(VM, vbd.VM)
    return vm is not None and vm.is_a_snapshot


def _type(db: Database, vdi: VDI, sr: SR) -> Iterator[Obstacle]:
    """What the disk holds, and how it is kept."""
    kind, snapshot, tracked = vdi.type, vdi.is_a_snapshot, vdi.cbt_enabled
    if kind == "cbt_metadata":
        yield bar(_NOT_OF_CHANGED_BLOCKS, "VDI_INCOMPATIBLE_TYPE", vdi.ref, _SHOWN_TYPES[kind])
    if tracked:
        yield bar({"mirror", "set_on_boot"}, "VDI_CBT_ENABLED", vdi.ref)
    if not snapshot:
        yield bar({"data_destroy"}, "OPERATION_NOT_ALLOWED", f"VDI is not a snapshot: {vdi.ref}")
        yield bar({"revert_to"}, "REVERT_ONLY_ALLOWED_ON_SNAPSHOT")
    else:
        yield bar(_TRACKING, "OPERATION_NOT_ALLOWED", f"VDI is a snapshot: {vdi.ref}")
    if not tracked:
        yield bar({"data_destroy"}, "VDI_NO_CBT_METADATA", vdi.ref)
    if kind not in ("user", "system"):
        yield bar(_TRACKING, "VDI_INCOMPATIBLE_TYPE", vdi.ref, _SHOWN_TYPES[kind])
    if vdi.sharable:
        yield bar({"snapshot"}, "VDI_IS_SHARABLE", vdi.ref)
    if vdi.on_boot == "reset":
        yield bar(_TRACKING | {"snapshot", "copy"}, "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION")
    if "copy" in vdi.current_operations.values():
        yield bar({"snapshot"}, "OPERATION_NOT_ALLOWED", "Snapshot operation not allowed during copy.")
    yield from _destruction(db, vdi, sr)


def _destruction(db: Database, vdi: VDI, sr: SR) -> Iterator[Obstacle]:
    """Disks that are not ours to destroy, and those that high availability stands on."""
    kind = vdi.type
    if sr.type == "udev":
        yield bar(_DESTROYING, "VDI_IS_A_PHYSICAL_DEVICE", vdi.ref)
    if sr.is_tools_sr:
        yield bar(_DESTROYING, "SR_OPERATION_NOT_SUPPORTED", sr.ref)
    if kind not in ("rrd", "ha_statefile", "redo_log"):
        return
    if kind == "rrd":
        yield bar(_DESTROYING | {"forget"}, "VDI_HAS_RRDS", vdi.ref)
        return
    found = pool(db)
    if found is not None and found.ha_enabled:
        yield bar(_DESTROYING | _RESIZING | {"forget"}, "HA_IS_ENABLED")
    under_way = found.current_operations.values() if found is not None else ()
    for name in ("ha_enable", "ha_disable"):
        if name in under_way:
            yield bar(_DESTROYING, f"{name.upper()}_IN_PROGRESS")
    text = "VDI containing HA statefile or redo log cannot be copied (check the VDI's allowed operations)."
    yield bar({"copy"}, "OPERATION_NOT_ALLOWED", text)
