"""Only the system's service has hands on the machine's power."""

from __future__ import annotations

from pathlib import Path

import pytest

from kronos.system import power
from kronos.system.power import NoPower, NotTheService, SystemdPower, is_the_service

SERVICE = "0::/system.slice/xapi.service\n"


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


@pytest.mark.parametrize(
    ("groups", "wanted"),
    [
        (SERVICE, True),
        (
            "2:cpu:/\n1:name=systemd:/machine.slice/host/system.slice/xapi.service\n0::/system.slice/xapi.service\n",
            True,
        ),
        ("0::/user.slice/user-0.slice/session-3.scope\n", False),
        ("0::/system.slice/runner.service\n", False),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/xapi.service\n", False),
        ("0::/system.slice/xapi.service/nested\n", False),
        ("0::/\n", False),
    ],
)
def test_the_cgroup_tells_whether_this_is_the_service(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch, groups: str, wanted: bool
) -> None:
    monkeypatch.setenv("INVOCATION_ID", "e1b0")
    cgroup.write_text(groups)
    assert is_the_service(cgroup) is wanted


def test_what_systemd_did_not_start_is_no_service(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    cgroup.write_text(SERVICE)
    assert not is_the_service(cgroup)


def test_a_process_without_cgroups_is_no_service(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVOCATION_ID", "e1b0")
    assert not is_the_service(cgroup)


@pytest.mark.parametrize("name", ["power_off", "reboot", "restart_daemon", "stop_daemon"])
def test_others_do_nothing(name: str) -> None:
    with pytest.raises(NotTheService, match=r"xapi\.service"):
        getattr(NoPower(), name)()


def test_systemd_is_told_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []
    monkeypatch.setattr(power, "run", lambda argv: told.append(argv))
    hands = SystemdPower()
    for act in (hands.power_off, hands.reboot, hands.restart_daemon, hands.stop_daemon):
        act()
    assert [argv[0] for argv in told] == ["systemctl"] * 4
    assert all("--no-block" in argv for argv in told)
    assert [argv[3:] for argv in told] == [
        ["poweroff"],
        ["reboot"],
        ["restart", "xapi.service"],
        ["stop", "xapi.service", "xapi.socket"],
    ]
