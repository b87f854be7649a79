"""The default templates: made once, and given back what an update of Kronos changed in them."""

from __future__ import annotations

from kronos.boot.templates import default_templates
from kronos.boot.tiny_guest import TinyGuest
from kronos.db.database import Database
from kronos.db.records import VM, VM_metrics


def refresh(db: Database, tiny: TinyGuest | None) -> None:
    """Make the default templates that are missing."""
    present = {row.uuid: row for row in db.all(VM) if row.is_default_template}
    with db.transaction():
        for record in default_templates(tiny):
            row = present.get(record["uuid"])
            if row is None:
                db.create(VM, **record, domid=-1, metrics=db.create(VM_metrics).ref)
            elif record["PV_kernel"] and row.PV_kernel != record["PV_kernel"]:
                # The tiny guest was made anew, by another kernel of the distribution.
                db.write(row, {name: record[name] for name in ("PV_kernel", "PV_ramdisk", "PV_args")})
