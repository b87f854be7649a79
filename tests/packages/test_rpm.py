"""The RPMs' lives: dnf installs them from the signed repository, upgrades and erases them.

The root is Debian's, on which such packages fit that were built here; what ours require of Fedora is in one more
package. What Fedora's own macros make of the scripts is not tried.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.folders import passing
from harness.packages.built import EARLIER_RPM, Built, source_packages
from harness.packages.roots import Failed, Root, left

pytestmark = pytest.mark.timeout(600)
EACH = pytest.mark.parametrize("package", source_packages())
MINE = "# The administrator's.\n"
_SPEC = """\
Name: distribution
Version: 1
Release: 1
Summary: What a distribution has
License: none
BuildArch: noarch
{provides}
%description
%install
mkdir -p %{{buildroot}}/usr/share/licenses
%files
%dir /usr/share/licenses
"""
_REPOSITORIES = """\
[distribution]
name=distribution
baseurl=file://{others}
gpgcheck=0
[kronos]
name=kronos
baseurl=file://{ours}/rpm
gpgkey=file://{key}
gpgcheck=1
repo_gpgcheck=1
"""
_SYSTEMCTL = '#!/bin/sh\necho "$@" >>/var/log/systemctl\n'


@pytest.fixture(scope="module")
def distribution(packages: Built) -> Iterator[Path]:
    """A repository with one package, which has all that ours require of Fedora."""
    with passing("krpm") as directory:
        argv = ["rpm", "-qp", "--requires", *packages.rpms.values()]
        wanted = set(
            subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
        )
        foreign = {
            one
            for one in wanted
            if one.split()[0] not in packages.rpms and not one.startswith(("rpmlib(", "config("))
        }
        provides = "\n".join(f"Provides: {one.replace('>=', '=')}" for one in sorted(foreign))
        (directory / "distribution.spec").write_text(_SPEC.format(provides=provides))
        build = [
            "rpmbuild",
            "-bb",
            "--define",
            f"_topdir {directory}/work",
            "--define",
            f"_rpmdir {directory}",
        ]
        subprocess.run([*build, directory / "distribution.spec"], check=True, capture_output=True, timeout=60)
        subprocess.run(["createrepo_c", "-q", directory], check=True, timeout=60)
        yield directory


class Host:
    """A root, and dnf for it."""

    def __init__(self, root: Root, distribution: Path, directory: Path) -> None:
        self.root = root
        self.distribution = distribution
        self.directory = directory
        (root.directory / ".rpmmacros").write_text("%_dbpath /var/lib/rpm\n")
        # What the scripts ask systemd for is written down.
        root.write("/usr/bin/systemctl", _SYSTEMCTL)
        root.run("chmod 0755 /usr/bin/systemctl && mkdir -p /run/systemd/system")
        self.dnf("install distribution", ours=None)
        self.before = self.state()

    def dnf(self, words: str, ours: Path | None, key: Path | None = None) -> str:
        """Run dnf with one repository of ours, which is signed by a key."""
        text = _REPOSITORIES.format(others=self.distribution, ours=ours, key=key or f"{ours}/kronos.asc")
        (self.directory / "kronos.repo").write_text(
            text if ours is not None else text.partition("[kronos]")[0]
        )
        options = f"--setopt=reposdir={self.directory} --setopt=cachedir={self.directory}/cache --refresh"
        return self.root.outside(
            f"dnf -y --installroot=$ROOT --releasever=1 --setopt=install_weak_deps=False {options} {words}"
        )

    def rpm(self, words: str) -> str:
        return self.root.outside(f"rpm --root $ROOT {words}")

    def state(self) -> dict[str, str]:
        own = ("var/lib/rpm", "var/lib/dnf", "etc/dnf")
        return {path: what for path, what in self.root.state().items() if not path.startswith(own)}

    def asked(self) -> list[str]:
        """What systemctl was asked for since the last time."""
        return self.root.run("cat /var/log/systemctl 2>/dev/null; rm -f /var/log/systemctl").splitlines()


@pytest.fixture
def host(base: Path, distribution: Path) -> Iterator[Host]:
    with passing("kroots") as directory:
        yield Host(Root(base, directory / "root"), distribution, directory)


def test_all_packages_of_debian_are_there(packages: Built) -> None:
    assert sorted(packages.rpms) == source_packages()


@EACH
def test_an_erased_package_leaves_nothing(host: Host, packages: Built, package: str) -> None:
    host.dnf(f"install {package}", packages.both)
    assert package in host.rpm("-qa --qf '%{NAME}\\n'").split()
    assert left(host.before, host.state()) or package in ("xenserver-core", "xapi-kvm")
    host.dnf(f"remove {' '.join(packages.rpms)}", packages.both)
    assert left(host.before, host.state()) == []


def test_everything_is_installed_as_it_was_packed_and_starts(host: Host, packages: Built) -> None:
    host.dnf(f"install {' '.join(packages.rpms)}", packages.both)
    assert host.rpm("-Va --nodeps") == ""
    for program in ("xapi", "eliloader", "xe"):
        assert "sage" in host.root.run(f"{program} --help")


def test_units_are_set_up_started_anew_and_stopped(host: Host, packages: Built) -> None:
    units = re.findall(
        r"/([^/\s]+\.(?:service|socket|timer))$", host.rpm(f"-qlp {packages.rpms['xapi']}"), re.MULTILINE
    )
    assert "xapi.service" in units
    host.dnf("install xapi", packages.earlier)
    assert [one for one in host.asked() if "preset" in one and "xapi.service" in one]
    host.dnf("upgrade xapi", packages.both)
    assert [one for one in host.asked() if "restart" in one and "xapi.service" in one]
    host.dnf("remove xapi", packages.both)
    assert [one for one in host.asked() if "disable --now" in one and "xapi.service" in one]


def test_an_upgrade_keeps_changed_settings_and_is_erased_without_a_trace(host: Host, packages: Built) -> None:
    everything = " ".join(packages.rpms)
    host.dnf(f"install {everything}", packages.earlier)
    assert set(host.rpm(f"-q --qf '%{{VERSION}}\\n' {everything}").split()) == {EARLIER_RPM}
    host.root.write("/etc/xapi.toml", host.root.read("/etc/xapi.toml") + MINE)
    shipped = host.root.read("/etc/pam.d/xapi")
    host.dnf(f"upgrade {everything}", packages.both)
    assert set(host.rpm(f"-q --qf '%{{VERSION}}\\n' {everything}").split()) == {packages.version}
    assert host.root.read("/etc/xapi.toml").endswith(MINE)
    assert MINE not in host.root.read("/etc/xapi.toml.rpmnew")
    assert host.root.read("/etc/pam.d/xapi") != shipped
    host.dnf(f"remove {everything}", packages.both)
    kept = ["/etc/xapi.toml.rpmnew", "/etc/xapi.toml.rpmsave"]
    assert [line.partition(": ")[0] for line in left(host.before, host.state())] == kept


def test_data_survives(host: Host, packages: Built) -> None:
    everything = " ".join(packages.rpms)
    host.dnf(f"install {everything}", packages.both)
    host.root.write("/var/lib/xcp/guest/vmlinuz", "of great value")
    host.root.write("/var/opt/xapi/local/d2c4e6f8.qcow2", "of great value")
    host.dnf(f"remove {everything}", packages.both)
    assert host.root.read("/var/lib/xcp/guest/vmlinuz") == "of great value"
    assert host.root.read("/var/opt/xapi/local/d2c4e6f8.qcow2") == "of great value"


def test_another_key_is_refused(host: Host, packages: Built, tmp_path: Path) -> None:
    home = tmp_path / "keys"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "-q", "--homedir", home, "--batch", "--pinentry-mode", "loopback", "--passphrase", ""]
    subprocess.run([*gpg, "--quick-generate-key", "another", "ed25519", "sign"], check=True, timeout=60)
    key = tmp_path / "another.asc"
    key.write_bytes(subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True).stdout)
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=False, timeout=20)
    with pytest.raises(Failed, match="repomd.xml GPG signature"):
        host.dnf("install xapi-xe", packages.both, key)


def test_a_package_that_was_changed_is_refused(host: Host, packages: Built, tmp_path: Path) -> None:
    spoilt = tmp_path / "repository"
    shutil.copytree(packages.both, spoilt, symlinks=True)
    (rpm,) = (spoilt / "rpm").glob(f"xapi-xe-{packages.version}-*.rpm")
    contents = bytearray(rpm.read_bytes())
    contents[len(contents) // 2] ^= 1
    rpm.write_bytes(contents)
    with pytest.raises(Failed, match="incorrect checksum"):
        host.dnf("install xapi-xe", spoilt)
    assert "xapi-xe" not in host.rpm("-qa")
