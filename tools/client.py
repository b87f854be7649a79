"""The generated modules of client/kronos_client, from the facts: messages, records and types. Written by stubs.py."""

from __future__ import annotations

from keyword import iskeyword
from pathlib import Path

from kronos.datamodel.model import Class, Message, model
from kronos.datamodel.types import (
    EnumType,
    MapType,
    OptionType,
    RecordType,
    RefType,
    SetType,
    Type,
)

TARGET = Path(__file__).resolve().parent.parent / "client/kronos_client"
HEADER = "# Written by tools/stubs.py from the facts; `make stubs` writes it again.\n"
PLAIN = {
    "string": "str",
    "secret string": "str",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "datetime": "str",
    "void": "None",
}
ODD = {"event.from": "EventBatch"}
"""What is answered by messages of which the facts tell only a part."""

BATCH = """
class EventBatch(TypedDict):
    \"\"\"What event.from answers: events, and the token with which to ask for those that follow.\"\"\"

    events: list[EventRecord]
    token: str
    valid_ref_counts: dict[str, int]
"""


def camel(name: str) -> str:
    """`vm_power_state` as a class is called: VmPowerState. XenAPI's own capitals stay."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def spelled(kind: Type, *, given: bool = False) -> str:
    """A type as Python has it; one that is `given` to a call may be anything that reads like it."""
    match kind:
        case RefType():
            return f"{camel(kind.cls)}Ref" if kind.cls in model().classes else "str"
        case EnumType():
            return camel(kind.spec.removeprefix("enum "))
        case SetType():
            return f"{'Sequence' if given else 'list'}[{spelled(kind.item, given=given)}]"
        case MapType():
            key, value = spelled(kind.key, given=given), spelled(kind.value, given=given)
            return f"{'Mapping' if given else 'dict'}[{key}, {value}]"
        case RecordType():
            return "Mapping[str, Any]" if given else f"{camel(kind.cls)}Record"
        case OptionType():
            return f"{spelled(kind.item, given=given)} | None"
    return PLAIN.get(kind.spec, "Any")


def enums(kind: Type) -> list[EnumType]:
    match kind:
        case EnumType():
            return [kind]
        case SetType() | OptionType():
            return enums(kind.item)
        case MapType():
            return enums(kind.key) + enums(kind.value)
    return []


def told(cls: Class) -> list[Message]:
    """The messages that a client may call, by name."""
    return [
        message
        for message in cls.messages.values()
        if message.state != "removed" and not message.pool_internal and not message.hidden
    ]


def messages_module() -> str:
    lines = [
        HEADER
        + '"""Every message\'s parameters, the session left out, and the messages that answer nothing."""\n'
    ]
    lines.append("from typing import Final\n")
    lines.append("MESSAGES: Final[dict[str, dict[str, tuple[str, ...]]]] = {")
    for cls in model().classes.values():
        lines.append(f'    "{cls.name}": {{')
        for message in told(cls):
            names = "".join(f'"{p.name}", ' for p in message.params)
            lines.append(f'        "{message.name}": ({names}),')
        lines.append("    },")
    without = sorted(m.full_name for m in model().messages.values() if not m.session)
    lines.append("}\n\nWITHOUT_SESSION: Final = frozenset((")
    lines += [f'    "{name}",' for name in without]
    lines.append("))\n\nVOID: Final = frozenset((")
    lines += [
        f'    "{m.full_name}",'
        for cls in model().classes.values()
        for m in told(cls)
        if m.result.spec == "void"
    ]
    return "\n".join([*lines, "))", ""])


