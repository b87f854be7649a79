"""What the machine is made of, as its kernel tells."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CONTAINER = Path("/run/systemd/container")
"""systemd writes there, in a container, which kind it is."""
DMI = Path("/sys/class/dmi/id")
BALLOON = Path("/sys/devices/system/xen_memory/xen_memory0")
NODES = Path("/sys/devices/system/node")


@dataclass(frozen=True, slots=True)
class Processor:
    """One logical CPU, as /proc/cpuinfo shows it; `speed` in MHz."""

    number: int
    vendor: str
    model_name: str
    family: int
    model: int
    stepping: str
    speed: int
    flags: str
    socket: str


@dataclass(frozen=True, slots=True)
class Topology:
    """How a machine's logical CPUs are arranged; `threads` are those of one core."""

    nodes: int
    sockets: int
    threads: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of memory, and how many of them a new guest could have."""

    total: int
    available: int


def processors() -> list[Processor]:
    """The logical CPUs that are online."""
    found = []
    for block in (PROC / "cpuinfo").read_text().strip().split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        said = {name.strip(): value.strip() for name, _, value in pairs}
        if "processor" not in said:
            continue
        found.append(
            Processor(
                number=int(said["processor"]),
                vendor=said.get("vendor_id", said.get("CPU implementer", "unknown")),
                model_name=said.get("model name", ""),
                family=_number(said.get("cpu family", "0")),
                model=_number(said.get("model", "0")),
                stepping=said.get("stepping", ""),
                speed=int(float(said.get("cpu MHz", "0") or 0)),
                flags=said.get("flags", said.get("Features", "")),
                socket=said.get("physical id", "0"),
            )
        )
    return found


def topology() -> Topology:
    """What the kernel shows of it, which in Xen's control domain is not the machine's."""
    said = (PROC / "cpuinfo").read_text()
    per_socket = [re.search(rf"^{name}\s*: (\d+)$", said, re.M) for name in ("siblings", "cpu cores")]
    siblings, cores = (max(1, int(found[1])) if found else 1 for found in per_socket)
    sockets = {cpu.socket for cpu in processors()}
    return Topology(len(list(NODES.glob("node[0-9]*"))) or 1, len(sockets) or 1, siblings // cores or 1)


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def memory() -> Memory:
    """Raises OSError where /proc is not there."""
    said = dict(re.findall(r"^(\w+):\s+(\d+) kB", (PROC / "meminfo").read_text(), re.M))
    total = int(said["MemTotal"]) << 10
    return Memory(total, int(said.get("MemAvailable", said["MemFree"])) << 10)


def control_domain_memory() -> int:
    """Bytes of the machine's memory that Xen has given to this system, which is its control domain.

    That is a little more than /proc/meminfo tells, which leaves out what the kernel keeps for itself from the start.
    """
    try:
        return int((BALLOON / "info" / "current_kb").read_text()) << 10
    except (OSError, ValueError):  # a kernel without the balloon driver
        return memory().total


def boot_time() -> int:
    """Seconds since the epoch at which the kernel started."""
    found = re.search(r"^btime (\d+)", (PROC / "stat").read_text(), re.M)
    return int(found.group(1)) if found else 0


def boot_id() -> str:
    """What tells this run of the system from all others. Raises OSError."""
    kernel = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    if not CONTAINER.exists():
        return kernel
    # A container boots while the kernel runs on: the first process is another then.
    return f"{kernel} {(PROC / '1/stat').read_text().rpartition(')')[2].split()[19]}"


def hostname() -> str:
    return socket.gethostname()


def kernel_release() -> str:
    return os.uname().release


def bios_strings() -> dict[str, str]:
    """The DMI strings under the keys that XenAPI has for them; those that the machine lacks are left out."""
    names = {
        "bios-vendor": "bios_vendor",
        "bios-version": "bios_version",
        "system-manufacturer": "sys_vendor",
        "system-product-name": "product_name",
        "system-version": "product_version",
        "system-serial-number": "product_serial",
        "baseboard-manufacturer": "board_vendor",
        "baseboard-product-name": "board_name",
        "baseboard-version": "board_version",
        "baseboard-serial-number": "board_serial",
    }
    found = {}
    for key, file in names.items():
        try:
            text = (DMI / file).read_text(errors="replace").strip()
        except OSError:  # not root, or no DMI at all
            continue
        if text:
            found[key] = text
    return found


def secure_boot(root: Path = Path("/")) -> bool:
    """Whether the machine's firmware let only signed code boot: the last byte of a variable of EFI's."""
    file = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    try:
        return (root / file).read_bytes()[-1:] == b"\x01"
    except OSError:
        return False
