"""What every host needs, whatever its hypervisor."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

from kronos import __released__
from kronos.hypervisor.checkup.check import Check, Outcome, missing, ok, warning
from kronos.hypervisor.checkup.surroundings import Surroundings

LITTLE = 1 << 30
NOTHING = 64 << 20
"""Bytes below which a file system is called full: the database needs room to be written anew."""

_CLOCKS = ("chronyd", "ntpd", "systemd-timesyncd", "openntpd", "ptp4l")
_TOOLS = (
    ("nft", "guests' interfaces", "nftables", "nftables"),
    ("dnsmasq", "addresses on the host-internal network", "dnsmasq-base", "dnsmasq"),
    ("qemu-img", "disks", "qemu-utils", "qemu-img"),
)


def rights(surroundings: Surroundings) -> Outcome:
    if surroundings.as_root:
        return ok("The checks run as root.")
    return warning("The checks do not run as root, and cannot see everything.", "Run xapi --check as root.")


def hypervisor(surroundings: Surroundings) -> Outcome:
    found = surroundings.detected
    if found.type != "QEMU":
        return ok(found.reason)
    remedy = (
        "Turn on virtualisation (VT-x or AMD-V) in the machine's firmware, or nested virtualisation where this is a"
        " virtual machine, and load kvm_intel or kvm_amd."
    )
    return warning(found.warning or found.reason, remedy)


def tools(surroundings: Surroundings) -> Outcome:
    absent = [tool for tool in _TOOLS if surroundings.program(tool[0]) is None]
    if not absent:
        return ok(f"{', '.join(tool[0] for tool in _TOOLS)} are installed.")
    what = "; ".join(f"{program}, needed for {purpose}" for program, purpose, _, _ in absent)
    debian, fedora = " ".join(tool[2] for tool in absent), " ".join(tool[3] for tool in absent)
    return missing(f"Not installed: {what}.", surroundings.install(debian, fedora))


def bridges(surroundings: Surroundings) -> Outcome:
    if surroundings.module("bridge") != "absent" or surroundings.exists("sys/module/bridge"):
        return ok("The kernel has bridges.")
    if not surroundings.release or not surroundings.exists(f"lib/modules/{surroundings.release}/modules.dep"):
        return warning(
            "The modules of the running kernel are not installed, so whether it has bridges is not known.",
            "If the kernel was updated, reboot.",
        )
    return missing(
        "The kernel has no bridges, which networks are made of.", "Use the distribution's own kernel."
    )


def ports(surroundings: Surroundings) -> Outcome:
    settings, taken, own = surroundings.settings, [], False
    for setting, port in (("http_port", settings.http_port), ("https_port", settings.https_port)):
        holder = surroundings.listener(port) if port else None
        if holder is None:
            continue
        if any("xapi" in Path(part).name or "kronos" in part for part in holder.argv):
            own = True
        else:
            taken.append(
                (setting, port, f"{holder.name} (process {holder.pid})" if holder.pid else holder.name)
            )
    if taken:
        text = "; ".join(f"port {port} is taken by {who}" for _, port, who in taken)
        names = " and ".join(setting for setting, _, _ in taken)
        return missing(f"xapi cannot open its doors: {text}.", f"Stop that, or give xapi another {names}.")
    return ok("xapi listens on its ports." if own else "The ports of xapi are free.")


def password_service(surroundings: Surroundings) -> Outcome:
    name = surroundings.settings.pam_service
    found = surroundings.first(f"etc/pam.d/{name}", f"usr/lib/pam.d/{name}")
    if found is not None:
        return ok(f"Passwords are checked by {found}.")
    remedy = f"Copy packaging/pam.d/xapi (on Fedora xapi.fedora) to /etc/pam.d/{name}."
    return warning(f"There is no PAM service {name}: nobody can log in over the network.", remedy)


def disk_space(surroundings: Surroundings) -> Outcome:
    settings, little = surroundings.settings, []
    for purpose, folder in (("xapi's database", settings.state), ("local disks", settings.storage)):
        there = surroundings.path(folder)
        while not there.exists() and there != surroundings.root:
            there = there.parent
        found = surroundings.space(there)
        if found.read_only or (purpose == "xapi's database" and found.free < NOTHING):
            state = "is read-only" if found.read_only else "is full"
            return missing(
                f"The file system of {folder}, for {purpose}, {state}.", "Make it writable, with room."
            )
        if found.free < LITTLE:
            little.append(f"{found.free >> 20} MiB in {folder} for {purpose}")
    if little:
        return warning(f"There is little room: {'; '.join(little)}.", "Free some, or set another folder.")
    return ok("There is room for the database and for disks.")


def host_name(surroundings: Surroundings) -> Outcome:
    name = surroundings.text("proc/sys/kernel/hostname")
    if name and name not in ("localhost", "localhost.localdomain", "(none)"):
        return ok(f"The host is called {name}.")
    return warning("The host has no name of its own.", "hostnamectl set-hostname NAME")


def clock(surroundings: Surroundings) -> Outcome:
    released = datetime.datetime.strptime(__released__, "%Y%m%d").replace(tzinfo=datetime.UTC)
    if time.time() < released.timestamp() - 86_400:
        text = (
            f"The clock says {time.strftime('%Y-%m-%d', time.gmtime())}, which is before this xapi was made."
        )
        return warning(f"{text} Certificates and sessions go by it.", "Set the clock.")
    keeper = surroundings.running(*_CLOCKS)
    if keeper is not None:
        return ok(f"{keeper.name} keeps the clock right.")
    remedy = f"{surroundings.install('chrony', 'chrony')}; systemctl enable --now chronyd (on Debian: chrony)"
    return warning("Nothing keeps the clock right.", remedy)


FIRST = (Check("rights", rights), Check("hypervisor", hypervisor))
CHECKS = (
    Check("tools", tools),
    Check("bridges", bridges),
    Check("ports", ports),
    Check("passwords", password_service),
    Check("disk space", disk_space),
    Check("host name", host_name),
    Check("clock", clock),
)
