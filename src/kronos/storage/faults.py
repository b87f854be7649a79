"""The numbered faults of storage back ends, as clients know them: SR_BACKEND_FAILURE_<n>."""

from __future__ import annotations

import enum
import errno
from collections.abc import Iterator
from contextlib import contextmanager

from kronos.datamodel.errors import Failure
from kronos.system.commands import CommandFailed


class Fault(enum.Enum):
    """Number and meaning of a fault. The numbers are the published ones of XenServer's storage manager."""

    INVALID_ARGUMENT = (1, "Invalid argument")
    SR_IN_USE = (16, "The SR device is currently in use")
    NO_SUCH_DEVICE = (19, "No such device")
    SR_SCAN = (40, "Scanning the SR failed")
    SR_EXISTS = (42, "The location is already in use")
    VDI_EXISTS = (43, "There is such a VDI already")
    SR_NO_SPACE = (44, "Not enough space on the SR")
    VDI_UNAVAILABLE = (46, "The VDI cannot be used")
    SR_UNAVAILABLE = (47, "The SR cannot be used")
    VOLUME_CREATE = (50, "The logical volume could not be created")
    VOLUME_DELETE = (51, "The logical volume could not be deleted")
    VOLUME_MOUNT = (52, "The logical volume could not be activated or mounted")
    VOLUME_UNMOUNT = (53, "The logical volume could not be unmounted or deactivated")
    PHYSICAL_CREATE = (55, "The physical volume could not be created")
    FILE_SYSTEM_CREATE = (57, "The file system could not be created")
    GROUP_CREATE = (77, "The volume group could not be created")
    VDI_CREATE = (78, "Creating the VDI failed")
    VDI_SIZE = (79, "Invalid VDI size")
    DEVICE_MISSING = (90, "The device parameter is missing")
    DEVICE_INVALID = (91, "The device is not a valid path")
    PHYSICAL_LIST = (93, "The physical volumes could not be listed")
    LOCATION_MISSING = (94, "The location parameter is missing")
    ROOT_DEVICE = (105, "The system's own disk cannot be used for VMs")
    CHAIN_TOO_LONG = (109, "The snapshot chain is too long")
    VDI_RESIZE = (110, "Resizing the VDI failed")
    ISO_LOCATION_MISSING = (220, "The location parameter is missing")
    ISO_LOCAL_PATH = (226, "Invalid local path")
    GENERAL = (202, "The storage driver failed")

    def failure(self, detail: str = "") -> Failure:
        """The XenAPI error for this fault: params "", the reason, ""."""
        number, reason = self.value
        return Failure(
            f"SR_BACKEND_FAILURE_{number}", "", f"{reason} [opterr={detail}]" if detail else reason, ""
        )


# What the operating system says when the SR as a whole is out of reach, as against a fault of one operation.
_GONE = frozenset(
    {errno.EIO, errno.ESTALE, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.EHOSTDOWN}
)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def as_failures() -> Iterator[None]:
    """Turn what the operating system or a command says into the fault a XenAPI client expects.

    Raises SR_BACKEND_FAILURE_44 (no space), 47 (the SR is out of reach), 202 (anything else).
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise Fault.SR_NO_SPACE.failure(str(error)) from error
        if error.errno in _GONE:
            raise Fault.SR_UNAVAILABLE.failure(str(error)) from error
        raise Fault.GENERAL.failure(str(error)) from error
    except CommandFailed as failed:
        if "No space left" in failed.stderr:
            raise Fault.SR_NO_SPACE.failure(failed.stderr) from failed
        raise Fault.GENERAL.failure(str(failed)) from failed
