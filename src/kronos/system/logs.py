"""Logging: one set-up for the daemon, on standard error for a person, or with fields for journald.

Each line names the task and session it belongs to, and in the journal the method and VM too. A session's
reference opens its session, and a registered secret is one: neither ever reaches the log.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

from kronos.system.journald import SOCKET, Journal

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_SHORTEST_SECRET = 4
_HIDDEN = "******"

_task: ContextVar[str] = ContextVar("task", default="")
_session: ContextVar[str] = ContextVar("session", default="")
_method: ContextVar[str] = ContextVar("method", default="")
_vm: ContextVar[str] = ContextVar("vm", default="")
_NAMED_VM = re.compile(r"\bVM ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\b")
_secrets: Counter[str] = Counter()
_secrets_lock = threading.Lock()


@contextmanager
def about(*, task: str = "", session: str = "", method: str = "", vm: str = "") -> Iterator[None]:
    """Lines logged inside, by this thread or asyncio task, name these; an empty one keeps what was. `vm` is a uuid."""
    given = ((_task, task), (_session, session), (_method, method), (_vm, vm))
    tokens = [(variable, variable.set(value)) for variable, value in given if value]
    try:
        yield
    finally:
        for variable, token in reversed(tokens):
            variable.reset(token)


@contextmanager
def hidden(*secrets: str) -> Iterator[None]:
    """Keep these values out of every log line meanwhile, whoever writes it."""
    for secret in secrets:
        hide(secret)
    try:
        yield
    finally:
        with _secrets_lock:
            _secrets.subtract(kept for kept in secrets if len(kept) >= _SHORTEST_SECRET)
            for secret in secrets:
                if _secrets.get(secret) == 0:
                    del _secrets[secret]


def hide(secret: str) -> None:
    """Keep this value out of the log for as long as the daemon runs.

    A value of one to three characters stays visible: blotting out every "a" would name it rather than hide
    it.
    """
    if len(secret) >= _SHORTEST_SECRET:
        with _secrets_lock:
            _secrets[secret] += 1


def track(session: str) -> str:
    """A short name for a session, the same wherever it is logged, that does not open it."""
    return hashlib.sha256(session.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _without_secrets(text: str) -> str:
    if not _secrets:
        return text
    with _secrets_lock:
        secrets = sorted(_secrets, key=len, reverse=True)
    for secret in secrets:
        text = text.replace(secret, _HIDDEN)
    return text


def _priority(level: int) -> int:
    return next((priority for lowest, priority in _PRIORITIES if level >= lowest), 7)


def _cleaned(record: logging.LogRecord, formatter: logging.Formatter) -> list[str]:
    """The lines of a record without secrets: the message, on one line, and the traceback."""
    message = _CONTROL.sub(
        # A client's newline must not start a line of its own.
        lambda found: found.group().encode("unicode_escape").decode("ascii"),
        _without_secrets(record.getMessage()),
    )
    lines = [f"{record.name}: {message}"]
    if record.exc_info:
        lines += _without_secrets(formatter.formatException(record.exc_info)).splitlines()
    if record.stack_info:
        lines += _without_secrets(record.stack_info).splitlines()
    return lines


class _Line(logging.Formatter):
    """`time level [task=… session=…] logger: message`; for journald, `<priority>` for the first two."""

    def __init__(self, for_journald: bool) -> None:
        super().__init__(datefmt="%Y-%m-%dT%H:%M:%S")
        self._for_journald = for_journald

    def format(self, record: logging.LogRecord) -> str:
        lines = _cleaned(record, self)
        lines[0] = self._names() + lines[0]
        if self._for_journald:
            prefix = f"<{_priority(record.levelno)}>"
            return "\n".join(prefix + line for line in lines)
        moment = f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d}"
        return "\n    ".join([f"{moment} {record.levelname.lower()} {lines[0]}", *lines[1:]])

    @staticmethod
    def _names() -> str:
        names = []
        if task := _task.get():
            names.append(f"task={_CONTROL.sub('?', task)}")
        if session := _session.get():
            names.append(f"session={track(session)}")
        return f"[{' '.join(names)}] " if names else ""


def _entry(record: logging.LogRecord, formatter: logging.Formatter) -> dict[str, str]:
    """A record as journald's fields. The VM is the one that a call is about, or that the message names."""
    lines = _cleaned(record, formatter)
    named = _NAMED_VM.search(lines[0])
    session = _session.get()
    return {
        "MESSAGE": "\n".join(lines),
        "PRIORITY": str(_priority(record.levelno)),
        "SYSLOG_IDENTIFIER": "xapi",
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": record.funcName or "",
        "TASK": _task.get(),
        "SESSION": track(session) if session else "",
        "METHOD": _method.get(),
        "VM": named.group(1) if named is not None else _vm.get(),
    }


class _Output(logging.StreamHandler[TextIO]):
    """The handler that `configure` replaces; a test's or a library's own handlers stay.

    With a `journal` entries go there; where that fails, as lines to its stream as ever.
    """

    def __init__(self, stream: TextIO, journal: Journal | None = None) -> None:
        super().__init__(stream)
        self._journal = journal
        self._line = _Line(_goes_to_journald(stream))
        self.setFormatter(self._line)

    def emit(self, record: logging.LogRecord) -> None:
        if self._journal is not None:
            try:
                self._journal.send(_entry(record, self._line))
            except OSError:
                pass
            except Exception:  # noqa: BLE001  # a message that does not fit its arguments, as every handler has it
                self.handleError(record)
                return
            else:
                return
        super().emit(record)


def configure(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send the log from `level` up to `stream`, or standard error. A second call replaces the first.

    Raises ValueError for an unknown level.
    """
    output = stream if stream is not None else sys.stderr
    native = _goes_to_journald(output) and SOCKET.exists()
    handler = _Output(output, Journal() if native else None)
    root = logging.getLogger()
    root.setLevel(level.upper())
    for old in [each for each in root.handlers if isinstance(each, _Output)]:
        root.removeHandler(old)
    root.addHandler(handler)
    # A full disk under the log is no reason to print tracebacks into what is left of it.
    logging.raiseExceptions = False
    logging.captureWarnings(True)


def _goes_to_journald(output: TextIO) -> bool:
    # systemd names the device and inode of the stream it gave: the variable may be inherited, the stream not.
    try:
        status = os.fstat(output.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM", "") == f"{status.st_dev}:{status.st_ino}"
