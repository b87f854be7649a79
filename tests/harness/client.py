"""A XenAPI client for tests: JSON-RPC 2.0 on one connection, which tells a refusal from no answer at all."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from kronos.datamodel.errors import Failure


class NoAnswer(Exception):
    """The connection ended before an answer came: whether the call was carried out is not known."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """Calls as one session; not to be shared between threads. Raises Failure and NoAnswer."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self.connection = connection
        self.session = ""

    @classmethod
    def unix(cls, path: Path, timeout: float = 60.0) -> Client:
        """A client of the local socket, logged in as root."""
        client = cls(UnixConnection(path, timeout))
        client.login("root", "")
        return client

    def login(self, user: str, password: str) -> None:
        self.session = self.raw("session.login_with_password", user, password, "2.21", "kronos tests")

    def __call__(self, method: str, *args: Any) -> Any:
        """A call as this session."""
        return self.raw(method, self.session, *args)

    def raw(self, method: str, *args: Any) -> Any:
        """A call whose arguments are all given."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": args})
        try:
            self.connection.request("POST", "/jsonrpc", body, {"Content-Type": "application/json"})
            reply = json.loads(self.connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.connection.close()
            raise NoAnswer(f"{method}: {error!r}") from error
        if "error" in reply:
            raise Failure(str(reply["error"]["message"]), *reply["error"]["data"])
        return reply["result"]

    def task(self, method: str, *args: Any, timeout: float = 60.0) -> Any:
        """An asynchronous call, waited for by events; the result of its task as it stands there, XML."""
        task = self(f"Async.{method}", *args)
        token = ""
        while True:
            row = self("task.get_record", task)
            if row["status"] != "pending":
                break
            token = self("event.from", [f"task/{task}"], token, timeout)["token"]
        self("task.destroy", task)
        if row["status"] != "success":
            raise Failure(*row["error_info"])
        return row["result"]

    def close(self) -> None:
        self.connection.close()
