"""Transfers as clients make them: raw requests of their shape, over HTTP and HTTPS, and readers of our own making."""

from __future__ import annotations

import http.client
import io
import os
import random
import ssl
import subprocess
import sys
import tarfile
import xml.etree.ElementTree
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

from harness.client import Client
from harness.daemon import Daemon, wait_until
from harness.guests import new_disk

MIB = 1 << 20
PEBIBYTE = 1 << 50
"""What Xen Orchestra announces when it does not know the length."""
Door = Literal["http", "https"]


def connection(daemon: Daemon, door: Door = "http", timeout: float = 120) -> http.client.HTTPConnection:
    """A connection to the daemon's own address."""
    if door == "http":
        return http.client.HTTPConnection(daemon.host.address, timeout=timeout)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(daemon.host.address, timeout=timeout, context=context)


def path_of(client: Client, address: str, **query: object) -> str:
    """The path of a transfer as this session."""
    return f"{address}?{urlencode({'session_id': client.session} | query)}"


def get(daemon: Daemon, client: Client, address: str, door: Door = "http", **query: object) -> bytes:
    """What a door sends; the answer has to be good and complete."""
    link = connection(daemon, door)
    try:
        link.request("GET", path_of(client, address, **query))
        response = link.getresponse()
        body = response.read()
        assert response.status == 200, body
        return body
    finally:
        link.close()


def put(
    daemon: Daemon,
    client: Client,
    address: str,
    body: Iterable[bytes] | bytes,
    door: Door = "http",
    length: int | None = None,
    **query: object,
) -> int:
    """Send a body and wait for the end of the reply; its status. `length` is what is announced."""
    link = connection(daemon, door)
    headers = {"Content-Type": "application/octet-stream"}
    if length is not None:
        headers["Content-Length"] = str(length)
    try:
        link.request("PUT", path_of(client, address, **query), body, headers)
        if length is not None and isinstance(body, bytes) and length > len(body):
            return _answered(link)  # and hang up
        response = link.getresponse()
        response.read()
        return response.status
    finally:
        link.close()


def _answered(link: http.client.HTTPConnection) -> int:
    return link.getresponse().status


def ended(client: Client, task: str, timeout: float = 60) -> dict[str, Any]:
    """A task's record, once it is no longer pending."""

    def over() -> Any:
        row = client("task.get_record", task)
        return row if row["status"] != "pending" else None

    return dict(wait_until(over, timeout, f"{task} stays pending", pause=0.05))


def imported(daemon: Daemon, client: Client, archive: bytes, **query: object) -> list[str]:
    """Import an archive as Xen Orchestra does; the VMs' references, as its task tells."""
    task = client("task.create", "import", "")
    sr = client("pool.get_default_SR", client("pool.get_all")[0])
    assert put(daemon, client, "/import/", archive, sr_id=sr, task_id=task, **query) == 200
    row = ended(client, task)
    client("task.destroy", task)
    assert row["status"] == "success", row["error_info"]
    values = xml.etree.ElementTree.fromstring(row["result"]).iterfind("./array/data/value")
    return [str(each.text) for each in values]


class Archive:
    """An XVA archive as a reader sees it that knows tar and XML, and nothing of Kronos."""

    def __init__(self, archive: bytes) -> None:
        self.members: dict[str, bytes] = {}
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                assert member.isfile()
                found = tar.extractfile(member)
                assert found is not None
                self.members[member.name] = found.read()
        self.description = _value(xml.etree.ElementTree.fromstring(self.members["ova.xml"]))

    def objects(self, cls: str) -> dict[str, dict[str, Any]]:
        """The records of a class by their ids."""
        return {each["id"]: each["snapshot"] for each in self.description["objects"] if each["class"] == cls}

    def disk(self, name: str) -> bytes:
        """A disk's content, put together from its blocks."""
        size = int(self.objects("VDI")[name]["virtual_size"])
        blocks = {
            int(path.partition("/")[2]): data
            for path, data in self.members.items()
            if path.startswith(f"{name}/") and "." not in path
        }
        assert 0 in blocks and (size - 1) // MIB in blocks, "the first and the last block are always there"
        return b"".join(blocks.get(n, bytes(MIB)) for n in range((size - 1) // MIB + 1))[:size]


def _value(element: xml.etree.ElementTree.Element) -> Any:
    if not len(element):
        return element.text or ""
    (typed,) = element
    if typed.tag == "struct":
        return {str(member[0].text or ""): _value(member[1]) for member in typed}
    if typed.tag == "array":
        return [_value(each) for each in typed[0]]
    return typed.text == "1" if typed.tag == "boolean" else typed.text or ""


def pattern(size: int = 8 * MIB, seed: int = 1) -> bytes:
    """A disk's content: noise, a hole, and noise that does not end with a block."""
    noise = random.Random(seed).randbytes
    data = bytearray(size)
    data[: 3 * MIB + 700] = noise(3 * MIB + 700)
    data[size - MIB // 2 :] = noise(MIB // 2)
    return bytes(data)


def filled(daemon: Daemon, client: Client, content: bytes, **fields: Any) -> str:
    vdi = new_disk(client, "data", len(content), **fields)
    assert put(daemon, client, "/import_raw_vdi", content, vdi=vdi) == 200
    return vdi


def everything(client: Client) -> dict[str, set[str]]:
    return {cls: set(client(f"{cls}.get_all")) for cls in ("VM", "VDI", "VBD", "VIF", "network")}


def disk_of(client: Client, vm: str) -> str:
    (vbd,) = (each for each in client("VM.get_VBDs", vm) if client("VBD.get_type", each) == "Disk")
    return str(client("VBD.get_VDI", vbd))


def xe(daemon: Daemon, *words: str, stdin: Any = None, expected: int = 0) -> str:
    """What xe prints on the host itself."""
    program = Path(sys.modules["kronos"].__file__ or "").parent / "xe" / "xe"
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-S", str(program), *words],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=stdin,
        env=os.environ | {"XAPI_SOCKET": str(daemon.socket)},
    )
    assert done.returncode == expected, done.stderr
    return done.stdout.strip() if not expected else done.stderr.strip()


def as_raw(image: bytes, form: str, directory: Path) -> bytes:
    """What QEMU makes of an image."""
    source, target = directory / f"image.{form}", directory / "image.raw"
    source.write_bytes(image)
    if form == "qcow2":
        qemu_img("check", "-q", "-f", form, source)
    qemu_img("convert", "-f", form, "-O", "raw", source, target)
    return target.read_bytes()


def qemu_img(*words: str | Path) -> str:
    return subprocess.run(["qemu-img", *words], check=True, capture_output=True, text=True, timeout=60).stdout
