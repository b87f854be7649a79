"""What becomes of a test whose guest the emulated processor killed."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

CONFTEST = """
import pytest
from harness.xen import repeats
from harness.xen.repeats import pytest_runtest_protocol, pytest_terminal_summary

noted, made = [], []
repeats.faults = lambda: list(noted)

@pytest.fixture(scope="module")
def guest():
    made.append(f"d{len(made) + 1}")
    return made[-1]

@pytest.fixture
def xen():
    return noted
"""


@pytest.fixture
def there(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST)
    return pytester


def test_it_is_run_again_with_another_guest(there):
    there.makepyfile("""
        def test_one(guest, xen):
            pass

        def test_two(guest, xen):
            if guest == "d1":
                xen.append(guest)
            assert guest == "d2"

        def test_three(guest):
            assert guest == "d2"
    """)
    result = there.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["REPEATED *::test_two: the emulated processor ended d1"])


def test_one_that_fails_by_itself_is_not(there):
    there.makepyfile("""
        def test_one(guest, xen):
            assert guest == "d2"
    """)
    there.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(failed=1)


def test_one_whose_guests_are_always_killed_has_failed_in_the_end(there):
    there.makepyfile("""
        def test_one(guest, xen):
            xen.append(guest)
            assert len(xen) > 9
    """)
    result = there.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["REPEATED *"] * 4)
