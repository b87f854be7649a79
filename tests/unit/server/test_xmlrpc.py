"""XML-RPC as clients write it, and as the strictest of them reads it."""

from __future__ import annotations

import re
import time
import xmlrpc.client

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos.datamodel.errors import Failure
from kronos.server import xmlrpc as codec

HEAD = b"<?xml version='1.0'?><methodCall><methodName>VM.start</methodName><params>"
TAIL = b"</params></methodCall>"

# What XML 1.0 can carry.
TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufffe\uffff"))
VALUES = st.recursive(
    st.one_of(
        TEXT,
        st.integers(-(2**31), 2**31 - 1),
        st.booleans(),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)


def one(value: bytes) -> object:
    """The only parameter of a call."""
    return codec.parse(HEAD + b"<param>" + value + b"</param>" + TAIL)[1][0]


@given(st.lists(VALUES, max_size=4))
def test_what_pythons_client_writes_is_read_back(args: list[object]) -> None:
    body = xmlrpc.client.dumps(tuple(args), "VM.create", allow_none=True).encode()
    assert codec.parse(body) == ("VM.create", args)


@given(st.lists(TEXT, max_size=5))
def test_the_fast_path_reads_what_expat_reads(args: list[str]) -> None:
    body = xmlrpc.client.dumps(tuple(args), "VM.get_record").encode()
    assert codec.parse(body) == codec._parse_any(body)


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_the_fast_path_takes_nothing_that_expat_reads_otherwise(first: bytes, second: bytes) -> None:
    values = b"<param><value><string>%b</string></value></param><param><value>%b</value></param>" % (
        first,
        second,
    )
    body = HEAD + values + TAIL
    assert _outcome(codec.parse, body) == _outcome(codec._parse_any, body)


def _outcome(parse: object, body: bytes) -> object:
    try:
        return parse(body)  # type: ignore[operator]
    except codec.BadRequest:
        return "refused"
    except Failure as failure:
        return failure.code


def test_calls_of_plain_strings_take_the_fast_path() -> None:
    body = xmlrpc.client.dumps(("OpaqueRef:1", "OpaqueRef:2"), "VM.get_power_state").encode()
    assert codec._FLAT.fullmatch(body)
    bare = HEAD + b"<param><value>OpaqueRef:1</value></param>" + TAIL
    assert codec._FLAT.fullmatch(bare)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_and_nothing_else(body: bytes) -> None:
    with pytest.raises((codec.BadRequest, Failure)):
        codec.parse(body)


TAGS = st.sampled_from(
    "methodCall methodName params param value array data struct member name string i4 int i8 boolean double "
    "dateTime.iso8601 base64 nil ex:nil other".split()
)
PIECES = st.one_of(
    TAGS.map(lambda tag: f"<{tag}>"),
    TAGS.map(lambda tag: f"</{tag}>"),
    TAGS.map(lambda tag: f"<{tag}/>"),
    st.sampled_from(
        ["x", "1", " ", "&amp;", "&lol;", "<![CDATA[<a>]]>", "<!-- c -->", "<?p i?>", "_1", "1e400"]
    ),
)


@given(st.lists(PIECES, max_size=30).map("".join))
def test_odd_documents_are_read_or_refused_and_nothing_else(inside: str) -> None:
    for body in (inside, f"<methodCall><methodName>m</methodName><params>{inside}</params></methodCall>"):
        try:
            codec.parse(body.encode())
        except (codec.BadRequest, Failure):
            pass


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (b"<value>bare</value>", "bare"),
        (b"<value> kept </value>", " kept "),
        (b"<value/>", ""),
        (b"<value></value>", ""),
        (b"<value><string/></value>", ""),
        (b"<value>\n<string>a&lt;&#98;</string>\n</value>", "a<b"),
        (b"<value><string><![CDATA[<x>]]></string></value>", "<x>"),
        (b"<value><i4>-7</i4></value>", -7),
        (b"<value><int> 7 </int></value>", 7),
        (b"<value><i8>9223372036854775807</i8></value>", 2**63 - 1),
        (b"<value><boolean>1</boolean></value>", True),
        (b"<value><double>60.1</double></value>", 60.1),
        (b"<value><dateTime.iso8601>20240102T03:04:05Z</dateTime.iso8601></value>", "20240102T03:04:05Z"),
        (b"<value><base64>aGV5\n</base64></value>", "hey"),
        (b"<value><nil/></value>", None),
        (b"<value><ex:nil/></value>", None),
        (b"<value><array><data/></array></value>", []),
        (b"<value><array>\n<data>\n<value>a</value>\n</data></array></value>", ["a"]),
        (b"<value><struct/></value>", {}),
        (
            b"<value><struct><member><name>a b</name>\n<value><i4>1</i4></value></member></struct></value>",
            {"a b": 1},
        ),
        (b"<value><struct><member><value>v</value><name>k</name></member></struct></value>", {"k": "v"}),
    ],
)
def test_every_form_of_a_value(value: bytes, read: object) -> None:
    found = one(value)
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    "value",
    [
        b"<value><i4>1_000</i4></value>",
        b"<value><i4></i4></value>",
        b"<value><i8>9223372036854775808</i8></value>",
        b"<value><boolean>2</boolean></value>",
        b"<value><double>nan</double></value>",
        b"<value><double>1e999</double></value>",
        b"<value><base64>*</base64></value>",
        b"<value><base64>/w==</base64></value>",
        b"<value><i4>1</i4><i4>2</i4></value>",
        b"<value><struct><member><name>a</name></member></struct></value>",
        b"<value><struct><value>a</value></struct></value>",
        b"<value>&unknown;</value>",
        b"<string>a</string>",
        b"<value>a\x00b</value>",
    ],
)
def test_wrong_values_are_refused(value: bytes) -> None:
    with pytest.raises(codec.BadRequest):
        one(value)


