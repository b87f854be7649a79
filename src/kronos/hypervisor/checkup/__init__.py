"""`xapi --check`: what this host lacks to run guests, in plain words, and what to do about it.

A check is a small function that looks at the `Surroundings` and tells an `Outcome`. It changes nothing. `examine` runs
those that concern the host's hypervisor one after the other, each with a limit of time.
"""

from __future__ import annotations

from collections.abc import Iterator

from kronos.hypervisor.checkup import common, kvm, libvirtd, xen
from kronos.hypervisor.checkup.check import Check, Result, Verdict, carried_out
from kronos.hypervisor.checkup.surroundings import Surroundings

__all__ = ["Check", "Result", "Surroundings", "Verdict", "checks", "examine"]


def checks(surroundings: Surroundings) -> tuple[Check, ...]:
    """The checks that concern a host with this hypervisor."""
    own = xen.CHECKS if surroundings.on_xen else kvm.CHECKS
    return (*common.FIRST, *own, *libvirtd.CHECKS, *common.CHECKS)


def examine(surroundings: Surroundings) -> Iterator[Result]:
    """Carry out every check, and tell of each as it ends. Never raises: a check that fails is a warning naming it."""
    for check in checks(surroundings):
        yield carried_out(check, surroundings)
