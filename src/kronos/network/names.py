"""Names of bridges and network devices, checked before they reach the kernel, nft or a file's name."""

from __future__ import annotations

import re
import uuid

from kronos.datamodel.errors import Failure

# The kernel takes 15 bytes of nearly anything. Names also become nft identifiers, configuration lines and
# directories here, so only what is plain in all of them passes; a leading dash would read as an option.
_LONGEST = 15
_DIGITS = "0123456789abcdefghijklmnopqrstuv"
MARK = "kronos "
"""How the alias of a bridge begins that the daemon has made. Bridges have no external ids as Open vSwitch's do, but
every link has an alias, which goes when the link goes."""
UNFINISHED = 0x6B726F6E
"""The link group that the daemon makes a bridge in. The kernel makes no link with an alias, so for a moment a bridge
has none; one that a crash leaves like this is known by its group."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")


def check_bridge(untrusted_name: str) -> str:
    """`untrusted_name` as the name of a bridge. Raises INVALID_VALUE."""
    return _checked("bridge", untrusted_name)


def check_device(untrusted_name: str) -> str:
    """`untrusted_name` as the name of a network device. Raises INVALID_VALUE."""
    return _checked("device", untrusted_name)


def check_mtu(mtu: int) -> int:
    """`mtu` if a bridge can have it. Raises INVALID_VALUE."""
    if not 68 <= mtu <= 65535:
        raise invalid("MTU", str(mtu))
    return mtu


def port_name(vm_uuid: str, device: int) -> str:
    """The tap of VIF number `device` (0 to 99) of a VM: stable, and known before the VM starts.

    Seven digits of base 32 tell the VMs of one host apart (a thousand collide with a chance of 15 in a million). Of
    the 15 characters that a name may have that leaves the four that Xen adds where a guest has an emulated card too.
    """
    if not 0 <= device <= 99:
        raise Failure("INVALID_DEVICE", str(device))
    number = uuid.UUID(vm_uuid).int >> 93
    digits = "".join(_DIGITS[number >> shift & 31] for shift in range(30, -1, -5))
    return f"t{digits}.{device}"


def emulated(device: str) -> str | None:
    """The name of the emulated card beside a paravirtual one on Xen, None where there is no room for it."""
    name = f"{device}-emu"
    return name if len(name) <= _LONGEST else None


def bridge_of(device: str) -> str:
    """The bridge of a NIC's network, by XenServer's convention: eth0 has xenbr0."""
    number = device.removeprefix("eth")
    return f"xenbr{number}" if number.isdigit() else f"br{device}"[:_LONGEST]


def _checked(field: str, untrusted_name: str) -> str:
    if not _NAME.fullmatch(untrusted_name):
        raise invalid(field, untrusted_name)
    return untrusted_name


def invalid(field: str, value: str) -> Failure:
    """The failure for a value that `field` cannot have."""
    return Failure("INVALID_VALUE", field, value)