def test_text_that_is_not_utf8_is_xenapis_own_error() -> None:
    for value in (b"<value>a\xffb</value>", b"<value><string>a\xffb</string></value> "):
        with pytest.raises(Failure) as raised:
            one(value)
        assert raised.value.code == "INVALID_VALUE"
        assert raised.value.params == ("Invalid UTF-8 string in parameter", "a\ufffdb")


def test_other_encodings_are_read_when_they_are_declared() -> None:
    text = (
        "<?xml version='1.0' encoding='{}'?><methodCall><methodName>m</methodName>"
        "<params><param><value>é</value></param></params></methodCall>"
    )
    for encoding in ("iso-8859-1", "utf-16"):
        assert codec.parse(text.format(encoding).encode(encoding)) == ("m", ["é"])


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(codec.BadRequest):
        codec.parse(
            b"<?xml version='1.0' encoding='idna'?><methodCall><methodName>m</methodName></methodCall>"
        )


BOMB = (
    "<!DOCTYPE lolz [<!ENTITY a 'aaaaaaaaaa'>"
    + "".join(
        f"<!ENTITY {name} '{f'&{before};' * 10}'>"
        for before, name in zip("abcdefghi", "bcdefghij", strict=True)
    )
    + "]><methodCall><methodName>m</methodName><params><param><value>&j;</value></param></params></methodCall>"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("before", ["", "<!-- " + "x" * 8192 + " -->"])
def test_an_entity_bomb_is_refused_at_once(encoding: str, before: str) -> None:
    body = f"<?xml version='1.0' encoding='{encoding}'?>{before}{BOMB}".encode(encoding)
    began = time.perf_counter()
    with pytest.raises(codec.BadRequest):
        codec.parse(body)
    assert time.perf_counter() - began < 5.0


def test_an_external_entity_is_refused() -> None:
    body = b"<!DOCTYPE m [<!ENTITY f SYSTEM 'file:///etc/hostname'>]><methodCall><methodName>&f;</methodName></methodCall>"
    with pytest.raises(codec.BadRequest, match="document type"):
        codec.parse(body)


def test_nesting_is_bounded() -> None:
    def nested(depth: int) -> bytes:
        return b"<value><array><data>" * depth + b"<value>a</value>" + b"</data></array></value>" * depth

    assert one(nested(codec.MAX_DEPTH - 1))
    for depth in (codec.MAX_DEPTH, 100_000):
        with pytest.raises(codec.BadRequest, match="deep"):
            one(nested(depth))


def test_the_number_of_elements_is_bounded() -> None:
    many = b"<value><array><data>" + b"<value/>" * codec.MAX_ELEMENTS + b"</data></array></value>"
    with pytest.raises(codec.BadRequest, match="elements"):
        one(many)


def test_long_white_space_costs_linear_time() -> None:
    body = HEAD + b" " * 2_000_000 + b"<param><value>a</value></param>" + b"\n" * 2_000_000 + b"<x/>" + TAIL
    began = time.perf_counter()
    with pytest.raises(codec.BadRequest):
        codec.parse(body)
    assert time.perf_counter() - began < 20.0


@given(TEXT)
def test_a_success_is_read_by_pythons_client(text: str) -> None:
    from kronos.datamodel.types import STRING

    reply = codec.success(STRING.xml(text).encode())
    (envelope,), _ = xmlrpc.client.loads(reply)
    assert envelope == {"Status": "Success", "Value": text}


@given(st.lists(st.text(), min_size=1))
def test_a_failure_is_read_by_pythons_client_without_what_xml_cannot_carry(description: list[str]) -> None:
    (envelope,), _ = xmlrpc.client.loads(codec.failure(description))
    cleaned = [
        re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text) for text in description
    ]
    assert envelope == {"Status": "Failure", "ErrorDescription": cleaned}


def test_a_fault_is_read_by_pythons_client() -> None:
    with pytest.raises(xmlrpc.client.Fault) as raised:
        xmlrpc.client.loads(codec.fault("No async mode for <this>"))
    assert raised.value.faultString == "No async mode for <this>"


@settings(max_examples=20)
@given(st.lists(TEXT, min_size=1))
def test_replies_have_no_white_space_between_tags_and_no_empty_string_element(description: list[str]) -> None:
    for reply in (codec.failure(description), codec.success(b"<value/>"), codec.fault("a")):
        assert re.search(rb">[ \t\r\n]+<(?!/value)", reply) is None
        assert b"<string" not in reply
