"""What libvirt says of running VMs, as it says it."""

from __future__ import annotations

import libvirt
import pytest

from kronos.datamodel.errors import Failure
from kronos.hypervisor import domain_stats
from kronos.hypervisor.disk_facts import DiskStatistics
from kronos.hypervisor.rendering import letters
from kronos.hypervisor.usage import Usage

# Of a guest with a hot-plugged processor and an empty CD drive.
SAID = {
    "state.state": 1,
    "state.reason": 1,
    "cpu.time": 9_000,
    "cpu.user": 10,
    "vcpu.current": 2,
    "vcpu.maximum": 4,
    "vcpu.0.state": 1,
    "vcpu.0.time": 5_000,
    "vcpu.2.time": 1_000,
    "block.count": 3,
    "block.0.name": "vda",
    "block.0.rd.reqs": 2,
    "block.0.rd.bytes": 1024,
    "block.0.rd.times": 30,
    "block.0.wr.reqs": 1,
    "block.0.wr.bytes": 512,
    "block.0.wr.times": 40,
    "block.0.fl.reqs": 3,
    "block.0.fl.times": 50,
    "block.1.name": "sdd",
    "block.2.name": "nonsense1",
    "block.2.rd.reqs": 1,
}


def test_a_vm_s_processors_and_disks():
    assert domain_stats.told("u", 7, 2.5, SAID) == Usage(
        "u", 7, True, 2.5, 9_000, {0: 5_000, 2: 1_000}, {0: DiskStatistics(1024, 2, 30, 512, 1, 40, 3, 50)}
    )


def test_a_vm_that_is_busy_tells_little():
    assert domain_stats.told("u", 7, 2.5, {"state.state": 3}) == Usage("u", 7, False, 2.5)


@pytest.mark.parametrize("number", [0, 1, 25, 26, 27, 701, 702])
@pytest.mark.parametrize("prefix", ["vd", "sd", "hd", "xvd"])
def test_a_disk_s_number_is_in_its_name(prefix, number):
    assert domain_stats.disk_number(prefix + letters(number)) == number


@pytest.mark.parametrize("target", ["", "vd", "vda1", "xvd", "vdÄ", "VDA"])
def test_other_names_have_none(target):
    assert domain_stats.disk_number(target) is None


class Domain:
    """As python3-libvirt shows one of Xen's."""

    def __init__(self, number: int, *, gone: bool = False) -> None:
        self.number = number
        self.gone = gone

    def UUIDString(self) -> str:
        return f"u{self.number}"

    def ID(self) -> int:
        return self.number

    def info(self) -> list[int]:
        if self.gone:
            raise libvirt.libvirtError("no domain")
        return [libvirt.VIR_DOMAIN_BLOCKED, 2048, 1024, 2, 9_000]

    def vcpus(self) -> tuple[list[tuple[int, int, int, int]], list[tuple[bool, ...]]]:
        return [(0, 1, 5_000, 1), (1, 1, 4_000, 0)], [(True,), (True,)]


def test_one_by_one_a_vm_that_ends_meanwhile_is_left_out():
    def disks(uuid: str) -> dict[int, DiskStatistics]:
        if uuid == "u2":
            raise Failure("VM_BAD_POWER_STATE", uuid, "running", "halted")
        return {0: DiskStatistics(1)}

    found = domain_stats.one_by_one([Domain(1), Domain(2), Domain(3, gone=True)], lambda: 2.5, disks)
    processors = {0: 5_000, 1: 4_000}
    assert found == [
        Usage("u1", 1, True, 2.5, 9_000, processors, {0: DiskStatistics(1)}, 1 << 20),
        Usage("u2", 2, True, 2.5, 9_000, processors, {}, 1 << 20),
    ]
