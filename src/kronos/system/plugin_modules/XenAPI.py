"""XenAPI for plugins, as far as they use it: sessions whose `xenapi` makes calls. An installed XenAPI is taken instead.

session = XenAPI.xapi_local()
session.login_with_password("root", "")
session.xenapi.host.get_all()
"""

from __future__ import annotations

import http.client
import os
import socket
import sys
import xmlrpc.client
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_SOCKET = "/var/lib/xcp/xapi"


class Failure(Exception):
    """A XenAPI error: `details` is its code and parameters."""

    def __init__(self, details: list[str]) -> None:
        super().__init__(str(details))
        self.details = details


class _Connection(http.client.HTTPConnection):
    """To the daemon's socket, which only root can open."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ.get("XAPI_SOCKET", _SOCKET))


class _Transport(xmlrpc.client.Transport):
    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _Connection("localhost")


class _Calls:
    """A name that is being spelled: `session.xenapi.VM.get_all`."""

    def __init__(self, session: Session, name: str) -> None:
        self._spelled_by = session
        self._name = name

    def __getattr__(self, name: str) -> _Calls:
        return _Calls(self._spelled_by, f"{self._name}.{name}" if self._name else name)

    def __call__(self, *args: Any) -> Any:
        session = self._spelled_by
        if self._name in ("login_with_password", "session.login_with_password"):
            return session.login_with_password(*args)
        return session.xenapi_request(self._name, (session._session, *args))


class Session:
    """A session with the daemon of this host, or with another by its URL."""

    def __init__(self, uri: str = "", transport: Any = None, allow_none: bool = True) -> None:
        local = transport or (_Transport() if not uri else None)
        self._server = xmlrpc.client.ServerProxy(
            uri or "http://localhost/", transport=local, allow_none=allow_none
        )
        self._session = ""

    @property
    def xenapi(self) -> _Calls:
        return _Calls(self, "")

    @property
    def handle(self) -> str:
        """The session's reference."""
        return self._session

    def login_with_password(self, *args: Any) -> None:
        """Log in; on the local socket any name and password will do. Raises Failure."""
        self._session = self.xenapi_request("session.login_with_password", args)

    def logout(self) -> None:
        self.xenapi_request("session.logout", (self._session,))
        self._session = ""

    def xenapi_request(self, method: str, args: tuple[Any, ...]) -> Any:
        """Make a call; its value. Raises Failure."""
        found: Any = getattr(self._server, method)(*args)
        if found["Status"] == "Success":
            return found["Value"]
        raise Failure(found["ErrorDescription"])


def xapi_local() -> Session:
    """A session with this host's daemon, not yet logged in."""
    return Session()


def _give_way() -> None:
    """Have this name mean the XenAPI that the administrator has installed, if there is one."""
    elsewhere = [each for each in sys.path if each and Path(each).resolve() != _HERE]
    spec = PathFinder.find_spec("XenAPI", elsewhere)
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules[__name__] = module
        spec.loader.exec_module(module)


if __name__ == "XenAPI":
    _give_way()
