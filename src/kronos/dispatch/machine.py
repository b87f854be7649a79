"""Machine: this host's hands, given to every call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from kronos.boot.tiny_guest import TinyGuest
from kronos.hypervisor.base import Hypervisor
from kronos.network.base import NetworkDriver
from kronos.storage.base import StorageDriver


@dataclass(slots=True)
class Machine:
    """The drivers and paths of one host.

    `open_storage(type, sr_uuid, device_config)` makes the driver of one storage repository;
    `storage` holds those that are plugged in, by SR uuid.
    """

    hypervisor: Hypervisor
    network: NetworkDriver
    state: Path
    open_storage: Callable[[str, str, dict[str, str]], StorageDriver]
    host_ref: str = ""
    storage: dict[str, StorageDriver] = field(default_factory=dict)
    tiny_guest: Callable[[], TinyGuest] | None = None
    authenticate: Callable[[str, str], None] | None = None
