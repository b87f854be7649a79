"""What Xen's guests and this host leave for each other in xenstore, a directory for each domain."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from threading import Lock

from kronos.hypervisor import xenstore

log = logging.getLogger(__name__)

GUESTS_OWN = ("attr", "control", "data", "drivers", "feature", "xenserver/attr")
"""What below a domain's path its guest may write to."""

_UPDATED = "data/updated"
_OFFERED = "/guest_agent_features"
_VIF = re.compile(r"attr/vif/([0-9]{1,4})/(.+)")


class Words:
    """The directories of this host's guests. `updated(uuid)` is called, in a thread that may wait, whenever a guest's
    agent says that it has written something."""

    def __init__(self, updated: Callable[[str], None], client: xenstore.Client | None = None) -> None:
        self._client = client or xenstore.Client()
        self._updated = updated
        self._watches: dict[str, tuple[int, Callable[[], None]]] = {}
        self._guard = Lock()

    def follow(self, uuid: str, domid: int) -> None:
        """Listen to a guest's agent; the domain of an earlier run is forgotten. Raises OSError."""
        with self._guard:
            known = self._watches.get(uuid)
            if known is not None and known[0] == domid:
                return
        path = f"{_path(domid)}/{_UPDATED}"

        def told(_: str) -> None:
            if self._client.find(path) is not None:
                self._updated(uuid)

        stop = self._client.watch(path, told)
        with self._guard:
            before, self._watches[uuid] = self._watches.get(uuid), (domid, stop)
        if before is not None:
            before[1]()

    def forget(self, uuid: str) -> None:
        """The guest has gone."""
        with self._guard:
            known = self._watches.pop(uuid, None)
        if known is not None:
            known[1]()

    def give(self, domid: int, values: Mapping[str, str]) -> None:
        """Write what the guest is to find, for it alone to read. Raises OSError."""
        for key, value in values.items():
            path = f"{_path(domid)}/{key}"
            self._client.write(path, value)
            self._client.set_permissions(path, ["n0", f"r{domid}"])

    def tell(self, domid: int, words: Mapping[str, str | None]) -> None:
        """Write what the guest's agent waits for, where the guest may write too; None is for what goes. Raises
        OSError."""
        for key, value in words.items():
            path = f"{_path(domid)}/{key}"
            if value is None:
                self._client.remove(path)
            else:
                self._client.write(path, value)
                self._client.set_permissions(path, [f"n{domid}"])

    def offer(self, features: Mapping[str, str]) -> None:
        """Write what every guest may read, in place of what was there. Raises OSError."""
        self._client.remove(_OFFERED)
        for key, value in {"": "", **features}.items():
            path = f"{_OFFERED}/{key}".rstrip("/")
            self._client.write(path, value)
            self._client.set_permissions(path, ["r0"])

    def of_guest(self, domid: int, devices: Mapping[str, int]) -> dict[str, str]:
        """What a guest wrote. It numbers its interfaces as Xen does; `devices` maps MAC addresses (lower case) to the
        numbers that they have in XenAPI. Raises OSError."""
        numbers = {}
        for index in self._names(f"{_path(domid)}/device/vif"):
            mac = self._client.find(f"{_path(domid)}/device/vif/{index}/mac") or ""
            if mac.lower() in devices:
                numbers[index] = str(devices[mac.lower()])
        tree = self._client.below(_path(domid), GUESTS_OWN)
        return {_renumbered(path, numbers): value for path, value in tree.items()}

    def _names(self, path: str) -> list[str]:
        try:
            return self._client.directory(path)
        except FileNotFoundError:
            return []

    def close(self) -> None:
        self._client.close()


def _path(domid: int) -> str:
    return f"/local/domain/{domid}"


def _renumbered(path: str, numbers: Mapping[str, str]) -> str:
    match = _VIF.fullmatch(path)
    if match is None or match[1] not in numbers:
        return path
    return f"attr/vif/{numbers[match[1]]}/{match[2]}"
