"""Dumps: the whole database as one XML document, in the form that XenAPI's own tools and other toolstacks write.

A row is an element whose attributes are its fields in the database's text form. White space is written as letters
after a "%", since XML would not keep it in an attribute.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from kronos.datamodel.errors import Failure
from kronos.datamodel.model import Field, model
from kronos.datamodel.types import BoolType, FloatType, IntType, MapType, SetType, Type
from kronos.db.database import Database
from kronos.db.query import db_string
from kronos.db.records import KINDS

Hide = Callable[[Field, Any], Any]
"""What is written of a field's value, where some of it is nobody's business."""

SEEDED: Final = frozenset({"role"})
"""Classes whose rows every start makes anew."""
_PROTECTED: Final = {" ": "%.", "\t": "%t", "\n": "%n", "\r": "%r", "%": "%%"}
_TO_PROTECT: Final = re.compile(r"[ \t\n\r%]")
_TO_UNPROTECT: Final = re.compile(r"%([.tnr%_])")
_LETTERS: Final = {".": " ", "t": "\t", "n": "\n", "r": "\r", "%": "%", "_": "  "}
_UNWRITABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_TOKEN: Final = re.compile(r"\s*(?:(\()|(\))|'((?:[^'\\]|\\.)*)'|([^\s()']+))", re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(x[0-9A-Fa-f]{2}|[0-9]{3}|.)", re.DOTALL)
_SIMPLE: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b"}


class NotADump(Exception):
    """The document is no dump, or not one of this schema's classes and fields; the text says why and where."""


@dataclass
class Dump:
    """What a document holds: the schema's version, and each row's class and fields by its reference."""

    schema: tuple[int, int] = (0, 0)
    generation: int = 0
    rows: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)

    def of(self, cls: str) -> dict[str, dict[str, Any]]:
        """The rows of a class."""
        return {ref: fields for ref, (kind, fields) in self.rows.items() if kind == cls}


# --- writing -------------------------------------------------------------------------------------------------


def written(db: Database, hide: Hide = lambda field, value: value) -> Iterator[bytes]:
    """The document, in parts. Rows that change meanwhile are as they are when they are reached."""
    schema = model().schema
    yield b'<?xml version="1.0" encoding="UTF-8"?>\n<database><manifest>'
    pairs = {
        "schema_major_vsn": schema["major"],
        "schema_minor_vsn": schema["minor"],
        "generation_count": db.generation,
    }
    yield "".join(f'<pair key="{key}" value="{value}"/>' for key, value in pairs.items()).encode()
    yield b"</manifest>"
    for name, cls in sorted(model().classes.items()):
        if not cls.in_database:
            continue
        yield f"<table name={quoteattr(name)}>".encode()
        if cls.persist and name not in SEEDED:
            kept = [field for field in cls.fields.values() if field.persist and field.mirror_of is None]
            for row in db.all(KINDS[name]):
                stored = row.stored()
                parts = [f'<row ref={quoteattr(row.ref)} __ctime="{row.born}" __mtime="{row.touched}"']
                parts += [f" {each.column}={_attribute(hide(each, stored[each.name]))}" for each in kept]
                yield "".join([*parts, "/>"]).encode()
        yield b"</table>"
    yield b"</database>"


def _attribute(value: Any) -> str:
    text = _UNWRITABLE.sub("", db_string(value))
    return quoteattr(_TO_PROTECT.sub(lambda found: _PROTECTED[found[0]], text))


# --- reading -------------------------------------------------------------------------------------------------


