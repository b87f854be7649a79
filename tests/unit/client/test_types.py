"""What a type checker says of programs that use kronos-client."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CLIENT = Path(__file__).resolve().parents[3] / "client"
START = "from kronos_client import AsyncSession, Cache, Session\n"


def verdict(directory: Path, program: str) -> str:
    (directory / "program.py").write_text(START + program)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", directory.parent / "mypy", "program.py"],
        cwd=directory,
        env={"MYPYPATH": str(CLIENT), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    return checked.stdout


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        ("def f(x: Session) -> str:\n    return x.VM.get_record(x.VM.get_all()[0])['name_label']\n", ""),
        (
            "async def f(x: AsyncSession) -> int:\n    return await x.VM.get_name_label((await x.VM.get_all())[0])\n",
            "Incompatible return value",
        ),
        (
            "def f(x: Session) -> None:\n    x.VM.start(x.host.get_all()[0], False, False)\n",
            '"HostRef"; expected "VMRef"',
        ),
        ("def f(x: Session) -> None:\n    x.VM.begin()\n", 'has no attribute "begin"'),
        (
            "def f(x: Session) -> None:\n    x.VM.get_all_records().popitem()[1]['naem']\n",
            'has no key "naem"',
        ),
        (
            "def f(x: Cache) -> bool:\n    return any(vm['power_state'] == 'running' for vm in x.VM.values())\n",
            "Non-overlapping equality check",
        ),
        (
            "def f(x: Session) -> float:\n    return x.wait(x.Async.SR.scan(x.SR.get_all()[0])) or 0.0\n",
            "",
        ),
    ],
    ids=[
        "a right one",
        "a wrong type",
        "another class's reference",
        "a wrong message",
        "a wrong field",
        "a wrong state",
        "a task",
    ],
)
def test_a_type_checker_finds(program: str, complaint: str, tmp_path: Path) -> None:
    said = verdict(tmp_path, program)
    if complaint:
        assert complaint in said
    else:
        assert "Success" in said, said
