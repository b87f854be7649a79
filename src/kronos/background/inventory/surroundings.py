"""What the host's record says of the operating system around the daemon, as it is set now."""

from __future__ import annotations

from typing import Any

from kronos.api import secure_boot
from kronos.db.database import Database
from kronos.db.records import Host
from kronos.dispatch.machine import Machine
from kronos.system import hardware
from kronos.system.timekeeping import Timekeeping


def refresh(db: Database, host: Host, machine: Machine) -> None:
    """An administrator may have set it by other means since; what cannot be seen stays as it was recorded."""
    fields: dict[str, Any] = {
        "timezone": Timekeeping(machine.outside, machine.root).timezone(),
        "secure_boot": hardware.secure_boot(machine.root),
    }
    db.write(host, fields)
    secure_boot.show(db, host, machine)
