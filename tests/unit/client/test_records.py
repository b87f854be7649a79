"""Records that follow events: what is known after any batch, and what is told of it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kronos_client.records import Change, Records


def event(operation: str, ref: str, snapshot: Any = None, cls: str = "vm") -> dict[str, Any]:
    return {"class": cls, "operation": operation, "ref": ref, "snapshot": snapshot}


def test_records_come_change_and_go() -> None:
    records = Records(["VM"])
    records._apply([event("add", "a", {"name_label": "one"})], whole=True)
    assert records.VM == {"a": {"name_label": "one"}}
    changes = records._apply([event("mod", "a", {"name_label": "two"})], whole=False)
    assert changes == [Change("VM", "a", {"name_label": "one"}, {"name_label": "two"})]
    assert records.named("VM", "two") == ["a"]
    assert records._apply([event("del", "a")], whole=False)[0].after is None
    assert not records.VM


def test_an_event_that_changes_nothing_is_not_told() -> None:
    records = Records(["VM"])
    records._apply([event("add", "a", {"name_label": "one"})], whole=True)
    assert records._apply([event("mod", "a", {"name_label": "one"})], whole=False) == []


def test_records_that_are_gone_through_are_not_changed_meanwhile() -> None:
    records = Records(["VM"])
    records._apply([event("add", ref, {"name_label": ref}) for ref in "abc"], whole=True)
    seen = []
    for ref in records.VM:
        seen.append(ref)
        records._apply([event("del", "c"), event("add", "d", {})], whole=False)
    assert seen == ["a", "b", "c"]
    assert set(records.VM) == {"a", "b", "d"}


def test_classes_that_nobody_follows_are_left_out() -> None:
    records = Records(["VM"])
    assert records._apply([event("add", "a", {}, cls="task")], whole=False) == []


names = st.sampled_from("abcdef")
states = st.dictionaries(names, st.fixed_dictionaries({"name_label": st.sampled_from(["x", "y"])}))


@given(states, states)
def test_a_whole_batch_tells_exactly_what_differs_from_what_was_known(before: Any, after: Any) -> None:
    records = Records(["VM"])
    records._apply([event("add", ref, row) for ref, row in before.items()], whole=True)
    changes = records._apply([event("add", ref, row) for ref, row in after.items()], whole=True)
    assert dict(records.VM) == after
    assert {change.ref for change in changes} == {
        ref for ref in before.keys() | after.keys() if before.get(ref) != after.get(ref)
    }
