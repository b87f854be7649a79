"""Debian's own judge of packages' lives, piuparts, about all of ours at once.

It installs, removes, installs again, reinstalls, and purges; then the same from an earlier version. It looks for files
that are left, changed or gone, for conffiles that a script wrote to, for broken links, processes and diversions. At
users, debconf's answers and overridden modes it does not look, nor can it tell one package from another: the other
tests do.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.packages.built import Built

pytestmark = pytest.mark.timeout(900)
_EARLIER = """\
#!/bin/sh
echo '{source}' >/etc/apt/sources.list.d/earlier.list
"""


def source(built: Built, repository: Path) -> str:
    return f"deb [signed-by={repository}/kronos.gpg] file:{repository}/debian stable main"


def test_piuparts_passes(base: Path, packages: Built, tmp_path: Path) -> None:
    scripts, trial, log = tmp_path / "scripts", tmp_path / "trial", tmp_path / "log"
    scripts.mkdir()
    trial.mkdir()
    script = scripts / "post_chroot_unpack_earlier"
    script.write_text(_EARLIER.format(source=source(packages, packages.earlier)))
    script.chmod(0o755)
    argv = ["piuparts", "--apt", "--existing-chroot", base, "--tmpdir", trial, "--log-file", log]
    argv += [
        "--keep-sources-list",
        "--no-eatmydata",
        "--scriptsdir",
        scripts,
        "--bindmount",
        packages.directory,
    ]
    argv += ["--testdebs-repo", source(packages, packages.both), "--install-remove-install", *packages.debs]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=600)
    said = log.read_text(errors="replace")
    assert done.returncode == 0, "\n".join(line for line in said.splitlines() if "DEBUG" not in line)[-6000:]
    assert "PASS: Installation and purging test." in said
    assert "PASS: Installation, upgrade and purging tests." in said
