"""Real Xen, in an emulated machine: a PV guest through its life. `make test-xen` has all the rest."""

from __future__ import annotations

import os

import pytest

from harness.xen import suites

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]


def test_a_pv_guest_lives_on_real_xen(capfd: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() != 0:
        pytest.skip("a control domain's disk is made by root")
    if why := suites.missing():
        pytest.skip(f"real Xen cannot be had here: {why}")
    passed = suites.run_all((suites.SMOKE,), print, limit=suites.SMOKE_LIMIT)
    told = capfd.readouterr()
    with capfd.disabled():
        print("\n" + "\n".join(told.out.splitlines()[-3:]))
    assert passed, told.out + told.err
