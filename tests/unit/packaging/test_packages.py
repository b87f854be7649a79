"""debian/ says of the packages what the code is: who ships which module, and what each needs."""

from __future__ import annotations

import ast
import fnmatch
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from kronos import __version__

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "src"
OURS = ("python3-kronos", "xapi", "xapi-sm", "xapi-eliloader", "xapi-xe")
INSTALLED = "usr/lib/python3*/dist-packages/"

LIBRARIES = {
    "cryptography": "python3-cryptography",
    "httptools": "python3-httptools",
    "ldap3": "python3-ldap3",
    "libvirt": "python3-libvirt",
    "libvirt_qemu": "python3-libvirt",
    "pam": "python3-pampy",
    "pyroute2": "python3-pyroute2",
    "uvloop": "python3-uvloop",
    "xxhash": "python3-xxhash",
    "zstandard": "python3-zstandard",
}
FASTER_WHERE_FOUND = {"orjson", "isal", "uvloop"}
"""Imports that may fail: the first two are not in Debian 12."""

FOR_SOME = {"ldap3"}
"""Imports of what not every host does, and which is refused with the package's name where that is missing."""

PROGRAMS = {
    "bwrap": "bubblewrap",
    "dnsmasq": "dnsmasq-base",
    "grub-fstest": "grub-common",
    "grub-mkimage": "grub-common",
    "ip": "iproute2",
    "e2fsck": "e2fsprogs",
    **dict.fromkeys(("pvcreate", "pvremove", "pvs", "vgcreate", "vgremove"), "lvm2"),
    **dict.fromkeys(("lvchange", "lvcreate", "lvremove", "lvs"), "lvm2"),
    "mke2fs": "e2fsprogs",
    "mount": "mount",
    "nfs-cat": "libnfs-utils",
    "nft": "nftables",
    "qemu-img": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
}
ELSEWHERE = {
    **dict.fromkeys(
        ("apt-cache", "apt-get", "dpkg-deb", "env", "python3", "setpriv", "sh"), "every Debian has it"
    ),
    **dict.fromkeys(("chpasswd", "getent", "id", "lsblk", "wipefs"), "every Debian has them"),
    **dict.fromkeys(("systemd-mount", "udevadm"), "systemd's, whose service the daemon is"),
    "chronyc": "only asked where chrony is the time service",
    **dict.fromkeys(("dmesg", "journalctl", "timedatectl"), "the service is systemd's"),
    **dict.fromkeys(("dnf", "rpm"), "Fedora's, and asked on hosts without apt alone"),
    "grub2-mkimage": "Fedora's name",
    **dict.fromkeys(("ifup", "networkctl", "nmcli"), "only where it has configured the NIC"),
    "systemctl": "only where systemd runs",
    "libvirtd": "a private one is for development; libvirt-daemon-system has it anyway",
    **dict.fromkeys(("xl", "xenpm"), "only asked on Xen, whose tools have them"),
}


@cache
def control() -> dict[str, dict[str, str]]:
    """The paragraphs of debian/control by package; the source's own is ""."""
    found = {}
    lines = [line for line in (ROOT / "debian/control").read_text().splitlines() if not line.startswith("#")]
    for paragraph in "\n".join(lines).split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            if line[:1] in " \t":
                fields[name] += line
            else:
                name, _, value = line.partition(":")
                fields[name] = value
        found[fields.get("Package", "").strip()] = fields
    return found


def named(package: str, field: str) -> set[str]:
    """The packages in a field of relations, without versions; alternatives count as each of them."""
    relations = control()[package].get(field, "").replace("|", ",").split(",")
    return {words[0] for relation in relations if (words := relation.split()) and words[0][0] != "$"}


def needed(package: str, *fields: str) -> set[str]:
    """What a package depends on, and what its own depend on."""
    found: set[str] = set()
    ahead = [package]
    while ahead:
        each = ahead.pop()
        for other in set().union(*(named(each, field) for field in fields)) - found:
            found.add(other)
            if other in control():
                ahead.append(other)
    return found


@cache
def contents(package: str) -> frozenset[Path]:
    """The files of src/kronos that a package ships."""
    found = set()
    for line in (ROOT / f"debian/{package}.install").read_text().splitlines():
        pattern = line.split()[0].removeprefix(INSTALLED)
        if not pattern.startswith("kronos/"):
            continue
        matches = list(SOURCE.glob(pattern))
        assert matches, f"{package}: nothing is {pattern}"
        for match in matches:
            found |= {match} if match.is_file() else {path for path in match.rglob("*") if path.is_file()}
    return frozenset(path for path in found if path.suffix != ".pyc")


