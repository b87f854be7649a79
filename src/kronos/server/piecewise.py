"""Answers that take long to write: their rows are written a few at a time, so that the loop serves others meanwhile."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from kronos.dispatch.answer import Answer

FEW: Final = 50
"""Rows that are written at once: some two milliseconds."""
_SLICE: Final = 0.005
"""Seconds that the loop is kept for."""


def is_long(answer: Answer, *, xml: bool) -> bool:
    """Are many of its rows without the form that it is to be written in?"""
    return len(answer.rows_to_write(xml=xml)) > FEW


async def ready(answer: Answer, *, xml: bool) -> None:
    """Have the rows' forms made and kept. The answer is about the rows that there are at the end, as those may be
    others by then; the few that have changed meanwhile are written with it, at one moment."""
    until = time.monotonic() + _SLICE
    for row in answer.rows_to_write(xml=xml):
        if xml:
            row.xml_member()
        else:
            row.json_member()
        if time.monotonic() > until:
            await asyncio.sleep(0)
            until = time.monotonic() + _SLICE
    answer.renew()


async def at_hand(answer: Answer) -> Answer:
    """An answer where one is waited for."""
    return answer
