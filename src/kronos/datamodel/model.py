"""The XenAPI contract as data: classes, fields, messages and roles, read once from `facts/`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from kronos.datamodel.derivation import implied_messages
from kronos.datamodel.types import RecordType, RefType, SetType, Type, parser

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of a message, the session left out."""

    name: str
    type: Type
    has_default: bool
    default: Any


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a class.

    `column` is its name in the database and in queries: the namespace is joined with a double underscore.
    `mirror_of` is set for a Set(Ref) that is computed from a single reference on the other side.
    """

    cls: str
    name: str
    column: str
    type: Type
    qualifier: str
    default: Any
    has_default: bool
    persist: bool
    internal_only: bool
    mirror_of: tuple[str, str] | None
    inverse: tuple[str, str] | None
    many_to_many: bool
    state: str

    @property
    def settable_at_create(self) -> bool:
        return self.qualifier in ("RW", "StaticRO")


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a class: `VM.start`."""

    cls: str
    name: str
    params: tuple[Param, ...]
    result: Type
    roles: frozenset[str]
    kind: str
    field: str
    session: bool
    asynchronous: bool
    pool_internal: bool
    hidden: bool
    state: str
    key_roles: tuple[tuple[str, frozenset[str]], ...]
    errors: tuple[str, ...]
    required: int

    @property
    def full_name(self) -> str:
        return f"{self.cls}.{self.name}"

    @property
    def permission(self) -> str:
        return self.full_name.lower()


@dataclass(frozen=True, slots=True)
class Class:
    name: str
    fields: dict[str, Field]
    messages: dict[str, Message]
    record: RecordType
    in_database: bool
    persist: bool
    generates_events: bool
    exposed: bool
    asynchronous: bool
    state: str


@dataclass(frozen=True, slots=True)
class Model:
    """Everything that the facts say. `messages` is by full name, `classes` by name."""

    classes: dict[str, Class]
    messages: dict[str, Message]
    errors: dict[str, list[str]]
    roles: tuple[str, ...]
    http_actions: dict[str, Facts]
    message_types: dict[str, int]
    permissions: dict[str, frozenset[str]]
    emergency_calls: frozenset[str]
    schema: Facts
    types: Any = field(repr=False)

    def type(self, spec: str) -> Type:
        found: Type = self.types(spec)
        return found


def _read(name: str) -> Any:
    return json.loads(resources.files("kronos.datamodel").joinpath(f"facts/{name}.json").read_bytes())


@cache
def roles_from(threshold: str, order: tuple[str, ...]) -> frozenset[str]:
    """Every role that a threshold admits; the empty threshold admits only root and the pool itself."""
    if not threshold:
        return frozenset()
    lowest, _, extra = threshold.partition("+")
    ranked = [role for role in order if role != "client-cert"]
    admitted = set(ranked[: ranked.index(lowest) + 1])
    if extra or lowest == "read-only":
        admitted.add("client-cert")
    return frozenset(admitted)


