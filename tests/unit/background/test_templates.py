"""The default templates as records."""

from __future__ import annotations

from pathlib import Path

from kronos.background.inventory import templates
from kronos.boot.tiny_guest import TinyGuest
from kronos.db.database import Database
from kronos.db.records import VM

TINY = TinyGuest(Path("/image/vmlinuz"), Path("/image/initrd"))


def system_template(db: Database) -> VM:
    return db.by_name(VM, "Kronos system VM")[0]


def test_they_are_made_once() -> None:
    db = Database()
    templates.refresh(db, TINY)
    before = len(db.all(VM))
    templates.refresh(db, TINY)
    assert len(db.all(VM)) == before


def test_the_setting_decides_how_new_system_vms_boot() -> None:
    db = Database()
    templates.refresh(db, TINY, "pv")
    row = system_template(db)
    assert (row.domain_type, row.HVM_boot_policy, row.PV_bootloader) == ("pv", "", "pygrub")
    templates.refresh(db, TINY, "hvm")
    assert (row.domain_type, row.HVM_boot_policy, row.PV_bootloader) == ("hvm", "BIOS order", "")


def test_what_a_user_called_a_template_of_his_own_is_left_alone() -> None:
    db = Database()
    own = db.create(VM, is_a_template=True, reference_label="kronos-system", domain_type="pvh")
    templates.refresh(db, TINY, "pv")
    assert own.domain_type == "pvh"
