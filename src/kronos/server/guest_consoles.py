"""Which console a request means, and whether its caller may see it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from kronos.api.vm.naming import named_by_reference
from kronos.datamodel.errors import Failure
from kronos.db.records import VM, Console, Session
from kronos.server.access import Access
from kronos.server.console import Endpoint
from kronos.server.routing import Credentials

R = TypeVar("R", Console, VM)

THREADS = 32
SCROLLBACK = 64 << 10
"""Bytes of a serial line's past that a new reader sees."""


class GuestConsoles:
    """Finds the consoles of this host's VMs."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.db = access.pipeline.db
        # Apart from those of calls: whoever sends wrong passwords here holds a thread for seconds each time.
        self._threads = ThreadPoolExecutor(THREADS, "console")

    async def resolve(self, query: Mapping[str, str], credentials: Credentials) -> Endpoint:
        """The console that `ref` or `uuid` names: a console's own, or a VM's (its screen, then its serial line).

        Raises SESSION_INVALID, RBAC_PERMISSION_DENIED, HANDLE_INVALID, VM_BAD_POWER_STATE.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._find, query, credentials)

    def screenshot(self, session: Session, query: Mapping[str, str]) -> bytes:
        """What the screen that `ref` or `uuid` names shows now, as a PNG or PPM image. Blocks.

        Raises RBAC_PERMISSION_DENIED, HANDLE_INVALID for what is no guest's screen, VM_BAD_POWER_STATE, and
        VM_LACKS_FEATURE [vm] where the hypervisor makes no pictures.
        """
        console = self._console(query)
        vm = self.db.get(VM, console.VM)
        self._authorise(session, vm, "get_vncsnapshot", query)
        if vm.is_control_domain or console.protocol != "rfb":
            raise Failure("HANDLE_INVALID", "console", console.ref)
        with named_by_reference(vm):
            return self.access.pipeline.machine.hypervisor.screenshot(vm.uuid)

    def _find(self, query: Mapping[str, str], credentials: Credentials) -> Endpoint:
        with self.access.session_of(credentials) as session:
            console = self._console(query)
            vm = self.db.get(VM, console.VM)
            self._authorise(session, vm, "connect_console", query)
            return self._endpoint(console, vm)

    def _console(self, query: Mapping[str, str]) -> Console:
        ref, uuid = query.get("ref", ""), query.get("uuid", "")
        row = self.db.find(Console, ref)
        vm = self.db.find(VM, ref)
        if uuid:
            row = self._by_uuid(Console, uuid)
            vm = self._by_uuid(VM, uuid)
        if row is None and vm is not None:
            consoles = sorted((self.db.get(Console, each) for each in vm.consoles), key=lambda c: c.protocol)
            row = next(iter(consoles), None)
        if row is None:
            raise Failure("HANDLE_INVALID", "console", ref or uuid)
        return row

    def _by_uuid(self, kind: type[R], uuid: str) -> R | None:
        try:
            return self.db.by_uuid(kind, uuid)
        except Failure:
            return None

    def _authorise(self, session: Session, vm: VM, action: str, query: Mapping[str, str]) -> None:
        self.access.require(session, f"{action}/host_console" if vm.is_control_domain else action, query)

    def _endpoint(self, console: Console, vm: VM) -> Endpoint:
        if vm.is_control_domain:
            # The host's own terminal: nothing stands behind it, an administrator has ssh.
            raise Failure("HANDLE_INVALID", "console", console.ref)
        hypervisor = self.access.pipeline.machine.hypervisor
        if console.protocol == "rfb":
            return Endpoint(hypervisor.vnc(vm.uuid))
        serial = hypervisor.serial(vm.uuid)
        try:
            with serial.log.open("rb") as log:
                log.seek(0, 2)
                log.seek(max(0, log.tell() - SCROLLBACK))
                past = log.read()
        except OSError:  # nothing was printed yet
            past = b""
        return Endpoint(serial.socket, past)
