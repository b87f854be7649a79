"""What xl prints of Xen, by name."""

from __future__ import annotations

import pytest

from kronos.hypervisor import xen_info

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