class _Builder:
    def __init__(self) -> None:
        folder = resources.files("kronos.datamodel").joinpath("facts")
        names = sorted(p.name.removesuffix(".json") for p in folder.iterdir() if p.name.endswith(".json"))
        self.documents: dict[str, Facts] = {n: _read(n) for n in names if not n.startswith("_")}
        self.order: tuple[str, ...] = tuple(_read("_roles"))
        self.enums = {n: tuple(v) for doc in self.documents.values() for n, v in doc["enums"].items()}
        self.types = parser(self.enums.__getitem__)
        self.mirrors: dict[tuple[str, str], tuple[str, str]] = {}
        self.inverses: dict[tuple[str, str], tuple[str, str]] = {}
        for a_class, a_field, b_class, b_field in _read("_relations"):
            self.inverses[a_class, a_field] = (b_class, b_field)
            self.inverses[b_class, b_field] = (a_class, a_field)
            if isinstance(self._type_of(a_class, a_field), RefType):
                self.mirrors[b_class, b_field] = (a_class, a_field)

    def _type_of(self, cls: str, name: str) -> Type:
        found = next(line for line in self.documents[cls]["fields"] if line["name"] == name)
        return self.types(found["type"])

    def class_(self, name: str) -> Class:
        doc = self.documents[name]
        fields = {line["name"]: self.field(name, line) for line in doc["fields"] if not line.get("doc_only")}
        mirrors = {f for c, f in self.mirrors if c == name}
        lines = {line["name"]: line for line in implied_messages(doc, doc["fields"], mirrors)}
        lines.update({line["name"]: line for line in doc["messages"]})
        messages = {
            n: self.message(name, line) for n, line in sorted(lines.items()) if not line.get("absent")
        }
        record = self.types(f"{name} record")
        assert isinstance(record, RecordType)
        record.fields.update({f.name: f.type for f in fields.values() if not f.internal_only})
        return Class(
            name=name,
            fields=fields,
            messages=messages,
            record=record,
            in_database=doc["in_database"],
            persist=doc["persist"],
            generates_events=doc["generates_events"],
            exposed=doc["get_all_exposed"],
            asynchronous=doc["async_messages"],
            state=doc.get("state", "published"),
        )

    def field(self, cls: str, line: Facts) -> Field:
        kind = self.types(line["type"])
        has_default = "default" in line
        here = (cls, line["name"])
        return Field(
            cls=cls,
            name=line["name"],
            column=line.get("path", line["name"]).replace("/", "__"),
            type=kind,
            qualifier=line["qualifier"],
            default=kind.check(line["default"]) if has_default else kind.zero,
            has_default=has_default,
            persist=line.get("persist", True),
            internal_only=line.get("internal_only", False),
            mirror_of=self.mirrors.get(here),
            inverse=self.inverses.get(here),
            many_to_many=here in self.inverses and here not in self.mirrors and isinstance(kind, SetType),
            state=line.get("state", "published"),
        )

    def message(self, cls: str, line: Facts) -> Message:
        params = tuple(
            Param(p[0], self.types(p[1]), len(p) > 2, self.types(p[1]).check(p[2]) if len(p) > 2 else None)
            for p in line["params"]
        )
        kind, name = line.get("kind", "custom"), line["name"]
        return Message(
            cls=cls,
            name=name,
            params=params,
            result=self.types(line["result"]),
            roles=roles_from(line["role"], self.order),
            kind=kind,
            field=self.field_of(cls, name),
            session=line.get("session", True),
            asynchronous=line.get("async", False),
            pool_internal=line.get("pool_internal", False),
            hidden=line.get("hidden_from_docs", False),
            state=line.get("state", "published"),
            key_roles=tuple((k, roles_from(r, self.order)) for k, r in line.get("keys", {}).items()),
            errors=tuple(line.get("errors", ())),
            required=sum(1 for p in params if not p.has_default),
        )

    def field_of(self, cls: str, message: str) -> str:
        """The field that a getter or an editor is about, empty for every other message."""
        names = {line["name"] for line in self.documents[cls]["fields"]}
        for prefix in ("remove_from_", "add_to_", "remove_", "add_", "set_", "get_"):
            if message.startswith(prefix) and message.removeprefix(prefix) in names:
                return message.removeprefix(prefix)
        return ""


@cache
def model() -> Model:
    """The contract, read and checked once a process."""
    builder = _Builder()
    classes = {name: builder.class_(name) for name in builder.documents}
    return Model(
        classes=classes,
        messages={m.full_name: m for cls in classes.values() for m in cls.messages.values()},
        errors=_read("_errors"),
        roles=builder.order,
        http_actions=_read("_http_actions"),
        message_types=_read("_message_types"),
        permissions={name: roles_from(role, builder.order) for name, role in _read("_permissions").items()},
        emergency_calls=frozenset(_read("_emergency_calls")),
        schema=_read("_schema"),
        types=builder.types,
    )
