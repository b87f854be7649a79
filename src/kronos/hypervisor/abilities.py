"""Abilities that a driver has by overriding them: a guest's memory beside the guest, and words with its agent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kronos.datamodel.errors import Failure


class Saving:
    """What can be done with a guest's memory besides `suspend` and `resume`."""

    saves_beside: bool = False
    """Whether `save_memory` is there."""

    def save_memory(self, uuid: str, path: Path) -> None:
        """Write a paused VM's memory and device state to `path`, as `suspend` does; the VM stays, paused."""
        raise Failure("VM_LACKS_FEATURE", uuid)

    def readdress(self, path: Path, uuid: str, new_uuid: str) -> None:
        """Have what `suspend` wrote of one VM be another's, which can be resumed from it.

        Raises VM_CHECKPOINT_RESUME_FAILED.
        """
        raise Failure("VM_LACKS_FEATURE", uuid)

    def is_saved(self, path: Path) -> bool:
        """Whether a file holds all of a suspended VM's memory."""
        return False

    def abandon_suspend(self, uuid: str) -> None:
        """End a suspend whose caller is no more: on return the VM runs on, or its memory is written whole."""

    def await_start(self, uuid: str) -> None:
        """Wait for a start or resume that an earlier caller, which is no more, has begun."""


class Words:
    """What the host and a guest's agent say to each other, and what the guest is asked to do."""

    def guest_tree(self, uuid: str) -> Mapping[str, str] | None:
        """What the guest has written into xenstore, by paths relative to its own, VIFs by their device numbers. None
        where there is no xenstore; AGENT_CONNECTED tells of changes."""
        return None

    def tell(self, uuid: str, words: Mapping[str, str | None]) -> None:
        """Write into a live guest's part of xenstore; None is for what goes. Raises VM_LACKS_FEATURE without one."""
        raise Failure("VM_LACKS_FEATURE", uuid)

    def offer(self, features: Mapping[str, str]) -> None:
        """What the agents of all guests may read in xenstore, below /guest_agent_features, instead of what was there
        before. Nothing where there is no xenstore. Raises INTERNAL_ERROR."""

    def sleep(self, uuid: str) -> None:
        """Ask a running guest to sleep with its memory powered (ACPI S3). Raises VM_MISSING_PV_DRIVERS."""
        raise Failure("VM_LACKS_FEATURE", uuid)

    def rouse(self, uuid: str) -> None:
        """Wake a guest that sleeps so; nothing happens to one that does not."""
        raise Failure("VM_LACKS_FEATURE", uuid)
