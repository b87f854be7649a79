"""The words of a command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.commands import grammar
from kronos.commands.errors import UsageError, ValueRefused


@pytest.mark.parametrize("text", ["8\x1c", "9" * 5000, "\u0663", "1_0", "", "-", "0x1"])
def test_what_only_python_takes_for_a_number_is_refused(text: str) -> None:
    for read in (grammar.to_int, grammar.to_bytes):
        with pytest.raises(ValueRefused):
            read("x", text)


def test_the_first_equals_sign_splits_a_word():
    assert grammar.parse(["vm-list", "a=b=c"])[1].pairs == (("a", "b=c"),)


def test_a_word_without_equals_sign_is_a_name_with_an_empty_value():
    assert grammar.parse(["help", "vm-list"])[1].pairs == (("vm-list", ""),)


def test_a_long_switch_is_true():
    assert grammar.parse(["vm-shutdown", "--force"])[1].flag("force")


def test_a_short_switch_takes_the_next_word():
    assert grammar.parse(["vm-list", "-u", "root"])[1].pairs == (("username", "root"),)


@pytest.mark.parametrize("words", [[], ["a=b"], ["vm-list", "-x", "y"], ["vm-list", "-u"]])
def test_what_is_no_command_line_is_refused(words):
    with pytest.raises(UsageError):
        grammar.parse(words)


@pytest.mark.parametrize("text", ["true", "T", "yes", "Y", "1"])
def test_ways_to_say_yes(text):
    assert grammar.to_bool("x", text)


@pytest.mark.parametrize("text", ["", "maybe", "2"])
def test_neither_yes_nor_no(text):
    with pytest.raises(ValueRefused):
        grammar.to_bool("x", text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("10", 10),
        ("1k", 1024),
        ("2MiB", 2 << 20),
        ("3GB", 3 << 30),
        ("1 tib", 1 << 40),
        ("5bytes", 5),
    ],
)
def test_sizes_with_units(text, size):
    assert grammar.to_bytes("x", text) == size


@pytest.mark.parametrize("text", ["", "-1", "1.5GiB", "GiB", "1 furlong", "99999999999999999999"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueRefused):
        grammar.to_bytes("x", text)


@given(st.integers(0, 2**62), st.sampled_from(["", "b", "bytes"]))
def test_a_plain_number_is_a_size_in_bytes(size, unit):
    assert grammar.to_bytes("x", f"{size}{unit}") == size


@given(st.dictionaries(st.text(alphabet="abc-_", min_size=1), st.text()))
def test_a_map_is_read_back_from_its_words(pairs):
    words = [f"config:{key}={value}" for key, value in pairs.items()]
    assert grammar.parse(["x", *words])[1].mapping("config") == pairs


@given(st.lists(st.text(min_size=1).filter(lambda word: "\0" not in word)))
def test_parsing_never_fails_in_another_way(words):
    try:
        grammar.parse(["vm-list", *words])
    except UsageError:
        pass


def test_standard_words_and_the_commands_own_select_nothing():
    arguments = grammar.parse(["x", "--multiple", "new-vcpus=2", "params:x=1", "name-label=web"])[1]
    assert arguments.filters("new-vcpus", "params") == [("name-label", "web")]
