"""Updates of the host's packages: which repositories are looked at, what they have, and applying that."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import EPOCH, NULL, now
from kronos.db.database import Database
from kronos.db.records import VM, Host, Host_metrics, Pool, Repository, Secret
from kronos.dispatch.call import Call
from kronos.dispatch.machine import Machine
from kronos.dispatch.registry import message
from kronos.rules import updates
from kronos.system import hardware
from kronos.system.bundles import Bundles
from kronos.system.commands import CommandFailed
from kronos.system.packages import VERY_LONG, Dnf, Manager, Proxy, Update
from kronos.system.power import NotTheService

log = logging.getLogger(__name__)

_BOOT: Final = "updated_boot"
"""Local key: the boot of the host during which it was updated last."""


def resume(db: Database, machine: Machine) -> None:
    """At the start of the daemon: the host's own repository, what is no longer to be done after an update, and what a
    crash left of bundles."""
    host, pool = db.get(Host, machine.host_ref), db.all(Pool)[0]
    if machine.packages is not None:
        _own(db, pool, "yum.repos.d" if isinstance(machine.packages, Dnf) else "apt")
    shelf = bundles(machine)
    if any(row.origin == "bundle" for row in enabled(db, pool)):
        shelf.tidy()
    else:
        shelf.clear()
    booted = machine.keys.get(_BOOT) != hardware.boot_id()
    over = ("restart_toolstack", "reboot_host", "restart_device_model") if booted else ("restart_toolstack",)
    left = tuple(each for each in host.pending_guidances if each not in over)
    # A client that applied updates disabled the host for its reboot: a new daemon in between is not to undo that.
    db.write(host, {"pending_guidances": left, "enabled": host.enabled and not left})


def _own(db: Database, pool: Pool, place: str) -> None:
    address = f"{updates.OWN}{place}/"
    if any(row.binary_url.startswith(updates.OWN) for row in db.all(Repository)):
        return
    with db.transaction():
        row = db.create(
            Repository,
            name_label="The host's own configuration",
            name_description=f"The repositories that {address} names",
            binary_url=address,
            update=True,
        )
        if not pool.repositories:
            pool.repositories = (row.ref,)


def enabled(db: Database, pool: Pool) -> list[Repository]:
    """The repositories that are looked at."""
    found = (db.find(Repository, ref) for ref in pool.repositories)
    return [row for row in found if row is not None]


def bundles(machine: Machine) -> Bundles:
    return Bundles(machine.state / "bundles")


def any_manager(machine: Machine) -> Manager:
    """The distribution's package manager. Raises OPERATION_NOT_ALLOWED."""
    if machine.packages is None:
        raise Failure("OPERATION_NOT_ALLOWED", "This host has neither apt nor dnf")
    return machine.packages


def _manager(machine: Machine, repository: Repository) -> Manager:
    """The package manager with the lists of a repository: those of a bundle lie beside it."""
    manager, shelf = any_manager(machine), bundles(machine)
    if repository.origin != "bundle":
        return manager
    return manager.at((shelf.current() or shelf.place / "none") / "lists")


# --- which repositories ----------------------------------------------------------------------------------------------


@message("pool.set_repositories", holds="configure_repositories")
def set_repositories(call: Call, self: str, value: tuple[str, ...]) -> None:
    """The repositories that are looked at, one of updates at most, a bundle alone.

    Raises MULTIPLE_UPDATE_REPOSITORIES_ENABLED, REPO_SHOULD_BE_SINGLE_ONE_ENABLED.
    """
    _set(call, call.db.get(Pool, self), value)


@message("pool.add_repository", holds="configure_repositories")
def add_repository(call: Call, self: str, value: str) -> None:
    """Raises MULTIPLE_UPDATE_REPOSITORIES_ENABLED."""
    pool = call.db.get(Pool, self)
    _set(call, pool, (*pool.repositories, value))


