"""Xen, through libvirt's libxl driver: only what differs from KVM, and what that driver lacks."""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import libvirt

from kronos.datamodel.errors import Failure
from kronos.hypervisor import domain_stats, happenings, image, savefile, xen_info
from kronos.hypervisor.base import (
    IN_XENAPI,
    DeviceId,
    Domain,
    Event,
    EventKind,
    GuestInfo,
    Limits,
    PhysicalMemory,
    Reason,
    State,
)
from kronos.hypervisor.libvirt import LIVE
from kronos.hypervisor.refusals import refusing
from kronos.hypervisor.rendering import Places, Renderer
from kronos.hypervisor.terminals import Terminals
from kronos.hypervisor.usage import Usage
from kronos.hypervisor.xen_disks import XenDisks
from kronos.hypervisor.xen_rendering import XenRenderer
from kronos.hypervisor.xen_words import Words
from kronos.system.commands import CommandFailed, run
from kronos.system.hardware import Topology

log = logging.getLogger(__name__)

URI = "xen:///system"
_TERMINAL = re.compile(r"/dev/pts/[0-9]{1,6}")
# The numbers are SHUTDOWN_* of Xen's public/sched.h.
_ENDINGS = {"0": Reason.SHUTDOWN, "1": Reason.REBOOTED, "3": Reason.CRASHED}
_CONTROL_DOMAIN = 0


