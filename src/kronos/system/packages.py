"""The distribution's package manager: what could be updated, and updating it. A driver each for apt and dnf.

What is looked at lies in a directory of our own: an administrator's lists and caches are not touched by looking.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlsplit

from kronos.system.commands import CommandFailed, run
from kronos.system.files import write_whole

LONG = 15 * 60.0
"""Seconds that fetching lists may take."""
VERY_LONG = 2 * 3600.0
"""Seconds that an upgrade may take."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where packages come from. Without a url: what the host is configured with.

    `suite` and `components` are apt's; without them the url is that of a flat repository. `key` is a file of the keys
    that sign it, "" for those that the host trusts anyway.
    """

    name: str
    url: str = ""
    suite: str = ""
    components: tuple[str, ...] = ()
    key: str = ""


@dataclass(frozen=True, slots=True)
class Proxy:
    url: str
    user: str = ""
    password: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Update:
    """A package that could be newer; `installed` is "" for one that comes in addition."""

    name: str
    arch: str
    installed: str
    version: str
    origin: str = field(compare=False, default="")


class NoRepository(Exception):
    """There is no repository of the package manager's in a folder."""


class Manager(Protocol):
    """A package manager. Every method raises CommandFailed with what it said."""

    def at(self, directory: Path) -> Manager:
        """The same one with its lists in another folder."""

    def sources(self, place: Path, name: str, key: str) -> list[Source]:
        """The repository that lies in a folder, or in the only folder of one. Raises NoRepository."""

    def sync(self, sources: Sequence[Source], proxy: Proxy | None) -> None:
        """Fetch the lists of what the sources have."""

    def pending(self) -> list[Update]:
        """What an upgrade would change, by the lists fetched last; nothing is fetched or changed."""

    def upgrade(self) -> list[str]:
        """The command that upgrades to what `pending` says."""

    def clean(self) -> None:
        """Forget the lists."""


