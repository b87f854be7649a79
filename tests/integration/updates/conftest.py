"""A host whose drivers are fakes, but for its package manager."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.archive import Archive, run
from kronos.db.records import Host_metrics
from kronos.system import commands
from kronos.system.packages import Apt, Dnf
from unit.api.conftest import Xapi


class Outside:
    """Runs what is asked of the system on the system below the test's directory."""

    def __init__(self) -> None:
        self.ran: list[list[str]] = []

    def change(self, argv, *, stdin="", timeout=60.0):
        self.ran.append(list(argv))
        return commands.run(
            ["env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *argv], timeout=timeout, stdin=stdin
        )


@pytest.fixture
def xapi(tmp_path: Path) -> Iterator[Xapi]:
    made = Xapi(tmp_path)
    yield made
    made.close()


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path / "archive")


@pytest.fixture(params=["apt", "dnf"])
def system(request, xapi, archive, tmp_path):
    """A host whose system has version 1 of a package of which the archive has version 2."""
    missing = [
        name
        for name in ("gpg", "apt-ftparchive", "dnf", "rpmbuild", "createrepo_c")
        if not shutil.which(name)
    ]
    assert not missing, f"packages-test.apt names what brings {missing}"
    root = tmp_path / "root"
    if request.param == "apt":
        for name in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "etc/apt"):
            (root / name).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        run("dpkg", f"--root={root}", "--log=/dev/null", "-i", archive.deb("1"))
        archive.publish_deb(archive.deb("2"))
        xapi.machine.packages = Apt(tmp_path / "updates", root)
        query = (
            "dpkg-query",
            f"--admindir={root}/var/lib/dpkg",
            "-W",
            "-f",
            "${Version}",
            "linux-image-test",
        )
    else:
        root.mkdir()
        run("rpm", f"--root={root}", "--initdb")
        run("rpm", f"--root={root}", "--nodeps", "--nosignature", "-i", archive.rpm("1"))
        archive.publish_rpm(archive.rpm("2"))
        xapi.machine.packages = Dnf(tmp_path / "updates", root)
        query = ("rpm", f"--root={root}", "-q", "--qf", "%{VERSION}", "kernel-core")
    xapi.installed = lambda: run(*query).decode()
    xapi.machine.outside = Outside()
    metrics = xapi.db.get(Host_metrics, xapi.host.metrics)
    metrics.live = True
    with archive.serving() as url:
        xapi.url = url
        yield xapi