class Xen(XenDisks):
    """VMs on Xen: PV, PVH and HVM, with paravirtual disks and interfaces, whose back ends are QEMU and the kernel."""

    type = "XEN"
    _product = "xen"

    def __init__(self, uri: str, run_directory: Path) -> None:
        self._terminals = Terminals()
        self._unseen: set[str] = set()
        self._words = Words(lambda uuid: self._announcer.announce(Event(uuid, EventKind.AGENT_CONNECTED)))
        super().__init__(uri, run_directory)

    def renderer(self, places: Places) -> Renderer:
        return XenRenderer(places)

    # --- power -------------------------------------------------------------------------------------------------------

    def start(self, domain: Domain, *, paused: bool = False) -> int:
        return self._begin(domain, paused, lambda held: super(Xen, self).start(domain, paused=held))

    def resume(self, domain: Domain, path: Path, *, paused: bool = False) -> int:
        return self._begin(domain, paused, lambda held: super(Xen, self).resume(domain, path, paused=held))

    def _begin(self, domain: Domain, paused: bool, run: Callable[[bool], int]) -> int:
        """Run it; what libvirt's document has no words for is set before its first instruction."""
        held = bool(domain.cap) or any(disk.limits != Limits() for disk in domain.disks)
        try:
            domid = run(paused or held)
        except BaseException:
            if not self._is_there(domain.uuid):
                self._release(domain.uuid)
            raise
        self._accompany(domain, domid)
        if held:
            try:
                self._settle_limits(domain, paused=paused)
            except Failure as failure:
                if failure.code == "VM_BAD_POWER_STATE":
                    return domid  # it has ended already, as its event will say
                with suppress(Failure):
                    self.destroy(domain.uuid)
                raise
        return domid

    def _accompany(self, domain: Domain, domid: int) -> None:
        """A run has begun: its line, what it is given in xenstore, its agent. None of it keeps a guest from running."""
        try:
            self._offer_line(self._lookup(domain.uuid), fresh=True)
        except (libvirt.libvirtError, OSError, Failure) as error:
            log.warning("VM %s has no serial line: %s", domain.uuid, error)
        try:
            self._words.follow(domain.uuid, domid)
            self._words.give(domid, domain.xenstore)
        except OSError as error:
            log.warning("VM %s is not given all of its vm-data: %s", domain.uuid, error)

    def _settle_limits(self, domain: Domain, *, paused: bool) -> None:
        """The cap and the limits of disks of a guest that waits for its first instruction, which it may then have."""
        with refusing(domain.uuid):
            handle = self._lookup(domain.uuid)
            if domain.cap:
                handle.setSchedulerParameters({"cap": domain.cap})
            self._limit_at_start(domain)
            if not paused:
                handle.resume()

    def _prepare(self, domain: Domain) -> Domain:
        super()._prepare(domain)
        with suppress(libvirt.libvirtError):
            raise Failure("DOMAIN_EXISTS", domain.uuid, str(self._lookup(domain.uuid).ID()))
        return self._claimed(domain)

    def suspend(self, uuid: str, path: Path) -> None:
        try:
            super().suspend(uuid, path)
        except Failure as failure:
            # A guest saves itself: one that has not booted so far, or hangs, does not, and runs on after a minute.
            if "Failed to save domain" in failure.params[0] and self.runs(uuid):
                raise Failure("VM_FAILED_SUSPEND_ACKNOWLEDGMENT", uuid) from failure
            raise

    def abandon_suspend(self, uuid: str) -> None:
        # libxl has no way to stop a save; it ends by itself, with the guest gone or running on.
        self.await_start(uuid)

    def live_migration_obstacle(self, uuid: str) -> str:
        with refusing(uuid):
            # libvirt's answer is "xen" where its document has "linux".
            paravirtual = self._lookup(uuid).OSType() in ("xen", "linux")
        if paravirtual and not _has_shadow_paging():
            # Xen notes which pages a PV guest writes to by shadowing its page tables; Debian builds it without.
            return "This Xen has no shadow paging, without which a PV guest cannot be moved while it runs."
        return ""

    def is_saved(self, path: Path) -> bool:
        return savefile.is_whole(path)

    # --- devices -----------------------------------------------------------------------------------------------------

    def _unplug(self, uuid: str, device: DeviceId, timeout: float) -> None:
        """libxl waits until the guest has let go, ten seconds at most, and tells nobody later."""
        kind = IN_XENAPI[device.kind]
        with self._live(uuid) as domain:
            document = image.device_document(domain.XMLDesc(), device)
            if document is None:
                raise Failure("DEVICE_ALREADY_DETACHED", uuid)
            if ElementTree.fromstring(document).get("device") == "cdrom":  # noqa: S314 - libvirt's own writing
                raise Failure("VM_LACKS_FEATURE", uuid)  # libvirt plugs and unplugs no drives
            try:
                domain.detachDeviceFlags(document, LIVE)
            except libvirt.libvirtError as error:
                if "failed to detach" in str(error):
                    raise Failure("DEVICE_DETACH_TIMEOUT", kind, uuid) from error
                raise
            if device.kind == "disk":
                self._gone(uuid, image.target_of(document))
        self._announcer.announce(Event(uuid, EventKind.DEVICE_REMOVED, device=device))

    # --- what the machine has ----------------------------------------------------------------------------------------

    def guest_tree(self, uuid: str) -> Mapping[str, str] | None:
        with refusing(uuid):
            domain = self._lookup(uuid)
            devices, domid = image.interfaces(domain.XMLDesc()), domain.ID()
        try:
            return self._words.of_guest(domid, devices)
        except OSError as error:
            raise Failure("INTERNAL_ERROR", f"xenstored: {error}") from error

    def tell(self, uuid: str, words: Mapping[str, str | None]) -> None:
        with refusing(uuid):
            domid = self._lookup(uuid).ID()
        try:
            self._words.tell(domid, words)
        except OSError as error:
            raise Failure("INTERNAL_ERROR", f"xenstored: {error}") from error

    def offer(self, features: Mapping[str, str]) -> None:
        try:
            self._words.offer(features)
        except OSError as error:
            raise Failure("INTERNAL_ERROR", f"xenstored: {error}") from error

    def guest_info(self, uuid: str) -> GuestInfo:
        raise Failure("VM_MISSING_PV_DRIVERS", uuid)  # agents here write into xenstore

    def versions(self) -> dict[str, str]:
        found = super().versions()
        # libvirt asks Xen for its version as libvirt's own are written; the hypervisor shows it whole.
        parts = [_hypervisor_text(f"version/{name}") for name in ("major", "minor", "extra")]
        if all(parts):
            found["xen"] = f"{parts[0]}.{parts[1]}{parts[2]}"
        return found

    def usages(self) -> list[Usage]:
        domains = [domain for domain, _ in self._states(self._connection.handle())]
        return domain_stats.one_by_one(domains, time.monotonic, self.disk_statistics)

    def physical_memory(self) -> PhysicalMemory | None:
        handle = self._connection.handle()
        try:
            return PhysicalMemory(handle.getInfo()[1] << 20, handle.getFreeMemory())
        except libvirt.libvirtError as error:
            raise Failure("INTERNAL_ERROR", f"libvirt: {error}") from error

    def physical_processors(self) -> int | None:
        try:
            return int(self._connection.handle().getInfo()[2])
        except libvirt.libvirtError as error:
            raise Failure("INTERNAL_ERROR", f"libvirt: {error}") from error

    def topology(self) -> Topology | None:
        try:
            info = self._connection.handle().getInfo()
        except libvirt.libvirtError as error:
            raise Failure("INTERNAL_ERROR", f"libvirt: {error}") from error
        cpus, nodes, cores, threads = (max(1, int(info[place])) for place in (2, 4, 6, 7))
        # Not what libvirt says of sockets: it counts those of a node, and not on every hypervisor.
        return Topology(nodes, max(1, cpus // (cores * threads)), threads)

    # --- events and states -------------------------------------------------------------------------------------------

    def watch(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        stop = super().watch(callback)
        # Guests that ended while nobody watched, and wait for somebody to see why.
        for domain in self._connection.handle().listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            with suppress(libvirt.libvirtError):
                uuid = domain.UUIDString()
                kept = domain.state()[0] == libvirt.VIR_DOMAIN_SHUTOFF
                if kept and self._is_ours(uuid) and uuid not in self._unseen:
                    self._unseen.add(uuid)
                    self._announcer.announce(Event(uuid, EventKind.HALTED, Reason.SHUTDOWN))
        return stop

    def ended(self) -> set[str]:
        return set(self._unseen)

    def runs(self, uuid: str) -> bool:
        return super().runs(uuid) and self._state_now(uuid) is not State.HALTED

    def _states(self, handle: libvirt.virConnect) -> list[tuple[libvirt.virDomain, State]]:
        found = []
        for domain in handle.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            if domain.ID() == _CONTROL_DOMAIN:
                continue
            with suppress(libvirt.libvirtError):  # it ended meanwhile
                state = happenings.STATES.get(domain.state()[0])
                if state is not None:
                    found.append((domain, state))
        return found

    def _opened(self, handle: libvirt.virConnect, again: bool) -> None:
        super()._opened(handle, again)
        for domain, _ in self._states(handle):
            with suppress(libvirt.libvirtError, OSError):
                self._offer_line(domain)
                self._words.follow(domain.UUIDString(), domain.ID())
            if not again:
                self._reconcile_disks(domain.UUIDString())
                self._limit_in_time(domain.UUIDString())

    def _is_ours(self, uuid: str) -> bool:
        """Others may keep guests that ended, to look into them."""
        return self.places.of(uuid).exists()

    def _told(self, event: Event) -> Event | None:
        """What an event of libxl's means: a guest that reboots is announced as started, and then as halted."""
        if not self._is_ours(event.uuid):
            return event
        if event.kind is EventKind.STARTED:
            self._line_of(event.uuid)
        if event.kind not in (EventKind.HALTED, EventKind.SUSPENDED):
            return event
        state = self._state_now(event.uuid)
        if state in (State.RUNNING, State.PAUSED):
            with self._guard:
                self._know(event.uuid, state)
            self._line_of(event.uuid)
            self._limit_in_time(event.uuid)
            return Event(event.uuid, EventKind.REBOOTED, value=self._domid(event.uuid))
        reason = event.reason
        if state is State.HALTED:
            reason = self._let_go(event.uuid)
        with self._turns.of(event.uuid):  # it may be on its way here again, with claims of its own
            if self._state_now(event.uuid) is None:
                self._terminals.detach(event.uuid)
                self._words.forget(event.uuid)
                self._release(event.uuid)
        return replace(event, reason=reason)

    def _limit_in_time(self, uuid: str) -> None:
        """Have the limits of its disks hold in a run that this daemon has not begun."""
        if self._is_limited(uuid):
            # In a thread of its own: the disks appear when the guest's kernel looks for them.
            threading.Thread(target=self._limit_after_reboot, args=(uuid,), daemon=True).start()

    def _limit_after_reboot(self, uuid: str) -> None:
        try:
            with self._turns.of(uuid):
                self._limit_again(uuid)
        except (Failure, OSError) as error:
            log.warning("The disks of VM %s are without limits since its reboot: %s", uuid, error)

    def _state_now(self, uuid: str) -> State | None:
        """None where there is no such domain; HALTED for one that has ended and is kept until it is looked at."""
        try:
            return happenings.STATES.get(self._lookup(uuid).state()[0], State.HALTED)
        except (libvirt.libvirtError, Failure):
            return None

    def _domid(self, uuid: str) -> int:
        with suppress(libvirt.libvirtError, Failure):
            return max(0, int(self._lookup(uuid).ID()))
        return 0

    def _let_go(self, uuid: str) -> Reason:
        """Destroy a domain that has ended and was kept so that one can see why: no event says reboot or poweroff."""
        reason = Reason.SHUTDOWN
        with suppress(libvirt.libvirtError, Failure):
            domain = self._lookup(uuid)
            reason = _ending(domain.ID())
            domain.destroy()
        return reason

    def _line_of(self, uuid: str) -> None:
        """A run has begun, by whomever: offer its line, and listen to its agent."""
        with suppress(libvirt.libvirtError, OSError, Failure):
            domain = self._lookup(uuid)
            self._offer_line(domain)
            self._words.follow(uuid, domain.ID())

    def _reconcile_disks(self, uuid: str) -> None:
        try:
            if self._claims.targets(uuid):
                self._qdisks.reconcile(uuid)
        except (Failure, OSError) as error:
            log.warning("The disks of VM %s cannot be looked at: %s", uuid, error)

    def close(self) -> None:
        super().close()
        self._terminals.close()
        self._words.close()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _offer_line(self, domain: libvirt.virDomain, *, fresh: bool = False) -> None:
        """Serve the guest's serial line at its place."""
        terminal = _terminal(domain.XMLDesc())
        if terminal is None:
            return
        uuid = domain.UUIDString()
        self._terminals.attach(
            uuid, terminal, self.places.serial(uuid), self.places.serial_log(uuid), fresh=fresh
        )

    def _restore(self, handle: libvirt.virConnect, document: str, path: Path, paused: bool) -> None:
        # libvirt takes no other document than the image's own, so it gets an image with another one.
        flag = libvirt.VIR_DOMAIN_SAVE_PAUSED if paused else 0  # of the others libxl's driver knows none
        uuid = document.partition("<uuid>")[2].partition("</uuid>")[0]
        with _rewritten(path, document, self.places.of(uuid) / "resume") as pipe:
            handle.restoreFlags(os.fspath(pipe), None, flag)

    def _repointed(self, handle: libvirt.virConnect, domain: Domain, path: Path) -> str:
        try:
            saved = savefile.read(path)
        except (savefile.UnusableSavefile, OSError) as error:
            log.warning("The memory image of %s: %s", domain.uuid, error)
            raise Failure("VM_CHECKPOINT_RESUME_FAILED", domain.uuid) from error
        return image.repointed(saved.untrusted_document, self._renderer.domain(domain))


def _ending(domid: int) -> Reason:
    """Why a domain that is still there has ended. Only xl tells: the last but one column of its list."""
    try:
        lines = run(["xl", "list", "-v", str(domid)], timeout=20).splitlines()
    except CommandFailed as error:
        log.warning("Why domain %d has ended is not known: %s", domid, error)
        return Reason.UNKNOWN
    words = lines[-1].split()
    return _ENDINGS.get(words[-2] if len(words) > 2 else "", Reason.SHUTDOWN)


def _has_shadow_paging() -> bool:
    """Whether this Xen was built with it. Where xl does not tell, a migration would: let it be tried."""
    try:
        abilities = xen_info.said().get("virt_caps", "")
    except CommandFailed as error:
        log.warning("What this Xen can do is not known: %s", error)
        return True
    return "shadow" in abilities.split()


def _terminal(document: str) -> str | None:
    """The pseudo-terminal of the guest's console or first serial port."""
    devices = ElementTree.fromstring(document).find("devices")  # noqa: S314 - libvirt's own writing
    for kind in ("serial", "console"):
        for element in devices.iterfind(kind) if devices is not None else ():
            source = element.find("source")
            path = source.get("path", "") if source is not None else ""
            if _TERMINAL.fullmatch(path):
                return path
    return None


@contextmanager
def _rewritten(path: Path, document: str, pipe: Path) -> Iterator[Path]:
    """A named pipe from which the image at `path` comes with another document at its head."""
    old = savefile.read(path)
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe, 0o600)
    feeder = threading.Thread(target=_feed, args=(path, old, document, pipe), name="resume", daemon=True)
    feeder.start()
    try:
        yield pipe
    finally:
        # One that nobody has opened would wait for ever.
        with suppress(OSError):
            os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
        feeder.join(10)
        pipe.unlink(missing_ok=True)


def _feed(path: Path, old: savefile.Savefile, document: str, pipe: Path) -> None:
    try:
        with path.open("rb") as source, pipe.open("wb", buffering=0) as sink:
            sink.write(savefile.head(document, old.version))
            source.seek(old.stream)
            shutil.copyfileobj(source, sink, 1 << 20)
    except BrokenPipeError:
        pass  # libxl has read what it wanted: a raw VDI is longer than the image in it
    except OSError as error:
        log.warning("The memory image %s: %s", path, error)


def _hypervisor_text(name: str) -> str:
    try:
        return Path("/sys/hypervisor", name).read_text().strip()
    except OSError:
        return ""
