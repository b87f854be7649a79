"""auth: questions to the directory; and how the directory is turned on and off, for hosts and for the pool."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from kronos.api import auth_hook
from kronos.auth.base import Directory, DirectoryFailed, NotKnown
from kronos.auth.registry import kind
from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import Host, Pool, Secret, Subject
from kronos.dispatch.admission import SECRET
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message

log = logging.getLogger(__name__)
T = TypeVar("T")


def asked(call: Call, question: Callable[[Directory], T]) -> T:
    """What the directory answers. Raises AUTH_IS_DISABLED, SUBJECT_CANNOT_BE_RESOLVED, AUTH_SERVICE_ERROR [text]."""
    try:
        return question(call.pipeline.admission.directory())
    except NotKnown:
        raise Failure("SUBJECT_CANNOT_BE_RESOLVED") from None
    except DirectoryFailed as failed:
        raise Failure("AUTH_SERVICE_ERROR", str(failed)) from failed


@message("auth.get_subject_identifier")
def get_subject_identifier(call: Call, subject_name: str) -> str:
    """The identifier of a user or group. Raises SUBJECT_CANNOT_BE_RESOLVED and what `asked` does."""
    return asked(call, lambda directory: directory.identifier(subject_name))


@message("auth.get_subject_information_from_identifier")
def get_subject_information_from_identifier(call: Call, subject_identifier: str) -> dict[str, str]:
    """What is known of a user or group: of a subject what the pool keeps, of others what the directory says."""
    for row in call.db.all(Subject):
        if row.subject_identifier == subject_identifier:
            return dict(row.other_config)
    return asked(call, lambda directory: directory.information(subject_identifier))


@message("auth.get_group_membership")
def get_group_membership(call: Call, subject_identifier: str) -> tuple[str, ...]:
    """The identifiers of the groups that a user or group is in, directly or through others."""
    return asked(call, lambda directory: directory.groups(subject_identifier))


# --- on and off ---------------------------------------------------------------------------------------------------


def _enable(call: Call, host: Host, config: dict[str, str], service_name: str, auth_type: str) -> None:
    """Turn the directory on, or leave everything as it was. The caller holds `admission.serial`.

    Raises AUTH_ALREADY_ENABLED [type, service], AUTH_UNKNOWN_TYPE [type], AUTH_ENABLE_FAILED… [text].
    """
    if host.external_auth_type:
        raise Failure("AUTH_ALREADY_ENABLED", host.external_auth_type, host.external_auth_service_name)
    secrets = kind(auth_type).secrets
    try:
        call.machine.open_directory(auth_type, service_name, config).probe()
    except DirectoryFailed as failed:
        raise Failure(f"AUTH_ENABLE_FAILED{failed.kind}", str(failed)) from failed
    with call.db.transaction():
        kept = {}
        for key, value in config.items():
            if key in secrets:
                kept[key + SECRET] = call.db.create(Secret, value=value).uuid
            else:
                kept[key] = value
        call.db.write(
            host,
            {
                "external_auth_type": auth_type,
                "external_auth_service_name": service_name,
                "external_auth_configuration": kept,
            },
        )
    auth_hook.tell_now(call, "after-extauth-enable")


def _disable(call: Call, host: Host) -> None:
    """Turn it off; who came in by it is out at once. Nothing where it is off. The caller holds `admission.serial`."""
    if host.external_auth_type:
        auth_hook.tell_now(call, "before-extauth-disable")
    with call.db.transaction():
        for key, value in host.external_auth_configuration.items():
            if key.endswith(SECRET):
                _forget_secret(call.db, value)
        off = {"external_auth_type": "", "external_auth_service_name": "", "external_auth_configuration": {}}
        call.db.write(host, off)
    call.pipeline.admission.known.clear()
    call.pipeline.sessions.end_all(call.pipeline.sessions.external())


def _forget_secret(db: Database, uuid: str) -> None:
    try:
        db.delete(db.by_uuid(Secret, uuid))
    except Failure:
        log.info("the secret %s of the directory was gone already", uuid)


@message("host.enable_external_auth")
def enable_host(call: Call, host: str, config: dict[str, str], service_name: str, auth_type: str) -> None:
    """Turn external authentication on for one host.

    Raises AUTH_ALREADY_ENABLED [type, service], AUTH_UNKNOWN_TYPE [type], AUTH_ENABLE_FAILED… [text].
    """
    with call.pipeline.admission.serial:
        _enable(call, call.db.get(Host, host), config, service_name, auth_type)


@message("host.disable_external_auth")
def disable_host(call: Call, host: str, config: dict[str, str], force: bool) -> None:
    """Turn external authentication off for one host; nothing to do where it is off."""
    with call.pipeline.admission.serial:
        _disable(call, call.db.get(Host, host))


@message("host.external_auth_set_ldaps")
def set_host_ldaps(call: Call, host: str, ldaps: bool, force: bool) -> None:
    """Say that a directory is to be spoken to by LDAPS: here it always is, or by StartTLS.

    Raises AUTH_IS_DISABLED, and AUTH_SET_LDAPS_FAILED [host, text] for one who wants less.
    """
    row = call.db.get(Host, host)
    if not row.external_auth_type:
        raise Failure("AUTH_IS_DISABLED")
    if row.external_auth_type == "AD" and not ldaps:
        raise Failure("AUTH_SET_LDAPS_FAILED", host, "passwords go to the directory under TLS alone")


@message("pool.enable_external_auth")
def enable_pool(call: Call, pool: str, config: dict[str, str], service_name: str, auth_type: str) -> None:
    """Turn external authentication on for every host, or for none. Subjects that this directory does not have go.

    Raises POOL_AUTH_ALREADY_ENABLED [host], AUTH_UNKNOWN_TYPE [type], POOL_AUTH_ENABLE_FAILED… [host, text].
    """
    hosts = _hosts(call, pool)
    with call.pipeline.admission.serial:
        for host in hosts:
            if host.external_auth_type:
                raise Failure("POOL_AUTH_ALREADY_ENABLED", host.ref)
        done: list[Host] = []
        for host in hosts:
            try:
                _enable(call, host, config, service_name, auth_type)
                done.append(host)
            except Failure as failure:
                for each in done:
                    _disable(call, each)
                if failure.code == "AUTH_UNKNOWN_TYPE":
                    raise
                raise Failure(f"POOL_{failure.code}", host.ref, *failure.params) from failure
        _drop_strangers(call)


def _drop_strangers(call: Call) -> None:
    """Destroy the subjects that the directory does not know: they are another directory's, and identifiers are not
    unique between two."""
    directory = call.pipeline.admission.directory()
    for row in call.db.all(Subject):
        try:
            directory.information(row.subject_identifier)
        except NotKnown:
            log.warning("subject %s is not known to this directory, and goes", row.subject_identifier)
            call.db.delete(row)
        except DirectoryFailed as failed:
            log.warning("subject %s could not be looked up: %s", row.subject_identifier, failed)


@message("pool.disable_external_auth")
def disable_pool(call: Call, pool: str, config: dict[str, str]) -> None:
    """Turn external authentication off for every host; subjects stay, their sessions end."""
    with call.pipeline.admission.serial:
        for host in _hosts(call, pool):
            _disable(call, host)


@message("pool.external_auth_set_ldaps")
def set_pool_ldaps(call: Call, pool: str, ldaps: bool, force: bool) -> None:
    """host.external_auth_set_ldaps for every host."""
    for host in _hosts(call, pool):
        set_host_ldaps(call, host.ref, ldaps, force)


@message("pool.detect_nonhomogeneous_external_auth")
def detect_nonhomogeneous(call: Call, pool: str) -> None:
    """Leave a message about every host whose directory is not the coordinator's."""
    hosts = _hosts(call, pool)
    first = hosts[0]
    wanted = (first.external_auth_type, first.external_auth_service_name)
    for host in hosts[1:]:
        if (host.external_auth_type, host.external_auth_service_name) != wanted:
            body = (
                f"host_external_auth_type={host.external_auth_type}, "
                f"host_external_auth_service_name={host.external_auth_service_name}, "
                f"master_external_auth_type={wanted[0]}, master_external_auth_service_name={wanted[1]}"
            )
            call.invoke("message.create", "EXTAUTH_IN_POOL_IS_NON_HOMOGENEOUS", 2, "Host", host.uuid, body)


