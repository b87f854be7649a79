"""The command xapi-network: the host's management bridge, made of the configuration that is there, and unmade."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from kronos import __version__
from kronos.datamodel.errors import Failure
from kronos.network import names
from kronos.network.configuration import links
from kronos.network.configuration.base import Refused, bytes_of
from kronos.network.configuration.tools import TOOLS, Tool, tool_of
from kronos.network.configuration.transaction import (
    MADE,
    PATIENCE,
    STATE,
    Change,
    RolledBack,
    Transaction,
    content,
)
from kronos.system import settings
from kronos.system.commands import CommandFailed, run
from kronos.system.files import write_whole

RESOLV_CONF = "/etc/resolv.conf"
FAILED = "failed"
ORIGINAL = "original"
_ADDED, _SUMS = "added", "sums"
AUTO, NONE = "auto", "none"


def device_of(wanted: str) -> str:
    """The NIC that is meant. Raises Refused."""
    device = links.default_device() if wanted == AUTO else wanted
    if not device:
        raise Refused("there is no default route: name the interface")
    try:
        return names.check_device(device)
    except Failure as failure:
        raise Refused(f"{device!r} is no interface's name") from failure


def planned(wanted: str, state: Path) -> tuple[Tool, Change]:
    """What would be done for a NIC. Raises Refused."""
    device = device_of(wanted)
    if links.is_bridge(device):
        raise Refused(f"{device} is a bridge already")
    if other := links.master(device):
        raise Refused(f"{device} is in {other} already")
    port = links.port(device, names.bridge_of(device))
    if links.exists(port.bridge):
        raise Refused(f"there is something else by the name of {port.bridge}")
    tool = tool_of(device)
    texts = tool.bridged(port)
    change = Change(tool.name, "join", "leave", port, links.held(device), contents(texts), texts)
    return tool, noted(change, state)


def contents(texts: Mapping[str, str]) -> dict[str, str | None]:
    return {path: content(Path(path)) for path in texts}


def noted(change: Change, state: Path, earlier: Change | None = None) -> Change:
    """A change that leaves a note of itself: from it what was there first is put back one day, also where the bridge
    was made `earlier` and only its addresses change."""
    first = change
    if earlier is not None:
        before, after = {**change.before, **earlier.before}, {**earlier.after, **change.after}
        first = replace(change, port=earlier.port, before=before, after=after)
    note = str(state / MADE)
    before = {**change.before, note: content(state / MADE)}
    return replace(change, before=before, after={**change.after, note: first.as_json()})


def bridge(transaction: Transaction, wanted: str, say: Callable[[str], None]) -> int:
    """Make the bridge. Raises Refused, RolledBack."""
    with transaction.alone():
        transaction.settle(TOOLS, live=True)
        if (made := transaction.made()) is not None:
            # They come after the change, and a kill may have come between. A file that it changed may be gone by now.
            if content(transaction.state / _SUMS) != _sums(made, transaction.state):
                with contextlib.suppress(OSError):
                    keep_originals(transaction.state, made)
            say(f"{made.port.bridge} has the place of {made.port.device} already")
            return 0
        tool, change = planned(wanted, transaction.state)
        transaction.perform(change, tool)
        keep_originals(transaction.state, change)
        (transaction.state / FAILED).unlink(missing_ok=True)
    say(f"{change.port.bridge} has taken the place of {change.port.device}, by {tool.name}")
    return 0


def undo(transaction: Transaction, say: Callable[[str], None], *, force: bool) -> int:
    """Put the configuration back as it was. Raises Refused, RolledBack."""
    with transaction.alone():
        transaction.settle(TOOLS, live=True)
        made = transaction.made()
        if made is None:
            say("there is no bridge of xapi-network's")
        else:
            guests = sorted(set(links.members(made.port.bridge)) - {made.port.device})
            if guests and not force:
                raise Refused(f"guests are in {made.port.bridge}: {', '.join(guests)}")
            holder = links.default_device()
            if links.is_bridge(holder) and holder != made.port.bridge:
                move = f"xe-reset-networking --device={made.port.device}"
                raise Refused(f"{holder} is the management interface by now: `{move}` moves it back")
            made = _without_servers_of_others(made)
            for path, text in made.after.items():
                if content(Path(path)) != text:
                    raise Refused(f"{path} has been changed since; it stays as it is")
            note = str(transaction.state / MADE)
            back = made.reversed(
                links.held(made.port.bridge if links.exists(made.port.bridge) else made.port.device)
            )
            back = replace(
                back, before={**back.before, note: content(Path(note))}, after={**back.after, note: None}
            )
            if made.step == "renew":  # xe-reset-networking gave it others since
                routes = (links.SOME_ROUTE,) if links.default_device() else ()
                back = replace(back, expected=links.Held(routes=routes))
            transaction.perform(back, TOOLS[made.tool])
            say(f"{made.port.device} has its addresses back, by {made.tool}")
    shutil.rmtree(transaction.state)
    return 0


def _without_servers_of_others(made: Change) -> Change:
    """Whoever has brought an address since may have named the name servers that belong to it."""
    if made.after.get(RESOLV_CONF) in (None, content(Path(RESOLV_CONF))):
        return made
    before, after = (
        {p: t for p, t in each.items() if p != RESOLV_CONF} for each in (made.before, made.after)
    )
    return replace(made, before=before, after=after)


def keep_originals(state: Path, change: Change) -> None:
    """What the files were, for those who have nothing but a shell: purging a package, or an administrator in need."""
    folder = state / ORIGINAL
    added = []
    for path, text in change.before.items():
        if path == str(state / MADE):
            continue
        if text is None:
            added.append(f"{path}\n")
            continue
        copy = folder / path.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_whole(copy, bytes_of(text), Path(path).stat().st_mode & 0o7777)
    write_whole(state / _ADDED, "".join(added).encode())
    write_whole(state / _SUMS, _sums(change, state).encode())


def _sums(change: Change, state: Path) -> str:
    """What the files are with the change, as sha256sum reads it."""
    return "".join(
        f"{hashlib.sha256(bytes_of(change.after[path] or '')).hexdigest()}  {path}\n"
        for path in change.before
        if path != str(state / MADE)
    )


def settle(transaction: Transaction, say: Callable[[str], None], *, live: bool) -> int:
    """Undo a change that was never confirmed. Before the network is up that is a matter of files."""
    if transaction.unconfirmed() is None:
        return 0
    with transaction.alone():
        if (change := transaction.settle(TOOLS, live=live)) is not None:
            _note_failure(
                transaction.state, "the host went down, or the program was ended, before it was confirmed"
            )
            say(f"a change of {change.port.device} that was not confirmed has been undone")
    return 0


def apply(transaction: Transaction, wanted: str, say: Callable[[str], None]) -> int:
    """What the setting says, once: what was taken back is not tried at each start."""
    settle(transaction, say, live=True)
    if wanted == NONE:
        return 0
    if (transaction.state / FAILED).exists():
        reason = (transaction.state / FAILED).read_text().strip()
        say(f"not tried again, as it failed: {reason}. `xapi-network bridge` tries again")
        return 0
    try:
        return bridge(transaction, wanted, say)
    except Refused as why:
        say(f"the network stays as it is: {why}")
        return 0
    except RolledBack as why:
        _note_failure(transaction.state, str(why))
        raise


def _note_failure(state: Path, why: str) -> None:
    write_whole(state / FAILED, f"{why}\n".encode())


def show(transaction: Transaction, wanted: str, say: Callable[[str], None]) -> int:
    """What there is, or what would be done, as a comparison of files."""
    if (made := transaction.made()) is not None:
        say(f"{made.port.bridge} has the place of {made.port.device}, by {made.tool}")
        shown = made
    else:
        tool, shown = planned(wanted, transaction.state)
        say(f"{shown.port.bridge} would take the place of {shown.port.device}, by {tool.name}:")
    for path, text in shown.after.items():
        if path != str(transaction.state / MADE):
            old = shown.before[path]
            lines = ((old or "").splitlines(), (text or "").splitlines())
            for line in difflib.unified_diff(
                *lines, path if old is not None else "/dev/null", path, lineterm=""
            ):
                say(line.encode(errors="replace").decode())
    return 0


def tell_daemon(verb: str = "try-restart") -> None:
    """A running daemon looks at the host's interfaces when it starts; guests run on."""
    if Path("/run/systemd/system").is_dir():
        with contextlib.suppress(CommandFailed):  # a checkout has no unit
            run(["systemctl", "--no-block", verb, "xapi.service"])


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="xapi-network",
        description="Put the interface by which this host is reached into a bridge, so that guests share it, in the "
        "configuration of the distribution's own network tool: ifupdown, systemd-networkd (and netplan's files for it) "
        "or NetworkManager. Connections stay open. What has not been confirmed, because the host was not reached any "
        "more, is taken back.",
    )
    parser.add_argument("--version", action="version", version=f"xapi-network {__version__}")
    parser.add_argument("--state", type=Path, default=STATE, metavar="FOLDER", help=f"default: {STATE}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shows = commands.add_parser("show", help="tell what there is, or what would be changed")
    makes = commands.add_parser("bridge", help="make the bridge")
    for each in (shows, makes):
        each.add_argument(
            "interface", nargs="?", default=AUTO, help="the interface (default: that of the default route)"
        )
    undoes = commands.add_parser("undo", help="put the configuration back as it was")
    undoes.add_argument("--force", action="store_true", help="although guests are in the bridge")
    applies = commands.add_parser(
        "apply", help="do what the setting management_interface says; for xapi-network.service"
    )
    for each in (makes, undoes, applies):
        each.add_argument(
            "--timeout",
            type=float,
            default=PATIENCE,
            metavar="SECONDS",
            help=f"for the host to be reached again (default: {PATIENCE:.0f})",
        )
    settles = commands.add_parser("settle", help="undo a change that was never confirmed")
    settles.add_argument("--files", action="store_true", help="the files alone: the network is not up yet")
    return parser.parse_args(arguments)


def say(line: str) -> None:
    try:
        print(line, flush=True)
    except OSError:  # the terminal went with the connection
        os.close(1)
        os.open(os.devnull, os.O_WRONLY)


def main(arguments: list[str] | None = None) -> int:
    """The command `xapi-network`."""
    options = parse(arguments)
    logging.basicConfig(format="xapi-network: %(message)s")
    transaction = Transaction(options.state, patience=getattr(options, "timeout", PATIENCE))
    try:
        match options.command:
            case "show":
                return show(transaction, options.interface, say)
            case "settle":
                return settle(transaction, say, live=not options.files)
            case "bridge":
                status = bridge(transaction, options.interface, say)
            case "undo":
                status = undo(transaction, say, force=options.force)
            case _:
                known = settings.read(settings.CONFIGURATION, {}, may_be_missing=True)
                status = apply(transaction, known.management_interface, say)
        tell_daemon()
    except (Refused, RolledBack, CommandFailed, settings.SettingsWrong, OSError) as why:
        print(f"xapi-network: {why}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
