"""How reading a guest's disk fails."""

from __future__ import annotations

_LONGEST = 300


class BootUnreadable(Exception):
    """The guest's disk holds nothing that this program can boot; the text says in plain words why."""


class JailEnded(BootUnreadable):
    """Nothing more can be read: the time is over, or the reader of file systems is gone."""


def shown(untrusted_text: str) -> str:
    """A name out of a guest, fit for a message: printable, on one line, bounded."""
    text = "".join(c if c.isprintable() else "?" for c in untrusted_text[:_LONGEST])
    return text + "…" if len(untrusted_text) > _LONGEST else text
