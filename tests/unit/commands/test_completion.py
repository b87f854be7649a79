"""Bash completion, run by bash, with the real client and a server."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).parents[3] / "packaging/completion/xe"
_COMPLETE = f"""
source {_SCRIPT}
COMP_LINE=$1 COMP_POINT=${{#1}}
_xe
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def complete(environment, tmp_path):
    """What bash offers after a line, as the whole last word would then read."""

    def complete(line: str) -> list[str]:
        done = subprocess.run(
            ["bash", "--norc", "-c", _COMPLETE, "bash", line],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            timeout=30,
        )
        assert done.stderr == ""
        return [word for word in done.stdout.splitlines() if word]

    return complete


def test_commands_are_offered(complete):
    assert complete("xe vm-st") == ["vm-start"]
    assert "vm-list" in complete("xe vm-")
    assert complete("xe hel") == ["help"]
    assert complete("xe help vm-inst") == ["vm-install"]


def test_parameters_of_the_command_are_offered_once(complete):
    assert complete("xe vbd-create vm-uuid=1 v") == ["vdi-uuid="]
    assert {"force=", "on=", "vm=", "--multiple"} <= set(complete("xe vm-start "))


def test_uuids_of_the_commands_class_are_offered(complete, api, vm):
    assert complete("xe vm-param-get uuid=") == ["VM-1"]
    assert complete("xe vm-destroy uuid=V") == ["VM-1"]


def test_uuids_of_the_parameters_class_are_offered(complete):
    assert complete("xe vdi-create sr-uuid=") == ["SR-1"]


def test_names_are_offered_ready_to_be_typed(complete, api, vm):
    api.add("VM", name_label="big, blue one")
    assert complete("xe vm-start vm=") == ["big\\,\\ blue\\ one", "web"]


def test_names_of_fields_are_offered(complete):
    assert complete("xe vm-param-get uuid=VM-1 param-name=name-") == ["name-description", "name-label"]
    assert complete("xe vm-list params=uuid,power") == ["uuid,power-state"]


def test_values_that_objects_have_are_offered_for_filters(complete, api, vm):
    api.add("VM", name_label="other", power_state="Running")
    assert complete("xe vm-list power-state=") == ["halted", "running"]


def test_yes_and_no_are_offered(complete):
    assert complete("xe vm-start force=") == ["false", "true"]


def test_files_are_offered(complete, tmp_path):
    (tmp_path / "web.xva").touch()
    assert complete("xe vm-import filename=we") == ["web.xva"]


def test_passwords_are_not_completed(complete):
    assert complete("xe pool-join master-password=") == []
