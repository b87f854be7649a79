"""JSON-RPC 1.0 and 2.0 as clients write and read them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.datamodel.errors import Failure
from kronos.server import jsonrpc
from kronos.server.jsonrpc import Call, Malformed

TEXT = st.text(st.characters(blacklist_categories=("Cs",)))
VALUES = st.recursive(
    st.one_of(
        TEXT,
        st.integers(-(2**63), 2**63 - 1),
        st.booleans(),
        st.none(),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)


def call_of(body: str | bytes) -> Call:
    parsed = jsonrpc.parse(body.encode() if isinstance(body, str) else body)
    assert isinstance(parsed, Call)
    return parsed


def refusal(body: str | bytes) -> dict[str, Any]:
    with pytest.raises(Malformed) as raised:
        jsonrpc.parse(body.encode() if isinstance(body, str) else body)
    reply: dict[str, Any] = json.loads(raised.value.reply())
    return reply


@given(st.lists(VALUES, max_size=4), st.one_of(st.integers(), TEXT), st.booleans())
def test_a_call_is_read_as_it_was_written(args: list[object], call_id: object, ascii_only: bool) -> None:
    body = json.dumps(
        {"jsonrpc": "2.0", "method": "VM.start", "params": args, "id": call_id}, ensure_ascii=ascii_only
    )
    call = call_of(f" {body}\n")
    assert (call.name, call.args, json.loads(call.id), call.version) == ("VM.start", args, call_id, 2)


@given(st.binary(max_size=100))
def test_random_bytes_are_refused_and_nothing_else(body: bytes) -> None:
    with pytest.raises((Malformed, Failure)):
        jsonrpc.parse(body)


@given(VALUES)
def test_other_json_is_refused_and_nothing_else(value: object) -> None:
    try:
        parsed = jsonrpc.parse(json.dumps(value).encode())
    except Malformed as malformed:
        assert json.loads(malformed.reply())["error"]
    else:
        assert isinstance(parsed, list)
        assert all(isinstance(each, Malformed) for each in parsed)


def test_version_1_has_no_version_member() -> None:
    assert call_of('{"method": "m", "params": [], "id": 1}').version == 1
    assert call_of('{"jsonrpc": "1.0", "method": "m", "params": [], "id": 1}').version == 1


def test_an_id_of_zero_is_one() -> None:
    assert call_of('{"jsonrpc":"2.0","method":"m","params":[],"id":0}').id == b"0"


def test_parameters_may_be_left_out() -> None:
    assert call_of('{"jsonrpc":"2.0","method":"system.listMethods","id":1}').args == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", -32700),
        ("{", -32700),
        ("{} {}", -32700),
        ('{"a": NaN}', -32700),
        ('{"a": Infinity}', -32700),
        ('{"a": 1e999}', -32700),
        (b'{"a": "\xff"}', -32700),
        ("[" * 100_000, -32700),
        ("[" * 65 + "]" * 65, -32700),
        ('{"a":' * 65 + "1" + "}" * 65, -32700),
        ("1", -32600),
        ("[]", -32600),
        ('{"jsonrpc":"2.0","method":"m","params":[],"id":null}', -32600),
        ('{"jsonrpc":"2.0","method":"m","params":[]}', -32600),
        ('{"jsonrpc":"2.0","method":"m","params":[],"id":true}', -32600),
        ('{"jsonrpc":"2.0","method":"m","params":[],"id":[1]}', -32600),
        ('{"jsonrpc":"2.0","method":"m","params":{"a":1},"id":1}', -32600),
        ('{"jsonrpc":"2.0","method":7,"params":[],"id":1}', -32600),
        ('{"jsonrpc":"3.0","method":"m","params":[],"id":1}', -32600),
    ],
)
def test_what_is_no_call_gets_the_error_of_json_rpc_2(body: str | bytes, code: int) -> None:
    reply = refusal(body)
    assert reply["jsonrpc"] == "2.0"
    assert reply["error"]["code"] == code
    assert reply["error"]["data"] == []


def test_a_wrong_call_that_has_an_id_gets_it_back() -> None:
    assert refusal('{"jsonrpc":"2.0","method":"m","params":{},"id":"x"}')["id"] == "x"


def test_a_wrong_call_of_version_1_gets_an_error_of_version_1() -> None:
    reply = refusal('{"method":"m","params":{},"id":4}')
    assert reply == {"result": None, "error": ["params is an array"], "id": 4}
    assert refusal("{}") == {"result": None, "error": ["id is a number or a string"], "id": None}


def test_values_may_be_nested_to_the_bound() -> None:
    deep = "[" * 62 + "]" * 62
    assert call_of('{"jsonrpc":"2.0","method":"m","params":' + deep + ',"id":1}').args


def test_many_shallow_values_are_no_nesting() -> None:
    flat = json.dumps([{"a": []}] * 1000)
    assert len(call_of('{"jsonrpc":"2.0","method":"m","params":' + flat + ',"id":1}').args) == 1000


def test_a_lone_surrogate_is_xenapis_own_error() -> None:
    with pytest.raises(Failure) as raised:
        jsonrpc.parse(b'{"jsonrpc":"2.0","method":"m","params":["a\\ud800b"],"id":1}')
    assert raised.value.code == "INVALID_VALUE"
    raised.value.params[1].encode()


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert call_of('{"jsonrpc":"2.0","method":"m","params":["\\ud83d\\ude00"],"id":1}').args == ["😀"]


def test_one_wrong_call_spoils_only_itself_in_a_batch() -> None:
    good = {"jsonrpc": "2.0", "method": "m", "params": [], "id": 1}
    lone = b'{"jsonrpc":"2.0","method":"m","params":["\\udfff"],"id":3}'
    body = b"[%b,7,%b,%b]" % (json.dumps(good).encode(), json.dumps({"method": "m", "id": 2}).encode(), lone)
    parsed = jsonrpc.parse(body)
    assert isinstance(parsed, list)
    assert [type(each) for each in parsed] == [Call, Malformed, Malformed, Malformed]
    assert [each.id for each in parsed] == [b"1", b"null", b"2", b"3"]


def test_a_batch_is_bounded() -> None:
    call = {"jsonrpc": "2.0", "method": "m", "params": [], "id": 1}
    assert isinstance(jsonrpc.parse(json.dumps([call] * jsonrpc.MAX_BATCH).encode()), list)
    assert refusal(json.dumps([call] * (jsonrpc.MAX_BATCH + 1)))["error"]["code"] == -32600


@pytest.fixture(params=[1, 2])
def call(request: pytest.FixtureRequest) -> Call:
    return Call("m", [], b'"\xc3\xa9"', request.param)


def test_success_carries_the_value_and_the_id(call: Call) -> None:
    reply = json.loads(b"".join(jsonrpc.success(call, (b'{"a":1}',))))
    expected = {"result": {"a": 1}, "id": "é"}
    assert reply == (expected | {"error": None} if call.version == 1 else expected | {"jsonrpc": "2.0"})


@given(st.lists(st.text(), min_size=1))
def test_failure_has_the_form_of_its_version(description: list[str]) -> None:
    shown = [text.encode("utf-8", "replace").decode() for text in description]
    first = json.loads(jsonrpc.failure(Call("m", [], b"1", 1), description))
    assert first == {"result": None, "error": shown, "id": 1}
    second = json.loads(jsonrpc.failure(Call("m", [], b"1", 2), description))
    assert second["error"] == {"code": 1, "message": shown[0], "data": shown[1:]}
    assert "result" not in second


def test_a_fault_is_no_api_error(call: Call) -> None:
    reply = json.loads(jsonrpc.fault(call, "No async mode"))
    if call.version == 1:
        assert reply["error"] == ["No async mode"]
    else:
        assert reply["error"]["message"] == "No async mode"
        assert reply["error"]["code"] != jsonrpc.API_ERROR
