"""Which operations a cluster and its members may start: one at a time."""

from __future__ import annotations

from collections.abc import Iterator

from kronos.db.database import Database
from kronos.db.records import Cluster, Cluster_host
from kronos.rules.operations.obstacle import Obstacle, bar, enumerated, in_progress
from kronos.rules.surroundings import upgrading

OF_CLUSTER = enumerated("cluster_operation")
OF_MEMBER = enumerated("cluster_host_operation")


def obstacles(db: Database, cluster: Cluster, *, strict: bool) -> Iterator[Obstacle]:
    """What keeps operations of the cluster from starting."""
    if cluster.current_operations:
        yield in_progress("Cluster", cluster.ref, cluster.current_operations.items(), OF_CLUSTER)
    if upgrading(db):
        yield bar({"add", "remove", "destroy"}, "NOT_SUPPORTED_DURING_UPGRADE")


def member_obstacles(db: Database, member: Cluster_host, *, strict: bool) -> Iterator[Obstacle]:
    """What keeps operations of one member from starting."""
    if member.current_operations:
        yield in_progress("Cluster_host", member.ref, member.current_operations.items(), OF_MEMBER)
    if not member.joined:
        yield bar({"enable", "disable"}, "CLUSTER_HOST_NOT_JOINED", member.ref)