def model_module() -> str:
    classes = list(model().classes.values())
    lines = [HEADER + '"""What XenAPI\'s values are: references, enumerations and records."""\n']
    lines.append("from typing import Any, Literal, NewType, TypedDict\n")
    lines += [f'{camel(cls.name)}Ref = NewType("{camel(cls.name)}Ref", str)' for cls in classes]
    kinds = [kind for cls in classes for kind in cls.record.fields.values()]
    kinds += [p.type for cls in classes for m in told(cls) for p in m.params]
    kinds += [m.result for cls in classes for m in told(cls)]
    found = {each.spec: each for kind in kinds for each in enums(kind)}
    for spec, each in sorted(found.items()):
        values = ", ".join(f'"{value}"' for value in each.values)
        lines.append(f"{camel(spec.removeprefix('enum '))} = Literal[{values}]")
    for cls in classes:
        # In quotation marks: a record may have others in it.
        fields = [f'    "{name}": "{spelled(kind)}",' for name, kind in cls.record.fields.items()]
        name = f"{camel(cls.name)}Record"
        # Some fields have names that Python keeps for itself.
        lines.append("\n".join([f'{name} = TypedDict("{name}", {{', *fields, "})"]))
    return "\n".join(lines) + "\n" + BATCH


def method(message: Message, prefix: str, result: str) -> str:
    params = "".join(
        f", {p.name}{'_' if iskeyword(p.name) else ''}: {spelled(p.type, given=True)}"
        + (" = ..." if p.has_default else "")
        for p in message.params
    )
    name = message.name + ("_" if iskeyword(message.name) else "")
    # Many a parameter is called self.
    return f"    {prefix}def {name}(_{params}) -> {result}: ..."


def calls_stub(prefix: str, start: str) -> str:
    """Every class with its messages: as they answer, and as tasks. `start` is how names of the module start."""
    lines = [HEADER + "from collections.abc import Callable, Mapping, Sequence", "from typing import Any\n"]
    lines.append("from kronos_client.model import *\n")
    lines.append("Perform = Callable[[str, str, tuple[Any, ...], dict[str, Any]], Any]\n")
    classes = list(model().classes.values())
    for cls in classes:
        # A class of the same name as an attribute would be hidden by it.
        methods = [method(m, prefix, ODD.get(m.full_name, spelled(m.result))) for m in told(cls)]
        lines += [f"class _{camel(cls.name)}:", *(methods or ["    ..."]), ""]
        methods = [method(m, prefix, "TaskRef") for m in told(cls) if m.asynchronous]
        lines += [f"class _{camel(cls.name)}Tasks:", *(methods or ["    ..."]), ""]
    for name, ending in (("Classes", ""), ("Tasks", "Tasks")):
        lines.append(f"class {start}{name}:")
        lines += [f"    {cls.name}: _{camel(cls.name)}{ending}" for cls in classes]
        lines += ["    def __init__(self, perform: Perform) -> None: ...", ""]
    return "\n".join(lines)


def records_stub() -> str:
    lines = [HEADER + "from collections.abc import Mapping, Sequence", "from typing import Any\n"]
    lines.append("from kronos_client.model import *\n")
    lines.append(
        "class Change:\n    cls: str\n    ref: str\n    before: Mapping[str, Any] | None\n"
        "    after: Mapping[str, Any] | None\n"
        "    def __init__(self, cls: str, ref: str, before: Mapping[str, Any] | None,"
        " after: Mapping[str, Any] | None) -> None: ...\n"
    )
    lines.append("class Records:")
    lines += [
        f"    {cls.name}: Mapping[{camel(cls.name)}Ref, {camel(cls.name)}Record]"
        for cls in model().classes.values()
    ]
    lines.append("    def __init__(self, classes: Sequence[str]) -> None: ...")
    lines.append("    def named(self, cls: str, name_label: str) -> list[str]: ...")
    lines.append(
        "    def _apply(self, events: Sequence[Mapping[str, Any]], *, whole: bool) -> list[Change]: ..."
    )
    return "\n".join([*lines, ""])


def files() -> dict[Path, str]:
    return {
        TARGET / "messages.py": messages_module(),
        TARGET / "model.py": model_module(),
        TARGET / "calls.pyi": calls_stub("", ""),
        TARGET / "acalls.pyi": calls_stub("async ", "Async"),
        TARGET / "records.pyi": records_stub(),
    }
