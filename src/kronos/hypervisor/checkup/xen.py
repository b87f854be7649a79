"""What Xen's control domain needs to run guests."""

from __future__ import annotations

import re
import socket
from functools import partial

from kronos.hypervisor import xen_emulator, xen_info
from kronos.hypervisor.checkup.check import Check, Outcome, missing, ok, warning
from kronos.hypervisor.checkup.surroundings import Surroundings

_START = "systemctl start xen (Debian), or xenstored.service and xenconsoled.service (Fedora)"
_STORE_SOCKETS = ("run/xenstored/socket", "var/run/xenstored/socket")
_MODULES = (
    # name, the file that it makes, what is not there without it, whether no guest runs then
    ("xen-evtchn", "dev/xen/evtchn", "Xen's tools, and so any guest", True),
    ("xen-gntdev", "dev/xen/gntdev", "disks in files", True),
    ("xen-netback", "", "network interfaces", True),
    ("xen-blkback", "", "disks on block devices", False),
)
LITTLE_MEMORY = 256
"""MiB that Xen must have free for any guest worth the name."""


def tools_version(surroundings: Surroundings) -> Outcome:
    """Debian has the tools of each Xen apart, and they speak to their own alone."""
    running = ".".join(surroundings.detected.version.split(".")[:2])
    installed = [found.name.removeprefix("xen-") for found in surroundings.glob("usr/lib/xen-[0-9]*")]
    if not installed or running in installed:
        return ok(f"Xen {surroundings.detected.version} runs, with its tools.")
    text = f"Xen {running} runs, but the tools installed are those of {', '.join(installed)}."
    return missing(
        text, f"apt install xen-utils-{running}, or reboot into the Xen that was installed with the tools"
    )


def devices(surroundings: Surroundings) -> Outcome:
    absent = [name for name in ("privcmd", "xenbus") if not surroundings.exists(f"dev/xen/{name}")]
    if not absent:
        return ok("/dev/xen is there.")
    if surroundings.exists("proc/xen/privcmd") and surroundings.exists("proc/xen/xenbus"):
        return ok("/proc/xen is there.")
    names = " and ".join(f"/dev/xen/{name}" for name in absent)
    return missing(
        f"Xen's tools cannot reach the hypervisor: {names} not there.",
        "modprobe xen-privcmd; modprobe xenfs; mount -t xenfs xenfs /proc/xen",
    )


def file_system(surroundings: Surroundings) -> Outcome:
    if surroundings.exists("proc/xen/capabilities"):
        return ok("/proc/xen is mounted.")
    return warning("/proc/xen is not mounted: some of Xen's tools take this for no control domain.", _START)


def store(surroundings: Surroundings) -> Outcome:
    found = surroundings.first(*_STORE_SOCKETS)
    daemon = surroundings.running("xenstored", "oxenstored")
    if found is not None:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            try:
                client.connect(str(surroundings.path(found)))
            except PermissionError:
                return warning(
                    f"Whether xenstored answers at {found} cannot be seen.", "Run xapi --check as root."
                )
            except OSError as error:
                text = f"xenstored does not answer at {found} ({error}): no guest can be started."
                return missing(text, f"{_START}; if it had run before, guests and host need a reboot")
        return ok(f"xenstored answers at {found}.")
    if daemon is not None:
        return ok(f"{daemon.name} runs (process {daemon.pid}).")
    # A store in a domain of its own has neither, and answers all the same. Where there is none, nothing ever answers.
    if surroundings.command("xenstore-read", "/local/domain/0/domid") is not None:
        return ok("xenstored answers from a domain of its own.")
    return missing("xenstored does not run: no guest can be started.", _START)


def consoles(surroundings: Surroundings) -> Outcome:
    found = surroundings.running("xenconsoled")
    if found is not None:
        return ok(f"xenconsoled runs (process {found.pid}).")
    return warning("xenconsoled does not run: the text consoles of guests stay silent.", _START)


def own_emulator(surroundings: Surroundings) -> Outcome:
    """The QEMU that gives disks to the control domain itself: boot loaders read qcow2 disks through it."""
    for process in surroundings.processes:
        following = zip(process.argv, process.argv[1:], strict=False)
        if any(pair == ("-xen-domid", "0") for pair in following):
            return ok(f"The control domain's own QEMU runs (process {process.pid}).")
    return warning(
        "The control domain's own QEMU (-xen-domid 0) does not run: guests whose kernel lies on a qcow2 disk cannot"
        " be started.",
        "systemctl restart xen (Debian), or systemctl start xen-qemu-dom0-disk-backend.service (Fedora)",
    )


