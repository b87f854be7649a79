"""What a host with KVM, or with QEMU's emulated CPUs, needs."""

from __future__ import annotations

from kronos.hypervisor.checkup.check import Check, Outcome, missing, ok, warning
from kronos.hypervisor.checkup.surroundings import Surroundings


def emulator(surroundings: Surroundings) -> Outcome:
    found = surroundings.program("qemu-system-x86_64", "qemu-kvm") or surroundings.first(
        "usr/libexec/qemu-kvm"
    )
    if found is not None:
        return ok(f"QEMU is {found}.")
    return missing("QEMU is not installed.", surroundings.install("qemu-system-x86", "qemu-system-x86"))


def modules(surroundings: Surroundings) -> Outcome:
    flags = surroundings.text("proc/cpuinfo").split()
    kind = "intel" if "vmx" in flags else "amd" if "svm" in flags else ""
    if not kind:
        return warning(
            "The CPUs offer no virtualisation, so guests run on emulated ones, many times slower.",
            "Turn on VT-x or AMD-V in the machine's firmware, or nested virtualisation where this is a virtual"
            " machine.",
        )
    name = f"kvm_{kind}"
    state = surroundings.module(name)
    if state in ("loaded", "built in"):
        nested = surroundings.text(f"sys/module/{name}/parameters/nested") in ("1", "Y")
        return ok(f"{name} is {state}{'; guests may run guests of their own' if nested else ''}.")
    if state == "loadable":
        return warning(f"{name} is not loaded.", f"modprobe {name}; dmesg says why if that fails")
    return warning(
        f"The running kernel has no {name}.", "Use the distribution's own kernel, or reboot after an update."
    )


def taps(surroundings: Surroundings) -> Outcome:
    if surroundings.exists("dev/net/tun"):
        return ok("Guests can have network interfaces: /dev/net/tun is there.")
    return missing("Guests cannot have network interfaces: there is no /dev/net/tun.", "modprobe tun")


def firmware(surroundings: Surroundings) -> Outcome:
    found = surroundings.first(
        "usr/share/OVMF/OVMF_CODE*.fd",
        "usr/share/edk2/ovmf/OVMF_CODE*.fd",
        "usr/share/edk2/x64/OVMF_CODE*.fd",
    )
    if found is not None:
        return ok(f"Guests can boot by UEFI: {found}.")
    return warning(
        "Guests cannot boot by UEFI: its firmware is not installed.",
        surroundings.install("ovmf", "edk2-ovmf"),
    )


def tpms(surroundings: Surroundings) -> Outcome:
    if surroundings.program("swtpm") and surroundings.program("swtpm_setup"):
        return ok("Guests can have a TPM.")
    return warning("Guests cannot have a TPM.", surroundings.install("swtpm-tools", "swtpm-tools"))


def other_hypervisor(surroundings: Surroundings) -> Outcome:
    """Somebody who installed Xen meant to use it."""
    installed = surroundings.first("boot/xen-*.gz", "boot/xen-*.efi", "boot/xen.gz")
    if installed is None:
        return ok("No other hypervisor is installed.")
    return warning(
        f"Xen is installed ({installed}), but this system was not started on it.",
        "If Xen is wanted: choose its entry in the boot menu, or on Debian move it to the front with"
        " dpkg-divert --divert /etc/grub.d/08_linux_xen --rename /etc/grub.d/20_linux_xen && update-grub; reboot",
    )


CHECKS = (
    Check("QEMU", emulator),
    Check("KVM's modules", modules),
    Check("taps", taps),
    Check("UEFI firmware", firmware),
    Check("TPM", tpms),
    Check("Xen", other_hypervisor),
)
