"""A XenAPI in memory that knows the contract: every call that a command makes is checked against the data model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import kronos.xe
from kronos.commands import engine
from kronos.commands.protocol import NULL, Login
from kronos.datamodel.errors import Failure
from kronos.datamodel.model import Message, model
from kronos.server import cli
from kronos.server.streams import PlainStream

_XE = Path(kronos.xe.__file__).parent / "xe"


class FakeAPI:
    """Records by class and reference. Implied messages work on them; for the others `answers` has a function."""

    session = "OpaqueRef:session"

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.answers: dict[str, Callable[..., Any]] = {}
        self.logins: list[Login] = []
        self.using_sessions: list[str] = []

    def add(self, api_class: str, **values: object) -> str:
        """Make an object with these values and the model's defaults for the rest; returns its reference."""
        facts = model().classes[api_class]
        number = len(self.objects.setdefault(api_class, {})) + 1
        uuid = f"{api_class}-{number}"
        ref = f"OpaqueRef:{uuid}"
        record = {name: facts.fields[name].default for name in facts.record.fields}
        record |= {"uuid": uuid} | values
        self.objects[api_class][ref] = record
        return ref

    def __call__(self, method: str, *args: object) -> Any:
        message = model().messages.get(method)
        assert message is not None, f"{method} is no message of XenAPI"
        assert message.required <= len(args) <= len(message.params), f"{method}{args}"
        checked = [param.type.check(given) for param, given in zip(message.params, args, strict=False)]
        self.calls.append((method, *checked))
        if method in self.answers:
            return self.answers[method](*checked)
        return self._implied(message, checked)

    def task(self, method: str, *args: object, progress: Callable[[float], None] | None = None) -> Any:
        assert model().messages[method].asynchronous, f"{method} cannot be a task"
        if progress:
            progress(0.5)
        return self(method, *args)

    def using(self, session: str) -> FakeAPI:
        self.using_sessions.append(session)
        return self

    @contextmanager
    def remote(self, address: str, username: str, password: str) -> Iterator[FakeAPI]:
        yield self.elsewhere

    elsewhere: FakeAPI

    @contextmanager
    def open_session(self, login: Login) -> Iterator[FakeAPI]:
        self.logins.append(login)
        yield self

    def called(self, method: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == method]

    def _implied(self, message: Message, args: list[Any]) -> Any:
        objects = self.objects.get(message.cls, {})
        name = message.name
        if name in ("get_all_records", "get_all_records_where"):
            return objects
        if name == "get_all":
            return tuple(objects)
        if name == "get_by_uuid":
            return self._by_uuid(message.cls, args[0])
        if name == "get_by_name_label":
            return tuple(ref for ref, record in objects.items() if record["name_label"] == args[0])
        if name == "create" and message.kind == "ctor":
            return self.add(message.cls, **args[0])
        own = bool(message.params) and message.params[0].type.spec == f"{message.cls} ref"
        if (message.field and own) or name in ("get_record", "destroy"):
            if args[0] not in objects:
                raise Failure("HANDLE_INVALID", message.cls, args[0])
            return self._on_object(message, objects, *args)
        return message.result.zero

    def _by_uuid(self, api_class: str, uuid: str) -> str:
        for ref, record in self.objects.get(api_class, {}).items():
            if record["uuid"] == uuid:
                return ref
        raise Failure("UUID_INVALID", api_class, uuid)

    def _on_object(self, message: Message, objects: dict[str, dict[str, Any]], ref: str, *args: Any) -> Any:
        record, field, name = objects[ref], message.field, message.name
        if name == "get_record":
            return record
        if name == "destroy":
            del objects[ref]
        elif name.startswith("get_"):
            return record.get(field, message.result.zero)
        elif name.startswith("set_"):
            record[field] = args[0]
        elif name.startswith("add_to_"):
            if args[0] in record[field]:
                raise Failure("MAP_DUPLICATE_KEY", message.cls, field, ref, args[0])
            record[field] = record[field] | {args[0]: args[1]}
        elif name.startswith("remove_from_"):
            record[field] = {key: value for key, value in record[field].items() if key != args[0]}
        elif name.startswith("add_"):
            record[field] = (*record[field], args[0])
        elif name.startswith("remove_"):
            record[field] = tuple(item for item in record[field] if item != args[0])
        return ""


