"""XenAPI's types: checking what comes from outside, and writing values as XML-RPC.

A value of each type is held in one Python form, the same in the database, in handlers and in JSON:

=============  ==================================================================
string, enum   `str`
int, float     `int` (64 bit, signed), `float`
bool           `bool`
datetime       `str`, `YYYYMMDDTHH:MM:SSZ`
ref            `str`, `OpaqueRef:…`; `OpaqueRef:NULL` for none
set            `tuple`; map: `dict`, replaced and never changed in place
record         `dict` by field name
=============  ==================================================================
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from kronos.datamodel.errors import Failure

NULL = "OpaqueRef:NULL"
EPOCH = "19700101T00:00:00Z"

_ILLEGAL_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARKUP = re.compile("[&<>]")
_NEEDS_CARE = re.compile("[&<>\r]|[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"}


def escape(text: str) -> str:
    """`text` as XML character data; what XML 1.0 cannot carry is left out."""
    # What is printable XML can carry; most text is plain, and this way of finding out takes half as long.
    if text.isprintable() and "<" not in text and "&" not in text and ">" not in text:
        return text
    if _NEEDS_CARE.search(text) is None:
        return text
    return _NEEDS_CARE.sub(lambda found: _ESCAPES.get(found.group(), ""), text)


def now() -> str:
    """The time of day as a XenAPI datetime (UTC, whole seconds)."""
    return datetime.now(UTC).strftime("%Y%m%dT%H:%M:%SZ")


def at(seconds: float) -> str:
    """Seconds since the epoch as a XenAPI datetime."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H:%M:%SZ")


