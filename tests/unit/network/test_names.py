"""Names of bridges and devices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.datamodel.errors import Failure
from kronos.network import names

UUID = "0f5c1d2e-3b4a-4c5d-8e6f-7a8b9c0d1e2f"


@pytest.mark.parametrize("name", ["xenbr0", "xapi12", "br-lan", "tap0f5c1d2e3.15", "X", "0", "a_b"])
def test_plain_names_pass(name: str) -> None:
    assert names.check_bridge(name) == name
    assert names.check_device(name) == name


@given(st.text(max_size=20))
def test_a_name_that_passes_is_safe_as_an_argument_a_file_and_a_word(untrusted: str) -> None:
    try:
        name = names.check_device(untrusted)
    except Failure as failure:
        assert failure.description == ["INVALID_VALUE", "device", untrusted]
    else:
        assert name.isascii()
        assert 0 < len(name) < 16
        assert name[0].isalnum()
        assert not set(name) & set("/\\\"' \t\n;{}$#,:")


def test_a_port_is_named_after_its_vm_and_number() -> None:
    first, last = names.port_name(UUID, 0), names.port_name(UUID, 99)
    assert (first[:-2], first[-2:], last[:-3], last[-3:]) == (last[:-3], ".0", first[:-2], ".99")
    assert names.check_device(names.emulated(last) or "") == f"{last}-emu"


def test_ports_of_vms_whose_uuids_differ_early_differ() -> None:
    other = UUID[:7] + ("0" if UUID[7] != "0" else "1") + UUID[8:]
    assert names.port_name(UUID, 0) != names.port_name(other, 0)


@pytest.mark.parametrize("device", [-1, 100])
def test_a_port_number_that_does_not_fit_is_refused(device: int) -> None:
    with pytest.raises(Failure) as caught:
        names.port_name(UUID, device)
    assert caught.value.code == "INVALID_DEVICE"
