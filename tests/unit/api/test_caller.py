"""Callers and their limits: who is counted as whom, and who waits."""

from __future__ import annotations

import asyncio

import pytest

from kronos.datamodel.types import NULL
from kronos.db.records import Caller, Rate_limit
from kronos.dispatch import callers as dispatch
from kronos.dispatch.call import Origin
from kronos.rules.callers import Bucket, Pattern

HERE = Origin(address="192.0.2.7", user_agent="monitor/1.2")


@pytest.fixture
def clock():
    return [1000.0]


@pytest.fixture
def limited(xapi, clock):
    """A host that counts calls, on a clock of the test's."""
    xapi.pipeline.callers = dispatch.Callers(xapi.db, lambda: clock[0])
    xapi.pipeline.callers.on = True
    xapi.pipeline.callers.refresh()
    return xapi


def caller(xapi, user_agent="monitor*", client_ip="", **fields: object) -> Caller:
    record = {"name_label": "m", "user_agent": user_agent, "client_ip": client_ip} | fields
    return xapi.db.get(Caller, xapi("Caller.create", record))


def limit(xapi, burst="10", rate="2") -> Rate_limit:
    return xapi.db.get(Rate_limit, xapi("Rate_limit.create", {"burst_size": burst, "fill_rate": rate}))


# --- who is who ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        (Pattern("monitor*", ""), True),
        (Pattern("monitor", ""), False),
        (Pattern("monitor/1.2", "192.0.2.7"), True),
        (Pattern("", "192.0.2.*"), True),
        (Pattern("", "192.0.3.*"), False),
    ],
)
def test_a_pattern_is_a_beginning_or_the_whole(pattern, matches):
    assert pattern.matches("monitor/1.2", "192.0.2.7") is matches


def test_the_pattern_that_says_most_is_the_one_that_counts():
    whole, begun = Pattern("monitor/1.2", ""), Pattern("mon*", "")
    assert whole.rank > begun.rank
    assert Pattern("", "1.2.3.4").rank > Pattern("monitor", "").rank, "the address first"


def test_callers_that_are_nobody_or_everybody_are_refused(xapi):
    for agent, address in (("", ""), ("*", ""), ("*", "*")):
        refused = xapi.refused("Caller.create", {"user_agent": agent, "client_ip": address})
        assert refused[:2] == ["INVALID_VALUE", "user_agent/client_ip"]


def test_a_caller_that_is_there_gets_the_new_names(xapi):
    row = caller(xapi)
    assert caller(xapi, name_label="other") is row and row.name_label == "other"


# --- what they do ----------------------------------------------------------------------------------------------------


def test_calls_and_what_they_cost_are_counted_for_all_that_match(limited):
    wide, other = caller(limited), caller(limited, "else*")
    for cost in (1.0, 10.0):
        limited.pipeline.callers.admit(HERE.user_agent, HERE.address, cost)
    assert limited("Caller.query_call_count", wide.ref) == 2
    assert limited("Caller.query_token_usage", wide.ref) == 11.0
    assert limited("Caller.query_call_count", other.ref) == 0
    limited("Caller.add_group", wide.ref, "tools")
    assert limited("Caller.query_group_call_count", "tools") == 2
    assert limited("Caller.query_group_token_usage", "none") == 0.0
    assert limited("Caller.query_all_usage")[0][1:] in (("m", "11.000", "2"), ("", "11.000", "2"))
    assert wide.last_access > "2026"


def test_whoever_has_no_record_of_its_own_gets_one_and_the_oldest_make_room(limited, clock, monkeypatch):
    monkeypatch.setattr(dispatch, "MOST_FOUND", 2)
    caller(limited)
    for number in (1, 2, 1, 3):
        clock[0] += 1
        limited.pipeline.callers.admit(f"monitor/{number}", "192.0.2.7", 1)
    found = {row.user_agent for row in limited.db.all(Caller) if row.auto_registered}
    assert found == {"monitor/1", "monitor/3"}
    limited.pipeline.callers.admit("", "192.0.2.7", 1)
    limited.pipeline.callers.admit("x" * 300, "192.0.2.7", 1)
    assert len(limited.db.all(Caller)) == 3


