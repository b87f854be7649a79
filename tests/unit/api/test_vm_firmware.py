"""What a VM's firmware keeps: TPMs and UEFI's variables, in the records from one run to the next."""

from __future__ import annotations

import base64
import gzip

import pytest

from kronos.api.vm import firmware
from kronos.background.reconcile import reconcile
from kronos.datamodel.errors import Failure
from kronos.db.records import VM, VTPM, Secret
from kronos.hypervisor.hardware import Kept
from kronos.rules import uefi
from kronos.system import ovmf

UEFI = {"HVM_boot_params": {"firmware": "uefi", "order": "cd"}}


def tpm(text: bytes = b"a TPM") -> bytes:
    """Something that begins as the state of swtpm's TPM does."""
    return b"\2\1\0\n\0\0" + (10 + len(text)).to_bytes(4, "big") + text


def template(*, enrolled: bool) -> bytes:
    found = ovmf.template(enrolled=enrolled)
    assert found is not None, "the package ovmf is not installed"
    return found


def with_tpm(host, *, unique: bool = False) -> tuple[VM, VTPM]:
    vm = host.halted_vm()
    return vm, host.db.get(VTPM, host("VTPM.create", vm.ref, unique))


def run(host, vm: VM, left: Kept) -> Kept:
    """Start and power off; what the run began with."""
    host("VM.start", vm.ref, False, False)
    began = host.hypervisor.guests[vm.uuid].domain.kept
    host.hypervisor.firmware[vm.uuid] = left
    host("VM.hard_shutdown", vm.ref)
    return began


# --- TPMs ------------------------------------------------------------------------------------------------------------


def test_a_tpm_begins_where_its_last_run_ended(host):
    vm, row = with_tpm(host)
    assert host("VTPM.get_contents", row.ref) == ""
    assert run(host, vm, Kept(tpm=tpm())) == Kept()
    assert host("VTPM.get_contents", row.ref) == base64.b64encode(tpm()).decode()
    assert run(host, vm, Kept(tpm=tpm(b"more"))) == Kept(tpm=tpm())
    assert base64.b64decode(host("VTPM.get_contents", row.ref)) == tpm(b"more")


def test_a_running_vms_tpm_is_asked_for_what_is_in_it_now(host):
    vm, row = with_tpm(host)
    host("VM.start", vm.ref, False, False)
    assert host.hypervisor.guests[vm.uuid].domain.tpm
    host.hypervisor.firmware[vm.uuid] = Kept(tpm=tpm(b"now"))
    assert base64.b64decode(host("VTPM.get_contents", row.ref)) == tpm(b"now")


def test_a_suspended_vms_tpm_is_kept(host):
    vm, row = with_tpm(host)
    host("VM.start", vm.ref, False, False)
    host.hypervisor.firmware[vm.uuid] = Kept(tpm=tpm(b"asleep"))
    host("VM.suspend", vm.ref)
    assert base64.b64decode(host("VTPM.get_contents", row.ref)) == tpm(b"asleep")
    host("VM.resume", vm.ref, False, False)
    assert host.hypervisor.guests[vm.uuid].domain.kept == Kept(tpm=tpm(b"asleep"))


def test_what_a_tpm_kept_survives_the_daemon(host):
    vm, row = with_tpm(host)
    host("VM.start", vm.ref, False, False)
    host.follow.close()
    del host.hypervisor.guests[vm.uuid]  # it ended while nobody watched
    host.hypervisor.firmware[vm.uuid] = Kept(tpm=tpm(b"unseen"))
    reconcile(host.db, host.machine)
    assert vm.power_state == "Halted"
    assert base64.b64decode(host("VTPM.get_contents", row.ref)) == tpm(b"unseen")


def test_files_that_cannot_be_read_change_nothing(host, monkeypatch):
    vm, row = with_tpm(host)
    run(host, vm, Kept(tpm=tpm()))
    host("VM.start", vm.ref, False, False)

    def broken(uuid):
        raise Failure("INTERNAL_ERROR", "Input/output error")

    monkeypatch.setattr(host.hypervisor, "kept", broken)
    host("VM.hard_shutdown", vm.ref)
    assert vm.power_state == "Halted"
    assert base64.b64decode(host("VTPM.get_contents", row.ref)) == tpm()


