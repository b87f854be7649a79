"""Secure boot: the keys of VMs and of the host, as the distribution's firmware has them."""

from __future__ import annotations

import base64
import io
import json
import tarfile

import pytest

from kronos.background.inventory import surroundings
from kronos.db.records import VM, Host
from kronos.hypervisor.hardware import Kept
from kronos.rules import uefi
from kronos.system import ovmf

UEFI = {"HVM_boot_params": {"firmware": "uefi", "order": "cd"}}


def uefi_vm(host, **fields) -> VM:
    return host.halted_vm(**UEFI | fields)


def readiness(host, vm: VM) -> str:
    return host("VM.get_secureboot_readiness", vm.ref)


def run(host, vm: VM, enrolled: bool) -> None:
    host("VM.start", vm.ref, False, False)
    host.hypervisor.firmware[vm.uuid] = Kept(variables=ovmf.template(enrolled=enrolled))
    host("VM.hard_shutdown", vm.ref)


def test_a_bios_has_no_secure_boot(host):
    assert readiness(host, host.halted_vm(platform={"secureboot": "true"})) == "not_supported"


def test_readiness_follows_the_keys_that_a_firmware_has(host):
    vm = uefi_vm(host)
    assert readiness(host, vm) == "disabled"
    vm.platform = {"secureboot": "true"}
    assert readiness(host, vm) == "first_boot"
    run(host, vm, enrolled=False)
    assert readiness(host, vm) == "setup_mode"
    run(host, vm, enrolled=True)
    assert readiness(host, vm) == "ready"


@pytest.mark.parametrize(
    ("missing", "expected"),
    [("dbx", "ready_no_dbx"), ("db", "certs_incomplete"), ("KEK", "certs_incomplete")],
)
def test_a_key_that_is_missing_is_told_of(host, missing, expected):
    vm = uefi_vm(host, platform={"secureboot": "true"})
    template = uefi.variables(ovmf.template(enrolled=True))
    kept = {key: found for key, found in template.items() if key[0] != missing}
    store = uefi.with_keys(ovmf.template(enrolled=False), kept)
    host("VM.set_NVRAM", vm.ref, {"EFI-variables": uefi.text_of(store)})
    assert readiness(host, vm) == expected


def test_a_vm_is_put_into_setup_mode_and_back(host):
    vm = uefi_vm(host, platform={"secureboot": "true"})
    host("VM.set_uefi_mode", vm.ref, "user")
    assert readiness(host, vm) == "ready"
    host("VM.set_uefi_mode", vm.ref, "setup")
    assert readiness(host, vm) == "setup_mode"
    host("VM.start", vm.ref, False, False)
    began = host.hypervisor.guests[vm.uuid].domain
    assert began.boot.secure_boot and uefi.key_names(began.kept.variables) == set()
    assert host.refused("VM.set_uefi_mode", vm.ref, "user") == [
        "VM_BAD_POWER_STATE", vm.ref, "halted", "running"]  # fmt: skip


def test_a_bios_has_no_mode(host):
    assert host.refused("VM.set_uefi_mode", host.halted_vm().ref, "user")[0] == "OPERATION_NOT_ALLOWED"


def test_a_store_without_room_stays_as_it_is(host):
    vm = uefi_vm(host)
    full = bytearray(ovmf.template(enrolled=False))
    full[0x58:0x5C] = (1024).to_bytes(4, "little")  # the store's size
    before = {"EFI-variables": uefi.text_of(bytes(full))}
    host("VM.set_NVRAM", vm.ref, before)
    assert host.refused("VM.set_uefi_mode", vm.ref, "user")[0] == "OPERATION_NOT_ALLOWED"
    assert before == vm.NVRAM


