"""SR probe: what storage there is where a device_config points."""

from __future__ import annotations

import uuid as uuids
from typing import Any

from kronos.api import secret
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import escape
from kronos.db.records import SR, Host
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.storage.base import Candidate


def _candidates(call: Call, host: str, device_config: dict[str, str], kind: str) -> list[Candidate]:
    call.db.get(Host, host)
    if not call.db.referrers("SM", "type", kind):
        raise Failure("SR_UNKNOWN_DRIVER", kind)
    return call.machine.open_storage(
        kind, str(uuids.uuid4()), secret.resolved(call.db, device_config)
    ).probe()


@message("SR.probe")
def probe(call: Call, host: str, device_config: dict[str, str], kind: str, sm_config: dict[str, str]) -> str:
    """The SRs that exist there, as the XML document that clients read.

    Raises SR_UNKNOWN_DRIVER [type]; for a device_config that only names a server, the SR_BACKEND_FAILURE whose third
    parameter is a document of what it offers (101 NFS exports, 96 iSCSI targets, 107 LUNs).
    """
    found = [each for each in _candidates(call, host, device_config, kind) if each.sr_uuid]
    return f'<?xml version="1.0" ?><SRlist>{"".join(_element(each) for each in found)}</SRlist>'


def _element(candidate: Candidate) -> str:
    sizes = ""
    if candidate.space is not None:
        used, size = candidate.space.physical_utilisation, candidate.space.physical_size
        sizes = f"<size>{size}</size><utilisation>{used}</utilisation>"
    return f"<SR><UUID>{escape(candidate.sr_uuid)}</UUID>{sizes}</SR>"


@message("SR.probe_ext")
def probe_ext(
    call: Call, host: str, device_config: dict[str, str], kind: str, sm_config: dict[str, str]
) -> tuple[dict[str, Any], ...]:
    """The SRs that exist there and the places where one could be made. Raises SR_UNKNOWN_DRIVER [type]."""
    return tuple(_result(call, each) for each in _candidates(call, host, device_config, kind))


def _result(call: Call, candidate: Candidate) -> dict[str, Any]:
    record: dict[str, Any] = {
        "configuration": dict(candidate.configuration),
        "complete": candidate.complete,
        "extra_info": {},
    }
    if candidate.sr_uuid:
        ref = call.db.tables["SR"].by_uuid(candidate.sr_uuid)
        known = call.db.get(SR, ref) if ref else None
        space = candidate.space
        record["sr"] = {
            "uuid": candidate.sr_uuid,
            "name_label": known.name_label if known is not None else "",
            "name_description": known.name_description if known is not None else "",
            "free_space": space.physical_size - space.physical_utilisation if space is not None else 0,
            "total_space": space.physical_size if space is not None else 0,
            "clustered": False,
            "health": "healthy",
        }
    return record