def test_groups_have_names_that_others_can_show(xapi):
    row = caller(xapi)
    for group in ("", "a b", "x" * 65, "ü"):
        assert xapi.refused("Caller.add_group", row.ref, group)[:2] == ["INVALID_VALUE", "group"]
    xapi("Caller.add_group", row.ref, "a.b_c-1")
    xapi("Caller.remove_group", row.ref, "a.b_c-1")
    assert row.groups == ()


# --- limits ----------------------------------------------------------------------------------------------------------


def test_a_bucket_gives_what_it_holds_and_then_what_comes_back():
    bucket = Bucket(burst_size=10, fill_rate=2, tokens=10, at=0)
    assert [bucket.take(5, 0) for _ in range(4)] == [0, 0, 2.5, 5]
    assert bucket.take(1, 100) == 0 and bucket.tokens == 9


def test_callers_share_a_limit_and_the_most_specific_one_counts(limited, clock):
    wide, narrow = caller(limited), caller(limited, "monitor/1.2", "192.0.2.7")
    shared, strict = limit(limited, "100"), limit(limited, "1")
    limited("Rate_limit.add_caller", shared.ref, wide.ref)
    limited("Rate_limit.add_caller", strict.ref, narrow.ref)
    assert limited.pipeline.callers.admit("monitor/9", "192.0.2.9", 50) == 0
    assert limited.pipeline.callers.admit(HERE.user_agent, HERE.address, 3) == 1.0
    clock[0] += 10
    limited("Rate_limit.remove_caller", strict.ref, narrow.ref)
    assert limited.pipeline.callers.admit(HERE.user_agent, HERE.address, 3) == 0
    assert set(shared.callers) == {wide.ref} and strict.callers == ()


def test_a_limit_that_changes_begins_full_and_one_that_goes_frees_its_callers(limited):
    row, bound = caller(limited), limit(limited, "10", "1")
    limited("Rate_limit.add_caller", bound.ref, row.ref)
    assert limited.pipeline.callers.admit(HERE.user_agent, HERE.address, 30) == 20
    limited("Rate_limit.set_burst_size", bound.ref, 40.0)
    assert limited.pipeline.callers.admit(HERE.user_agent, HERE.address, 30) == 0
    for name, value in (("burst_size", 0.0), ("fill_rate", -1.0)):
        refused = limited.refused(f"Rate_limit.set_{name}", bound.ref, value)
        assert refused == ["INVALID_VALUE", name, f"{value:g}"]
    limited("Rate_limit.destroy", bound.ref)
    assert row.rate_limit == NULL
    assert limited.pipeline.callers.admit(HERE.user_agent, HERE.address, 1000) == 0


def test_a_client_that_is_over_its_limit_waits_and_others_do_not(xapi, monkeypatch):
    xapi.pipeline.callers.on = True
    xapi.pipeline.callers.refresh()
    row, bound = caller(xapi), limit(xapi, "1", "1000")
    xapi("Rate_limit.add_caller", bound.ref, row.ref)
    waited, sleep = [], asyncio.sleep

    async def noted(seconds, *rest):
        waited.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", noted)

    def call(origin):
        async def serve():
            answer = xapi.pipeline.call(origin, "host.get_all", (xapi.session,))
            return answer if not hasattr(answer, "__await__") else await answer

        return asyncio.run_coroutine_threadsafe(serve(), xapi.loop).result(30).value

    for _ in range(30):
        assert call(HERE) == (xapi.host.ref,)
        assert call(Origin(user_agent="other/1", address="192.0.2.8")) == (xapi.host.ref,)
    assert 1 <= len(waited) <= 30 and all(seconds <= 0.03 for seconds in waited)


def test_nobody_is_counted_where_it_is_not_asked_for(xapi):
    row = caller(xapi)
    asyncio.run_coroutine_threadsafe(_called(xapi), xapi.loop).result(30)
    assert xapi("Caller.query_call_count", row.ref) == 0 and xapi.db.all(Caller) == [row]


async def _called(xapi):
    return xapi.pipeline.call(HERE, "host.get_all", (xapi.session,))
