"""Sidecars and images as the volumes that a client sees."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Callable, Mapping
from pathlib import Path

from kronos.storage.base import Volume
from kronos.storage.directory.catalogue import Contents, chain
from kronos.storage.directory.files import Files
from kronos.storage.directory.sidecar import UUID, Sidecar
from kronos.storage.images.image import Image, format_of
from kronos.storage.images.qcow2 import BadImage

# Keys of sm_config that say what the images say; Xen Orchestra draws chains from the first.
PARENT, FORMAT, ERROR = "vhd-parent", "image-format", "error"


def without_derived(sm_config: Mapping[str, str]) -> dict[str, str]:
    """sm_config as it is kept."""
    return {key: value for key, value in sm_config.items() if key not in (PARENT, FORMAT, ERROR)}


def hidden_uuid(sr_uuid: str, name: str) -> str:
    """The uuid of an image that is no volume's head."""
    stem = Path(name).stem
    return stem if UUID.fullmatch(stem) else str(uuids.uuid5(uuids.UUID(sr_uuid), name))


def managed(sr_uuid: str, files: Files, look: Callable[[str], Image], sidecar: Sidecar) -> Volume:
    """A volume that has a sidecar. One whose images can't be used is shown with size 0 and the reason."""
    form = format_of(sidecar.head)
    config = {**without_derived(sidecar.sm_config), FORMAT: form}
    size, parent = 0, ""
    try:
        names = list(layers := chain(sidecar.head, look))
        size = layers[sidecar.head].virtual_size
        if len(names) > 1:
            config[PARENT] = parent = hidden_uuid(sr_uuid, names[1])
    except BadImage as bad:
        config[ERROR] = str(bad)
    return Volume(
        uuid=sidecar.uuid,
        location=sidecar.location,
        virtual_size=size,
        physical_utilisation=files.allocated(sidecar.head),
        format=form,
        name_label=sidecar.name_label,
        name_description=sidecar.name_description,
        type=sidecar.type,
        sharable=sidecar.sharable,
        read_only=sidecar.read_only,
        parent=parent,
        is_a_snapshot=sidecar.is_a_snapshot,
        snapshot_of=sidecar.snapshot_of,
        snapshot_time=sidecar.snapshot_time,
        sm_config=config,
    )


def volumes(sr_uuid: str, files: Files, contents: Contents, pending: set[str]) -> list[Volume]:
    """Everything in the SR: volumes, images that are volumes without a sidecar, and the parents of chains."""
    look = contents.image
    found = [managed(sr_uuid, files, look, sidecar) for sidecar in contents.sidecars.values()]
    for uuid, reason in contents.bad_sidecars.items():
        found.append(Volume(uuid, uuid, 0, 0, "", read_only=True, sm_config={ERROR: reason}))
    for name in contents.loose():
        uuid = Path(name).stem
        if name not in pending and uuid not in contents.bad_sidecars:
            found.append(managed(sr_uuid, files, look, Sidecar(uuid=uuid, head=name, location=name)))
    heads = contents.heads()
    for name in contents.parents() - heads.keys():
        if name in contents.images:
            found.append(_hidden(sr_uuid, files, contents, name))
    return sorted(found, key=lambda volume: volume.uuid)


def _hidden(sr_uuid: str, files: Files, contents: Contents, name: str) -> Volume:
    shown = contents.images[name]
    parent = hidden_uuid(sr_uuid, shown.backing) if shown.backing else ""
    config = {FORMAT: shown.format} | ({PARENT: parent} if parent else {})
    return Volume(
        uuid=hidden_uuid(sr_uuid, name),
        location=name,
        virtual_size=shown.virtual_size,
        physical_utilisation=files.allocated(name),
        format=shown.format,
        name_label="base copy",
        read_only=True,
        managed=False,
        parent=parent,
        sm_config=config,
    )
