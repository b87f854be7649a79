"""xapi: builds the parts of the toolstack and starts them. The only module that knows them all."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import resource
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from kronos import __version__
from kronos.api import catalogue
from kronos.auth import pam
from kronos.background import operations as allowed_operations
from kronos.background import release
from kronos.background.autostart import start_after_boot
from kronos.background.channels import Channels
from kronos.background.follow import Follow
from kronos.background.inventory import files, networks, storage, templates
from kronos.background.inventory import host as host_inventory
from kronos.boot import kernel_source, tiny_guest
from kronos.boot.templates import SystemMode
from kronos.boot.tiny_guest import TinyGuest
from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.journal import Journal, JournalBusy, JournalUnreadable
from kronos.db.records import Host, Network
from kronos.dispatch import roles
from kronos.dispatch.machine import Machine
from kronos.dispatch.pipeline import Pipeline, coverage
from kronos.hypervisor import checkup
from kronos.hypervisor.base import Hypervisor
from kronos.hypervisor.checkup import report
from kronos.hypervisor.detection import Detected, detect
from kronos.hypervisor.kvm import KVM, QEMU
from kronos.hypervisor.xen import URI as XEN_URI
from kronos.hypervisor.xen import Xen
from kronos.network import firewall
from kronos.network.bridge import BridgeNetwork
from kronos.rules import operations
from kronos.server import doors
from kronos.server.access import Access
from kronos.server.http import GRACE, Server, TcpListener, UnixListener
from kronos.server.tls import ensure_certificate, server_context
from kronos.storage import registry
from kronos.system import logs
from kronos.system.commands import CommandFailed, run
from kronos.system.intents import Intents
from kronos.system.libvirtd import SYSTEM_URI, PrivateLibvirtd
from kronos.system.notify import notify, watchdog_interval
from kronos.system.settings import Settings, SettingsWrong, read

log = logging.getLogger(__name__)
CONFIGURATION = Path("/etc/xapi.toml")
PATIENCE: Final = 2.0
"""Seconds that running calls get to end by themselves when the daemon stops; then they are cancelled."""
FILES: Final = 65_536
"""Files and connections that may be open at once, where the system lets us."""
LAST_WORD: Final = 1.0
"""Seconds that libvirt gets to say goodbye."""


class Daemon:
    """One host's toolstack, from its database to its doors."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.db: Database
        self.machine: Machine
        self.pipeline: Pipeline
        self.follow: Follow
        self.channels: Channels
        self.server: Server

    async def run(self) -> None:
        """Serve until told to stop. What was answered is on disk; guests run on."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if not await self._built(loop, stop):
            return
        if self.db.journal is not None:
            # Memory is ahead of the disk then: a restart goes back to what was durable.
            self.db.journal.subscribe(lambda _: None, lambda _: _tell(loop, stop))
        await self._open_doors()
        # What the start made stays: collections look at what came later alone, and take milliseconds.
        gc.freeze()
        gc.enable()
        gc.set_threshold(5_000, 3, 1000)
        notify("READY=1", f"STATUS=Serving {self.settings.socket}")
        log.info("xapi %s is ready on %s", __version__, self.settings.socket)
        watched = loop.create_task(_watched())
        await stop.wait()
        watched.cancel()
        notify("STOPPING=1")
        log.info("xapi stops; guests run on")
        await self._close(loop)

    async def _built(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> bool:
        """Build the parts. False when told to stop meanwhile: what was begun is then left as by a crash."""
        building = loop.run_in_executor(ThreadPoolExecutor(1, "start"), self._build, loop)
        stopping = loop.create_task(stop.wait())
        await asyncio.wait((building, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not building.done():
            log.info("xapi stops before it is ready")
            return False
        await building
        return True

    def _build(self, loop: asyncio.AbstractEventLoop) -> None:
        settings = self.settings
        for directory in (settings.state, settings.run, settings.socket.parent):
            directory.mkdir(parents=True, exist_ok=True)
        gc.disable()
        journal = Journal(settings.database)
        self.db = Database(journal)
        self.db.load()
        detected = detect(settings.state / "hypervisor.json")
        self.machine = Machine(
            hypervisor=self._hypervisor(detected),
            network=BridgeNetwork(settings.state / "network"),
            state=settings.state,
            intents=Intents(settings.state / "intents"),
            open_storage=registry.build,
            kernels=(settings.state / "guest", settings.state / "tiny-guest"),
            https_port=settings.https_port or 443,
            authenticate=self._authenticate,
        )
        self.db.derive(operations.derive)
        self.pipeline = Pipeline(self.db, self.machine, loop)
        roles.seed(self.db)
        self._refresh_records(detected)
        self.follow = Follow(self.pipeline)
        self.follow.start()
        self.channels = Channels(self.db, self.machine)
        self.channels.start()
        storage.settle_disks(self.pipeline)
        allowed_operations.refresh(self.db)
        self.follow.reboots.take_up()
        self.pipeline.task_workers.submit(start_after_boot, self.pipeline, settings.state)

    def _refresh_records(self, detected: Detected) -> None:
        settings, db, machine = self.settings, self.db, self.machine
        address = settings.address or networks.management_address(machine.network)
        if detected.warning:
            log.warning("%s", detected.warning)
        identity = host_inventory.Identity(machine.hypervisor, detected, address)
        host: Host = host_inventory.refresh(db, identity)
        machine.host_ref = host.ref
        networks.refresh(db, host, machine.network, settings.internal_bridge)
        storage.refresh(
            self.pipeline, registry.drivers(), settings.storage if settings.default_storage else None
        )
        templates.refresh(db, self._tiny_guest(), self._system_mode())
        files.refresh(settings.state, db, host)

    def _hypervisor(self, detected: Detected) -> Hypervisor:
        settings = self.settings
        if detected.type == "XEN":
            return Xen(settings.libvirt or XEN_URI, settings.run)
        uri = settings.libvirt or SYSTEM_URI
        if settings.private_libvirt:
            uri = PrivateLibvirtd(settings.state / "libvirt").start()
        kind = KVM if detected.type == "KVM" else QEMU
        return kind(uri, settings.run)

    def _tiny_guest(self) -> TinyGuest | None:
        """The tiny guest, if it is made; it is made meanwhile where the host's own kernel can be taken for it."""
        directory = self.settings.state / "tiny-guest"
        guest = tiny_guest.made(directory)
        if guest is None and kernel_source.installed() is not None:
            threading.Thread(target=self._make_tiny_guest, args=(directory,), daemon=True).start()
        elif guest is None:
            log.info(
                "There is no tiny guest to try this host with: python3 -m kronos.boot %s makes it", directory
            )
        return guest

    def _system_mode(self) -> SystemMode:
        """How system VMs boot: elsewhere than on Xen there is one way that needs nothing of the host."""
        xen = self.machine.hypervisor.type == "XEN"
        return "pv" if xen and self.settings.system_vm_mode == "pv" else "hvm"

    def _make_tiny_guest(self, directory: Path) -> None:
        # In a process of its own: what the making takes in memory is not to stay in this one.
        try:
            run([sys.executable, "-m", "kronos.boot", str(directory)], timeout=600)
        except CommandFailed as error:
            log.warning("The tiny guest was not made: %s", error)
            return
        templates.refresh(self.db, tiny_guest.made(directory), self._system_mode())

    def _authenticate(self, user: str, password: str) -> None:
        """PAM, for root alone unless the compatibility switch lets every local user in."""
        if user != "root" and not self.settings.any_pam_user:
            raise Failure("SESSION_AUTHENTICATION_FAILED", user, "Authentication failure")
        pam.authenticate(user, password, self.settings.pam_service)

    async def _open_doors(self) -> None:
        settings = self.settings
        certificate = settings.state / "xapi-ssl.pem"
        host = self.db.get(Host, self.machine.host_ref)
        ensure_certificate(certificate, host.hostname, [host.address] if host.address else [])
        access = Access(self.pipeline)
        self.server = Server(doors.all_doors(self.pipeline, access), https_port=settings.https_port or None)
        listeners: list[TcpListener | UnixListener] = [UnixListener(settings.socket)]
        if settings.http_port:
            listeners.append(TcpListener(settings.listen, settings.http_port))
        if settings.https_port:
            listeners.append(TcpListener(settings.listen, settings.https_port, server_context(certificate)))
        await self.server.start(listeners)

    async def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take no more calls, let those that run end, put everything on disk: GRACE and LAST_WORD seconds at most."""
        tasks, deadline = self.pipeline.tasks, loop.time() + GRACE
        stopping = loop.create_task(self.server.stop())
        # After the server's first step, so that what waiting calls now answer is the last on their connections.
        loop.call_soon(self.pipeline.changes.close)
        loop.call_later(PATIENCE, tasks.cancel_all)
        await stopping
        while tasks.running and loop.time() < deadline:  # tasks have no connection to be waited for
            await asyncio.sleep(0.02)
        self.channels.close()
        self.follow.close()
        self.pipeline.close()
        if self.db.journal is not None:
            self.db.journal.close()
        goodbye = threading.Thread(target=self.machine.hypervisor.close, daemon=True)
        goodbye.start()
        goodbye.join(LAST_WORD)


async def _watched() -> None:
    """Tell the service manager that the loop turns, as often as it wants to hear it: a loop that hangs is restarted."""
    while interval := watchdog_interval():
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)


def _tell(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    """Set an event of the loop from any thread."""
    loop.call_soon_threadsafe(event.set)


def _allow_files() -> None:
    """Take as many descriptors as the hard limit gives.

    The soft limit is 1024 by custom, for programs that use select(), and far fewer than the connections let in.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def print_coverage() -> None:
    """Per class, how many of its messages are served."""
    catalogue.load()
    served = known = 0
    for name, (some, all_) in sorted(coverage().items(), key=lambda item: item[0].lower()):
        print(f"{name:22} {some:4} of {all_:4}  {100 * some // max(all_, 1):3} %")
        served, known = served + some, known + all_
    print(f"{'total':22} {served:4} of {known:4}  {100 * served // known:3} %")


