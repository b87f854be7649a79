"""Finding Xen's QEMU, and asking it which it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from kronos.hypervisor import xen_emulator


def install(root: Path, place: str, says: str) -> None:
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{says}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ("echo 'QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7+deb12u16)'", "7.2.19"),
        ("echo something else", ""),
        ("exit 1", ""),
    ],
)
def test_the_version_is_what_it_says_itself(tmp_path: Path, says: str, version: str) -> None:
    install(tmp_path, "usr/libexec/xen-qemu-system-i386", says)

    assert xen_emulator.version(tmp_path) == version


def test_xens_own_comes_before_one_for_all(tmp_path: Path) -> None:
    install(tmp_path, "usr/bin/qemu-system-i386", "echo version 9.1.0")
    install(tmp_path, "usr/lib/xen-4.17/bin/qemu-system-i386", "echo version 7.2.0")

    assert xen_emulator.version(tmp_path) == "7.2.0"


def test_a_host_without_one_has_no_version(tmp_path: Path) -> None:
    assert xen_emulator.path(tmp_path) is None
    assert xen_emulator.version(tmp_path) == ""
