"""Guest control: what agents that read xenstore are told, and what their answers mean.

The layout is that of XenServer's agents, which know these keys below their domain's path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from kronos.datamodel.errors import Failure

BATCH = "control/batcmd"
"""Where an agent that can run a script is told which, and answers."""

_SCRIPT_LIMIT = 1024
_OUTPUT_LIMIT = 1024
_CUT = " (truncated)"
_REQUIRED = ("username", "password", "script")
_DONE = ("SUCCESS", "TRUNCATED", "FAILURE")


def features(config: Mapping[str, str]) -> dict[str, str]:
    """What agents are offered, by paths below /guest_agent_features; `config` is pool.guest_agent_config."""
    offered: dict[str, str] = {}
    for name in ("VSS", "GAAU"):
        offered |= {name: "", f"{name}/parameters": "", f"{name}/licensed": "1"}
    if "auto_update_enabled" in config:
        offered["GAAU/parameters/enabled"] = "1" if config["auto_update_enabled"] == "true" else "0"
    if "auto_update_url" in config:
        offered["GAAU/parameters/update_url"] = config["auto_update_url"]
    return offered


def is_told(other: Mapping[str, str], feature: str) -> bool:
    """Whether a guest says that it has a feature; `other` is VM_guest_metrics.other."""
    return other.get(feature, "") not in ("", "0")


def assert_complete(args: Mapping[str, str]) -> None:
    """Raises XENAPI_PLUGIN_FAILURE where an argument for running a script is missing."""
    for name in _REQUIRED:
        if name not in args:
            raise Failure("XENAPI_PLUGIN_FAILURE", "missing argument", "", f"Argument {name} is required.")


def script_of(args: Mapping[str, str]) -> str:
    """The script that a client wants run. Raises XENAPI_PLUGIN_FAILURE where it is too long for xenstore."""
    if len(args["script"].encode()) > _SCRIPT_LIMIT:
        text = f"The script length must not exceed {_SCRIPT_LIMIT} bytes"
        raise Failure("XENAPI_PLUGIN_FAILURE", "length restriction", "", text)
    return args["script"]


def assert_takes_scripts(tree: Mapping[str, str]) -> None:
    """Whether a guest's agent waits for a script; `tree` is what is in its xenstore.

    Raises NOT_IMPLEMENTED [text] where none does, XENAPI_PLUGIN_FAILURE where it still works on an earlier one.
    """
    if "control/feature-xs-batcmd" not in tree:
        raise Failure(
            "NOT_IMPLEMENTED", "run-script is not supported on the given VM (or it is still booting)"
        )
    if tree.get(f"{BATCH}/state") == "IN PROGRESS":
        text = "An earlier script still runs; wait for its end, or reboot the VM."
        raise Failure("XENAPI_PLUGIN_FAILURE", text)


def is_answered(tree: Mapping[str, str]) -> bool:
    """Whether the agent has done with a script, or has dropped it."""
    state = tree.get(f"{BATCH}/state")
    return state is None or state in _DONE


def answer_of(tree: Mapping[str, str]) -> str:
    """What a script did, as JSON: rc, stdout and stderr. Raises XENAPI_PLUGIN_FAILURE where it was not run."""
    state, code = tree.get(f"{BATCH}/state", ""), tree.get(f"{BATCH}/return", "")
    out, err = (_short(tree.get(f"{BATCH}/{name}", ""), state) for name in ("stdout", "stderr"))
    try:
        number = int(code)
    except ValueError:
        number = None
    if state not in ("SUCCESS", "TRUNCATED") or number is None:
        text = f"flag = {state}, rc = {code}, stdout = {out}, stderr = {err}"
        raise Failure("XENAPI_PLUGIN_FAILURE", text)
    return json.dumps({"rc": number, "stdout": out, "stderr": err}, separators=(",", ":"))


def _short(text: str, state: str) -> str:
    kept = _OUTPUT_LIMIT - len(_CUT)
    if len(text) >= _OUTPUT_LIMIT or (state == "TRUNCATED" and len(text) > kept):
        return text[:kept] + _CUT
    return text
