"""python -m bench [--quick] [--json FILE] [GOAL…]: measure, show a table, keep it as JSON."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from bench import report
from bench.process import ROOT
from bench.run import Run

GOALS: Final = {
    "IDLE": "idle",
    "JOURNAL": "journal",
    "G1": "rpc",
    "G3": "listing",
    "G6": "setters",
    "G8": "restart",
    "G9": "fanout",
    "G10": "transfers",
    "G13": "lifecycle",
    "G14": "simulated",
    "G15": "cli",
    "G16": "metrics",
    "G17": "scale",
}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure each goal beside its floor, in one run. Only the ratios mean anything.",
        epilog=f"Goals: {', '.join(GOALS)}. See docs/performance.md.",
    )
    parser.add_argument("goals", nargs="*", metavar="GOAL", help="default: all of them")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the objects, two rounds instead of five"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: bench/results/TIME.json")
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("/var/tmp"),
        help="on the disk to measure (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    options.goals = [goal.upper() for goal in options.goals] or list(GOALS)
    unknown = [goal for goal in options.goals if goal not in GOALS]
    if unknown:
        parser.error(f"no such goal: {', '.join(unknown)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    surroundings = {"machine": report.machine(), "quick": options.quick, "load_before": report.load()}
    print("; ".join(f"{name}: {text}" for name, text in surroundings["machine"].items()))
    if surroundings["load_before"] > report.QUIET:
        print(f"load {surroundings['load_before']:.2f} before the start: this machine is not quiet")
    rows: list[report.Row] = []
    failed: list[str] = []
    cores = os.sched_getaffinity(0)
    for goal in options.goals:
        print(f"{goal} …", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="krbench-", dir=options.directory) as name:
            try:
                module = importlib.import_module(f"bench.goals.{GOALS[goal]}")
                rows += module.measure(Run(Path(name), options.quick))
            except (OSError, RuntimeError, ValueError, ImportError) as error:
                failed.append(f"{goal} could not be measured: {error}")
        os.sched_setaffinity(0, cores)
    surroundings["load_after"] = report.load()
    print(report.table(rows))
    print(*failed, sep="\n", end="\n" if failed else "")
    missed = sum(row.met is False for row in rows)
    print(
        f"load {surroundings['load_before']:.2f} before, {surroundings['load_after']:.2f} after; {missed} missed"
    )
    path = options.json or ROOT / "bench" / "results" / f"{time.strftime('%Y%m%dT%H%M%S')}.json"
    report.write_json(path, rows, surroundings | {"failed": failed})
    print(path)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
