"""G10, G11: disks and VMs over HTTP. The floor is qemu-img, or cp, given the same disk on the same machine.

G12: small calls while four disks go out, beside the same calls alone.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.client import XML, Client, wrk, xml_call
from bench.process import Child, cpu_seconds, rss
from bench.report import Row
from bench.run import Run, best, seconds

SIZE: Final = 1 << 30
_STEP: Final = 1 << 20
FAST: Final = Path("/dev/shm")
"""Where floors write to: what is measured has no disk at its other end either."""


def measure(run: Run) -> list[Row]:
    size = SIZE // 8 if run.quick else SIZE
    options = {"vms": 2, "refs": 1, "disks": 1, "interfaces": 0, "images": size, "pinned": False, "tls": True}
    noise, scratch = FAST / f"krbench-{os.getpid()}.raw", FAST / f"krbench-{os.getpid()}.out"
    try:
        with noise.open("wb") as file:
            for _ in range(size // _STEP):
                file.write(os.urandom(_STEP))
        with Child("bench.server", directory=str(run.directory), **options) as server:
            return _rows(_Doors(server), noise, scratch, size / _STEP, run)
    finally:
        noise.unlink(missing_ok=True)
        scratch.unlink(missing_ok=True)


class _Doors:
    """The doors of transfers, each request on a connection of its own."""

    def __init__(self, server: Child) -> None:
        self.server = server
        self.session = server.ready["session"]
        self.vm = server.ready["vm"]
        self.vdi, self.other = server.ready["vdis"]
        self.sr = server.ready["sr"]
        self._buffer = bytearray(_STEP)

    def get(self, path: str, *, tls: bool = False, into: Path | None = None) -> None:
        with self._asked("GET", path, tls) as link, (into or Path(os.devnull)).open("wb") as file:
            head = b""
            while b"\r\n\r\n" not in head:
                head += link.recv(_STEP)
            file.write(head.partition(b"\r\n\r\n")[2])
            buffer = bytearray(_STEP)
            while count := link.recv_into(buffer):
                file.write(memoryview(buffer)[:count])

    def put(self, path: str, source: Path) -> None:
        head = f"Content-Length: {source.stat().st_size}\r\n"
        with self._asked("PUT", path, False, head) as link, source.open("rb") as file:
            while count := file.readinto(self._buffer):
                link.sendall(memoryview(self._buffer)[:count])
            while link.recv_into(self._buffer):
                pass

    def import_vm(self, archive: Path) -> float:
        """How long the import of an archive takes; its VM goes again."""
        client = Client(self.server.ready["port"])
        before = set(client.call("VM.get_all", self.session)), set(client.call("VDI.get_all", self.session))
        taken = seconds(lambda: self.put(f"/import?sr_id={self.sr}", archive))
        for cls, known in zip(("VM", "VDI"), before, strict=True):
            for ref in set(client.call(f"{cls}.get_all", self.session)) - known:
                client.call(f"{cls}.destroy", self.session, ref)
        client.close()
        return taken

    def _asked(self, method: str, path: str, tls: bool, more: str = "") -> Any:
        port = self.server.ready["tls_port" if tls else "port"]
        link: socket.socket = socket.create_connection(("127.0.0.1", port))
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            link = context.wrap_socket(link)
        link.sendall(f"{method} {path}&session_id={self.session} HTTP/1.0\r\n{more}\r\n".encode())
        return link


def _rows(doors: _Doors, noise: Path, scratch: Path, mib: float, run: Run) -> list[Row]:
    doors.put(f"/import_raw_vdi?vdi={doors.vdi}", noise)
    head = next(path for path in (run.directory / "sr").glob("*.qcow2") if path.stat().st_size > _STEP)
    raw = f"/export_raw_vdi?vdi={doors.vdi}"
    archive = run.directory / "vm.xva"
    doors.get(f"/export?ref={doors.vm}", into=archive)
    if archive.stat().st_size < mib * _STEP:
        raise RuntimeError("the archive does not hold the disk")
    memory = rss(doors.server.process.pid)

    def timed(work: Callable[[], object]) -> Callable[[], float]:
        return lambda: seconds(work)

    found = best(
        {
            "raw": timed(lambda: doors.get(raw)),
            "tls": timed(lambda: doors.get(raw, tls=True)),
            "vhd": timed(lambda: doors.get(f"{raw}&format=vhd")),
            "xva": timed(lambda: doors.get(f"/export?ref={doors.vm}")),
            "to raw": timed(lambda: _convert(head, "raw", scratch)),
            "to vhd": timed(lambda: _convert(head, "vpc", scratch)),
            "import": timed(lambda: doors.put(f"/import_raw_vdi?vdi={doors.other}", noise)),
            "import xva": lambda: doors.import_vm(archive),
            "bare tls": lambda: _bare_tls(noise, run.directory / "pem"),
            "copy": timed(lambda: _copy(noise, run.directory / "copy")),
        },
        run.rounds,
    )
    used = cpu_seconds(doors.server.process.pid)
    doors.get(raw)
    used = (cpu_seconds(doors.server.process.pid) - used) / mib * 1024
    grown = (rss(doors.server.process.pid) - memory) / _STEP
    speed = {name: mib / taken for name, taken in found.items()}
    to_raw, to_vhd, copied = "qemu-img convert to raw", "qemu-img convert to VHD", "cp and fsync"
    exports = [
        Row("G10", what, speed[name], "MiB/s", speed[floor], floor_is, 0.8, at_least=True)
        for what, name, floor, floor_is in (
            ("disk of qcow2 as raw, HTTP", "raw", "to raw", to_raw),
            ("the same, HTTPS", "tls", "bare tls", "a bare ssl socket"),
            ("the same as VHD, HTTP", "vhd", "to vhd", to_vhd),
        )
    ]
    return [
        *exports,
        Row("G10", "the server's own processor time for a GiB of it", used, "s"),
        Row(
            "G11", "raw disk into qcow2", speed["import"], "MiB/s", speed["copy"], copied, 0.7, at_least=True
        ),
        Row("G11", "VM as XVA", speed["xva"], "MiB/s", speed["to raw"], to_raw, 0.8, at_least=True),
        Row("G11", "VM from XVA", speed["import xva"], "MiB/s", speed["copy"], copied, 0.7, at_least=True),
        Row("G11", "memory that the server grew by", grown, "MB", limit=64),
        _calls_meanwhile(doors, raw, run),
    ]


def _calls_meanwhile(doors: _Doors, path: str, run: Run) -> Row:
    call = xml_call("VM.get_power_state", doors.session, doors.vm)
    target = (doors.server.ready["port"], XML, call, 16, run.seconds)
    alone = min(wrk(*target).p99 for _ in range(run.rounds))
    ended = threading.Event()

    def export() -> None:
        while not ended.is_set():
            doors.get(path)

    threads = [threading.Thread(target=export) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        busy = min(wrk(*target).p99 for _ in range(run.rounds))
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    return Row(
        "G12",
        "99 % of VM.get_power_state within, 4 exports at once",
        busy,
        "us",
        alone,
        "the same without",
        4.0,
    )


def _bare_tls(source: Path, certificate: Path) -> float:
    """How long a thread takes to send a file to another over TLS, and do nothing else."""
    ours, theirs = socket.socketpair()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE

    def send() -> None:
        buffer = bytearray(_STEP)
        with server.wrap_socket(theirs, server_side=True) as link, source.open("rb") as file:
            while count := file.readinto(buffer):
                link.sendall(memoryview(buffer)[:count])

    def receive() -> None:
        thread = threading.Thread(target=send)
        thread.start()
        buffer = bytearray(_STEP)
        with client.wrap_socket(ours) as link:
            while link.recv_into(buffer):
                pass
        thread.join()

    return seconds(receive)


def _convert(source: Path, form: str, target: Path) -> None:
    subprocess.run(["qemu-img", "convert", "-O", form, source, target], check=True, timeout=600)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", source, target], check=True, timeout=600)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    target.unlink()
