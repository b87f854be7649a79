"""Rings: what a year of values becomes, checked against all values at once."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos.metrics.archive import HEARTBEAT, NAN, SPANS, STEP, Archive, Column, unpacked

BEGIN = 1_800_000_000 // 86400 * 86400
A_DAY = 17280

gap = st.sampled_from(
    (1, 1, 1, 2, 11, 12, 13, 59, 60, 61, 719, 720, 721, A_DAY - 1, A_DAY, 3 * A_DAY, 500 * A_DAY)
)
value = st.one_of(st.integers(-100, 100).map(float), st.just(NAN))
updates = st.lists(st.tuples(gap, value, value), min_size=1, max_size=40)
offset = st.integers(0, 2 * A_DAY)


def same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9) or (one != one and other != other)


class Model:
    """Every value by its step, and a row worked out from them when it is asked for."""

    def __init__(self) -> None:
        self.known: dict[int, float] = {}
        self.last = 0

    def update(self, step: int, value: float) -> None:
        begin = step if not self.last or step - self.last > HEARTBEAT // STEP else self.last + 1
        self.known.update(dict.fromkeys(range(begin, step + 1), value))
        self.last = step

    def row(self, function: str, end: int, steps: int, least: int) -> float:
        values = [self.known.get(step, NAN) for step in range(end - steps + 1, end + 1)]
        values = [each for each in values if each == each]
        if len(values) < least:
            return NAN
        return {
            "AVERAGE": lambda: sum(values) / len(values),
            "MIN": lambda: min(values),
            "MAX": lambda: max(values),
        }[function]()


def check(archive: Archive, models: list[Model]) -> None:
    last = archive.last // STEP
    for level in archive.levels:
        end = last // level.steps * level.steps
        for ring in level.rings:
            for age in range(min(ring.rows, 4)):
                row = ring.row(age)
                for column, model in enumerate(models):
                    expected = model.row(ring.function, end - age * level.steps, level.steps, level.least)
                    assert same(row[column], expected), (level.steps, ring.function, age)


@settings(deadline=None)
@given(offset, updates, st.booleans())
def test_rows_are_made_of_the_values_of_their_time(offset, updates, extremes):
    archive = Archive([Column("a"), Column("b")], extremes=extremes)
    models = [Model(), Model()]
    step = BEGIN // STEP + offset
    for gap, one, other in updates:
        step += gap
        archive.update(step * STEP + 1, [one, other])
        models[0].update(step, one)
        models[1].update(step, other)
    assert archive.last == step * STEP
    check(archive, models)


@settings(deadline=None)
@given(offset, updates, st.booleans())
def test_an_archive_is_the_same_after_it_was_a_file(offset, updates, extremes):
    archive = Archive([Column("a", "DERIVE", 0.0, 50.0), Column("b")], extremes=extremes)
    step = BEGIN // STEP + offset
    middle = len(updates) // 2
    for gap, one, other in updates[:middle]:
        step += gap
        archive.update(step * STEP, [one, other])
    again = unpacked(archive.packed())
    for gap, one, other in updates[middle:]:
        step += gap
        archive.update(step * STEP, [one, other])
        again.update(step * STEP, [one, other])
    assert again.columns == archive.columns
    assert again.packed() == archive.packed()


@settings(deadline=None)
@given(offset, updates, updates)
def test_a_source_that_comes_and_goes_leaves_the_others_alone(offset, before, after):
    archive = Archive([Column("a"), Column("b")])
    alone = Archive([Column("b")])
    step = BEGIN // STEP + offset
    for gap, one, other in before:
        step += gap
        archive.update(step * STEP, [one, other])
        alone.update(step * STEP, [other])
    archive.add(Column("c"))
    archive.remove("a")
    for gap, one, other in after:
        step += gap
        archive.update(step * STEP, [other, one])
        alone.update(step * STEP, [other])
    archive.remove("c")
    assert archive.packed() == alone.packed()


@given(st.binary(max_size=200), st.integers(0, 400))
def test_what_is_no_archive_is_refused(noise, cut):
    whole = Archive([Column("a")]).packed()
    for untrusted in (noise, whole[: min(cut, len(whole) - 1)], whole[:17] + noise):
        with pytest.raises(ValueError):
            unpacked(untrusted)


def filled(values: list[float], name: str = "a", low: float = -math.inf, high: float = math.inf) -> Archive:
    archive = Archive([Column(name, "DERIVE", low, high)])
    for number, each in enumerate(values, 1):
        archive.update(BEGIN + number * STEP, [each])
    return archive


def test_a_ring_forgets_what_is_older_than_it():
    archive = filled([float(number) for number in range(300)])
    ring = archive.levels[0].rings[0]
    assert list(ring.last(120)) == [float(number) for number in range(180, 300)]
    assert ring.row(120) == ring.row(0)


def test_a_row_is_unknown_when_more_than_half_of_its_values_are():
    half = filled([1.0] * 6 + [NAN] * 6)
    assert half.levels[1].rings[0].row(0)[0] == 1.0
    less = filled([1.0] * 5 + [NAN] * 7)
    assert math.isnan(less.levels[1].rings[0].row(0)[0])


def test_a_value_out_of_its_bounds_is_unknown():
    archive = filled([-1.0, 0.5, 2.0], "cpu0", 0.0, 1.0)
    low, within, high = archive.levels[0].rings[0].last(3)
    assert math.isnan(low)
    assert within == 0.5
    assert math.isnan(high)


def test_a_step_has_one_value():
    archive = filled([1.0])
    assert not archive.update(BEGIN + STEP + 4.9, [2.0])
    assert archive.newest("a") == 1.0
    assert archive.update(BEGIN + 2 * STEP, [3.0])


def test_a_clock_that_was_set_back_goes_on_from_where_it_is():
    archive = filled([1.0, 2.0])
    assert archive.update(BEGIN - 3600, [3.0])
    assert archive.last == BEGIN - 3600
    assert list(archive.levels[0].rings[0].last(3)) == [1.0, 2.0, 3.0]


def test_nothing_is_known_of_the_time_before_a_resumption():
    archive = filled([1.0])
    archive.resume(BEGIN + 3 * STEP + 2)
    archive.update(BEGIN + 3 * STEP + 2, [2.0])
    values = list(archive.levels[0].rings[0].last(3))
    assert (values[0], values[2]) == (1.0, 2.0)
    assert math.isnan(values[1])


def test_a_copy_does_not_change_with_its_archive():
    archive = filled([1.0] * 13)
    copy = archive.copy()
    archive.update(BEGIN + 14 * STEP, [5.0])
    assert copy.last == BEGIN + 13 * STEP
    assert copy.newest("a") == 1.0


def test_the_rings_are_those_of_xenserver():
    assert [(steps * STEP, steps * rows * STEP) for steps, rows in SPANS] == [
        (5, 600),
        (60, 7200),
        (3600, 7 * 86400),
        (86400, 366 * 86400),
    ]
