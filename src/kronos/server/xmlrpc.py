"""XML-RPC: request bodies to a method name and plain values, and the three envelopes of a reply.

What is written is compact, with no white space between tags: one widespread client's parser fails on a line
break there. An empty string is `<value/>`, because the same parser reads `<string></string>` as "undefined".

What XML 1.0 cannot carry (control characters, lone surrogates, U+FFFE and U+FFFF) is left out of replies: a record
with one odd byte in its name must stay readable.
"""

from __future__ import annotations

import binascii
import math
import re
from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import Final
from xml.parsers import expat

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import escape

MAX_DEPTH: Final = 64
"""Nested values; the deepest type of the data model has five."""
MAX_ELEMENTS: Final = 200_000

CONTENT_TYPE: Final = b"text/xml"
SUCCESS_HEAD: Final = (
    b'<?xml version="1.0"?><methodResponse><params><param><value><struct>'
    b"<member><name>Status</name><value>Success</value></member><member><name>Value</name>"
)
SUCCESS_TAIL: Final = b"</member></struct></value></param></params></methodResponse>"
_FAILURE_HEAD: Final = (
    '<?xml version="1.0"?><methodResponse><params><param><value><struct>'
    "<member><name>Status</name><value>Failure</value></member>"
    "<member><name>ErrorDescription</name><value><array><data>"
)
_FAILURE_TAIL: Final = "</data></array></value></member></struct></value></param></params></methodResponse>"

# A call whose parameters are all plain strings without entities, the shape of most calls. Nothing that expat would
# refuse or rewrite may match: no control characters, no carriage return, no ">" (part of "]]>").
_TEXT: Final = rb"[^<>&\x00-\x08\x0b-\x1f]*+"
_SPACE: Final = rb"[ \t\r\n]*+"
_FLAT: Final = re.compile(
    rb"(?:<\?xml version=(?:'1\.0'|\"1\.0\")(?: encoding=(?:'(?i:utf-8)'|\"(?i:utf-8)\"))? ?\?>)?"
    + _SPACE + rb"<methodCall>" + _SPACE
    + rb"<methodName>([A-Za-z0-9_.:]++)</methodName>" + _SPACE
    + rb"<params>((?:" + _SPACE + rb"<param>" + _SPACE
    + rb"<value>(?:<string>" + _TEXT + rb"</string>|" + _TEXT + rb")</value>"
    + _SPACE + rb"</param>)*+)" + _SPACE + rb"</params>" + _SPACE + rb"</methodCall>" + _SPACE
)  # fmt: skip
_FLAT_VALUE: Final = re.compile(rb"<value>(?:<string>)?([^<]*+)<")

_PROLOG: Final = 4096
_SLICE: Final = 1 << 20
_ENCODINGS: Final = frozenset({"utf-8", "utf8", "us-ascii", "iso-8859-1", "utf-16"})


class BadRequest(Exception):
    """The body is no XML-RPC call; the text says why, for the client's developer."""


def parse(untrusted_body: bytes) -> tuple[str, list[object]]:
    """The method name and the parameters of a call: str, int, float, bool, list, dict or None.

    Dates arrive as `str`, unread, and base64 as the text that it encodes.

    Raises BadRequest, and Failure INVALID_VALUE for a text that is not UTF-8.
    """
    flat = _FLAT.fullmatch(untrusted_body)
    if flat is not None:
        try:
            return flat[1].decode(), [value.decode() for value in _FLAT_VALUE.findall(flat[2])]
        except UnicodeDecodeError as error:
            raise _invalid_utf8(untrusted_body) from error
    return _parse_any(untrusted_body)


def success(value_xml: bytes) -> bytes:
    """The reply that carries a complete `<value>` element."""
    return b"".join((SUCCESS_HEAD, value_xml, SUCCESS_TAIL))


def failure(description: Sequence[str]) -> bytes:
    """The reply for a XenAPI error: its code and parameters."""
    items = [f"<value>{escape(text)}</value>" if text else "<value/>" for text in description]
    return f"{_FAILURE_HEAD}{''.join(items)}{_FAILURE_TAIL}".encode()


def fault(text: str, code: int = 1) -> bytes:
    """The reply for what is wrong with the call itself, outside XenAPI's own errors."""
    return (
        '<?xml version="1.0"?><methodResponse><fault><value><struct>'
        f"<member><name>faultCode</name><value><i4>{code}</i4></value></member>"
        f"<member><name>faultString</name><value>{escape(text)}</value></member>"
        "</struct></value></fault></methodResponse>"
    ).encode()


def _invalid_utf8(untrusted_body: bytes) -> Failure:
    """The error that names the first text which is not UTF-8, with the wrong bytes replaced."""
    shown = untrusted_body.decode("utf-8", "replace")
    found = re.search("[^<>]*\ufffd[^<>]*", shown)
    return Failure("INVALID_VALUE", "Invalid UTF-8 string in parameter", found.group() if found else "")


def _parse_any(untrusted_body: bytes) -> tuple[str, list[object]]:
    # A document type can only stand before the root element; refusing it unread keeps expat from expanding anything.
    # The handler below sees the one that another encoding or a long comment hides from this search.
    if b"<!DOCTYPE" in untrusted_body[:_PROLOG].partition(b"<methodCall")[0]:
        raise BadRequest("a document type declaration is not allowed")
    reader = _Reader()
    try:
        reader.read(untrusted_body)
    except expat.ExpatError as error:
        if _is_broken_utf8(untrusted_body):
            raise _invalid_utf8(untrusted_body) from error
        raise BadRequest(f"not well-formed XML: {error}") from error
    except (ValueError, LookupError) as error:
        raise BadRequest(f"not an XML-RPC call: {error}") from error
    if not reader.method:
        raise BadRequest("no method name")
    return reader.method, reader.params


