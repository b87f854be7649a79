"""The toolstack as the program sees it: XenAPI as JSON-RPC 2.0 on the local socket, which only root can open."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from kronos.boot.eliloader.plan import Successor
from kronos.boot.eliloader.refusal import InstallFailed
from kronos.system import settings

_SILENCE = 60.0


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_SILENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_SILENCE)
        self.sock.connect(str(self._path))


class Toolstack:
    """A session with the daemon of this host. Raises InstallFailed with XenAPI's own codes, or INTERNAL_ERROR."""

    def __init__(self, path: Path) -> None:
        self._connection = _Connection(path)
        self._session = self._raw("session.login_with_password", "root", "", "2.21", "eliloader")

    def __enter__(self) -> Toolstack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self("session.logout")
        except InstallFailed:
            pass  # it has no better use for the session
        self._connection.close()

    def __call__(self, method: str, *args: Any) -> Any:
        return self._raw(method, self._session, *args)

    def _raw(self, method: str, *args: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": args})
        try:
            self._connection.request("POST", "/jsonrpc", body, {"Content-Type": "application/json"})
            reply = json.loads(self._connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise InstallFailed("INTERNAL_ERROR", f"xapi does not answer: {error!r}") from error
        if "error" in reply:
            raise InstallFailed(str(reply["error"]["message"]), *map(str, reply["error"]["data"]))
        return reply["result"]

    def write(self, vm: str, before: Mapping[str, str], after: Successor, remember: str) -> None:
        """What the VM's record becomes after this boot."""
        for key in before.keys() | after.other_config.keys():
            if before.get(key) == after.other_config.get(key):
                continue
            self("VM.remove_from_other_config", vm, key)
            if key in after.other_config:
                self("VM.add_to_other_config", vm, key, after.other_config[key])
        if remember:
            self("VM.set_PV_bootloader_args", vm, remember)
        if after.only_first_disk_bootable:
            for vbd in self("VM.get_VBDs", vm):
                self("VBD.set_bootable", vbd, self("VBD.get_userdevice", vbd) in ("0", "xvda", "hda", "sda"))
        self("VM.set_PV_bootloader", vm, after.PV_bootloader)


def local_socket() -> Path:
    """Where this host's daemon listens. Raises INTERNAL_ERROR where its settings cannot be read."""
    try:
        found = settings.read(settings.CONFIGURATION, {}, may_be_missing=True)
    except settings.SettingsWrong as error:
        raise InstallFailed("INTERNAL_ERROR", str(error)) from error
    return found.socket
