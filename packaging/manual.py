"""The manual pages, made from what there is already: the programs' own help, the facts of xe, and pages of docs/.

    PYTHONPATH=src python3 packaging/manual.py DIRECTORY

Markdown is understood as far as those pages use it: headings, paragraphs, lists, tables of one line a row, code.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from kronos import __version__
from kronos.commands import facts

DOCS = Path(__file__).parent.parent / "docs"
_SPECIAL = re.compile(r"(\*\*.+?\*\*|`[^`]+`|\[[^\]]+\]\([^)]+\))")
_COMMENT = re.compile(r"<!--.*?-->", re.S)
_GLOBAL = """\
.TP
.BI \\-s " server"
host to talk to; this one when not given
.TP
.BI \\-p " port"
port on that host
.TP
.BI \\-u " username"
user to log in as
.TP
.BI \\-pw " password"
their password, which every user of this machine can read meanwhile: prefer
.B \\-pwf
.TP
.BI \\-pwf " file"
file with the user and the password, a line each
.TP
.B \\-\\-nossl
talk to the host without TLS
.TP
.B \\-\\-minimal
values alone, separated by commas
.TP
.B \\-\\-debug
show what is sent and received
.TP
.B \\-\\-debug\\-on\\-fail
the same, only if the command fails
"""


def plain(text: str) -> str:
    """Text that troff prints as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...").replace("→", "->")
    for typographic, name in (("“", "\\(lq"), ("”", "\\(rq"), ("’", "'"), ("–", "\\(en")):
        text = text.replace(typographic, name)
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.M)


def inline(text: str) -> str:
    """A line of Markdown: code and emphasis in bold, links as their text."""
    parts = []
    for part in _SPECIAL.split(text):
        if part.startswith("**"):
            parts.append(f"\\fB{plain(part[2:-2])}\\fR")
        elif part.startswith("`"):
            parts.append(f"\\fB{plain(part[1:-1])}\\fR")
        elif part.startswith("["):
            parts.append(inline(part[1 : part.index("](")]))
        else:
            parts.append(plain(part) if part else "")
    return re.sub(r"^([.'])", r"\\&\1", "".join(parts))


def converted(markdown: str) -> Iterator[str]:
    """Lines of troff for a piece of Markdown that has no headings."""
    for block in re.split(r"\n\s*\n", _COMMENT.sub("", markdown).strip("\n")):
        lines = block.split("\n")
        if lines[0].startswith("```") or all(line.startswith("    ") for line in lines):
            yield from code([line for line in lines if not line.startswith("```")])
        elif lines[0].startswith("|"):
            yield from table(lines)
        elif re.match(r"[*-] ", lines[0]):
            for item in re.split(r"\n(?=[*-] )", block):
                yield from (".IP \\(bu 2", inline(" ".join(item[2:].split())))
        else:
            yield from (".PP", inline(" ".join(block.split())))


def code(lines: Sequence[str]) -> Iterator[str]:
    yield from (".PP", ".nf", ".RS 4")
    yield from (plain(line) for line in lines)
    yield from (".RE", ".fi")


def table(lines: Sequence[str]) -> Iterator[str]:
    """A table as a list of its first column; a second of three goes in parentheses, more are named."""
    heading, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    for first, *between, last in rows:
        yield ".TP"
        if len(between) > 1:
            yield inline(first)
            cells = zip(heading[1:], [*between, last], strict=True)
            yield inline(". ".join(f"{title.capitalize()}: {cell}" for title, cell in cells if cell))
        else:
            yield inline(first) + (f" ({inline(between[0])})" if between and between[0] else "")
            yield inline(last)


def section(page: str, heading: str) -> list[str]:
    """What a page of docs/ says below a heading; "" is what comes before the first. Raises KeyError."""
    text = (DOCS / page).read_text()
    parts = re.split(r"^##? +(.*)$", text, flags=re.M)
    found = {title.replace("`", ""): body for title, body in zip(parts[1::2], parts[2::2], strict=True)}
    if not heading:
        return list(converted(parts[2]))
    return list(converted(found[heading]))


def options(usage: str) -> Iterator[str]:
    """What argparse prints about options, as a list."""
    _, _, listed = usage.partition("options:\n")
    entry = re.compile(r"^  (?P<names>-.*?|\S+)(?:  +|\n +)(?P<text>\S(?:.|\n(?=      ))*)", re.M)
    for found in entry.finditer(listed.split("\n\n")[0]):
        yield from (".TP", f"\\fB{plain(found['names'])}\\fR", plain(" ".join(found["text"].split())))


def subcommands(usage: str) -> Iterator[str]:
    """What argparse prints about them, as a list."""
    for name, text in re.findall(r"^    (\w+) {2,}(\S.*(?:\n {8,}\S.*)*)", usage, re.M):
        yield from (".TP", f"\\fB{plain(name)}\\fR", plain(" ".join(text.split())))


