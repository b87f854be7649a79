"""Xen's own console: what the hypervisor has said, and keys that make it say more."""

from __future__ import annotations

from kronos.hypervisor import xen_info
from kronos.system.commands import run


def messages(*, clear: bool = False) -> str:
    """Everything that Xen has written to its console ring; `clear` empties it. Raises CommandFailed."""
    return run(["xl", "dmesg", "--clear"] if clear else ["xl", "dmesg"])


def press(keys: str) -> None:
    """Press Xen's debug keys, in their order. Raises CommandFailed."""
    run(["xl", "debug-keys", keys])


def command_line() -> str:
    """The options that Xen was booted with. Raises CommandFailed."""
    return xen_info.said().get("xen_commandline", "")


def limit_sleep(state: str, sub_state: str) -> None:
    """The deepest state that idle processors enter: a number, or "unlimited", until the next boot.

    Raises CommandFailed.
    """
    run(["xenpm", "set-max-cstate", state, sub_state])
