"""XenAPI's types: what is accepted, and how it is written."""

from __future__ import annotations

import xmlrpc.client

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.datamodel.errors import Failure
from kronos.datamodel.model import model
from kronos.datamodel.types import NULL, at, seconds_of


def kind(spec):
    return model().type(spec)


def read(fragment):
    """What an XML-RPC client makes of one value."""
    document = (
        f"<?xml version='1.0'?><methodResponse><params><param>{fragment}</param></params></methodResponse>"
    )
    return xmlrpc.client.loads(document)[0][0]


@pytest.mark.parametrize(
    ("spec", "untrusted", "value"),
    [
        ("int", "42", 42),
        ("int", 42, 42),
        ("float", 60, 60.0),
        ("float", "60.1", 60.1),
        ("VM ref", "", NULL),
        ("datetime", "20240102T03:04:05Z", "20240102T03:04:05Z"),
        ("datetime", "2024-01-02T03:04:05Z", "20240102T03:04:05Z"),
        ("datetime", "20240102T03:04:05", "20240102T03:04:05Z"),
        ("datetime", "2024-01-02T03:04:05", "20240102T03:04:05Z"),
        ("datetime", "2024-01-01T22:34:05-04:30", "20240102T03:04:05Z"),
        ("datetime", "20240102T04:04:05+0100", "20240102T03:04:05Z"),
        ("datetime", "2024-01-02T03:04:05.999Z", "20240102T03:04:05Z"),
        ("datetime", "0001-01-01T00:00:00Z", "00010101T00:00:00Z"),
        ("enum vm_power_state", "running", "Running"),
        ("VM ref set", ["OpaqueRef:1"], ("OpaqueRef:1",)),
        ("(string -> int) map", {"a": "1"}, {"a": 1}),
    ],
)
def test_what_clients_send_is_taken(spec, untrusted, value):
    assert kind(spec).check(untrusted) == value


@pytest.mark.parametrize(
    ("spec", "untrusted", "code"),
    [
        ("int", True, "INTERNAL_ERROR"),
        ("int", 2**63, "INTERNAL_ERROR"),
        ("int", "1.5", "INTERNAL_ERROR"),
        ("string", 5, "INTERNAL_ERROR"),
        ("bool", "true", "INTERNAL_ERROR"),
        ("VM ref set", "OpaqueRef:1", "INTERNAL_ERROR"),
        ("(string -> string) map", [], "INTERNAL_ERROR"),
        ("enum vm_power_state", "Flying", "INVALID_VALUE"),
        ("datetime", "yesterday", "INVALID_VALUE"),
        ("datetime", "2024-01-02", "INVALID_VALUE"),
        ("datetime", "2024-01-02T25:00:00Z", "INVALID_VALUE"),
        ("datetime", "0001-01-01T00:00:00+01:00", "INVALID_VALUE"),
    ],
)
def test_what_does_not_fit_is_refused(spec, untrusted, code):
    with pytest.raises(Failure) as failure:
        kind(spec).check(untrusted)
    assert failure.value.code == code


@pytest.mark.parametrize(
    ("spec", "value", "text"),
    [
        ("string", "", "<value/>"),
        ("string", "a&b", "<value>a&amp;b</value>"),
        ("int", 2**40, "<value>1099511627776</value>"),
        ("bool", True, "<value><boolean>1</boolean></value>"),
        ("VM ref set", (), "<value><array><data/></array></value>"),
        ("(string -> string) map", {}, "<value><struct/></value>"),
        (
            "datetime",
            "19700101T00:00:00Z",
            "<value><dateTime.iso8601>19700101T00:00:00Z</dateTime.iso8601></value>",
        ),
    ],
)
def test_values_are_written_compactly(spec, value, text):
    assert kind(spec).xml(value) == text


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=50), max_size=5))
def test_any_map_of_text_is_readable_by_a_strict_parser(value):
    read_back = read(kind("(string -> string) map").xml(value))
    assert len(read_back) <= len(value)
    if all((key + text).isprintable() for key, text in value.items()):
        assert read_back == value


@given(st.integers(0, 2**33))
def test_datetimes_round_trip(seconds):
    assert seconds_of(at(seconds)) == seconds