def header(name: str, number: int, what: str) -> list[str]:
    moment = int(os.environ.get("SOURCE_DATE_EPOCH", datetime.datetime.now(datetime.UTC).timestamp()))
    date = datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%d")
    return [
        f'.TH {name.upper()} {number} {date} "Kronos {__version__}"',
        ".SH NAME",
        f"{name} \\- {what}",
    ]


def see_also(*pages: str) -> list[str]:
    named = [f".BR {name} ({number})" for name, _, number in (page.rpartition(".") for page in pages)]
    return [".SH SEE ALSO", " ,\n".join(named)]


def xapi() -> list[str]:
    usage = printed("kronos.daemon", "--help")
    return [
        *header("xapi", 8, "the XenAPI toolstack of a host"),
        ".SH SYNOPSIS",
        ".B xapi",
        "[\\fB\\-\\-config\\fR \\fIfile\\fR] [\\fB\\-o\\fR \\fIname\\fR=\\fIvalue\\fR]...",
        "[\\fB\\-\\-check\\fR [\\fB\\-\\-json\\fR] | \\fB\\-\\-coverage\\fR | \\fB\\-\\-version\\fR]",
        ".SH DESCRIPTION",
        "Runs this host's virtual machines through libvirt, and serves XenAPI: XML\\-RPC on /, /RPC2 and /xmlrpc,",
        "JSON\\-RPC on /jsonrpc, over HTTPS and on a Unix socket. systemd starts it as xapi.service. Virtual machines",
        "run on when it stops, is killed or is upgraded.",
        ".PP",
        "Root on the host needs no password (xe uses the socket); from elsewhere root logs in through PAM, service",
        "xapi. Other users come in by roles, when external authentication is on: xe pool\\-enable\\-external\\-auth.",
        ".SH OPTIONS",
        *options(usage),
        ".SH CHECKING A HOST",
        *section("hypervisors.md", "xapi --check"),
        ".SH FILES",
        ".TP",
        ".IR /etc/xapi.toml ,\\  /etc/xapi.toml.d/*.toml",
        "settings, see xapi.toml(5)",
        ".TP",
        ".I /etc/pam.d/xapi",
        "who may log in",
        ".TP",
        ".I /var/lib/xcp",
        "database, certificate (xapi\\-ssl.pem, made at the first start: replace it by your own) and socket",
        ".TP",
        ".I /var/opt/xapi/local",
        "disks of the default storage repository",
        ".TP",
        ".I /run/xapi",
        "consoles of running virtual machines",
        ".TP",
        ".IR /etc/xensource\\-inventory ,\\  /etc/xensource/pool.conf",
        "what other tools look up of this host, written at each start",
        *see_also("xe.1", "xapi.toml.5", "xapi-domains.8", "eliloader.8"),
    ]


def xapi_toml() -> list[str]:
    return [
        *header("xapi.toml", 5, "settings of xapi"),
        ".SH SYNOPSIS",
        ".I /etc/xapi.toml",
        ".SH DESCRIPTION",
        *section("settings.md", ""),
        ".SH EXAMPLE",
        *code(['storage = "/srv/disks"', "http_port = 0", 'log_level = "debug"']),
        *see_also("xapi.8"),
    ]


def eliloader() -> list[str]:
    return [
        *header("eliloader", 8, "find what a paravirtual VM that is being installed boots"),
        ".SH SYNOPSIS",
        ".B eliloader",
        "[\\fIoptions\\fR] \\fB\\-\\-vm=\\fR\\fIuuid\\fR \\fIimage\\fR",
        ".SH DESCRIPTION",
        *section("eliloader.md", ""),
        ".SH OPTIONS",
        *options(printed("kronos.boot.eliloader", "--help")),
        ".SH OUTPUT AND ERRORS",
        *section("eliloader.md", "The program"),
        ".SH KEYS OF OTHER_CONFIG",
        *section("eliloader.md", "Keys of VM.other_config"),
        ".SH SECURITY",
        *section("eliloader.md", "What it does not trust"),
        *see_also("xapi.8", "xe.1"),
    ]


def xe() -> list[str]:
    return [
        *header("xe", 1, "command line of XenAPI hosts"),
        ".SH SYNOPSIS",
        ".B xe",
        "\\fIcommand\\fR [\\fIoptions\\fR] [\\fIname\\fR=\\fIvalue\\fR ...]",
        ".SH DESCRIPTION",
        *section("xe.md", ""),
        ".SH OPTIONS",
        _GLOBAL.rstrip(),
        ".SH WORDS",
        *section("xe.md", "Words"),
        ".SH SERVER AND LOGIN",
        *section("xe.md", "The server and the login"),
        ".SH CONSOLE",
        *section("xe.md", "The console"),
        ".SH EXIT STATUS",
        "0, or 1 with the reason on standard error; 130 when interrupted.",
        ".SH COMMANDS",
        "Those that act on a single call or more; the commands of every class (\\fIclass\\fR\\-list,",
        "\\-param\\-list, \\-param\\-get, \\-param\\-set, \\-param\\-add, \\-param\\-remove, \\-param\\-clear)",
        "are told by \\fBxe help \\-\\-all\\fR.",
        *commands(),
        *see_also("xapi.8"),
    ]


