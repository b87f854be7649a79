"""What is fuzzed: for each parser of outside input, how it is called, what it may raise, and what it learns from."""

from __future__ import annotations

import logging
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from fuzz import imported
from fuzz.target import TARGETS, target, text

__all__ = ["TARGETS", "imported"]

# --- doors -----------------------------------------------------------------------------------------------------------

CALL = (
    b'<?xml version="1.0"?><methodCall><methodName>VM.start</methodName><params><param><value><string>OpaqueRef:1'
    b"</string></value></param><param><value><struct><member><name>a</name><value><array><data><value><boolean>1"
    b"</boolean></value><value><double>1.5</double></value><value><int>7</int></value><value>x&amp;&#65;</value>"
    b"</data></array></value></member></struct></value></param></params></methodCall>"
)


@target(
    CALL,
    b"<methodCall><methodName>a</methodName></methodCall>",
    b'<!DOCTYPE a [<!ENTITY b "c">]><methodCall><methodName>&b;</methodName></methodCall>',
    words=(
        b"<value>",
        b"</value>",
        b"<nil/>",
        b"<i8>",
        b"<dateTime.iso8601>",
        b"<base64>",
        b"<![CDATA[",
        b"<!--",
        b"&#x0;",
    ),
)
def xmlrpc(data: bytes) -> None:
    from kronos.datamodel.errors import Failure
    from kronos.server.xmlrpc import BadRequest, parse

    with suppress(BadRequest, Failure):
        name, args = parse(data)
        assert isinstance(name, str) and isinstance(args, list)


@target(
    b'{"jsonrpc":"2.0","id":1,"method":"VM.start","params":["OpaqueRef:1",false,{"a":[1.5,null]}]}',
    b'[{"jsonrpc":"2.0","id":"x","method":"a","params":[]},{"method":"b","params":[],"id":2}]',
    words=(b'"jsonrpc"', b'"params"', b"1e999", b"NaN", b"\\ud800", b"[[[["),
)
def jsonrpc(data: bytes) -> None:
    from kronos.datamodel.errors import Failure
    from kronos.server import jsonrpc as door

    try:
        found = door.parse(data)
    except door.Malformed as wrong:
        wrong.reply()
        return
    except Failure as refused:
        assert refused.code == "INVALID_VALUE"
        return
    for each in found if isinstance(found, list) else [found]:
        if isinstance(each, door.Malformed):
            each.reply()
        else:
            door.failure(each, ["INTERNAL_ERROR", "x"])


@target(
    b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET /echo?a=b&c=%20 HTTP/1.0\r\nCookie: a=b; c\r\nAuthorization: Basic cm9vdDp4\r\nExpect: 100-continue\r\n\r\n",
    b"GET /console?uuid=1 HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET http://h/a%0d%0ab%ff HTTP/1.1\r\nHost: h\r\n\r\n",
    words=(
        b"CONNECT ",
        b"OPTIONS * ",
        b"\r\n\r\n",
        b"Transfer-Encoding",
        b"ffffffffffffffff\r\n",
        b"http://[::1",
    ),
)
def http(data: bytes) -> None:
    from kronos.server.connection import Connection
    from kronos.server.limits import Gate, Limits
    from kronos.server.reading import Shared
    from kronos.server.routing import Doors, Page, Reply, Request, credentials

    def echo(request: Request) -> Reply:
        credentials(request)
        return Reply(
            200, (request.body, str(request.query).encode("utf-8", "replace"), str(request.cookies).encode())
        )

    doors = Doors()
    for method in ("GET", "POST"):
        doors.add(method, "/echo", Page(echo))
    limits = Limits(head=4096, headers=20, body=1000, pipelined=50)
    shared = Shared(doors, limits, Gate(limits, lambda: False), None, 443, date=b"Date: now\r\n")  # type: ignore[arg-type]
    logging.getLogger("kronos.server").addHandler(_ALARM)
    connection = Connection(shared, local=False)
    wire = _Wire()
    connection.connection_made(wire)  # type: ignore[arg-type]
    middle = len(data) // 2
    for piece in (data[:middle], data[middle:]):
        if not wire.closed:
            connection.data_received(piece)
    assert b"HTTP/1.1 500 " not in wire.sent, wire.sent


class _Alarm(logging.Handler):
    """An error that is logged is a defect that was caught: no bytes may lead to one."""

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record.getMessage()) from (record.exc_info[1] if record.exc_info else None)


