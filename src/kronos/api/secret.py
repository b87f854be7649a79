"""secret: values that only pool-operators and above may read, so that other records can name them by uuid.

A password given in a device_config becomes one: `chappassword` is stored as `chappassword_secret`, the secret's uuid.
Drivers get the value itself. A secret that the client names itself is copied, as clients name one for many and
destroy it when they like; so that what belongs to a PBD is its own, and goes with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import PBD, Secret
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message

PASSWORD: Final = "password"
SECRET: Final = "_secret"


@message("secret.introduce")
def introduce(call: Call, uuid: str, value: str, other_config: dict[str, str]) -> str:
    """A secret under a uuid that others name already. Raises DB_UNIQUENESS_CONSTRAINT_VIOLATION [table, field, key]."""
    with call.db.transaction():
        if not uuid or call.db.tables["secret"].by_uuid(uuid) is not None:
            raise Failure("DB_UNIQUENESS_CONSTRAINT_VIOLATION", "secret", "uuid", uuid)
        return call.db.create(Secret, uuid=uuid, value=value, other_config=other_config).ref


def stored(db: Database, device_config: Mapping[str, str]) -> dict[str, str]:
    """A device_config with each password in it made a secret of its own, in the transaction that keeps it.

    Raises UUID_INVALID ["secret", uuid].
    """
    kept = {}
    for key, value in device_config.items():
        if key.endswith(PASSWORD):
            kept[key + SECRET] = db.create(Secret, value=value).uuid
        elif key.endswith(PASSWORD + SECRET):
            kept[key] = db.create(Secret, value=db.by_uuid(Secret, value).value).uuid
        else:
            kept[key] = value
    return kept


def resolved(db: Database, device_config: Mapping[str, str]) -> dict[str, str]:
    """A device_config as its driver reads it, with the values of its secrets. Raises UUID_INVALID ["secret", uuid]."""
    read = {}
    for key, value in device_config.items():
        if key.endswith(PASSWORD + SECRET):
            read[key.removesuffix(SECRET)] = db.by_uuid(Secret, value).value
        else:
            read[key] = value
    return read


def forget(db: Database, device_config: Mapping[str, str]) -> None:
    """Delete the secrets of a device_config that nobody else's names any more; after the row that had it is gone."""
    named = {value for pbd in db.all(PBD) for value in pbd.device_config.values()}
    for key, uuid in device_config.items():
        ref = db.tables["secret"].by_uuid(uuid) if key.endswith(PASSWORD + SECRET) else None
        row = db.find(Secret, ref) if ref is not None and uuid not in named else None
        if row is not None:
            db.delete(row)