def wait_init_complete() -> list[str]:
    return [
        *header("xapi-wait-init-complete", 8, "wait until xapi serves"),
        ".SH SYNOPSIS",
        ".B xapi\\-wait\\-init\\-complete",
        "\\fIseconds\\fR [\\fItag\\fR]",
        ".SH DESCRIPTION",
        "Ends with 0 as soon as xapi.service is ready. If it is not after so many seconds, this is written to the",
        "system log under the tag and to standard error, and it ends with 1. For scripts that run at boot.",
        *see_also("xapi.8", "xe\\-toolstack\\-restart.8"),
    ]


def domains() -> list[str]:
    return [
        *header("xapi-domains", 8, "put virtual machines away before the host goes down"),
        ".SH SYNOPSIS",
        ".B xapi\\-domains stop",
        ".SH DESCRIPTION",
        "Run by systemd when xapi\\-domains.service stops. On a host that stays up it does nothing.",
        *section("administration.md", "When the host goes down"),
        *see_also("xapi.8", "xe.1"),
    ]


def network() -> list[str]:
    return [
        *header("xapi-network", 8, "put the interface by which a host is reached into a bridge"),
        ".SH SYNOPSIS",
        ".B xapi\\-network",
        "\\fBshow\\fR [\\fIinterface\\fR] | \\fBbridge\\fR [\\fIinterface\\fR] | \\fBundo\\fR [\\fB\\-\\-force\\fR] |",
        "\\fBapply\\fR | \\fBsettle\\fR [\\fB\\-\\-files\\fR]",
        ".SH DESCRIPTION",
        *section("network.md", "The management bridge"),
        ".SH COMMANDS",
        *subcommands(printed("kronos.network.configuration.program", "--help")),
        ".SH FILES",
        ".TP",
        ".I /var/lib/xapi\\-network",
        "what was changed, and the files as they were",
        *see_also("xapi.8", "xapi.toml.5", "xe-reset-networking.8"),
    ]


def reset_networking() -> list[str]:
    return [
        *header("xe-reset-networking", 8, "set up the management interface anew"),
        ".SH SYNOPSIS",
        ".B xe\\-reset\\-networking",
        "[\\fIoptions\\fR]",
        ".SH DESCRIPTION",
        "Gives the management interface other addresses, or makes another interface it, at once. It shows what is",
        "about to be done and asks for a yes. Where the host is not reached afterwards everything is put back.",
        "It needs no running xapi, and starts it anew at the end; virtual machines run on.",
        ".SH OPTIONS",
        *options(printed("kronos.network.configuration.reset", "--help")),
        *see_also("xapi-network.8", "xapi.8"),
    ]


def toolstack_restart() -> list[str]:
    return [
        *header("xe-toolstack-restart", 8, "restart the toolstack"),
        ".SH SYNOPSIS",
        ".B xe\\-toolstack\\-restart",
        ".SH DESCRIPTION",
        "Restarts xapi.service and ends when it is ready, or with 1 where it does not start. Virtual machines run on;",
        "tasks that were under way fail, and undo what they had done.",
        *see_also("xapi.8", "xapi\\-wait\\-init\\-complete.8"),
    ]


def commands() -> Iterator[str]:
    """Every command that has facts of its own, and what it takes."""
    described = facts.descriptions()
    for name, entry in sorted(facts.commands().items()):
        if "hidden" in entry.flags or name not in described:
            continue
        selectors = [
            f"<{flag.replace('_', '-')}>" for flag in sorted(entry.flags) if flag.endswith("_selectors")
        ]
        taken = [_parameter(word) for word in entry.required]
        taken += [f"[{_parameter(word)}]" for word in entry.optional]
        taken += [plain(word) for word in selectors]
        yield from (".TP", " ".join([f"\\fB{plain(name)}\\fR", *taken]), plain(described[name]))


def _parameter(word: str) -> str:
    key = f"\\fI{plain(word.rstrip(':'))}\\fR"
    if word.startswith(("<", "--")):
        return plain(word)
    return f"{key}:key=" if word.endswith(":") else f"{key}="


def printed(module: str, *arguments: str) -> str:
    """What a program of ours prints, at a width of its own."""
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "COLUMNS": "110"}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


PAGES = {
    "xapi.8": xapi,
    "xapi.toml.5": xapi_toml,
    "xapi-domains.8": domains,
    "xapi-network.8": network,
    "xapi-wait-init-complete.8": wait_init_complete,
    "xe-reset-networking.8": reset_networking,
    "xe-toolstack-restart.8": toolstack_restart,
    "eliloader.8": eliloader,
    "xe.1": xe,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the manual pages.")
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (directory / name).write_text("\n".join(page()) + "\n")


if __name__ == "__main__":
    main()
