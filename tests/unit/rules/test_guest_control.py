"""What guests' agents are offered and asked, and what their answers mean."""

from __future__ import annotations

import json

import pytest

from kronos.datamodel.errors import Failure
from kronos.rules import guest_control

ARGS = {"username": "u", "password": "p", "script": "echo hello"}
READY = {"control/feature-xs-batcmd": "1"}


def test_agents_are_offered_updates_as_the_pool_says() -> None:
    offered = guest_control.features({"auto_update_enabled": "false", "auto_update_url": "http://u/"})
    assert offered["GAAU/parameters/enabled"] == "0"
    assert offered["GAAU/parameters/update_url"] == "http://u/"
    assert (offered["GAAU/licensed"], offered["VSS/licensed"]) == ("1", "1")
    assert "GAAU/parameters/enabled" not in guest_control.features({})


@pytest.mark.parametrize(
    ("said", "told"), [({}, False), ({"f": ""}, False), ({"f": "0"}, False), ({"f": "1"}, True)]
)
def test_a_feature_counts_when_the_guest_says_so(said: dict[str, str], told: bool) -> None:
    assert guest_control.is_told(said, "f") is told


def test_a_script_needs_all_its_arguments_and_fits_xenstore() -> None:
    guest_control.assert_complete(ARGS)
    with pytest.raises(Failure) as missing:
        guest_control.assert_complete({"username": "u", "script": "s"})
    assert missing.value.description[-1] == "Argument password is required."
    assert guest_control.script_of(ARGS) == "echo hello"
    with pytest.raises(Failure, match="length restriction"):
        guest_control.script_of(ARGS | {"script": "ä" * 513})


def test_a_guest_takes_one_script_at_a_time_if_it_takes_any() -> None:
    guest_control.assert_takes_scripts(READY | {"control/batcmd/state": "SUCCESS"})
    with pytest.raises(Failure, match="NOT_IMPLEMENTED"):
        guest_control.assert_takes_scripts({})
    with pytest.raises(Failure, match="XENAPI_PLUGIN_FAILURE"):
        guest_control.assert_takes_scripts(READY | {"control/batcmd/state": "IN PROGRESS"})


def answer(state: str, code: str, out: str = "") -> dict[str, str]:
    return {"control/batcmd/state": state, "control/batcmd/return": code, "control/batcmd/stdout": out}


def test_an_answer_is_the_scripts_code_and_output() -> None:
    assert json.loads(guest_control.answer_of(answer("SUCCESS", "3", "hello"))) == {
        "rc": 3,
        "stdout": "hello",
        "stderr": "",
    }


def test_long_output_is_cut_and_says_so() -> None:
    told = json.loads(guest_control.answer_of(answer("SUCCESS", "0", "x" * 2000)))["stdout"]
    assert len(told) == 1024
    assert told.endswith(" (truncated)")


@pytest.mark.parametrize("tree", [{}, answer("FAILURE", "1"), answer("SUCCESS", "many")])
def test_what_was_not_run_is_a_failure(tree: dict[str, str]) -> None:
    assert guest_control.is_answered({"control/batcmd/state": "READY"}) is False
    assert guest_control.is_answered({"control/batcmd/state": "IN PROGRESS"}) is False
    assert guest_control.is_answered(tree) is True
    with pytest.raises(Failure, match="XENAPI_PLUGIN_FAILURE"):
        guest_control.answer_of(tree)
