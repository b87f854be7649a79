"""What the command `xapi` does besides serving: it tells of itself and its host, and takes back what it made."""

from __future__ import annotations

import sys

from kronos.api import catalogue
from kronos.background import release
from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.journal import Journal, JournalBusy, JournalUnreadable
from kronos.db.records import Network
from kronos.dispatch.coverage import coverage, unserved
from kronos.hypervisor import checkup
from kronos.hypervisor.checkup import report
from kronos.hypervisor.detection import detect
from kronos.network import firewall
from kronos.network.bridge import BridgeNetwork
from kronos.storage.block import freedom
from kronos.system.commands import CommandFailed
from kronos.system.settings import Settings


def print_coverage() -> None:
    """Per class, how many of its messages are served."""
    catalogue.load()
    served = known = 0
    for name, (some, all_) in sorted(coverage().items(), key=lambda item: item[0].lower()):
        print(f"{name:22} {some:4} of {all_:4}  {100 * some // max(all_, 1):3} %")
        served, known = served + some, known + all_
    print(f"{'total':22} {served:4} of {known:4}  {100 * served // known:3} %")


def print_unserved() -> None:
    """Per class and reason, the messages that are not served."""
    catalogue.load()
    found = unserved()
    for (name, reason), messages in sorted(found.items(), key=lambda item: (item[0][0].lower(), item[0][1])):
        listed = " ".join(f"{each.name}*" if each.state == "deprecated" else each.name for each in messages)
        print(f"{name}, needs {reason}: {listed}")
    print(f"{sum(map(len, found.values()))} messages are not served; those with a * are deprecated")


def check(settings: Settings, *, as_json: bool) -> int:
    """Say what this host lacks to run guests; 0 where they can run, 1 where something that they need is missing."""
    detected = detect(settings.state / "hypervisor.json")
    results = checkup.examine(checkup.Surroundings(detected, settings))
    return (report.write_json if as_json else report.write)(results, sys.stdout)


def print_free_disks() -> int:
    """This host's disks that `local_disks` may name, a line each; 1 where they cannot be found."""
    try:
        for disk in freedom.free_disks():
            print(disk.path, disk.size, disk.model, sep="\t")
    except (CommandFailed, Failure) as why:
        print(f"xapi: {why}", file=sys.stderr)
        return 1
    return 0


def release_networks(settings: Settings) -> int:
    """Take back what of this host's network no guest uses; 0, or 1 with the reason on standard error."""
    try:
        if settings.database.exists():
            db = Database(Journal(settings.database))
            db.load()
            names = {row.bridge for row in db.all(Network)}
            release.networks(names, BridgeNetwork(settings.state / "network"))
        firewall.dismantle()
    except (JournalBusy, JournalUnreadable, Failure, CommandFailed, OSError) as error:
        print(f"xapi: {error}", file=sys.stderr)
        return 1
    return 0
