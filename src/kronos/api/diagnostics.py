"""Diagnostics: what the daemon's own memory, database and doors have done since it started.

The names are those that clients know; each tells what comes next to it here, in the daemon's own terms.
"""

from __future__ import annotations

import gc
import resource
import sys
from pathlib import Path

from kronos.db.records import Host
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.system import memory

WORD = 8
"""Bytes of a word, in which clients expect memory to be counted."""


@message("Diagnostics.gc_compact")
def gc_compact(call: Call, host: str) -> None:
    """Collect what the daemon no longer uses, and give the memory back to the host."""
    call.db.get(Host, host)
    gc.collect()
    memory.give_back()


@message("Diagnostics.gc_stats")
def gc_stats(call: Call, host: str) -> dict[str, str]:
    """The daemon's memory: sizes in words, and what its collector has done."""
    call.db.get(Host, host)
    young, *_, old = gc.get_stats()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {
        "minor_collections": young["collections"],
        "major_collections": old["collections"],
        "collected": sum(each["collected"] for each in gc.get_stats()),
        "uncollectable": sum(each["uncollectable"] for each in gc.get_stats()),
        "live_blocks": sys.getallocatedblocks(),
        "frozen_objects": gc.get_freeze_count(),
        "heap_words": _resident() // WORD,
        "top_heap_words": peak // WORD,
    }
    return {name: str(value) for name, value in found.items()}


def _resident() -> int:
    """Bytes of memory that the daemon has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@message("Diagnostics.db_stats")
def db_stats(call: Call) -> dict[str, str]:
    """How often something was written to disk, and the seconds that one write took."""
    journal = call.db.journal
    if journal is None or not journal.writes.count:
        return {"n": "0", "avgtime": "0.000000", "min": "0.000000", "max": "0.000000"}
    writes = journal.writes
    average = writes.total / writes.count
    found = {"avgtime": average, "min": writes.least, "max": writes.most}
    return {"n": str(writes.count)} | {name: f"{seconds:f}" for name, seconds in found.items()}


@message("Diagnostics.network_stats")
def network_stats(call: Call, host: str, params: dict[str, str]) -> tuple[tuple[str, ...], ...]:
    """For each door: its method and path, requests, those that ended their connection, and framed ones (none).

    `params` may ask for one `method`, one `uri`, and for some of the columns: `params`, commas between them.
    """
    call.db.get(Host, host)
    wanted = params.get("params", "method,uri,requests,connections,framed").split(",")
    rows = []
    for (method, uri), tally in sorted(call.machine.requests.items()):
        named = {"method": method, "uri": uri}
        if any(params.get(key, value).lower() != value.lower() for key, value in named.items()):
            continue
        row = named | {"requests": str(tally[0]), "connections": str(tally[1]), "framed": "0"}
        rows.append(tuple(value for name, value in row.items() if name in wanted))
    return tuple(rows)
