"""A sandbox around `worker`: it sees the network, Python and two open files, runs as nobody, and ends when told to."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import kronos
from kronos.boot.eliloader.refusal import InstallFailed

log = logging.getLogger(__name__)

_NOBODY = 65534
_ANSWER = 65536
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64")
# What name look-ups and certificates need; names differ between distributions.
_NETWORK = (
    *("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/services", "/etc/protocols"),
    *("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/crypto-policies", "/etc/gai.conf"),
    *("/etc/localtime", "/etc/alternatives", "/etc/ld.so.cache"),
)
# As root in the sandbox nothing but this: become nobody, with the one right that NFS servers ask of a client.
_RIGHTS = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE")

Cancelled = Callable[[Callable[[], None]], None]


def run(
    order: dict[str, Any], files: Sequence[int], seconds: float, on_cancel: Cancelled = lambda stop: None
) -> dict[str, Any]:
    """Have `worker` carry out an order on two open files; its answer.

    `on_cancel` is given a function that ends the work. Raises what the worker found, INVALID_SOURCE when the time is
    over, INTERNAL_ERROR where the sandbox does not work.
    """
    order = order | {"files": list(files), "seconds": seconds}
    try:
        process = subprocess.Popen(
            _command(order.get("drivers")),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=files,
            start_new_session=True,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONPATH": _package_parent()},
            cwd="/",
        )
    except OSError as error:
        raise InstallFailed("INTERNAL_ERROR", f"eliloader's sandbox does not start: {error}") from error
    with process:
        on_cancel(lambda: _end(process))
        watch = threading.Timer(seconds + 5, _end, (process,))
        watch.daemon = True
        watch.start()
        try:
            output, errors = process.communicate(json.dumps(order).encode())
        finally:
            watch.cancel()
            _end(process)
    return _answer(process.returncode, output, errors)


def _answer(status: int, untrusted_output: bytes, errors: bytes) -> dict[str, Any]:
    if status < 0:
        raise InstallFailed("INVALID_SOURCE", "the repository", "It was too slow, or the start was cancelled")
    try:
        answer = json.loads(untrusted_output[:_ANSWER])
    except ValueError:
        answer = None
    if status != 0 or not isinstance(answer, dict):
        words = errors.decode("utf-8", "replace").strip().splitlines()
        log.error("eliloader's worker ended with %d: %s", status, " / ".join(words[-5:]))
        raise InstallFailed("INTERNAL_ERROR", "eliloader's worker failed; the log says how")
    if "error" in answer:
        params = answer.get("params")
        texts = [str(each)[:1000] for each in params] if isinstance(params, list) else []
        raise InstallFailed(str(answer["error"])[:80], *texts)
    return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        # Its process group; the sandbox dies with its first process.
        os.killpg(process.pid, signal.SIGKILL)


def _command(drivers: str | None) -> list[str]:
    inside = [sys.executable, "-P", "-m", "kronos.boot.eliloader.worker"]
    jailer = shutil.which("bwrap")
    if jailer is None:
        raise InstallFailed("SUPPORT_PACKAGE_MISSING", "bubblewrap")
    command = [jailer, "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
    # A file system of its own is mounted there.
    command += ["--die-with-parent", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108
    for path in _SYSTEM:
        command += _as_here(Path(path))
    for path in _NETWORK:
        command += ["--ro-bind-try", path, path]
    for path in dict.fromkeys((sys.prefix, sys.base_prefix, *kronos.__path__)):
        if not Path(path).is_relative_to("/usr"):
            command += _bound(path)
    if drivers and Path(drivers).is_dir():
        command += _bound(drivers)
    if os.geteuid() != 0:
        return [*command, "--", *inside]
    for right in _RIGHTS:
        command += ["--cap-add", right]
    nobody = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    nobody += [f"--{which}=-all,+net_bind_service" for which in ("inh-caps", "ambient-caps", "bounding-set")]
    return [*command, "--", *nobody, "--no-new-privs", *inside]


def _bound(path: str) -> list[str]:
    # The directories above it are to be named: bubblewrap would make them for root alone.
    above = [str(each) for each in reversed(Path(path).parents) if each != Path("/")]
    return [*(word for each in above for word in ("--dir", each)), "--ro-bind", path, path]


def _as_here(path: Path) -> list[str]:
    if path.is_symlink():
        return ["--symlink", os.fspath(path.readlink()), os.fspath(path)]
    return ["--ro-bind", os.fspath(path), os.fspath(path)] if path.is_dir() else []


def _package_parent() -> str:
    return os.fspath(Path(kronos.__path__[0]).parent)
