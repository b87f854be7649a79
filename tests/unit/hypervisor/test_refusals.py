"""libvirt's refusals as XenAPI's errors; the texts are libvirt 9's and QEMU 7's."""

from __future__ import annotations

import libvirt
import pytest

from kronos.datamodel.errors import Failure
from kronos.hypervisor.refusals import already_exists, failure_of, refusing

VM = "11111111-2222-4333-8444-555555555555"


def error(code: int, text: str) -> libvirt.libvirtError:
    made = libvirt.libvirtError(text)
    made.err = (code, 10, text, 2, "", None, None, -1, -1)
    return made


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (libvirt.VIR_ERR_NO_DOMAIN, "Domain not found", ["VM_BAD_POWER_STATE", VM, "running", "halted"]),
        (
            libvirt.VIR_ERR_OPERATION_INVALID,
            "Requested operation is not valid: domain is not running",
            ["VM_BAD_POWER_STATE", VM, "running", "halted"],
        ),
        (libvirt.VIR_ERR_NO_SUPPORT, "this function is not supported", ["VM_LACKS_FEATURE", VM]),
        (
            libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
            "QEMU guest agent is not connected",
            ["VM_MISSING_PV_DRIVERS", VM],
        ),
        (
            libvirt.VIR_ERR_INTERNAL_ERROR,
            "internal error: unable to execute QEMU agent command 'guest-suspend-ram': "
            "The command guest-suspend-ram has not been found",
            ["VM_LACKS_FEATURE", VM],
        ),
        (libvirt.VIR_ERR_DEVICE_MISSING, "device not found", ["DEVICE_ALREADY_DETACHED", VM]),
        (
            libvirt.VIR_ERR_OPERATION_FAILED,
            "operation failed: target vdb already exists",
            ["DEVICE_ALREADY_ATTACHED", VM],
        ),
        (
            libvirt.VIR_ERR_INTERNAL_ERROR,
            "internal error: process exited while connecting to monitor: qemu-system-x86_64: "
            "cannot set up guest memory 'pc.ram': Cannot allocate memory",
            ["HOST_NOT_ENOUGH_FREE_MEMORY", "", ""],
        ),
        (
            libvirt.VIR_ERR_INTERNAL_ERROR,
            "internal error: oops",
            ["INTERNAL_ERROR", "libvirt: internal error: oops"],
        ),
    ],
)
def test_a_refusal_has_the_error_of_xenapi(code: int, text: str, expected: list[str]) -> None:
    assert failure_of(error(code, text), VM).description == expected


def test_a_full_bus_is_told_as_such() -> None:
    failure = failure_of(
        error(libvirt.VIR_ERR_INTERNAL_ERROR, "internal error: No more available PCI slots"), VM
    )

    assert failure.code == "OPERATION_NOT_ALLOWED"


def test_a_block_that_refuses_raises_the_failure() -> None:
    with pytest.raises(Failure) as caught, refusing(VM, "paused"):
        raise error(libvirt.VIR_ERR_NO_DOMAIN, "Domain not found")

    assert caught.value.params == (VM, "paused", "halted")


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (f"operation failed: domain is already active as '{VM}'", True),
        (f"operation failed: domain '{VM}' already exists with uuid {VM}", True),
        ("operation failed: target vda already exists", False),
    ],
)
def test_a_vm_that_is_there_already_is_told_from_a_device(text: str, same: bool) -> None:
    assert already_exists(error(libvirt.VIR_ERR_OPERATION_FAILED, text)) is same
