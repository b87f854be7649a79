"""Kernel modules: which ones a set of drivers needs, and the indexes by which modprobe finds them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kronos.boot.compression import UnreadableData, decompress

_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
_TAG = re.compile(rb"\0(depends|alias|softdep)=([^\0]*)(?=\0)")


class MissingModule(LookupError):
    """A module that is neither in the tree nor built into the kernel."""


@dataclass(frozen=True)
class Module:
    """One module: `content` is the plain ELF file, `depends` names other modules, `aliases` are device patterns."""

    name: str
    content: bytes
    depends: tuple[str, ...]
    aliases: tuple[str, ...]


def closure(tree: Path, required: Sequence[str], wanted: Sequence[str] = ()) -> list[Module]:
    """The modules and all that they depend on, each after what it needs.

    `tree` is a /lib/modules/<release>. What is built into the kernel is left out, and so is what is `wanted` but
    not there. Dependencies are read from the modules themselves: a package that is only unpacked has no modules.dep.

    Raises MissingModule, UnreadableData, OSError.
    """
    files = {_name(path): path for path in sorted(tree.rglob("*.ko*")) if path.name.endswith(_SUFFIXES)}
    built_in = {_name(Path(line)) for line in (tree / "modules.builtin").read_text().split()}
    found: dict[str, Module] = {}

    def add(name: str) -> None:
        if name in found or name in built_in:
            return
        if name not in files:
            raise MissingModule(name)
        module = _read(name, files[name])
        for needed in module.depends:
            add(needed)
        found[name] = module

    for name in required:
        add(name)
    for name in wanted:
        if name in files:
            add(name)
    return list(found.values())


def indexes(modules: Iterable[Module]) -> dict[str, str]:
    """modules.dep and modules.alias for `modules`, which lie beside these files as <name>.ko."""
    by_name = {module.name: module for module in modules}
    dep, alias = [], []
    for module in by_name.values():
        needed = [f"{name}.ko" for name in reversed(_all_needed(module, by_name))]
        dep.append(f"{module.name}.ko:{''.join(' ' + name for name in needed)}\n")
        alias += [f"alias {pattern} {module.name}\n" for pattern in module.aliases]
    return {"modules.dep": "".join(dep), "modules.alias": "".join(alias)}


def _all_needed(module: Module, by_name: dict[str, Module]) -> list[str]:
    """What `module` needs, in the order of loading."""
    needed: list[str] = []
    for name in module.depends:
        if name in by_name:
            needed += [each for each in [*_all_needed(by_name[name], by_name), name] if each not in needed]
    return needed


def _read(name: str, path: Path) -> Module:
    content = path.read_bytes()
    if path.suffix != ".ko":
        content = decompress(content)
    if not content.startswith(b"\x7fELF"):
        raise UnreadableData(f"{path} is no module")
    tags: dict[bytes, list[str]] = {b"depends": [], b"alias": [], b"softdep": []}
    for match in _TAG.finditer(content):
        tags[match.group(1)].append(match.group(2).decode("ascii", "replace"))
    depends = [_plain(each) for line in tags[b"depends"] for each in line.split(",") if each]
    return Module(name, content, tuple(depends), tuple(tags[b"alias"]))


def _name(path: Path) -> str:
    return _plain(path.name.partition(".ko")[0])


def _plain(name: str) -> str:
    # The kernel takes - and _ in a module's name as one character; files use either.
    return name.strip().replace("-", "_")
