"""Intents: what a crash left is found, and what is being written meanwhile is left alone."""

from __future__ import annotations

import os
from pathlib import Path

from kronos.system.intents import Intents


def test_an_intent_is_there_for_as_long_as_its_block_runs(tmp_path: Path) -> None:
    intents = Intents(tmp_path / "intents")
    with intents.declared("one", {"kind": "x"}) as note:
        note("more", "y")
        assert intents.left() == {"one": {"kind": "x", "more": "y"}}
    assert intents.left() == {}


def test_half_written_ones_of_a_crash_go_and_those_of_this_process_stay(tmp_path: Path) -> None:
    intents = Intents(tmp_path)
    of_another = tmp_path / ".one.1.new"
    of_this = tmp_path / f".two.{os.getpid()}.new"
    for path in (of_another, of_this):
        path.write_text("{")
    assert intents.left() == {}
    assert list(tmp_path.iterdir()) == [of_this]