@message("pool.remove_repository", holds="configure_repositories")
def remove_repository(call: Call, self: str, value: str) -> None:
    pool = call.db.get(Pool, self)
    _set(call, pool, tuple(ref for ref in pool.repositories if ref != value))


def _set(call: Call, pool: Pool, refs: tuple[str, ...]) -> None:
    db, wanted = call.db, tuple(dict.fromkeys(refs))
    with db.transaction():
        rows = [db.get(Repository, ref) for ref in wanted]
        updates.assert_alone(rows)
        updates.assert_one(rows)
        if set(wanted) == set(pool.repositories):
            return
        for row in rows:  # what was found without the others, or with some that are gone, counts no more
            row.hash = ""
        fields: dict[str, Any] = {"repositories": wanted, "last_update_sync": EPOCH}
        by_itself = bool(rows) and all(row.origin == "remote" for row in rows)
        db.write(pool, fields if by_itself else fields | {"update_sync_enabled": False})
        for host in db.all(Host):
            host.latest_synced_updates_applied = "unknown"
    call.pipeline.durability.block()
    bundles(call.machine).clear()  # only a repository that is enabled keeps what is in it


@message("pool.configure_repository_proxy")
def configure_proxy(call: Call, self: str, url: str, username: str, password: str) -> None:
    """Raises INVALID_REPOSITORY_PROXY_URL [url], INVALID_REPOSITORY_PROXY_CREDENTIAL."""
    pool = call.db.get(Pool, self)
    try:
        updates.assert_address(url)
    except Failure:
        raise Failure("INVALID_REPOSITORY_PROXY_URL", url) from None
    login = username + password
    if bool(username) != bool(password) or not login.isprintable() or '"' in login:
        raise Failure("INVALID_REPOSITORY_PROXY_CREDENTIAL")
    _set_proxy(call.db, pool, url, username, password)


@message("pool.disable_repository_proxy")
def disable_proxy(call: Call, self: str) -> None:
    _set_proxy(call.db, call.db.get(Pool, self), "", "", "")


def _set_proxy(db: Database, pool: Pool, url: str, user: str, password: str) -> None:
    with db.transaction():
        before = db.find(Secret, pool.repository_proxy_password)
        secret = db.create(Secret, value=password).ref if password else NULL
        named = {"repository_proxy_url": url, "repository_proxy_username": user}
        db.write(pool, named | {"repository_proxy_password": secret})
        if before is not None:
            db.delete(before)


def _proxy(db: Database, pool: Pool) -> Proxy | None:
    if not pool.repository_proxy_url:
        return None
    secret = db.find(Secret, pool.repository_proxy_password)
    return Proxy(pool.repository_proxy_url, pool.repository_proxy_username, secret.value if secret else "")


# --- what they have --------------------------------------------------------------------------------------------------


@message("pool.sync_updates", holds="sync_updates")
def sync_updates(
    call: Call, self: str, force: bool, token: str, token_id: str, username: str, password: str
) -> str:
    """Fetch the lists of the enabled repositories; the digest of the updates that they have for the host.

    Nothing is installed. Tokens and logins are for XenServer's own repositories, which are none of a stock host's.
    Raises NO_REPOSITORY_ENABLED, CAN_NOT_SYNC_UPDATES, REPOSYNC_FAILED, OPERATION_NOT_ALLOWED.
    """
    db, pool, manager = call.db, call.db.get(Pool, self), any_manager(call.machine)
    rows = enabled(db, pool)
    updates.assert_fetched(rows, "CAN_NOT_SYNC_UPDATES")
    repository = updates.for_updates(rows)
    try:
        if force:
            manager.clean()
        manager.sync([updates.source(row) for row in rows], _proxy(db, pool))
        call.task.progress(0.8)
        pending = manager.pending()
    except CommandFailed as failed:
        log.warning("Repositories were not looked at: %s", failed)
        raise Failure("REPOSYNC_FAILED") from failed
    return looked_at(call, pool, repository, pending)


