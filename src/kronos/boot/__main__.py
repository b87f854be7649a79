"""Make the tiny guest's kernel and RAM disk in a directory, or find them made, and say how to boot them."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from kronos.boot.tiny_guest import MEMORY, tiny_guest
from kronos.datamodel.errors import Failure


def main() -> int:
    """The command; 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="where the image is kept")
    parser.add_argument("--cache", type=Path, help="where a kernel package is fetched to, if one has to be")
    options = parser.parse_args()
    started = time.monotonic()
    try:
        guest = tiny_guest(
            options.directory, cache=options.cache, progress=lambda line: print(line, flush=True)
        )
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    print(f"{guest.size / 1e6:.1f} MB, ready in {time.monotonic() - started:.1f} s; to boot it:")
    print(
        f"qemu-system-x86_64 -machine q35 -m {MEMORY >> 20} -nographic -kernel {guest.kernel} "
        f"-initrd {guest.ramdisk} -append '{guest.cmdline}'"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
