"""Machine: this host's hands, given to every call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kronos.auth import registry
from kronos.auth.base import Directory
from kronos.hypervisor.base import Hypervisor
from kronos.metrics.keeping import Keeping
from kronos.network.base import NetworkDriver
from kronos.storage.base import StorageDriver
from kronos.system.audit_file import Sink
from kronos.system.intents import Intents
from kronos.system.local_keys import LocalKeys
from kronos.system.outside import NoOutside, Outside
from kronos.system.packages import Manager
from kronos.system.power import NoPower, Power


class Doors(Protocol):
    """The daemon's listeners, as far as messages change them. From any thread."""

    def reload_certificates(self) -> None:
        """Show the certificates that are on disk now to whoever connects from now on. Raises OSError, ssl.SSLError."""

    def allow_plain(self, allowed: bool) -> None:
        """Whether clients may come in without TLS; the local socket always may."""

    def allow_remote(self, allowed: bool) -> None:
        """Whether clients may come in that are not on this host."""


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
    address: str = ""
    """Where clients reach this host, where the settings say it; otherwise that of its management interface."""
    socket: Path = Path("/var/lib/xcp/xapi")
    kernels: tuple[Path, ...] = ()
    storage: dict[str, StorageDriver] = field(default_factory=dict)
    authenticate: Callable[[str, str], None] | None = None
    open_directory: Callable[[str, str, Mapping[str, str]], Directory] = registry.build
    """Makes a directory of an `auth_type`, a service name and its configuration."""
    audit: Sink | None = None
    power: Power = field(default_factory=NoPower)
    packages: Manager | None = None
    """The distribution's package manager, for the updates of the host."""
    outside: Outside = field(default_factory=NoOutside)
    root: Path = Path("/")
    """Where the files of the host's operating system begin."""
    doors: Doors | None = None
    requests: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    """By method and path: the HTTP requests that came, and how many of them ended their connection."""
    metrics: Keeping = field(init=False)
    keeps_blobs: bool = True
    """Whether blobs may have bytes; changed in a transaction."""
    bridging: threading.Lock = field(default_factory=threading.Lock)
    """Held while a network's bridge is made for a VM, or taken away because none needs it any more."""

    def __post_init__(self) -> None:
        self.metrics = Keeping(self.state / "metrics")

    @property
    def keys(self) -> LocalKeys:
        """What this host knows of itself beside the pool's database."""
        return LocalKeys(self.state / "local.json")
