"""Minimal Debian roots, in which packages are installed and what they leave behind is seen.

The base has what our packages depend on and none of them. It is made once by mmdebstrap and never written to: each
trial is an overlay on it, so that whatever a trial did is what lies in its own folder.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.debian import SUITE, alone, mmdebstrap

CACHE = Path("/var/cache/kronos/packages")
REPOSITORY = "/srv/repository"
"""Where a root finds the repository."""

_IN_USE = 6 * 3600
"""Seconds for which a root that was used is kept: another checkout's tests may run on it."""

IGNORED = (
    *("run/", "tmp/", "proc/", "dev/", "sys/", "srv/"),
    # dpkg's and apt's own accounts of what happened; what a package has changed there has its own questions below.
    *("var/log/", "var/cache/", "var/lib/apt/", "var/lib/dpkg/status", "var/lib/dpkg/available"),
    *("var/lib/dpkg/lock", "var/lib/dpkg/triggers/Lock", "var/lib/dpkg/diversions-old"),
    # What these were before the last change: useradd's, groupadd's and ldconfig's.
    *(
        "etc/passwd-",
        "etc/group-",
        "etc/shadow-",
        "etc/gshadow-",
        "etc/subuid-",
        "etc/subgid-",
        "etc/ld.so.cache",
    ),
)
_FURNISH = """\
apt-mark showmanual | sort >/before
apt-get satisfy -q -y --no-install-recommends "$0"
# Nobody but our packages needs these.
apt-mark showmanual | sort | comm -13 /before - | xargs apt-mark auto
rm /before
"""
_MOUNT = """\
set -e
layers=lowerdir=$BASE,upperdir=$HERE/upper,workdir=$HERE/work
mount -t overlay overlay -o "$layers,redirect_dir=off,metacopy=off" $HERE/root
mount -t proc proc $HERE/root/proc
if [ -n "$REPOSITORY" ]; then
    mkdir -p $HERE/root/srv/repository
    mount -o bind,ro "$REPOSITORY" $HERE/root/srv/repository
fi
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
"""
_INSIDE = _MOUNT + 'HOME=/root chroot $HERE/root sh -c "$0"'
_OUTSIDE = _MOUNT + 'HOME=$HERE ROOT=$HERE/root sh -c "$0"'


class Failed(Exception):
    """A command in a root failed; the text has all that it said."""