def seconds_of(value: str) -> float:
    """A XenAPI datetime as seconds since the epoch."""
    return datetime.strptime(value, "%Y%m%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


def _mismatch(expected: str, untrusted: object) -> Failure:
    # xapi answers a generic unmarshalling error this way; FIELD_TYPE_ERROR comes from handlers alone.
    shown = repr(untrusted)[:80]
    return Failure("INTERNAL_ERROR", f"Expected {expected}, got {shown}")


class Type:
    """One XenAPI type, as `spec` names it in the facts ("VM ref set", "(string -> string) map")."""

    zero: Any = ""

    def __init__(self, spec: str) -> None:
        self.spec = spec

    def check(self, untrusted: object) -> Any:
        """The value in this module's form. Raises INTERNAL_ERROR; INVALID_VALUE for an unknown enum or date."""
        raise AssertionError(self.spec)

    def xml(self, value: Any) -> str:
        """The value as one compact `<value>` element."""
        raise AssertionError(self.spec)

    def __repr__(self) -> str:
        return f"<type {self.spec}>"


class StringType(Type):
    def check(self, untrusted: object) -> str:
        if isinstance(untrusted, str):
            return untrusted
        raise _mismatch("a string", untrusted)

    def xml(self, value: str) -> str:
        return f"<value>{escape(value)}</value>" if value else "<value/>"


class EnumType(StringType):
    def __init__(self, spec: str, values: tuple[str, ...]) -> None:
        super().__init__(spec)
        self.values = values
        self.by_folded = {value.lower(): value for value in values}
        self.zero = values[0] if values else ""

    def check(self, untrusted: object) -> str:
        text = super().check(untrusted)
        found = self.by_folded.get(text.lower())
        if found is None:
            raise Failure("INVALID_VALUE", text)
        return found


class RefType(StringType):
    zero = NULL

    def __init__(self, spec: str, cls: str) -> None:
        super().__init__(spec)
        self.cls = cls

    def check(self, untrusted: object) -> str:
        return super().check(untrusted) or NULL

    def xml(self, value: str) -> str:
        return f"<value>{escape(value)}</value>"


class IntType(Type):
    zero = 0

    def check(self, untrusted: object) -> int:
        value: int
        if isinstance(untrusted, int) and not isinstance(untrusted, bool):
            value = untrusted
        elif (
            isinstance(untrusted, str)
            and re.fullmatch(r"\s*[+-]?[0-9]{1,20}\s*", untrusted)
            or isinstance(untrusted, float)
            and untrusted.is_integer()
        ):
            value = int(untrusted)
        else:
            raise _mismatch("an int", untrusted)
        if not -(2**63) <= value < 2**63:
            raise _mismatch("a 64-bit int", untrusted)
        return value

    def xml(self, value: int) -> str:
        # Clients read 64-bit integers from a string; <int> would be 32 bit.
        return f"<value>{value}</value>"


class CountType(IntType):
    """A count inside event.from's answer: the only integers that XML-RPC carries as <int>."""

    def xml(self, value: int) -> str:
        return f"<value><i4>{value}</i4></value>"


class FloatType(Type):
    zero = 0.0

    def check(self, untrusted: object) -> float:
        if isinstance(untrusted, bool) or not isinstance(untrusted, int | float | str):
            raise _mismatch("a float", untrusted)
        try:
            return float(untrusted)
        except (ValueError, OverflowError) as error:
            raise _mismatch("a float", untrusted) from error

    def xml(self, value: float) -> str:
        if math.isinf(value):
            return f"<value><double>{'' if value > 0 else '-'}Inf</double></value>"
        if math.isnan(value):
            return "<value><double>NaN</double></value>"
        return f"<value><double>{value!r}</double></value>"


class BoolType(Type):
    zero = False

    def check(self, untrusted: object) -> bool:
        if isinstance(untrusted, bool):
            return untrusted
        raise _mismatch("a bool", untrusted)

    def xml(self, value: bool) -> str:
        return f"<value><boolean>{1 if value else 0}</boolean></value>"


class DateTimeType(Type):
    """Moments, with the date's hyphens or without, a fraction of a second, and any zone; without one it is UTC.

    Clients in Go write their own zone. Kept and told is UTC, in whole seconds, so that texts sort as moments do.
    """

    zero = EPOCH
    _form = re.compile(
        r"(?:[0-9]{8}|[0-9]{4}-[0-9]{2}-[0-9]{2})T[0-9]{2}:[0-9]{2}:[0-9]{2}"
        r"(?:\.[0-9]{1,30})?(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)?"
    )

    def check(self, untrusted: object) -> str:
        if isinstance(untrusted, int | float) and not isinstance(untrusted, bool):
            try:
                return at(untrusted)
            except (ValueError, OverflowError, OSError) as error:
                raise Failure("INVALID_VALUE", str(untrusted)) from error
        if not isinstance(untrusted, str):
            raise _mismatch("a datetime", untrusted)
        try:
            if not self._form.fullmatch(untrusted):
                raise ValueError(untrusted)
            moment = datetime.fromisoformat(untrusted)
            moment = moment.astimezone(UTC) if moment.tzinfo else moment
        except (ValueError, OverflowError) as error:
            raise Failure("INVALID_VALUE", untrusted) from error
        # strftime leaves the zeros of early years out, and Go's zero is the year 1.
        return f"{moment.year:04d}{moment:%m%dT%H:%M:%SZ}"

    def xml(self, value: str) -> str:
        return f"<value><dateTime.iso8601>{value}</dateTime.iso8601></value>"


class VoidType(Type):
    def check(self, untrusted: object) -> str:
        return ""

    def xml(self, value: object) -> str:
        return "<value/>"


class SetType(Type):
    zero = ()

    def __init__(self, spec: str, item: Type) -> None:
        super().__init__(spec)
        self.item = item

    def check(self, untrusted: object) -> tuple[Any, ...]:
        if not isinstance(untrusted, list | tuple):
            raise _mismatch("a set", untrusted)
        return tuple(self.item.check(item) for item in untrusted)

    def xml(self, value: tuple[Any, ...]) -> str:
        if not value:
            return "<value><array><data/></array></value>"
        item = self.item.xml
        return f"<value><array><data>{''.join([item(each) for each in value])}</data></array></value>"


class MapType(Type):
    def __init__(self, spec: str, key: Type, value: Type) -> None:
        super().__init__(spec)
        self.key = key
        self.value = value

    @property
    def zero(self) -> dict[Any, Any]:
        return {}

    def check(self, untrusted: object) -> dict[Any, Any]:
        if not isinstance(untrusted, Mapping):
            raise _mismatch("a map", untrusted)
        return {self.key.check(key): self.value.check(value) for key, value in untrusted.items()}

    def xml(self, value: dict[Any, Any]) -> str:
        if not value:
            return "<value><struct/></value>"
        item = self.value.xml
        members = [f"<member><name>{escape(str(k))}</name>{item(v)}</member>" for k, v in value.items()]
        return f"<value><struct>{''.join(members)}</struct></value>"


class RecordType(Type):
    """A record of a class; `fields` is given by the model once it knows every class."""

    def __init__(self, spec: str, cls: str) -> None:
        super().__init__(spec)
        self.cls = cls
        self.fields: dict[str, Type] = {}

    @property
    def zero(self) -> dict[str, Any]:
        return {name: kind.zero for name, kind in self.fields.items()}

    def check(self, untrusted: object) -> dict[str, Any]:
        """Known fields, checked. Unknown ones are left out: a record read elsewhere can be sent back."""
        if not isinstance(untrusted, Mapping):
            raise _mismatch(f"a {self.cls} record", untrusted)
        fields = self.fields
        return {name: fields[name].check(value) for name, value in untrusted.items() if name in fields}

    def xml(self, value: Mapping[str, Any]) -> str:
        fields = self.fields
        members = [
            f"<member><name>{n}</name>{fields[n].xml(v)}</member>" for n, v in value.items() if n in fields
        ]
        return f"<value><struct>{''.join(members)}</struct></value>"


class OptionType(Type):
    """A value that may be missing: its field is left out of the record then."""

    zero = None

    def __init__(self, spec: str, item: Type) -> None:
        super().__init__(spec)
        self.item = item

    def check(self, untrusted: object) -> Any:
        return None if untrusted is None else self.item.check(untrusted)

    def xml(self, value: Any) -> str:
        return "<value/>" if value is None else self.item.xml(value)


STRING = StringType("string")
INT = IntType("int")
FLOAT = FloatType("float")
BOOL = BoolType("bool")
DATETIME = DateTimeType("datetime")
VOID = VoidType("void")
_PLAIN: dict[str, Type] = {
    "string": STRING,
    "secret string": STRING,
    "int": INT,
    "float": FLOAT,
    "bool": BOOL,
    "datetime": DATETIME,
    "void": VOID,
}


def parser(enum_values: Callable[[str], tuple[str, ...]]) -> Callable[[str], Type]:
    """A function from a type's spelling in the facts to its Type; equal spellings share one Type."""

    @cache
    def parse(spec: str) -> Type:
        if spec in _PLAIN:
            return _PLAIN[spec]
        if spec.endswith(" option"):
            return OptionType(spec, parse(spec.removesuffix(" option")))
        if spec.endswith(" set"):
            return SetType(spec, parse(spec.removesuffix(" set")))
        if spec.endswith(") map"):
            key, _, value = spec.removesuffix(") map").removeprefix("(").partition(" -> ")
            return MapType(spec, parse(key), parse(value))
        if spec.endswith(" ref"):
            return RefType(spec, spec.removesuffix(" ref"))
        if spec.endswith(" record"):
            return RecordType(spec, spec.removesuffix(" record"))
        if spec.startswith("enum "):
            return EnumType(spec, enum_values(spec.removeprefix("enum ")))
        raise ValueError(f"unknown type {spec!r}")

    return parse
