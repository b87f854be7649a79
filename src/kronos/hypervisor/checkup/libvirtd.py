"""libvirt's daemon, which xapi runs guests by."""

from __future__ import annotations

from collections.abc import Sequence

from kronos.hypervisor.checkup.check import Check, Outcome, missing, ok, warning, within
from kronos.hypervisor.checkup.surroundings import Surroundings, Unreachable
from kronos.system.libvirtd import SYSTEM_URI

PATIENCE = 8.0
"""Seconds until libvirt must have answered: systemd may have to start it, and it looks at the whole machine first."""

ANSWER_LIMIT = PATIENCE + 4.0

_CPU_MODEL = "Cannot find suitable CPU model"
_BANNER = ("libvirt version:", "hostname:")
"""What it says first, once a start."""
_COMPLAINTS = 5
_NO_LIBXL = ("libxenlight", "libxl", "Driver state initialization failed")


def _uri(surroundings: Surroundings) -> str:
    return surroundings.settings.libvirt or ("xen:///system" if surroundings.on_xen else SYSTEM_URI)


def daemon(surroundings: Surroundings) -> Outcome:
    own = ("virtxend",) if surroundings.on_xen else ("virtqemud",)
    found = surroundings.program("libvirtd", *own)
    if found is not None:
        return ok(f"libvirt's daemon is {found}.")
    fedora = "libvirt-daemon-xen" if surroundings.on_xen else "libvirt-daemon-kvm"
    return missing(
        "libvirt's daemon is not installed.", surroundings.install("libvirt-daemon-system", fedora)
    )


def driver(surroundings: Surroundings) -> Outcome:
    name, what = ("libxl", "Xen") if surroundings.on_xen else ("qemu", "QEMU")
    folder = "libvirt/connection-driver"
    file = f"libvirt_driver_{name}.so"
    found = surroundings.first(
        f"usr/lib/*/{folder}/{file}", f"usr/lib64/{folder}/{file}", f"usr/lib/{folder}/{file}"
    )
    if found is not None:
        return ok(f"libvirt's driver for {what} is {found}.")
    debian = "libvirt-daemon-driver-xen" if surroundings.on_xen else "libvirt-daemon-driver-qemu"
    remedy = surroundings.install(debian, f"libvirt-daemon-driver-{name}")
    return missing(
        f"libvirt's driver for {what} ({file}) is not installed.", f"{remedy}; then restart libvirtd"
    )


def connection(surroundings: Surroundings) -> Outcome:
    uri = _uri(surroundings)
    if surroundings.settings.private_libvirt:
        return ok("xapi starts a libvirtd of its own.")
    try:
        version = within(PATIENCE, lambda: surroundings.connect(uri))
    except Unreachable as error:
        return _unreachable(surroundings, uri, str(error))
    except TimeoutError:
        # systemd keeps the socket open for a daemon that ends as often as it is started.
        return _unreachable(surroundings, uri, f"nothing came within {PATIENCE:g} s")
    return ok(f"libvirt {version} answers at {uri}.")


def _unreachable(surroundings: Surroundings, uri: str, said: str) -> Outcome:
    journal = _last_words(surroundings)
    restart = "systemctl reset-failed libvirtd.service; systemctl restart libvirtd.service"
    if any(_CPU_MODEL in line for line in journal):
        return missing(
            "libvirt's daemon ends at once, as it knows no CPU model whose features this machine has all"
            f" (it says: {_CPU_MODEL}). Xen hides some features of the CPU, and emulated CPUs lack others.",
            f"Give this (virtual) machine a fuller CPU model, or install a newer libvirt; then {restart}",
        )
    if surroundings.on_xen and any(word in line for line in journal for word in _NO_LIBXL):
        return missing(
            f"libvirt's driver for Xen does not start, so {uri} does not answer. libvirt says: {'; '.join(journal)}.",
            f"See that xenstored runs and that /dev/xen has its files (above); then {restart}",
        )
    if "permission" in said.lower() or "authentication" in said.lower():
        return warning(
            f"Whether libvirt answers at {uri} cannot be seen: {said}.", "Run xapi --check as root."
        )
    return missing(
        f"libvirt does not answer at {uri}: {said}.",
        "systemctl enable --now libvirtd.service (or virtqemud.socket, virtxend.socket);"
        " journalctl -u libvirtd says why if it ends at once",
    )


def _last_words(surroundings: Surroundings) -> Sequence[str]:
    """The last complaints of libvirt's daemon since the boot; none where they cannot be read."""
    # By the program's name: it gives the journal no identifier, and by unit systemd's own words would come along.
    daemons = ("_COMM=libvirtd", "_COMM=virtxend", "_COMM=virtqemud")
    said = surroundings.command("journalctl", "-b", "-q", "--no-pager", "-o", "cat", "-n", "40", *daemons)
    found: list[str] = []
    for line in reversed((said or "").splitlines()):
        if line.startswith(_BANNER):
            if found:
                break  # what came before is of an earlier start
            continue
        # With date and place in the source where it does not write to the journal itself.
        complaint = line.rpartition(" : ")[2].strip()
        if complaint and complaint not in found:
            found.insert(0, complaint)
    return found[-_COMPLAINTS:]


def confinement(surroundings: Surroundings) -> Outcome:
    """AppArmor's profile of guests must let QEMU make its sockets in xapi's folder."""
    if surroundings.text("sys/module/apparmor/parameters/enabled") != "Y":
        return ok("AppArmor is not in use.")
    template = "etc/apparmor.d/libvirt/TEMPLATE.qemu"
    off = 'security_driver = "none"' in surroundings.text("etc/libvirt/qemu.conf").replace("'", '"')
    if off or surroundings.on_xen or not surroundings.exists(template):
        return ok("libvirt does not confine guests by AppArmor.")
    rules = (
        *surroundings.glob("etc/apparmor.d/abstractions/libvirt-qemu.d/*"),
        *surroundings.glob("etc/apparmor.d/local/abstractions/libvirt-qemu"),
        *surroundings.glob(template),
    )
    folder = str(surroundings.settings.run)
    for rule in rules:
        if folder in surroundings.text(rule.relative_to(surroundings.root)):
            return ok(f"AppArmor lets guests use {folder}.")
    line = f"  {folder}/** rwk,"
    return warning(
        f"AppArmor may keep guests from making their sockets in {folder}: no rule names it.",
        f'Add the line "{line.strip()}" to /etc/apparmor.d/local/abstractions/libvirt-qemu.',
    )


CHECKS = (
    Check("libvirt", daemon),
    Check("libvirt's driver", driver),
    Check("libvirt's answer", connection, ANSWER_LIMIT),
    Check("AppArmor", confinement),
)