def test_a_vm_has_one_tpm_and_gets_it_while_it_is_halted(host):
    vm, row = with_tpm(host)
    assert host.refused("VTPM.create", vm.ref, False) == ["VTPM_MAX_AMOUNT_REACHED", "1"]
    host("VM.start", vm.ref, False, False)
    assert host.refused("VTPM.destroy", row.ref) == ["VM_BAD_POWER_STATE", vm.ref, "halted", "running"]
    other = host.halted_vm()
    host("VM.start", other.ref, False, False)
    assert host.refused("VTPM.create", other.ref, False)[:2] == ["VM_BAD_POWER_STATE", other.ref]


def test_what_was_in_a_tpm_goes_with_it(host):
    vm, row = with_tpm(host)
    run(host, vm, Kept(tpm=tpm()))
    host("VTPM.destroy", row.ref)
    assert host.db.all(Secret) == [] and vm.VTPMs == ()
    with_tpm(host)
    host("VM.destroy", host.db.all(VTPM)[0].VM)
    assert host.db.all(Secret) == host.db.all(VTPM) == []


def test_contents_are_replaced_by_base64_alone(host):
    _, row = with_tpm(host)
    assert host.refused("VTPM.set_contents", row.ref, "not base64!")[0] == "INVALID_VALUE"
    host("VTPM.set_contents", row.ref, base64.b64encode(tpm(b"given")).decode())
    assert base64.b64decode(host("VTPM.get_contents", row.ref)) == tpm(b"given")
    assert len(host.db.all(Secret)) == 1


def test_contents_of_another_kind_of_tpm_are_not_replaced_by_a_new_one(host):
    vm, row = with_tpm(host)
    host("VTPM.set_contents", row.ref, base64.b64encode(b"swtpmlin and more").decode())
    assert host.refused("VM.start", vm.ref, False, False)[0] == "OPERATION_NOT_ALLOWED"
    assert vm.power_state == "Halted"


def test_the_platform_can_ask_for_a_tpm(host):
    vm = host.halted_vm(platform={"vtpm": "true"})
    host("VM.start", vm.ref, False, False)
    (row,) = host.db.all(VTPM)
    assert vm.VTPMs == (row.ref,) and host.hypervisor.guests[vm.uuid].domain.tpm


def test_a_copy_of_a_vm_has_a_copy_of_its_tpm(host):
    vm, _ = with_tpm(host)
    run(host, vm, Kept(tpm=tpm()))
    copy = host.db.get(VM, host("VM.clone", vm.ref, "copy"))
    assert base64.b64decode(host("VTPM.get_contents", copy.VTPMs[0])) == tpm()
    assert len(host.db.all(Secret)) == 2


def test_a_unique_tpm_is_another_one_in_a_copy(host):
    vm, _ = with_tpm(host, unique=True)
    run(host, vm, Kept(tpm=tpm()))
    copy = host.db.get(VM, host("VM.clone", vm.ref, "copy"))
    assert host("VTPM.get_contents", copy.VTPMs[0]) == ""
    assert host.db.get(VTPM, copy.VTPMs[0]).is_unique


def test_a_vm_goes_back_to_the_tpm_of_its_snapshot(host):
    vm, _ = with_tpm(host)
    host("VM.start", vm.ref, False, False)
    host.hypervisor.firmware[vm.uuid] = Kept(tpm=tpm(b"then"))
    snapshot = host("VM.snapshot", vm.ref, "then", ())
    host.hypervisor.firmware[vm.uuid] = Kept(tpm=tpm(b"later"))
    host("VM.hard_shutdown", vm.ref)
    host("VM.revert", snapshot)
    assert base64.b64decode(host("VTPM.get_contents", vm.VTPMs[0])) == tpm(b"then")
    assert len(host.db.all(VTPM)) == len(host.db.all(Secret)) == 2


