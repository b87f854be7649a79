"""What a host's records say of the machine: on Xen the control domain sees only its own part of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kronos.api.vm import state
from kronos.background.inventory import host as inventory
from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import VM, Host, Host_cpu, Host_metrics, Pool
from kronos.dispatch.machine import Machine
from kronos.hypervisor import xen_emulator
from kronos.hypervisor.base import Domain, Firmware, PhysicalMemory
from kronos.hypervisor.detection import Detected
from kronos.hypervisor.fake import Fake
from kronos.network.fake import FakeNetwork
from kronos.rules import memory
from kronos.system import hardware
from kronos.system.intents import Intents

MIB = 1 << 20
GIB = 1 << 30
ON_XEN = Detected("XEN", "control_d", version="4.17.6-pre", capabilities=("xen-3.0-x86_64", "hvm-3.0-x86_64"))
ON_KVM = Detected("KVM", "a guest ran")


class Xen(Fake):
    """A machine of 16 GiB and 6 CPUs."""

    type = "XEN"
    free = 13 * GIB

    def physical_memory(self) -> PhysicalMemory:
        return PhysicalMemory(16 * GIB, self.free)

    def physical_processors(self) -> int:
        return 6

    def topology(self) -> hardware.Topology:
        return hardware.Topology(nodes=1, sockets=3, threads=2)

    def scheduler(self) -> str:
        return "credit"

    def versions(self) -> dict[str, str]:
        return {"libvirt": "9.0.0", "qemu": "7.2.0", "xen": "4.17.0"}


@pytest.fixture
def control_domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 GiB and two processors of the machine."""
    cpu = "processor\t: {}\nvendor_id\t: AuthenticAMD\nmodel name\t: A CPU\ncpu MHz\t\t: 2500.0\n"
    for name, content in {
        "proc/cpuinfo": "\n".join(cpu.format(number) for number in range(2)),
        "proc/meminfo": f"MemTotal: {1900 << 10} kB\nMemFree: 1000 kB\nMemAvailable: {1000 << 10} kB\n",
        "proc/stat": "btime 1700000000\n",
        "balloon/info/current_kb": f"{2 << 20}\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.setattr(hardware, "PROC", tmp_path / "proc")
    monkeypatch.setattr(hardware, "BALLOON", tmp_path / "balloon")


def inventoried(hypervisor: Fake, detected: Detected) -> tuple[Database, Host]:
    db = Database()
    return db, inventory.refresh(db, inventory.Identity(hypervisor, detected, "192.0.2.1"))


def test_the_control_domain_is_called_after_the_host_until_somebody_names_it(
    control_domain: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "hostname", lambda: "node-1")
    db, host = inventoried(Xen(), ON_XEN)
    domain = db.get(VM, host.control_domain)
    host.name_label = "The one in the corner"
    assert domain.name_label == "Control domain on host: node-1"

    monkeypatch.setattr(hardware, "hostname", lambda: "node-2")
    inventory.refresh(db, inventory.Identity(Xen(), ON_XEN, "192.0.2.1"))
    assert domain.name_label == "Control domain on host: node-2"

    domain.name_label = "rack 3, top"
    inventory.refresh(db, inventory.Identity(Xen(), ON_XEN, "192.0.2.1"))
    assert domain.name_label == "rack 3, top"


def test_on_xen_the_machine_is_what_the_hypervisor_says(control_domain: None) -> None:
    db, host = inventoried(Xen(), ON_XEN)

    assert db.get(Host_metrics, host.metrics).memory_total == 16 * GIB
    assert db.get(Host_metrics, host.metrics).memory_free == 13 * GIB
    assert host.cpu_info["cpu_count"] == "6"
    assert host.cpu_info["socket_count"] == "3"
    pool = db.all(Pool)[0]
    for key in ("features_pv", "features_hvm", "features_pv_host", "features_hvm_host"):
        assert host.cpu_info[key] == pool.cpu_info[key] == ""
    assert pool.cpu_info["socket_count"] == "3"
    assert (host.cpu_info["threads_per_core"], host.cpu_info["nr_nodes"]) == ("2", "1")
    assert sorted(db.get(Host_cpu, ref).number for ref in host.host_CPUs) == [0, 1, 2, 3, 4, 5]
    assert {db.get(Host_cpu, ref).modelname for ref in host.host_CPUs} == {"A CPU"}


def test_on_xen_the_control_domain_is_a_part_of_the_machine(control_domain: None) -> None:
    db, host = inventoried(Xen(), ON_XEN)

    domain0 = db.get(VM, host.control_domain)
    assert (domain0.memory_target, domain0.memory_static_max) == (2 * GIB, 2 * GIB)
    assert (domain0.VCPUs_max, domain0.domid) == (2, 0)


def test_on_xen_capabilities_and_versions_are_its_own(control_domain: None) -> None:
    _, host = inventoried(Xen(), ON_XEN)

    assert host.capabilities == ("xen-3.0-x86_64", "hvm-3.0-x86_64")
    assert host.sched_policy == "credit"
    versions = {name: host.software_version[name] for name in ("hypervisor", "xen", "libvirt", "qemu")}
    assert versions == {"hypervisor": "XEN", "xen": "4.17.6-pre", "libvirt": "9.0.0", "qemu": "7.2.0"}


def test_on_xen_the_emulators_version_is_asked_of_itself(
    control_domain: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hypervisor = Xen()
    monkeypatch.setattr(hypervisor, "versions", lambda: {"libvirt": "9.0.0", "xen": "4.17.0"})
    monkeypatch.setattr(xen_emulator, "version", lambda: "7.2.19")

    _, host = inventoried(hypervisor, ON_XEN)

    assert host.software_version["qemu"] == "7.2.19"


def test_without_guests_what_nobody_has_is_xens_own(control_domain: None) -> None:
    _, host = inventoried(Xen(), ON_XEN)

    assert host.memory_overhead == 1 * GIB  # 16 are there, 13 are free, the control domain has 2


def test_with_guests_xens_own_memory_stays_as_it_was_measured_without(control_domain: None) -> None:
    hypervisor = Xen()
    db, host = inventoried(hypervisor, ON_XEN)
    hypervisor.start(Domain("a-uuid", "vm", GIB, GIB, Firmware()))
    hypervisor.free = 12 * GIB

    inventory.refresh(db, inventory.Identity(hypervisor, ON_XEN, "192.0.2.1"))

    assert host.memory_overhead == 1 * GIB
    assert db.get(Host_metrics, host.metrics).memory_free == 12 * GIB


def test_a_guest_on_xen_may_have_what_xen_and_the_control_domain_do_not_have(control_domain: None) -> None:
    db, host = inventoried(Xen(), ON_XEN)
    db.get(Host_metrics, host.metrics).memory_free = 16 * GIB

    assert memory.free(db, host) == 13 * GIB


def machine(directory: Path, hypervisor: Fake, host: Host) -> Machine:
    return Machine(
        hypervisor=hypervisor,
        network=FakeNetwork(),
        state=directory,
        intents=Intents(directory / "intents"),
        open_storage=lambda *_: None,  # type: ignore[arg-type,return-value]
        host_ref=host.ref,
    )


def test_on_xen_free_memory_is_asked_of_the_hypervisor_after_each_start(
    control_domain: None, tmp_path: Path
) -> None:
    hypervisor = Xen()
    db, host = inventoried(hypervisor, ON_XEN)
    hypervisor.free = 5 * GIB

    state.refresh_memory(db, machine(tmp_path, hypervisor, host))

    assert db.get(Host_metrics, host.metrics).memory_free == 5 * GIB


def test_a_hypervisor_that_cannot_tell_its_memory_fails_no_start(
    control_domain: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hypervisor = Xen()
    db, host = inventoried(hypervisor, ON_XEN)

    def away() -> PhysicalMemory:
        raise Failure("INTERNAL_ERROR", "libvirt does not answer")

    monkeypatch.setattr(hypervisor, "physical_memory", away)
    state.refresh_memory(db, machine(tmp_path, hypervisor, host))

    assert db.get(Host_metrics, host.metrics).memory_free == 13 * GIB


def test_elsewhere_the_kernel_knows_the_machine(control_domain: None) -> None:
    db, host = inventoried(Fake(), ON_KVM)

    metrics = db.get(Host_metrics, host.metrics)
    assert (metrics.memory_total, metrics.memory_free) == (1900 * MIB, 1000 * MIB)
    assert db.get(VM, host.control_domain).memory_target == 1900 * MIB
    assert (host.cpu_info["cpu_count"], host.memory_overhead, host.sched_policy) == ("2", 0, "cfs")
    assert host.software_version["xen"] == "none"


def test_the_product_is_what_the_settings_say_and_the_true_name_stays(tmp_path):
    from kronos import __version__
    from kronos.db.database import Database
    from kronos.hypervisor.fake import Fake
    from kronos.system.settings import read

    asked = {"product_brand": "XenServer", "product_version": "8.2.50", "platform_version": "3.2.50"}
    shown = inventory.product(read(None, asked))
    db = Database()
    before = inventory.refresh(db, inventory.Identity(Fake(tmp_path / "run"), ON_XEN, "192.0.2.1"))
    assert before.software_version["product_brand"] == "XCP-ng"

    host = inventory.refresh(db, inventory.Identity(Fake(tmp_path / "run"), ON_XEN, "192.0.2.1", True, shown))

    versions = host.software_version
    assert (versions["product_brand"], versions["product_version"]) == ("XenServer", "8.2.50")
    assert versions["product_version_text_short"] == "8.2"
    assert (versions["platform_name"], versions["platform_version"]) == ("XCP", "3.2.50")
    assert host.license_params["version"] == "8.2.50"
    assert versions["kronos"] == __version__ and versions["build_number"] == f"kronos-{__version__}"
