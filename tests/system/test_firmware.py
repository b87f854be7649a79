"""What a guest's firmware keeps, by XenAPI: over stop and start, a killed daemon, and into a clone."""

from __future__ import annotations

import base64
import gzip
import json

import pytest

from harness import guests
from harness.client import Client
from harness.daemon import Daemon, wait_until
from harness.xen import control_domain
from kronos.rules import uefi

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(300),
    pytest.mark.skipif(control_domain.here(), reason="libvirt's libxl driver has no TPMs"),
]


def uefi_vm(client: Client) -> str:
    """A VM that has nothing to boot but its firmware's shell, and a TPM."""
    (template,) = client("VM.get_by_name_label", "Other install media")
    vm = guests.clone_and_provision(client, template, "firmware")
    client("VM.set_HVM_boot_params", vm, {"firmware": "uefi", "order": "c"})
    client("VTPM.create", vm, False)
    return vm


def looked_for_a_disk(daemon: Daemon, client: Client, vm: str) -> None:
    log = daemon.directory / "run" / client("VM.get_uuid", vm) / "serial.log"
    wait_until(lambda: "BdsDxe: " in log.read_text(errors="replace"), 90, "the firmware says nothing")


def variables(client: Client, vm: str) -> bytes:
    return gzip.decompress(base64.b64decode(client("VM.get_NVRAM", vm)["EFI-variables"]))


def contents(client: Client, vm: str) -> bytes:
    (tpm,) = client("VM.get_VTPMs", vm)
    return base64.b64decode(client("VTPM.get_contents", tpm))


def test_firmware_goes_on_where_it_was(daemon: Daemon, client: Client) -> None:
    vm = uefi_vm(client)
    uuid = client("VM.get_uuid", vm)
    assert contents(client, vm) == b""
    client("VM.start", vm, False, False)
    looked_for_a_disk(daemon, client, vm)
    tpm = json.loads(daemon.virsh("qemu-monitor-command", uuid, '{"execute": "query-tpm"}'))
    assert [each["model"] for each in tpm["return"]] == ["tpm-crb"]
    client("VM.hard_shutdown", vm)
    first = contents(client, vm)
    assert first and ("Boot0001", uefi.PLATFORM) in uefi.variables(variables(client, vm))

    client("VM.set_uefi_mode", vm, "user")
    client("VM.start", vm, False, False)
    looked_for_a_disk(daemon, client, vm)
    daemon.kill()
    daemon.virsh("destroy", uuid)
    daemon.start()
    again = daemon.client()
    assert again("VM.get_power_state", vm) == "Halted"
    assert uefi.key_names(variables(again, vm)) == {"PK", "KEK", "db", "dbx"}
    second = contents(again, vm)
    assert second != first and len(second) == len(first)

    clone = again("VM.clone", vm, "clone")
    assert contents(again, clone) == second
    assert variables(again, clone) == variables(again, vm)
    again("VM.destroy", clone)
    again("VM.destroy", vm)
    assert again("secret.get_all") == []
    again.close()
