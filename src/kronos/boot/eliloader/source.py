"""Where an installation comes from: the URL in other_config:install-repository, checked and taken apart."""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass

from kronos.boot.eliloader.refusal import InstallFailed

SCHEMES = ("http", "https", "ftp", "nfs")
_NFS_SHORT = re.compile(r"nfs:(?P<server>[^/:\s]+|\[[0-9A-Fa-f:.]+\]):(?P<path>/\S*)")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f]")


@dataclass(frozen=True)
class Source:
    """A repository. `written` is how its owner wrote it, for the distribution's own installer."""

    scheme: str
    host: str
    port: int | None
    path: str
    """Percent-encoded as written, ending with a slash."""
    user: str = ""
    password: str = ""
    written: str = ""

    def url(self, path: str = "") -> str:
        """The address of a file of the repository, without user and password: fit for logs and messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}{urllib.parse.quote(path)}"

    def plain_path(self, path: str = "") -> str:
        """The path of a file on the server, as the server's file system has it."""
        return urllib.parse.unquote(self.path) + path


def parse(untrusted: str) -> Source:
    """A repository's URL. Raises UNSUPPORTED_INSTALL_METHOD [reason]."""
    text = untrusted.strip()
    if _UNPRINTABLE.search(text):
        raise _refused("holds blanks or control characters")
    written = text if text.endswith("/") else text + "/"
    if short := _NFS_SHORT.fullmatch(written):
        return _checked(f"nfs://{short['server']}{short['path']}", written)
    return _checked(written, written)


def _checked(url: str, written: str) -> Source:
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _refused(str(error)) from error
    if parts.scheme not in SCHEMES:
        raise _refused(f"is neither cdrom nor a URL with one of {', '.join(SCHEMES)}")
    if not host or parts.query or parts.fragment:
        raise _refused("is not a plain URL of a host and a directory")
    if ".." in urllib.parse.unquote(parts.path).split("/"):
        raise _refused("leads out of its directory")
    user = urllib.parse.unquote(parts.username or "")
    password = urllib.parse.unquote(parts.password or "")
    if any(_UNPRINTABLE.search(secret) for secret in (user, password)):
        raise _refused("has a user or password with control characters")
    return Source(parts.scheme, host, port, parts.path, user, password, written)


def _refused(why: str) -> InstallFailed:
    # The value itself is not repeated: it may hold a password.
    return InstallFailed("UNSUPPORTED_INSTALL_METHOD", f"other_config:install-repository {why}")
