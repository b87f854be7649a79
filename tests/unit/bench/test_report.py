"""Verdicts, and the table that shows them."""

from __future__ import annotations

import json

import pytest
from bench.report import Row, number, table, write_json


@pytest.mark.parametrize(
    ("measured", "floor", "limit", "at_least", "met"),
    [
        (20.0, 10.0, 2.0, False, True),
        (20.1, 10.0, 2.0, False, False),
        (30.0, 100.0, 0.3, True, True),
        (29.0, 100.0, 0.3, True, False),
        (79.0, None, 80.0, False, True),
        (81.0, None, 80.0, False, False),
        (199.0, None, 200.0, True, False),
        (5.0, 1.0, None, False, None),
    ],
)
def test_a_ratio_is_held_against_its_limit_and_a_value_without_a_floor_is_too(
    measured, floor, limit, at_least, met
):
    assert Row("G", "w", measured, "ms", floor, limit=limit, at_least=at_least).met is met


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, ""), (0.01234, "0.0123"), (12.34, "12.3"), (999.6, "1,000"), (12345.6, "12,346")],
)
def test_numbers_have_three_digits_that_count(value, shown):
    assert number(value) == shown


def test_the_table_tells_measurement_floor_ratio_goal_and_verdict():
    rows = [
        Row("G3", "a list", 3.0, "ms", 2.0, "a static blob", 2.0, note="9 MB"),
        Row("IDLE", "memory", 90.0, "MB", limit=80),
        Row("G14", "starts", 500.0, "starts/s"),
    ]
    lines = table(rows).splitlines()
    assert lines[2].split() == ["G3", "a", "list", "3", "ms", "2", "ms", "1.50x", "<=", "2x", "met"]
    assert lines[3].strip() == "floor: a static blob; 9 MB"
    assert lines[4].split() == ["IDLE", "memory", "90", "MB", "<=", "80", "MB", "missed"]
    assert lines[5].split() == ["G14", "starts", "500", "starts/s"]


def test_a_run_is_kept_as_json(tmp_path):
    path = tmp_path / "deeper" / "run.json"
    write_json(path, [Row("G", "w", 3.0, "ms", 2.0, limit=2.0)], {"load_before": 0.5})
    kept = json.loads(path.read_text())
    assert kept["load_before"] == 0.5
    assert (kept["rows"][0]["ratio"], kept["rows"][0]["met"]) == (1.5, True)