def test_a_firmware_writes_its_variables(host):
    vm = uefi_vm(host)
    host("VM.add_to_NVRAM", vm.ref, "EFI-variables-on-boot", "persist")
    vm.secureboot_certificates_state = "update_on_boot"
    host("VM.set_NVRAM_EFI_variables", vm.ref, "one", "no")
    assert vm.secureboot_certificates_state == "update_on_boot"
    host("VM.set_NVRAM_EFI_variables", vm.ref, "two", "yes")
    assert vm.NVRAM == {"EFI-variables-on-boot": "persist", "EFI-variables": "two"}
    assert vm.secureboot_certificates_state == "ok"
    newest = uefi.variables(ovmf.template(enrolled=True))
    poor = {key: uefi.Variable(each.name, each.vendor, 7, each.stamp, b"") for key, each in newest.items()}
    old = uefi.with_keys(ovmf.template(enrolled=False), poor)
    host("VM.set_NVRAM_EFI_variables", vm.ref, uefi.text_of(old), "unspecified")
    assert vm.secureboot_certificates_state == "update_available"
    host.pool.auto_update_vm_secureboot_certificates = True
    host("VM.set_NVRAM_EFI_variables", vm.ref, uefi.text_of(old), "unspecified")
    assert vm.secureboot_certificates_state == "update_on_boot"


def test_an_update_is_marked_where_there_is_one(host):
    vm = uefi_vm(host)
    assert (
        host.refused("VM.update_secureboot_certificates_on_boot", vm.ref, True)[0] == "OPERATION_NOT_ALLOWED"
    )
    vm.secureboot_certificates_state = "update_available"
    for mark, expected in [(True, "update_on_boot"), (True, "update_on_boot"), (False, "update_available")]:
        host("VM.update_secureboot_certificates_on_boot", vm.ref, mark)
        assert vm.secureboot_certificates_state == expected


# --- the host --------------------------------------------------------------------------------------------------------


def archived(text: str) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(text))) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def test_the_host_shows_the_keys_of_its_distribution(xapi):
    surroundings.refresh(xapi.db, xapi.host, xapi.machine)
    keys = archived(xapi.host.uefi_certificates)
    assert sorted(keys) == ["KEK.esl", "PK.esl", "db.esl", "dbx.esl"]
    assert xapi.pool.uefi_certificates == xapi.host.uefi_certificates
    assert b"Microsoft" in keys["KEK.esl"]
    assert xapi("pool.get_guest_secureboot_readiness", xapi.pool.ref) == "ready"


def test_the_keys_are_looked_at_again_when_asked(xapi, tmp_path):
    xapi("host.write_uefi_certificates_to_disk", xapi.host.ref)
    assert xapi.host.uefi_certificates
    xapi.machine.root = tmp_path  # a host without such firmware
    xapi("host.write_uefi_certificates_to_disk", xapi.host.ref)
    assert xapi.host.uefi_certificates == xapi.pool.uefi_certificates == ""
    assert xapi("pool.get_guest_secureboot_readiness", xapi.pool.ref) == "not_ready"
    other = xapi.db.create(Host)
    assert xapi.refused("host.write_uefi_certificates_to_disk", other.ref) == ["HOST_OFFLINE", other.ref]


def test_guests_of_xen_have_no_keys(xapi, monkeypatch):
    monkeypatch.setattr(xapi.hypervisor, "type", "XEN")
    surroundings.refresh(xapi.db, xapi.host, xapi.machine)
    assert xapi.host.uefi_certificates == ""
    assert xapi("pool.get_guest_secureboot_readiness", xapi.pool.ref) == "not_ready"


def test_keys_without_revocations_are_half(xapi, tmp_path):
    template = uefi.variables(ovmf.template(enrolled=True))
    kept = {key: found for key, found in template.items() if key[0] != "dbx"}
    (tmp_path / "VARS.fd").write_bytes(uefi.with_keys(ovmf.template(enrolled=False), kept))
    description = {
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": "/CODE.fd", "format": "raw"},
            "nvram-template": {"filename": "/VARS.fd", "format": "raw"},
        },
        "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
        "features": ["secure-boot", "enrolled-keys"],
    }
    folder = tmp_path / "usr/share/qemu/firmware"
    folder.mkdir(parents=True)
    (folder / "10-broken.json").write_text("{")
    (folder / "20-other.json").write_text(json.dumps(description | {"targets": []}))
    (folder / "30-firmware.json").write_text(json.dumps(description))
    xapi.machine.root = tmp_path
    assert xapi("pool.get_guest_secureboot_readiness", xapi.pool.ref) == "ready_no_dbx"
