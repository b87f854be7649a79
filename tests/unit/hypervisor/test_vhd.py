"""Only a VHD that is whole by itself is given to QEMU."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kronos.datamodel.errors import Failure
from kronos.hypervisor import vhd


def image(path: Path, kind: int) -> Path:
    footer = b"conectix" + bytes(52) + struct.pack(">I", kind)
    path.write_bytes(bytes(4096) + footer.ljust(512, b"\0"))
    return path


@pytest.mark.parametrize("kind", [2, 3])
def test_a_fixed_and_a_dynamic_one_are_taken(tmp_path: Path, kind: int) -> None:
    vhd.check(image(tmp_path / "disk", kind))


@pytest.mark.parametrize("kind", [0, 4, 0xFFFFFFFF])
def test_one_that_needs_another_is_refused(tmp_path: Path, kind: int) -> None:
    with pytest.raises(Failure, match="needs another"):
        vhd.check(image(tmp_path / "disk", kind))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(untrusted=st.binary(max_size=2000))
def test_what_is_none_is_refused(tmp_path: Path, untrusted: bytes) -> None:
    (tmp_path / "disk").write_bytes(untrusted)
    with pytest.raises(Failure, match="no VHD"):
        vhd.check(tmp_path / "disk")


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="INTERNAL_ERROR"):
        vhd.check(tmp_path / "nothing")
