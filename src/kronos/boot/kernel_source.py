"""Where a guest's kernel comes from: the host's own, or the distribution's package, fetched but not installed."""

from __future__ import annotations

import platform
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kronos.datamodel.errors import Failure
from kronos.system.commands import CommandFailed, run

DEBIAN_PACKAGE = "linux-image-amd64"
_DOWNLOAD_LIMIT = 900.0  # seconds: 70 MB on a slow line
_RELEASE = re.compile(r"\d+|\D+")


@dataclass(frozen=True)
class Kernel:
    """A kernel and its modules as files: `image` is a bzImage, `modules` the tree that fits it."""

    release: str
    image: Path
    modules: Path


def installed(root: Path = Path("/")) -> Kernel | None:
    """The kernel that this host runs, or its newest other one, if both image and modules are on its disk."""
    trees = sorted((root / "lib/modules").glob("*/kernel"), key=lambda tree: _newest_last(tree.parent.name))
    releases = [tree.parent.name for tree in reversed(trees)]
    running = platform.release()
    for release in sorted(releases, key=lambda each: each != running):
        modules = root / "lib/modules" / release
        for image in (root / "boot" / f"vmlinuz-{release}", modules / "vmlinuz"):
            if image.is_file() and (modules / "modules.builtin").is_file():
                return Kernel(release, image, modules)
    return None


@contextmanager
def downloaded(cache: Path, progress: Callable[[str], None]) -> Iterator[Kernel]:
    """Debian's current kernel, unpacked for as long as the context lasts; the package file stays in `cache`.

    Raises Failure INTERNAL_ERROR when apt cannot give it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    try:
        name = _package_name(run(["apt-cache", "depends", "--important", DEBIAN_PACKAGE]))
        progress(f"fetching {name}")
        # As root apt would fetch as a user of its own, who cannot write here.
        fetch = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name]
        run(["env", f"--chdir={cache}", *fetch], timeout=_DOWNLOAD_LIMIT)
        package = max(cache.glob(f"{name}_*.deb"), key=lambda path: path.stat().st_mtime)
        with tempfile.TemporaryDirectory(prefix="kernel-", dir=cache) as unpacked:
            progress(f"unpacking {package.name}")
            run(["dpkg-deb", "--extract", str(package), unpacked], timeout=300)
            kernel = installed(Path(unpacked))
            if kernel is None:
                raise Failure("INTERNAL_ERROR", f"{package.name} holds no kernel with modules")
            yield kernel
    except CommandFailed as error:
        raise Failure("INTERNAL_ERROR", f"no kernel for the tiny guest: {error}") from error


def _package_name(untrusted_depends: str) -> str:
    for line in untrusted_depends.splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind == "Depends" and re.fullmatch(r"linux-image-[0-9][a-z0-9.+-]*", name):
            return name
    raise Failure("INTERNAL_ERROR", f"apt knows no kernel that {DEBIAN_PACKAGE} stands for")


def _newest_last(release: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in _RELEASE.findall(release)]
