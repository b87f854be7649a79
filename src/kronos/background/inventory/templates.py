"""The default templates: made once, and given back what an update of Kronos changed in them."""

from __future__ import annotations

from kronos.boot.templates import BOOT_FIELDS, SYSTEM_LABEL, SystemMode, default_templates
from kronos.boot.tiny_guest import TinyGuest
from kronos.db.database import Database
from kronos.db.records import VM, VM_metrics


def refresh(db: Database, tiny: TinyGuest | None, system_mode: SystemMode = "hvm") -> None:
    """Make the default templates that are missing; `system_mode` is how VMs of the system VM's are to boot."""
    present = {row.uuid: row for row in db.all(VM) if row.is_default_template}
    with db.transaction():
        for record in default_templates(tiny, system_mode):
            row = present.get(record["uuid"])
            if row is None:
                db.create(VM, **record, domid=-1, metrics=db.create(VM_metrics).ref)
            elif record["PV_kernel"] and row.PV_kernel != record["PV_kernel"]:
                # The tiny guest was made anew, by another kernel of the distribution.
                db.write(row, {name: record[name] for name in ("PV_kernel", "PV_ramdisk", "PV_args")})
            elif record["reference_label"] == SYSTEM_LABEL:
                db.write(row, {name: record[name] for name in BOOT_FIELDS})
