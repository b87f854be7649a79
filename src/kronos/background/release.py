"""What the daemon has made of this host's network, taken back when its package is removed."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from kronos.datamodel.errors import Failure
from kronos.network.base import Bridge, NetworkDriver

log = logging.getLogger(__name__)


def networks(names: Iterable[str], driver: NetworkDriver) -> list[str]:
    """Destroy the bridges of these names that no guest uses, with their addresses and rules; the names of those that
    were there. A NIC of the host in one is released; a bridge that is not ours stays as it is."""
    nics = {nic.device for nic in driver.physical_interfaces()}
    ours = {bridge.name: bridge for bridge in driver.bridges() if bridge.managed}
    gone = []
    for name in sorted(ours.keys() & set(names)):
        if guests := _guests(ours[name], nics):
            log.warning("the bridge %s stays: %s is in it", name, ", ".join(guests))
            continue
        try:
            driver.destroy_bridge(name)
        except Failure as failure:
            log.warning("the bridge %s stays: %s", name, failure)
            continue
        gone.append(name)
    return gone


def _guests(bridge: Bridge, nics: set[str]) -> list[str]:
    return [member for member in bridge.members if member not in nics]
