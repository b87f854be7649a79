"""Updates: what a repository's address means, what a set of updates is called, and what is to be done after them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.records import Host, Pool, Repository
from kronos.system.packages import Source, Update

OWN: Final = "file:///etc/"
"""Begins the address of the repository that stands for what the host itself is configured with."""

_ADDRESS = re.compile(r"https?://[A-Za-z0-9.\-_:\[\]@]+(/[A-Za-z0-9.\-_~+%/]*)?(#[A-Za-z0-9.\-_/,]+)?")
_KEY = re.compile(r"/[A-Za-z0-9.\-_+/]+")
_REBOOT = re.compile(
    r"linux-image|linux-modules|kernel(-core|-modules)?$|xen(-hypervisor|-system|-utils)?(-|$)|libc6$|glibc$"
    r"|systemd$|dbus(-broker)?$|.*microcode"
)
_TOOLSTACK = re.compile(r"(xapi|kronos|xenserver-core|python3(\.\d+)?)(-|$)")
_DEVICE_MODEL = re.compile(r"qemu|libvirt|seabios|ovmf|edk2|swtpm")


def assert_address(url: str, *, may_be_empty: bool = False) -> None:
    """Raises INVALID_BASE_URL [url]."""
    if (url or not may_be_empty) and not _ADDRESS.fullmatch(url):
        raise Failure("INVALID_BASE_URL", url)


def assert_key(path: str) -> None:
    """A file of keys by its whole path, or "" for the host's own. Raises INVALID_GPGKEY_PATH [path]."""
    if path and (not _KEY.fullmatch(path) or ".." in path.split("/")):
        raise Failure("INVALID_GPGKEY_PATH", path)


def source(row: Repository) -> Source:
    """A repository as a package manager reads it. For apt `#suite/main,extra` may follow the address."""
    if row.binary_url.startswith(OWN):
        return Source(row.name_label)
    url, _, rest = row.binary_url.partition("#")
    suite, _, components = rest.rpartition("/") if "/" in rest else (rest, "", "")
    return Source(
        row.name_label, url, suite, tuple(each for each in components.split(",") if each), row.gpgkey_path
    )


def for_updates(rows: Sequence[Repository]) -> Repository:
    """The one enabled repository of updates. Raises NO_REPOSITORY_ENABLED, MULTIPLE_UPDATE_REPOSITORIES_ENABLED."""
    assert_one(rows)
    for row in rows:
        if row.update:
            return row
    raise Failure("NO_REPOSITORY_ENABLED")


def assert_one(rows: Sequence[Repository]) -> None:
    """Raises MULTIPLE_UPDATE_REPOSITORIES_ENABLED."""
    if sum(row.update for row in rows) > 1:
        raise Failure("MULTIPLE_UPDATE_REPOSITORIES_ENABLED")


def assert_alone(rows: Sequence[Repository]) -> None:
    """A repository that is filled here is looked at alone. Raises REPO_SHOULD_BE_SINGLE_ONE_ENABLED."""
    if len(rows) > 1 and not all(row.origin == "remote" for row in rows):
        raise Failure("REPO_SHOULD_BE_SINGLE_ONE_ENABLED")


def assert_fetched(rows: Sequence[Repository], code: str) -> None:
    """Raises an error where there is nowhere that lists could be fetched from: a bundle comes by itself."""
    if any(row.origin == "bundle" for row in rows):
        raise Failure(code)


def name_of(update: Update) -> str:
    return f"{update.name}-{update.version}.{update.arch}"


def digest(updates: Iterable[Update]) -> str:
    """What a set of updates is known by: whoever applies it says which one was looked at."""
    text = "\n".join(f"{each.name} {each.arch} {each.installed} {each.version}" for each in sorted(updates))
    return hashlib.sha256(text.encode()).hexdigest()


def guidance(updates: Iterable[Update]) -> tuple[str, ...]:
    """What a host needs before it runs everything that was updated."""
    names = [each.name for each in updates]
    kinds = (
        ("reboot_host", _REBOOT),
        ("restart_toolstack", _TOOLSTACK),
        ("restart_device_model", _DEVICE_MODEL),
    )
    return tuple(kind for kind, pattern in kinds if any(pattern.match(name) for name in names))


def listing(hosts: Sequence[Host], updates: Sequence[Update], repository: Repository) -> dict[str, Any]:
    """What GET /updates says."""
    return {
        "hosts": [
            {
                "ref": host.ref,
                "guidance": _guidance(guidance(updates)),
                "RPMS": [name_of(each) for each in updates],
                "updates": [name_of(each) for each in updates],
                "livepatches": [],
            }
            for host in hosts
        ],
        "updates": [_update(each) for each in updates],
        "hash": repository.hash,
    }


def _update(update: Update) -> dict[str, Any]:
    change = f"{update.installed} to {update.version}" if update.installed else f"new: {update.version}"
    return {
        "id": name_of(update),
        "summary": f"{update.name}: {change}",
        "description": update.origin,
        "special-info": "",
        "URL": "",
        "type": "security" if "security" in update.origin.lower() else "bugfix",
        "issued": "19700101T00:00:00Z",
        "severity": "High" if "security" in update.origin.lower() else "None",
        "livepatches": [],
        "guidance": _guidance(guidance((update,))),
        "title": update.name,
    }


def _guidance(mandatory: Sequence[str]) -> dict[str, list[str]]:
    return {"mandatory": list(mandatory), "recommended": [], "full": [], "livepatch": []}


def is_sync_due(pool: Pool, last: float, moment: float) -> bool:
    """Whether the pool's lists are to be fetched: once a day, or once a week on its day (0 is Sunday), in UTC."""
    day, today = 86400, int(moment // 86400)
    if not pool.update_sync_enabled or not pool.repositories or NULL in pool.repositories:
        return False
    if pool.update_sync_frequency == "daily":
        return int(last // day) < today
    # The first of January 1970 was a Thursday, 4.
    since = (today + 4 - pool.update_sync_day) % 7
    return int(last // day) < today - since
