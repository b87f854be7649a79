"""Which rules a VIF gets from its own locking mode and its network's."""

from __future__ import annotations

import pytest

from kronos.datamodel.errors import Failure
from kronos.network.base import LockingMode


@pytest.mark.parametrize(
    ("vif", "network", "effective"),
    [
        ("network_default", "unlocked", LockingMode.UNLOCKED),
        ("network_default", "disabled", LockingMode.DISABLED),
        ("locked", "disabled", LockingMode.LOCKED),
        ("unlocked", "disabled", LockingMode.UNLOCKED),
        ("disabled", "unlocked", LockingMode.DISABLED),
    ],
)
def test_the_network_decides_only_where_the_vif_leaves_it(
    vif: str, network: str, effective: LockingMode
) -> None:
    assert LockingMode.effective(vif, network) is effective


@pytest.mark.parametrize(
    ("vif", "network", "failure"),
    [
        ("network_default", "locked", ["INVALID_VALUE", "default_locking_mode", "locked"]),
        ("open", "unlocked", ["INVALID_VALUE", "locking_mode", "open"]),
    ],
)
def test_another_mode_is_refused(vif: str, network: str, failure: list[str]) -> None:
    with pytest.raises(Failure) as caught:
        LockingMode.effective(vif, network)
    assert caught.value.description == failure
