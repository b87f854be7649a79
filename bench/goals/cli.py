"""G15: the command line. The floor is a Python that starts, with nothing of the user's or the site's, and ends."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.client import Client
from bench.process import Child
from bench.report import Row
from bench.run import Run, best, seconds
from kronos import xe

COMMAND = Path(xe.__file__).with_name("xe")


def measure(run: Run) -> list[Row]:
    directory = run.directory / "cli"
    directory.mkdir()
    count = run.scaled(1000)
    with Child("bench.server", directory=str(directory), vms=count) as server:
        client = Client(server.ready["port"])
        uuid = client.call("VM.get_uuid", server.ready["session"], server.ready["vm"])
        client.close()
        environment = {**os.environ, "XAPI_SOCKET": server.ready["socket"]}
        get = [str(COMMAND), "vm-param-get", f"uuid={uuid}", "param-name=power-state"]
        assert _output(get, environment) == "halted\n", _output(get, environment)
        listing = [str(COMMAND), "vm-list"]
        assert _output(listing, environment).count("uuid ( RO)") == count
        calls = {
            "floor": ["/usr/bin/python3", "-I", "-S", "-c", "pass"],
            "get": get,
            "list": listing,
        }
        found = best({name: _timer(argv, environment) for name, argv in calls.items()}, run.rounds * 4)
    return [
        Row("G15", "xe vm-param-get of one field, Unix socket", found["get"] * 1e3, "ms", found["floor"] * 1e3,
            "python3 -I -S -c pass", 1.5),
        Row("G15", f"xe vm-list of {count} VMs", found["list"] * 1e3, "ms", limit=100),
    ]  # fmt: skip


def _output(argv: Sequence[str], environment: dict[str, str]) -> str:
    return subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def _timer(argv: Sequence[str], environment: dict[str, str]):  # type: ignore[no-untyped-def]
    return lambda: seconds(
        lambda: subprocess.run(argv, env=environment, stdout=subprocess.DEVNULL, check=True)
    )