def _hosts(call: Call, pool: str) -> list[Host]:
    """The pool's hosts, its coordinator first."""
    master = call.db.get(Pool, pool).master
    return sorted(call.db.all(Host), key=lambda row: row.ref != master)


# --- how many logins at a time, and how long they are remembered ------------------------------------------------------


def _write(call: Call, pool: str, field: str, value: int, name: str, least: int) -> None:
    row = call.db.get(Pool, pool)
    if value < least:
        raise Failure("INVALID_VALUE", name, str(value))
    call.db.write(row, {field: value})


@message("pool.set_local_auth_max_threads")
def set_local_auth_max_threads(call: Call, self: str, value: int) -> None:
    """How many local passwords are checked at a time. Raises INVALID_VALUE [name, value] below one."""
    _write(call, self, "local_auth_max_threads", value, "value", 1)


@message("pool.set_ext_auth_max_threads")
def set_ext_auth_max_threads(call: Call, self: str, value: int) -> None:
    """How many of the directory's users are checked at a time. Raises INVALID_VALUE [name, value] below one."""
    _write(call, self, "ext_auth_max_threads", value, "value", 1)


@message("pool.set_ext_auth_cache_enabled")
def set_ext_auth_cache_enabled(call: Call, self: str, value: bool) -> None:
    """Whether who came in lately is remembered."""
    call.db.write(call.db.get(Pool, self), {"ext_auth_cache_enabled": value})
    if not value:
        call.pipeline.admission.known.clear()


@message("pool.set_ext_auth_cache_size")
def set_ext_auth_cache_size(call: Call, self: str, value: int) -> None:
    """How many users are remembered. Raises INVALID_VALUE [name, value] below zero."""
    _write(call, self, "ext_auth_cache_size", value, "size", 0)


@message("pool.set_ext_auth_cache_expiry")
def set_ext_auth_cache_expiry(call: Call, self: str, value: int) -> None:
    """For how many seconds. Raises INVALID_VALUE [name, value] below one."""
    _write(call, self, "ext_auth_cache_expiry", value, "expiry", 1)
