"""Every error code that the source raises is one that XenAPI has."""

from __future__ import annotations

import re
from pathlib import Path

from kronos.datamodel.model import model

SOURCE = Path(__file__).resolve().parents[2] / "src" / "kronos"
RAISED = re.compile(r"""Failure\(\s*"([A-Z][A-Z0-9_]+)\"""")
# Numbered faults of storage, which the list has without their numbers.
NUMBERED = re.compile(r"SR_BACKEND_FAILURE_\d+")
# Codes that the reference answers with though its own list lacks them; CLIENT_ERROR is for clients that go away.
UNLISTED = {"VM_IS_SNAPSHOT", "VM_MEMORY_TARGET_WAIT_TIMEOUT", "CLIENT_ERROR", "VDI_IO_ERROR"}


def test_every_code_is_published():
    strange = {}
    for path in SOURCE.rglob("*.py"):
        for code in RAISED.findall(path.read_text()):
            if code not in model().errors and code not in UNLISTED and not NUMBERED.fullmatch(code):
                strange.setdefault(code, []).append(path.relative_to(SOURCE).as_posix())
    assert strange == {}
