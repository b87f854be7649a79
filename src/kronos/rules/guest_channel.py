"""The guest channel's lines: what a guest may say, and what it is told. See docs/guest-channel.md.

Each line is one JSON object. Everything that a guest sends is untrusted: it may be anything, of any length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LINE = 64 << 10
"""Bytes of the longest line, either way."""
KEYS = 64
KEY = 256
VALUE = 4096
ALL = 64 << 10
"""Bytes of all keys and values together that are kept of one guest."""
MARK = 64

GIVEN_PREFIX = "vm-data/"
"""VM.xenstore_data's keys that are the guest's."""

_KEY = re.compile(r"[A-Za-z0-9_./:@+-]+")
_UNFIT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML cannot carry
_OURS = frozenset({"hello", "config", "said", "error"})

Mark = str | int | None


class Refused(ValueError):
    """A line that is not taken; the text tells the guest why."""


@dataclass(frozen=True)
class Request:
    """What one line wants: the configuration, or keys to be noted (None: forgotten)."""

    asks: bool = False
    says: Mapping[str, str | None] = field(default_factory=dict)
    mark: Mark = None


def request(untrusted_line: bytes) -> Request | None:
    """What a guest's line wants; None for a line to be passed over: an empty one, or one of ours that a terminal
    without raw mode sent back. Raises Refused."""
    if not untrusted_line.strip():
        return None
    try:
        untrusted = json.loads(untrusted_line)
    except (ValueError, RecursionError) as error:
        raise Refused("not JSON") from error
    if not isinstance(untrusted, dict):
        raise Refused("not an object")
    if "ask" not in untrusted and "say" not in untrusted:
        if _OURS & untrusted.keys():
            return None
        raise Refused("neither ask nor say")
    if untrusted.get("ask", "config") != "config":
        raise Refused("ask: there is config alone")
    return Request("ask" in untrusted, _said(untrusted.get("say", {})), _mark(untrusted.get("id")))


def _mark(untrusted: Any) -> Mark:
    if untrusted is None or (isinstance(untrusted, int) and abs(untrusted) < 1 << 53):
        return untrusted
    if isinstance(untrusted, str) and len(untrusted) <= MARK:
        return untrusted
    raise Refused(f"id: an integer, or at most {MARK} characters")


def _said(untrusted: Any) -> Mapping[str, str | None]:
    if not isinstance(untrusted, dict):
        raise Refused("say: not an object")
    for key, value in untrusted.items():
        if len(key) > KEY or not _KEY.fullmatch(key):
            raise Refused(f"say: a key is 1 to {KEY} of A-Z a-z 0-9 _ . / : @ + -")
        if value is None:
            continue
        if not isinstance(value, str) or _UNFIT.search(value) or len(value.encode()) > VALUE:
            raise Refused(
                f"say: a value is null, or text of at most {VALUE} bytes without control characters"
            )
    return untrusted


def noted(known: Mapping[str, str], says: Mapping[str, str | None]) -> dict[str, str]:
    """What is known of a guest after it said this. Raises Refused where it would be too much; nothing is noted then."""
    after = dict(known)
    for key, value in says.items():
        if value is None:
            after.pop(key, None)
        else:
            after[key] = value
    if len(after) > KEYS:
        raise Refused(f"say: more than {KEYS} keys")
    if sum(len(key) + len(value.encode()) for key, value in after.items()) > ALL:
        raise Refused(f"say: more than {ALL} bytes in all")
    return after


def given(config: Mapping[str, str], xenstore_data: Mapping[str, str]) -> dict[str, str]:
    """What a guest is given: VM.channel_config, and what XenAPI's clients write for guests into xenstore_data."""
    return {key: value for key, value in xenstore_data.items() if key.startswith(GIVEN_PREFIX)} | dict(config)


def hello() -> bytes:
    """The first line of each connection."""
    return _line({"hello": "kronos", "protocol": 1})


def config(values: Mapping[str, str], mark: Mark = None) -> bytes:
    """The guest's configuration; an error in its place where it is longer than a line may be."""
    line = _line({"config": dict(values)}, mark)
    return line if len(line) <= LINE else error("the configuration is longer than a line", mark)


def said(count: int, mark: Mark) -> bytes:
    """The answer to a `say` that has an id: how many keys are known now."""
    return _line({"said": count}, mark)


def error(text: str, mark: Mark = None) -> bytes:
    """Why something was not done."""
    return _line({"error": text}, mark)


def _line(answer: Mapping[str, Any], mark: Mark = None) -> bytes:
    marked = answer if mark is None else {"id": mark, **answer}
    # ASCII alone: a guest's shell can take it apart without knowing of encodings.
    return json.dumps(marked, separators=(",", ":")).encode() + b"\n"
