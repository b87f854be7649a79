"""The host's own records: pool, host, its metrics, its CPUs, and the control domain's VM."""

from __future__ import annotations

import logging
import platform
import time
from dataclasses import dataclass, field, replace
from typing import Any

from kronos import __released__, __version__
from kronos.datamodel.model import model
from kronos.datamodel.types import NULL, at, now
from kronos.db.database import Database
from kronos.db.records import VM, Console, Host, Host_cpu, Host_metrics, Pool, VM_metrics
from kronos.hypervisor import xen_emulator
from kronos.hypervisor.base import Hypervisor
from kronos.hypervisor.detection import Detected
from kronos.rules.hostname import control_domain_name
from kronos.system import hardware
from kronos.system.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Product:
    """What the host says that it is, to clients that branch on it. Versions are parsed as numbers.

    The default is the XCP-ng release whose behaviour this toolstack offers.
    """

    brand: str
    version: str
    platform: str
    platform_version: str


def product(settings: Settings) -> Product:
    """What the settings name."""
    return Product(
        settings.product_brand, settings.product_version, settings.platform_name, settings.platform_version
    )


# Every feature is on; clients read their absence as "restricted", and some fail without the key.
RESTRICTIONS = {
    f"restrict_{feature}": "false"
    for feature in (
        "ad",
        "batch_hotfix_apply",
        "checkpoint",
        "cifs",
        "connection",
        "corosync",
        "dmc",
        "export_resource_data",
        "gpu",
        "guest_agent_auto_update",
        "ha",
        "health_check",
        "hotfix_apply",
        "intellicache",
        "internal_repo_access",
        "lab",
        "marathon",
        "nested_virt",
        "netapp",
        "network_sriov",
        "pci_device_for_auto_update",
        "pool_attached_storage",
        "pool_size",
        "pvs_proxy",
        "qos",
        "rbac",
        "read_caching",
        "set_vcpus_number_live",
        "site_recovery",
        "snapshot_schedule",
        "ssl_legacy_switch",
        "stage",
        "storage_motion",
        "storage_xen_motion",
        "storagelink",
        "updates",
        "usb_passthrough",
        "vcpu_hotplug",
        "vif_rate_limit",
        "vlan",
        "vm_groups",
        "vmpr",
        "vmss",
        "vswitch_controller",
        "vtpm",
        "web_selfservice",
        "wlb",
        "xcm",
        "xen_motion",
        "zstd_export",
    )
}


@dataclass(frozen=True, slots=True)
class Identity:
    """What the drivers and settings know of this host beyond what its kernel shows."""

    hypervisor: Hypervisor
    detected: Detected
    address: str
    takes_vms: bool = True
    product: Product = field(default_factory=lambda: product(Settings()))

    @property
    def on_xen(self) -> bool:
        """Whether /proc shows only the control domain's part of the machine."""
        return self.hypervisor.type == "XEN"

    def processors(self) -> list[hardware.Processor]:
        """The machine's logical CPUs. Those that the control domain does not see are like the ones that it does."""
        seen = hardware.processors()
        count = self.hypervisor.physical_processors()
        if count is None:
            return seen
        return [replace(seen[number % len(seen)], number=number) for number in range(count)]


def refresh(db: Database, identity: Identity) -> Host:
    """Bring the records of this host up to date, making them where they are missing; returns the host's."""
    pool = next(iter(db.all(Pool)), None)
    host = db.find(Host, pool.master) if pool is not None else None
    with db.transaction():
        host = host or _new_host(db, identity.product)
        if pool is None:
            db.create(
                Pool,
                master=host.ref,
                other_config={"cpuid_feature_mask": ""},
                # The reference checks one at a time, for its own way to a directory; PAM makes a wrong one wait.
                ext_auth_max_threads=8,
            )
        _describe(db, host, identity)
        _processors(db, host, identity)
        _control_domain(db, host, identity)
        _metrics(db, host, identity)
        _describe_pool(db, host)
    return host


