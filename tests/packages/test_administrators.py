"""What an administrator has written is kept: settings through upgrades, data through a purge."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.packages.built import EARLIER, Built
from harness.packages.roots import Root

pytestmark = pytest.mark.timeout(600)
Make = Callable[..., Root]
MINE = "# The administrator's.\n"


def owners(built: Built) -> dict[str, str]:
    """The package of each file that is the administrator's to change."""
    found = {path: name for name in built.debs for path in built.conffiles(name)}
    assert "/etc/xapi.toml" in found
    return found


def leftovers(root: Root) -> str:
    return root.run("find /etc -name '*.dpkg-*' -o -name '*.ucf-*'")


def test_settings_that_nobody_changed_follow_the_package(make: Make, packages: Built) -> None:
    everything = " ".join(packages.debs)
    fresh, root = make(), make(packages.earlier)
    fresh.run(f"apt-get install -q -y {everything}")
    root.run(f"apt-get install -q -y {everything}")
    for path in owners(packages):
        assert root.read(path) != fresh.read(path), "the test's earlier version has it as it is now"
    root.repository = packages.both
    root.run(f"apt-get update -q && apt-get install -q -y {everything}")
    for path in owners(packages):
        assert root.read(path) == fresh.read(path)
    assert leftovers(root) == ""


def test_settings_that_were_changed_are_kept_without_a_question(make: Make, packages: Built) -> None:
    everything = " ".join(packages.debs)
    root = make()
    root.run(f"apt-get install -q -y {everything}")
    for path in owners(packages):
        root.write(path, root.read(path) + MINE)
    changed = {path: root.read(path) for path in owners(packages)}
    root.run(f"apt-get install -q -y --reinstall {everything}")
    root.run(f"apt-get remove -q -y {everything} && apt-get install -q -y {everything}")
    assert {path: root.read(path) for path in changed} == changed
    assert leftovers(root) == ""


def test_settings_that_both_have_changed_are_kept_where_apt_is_told_so(make: Make, packages: Built) -> None:
    """dpkg itself asks then, whatever the frontend; whoever upgrades unattended has said beforehand what he wants."""
    earlier = " ".join(f"{name}={packages.version}{EARLIER}" for name in packages.debs)
    root = make()
    root.run(f"apt-get install -q -y {earlier}")
    for path in owners(packages):
        root.write(path, root.read(path) + MINE)
    changed = {path: root.read(path) for path in owners(packages)}
    root.run(f"apt-get install -q -y -o Dpkg::Options::=--force-confold {' '.join(packages.debs)}")
    assert {path: root.read(path) for path in changed} == changed


def test_settings_that_were_deleted_stay_away(make: Make, packages: Built) -> None:
    everything = " ".join(packages.debs)
    root = make()
    root.run(f"apt-get install -q -y {everything} && rm /etc/xapi.toml")
    root.run(f"apt-get install -q -y --reinstall {everything}")
    assert root.run("ls /etc/xapi.toml 2>/dev/null || true") == ""


@pytest.mark.parametrize(
    "path",
    [
        "/var/lib/xcp/guest/installer/vmlinuz",
        "/var/lib/xcp/drivers/agent.iso",
        "/var/opt/xapi/local/d2c4e6f8.qcow2",
    ],
)
def test_data_survives_a_purge(make: Make, packages: Built, path: str) -> None:
    everything = " ".join(packages.debs)
    root = make()
    root.run(f"apt-get install -q -y {everything}")
    root.write(path, "of great value")
    root.write("/var/lib/xcp/state.db", "the daemon's own")
    root.run(f"apt-get purge -q -y {everything}")
    assert root.read(path) == "of great value"
    assert root.run("ls /var/lib/xcp/state.db 2>/dev/null || true") == ""
