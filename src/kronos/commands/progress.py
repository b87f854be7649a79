"""Long calls: run as tasks, with a bar on standard error if the user typed --progress."""

from __future__ import annotations

from typing import Any

from kronos.commands.invocation import Invocation

_WIDTH = 70
_SPIN = "|/-\\"


def task(invocation: Invocation, message: str, *arguments: object) -> Any:
    """Call `message` as a task and return its result. Raises Failure."""
    if not invocation.arguments.flag("progress"):
        return invocation.api.task(message, *arguments)
    try:
        return invocation.api.task(message, *arguments, progress=lambda done: show(invocation, done))
    finally:
        invocation.printer.remark("\n")


def show(invocation: Invocation, done: float) -> None:
    """Draw the bar anew; `done` is 0.0 to 1.0."""
    percent = int(max(0.0, min(1.0, done)) * 100)
    spin = _SPIN[percent % len(_SPIN)]
    invocation.printer.remark(f"\r {percent:3d}% {spin} {'#' * (percent * _WIDTH // 100)}")
