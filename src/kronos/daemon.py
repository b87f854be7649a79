"""xapi: builds the parts of the toolstack and starts them. The only module that knows them all."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from kronos import __version__, errands
from kronos.api import binary_storage, blob, catalogue, devices, interfaces, updates
from kronos.api.host import access as host_access
from kronos.api.host import certificates as host_certificates
from kronos.api.host import guest_agents, processors
from kronos.api.host.power import enabled_after_start
from kronos.api.host.storage_access import follow_other_config
from kronos.api.pool import certificates as pool_certificates
from kronos.api.pool import client_certificates
from kronos.api.vm import checkpointing, sysprep
from kronos.arguments import parse, settings_of
from kronos.auth import pam
from kronos.auth import registry as directories
from kronos.auth.base import Directory
from kronos.background import operations as allowed_operations
from kronos.background.alerts import Alerts
from kronos.background.autostart import start_after_boot
from kronos.background.channels import Channels
from kronos.background.follow import Follow
from kronos.background.inventory import crashes, files, networks, storage, surroundings, templates
from kronos.background.inventory import host as host_inventory
from kronos.background.memory import Memory
from kronos.background.metrics import Metrics
from kronos.background.observers import Observers
from kronos.background.schedules import Schedules
from kronos.background.update_sync import UpdateSync
from kronos.background.visitors import Visitors
from kronos.boot import kernel_source, tiny_guest
from kronos.boot.templates import SystemMode
from kronos.boot.tiny_guest import TinyGuest
from kronos.datamodel.errors import Failure
from kronos.db import replacement
from kronos.db.database import Database
from kronos.db.journal import Journal, JournalBusy, JournalUnreadable
from kronos.db.records import Host
from kronos.dispatch import roles
from kronos.dispatch.machine import Machine
from kronos.dispatch.pipeline import Pipeline
from kronos.hypervisor.base import Hypervisor
from kronos.hypervisor.detection import Detected, detect
from kronos.hypervisor.kvm import KVM, QEMU
from kronos.hypervisor.xen import URI as XEN_URI
from kronos.hypervisor.xen import Xen
from kronos.network.bridge import BridgeNetwork
from kronos.network.configuration import transaction
from kronos.rules import operations
from kronos.server import doors
from kronos.server.access import Access
from kronos.server.doorkeeper import Doorkeeper
from kronos.server.http import GRACE, Server, TcpListener, UnixListener
from kronos.server.tls import Certificates, ensure_certificate, fingerprint
from kronos.storage import registry
from kronos.system import logs, outside, packages, power
from kronos.system.activation import inherited
from kronos.system.audit_file import AuditFile
from kronos.system.commands import CommandFailed, run
from kronos.system.files import tidy
from kronos.system.intents import Intents
from kronos.system.libvirtd import SYSTEM_URI, PrivateLibvirtd
from kronos.system.notify import notify, watchdog_interval
from kronos.system.outside import NoOutside
from kronos.system.power import NoPower
from kronos.system.settings import Settings, SettingsWrong

log = logging.getLogger(__name__)
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
        self.schedules: Schedules
        self.metrics: Metrics
        self.visitors: Visitors
        self.memory = Memory()
        self.server: Server
        self.audit = AuditFile(settings.state / "audit" / "audit.log")

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
        if replacement.take_up(settings.state):
            log.warning("the database is one that was restored; the old one is kept beside it")
        journal = Journal(settings.database)
        replacement.tidy(settings.state)
        for folder in (settings.state, *settings.state.glob("certificates/*")):
            tidy(folder)
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
            address=settings.address,
            socket=settings.socket,
            authenticate=self._authenticate,
            open_directory=self._open_directory,
            audit=self.audit,
            power=NoPower() if settings.private_libvirt else power.of_this_process(),
            outside=NoOutside() if settings.private_libvirt else outside.of_this_process(),
        )
        self.machine.packages = packages.of_this_host(settings.state / "updates")
        self.db.derive(operations.derive)
        self.db.derive(follow_other_config)
        Alerts(self.db, settings.message_script)
        self.pipeline = Pipeline(self.db, self.machine, loop)
        self.pipeline.sessions.revalidation = settings.session_revalidation
        self.pipeline.callers.on = settings.rate_limit
        self.pipeline.callers.refresh()
        roles.seed(self.db)
        self._refresh_records(detected)
        self.follow = Follow(self.pipeline)
        self.follow.start()
        self.channels = Channels(self.db, self.machine)
        self.channels.start()
        storage.settle_disks(self.pipeline)
        guest_agents.begin(self.db, self.machine)
        sysprep.tidy(self.pipeline)
        blob.tidy(self.db, self.machine)
        allowed_operations.refresh(self.db)
        self.schedules = Schedules(self.pipeline, settings.state)
        self.follow.reboots.take_up()
        Observers(self.pipeline, settings.state)
        UpdateSync(self.pipeline).start()
        self.schedules.start()
        self.metrics = Metrics(self.db, self.machine)
        self.metrics.start()
        self.visitors = Visitors(self.pipeline)
        self.visitors.start()
        self.memory.start()
        checkpointing.settle(self.pipeline)
        self.pipeline.task_workers.submit(start_after_boot, self.pipeline, settings.state)

    def _refresh_records(self, detected: Detected) -> None:
        settings, db, machine = self.settings, self.db, self.machine
        address = settings.address or interfaces.management_address(machine.network)
        if detected.warning:
            log.warning("%s", detected.warning)
        enabled = enabled_after_start(machine.keys)
        identity = host_inventory.Identity(
            machine.hypervisor, detected, address, enabled, host_inventory.product(settings)
        )
        host: Host = host_inventory.refresh(db, identity)
        machine.host_ref = host.ref
        surroundings.refresh(db, host, machine)
        host_access.resume(db, machine)
        processors.resume(db, machine)
        crashes.refresh(db, host)
        updates.resume(db, machine)
        binary_storage.resume(db, machine)
        pool_certificates.settle(db, machine)
        devices.refresh(db, host)
        changing = transaction.is_under_way()
        networks.refresh(db, host, machine.network, settings.internal_bridge)
        interfaces.keep_disabled(db, machine)
        if changing:  # a daemon that was killed has begun it
            threading.Thread(target=interfaces.follow_change, args=(db, machine), daemon=True).start()
        location = settings.storage if settings.default_storage else None
        storage.refresh(self.pipeline, registry.drivers(), location, settings.local_disks)
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

    def _open_directory(self, auth_type: str, service: str, configuration: Mapping[str, str]) -> Directory:
        """A directory of users; PAM's asks the same service file as root's login unless it is told another."""
        if auth_type == pam.PAM.type:
            configuration = {"pam-service": self.settings.pam_service} | dict(configuration)
        made = directories.build(auth_type, service, configuration)
        made.context = partial(pool_certificates.context_for, self.db, self.machine, "ldaps")
        return made

    def _authenticate(self, user: str, password: str) -> None:
        """PAM, for root alone unless the compatibility switch lets every local user in."""
        if user != "root" and not self.settings.any_pam_user:
            raise Failure("SESSION_AUTHENTICATION_FAILED", user, "Authentication failure")
        pam.authenticate(user, password, self.settings.pam_service)

    async def _open_doors(self) -> None:
        settings = self.settings
        host = self.db.get(Host, self.machine.host_ref)
        own = [settings.state / name for name in host_certificates.FILES.values()]
        for path in own:
            ensure_certificate(path, host.hostname, [host.address] if host.address else [])
        host_certificates.refresh(self.db, self.machine, fingerprint)
        certificates = Certificates(own[0], own[1], self._authorities)
        access = Access(self.pipeline)
        self.server = Server(
            doors.all_doors(self.pipeline, access, self.audit),
            https_port=settings.https_port or None,
            inherited=inherited(),
        )
        listeners: list[TcpListener | UnixListener] = []
        if settings.http_port:
            listeners.append(TcpListener(settings.listen, settings.http_port))
        if settings.https_port:
            listeners.append(TcpListener(settings.listen, settings.https_port, certificates.context))
        # The last: who waits for the daemon waits for this one, and finds the others open too.
        listeners.append(UnixListener(settings.socket))
        self.server.allow_plain(not host.https_only)
        self.server.allow_remote(interfaces.is_managed_remotely(self.machine))
        await self.server.start(listeners)
        self.machine.doors = Doorkeeper(asyncio.get_running_loop(), self.server, certificates)

    def _authorities(self) -> tuple[Path, ...]:
        """Whose certificates clients may show instead of a password."""
        return client_certificates.authorities(self.db, self.machine)

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
        self.schedules.close()
        self.metrics.close()
        self.visitors.close()
        self.memory.close()
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


def main(arguments: list[str] | None = None) -> int:
    """The command `xapi`."""
    options = parse(arguments)
    if options.coverage:
        (errands.print_unserved if options.coverage == "unserved" else errands.print_coverage)()
        return 0
    if options.rbac:
        sys.stdout.write(roles.table())
        return 0
    if options.free_disks:
        return errands.print_free_disks()
    try:
        settings = settings_of(options)
    except SettingsWrong as error:
        print(f"xapi: {error}", file=sys.stderr)
        return 2
    if options.check:
        return errands.check(settings, as_json=options.json)
    if options.release:
        return errands.release_networks(settings)
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