def modules(package: str) -> list[Path]:
    return sorted(path for path in contents(package) if path.suffix == ".py")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(path: Path) -> Iterator[str]:
    """What a module imports anywhere; of `from a import b` the module that it means."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if file_of(inner) else node.module


def file_of(module: str) -> Path | None:
    path = SOURCE / module.replace(".", "/")
    return next((each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()), None)


def executed(path: Path) -> Iterator[str]:
    """Names of programs that a module runs or looks for, as far as they are written out."""
    for node in ast.walk(tree(path)):
        words: list[ast.expr] = []
        if isinstance(node, ast.Call) and node.args:
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in ("run", "Popen"):
                words = [node.args[0], *(node.args[0].elts[:1] if isinstance(node.args[0], ast.List) else [])]
            elif name in ("which", "_program"):
                words = node.args[:1]
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in (
            "argv",
            "fetch",
            "inside",
            "nobody",
        ):
            words = node.value.elts[:1] if isinstance(node.value, ast.List) else []
        for word in words:
            if isinstance(word, ast.Constant) and isinstance(word.value, str):
                yield word.value.rpartition("/")[2]


def test_the_client_for_python_has_our_version_and_needs_what_it_imports() -> None:
    import kronos_client

    assert kronos_client.__version__ == __version__
    paths = sorted((ROOT / "client/kronos_client").glob("*.py"))
    foreign = {name.partition(".")[0] for path in paths for name in imported(path)}
    assert foreign - set(sys.stdlib_module_names) == {"httpx", "kronos_client"}
    assert named("python3-kronos-client", "Depends") == {"python3-httpx"}


def test_every_module_and_every_file_of_data_is_in_one_package() -> None:
    all_files = {
        path
        for path in (SOURCE / "kronos").rglob("*")
        if path.is_file() and path.suffix != ".pyc" and "__pycache__" not in path.parts
    }
    shipped = [path for package in OURS for path in contents(package)]

    assert sorted(shipped) == sorted(all_files)


@pytest.mark.parametrize("package", OURS)
def test_a_package_depends_on_whose_modules_it_imports(package: str) -> None:
    within = {
        path for each in (package, *needed(package, "Depends")) if each in OURS for path in contents(each)
    }
    for path in modules(package):
        for module in imported(path):
            if module.partition(".")[0] == "kronos":
                assert file_of(module) in within, f"{path} imports {module}"


@pytest.mark.parametrize("package", OURS)
def test_a_package_depends_on_the_libraries_that_it_imports(package: str) -> None:
    for path in modules(package):
        for module in imported(path):
            top = module.partition(".")[0]
            if top == "kronos" or top in sys.stdlib_module_names or top in FASTER_WHERE_FOUND:
                continue
            field = "Recommends" if top in FOR_SOME else "Depends"
            assert LIBRARIES[top] in named(package, field), f"{path} imports {top}"


def test_a_library_is_a_dependency_because_somebody_imports_it() -> None:
    for package in OURS:
        tops = {module.partition(".")[0] for path in modules(package) for module in imported(path)}
        wanted = {LIBRARIES[top] for top in tops if top in LIBRARIES}
        if "python3-pampy" in wanted:
            wanted.add("python3-six")  # which it imports, and Debian's package of it does not say
        fields = named(package, "Depends") | named(package, "Recommends")
        assert {name for name in fields if name.startswith("python3-")} - {"python3-kronos"} == wanted


def test_no_two_packages_depend_on_each_other() -> None:
    for package in OURS:
        assert package not in needed(package, "Depends")


def test_xe_needs_python_alone() -> None:
    assert named("xapi-xe", "Depends") == set()
    for path in modules("xapi-xe"):
        for module in imported(path):
            assert module.startswith("kronos.xe") or module.partition(".")[0] in sys.stdlib_module_names


def test_a_host_gets_every_program_that_is_run_on_it() -> None:
    there = needed("xapi", "Depends", "Recommends")
    found = {name for package in OURS for path in modules(package) for name in executed(path)}
    assert {"qemu-img", "dnsmasq", "bwrap", "nfs-cat"} <= found, "the search finds what is known to be run"
    for name in sorted(found):
        assert name in ELSEWHERE or PROGRAMS[name] in there, name
    assert PROGRAMS["nft"] in there


def test_no_program_is_named_that_nobody_runs() -> None:
    text = "\n".join(path.read_text() for package in OURS for path in modules(package))
    for name in PROGRAMS:
        assert f'"{name}"' in text, name


def test_metapackages_bring_the_daemon_and_the_command() -> None:
    for package in ("xenserver-core", "xapi-kvm"):
        assert {"xapi", "xapi-xe"} <= named(package, "Depends")
        assert {"python3-kronos", "xapi-sm", "xapi-eliloader"} <= needed(package, "Depends")


def test_packages_of_ours_fit_each_other_only_in_one_version() -> None:
    for package, fields in control().items():
        for relation in ",".join(fields.get(field, "") for field in ("Depends", "Recommends")).split(","):
            if relation.split() and relation.split()[0] in OURS:
                assert "(= ${source:Version})" in relation, f"{package}: {relation}"


def test_the_changelog_tells_of_this_version() -> None:
    first = (ROOT / "debian/changelog").read_text().splitlines()[0]
    assert fnmatch.fnmatch(first, f"kronos ({__version__}) *; urgency=*")
