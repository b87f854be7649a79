"""Debian's own installer for the network, as the distribution's package has it, and what answers its questions."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from harness.guests import CACHE

PACKAGE = "debian-installer-12-netboot-amd64"
FILES = ("linux", "initrd.gz")
PLACE = Path("/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64")
"""Where the package has them."""
_KEPT = Path("debian-installer", *PLACE.parts[1:])
"""Where they are kept below a cache of the tests: 49 MB of a package of 133."""
AGENTS = ("debian-installer", "Wget/")
"""How the names begin by which its programs go where they ask a server."""
MEMORY = 1 << 30
"""Bytes of a guest for it: with half of that it stops to say that there is little."""

PRESEED = """\
d-i debian-installer/locale string en_US.UTF-8
d-i keyboard-configuration/xkb-keymap select us
d-i mirror/country string manual
d-i mirror/protocol string http
d-i mirror/http/hostname string {mirror}
d-i mirror/http/directory string /debian
d-i mirror/http/proxy string
d-i mirror/suite string bookworm
"""
RELEASES = {
    "dists/bookworm/Release": """\
Origin: Debian
Suite: bookworm
Codename: bookworm
Architectures: amd64
Components: main
""",
    "dists/bookworm/main/binary-amd64/Release": """\
Origin: Debian
Archive: bookworm
Component: main
Architecture: amd64
""",
}
"""What makes a server a mirror to it, by path."""


class NotToBeHad(Exception):
    """The package sources of this machine do not give it; the text has apt's words."""


def debian_installer(cache: Path = CACHE) -> Path:
    """The directory with its `FILES`, fetched by apt where they are missing. Raises NotToBeHad."""
    for found in (PLACE, cache / _KEPT):
        if all((found / name).exists() for name in FILES):
            return found
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="debian-installer-", dir=cache) as work:
        _fetch(Path(work), cache / _KEPT)
    return cache / _KEPT


def _fetch(work: Path, found: Path) -> None:
    try:
        work.chmod(0o755)  # for the user that apt fetches as
        argv = ["apt-get", "download", "-q", PACKAGE]
        done = subprocess.run(argv, cwd=work, capture_output=True, text=True, timeout=280)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotToBeHad(f"{PACKAGE}: {error}") from error
    if done.returncode != 0:
        raise NotToBeHad(f"{PACKAGE}: {done.stderr[-300:]}")
    (archive,) = work.glob(f"{PACKAGE}_*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, work], check=True, timeout=120)
    found.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        part = found / f"{name}.{os.getpid()}"
        shutil.copy(work / PLACE.relative_to("/") / name, part)
        part.rename(found / name)
