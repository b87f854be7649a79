"""The client of xenstored, against one of a hundred lines."""

from __future__ import annotations

import errno
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kronos.hypervisor import xenstore
from kronos.hypervisor.xenstore import Client, Tree

HEADER = struct.Struct("=IIII")


class Store:
    """xenstored: a tree, watches and transactions, over a unix socket. It may be stopped and started again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, bytes] = {"/": b""}
        self.permissions: dict[str, bytes] = {}
        self.watches: list[tuple[socket.socket, str, bytes]] = []
        self.connections: list[socket.socket] = []
        self.requests: list[int] = []
        self.conflicts = 0
        self.begun = 0
        self.silent = False
        self.hang_up_at = 0
        self.lock = threading.RLock()
        self.start()

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.fspath(self.path))
        self.listener.listen(5)
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def stop(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.path.unlink(missing_ok=True)
        self.hang_up()

    def hang_up(self) -> None:
        with self.lock:
            connections, self.connections, self.watches = self.connections, [], []
        for connection in connections:
            connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self.lock:
                self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            stream = connection.makefile("rb")
            while len(head := stream.read(16)) == 16:
                kind, number, transaction, length = HEADER.unpack(head)
                payload = stream.read(length)
                if self.silent:
                    continue
                if kind == self.hang_up_at:
                    self.hang_up_at = 0
                    self.hang_up()
                    return
                with self.lock:
                    self.requests.append(kind)
                    try:
                        answer = self._answer(connection, kind, payload, transaction)
                    except OSError as error:
                        kind, answer = xenstore.ERROR, errno.errorcode[error.errno or 0].encode() + b"\0"
                    connection.sendall(HEADER.pack(kind, number, transaction, len(answer)) + answer)
                    if kind == xenstore.WATCH:
                        self.fire(connection, *payload.split(b"\0")[:2])
        except (OSError, ValueError):
            pass

    def fire(self, connection: socket.socket, path: bytes, token: bytes) -> None:
        event = path + b"\0" + token + b"\0"
        connection.sendall(HEADER.pack(xenstore.WATCH_EVENT, 0, 0, len(event)) + event)

    def _changed(self, path: str) -> None:
        for connection, watched, token in self.watches:
            if path == watched or path.startswith(f"{watched}/"):
                self.fire(connection, path.encode(), token)

    def set(self, path: str, value: bytes = b"") -> None:
        """What a guest or another program would write."""
        with self.lock:
            parts = path.strip("/").split("/")
            for depth in range(1, len(parts) + 1):
                self.values.setdefault("/" + "/".join(parts[:depth]), b"")
            self.values[path] = value
            self._changed(path)

    def children(self, path: str) -> list[str]:
        inside = path.rstrip("/") + "/"
        return sorted(
            {p.removeprefix(inside).split("/")[0] for p in self.values if p.startswith(inside)} - {""}
        )

    def _answer(self, connection: socket.socket, kind: int, payload: bytes, transaction: int) -> bytes:
        first, _, rest = payload.partition(b"\0")
        path = first.decode()
        if kind == xenstore.WRITE:
            self.set(path, rest)
        elif kind == xenstore.MKDIR:
            if path not in self.values:
                self.set(path)
        elif kind == xenstore.WATCH:
            token = rest.rstrip(b"\0")
            if any(watch == (connection, path, token) for watch in self.watches):
                raise OSError(errno.EEXIST, "")
            self.watches.append((connection, path, token))
        elif kind == xenstore.UNWATCH:
            self.watches.remove((connection, path, rest.rstrip(b"\0")))
        elif kind == xenstore.TRANSACTION_START:
            self.begun += 1
            return str(self.begun).encode() + b"\0"
        elif kind == xenstore.TRANSACTION_END:
            if path == "T" and self.conflicts:
                self.conflicts -= 1
                raise OSError(errno.EAGAIN, "")
        elif kind == xenstore.GET_DOMAIN_PATH:
            return f"/local/domain/{path}".encode() + b"\0"
        else:
            return self._of_path(kind, path, rest)
        return b"OK\0"

    def _of_path(self, kind: int, path: str, rest: bytes) -> bytes:
        if path not in self.values:
            raise OSError(errno.ENOENT, "")
        if kind == xenstore.READ:
            return self.values[path]
        if kind == xenstore.RM:
            self.values = {p: v for p, v in self.values.items() if p != path and not p.startswith(f"{path}/")}
            self._changed(path)
            return b"OK\0"
        if kind == xenstore.SET_PERMS:
            self.permissions[path] = rest
            return b"OK\0"
        if kind == xenstore.GET_PERMS:
            return self.permissions.get(path, b"n0\0")
        names = b"".join(name.encode() + b"\0" for name in self.children(path))
        if kind == xenstore.DIRECTORY:
            if len(names) > 4096:
                raise OSError(errno.E2BIG, "")
            return names
        assert kind == xenstore.DIRECTORY_PART
        left = names[int(rest.rstrip(b"\0")) :]
        if len(left) < 4000:
            return b"7\0" + left + b"\0"
        return b"7\0" + left[: left.rindex(b"\0", 0, 4000) + 1]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "socket")
    yield made
    if made.path.exists():
        made.stop()


@pytest.fixture
def client(store: Store) -> Iterator[Client]:
    with xenstore.connected([store.path.parent / "absent", store.path]) as made:
        yield made


def eventually(reached: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (value := reached()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)
    return value


def test_what_is_written_is_read(client: Client) -> None:
    client.write("/tool/kronos", "yes")
    assert client.read("/tool/kronos") == "yes"
    client.write("/tool/bytes", b"\xff")
    assert client.read("/tool/bytes") == "\ufffd"
    assert client.directory("/tool") == ["bytes", "kronos"]


def test_what_is_not_there_is_said_as_of_a_file(client: Client) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        client.read("/nothing")
    assert missing.value.filename == "/nothing"
    assert client.find("/nothing") is None
    client.remove("/nothing")


def test_paths_come_and_go_with_all_below(client: Client) -> None:
    client.mkdir("/a")
    client.write("/a/b/c", "1")
    client.remove("/a/b")
    assert client.read("/a") == ""
    assert client.directory("/a") == []


def test_permissions_and_the_path_of_a_domain(client: Client) -> None:
    client.mkdir("/vm-data")
    client.set_permissions("/vm-data", ["n0", "r7"])
    assert client.permissions("/vm-data") == ["n0", "r7"]
    assert client.domain_path(7) == "/local/domain/7"


def test_a_directory_that_no_message_holds_is_read_in_parts(store: Store, client: Client) -> None:
    names = [f"a-rather-long-name-{number:04}" for number in range(1000)]
    for name in names:
        store.set(f"/many/{name}")
    assert client.directory("/many") == names


def test_a_subtree_is_read_at_once_and_bounded(store: Store, client: Client) -> None:
    store.set("/local/domain/3/data/os_name", b"Tiny")
    store.set("/local/domain/3/attr/vif/0/ipv4/0", b"10.0.0.1")
    store.set("/local/domain/3/private", b"x")
    found = client.below("/local/domain/3", ("data", "attr", "absent"))
    assert found["data/os_name"] == "Tiny"
    assert found["attr/vif/0/ipv4/0"] == "10.0.0.1"
    assert "private" not in found
    assert len(client.below("/local/domain/3", most=3)) < 3


def test_a_message_that_is_too_long_is_not_sent(store: Store, client: Client) -> None:
    with pytest.raises(OSError, match="longer") as error:
        client.write("/a", "x" * 4096)
    assert error.value.errno == errno.E2BIG
    with pytest.raises(ValueError, match="zero"):
        client.read("/a\0b")
    assert store.requests == []


def test_a_watch_fires_when_it_is_set_and_for_all_below(store: Store, client: Client) -> None:
    told: queue.Queue[str] = queue.Queue()
    unwatch = client.watch("/local/domain", told.put)
    assert told.get(timeout=60) == "/local/domain"
    store.set("/local/domain/3/data/updated", b"1")
    assert told.get(timeout=60) == "/local/domain/3/data/updated"
    unwatch()
    assert store.watches == []
    store.set("/local/domain/3/data/updated", b"2")
    assert client.read("/local/domain/3/data/updated") == "2"
    assert told.empty()


def test_a_callback_may_make_calls_and_one_that_fails_costs_no_other(store: Store, client: Client) -> None:
    read: queue.Queue[str | None] = queue.Queue()
    client.watch("/a", lambda path: 1 // 0)
    client.watch("/a", lambda path: read.put(client.find(path)))
    assert read.get(timeout=60) is None
    store.set("/a", b"1")
    assert read.get(timeout=60) == "1"


def test_what_fires_while_a_callback_runs_is_told_once(store: Store, client: Client) -> None:
    held, told = threading.Event(), []

    def slow(path: str) -> None:
        told.append(path)
        held.wait(60)

    client.watch("/a", slow)
    eventually(lambda: told)
    for number in range(1000):
        store.set("/a", str(number).encode())
    client.read("/a")
    held.set()
    eventually(lambda: len(told) > 1)
    client.read("/a")
    assert told == ["/a", "/a"]


def test_watches_outlive_the_connection(store: Store, client: Client) -> None:
    told: queue.Queue[str] = queue.Queue()
    client.watch("/a", told.put)
    assert told.get(timeout=60) == "/a"
    store.stop()
    store.values["/a"] = b"changed meanwhile"
    store.start()
    assert told.get(timeout=60) == "/a"
    assert client.read("/a") == "changed meanwhile"
    store.set("/a", b"2")
    assert told.get(timeout=60) == "/a"


def test_a_read_is_sent_again_after_a_loss_and_a_write_is_not(store: Store, client: Client) -> None:
    client.write("/a", "1")
    store.hang_up_at = xenstore.READ
    assert client.read("/a") == "1"
    store.hang_up_at = xenstore.WRITE
    with pytest.raises(ConnectionError):
        client.write("/a", "2")
    assert client.read("/a") == "1"


def test_a_transaction_is_done_again_until_it_succeeds(store: Store, client: Client) -> None:
    store.conflicts = 2
    tried: list[int] = []

    def work(tree: Tree) -> str:
        tried.append(1)
        tree.write("/a", "1")
        return "done"

    assert client.atomically(work) == "done"
    assert len(tried) == 3
    store.conflicts = 10_000
    with pytest.raises(BlockingIOError):
        client.atomically(work)


def test_a_transaction_that_raises_is_given_up(store: Store, client: Client) -> None:
    with pytest.raises(ZeroDivisionError):
        client.atomically(lambda tree: 1 // 0)
    assert store.requests[-1] == xenstore.TRANSACTION_END


def test_many_threads_share_one_connection(store: Store, client: Client) -> None:
    for number in range(8):
        store.set(f"/n/{number}", str(number).encode())
    wrong: list[str] = []

    def read(number: int) -> None:
        for _ in range(50):
            if client.read(f"/n/{number}") != str(number):
                wrong.append(str(number))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(store.connections) == 1


def test_silence_and_absence_are_told_apart(
    store: Store, client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(xenstore, "PATIENCE", 0.05)
    monkeypatch.setattr(xenstore, "RETURN", 0.05)
    store.silent = True
    with pytest.raises(TimeoutError):
        client.read("/a")
    with xenstore.connected([tmp_path / "absent"]) as nobody, pytest.raises(ConnectionRefusedError):
        nobody.read("/a")


def test_a_value_is_waited_for(store: Store, client: Client) -> None:
    timer = threading.Timer(0.05, store.set, ("/ready", b"yes"))
    timer.start()
    assert xenstore.wait_for(client, "/ready", lambda value: value == "yes", 10) == "yes"
    assert store.watches == []


def test_a_message_that_cannot_be_ends_the_connection(store: Store, client: Client) -> None:
    client.write("/a", "1")
    (connection,) = store.connections
    before = client._connection
    assert before is not None
    connection.sendall(HEADER.pack(xenstore.READ, 1, 0, 1 << 31))
    eventually(lambda: before.ended)
    assert client.read("/a") == "1"


def test_a_closed_client_makes_no_calls(store: Store) -> None:
    client = Client([store.path])
    client.write("/a", "1")
    client.close()
    with pytest.raises(ConnectionError):
        client.read("/a")
