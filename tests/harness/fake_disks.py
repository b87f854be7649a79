"""A host's disks in memory, behind the programs that change and show them: lsblk, wipefs, LVM's, mke2fs, mount.

Each program refuses what the real one refuses. A file system is a folder, and mounted as a link to it. Tests can have
the process die before or after any command (`strike_at`), and pull a disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kronos.storage.block import devices, mounts
from kronos.storage.block.devices import Content
from kronos.storage.faults import Fault
from kronos.system import commands
from kronos.system.commands import CommandFailed

GIB = 1 << 30
CHANGING = (
    *("pvcreate", "vgcreate", "lvcreate", "mke2fs", "mount", "umount", "lvchange"),
    *("lvremove", "vgremove", "pvremove"),
)


class Killed(BaseException):
    """The process is gone: no clean-up of its runs either."""


@dataclass
class FakeDisk:
    """What lsblk and wipefs say of it; `identity` is that of a physical volume of LVM."""

    size: int = 8 * GIB
    kind: str = "disk"
    model: str = "QEMU HARDDISK"
    number: str | None = None
    read_only: bool = False
    removable: bool = False
    mounted: tuple[str, ...] = ()
    children: tuple[tuple[str, str], ...] = ()
    signatures: tuple[str, ...] = ()
    blank: bool = True
    busy: bool = False
    identity: str = ""


@dataclass
class Group:
    members: list[tuple[str, str]]
    """Device and identity."""
    volumes: dict[str, Path | None] = field(default_factory=dict)
    active: set[str] = field(default_factory=set)


class FakeDisks:
    """One host's. `disks` is by device."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch, **disks: FakeDisk) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.disks = {f"/dev/{name}": disk for name, disk in disks.items()}
        self.groups: dict[str, Group] = {}
        self.mounted: dict[Path, tuple[str, str]] = {}
        self.said: list[list[str]] = []
        """Commands that change something, in their order."""
        self.failing: str = ""
        self.strike_at: int | None = None
        self._steps = 0
        self._dead = False
        self._real = commands.run
        patch.setattr(mounts, "BASE", directory / "sr-mount")
        patch.setattr(mounts, "apart", lambda: False)
        patch.setattr(mounts, "device_at", self._device_at)
        patch.setattr(mounts, "number_of", lambda device: device)
        patch.setattr(devices, "resolved", self._resolved)
        patch.setattr(devices, "content", self._content)
        patch.setattr(commands, "run", self.run)

    # --- what tests do to it -----------------------------------------------------------------------------------------

    def pull(self, device: str) -> None:
        del self.disks[device]

    def revive(self) -> None:
        """The next process; what is on the disks is as the last one left it."""
        self.strike_at, self._dead, self._steps = None, False, 0

    def untouched(self) -> bool:
        """Whether there is nothing of anybody's SR."""
        return not self.groups and not self.mounted and all(not disk.identity for disk in self.disks.values())

    # --- the programs ------------------------------------------------------------------------------------------------

    def run(self, argv: Sequence[str], **options: Any) -> str:
        words = list(argv[4:] if argv[:2] == ["sh", "-c"] else argv)
        program = getattr(self, f"_{words[0].replace('-', '_')}", None)
        if program is None:
            return self._real(argv, **options)
        if words[0] not in CHANGING:
            self._alive()
            return self._tried(program, words)
        self._strike()
        self.said.append(words)
        said = self._tried(program, words)
        self._strike()
        return said

    def _tried(self, program: Callable[[list[str]], str], words: list[str]) -> str:
        if words[0] == self.failing:
            raise CommandFailed(words, 5, f"{words[0]}: it is made to fail")
        return program([word for word in words[1:] if word != "--quiet"])

    def _alive(self) -> None:
        if self._dead:
            raise Killed

    def _strike(self) -> None:
        self._alive()
        self._steps += 1
        if self.strike_at is not None and self._steps > self.strike_at:
            self._dead = True
            raise Killed

    def _lsblk(self, words: list[str]) -> str:
        asked = [word for word in words if word.startswith("/dev/")] or list(self.disks)
        return json.dumps({"blockdevices": [self._row(path) for path in asked]})

    def _row(self, path: str) -> dict[str, Any]:
        disk = self.disks[path]
        children = [{"path": name, "type": kind, "mountpoints": [None]} for name, kind in disk.children]
        return {
            "path": path,
            "type": disk.kind,
            "size": disk.size,
            "ro": disk.read_only,
            "rm": disk.removable,
            "hotplug": disk.removable,
            "tran": None,
            "model": disk.model,
            "wwn": disk.number,
            "children": children,
            "mountpoints": list(disk.mounted) or [None],
        }

    def _udevadm(self, words: list[str]) -> str:
        return ""

    def _pvs(self, words: list[str]) -> str:
        rows = [
            self._physical(path, disk.identity, "")
            for path, disk in self.disks.items()
            if disk.identity and disk.identity not in self._members()
        ]
        for name, group in self.groups.items():
            present = [device for device, _ in group.members if device in self.disks]
            for device, identity in group.members if present else ():
                rows.append(self._physical(device if device in present else "[unknown]", identity, name))
        return json.dumps({"report": [{"pv": rows}]})

    def _physical(self, device: str, identity: str, group: str) -> dict[str, str]:
        members = self.groups[group].members if group else []
        gone = [each for each, _ in members if each not in self.disks]
        return {
            "pv_name": device,
            "pv_uuid": identity,
            "vg_name": group,
            "vg_uuid": group,
            "vg_size": str(GIB * len(members)),
            "vg_missing_pv_count": str(len(gone)),
        }

    def _members(self) -> set[str]:
        return {identity for group in self.groups.values() for _, identity in group.members}

    def _lvs(self, words: list[str]) -> str:
        name = words[-1].removeprefix("vg_name=")
        volumes = self.groups[name].volumes if name in self.groups else {}
        rows = [{"lv_name": each, "lv_dm_path": f"/dev/mapper/{name}+{each}"} for each in volumes]
        return json.dumps({"report": [{"lv": rows}]})

    def _pvcreate(self, words: list[str]) -> str:
        disk = self.disks[words[-1]]
        self._check(
            not disk.identity and not disk.signatures and not disk.mounted, f"{words[-1]} is not free"
        )
        disk.identity = words[words.index("--uuid") + 1]
        return ""

    def _vgcreate(self, words: list[str]) -> str:
        name, *members = words
        self._check(name not in self.groups, "there is such a group")
        for each in members:
            disk = self.disks[each]
            self._check(disk.identity != "" and disk.identity not in self._members(), f"{each} is not free")
        self.groups[name] = Group([(each, self.disks[each].identity) for each in members])
        return ""

    def _lvcreate(self, words: list[str]) -> str:
        group, name = self.groups[words[-1]], words[words.index("--name") + 1]
        self._check(name not in group.volumes, "there is such a volume")
        group.volumes[name] = None
        group.active.add(name)
        return ""

    def _lvchange(self, words: list[str]) -> str:
        group, volume = words[-1].split("/")
        if words[1] == "n":
            self._check((group, volume) not in self.mounted.values(), "the volume is in use")
            self.groups[group].active.discard(volume)
        else:
            self._check(
                all(device in self.disks for device, _ in self.groups[group].members), "disks are missing"
            )
            self.groups[group].active.add(volume)
        return ""

    def _lvremove(self, words: list[str]) -> str:
        group, volume = words[-1].split("/")
        self._check((group, volume) not in self.mounted.values(), "the volume is in use")
        del self.groups[group].volumes[volume]
        return ""

    def _vgremove(self, words: list[str]) -> str:
        self._check(not self.groups[words[-1]].volumes, "there are volumes in it")
        del self.groups[words[-1]]
        return ""

    def _pvremove(self, words: list[str]) -> str:
        disk = self.disks[words[-1]]
        self._check(disk.identity != "" and disk.identity not in self._members(), "it is in a group")
        disk.identity = ""
        return ""

    def _mke2fs(self, words: list[str]) -> str:
        group, volume = self._active(words[-1])
        system = self.directory / f"{group}+{volume}"
        system.mkdir()
        (system / "lost+found").mkdir()
        self.groups[group].volumes[volume] = system
        return ""

    def _e2fsck(self, words: list[str]) -> str:
        group, volume = self._active(words[-1])
        self._check(self.groups[group].volumes[volume] is not None, "no file system")
        return ""

    def _mount(self, words: list[str]) -> str:
        group, volume = self._active(words[-2])
        system, where = self.groups[group].volumes[volume], Path(words[-1])
        assert system is not None and where not in self.mounted
        where.rmdir()
        where.symlink_to(system)
        self.mounted[where] = (group, volume)
        return ""

    def _umount(self, words: list[str]) -> str:
        where = Path(words[-1])
        del self.mounted[where]
        where.unlink()
        where.mkdir()
        return ""

    def _active(self, device: str) -> tuple[str, str]:
        group, volume = device.removeprefix("/dev/mapper/").split("+")
        self._check(volume in self.groups[group].active, "the volume is not active")
        return group, volume

    def _check(self, right: bool, otherwise: str) -> None:
        if not right:
            raise CommandFailed(["program"], 5, otherwise)

    # --- the kernel --------------------------------------------------------------------------------------------------

    def _device_at(self, where: Path) -> str:
        return "/dev/mapper/" + "+".join(self.mounted[where]) if where in self.mounted else ""

    def _resolved(self, name: str) -> str:
        if name not in self.disks:
            raise Fault.NO_SUCH_DEVICE.failure(name)
        return name

    def _content(self, path: str) -> Content:
        disk = self.disks[path]
        signatures: Iterable[str] = (*disk.signatures, *(("LVM2_member",) if disk.identity else ()))
        return Content(tuple(signatures), disk.busy or bool(disk.mounted), disk.blank)