_ALARM = _Alarm(logging.ERROR)


class _Wire:
    """A transport that takes everything at once."""

    def __init__(self) -> None:
        self.sent = b""
        self.closed = False

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.1", 80) if name in ("peername", "sockname") else None

    def write(self, data: bytes) -> None:
        self.sent += data

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


@target(
    b"\x81\x85\1\2\3\4iglmn",
    b"\x02\x80\0\0\0\0\x80\xfe\1\0\0\0\0\0" + bytes(256),
    b"\x88\x80abcd\x8a\x80abcd",
)
def websocket(data: bytes) -> None:
    from kronos.server.websocket import FrameReader, ProtocolError

    reader = FrameReader()
    with suppress(ProtocolError):
        for start in range(0, len(data), 7):
            for frame in reader.feed(data[start : start + 7]):
                assert len(frame.payload) <= len(data)


@target(b"session_id=OpaqueRef:1\nvm-list\n--minimal\nparams=all", b"vm-start\0uuid=x\0-s\0host")
def thin_protocol(data: bytes) -> None:
    from kronos.commands import grammar
    from kronos.commands.errors import UsageError, ValueRefused
    from kronos.server.cli import ProtocolError, censored, parse_body

    with suppress(ProtocolError):
        _, words = parse_body(data)
        censored(words)
        with suppress(UsageError):
            _, arguments = grammar.parse(words)
            for name, value in arguments.pairs:
                for read in (grammar.to_bool, grammar.to_int):
                    with suppress(ValueRefused):
                        read(name, value)


# --- XenAPI's own languages ------------------------------------------------------------------------------------------


@target(
    b'field "name__label" = "x" and (not (field "power_state"="Running") or true)',
    b"field 'a' = field \"b\"",
    words=(b"field ", b" and ", b" or ", b"not", b"true", b"((((", b'\\"'),
)
def query(data: bytes) -> None:
    from kronos.datamodel.errors import Failure
    from kronos.db.query import parse

    with suppress(Failure):
        predicate = parse(text(data))
        assert str(parse(str(predicate))) == str(predicate)


@target(b"vm", b"*", b"vm/OpaqueRef:1", b"VM/*", b"00000000000000000001")
def events(data: bytes) -> None:
    from kronos.api.event import parse_filter, parse_token
    from kronos.datamodel.errors import Failure

    with suppress(Failure):
        parse_filter(tuple(text(data).split("\n"))).wants("vm", "OpaqueRef:1")
    with suppress(Failure):
        parse_token(text(data))


@target(b"[1, 2]", b'{"a": "b"}', b'"20261121T10:00:00Z"', b"-9223372036854775808", b"1.5", b"true")
def values(data: bytes) -> None:
    """What JSON brings, checked as each type of parameter; what passes can be written in both notations."""
    import json

    from kronos.datamodel.errors import Failure
    from kronos.datamodel.model import model

    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return
    for spec in ("string", "int", "float", "bool", "datetime", "VM ref", "enum vm_operations", "string set",
                 "(string -> string) map", "(int -> float) map", "VM record", "enum vm_operations set"):  # fmt: skip
        kind = model().type(spec)
        with suppress(Failure):
            kind.xml(kind.check(found))


# --- guests ----------------------------------------------------------------------------------------------------------


@target(
    b'{"say": {"data/updated": "1", "attr/vif/0/ipv4/0": "192.0.2.1", "a": null}}',
    b'{"ask": "config", "id": 7}',
    words=(b'"say"', b'"ask"', b'"id"', b"null"),
)
def guest_channel(data: bytes) -> None:
    from kronos.rules import guest_channel as channel
    from kronos.rules import guest_metrics

    with suppress(channel.Refused):
        request = channel.request(data)
        if request is not None and request.says:
            guest_metrics.fields(channel.noted({"data/updated": "1"}, request.says))


