"""`make demo`: start xapi from this checkout, install a guest through XenAPI, boot it, show its console and ping it.

`stop` ends it all and removes every trace. A second `start` uses what the first one left and takes seconds.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".kronos" / "demo"
SOCKET = HOME / "xapi"
BIN = ROOT / ".venv" / "bin"
BRIDGE = "krdemo0"
GUEST = "demo"
ADDRESSES = ("ip_begin=172.31.254.1", "ip_end=172.31.254.254", "netmask=255.255.255.0")
"""Of the network between the demo's guests and this machine: a packaged daemon has the default block."""
TEMPLATE = "Kronos tiny guest"
PROMPT = b"login: "
ENVIRONMENT = {**os.environ, "XAPI_SOCKET": str(SOCKET)}
COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


class DemoFailed(Exception):
    """Something did not go as it should; the text says what and where to look."""


def bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if COLOUR else text


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is done, and afterwards how long it took."""
    print(bold(f"==> {what}"), flush=True)
    started = time.monotonic()
    yield
    print(f"    {time.monotonic() - started:.1f} s", flush=True)


def xe(*words: str, quiet: bool = False) -> str:
    """Run an xe command as a user would, showing it."""
    if not quiet:
        print("    $ xe " + " ".join(f'"{word}"' if " " in word else word for word in words), flush=True)
    done = subprocess.run([BIN / "xe", *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise DemoFailed(f"xe {words[0]}: {done.stderr.strip()}\nThe daemon's log is {HOME / 'xapi.log'}.")
    return done.stdout.strip()


def daemon_pid() -> int | None:
    try:
        pid = int((HOME / "xapi.pid").read_text())
        return pid if str(HOME) in Path(f"/proc/{pid}/cmdline").read_text() else None
    except (OSError, ValueError):
        return None


def settings() -> list[str]:
    values = {
        "state": HOME / "state",
        "run": HOME / "run",
        "socket": SOCKET,
        "storage": HOME / "storage",
        "listen": "127.0.0.1",
        "address": "127.0.0.1",
        "http_port": 8080,
        "https_port": 8443,
        "private_libvirt": "true",
        "internal_bridge": BRIDGE,
    }
    return [word for name, value in values.items() for word in ("-o", f"{name}={value}")]


def make_guest() -> None:
    words = [BIN / "python", "-m", "kronos.boot", HOME / "state" / "tiny-guest", "--cache", HOME / "cache"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("qemu-system"):
                print("    " + line.replace("; to boot it:", "").rstrip(), flush=True)
    if process.returncode != 0:
        raise DemoFailed("The tiny guest could not be made.")


def start_daemon() -> None:
    if daemon_pid() is not None:
        print("    it runs already")
        return
    SOCKET.unlink(missing_ok=True)
    with (HOME / "xapi.log").open("ab") as log:
        process = subprocess.Popen(
            [BIN / "xapi", *settings()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (HOME / "xapi.pid").write_text(str(process.pid))
    deadline = time.monotonic() + 60
    while not SOCKET.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            end = (HOME / "xapi.log").read_text(errors="replace")[-2000:]
            raise DemoFailed(f"xapi did not start. The end of {HOME / 'xapi.log'}:\n{end}")
        time.sleep(0.05)


def console(uuid: str) -> None:
    """Show the guest's serial console until it asks for a login."""
    location = xe("console-list", f"vm-uuid={uuid}", "protocol=VT100", "params=uuid", "--minimal", quiet=True)
    seen = b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(120)
        connection.connect(str(SOCKET))
        connection.sendall(f"CONNECT /console?uuid={location} HTTP/1.0\r\n\r\n".encode())
        headers = b""
        while b"\r\n\r\n" not in headers:
            data = connection.recv(4096)
            if not data:
                raise DemoFailed(f"The console closed at once: {headers!r}")
            headers += data
        head, _, seen = headers.partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0] + b" ":
            raise DemoFailed(f"The console was refused: {head.decode(errors='replace')}")
        shown = 0
        while True:
            text = seen[shown:].decode(errors="replace").replace("\r", "")
            print(text.replace("\n", "\n    | "), end="", flush=True)
            shown = len(seen)
            if PROMPT in seen:
                print()
                return
            data = connection.recv(4096)
            if not data:
                raise DemoFailed("The guest's console ended before its login prompt.")
            seen += data


