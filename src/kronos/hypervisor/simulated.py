"""libvirt's own test driver, test:///default: its domains have no processes, so what is timed is the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree.ElementTree import Element

import libvirt

from kronos.datamodel.errors import Failure
from kronos.hypervisor.base import Console, Disk, Domain, Interface
from kronos.hypervisor.kvm import KVMRenderer
from kronos.hypervisor.libvirt import LibvirtHypervisor
from kronos.hypervisor.rendering import Places, Renderer

DEFAULT_URI = "test:///default"


class SimulatedRenderer(KVMRenderer):
    """The same machine, less the parts that the test driver refuses."""

    def __init__(self, places: Places) -> None:
        super().__init__(places, accelerated=False)
        self.domain_type = "test"

    def devices(self, devices: Element, domain: Domain) -> None:
        """Nothing beside disks and interfaces."""

    def consoles(self, devices: Element, domain: Domain) -> None:
        """None: nobody would answer."""


class Simulated(LibvirtHypervisor):
    """VMs that libvirt believes in; for benchmarks and tests of what lies above libvirt. It has no hot
    plug."""

    type = "QEMU"

    def __init__(self, run_directory: Path, uri: str = DEFAULT_URI) -> None:
        super().__init__(uri, run_directory)

    def renderer(self, places: Places) -> Renderer:
        return SimulatedRenderer(places)

    def vnc(self, uuid: str) -> Path:
        raise Failure("VM_LACKS_FEATURE", uuid)

    def serial(self, uuid: str) -> Console:
        raise Failure("VM_LACKS_FEATURE", uuid)

    def plug_disk(self, uuid: str, disk: Disk) -> None:
        raise Failure("VM_LACKS_FEATURE", uuid)

    def plug_interface(self, uuid: str, interface: Interface) -> None:
        raise Failure("VM_LACKS_FEATURE", uuid)

    def _create(self, handle: libvirt.virConnect, document: str, paused: bool) -> libvirt.virDomain:
        domain = handle.createXML(document)
        if paused:
            domain.suspend()
        return domain

    def _restore(self, handle: libvirt.virConnect, document: str, path: Path, paused: bool) -> None:
        # It takes no other document than the image's.
        handle.restore(os.fspath(path))
        if paused:
            uuid = document.partition("<uuid>")[2].partition("</uuid>")[0]
            handle.lookupByUUIDString(uuid).suspend()

    @contextmanager
    def _apart(self) -> Iterator[libvirt.virConnect]:
        # Another connection to an in-process driver could be another world.
        yield self._connection.handle()

    def _prepare(self, domain: Domain) -> Domain:
        return domain  # no sockets, no logs, no directory for them
