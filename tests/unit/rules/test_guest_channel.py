"""The guest channel's lines: what a guest may say, and what it is told."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.rules import guest_channel
from kronos.rules.guest_channel import Refused, noted, request


def line(message: object) -> bytes:
    return json.dumps(message).encode()


def test_a_guest_asks_for_its_configuration() -> None:
    assert request(b'{"ask": "config", "id": 7}') == guest_channel.Request(asks=True, mark=7)


def test_a_guest_says_and_takes_back() -> None:
    wanted = request(b'{"say": {"ready": "yes", "old": null}}')
    assert wanted is not None
    assert wanted.says == {"ready": "yes", "old": None}
    assert noted({"old": "1", "kept": "2"}, wanted.says) == {"kept": "2", "ready": "yes"}


@pytest.mark.parametrize("passed_over", [b"", b"  \r", guest_channel.hello(), guest_channel.error("no")])
def test_empty_lines_and_echoes_are_passed_over(passed_over: bytes) -> None:
    assert request(passed_over) is None


@pytest.mark.parametrize(
    "untrusted",
    [
        b"hello",
        b"\xff\xfe",
        b"[1]",
        b"{}",
        b"[" * 60000,
        b"1" * 60000,
        line({"ask": "everything"}),
        line({"say": ["a"]}),
        line({"say": {"a b": "c"}}),
        line({"say": {"": "c"}}),
        line({"say": {"k" * 257: "c"}}),
        line({"say": {"k": 1}}),
        line({"say": {"k": "v" * 4097}}),
        line({"say": {"k": "\u00e9" * 2049}}),
        line({"say": {"k": "\x00"}}),
        line({"say": {"k": "\ud800"}}),
        line({"ask": "config", "id": "i" * 65}),
        line({"ask": "config", "id": {}}),
    ],
)
def test_what_is_not_fit_is_refused_in_words(untrusted: bytes) -> None:
    with pytest.raises(Refused, match=r"\w"):
        request(untrusted)


def test_as_many_keys_as_there_may_be_and_not_one_more() -> None:
    full = {f"key-{number}": "v" for number in range(guest_channel.KEYS)}
    assert noted({}, full) == full
    assert noted(full, {"key-0": "other"})["key-0"] == "other"
    with pytest.raises(Refused):
        noted(full, {"one-more": "v"})


def test_all_values_together_are_bounded() -> None:
    large = {f"key-{number}": "v" * guest_channel.VALUE for number in range(15)}
    assert noted({}, large) == large
    with pytest.raises(Refused):
        noted(large, {"key-15": "v" * guest_channel.VALUE})


def test_a_guest_is_given_its_configuration_and_the_keys_of_xenstore_that_are_its() -> None:
    both = guest_channel.given({"a": "1"}, {"vm-data/b": "2", "vm-data": "3", "private": "4"})
    assert both == {"a": "1", "vm-data/b": "2"}


def test_answers_are_one_line_of_ascii_with_the_mark_of_the_question() -> None:
    told = guest_channel.config({"motd": "gr\u00fc\u00df\ndich"}, "m")
    assert told.isascii()
    assert told.count(b"\n") == 1
    assert json.loads(told) == {"id": "m", "config": {"motd": "gr\u00fc\u00df\ndich"}}


def test_a_configuration_that_no_line_holds_is_an_error_and_not_half_told() -> None:
    assert "error" in json.loads(guest_channel.config({"k": "v" * guest_channel.LINE}))


@given(st.binary(max_size=300))
def test_whatever_comes_is_a_request_or_refused(untrusted: bytes) -> None:
    try:
        request(untrusted)
    except Refused as error:
        assert str(error)
