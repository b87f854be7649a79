"""The plan of an installation: what a VM's record asks for, family by family, and what becomes of the record.

Pure: records in, plan out. The keys, paths and rounds are those of the program that XenServer and XCP had; what newer
releases of the distributions moved is tried after them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from kronos.boot.eliloader import source
from kronos.boot.eliloader.refusal import InstallFailed
from kronos.boot.eliloader.source import Source

Family = Literal["rhlike", "sleslike", "debianlike", "ubuntulike", "pygrub"]
Checksums = Literal["", "treeinfo", "sums"]

ROUNDS: dict[Family, int] = {"rhlike": 1, "sleslike": 2, "debianlike": 1, "ubuntulike": 1, "pygrub": 1}
"""Boots until the guest boots its own disk by its own means."""
ARCHITECTURES = {"i386": "i386", "x86_64": "amd64", "amd64": "amd64"}
"""install-arch, and what Debian calls it."""

_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}(/[A-Za-z0-9._+-]{1,64})?")
_PATH = re.compile(r"[^\x00-\x20\x7f]{1,512}")


@dataclass(frozen=True)
class Candidate:
    """A place where a kernel and its RAM disk may lie below the repository, and what they want to be told."""

    kernel: str
    ramdisk: str
    """'' where there is none."""
    arguments: str = ""


@dataclass(frozen=True)
class Plan:
    """One boot of an installation.

    `source` is None where the CD in the VM's drive is the repository, and on boots from the guest's own disk
    (`own_disk`). The first of `candidates` that is there is taken. `index` is the repository's list of checksums.
    """

    family: Family
    round: int
    source: Source | None
    candidates: tuple[Candidate, ...]
    index: str = ""
    checksums: Checksums = ""
    proxy: str = ""
    own_disk: bool = False

    @property
    def last(self) -> bool:
        """Whether the guest boots its own disk the next time."""
        return self.round >= ROUNDS[self.family]


def read(other_config: Mapping[str, str]) -> Plan:
    """The plan for a VM's next boot. Raises UNSUPPORTED_INSTALL_METHOD [reason]."""
    family = _family(other_config)
    number = _round(other_config)
    if number > 1:
        return Plan(family, number, None, _installed(family, other_config), own_disk=True)
    text = other_config.get("install-repository", "").strip()
    if not text:
        raise _refused("other_config:install-repository is not set")
    repository = None if is_cdrom(text) else source.parse(text)
    index, checksums = _index(family, other_config, repository)
    return Plan(
        family,
        number,
        repository,
        _with_screen(_candidates(family, other_config, repository), other_config),
        index,
        checksums,
        other_config.get("install-proxy", "").strip() if repository is not None else "",
    )


@dataclass(frozen=True)
class Successor:
    """What a VM's record becomes when a boot of its installation has begun."""

    PV_bootloader: str
    other_config: dict[str, str]
    only_first_disk_bootable: bool


def successor(PV_bootloader: str, other_config: Mapping[str, str]) -> Successor:
    """The record for the next boot. A client that makes a template of the VM must not find an installation in it."""
    try:
        family, number = _family(other_config), _round(other_config)
    except InstallFailed:  # somebody else's keys: they did not keep the guest from booting
        return Successor(PV_bootloader, dict(other_config), False)
    changed = dict(other_config)
    from_cd = number == 1 and is_cdrom(other_config.get("install-repository", ""))
    if number < ROUNDS[family]:
        return Successor(PV_bootloader, changed | {"install-round": str(number + 1)}, from_cd)
    for key in ("install-round", "install-distro"):
        changed.pop(key, None)
    return Successor("pygrub", changed, from_cd)


def is_cdrom(repository: str) -> bool:
    return repository.strip() == "cdrom"


def _family(other_config: Mapping[str, str]) -> Family:
    name = other_config.get("install-distro", "rhlike")
    if name not in ROUNDS:
        raise _refused(f"other_config:install-distro {name} is none of {', '.join(ROUNDS)}")
    return cast(Family, name)


def _round(other_config: Mapping[str, str]) -> int:
    text = other_config.get("install-round", "1")
    return max(1, int(text)) if re.fullmatch("[0-9]{1,4}", text) else 1


