"""QEMU's machine protocol against a QEMU that says what a test tells it to."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kronos.datamodel.errors import Failure
from kronos.hypervisor import qmp
from kronos.hypervisor.qmp import Monitor, Monitors, Refusal

GREETING = {"QMP": {"version": {}, "capabilities": []}}
Reply = Callable[[dict[str, Any]], list[Any]]


class FakeQEMU:
    """A monitor at `path`, one client at a time. `reply` makes messages of a command, or raw bytes."""

    def __init__(self, path: Path, reply: Reply) -> None:
        self.path = path
        self.greeting: Any = GREETING
        self.clients = 0
        self._reply = reply
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.clients += 1
            with client:
                self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        try:
            self._send(client, self.greeting)
            for line in client.makefile():
                command = json.loads(line)
                known = command["execute"] == "qmp_capabilities"
                for message in [{"return": {}}] if known else self._reply(command):
                    if message is None:
                        return
                    answers = isinstance(message, dict) and "event" not in message
                    self._send(client, message | {"id": command["id"]} if answers else message)
        except OSError:
            pass

    def _send(self, client: socket.socket, message: Any) -> None:
        client.sendall(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\r\n")

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kq-") as made:
        yield Path(made) / "monitor"


def test_a_command_is_answered_and_events_come_beside_it(place: Path) -> None:
    event = {"event": "BLOCK_JOB_READY", "data": {"device": "j"}}
    FakeQEMU(place, lambda command: [event, {"return": command["arguments"]["a"]}])

    with Monitor(place) as monitor, monitor.events() as events:
        assert monitor.execute("echo", {"a": 5}) == 5
        assert events.next(5) == event
        assert events.next(0.01) is None


def test_a_refusal_has_qemus_words(place: Path) -> None:
    FakeQEMU(place, lambda command: [{"error": {"class": "GenericError", "desc": "Node is busy"}}])

    with Monitor(place) as monitor, pytest.raises(Refusal) as caught:
        monitor.execute("blockdev-del")

    assert (caught.value.code, caught.value.params) == ("INTERNAL_ERROR", ("QEMU: Node is busy",))
    assert caught.value.kind == "GenericError"


def test_several_threads_get_their_own_answers(place: Path) -> None:
    FakeQEMU(place, lambda command: [{"return": command["arguments"]["n"]}])
    answers: dict[int, int] = {}

    with Monitor(place) as monitor:
        threads = [
            threading.Thread(target=lambda n=n: answers.__setitem__(n, monitor.execute("x", {"n": n})))
            for n in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert answers == {n: n for n in range(20)}


def test_a_qemu_that_goes_is_told_to_those_who_wait(place: Path) -> None:
    FakeQEMU(place, lambda command: [None])

    with Monitor(place) as monitor, monitor.events() as events:
        with pytest.raises(Failure, match="connection was lost"):
            monitor.execute("x")
        with pytest.raises(Failure, match="connection was lost"):
            events.next(5)
        assert monitor.lost


def test_an_answer_that_does_not_come_is_not_waited_for_for_ever(place: Path) -> None:
    FakeQEMU(place, lambda command: [])

    with Monitor(place) as monitor, pytest.raises(Failure, match="no answer to x"):
        monitor.execute("x", timeout=0.05)


@pytest.mark.parametrize("said", [b"nonsense\n", b"[]\n", b'{"event":' + b"[" * 100_000 + b"\n"])
def test_what_is_no_answer_ends_the_connection(place: Path, said: bytes) -> None:
    FakeQEMU(place, lambda command: [said])

    with Monitor(place) as monitor, pytest.raises(Failure, match="connection was lost"):
        monitor.execute("x")


def test_an_endless_message_is_not_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "LONGEST_MESSAGE", 1 << 16)
    FakeQEMU(place, lambda command: [b"x" * (1 << 20)])

    with Monitor(place) as monitor, pytest.raises(Failure, match="connection was lost"):
        monitor.execute("x")


@pytest.mark.parametrize("greeting", [b"hello\n", b"{}\n"])
def test_what_is_no_monitor_is_refused(place: Path, greeting: bytes) -> None:
    FakeQEMU(place, lambda command: []).greeting = greeting

    with pytest.raises(Failure, match="no monitor"):
        Monitor(place)


def test_no_monitor_is_told_as_such(place: Path) -> None:
    with pytest.raises(Failure, match="no monitor at"):
        Monitor(place)


def test_a_monitor_that_another_has_is_busy(place: Path) -> None:
    FakeQEMU(place, lambda command: [{"return": {}}])

    with Monitor(place), pytest.raises(Failure, match="is busy"):
        Monitor(place, timeout=0.05)


def test_those_who_use_a_monitor_at_the_same_time_share_it_and_the_last_leaves_it(place: Path) -> None:
    qemu = FakeQEMU(place, lambda command: [{"return": {}}])
    monitors = Monitors(lambda name: place)

    with monitors.of("vm") as one, monitors.of("vm") as other:
        assert one is other
    with Monitor(place):  # nobody has it
        pass

    assert qemu.clients == 2


def test_a_monitor_whose_qemu_has_gone_is_opened_anew(place: Path) -> None:
    qemu = FakeQEMU(place, lambda command: [None] if qemu.clients == 1 else [{"return": 7}])
    monitors = Monitors(lambda name: place)

    with monitors.of("vm") as stale:
        with pytest.raises(Failure):
            stale.execute("x")
        with monitors.of("vm") as fresh:
            assert fresh.execute("x") == 7
