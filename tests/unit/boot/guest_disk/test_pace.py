"""A host that is slow itself gives a guest's disk more time, and no disk for ever."""

from __future__ import annotations

from kronos.boot.guest_disk import pace


def test_a_usual_host_gives_ten_seconds() -> None:
    assert pace.allowed(0.02) == 10.0


def test_an_emulated_host_gives_more() -> None:
    assert pace.allowed(0.1) == 30.0


def test_no_host_gives_more_than_a_minute() -> None:
    assert pace.allowed(5.0) == 60.0


def test_it_is_measured_on_this_host() -> None:
    assert 10.0 <= pace.of_this_host() <= 60.0
