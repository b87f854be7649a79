"""The RPMs are the Debian packages under Fedora's names: one split, one set of needs."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from kronos import __version__

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "src"
PACKAGES = (
    *("python3-kronos", "python3-kronos-client", "xapi-sm", "xapi-eliloader", "xapi", "xapi-xe"),
    *("xenserver-core", "xapi-kvm"),
)

NAMES = {
    "bubblewrap": {"bubblewrap"},
    "busybox-static": {"busybox"},
    "dnsmasq-base": {"dnsmasq"},
    "e2fsprogs": {"e2fsprogs"},
    "grub-common": {"/usr/bin/grub2-fstest", "/usr/bin/grub2-mkimage"},
    "grub-pc-bin": {"grub2-pc-modules"},
    "iproute2": {"iproute"},
    "libnfs-utils": {"libnfs-utils"},
    "lvm2": {"lvm2"},
    "mount": {"util-linux"},
    "libpam-runtime": {"pam"},
    "libvirt-daemon-driver-qemu": {"libvirt-daemon-driver-qemu"},
    "libvirt-daemon-driver-xen": {"libvirt-daemon-driver-libxl"},
    "libvirt-daemon-system": {"libvirt-daemon"},
    "nftables": {"nftables"},
    "ovmf": {"edk2-ovmf"},
    "swtpm-tools": {"swtpm-tools"},
    "pci.ids": {"hwdata"},
    "python3-cryptography": {"python3-cryptography"},
    "python3-httptools": {"python3-httptools"},
    "python3-httpx": {"python3-httpx"},
    "python3-ldap3": {"python3-ldap3"},
    "python3-libvirt": {"python3-libvirt"},
    "python3-pampy": {"python3-pam"},
    "python3-pyroute2": {"python3-pyroute2"},
    "python3-six": set(),  # Fedora's python3-pam says itself what it needs
    "python3-uvloop": {"python3-uvloop"},
    "python3-xxhash": {"python3-xxhash"},
    "python3-zstandard": {"python3-zstandard"},
    "qemu-system-common": {"/usr/bin/qemu-storage-daemon"},
    "qemu-system-x86": {"qemu-system-x86-core"},
    "qemu-system-xen": {"qemu-system-x86-core"},
    "qemu-utils": {"qemu-img", "/usr/bin/qemu-storage-daemon"},  # whose part the latter has been, too
    "seabios": {"seabios-bin"},
    "xen-system-amd64": {"xen-hypervisor", "xen-runtime"},
    **{package: {package} for package in PACKAGES},
}
"""What of Fedora's may stand for a package of Debian's."""


@cache
def spec() -> str:
    return (ROOT / "packaging/rpm/kronos.spec").read_text()


def section(kind: str, package: str) -> list[str]:
    """The lines below `%package -n NAME` or `%files -n NAME`."""
    found = re.search(
        rf"^%{kind} -n {re.escape(package)}$\n(.*?)(?=^%(?:package|description|files|prep|changelog)\b)",
        spec(),
        re.M | re.S,
    )
    assert found, f"%{kind} -n {package}"
    return [line for line in found[1].splitlines() if line and not line.startswith("#")]


def required(package: str, *fields: str) -> set[str]:
    """Names in these fields, without versions."""
    lines = [line.partition(":") for line in section("package", package)]
    return {value.split()[0] for field, _, value in lines if field in fields}


def debians(package: str, *fields: str) -> set[str]:
    """Names in these fields of debian/control."""
    (paragraph,) = re.findall(
        rf"^Package: {re.escape(package)}\n(.*?)(?:\n\n|\Z)",
        (ROOT / "debian/control").read_text(),
        re.M | re.S,
    )
    text = re.sub(r"^#.*\n", "", paragraph, flags=re.M)
    found: set[str] = set()
    for field in fields:
        for value in re.findall(rf"^{field}:((?:.*\n?)(?:[ \t].*\n?)*)", text, re.M):
            relations = value.replace("|", ",").split(",")
            found |= {
                words[0] for relation in relations if (words := relation.split()) and words[0][0] != "$"
            }
    return found


def files_of_rpm(package: str) -> set[Path]:
    """The files of src/kronos that a package ships, byte code aside."""
    found: set[Path] = set()
    for line in section("files", package):
        path = line.split()[-1]
        if line.startswith("%dir") or "dist-info" in path or path.endswith("/kronos_client"):
            continue
        for start in ("%{python3_sitelib}/", "%{_datadir}/xapi-xe"):
            if path.startswith(start):
                pattern = path.removeprefix(start) if "sitelib" in start else "kronos/xe"
                found |= _below(pattern)
    return found


def files_of_deb(package: str) -> set[Path]:
    found: set[Path] = set()
    for line in (ROOT / f"debian/{package}.install").read_text().splitlines():
        if "dist-packages/kronos/" in line:
            found |= _below(line.split()[0].partition("dist-packages/")[2])
    return found


def _below(pattern: str) -> set[Path]:
    matches = list(SOURCE.glob(pattern))
    assert matches, pattern
    found = {path for match in matches for path in ([match] if match.is_file() else match.rglob("*"))}
    return {path for path in found if path.is_file() and path.suffix != ".pyc"}


def test_the_split_is_debians() -> None:
    assert set(re.findall(r"^%package -n (\S+)$", spec(), re.M)) == set(PACKAGES)
    listed = re.findall(r"^Package: (\S+)$", (ROOT / "debian/control").read_text(), re.M)
    assert set(listed) == set(PACKAGES)


@pytest.mark.parametrize("package", [name for name in PACKAGES if name not in ("xenserver-core", "xapi-kvm")])
def test_a_package_has_the_same_modules_and_data(package: str) -> None:
    assert files_of_rpm(package) == files_of_deb(package)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_needs_and_recommends_the_same(package: str) -> None:
    for ours, theirs in (("Requires", "Depends"), ("Recommends", "Recommends")):
        wanted, asked = required(package, ours), debians(package, theirs)
        for name in asked:
            assert not NAMES[name] or NAMES[name] & wanted, f"{package} {ours} nothing for {name}"
        meant = set().union(*(NAMES[name] for name in asked))
        assert wanted <= meant, f"{package} {ours}"


def test_both_have_the_same_words() -> None:
    debian = re.sub(r"\s+", " ", (ROOT / "debian/control").read_text().replace("\n .\n", "\n"))
    for package in PACKAGES:
        found = re.search(rf"^%description -n {package} %{{about}}\n\n(.*?)\n\n\n", spec(), re.M | re.S)
        assert found and " ".join(found[1].split()) in debian, package


def test_the_spec_tells_of_this_version() -> None:
    assert re.search(rf"^Version: +{re.escape(__version__)}$", spec(), re.M)
    assert f"- {__version__}-1\n" in spec()