# --- UEFI ------------------------------------------------------------------------------------------------------------


def test_variables_begin_where_the_last_run_ended(host):
    vm = host.halted_vm(**UEFI)
    first, second = template(enrolled=False), template(enrolled=True)
    assert run(host, vm, Kept(variables=first)) == Kept()
    assert gzip.decompress(base64.b64decode(vm.NVRAM["EFI-variables"])) == first
    assert run(host, vm, Kept(variables=second)) == Kept(variables=first)
    assert run(host, vm, Kept()) == Kept(variables=second)


def test_variables_can_be_the_same_at_each_start(host):
    vm = host.halted_vm(**UEFI)
    host("VM.add_to_NVRAM", vm.ref, "EFI-variables-on-boot", "reset")
    run(host, vm, Kept(variables=template(enrolled=False)))
    assert vm.NVRAM == {"EFI-variables-on-boot": "reset"}
    host("VM.set_NVRAM", vm.ref, {"EFI-variables-on-boot": "sometimes"})
    assert host.refused("VM.start", vm.ref, False, False) == [
        "INVALID_VALUE", "NVRAM['EFI-variables-on-boot']", "sometimes"]  # fmt: skip


@pytest.mark.parametrize("text", ["VkFSUwIAAAA=", "rubbish", base64.b64encode(gzip.compress(b"no")).decode()])
def test_variables_that_the_firmware_cannot_read_are_left_out(host, text):
    vm = host.halted_vm(**UEFI)
    host("VM.set_NVRAM", vm.ref, {"EFI-variables": text})
    assert run(host, vm, Kept()) == Kept()
    assert vm.NVRAM == {"EFI-variables": text}


def test_variables_of_a_smaller_flash_are_left_out(host):
    vm = host.halted_vm(**UEFI)
    half = bytearray(template(enrolled=False)[: 1 << 17])
    half[0x20:0x28] = len(half).to_bytes(8, "little")
    half[0x58:0x5C] = (0xE000).to_bytes(4, "little")
    text = uefi.text_of(bytes(half))
    assert uefi.store_of(text) == bytes(half)
    host("VM.set_NVRAM", vm.ref, {"EFI-variables": text})
    assert run(host, vm, Kept()) == Kept()


def test_a_bios_keeps_nothing(host):
    vm = host.halted_vm()
    assert run(host, vm, Kept(variables=template(enrolled=False))) == Kept() and vm.NVRAM == {}


def test_lists_that_are_older_than_the_distributions_are_told_of(host, monkeypatch):
    vm = host.halted_vm(**UEFI)
    newest = uefi.variables(template(enrolled=True))
    old = uefi.with_keys(template(enrolled=False), {key: newest[key] for key in uefi.KEYS.items()})
    shortened = {
        key: firmware.uefi.Variable(each.name, each.vendor, each.attributes, each.stamp, b"")
        if each.name == "db"
        else each
        for key, each in newest.items()
    }
    run(host, vm, Kept(variables=old))
    assert vm.secureboot_certificates_state == "ok"
    run(host, vm, Kept(variables=uefi.with_keys(old, shortened)))
    assert vm.secureboot_certificates_state == "update_available"
    vm.secureboot_certificates_state = "update_on_boot"
    began = run(host, vm, Kept())
    assert vm.secureboot_certificates_state == "ok"
    assert not uefi.lacks(began.variables, newest)


class Killed(BaseException):
    """The daemon is gone: nothing after this runs."""


def test_a_daemon_killed_once_a_vms_record_is_gone_leaves_no_files_of_its_firmware(host, monkeypatch):
    vm, _ = with_tpm(host)
    run(host, vm, Kept(tpm=tpm()))

    def die(*_, **__):
        raise Killed

    monkeypatch.setattr("kronos.api.blob.remove", die)
    with pytest.raises(Killed):
        host("VM.destroy", vm.ref)
    assert vm.ref not in host.db.rows and vm.uuid not in host.hypervisor.firmware
