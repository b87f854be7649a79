"""What only a Xen host can show: these run in a control domain (`make test-xen`), and nowhere else."""

from __future__ import annotations

import pytest

from harness.client import Client
from harness.daemon import Daemon
from harness.xen.guest import Guest


@pytest.fixture
def guest(daemon: Daemon, client: Client) -> Guest:
    """A VM that is not started."""
    return Guest(daemon, client)
