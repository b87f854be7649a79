"""The network tools of a distribution: which one has configured a NIC, what its files would be with a bridge, and its
part in a change under way."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from kronos.network.configuration import ifupdown, links, networkd, networkmanager
from kronos.network.configuration.base import Addressing, Port, Refused, text_of
from kronos.network.configuration.links import Held
from kronos.network.configuration.transaction import Hands, content
from kronos.network.names import bridge_of
from kronos.system.commands import CommandFailed, run

_LONG = 45.0
"""Seconds that a tool gets to bring an interface up: DHCP clients take their time."""


class Tool(Hands, Protocol):
    """A tool with its files."""

    name: str

    def is_there(self) -> bool:
        """Whether this host has it, and lets it work."""

    def configures(self, device: str) -> bool:
        """Whether it has given `device` its addresses."""

    def bridged(self, port: Port) -> dict[str, str]:
        """The files that change, with their new texts. Raises Refused."""

    def readdressed(self, port: Port, addressing: Addressing, old: str) -> dict[str, str]:
        """The same for a bridge with other addresses; `old` loses its own. Raises Refused."""


def tool_of(device: str) -> Tool:
    """Who configures a NIC. Raises Refused where it is nobody that is known here."""
    for tool in TOOLS.values():
        if tool.configures(device):
            return tool
    names = ", ".join(TOOLS)
    raise Refused(f"{device} is configured by none of {names}; make its bridge with the tool that is")


def tool_for(device: str) -> Tool:
    """Who is to configure a NIC, be it that nobody does yet. Raises Refused."""
    try:
        return tool_of(device)
    except Refused:
        other = links.default_device()
        if other and other != device:
            return tool_of(other)
        for name, tool in TOOLS.items():
            if tool.is_there():
                return TOOLS[name]
        raise


# --- ifupdown --------------------------------------------------------------------------------------------------------


class Ifupdown:
    """Debian's own. Its DHCP client is ended without a word to the server, and started anew on the other interface."""

    name = "ifupdown"

    def __init__(self, main: str = ifupdown.MAIN, leases: Path = Path("/var/lib/dhcp")) -> None:
        self.main = main
        self._leases = leases
        self._up = Path("/run/network/ifstate")

    def is_there(self) -> bool:
        return _program("ifup") is not None and Path(self.main).exists()

    def configures(self, device: str) -> bool:
        return self.is_there() and ifupdown.is_configured(self._files(), device)

    def bridged(self, port: Port) -> dict[str, str]:
        return ifupdown.bridged(self._files(), port)

    def readdressed(self, port: Port, addressing: Addressing, old: str) -> dict[str, str]:
        files = self._files()
        changed: dict[str, str] = {}
        if not ifupdown.is_bridged(files, port):
            changed = ifupdown.readdressed(files, port.device, Addressing())
            changed |= ifupdown.bridged({**files, **changed}, port)
        return changed | ifupdown.readdressed(
            {**files, **changed}, port.bridge, addressing, [old] if old else []
        )

    def join(self, port: Port, has: Held) -> None:
        self._move(port.device, port.bridge, lambda: links.into_bridge(port, has))
        self._regain(port)

    def leave(self, port: Port, has: Held) -> None:
        end_clients(port.bridge)
        self._dissolve(port)
        if links.exists(port.bridge):
            self._told("ifdown", port.bridge, f"iface {port.bridge} inet manual\n")
        if not has.addresses:  # other ones than the bridge's
            links.out_of_bridge(port, has)
            if ifupdown.is_configured(self._files(), port.device):
                run(["ifup", "--force", port.device], timeout=_LONG)
        else:
            self._move(port.bridge, port.device, lambda: links.out_of_bridge(port, has))
        self._regain(port)

    def renew(self, port: Port, has: Held) -> None:
        for name in (port.device, port.bridge):
            end_clients(name)
        links.into_bridge(port, Held())
        links.clear(port.bridge)
        files = self._files()
        for other in self._others(port):
            if not ifupdown.is_configured(files, other):
                end_clients(other)
                links.clear(other)
        run(["ifup", "--force", port.bridge], timeout=_LONG)

    def _dissolve(self, port: Port) -> None:
        """Bridges to which the management interface has been moved since, and of which the files know nothing, go."""
        known = ifupdown.names(self._files())
        for line in (content(self._up) or "").split():
            bridge = line.partition("=")[0]
            nics = [each for each in links.members(bridge) if bridge_of(each) == bridge]
            if nics and bridge not in known and bridge != port.bridge:
                end_clients(bridge)
                self._told("ifdown", bridge, f"iface {bridge} inet manual\n")
                links.out_of_bridge(links.port(nics[0], bridge), Held())

    def _regain(self, port: Port) -> None:
        """What `renew` took from another interface, which has its stanza again, comes back."""
        files = self._files()
        for other in self._others(port):
            if ifupdown.is_configured(files, other) and not links.held(other).lasting():
                run(["ifup", "--force", other], timeout=_LONG)

    def _others(self, port: Port) -> list[str]:
        """The other interfaces that ifupdown has brought up, and that have a cable."""
        up = (content(self._up) or "").split()
        known = {line.partition("=")[0] for line in up} - {"lo", port.device, port.bridge}
        return [name for name in ifupdown.names(self._files()) if name in known and links.has_carrier(name)]

    def _move(self, source: str, target: str, carry: Callable[[], None]) -> None:
        end_clients(source)
        self._hand_over_lease(source, target, is_for_good=links.is_bridge(source))
        carry()
        self._told("ifup", target, ifupdown.client_only(self._files(), target))
        if (seconds := self._leased(target)) > 0:
            links.extend(target, seconds)

    def _told(self, program: str, name: str, configuration: str) -> None:
        """Let ifupdown take an interface for up or down by a configuration of this moment's."""
        with tempfile.NamedTemporaryFile("w", prefix="xapi-network-", errors="surrogateescape") as file:
            file.write(configuration)
            file.flush()
            run([program, "--force", f"--interfaces={file.name}", name], timeout=_LONG)

    def _files(self) -> dict[str, str]:
        def read(path: str) -> str:
            return text_of(Path(path).read_bytes())

        def expand(pattern: str) -> list[str]:
            # Patterns are ifupdown's, with its own order.
            return [path for path in glob.glob(pattern) if os.path.isfile(path)]  # noqa: PTH113, PTH207

        return ifupdown.gather(read, expand, self.main)

    def _hand_over_lease(self, source: str, target: str, *, is_for_good: bool) -> None:
        """dhclient asks for the address that it had, and by the identifier that it had, if it finds its lease."""
        for kind in ("dhclient", "dhclient6"):
            lease = self._leases / f"{kind}.{source}.leases"
            if lease.exists():
                text = lease.read_text().replace(f'interface "{source}";', f'interface "{target}";')
                (self._leases / f"{kind}.{target}.leases").write_text(text)
                if is_for_good:
                    lease.unlink()

    def _leased(self, device: str) -> int:
        """For how long dhclient has an address; it leaves one that is there already as it is."""
        text = content(self._leases / f"dhclient.{device}.leases") or ""
        times = re.findall(r"option dhcp-lease-time (\d+);", text)
        return int(times[-1]) if times else 0


