"""Copying one disk image into another with qemu-img, whatever their formats."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from kronos.system.commands import CommandFailed

_DIES_WITH_US = ("setpriv", "--pdeathsig", "TERM")
_PROGRESS = re.compile(rb"\((\d+\.\d+)/100%\)")


def convert(
    source: Path,
    source_format: str,
    target: Path,
    target_format: str,
    *,
    target_is_zero: bool,
    progress: Callable[[float], None],
) -> None:
    """Write the content of `source` into `target`, an image that exists and is at least as big.

    On return the content is on disk. `target_is_zero` spares writing zeros to a new image. `progress` is told how far
    the copy is, 0.0 to 1.0; what it raises ends the copy and comes out here.

    Raises CommandFailed.
    """
    # The cache mode that qemu-img would choose for the target never flushes.
    argv = ["qemu-img", "convert", "-p", "-n", "-t", "writeback", "-f", source_format, "-O", target_format]
    argv += ["--target-is-zero"] if target_is_zero else []
    argv += [str(source), str(target)]
    try:
        # Left alone by a daemon that was killed it would write on, for hours maybe, to what nobody wants any more.
        process = subprocess.Popen(
            [*_DIES_WITH_US, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise CommandFailed(argv, 127, str(error)) from error
    with process:
        assert process.stdout is not None and process.stderr is not None
        try:
            while shown := process.stdout.read1(4096):  # type: ignore[attr-defined]  # a pipe is a BufferedReader
                if found := _PROGRESS.findall(shown):
                    progress(float(found[-1]) / 100)
        except BaseException:
            process.kill()
            raise
        # What it has to say besides is little, and fits the pipe.
        complaint = process.stderr.read().decode(errors="replace")
    if process.returncode != 0:
        raise CommandFailed(argv, process.returncode, complaint)
