"""host: ssh, idle consoles, plain HTTP."""

from __future__ import annotations

import threading

import pytest

from kronos.api.host import access
from kronos.datamodel.types import seconds_of


@pytest.fixture
def sshd(put):
    put("usr/lib/systemd/system/ssh.socket")
    put("usr/lib/systemd/system/ssh.service")


def test_ssh_is_opened_and_closed_for_good(xapi, system, sshd):
    xapi("host.disable_ssh", xapi.host.ref)
    assert system.commands == ["systemctl disable --now ssh.socket ssh.service"]
    assert xapi("host.get_ssh_enabled", xapi.host.ref) is False

    xapi("host.enable_ssh", xapi.host.ref)
    assert system.commands[1:] == ["systemctl enable --now ssh.service"]
    assert xapi("host.get_ssh_enabled", xapi.host.ref) is True
    assert xapi("host.get_ssh_expiry", xapi.host.ref) == "19700101T00:00:00Z"


def test_ssh_closes_by_itself_when_its_time_is_over(xapi, system, sshd):
    closed = threading.Event()
    change = system.change

    def noted(argv, **options):
        change(argv, **options)
        if "disable" in argv:
            closed.set()
        return ""

    system.change = noted
    xapi("host.set_ssh_enabled_timeout", xapi.host.ref, 1)

    assert closed.wait(30)
    assert system.commands[-1] == "systemctl disable --now ssh.socket ssh.service"


@pytest.mark.parametrize(
    ("state", "is_open"), [("inactive\n\nactive\n", True), ("inactive\n\nfailed\n", False)]
)
def test_a_start_sees_whether_ssh_is_open(xapi, system, sshd, monkeypatch, state, is_open):
    monkeypatch.setattr("kronos.system.remote_shell.run", lambda argv: state)
    access.resume(xapi.db, xapi.machine)
    assert xapi.host.ssh_enabled is is_open


def test_a_restarted_daemon_keeps_the_appointment(xapi, system, sshd, monkeypatch):
    monkeypatch.setattr("kronos.system.remote_shell.run", lambda argv: "active\n")
    xapi.db.write(xapi.host, {"ssh_enabled": True, "ssh_expiry": "20200101T00:00:00Z"})
    closed = threading.Event()
    system.change = lambda argv, **options: closed.set() or ""

    access.resume(xapi.db, xapi.machine)

    assert closed.wait(30)


def test_a_later_time_counts_instead_of_an_earlier_one(xapi, system, sshd):
    xapi("host.set_ssh_enabled_timeout", xapi.host.ref, 3600)
    first = xapi("host.get_ssh_expiry", xapi.host.ref)
    xapi("host.set_ssh_enabled_timeout", xapi.host.ref, 7200)
    assert seconds_of(xapi("host.get_ssh_expiry", xapi.host.ref)) > seconds_of(first)

    access._expire(xapi.db, xapi.machine, xapi.host, first)

    assert xapi("host.get_ssh_enabled", xapi.host.ref) is True
    assert system.commands == []


@pytest.mark.parametrize("seconds", [-1, 172801])
def test_ssh_is_open_for_two_days_at_most(xapi, seconds):
    assert xapi.refused("host.set_ssh_enabled_timeout", xapi.host.ref, seconds) == [
        "INVALID_VALUE",
        "ssh_enabled_timeout",
        str(seconds),
    ]


def test_a_host_without_sshd_says_so(xapi, system):
    assert xapi.refused("host.enable_ssh", xapi.host.ref)[0] == "OPERATION_NOT_ALLOWED"
    assert xapi("host.get_ssh_enabled", xapi.host.ref) is True


def test_shells_that_nobody_uses_end(xapi, system):
    file = system.root / "etc/profile.d/xapi-console-timeout.sh"

    xapi("host.set_console_idle_timeout", xapi.host.ref, 300)
    assert "export TMOUT=300\n" in file.read_text()
    assert xapi("host.get_console_idle_timeout", xapi.host.ref) == 300

    xapi("host.set_console_idle_timeout", xapi.host.ref, 0)
    assert not file.exists()
    assert xapi.refused("host.set_console_idle_timeout", xapi.host.ref, -1)[1] == "console_timeout"


def test_old_tls_stays_off(xapi):
    xapi("host.set_ssl_legacy", xapi.host.ref, False)
    assert xapi.refused("host.set_ssl_legacy", xapi.host.ref, True)[0] == "VALUE_NOT_SUPPORTED"
    assert xapi.refused("host.set_ssh_auto_mode", xapi.host.ref, True)[0] == "VALUE_NOT_SUPPORTED"


def test_the_daemon_closes_its_plain_door(xapi):
    class Doors:
        allowed = True

        def allow_plain(self, allowed):
            self.allowed = allowed

    xapi.machine.doors = Doors()
    xapi("host.set_https_only", xapi.host.ref, True)
    assert xapi.machine.doors.allowed is False
    assert xapi("host.get_https_only", xapi.host.ref) is True


def test_a_unit_is_closed_by_its_own_name_alone(xapi, system, put):
    own = put("usr/lib/systemd/system/ssh.service")
    (own.parent / "sshd.service").symlink_to(own)
    xapi("host.disable_ssh", xapi.host.ref)
    assert system.commands == ["systemctl disable --now ssh.service"]
