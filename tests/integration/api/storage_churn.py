"""Makes, snapshots, clones, copies and destroys disks until it is killed. Run by test_storage.py with a directory.

It says `made <reference>` once it was told of a disk, and `going <reference>` before it asks for one to be destroyed.
"""

from __future__ import annotations

import random
import runpy
import sys
import threading
from pathlib import Path

from kronos.datamodel.errors import Failure

StorageHost = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["StorageHost"]
SIZE = 1 << 20


def told(ref: str, host) -> str:
    """A client is told only what is on disk."""
    host.pipeline.durability.block()
    print(f"made {ref}\n", end="", flush=True)
    return ref


def churn(host, seed: int) -> None:
    chance = random.Random(seed)
    mine: list[str] = []
    while True:
        step = chance.choice(
            ["VDI.create", "VDI.snapshot", "VDI.clone", "VDI.copy", "VDI.destroy", "VDI.resize"]
        )
        if step == "VDI.create" or not mine:
            mine.append(told(host.vdi(host.local, SIZE).ref, host))
            continue
        ref = chance.choice(mine)
        try:
            if step == "VDI.destroy":
                print(f"going {ref}\n", end="", flush=True)
                mine.remove(ref)
                host(step, ref)
            elif step == "VDI.resize":
                host(step, ref, 2 * SIZE)
            elif step == "VDI.copy":
                mine.append(told(host(step, ref, host.local.ref), host))
            else:
                mine.append(told(host(step, ref), host))
        except Failure as failure:
            # The chain became too long.
            if failure.code not in ("SR_BACKEND_FAILURE_109", "SR_BACKEND_FAILURE_79"):
                raise


def main() -> None:
    host = StorageHost(Path(sys.argv[1]))
    print("ready", flush=True)
    for seed in range(3):
        threading.Thread(target=churn, args=(host, seed), daemon=True).start()
    threading.Event().wait()


main()