def emulator(surroundings: Surroundings) -> Outcome:
    found = surroundings.first(*xen_emulator.PLACES)
    if found is not None:
        return ok(f"QEMU for Xen is {found}.")
    remedy = surroundings.install("qemu-system-xen", "qemu-system-x86-core")
    return missing("QEMU for Xen is not installed: no guest with a disk in a file can be started.", remedy)


def module(surroundings: Surroundings, name: str, device: str, what: str, needed: bool) -> Outcome:
    if device and surroundings.exists(device):
        return ok(f"/{device} is there.")
    state = surroundings.module(name)
    if state in ("loaded", "built in"):
        return ok(f"{name} is {state}.")
    if state == "loadable" and not device:
        return ok(f"{name} can be loaded, and is when a guest needs it.")
    text, verdict = f"Without {name} there are no guests with {what}", missing if needed else warning
    if name == "xen-evtchn":
        text = f"Without {name} nothing can speak to the hypervisor"
    if state == "loadable":
        return verdict(f"{text}; it is not loaded.", f"modprobe {name}")
    remedy = f"Use the distribution's own kernel; after an update of it, reboot. This one is {surroundings.release}."
    return verdict(f"{text}; the running kernel does not have it.", remedy)


def scripts(surroundings: Surroundings) -> Outcome:
    found = surroundings.first("etc/xen/scripts/vif-bridge")
    if found is not None:
        return ok(f"Network interfaces are joined to bridges by {found}.")
    text = "/etc/xen/scripts/vif-bridge is not there: no guest with a network interface can be started."
    return missing(text, surroundings.install("xen-utils-common", "xen-runtime"))


def other_toolstacks(surroundings: Surroundings) -> Outcome:
    for process in surroundings.processes:
        program = process.argv[0]
        if process.name in ("xend", "xenopsd-xc", "squeezed") or program.startswith(
            "/opt/xensource/bin/xapi"
        ):
            text = f"Another toolstack runs on this host: {program} (process {process.pid}). Two cannot share it."
            return missing(text, "Stop and disable the other one.")
    return ok("No other toolstack runs.")


def _xl_info(surroundings: Surroundings) -> dict[str, str]:
    """What `xl info` says, by name; empty where it says nothing."""
    return xen_info.parsed(surroundings.command("xl", "info") or "")


def hardware_virtualisation(surroundings: Surroundings) -> Outcome:
    off = "Turn on VT-x or AMD-V, with nested paging, in the machine's firmware."
    kinds = surroundings.detected.capabilities
    if kinds and not any(kind.startswith("hvm") for kind in kinds):
        text = "Xen has no hardware virtualisation here: PV guests run, HVM and PVH guests do not."
        return warning(text, off)
    abilities = _xl_info(surroundings).get("virt_caps", "").split()
    if "hvm" in abilities and not {"hap", "shadow"} & set(abilities):
        text = "HVM and PVH guests cannot be started: the CPUs have no nested paging, and this Xen no shadow paging."
        return warning(text, off)
    if "hvm" in abilities and "shadow" not in abilities:
        return ok(
            "Xen offers PV, HVM and PVH guests. It cannot migrate PV guests while they run (no shadow paging)."
        )
    return ok("Xen offers PV, HVM and PVH guests.")


def memory(surroundings: Surroundings) -> Outcome:
    said = _xl_info(surroundings)
    free = said.get("free_memory", "")
    if not free.isdigit():
        return warning("How much memory is free cannot be seen: xl info says nothing.", "xl info says why.")
    fixed = re.search(r"(^|\s)dom0_mem=\S+", said.get("xen_commandline", ""))
    remedy = (
        'Give the control domain a fixed part: GRUB_CMDLINE_XEN="dom0_mem=2G,max:2G" in /etc/default/grub, then'
        " update-grub (Fedora: grub2-mkconfig -o /boot/grub2/grub.cfg) and reboot."
    )
    if int(free) < LITTLE_MEMORY:
        # Started without a limit, the control domain has nearly all, and gives it away slowly or not at all.
        return warning(f"Xen has only {free} MiB free for guests.", "Shut guests down." if fixed else remedy)
    if not fixed:
        return warning(
            f"Xen has {free} MiB free, but how much the control domain may take is not fixed.", remedy
        )
    return ok(f"Xen has {free} MiB free for guests.")


CHECKS = (
    Check("Xen's tools", tools_version),
    Check("Xen's files", devices),
    Check("/proc/xen", file_system),
    Check("xenstored", store),
    Check("xenconsoled", consoles),
    Check("control domain's QEMU", own_emulator),
    Check("QEMU", emulator),
    *(
        Check(name, partial(module, name=name, device=device, what=what, needed=needed))
        for name, device, what, needed in _MODULES
    ),
    Check("interface scripts", scripts),
    Check("other toolstacks", other_toolstacks),
    Check("kinds of guests", hardware_virtualisation),
    Check("memory", memory),
)
