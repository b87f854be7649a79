"""kill -9 at random moments of a random workload: what was answered is there, nothing is half there, guests run on.

KRONOS_KILLS is the number of kills and KRONOS_SEED the workload, which each failure prints. What the machine does
meanwhile is not repeatable; the calls and the moments are.
"""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from harness import audit
from harness.daemon import Daemon
from harness.workload import Worker

KILLS = int(os.environ.get("KRONOS_KILLS", "200"))
WORKERS = 4
MOMENTS = (0.02, 0.6)
"""Seconds of work before a kill, at least and at most: from within the first calls to a dozen of them later."""

pytestmark = [pytest.mark.system, pytest.mark.timeout(60 + 6 * KILLS)]


class Run:
    """A daemon that is killed over and over, and what is known of it."""

    def __init__(self, daemon: Daemon, seed: int) -> None:
        self.daemon = daemon
        self.seed = seed
        self.random = random.Random(seed)
        self.workers = [Worker(daemon, f"w{n}", self.random.randrange(1 << 32)) for n in range(WORKERS)]
        self.pids: dict[str, int] = {}

    def round(self) -> list[str]:
        """Work, kill, start again; what is wrong then."""
        stop = threading.Event()
        threads = [threading.Thread(target=worker.run, args=(stop,), daemon=True) for worker in self.workers]
        for thread in threads:
            thread.start()
        time.sleep(self.random.uniform(*MOMENTS))
        self.daemon.kill()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        self.daemon.start()
        return self.judge()

    def judge(self) -> list[str]:
        client = self.daemon.client()
        rows = audit.records(client)
        client.close()
        untouched = {
            vm
            for worker in self.workers
            for vm, row in worker.model.objects["VM"].items()
            if row["power_state"] in audit.LIVE and vm in worker.unmoved
        }
        problems = [problem for worker in self.workers for problem in worker.judge(rows)]
        problems += audit.faults(self.daemon, rows)
        problems += self._guests(rows, untouched)
        for worker in self.workers:
            problems += worker.refused
            worker.refused.clear()
        return problems

    def _guests(self, rows: audit.Records, untouched: set[str]) -> Iterator[str]:
        """Guests that nobody stopped are the same processes as before."""
        pids = self.daemon.guest_pids()
        for vm in untouched:
            uuid = rows["VM"][vm]["uuid"] if vm in rows["VM"] else ""
            if uuid in self.pids and self.pids[uuid] != pids.get(uuid):
                yield f"VM {uuid} ran as process {self.pids[uuid]} and now as {pids.get(uuid)}"
        self.pids = pids


@pytest.fixture
def run(new_daemon: Callable[..., Daemon]) -> Run:
    seed = int(os.environ.get("KRONOS_SEED", "0")) or secrets.randbits(32)
    print(f"KRONOS_SEED={seed}")
    return Run(new_daemon(), seed)


def test_what_was_answered_survives_and_nothing_is_half_there(run: Run) -> None:
    began = time.monotonic()
    for count in range(KILLS):
        problems = run.round()
        assert not problems, f"after kill {count + 1} of {KILLS}, KRONOS_SEED={run.seed}:\n" + "\n".join(
            problems
        )
    answered = sum((worker.answered for worker in run.workers), Counter())
    cut_short = sum((worker.unanswered for worker in run.workers), Counter())
    print(f"{KILLS} kills in {time.monotonic() - began:.0f} s; answered {dict(answered)}")
    print(f"cut short: {dict(cut_short)}; guests that run on: {len(run.pids)}")
    # A test that did next to nothing would prove nothing.
    assert sum(answered.values()) > KILLS
    if KILLS >= 50:
        assert {"VM.clone", "VDI.create", "VBD.create", "network.create"} <= answered.keys()
        # A busy machine starts no guest between two kills; the ones that it had begun are found running all the same.
        assert {"VM.start", "VM.hard_shutdown"} <= (answered | cut_short).keys()
        assert cut_short
