"""Memory: what this process has freed, and given back."""

from __future__ import annotations

import threading
from pathlib import Path

from kronos.background.memory import Memory
from kronos.system import memory

MIB = 1 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_what_lies_free_between_things_in_use_is_given_back():
    kept, freed = [], []
    for _ in range(2_000):
        kept.append(bytearray(b"x" * 600))
        freed.append(bytearray(b"x" * 20_000))
    freed.clear()
    before = resident()
    memory.give_back()
    assert before - resident() > 20 * MIB
    assert len(kept) == 2_000


def test_it_is_given_back_again_and_again_until_the_daemon_stops(monkeypatch):
    times, twice = [], threading.Event()

    def give_back() -> None:
        times.append(1)
        if len(times) == 2:
            twice.set()

    monkeypatch.setattr(memory, "give_back", give_back)
    keeper = Memory(interval=0.01)
    keeper.start()
    assert twice.wait(10)
    keeper.close()
