"""ifupdown: /etc/network/interfaces with a bridge in the place of a NIC.

The bridge is made by `ip link` in pre-up lines: bridge-utils, which brings `bridge_ports`, is not on every host, and
iproute2 is, because ifupdown needs it.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from kronos.network.configuration.base import Addressing, Port, Refused, Texts

MAIN = "/etc/network/interfaces"
_METHODS = {"inet": ("dhcp", "static", "manual"), "inet6": ("auto", "dhcp", "static", "manual")}
_COMMANDS = ("pre-up", "up", "post-up", "down", "pre-down", "post-down")
# Made for the wire below: ethtool's own options stay with the NIC.
_OF_THE_WIRE = re.compile(r"(ethernet|link|offload|hardware|driver|rx|tx)-|ethtool")
_NOT_IN_A_BRIDGE = re.compile(r"wpa-|wireless|bond[-_]|vlan[-_]|bridge[-_]|slaves$")
_OF_ADDRESSES = (
    "address",
    "netmask",
    "broadcast",
    "gateway",
    "network",
    "hostname",
    "client",
    "vendor",
    "metric",
)
_OF_DNS = re.compile(r"dns-|accept_ra|autoconf|privext|leasetime|leasehours|request_prefix|pointopoint|scope")
_DEEPEST = 20


@dataclass(slots=True)
class _Line:
    """A line of configuration, with those that continue it. Comments and empty lines have no words."""

    path: str
    number: int
    raw: str
    words: list[str]


@dataclass(slots=True)
class _Stanza:
    """An `iface` line and its options."""

    head: _Line
    options: list[_Line] = field(default_factory=list)

    @property
    def family(self) -> str:
        return self.head.words[2] if len(self.head.words) > 2 else ""

    @property
    def method(self) -> str:
        return self.head.words[3] if len(self.head.words) > 3 else ""


def gather(
    read: Callable[[str], str], expand: Callable[[str], Sequence[str]], path: str = MAIN
) -> dict[str, str]:
    """The configuration with all that it sources, in ifupdown's order. `expand` finds the files of a pattern.

    Raises Refused, OSError.
    """
    found: dict[str, str] = {}

    def visit(path: str, depth: int) -> None:
        if path in found:
            return
        if depth > _DEEPEST:
            raise Refused(f"{path} is sourced too deep down")
        found[path] = read(path)
        for line in _lines(path, found[path]):
            match line.words:
                case ["source" | "source-directory" as keyword, *patterns]:
                    for pattern in patterns:
                        for each in _sourced(line, keyword, pattern, expand):
                            visit(each, depth + 1)

    visit(path, 0)
    return found


def _sourced(line: _Line, keyword: str, pattern: str, expand: Callable[[str], Sequence[str]]) -> list[str]:
    if re.search(r"[$`~\\]", pattern):
        raise Refused(f"{_place(line)} sources {pattern}, which only a shell understands")
    whole = posixpath.join(posixpath.dirname(line.path), pattern)
    if keyword == "source":
        return sorted(expand(whole))
    names = sorted(expand(posixpath.join(whole, "*")))
    return [path for path in names if re.fullmatch(r"[\w-]+", posixpath.basename(path), re.ASCII)]


def is_configured(files: Texts, name: str) -> bool:
    """Whether ifupdown gives `name` an address."""
    return any(stanza.method != "manual" for stanza in _stanzas(_parsed(files), name))


def names(files: Texts) -> list[str]:
    """The interfaces that have stanzas."""
    found = (line.words[1] for line in _parsed(files) if line.words[:1] == ["iface"] and len(line.words) > 1)
    return list(dict.fromkeys(found))


def is_bridged(files: Texts, port: Port) -> bool:
    """Whether `bridged` has been here already."""
    making = _making(port, []).split("\n")[1]
    return any(
        making in option.raw for stanza in _stanzas(_parsed(files), port.bridge) for option in stanza.options
    )


def bridged(files: Texts, port: Port) -> dict[str, str]:
    """The files that change so that `port.bridge` has what `port.device` had. Raises Refused."""
    lines = _parsed(files)
    stanzas = _stanzas(lines, port.device)
    _assert_understood(lines, stanzas, port)
    before: dict[int, str] = {}
    instead: dict[int, str] = {}
    first = stanzas[0].head
    wire = [option for stanza in stanzas for option in stanza.options if _OF_THE_WIRE.match(option.words[0])]
    mtus = [option.words[1] for stanza in stanzas for option in stanza.options if option.words[0] == "mtu"]
    for stanza in stanzas:
        instead[id(stanza.head)] = _renamed(stanza.head, port)
    for option in wire:
        instead[id(option)] = ""
    before[id(first)] = _nic_stanza(port, wire) + f"\nauto {port.bridge}\n"
    instead[id(first)] += _making(port, mtus)
    return _rewritten(files, lines, before, instead)


def readdressed(
    files: Texts, name: str, addressing: Addressing, others: Sequence[str] = ()
) -> dict[str, str]:
    """The files that change so that `name` has these addresses, and `others` none. What else their stanzas say stays,
    and a name without one gets one. Raises Refused."""
    lines = _parsed(files)
    instead: dict[int, str] = {}
    before: dict[int, str] = {}
    for other in others:
        for stanza in _stanzas(lines, other):
            instead[id(stanza.head)] = f"iface {other} {stanza.family or 'inet'} manual\n"
            instead |= {id(option): "" for option in stanza.options if _is_of_addresses(option)}
    stanzas = _stanzas(lines, name)
    kept = "".join(
        option.raw for stanza in stanzas for option in stanza.options if not _is_of_addresses(option)
    )
    new = _addressed(name, addressing, kept)
    for stanza in stanzas:
        for line in (stanza.head, *stanza.options):
            instead[id(line)] = ""
    if stanzas:
        before[id(stanzas[0].head)] = new
        return _rewritten(files, lines, before, instead)
    changed = _rewritten(files, lines, before, instead)
    text = changed.get(MAIN, files[MAIN])
    start = "" if text.endswith("\n") or not text else "\n"
    return {**changed, MAIN: f"{text}{start}\nauto {name}\n{new}"}


def client_only(files: Texts, name: str) -> str:
    """A configuration in which `name` has what asks a server for addresses, and nothing else: its other addresses are
    there already. Raises Refused."""
    found = []
    for stanza in _stanzas(_parsed(files), name):
        if stanza.method != "dhcp":
            found.append(f"iface {name} {stanza.family} manual\n")
            continue
        options = (option for option in stanza.options if option.words[0] not in _COMMANDS)
        found.append(f"iface {name} {stanza.family} dhcp\n" + "".join(option.raw for option in options))
    return "".join(found)


# --- reading ---------------------------------------------------------------------------------------------------------


def _parsed(files: Texts) -> list[_Line]:
    return [line for path, text in files.items() for line in _lines(path, text)]


def _lines(path: str, text: str) -> Iterator[_Line]:
    raws = re.findall(r"[^\n]*\n|[^\n]+", text)
    number = 0
    while number < len(raws):
        start, raw = number, raws[number]
        number += 1
        if not raw.lstrip().startswith("#"):
            while raw.rstrip("\n").endswith("\\") and number < len(raws):
                raw += raws[number]
                number += 1
        words = [] if raw.lstrip().startswith("#") else raw.replace("\\\n", " ").split()
        yield _Line(path, start + 1, raw, words)


def _is_start(word: str) -> bool:
    starts = (
        "iface",
        "mapping",
        "auto",
        "source",
        "source-directory",
        "no-auto-down",
        "no-scripts",
        "rename",
    )
    return word in (*starts, "template") or word.startswith("allow-")


def _stanzas(lines: list[_Line], name: str) -> list[_Stanza]:
    found: list[_Stanza] = []
    current: _Stanza | None = None
    for line in lines:
        if not line.words:
            continue
        if _is_start(line.words[0]):
            current = None
            if line.words[0] == "iface" and line.words[1:2] == [name]:
                current = _Stanza(line)
                found.append(current)
        elif current is not None:
            if line.path != current.head.path:
                raise Refused(f"{_place(line)} is in no stanza of its file")
            current.options.append(line)
    return found


def _assert_understood(lines: list[_Line], stanzas: list[_Stanza], port: Port) -> None:
    """Raises Refused."""
    device = port.device
    if not stanzas:
        raise Refused(f"no `iface {device}` is in {MAIN} and what it sources")
    if all(stanza.method == "manual" for stanza in stanzas):
        raise Refused(f"{_place(stanzas[0].head)} gives {device} no address: something else does")
    for stanza in stanzas:
        if len(stanza.head.words) != 4 or stanza.method not in _METHODS.get(stanza.family, ()):
            raise Refused(f"{_place(stanza.head)}: `{' '.join(stanza.head.words)}` is not understood")
    heads = {id(stanza.head) for stanza in stanzas}
    own = {id(option) for stanza in stanzas for option in stanza.options}
    mention = re.compile(rf"(?<![\w.-]){re.escape(device)}(?![\w-])")
    for line in lines:
        said = " ".join(line.words)
        if not line.words or id(line) in heads:
            continue
        if id(line) in own:
            if _NOT_IN_A_BRIDGE.match(line.words[0]):
                raise Refused(f"{_place(line)}: `{said}` cannot move onto a bridge")
            if mention.search(said):
                raise Refused(f"{_place(line)} names {device} in a command: `{said}`")
        elif line.words[0] == "auto" or line.words[0].startswith("allow-"):
            _assert_plain_names(line, device)
        elif line.words[0] == "mapping" and any(fnmatch.fnmatchcase(device, word) for word in line.words[1:]):
            raise Refused(f"{_place(line)} maps {device}")
        elif mention.search(said) or re.search(rf"(?<![\w.-]){re.escape(port.bridge)}(?![\w-])", said):
            raise Refused(f"{_place(line)} also speaks of it: `{said}`")


def _assert_plain_names(line: _Line, device: str) -> None:
    for word in line.words[1:]:
        if word.startswith("/"):
            raise Refused(f"{_place(line)} names interfaces by a pattern, {word}")
        if word.startswith(f"{device}=") or re.match(rf"{re.escape(device)}[.:]", word):
            raise Refused(f"{_place(line)} also speaks of it: `{word}`")


def _place(line: _Line) -> str:
    return f"line {line.number} of {line.path}"


# --- writing ---------------------------------------------------------------------------------------------------------


def _renamed(line: _Line, port: Port) -> str:
    return re.sub(
        rf"(\A\s*iface[\s\\]+){re.escape(port.device)}(?=\s)", rf"\g<1>{port.bridge}", _ended(line.raw)
    )


def _nic_stanza(port: Port, wire: list[_Line]) -> str:
    """The NIC's own: it may come to be after the bridge has, and joins it then."""
    joins = f"    up [ ! -e /sys/class/net/{port.bridge} ] || ip link set dev {port.device} master {port.bridge}\n"
    options = "".join(_ended(option.raw) for option in wire)
    return f"iface {port.device} inet manual\n{options}    up ip link set dev {port.device} up\n{joins}"


