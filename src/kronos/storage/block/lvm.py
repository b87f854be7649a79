"""LVM: volume groups over disks, by its own commands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from kronos.storage.block.turn import Run


@dataclass(frozen=True)
class Physical:
    """A disk, or partition, that LVM knows. Sizes are bytes."""

    name: str
    """Its device; not a path where it is missing."""
    uuid: str
    group: str
    """The volume group that it is part of; none where this is empty."""
    group_uuid: str
    group_size: int
    missing: int
    """How many disks of the group are not there."""


def physical_volumes(run: Run) -> list[Physical]:
    """Every physical volume of the host, those that groups miss among them. Raises CommandFailed."""
    fields = "pv_name,pv_uuid,vg_name,vg_uuid,vg_size,vg_missing_pv_count"
    said = run(["pvs", *_REPORT, "--options", fields])
    return [
        Physical(
            row["pv_name"],
            row["pv_uuid"],
            row["vg_name"],
            row["vg_uuid"],
            int(row["vg_size"] or 0),
            int(row["vg_missing_pv_count"] or 0),
        )
        for row in json.loads(said)["report"][0]["pv"]
    ]


_REPORT = ("--reportformat", "json", "--units", "b", "--nosuffix")


def logical_volumes(run: Run, group: str) -> dict[str, str]:
    """A group's logical volumes: name -> device, which is there once the volume is active. Raises CommandFailed."""
    said = run(["lvs", *_REPORT, "--options", "lv_name,lv_dm_path", "--select", f"vg_name={group}"])
    return {row["lv_name"]: row["lv_dm_path"] for row in json.loads(said)["report"][0]["lv"]}


def make_physical(run: Run, device: str, uuid: str) -> None:
    """LVM itself refuses a device on which it finds something: nobody is there to tell it otherwise."""
    run(["pvcreate", "--quiet", "--norestorefile", "--uuid", uuid, device])


def make_group(run: Run, group: str, devices: Sequence[str]) -> None:
    run(["vgcreate", "--quiet", group, *devices])


def make_volume(run: Run, group: str, volume: str) -> None:
    """A volume of all the space. What the disks held there before somebody wiped their beginning goes."""
    run(
        [
            "lvcreate",
            "--quiet",
            "--yes",
            "--wipesignatures",
            "y",
            *("--extents", "100%FREE"),
            *("--name", volume),
            group,
        ]
    )


def activate(run: Run, group: str, volume: str) -> None:
    run(["lvchange", "--quiet", "--activate", "y", f"{group}/{volume}"])


def deactivate(run: Run, group: str, volume: str) -> None:
    run(["lvchange", "--quiet", "--activate", "n", f"{group}/{volume}"])


def remove_volume(run: Run, group: str, volume: str) -> None:
    run(["lvremove", "--quiet", "--yes", f"{group}/{volume}"])


def remove_group(run: Run, group: str) -> None:
    """LVM refuses while there are volumes in it."""
    run(["vgremove", "--quiet", group])


def remove_physical(run: Run, device: str) -> None:
    """LVM refuses while the device is part of a group."""
    run(["pvremove", "--quiet", device])