class FakeTerminal:
    """What was printed, and the answers of a user."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self.err = ""
        self.failures: list[tuple[str, list[str]]] = []
        self.files: dict[str, bytes] = {}
        self.typed = "no"
        self.moved: list[tuple[str, str, str]] = []
        self.transfers_work = True

    def print(self, text: str) -> None:
        self.out.append(text)

    def print_all(self, texts: Sequence[str]) -> None:
        self.out.extend(texts)

    def print_error(self, text: str) -> None:
        self.err += text

    def show_failure(self, code: str, params: Sequence[str]) -> None:
        self.failures.append((code, list(params)))

    def load_file(self, path: str) -> bytes | None:
        return self.files.get(path)

    def prompt(self) -> str:
        return self.typed

    def http_get(self, path: str, url: str, waiting: Callable[[], None] | None = None) -> bool:
        self.moved.append(("get", path, url))
        return self.transfers_work

    def http_put(self, path: str, url: str, waiting: Callable[[], None] | None = None) -> bool:
        self.moved.append(("put", path, url))
        return self.transfers_work

    def connect(self, url: str) -> bool:
        self.moved.append(("connect", "", url))
        return self.transfers_work

    def alive(self) -> bool:
        return True


class Shell:
    """Runs commands the way a user types them."""

    def __init__(self, api: FakeAPI) -> None:
        self.api = api
        self.terminal = FakeTerminal()
        self.status = -1

    def __call__(self, *words: str) -> str:
        """The command's output as the user sees it; its status is in `status`, its errors in `err`."""
        files, typed, works = self.terminal.files, self.terminal.typed, self.terminal.transfers_work
        self.terminal = FakeTerminal()
        self.terminal.files, self.terminal.typed, self.terminal.transfers_work = files, typed, works
        login = ("username=root", "password=null")
        self.status = engine.run([*words, *login], self.terminal, self.api.open_session)
        return "".join(f"{text}\n" for text in self.terminal.out)

    @property
    def err(self) -> str:
        return self.terminal.err


@pytest.fixture
def api() -> FakeAPI:
    """A pool of one host with an SR and a network."""
    fake = FakeAPI()
    host = fake.add("host", name_label="alpha", hostname="alpha", address="192.0.2.1")
    sr = fake.add("SR", name_label="Local storage", type="file", content_type="user", physical_size=1 << 40)
    fake.add("pool", name_label="", master=host, default_SR=sr)
    fake.add("network", name_label="Pool-wide network", bridge="xenbr0", MTU=1500)
    fake.answers["session.get_this_host"] = lambda session: host
    fake.answers["message.get"] = lambda cls, uuid, since: {}
    fake.elsewhere = FakeAPI()
    return fake


@pytest.fixture
def xe(api: FakeAPI) -> Shell:
    return Shell(api)


@pytest.fixture
def vm(api: FakeAPI) -> str:
    """A halted VM called web."""
    return api.add(
        "VM", name_label="web", power_state="Halted", resident_on=NULL, other_config={"folder": "/a"}
    )


@pytest.fixture
def server(api, tmp_path):
    """A server on a Unix socket, which answers transfers as well."""
    path = tmp_path / "xapi"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    stored: dict[str, bytes] = {}

    def answer(connection: socket.socket) -> None:
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                if not (more := connection.recv(65536)):
                    return
                data += more
            head, _, body = data.partition(b"\r\n\r\n")
            method, url, *_ = head.split()
            length = next(
                (int(h[15:]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")), 0
            )
            if method == b"PUT":
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
            while len(body) < length:
                if not (more := connection.recv(65536)):
                    return
                body += more
            if method == b"POST":
                cli.serve(PlainStream(connection, b""), body, api.open_session)
            elif method == b"PUT":
                stored[url.decode().partition("?")[0]] = body
            elif method == b"CONNECT":
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nlogin: ")
                if keys := connection.recv(100):
                    connection.sendall(keys.upper())
            else:
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\n12345678")

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield path, stored
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def environment(server, tmp_path):
    """What the real client runs in: `xe` is in the path, and talks to the server."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "xe").symlink_to(_XE)
    path = f"{folder}:{os.environ['PATH']}"
    return {"XAPI_SOCKET": str(server[0]), "HOME": str(tmp_path), "PATH": path}


@pytest.fixture
def run(environment, tmp_path):
    """Run the real client against the server."""

    def run(*words: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-IS", str(_XE), *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env=environment | more,
        )

    return run
