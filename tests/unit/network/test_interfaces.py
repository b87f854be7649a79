"""What is read from files about NICs: name servers, and the names of vendors and devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from kronos.network import interfaces

PCI_IDS = """\
# comment
8085  Other
\t1533  Not this one
8086  Intel Corporation
\t100e  82540EM Gigabit Ethernet Controller
\t\t8086 001e  PRO/1000 MT Desktop Adapter
# between
\t1533  I210 Gigabit Network Connection
8087  Another
\t9999  Of another vendor
C 02  Network controller
"""


@pytest.fixture
def pci_ids(tmp_path: Path) -> Path:
    path = tmp_path / "pci.ids"
    path.write_text(PCI_IDS)
    return path


@pytest.mark.parametrize(
    ("vendor", "device", "found"),
    [
        ("8086", "1533", ("Intel Corporation", "I210 Gigabit Network Connection")),
        ("8086", "100e", ("Intel Corporation", "82540EM Gigabit Ethernet Controller")),
        ("8086", "001e", ("Intel Corporation", "")),
        ("8086", "9999", ("Intel Corporation", "")),
        ("1234", "1533", ("", "")),
    ],
)
def test_names_are_those_of_the_vendors_own_devices(
    pci_ids: Path, vendor: str, device: str, found: tuple[str, str]
) -> None:
    assert interfaces.names_in(pci_ids, vendor, device) == found


def test_name_servers_keep_their_order_and_nonsense_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "search a.b\nnameserver 10.0.0.1\nnameserver\nnameserver no\n# nameserver 9.9.9.9\nnameserver fd00::1\n"
    )
    assert interfaces.name_servers((path,)) == ("10.0.0.1", "fd00::1")


def test_behind_a_stub_on_this_host_are_the_servers_it_asks(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\n")
    real.write_text("nameserver 10.0.0.1\n")
    assert interfaces.name_servers((stub, real)) == ("10.0.0.1",)


def test_the_interface_of_a_guest_of_xens_is_no_nic(tmp_path: Path) -> None:
    (tmp_path / "bus/xen-backend").mkdir(parents=True)
    (tmp_path / "class/net/tap0/device").mkdir(parents=True)
    (tmp_path / "class/net/tap0/device/subsystem").symlink_to(tmp_path / "bus/xen-backend")
    assert not interfaces.is_physical(tmp_path, "tap0")


def test_a_virtual_function_is_no_nic(tmp_path: Path) -> None:
    (tmp_path / "class/net/eth0/device").mkdir(parents=True)
    (tmp_path / "class/net/eth1/device/physfn").mkdir(parents=True)
    (tmp_path / "class/net/veth0").mkdir()
    assert [interfaces.is_physical(tmp_path, device) for device in ("eth0", "eth1", "veth0", "absent")] == [
        True,
        False,
        False,
        False,
    ]
