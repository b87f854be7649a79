"""Which operations a pool may start."""

from __future__ import annotations

from collections.abc import Iterator

from kronos.db.database import Database
from kronos.db.records import Cluster, Pool
from kronos.rules.operations.obstacle import Obstacle, bar, enumerated, first

OPERATIONS = LISTED = enumerated("pool_allowed_operations")

# While one of these runs, no other of them starts, and the error says which runs: the first in this order.
BLOCKING = (
    "ha_enable",
    "ha_disable",
    "cluster_create",
    "designate_new_master",
    "tls_verification_enable",
    "configure_repositories",
    "sync_updates",
    "sync_bundle",
    "apply_updates",
)
# The others are short and the pool's own: whoever meets one waits.
_WAITING = frozenset(OPERATIONS) - frozenset(BLOCKING)


def obstacles(db: Database, pool: Pool, *, strict: bool) -> Iterator[Obstacle]:
    """What keeps operations from starting, in the order in which clients are told of it."""
    if pool.is_psr_pending and not strict:
        yield bar(OPERATIONS, "POOL_SECRET_ROTATION_PENDING")
    if pool.current_operations:
        yield from _busy(pool)
        return
    if pool.ha_enabled:
        yield bar({"ha_enable", "tls_verification_enable"}, "HA_IS_ENABLED")
    else:
        yield bar({"ha_disable"}, "HA_NOT_ENABLED")
    if "rolling_upgrade_in_progress" in pool.other_config:
        yield bar({"cluster_create", "tls_verification_enable"}, "NOT_SUPPORTED_DURING_UPGRADE")
    if db.all(Cluster):
        yield bar({"cluster_create"}, "CLUSTER_ALREADY_EXISTS")
    elif pool.ha_enabled:
        yield bar({"cluster_create"}, "INCOMPATIBLE_CLUSTER_STACK_ACTIVE", pool.ha_cluster_stack)


def _busy(pool: Pool) -> Iterator[Obstacle]:
    current = pool.current_operations
    waiting = first(current, besides=BLOCKING)
    named = (waiting[1], waiting[0]) if waiting is not None else ()
    blocking = next((name for name in BLOCKING if name in current.values()), None)
    if blocking is not None:
        yield bar(BLOCKING, f"{blocking.upper()}_IN_PROGRESS")
    yield bar(OPERATIONS, "OTHER_OPERATION_IN_PROGRESS", "pool", pool.ref, *named)
