"""SIGTERM: the first one ends the daemon within seconds, whatever goes on in it; guests run on."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from harness.client import Client, NoAnswer
from harness.daemon import Daemon, wait_until
from harness.guests import tiny_vm, vm_record
from kronos.daemon import LAST_WORD
from kronos.datamodel.errors import Failure
from kronos.server.http import GRACE

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
LIMIT = GRACE + LAST_WORD + 10.0
"""Seconds that an end may take: what the daemon gives itself, and what a busy machine adds."""
AT_ONCE = GRACE - 0.5
"""Less than it takes to wait for somebody."""


@pytest.fixture
def running(daemon: Daemon) -> Iterator[Daemon]:
    """The shared daemon, started again after each test that ended it."""
    yield daemon
    if daemon.process is None:
        daemon.start()


def stop(daemon: Daemon, number: signal.Signals = signal.SIGTERM) -> float:
    """One signal, a clean end; the seconds that it took."""
    assert daemon.process is not None
    began = time.monotonic()
    daemon.process.send_signal(number)
    try:
        status = daemon.process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        daemon.process.send_signal(signal.SIGABRT)  # its threads are in the log then
        daemon.process.wait(60)
        daemon.process = None
        raise AssertionError(f"it runs on {LIMIT} s after {number.name}") from None
    daemon.process = None
    taken = time.monotonic() - began
    print(f"ended {taken:.2f} s after {number.name}")
    assert status == 0
    assert not daemon.socket.exists()
    return taken


class Caller:
    """A call on a thread of its own, by a client of its own."""

    def __init__(self, daemon: Daemon, method: str, *args: object) -> None:
        self.outcome: object = None
        self.asked = threading.Event()
        self._client = daemon.client()
        self._hear_of_request(self._client.connection)
        self._thread = threading.Thread(target=self._call, args=(method, *args), daemon=True)
        self._thread.start()

    def _hear_of_request(self, connection: http.client.HTTPConnection) -> None:
        answer = connection.getresponse

        def getresponse() -> http.client.HTTPResponse:
            self.asked.set()
            return answer()

        connection.getresponse = getresponse  # type: ignore[method-assign]

    def _call(self, method: str, *args: object) -> None:
        try:
            self.outcome = self._client(method, *args)
        except (Failure, NoAnswer) as error:
            self.outcome = error

    def wait(self) -> object:
        self._thread.join(60)
        assert not self._thread.is_alive(), "no answer"
        return self.outcome


def busy_with(client: Client, vm: str, operation: str) -> None:
    wait_until(lambda: operation in client("VM.get_current_operations", vm).values(), 60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_that_idles_ends_at_once(running: Daemon, number: signal.Signals) -> None:
    keeps_its_connection = running.client()
    half_sent = socket.socket(socket.AF_UNIX)
    half_sent.connect(str(running.socket))
    half_sent.sendall(b"POST /jsonrpc HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    assert stop(running, number) < AT_ONCE
    assert half_sent.recv(1) == b""
    half_sent.close()
    keeps_its_connection.close()


def test_a_daemon_that_still_starts_ends_too(running: Daemon) -> None:
    stop(running)
    for pause in (0.2, 0.4, 0.6):
        options = [f"--set={name}={str(value).lower()}" for name, value in running.settings.items()]
        with running.log.open("ab") as log:
            running.process = subprocess.Popen(
                running.host.command(sys.executable, "-m", "kronos.daemon", *options), stdout=log, stderr=log
            )
        time.sleep(pause)
        began = time.monotonic()
        running.process.terminate()
        # One that had no time to arrange for it dies of the signal, which is as good.
        assert running.process.wait(LIMIT) in (0, -signal.SIGTERM)
        running.process = None
        print(f"ended {time.monotonic() - began:.2f} s after a SIGTERM that came {pause} s after its start")


def test_those_who_wait_for_events_get_their_token_back(running: Daemon) -> None:
    client = running.client()
    token = client("event.from", ["vm"], "", 0.0)["token"]
    waiting = [Caller(running, "event.from", ["vm"], token, 60.0) for _ in range(20)]
    assert all(each.asked.wait(30) for each in waiting)
    old = running.client()
    old("event.register", ["vm"])
    time.sleep(0.3)  # what was asked before has been read by now; its callers wait a moment later
    assert stop(running) < AT_ONCE
    for each in waiting:
        told = each.wait()
        assert isinstance(told, dict), told
        assert told["events"] == []
    running.start()
    again = running.client()
    assert again("event.from", ["vm"], told["token"], 0.0)["token"] > told["token"]


def test_it_ends_after_and_during_the_start_of_a_guest(running: Daemon) -> None:
    client = running.client()
    vm, other = (client("VM.create", vm_record(running.state, name)) for name in ("one", "other"))
    client("VM.start", vm, False, False)
    starting = Caller(running, "VM.start", other, False, False)
    busy_with(client, other, "start")
    stop(running)
    outcome = starting.wait()
    running.start()
    client = running.client()
    assert client("VM.get_power_state", vm) == "Running"
    if outcome == "":  # what was answered holds
        assert client("VM.get_power_state", other) == "Running"
    for each in (vm, other):
        try:
            client("VM.hard_shutdown", each)
        except Failure as failure:
            assert failure.code == "VM_BAD_POWER_STATE"
        client("VM.destroy", each)


@pytest.mark.parametrize("way", ["", "Async."])
def test_it_ends_while_a_call_waits_for_a_guest_that_does_not_listen(
    running: Daemon, client: Client, way: str
) -> None:
    """A kernel that has just begun to boot hears no power button: its clean shutdown could take twenty minutes."""
    vm = tiny_vm(client, "deaf", network=False, start=True)
    waiting = Caller(running, f"{way}VM.clean_shutdown", vm)
    busy_with(client, vm, "clean_shutdown")
    stop(running)
    outcome = waiting.wait()
    if not way:
        assert isinstance(outcome, Failure) and outcome.code == "TASK_CANCELLED", outcome
    running.start()
    client = running.client()
    assert client("VM.get_current_operations", vm) == {}
    client("VM.hard_shutdown", vm)
    client("VM.destroy", vm)
