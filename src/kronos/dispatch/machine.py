"""Machine: this host's hands, given to every call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from kronos.hypervisor.base import Hypervisor
from kronos.network.base import NetworkDriver
from kronos.storage.base import StorageDriver
from kronos.system.intents import Intents


@dataclass(slots=True)
class Machine:
    """The drivers and paths of one host.

    `open_storage(type, sr_uuid, device_config)` makes the driver of one storage repository;
    `storage` holds those that are plugged in, by SR uuid; `kernels` are the folders whose files a VM may boot.
    """

    hypervisor: Hypervisor
    network: NetworkDriver
    state: Path
    intents: Intents
    open_storage: Callable[[str, str, dict[str, str]], StorageDriver]
    host_ref: str = ""
    https_port: int = 443
    kernels: tuple[Path, ...] = ()
    storage: dict[str, StorageDriver] = field(default_factory=dict)
    authenticate: Callable[[str, str], None] | None = None
    bridging: threading.Lock = field(default_factory=threading.Lock)
    """Held while a network's bridge is made for a VM, or taken away because none needs it any more."""
