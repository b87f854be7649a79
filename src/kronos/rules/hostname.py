"""Host names: what a host may be called, and what is called after it."""

from __future__ import annotations

import re

from kronos.datamodel.errors import Failure

LONGEST = 255
_CONTROL_DOMAIN = "Control domain on host: "
_LETTERS = re.compile(r"[A-Za-z0-9.-]*")


def require_hostname(untrusted: str) -> None:
    """Raises HOST_NAME_INVALID [reason]."""
    if not untrusted:
        raise Failure("HOST_NAME_INVALID", "hostname empty")
    if len(untrusted) > LONGEST:
        raise Failure("HOST_NAME_INVALID", "hostname is too long")
    if not _LETTERS.fullmatch(untrusted) or untrusted.startswith("-") or untrusted.endswith("-"):
        raise Failure("HOST_NAME_INVALID", "hostname contains invalid characters")


def control_domain_name(present: str, hostname: str) -> str:
    """What the control domain of a host is called: after the host, unless somebody gave it a name of its own."""
    return f"{_CONTROL_DOMAIN}{hostname}" if not present or present.startswith(_CONTROL_DOMAIN) else present
