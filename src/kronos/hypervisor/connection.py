"""The connection to libvirt's daemon: kept alive, taken up again when the daemon comes back, its events
taken in."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import libvirt

from kronos.datamodel.errors import Failure

log = logging.getLogger(__name__)

KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 5, 3
FIRST_RETRY, LAST_RETRY = 0.05, 5.0

_loop_guard = threading.Lock()
_loop: threading.Thread | None = None


def _run_loop() -> None:
    while True:
        if libvirt.virEventRunDefaultImpl() < 0:
            # It reports a failed poll; without a pause a lasting fault would take a whole CPU.
            time.sleep(0.1)


def start_event_loop() -> None:
    """Run libvirt's event loop in a thread of ours, once a process; it must be there before a connection is
    opened."""
    global _loop
    with _loop_guard:
        if _loop is not None:
            return
        # Errors are raised as exceptions; libvirt would print each on stderr as well.
        libvirt.registerErrorHandler(lambda context, error: None, None)
        libvirt.virEventRegisterDefaultImpl()
        _loop = threading.Thread(target=_run_loop, name="libvirt-events", daemon=True)
        _loop.start()


class Connection:
    """One lasting connection to `uri`.

    `on_open(handle, again)` is called with every new handle, before others get it: `again` is False the
    first time, and True after the daemon had been away.
    """

    def __init__(self, uri: str, on_open: Callable[[libvirt.virConnect, bool], None]) -> None:
        self.uri = uri
        self._on_open = on_open
        self._handle: libvirt.virConnect | None = None
        self._closed = False
        self._changed = threading.Condition()
        start_event_loop()

    def open(self) -> None:
        """Connect. Raises INTERNAL_ERROR when no libvirt answers there."""
        try:
            self._connect(again=False)
        except libvirt.libvirtError as error:
            raise Failure("INTERNAL_ERROR", f"libvirt at {self.uri}: {error}") from error

    def handle(self, patience: float = 10.0) -> libvirt.virConnect:
        """The live handle; waits `patience` seconds for a daemon that is away. Raises INTERNAL_ERROR."""
        handle = self._handle
        if handle is not None:
            return handle
        with self._changed:
            self._changed.wait_for(lambda: self._handle is not None or self._closed, patience)
            if self._handle is None:
                raise Failure("INTERNAL_ERROR", f"libvirt at {self.uri} does not answer")
            return self._handle

    @contextmanager
    def apart(self) -> Iterator[libvirt.virConnect]:
        """A connection for one call that takes long.

        The daemon serves only a few calls of a connection at a time (max_client_requests, 5): a handful of
        memory images being written would hold up everything else.
        """
        handle = libvirt.open(self.uri)
        try:
            with suppress(libvirt.libvirtError):
                handle.setKeepAlive(KEEPALIVE_INTERVAL, KEEPALIVE_COUNT)
            yield handle
        finally:
            handle.close()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            handle, self._handle = self._handle, None
            self._changed.notify_all()
        if handle is not None:
            with suppress(libvirt.libvirtError):
                handle.unregisterCloseCallback()
                handle.close()

    def _connect(self, *, again: bool) -> None:
        handle = libvirt.open(self.uri)
        try:
            # Drivers inside this process (test:///) have no daemon to lose.
            with suppress(libvirt.libvirtError):
                handle.registerCloseCallback(self._lost, None)
                handle.setKeepAlive(KEEPALIVE_INTERVAL, KEEPALIVE_COUNT)
            self._on_open(handle, again)
        except BaseException:
            handle.close()
            raise
        with self._changed:
            self._handle = None if self._closed else handle
            self._changed.notify_all()
        if self._closed:
            handle.close()
        elif not handle.isAlive():
            # It went while on_open used it, so the close callback came before there was anything to lose.
            self._lost(handle, libvirt.VIR_CONNECT_CLOSE_REASON_ERROR, None)

    def _lost(self, handle: libvirt.virConnect, reason: int, opaque: object) -> None:
        """The close callback: runs in the event loop's thread, which must not wait."""
        with self._changed:
            if self._closed or self._handle is not handle:
                return
            self._handle = None
        log.warning("libvirt at %s went away (reason %d); guests run on", self.uri, reason)
        threading.Thread(target=self._return, args=(handle,), name="libvirt-return", daemon=True).start()

    def _return(self, dead: libvirt.virConnect) -> None:
        with suppress(libvirt.libvirtError):
            dead.close()
        pause = FIRST_RETRY
        while not self._closed:
            try:
                self._connect(again=True)
            except (libvirt.libvirtError, Failure) as error:
                log.info("libvirt at %s: %s; trying again in %.2f s", self.uri, error, pause)
            else:
                log.info("libvirt at %s is back", self.uri)
                return
            with self._changed:
                self._changed.wait_for(lambda: self._closed, pause)
            pause = min(pause * 2, LAST_RETRY)
