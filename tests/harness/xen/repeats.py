"""A test whose guest the emulated processor has killed is run again, and the report says so.

QEMU's emulation of AMD's virtualisation now and then enters a PVH or HVM guest with the instruction pointer of Xen,
and the guest ends in a triple fault, which Xen notes with the guest's number. No real processor does that. Only a test
during which Xen noted one is repeated; what fails without that has failed.
"""

from __future__ import annotations

import re
import subprocess

import pytest
from _pytest.runner import runtestprotocol

TIMES = 4
_FAULT = re.compile(r"\(XEN\) (d\d+)v\d+ Triple fault")

repeated: list[str] = []
"""The tests, and why."""


def faults() -> list[str]:
    """The guests that Xen has seen end so; the number of a guest is never used again."""
    said = subprocess.run(
        ["xl", "dmesg"], capture_output=True, text=True, errors="replace", timeout=60
    ).stdout
    return _FAULT.findall(said)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for left in range(TIMES, -1, -1):
        before = faults()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        killed = [guest for guest in faults() if guest not in before]
        if not (left and killed and any(report.failed for report in reports)):
            break
        repeated.append(f"{item.nodeid}: the emulated processor ended {', '.join(killed)}")
        _begin_anew(item)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in repeated:
        terminalreporter.write_line(f"REPEATED {line}")


def _begin_anew(item: pytest.Item) -> None:
    """Make again what this test shares with others: the guest that died may be all the module's."""
    try:
        item.session._setupstate.teardown_exact(None)
    except Exception as error:
        repeated.append(f"{item.nodeid}: {error!r} when what it shares with other tests was taken down")
