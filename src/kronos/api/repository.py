"""Repository: where the host's packages come from, the distribution's own configuration among them."""

from __future__ import annotations

from typing import Any

from kronos.datamodel.errors import Failure
from kronos.db.records import Pool, Repository
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.rules import updates


@message("Repository.introduce")
def introduce(
    call: Call,
    name_label: str,
    name_description: str,
    binary_url: str,
    source_url: str,
    update: bool,
    gpgkey_path: str,
) -> str:
    """A repository that pool.set_repositories may enable. For apt, `#suite/main,extra` follows the address; without it
    the repository is a flat one.

    Raises INVALID_BASE_URL [url], INVALID_GPGKEY_PATH [path], REPOSITORY_ALREADY_EXISTS [repository].
    """
    updates.assert_address(binary_url)
    updates.assert_address(source_url, may_be_empty=True)
    updates.assert_key(gpgkey_path)
    return _introduce(
        call,
        name_label=name_label,
        name_description=name_description,
        binary_url=binary_url,
        source_url=source_url,
        update=update,
        gpgkey_path=gpgkey_path,
        origin="remote",
    )


def _introduce(call: Call, **fields: Any) -> str:
    with call.db.transaction():
        for row in call.db.all(Repository):
            if fields["name_label"] == row.name_label or fields["binary_url"] == row.binary_url:
                raise Failure("REPOSITORY_ALREADY_EXISTS", row.ref)
        return call.db.create(Repository, **fields).ref


@message("Repository.introduce_bundle")
def introduce_bundle(call: Call, name_label: str, name_description: str) -> str:
    """The repository that is filled from files: each PUT to /bundle replaces what is in it.

    Raises REPOSITORY_ALREADY_EXISTS [repository], BUNDLE_REPOSITORY_ALREADY_EXISTS [repository]: there is one at most.
    """
    with call.db.transaction():
        for row in call.db.all(Repository):
            if row.name_label == name_label:
                raise Failure("REPOSITORY_ALREADY_EXISTS", row.ref)
            if row.origin == "bundle":
                raise Failure("BUNDLE_REPOSITORY_ALREADY_EXISTS", row.ref)
        fields = {"name_label": name_label, "name_description": name_description}
        return call.db.create(Repository, **fields, update=True, origin="bundle").ref


@message("Repository.forget")
def forget(call: Call, self: str) -> None:
    """Raises REPOSITORY_IS_IN_USE while it is enabled."""
    with call.db.transaction():
        row = call.db.get(Repository, self)
        if any(self in pool.repositories for pool in call.db.all(Pool)):
            raise Failure("REPOSITORY_IS_IN_USE")
        call.db.delete(row)


@message("Repository.set_gpgkey_path")
def set_gpgkey_path(call: Call, self: str, value: str) -> None:
    """The file of the keys that sign it, as its whole path. Raises INVALID_GPGKEY_PATH [path]."""
    row = call.db.get(Repository, self)
    updates.assert_key(value)
    row.gpgkey_path = value
