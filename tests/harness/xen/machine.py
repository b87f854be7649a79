"""An emulated machine that runs real Xen with a Debian control domain, driven over ssh.

Everything by process id and with a limit; nothing of it outlives `close` but the cached image. A start takes half a
minute on two idle cores.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.xen.image import REPOSITORY, Image

BOOT = 240.0
"""Seconds until the control domain answers; 30 on an idle machine."""
MEMORY, CONTROL_DOMAIN_MEMORY = 3584, 1280
"""MiB of the machine, and of its control domain; the rest is for guests."""
SOURCE = "/opt/kronos"
"""Where the project lies in the control domain."""
GUESTS = "/var/cache/kronos/tests"
_SENT = ("src", "tests", "tools", "packaging", "pyproject.toml", "README.md")
_NOT_NEEDED = ("mypy", "mypy-*", "mypyc", "ruff*", "grimp*", "importlinter", "import_linter*", "pip", "pip-*")


class Broken(Exception):
    """The machine did not do what it should; the text has the end of its console."""


@dataclass(frozen=True)
class Pair:
    """What the machines 1 and 2 share: a network, in which they are 10.9.0.1 and 10.9.0.2, and a disk, /dev/vdb. All of
    it lies in `directory`."""

    directory: Path
    size: int = 512 << 20

    def devices(self, number: int) -> list[str]:
        """Their words for QEMU, for one of the two."""
        disk, line = self.directory / "disk", self.directory / "network"
        with disk.open("ab") as file:
            file.truncate(self.size)
        until = time.monotonic() + 20
        while number == 2 and not line.exists() and time.monotonic() < until:
            time.sleep(0.1)  # the first one makes it
        net = f"stream,id=pair,server={'on' if number == 1 else 'off'},addr.type=unix,addr.path={line}"
        # Both read and write by the cache of the machine that emulates them, which is the storage to them.
        drive = f"file={disk},if=none,id=shared,format=raw,cache=unsafe,discard=unmap"
        return [
            *("-netdev", net),
            *("-device", f"virtio-net-pci,netdev=pair,mac=52:54:00:12:35:0{number},romfile="),
            *("-drive", drive, "-device", "virtio-blk-pci,drive=shared,share-rw=on"),
        ]


class Machine:
    """One machine. `number` tells it from others that run beside it, `pair` is what it shares with one of them."""

    def __init__(
        self,
        image: Image,
        *,
        number: int = 1,
        directory: Path | None = None,
        processors: int = 2,
        memory: int = MEMORY,
        control_domain_memory: int = CONTROL_DOMAIN_MEMORY,
        pair: Pair | None = None,
    ) -> None:
        self.image = image
        self.number = number
        self.processors = processors
        self.memory = memory
        self.control_domain_memory = control_domain_memory
        self.pair = pair
        self._own = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="kxen-", dir="/tmp"))
        self.directory.mkdir(exist_ok=True)
        self.console = self.directory / "console.log"
        self._port_file = self.directory / "port"
        self._pid_file = self.directory / "pid"
        self._process: subprocess.Popen[bytes] | None = None

    # --- its life ----------------------------------------------------------------------------------------------------

    def start(self) -> Machine:
        """Power on and wait until the control domain's libvirt answers. Raises Broken.

        A control domain that does not come up is given a second chance, and what the first one was doing is told.
        """
        self._power_on()
        try:
            self._await_libvirt()
        except Broken as broken:
            print(f"{broken}\nTrying once more.", file=sys.stderr, flush=True)
            self.power_off()
            self._power_on()
            self._await_libvirt()
        return self

    def _power_on(self) -> None:
        port = _free_port()
        self._port_file.write_text(str(port))
        with (self.directory / "qemu.log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command(port), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._pid_file.write_text(str(self._process.pid))

    def reboot(self) -> None:
        """Have the control domain reboot, and wait for it. What was on its disk is there again. Raises Broken."""
        self.run("nohup sh -c 'sleep 1; systemctl --force reboot' >/dev/null 2>&1 </dev/null &")
        self._disconnect()
        time.sleep(5)
        self._await_libvirt()

    def _await_libvirt(self) -> None:
        self._await(self._refusal, "its libvirt does not answer", BOOT)

    def _await(self, refusal: Callable[[], str], what: str, limit: float) -> None:
        """Until there is no refusal, which is in words. Raises Broken with `what` and the last one."""
        until = time.monotonic() + limit
        while True:
            if self._process is not None and self._process.poll() is not None:
                raise self.broken(f"QEMU ended: {(self.directory / 'qemu.log').read_text(errors='replace')}")
            last = refusal()
            if not last:
                return
            if time.monotonic() > until:
                raise self.broken(f"{what} after {limit:.0f} s; last: {last}")
            time.sleep(0.5)

    def _refusal(self) -> str:
        """Why libvirt in the control domain cannot be talked to, in words; nothing where it can."""
        if not self._control.exists() and (why := self._connect()):
            return why
        try:
            self.run("virsh -c xen:///system list >/dev/null", timeout=60)
        except Broken as broken:
            self._disconnect()
            return str(broken).partition("\n")[0]
        return ""

    def _connect(self) -> str:
        """Make the connection that all commands share, which takes seconds here; or say why there is none."""
        log = self.directory / "ssh.log"
        with log.open("wb") as said:  # it stays, and would keep a pipe open
            try:
                argv = [word for word in self.ssh("-M", "-N", "-f") if word != "-q"]
                quiet = subprocess.DEVNULL
                code = subprocess.run(argv, stdin=quiet, stdout=quiet, stderr=said, timeout=40).returncode
            except subprocess.TimeoutExpired:
                return f"ssh did not end in 40 s: {log.read_text(errors='replace').strip()}"
        return "" if code == 0 else f"ssh ended with {code}: {log.read_text(errors='replace').strip()}"

    def _command(self, port: int) -> list[str]:
        memory = f"dom0_mem={self.control_domain_memory}M,max:{self.control_domain_memory}M"
        xen = f"{memory} console=com1 com1=115200 loglvl=warning guest_loglvl=warning"
        # A card keeps its first name: one that udev renames while it is being given its address never gets it.
        linux = f"{self.image.kernel} console=hvc0 net.ifnames=0 quiet loglevel=4 kronos.host={self.number}"
        disk = f"file={self.image.disk},if=none,id=disk,format=raw,snapshot=on,cache=unsafe,discard=unmap"
        net = f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22"
        mac = f"52:54:00:12:34:0{self.number}"
        return [
            *("qemu-system-x86_64", "-machine", "pc", "-accel", "tcg,thread=multi"),
            # Guests of the kinds PVH and HVM need paging in hardware, which this emulated CPU has.
            *("-cpu", "qemu64,+npt", "-smp", str(self.processors), "-m", str(self.memory)),
            *("-nodefaults", "-display", "none"),
            *("-qmp", f"unix:{self._monitor},server=on,wait=off"),
            *("-chardev", f"file,id=console,path={self.console}", "-serial", "chardev:console"),
            *("-kernel", str(self.image.xen), "-append", xen),
            *("-initrd", f"{linux},{self.image.ramdisk}"),
            *("-drive", disk, "-device", "virtio-blk-pci,drive=disk"),
            *("-netdev", net, "-device", f"virtio-net-pci,netdev=net,mac={mac},romfile="),
            *(self.pair.devices(self.number) if self.pair is not None else ()),
        ]

    def _disconnect(self) -> None:
        argv = ["ssh", "-q", "-O", "exit", "-o", f"ControlPath={self._control}", "x"]
        subprocess.run(argv, capture_output=True, timeout=10)

    def power_off(self) -> None:
        """At once: the disk is a throw-away copy."""
        self._disconnect()
        with contextlib.suppress(OSError, ValueError):
            _end(int(self._pid_file.read_text()))
        if self._process is not None:
            self._process.wait(10)
        self._control.unlink(missing_ok=True)

    def close(self) -> None:
        """Power off and leave nothing behind."""
        self.power_off()
        if self._own:
            shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def runs(self) -> bool:
        """Whether its emulator is there."""
        try:
            return b"kronos.host" in Path(f"/proc/{int(self._pid_file.read_text())}/cmdline").read_bytes()
        except (OSError, ValueError):
            return False

    # --- ways to it --------------------------------------------------------------------------------------------------

    @property
    def _control(self) -> Path:
        return self.directory / "ssh"

    def ssh(self, *options: str) -> list[str]:
        """The start of a command line that runs what follows in the control domain."""
        return [
            *("ssh", "-q", "-i", str(self.image.key), "-p", self._port_file.read_text()),
            *(
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
                "-o",
                "ConnectTimeout=30",
            ),
            *("-o", f"ControlPath={self._control}"),
            *options,
            "root@127.0.0.1",
        ]

    def run(self, command: str, timeout: float = 60, *, input: bytes | None = None) -> str:
        """What a shell command in the control domain prints. Raises Broken with all it said where it fails."""
        try:
            done = subprocess.run([*self.ssh(), command], capture_output=True, timeout=timeout, input=input)
        except subprocess.TimeoutExpired as late:
            raise self.broken(f"no end of `{command}` after {timeout:.0f} s") from late
        text = done.stdout.decode(errors="replace")
        if done.returncode != 0:
            raise self.broken(
                f"`{command}` ended with {done.returncode}: {text}{done.stderr.decode(errors='replace')}"
            )
        return text

    def install(self, *, packages: bool = True) -> None:
        """Put this checkout, and the packages that its tests need, into the control domain."""
        self._send(REPOSITORY, _SENT, f"{SOURCE}", ("node_modules", "clients-npm"))
        if packages:
            site = next((REPOSITORY / ".venv" / "lib").glob("python3*/site-packages"))
            self._send(site, (".",), f"{SOURCE}/site-packages", _NOT_NEEDED)
        python = f"PYTHONPATH={SOURCE}/src:{SOURCE}/site-packages:$PYTHONPATH exec /usr/bin/python3"
        scripts = {"xapi": f"{python} -m kronos.daemon", "eliloader": f"{python} -m kronos.boot.eliloader"}
        scripts["kronos-python"] = python
        for name, start in scripts.items():
            path = f"/usr/local/bin/{name}"
            self.run(f"cat >{path} && chmod 755 {path}", input=f'#!/bin/sh\n{start} "$@"\n'.encode())
        self.run(
            f"ln -sf {SOURCE}/src/kronos/xe/xe /usr/local/bin/xe && cp {SOURCE}/packaging/pam.d/xapi /etc/pam.d/"
        )
        if self._kept.exists():
            self._send(self._kept, (".",), GUESTS, ())

    @property
    def _kept(self) -> Path:
        return self.image.disk.parent / "guests"

    def keep_guests(self) -> None:
        """Keep the guests that tests have made there, which takes half a minute, for the next machine."""
        if not self._kept.exists() and self.run(f"ls {GUESTS} 2>/dev/null || true").strip():
            packed = subprocess.run([*self.ssh(), f"tar -c -C {GUESTS} ."], capture_output=True, timeout=120)
            part = self._kept.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            subprocess.run(["tar", "-x", "-C", part], input=packed.stdout, check=True, timeout=60)
            part.rename(self._kept)

    def _send(self, base: Path, names: Sequence[str], target: str, without: Sequence[str]) -> None:
        excluded = [f"--exclude={pattern}" for pattern in without]
        pack = subprocess.Popen(
            ["tar", "-c", "-C", str(base), *excluded, *names],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        unpack = f"mkdir -p {shlex.quote(target)} && tar -x -C {shlex.quote(target)}"
        done = subprocess.run([*self.ssh(), unpack], stdin=pack.stdout, capture_output=True, timeout=180)
        if pack.wait(30) != 0 or done.returncode != 0:
            raise self.broken(f"sending {base}: {done.stderr.decode(errors='replace')}")

    def broken(self, why: str) -> Broken:
        """An error with the end of the console, and what the processors do."""
        with contextlib.suppress(OSError):
            lines = self.console.read_text(errors="replace").splitlines()[-40:]
            why += "\nThe console ends:\n" + "\n".join(lines)
        with contextlib.suppress(OSError, ValueError, KeyError):
            states = [self._processors(), self._processors()]
            why += "\nThe processors, twice:\n" + "\n".join(states)
        return Broken(why)

    def _processors(self) -> str:
        """Where the emulated processors are, a line each."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(5)
            monitor.connect(str(self._monitor))
            stream = monitor.makefile("rw", encoding="utf-8")
            stream.readline()
            lines = []
            ask = {"execute": "human-monitor-command", "arguments": {"command-line": "info registers -a"}}
            for command in ({"execute": "qmp_capabilities"}, ask):
                stream.write(json.dumps(command) + "\n")
                stream.flush()
                while "return" not in (answer := json.loads(stream.readline())):
                    pass
            lines = [
                line for line in answer["return"].splitlines() if line.startswith(("CPU#", "RIP", "EIP"))
            ]
        return "\n".join(lines)

    @property
    def _monitor(self) -> Path:
        return self.directory / "monitor"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if b"kronos.host" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return  # the number has gone to another process
        os.kill(pid, 15)
        until = time.monotonic() + 10
        while time.monotonic() < until and Path(f"/proc/{pid}").exists():
            status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if status == "Z":
                return
            time.sleep(0.1)
        os.kill(pid, 9)


def interactive(machine: Machine, argv: Sequence[str]) -> int:
    """A shell or command in the control domain, on this terminal."""
    options = ["-t"] if sys.stdin.isatty() else []
    return subprocess.run([*machine.ssh(*options), *argv]).returncode
