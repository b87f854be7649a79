"""Metrics of a real guest, by the doors and calls that clients use."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from harness import guests, transfer
from harness.console import Shell
from harness.daemon import Daemon, wait_until
from kronos.datamodel.errors import Failure

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
PROMPT = "tiny login:"


class Measured:
    """The tiny guest with a disk, at its prompt, and a client that reads as Xen Orchestra does."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.client = daemon.client(timeout=120)
        self.vm = guests.tiny_vm(self.client, "measured")
        guests.add_disk(self.client, self.vm, guests.new_disk(self.client, "d", 16 << 20), "1")
        self.uuid = str(self.client("VM.get_uuid", self.vm))
        self.host = self.client("host.get_all")[0]
        self.host_uuid = str(self.client("host.get_uuid", self.host))
        self.client("VM.start", self.vm, False, False)
        log = daemon.directory / "run" / self.uuid / "serial.log"
        wait_until(lambda: PROMPT in log.read_text(errors="replace"), 90, "no prompt")

    def updates(self, **query: object) -> dict[str, Any]:
        asked = {
            "cf": "AVERAGE",
            "host": "true",
            "interval": 5,
            "json": "true",
            "start": int(time.time()) - 300,
        }
        return dict(
            json.loads(transfer.get(self.daemon, self.client, "/rrd_updates", "https", **asked | query))
        )

    def column(self, name: str) -> list[float]:
        """What is known of one source of the guest, newest first."""
        found = self.updates()
        entry = f"AVERAGE:vm:{self.uuid}:{name}"
        if entry not in found["meta"]["legend"]:
            return []
        index = found["meta"]["legend"].index(entry)
        values = [float(row["values"][index]) for row in found["data"]]
        return [value for value in values if value == value]

    def rows(self, start: int) -> dict[int, list[str]]:
        """The guest's values by their time."""
        found = self.updates(host="false", vm_uuid=self.uuid, start=start)
        return {row["t"]: row["values"] for row in found["data"]}

    def source(self, name: str) -> float:
        return float(self.client("VM.query_data_source", self.vm, name))


@pytest.fixture(scope="module")
def measured(daemon: Daemon) -> Iterator[Measured]:
    made = Measured(daemon)
    yield made
    made.client.close()


def test_what_a_guest_does_shows_in_the_newest_rows(measured: Measured) -> None:
    shell = Shell(measured.daemon, measured.client.session, measured.vm).log_in()
    shell.run(
        "dd if=/dev/zero of=/dev/vdb bs=1M count=8 conv=fsync 2>/dev/null;"
        " i=0; while [ $i -lt 9999 ]; do i=$((i+1)); done"
    )
    shell.close()
    wait_until(lambda: max(measured.column("vbd_xvdb_write"), default=0) > 0, 30, "its writes do not show")
    wait_until(
        lambda: sum(measured.column("vbd_xvdb_write")) * 5
        > 6 << 20,  # readings are five seconds apart and a little
        30,
        "not all of its writes show",
    )
    assert 0 < max(measured.column("cpu0")) <= 1
    assert measured.column("memory")[0] == int(
        measured.client("VM_metrics.get_memory_actual", measured.client("VM.get_metrics", measured.vm))
    )
    assert max(measured.column("vif_0_tx")) > 0


def test_rows_come_newest_first_at_whole_steps_with_a_legend(measured: Measured) -> None:
    wait_until(lambda: len(measured.column("cpu0")) > 1, 30, "no rows")
    found = measured.updates()
    meta, data = found["meta"], found["data"]
    assert meta["step"] == 5
    assert (meta["rows"], meta["columns"]) == (len(data), len(meta["legend"]))
    times = [row["t"] for row in data]
    assert times == sorted(times, reverse=True)
    assert times[0] == meta["end"]
    assert all(time % 5 == 0 for time in times)
    assert {
        f"AVERAGE:host:{measured.host_uuid}:{name}" for name in ("cpu0", "loadavg", "memory_free_kib")
    } <= set(meta["legend"])
    assert {len(row["values"]) for row in data} == {meta["columns"]}


def test_a_coarser_interval_is_that_of_a_coarser_archive(measured: Measured) -> None:
    for interval, reach in ((60, 7000), (3600, 600_000), (86400, 30_000_000)):
        assert measured.updates(interval=interval, start=int(time.time()) - reach)["meta"]["step"] == interval


def test_a_client_that_asks_for_no_json_gets_xml(measured: Measured) -> None:
    link = transfer.connection(measured.daemon)
    path = transfer.path_of(measured.client, "/rrd_updates", start=-60, host="true")
    link.request("GET", path, headers={"Accept": "text/html, image/gif, *; q=.2, */*; q=.2"})
    response = link.getresponse()
    assert response.getheader("Content-Type") == "text/xml"
    root = ElementTree.fromstring(response.read())
    link.close()
    assert root.tag == "xport"
    entries = [entry.text for entry in root.iterfind("meta/legend/entry")]
    assert len(entries) == int(root.findtext("meta/columns") or 0)
    assert len(root.findall("data/row")[0].findall("v")) == len(entries)