def _new_host(db: Database, shown: Product) -> Host:
    label = hardware.hostname()
    host = db.create(
        Host,
        name_label=label,
        name_description="Kronos host",
        other_config={"iscsi_iqn": f"iqn.2026-01.host:{label}", "auto_poweron": "false"},
        power_on_mode="",
        edition="free",
        tls_verification_enabled=False,
        ssl_legacy=False,
        license_params={"sku_type": "free", "version": shown.version, "expiry": "20991231T00:00:00Z"}
        | RESTRICTIONS,
    )
    host.iscsi_iqn = host.other_config["iscsi_iqn"]
    return host


def _describe(db: Database, host: Host, identity: Identity) -> None:
    major, _, minor = model().schema["api_version"].partition(".")
    started = {"boot_time": f"{hardware.boot_time()}.", "agent_start_time": f"{int(time.time())}."}
    said = identity.detected.warning
    warning = {"kronos:hypervisor_warning": said} if said else {}
    kept = {key: value for key, value in host.other_config.items() if key != "kronos:hypervisor_warning"}
    fields: dict[str, Any] = {
        "API_version_major": int(major),
        "API_version_minor": int(minor),
        "API_version_vendor": model().schema["api_version_vendor"],
        "software_version": _software_version(identity),
        "other_config": kept | started | warning,
        "enabled": identity.takes_vms,
        "hostname": hardware.hostname(),
        "address": identity.address,
        "capabilities": _capabilities(identity),
        "supported_bootloaders": ("eliloader", "pygrub"),
        "sched_policy": identity.hypervisor.scheduler() or ("credit2" if identity.on_xen else "cfs"),
        "virtual_hardware_platform_versions": (0, 1, 2),
        "bios_strings": hardware.bios_strings(),
        "chipset_info": {"iommu": "false"},
        "cpu_info": _cpu_info(identity.processors(), identity.hypervisor.topology() or hardware.topology()),
        "editions": ("free",),
        "license_params": host.license_params | {"version": identity.product.version},
    }
    db.write(host, fields)


def _software_version(identity: Identity) -> dict[str, str]:
    shown = identity.product
    versions = dict(identity.hypervisor.versions())
    if identity.on_xen and "qemu" not in versions and (qemu := xen_emulator.version()):
        versions["qemu"] = qemu
    xen = (identity.detected.version if identity.on_xen else "") or versions.pop("xen", "none")
    return {
        **versions,
        "product_brand": shown.brand,
        "product_version": shown.version,
        "product_version_text": shown.version,
        "product_version_text_short": ".".join(shown.version.split(".")[:2]),
        "platform_name": shown.platform,
        "platform_version": shown.platform_version,
        "build_number": f"kronos-{__version__}",
        "xapi": model().schema["api_version"],
        "xapi_build": __version__,
        "xen": xen,
        "linux": hardware.kernel_release(),
        "hypervisor": identity.hypervisor.type,
        "network_backend": "bridge",
        "date": __released__,
        "kronos": __version__,
        "python": platform.python_version(),
    }


def _capabilities(identity: Identity) -> tuple[str, ...]:
    """The kinds of guests that run here: on Xen as it says itself, elsewhere all that QEMU makes of this machine."""
    if identity.on_xen:
        return identity.detected.capabilities or ("xen-3.0-x86_64",)
    machine = platform.machine()
    if machine == "x86_64":
        return ("hvm-3.0-x86_32", "hvm-3.0-x86_32p", "hvm-3.0-x86_64")
    return (f"hvm-3.0-{machine}",)


# Masks of CPUID that XenServer compares between hosts. Clients read the keys of a host and of a pool alike.
_FEATURES = dict.fromkeys(("features_pv", "features_hvm", "features_pv_host", "features_hvm_host"), "")


