"""Settings: what is in the file and on the command line, checked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kronos.arguments import parse, settings_of
from kronos.system.settings import Settings, SettingsWrong, read


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "xapi.toml"
    file.write_text('log-level = "debug"\nhttp_port = 8080\n')
    found = read(file, {"http_port": 8081})
    assert (found.log_level, found.http_port, found.https_port) == ("debug", 8081, Settings().https_port)


@pytest.mark.parametrize(
    "untrusted",
    [
        {"no_such": 1},
        {"http_port": "80"},
        {"http_port": True},
        {"state": 1},
        {"system_vm_mode": "pvh"},
        {"session_revalidation": 0},
    ],
)
def test_what_cannot_be_is_named(untrusted: dict[str, object]) -> None:
    with pytest.raises(SettingsWrong, match=next(iter(untrusted))):
        read(None, untrusted)


@pytest.mark.parametrize("mode", ["pv", "hvm"])
def test_system_vms_boot_in_one_of_two_modes(mode: str) -> None:
    assert read(None, {"system_vm_mode": mode}).system_vm_mode == mode


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A settings file, not there yet, with its folder of drop-ins."""
    (tmp_path / "xapi.toml.d").mkdir()
    return tmp_path / "xapi.toml"


def drop_in(file: Path, name: str, text: str) -> Path:
    path = file.with_name(f"{file.name}.d") / name
    path.write_text(text)
    return path


def test_files_dropped_in_beside_it_come_on_top_of_the_file_in_order_of_their_names(file: Path) -> None:
    file.write_text("http_port = 1\nhttps_port = 1\naddress = '::1'")
    drop_in(file, "20-late.toml", "http_port = 3")
    drop_in(file, "10-early.toml", "http_port = 2\nhttps_port = 2")
    found = read(file, {})
    assert (found.http_port, found.https_port, found.address) == (3, 2, "::1")


def test_the_command_line_wins_over_what_was_dropped_in(file: Path) -> None:
    file.touch()
    drop_in(file, "10.toml", "http_port = 2")
    assert read(file, {"http_port": 4}).http_port == 4


def test_what_is_not_called_toml_is_not_read(file: Path) -> None:
    file.touch()
    drop_in(file, "10.toml.dpkg-old", "http_port = 2")
    assert read(file, {}) == Settings()


def test_a_host_may_have_dropped_in_files_alone(file: Path) -> None:
    drop_in(file, "10.toml", "http_port = 2")
    assert read(file, {}, may_be_missing=True).http_port == 2


def test_a_file_that_was_asked_for_has_to_be_there(file: Path) -> None:
    with pytest.raises(SettingsWrong, match="xapi.toml"):
        read(file, {})


@pytest.mark.parametrize("text", ["no_such = 1", "http_port = '80'", "http_port"])
def test_the_dropped_in_file_that_is_wrong_is_named(file: Path, text: str) -> None:
    file.touch()
    wrong = drop_in(file, "10-ours.toml", text)
    with pytest.raises(SettingsWrong, match=f"^{re.escape(str(wrong))}: "):
        read(file, {})


def test_local_disks_are_a_list_of_devices(file: Path) -> None:
    file.write_text('local_disks = ["/dev/sdb", "/dev/disk/by-id/wwn-0x5"]')
    assert read(file, {}).local_disks == ("/dev/sdb", "/dev/disk/by-id/wwn-0x5")


@pytest.mark.parametrize(
    "text", ["'/dev/sdb'", "['sdb']", "['/dev/sda,/dev/sdb']", "[1]", "['/dev/../etc/shadow']"]
)
def test_what_is_no_list_of_devices_is_refused(file: Path, text: str) -> None:
    file.write_text(f"local_disks = {text}")
    with pytest.raises(SettingsWrong, match="local_disks"):
        read(file, {})


def test_the_command_line_separates_devices_by_commas(file: Path) -> None:
    file.touch()
    options = parse(["--config", str(file), "-o", "local_disks=/dev/sdb,/dev/sdc"])
    assert settings_of(options).local_disks == ("/dev/sdb", "/dev/sdc")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("product_version", "8"),
        ("product_version", "8.3.0-rc1"),
        ("product_version", ""),
        ("platform_version", "1.2.3.4.5"),
        ("product_brand", ""),
        ("product_brand", "it's"),
        ("platform_name", "a\nb"),
    ],
)
def test_a_product_is_one_that_clients_can_parse(name: str, value: str) -> None:
    with pytest.raises(SettingsWrong, match=name):
        read(None, {name: value})
