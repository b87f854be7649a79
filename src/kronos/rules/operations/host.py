"""Which operations a host may start."""

from __future__ import annotations

from collections.abc import Iterator

from kronos.db.database import Database
from kronos.db.records import Host, Host_metrics
from kronos.rules.operations.obstacle import Obstacle, bar, enumerated

OPERATIONS = LISTED = enumerated("host_allowed_operations")

_ARRIVING = frozenset({"provision", "vm_resume", "vm_migrate"})
_LEAVING = frozenset({"evacuate", "reboot", "shutdown"})
_DISABLED_ONLY = frozenset({"reboot", "shutdown", "apply_updates"})

# What must not run, and what it keeps from starting: VMs do not come to a host that they are leaving.
_CONFLICTS: tuple[tuple[frozenset[str], frozenset[str]], ...] = (
    (_LEAVING, _ARRIVING),
    (_ARRIVING, _LEAVING),
    (frozenset({"reboot"}), frozenset({"shutdown", "apply_updates"})),
    (frozenset({"shutdown"}), frozenset({"reboot", "apply_updates"})),
    (frozenset({"apply_updates"}), frozenset({"reboot", "shutdown", "enable"})),
    (frozenset({"provision"}), frozenset({"provision"})),
)
_SHOWN = {"vm_start": "VM.start", "vm_resume": "VM.resume", "vm_migrate": "VM.migrate"}


def obstacles(db: Database, host: Host, *, strict: bool) -> Iterator[Obstacle]:
    """What keeps operations from starting, in the order in which clients are told of it.

    Whether the script that switches a host on is installed, its caller finds out.
    """
    for running, barred in _CONFLICTS:
        for task, name in host.current_operations.items():
            if name in running:
                shown = _SHOWN.get(name, name)
                yield bar(barred, "OTHER_OPERATION_IN_PROGRESS", "host", host.ref, shown, task)
                break
    if host.enabled:
        yield bar(_DISABLED_ONLY, "HOST_NOT_DISABLED")
    metrics = db.find(Host_metrics, host.metrics)
    if metrics is not None and metrics.live:
        yield bar({"power_on"}, "HOST_IS_LIVE", host.ref)
    if not host.power_on_mode:
        yield bar({"power_on"}, "HOST_POWER_ON_MODE_DISABLED")
