"""The guest channel with a real guest: what it is given, what it says, and that neither it nor a restart does harm."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import guests
from harness.console import Shell
from harness.daemon import Daemon, wait_until
from harness.xen import control_domain

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

BOOT = 90.0
XE = Path(__file__).resolve().parents[2] / "src/kronos/xe/xe"
MIB = 1 << 20
KEYS = 10_000 if control_domain.here() else 100_000
"""How much a hostile guest says: a machine that emulates a host of guests would take ten minutes for all of it."""


class Guest:
    """The tiny guest as a VM, with root's shell in it."""

    def __init__(self, daemon: Daemon, name: str = "channel", **config: str) -> None:
        self.daemon = daemon
        self.client = daemon.client(timeout=120)
        self.vm = guests.tiny_vm(self.client, name, network=False)
        self.uuid = str(self.client("VM.get_uuid", self.vm))
        self.client("VM.set_channel_config", self.vm, config)
        self.client("VM.start", self.vm, False, False)
        self.shell = Shell(daemon, self.client.session, self.vm).log_in(BOOT)

    def data(self) -> dict[str, str]:
        return dict(self.client("VM.get_channel_data", self.vm))

    def config(self, key: str) -> str:
        return self.shell.run(f"cat /run/channel/config/{key}")

    def reconnected(self) -> None:
        """Take the daemon's new socket and console after it was started again."""
        self.client = self.daemon.client(timeout=120)
        self.shell = Shell(self.daemon, self.client.session, self.vm).log_in(BOOT)


def eventually(reached: Callable[[], Any], what: str = "", timeout: float = 60) -> Any:
    return wait_until(reached, timeout, what, pause=0.2)


def xe(daemon: Daemon, *words: str) -> str:
    """What a user of the command line is told."""
    environment = {"XAPI_SOCKET": str(daemon.socket), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, XE, *words], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def guest(daemon: Daemon) -> Iterator[Guest]:
    made = Guest(daemon, hostname="given")
    yield made
    made.client.close()


def test_a_guest_has_what_it_is_given_at_its_boot_and_what_changes_later(guest: Guest) -> None:
    eventually(lambda: guest.config("hostname") == "given")
    guest.client("VM.add_to_channel_config", guest.vm, "motd", 'gr\u00fc\u00df "dich" \\ you')
    eventually(lambda: guest.config("motd") == 'gr\u00fc\u00df "dich" \\ you')
    guest.client("VM.remove_from_channel_config", guest.vm, "motd")
    eventually(lambda: "No such file" in guest.config("motd"))


def test_a_guest_has_the_keys_of_xenstore_that_clients_write_for_it(guest: Guest) -> None:
    guest.client("VM.add_to_xenstore_data", guest.vm, "vm-data/role", "front")
    eventually(lambda: guest.config("vm-data_role") == "front")


def test_what_a_guest_says_is_in_xenapi(guest: Guest) -> None:
    guest.shell.run("say ready=yes 'text=with \"quotes\"'")
    eventually(lambda: guest.data() == {"ready": "yes", "text": 'with "quotes"'})
    guest.shell.run("say text")
    eventually(lambda: guest.data() == {"ready": "yes"})


def test_what_a_guest_says_and_is_given_is_in_xe(guest: Guest) -> None:
    guest.shell.run("say phase=one")
    eventually(lambda: guest.data().get("phase") == "one")
    uuid = f"uuid={guest.uuid}"
    assert xe(guest.daemon, "vm-param-get", uuid, "param-name=channel-data", "param-key=phase") == "one"
    xe(guest.daemon, "vm-param-set", uuid, "channel-config:colour=red")
    eventually(lambda: guest.config("colour") == "red")
    assert "channel-config (MRW)" in xe(guest.daemon, "vm-param-list", uuid)
    xe(guest.daemon, "vm-param-remove", uuid, "param-name=channel-config", "param-key=colour")
    eventually(lambda: "No such file" in guest.config("colour"))


def test_the_channel_outlives_the_daemon(guest: Guest) -> None:
    guest.shell.run("say before=restart")
    eventually(lambda: guest.data().get("before") == "restart")
    guest.shell.close()
    guest.daemon.restart()
    guest.reconnected()
    assert guest.data()["before"] == "restart"
    guest.shell.run("say after=restart")
    eventually(lambda: guest.data().get("after") == "restart")
    guest.client("VM.add_to_channel_config", guest.vm, "later", "yes")
    eventually(lambda: guest.config("later") == "yes")


def test_the_channel_outlives_a_daemon_that_was_killed(guest: Guest) -> None:
    guest.shell.close()
    guest.daemon.kill()
    guest.daemon.start()
    guest.reconnected()
    guest.shell.run("say after=kill")
    eventually(lambda: guest.data().get("after") == "kill")


def test_a_guest_that_boots_again_is_asked_nothing_and_given_all(guest: Guest) -> None:
    guest.shell.run("say left=over")
    eventually(lambda: guest.data().get("left") == "over")
    guest.client("VM.clean_reboot", guest.vm)
    eventually(lambda: guest.data() == {}, timeout=BOOT)
    guest.shell.close()
    guest.reconnected()
    eventually(lambda: guest.config("hostname") == "given")


def test_a_hostile_guest_does_no_harm(guest: Guest) -> None:
    """Noise, ten megabytes without an end, a hundred thousand keys: bounded, and the next good line is heard."""
    shell, daemon = guest.shell, guest.daemon
    shell.run(
        "sed -i /channel/d /etc/inittab; kill -HUP 1; sleep 1; rm /run/channel/up; killall channel; sleep 1"
    )
    memory = daemon.memory()
    flood = "; ".join(
        (
            "port=$(grep -l org.kronos /sys/class/virtio-ports/*/name)",
            "port=${port%/name}",
            "port=${port##*/}",
            "exec 7<>/dev/${port:-hvc1}",  # Xen's consoles have no names
            f"head -c {10 * KEYS} /dev/urandom >&7",
            f"head -c {100 * KEYS} /dev/zero | tr '\\000' x >&7",
            "echo >&7",
            f"""awk -v keys={KEYS} """
            """'BEGIN { printf "{\\"say\\":{"; for (i = 0; i < keys; i++) printf "\\"k%d\\":\\"v\\",", i; """
            """print "\\"e\\":\\"\\"}}" }' >&7""",
            f"""awk -v keys={KEYS} """
            """'BEGIN { for (i = 0; i < keys; i++) printf "{\\"say\\":{\\"k%d\\":\\"v\\"}}\\n", i }' >&7""",
            """echo '{"say":{"k1":null,"alive":"yes"}}' >&7""",
        )
    )
    shell.run(
        f"cat >/tmp/flood <<'END'\n{flood}\nEND\nchmod +x /tmp/flood; (sh /tmp/flood; sleep 600) >/dev/null 2>&1 & true"
    )
    client = daemon.client(timeout=10)
    worst = 0
    while guest.data().get("alive") != "yes":
        client("VM.set_name_description", guest.vm, str(worst))
        worst = max(worst, daemon.memory() - memory)
        assert len(guest.data()) <= 64
    client.close()
    assert worst < 16 * MIB
    assert len(guest.data()) == 64
