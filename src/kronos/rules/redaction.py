"""Redaction: what of a record does not leave the host with a report."""

from __future__ import annotations

import re
from typing import Any

from kronos.datamodel.model import Field

REMOVED = "REMOVED"
_SECRET = re.compile(
    r"pass(word|wd|phrase)?|pwd|psk|secret|chap|token|credential|private|(api|ssh)_?key|community",
    re.IGNORECASE,
)
_URL = re.compile(r"(://[^/?#\s:@]*):[^/?#\s]*@")
"""The part of a URL that names who comes, and with which password."""
_WHOLE = {("secret", "value"), ("VTPM", "contents"), ("VM", "snapshot_metadata")}
"""Fields that are secrets by themselves, or hold a record with its passwords as one text."""


def without_passwords(text: str) -> str:
    """A text whose URLs have lost their passwords.

    >>> without_passwords("proxy=http://me:hush@192.0.2.1:3128/ no more")
    'proxy=http://me:REMOVED@192.0.2.1:3128/ no more'
    """
    return _URL.sub(rf"\1:{REMOVED}@", text) if "://" in text else text


def hidden(field: Field, value: Any) -> Any:
    """A field's value without what opens something: secrets, entries of maps whose key speaks of one,
    and the passwords in URLs.

    The key of an entry stays: that there is a password may be what is wrong.
    """
    if (field.cls, field.name) in _WHOLE:
        return field.type.zero if not isinstance(value, str) else REMOVED
    if isinstance(value, dict):
        return {
            key: REMOVED
            if isinstance(key, str) and isinstance(item, str) and _SECRET.search(key)
            else _shown(item)
            for key, item in value.items()
        }
    return tuple(map(_shown, value)) if isinstance(value, tuple) else _shown(value)


def _shown(item: Any) -> Any:
    return without_passwords(item) if isinstance(item, str) else item
