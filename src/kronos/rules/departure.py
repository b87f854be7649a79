"""Departure: what becomes of each VM when its host goes down, and in which order."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from kronos.db.records import VM, Pool

log = logging.getLogger(__name__)

ACTION = "kronos:host_shutdown"
"""Key of other_config, the VM's before the pool's: what is done with a VM when its host goes down."""
ACTIONS = ("shutdown", "suspend", "migrate")

LIMIT = "kronos:host_shutdown_timeout"
"""Key of other_config, the VM's before the pool's: seconds that a guest may take to shut itself down."""
DEFAULT_LIMIT = 60
LONGEST = 24 * 3600

BY_ITSELF = "auto_poweroff"
"""Key of a VM's other_config, whatever its value: somebody else sees to it, and it is left running."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be done with a VM; `limit` is in seconds."""

    action: str
    limit: int


def wish(vm: VM, pool: Pool) -> Wish | None:
    """What is wanted for a VM when its host goes down; None where it is to be left alone. What cannot be understood
    counts as not said."""
    if BY_ITSELF in vm.other_config:
        return None
    action, limit = "shutdown", DEFAULT_LIMIT
    for row in (pool, vm):
        said = row.other_config.get(ACTION, action)
        if said in ACTIONS:
            action = said
        else:
            log.warning("%s of %s is %r and not one of %s", ACTION, row.uuid, said, ", ".join(ACTIONS))
        seconds = row.other_config.get(LIMIT, str(limit))
        if seconds.isascii() and seconds.isdecimal() and len(seconds) < 8:
            limit = min(int(seconds), LONGEST)
        else:
            log.warning("%s of %s is %r and no number of seconds", LIMIT, row.uuid, seconds)
    return Wish(action, limit)


def rank(order: int) -> tuple[bool, int]:
    """Sorts VMs by their order: the lowest starts first, and a negative one means the end."""
    return (order < 0, order)


def stages(vms: Iterable[VM]) -> list[list[VM]]:
    """VMs in groups that go down together: those that start last go first."""
    falling = sorted(vms, key=lambda vm: (rank(vm.order), vm.uuid), reverse=True)
    return [list(group) for _, group in groupby(falling, key=lambda vm: vm.order)]