def test_a_page_of_another_host_is_told_once_that_it_may_read(measured: Measured) -> None:
    link = transfer.connection(measured.daemon)
    link.request("GET", transfer.path_of(measured.client, "/host_rrd"), headers={"Origin": "https://page"})
    response = link.getresponse()
    allowed = response.headers.get_all("Access-Control-Allow-Origin")
    link.close()
    assert allowed == ["*"], "a browser refuses two"


@pytest.mark.parametrize("path", ["/rrd_updates?start=0", "/host_rrd", "/vm_rrd?uuid=0", "/sr_rrd?uuid=0"])
def test_nobody_reads_metrics_without_a_session(measured: Measured, path: str) -> None:
    assert status(measured.daemon, path) == 401


def status(daemon: Daemon, path: str) -> int:
    link: http.client.HTTPConnection = transfer.connection(daemon)
    link.request("GET", path)
    answer = link.getresponse().status
    link.close()
    return answer


def test_what_is_missing_in_a_request_is_told(measured: Measured) -> None:
    session = f"session_id={measured.client.session}"
    assert status(measured.daemon, f"/rrd_updates?{session}") == 400
    assert status(measured.daemon, f"/vm_rrd?{session}") == 400
    assert status(measured.daemon, f"/vm_rrd?uuid=00000000-0000-0000-0000-000000000000&{session}") == 404


def test_xe_shows_and_asks_for_data_sources(measured: Measured) -> None:
    def xe(*words: str) -> str:
        return transfer.xe(measured.daemon, *words)

    def listed(command: str, *words: str) -> list[str]:
        return re.findall(r"name_label *: (\w+)", xe(command, *words))

    assert "cpu0" in listed("vm-data-source-list", f"uuid={measured.uuid}")
    assert float(xe("vm-data-source-query", f"uuid={measured.uuid}", "data-source=memory")) > 0
    assert "loadavg" in listed("host-data-source-list")
    assert float(xe("host-data-source-query", "data-source=memory_total_kib")) > 0
    sr = measured.client("SR.get_uuid", guests.default_sr(measured.client))
    assert "physical_size" in listed("sr-data-source-list", f"uuid={sr}")
    xe("vm-data-source-record", f"uuid={measured.uuid}", "data-source=vif_0_rx_errors")
    wait_until(lambda: measured.column("vif_0_rx_errors"), 30, "it is not recorded")
    xe("vm-data-source-forget", f"uuid={measured.uuid}", "data-source=vif_0_rx_errors")
    with pytest.raises(Failure):
        measured.source("vif_0_rx_errors")


def test_rrdtool_restores_a_dump(measured: Measured, tmp_path: Path) -> None:
    if shutil.which("rrdtool") is None:
        pytest.fail("rrdtool is not there: packages-test.apt")
    sr = measured.client("SR.get_uuid", guests.default_sr(measured.client))
    numbers = itertools.count()
    for door, uuid, source in (("/sr_rrd", sr, "physical_size"), ("/vm_rrd", measured.uuid, "memory")):
        dump = transfer.get(measured.daemon, measured.client, door, uuid=uuid).decode()
        # rrdtool takes no names longer than 19 letters, and some of XenAPI's are.
        dump = re.sub(r"<name>(\w{20,})</name>", r"<name>long\1</name>", dump)
        for name in re.findall(r"<name>(long\w+)", dump):
            dump = dump.replace(name, f"long{next(numbers)}")
        (tmp_path / "dump.xml").write_text(dump)
        subprocess.run(
            ["rrdtool", "restore", "-f", tmp_path / "dump.xml", tmp_path / "restored.rrd"], check=True
        )
        fetched = subprocess.run(
            ["rrdtool", "fetch", tmp_path / "restored.rrd", "AVERAGE", "-r", "5", "-s", "-60"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert source in fetched.splitlines()[0].split()
        assert any("nan" not in line for line in fetched.splitlines()[2:])


def test_archives_survive_a_kill_up_to_the_last_backup(measured: Measured) -> None:
    wait_until(lambda: len(measured.column("memory")) > 2, 30, "too little is known")
    start = int(time.time()) - 300
    before = measured.rows(start)
    measured.client("host.backup_rrds", measured.host, 0.0)
    measured.daemon.kill()
    measured.daemon.start()
    measured.client = measured.daemon.client(timeout=120)
    wait_until(lambda: bool(measured.column("memory")), 30, "nothing is measured after the start")
    after = measured.rows(start)
    assert before == {time: after.get(time) for time in before}


def test_a_halted_guest_s_archive_is_kept_and_goes_with_it(measured: Measured) -> None:
    measured.client("VM.hard_shutdown", measured.vm)
    wait_until(
        lambda: not measured.updates(host="false", vm_uuid=measured.uuid)["meta"]["legend"],
        30,
        "it is measured still",
    )
    dump = ElementTree.fromstring(
        transfer.get(measured.daemon, measured.client, "/vm_rrd", uuid=measured.uuid)
    )
    assert "cpu0" in [ds.findtext("name") for ds in dump.iterfind("ds")]
    measured.client("VM.destroy", measured.vm)
    session = f"session_id={measured.client.session}"
    assert status(measured.daemon, f"/vm_rrd?uuid={measured.uuid}&{session}") == 404