def _is_broken_utf8(untrusted_body: bytes) -> bool:
    declared = re.search(rb"encoding=['\"]([^'\"]*)", untrusted_body[:100])
    if untrusted_body[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return False
    if declared is not None and declared[1].lower() not in (b"utf-8", b"utf8"):
        return False
    try:
        untrusted_body.decode()
    except UnicodeDecodeError:
        return True
    return False


def _integer(text: str) -> int:
    stripped = text.strip()
    if re.fullmatch(r"[+-]?[0-9]{1,20}", stripped, re.ASCII) is None:
        raise BadRequest(f"not an integer: {stripped[:40]!r}")
    value = int(stripped)
    if not -(2**63) <= value < 2**63:
        raise BadRequest("an integer of more than 64 bits")
    return value


def _boolean(text: str) -> bool:
    stripped = text.strip()
    if stripped not in ("0", "1", "true", "false"):
        raise BadRequest(f"not a boolean: {stripped[:40]!r}")
    return stripped in ("1", "true")


def _double(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise BadRequest(f"not a number: {text[:40]!r}") from None
    if not math.isfinite(value):
        raise BadRequest("a number without a finite value")
    return value


def _base64(text: str) -> str:
    try:
        return b64decode("".join(text.split()), validate=True).decode()
    except (binascii.Error, ValueError):
        raise BadRequest("base64 that does not encode UTF-8 text") from None


_SCALARS: Final[dict[str, Callable[[str], object]]] = {
    "string": str,
    "i4": _integer,
    "int": _integer,
    "i8": _integer,
    "ex:i8": _integer,
    "boolean": _boolean,
    "double": _double,
    "dateTime.iso8601": str.strip,
    "base64": _base64,
    "nil": lambda _text: None,
    "ex:nil": lambda _text: None,
}
_PARENTS: Final[dict[str, tuple[str, ...]]] = {
    "methodCall": ("",),
    "methodName": ("methodCall",),
    "params": ("methodCall",),
    "param": ("params",),
    "value": ("param", "data", "member"),
    "array": ("value",),
    "data": ("array",),
    "struct": ("value",),
    "member": ("struct",),
    "name": ("member",),
    **{tag: ("value",) for tag in _SCALARS},
}
_UNSET: Final = object()


class _Reader:
    """Expat's handlers: a stack of open tags, and a stack of the values being built."""

    def __init__(self) -> None:
        self.method = ""
        self.params: list[object] = []
        self._tags = [""]
        self._values: list[object] = []
        self._members: list[list[object]] = []
        self._text: list[str] = []
        self._elements = 0
        self._ends: dict[str, Callable[[str], None]] = {
            "value": self._end_value,
            "member": self._end_member,
            "name": self._end_name,
            "methodName": self._end_method,
        }

    def read(self, untrusted_body: bytes) -> None:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.XmlDeclHandler = self._declaration
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        # In slices, so that a refusal by a handler ends the work there.
        for start in range(0, len(untrusted_body), _SLICE):
            parser.Parse(untrusted_body[start : start + _SLICE], False)
        parser.Parse(b"", True)

    def _declaration(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.lower() not in _ENCODINGS:
            raise BadRequest(f"unknown encoding {encoding[:40]!r}")

    def _doctype(self, *_declaration: object) -> None:
        raise BadRequest("a document type declaration is not allowed")

    def _start(self, tag: str, _attributes: dict[str, str]) -> None:
        tags = self._tags
        if tags[-1] not in _PARENTS.get(tag, ()):
            raise BadRequest(f"<{tag[:40]}> inside <{tags[-1][:40]}>")
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise BadRequest(f"more than {MAX_ELEMENTS} elements")
        tags.append(tag)
        self._text.clear()
        if tag == "value":
            if len(self._values) >= MAX_DEPTH:
                raise BadRequest(f"values nested more than {MAX_DEPTH} deep")
            self._values.append(_UNSET)
        elif tags[-2] == "value":
            if self._values[-1] is not _UNSET:
                raise BadRequest("a value with two types")
            if tag == "struct":
                self._values[-1] = {}
            elif tag == "array":
                self._values[-1] = []
        elif tag == "member":
            self._members.append([_UNSET, _UNSET])

    def _end(self, tag: str) -> None:
        self._tags.pop()
        read = _SCALARS.get(tag)
        if read is not None:
            self._values[-1] = read("".join(self._text))
        else:
            close = self._ends.get(tag)
            if close is not None:
                close("".join(self._text))
        self._text.clear()

    def _end_value(self, text: str) -> None:
        value = self._values.pop()
        if value is _UNSET:
            value = text
        container = self._tags[-1]
        if container == "param":
            self.params.append(value)
        elif container == "data":
            array = self._values[-1]
            assert isinstance(array, list)
            array.append(value)
        else:
            self._members[-1][1] = value

    def _end_member(self, _text: str) -> None:
        name, value = self._members.pop()
        struct = self._values[-1]
        if name is _UNSET or value is _UNSET:
            raise BadRequest("a member without a name or without a value")
        assert isinstance(struct, dict)
        struct[name] = value

    def _end_name(self, text: str) -> None:
        self._members[-1][0] = text

    def _end_method(self, text: str) -> None:
        if self.method:
            raise BadRequest("two method names")
        self.method = text.strip()