def looked_at(call: Call, pool: Pool, repository: Repository, pending: list[Update]) -> str:
    """Write down what was found in a repository; its digest."""
    digest = updates.digest(pending)
    with call.db.transaction():
        repository.hash = digest
        pool.last_update_sync = now()
        call.host.latest_synced_updates_applied = "no" if pending else "yes"
    return digest


def listing(db: Database, machine: Machine, hosts: Sequence[str]) -> dict[str, Any]:
    """The updates that the lists fetched last have for some hosts, as GET /updates says it.

    Raises NO_REPOSITORY_ENABLED, GET_UPDATES_FAILED, HANDLE_INVALID.
    """
    pool = db.all(Pool)[0]
    repository = updates.for_updates(enabled(db, pool))
    rows = [db.get(Host, ref) for ref in hosts or [row.ref for row in db.all(Host)]]
    try:
        return updates.listing(rows, _manager(machine, repository).pending(), repository)
    except CommandFailed as failed:
        log.warning("Updates cannot be listed: %s", failed)
        raise Failure("GET_UPDATES_FAILED") from failed


@message("pool.check_update_readiness")
def check_update_readiness(call: Call, self: str, requires_reboot: bool) -> tuple[tuple[str, ...], ...]:
    """What keeps the pool from being updated: errors, each with its parameters; with `requires_reboot`, also those of
    VMs that would be in the way of one."""
    pool, found = call.db.get(Pool, self), list[tuple[str, ...]]()
    if pool.ha_enabled:
        found.append(("HA_IS_ENABLED",))
    for host in call.db.all(Host):
        metrics = call.db.find(Host_metrics, host.metrics)
        if metrics is None or not metrics.live:
            found.append(("HOST_OFFLINE", host.ref))
        elif requires_reboot:
            prevented: dict[str, tuple[str, ...]] = call.invoke(
                "host.get_vms_which_prevent_evacuation", host.ref
            )
            found += [tuple(error) for error in prevented.values()]
    return tuple(found)


# --- applying --------------------------------------------------------------------------------------------------------


@message("host.apply_updates", holds="apply_updates")
def apply_updates(call: Call, self: str, hash: str) -> tuple[tuple[str, ...], ...]:
    """Upgrade the host's packages to what was looked at: `hash` is what pool.sync_updates said.

    The upgrade goes on where the daemon itself is replaced by it. Raises UPDATEINFO_HASH_MISMATCH,
    HOST_PENDING_MANDATORY_GUIDANCE_NOT_EMPTY [host], APPLY_UPDATES_FAILED [host], OPERATION_NOT_ALLOWED.
    """
    db, host, pool = call.db, call.db.get(Host, self), call.db.all(Pool)[0]
    any_manager(call.machine)
    if self != call.machine.host_ref:
        raise Failure("HOST_OFFLINE", self)
    if host.pending_guidances:
        raise Failure("HOST_PENDING_MANDATORY_GUIDANCE_NOT_EMPTY", self)
    with call.pipeline.holds.hold(pool, "apply_updates", call.task):
        return _apply_updates(call, host, updates.for_updates(enabled(db, pool)), hash)


def _apply_updates(call: Call, host: Host, repository: Repository, hash: str) -> tuple[tuple[str, ...], ...]:
    manager = _manager(call.machine, repository)
    with _refused_as(host.ref):
        pending = manager.pending()
    if not hash or hash != repository.hash or hash != updates.digest(pending):
        raise Failure("UPDATEINFO_HASH_MISMATCH")
    if not pending:
        return ()
    _upgrade(call, host, manager, pending)
    with _refused_as(host.ref):
        left = manager.pending()
    with call.db.transaction():
        host.last_software_update = now()
        host.last_update_hash = hash
        host.latest_synced_updates_applied = "no" if left else "yes"
        repository.hash = updates.digest(left)
    return ()


