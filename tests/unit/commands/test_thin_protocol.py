"""The server's side of the thin protocol, and the real client against it."""

from __future__ import annotations

import os
import pty
import socket
import struct
import subprocess
import termios
import threading
import time
from pathlib import Path

import pytest

from kronos.server import cli
from kronos.server.streams import PlainStream

_MAGIC = b"XenSource thin CLI protocol"
_HELLO = _MAGIC + struct.pack("<ii", 0, 2)


class Peer:
    """A client made of bytes, so that it can do what a client should not."""

    def __init__(self, api, body: bytes) -> None:
        self.socket, server = socket.socketpair()
        self.socket.settimeout(5)
        self._server = server
        self._thread = threading.Thread(target=self._serve, args=(body, api.open_session), daemon=True)
        self._thread.start()

    def _serve(self, body, open_session) -> None:
        with self._server:
            cli.serve(PlainStream(self._server, b""), body, open_session)

    def hello(self) -> Peer:
        assert self._read(len(_HELLO)) == _HELLO
        self.socket.sendall(_HELLO)
        return self

    def message(self) -> tuple[int, bytes]:
        """The tag and content of the next command from the server."""
        size = struct.unpack("<i", self._read(4))[0]
        message = self._read(size)
        kind, tag = struct.unpack_from("<ii", message)
        assert kind == 9
        return tag, message[8:]

    def send(self, *numbers: int) -> None:
        body = struct.pack(f"<{len(numbers)}i", *numbers)
        self.socket.sendall(struct.pack("<i", len(body)) + body)

    def ended(self) -> bool:
        """Whether the server has let go of the connection."""
        self._thread.join(5)
        return not self._thread.is_alive()

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            assert part, "the server closed the connection"
            data += part
        return data


def _string(text: bytes) -> bytes:
    return struct.pack("<i", len(text)) + text


def test_a_command_prints_and_exits(api, vm):
    peer = Peer(api, b"vm-list\n--minimal\nusername=root\npassword=null").hello()
    assert peer.message() == (0, _string(b"VM-1"))
    assert peer.message() == (4, struct.pack("<i", 0))
    assert peer.ended()


def test_a_failing_command_prints_on_standard_error_and_exits_with_one(api):
    peer = Peer(api, b"vm-fly\nusername=root\npassword=null").hello()
    assert peer.message() == (16, _string(b"Unknown command: vm-fly\nFor usage run: 'xe help'\n"))
    assert peer.message() == (4, struct.pack("<i", 1))


def test_an_error_without_sentence_goes_as_code_and_parameters(api, vm):
    peer = Peer(api, b"vm-param-get\nuuid=VM-1\nparam-name=no\nusername=\npassword=").hello()
    tag, rest = peer.message()
    assert tag == 14
    assert rest == _string(b"Missing parameter") + struct.pack("<i", 1) + _string(b"no")


def test_a_session_in_the_first_line_replaces_the_login(api, vm):
    Peer(api, b"session_id=OpaqueRef:s\r\nvm-list\r\n--minimal").hello().message()
    assert api.logins[0].session == "OpaqueRef:s"


def test_words_may_hold_line_breaks_where_nul_separates_them():
    assert cli.parse_body(b"vm-list\0name-label=a\nb\0") == (None, ["vm-list", "name-label=a\nb", ""])


def test_a_file_arrives_in_chunks(api):
    api.answers["host.call_plugin"] = lambda host, plugin, fn, args: args["k"]
    body = b"host-call-plugin\nhost-uuid=host-1\nplugin=p\nfn=f\nargs:k:file=/tmp/f\nusername=\npassword="
    peer = Peer(api, body).hello()
    assert peer.message() == (1, _string(b"/tmp/f"))
    peer.send(10, 5)
    peer.send(11, 7, 3)
    peer.socket.sendall(b"abc")
    peer.send(11, 7, 2)
    peer.socket.sendall(b"de")
    peer.send(11, 8)
    assert peer.message() == (0, _string(b"abcde"))


def _asked_for_a_file(api) -> Peer:
    body = b"host-call-plugin\nhost-uuid=host-1\nplugin=p\nfn=f\nargs:k:file=/tmp/f\nusername=\npassword="
    peer = Peer(api, body).hello()
    assert peer.message()[0] == 1
    return peer


@pytest.mark.parametrize(
    "answer",
    [
        struct.pack("<i", -5),
        struct.pack("<i", 2**31 - 1),
        struct.pack("<i", 4) + b"abcd",
        struct.pack("<iii", 8, 9, 0),
        struct.pack("<iii", 8, 10, 99),
        struct.pack("<iii", 8, 10, 5) + struct.pack("<iiii", 12, 11, 7, 2**30),
        struct.pack("<iii", 8, 10, 5) + struct.pack("<iiii", 12, 11, 7, -1),
    ],
)
def test_a_client_that_speaks_nonsense_is_dropped(api, answer):
    peer = _asked_for_a_file(api)
    peer.socket.sendall(answer)
    assert peer.ended()
    assert not api.called("host.call_plugin")


