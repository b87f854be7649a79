"""One boot of an installation, from the plan to files on this host: fetched, read off a CD, or off the guest's disk."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kronos.boot.eliloader import medium, sandbox
from kronos.boot.eliloader.plan import Candidate, Plan
from kronos.boot.eliloader.refusal import InstallFailed
from kronos.boot.guest_disk import loader as guest_disk
from kronos.boot.guest_disk.loader import BootUnreadable

log = logging.getLogger(__name__)

PATIENCE = 1800.0
"""Seconds that fetching kernel and RAM disk may take: half a gigabyte at 2.5 Mbit/s."""


@dataclass(frozen=True)
class Image:
    """A disk or CD of the guest as it lies on this host; `form` is raw, qcow2 or vpc."""

    path: Path
    form: str


@dataclass(frozen=True)
class Circumstances:
    """What the loading may use of this host. `wanted` are the drivers that the guest's machine needs, by module name,
    `drivers` the directory where an administrator keeps some; `on_cancel` is given what ends the work."""

    wanted: Sequence[str] = ()
    drivers: Path | None = None
    seconds: float = PATIENCE
    on_cancel: Callable[[Callable[[], None]], None] = field(default=lambda stop: None)


@dataclass(frozen=True)
class Boot:
    """What the guest boots: files in the destination, and what the installer or loader adds to the arguments.

    `remember` is PV_bootloader_args for the boots to come, '' where nothing has to be remembered.
    """

    kernel: Path
    ramdisk: Path | None
    arguments: str
    remember: str = ""


def load(plan: Plan, image: Image | None, destination: Path, host: Circumstances) -> Boot:
    """Kernel and RAM disk of `plan` in the existing, empty directory `destination`.

    `image` is the guest's boot disk or CD. Raises InstallFailed: INVALID_SOURCE [path…, reason],
    UNSUPPORTED_INSTALL_METHOD [reason], SUPPORT_PACKAGE_MISSING [what], and BootUnreadable off the guest's own disk.
    """
    if plan.own_disk:
        return _own_disk(plan, _present(image), destination)
    if plan.source is None:
        return _from_cd(plan, _present(image), destination, host)
    return _work(plan, destination, host)


def from_disk(image: Image, destination: Path, arguments: str) -> Boot:
    """What the guest's own boot loader would boot (pygrub's part). Raises BootUnreadable."""
    found = guest_disk.load(image.path, image.form, destination, arguments=arguments)
    return Boot(found.kernel, found.ramdisk, found.arguments)


def _present(image: Image | None) -> Image:
    if image is None:
        raise InstallFailed("INVALID_SOURCE", "The VM has no bootable disk or CD with something in it")
    return image


def _own_disk(plan: Plan, disk: Image, destination: Path) -> Boot:
    try:
        return from_disk(disk, destination, "")
    except BootUnreadable as error:
        for candidate in plan.candidates:
            options = f"--kernel {candidate.kernel} --ramdisk {candidate.ramdisk}"
            try:
                return dataclasses.replace(from_disk(disk, _emptied(destination), options), remember=options)
            except BootUnreadable as missing:
                log.debug("%s: %s", candidate.kernel, missing)
        raise error


def _from_cd(plan: Plan, cd: Image, destination: Path, host: Circumstances) -> Boot:
    taken = medium.take(cd.path, cd.form, plan.candidates, destination)
    if taken is None:
        try:
            found = from_disk(cd, destination, "")
        except BootUnreadable as error:
            paths = [candidate.kernel for candidate in plan.candidates]
            raise InstallFailed("INVALID_SOURCE", *paths, f"The CD has none of these: {error}") from error
        return _with_drivers(found, host)
    boot = Boot(destination / "kernel", destination / "ramdisk" if taken.ramdisk else None, taken.arguments)
    return _with_drivers(boot, host)


def _with_drivers(boot: Boot, host: Circumstances) -> Boot:
    if not host.wanted or boot.ramdisk is None:
        return boot
    order = {"source": None, "wanted": list(host.wanted), "drivers": _text(host.drivers)}
    with boot.kernel.open("r+b") as kernel, boot.ramdisk.open("r+b") as ramdisk:
        answer = sandbox.run(order, (kernel.fileno(), ramdisk.fileno()), host.seconds, host.on_cancel)
    return dataclasses.replace(boot, arguments=_joined(boot.arguments, str(answer.get("argument", ""))))


def _work(plan: Plan, destination: Path, host: Circumstances) -> Boot:
    assert plan.source is not None
    order = {
        "source": dataclasses.asdict(plan.source),
        "proxy": plan.proxy,
        "candidates": [(each.kernel, each.ramdisk) for each in plan.candidates],
        "index": plan.index,
        "checksums": plan.checksums,
        "wanted": list(host.wanted),
        "drivers": _text(host.drivers),
    }
    kernel, ramdisk = destination / "kernel", destination / "ramdisk"
    with kernel.open("x+b") as kernel_file, ramdisk.open("x+b") as ramdisk_file:
        files = (kernel_file.fileno(), ramdisk_file.fileno())
        answer = sandbox.run(order, files, host.seconds, host.on_cancel)
    chosen = _chosen(plan, answer.get("candidate"))
    if not answer.get("ramdisk"):
        ramdisk.unlink()
    log.info("Fetched %s", plan.source.url(chosen.kernel))
    arguments = _joined(chosen.arguments, str(answer.get("argument", "")))
    return Boot(kernel, ramdisk if ramdisk.exists() else None, arguments)


def _chosen(plan: Plan, untrusted_number: object) -> Candidate:
    if not isinstance(untrusted_number, int) or not 0 <= untrusted_number < len(plan.candidates):
        raise InstallFailed("INTERNAL_ERROR", "eliloader's worker gave no sensible answer")
    return plan.candidates[untrusted_number]


def _emptied(directory: Path) -> Path:
    for path in directory.iterdir():
        path.unlink()
    return directory


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _text(path: Path | None) -> str | None:
    return None if path is None else os.fspath(path)
