"""A target: a parser of outside input as the fuzzer sees it.

It takes any bytes. What it raises is a finding, and so is a run that takes long or much memory; so a target catches
just what its parser promises to raise, and asserts what must hold of the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

TARGETS: dict[str, Target] = {}


@dataclass(frozen=True)
class Target:
    """`words` are given to the fuzzer, which puts them together; `seeds` are whole inputs to begin with."""

    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()


def target(*seeds: bytes, words: tuple[bytes, ...] = ()) -> Callable[[Callable[[bytes], object]], Any]:
    def register(run: Callable[[bytes], object]) -> Callable[[bytes], object]:
        TARGETS[run.__name__] = Target(run, seeds, words)
        return run

    return register


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape" if len(data) % 2 else "replace")
