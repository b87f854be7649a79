"""Guests of a Xen host, for tests in its control domain."""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness.client import Client
from harness.daemon import Daemon, wait_until
from harness.guests import vm_record

BOOT = 120.0
"""Seconds that an obedient guest may take to say that it is ready."""


class Guest:
    """An obedient guest that runs as a VM."""

    def __init__(self, daemon: Daemon, client: Client, **fields: object) -> None:
        self.daemon = daemon
        self.client = client
        self.vm = str(client("VM.create", vm_record(daemon.state, "guest", **fields)))
        self.uuid = str(client("VM.get_uuid", self.vm))

    @property
    def log(self) -> Path:
        return self.daemon.directory / "run" / self.uuid / "serial.log"

    @property
    def power_state(self) -> str:
        return str(self.client("VM.get_power_state", self.vm))

    @property
    def domid(self) -> str:
        return str(self.client("VM.get_domid", self.vm))

    def start(self) -> Guest:
        self.client("VM.start", self.vm, False, False)
        self.ready()
        return self

    def ready(self, times: int = 1) -> None:
        """Wait until it has said so `times` times since it was started; it says so again after each reboot."""
        wait_until(
            lambda: self.log.read_text().count("ready") >= times,
            BOOT,
            lambda: f"it says {self.log.read_text()!r}",
        )

    def becomes(self, state: str, timeout: float = 30) -> None:
        wait_until(
            lambda: self.power_state == state, timeout, lambda: f"it is {self.power_state}, not {state}"
        )


def xl(*words: str) -> str:
    """What Xen's own command prints."""
    done = subprocess.run(["xl", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"xl {words}: {done.stderr}"
    return done.stdout
