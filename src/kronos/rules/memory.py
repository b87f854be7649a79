"""Memory: which limits a VM may have, what running it costs its host, and what a host has left. All in bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import VM, Host, Host_metrics
from kronos.rules import promises
from kronos.rules.surroundings import domain_type, is_true

MIB = 1 << 20
PAGE = 4096


class Limits(NamedTuple):
    """A VM's memory limits, from the least it could ever have to the most."""

    static_min: int
    dynamic_min: int
    dynamic_max: int
    static_max: int

    @classmethod
    def of(cls, vm: VM) -> Self:
        """The limits in a VM's record."""
        return cls(vm.memory_static_min, vm.memory_dynamic_min, vm.memory_dynamic_max, vm.memory_static_max)

    def assert_valid(self, vm: VM) -> None:
        """Whether a client may give the VM these limits.

        Raises MEMORY_CONSTRAINT_VIOLATION_ORDER; MEMORY_CONSTRAINT_VIOLATION_MAXPIN [reason] for a VM whose memory
        cannot change while it runs.
        """
        pinned = self.dynamic_min == self.dynamic_max == self.static_max
        for applies, reason in (
            (vm.is_control_domain, "control domain"),
            (is_true(vm.platform.get("nested-virt")), "nested virt"),
        ):
            if applies and not (pinned and self.static_min <= self.static_max):
                raise Failure("MEMORY_CONSTRAINT_VIOLATION_MAXPIN", reason)
        if not 0 <= self.static_min <= self.dynamic_min <= self.dynamic_max <= self.static_max:
            raise Failure("MEMORY_CONSTRAINT_VIOLATION_ORDER")

    def coerced(self) -> Self:
        """The limits to start with: dynamic ones that lie outside the static ones are moved inside.

        Raises MEMORY_CONSTRAINT_VIOLATION where a minimum is above its maximum.
        """
        if self.static_min > self.static_max or self.dynamic_min > self.dynamic_max:
            raise Failure("MEMORY_CONSTRAINT_VIOLATION")

        def inside(value: int) -> int:
            return max(self.static_min, min(value, self.static_max))

        return self._replace(dynamic_min=inside(self.dynamic_min), dynamic_max=inside(self.dynamic_max))


class _XenModel(NamedTuple):
    """What Xen keeps for a domain beside its memory, in MiB; figures from XenServer's memory model."""

    internal: int = 0
    external: int = 1
    shim: bool = False

    def overhead(self, static_max: int, vcpus: int, multiplier: float) -> int:
        mib = _up(static_max, MIB)
        shadow_pages = 256 * vcpus + 2 * mib
        shadow = max(1, int(_up(shadow_pages * PAGE, MIB) * multiplier))
        per_vcpu = _up(38 * vcpus * PAGE, MIB)
        shim = 23 + mib // 90 if self.shim else 0
        return (self.internal + self.external + shadow + per_vcpu + shim) * MIB


_XEN_MODELS = {
    "hvm": _XenModel(internal=1),
    "pvh": _XenModel(internal=1),
    "pv_in_pvh": _XenModel(internal=1, shim=True),
    "pv": _XenModel(),
}


def _up(value: int, unit: int) -> int:
    return -(-value // unit)


def _emulator(static_max: int, vcpus: int) -> int:
    """QEMU's own memory under KVM: the process as measured with small guests, a thread for each virtual CPU, and the
    page tables of guest and host, which are 1/512 of the memory each."""
    return 48 * MIB + vcpus * MIB + static_max // 256


def overhead(vm: VM, hypervisor: str, kind: str) -> int:
    """What running the VM costs its host beyond the VM's own memory (VM.memory_overhead).

    `hypervisor` is the host's ('XEN', 'KVM', …); `kind` the domain type that the VM starts as.
    """
    if hypervisor != "XEN":
        return _emulator(vm.memory_static_max, vm.VCPUs_max)
    multiplier = 1.0 if kind == "pv" else vm.HVM_shadow_multiplier
    return _XEN_MODELS[kind].overhead(vm.memory_static_max, vm.VCPUs_max, multiplier)


def hypervisor_of(host: Host) -> str:
    """The type of a host's hypervisor; Xen where the host does not say, as no XenServer does."""
    return host.software_version.get("hypervisor", "XEN")


Policy = Callable[[Limits], int]


def dynamic_min(limits: Limits) -> int:
    """Count VMs as small as balloons can make them."""
    return limits.dynamic_min


def dynamic_max(limits: Limits) -> int:
    """Count VMs as big as they start."""
    return limits.dynamic_max


def static_max(limits: Limits) -> int:
    """Count VMs as big as they can get."""
    return limits.static_max


def needed(db: Database, vm: VM, host: Host, policy: Policy = dynamic_max) -> int:
    """What the VM takes of the host's memory. Raises MEMORY_CONSTRAINT_VIOLATION."""
    kind = domain_type(db, vm)
    return policy(Limits.of(vm).coerced()) + overhead(vm, hypervisor_of(host), kind)


def free(db: Database, host: Host, policy: Policy = dynamic_max, ignoring: str = "") -> int:
    """What the host has left for another VM.

    That is its memory without the hypervisor's own and what its VMs were promised, those that are about to start
    there among them (`ignoring` is not counted: the VM that one is asking for), and never more than the host says is
    free: a guest may not yet have touched what it was promised, and a host runs other programs too. On Xen the control
    domain is a domain that has its memory; elsewhere it is the host, and counts by what is not free. 0 for a host
    without metrics.
    """
    metrics = db.find(Host_metrics, host.metrics)
    if metrics is None:
        return 0
    hypervisor = hypervisor_of(host)

    def taken(vm: VM) -> int:
        # The record may have been given limits that no start would accept: what counts is that the VM is there.
        # What a sum is made of may depend on nothing that is not in its question, so not on another host's record.
        if vm.is_control_domain and vm.ref == host.control_domain:
            return policy(Limits.of(vm)) if hypervisor == "XEN" else 0
        return policy(Limits.of(vm)) + overhead(vm, hypervisor, domain_type(db, vm))

    question = promises.Question(host.ref, policy, hypervisor, host.control_domain)
    left = metrics.memory_total - host.memory_overhead
    left -= promises.promised(db, host, question, taken, ignoring)
    return max(0, min(left, metrics.memory_free))