class Apt:
    """apt, for the system below `root`."""

    def __init__(self, directory: Path, root: Path = Path("/")) -> None:
        self.directory = directory
        self.root = root
        self.configuration = directory / "apt.conf"

    def at(self, directory: Path) -> Apt:
        return Apt(directory, self.root)

    def sources(self, place: Path, name: str, key: str) -> list[Source]:
        place = _within(place, "dists")
        if _is_signed(place):
            return [Source(name, place.as_uri(), key=key)]
        folders = sorted((place / "dists").rglob("*")) if (place / "dists").is_dir() else []
        suites = [str(each.relative_to(place)) for each in folders if _is_signed(each)]
        found = [
            Source(name, place.as_uri(), suite.removeprefix("dists/"), components, key)
            for suite in suites
            if (components := _components(place, suite))
        ]
        if not found:
            raise NoRepository("no Release that is signed, or no packages for one")
        return found

    def sync(self, sources: Sequence[Source], proxy: Proxy | None) -> None:
        for name in ("lists/partial", "archives/partial"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        own = any(not source.url for source in sources)
        lines = [self._line(source) for source in sources if source.url]
        parts = self.directory / "sources.list.d"
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir()
        if own:
            self._copy_own(parts)
        write_whole(parts / "introduced.list", "".join(lines).encode())
        write_whole(self.configuration, self._text(proxy).encode(), 0o600)
        # A source that cannot be fetched is an error, not a remark.
        self._run(["apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update"], LONG)

    def _copy_own(self, parts: Path) -> None:
        etc = self.root / "etc/apt"
        listed = sorted((etc / "sources.list.d").glob("*")) if (etc / "sources.list.d").is_dir() else []
        for path in (etc / "sources.list", *listed):
            if path.is_file() and path.suffix in (".list", ".sources"):
                shutil.copyfile(path, parts / f"own-{path.name}")

    def _line(self, source: Source) -> str:
        signed = f"[signed-by={source.key}] " if source.key else ""
        where = f"{source.suite} {' '.join(source.components)}" if source.suite else "./"
        return f"deb {signed}{source.url} {where}\n"

    def _text(self, proxy: Proxy | None) -> str:
        place = self.root / "etc/apt"
        lines = [
            f'Dir::State "{self.directory}";',
            f'Dir::State::lists "{self.directory}/lists/";',
            f'Dir::State::status "{self.root / "var/lib/dpkg/status"}";',
            f'Dir::Cache "{self.directory}/";',
            f'Dir::Cache::archives "{self.directory}/archives/";',
            f'Dir::Etc "{place}/";',
            'Dir::Etc::sourcelist "/dev/null";',
            f'Dir::Etc::sourceparts "{self.directory}/sources.list.d/";',
            'APT::Sandbox::User "root";',
            'DPkg::Lock::Timeout "300";',
        ]
        if self.root != Path("/"):
            lines += [
                f'DPkg::Options:: "--root={self.root}";',
                f'DPkg::Options:: "--log={self.root}/dpkg.log";',
            ]
        if proxy is not None:
            url = _with_login(proxy)
            lines += [f'Acquire::{scheme}::Proxy "{url}";' for scheme in ("http", "https")]
        return "\n".join(lines) + "\n"

    def pending(self) -> list[Update]:
        if not self.configuration.exists():
            return []
        said = self._run(["apt-get", "-q", "-s", *self._what()], LONG)
        return sorted(update for line in said.splitlines() if (update := _of_apt(line)) is not None)

    def _what(self) -> list[str]:
        # What an upgrade needs in addition comes in; nothing is removed behind anybody's back.
        return ["--with-new-pkgs", "upgrade"]

    def upgrade(self) -> list[str]:
        keep = ["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"]
        environment = [f"{name}={value}" for name, value in self._environment().items() if name != "PATH"]
        return ["env", *environment, "apt-get", "-q", "-y", *keep, *self._what()]

    def clean(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def _run(self, argv: Sequence[str], timeout: float) -> str:
        return run(argv, timeout=timeout, env=self._environment())

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
            "APT_CONFIG": str(self.configuration),
        }


def _is_signed(place: Path) -> bool:
    return (place / "InRelease").is_file() or (place / "Release.gpg").is_file()


def _components(place: Path, suite: str) -> tuple[str, ...]:
    """Those of a suite that have packages. A name that would not be one word of a line of apt's is passed over."""
    folders = (path.parent for path in (place / suite).rglob("binary-*") if path.is_dir())
    found = {str(path.relative_to(place / suite)) for path in folders if path.name != "debian-installer"}
    return tuple(name for name in sorted(found) if _WORD.fullmatch(suite) and _WORD.fullmatch(name))


def _within(place: Path, mark: str) -> Path:
    """The folder itself, or the only one in it, unless it has a certain name."""
    there = list(place.iterdir())
    if len(there) == 1 and there[0].is_dir() and there[0].name != mark:
        return there[0]
    return place


_WORD = re.compile(r"[A-Za-z0-9.\-_+/]+")
_APT = re.compile(
    r"Inst (?P<name>\S+) (?:\[(?P<old>[^]]*)\] )?\((?P<new>\S+) (?P<origin>.*?) \[(?P<arch>[^]]*)\]\)"
)


def _of_apt(line: str) -> Update | None:
    found = _APT.match(line)
    if found is None:
        return None
    return Update(found["name"], found["arch"], found["old"] or "", found["new"], found["origin"])


class Dnf:
    """dnf, for the system below `root`."""

    def __init__(self, directory: Path, root: Path = Path("/")) -> None:
        self.directory = directory
        self.root = root
        self.configuration = directory / "dnf.conf"

    def at(self, directory: Path) -> Dnf:
        return Dnf(directory, self.root)

    def sources(self, place: Path, name: str, key: str) -> list[Source]:
        place = _within(place, "repodata")
        if not (place / "repodata/repomd.xml").is_file():
            raise NoRepository("no repodata/repomd.xml")
        return [Source(name, place.as_uri(), key=key)]

    def sync(self, sources: Sequence[Source], proxy: Proxy | None) -> None:
        repositories = self.directory / "repos.d"
        shutil.rmtree(repositories, ignore_errors=True)
        repositories.mkdir(parents=True)
        if any(not source.url for source in sources):
            for path in sorted((self.root / "etc/yum.repos.d").glob("*.repo")):
                shutil.copyfile(path, repositories / f"own-{path.name}")
        for number, source in enumerate(source for source in sources if source.url):
            write_whole(repositories / f"introduced-{number}.repo", self._section(number, source).encode())
        write_whole(self.configuration, self._text(proxy).encode(), 0o600)
        self._run("makecache", "--refresh")

    def _section(self, number: int, source: Source) -> str:
        check = f"gpgcheck=1\ngpgkey=file://{source.key}" if source.key else "gpgcheck=1"
        name = " ".join(source.name.split())  # a line break would be a setting of its own
        return f"[xapi-{number}]\nname={name}\nbaseurl={source.url}\nenabled=1\n{check}\n"

    def _text(self, proxy: Proxy | None) -> str:
        lines = ["[main]", f"cachedir={self.directory}/cache", f"reposdir={self.directory}/repos.d"]
        lines += [f"logdir={self.directory}", "skip_if_unavailable=False", "gpgcheck=1"]
        if proxy is not None:
            lines += [f"proxy={proxy.url}"]
            lines += (
                [f"proxy_username={proxy.user}", f"proxy_password={proxy.password}"] if proxy.user else []
            )
        return "\n".join(lines) + "\n"

    def pending(self) -> list[Update]:
        if not self.configuration.exists():
            return []
        installed = dict(line.split(" ", 1) for line in self._installed().splitlines() if " " in line)
        try:
            said = self._run("-C", "-q", "check-update")
        except CommandFailed as failed:
            if failed.status != 100:  # its way to say that there are some
                raise
            said = failed.stdout
        found = (_of_dnf(line, installed) for line in said.splitlines())
        return sorted(update for update in found if update is not None)

    def _installed(self) -> str:
        return run(
            [
                "rpm",
                f"--root={self.root}",
                "-qa",
                "--qf",
                "%{NAME}.%{ARCH} %{EPOCHNUM}:%{VERSION}-%{RELEASE}\\n",
            ],
            env=self._environment(),
        )

    def upgrade(self) -> list[str]:
        return ["env", "LC_ALL=C.UTF-8", "HOME=/root", "dnf", *self._options(), "-y", "upgrade"]

    def clean(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def _options(self) -> list[str]:
        root = [f"--installroot={self.root}"] if self.root != Path("/") else []
        return [f"--config={self.configuration}", *root]

    def _run(self, *words: str) -> str:
        return run(["dnf", *self._options(), *words], timeout=LONG, env=self._environment())

    def _environment(self) -> dict[str, str]:
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}


def _of_dnf(line: str, installed: Mapping[str, str]) -> Update | None:
    words = line.split()
    if len(words) != 3 or "." not in words[0] or line.startswith((" ", "Obsoleting")):
        return None
    name, _, arch = words[0].rpartition(".")
    version = words[1] if ":" in words[1] else f"0:{words[1]}"
    old = installed.get(words[0], "")
    return Update(name, arch, old.removeprefix("0:"), version.removeprefix("0:"), words[2])


def _with_login(proxy: Proxy) -> str:
    if not proxy.user:
        return proxy.url
    parts = urlsplit(proxy.url)
    login = f"{quote(proxy.user, safe='')}:{quote(proxy.password, safe='')}@"
    return f"{parts.scheme}://{login}{parts.netloc}{parts.path}"


def of_this_host(directory: Path) -> Manager | None:
    """The manager that this host has; None for a distribution that has neither."""
    if Path("/usr/bin/apt-get").exists() and Path("/var/lib/dpkg/status").exists():
        return Apt(directory)
    if Path("/usr/bin/dnf").exists():
        return Dnf(directory)
    return None
