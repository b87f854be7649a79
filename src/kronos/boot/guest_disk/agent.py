"""The program inside the jail: runs GRUB's reader of file systems on the one image, once a request.

It knows the standard library alone, and is started from a file of its own, because nothing else of this program is to
be seen in the jail. Standard input is the socket to `jail.Jail`: a request is one packet of JSON with the file
descriptor that takes the output; the answer is one packet of JSON. No answer is ever trusted on the other side.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_RAW_VIEW = "/run/image"
_REQUEST_BYTES = 16384
_ERROR_BYTES = 2000

# linux/prctl.h, linux/seccomp.h, linux/audit.h
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_AUDIT_ARCH_X86_64 = 0xC000003E
_ALLOW, _KILL, _EPERM = 0x7FFF0000, 0x80000000, 0x00050001
_LOAD, _EQUAL, _GREATER, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _SECOND_ARGUMENT, _THIRD_ARGUMENT = 0, 4, 24, 32
_OPEN, _OPENAT = 2, 257
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# All that a reader of one file does (x86-64). What it does not need answers EPERM, so that a library that asks for
# more than ours did goes on without it.
_READING = (
    0,  # read
    1,  # write
    3,  # close
    4,  # stat
    5,  # fstat
    6,  # lstat
    8,  # lseek
    9,  # mmap
    10,  # mprotect
    11,  # munmap
    12,  # brk
    13,  # rt_sigaction
    14,  # rt_sigprocmask
    15,  # rt_sigreturn
    16,  # ioctl
    17,  # pread64
    20,  # writev
    21,  # access
    25,  # mremap
    28,  # madvise
    39,  # getpid
    59,  # execve
    60,  # exit
    63,  # uname
    72,  # fcntl
    79,  # getcwd
    89,  # readlink
    96,  # gettimeofday
    102,  # getuid
    104,  # getgid
    107,  # geteuid
    108,  # getegid
    137,  # statfs
    138,  # fstatfs
    158,  # arch_prctl
    186,  # gettid
    201,  # time
    202,  # futex
    217,  # getdents64
    218,  # set_tid_address
    228,  # clock_gettime
    231,  # exit_group
    262,  # newfstatat
    267,  # readlinkat
    269,  # faccessat
    273,  # set_robust_list
    302,  # prlimit64
    318,  # getrandom
    332,  # statx
    334,  # rseq
    436,  # close_range
    439,  # faccessat2
)


def _rule(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def reading_only() -> bytes:
    """The system calls of a reader as a seccomp filter: no new process, no socket, nothing opened for writing."""
    rules = [
        _rule(_LOAD, _ARCHITECTURE),
        _rule(_EQUAL, _AUDIT_ARCH_X86_64, yes=1),
        _rule(_RETURN, _KILL),
        _rule(_LOAD, _NUMBER),
    ]
    for number, flags in ((_OPEN, _SECOND_ARGUMENT), (_OPENAT, _THIRD_ARGUMENT)):
        rules += [
            _rule(_EQUAL, number, no=5),
            _rule(_LOAD, flags),
            _rule(_AND, _WRITING),
            _rule(_EQUAL, 0, no=1),
            _rule(_RETURN, _ALLOW),
            _rule(_RETURN, _EPERM),
        ]
    for number in _READING:
        rules += [_rule(_EQUAL, number, no=1), _rule(_RETURN, _ALLOW)]
    return b"".join([*rules, _rule(_RETURN, _EPERM)])


def _confine(libc: ctypes.CDLL, rules: bytes) -> None:
    """Take the reader's system calls away from this process, for good. Raises OSError."""
    buffer = ctypes.create_string_buffer(rules, len(rules))
    program = struct.pack("=H6xQ", len(rules) // 8, ctypes.addressof(buffer))
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.create_string_buffer(program, 16), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def _give_up_powers(libc: ctypes.CDLL) -> None:
    """Drop what mounting the raw view needed. Raises OSError."""
    header = struct.pack("=II", 0x20080522, 0)
    if (
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0
        or libc.capset(header, bytes(24)) != 0
    ):
        raise OSError(ctypes.get_errno(), "capset")


def _limit(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))


def _start_view(argv: list[str], limits: dict[str, int]) -> subprocess.Popen[bytes]:
    """Show the image's contents as the file /run/image, read-only. Raises RuntimeError with the tool's words."""
    mountpoint = Path(_RAW_VIEW)
    mountpoint.touch(exist_ok=False)
    before = mountpoint.stat().st_dev
    view = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: _limit(limits),
    )
    while mountpoint.stat().st_dev == before:
        if view.poll() is not None:
            raise RuntimeError(_first_words(view))
        time.sleep(0.005)  # jail.Jail ends this whole process when its time is over
    return view


def _first_words(process: subprocess.Popen[bytes]) -> str:
    assert process.stderr is not None
    with process.stderr:
        return process.stderr.read(_ERROR_BYTES).decode("utf-8", "replace")


class Agent:
    """One jail's worth of requests."""

    def __init__(self, channel: socket.socket, plan: dict[str, Any]) -> None:
        self.channel = channel
        self.plan = plan
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.rules = reading_only() if os.uname().machine == "x86_64" else b""
        self.view: subprocess.Popen[bytes] | None = None

    def serve(self) -> None:
        """Answer until the other side has closed the socket."""
        try:
            if self.plan["view"]:
                self.view = _start_view(self.plan["view"], self.plan["view_limits"])
            _give_up_powers(self.libc)
        except (OSError, RuntimeError) as error:
            self._answer({"ready": False, "error": str(error)})
            return
        self._answer({"ready": True, "error": ""})
        while True:
            packet, descriptors, _, _ = socket.recv_fds(self.channel, _REQUEST_BYTES, 1)
            if not packet:
                return
            request = json.loads(packet)
            if request["arguments"] is None:
                self._answer(self._usage())
            else:
                self._answer(self._read(request, descriptors[0]))

    def _answer(self, answer: dict[str, Any]) -> None:
        self.channel.send(json.dumps(answer).encode())

    def _read(self, request: dict[str, Any], output: int) -> dict[str, Any]:
        limits = {**self.plan["reader_limits"], "RLIMIT_FSIZE": request["limit"]}

        def confine() -> None:
            _limit(limits)
            if self.rules:
                _confine(self.libc, self.rules)

        image = _RAW_VIEW if self.view is not None else self.plan["image"]
        try:
            reader = subprocess.Popen(
                [self.plan["reader"], image, "--", *request["arguments"]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE,
                preexec_fn=confine,
            )
        finally:
            os.close(output)
        error = _first_words(reader)
        answer = {"status": reader.wait(), "error": error}
        if self.view is not None and self.view.poll() is not None:
            answer["ended"] = f"signal or status {self.view.returncode}: {_first_words(self.view)}"
        return answer

    def _usage(self) -> dict[str, int]:
        """Peaks of memory in KiB: of the reader, of the raw view, and of this process."""
        usage = {
            "reader": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
            "agent": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            "view": 0,
        }
        if self.view is not None and self.view.poll() is None:
            self.view.send_signal(signal.SIGKILL)
            usage["view"] = os.wait4(self.view.pid, 0)[2].ru_maxrss
        return usage


if __name__ == "__main__":
    Agent(socket.socket(fileno=0), json.loads(sys.argv[1])).serve()
