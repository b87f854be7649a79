"""Which operations an SR may start."""

from __future__ import annotations

from collections.abc import Iterator

from kronos.db.database import Database
from kronos.db.records import PBD, SR, VDI
from kronos.rules.operations.obstacle import Obstacle, bar, enumerated, first
from kronos.rules.surroundings import features, upgrading

OPERATIONS = enumerated("storage_operations")

# The others are operations on one VDI that the SR need not know of: they may always start, and are not listed.
LISTED = tuple(
    name
    for name in OPERATIONS
    if name
    in "scan destroy forget plug unplug vdi_create vdi_destroy vdi_resize vdi_clone vdi_snapshot vdi_mirror"
    " vdi_enable_cbt vdi_disable_cbt vdi_data_destroy vdi_list_changed_blocks vdi_set_on_boot vdi_introduce"
    " vdi_revert update pbd_create pbd_destroy".split()
)
_KNOWN = frozenset(LISTED)
_NOT_OF_UPGRADES = frozenset(
    "vdi_mirror vdi_enable_cbt vdi_disable_cbt vdi_data_destroy vdi_list_changed_blocks vdi_set_on_boot"
    " vdi_revert".split()
)

# The ability of the SR's type that an operation needs. A clone can be made of a copy.
NEEDS = {
    "vdi_create": "VDI_CREATE",
    "vdi_destroy": "VDI_DELETE",
    "vdi_resize": "VDI_RESIZE",
    "vdi_introduce": "VDI_INTRODUCE",
    "vdi_mirror": "VDI_MIRROR",
    "vdi_enable_cbt": "VDI_CONFIG_CBT",
    "vdi_disable_cbt": "VDI_CONFIG_CBT",
    "vdi_data_destroy": "VDI_CONFIG_CBT",
    "vdi_list_changed_blocks": "VDI_CONFIG_CBT",
    "vdi_set_on_boot": "VDI_RESET_ON_BOOT",
    "update": "SR_UPDATE",
    "vdi_revert": "VDI_REVERT",
    "vdi_snapshot": "VDI_SNAPSHOT",
}
_NOT_OF_TOOLS = frozenset({"VDI_CREATE", "VDI_DELETE"})
# Several hosts may plug the SR at once.
_PARALLEL = frozenset({"plug"})
_EXCLUSIVE = _KNOWN - _PARALLEL


def obstacles(db: Database, sr: SR, *, strict: bool) -> Iterator[Obstacle]:
    """What keeps operations from starting, in the order in which clients are told of it."""
    if upgrading(db):
        yield bar(_NOT_OF_UPGRADES, "NOT_SUPPORTED_DURING_UPGRADE")
    able = set(features(db, sr)) - (_NOT_OF_TOOLS if sr.is_tools_sr else frozenset())
    lacking = [name for name, feature in NEEDS.items() if feature not in able]
    yield bar(lacking, "SR_OPERATION_NOT_SUPPORTED", sr.ref)
    pbds = sr.PBDs
    if any((pbd := db.find(PBD, ref)) is not None and pbd.currently_attached for ref in pbds):
        yield bar({"destroy", "forget"}, "SR_HAS_PBD", sr.ref)
    if not pbds:
        yield bar({"destroy"}, "SR_HAS_NO_PBDS", sr.ref)
    if any(_holds_data(db, ref) for ref in sr.VDIs):
        yield bar({"destroy"}, "SR_NOT_EMPTY")
    current = sr.current_operations
    for barred, besides in ((_EXCLUSIVE, frozenset[str]()), (_PARALLEL, _PARALLEL)):
        found = first(current, besides=besides)
        if found is not None:
            task, name = found
            yield bar(barred, "OTHER_OPERATION_IN_PROGRESS", "SR", sr.ref, _shown(name), task)


def _holds_data(db: Database, ref: str) -> bool:
    vdi = db.find(VDI, ref)
    return vdi is not None and vdi.managed and vdi.type != "rrd"


def _shown(name: str) -> str:
    """An operation as the reference names it in an error: `VDI.create`."""
    cls, _, verb = name.partition("_")
    return f"{cls.upper()}.{verb}" if verb else name