def base(dependencies: str, cache: Path = CACHE, progress: Callable[[str], None] = print) -> Path:
    """The folder of a root with what a control file's words ask for; made if need be in half a minute."""
    fortnight = str(int(time.time()) // (14 * 86400))
    recipe = "\0".join((dependencies, SUITE, fortnight, Path(__file__).read_text()))
    made = cache / f"base-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    cache.mkdir(parents=True, exist_ok=True)
    with alone(cache / "lock"):
        if not made.exists():
            for old in cache.glob("base-*"):
                if time.time() - old.stat().st_mtime > _IN_USE:
                    shutil.rmtree(old)
            _make(dependencies, made, progress)
        os.utime(made)
    return made


def _make(dependencies: str, made: Path, progress: Callable[[str], None]) -> None:
    progress("Installing what the packages depend on into a minimal root")
    part = made.with_name("part")
    shutil.rmtree(part, ignore_errors=True)
    hook = f"chroot $1 sh -ec {shlex.quote(_FURNISH)} {shlex.quote(dependencies)}"
    options = [
        "--variant=minbase",
        "--format=directory",
        "--skip=cleanup/apt/lists",
        f"--customize-hook={hook}",
    ]
    mmdebstrap(options, part, made.with_name("log"))
    # From here on there are only packages of ours, and nobody's services.
    for path in (part / "etc/apt/sources.list", *(part / "etc/apt/sources.list.d").iterdir()):
        path.unlink(missing_ok=True)
    shutil.rmtree(part / "var/lib/apt/lists")
    (part / "etc/dpkg/dpkg.cfg.d/unsafe").write_text("force-unsafe-io\n")
    (part / "etc/apt/apt.conf.d/minimal").write_text('APT::Install-Recommends "false";\n')
    policy = part / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    part.rename(made)


class Root:
    """One root for one trial, with a repository to install from. No daemon runs in it, and no network is there."""

    def __init__(self, base: Path, directory: Path, repository: Path | None = None) -> None:
        self.base = base
        self.directory = directory
        self.repository = repository
        for name in ("upper", "work", "root"):
            (directory / name).mkdir(parents=True)

    def run(self, command: str, timeout: float = 300) -> str:
        """What a shell command in the root prints. Raises Failed.

        Mounts and processes are gone with it; nobody is there to answer a question.
        """
        return self._run(_INSIDE, command, timeout)

    def outside(self, command: str, timeout: float = 300) -> str:
        """The same for a command of this machine, to which the root is $ROOT, and home the trial's folder."""
        return self._run(_OUTSIDE, command, timeout)

    def _run(self, script: str, command: str, timeout: float) -> str:
        argv = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "sh", "-c", script, command]
        env = {"PATH": os.environ["PATH"], "BASE": str(self.base), "HERE": str(self.directory)}
        env["REPOSITORY"] = str(self.repository or "")
        done = subprocess.run(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )
        text = done.stdout.decode(errors="replace")
        if done.returncode != 0:
            raise Failed(f"`{command}` ended with {done.returncode}:\n{text}")
        return text

    def write(self, path: str, text: str) -> None:
        """A file as an administrator writes it. Only between commands."""
        self.run(
            f"mkdir -p {shlex.quote(os.path.dirname(path))} && printf %s {shlex.quote(text)} >{shlex.quote(path)}"
        )

    def read(self, path: str) -> str:
        return self.run(f"cat {shlex.quote(path)}")

    def installed(self) -> dict[str, str]:
        """The version of each package that is installed, wholly."""
        lines = self.run("dpkg-query -W -f '${Status}\\t${Package}\\t${Version}\\n'").splitlines()
        rows = [line.split("\t") for line in lines]
        return {name: version for status, name, version in rows if status == "install ok installed"}

    def state(self) -> dict[str, str]:
        """How the root differs from its base, a line for each path, but for what is `IGNORED`."""
        found = dict(_differences(self.base, self.directory / "upper", ""))
        return {path: what for path, what in found.items() if not path.startswith(IGNORED)}

    def questions(self, packages: list[str]) -> str:
        """The answers that debconf keeps for packages."""
        return self.run(f"for one in {' '.join(packages)}; do debconf-show $one; done")


def left(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What is not as it was, a line for each path."""
    paths = sorted(before.keys() | after.keys())
    return [
        f"/{path}: {after.get(path, 'as in the base')}"
        for path in paths
        if before.get(path) != after.get(path)
    ]


def _differences(lower: Path, upper: Path, path: str) -> Iterator[tuple[str, str]]:
    hidden = os.path.lexists(lower / path) and _opaque(upper / path)
    names = set(os.listdir(upper / path))
    if hidden:
        yield from ((os.path.join(path, name), "gone") for name in set(os.listdir(lower / path)) - names)
    for name in names:
        one = os.path.join(path, name)
        new = (upper / one).lstat()
        if stat.S_ISCHR(new.st_mode) and new.st_rdev == 0:
            yield one, "gone"
            continue
        mine = _look(upper / one, new)
        theirs = _look(lower / one, (lower / one).lstat()) if os.path.lexists(lower / one) else "nothing"
        if mine != theirs:
            yield one + ("/" if stat.S_ISDIR(new.st_mode) else ""), mine
        if stat.S_ISDIR(new.st_mode):
            yield from _differences(lower, upper, one)


def _opaque(path: Path) -> bool:
    try:
        return os.getxattr(path, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False


def _look(path: Path, found: os.stat_result) -> str:
    """All that matters of a file: its kind, mode, owner and contents."""
    owner = f"{stat.filemode(found.st_mode)} {found.st_uid}:{found.st_gid}"
    if stat.S_ISLNK(found.st_mode):
        return f"{owner} -> {os.readlink(path)}"
    if stat.S_ISREG(found.st_mode):
        return f"{owner} {found.st_size} bytes, {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    return owner