def _cpu_info(cpus: list[hardware.Processor], arranged: hardware.Topology) -> dict[str, str]:
    first = cpus[0]
    return {
        "cpu_count": str(len(cpus)),
        "socket_count": str(arranged.sockets),
        "threads_per_core": str(arranged.threads),
        "nr_nodes": str(arranged.nodes),
        "vendor": first.vendor,
        "speed": str(first.speed),
        "modelname": first.model_name,
        "family": str(first.family),
        "model": str(first.model),
        "stepping": first.stepping,
        "flags": first.flags,
        **_FEATURES,
    }


def _processors(db: Database, host: Host, identity: Identity) -> None:
    old = {row.number: row for row in (db.get(Host_cpu, ref) for ref in host.host_CPUs)}
    for cpu in identity.processors():
        row = old.pop(cpu.number, None) or db.create(Host_cpu, host=host.ref, number=cpu.number)
        db.write(
            row,
            {
                "vendor": cpu.vendor,
                "speed": cpu.speed,
                "modelname": cpu.model_name,
                "family": cpu.family,
                "model": cpu.model,
                "stepping": cpu.stepping,
                "flags": cpu.flags,
            },
        )
    for row in old.values():
        db.delete(row)


def _metrics(db: Database, host: Host, identity: Identity) -> None:
    row = db.find(Host_metrics, host.metrics)
    if row is None:
        row = db.create(Host_metrics)
        host.metrics = row.ref
    db.write(row, {"live": True, "last_updated": now()})
    physical = identity.hypervisor.physical_memory()
    if physical is None:
        memory = hardware.memory()
        db.write(row, {"memory_total": memory.total, "memory_free": memory.available})
        return
    db.write(row, {"memory_total": physical.total, "memory_free": physical.free})
    # Only without guests is what is neither free nor the control domain's certainly the hypervisor's own.
    if not identity.hypervisor.statuses():
        own = physical.total - physical.free - hardware.control_domain_memory()
        host.memory_overhead = max(0, own)


def _control_domain(db: Database, host: Host, identity: Identity) -> None:
    """The host's own operating system has a VM record, as clients expect: domain 0, always running.

    On Xen it is a domain like others, with a part of the machine's memory and processors.
    """
    row = db.find(VM, host.control_domain)
    if row is None:
        row = db.create(
            VM,
            name_description="The domain which manages physical devices and manages other domains",
            is_control_domain=True,
            actions_after_shutdown="destroy",
            actions_after_reboot="destroy",
            actions_after_crash="destroy",
            domain_type="pv",
            other_config={"storage_driver_domain": NULL, "is_system_domain": "true"},
            metrics=db.create(VM_metrics, install_time=now()).ref,
        )
        host.control_domain = row.ref
    memory = hardware.control_domain_memory() if identity.on_xen else hardware.memory().total
    cpus = len(hardware.processors())
    db.write(
        row,
        {
            "name_label": control_domain_name(row.name_label, host.hostname),
            "power_state": "Running",
            "domid": 0,
            "resident_on": host.ref,
            "affinity": host.ref,
            "memory_static_min": memory,
            "memory_static_max": memory,
            "memory_dynamic_min": memory,
            "memory_dynamic_max": memory,
            "memory_target": memory,
            "VCPUs_max": cpus,
            "VCPUs_at_startup": cpus,
        },
    )
    metrics = db.get(VM_metrics, row.metrics)
    started = at(hardware.boot_time())
    db.write(
        metrics,
        {"memory_actual": memory, "VCPUs_number": cpus, "start_time": started, "last_updated": now()},
    )
    if not row.consoles:
        db.create(Console, VM=row.ref, protocol="vt100")


def _describe_pool(db: Database, host: Host) -> None:
    pool = db.all(Pool)[0]
    info = host.cpu_info
    shown = {name: info[name] for name in ("cpu_count", "socket_count", "vendor")}
    fields = {
        "cpu_info": shown | _FEATURES,
        "restrictions": RESTRICTIONS,
        "recommendations": {},
    }
    db.write(pool, fields)
