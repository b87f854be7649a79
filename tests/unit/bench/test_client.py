"""The benchmarks' clients: what they send, and how they read what wrk says."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import xmlrpc.client

import pytest
from bench import client
from bench.client import Client, Load, json_call, parse_wrk, wrk, xml_call

OUTPUT = """\
Running 1s test @ http://127.0.0.1:1
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.52ms    2.12ms  25.03ms   97.40%
    Req/Sec    10.81k     1.17k   12.02k    80.00%
  Latency Distribution
     50%    1.26ms
     75%    1.51ms
     90%  876.00us
     99%    1.20s
  10752 requests in 1.00s, 3.20MB read
Requests/sec:  10752.25
Transfer/sec:      3.20MB
"""


def test_what_wrk_says_is_read_in_microseconds():
    assert parse_wrk(OUTPUT) == Load(10752.25, 1260.0, 1.2e6)


@pytest.mark.parametrize(
    "output",
    [
        OUTPUT + "  Non-2xx or 3xx responses: 12\n",
        OUTPUT + "  Socket errors: connect 0, read 3, write 0, timeout 0\n",
        "unable to connect to 127.0.0.1:1 Connection refused",
    ],
)
def test_a_load_that_failed_is_no_measurement(output):
    with pytest.raises(ValueError, match="wrk"):
        parse_wrk(output)


def test_calls_are_those_that_other_clients_send():
    assert xmlrpc.client.loads(xml_call("VM.set_x", "a & b", "<c>")) == (("a & b", "<c>"), "VM.set_x")
    sent = json.loads(json_call("VM.get", "s", ["vm"], 1.5))
    assert (sent["method"], sent["params"]) == ("VM.get", ["s", ["vm"], 1.5])


@pytest.fixture
def server():
    """Answers each request with a number and what it was sent, in pieces."""
    listening = socket.create_server(("127.0.0.1", 0))
    threads = []
    bodies: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        arrived = b""
        with connection:
            while data := connection.recv(65536):
                arrived += data
                while b"\r\n\r\n" in arrived:
                    head, _, rest = arrived.partition(b"\r\n\r\n")
                    length = client.content_length(head)
                    if len(rest) < length:
                        break
                    bodies.append(rest[:length])
                    arrived = rest[length:]
                    reply = rest[:length] * server_repeats[0]
                    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(reply), reply)
                    connection.sendall(whole[:20])
                    connection.sendall(whole[20:])

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
            threads[-1].start()

    server_repeats = [1]
    threading.Thread(target=accept, daemon=True).start()
    yield listening.getsockname()[1], bodies, server_repeats
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def test_replies_are_read_whole_however_large(server):
    port, _, repeats = server
    keeping = Client(port)
    assert bytes(keeping.post("/", b"ab")) == b"ab"
    repeats[0] = 1_500_000
    assert len(keeping.post("/", b"ab")) == 3_000_000
    repeats[0] = 1
    assert bytes(keeping.post("/", b"cd")) == b"cd"
    keeping.close()


@pytest.mark.skipif(
    shutil.which("wrk") is None or shutil.which("taskset") is None, reason="needs wrk, taskset"
)
def test_wrk_sends_the_bytes_it_is_given_with_a_number_that_grows(server):
    port, bodies, _ = server
    found = wrk(port, "/", b'<a "quoted" \\ \n\x7f NUMBER>', 1, 1, b"NUMBER")
    assert found.rate > 10
    assert bodies[:3] == [b'<a "quoted" \\ \n\x7f %d>' % n for n in (2, 3, 4)]  # wrk keeps the first


def test_a_server_that_hangs_up_is_told():
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=lambda: listening.accept()[0].close(), daemon=True).start()
    with pytest.raises(ConnectionError):
        Client(listening.getsockname()[1]).post("/", b"")
    listening.close()


def test_the_help_names_every_goal(capsys):
    from bench.__main__ import GOALS, parse

    with pytest.raises(SystemExit):
        parse(["--help"])
    shown = capsys.readouterr().out
    assert all(goal in shown for goal in GOALS)
    assert parse(["g1", "IDLE"]).goals == ["G1", "IDLE"]
    with pytest.raises(SystemExit):
        parse(["G999"])


def test_every_goal_has_a_module_that_measures_it():
    import importlib

    from bench.__main__ import GOALS

    for name in GOALS.values():
        assert callable(importlib.import_module(f"bench.goals.{name}").measure)


def test_a_child_answers_and_its_failures_are_raised(tmp_path):
    from bench.process import Child

    with Child("bench.floors", kind="echo") as child:
        keeping = Client(child.ready["port"])
        assert bytes(keeping.post("/", b"x")) == b"<value>Halted</value>"
        keeping.close()
        with pytest.raises(RuntimeError, match="KeyError"):
            child.ask("fly")
    assert subprocess.run(["kill", "-0", str(child.pid)], stderr=subprocess.DEVNULL, check=False).returncode
