"""Where libvirt keeps what guests' firmware remembers over runs: the file of UEFI's variables, and the TPM's."""

from __future__ import annotations

import errno
import os
import pwd
import re
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from kronos.hypervisor.hardware import Kept
from kronos.system.libvirtd import Estate

_SETTING = re.compile(r'^\s*swtpm_(user|group)\s*=\s*"\+?(\w+)"', re.MULTILINE)
_TPM_ACCOUNT = "tss"
LARGEST = 1 << 24
"""Bytes that such a file may have."""


class FirmwareFiles:
    """The files of all VMs under one libvirt. While a VM runs they are its firmware's; afterwards they say how the run
    ended, until the next start puts others in their place."""

    def __init__(self, estate: Estate) -> None:
        self._estate = estate

    def variables(self, uuid: str) -> Path:
        """The file of UEFI's variables, as libvirt sees it."""
        return self._estate.seen / self._variables(uuid)

    def put(self, uuid: str, kept: Kept, owner: tuple[int, int] | None) -> None:
        """Have the next run begin with `kept`; what is None begins anew, as libvirt makes it."""
        _put(self._estate.real / self._variables(uuid), kept.variables, owner)
        tpm = self._estate.real / self._tpm(uuid)
        shutil.rmtree(tpm.parent, ignore_errors=True)
        if kept.tpm is not None:
            account = self._account()
            # libvirt's own directory for a VM is one that others can pass through.
            tpm.parent.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            tpm.parent.mkdir(mode=0o700)
            if account is not None:
                os.chown(tpm.parent, *account)
            _put(tpm, kept.tpm, account)

    def take(self, uuid: str) -> Kept:
        """How the firmware of a VM that runs or ran last has left things. Raises OSError."""
        real = self._estate.real
        return Kept(_taken(real / self._variables(uuid)), _taken(real / self._tpm(uuid)))

    def forget(self, uuid: str) -> None:
        """Remove everything of a VM that is no more."""
        variables = self._estate.real / self._variables(uuid)
        for path in (variables, _part(variables)):  # a start may have been cut short
            with suppress(OSError):
                path.unlink()
        shutil.rmtree((self._estate.real / self._tpm(uuid)).parent.parent, ignore_errors=True)

    @staticmethod
    def _variables(uuid: str) -> Path:
        return Path("qemu/nvram", f"{uuid}_VARS.fd")

    def _tpm(self, uuid: str) -> Path:
        return Path(self._estate.tpms, uuid, "tpm2/tpm2-00.permall")

    def _account(self) -> tuple[int, int] | None:
        """The user that TPMs run as: libvirt's setting, else `tss` where there is one, else root."""
        if os.geteuid() != 0:
            return None
        found = {}
        with suppress(OSError):
            found = dict(_SETTING.findall((self._estate.settings / "qemu.conf").read_text()))
        try:
            entry = pwd.getpwnam(found.get("user", _TPM_ACCOUNT))
        except KeyError:
            return 0, 0
        return entry.pw_uid, entry.pw_gid


def _put(path: Path, content: bytes | None, owner: tuple[int, int] | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path)
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        if owner is not None and os.geteuid() == 0:
            os.fchown(file.fileno(), *owner)
        file.write(content)
    part.rename(path)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _taken(path: Path) -> bytes | None:
    """A file of the account that guests' firmware runs as, which must not be able to point elsewhere."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode) or seen.st_nlink > 1 or seen.st_size > LARGEST:
            raise OSError(errno.EINVAL, "not a file of firmware", str(path))
        return file.read(LARGEST) or None
