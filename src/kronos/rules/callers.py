"""Callers: which requests a caller's patterns mean, what a call costs, and how long one has to wait for its turn."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kronos.datamodel.errors import Failure

LONGEST_GROUP = 64
_GROUP = re.compile(r"[A-Za-z0-9_.\-]+")

READ, CALL, OPERATION = 1.0, 10.0, 100.0
"""Tokens of what is answered from memory, of a call that does something, and of one that an object is held for."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a caller is known by: each empty for any, ended by `*` for a beginning, or the whole."""

    user_agent: str
    client_ip: str

    def matches(self, user_agent: str, client_ip: str) -> bool:
        return _matches(self.user_agent, user_agent) and _matches(self.client_ip, client_ip)

    @property
    def is_whole(self) -> bool:
        """Whether it means one caller alone."""
        return all(each and not each.endswith("*") for each in (self.user_agent, self.client_ip))

    @property
    def rank(self) -> tuple[int, int, int]:
        """The higher, the more it says: of several that match, the highest is limited."""
        address, agent = (len(each.removesuffix("*")) for each in (self.client_ip, self.user_agent))
        return address + agent, address, agent

    def assert_valid(self) -> None:
        """Raises INVALID_VALUE ["user_agent/client_ip", reason]."""
        if not self.user_agent and not self.client_ip:
            reason = "at least one of user_agent or client_ip must be set"
            raise Failure("INVALID_VALUE", "user_agent/client_ip", reason)
        if not self.user_agent.removesuffix("*") and not self.client_ip.removesuffix("*"):
            raise Failure("INVALID_VALUE", "user_agent/client_ip", "all-wildcard pattern not allowed")


def _matches(pattern: str, value: str) -> bool:
    if not pattern or pattern.endswith("*"):
        return value.startswith(pattern[:-1])
    return pattern == value


def assert_group(group: str) -> None:
    """Raises INVALID_VALUE ["group", reason]."""
    if not group:
        raise Failure("INVALID_VALUE", "group", "empty group name")
    if len(group) > LONGEST_GROUP:
        raise Failure("INVALID_VALUE", "group", f"group name must be at most {LONGEST_GROUP} characters")
    if not _GROUP.fullmatch(group):
        raise Failure("INVALID_VALUE", "group", "group name may have letters, digits, '_', '-' and '.' alone")


def assert_limit(burst_size: float, fill_rate: float) -> None:
    """Raises INVALID_VALUE ["fill_rate" or "burst_size", value]."""
    for name, value in (("fill_rate", fill_rate), ("burst_size", burst_size)):
        if not 0 < value < float("inf"):
            raise Failure("INVALID_VALUE", name, f"{value:g}")


@dataclass(slots=True)
class Bucket:
    """Tokens that calls take out, and that come back as time goes by; full at the start. Times in seconds."""

    burst_size: float
    fill_rate: float
    tokens: float
    at: float

    def take(self, cost: float, moment: float) -> float:
        """Take tokens out, those of the future included; how many seconds until they are there. Who came first is
        served first: whoever comes now waits for them too."""
        self.tokens = min(self.burst_size, self.tokens + max(0.0, moment - self.at) * self.fill_rate)
        self.at = moment
        self.tokens -= cost
        return max(0.0, -self.tokens / self.fill_rate)
