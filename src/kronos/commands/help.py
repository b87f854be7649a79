"""xe help: the commands there are, and what each takes."""

from __future__ import annotations

from collections.abc import Sequence

from kronos.commands import facts, listing
from kronos.commands.facts import CommandFacts
from kronos.commands.grammar import Arguments
from kronos.commands.output import Printer

_WIDTH = 74
_INDENT = "    "
_NOT_COMMANDS = {"server", "username", "password", "port", "minimal", "all"}
_USAGE = """\
Usage: xe <command> [options] [name=value ...]

    -s <server>              host to talk to (this one when not given)
    -p <port>                port on that host
    -u <username>            user to log in as
    -pw <password>           their password
    -pwf <file>              file with the user and the password, a line each
    --nossl                  talk to the host without TLS
    --minimal                values alone, separated by commas
    --debug                  show what is sent and received
    --debug-on-fail          the same, only if the command fails

What a command takes:  xe help <command>
"""
_SELECTORS = {
    "vm_selectors": "The VMs to act on are picked with vm=<name or uuid> or any field of a VM as <field>=<value>; "
    "without these all VMs are meant. More than one need --multiple.",
    "host_selectors": "The hosts to act on are picked with host=<name or uuid> or any field of a host as "
    "<field>=<value>; without these all hosts are meant. More than one need --multiple.",
    "sr_selectors": "The SRs to act on are picked with sr=<name or uuid> or any field of an SR as <field>=<value>; "
    "without these all SRs are meant. More than one need --multiple.",
}
_GENERATED = {
    "list": "List the {many}, those that fit the filters given as <field>=<value> or <map>:<key>=<value>; "
    "params= chooses the fields to show.",
    "param-list": "Show every field of one of the {many}.",
    "param-get": "Show one field; param-key= picks one value of a map.",
    "param-set": "Set fields: <field>=<value>, or <map>:<key>=<value> for one value of a map.",
    "param-add": "Add to a set with param-key=, or to a map with <key>=<value>.",
    "param-remove": "Remove a member of a set, or a key of a map.",
    "param-clear": "Empty a set or map, or unset a value.",
}


def known() -> dict[str, CommandFacts]:
    """Every command there is."""
    return facts.commands() | listing.generated()


def show(arguments: Arguments, minimal: bool, printer: Printer) -> None:
    """Print help on the commands named, on the common ones, or with --all on all."""
    asked = [name for name, _ in arguments.pairs if name not in _NOT_COMMANDS]
    if asked:
        for name in asked:
            _describe(name, printer)
        return
    visible = {name: entry for name, entry in sorted(known().items()) if "hidden" not in entry.flags}
    everything = arguments.flag("all")
    names = [name for name, entry in visible.items() if everything or "standard" in entry.flags]
    if minimal:
        printer.lines(names)
        return
    heading = "All commands:" if everything else "Common commands (all of them: xe help --all):"
    printer.lines([_USAGE, heading])
    groups = [names]
    if everything:
        groups = [[n for n in names if n.startswith(prefix)] for prefix in ("host-", "vm-")]
        groups.append([n for n in names if not n.startswith(("host-", "vm-"))])
    for group in groups:
        printer.lines([*wrapped(group), ""])


def wrapped(names: Sequence[str]) -> list[str]:
    """Names in lines of a readable width."""
    lines: list[str] = []
    for name in names:
        if lines and len(lines[-1]) + len(name) + 2 <= _WIDTH:
            lines[-1] += f", {name}"
        else:
            if lines:
                lines[-1] += ","
            lines.append(_INDENT + name)
    return lines


def _describe(name: str, printer: Printer) -> None:
    entry = known().get(name)
    if entry is None:
        printer.lines([f"Unknown command '{name}'"])
        return
    selectors = [flag for flag in _SELECTORS if flag in entry.flags]
    optional = [*entry.optional, *(f"<{flag.replace('_', '-')}>" for flag in selectors)]
    printer.record(
        [
            ("command name        ", name),
            ("reqd params     ", ", ".join(entry.required)),
            ("optional params ", ", ".join(optional)),
            ("description     ", " ".join([_description(name), *(_SELECTORS[flag] for flag in selectors)])),
        ]
    )


def _description(name: str) -> str:
    text = facts.descriptions().get(name)
    if text is not None:
        return text
    for verb, words in _GENERATED.items():
        if name.endswith(f"-{verb}"):
            stem = name.removesuffix(f"-{verb}")
            return words.format(many=f"{stem}es" if stem.endswith("ch") else f"{stem}s")
    return ""
