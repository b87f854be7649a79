"""Messages: left about an object, read back, kept within bounds."""

from __future__ import annotations

import pytest

from kronos.api import message
from kronos.db.records import Message


def test_a_message_is_about_an_object_that_exists(xapi):
    assert xapi.refused("message.create", "hello", 3, "VM", "nothing", "body") == [
        "UUID_INVALID",
        "VM",
        "nothing",
    ]


def test_messages_about_what_never_was_are_refused(xapi):
    assert xapi.refused("message.get", "VM", "nothing", "19700101T00:00:00Z") == [
        "UUID_INVALID",
        "VM",
        "nothing",
    ]


def test_messages_are_read_back_by_object_and_time(xapi):
    pool = xapi("pool.get_record", xapi("pool.get_all")[0])
    ref = xapi("message.create", "hello", 3, "Pool", pool["uuid"], "body")
    assert xapi("message.get_record", ref)["body"] == "body"
    assert list(xapi("message.get", "Pool", pool["uuid"], "19700101T00:00:00Z")) == [ref]
    assert xapi("message.get_since", "21000101T00:00:00Z") == {}
    xapi("message.destroy_all", {"priority": "2"})
    assert list(xapi("message.get_all")) == [ref]
    xapi("message.destroy", ref)
    assert xapi("message.get_all_records") == {}


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ({"before": "2026-06-15T00:00:00Z"}, ["late"]),
        ({"after": "2026-06-15T00:00:00Z"}, ["early"]),
        ({"before": "20260615T00:00:00Z"}, ["late"]),
        ({"after": "2026-03-01T01:00:00+01:00"}, ["early"]),
        ({"priority": " 3"}, []),
    ],
)
def test_messages_of_a_time_are_destroyed_however_the_client_writes_it(xapi, filters, left):
    for name, timestamp in (("early", "20260301T00:00:00Z"), ("late", "20260901T00:00:00Z")):
        message.tell(xapi.db, name, 3, "Pool", "uuid", "").timestamp = timestamp
    xapi("message.destroy_all", filters)
    assert [row.name for row in xapi.db.all(Message)] == left


@pytest.mark.parametrize("filters", [{"before": "yesterday"}, {"priority": "high"}, {"name": "hello"}])
def test_a_filter_that_says_nothing_destroys_nothing(xapi, filters):
    message.tell(xapi.db, "hello", 3, "Pool", "uuid", "")
    [(key, value)] = filters.items()
    assert xapi.refused("message.destroy_all", filters) == ["INVALID_VALUE", key, value]
    assert len(xapi.db.all(Message)) == 1


def test_the_oldest_messages_make_room(xapi, monkeypatch):
    monkeypatch.setattr(message, "MOST", 3)
    for number in range(5):
        message.tell(xapi.db, str(number), 5, "Pool", "uuid", "")
    assert [row.name for row in xapi.db.all(Message)] == ["2", "3", "4"]
