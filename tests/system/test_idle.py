"""What a daemon costs while nothing happens: memory, processor time and threads, alone and with many who wait."""

from __future__ import annotations

import json
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.client import Client
from harness.daemon import Daemon, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

WATCHED = 5.0
"""Seconds of idling that are looked at."""
MB = 1_000_000


@pytest.fixture(scope="module")
def idle(new_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon with its templates, that was started a second time and has done what a start leaves for later."""
    with few_files():
        daemon = new_daemon().restart()
    templates = daemon.client()("VM.get_all_records").values()
    assert sum(each["is_default_template"] for each in templates) > 20
    wait_until(lambda: processor_seconds(daemon, 0.5) < 0.005, 90, "it does not come to rest")
    return daemon


@contextmanager
def few_files() -> Iterator[None]:
    """The limit on open files that services and logins have by custom, for what is started in the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))


def processor_seconds(daemon: Daemon, while_: float) -> float:
    """Processor time that all its threads use while nothing is asked for so many seconds."""

    def used() -> float:
        tasks = Path(f"/proc/{daemon.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    before = used()
    time.sleep(while_)
    return used() - before


def assert_little(daemon: Daemon, most: float) -> None:
    """It uses no more in WATCHED seconds: what it does all the time shows in each of some stretches, what a busy
    machine charges it for does not."""
    used = []
    for _ in range(4):
        used.append(processor_seconds(daemon, WATCHED))
        print(f"{used[-1] * 1000:.1f} ms of processor time in {WATCHED:.0f} s")
        if used[-1] < most:
            return
    raise AssertionError(f"{used} s of processor time")


def threads(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.pid}/task").iterdir()))


def readable(connections: list[socket.socket], seconds: float) -> bool:
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


@contextmanager
def waiting(daemon: Daemon, count: int) -> Iterator[list[socket.socket]]:
    """So many clients, each with a connection of its own, that wait in event.from for a change of a VM."""
    client = daemon.client()
    token = client("event.from", ["vm"], "", 0.0)["token"]
    params = [client.session, ["vm"], token, 60.0]
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "event.from", "params": params})
    request = f"POST /jsonrpc HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    connections: list[socket.socket] = []
    try:
        for _ in range(count):
            connection = socket.socket(socket.AF_UNIX)
            connections.append(connection)
            connection.settimeout(60)
            connection.connect(str(daemon.socket))
            connection.sendall(request)
        assert not readable(connections, 0.5), "they do not wait"
        yield connections
    finally:
        for connection in connections:
            connection.close()
        client("session.logout")


def test_it_takes_little_memory(idle: Daemon) -> None:
    print(f"RSS {idle.resident() / MB:.1f} MB, PSS {idle.memory() / MB:.1f} MB, {threads(idle)} threads")
    assert idle.resident() < 80 * MB


def test_it_takes_no_processor_time(idle: Daemon) -> None:
    assert_little(idle, 0.010)  # a tick of the kernel's clock


def test_twenty_who_wait_take_no_processor_time_either(idle: Daemon) -> None:
    with waiting(idle, 20) as clients:
        assert_little(idle, 0.020)
        assert not readable(clients, 0)


def test_a_thousand_who_wait_take_no_threads_and_all_hear_of_a_change(idle: Daemon) -> None:
    client: Client = idle.client()
    vm = client("VM.get_by_name_label", "Kronos tiny guest")[0]
    description = client("VM.get_name_description", vm)
    before, memory = threads(idle), idle.resident()
    with waiting(idle, 1000) as clients:
        assert len(list(Path(f"/proc/{idle.pid}/fd").iterdir())) > 1000
        assert threads(idle) <= before + 2  # one that works for a call may have come meanwhile
        print(f"{(idle.resident() - memory) / 1000 / 1000:.1f} kB of memory for each who waits")
        assert idle.resident() - memory < 60 * MB
        began = time.monotonic()
        client("VM.set_name_description", vm, "changed")
        for connection in clients:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        taken = time.monotonic() - began
        print(f"a thousand told of a change within {taken * 1000:.0f} ms")
        assert taken < 20
        assert threads(idle) <= before + 2
    client("VM.set_name_description", vm, description)
