"""pyroute2 in part, and as a whole for whoever asks for it; each in a process of its own, as it is loaded once."""

from __future__ import annotations

import subprocess
import sys


def run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    ).stdout.strip()


def test_only_the_part_that_is_needed_is_loaded():
    program = (
        "import sys, kronos.network.netlink as n; print(n.IPRoute.__name__, 'pyroute2.ndb' in sys.modules)"
    )
    assert run(program).endswith("IPRoute False")


def test_it_lists_the_links_of_this_machine():
    program = (
        "from kronos.network.netlink import IPRoute\n"
        "with IPRoute() as ip: print([link.get_attr('IFLA_IFNAME') for link in ip.get_links()])"
    )
    assert "'lo'" in run(program)


def test_whoever_asks_the_package_itself_gets_all_of_it():
    program = (
        "import kronos.network.netlink as ours, pyroute2\n"
        "from pyroute2 import NDB, IPRoute\n"
        "print(IPRoute is pyroute2.IPRoute, issubclass(ours.IPRoute, object), NDB.__name__)"
    )
    assert run(program) == "True True NDB"


def test_a_pyroute2_that_is_loaded_already_is_used():
    program = "import pyroute2, kronos.network.netlink as n; print(n.IPRoute is pyroute2.IPRoute)"
    assert run(program) == "True"
