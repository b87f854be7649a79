"""The outcome of the checks, for people and for programs."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterable
from dataclasses import asdict
from typing import TextIO

from kronos.hypervisor.checkup.check import Result, Verdict

_COLOURS: dict[Verdict, str] = {"ok": "32", "warning": "33", "missing": "31"}
_WIDTH = 100
_MARGIN = 9


def write(results: Iterable[Result], out: TextIO) -> int:
    """Print each result as it comes, coloured on a terminal, and a last line; the exit status that says the same.

    That is 0 where guests can run, warnings or not, and 1 where something that they need is missing.
    """
    coloured = out.isatty()
    width = min(_WIDTH, shutil.get_terminal_size((_WIDTH, 0)).columns) if coloured else _WIDTH
    count: dict[Verdict, int] = {"ok": 0, "warning": 0, "missing": 0}
    for result in results:
        count[result.verdict] += 1
        label = f"{result.verdict:<{_MARGIN}}"
        if coloured:
            label = f"\x1b[{_COLOURS[result.verdict]}m{label}\x1b[0m"
        print(label + _wrapped(f"{result.name}: {result.text}", width), file=out)
        if result.remedy:
            print(" " * _MARGIN + _wrapped(f"-> {result.remedy}", width), file=out)
        out.flush()
    print(_conclusion(count), file=out)
    return 1 if count["missing"] else 0


def write_json(results: Iterable[Result], out: TextIO) -> int:
    """The same as one JSON document."""
    found = list(results)
    status = 1 if any(result.verdict == "missing" for result in found) else 0
    json.dump({"ready": not status, "checks": [asdict(result) for result in found]}, out, indent=1)
    print(file=out)
    return status


def _wrapped(text: str, width: int) -> str:
    lines = textwrap.wrap(text, max(30, width - _MARGIN), break_long_words=False, break_on_hyphens=False)
    return ("\n" + " " * _MARGIN).join(lines)


def _conclusion(count: dict[Verdict, int]) -> str:
    warnings = f"{count['warning']} warning{'' if count['warning'] == 1 else 's'}"
    if count["missing"]:
        verb = "thing keeps" if count["missing"] == 1 else "things keep"
        return f"{count['missing']} {verb} guests from running; {warnings}."
    return f"Guests can run here; {warnings}."
