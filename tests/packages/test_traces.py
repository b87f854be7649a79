"""The trials' own eyes: what a package leaves behind is seen, whatever kind of thing it is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.packages.roots import Failed, Root, left

pytestmark = pytest.mark.timeout(600)
Make = Callable[..., Root]
_CONTROL = """\
Package: untidy
Version: 1
Architecture: all
Maintainer: Nobody <nobody@example.org>
Description: leaves something behind
"""
_TRACES = {
    "a file": ("echo x >/etc/untidy", "/etc/untidy:"),
    "a folder": ("mkdir /opt/untidy", "/opt/untidy/:"),
    "a line in another's file": ("echo x >>/etc/libvirt/libvirtd.conf", "/etc/libvirt/libvirtd.conf:"),
    "a file that is gone": ("rm /etc/issue", "/etc/issue: gone"),
    "a folder that is another now": (
        "rm -r /etc/apparmor.d/local && mkdir /etc/apparmor.d/local",
        "/etc/apparmor.d/local/",
    ),
    "a mode": ("chmod 4755 /usr/bin/env", "/usr/bin/env:"),
    "an owner": ("chown nobody /etc/issue", "/etc/issue:"),
    "a user": ("useradd --system untidy", "/etc/passwd:"),
    "a group": ("groupadd --system untidy", "/etc/group:"),
    "an alternative": (
        "update-alternatives --install /usr/bin/untidy untidy /bin/true 1",
        "/etc/alternatives/untidy:",
    ),
    "a diversion": ("dpkg-divert --add --package untidy --no-rename /etc/issue", "/var/lib/dpkg/diversions:"),
    "an overridden mode": (
        "dpkg-statoverride --add root root 0600 /etc/untidy",
        "/var/lib/dpkg/statoverride:",
    ),
    "a unit that starts": (
        "ln -s /dev/null /etc/systemd/system/untidy.service",
        "/etc/systemd/system/untidy.service:",
    ),
}


@pytest.mark.parametrize("trace", _TRACES)
def test_a_trace_is_seen(make: Make, tmp_path: Path, trace: str) -> None:
    command, expected = _TRACES[trace]
    root = make()
    before = root.state()
    install(root, tmp_path, command)
    root.run("dpkg --purge untidy")
    assert [line for line in left(before, root.state()) if line.startswith(expected)]


def test_a_tidy_package_leaves_no_trace(make: Make, tmp_path: Path) -> None:
    root = make()
    before = root.state()
    install(root, tmp_path, "true")
    root.run("dpkg --purge untidy")
    assert left(before, root.state()) == []


def test_answers_to_questions_are_seen(make: Make, tmp_path: Path) -> None:
    root = make()
    ask = ". /usr/share/debconf/confmodule; db_register debconf/frontend untidy/question"
    install(root, tmp_path, ask)
    root.run("dpkg --purge untidy")
    assert "untidy/question" in root.questions(["untidy"])


def test_a_script_that_fails_is_an_error(make: Make, tmp_path: Path) -> None:
    with pytest.raises(Failed, match="post-installation script"):
        install(make(), tmp_path, "false")


def install(root: Root, directory: Path, postinst: str) -> None:
    """Install a package whose script does this, and which undoes nothing."""
    tree = directory / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(_CONTROL)
    script = tree / "DEBIAN/postinst"
    script.write_text(f"#!/bin/sh\nset -e\n{postinst}\n")
    script.chmod(0o755)
    subprocess.run(
        ["dpkg-deb", "-Znone", "-b", tree, directory / "untidy.deb"], check=True, capture_output=True
    )
    root.repository = directory
    root.run("dpkg -i /srv/repository/untidy.deb")
