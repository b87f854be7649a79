#!/usr/bin/env python3
"""`python -m kronos.boot` from a checkout: make the tiny guest in a directory."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
runpy.run_module("kronos.boot", run_name="__main__")
