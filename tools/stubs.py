"""Write from the facts what is generated: src/kronos/db/records.pyi, every field of every class, typed, and the modules
of the client for Python (client.py). `--check` only compares."""

from __future__ import annotations

import sys
from keyword import iskeyword
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE / "src"))

import client  # noqa: E402  # after the path is set
from kronos.datamodel.model import Class, model  # noqa: E402  # after the path is set
from kronos.datamodel.types import (  # noqa: E402
    EnumType,
    MapType,
    OptionType,
    RecordType,
    RefType,
    SetType,
    Type,
)
from kronos.db.records import python_name  # noqa: E402

TARGET = HERE / "src/kronos/db/records.pyi"
HEADER = """# Written by tools/stubs.py from the facts; `make stubs` writes it again.
from typing import Any

from kronos.db.record import Record

KINDS: dict[str, type[Record]]

def python_name(cls: str) -> str: ...
"""
PLAIN = {
    "string": "str",
    "secret string": "str",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "datetime": "str",
}


def spelled(kind: Type) -> str:
    if isinstance(kind, RefType):
        return "str"
    if isinstance(kind, EnumType):
        return "str"
    if isinstance(kind, SetType):
        return f"tuple[{spelled(kind.item)}, ...]"
    if isinstance(kind, MapType):
        return f"dict[{spelled(kind.key)}, {spelled(kind.value)}]"
    if isinstance(kind, RecordType | OptionType):
        return "Any"
    return PLAIN[kind.spec]


def stub(cls: Class) -> str:
    lines = [
        f"    {field.name}: {spelled(field.type)}"
        for field in cls.fields.values()
        if not iskeyword(field.name)
    ]
    return f"class {python_name(cls.name)}(Record):\n" + ("\n".join(lines) or "    ...") + "\n"


def records() -> str:
    return HEADER + "".join("\n" + stub(cls) for cls in model().classes.values())


def main() -> int:
    wanted = {TARGET: records(), **client.files()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if "--check" in sys.argv:
            print(f"{path.relative_to(HERE)} is stale: run `make stubs`", file=sys.stderr)
        else:
            path.write_text(wanted[path])
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
