"""Clocks: which servers a host takes its time from, as its time service is told."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from kronos.datamodel.errors import Failure

_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
_SERVER = re.compile(r"\s*(server|pool|peer)\s")
_OFF = "#xapi# "
_OURS = " # xapi"


def require_servers(untrusted: Sequence[str]) -> None:
    """Raises INVALID_NTP_CONFIG unless each is a name or an address: they go into a file of a daemon of root's."""
    for each in untrusted:
        if not (_NAME.fullmatch(each) or _is_address(each)):
            raise Failure("INVALID_NTP_CONFIG", f"{each[:80]!r} is neither a name nor an address")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def require_mode(mode: str, servers: Sequence[str]) -> None:
    """Raises INVALID_NTP_CONFIG where a mode needs servers and has none."""
    if mode == "Custom" and not servers:
        raise Failure("INVALID_NTP_CONFIG", "Can't set ntp_mode to Custom when ntp_custom_servers is empty")


def chrony_configuration(text: str, mode: str, servers: Sequence[str]) -> str:
    """chrony's own file for a mode, from the one that there is.

    The administrator's servers are put out of action by a mark, not deleted: Factory takes the mark off again.
    """
    lines = [line.removeprefix(_OFF) for line in text.splitlines() if not line.endswith(_OURS)]
    if mode in ("Custom", "DHCP"):
        lines = [_OFF + line if _SERVER.match(line) else line for line in lines]
    if mode == "Custom":
        lines += [f"server {server} iburst{_OURS}" for server in servers]
    return "".join(f"{line}\n" for line in lines)


def timesyncd_configuration(mode: str, servers: Sequence[str]) -> str:
    """systemd-timesyncd's drop-in for a mode; empty where the distribution's servers are to be asked."""
    if mode not in ("Custom", "DHCP"):
        return ""
    own = " ".join(servers) if mode == "Custom" else ""
    return f"# Written by xapi (host.set_ntp_mode).\n[Time]\nNTP={own}\nFallbackNTP=\n"


_STATES = {
    "*": "synced",
    "+": "combined",
    "-": "uncombined",
    "x": "error",
    "~": "variable",
    "?": "unreachable",
}


def chrony_status(sources: str) -> dict[str, str]:
    """What `chronyc -c sources` says of each server."""
    rows = (line.strip().split(",") for line in sources.splitlines())
    return {row[2]: _STATES.get(row[1], "unknown") for row in rows if len(row) > 2 and row[0] == "^"}


def timesyncd_status(shown: str, synchronised: bool) -> dict[str, str]:
    """What `timedatectl show-timesync` says of the one server that is asked at a time."""
    fields = dict(line.partition("=")[::2] for line in shown.splitlines())
    name = fields.get("ServerName") or fields.get("ServerAddress", "")
    return {name: "synced" if synchronised else "unreachable"} if name else {}
