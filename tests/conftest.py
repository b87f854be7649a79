"""For every test: the logs of the daemons that it ran against are part of the report when it fails."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from harness.daemon import RUNNING
from harness.xen import control_domain, repeats


def pytest_configure(config: pytest.Config) -> None:
    if control_domain.here():
        config.pluginmanager.register(repeats)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, None]:
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for daemon in RUNNING:
            report.sections.append((f"log of the daemon on {daemon.host.name}", daemon.log_tail(120)))
