"""What Xen says of itself and of its machine."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from kronos.hypervisor import xen_info
from kronos.hypervisor.xen import Xen
from kronos.system.hardware import Topology

PRINTED = """\
host                   : stock
virt_caps              : pv hvm hap shadow
xen_commandline        : placeholder console=com1 com1=115200,8n1:x
"""


def test_each_line_has_a_name_and_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xen_info, "run", lambda argv, **_: PRINTED)
    assert xen_info.said() == {
        "host": "stock",
        "virt_caps": "pv hvm hap shadow",
        "xen_commandline": "placeholder console=com1 com1=115200,8n1:x",
    }


def test_nothing_that_was_printed_has_no_names() -> None:
    assert xen_info.parsed("") == {}


@pytest.mark.parametrize(
    ("info", "arranged"),
    [
        (["x86_64", 65536, 32, 2500, 2, 1, 8, 2], Topology(nodes=2, sockets=2, threads=2)),
        (["x86_64", 4096, 3, 2500, 1, 1, 4, 1], Topology(nodes=1, sockets=1, threads=1)),
        (["x86_64", 4096, 2, 2500, 0, 0, 0, 0], Topology(nodes=1, sockets=2, threads=1)),
    ],
)
def test_sockets_are_counted_from_cores_and_threads(info: list[object], arranged: Topology) -> None:
    xen = Xen.__new__(Xen)
    xen._connection = SimpleNamespace(handle=lambda: SimpleNamespace(getInfo=lambda: info))
    assert xen.topology() == arranged
