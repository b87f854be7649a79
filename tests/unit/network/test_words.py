"""What a host refuses its network driver is told in words, with the thing that it was about."""

from __future__ import annotations

import errno
from pathlib import Path
from types import TracebackType

import pytest

from kronos.datamodel.errors import Failure
from kronos.network import bridge as module
from kronos.network.base import LockingMode, VifPort
from kronos.network.bridge import BridgeNetwork
from kronos.network.netlink import NetlinkError
from kronos.system import commands
from kronos.system.commands import CommandFailed


class Unprivileged:
    """The kernel's answers to a process that is not root."""

    def __enter__(self) -> Unprivileged:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def link(self, command: str, **arguments: object) -> list[object]:
        raise NetlinkError(errno.ENODEV if command == "get" else errno.EPERM, "Operation not permitted")


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BridgeNetwork:
    monkeypatch.setattr(module, "IPRoute", Unprivileged)
    return BridgeNetwork(tmp_path)


def test_what_takes_root_says_so(network: BridgeNetwork, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Failure) as caught:
        network.create_bridge("xenbr0")

    assert caught.value.description == [
        "INTERNAL_ERROR",
        "A bridge cannot be made (xenbr0): Operation not permitted; this takes the rights of root (CAP_NET_ADMIN)",
    ]
    assert "xenbr0" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_command_that_refuses_is_quoted(network: BridgeNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(argv: list[str], **_: object) -> str:
        raise CommandFailed(argv, 1, "Operation not supported")

    monkeypatch.setattr(commands, "run", refuse)
    with pytest.raises(Failure) as caught:
        network.secure(VifPort("vif1.0", "02:00:00:00:00:01", LockingMode.UNLOCKED))

    assert caught.value.description == [
        "INTERNAL_ERROR",
        "The rules of guests' ports cannot be set: nft exited with 1: Operation not supported",
    ]


def test_xenapis_own_errors_stay_as_they_are(network: BridgeNetwork) -> None:
    with pytest.raises(Failure) as caught:
        network.create_bridge("no/bridge")

    assert caught.value.code == "INVALID_VALUE"
