"""Answers with many rows that nobody has asked for yet."""

from __future__ import annotations

import asyncio
import json

import pytest

from kronos.db.database import Database
from kronos.db.records import VM
from kronos.dispatch.answer import RecordsAnswer
from kronos.server import piecewise


@pytest.fixture
def db() -> Database:
    made = Database()
    for number in range(200):
        made.create(VM, name_label=f"vm {number}")
    return made


@pytest.mark.parametrize("xml", [True, False])
def test_an_answer_is_long_until_its_rows_are_written(db: Database, xml: bool) -> None:
    answer = RecordsAnswer(lambda: db.all(VM))
    assert piecewise.is_long(answer, xml=xml)
    asyncio.run(piecewise.ready(answer, xml=xml))
    assert not piecewise.is_long(answer, xml=xml)
    assert piecewise.is_long(answer, xml=not xml)


def test_the_loop_serves_others_meanwhile_and_what_they_do_is_in_the_answer(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(piecewise, "_SLICE", 0.0)
    answer = RecordsAnswer(lambda: db.all(VM))
    first, second, *_ = db.all(VM)

    async def others() -> None:
        db.delete(first)
        second.name_label = "renamed"
        db.create(VM, name_label="new")

    async def main() -> None:
        await asyncio.gather(piecewise.ready(answer, xml=False), others())

    asyncio.run(main())
    shown = {ref: record["name_label"] for ref, record in json.loads(answer.json()).items()}
    assert shown == {row.ref: row.name_label for row in db.all(VM)}
    assert first.ref not in shown
    assert "renamed" in shown.values() and "new" in shown.values()
