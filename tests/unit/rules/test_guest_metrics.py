"""What an agent writes in xenstore, as VM_guest_metrics has it."""

from __future__ import annotations

import pytest

from kronos.rules import guest_metrics

LINUX = {
    "attr/PVAddons/Installed": "1",
    "attr/PVAddons/MajorVersion": "8",
    "attr/PVAddons/MinorVersion": "4",
    "attr/PVAddons/MicroVersion": "0",
    "attr/PVAddons/BuildVersion": "1",
    "attr/os/class": "unix",
    "data/os_name": "Debian GNU/Linux 12 (bookworm)",
    "data/os_distro": "debian",
    "data/os_majorver": "12",
    "data/os_minorver": "5",
    "data/os_uname": "6.1.0-18-amd64",
    "data/meminfo_total": "1011712",
    "data/meminfo_free": "612340",
    "attr/vif/0/ipv4/0": "10.0.0.5",
    "attr/vif/0/ipv4/1": "10.0.0.6",
    "attr/vif/0/ipv6/0": "fe80::1",
    "attr/vif/1/ipv6/0": "fe80::2",
    "control/feature-shutdown": "1",
    "control/feature-suspend": "1",
    "control/feature-balloon": "1",
    "feature/hotplug/vbd": "1",
    "data/updated": "1700000000",
}


def read(**changes: str | None) -> dict[str, object]:
    tree = {path: value for path, value in (LINUX | changes).items() if value is not None}
    found = guest_metrics.fields(tree)
    assert found is not None
    return found


def test_a_linux_agent_is_read_whole() -> None:
    assert read() == {
        "PV_drivers_version": {"major": "8", "minor": "4", "micro": "0", "build": "1"},
        "PV_drivers_detected": True,
        "PV_drivers_up_to_date": True,
        "os_version": {
            "name": "Debian GNU/Linux 12 (bookworm)",
            "uname": "6.1.0-18-amd64",
            "distro": "debian",
            "major": "12",
            "minor": "5",
        },
        "netbios_name": {},
        "memory": {"free": "612340", "total": "1011712"},
        "networks": {
            "0/ip": "10.0.0.5",
            "0/ipv4/0": "10.0.0.5",
            "0/ipv4/1": "10.0.0.6",
            "0/ipv6/0": "fe80::1",
            "1/ipv6/0": "fe80::2",
        },
        "other": {"feature-shutdown": "1", "feature-suspend": "1", "feature-balloon": "1"},
        "can_use_hotplug_vbd": "yes",
        "can_use_hotplug_vif": "unspecified",
        "live": True,
    }


def test_nothing_is_read_before_the_agent_says_that_it_is_done() -> None:
    assert (
        guest_metrics.fields({path: value for path, value in LINUX.items() if path != "data/updated"}) is None
    )


def test_windows_tells_its_name_and_drivers() -> None:
    found = read(
        **{
            "data/host_name": "WIN",
            "data/domain": "corp",
            "drivers/xenvbd": "XenServer 9",
            "attr/os/spmajor": "1",
        }
    )
    assert found["netbios_name"] == {"host_name": "WIN", "domain": "corp"}
    assert found["PV_drivers_version"]["xenvbd"] == "XenServer 9"  # type: ignore[index]
    assert found["os_version"]["spmajor"] == "1"  # type: ignore[index]


def test_agents_from_before_the_micro_version_have_minus_one() -> None:
    assert read(**{"attr/PVAddons/MicroVersion": None})["PV_drivers_version"]["micro"] == "-1"  # type: ignore[index]


def test_without_a_version_there_are_no_drivers() -> None:
    found = read(**{f"attr/PVAddons/{part}Version": None for part in ("Major", "Minor", "Micro", "Build")})
    assert found["PV_drivers_detected"] is False
    assert found["PV_drivers_version"] == {}


def test_why_a_guest_cannot_be_suspended_replaces_that_it_can() -> None:
    other = read(**{"data/cant_suspend_reason": "a disk"})["other"]
    assert other == {"feature-shutdown": "1", "feature-balloon": "1", "data-cant-suspend-reason": "a disk"}


@pytest.mark.parametrize(
    ("tree", "networks"),
    [
        ({"attr/eth0/ip": "10.0.0.7"}, {"0/ip": "10.0.0.7", "0/ipv4/0": "10.0.0.7"}),
        (
            {"attr/eth1/ip": "10.0.0.7", "attr/eth1/ipv6/0/addr": "fe80::7"},
            {"1/ip": "10.0.0.7", "1/ipv4/0": "10.0.0.7", "1/ipv6/0": "fe80::7"},
        ),
        ({"xenserver/attr/net-sriov-vf/2/ipv4/0": "10.0.0.8"}, {"2/ip": "10.0.0.8", "2/ipv4/0": "10.0.0.8"}),
        # Agents that number addresses write the old form too, for old hosts.
        (
            {"attr/eth0/ip": "1.2.3.4", "attr/vif/0/ipv4/0": "10.0.0.9"},
            {"0/ip": "10.0.0.9", "0/ipv4/0": "10.0.0.9"},
        ),
        ({"attr/vif/0/ipv4/1": "10.0.0.9"}, {"0/ip": "10.0.0.9", "0/ipv4/1": "10.0.0.9"}),
        (
            {"attr/vif/0/ipv4/0": "none", "attr/vif/x/ipv4/0": "10.0.0.1", "attr/vif/0/ipv4/0/0": "10.0.0.1"},
            {},
        ),
        ({"attr/vif/0/ipv4/0": "fe80::1", "attr/vif/0/ipv6/0": "10.0.0.1"}, {}),
    ],
)
def test_addresses(tree: dict[str, str], networks: dict[str, str]) -> None:
    assert guest_metrics.networks(tree) == networks


def test_what_a_hostile_guest_writes_is_bounded_and_printable() -> None:
    tree = {f"control/k{number}": "v" for number in range(100_000)}
    tree |= {"data/os_name": "\x1b[2J" + "n" * 100_000, "data/updated": "", "control/ b": "x"}
    found = guest_metrics.fields(tree)
    assert found is not None
    assert len(found["other"]) <= guest_metrics.MOST
    assert len(found["os_version"]["name"]) <= guest_metrics.LONGEST
    assert found["os_version"]["name"].isprintable()
