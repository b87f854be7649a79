"""The tests on real Xen: an emulated machine with a Debian control domain, and this checkout in it.

`test_xen.py` runs everything (an hour), `test_xen.py --smoke` what `make test` has of it (two minutes).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from harness.xen.machine import Broken
from harness.xen.suites import FULL, SMOKE, SMOKE_LIMIT, missing, run_all


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="one PV guest through its life")
    options = parser.parse_args()
    if why := missing():
        say(f"Real Xen cannot be had on this machine: {why}.")
        return 1
    say("Not tried here, for what the emulated machine lacks: docs/hypervisors.md, “Xen”.")
    try:
        if options.smoke:
            passed = run_all((SMOKE,), say, limit=SMOKE_LIMIT)
        else:
            passed = run_all((SMOKE, *FULL), say, reboot=True)
    except Broken as broken:
        say(str(broken))
        return 1
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