def end_clients(device: str) -> None:
    """End the DHCP clients of a device at once: asked to end, they would give the address back."""
    processes = _processes()
    ending = {pid for pid, (_, words) in processes.items() if _is_client(words, device)}
    while children := {pid for pid, (parent, _) in processes.items() if parent in ending} - ending:
        ending |= children
    for pid in ending:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 5
    while time.monotonic() < until and ending & _processes().keys():
        time.sleep(0.02)


def _is_client(words: list[str], device: str) -> bool:
    program = words[0].rpartition("/")[2].rstrip(":") if words else ""
    return program in ("dhclient", "udhcpc", "dhcpcd") and device in words[1:]


def _processes() -> dict[int, tuple[int, list[str]]]:
    """The living processes of this network: their parents, and the words that they show of themselves."""
    found = {}
    here = os.readlink("/proc/self/ns/net")  # noqa: PTH115  # no path
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(path / "ns/net") != here:  # noqa: PTH115  # no path
                continue
            state, parent, *_ = (path / "stat").read_text().rpartition(")")[2].split()
            words = (path / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ").split()
        except OSError:
            continue
        if state != "Z":
            found[int(path.name)] = (int(parent), words)
    return found


# --- systemd-networkd ------------------------------------------------------------------------------------------------


class Networkd:
    """systemd's. It keeps its leases when it is restarted, without a word to the server."""

    name = "systemd-networkd"
    _run = Path("/run/systemd")

    def is_there(self) -> bool:
        return (self._run / "netif/state").exists()

    def configures(self, device: str) -> bool:
        state = self._state(device)
        return state.get("ADMIN_STATE") == "configured" and bool(state.get("NETWORK_FILE"))

    def bridged(self, port: Port) -> dict[str, str]:
        state = self._state(port.device)
        path = state["NETWORK_FILE"]
        drop_ins = state.get("NETWORK_FILE_DROPINS", "").replace('"', "").split()
        texts = [content(Path(each)) or "" for each in (path, *drop_ins)]
        lease = _assignments(self._run / "netif/leases" / self._index(port.device))
        return networkd.bridged(path.rpartition("/")[2], texts, port, lease.get("CLIENTID", ""))

    def readdressed(self, port: Port, addressing: Addressing, old: str) -> dict[str, str]:
        former = networkd.readdressed(self._own(old), Addressing("none")) if old else {}
        return former | networkd.readdressed(port, addressing)

    @staticmethod
    def _own(bridge: str) -> Port:
        """A bridge of ours. Raises Refused."""
        nics = [each for each in links.members(bridge) if bridge_of(each) == bridge]
        if not nics or content(Path(networkd.files_of(bridge)[1])) is None:
            raise Refused(f"systemd-networkd gives {bridge} its addresses: take them out of its file first")
        return links.port(nics[0], bridge)

    def join(self, port: Port, has: Held) -> None:
        links.into_bridge(port, has)
        self._restart()

    def leave(self, port: Port, has: Held) -> None:
        # The NIC's own file is found again only by networkd itself: all of them are to keep what there is.
        names = {path.name for folder in _FOLDERS for path in folder.glob("*.network")}
        with contextlib.ExitStack() as stack:
            for name in names:
                stack.enter_context(self._keeping(name))
            links.out_of_bridge(port, has)
            self._dissolve(port)
            self._restart()
        if self._is_leased(port.device):
            run(["networkctl", "reload"], timeout=20)

    def _dissolve(self, port: Port) -> None:
        """Bridges of ours whose files have gone, go: networkd itself removes none."""
        for bridge in links.bridges():
            file = Path(self._state(bridge).get("NETWORK_FILE", ""))
            nics = [each for each in links.members(bridge) if bridge_of(each) == bridge]
            ours = str(file) == networkd.files_of(bridge)[1]
            if ours and not file.exists() and nics and bridge != port.bridge:
                links.out_of_bridge(links.port(nics[0], bridge), Held())

    def renew(self, port: Port, has: Held) -> None:
        links.into_bridge(port, Held())
        links.clear(port.bridge)
        for bridge in self._silent():  # which networkd lets keep what it had
            links.clear(bridge)
        self._restart()

    def _silent(self) -> list[str]:
        """The bridges of ours that are to have no address."""
        found = Path(networkd.FOLDER).glob("00-xapi-*.netdev")
        bridges = (path.name.removeprefix("00-xapi-").removesuffix(".netdev") for path in found)
        return [
            each
            for each in bridges
            if links.exists(each) and networkd.is_silent(content(Path(networkd.files_of(each)[1])) or "")
        ]

    @contextlib.contextmanager
    def _keeping(self, name: str) -> Iterator[None]:
        """Addresses that are there stay: networkd begins by removing them, and there may be no server for others."""
        drop_in = self._run / "network" / f"{name}.d/xapi.conf"
        drop_in.parent.mkdir(parents=True, exist_ok=True)
        drop_in.write_text("[Network]\nKeepConfiguration=yes\n")
        try:
            yield
        finally:
            drop_in.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                drop_in.parent.rmdir()

    def _restart(self) -> None:
        """It has read its files when this returns; whether it finds its addresses is seen by the host being reached."""
        run(["systemctl", "restart", "systemd-networkd.service"], timeout=_LONG)

    def _is_leased(self, device: str) -> bool:
        """Whether a server has given it an address by now; a moment is waited for that."""
        until = time.monotonic() + 5
        lease = self._run / "netif/leases" / self._index(device)
        while not lease.exists() and time.monotonic() < until:
            time.sleep(0.1)
        return lease.exists()

    def _state(self, device: str) -> dict[str, str]:
        if not links.exists(device):
            return {}
        return _assignments(self._run / "netif/links" / self._index(device))

    def _index(self, device: str) -> str:
        return str(socket.if_nametoindex(device))


_FOLDERS = tuple(Path(start) / "systemd/network" for start in ("/etc", "/run", "/usr/lib"))


def _assignments(path: Path) -> dict[str, str]:
    lines = (content(path) or "").splitlines()
    return {name: value for name, equals, value in (line.partition("=") for line in lines) if equals}


# --- NetworkManager --------------------------------------------------------------------------------------------------


class NetworkManager:
    """Its own way is the only one: what others do to an interface of its it undoes. The address is away for as long as
    the lease takes."""

    name = "NetworkManager"

    def is_there(self) -> bool:
        return _program("nmcli") is not None and Path("/run/NetworkManager/devices").exists()

    def configures(self, device: str) -> bool:
        if not self.is_there():
            return False
        try:
            state = run(["nmcli", "-g", "GENERAL.STATE", "device", "show", device], timeout=20)
        except CommandFailed:
            return False
        return state.startswith("100 ") and bool(self._profile(device))

    def bridged(self, port: Port) -> dict[str, str]:
        path = self._profile(port.device)
        text = content(Path(path))
        if text is None or not path.endswith(".nmconnection"):
            raise Refused(f"the profile of {port.device}, {path}, is no keyfile of NetworkManager's")
        return networkmanager.bridged(text, port)

    def readdressed(self, port: Port, addressing: Addressing, old: str) -> dict[str, str]:
        if old:
            raise Refused(f"NetworkManager gives {old} its addresses: delete its profile first")
        return networkmanager.readdressed(port, addressing)

    def join(self, port: Port, has: Held) -> None:
        run(["nmcli", "connection", "reload"], timeout=20)
        run(
            ["nmcli", "--wait", str(int(_LONG)), "connection", "up", f"xapi-{port.bridge}-port"],
            timeout=_LONG + 5,
        )
        run(
            ["nmcli", "--wait", str(int(_LONG)), "connection", "up", f"xapi-{port.bridge}"], timeout=_LONG + 5
        )

    def leave(self, port: Port, has: Held) -> None:
        run(["nmcli", "connection", "reload"], timeout=20)
        if links.exists(port.bridge):
            with contextlib.suppress(CommandFailed):  # it may have gone with its profile
                run(["nmcli", "device", "delete", port.bridge], timeout=20)
        run(["nmcli", "--wait", str(int(_LONG)), "device", "connect", port.device], timeout=_LONG + 5)

    def renew(self, port: Port, has: Held) -> None:
        self.join(port, has)

    def _profile(self, device: str) -> str:
        said = run(["nmcli", "-t", "-f", "DEVICE,FILENAME", "connection", "show", "--active"], timeout=20)
        lines = (line.partition(":") for line in said.splitlines())
        return next((path.replace("\\:", ":") for name, _, path in lines if name == device), "")


def _program(name: str) -> str | None:
    return next(
        (
            path
            for folder in ("/usr/sbin", "/sbin", "/usr/bin")
            if os.access(path := f"{folder}/{name}", os.X_OK)
        ),
        None,
    )


TOOLS: Mapping[str, Tool] = {tool.name: tool for tool in (Ifupdown(), NetworkManager(), Networkd())}