@contextmanager
def _refused_as(host: str) -> Iterator[None]:
    """What the package manager refuses, as XenAPI's error; the log has its words."""
    try:
        yield
    except CommandFailed as failed:
        log.warning("Updates were not applied: %s", failed)
        raise Failure("APPLY_UPDATES_FAILED", host) from failed


def _upgrade(call: Call, host: Host, manager: Manager, pending: list[Update]) -> None:
    before = host.pending_guidances
    # A kernel that does not run yet is written down first: after a crash it would be known to nobody.
    _to_do(call, host, updates.guidance(pending))
    try:
        with _refused_as(host.ref):
            call.machine.outside.change(manager.upgrade(), timeout=VERY_LONG)
    except NotTheService as refused:
        host.pending_guidances = before
        raise Failure("OPERATION_NOT_ALLOWED", str(refused)) from refused


@message("Repository.apply")
def apply(call: Call, host: str) -> None:
    """The pool's own step of host.apply_updates: upgrade a host's packages. Raises APPLY_UPDATES_FAILED [host]."""
    row, pool = call.db.get(Host, host), call.db.all(Pool)[0]
    any_manager(call.machine)
    if host != call.machine.host_ref:
        raise Failure("HOST_OFFLINE", host)
    with call.pipeline.holds.hold(pool, "apply_updates", call.task):
        manager = _manager(call.machine, updates.for_updates(enabled(call.db, pool)))
        with _refused_as(host):
            pending = manager.pending()
        if pending:
            _upgrade(call, row, manager, pending)


@message("Repository.apply_livepatch")
def apply_livepatch(
    call: Call,
    host: str,
    component: str,
    base_build_id: str,
    base_version: str,
    base_release: str,
    to_version: str,
    to_release: str,
) -> None:
    """Raises APPLY_LIVEPATCH_FAILED [livepatch]: live patches are of XenServer's own kernel and hypervisor."""
    call.db.get(Host, host)
    patch = f"{component} {base_version}-{base_release} to {to_version}-{to_release}"
    raise Failure("APPLY_LIVEPATCH_FAILED", patch)


def _to_do(call: Call, host: Host, guidance: tuple[str, ...]) -> None:
    """Write down what the host and its running VMs need after the update."""
    call.machine.keys.put(_BOOT, hardware.boot_id())
    with call.db.transaction():
        host.pending_guidances = tuple(each for each in guidance if each != "restart_device_model")
        if "restart_device_model" in guidance:
            for vm in call.db.all(VM):
                if vm.power_state == "Running" and not vm.is_control_domain:
                    vm.pending_guidances = tuple(
                        dict.fromkeys((*vm.pending_guidances, "restart_device_model"))
                    )
    call.pipeline.durability.block()


# --- by itself -------------------------------------------------------------------------------------------------------


@message("pool.configure_update_sync")
def configure_sync(call: Call, self: str, update_sync_frequency: str, update_sync_day: int) -> None:
    """When lists are fetched: daily, or weekly on a day, 0 for Sunday. Raises INVALID_UPDATE_SYNC_DAY [day]."""
    pool = call.db.get(Pool, self)
    if update_sync_frequency == "weekly" and not 0 <= update_sync_day <= 6:
        raise Failure("INVALID_UPDATE_SYNC_DAY", str(update_sync_day))
    day = update_sync_day if update_sync_frequency == "weekly" else 0
    call.db.write(pool, {"update_sync_frequency": update_sync_frequency, "update_sync_day": day})


@message("pool.set_update_sync_enabled")
def set_sync_enabled(call: Call, self: str, value: bool) -> None:
    """Raises NO_REPOSITORIES_CONFIGURED, CAN_NOT_PERIODIC_SYNC_UPDATES."""
    pool = call.db.get(Pool, self)
    if value and not pool.repositories:
        raise Failure("NO_REPOSITORIES_CONFIGURED")
    if value:
        updates.assert_fetched(enabled(call.db, pool), "CAN_NOT_PERIODIC_SYNC_UPDATES")
    pool.update_sync_enabled = value