@target(
    b"set default=0\nmenuentry 'a' --id b { linux /vmlinuz root=/dev/xvda1\n initrd /i }\n",
    b"default 0\ntitle a\nroot (hd0,0)\nkernel /vmlinuz x\ninitrd /i\n",
    b"default a\nlabel a\nkernel /vmlinuz\nappend x initrd=/i\ninclude b\n",
    b"title a\nversion 1.2\nlinux /vmlinuz\ninitrd /i\noptions $kernelopts\n",
    words=(
        b"if [ ",
        b"; then ",
        b" fi\n",
        b"function ",
        b"submenu ",
        b"${",
        b"source ",
        b"search --set=root ",
        b"for i in ",
    ),
)
def boot_menu(data: bytes) -> None:
    from kronos.boot.guest_disk import bls, grub2, grub_legacy, menu, options, syslinux
    from kronos.boot.guest_disk.unreadable import BootUnreadable

    untrusted = text(data)

    class Guest:
        def read(self, name: str) -> str:
            return untrusted

        def find(self, kind: str, value: str) -> str | None:
            return "loop0" if len(value) % 2 else None

        def entries(self, device: str) -> dict[str, str]:
            return {"a.conf": untrusted, "b.conf": untrusted}

    guest = Guest()
    for parse in (
        lambda: grub2.parse(untrusted, guest, "loop0", "/boot/grub"),  # type: ignore[arg-type]
        lambda: grub_legacy.parse(untrusted, guest.read, "/boot/grub"),
        lambda: syslinux.parse(untrusted, guest.read, "/extlinux"),
        lambda: bls.parse(guest.entries(""), menu.environment(untrusted), untrusted_settings=untrusted),
    ):
        with suppress(BootUnreadable):
            for entry in parse().entries:
                assert "\n" not in entry.arguments and "\0" not in entry.arguments
    with suppress(BootUnreadable):
        options.parse(untrusted)


@target(bytes(0x1F1) + b"\4" + bytes(10) + b"\x55\xaaHdrS\x0c\x02" + bytes(1500), words=(b"\x7fELF", b"HdrS"))
def kernel(data: bytes) -> None:
    from kronos.boot import bzimage

    with suppress(bzimage.UnusableKernel):
        bzimage.repack(data)


@target(
    b"\x1f\x8b\x08\0\0\0\0\0\0\3\3\0\0\0\0\0\0\0\0\0",
    b"\x02\x21\x4c\x18\4\0\0\0\0abc",
    b"\xfd7zXZ\0",
    b"BZh9",
    b"\x28\xb5\x2f\xfd",
    b"\x5d\0\0",
)
def compression(data: bytes) -> None:
    from kronos.boot.compression import UnreadableData, decompress

    with suppress(UnreadableData):
        assert len(decompress(data, 1 << 20)) <= 1 << 20


# --- disks and servers -----------------------------------------------------------------------------------------------


@target(
    b"QFI\xfb\0\0\0\3" + bytes(200), words=(b"QFI\xfb", b"\xe2\x79\x2a\xca", b"raw", b"json:", b"/etc/passwd")
)
def qcow2(data: bytes) -> None:
    from kronos.storage.images import qcow2 as form

    with tempfile.TemporaryFile() as file, suppress(form.BadImage):
        file.write(data)
        file.flush()
        form.is_empty(file, form.read_header(file, len(data)))  # type: ignore[arg-type]


@target(b"QFI\xfb\0\0\0\2" + bytes(200), b"conectix" + bytes(504))
def disk_chain(data: bytes) -> None:
    from kronos.boot.guest_disk import chain
    from kronos.boot.guest_disk.unreadable import BootUnreadable

    with tempfile.TemporaryDirectory() as directory:
        image = Path(directory) / "image"
        image.write_bytes(data)
        for form in ("qcow2", "vpc", "raw"):
            with suppress(BootUnreadable):
                assert all(layer.path.parent == image.parent for layer in chain.layers(image, form))


@target(b"LibvirtQemudSave" + b"\2\0\0\0\5\0\0\0" + bytes(90), b"LibxlSavedDomain")
def savefile(data: bytes) -> None:
    from kronos.hypervisor import savefile as form

    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with suppress(form.UnusableSavefile):
            form.read(Path(file.name))
            form.is_whole(Path(file.name))


@target(
    b"[general]\nfamily = x\n[checksums]\nimages/boot.iso = sha256:" + b"0" * 64,
    b"HASH SHA256 " + b"0" * 64 + b"  boot/linux\n",
    b"http://user:secret@mirror.example:80/debian?x=1",
)
def installation_server(data: bytes) -> None:
    from kronos.boot.eliloader import checksums, source
    from kronos.boot.eliloader.refusal import InstallFailed

    for form in ("treeinfo", "sums"):
        checksums.read(text(data), form, "dists/SHA256SUMS")  # type: ignore[arg-type]
    with suppress(InstallFailed):
        source.parse(text(data))
