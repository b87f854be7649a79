"""What a client of /rrd_updates gets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.metrics.archive import STEP, Archive, Column
from kronos.metrics.keeping import Key
from kronos.rules.metrics import selection
from kronos.rules.metrics.selection import NoStart, Request, export, level, parsed, prefers_json, wanted

BEGIN = 1_800_000_000 // 86400 * 86400
HOST, ONE, TWO, SR = (
    Key(owner, name) for owner, name in (("host", "h"), ("vm", "a"), ("vm", "b"), ("sr", "s"))
)
ALL = [SR, TWO, HOST, ONE]


def archive(
    steps: int = 30, *, extremes: bool = False, since: int = BEGIN, columns: tuple[str, ...] = ("x",)
) -> Archive:
    made = Archive([Column(name) for name in columns], extremes=extremes)
    for number in range(1, steps + 1):
        made.update(since + number * STEP, [float(number)] * len(columns))
    return made


@pytest.mark.parametrize(
    ("interval", "reach", "seconds"),
    [
        (0, 10, 5),
        (5, 599, 5),
        (5, 600, 60),
        (6, 10, 5),
        (10, 10, 60),
        (60, 10, 60),
        (0, 7199, 60),
        (0, 7200, 3600),
        (3600, 10, 3600),
        (3601, 10, 3600),
        (86400, 10, 86400),
        (0, 10**9, 86400),
        (10**9, 10, 86400),
    ],
)
def test_the_finest_archive_that_fits_is_taken(interval, reach, seconds):
    assert selection.SPANS[level(BEGIN, BEGIN - reach, interval)][0] * STEP == seconds


def test_rows_begin_at_the_start_and_the_newest_is_first():
    found = export(Request(BEGIN + 100), {ONE: archive()})
    assert [time for time, _ in found.rows] == list(range(BEGIN + 150, BEGIN + 99, -5))
    assert [values for _, values in found.rows] == [[float(number)] for number in range(30, 19, -1)]
    assert (found.start, found.step, found.end) == (BEGIN + 105, 5, BEGIN + 150)


def test_a_negative_start_is_before_the_newest_value():
    assert [time for time, _ in export(Request(-10), {ONE: archive()}).rows] == [
        *(BEGIN + 150, BEGIN + 145, BEGIN + 140)
    ]


def test_archives_stand_side_by_side_and_one_that_lags_behind_is_unknown():
    late = archive(28, columns=("x", "y"))
    found = export(Request(-10), {HOST: archive(), ONE: late})
    assert found.legend == ["AVERAGE:host:h:x", "AVERAGE:vm:a:x", "AVERAGE:vm:a:y"]
    (_, newest), *_, (_, oldest) = found.rows
    assert newest[0] == 30.0
    assert math.isnan(newest[1])
    assert oldest == [28.0, 28.0, 28.0]


def test_an_archive_that_is_younger_than_the_rows_is_unknown_before():
    young = archive(2, since=BEGIN + 140)
    found = export(Request(-10), {HOST: archive(), ONE: young})
    assert [values[0] for _, values in found.rows] == [30.0, 29.0, 28.0]
    assert [values[1] for _, values in found.rows][:2] == [2.0, 1.0]
    assert math.isnan(found.rows[2][1][1])


def test_all_functions_come_unless_one_is_asked_for():
    both = {ONE: archive(extremes=True), TWO: archive()}
    assert export(Request(-60, None, 60), both).legend == [
        *("AVERAGE:vm:a:x", "MIN:vm:a:x", "MAX:vm:a:x", "AVERAGE:vm:b:x")
    ]
    found = export(Request(-60, "MAX", 60), both)
    assert found.legend == ["MAX:vm:a:x"]
    assert found.rows[0] == (BEGIN + 120, [24.0])
    assert export(Request(-60, "LAST", 60), both).rows == []


def test_nothing_measured_is_an_empty_document():
    found = export(Request(-60), {})
    assert (found.legend, found.rows) == ([], [])


def test_a_start_in_the_future_has_no_rows():
    assert export(Request(BEGIN + 10_000), {ONE: archive()}).rows == []


@given(
    st.integers(-(1 << 62), 1 << 62),
    st.integers(0, 1 << 62),
    st.sampled_from([None, "AVERAGE", "MIN", "LAST"]),
)
def test_any_request_has_an_answer_of_a_year_at_most(start, interval, function):
    found = export(Request(start, function, interval), {ONE: archive(extremes=True)})
    assert len(found.rows) <= 367
    assert all(len(values) == len(found.legend) for _, values in found.rows)


def test_objects_are_chosen_by_the_query():
    assert wanted(parsed([("start", "0")]), ALL) == [ONE, TWO]
    assert wanted(parsed([("start", "0"), ("host", "true")]), ALL) == [HOST, ONE, TWO]
    assert wanted(parsed([("start", "0"), ("vm_uuid", "b"), ("sr_uuid", "s")]), ALL) == [TWO, SR]
    assert wanted(parsed([("start", "0"), ("vm_uuid", "a"), ("vm_uuid", "b")]), ALL) == [ONE, TWO]
    assert wanted(parsed([("start", "0"), ("vm_uuid", "none"), ("sr_uuid", "all")]), ALL) == [SR]
    assert wanted(parsed([("start", "0"), ("host", "yes"), ("vm_uuid", "")]), ALL) == []


def test_a_request_is_read_as_leniently_as_clients_write():
    assert parsed([("start", "5.0"), ("cf", "MAX"), ("interval", "60")]) == Request(5, "MAX", 60)
    assert parsed([("start", "-5"), ("cf", "nonsense"), ("interval", "soon")]) == Request(-5)
    for untrusted in ([], [("start", "")], [("start", "now")], [("start", "nan")]):
        with pytest.raises(NoStart):
            parsed(untrusted)
    assert parsed([("start", "inf"), ("interval", "-7")]).interval == 0


@pytest.mark.parametrize(
    ("accept", "query", "json"),
    [
        ("", {}, False),
        ("", {"json": "true"}, True),
        ("*/*", {}, True),
        ("application/json", {}, True),
        ("text/xml", {"json": "true"}, False),
        ("text/xml, application/json", {}, True),
        ("text/xml, */*;q=0.5", {}, False),
        ("text/*", {}, False),
        ("text/html", {}, False),
        ("text/html", {"json": "true"}, True),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", {}, False),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", {"json": ""}, True),
        ("application/json;q=x, text/xml;q=0.1", {}, False),
    ],
)
def test_the_form_is_what_the_client_accepts_or_asks_for(accept, query, json):
    assert prefers_json(accept, query) is json