@pytest.mark.parametrize("hello", [b"GET / HTTP/1.0\r\n\r\n" * 4, _MAGIC + struct.pack("<ii", 7, 0)])
def test_another_protocol_is_dropped(api, hello):
    peer = Peer(api, b"vm-list\nusername=\npassword=")
    peer.socket.sendall(hello)
    assert peer.ended()
    assert not api.logins


def test_a_client_that_leaves_ends_the_command(api):
    peer = _asked_for_a_file(api)
    peer.socket.close()
    assert peer.ended()


def test_a_command_line_that_is_too_long_is_not_read(api):
    peer = Peer(api, b"x" * (cli.MAX_BODY + 1)).hello()
    assert peer.message() == (16, _string(b"Error: the command line is too long\n"))
    assert peer.message() == (4, struct.pack("<i", 1))
    assert peer.ended()


def test_a_command_line_in_another_encoding_is_refused_with_the_reason(run, api):
    done = run("vm-list", os.fsdecode(b"name-label=caf\xe9"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: the command line is not UTF-8\n"
    assert not api.logins


def test_secrets_stay_out_of_the_log(api, vm, caplog):
    with caplog.at_level("INFO"):
        peer = Peer(api, b"secret-create\nvalue=hush\nusername=root\npassword=hush").hello()
        peer.message()
        assert peer.ended()
    assert "secret-create value=(omitted)" in caplog.text
    assert "hush" not in caplog.text


def test_names_that_only_look_like_secrets_are_logged():
    words = ["vm-clone", "new-name-label=a", "new=b", "config:pass=c", "args:x=d", "--force"]
    hidden = ["new=(omitted)", "config:pass=(omitted)", "args:x=(omitted)"]
    assert cli.censored(words) == ["vm-clone", "new-name-label=a", *hidden, "--force"]


def test_nor_are_the_passwords_of_mail_servers_and_proxies_logged():
    words = ["pool-param-set", "other-config:ssmtp-authpass=hush", "http_proxy=http://me:hush@there:3128"]
    assert cli.censored(words) == [
        "pool-param-set",
        "other-config:ssmtp-authpass=(omitted)",
        "http_proxy=http://me:REMOVED@there:3128",
    ]


def test_a_fault_in_a_command_is_told_and_logged(api, caplog):
    def break_down():
        raise ZeroDivisionError

    api.answers["VM.get_all_records"] = break_down
    peer = Peer(api, b"vm-list\nusername=\npassword=").hello()
    assert peer.message()[0] == 16
    assert peer.message() == (4, struct.pack("<i", 1))
    assert "ZeroDivisionError" in caplog.text


def test_the_client_prints_what_the_server_says(run, vm):
    done = run("vm-list", "--minimal")
    assert (done.stdout, done.stderr, done.returncode) == ("VM-1\n", "", 0)


def test_the_client_leaves_with_the_servers_status(run):
    done = run("vm-fly")
    assert done.returncode == 1
    assert done.stderr.startswith("Unknown command: vm-fly\n")


def test_the_client_without_words_shows_its_usage(run):
    done = run()
    assert done.returncode == 0
    assert done.stderr.startswith("Usage: xe <command>")


def test_text_beyond_ascii_goes_both_ways_whatever_the_locale(run, api, vm):
    api.objects["VM"][vm]["name_label"] = "Käse 食"
    done = run("vm-list", "name-label=Käse 食", "params=name-label", "--minimal", LC_ALL="C")
    assert done.stdout == "Käse 食\n"


def test_a_value_may_hold_a_line_break(run, api, vm):
    done = run("vm-param-set", "uuid=VM-1", "name-description=a\nb")
    assert done.returncode == 0, done.stderr
    assert api.objects["VM"][vm]["name_description"] == "a\nb"


def test_options_come_from_the_environment_and_the_resource_file(run, api, tmp_path):
    (tmp_path / ".xe").write_text("username=file\npassword=file\n")
    run("vm-list", XE_EXTRA_ARGS=r"password=a\,b")
    assert (api.logins[0].username, api.logins[0].password) == ("file", "a,b")
    run("vm-list", "-u", "typed", XE_EXTRA_ARGS="username=extra")
    assert api.logins[1].username == "typed"


def test_a_password_file_holds_user_and_password(run, api, tmp_path):
    (tmp_path / "pw").write_text("alice\nsecret\n")
    run("vm-list", "-pwf", "pw")
    assert (api.logins[0].username, api.logins[0].password) == ("alice", "secret")


def test_the_client_sends_a_file_named_on_its_command_line(run, api, tmp_path):
    (tmp_path / "key").write_text("content")
    api.answers["host.call_plugin"] = lambda host, plugin, fn, args: args["k"]
    done = run("host-call-plugin", "host-uuid=host-1", "plugin=p", "fn=f", "args:k:file=key")
    assert done.stdout == "content\n"


def test_the_client_answers_a_question_from_standard_input(run, api, vm):
    assert "All objects destroyed" in run("vm-uninstall", "vm=web", stdin="yes\n").stdout
    assert vm not in api.objects["VM"]


@pytest.fixture
def task(api):
    ref = api.add("task", status="success")
    api.answers["task.create"] = lambda *_: ref
    return ref


def test_the_client_saves_a_download_for_its_owner_alone(run, vm, task, tmp_path):
    done = run("vm-export", "vm=web", "filename=web.xva")
    assert done.stdout == "Export succeeded\n", done.stderr
    assert (tmp_path / "web.xva").read_bytes() == b"12345678"
    assert (tmp_path / "web.xva").stat().st_mode & 0o777 == 0o600


def test_the_client_never_overwrites_a_file(run, vm, task, tmp_path):
    (tmp_path / "web.xva").write_text("mine")
    done = run("vm-export", "vm=web", "filename=web.xva")
    assert done.returncode == 1
    assert "File exists" in done.stderr
    assert (tmp_path / "web.xva").read_text() == "mine"


def test_a_download_goes_to_standard_output_where_no_file_is_named(run, vm, task):
    assert run("vm-export", "vm=web", "filename=").stdout == "12345678"


def test_the_client_uploads_a_file(run, api, task, server, tmp_path):
    api.add("VDI")
    content = os.urandom(3 << 20)
    (tmp_path / "disk").write_bytes(content)
    done = run("vdi-import", "uuid=VDI-1", "filename=disk")
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 60
    while "/import_raw_vdi" not in server[1] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server[1]["/import_raw_vdi"] == content


def test_a_file_that_was_not_named_is_neither_read_nor_written(run, api, task, vm, monkeypatch):
    from kronos.server.cli import ThinTerminal

    sent = ThinTerminal.http_get
    monkeypatch.setattr(ThinTerminal, "http_get", lambda self, path, *rest: sent(self, "/tmp/other", *rest))
    done = run("vm-export", "vm=web", "filename=web.xva")
    assert done.returncode == 1
    assert "not permitted" in done.stderr
    assert not Path("/tmp/other").exists()


def test_the_console_copies_both_ways(run, api, vm):
    console = api.add("console", VM=vm, protocol="vt100", location="https://192.0.2.1/console?uuid=c")
    api.objects["VM"][vm]["consoles"] = (console,)
    done = run("console", "vm=web", stdin="root\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("login: ROOT\n")


def test_the_console_leaves_a_terminal_as_it_found_it(environment, api, vm):
    console = api.add("console", VM=vm, protocol="vt100", location="https://192.0.2.1/console?uuid=c")
    api.objects["VM"][vm]["consoles"] = (console,)
    keyboard, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    process = subprocess.Popen(["xe", "console", "vm=web"], stdin=terminal, stdout=terminal, env=environment)
    shown = b""
    while b"login: " not in shown:
        shown += os.read(keyboard, 4096)
    assert not termios.tcgetattr(terminal)[3] & termios.ECHO
    os.write(keyboard, b"\x1d")
    assert process.wait(10) == 0
    assert termios.tcgetattr(terminal) == before
    os.close(keyboard)
    os.close(terminal)


@pytest.mark.parametrize(
    ("closed", "status", "told"),
    [
        ("<&-", 0, "VM-1\n"),
        ("2>&-", 0, "VM-1\n"),
        (">&-", 1, "Error: Bad file descriptor\n"),
        ("<&- >&- 2>&-", 1, ""),
        (">/dev/full", 1, "Error: No space left on device\n"),
    ],
)
def test_closed_and_full_streams_are_no_fault_of_the_client(environment, api, vm, closed, status, told):
    done = subprocess.run(
        f"xe vm-list --minimal {closed}", shell=True, capture_output=True, text=True, env=environment
    )
    assert done.returncode == status
    assert done.stdout + done.stderr == told


def test_no_server_is_told_plainly(run, tmp_path):
    done = run("vm-list", "-p", "1", XAPI_SOCKET=str(tmp_path / "none"))
    assert done.returncode == 1
    assert done.stderr.startswith("Unable to contact 127.0.0.1 port 1: Connection refused.")


def test_a_listing_cut_short_by_its_reader_is_no_error(environment, api, tmp_path):
    for _ in range(3000):
        api.add("VM", name_label="x" * 50)
    done = subprocess.run(
        "xe vm-list | head -1",
        shell=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert (done.stdout, done.stderr) == ("uuid ( RO)           : VM-1\n", "")