def read(parts: Iterable[bytes]) -> Dump:
    """The dump that a document holds, every value checked. Raises NotADump."""
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=None)
    parser.StartElementHandler = reader.start
    parser.StartDoctypeDeclHandler = reader.doctype  # nothing is expanded
    parser.buffer_text = True
    try:
        for part in parts:
            parser.Parse(part, False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise NotADump(f"not well-formed XML: {error}") from error
    if not reader.seen:
        raise NotADump("there is no database in it")
    return reader.dump


class _Reader:
    def __init__(self) -> None:
        self.dump = Dump()
        self.seen = False
        self._columns: dict[str, Field] = {}
        self._table = ""

    def doctype(self, *_: object) -> None:
        raise NotADump("a document type declaration is not allowed")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "database":
            self.seen = True
        elif tag == "pair":
            self._pair(attributes.get("key", ""), attributes.get("value", ""))
        elif tag == "table":
            self._begin(attributes.get("name", ""))
        elif tag == "row":
            self._row(attributes)
        elif tag != "manifest":
            raise NotADump(f"an element {tag}")

    def _pair(self, key: str, value: str) -> None:
        if not value.isdecimal():
            raise NotADump(f"{key} is {value[:40]!r}")
        major, minor = self.dump.schema
        if key == "schema_major_vsn":
            self.dump.schema = (int(value), minor)
        elif key == "schema_minor_vsn":
            self.dump.schema = (major, int(value))
        elif key == "generation_count":
            self.dump.generation = int(value)

    def _begin(self, name: str) -> None:
        cls = model().classes.get(name)
        kept = cls is not None and cls.in_database and cls.persist and name not in SEEDED
        self._table = name if kept else ""
        self._columns = {each.column: each for each in cls.fields.values()} if cls is not None else {}

    def _row(self, attributes: dict[str, str]) -> None:
        ref = attributes.get("ref", "")
        if not ref:
            raise NotADump(f"a row of {self._table} without a reference")
        if not self._table:  # a class that is no more
            return
        if ref in self.dump.rows:
            raise NotADump(f"{ref} is there twice")
        fields: dict[str, Any] = {}
        for column, text in attributes.items():
            if column in ("ref", "_ref", "__ctime", "__mtime"):
                continue
            known = self._columns.get(column)
            if known is None:
                raise NotADump(f"{self._table} has no field {column}")
            if known.state != "removed" and known.mirror_of is None and known.persist:
                fields[known.name] = self._value(known, text)
        self.dump.rows[ref] = (self._table, fields)

    def _value(self, known: Field, text: str) -> Any:
        plain = _TO_UNPROTECT.sub(lambda found: _LETTERS[found[1]], text)
        try:
            return value_of(known.type, plain)
        except (Failure, ValueError) as error:
            raise NotADump(f"{self._table}.{known.name}: {error}") from error


def value_of(kind: Type, text: str) -> Any:
    """The value of a type from its text form in the database. Raises ValueError, Failure."""
    if isinstance(kind, IntType):
        return kind.check(text)
    if isinstance(kind, FloatType):
        return float(text)
    if isinstance(kind, BoolType):
        if text not in ("true", "false"):
            raise ValueError(f"{text[:40]!r} is neither true nor false")
        return text == "true"
    if isinstance(kind, SetType):
        return tuple(value_of(kind.item, each) for each in _strings(_list(text)))
    if isinstance(kind, MapType):
        found = {}
        for pair in _list(text):
            if not isinstance(pair, list) or len(pair) != 2:
                raise ValueError("not a pair")
            key, value = _strings(pair)
            found[value_of(kind.key, key)] = value_of(kind.value, value)
        return found
    return kind.check(text)


def _strings(items: list[Any]) -> list[str]:
    if not all(isinstance(each, str) for each in items):
        raise ValueError("a list where a text should be")
    return items


def _list(text: str) -> list[Any]:
    """A list in parentheses, of texts and lists. Raises ValueError."""
    if not text:
        return []
    stack: list[list[Any]] = [[]]
    end = 0
    for found in _TOKEN.finditer(text):
        if found.start() != end:
            break
        end = found.end()
        if found[1]:
            stack.append([])
        elif found[2]:
            if len(stack) == 1:
                raise ValueError("a parenthesis too many")
            closed = stack.pop()
            stack[-1].append(closed)
        else:
            stack[-1].append(_ESCAPE.sub(_unescaped, found[3]) if found[3] is not None else found[4])
    if text[end:].strip() or len(stack) != 1 or len(stack[0]) != 1 or not isinstance(stack[0][0], list):
        raise ValueError(f"not a list: {text[:60]!r}")
    return stack[0][0]


def _unescaped(found: re.Match[str]) -> str:
    what = found[1]
    if len(what) == 3:
        return chr(int(what[1:], 16) if what[0] == "x" else int(what))
    return _SIMPLE.get(what, what)
