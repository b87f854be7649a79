"""An XML-RPC value that stands alone, as an archive's description is, read with hard bounds."""

from __future__ import annotations

from typing import Any, Final, NoReturn
from xml.parsers import expat

from kronos.transfer.stream import BadStream

MAX_DEPTH: Final = 64
MAX_ELEMENTS: Final = 600_000
_SCALARS: Final = frozenset({"string", "int", "i4", "i8", "boolean", "double", "dateTime.iso8601", "nil"})
_KNOWN: Final = _SCALARS | {"value", "struct", "member", "name", "array", "data"}


def parse(untrusted: bytes) -> object:
    """str, int, float, bool, list, dict or None; dates stay text. Raises BadStream."""
    reader = _Reader()
    try:
        reader.parser.Parse(untrusted, True)
    except expat.ExpatError as error:
        raise BadStream(f"not well-formed XML: {error}") from error
    except (ValueError, LookupError) as error:
        raise BadStream(f"not an XML-RPC value: {error}") from error
    if len(reader.results) != 1:
        raise BadStream("not one value")
    return reader.results[0]


class _Reader:
    def __init__(self) -> None:
        self.results: list[object] = []
        self._containers: list[Any] = []
        self._names: list[str] = []
        self._path: list[str] = []
        self._text: list[str] = []
        self._read: list[bool] = []
        """For each open <value>: did a typed element within it give its value?"""
        self._elements = 0
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse_doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text.append

    def _refuse_doctype(self, *_: object) -> NoReturn:
        raise BadStream("a document type declaration is not allowed")

    def _start(self, tag: str, _: object) -> None:
        self._elements += 1
        if tag not in _KNOWN or len(self._path) >= MAX_DEPTH * 4 or self._elements > MAX_ELEMENTS:
            raise BadStream(f"<{tag[:40]}> is not expected, or is one too many")
        if (tag == "value") != (not self._path or self._path[-1] in ("member", "data")) and tag != "name":
            raise BadStream(f"<{tag}> in the wrong place")
        self._path.append(tag)
        self._text.clear()
        if tag == "value":
            self._read.append(False)
        elif tag == "struct":
            self._containers.append({})
        elif tag == "array":
            self._containers.append([])

    def _end(self, tag: str) -> None:
        self._path.pop()
        text = "".join(self._text)
        self._text.clear()
        if tag == "name":
            self._names.append(text)
        elif tag in _SCALARS:
            self._give(_scalar(tag, text))
        elif tag in ("struct", "array"):
            self._give(self._containers.pop())
        elif tag == "value" and not self._read.pop():
            self._place(text)

    def _give(self, value: object) -> None:
        """A typed element has ended: the value around it is this."""
        if not self._read or self._read[-1]:
            raise BadStream("a value with two types")
        self._read[-1] = True
        self._place(value)

    def _place(self, value: object) -> None:
        if not self._containers:
            self.results.append(value)
        elif isinstance(self._containers[-1], list):
            self._containers[-1].append(value)
        else:
            self._containers[-1][self._names.pop()] = value


def _scalar(tag: str, text: str) -> object:
    if tag in ("int", "i4", "i8"):
        if len(text) > 24:
            raise BadStream("an integer that is too long")
        return int(text)
    if tag == "boolean":
        return text.strip() in ("1", "true")
    if tag == "double":
        return float(text)
    return None if tag == "nil" else text