def _making(port: Port, mtus: list[str]) -> str:
    """The bridge outlives its being down: guests stay in it when somebody restarts the host's network."""
    nic, bridge = port.device, port.bridge
    waits = f"n=0; until [ -e /sys/class/net/{nic} ] || [ $n -ge 30 ]; do sleep 1; n=$((n+1)); done"
    kind = f'address "$(cat /sys/class/net/{nic}/address)" type bridge stp_state 0 forward_delay 0'
    lines = [
        waits,
        f"[ -e /sys/class/net/{bridge} ] || ip link add name {bridge} {kind}",
        *(f"ip link set dev {nic} mtu {mtu}" for mtu in mtus[:1]),
        f"ip link set dev {nic} up",
        f"ip link set dev {nic} master {bridge}",
    ]
    return "".join(f"    pre-up {line}\n" for line in lines)


def _is_of_addresses(option: _Line) -> bool:
    return option.words[0] in _OF_ADDRESSES or bool(_OF_DNS.match(option.words[0]))


def _addressed(name: str, addressing: Addressing, kept: str) -> str:
    dns = f"    dns-nameservers {' '.join(addressing.dns)}\n" if addressing.dns else ""
    stanzas = []
    if addressing.ipv4 == "static" and addressing.address is not None:
        gateway = f"    gateway {addressing.gateway}\n" if addressing.gateway else ""
        stanzas.append(f"iface {name} inet static\n    address {addressing.address}\n{gateway}")
    else:
        stanzas.append(f"iface {name} inet {'dhcp' if addressing.ipv4 == 'dhcp' else 'manual'}\n")
    stanzas[0] += dns + (kept if kept.endswith("\n") or not kept else f"{kept}\n")
    if addressing.ipv6 == "static" and addressing.address_v6 is not None:
        gateway = f"    gateway {addressing.gateway_v6}\n" if addressing.gateway_v6 else ""
        stanzas.append(f"iface {name} inet6 static\n    address {addressing.address_v6}\n{gateway}")
    elif addressing.ipv6 in ("autoconf", "dhcp"):
        stanzas.append(f"iface {name} inet6 {'auto' if addressing.ipv6 == 'autoconf' else 'dhcp'}\n")
    return "\n".join(stanzas)


def _ended(raw: str) -> str:
    return raw if raw.endswith("\n") else f"{raw}\n"


def _rewritten(
    files: Texts, lines: list[_Line], before: dict[int, str], instead: dict[int, str]
) -> dict[str, str]:
    texts = dict.fromkeys(files, "")
    for line in lines:
        texts[line.path] += before.get(id(line), "") + instead.get(id(line), line.raw)
    return {path: text for path, text in texts.items() if text != files[path]}
