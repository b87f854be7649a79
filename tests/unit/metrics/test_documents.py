"""The forms in which clients get metrics."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from xml.etree import ElementTree

import pytest

from kronos.metrics import documents
from kronos.metrics.archive import NAN, STEP, Archive, Column
from kronos.metrics.documents import Export

BEGIN = 1_800_000_000
EXPORT = Export(
    BEGIN + 5,
    5,
    BEGIN + 10,
    ["AVERAGE:vm:u:cpu0", "AVERAGE:vm:u:a<b"],
    [(BEGIN + 10, [0.5, NAN]), (BEGIN + 5, [0.0, 1e20])],
)


@pytest.fixture(params=[False, True])
def archive(request) -> Archive:
    made = Archive([Column("cpu0", "DERIVE", 0.0, 1.0), Column("memory")], extremes=request.param)
    for number in range(30):
        made.update(BEGIN + number * STEP, [number / 30, NAN if number % 7 == 3 else 2.0**36])
    return made


def test_an_xport_as_json_has_its_values_as_text():
    assert json.loads(documents.xport_json(EXPORT)) == {
        "meta": {
            "start": BEGIN + 5,
            "step": 5,
            "end": BEGIN + 10,
            "rows": 2,
            "columns": 2,
            "legend": ["AVERAGE:vm:u:cpu0", "AVERAGE:vm:u:a<b"],
        },
        "data": [
            {"t": BEGIN + 10, "values": ["0.5", "NaN"]},
            {"t": BEGIN + 5, "values": ["0.0", "1e+20"]},
        ],
    }


def test_an_xport_as_xml_has_the_same():
    root = ElementTree.fromstring(documents.xport_xml(EXPORT))
    assert {child.tag: child.text for child in root.find("meta") if len(child) == 0} == {
        "start": str(BEGIN + 5),
        "step": "5",
        "end": str(BEGIN + 10),
        "rows": "2",
        "columns": "2",
    }
    assert [entry.text for entry in root.iterfind("meta/legend/entry")] == list(EXPORT.legend)
    assert [[child.text for child in row] for row in root.iterfind("data/row")] == [
        [str(BEGIN + 10), "0.5", "NaN"],
        [str(BEGIN + 5), "0.0", "1e+20"],
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (1.0, "1"),
        (0, "0.0"),
        (-0.0, "0.0"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (NAN, "NaN"),
    ],
)
def test_numbers_are_written_for_every_reader(value, text):
    assert documents.number(value) == text


def test_a_dump_as_json_says_what_the_one_as_xml_says(archive):
    said = json.loads(documents.dump_json(archive))
    root = ElementTree.fromstring(documents.dump_xml(archive))
    assert said["lastupdate"] == root.findtext("lastupdate") == str(archive.last)
    assert [each["name"] for each in said["ds"]] == [each.text for each in root.iterfind("ds/name")]
    rings = list(root.iterfind("rra"))
    assert [(each["cf"], each["pdp_per_row"]) for each in said["rra"]] == [
        (ring.findtext("cf"), int(ring.findtext("pdp_per_row") or 0)) for ring in rings
    ]
    for one, other in zip(said["rra"], rings, strict=True):
        assert one["database"] == [[v.text for v in row] for row in other.iterfind("database/row")]


def test_rrdtool_goes_on_where_a_dump_ends(archive, tmp_path):
    """What it makes of the next values of that minute is what the archive makes of them."""
    assert shutil.which("rrdtool"), "rrdtool is not there: packages-test.apt"
    (tmp_path / "dump.xml").write_bytes(documents.dump_xml(archive).replace(b"DERIVE", b"GAUGE"))
    restored = tmp_path / "restored.rrd"
    subprocess.run(["rrdtool", "restore", tmp_path / "dump.xml", restored], check=True)
    last = archive.last
    for number in range(1, 25):
        subprocess.run(["rrdtool", "update", restored, f"{last + number * STEP}:0.25:7"], check=True)
        archive.update(last + number * STEP, [0.25, 7.0])
    for step, level in ((5, archive.levels[0]), (60, archive.levels[1])):
        end = archive.last // step * step
        fetched = subprocess.run(
            [
                "rrdtool",
                "fetch",
                restored,
                "AVERAGE",
                "-r",
                str(step),
                "-s",
                str(end - step),
                "-e",
                str(end - step),
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        values = next(line.split()[1:] for line in fetched.splitlines() if line.startswith(f"{end}:"))
        assert [float(each) for each in values] == pytest.approx(list(level.rings[0].row(0)), nan_ok=True)
