"""apt takes packages from our repository by its signature alone, and nothing else from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.packages.built import Built
from harness.packages.roots import Failed, Root

pytestmark = pytest.mark.timeout(600)
Make = Callable[..., Root]
KEYRING = "/etc/apt/keyrings/kronos.gpg"


@pytest.fixture
def repository(tmp_path: Path, packages: Built) -> Path:
    """A copy for a test to spoil."""
    copy = tmp_path / "repository"
    shutil.copytree(packages.both, copy, symlinks=True)
    return copy


def replaced(path: Path, old: bytes, new: bytes) -> None:
    contents = path.read_bytes()
    assert old in contents
    path.write_bytes(contents.replace(old, new, 1))


def test_a_host_learns_the_packages_of_both_versions(make: Make, packages: Built) -> None:
    listed = make().run("apt-cache madison xapi")
    assert packages.version in listed
    assert packages.version + "~" in listed


def test_another_key_is_refused(make: Make) -> None:
    root = make()
    root.run(f"cp /usr/share/keyrings/debian-archive-keyring.gpg {KEYRING} && rm -r /var/lib/apt/lists")
    with pytest.raises(Failed, match="NO_PUBKEY"):
        root.run("apt-get update -q")
    with pytest.raises(Failed, match="Unable to locate package"):
        root.run("apt-get install -q -y xapi")


def test_an_index_without_a_signature_is_refused(make: Make, repository: Path) -> None:
    root = make(repository)
    for name in ("InRelease", "Release.gpg"):
        (repository / "debian/dists/stable" / name).unlink()
    with pytest.raises(Failed, match="not signed"):
        root.run("rm -r /var/lib/apt/lists && apt-get update -q")


def test_an_index_that_was_changed_after_it_was_signed_is_refused(make: Make, repository: Path) -> None:
    root = make(repository)
    replaced(repository / "debian/dists/stable/InRelease", b"Label: Kronos", b"Label: Chronos")
    with pytest.raises(Failed, match="BADSIG"):
        root.run("rm -r /var/lib/apt/lists && apt-get update -q")


def test_a_list_of_packages_that_was_changed_is_refused(make: Make, repository: Path) -> None:
    root = make(repository)
    index = repository / "debian/dists/stable/main/binary-amd64"
    (index / "Packages.xz").unlink()
    replaced(index / "Packages", b"Package: xapi-sm", b"Package: xapi-SM")
    with pytest.raises(Failed, match="Hash Sum mismatch|unexpected size"):
        root.run("rm -r /var/lib/apt/lists && apt-get update -q")


def test_a_package_that_was_changed_is_refused(make: Make, packages: Built, repository: Path) -> None:
    root = make(repository)
    deb = repository / "debian/pool" / packages.debs["xapi-xe"].name
    contents = bytearray(deb.read_bytes())
    contents[len(contents) // 2] ^= 1
    deb.write_bytes(contents)
    with pytest.raises(Failed, match="Hash Sum mismatch"):
        root.run("apt-get install -q -y xapi-xe")
    assert "xapi-xe" not in root.installed()
