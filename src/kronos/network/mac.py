"""MAC addresses of virtual interfaces: derived from a VM's seed, drawn at random, or checked."""

from __future__ import annotations

import hashlib
import re
import secrets

from kronos.datamodel.errors import Failure

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def mac_of_seed(seed: str, device: int) -> str:
    """The address of VIF number `device` of a VM whose other_config:mac_seed is `seed`.

    The rule is XenServer's, bit for bit: the same seed gives the same addresses on either toolstack, so that
    a VM moved between them keeps the leases and licences that hang on its MAC.
    """
    digest = seed.encode()
    for _ in range(2 * device + 1):
        digest = _md5(digest)
    after = _md5(digest)
    return _local_unicast(digest[:4] + after[1:3])


def random_mac() -> str:
    """A locally administered unicast address that no seed predicts."""
    return _local_unicast(secrets.token_bytes(6))


def check(untrusted_mac: str) -> str:
    """`untrusted_mac` in lower case.

    Group addresses and the zero address are refused too: no NIC may have one.

    Raises MAC_INVALID.
    """
    mac = untrusted_mac.lower()
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise Failure("MAC_INVALID", untrusted_mac)
    return mac


def _local_unicast(octets: bytes) -> str:
    first = (octets[0] | 0x02) & ~0x01
    return bytes([first, *octets[1:]]).hex(":")


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
