"""An operating system for tests: files below a folder, and commands that are noted instead of run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kronos.system.commands import CommandFailed
from kronos.system.outside import NOTHING, NoOutside


class NotedOutside:
    """Writes files below the tests' own folder; of commands it notes what would have been run.

    `refused` names commands (their first words) that fail, `answers` what others print.
    """

    def __init__(self) -> None:
        self.ran: list[list[str]] = []
        self.refused: set[str] = set()
        self.answers: dict[str, str] = {}

    def command(
        self, argv: Sequence[str], unit: str = "", environment: Mapping[str, str] = NOTHING
    ) -> list[str]:
        return NoOutside().command(argv, unit, environment)

    def stop(self, unit: str) -> None:
        pass

    def change(self, argv: Sequence[str], *, stdin: str = "", timeout: float = 60.0) -> str:
        self.ran.append(list(argv))
        text = " ".join(argv)
        for words in self.refused:
            if text.startswith(words):
                raise CommandFailed(argv, 1, f"{words} does not work today")
        return next((answer for words, answer in self.answers.items() if text.startswith(words)), "")

    def write(self, path: Path, content: str, mode: int = 0o644) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(mode)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    @property
    def commands(self) -> list[str]:
        return [" ".join(argv) for argv in self.ran]
