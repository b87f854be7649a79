"""Real QEMU passes the tests of every hypervisor driver."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

_SUITE = Path(__file__).parents[2] / "unit" / "hypervisor" / "test_conformance.py"
globals().update(
    {name: item for name, item in runpy.run_path(str(_SUITE)).items() if name.startswith("test_")}
)
