"""Package archives made on the spot, signed, and served over HTTP: a package in two versions, for apt or for dnf."""

from __future__ import annotations

import functools
import http.server
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def run(*argv: str | Path, cwd: Path | None = None, **environment: str) -> bytes:
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"} | environment
    done = subprocess.run([str(each) for each in argv], cwd=cwd, env=env, capture_output=True, timeout=120)
    assert done.returncode == 0, f"{argv}: {done.stderr.decode()}{done.stdout.decode()}"
    return done.stdout


class Archive:
    """A directory that is served, with a key of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.served = place / "served"
        self.served.mkdir(parents=True)
        self.home = place / "gnupg"
        self.home.mkdir(mode=0o700)
        self.key = place / "key.asc"
        self._gpg("--quick-generate-key", "archive", "rsa2048", "sign", "never")
        self.key.write_bytes(self._gpg("--armor", "--export", "archive"))

    def _gpg(self, *words: str | Path) -> bytes:
        options = ("--batch", "--yes", "--pinentry-mode=loopback", "--passphrase=")
        return self._with_key("gpg", *options, *words)

    def _with_key(self, *argv: str | Path) -> bytes:
        """Run a program that signs; the agent that it starts ends with it."""
        try:
            return run(*argv, GNUPGHOME=str(self.home))
        finally:
            run("gpgconf", "--kill", "gpg-agent", GNUPGHOME=str(self.home))

    def deb(self, version: str, name: str = "linux-image-test") -> Path:
        """A package without files."""
        tree = self.place / f"deb-{version}"
        (tree / "DEBIAN").mkdir(parents=True)
        lines = (
            f"Package: {name}",
            f"Version: {version}",
            "Architecture: all",
            "Maintainer: t <t@t>",
        )
        text = "".join(f"{line}\n" for line in (*lines, "Description: t"))
        (tree / "DEBIAN/control").write_text(text)
        made = self.place / f"{name}_{version}_all.deb"
        run("dpkg-deb", "--root-owner-group", "--build", tree, made)
        return made

    def publish_deb(self, package: Path) -> None:
        """Make it the one package of the archive."""
        (self.served / package.name).write_bytes(package.read_bytes())
        (self.served / "Packages").write_bytes(run("apt-ftparchive", "packages", ".", cwd=self.served))
        (self.served / "Release").write_bytes(run("apt-ftparchive", "release", ".", cwd=self.served))
        self._gpg("--clearsign", "-o", self.served / "InRelease", self.served / "Release")

    def publish_suite(self, package: Path, place: Path, suite: str, component: str) -> None:
        """Make an archive of one package elsewhere, with a suite as a distribution's has them."""
        pool, release = place / "pool", place / "dists" / suite
        lists = release / component / "binary-amd64"
        for folder in (pool, lists):
            folder.mkdir(parents=True)
        (pool / package.name).write_bytes(package.read_bytes())
        (lists / "Packages").write_bytes(run("apt-ftparchive", "packages", "pool", cwd=place))
        named = {"Suite": suite, "Codename": suite, "Components": component, "Architectures": "amd64"}
        options = [
            word
            for name, value in named.items()
            for word in ("-o", f"APT::FTPArchive::Release::{name}={value}")
        ]
        (release / "Release").write_bytes(run("apt-ftparchive", *options, "release", release))
        self._gpg("--clearsign", "-o", release / "InRelease", release / "Release")

    def rpm(self, version: str) -> Path:
        """A signed package without files."""
        spec = self.place / f"{version}.spec"
        spec.write_text(
            f"Name: kernel-core\nVersion: {version}\nRelease: 1\nSummary: t\nLicense: t\nBuildArch: noarch\n"
            "%description\nt\n%files\n"
        )
        run("rpmbuild", "-bb", "--define", f"_topdir {self.place}/rpm", spec)
        made = self.place / f"rpm/RPMS/noarch/kernel-core-{version}-1.noarch.rpm"
        names = (
            "--define",
            "_gpg_name archive",
            "--define",
            f"_gpg_path {self.home}",
            "--define",
            "__gpg /usr/bin/gpg",
        )
        self._with_key("rpmsign", *names, "--addsign", made)
        return made

    def publish_rpm(self, package: Path) -> None:
        (self.served / package.name).write_bytes(package.read_bytes())
        run("createrepo_c", "--quiet", self.served)

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Its address, for as long as the block runs."""

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

        handler = functools.partial(Handler, directory=str(self.served))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_address[1]}"
            server.shutdown()
