"""Archives in the forms that clients read: rrdtool's dump and its xport, each as XML and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from kronos.metrics.archive import HEARTBEAT, STEP, Archive, Level, Ring

VERSION = "0003"


@dataclass(frozen=True, slots=True)
class Export:
    """Rows of several archives side by side, newest first: a time in seconds and a value for each entry of `legend`.
    `start` and `end` are times too, `step` the seconds between two rows."""

    start: int
    step: int
    end: int
    legend: Sequence[str]
    rows: Sequence[tuple[int, Sequence[float]]]


def number(value: float) -> str:
    """A value as text: 15 digits, and names that JavaScript's and C#'s readers know for what is no number."""
    if value == 0:
        return "0.0"
    if math.isfinite(value):
        return f"{value:.15g}"
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


# xport


def xport_json(export: Export) -> bytes:
    meta = {
        "start": export.start,
        "step": export.step,
        "end": export.end,
        "rows": len(export.rows),
        "columns": len(export.legend),
        "legend": list(export.legend),
    }
    rows = [{"t": time, "values": list(map(number, values))} for time, values in export.rows]
    return json.dumps({"meta": meta, "data": rows}, separators=(",", ":")).encode()


def xport_xml(export: Export) -> bytes:
    parts = [
        '<?xml version="1.0"?>\n<xport><meta>',
        f"<start>{export.start}</start><step>{export.step}</step><end>{export.end}</end>",
        f"<rows>{len(export.rows)}</rows><columns>{len(export.legend)}</columns><legend>",
        *(f"<entry>{escape(entry)}</entry>" for entry in export.legend),
        "</legend></meta><data>",
    ]
    for time, values in export.rows:
        parts += [f"<row><t>{time}</t>", *(f"<v>{number(value)}</v>" for value in values), "</row>"]
    parts.append("</data></xport>")
    return "".join(parts).encode()


# Dumps


def dump_xml(archive: Archive) -> bytes:
    """A whole archive as `rrdtool restore` takes it."""
    return "".join(_xml(archive)).encode()


def _xml(archive: Archive) -> Iterator[str]:
    yield '<?xml version="1.0"?>\n<rrd>'
    yield f"<version>{VERSION}</version><step>{STEP}</step><lastupdate>{archive.last}</lastupdate>"
    for column in archive.columns:
        yield f"<ds><name>{escape(column.name)}</name><type>{column.kind}</type>"
        yield f"<minimal_heartbeat>{HEARTBEAT}</minimal_heartbeat>"
        yield f"<min>{number(column.minimum)}</min><max>{number(column.maximum)}</max>"
        yield "<last_ds>U</last_ds><value>0.0</value><unknown_sec>0</unknown_sec></ds>"
    for level in archive.levels:
        for index, ring in enumerate(level.rings):
            yield f"<rra><cf>{ring.function}</cf><pdp_per_row>{level.steps}</pdp_per_row>"
            yield f"<params><xff>{number(level.tolerance)}</xff></params><cdp_prep>"
            for value, unknown in _pending(archive, level, index):
                yield "<ds><primary_value>0.0</primary_value><secondary_value>0.0</secondary_value>"
                yield f"<value>{number(value)}</value><unknown_datapoints>{unknown}</unknown_datapoints></ds>"
            yield "</cdp_prep><database>"
            for row in _rows(ring):
                yield f"<row>{''.join([f'<v>{number(value)}</v>' for value in row])}</row>"
            yield "</database></rra>"
    yield "</rrd>"


def dump_json(archive: Archive) -> bytes:
    """The same as JSON, numbers as text."""
    sources = [
        {
            "name": column.name,
            "type": column.kind,
            "minimal_heartbeat": number(HEARTBEAT),
            "min": number(column.minimum),
            "max": number(column.maximum),
            "last_ds": "U",
            "value": "0.0",
            "unknown_sec": "0.0",
            "last_updated": str(archive.last),
        }
        for column in archive.columns
    ]
    rings = [_ring(archive, level, index) for level in archive.levels for index in range(len(level.rings))]
    whole = {"version": VERSION, "step": str(STEP), "lastupdate": str(archive.last), "ds": sources}
    return json.dumps(whole | {"rra": rings}, separators=(",", ":")).encode()


def _ring(archive: Archive, level: Level, index: int) -> dict[str, Any]:
    ring = level.rings[index]
    pending = [
        {
            "primary_value": "0.0",
            "secondary_value": "0.0",
            "value": number(value),
            "unknown_datapoints": unknown,
        }
        for value, unknown in _pending(archive, level, index)
    ]
    return {
        "cf": ring.function,
        "pdp_per_row": level.steps,
        "params": {"xff": number(level.tolerance)},
        "cdp_prep": {"ds": pending},
        "database": [list(map(number, row)) for row in _rows(ring)],
    }


def _rows(ring: Ring) -> Iterator[Sequence[float]]:
    """Oldest first."""
    return (ring.row(age) for age in range(ring.rows - 1, -1, -1))


def _pending(archive: Archive, level: Level, index: int) -> Iterator[tuple[float, int]]:
    """Of each column what the row that is being made has so far, as rrdtool keeps it, and its unknown values."""
    totals, passed = archive.making(level), archive.last // STEP % level.steps
    for column in range(len(archive.columns)):
        known = totals.counts[column]
        if not known:
            value = math.nan if level.rings[index].function != "AVERAGE" else 0.0
        elif level.rings[index].function == "AVERAGE":
            value = totals.sums[column] / level.steps
        else:
            value = (totals.lows if level.rings[index].function == "MIN" else totals.highs)[column]
        yield value, max(0, passed - known)