def check(settings: Settings, *, as_json: bool) -> int:
    """Say what this host lacks to run guests; 0 where they can run, 1 where something that they need is missing."""
    detected = detect(settings.state / "hypervisor.json")
    results = checkup.examine(checkup.Surroundings(detected, settings))
    return (report.write_json if as_json else report.write)(results, sys.stdout)


def release_networks(settings: Settings) -> int:
    """Take back what of this host's network no guest uses; 0, or 1 with the reason on standard error."""
    try:
        if settings.database.exists():
            db = Database(Journal(settings.database))
            db.load()
            names = {row.bridge for row in db.all(Network)}
            release.networks(names, BridgeNetwork(settings.state / "network"))
        firewall.dismantle()
    except (JournalBusy, JournalUnreadable, Failure, CommandFailed, OSError) as error:
        print(f"xapi: {error}", file=sys.stderr)
        return 1
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="xapi",
        description="The XenAPI toolstack of this host.",
        epilog="Settings: docs/settings.md, xapi(8).",
    )
    parser.add_argument("--version", action="version", version=f"xapi {__version__}")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"settings, TOML (default: {CONFIGURATION})"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="say what this host lacks to run guests and what to do about it, and end: 0 if they can run, else 1",
    )
    parser.add_argument("--json", action="store_true", help="with --check: as one JSON document")
    parser.add_argument(
        "--release",
        action="store_true",
        help="take back the bridges, addresses and rules that no guest uses, and end; while xapi is stopped",
    )
    parser.add_argument("--coverage", action="store_true", help="print which messages are served, and end")
    parser.add_argument(
        "-o",
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="override one setting; repeatable",
    )
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace) -> Settings:
    """Raises SettingsWrong."""
    overrides: dict[str, Any] = {}
    for pair in options.set:
        name, equals, text = pair.partition("=")
        if not equals:
            raise SettingsWrong(f"--set takes NAME=VALUE, not {pair}")
        value: Any = text
        if text in ("true", "false"):
            value = text == "true"
        elif text.isdigit():
            value = int(text)
        overrides[name] = value
    path = options.config or (CONFIGURATION if CONFIGURATION.exists() else None)
    return read(path, overrides)


def main(arguments: list[str] | None = None) -> int:
    """The command `xapi`."""
    options = parse(arguments)
    if options.coverage:
        print_coverage()
        return 0
    try:
        settings = settings_of(options)
    except SettingsWrong as error:
        print(f"xapi: {error}", file=sys.stderr)
        return 2
    if options.check:
        return check(settings, as_json=options.json)
    if options.release:
        return release_networks(settings)
    logs.configure(settings.log_level.upper())
    os.umask(0o022)
    _allow_files()
    catalogue.load()
    try:
        import uvloop

        uvloop.install()
    except ImportError:  # slower by a third, and as good otherwise
        pass
    status = 0
    try:
        asyncio.run(Daemon(settings).run())
    except (JournalBusy, JournalUnreadable, Failure, CommandFailed, OSError) as error:
        log.critical("xapi cannot start: %s. `xapi --check` tells what this host lacks.", error)
        status = 1
    logging.shutdown()
    # Python's own end would wait for every worker thread, and one of them may wait for a guest. All is on disk.
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
