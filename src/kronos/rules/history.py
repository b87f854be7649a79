"""What a VM's messages say of its life: who reads them sees when it was started, shut down, cloned, and where."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from kronos.datamodel.model import model


class Event(NamedTuple):
    """The name and the end of the text of the message that a call leaves."""

    name: str
    text: str

    @property
    def priority(self) -> int:
        """1 is the most urgent."""
        return model().message_types[self.name]


_STARTED = Event("VM_STARTED", "started on host: {host.name_label} (uuid: {host.uuid})")
_RESUMED = Event("VM_RESUMED", "resumed on host: {host.name_label} (uuid: {host.uuid})")
_SHUTDOWN = Event("VM_SHUTDOWN", "shutdown")
EVENTS: Final[Mapping[str, Event]] = MappingProxyType(
    {
        "VM.start": _STARTED,
        "VM.start_on": _STARTED,
        "VM.resume": _RESUMED,
        "VM.resume_on": _RESUMED,
        "VM.pause": Event("VM_PAUSED", "paused"),
        "VM.unpause": Event("VM_UNPAUSED", "unpaused"),
        "VM.suspend": Event("VM_SUSPENDED", "suspended"),
        "VM.clean_shutdown": _SHUTDOWN,
        "VM.shutdown": _SHUTDOWN,
        "VM.hard_shutdown": Event("VM_SHUTDOWN", "shutdown forcibly"),
        "VM.clean_reboot": Event("VM_REBOOTED", "rebooted cleanly"),
        "VM.hard_reboot": Event("VM_REBOOTED", "rebooted forcibly"),
        "VM.clone": Event("VM_CLONED", "cloned (new uuid: {made.uuid})"),
        "VM.snapshot": Event("VM_SNAPSHOTTED", "snapshotted, snapshot name: {made.name_label}"),
        "VM.checkpoint": Event("VM_CHECKPOINTED", "checkpointed, snapshot name: {made.name_label}"),
        "VM.revert": Event(
            "VM_SNAPSHOT_REVERTED", "reverted to snapshot: {snapshot.name_label} (uuid {snapshot.uuid})"
        ),
    }
)
"""By the message whose success it tells of. The texts are the reference's: Xen Orchestra and XenCenter show them."""
