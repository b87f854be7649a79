"""A database that the next start is to take, when the daemon is killed while it is made ready or forgotten."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from kronos.db import replacement


class Killed(BaseException):
    """The daemon is gone: nothing after this runs."""


def dies_while_it_removes(path: Path, **_: object) -> None:
    """What comes first is gone, and the daemon with it."""
    for name in sorted(os.listdir(path), reverse=True) if path.is_dir() else ():
        (path / name).unlink()
        raise Killed


def test_of_what_is_forgotten_no_part_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replacement.prepare(tmp_path, {}, {"local.json": b"then"}, 1)
    (tmp_path / "local.json").write_text("now")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", dies_while_it_removes)
        with pytest.raises(Killed):
            replacement.discard(tmp_path)
    assert not replacement.take_up(tmp_path)
    assert (tmp_path / "local.json").read_text() == "now"
    replacement.tidy(tmp_path)
    assert os.listdir(tmp_path) == ["local.json"]


def test_what_was_not_made_ready_goes_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(state: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(replacement, "discard", die)
        with pytest.raises(Killed):
            replacement.prepare(tmp_path, {}, {"xapi-ssl.pem": b"a key"}, 1)
    assert os.listdir(tmp_path) != []
    assert not replacement.take_up(tmp_path)
    replacement.tidy(tmp_path)
    assert os.listdir(tmp_path) == []
