"""What guests' firmware keeps, on real QEMU: UEFI's variables and a TPM's contents, from one run to the next."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import libvirt_qemu
import pytest

from kronos.datamodel.errors import Failure
from kronos.hypervisor.base import Domain, Firmware, Platform
from kronos.hypervisor.hardware import HostUSB, Kept
from kronos.rules import uefi
from kronos.system import ovmf

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def world(qemu_world: Any) -> Any:
    return qemu_world


def until(condition: Callable[[], object], patience: float = 60.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def uefi_domain(world: Any, **changes: Any) -> Domain:
    memory = {"memory_static_max": 128 << 20, "memory_target": 128 << 20}
    boot = changes.pop("boot", Firmware("uefi"))
    platform = Platform(vga="none", hotplug=False)
    return world.domain(boot=boot, platform=platform, **memory, **changes)  # type: ignore[no-any-return]


def booted(world: Any, domain: Domain) -> bytes:
    """The variables that a guest has once its firmware has looked for something to boot."""

    def has_looked() -> bool:
        return b"BdsDxe: " in world.log(domain.uuid)

    world.hypervisor.start(domain)
    until(has_looked)
    world.hypervisor.destroy(domain.uuid)
    kept = world.hypervisor.kept(domain.uuid)
    assert kept.variables is not None
    return bytes(kept.variables)


def test_uefi_begins_where_the_last_run_ended(world: Any) -> None:
    domain = uefi_domain(world)
    first = booted(world, domain)
    assert ("Boot0001", uefi.PLATFORM) in uefi.variables(first)
    template = ovmf.template(enrolled=True)
    assert template is not None
    # Keys are something that only we have put there.
    mine = uefi.with_keys(first, uefi.variables(template))
    second = booted(world, replace(domain, kept=Kept(variables=mine)))
    assert uefi.key_names(second) == {"PK", "KEK", "db", "dbx"}
    assert booted(world, domain) != second, "without variables it begins anew"
    world.hypervisor.forget(domain.uuid)
    assert world.hypervisor.kept(domain.uuid) == Kept()


def test_secure_boot_begins_with_the_distributions_keys(world: Any) -> None:
    domain = uefi_domain(world, boot=Firmware("uefi", secure_boot=True))
    store = booted(world, domain)
    assert uefi.readiness(store, secure=True) == "ready"
    assert uefi.variables(store)["SecureBootEnable", _SECURE_BOOT_ENABLE].data == b"\1"


_SECURE_BOOT_ENABLE = uefi.uuid.UUID("f0a30bc7-af08-4556-99c4-001009c93a44")


def test_a_uefi_guest_with_a_tpm_is_suspended_and_resumed(world: Any, tmp_path: Any) -> None:
    domain = uefi_domain(world, tpm=True)
    world.hypervisor.start(domain)
    until(lambda: b"BdsDxe: " in world.log(domain.uuid))
    world.hypervisor.suspend(domain.uuid, tmp_path / "memory")
    kept = world.hypervisor.kept(domain.uuid)
    world.hypervisor.resume(replace(domain, kept=kept), tmp_path / "memory")
    assert tpms(world, domain) == ["tpm-crb"]
    world.hypervisor.destroy(domain.uuid)
    again = world.hypervisor.kept(domain.uuid)
    assert uefi.variables(again.variables).keys() >= uefi.variables(kept.variables).keys()


def tpms(world: Any, domain: Domain) -> list[str]:
    handle = world.hypervisor._lookup(domain.uuid)
    answer = json.loads(libvirt_qemu.qemuMonitorCommand(handle, json.dumps({"execute": "query-tpm"}), 0))
    return [each["model"] for each in answer["return"]]


def test_a_guest_has_the_tpm_that_it_had_before(world: Any) -> None:
    domain = world.domain(tpm=True)
    world.hypervisor.start(domain)
    world.ready(domain.uuid)
    assert tpms(world, domain) == ["tpm-crb"]
    world.hypervisor.destroy(domain.uuid)
    first = world.hypervisor.kept(domain.uuid).tpm
    assert first is not None and first.startswith(b"\2\1\0\n")

    world.hypervisor.forget(domain.uuid)  # as on another host, or after files were lost
    world.hypervisor.start(replace(domain, kept=Kept(tpm=first)))
    world.ready(domain.uuid)
    world.hypervisor.destroy(domain.uuid)
    second = world.hypervisor.kept(domain.uuid).tpm
    assert second is not None and 0 < different(first, second) < 100, "its counters of starts have gone on"

    world.hypervisor.start(domain)
    world.ready(domain.uuid)
    world.hypervisor.destroy(domain.uuid)
    third = world.hypervisor.kept(domain.uuid).tpm
    assert third is not None and different(first, third) > 200, "without contents it is another TPM"


def different(one: bytes, other: bytes) -> int:
    return sum(a != b for a, b in zip(one, other, strict=False))


def test_a_usb_device_that_is_not_there_keeps_a_guest_from_starting(world: Any) -> None:
    domain = world.domain(usb=(HostUSB(7, 1, 99),))
    with pytest.raises(Failure) as refused:
        world.hypervisor.start(domain)
    assert "usb" in refused.value.params[0].lower(), "libvirt took the document, and missed the device"
    assert not world.hypervisor.runs(domain.uuid)
