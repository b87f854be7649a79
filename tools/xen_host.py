"""A real Xen host in an emulated machine: to look at, to try this checkout on, and to run tests in.

image             make its disk, if that is missing (2 to 3 minutes)
up                start it with this checkout in it (a minute); `xapi`, `xe` and `kronos-python` are on its PATH
send              put the checkout's present state into it
run COMMAND...    run a shell command in it; without one, a shell
test [ARGUMENTS]  pytest in it, from the checkout's folder
down              end it
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from harness.xen.image import image
from harness.xen.machine import SOURCE, Broken, Machine, interactive
from harness.xen.suites import bring

PLACE = Path("/tmp/kronos-xen")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", choices=("image", "up", "send", "run", "test", "down"))
    parser.add_argument("--name", default="host", help="which machine, where there are several")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    made = image(progress=say)
    PLACE.mkdir(exist_ok=True)
    machine = Machine(made, directory=PLACE / options.name)
    if options.do == "up":
        if not machine.runs:
            machine.start()
        machine.install()
    elif options.do == "send":
        machine.install()
    elif options.do == "down":
        machine.close()
    elif options.do == "run":
        return interactive(machine, [" ".join(options.arguments)] if options.arguments else [])
    elif options.do == "test":
        machine.install()
        bring(machine, options.arguments)
        words = " ".join(map(shlex.quote, options.arguments))
        return interactive(machine, [f"cd {SOURCE} && kronos-python -m pytest -p no:cacheprovider {words}"])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Broken as broken:
        say(str(broken))
        sys.exit(1)