def address_of(uuid: str) -> str:
    """The guest's address, as XenAPI tells it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        networks = xe("vm-param-get", f"uuid={uuid}", "param-name=networks", quiet=True)
        for entry in networks.split("; "):
            name, _, address = entry.partition(": ")
            if name.endswith("/ip") and address:
                return address
        time.sleep(0.3)
    raise DemoFailed("The guest took no address within a minute; see `xe vm-param-list uuid=" + uuid + "`.")


def install() -> str:
    known = xe("vm-list", f"name-label={GUEST}", "params=uuid", "--minimal", quiet=True)
    if known:
        print(f"    {GUEST} is there already: {known}")
        return known.split(",")[0]
    uuid = xe("vm-install", f"template={TEMPLATE}", f"new-name-label={GUEST}")
    print(f"    {uuid}")
    network = xe("network-list", f"bridge={BRIDGE}", "params=uuid", "--minimal", quiet=True)
    for entry in ADDRESSES:
        xe("network-param-set", f"uuid={network}", f"other-config:{entry}", quiet=True)
    xe("vif-create", f"vm-uuid={uuid}", f"network-uuid={network}", "device=0", "mac=random")
    return uuid


def start() -> None:
    if os.geteuid() != 0:
        raise DemoFailed("The demo makes a bridge and runs guests: run it as root (sudo make demo).")
    began = time.monotonic()
    HOME.mkdir(parents=True, exist_ok=True)
    with step("Making the tiny guest (the distribution's kernel and busybox)"):
        make_guest()
    with step("Starting the xapi daemon"):
        start_daemon()
    with step("Looking at the host"):
        print(xe("host-list", "params=name-label,software-version:hypervisor,capabilities"))
        warning = xe(
            "host-param-get",
            f"uuid={xe('host-list', '--minimal', quiet=True)}",
            "param-name=other-config",
            quiet=True,
        )
        for entry in warning.split("; "):
            if entry.startswith("kronos:hypervisor_warning: "):
                print(bold("    ! " + entry.partition(": ")[2]))
        print(xe("sr-list", "params=name-label,type,physical-size"))
        print(xe("network-list", "params=name-label,bridge"))
    with step(f"Installing a VM from the template {TEMPLATE}"):
        uuid = install()
    with step("Booting it"):
        if xe("vm-param-get", f"uuid={uuid}", "param-name=power-state", quiet=True) == "running":
            print("    it runs already")
        else:
            xe("vm-start", f"uuid={uuid}")
    with step("Its console, until it asks for a login"):
        print("    | ", end="")
        console(uuid)
    with step("Its address, and a ping"):
        address = address_of(uuid)
        ping = subprocess.run(
            ["ping", "-c", "3", "-i", "0.3", "-W", "5", address], capture_output=True, text=True
        )
        print("\n".join("    " + line for line in ping.stdout.splitlines()))
        if ping.returncode != 0:
            raise DemoFailed(f"{address} does not answer.")
    print(bold(f"\nThe guest runs; all of this took {time.monotonic() - began:.0f} s. Try next:"))
    print(f"""
    export XAPI_SOCKET={SOCKET} PATH={BIN}:$PATH
    xe console uuid={uuid}          # log in as root, no password; leave with Ctrl-]
    xe vm-list params=all name-label={GUEST}
    xe vm-suspend uuid={uuid} && xe vm-resume uuid={uuid}
    xe vm-clone uuid={uuid} new-name-label=copy    # halted VMs, in no time
    xe help --all

    XenAPI is on http://127.0.0.1:8080 and https://127.0.0.1:8443.
    make demo-stop ends the demo and removes everything that it made.
""")


def stop() -> None:
    """End the guest, the daemon and its libvirtd; remove bridge, address service, rules and files."""
    from kronos.network.bridge import BridgeNetwork
    from kronos.system.libvirtd import PrivateLibvirtd

    pid = daemon_pid()
    if pid is not None:
        with step("Ending its guests and stopping the xapi daemon"):
            for uuid in xe("vm-list", "power-state=running", "is-control-domain=false", "--minimal").split(
                ","
            ):
                if uuid:
                    xe("vm-shutdown", "--force", f"uuid={uuid}")
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + 30
            while daemon_pid() is not None and time.monotonic() < deadline:
                time.sleep(0.05)
            if daemon_pid() is not None:
                os.kill(pid, signal.SIGKILL)
    if HOME.exists():
        with step("Ending its libvirtd"):
            PrivateLibvirtd(HOME / "state" / "libvirt").stop(kill_guests=True)
        with step("Removing bridges, address service, rules and files"):
            network = BridgeNetwork(HOME / "state" / "network")
            for bridge in network.bridges():
                if bridge.managed and bridge.name == BRIDGE:
                    network.destroy_bridge(bridge.name)
            if not network.secured():
                subprocess.run(["nft", "delete", "table", "bridge", "kronos"], capture_output=True)
            shutil.rmtree(HOME)
    print("Nothing of the demo is left.")


def main() -> int:
    action = {"start": start, "stop": stop}.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if action is None:
        print("usage: demo.py start | stop", file=sys.stderr)
        return 2
    try:
        action()
    except (DemoFailed, subprocess.SubprocessError) as error:
        print(bold(f"\nThe demo failed: {error}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
