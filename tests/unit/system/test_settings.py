"""Settings: what is in the file and on the command line, checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from kronos.system.settings import Settings, SettingsWrong, read


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "xapi.toml"
    file.write_text('log-level = "debug"\nhttp_port = 8080\n')
    found = read(file, {"http_port": 8081})
    assert (found.log_level, found.http_port, found.https_port) == ("debug", 8081, Settings().https_port)


@pytest.mark.parametrize(
    "untrusted",
    [{"no_such": 1}, {"http_port": "80"}, {"http_port": True}, {"state": 1}, {"system_vm_mode": "pvh"}],
)
def test_what_cannot_be_is_named(untrusted: dict[str, object]) -> None:
    with pytest.raises(SettingsWrong, match=next(iter(untrusted))):
        read(None, untrusted)


@pytest.mark.parametrize("mode", ["pv", "hvm"])
def test_system_vms_boot_in_one_of_two_modes(mode: str) -> None:
    assert read(None, {"system_vm_mode": mode}).system_vm_mode == mode
