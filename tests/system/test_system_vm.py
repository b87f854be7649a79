"""A system VM: made from its template, booted from its disk, configured over the channel or by the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from harness import guests
from harness.client import Client
from harness.console import Shell
from harness.daemon import Daemon, wait_until
from harness.repository import DISK
from harness.xen import control_domain
from kronos.datamodel.errors import Failure

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

BOOT = 120.0
STATIC = "169.254.200.7"
KIND, DRIVER = (control_domain.KIND, "vbd") if control_domain.here() else ("hvm", "virtio_blk")
"""What it is here, and what has its disk."""


class SystemVM:
    """A VM made from the template, halted."""

    def __init__(self, daemon: Daemon, name: str) -> None:
        self.daemon = daemon
        self.client = daemon.client(timeout=120)
        (template,) = self.client("VM.get_by_name_label", "Kronos system VM")
        self.vm = guests.clone_and_provision(self.client, template, name)
        if KIND == "pvh":  # Xen's are paravirtual as they come
            self.client("VM.set_domain_type", self.vm, KIND)
        guests.add_interface(self.client, self.vm, guests.internal_network(self.client))

    def start(self) -> SystemVM:
        self.client("VM.start", self.vm, False, False)
        return self

    def says(self, key: str, value: str = "") -> str:
        """Wait until it says this key, with this value if one is given; the value."""

        def said() -> Any:
            found = self.client("VM.get_channel_data", self.vm).get(key)
            return found if found and value in ("", found) else None

        return str(
            wait_until(
                said, BOOT, lambda: f"it says {self.client('VM.get_channel_data', self.vm)}", pause=0.2
            )
        )


@pytest.fixture(scope="module")
def served(daemon: Daemon) -> Iterator[SystemVM]:
    """One that serves HTTP, configured over the channel."""
    made = SystemVM(daemon, "served")
    made.client("VM.set_channel_config", made.vm, {"hostname": "by-channel", "service": "http"})
    made.start().says("ready", "yes")
    yield made
    made.client.close()


PAGE = """
import sys, time, urllib.error, urllib.request
until = time.monotonic() + 60
while True:
    try:
        print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())
        break
    except urllib.error.URLError:
        if time.monotonic() > until:
            raise
        time.sleep(0.2)
"""


def page(daemon: Daemon, address: str) -> str:
    """What its web server answers the host; a guest has its address a moment before the server listens."""
    return daemon.host.run(sys.executable, "-c", PAGE, f"http://{address}/", timeout=90).strip()


def test_it_boots_from_its_disk_with_the_drivers_of_its_hypervisor(served: SystemVM) -> None:
    assert served.client("VM.get_domain_type", served.vm) == KIND
    assert served.says("boot/disk") == f"/dev/{DISK}1"
    assert served.says("boot/driver") == DRIVER


def test_it_does_what_the_channel_says_and_tells_how_it_stands(served: SystemVM) -> None:
    assert served.says("configured") == "channel"
    assert served.says("hostname") == "by-channel"
    address = served.says("address/eth0")
    assert page(served.daemon, address) == "by-channel"


def test_its_services_are_asked_for_by_xenapi_and_other_vms_have_none(served: SystemVM) -> None:
    address = served.says("address/eth0")
    served.says("service/http")
    assert served.client("VM.query_services", served.vm) == {"http": f"http://{address}/"}
    other = served.client("VM.create", guests.vm_record(served.daemon.state, "other"))
    with pytest.raises(Failure, match="NOT_SYSTEM_DOMAIN"):
        served.client("VM.query_services", other)


def test_a_change_of_its_configuration_reaches_it_while_it_runs(served: SystemVM) -> None:
    served.client("VM.set_channel_config", served.vm, {"hostname": "renamed", "service": "http"})
    served.says("hostname", "renamed")
    assert page(served.daemon, served.says("address/eth0")) == "renamed"


def test_its_services_are_known_after_the_daemon_was_started_again(served: SystemVM) -> None:
    served.says("service/http")
    before = served.client("VM.query_services", served.vm)
    served.daemon.restart()
    served.client = served.daemon.client(timeout=120)
    assert served.client("VM.query_services", served.vm) == before
    served.client("VM.set_channel_config", served.vm, {"hostname": "later", "service": "http"})
    served.says("hostname", "later")


def test_without_a_channel_it_does_what_the_command_line_says(
    daemon: Daemon, client: Client, served: SystemVM
) -> None:
    """Booted as Xen PV guests are, by the host that reads its disk: so its command line is the record's."""
    made = SystemVM(daemon, "by-line")
    client("VM.set_HVM_boot_policy", made.vm, "")
    client("VM.set_domain_type", made.vm, KIND if control_domain.here() else "pv")
    client("VM.set_PV_bootloader", made.vm, "pygrub")
    client(
        "VM.set_PV_args", made.vm, f"kronos.hostname=by-line kronos.service=http kronos.address={STATIC}/16"
    )
    client("VM.add_to_platform", made.vm, "channel", "false")
    made.start()
    shell = Shell(daemon, client.session, made.vm).log_in(BOOT)
    wait_until(lambda: shell.run("hostname") == "by-line", 30, "it has another name")
    channels = "(cat /sys/class/virtio-ports/*/name; ls /sys/bus/xen/devices) 2>/dev/null"
    assert shell.run(f"{channels} | grep -c -e kronos -e console-1") == "0"
    shell.close()
    wait_until(
        lambda: daemon.host.succeeds("ping", "-c", "1", "-W", "2", STATIC), 30, "it has another address"
    )
    assert page(daemon, STATIC) == "by-line"
    assert client("VM.get_channel_data", made.vm) == {}