def _architecture(other_config: Mapping[str, str]) -> str:
    """Debian's name of it."""
    name = other_config.get("install-arch", "i386")
    if name not in ARCHITECTURES:
        raise _refused(f"other_config:install-arch {name} is none of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def _release(other_config: Mapping[str, str]) -> str:
    name = other_config.get("debian-release", "")
    if not _RELEASE.fullmatch(name) or ".." in name:
        raise _refused("other_config:debian-release is to name a release, as in bookworm")
    return name


# --- where each family keeps its installer ---------------------------------------------------------------------------


def _candidates(
    family: Family, other_config: Mapping[str, str], repository: Source | None
) -> tuple[Candidate, ...]:
    match family:
        case "rhlike":
            return _rhlike(repository)
        case "sleslike":
            return _sleslike(_architecture(other_config), repository)
        case "debianlike" | "ubuntulike":
            arch = _architecture(other_config)
            if repository is None:
                return _debian_cd(arch)
            return _debian_archive(family, _release(other_config), arch)
        case _:
            return () if repository is None else _named(other_config)


def _rhlike(repository: Source | None) -> tuple[Candidate, ...]:
    # method= is what installers before EL 7 know, inst.repo= what they know since; neither minds the other.
    written = "" if repository is None else repository.written
    arguments = f"method={written} inst.repo={written}" if written else ""
    return tuple(
        Candidate(f"{place}/vmlinuz", f"{place}/initrd.img", arguments)
        for place in ("images/xen", "isolinux", "images/pxeboot")
    )


def _sleslike(arch: str, repository: Source | None) -> tuple[Candidate, ...]:
    install = "install=hd" if repository is None else f"install={repository.written}"
    place, suffix = ("boot/x86_64", "-xen") if arch == "amd64" else ("boot/i386", "-xenpae")
    return (
        # More than one processor was more than those kernels took while they installed.
        Candidate(f"{place}/vmlinuz{suffix}", f"{place}/initrd{suffix}", f"{install} maxcpus=1"),
        Candidate(f"{place}/loader/linux", f"{place}/loader/initrd", install),
    )


def _debian_cd(arch: str) -> tuple[Candidate, ...]:
    place = {"i386": "install.386", "amd64": "install.amd"}[arch]
    return (
        Candidate(f"{place}/xen/vmlinuz", f"{place}/xen/initrd.gz"),
        Candidate(f"{place}/vmlinuz", f"{place}/initrd.gz"),
        Candidate("install/vmlinuz", "install/initrd.gz"),  # Ubuntu's older ones
    )


def _debian_archive(family: Family, release: str, arch: str) -> tuple[Candidate, ...]:
    installer = f"dists/{release}/main/installer-{arch}/current"
    newer = "ubuntu-installer" if family == "ubuntulike" else "debian-installer"
    # Ubuntu kept its last installer of this kind apart.
    images = ("images", "legacy-images") if family == "ubuntulike" else ("images",)
    places = [f"{installer}/{each}/netboot" for each in images]
    return tuple(
        candidate
        for place in places
        for candidate in (
            Candidate(f"{place}/xen/vmlinuz", f"{place}/xen/initrd.gz"),
            Candidate(f"{place}/{newer}/{arch}/linux", f"{place}/{newer}/{arch}/initrd.gz"),
        )
    )


def _named(other_config: Mapping[str, str]) -> tuple[Candidate, ...]:
    kernel = other_config.get("install-kernel", "").lstrip("/")
    ramdisk = other_config.get("install-ramdisk", "").lstrip("/")
    if not kernel:
        raise _refused("other_config:install-kernel is not set")
    for path in (kernel, ramdisk):
        if path and (not _PATH.fullmatch(path) or ".." in path.split("/")):
            raise _refused("other_config:install-kernel or install-ramdisk is no path below the repository")
    return (Candidate(kernel, ramdisk),)


def _installed(family: Family, other_config: Mapping[str, str]) -> tuple[Candidate, ...]:
    """Where a kernel lies on the guest's own disk if its boot loader's configuration says nothing."""
    if family != "sleslike":
        return ()
    suffix = "-xen" if _architecture(other_config) == "amd64" else "-xenpae"
    names = ((f"vmlinuz{suffix}", f"initrd{suffix}"), ("vmlinuz", "initrd"))
    return tuple(
        Candidate(f"{place}{kernel}", f"{place}{ramdisk}")
        for kernel, ramdisk in names
        for place in ("/", "/boot/")
    )


def _index(
    family: Family, other_config: Mapping[str, str], repository: Source | None
) -> tuple[str, Checksums]:
    if repository is None:
        return "", ""
    if family == "rhlike":
        return ".treeinfo", "treeinfo"
    if family == "sleslike":
        return "CHECKSUMS", "sums"
    if family == "debianlike":
        arch = _architecture(other_config)
        return f"dists/{_release(other_config)}/main/installer-{arch}/current/images/SHA256SUMS", "sums"
    return "", ""


def _with_screen(candidates: tuple[Candidate, ...], other_config: Mapping[str, str]) -> tuple[Candidate, ...]:
    """The installer's own screen over VNC, where it is asked for."""
    if other_config.get("install-vnc", "false").strip().lower() not in ("true", "1", "yes"):
        return candidates
    words = ["vnc"]
    if password := other_config.get("install-vncpasswd", ""):
        words.append(f"vncpassword={_one_word(password)}")
    screen = " ".join(words)
    return tuple(
        Candidate(each.kernel, each.ramdisk, f"{each.arguments} {screen}".strip()) for each in candidates
    )


def _one_word(text: str) -> str:
    if not _PATH.fullmatch(text):
        raise _refused("other_config:install-vncpasswd is not one word")
    return text


def _refused(why: str) -> InstallFailed:
    return InstallFailed("UNSUPPORTED_INSTALL_METHOD", why)
