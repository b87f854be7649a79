"""eliloader: find what a paravirtual VM that is being installed boots, print where it is, and note that it was done."""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
from pathlib import Path

from kronos.boot.eliloader import loading, plan
from kronos.boot.eliloader.loading import Boot, Circumstances, Image
from kronos.boot.eliloader.refusal import InstallFailed
from kronos.boot.eliloader.toolstack import Toolstack, local_socket
from kronos.boot.guest_disk.loader import BootUnreadable

_FORMS = {".qcow2": "qcow2", ".vhd": "vpc"}
"""An image's form by its name, never by its content: that is the guest's, and could name other files."""


def main(arguments: list[str] | None = None) -> int:
    """The command: 0; 1 with an API error on standard error; 2 for misuse; 3 where the guest's disk says nothing."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.DEBUG if options.logging else logging.ERROR, stream=sys.stderr)
    try:
        with Toolstack(options.socket or local_socket()) as toolstack:
            print(_boot(toolstack, options))
    except InstallFailed as failure:
        print(failure.lines, file=sys.stderr)
        return 1
    except BootUnreadable as error:
        print(f"eliloader: {error}", file=sys.stderr)
        return 3
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="eliloader", description=__doc__)
    parser.add_argument("-q", dest="quiet", action="store_true", help="accepted, as pygrub does")
    parser.add_argument("--vm", required=True, metavar="UUID", help="the VM")
    parser.add_argument("--args", default="", help="arguments for the kernel (the VM's PV_args without any)")
    parser.add_argument("--extra_args", default="", help="more of them")
    parser.add_argument("--default_args", default="", help="those where there are none of either kind")
    parser.add_argument("--logging", action="store_true", help="say on standard error what is done")
    parser.add_argument("--socket", type=Path, help="the daemon's local socket (by its settings)")
    parser.add_argument("image", type=Path, help="the VM's boot disk or CD, as this host has it")
    return parser


def _boot(toolstack: Toolstack, options: argparse.Namespace) -> str:
    """The line that says what to boot. Raises InstallFailed, BootUnreadable."""
    vm = str(toolstack("VM.get_by_uuid", options.vm))
    other_config = toolstack("VM.get_other_config", vm)
    wanted = plan.read(other_config)
    image = Image(options.image, _FORMS.get(options.image.suffix, "raw"))
    given = " ".join(each for each in (options.args, options.extra_args) if each)
    given = given or toolstack("VM.get_PV_args", vm) or options.default_args
    work = Path(tempfile.mkdtemp(prefix="eliloader."))
    try:
        found = loading.load(wanted, image, work, Circumstances())
        parts = (found.arguments, given) if wanted.own_disk else (given, found.arguments)
        line = _line(found, " ".join(each for each in parts if each))
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    after = plan.successor(toolstack("VM.get_PV_bootloader", vm), other_config)
    toolstack.write(vm, other_config, after, found.remember)
    work.rmdir()
    return line


def _line(found: Boot, arguments: str) -> str:
    """In the form of the boot loaders of Xen's tools. The files are the caller's from here on, to delete one by one."""
    line = f"linux (kernel {_handed_over(found.kernel)})"
    if found.ramdisk is not None:
        line += f"(ramdisk {_handed_over(found.ramdisk)})"
    return line + (f'(args "{arguments}")' if arguments else "")


def _handed_over(file: Path) -> Path:
    # Beside the directory, which nobody would remove. Its name is nobody else's, so neither is this one.
    return file.rename(file.parent.with_name(f"{file.parent.name}.{file.name}"))


if __name__ == "__main__":
    sys.exit(main())
