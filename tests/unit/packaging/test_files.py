"""The files that the packages install beside the code say what the code says."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest

from kronos.background.inventory.files import INVENTORY, POOL
from kronos.commands import facts
from kronos.network.configuration.transaction import STATE, UNCONFIRMED
from kronos.system import settings
from kronos.system.settings import Settings

PACKAGING = Path(__file__).parents[3] / "packaging"


def unit(name: str = "xapi.service") -> dict[str, list[str]]:
    """The assignments of a unit by name."""
    found: dict[str, list[str]] = {}
    for line in (PACKAGING / "systemd" / name).read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture(scope="module")
def manual() -> ModuleType:
    found = importlib.util.spec_from_file_location("manual", PACKAGING / "manual.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_settings_file_shows_every_setting_with_its_default(tmp_path: Path) -> None:
    text = (PACKAGING / "xapi.toml").read_text()
    uncommented = "\n".join(re.findall(r"^# (\w+ = .*)$", text, re.M))
    (tmp_path / "xapi.toml").write_text(uncommented)

    assert settings.read(tmp_path / "xapi.toml", {}) == Settings()
    assert set(tomllib.loads(uncommented)) == {field.name for field in fields(Settings)}
    assert tomllib.loads(text) == {}, "it changes nothing until somebody edits it"


def test_the_service_keeps_the_folders_that_the_settings_name() -> None:
    assert unit()["StateDirectory"] == [str(Settings().state.relative_to("/var/lib"))]
    assert unit()["RuntimeDirectory"] == [str(Settings().run.relative_to("/run"))]


def test_guests_and_their_address_service_outlive_the_service() -> None:
    assert unit()["KillMode"] == ["process"]
    assert unit()["RuntimeDirectoryPreserve"] == ["yes"]


def test_the_socket_that_systemd_holds_is_the_daemons() -> None:
    assert unit("xapi.socket")["ListenStream"] == [str(Settings().socket)]
    assert unit("xapi.socket")["SocketMode"] == ["0600"]


def test_guests_are_put_away_while_all_that_they_need_is_there() -> None:
    """systemd stops a unit before those that it comes after."""
    after = " ".join(unit("xapi-domains.service")["After"]).split()
    assert {"xapi.service", "libvirtd.service", "libvirt-guests.service", "xendomains.service"} <= set(after)
    assert "libvirtd.service" in " ".join(unit()["After"]).split()


def test_the_daemon_is_stopped_at_a_removal_and_restarted_at_an_upgrade() -> None:
    """debhelper does neither for a service that it is not to start."""
    debian = PACKAGING.parent / "debian"
    assert "--no-start xapi.service" in (debian / "rules").read_text()
    removal = (debian / "xapi.prerm").read_text()
    assert removal.index("deb-systemd-invoke stop xapi.service") < removal.index("xapi --release")
    assert re.search(
        r'-n "\$2" .*\n +deb-systemd-invoke restart xapi\.service', (debian / "xapi.postinst").read_text()
    )


def test_a_host_that_stays_up_leaves_its_guests_alone(tmp_path: Path) -> None:
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho running\n")
    (tmp_path / "systemctl").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(PACKAGING.parent / "src")}
    command = [sys.executable, str(PACKAGING / "scripts/xapi-domains"), "stop"]

    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)

    assert "not going down" in said.stdout


def test_apparmor_lets_guests_into_the_folder_of_their_sockets() -> None:
    assert f"  {Settings().run}/** rwk,\n" in (PACKAGING / "apparmor/xapi").read_text()


def test_the_password_service_has_the_name_that_the_daemon_asks_for() -> None:
    assert (PACKAGING / "pam.d" / Settings().pam_service).is_file()


def test_manual_pages_tell_of_every_setting_and_every_command(manual: ModuleType) -> None:
    page = "\n".join(manual.xapi_toml())
    for field in fields(Settings):
        assert f"\\fB{field.name}\\fR" in page
    commands = "\n".join(manual.commands())
    for name, entry in facts.commands().items():
        assert ("hidden" in entry.flags) != (f"\\fB{manual.plain(name)}\\fR" in commands)


def test_manual_pages_tell_of_every_option(manual: ModuleType) -> None:
    for page, known in ((manual.xapi(), "--release"), (manual.eliloader(), "--default_args")):
        listed = "\n".join(page)
        assert f"\\fB{manual.plain(known)}" in listed
    assert "xapi.toml (5)" in "\n".join(manual.xapi())


def test_what_troff_would_take_for_a_request_is_text(manual: ModuleType) -> None:
    assert manual.plain(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert manual.inline("'tis `a-b` \\n") == "\\&'tis \\fBa\\-b\\fR \\en"


def test_tables_become_lists(manual: ModuleType) -> None:
    lines = ["| key | default | meaning |", "|---|---|---|", "| `a` | 1 | first |", "| `b` | | second |"]
    assert list(manual.table(lines)) == [".TP", "\\fBa\\fR (1)", "first", ".TP", "\\fBb\\fR", "second"]


@pytest.mark.parametrize(
    ("total", "administrators", "wanted"),
    [
        (4096, "", "dom0_mem=1228M,max:1228M"),
        (16384, "console=com1", "console=com1 dom0_mem=1843M,max:1843M"),
        (1 << 20, "", "dom0_mem=8192M,max:8192M"),
        (4096, "dom0_mem=2G", "dom0_mem=2G"),
    ],
)
def test_the_control_domain_leaves_memory_to_guests(
    tmp_path: Path, total: int, administrators: str, wanted: str
) -> None:
    xl = tmp_path / "xl"
    xl.write_text(f"#!/bin/sh\necho {total}\n")
    xl.chmod(0o755)
    script = f'set -e; GRUB_CMDLINE_XEN="{administrators}"; . {PACKAGING}/grub/xapi.cfg; printf %s "$GRUB_CMDLINE_XEN"'
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}

    said = subprocess.run(["sh", "-c", script], env=environment, check=True, capture_output=True, text=True)

    assert said.stdout == wanted


def test_the_files_of_a_host_are_found_where_others_look() -> None:
    links = [line.split() for line in (PACKAGING.parent / "debian/xapi.links").read_text().splitlines()]
    assert links == [
        [str(Settings().state / INVENTORY).lstrip("/"), "etc/xensource-inventory"],
        [str(Settings().state / POOL).lstrip("/"), "etc/xensource/pool.conf"],
    ]


@pytest.mark.parametrize("name", ["xapi-wait-init-complete", "xe-toolstack-restart"])
def test_a_script_says_what_it_does(name: str) -> None:
    script = PACKAGING / "scripts" / name
    said = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=10)
    assert said.returncode == 0
    assert said.stdout.startswith(f"usage: {name}")
    wrong = subprocess.run([script, "nonsense"], capture_output=True, text=True, timeout=10)
    assert wrong.returncode != 0


def test_a_network_that_was_not_confirmed_goes_back_before_it_is_up() -> None:
    text = (PACKAGING / "systemd/xapi-network-undo.service").read_text().splitlines()
    assert f"ConditionPathExists={STATE / UNCONFIRMED}" in text
    assert any(line.startswith("Before=network-pre.target") for line in text)


def test_the_management_bridge_is_there_before_the_daemon_looks() -> None:
    text = (PACKAGING / "systemd/xapi-network.service").read_text().splitlines()
    assert {"After=network-online.target", "Before=xapi.service", f"StateDirectory={STATE.name}"} <= set(text)
