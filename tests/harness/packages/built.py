"""The packages of this checkout, an earlier version of each, and signed repositories of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
EARLIER = "~earlier"
"""What stands behind the version of the packages that are upgraded."""
EARLIER_RPM = "0.0.1"
_NO_SOURCE = (".git", ".venv", ".*_cache", ".hypothesis", ".kronos", "node_modules", "__pycache__", "build")
_CHANGE = "# As it was in an earlier version.\n"


@dataclass(frozen=True)
class Built:
    """What was built in a folder of its own. The repository `earlier` has the earlier version, `both` has both; of RPMs
    each has one, as `rpm` goes by the names of files alone."""

    directory: Path

    @property
    def earlier(self) -> Path:
        return self.directory / "earlier"

    @property
    def both(self) -> Path:
        return self.directory / "both"

    @cached_property
    def debs(self) -> dict[str, Path]:
        """The packages by their names."""
        return {_field(deb, "Package"): deb for deb in sorted((self.directory / "deb").glob("*.deb"))}

    @cached_property
    def rpms(self) -> dict[str, Path]:
        """The packages for Fedora's family by their names."""
        found = sorted((self.directory / "rpm").glob("*.noarch.rpm"))
        return {_run("rpm", "-qp", "--qf", "%{NAME}", rpm): rpm for rpm in found}

    @cached_property
    def version(self) -> str:
        (version,) = {_field(deb, "Version") for deb in self.debs.values()}
        return version

    @cached_property
    def dependencies(self) -> str:
        """What all of them need of the distribution, as in a control file."""
        wanted = set()
        for deb in self.debs.values():
            for field in ("Pre-Depends", "Depends"):
                wanted |= {one.strip() for one in _field(deb, field).split(",") if one.strip()}
        return ", ".join(sorted(one for one in wanted if one.split()[0] not in self.debs))

    def needed(self, package: str) -> list[str]:
        """A package of ours and those of ours that it depends on."""
        found, new = set[str](), {package}
        while new:
            found |= new
            names = {
                one.split()[0]
                for deb in (self.debs[name] for name in new)
                for one in re.split("[,|]", _field(deb, "Depends"))
                if one.strip()
            }
            new = (names & self.debs.keys()) - found
        return sorted(found)

    def conffiles(self, package: str) -> list[str]:
        """The files of a package that are the administrator's to change."""
        done = subprocess.run(
            ["dpkg-deb", "-I", self.debs[package], "conffiles"], capture_output=True, text=True
        )
        return done.stdout.split()


def source_packages() -> list[str]:
    """The names of our packages, as debian/control has them."""
    text = (PROJECT / "debian/control").read_text()
    return sorted(re.findall(r"^Package: (\S+)$", text, re.MULTILINE))


def build(directory: Path) -> Built:
    """Build, sign and publish in a folder, in half a minute. Raises CalledProcessError."""
    env = {**os.environ, "BUILD": str(directory)}
    env.pop("VERSION", None)
    env.pop("KEY", None)
    _run(PROJECT / "tools/deb", env=env)
    _run(PROJECT / "tools/rpm", env={**env, "CHECK": "no"})
    built = Built(directory)
    before = directory / "before" / "deb"
    before.mkdir(parents=True)
    for deb in built.debs.values():
        _earlier(deb, before, built.version, unpacked=directory / "unpacked")
    _earlier_rpms(before.parent, directory / "project", env)
    keys = directory / "keys"
    keys.mkdir(mode=0o700)
    (before.parent / "keys").symlink_to(keys)
    _run(PROJECT / "tools/repository", built.earlier, env={**env, "BUILD": str(before.parent)})
    shutil.copytree(built.earlier, built.both, symlinks=True)
    _run(PROJECT / "tools/repository", built.both, env=env)
    return built


def close(built: Built) -> None:
    """End the keeper of the key."""
    env = {**os.environ, "GNUPGHOME": str(built.directory / "keys")}
    subprocess.run(["gpgconf", "--kill", "gpg-agent"], env=env, check=False, timeout=20)


def repack(deb: Path, target: Path, *, unpacked: Path) -> None:
    """Make a package of a tree that `dpkg-deb -R` unpacked, and perhaps changed. Raises CalledProcessError."""
    _run("dpkg-deb", "--root-owner-group", "-Znone", "-b", unpacked, target)


def _earlier(deb: Path, target: Path, version: str, *, unpacked: Path) -> None:
    """The same package under an earlier version, with other contents in every file that an administrator may change."""
    _run("dpkg-deb", "-R", deb, unpacked)
    control = unpacked / "DEBIAN/control"
    text = control.read_text().replace(f"(= {version})", f"(= {version}{EARLIER})")
    control.write_text(text.replace(f"\nVersion: {version}\n", f"\nVersion: {version}{EARLIER}\n"))
    conffiles = unpacked / "DEBIAN/conffiles"
    for name in conffiles.read_text().split() if conffiles.exists() else ():
        path = unpacked / name.lstrip("/")
        path.write_text(path.read_text() + _CHANGE)
    repack(deb, target, unpacked=unpacked)
    shutil.rmtree(unpacked)


def _earlier_rpms(target: Path, copy: Path, env: dict[str, str]) -> None:
    """The same for RPMs, which are built anew: nothing unpacks and packs them."""
    shutil.copytree(PROJECT, copy, symlinks=True, ignore=shutil.ignore_patterns(*_NO_SOURCE))
    module = copy / "src/kronos/__init__.py"
    text = module.read_text()
    module.write_text(
        re.sub('^__version__ = ".*"', f'__version__ = "{EARLIER_RPM}"', text, flags=re.MULTILINE)
    )
    for path in (copy / "packaging/xapi.toml", copy / "packaging/pam.d/xapi.fedora"):
        path.write_text(path.read_text() + _CHANGE)
    _run(copy / "tools/rpm", env={**env, "CHECK": "no", "BUILD": str(target)})
    shutil.rmtree(copy)


def _field(deb: Path, name: str) -> str:
    return _run("dpkg-deb", "-f", deb, name).strip()


def _run(*argv: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900
    )
    text = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}:\n{text}")
    return text
