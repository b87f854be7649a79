"""Calls made by several clients at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence


def all_at_once(jobs: Sequence[Callable[[], None]]) -> float:
    """Run the jobs on a thread each, started together; seconds until the last has ended. Raises what one raised."""
    failures: list[BaseException] = []
    gate = threading.Barrier(len(jobs) + 1)

    def work(job: Callable[[], None]) -> None:
        gate.wait()
        try:
            job()
        except BaseException as error:  # noqa: BLE001  # raised again below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    gate.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - start
    if failures:
        raise failures[0]
    return taken
