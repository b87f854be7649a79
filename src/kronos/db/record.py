"""Record: one row of the database, with its rendered forms kept until it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from kronos.datamodel.model import Class
from kronos.datamodel.types import MapType, SetType, Type
from kronos.db.encoding import encoder
from kronos.db.journal import decode

if TYPE_CHECKING:
    from kronos.db.database import Database

dump_json: Callable[[Any], bytes]
try:
    import orjson

    dump_json = orjson.dumps
except ImportError:  # an accelerator where it is found, never a need
    _encode = encoder(ascii_only=False)

    def dump_json(value: Any) -> bytes:
        return _encode(value).encode()


_OPEN = len(b"<member><name></name>")
_CLOSE = len(b"</member>")


def from_json(kind: Type, value: Any) -> Any:
    """A journalled value in its Python form: JSON has no tuples, and only string keys."""
    if isinstance(kind, SetType):
        return tuple([from_json(kind.item, item) for item in value])
    if isinstance(kind, MapType):
        if kind.key.spec == "int":
            return {int(key): from_json(kind.value, item) for key, item in value.items()}
        if isinstance(kind.value, SetType):
            return {key: from_json(kind.value, item) for key, item in value.items()}
    return value


class _Row:
    """What a row is beside its fields, as plain attributes."""

    __slots__ = ("_body", "_database", "_fields", "_json", "_xml", "born", "touched", "ref")

    ref: str
    born: int
    touched: int
    _fields: dict[str, Any] | None
    _body: bytes | None
    _xml: bytes | None
    _json: bytes | None
    _database: Database


class Record(_Row):
    """A row. Fields are attributes; setting one writes it to the database, with its event and its journal entry.

    Values are never changed in place: `vm.other_config = vm.other_config | {"key": "value"}`.
    A row read from disk is decoded when one of its fields is first asked for.
    """

    __slots__ = ()

    kind: ClassVar[Class]

    def __new__(
        cls,
        database: Database,
        ref: str,
        fields: dict[str, Any] | None,
        generation: int,
        body: bytes | None = None,
    ) -> Self:
        # It becomes a record last: a record's attributes are its fields, and the way around that takes five times
        # as long. A start makes a row of everything on disk.
        row = _Row()
        row._database = database
        row.ref = ref
        row._fields = fields
        row._body = body
        row._xml = None
        row._json = None
        row.born = generation
        row.touched = generation
        row.__class__ = cls
        return row  # type: ignore[return-value]  # it has just become one

    def __getattr__(self, name: str) -> Any:
        fields = self._fields
        if fields is None:
            fields = self.decode()
        try:
            return fields[name]
        except KeyError:
            field = self.kind.fields.get(name)
            if field is None or field.mirror_of is None:
                raise AttributeError(f"{self.kind.name} has no field {name}") from None
            return self._database.referrers(*field.mirror_of, self.ref)

    def __setattr__(self, name: str, value: Any) -> None:
        self._database.write(self, {name: value})

    def __repr__(self) -> str:
        return f"<{self.kind.name} {self.ref}>"

    def decode(self) -> dict[str, Any]:
        """The stored fields, read from the journal's form and completed by the defaults."""
        with (
            self._database.lock
        ):  # of two who decode it at once, one would lose what is written to the other's
            body = self._body
            if body is None:
                assert self._fields is not None
                return self._fields
            kinds = self.kind.fields
            fields = stored_defaults(self.kind)
            for name, value in decode(body).items():
                # A field that a later version no longer has is dropped.
                if name in kinds:
                    fields[name] = from_json(kinds[name].type, value)
            object.__setattr__(self, "_fields", fields)
            object.__setattr__(self, "_body", None)
            return fields

    def peek(self, name: str) -> Any:
        """A stored string field, without keeping the row's decoded form: an index looks at every row of a class."""
        body, fields = self._body, self._fields
        if fields is not None or body is None:
            return self.stored()[name]
        if f'"{name}":'.encode() in body:
            found = decode(body)
            if name in found:
                return found[name]
        return self.kind.fields[name].default

    def stored(self) -> dict[str, Any]:
        """Every stored field, internal ones too, mirrors not. Read it, do not change it."""
        return self._fields if self._fields is not None else self.decode()

    def snapshot(self) -> dict[str, Any]:
        """The record as XenAPI shows it: every public field, mirrors too."""
        stored = self.stored()
        return {n: stored[n] if n in stored else getattr(self, n) for n in self.kind.record.fields}

    def changed(self, generation: int) -> None:
        """Forget the rendered forms; the database calls this at every change, mirrors' too."""
        put = object.__setattr__
        put(self, "_xml", None)
        put(self, "_json", None)
        put(self, "touched", generation)

    def xml_member(self) -> bytes:
        """`<member><name>REF</name><value>RECORD</value></member>`, kept until the record changes."""
        kept = self._xml
        if kept is None:
            touched = self.touched
            value = self.kind.record.xml(self.snapshot())
            kept = f"<member><name>{self.ref}</name>{value}</member>".encode()
            if self.touched == touched:  # else it was written meanwhile, by another thread
                object.__setattr__(self, "_xml", kept)
        return kept

    def xml(self) -> bytes:
        """The record as one `<value>` element."""
        return self.xml_member()[_OPEN + len(self.ref.encode()) : -_CLOSE]

    def json_member(self) -> bytes:
        """`,"REF":{RECORD}`, kept until the record changes; the first of an object goes without the comma."""
        kept = self._json
        if kept is None:
            touched = self.touched
            kept = b",%b:%b" % (dump_json(self.ref), dump_json(json_keys(self.snapshot())))
            if self.touched == touched:
                object.__setattr__(self, "_json", kept)
        return kept

    def json(self) -> bytes:
        """The record as JSON text."""
        return self.json_member()[len(dump_json(self.ref)) + 2 :]


def without_form(rows: Iterable[Record], *, xml: bool) -> list[Record]:
    """Those whose form is not kept, and takes time to write. A thousand take thirty microseconds to go through."""
    return [row for row in rows if row._xml is None] if xml else [row for row in rows if row._json is None]


def json_keys(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record whose maps have string keys only, as JSON wants them."""
    return {
        name: {str(k): v for k, v in value.items()} if isinstance(value, dict) else value
        for name, value in record.items()
    }


def stored_defaults(cls: Class) -> dict[str, Any]:
    """A new row of a class: every stored field at its default, in the order of the facts."""
    fields = _DEFAULTS.get(cls.name)
    if fields is None:
        fields = {field.name: field.default for field in cls.fields.values() if field.mirror_of is None}
        _DEFAULTS[cls.name] = fields
    return dict(fields)


_DEFAULTS: dict[str, dict[str, Any]] = {}
