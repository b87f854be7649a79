"""A libvirtd of one's own: when it is up."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from kronos.system.libvirtd import PrivateLibvirtd


def test_one_whose_socket_is_there_and_does_not_listen_yet_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libvirtd = PrivateLibvirtd(tmp_path)
    monkeypatch.setattr(libvirtd, "pid", os.getpid)
    libvirtd.socket.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(libvirtd.socket))
        with pytest.raises(TimeoutError):
            libvirtd.start(0.1)
        bound.listen()
        assert libvirtd.start(60) == libvirtd.uri
