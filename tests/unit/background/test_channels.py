"""The guest channel's host side: words of guests into records, configurations to guests, and no harm from either."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kronos.api.vm import guest as guest_records
from kronos.background import channels
from kronos.background.channels import Channels
from kronos.db.database import Database
from kronos.db.records import VIF, VM, Host, Network, VM_guest_metrics
from kronos.dispatch.machine import Machine
from kronos.hypervisor.base import Domain, Event, EventKind, Firmware
from kronos.hypervisor.fake import Fake
from kronos.network.fake import FakeNetwork
from kronos.rules import guest_channel
from kronos.system.intents import Intents


def eventually(reached: Callable[[], Any], timeout: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout
    while not (value := reached()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)
    return value


class World:
    """A host with its channels, whose guests are this test's own sockets."""

    def __init__(self, directory: Path) -> None:
        self.db = Database()
        self.hypervisor = Fake(directory)
        self.host = self.db.create(Host)
        self.machine = Machine(
            hypervisor=self.hypervisor,
            network=FakeNetwork(),
            state=directory,
            intents=Intents(directory / "intents"),
            open_storage=lambda *_: pytest.fail("no storage here"),
            host_ref=self.host.ref,
        )
        self.channels = Channels(self.db, self.machine)
        self.guests: list[Guest] = []

    def vm(self, **fields: Any) -> VM:
        vm = self.db.create(VM, power_state="Running", **fields)
        guest_records.born(self.db, vm)
        return vm

    def guest(self, vm: VM | None = None) -> Guest:
        """A VM that runs, and its end of the channel."""
        vm = vm or self.vm()
        guest = Guest(self, vm)
        self.guests.append(guest)
        self.run(vm)
        return guest

    def run(self, vm: VM) -> None:
        self.hypervisor.start(Domain(vm.uuid, "", 1, 1, Firmware()))

    def restart(self) -> None:
        self.channels.close()
        self.channels = Channels(self.db, self.machine)
        self.channels.start()


class Guest:
    """What QEMU and the guest are to the host: a listening socket, and lines."""

    def __init__(self, world: World, vm: VM) -> None:
        self.vm = vm
        self.path = world.hypervisor.run_directory / vm.uuid / "channel"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.fspath(self.path))
        self.listener.listen(1)
        self.listener.settimeout(60)
        self.lines: Any = None

    def accept(self) -> Guest:
        """Take the host's connection, and hear it say hello."""
        self.end, _ = self.listener.accept()
        self.end.settimeout(60)
        self.lines = self.end.makefile("rb")
        assert self.hear() == {"hello": "kronos", "protocol": 1}
        return self

    def say(self, message: object) -> None:
        self.raw(json.dumps(message).encode() + b"\n")

    def raw(self, data: bytes) -> None:
        self.end.sendall(data)

    def hear(self) -> Any:
        line = self.lines.readline()
        assert line, "the host has hung up"
        return json.loads(line)

    def hang_up(self) -> None:
        self.lines.close()
        self.end.close()

    def data(self) -> dict[str, str]:
        return self.vm.channel_data


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(channels, "FIRST_RETRY", 0.05)
    made = World(tmp_path)
    made.channels.start()
    yield made
    made.channels.close()
    for guest in made.guests:
        guest.listener.close()


def test_a_guest_is_given_what_it_asks_for(world: World) -> None:
    vm = world.vm(channel_config={"hostname": "web"}, xenstore_data={"vm-data/role": "front", "other": "no"})
    guest = world.guest(vm).accept()
    guest.say({"ask": "config", "id": 1})
    assert guest.hear() == {"id": 1, "config": {"hostname": "web", "vm-data/role": "front"}}


def test_a_guest_that_asked_is_told_of_changes(world: World) -> None:
    guest = world.guest().accept()
    guest.say({"ask": "config"})
    assert guest.hear() == {"config": {}}
    guest.vm.channel_config = {"a": "1"}
    assert guest.hear() == {"config": {"a": "1"}}
    guest.vm.xenstore_data = {"vm-data/b": "2"}
    assert guest.hear() == {"config": {"a": "1", "vm-data/b": "2"}}


def test_one_that_did_not_ask_is_told_nothing(world: World) -> None:
    guest = world.guest().accept()
    guest.vm.channel_config = {"a": "1"}
    guest.say({"say": {"x": "y"}, "id": "first"})
    assert guest.hear() == {"id": "first", "said": 1}


def test_what_a_guest_says_is_in_its_record(world: World) -> None:
    guest = world.guest().accept()
    guest.say({"say": {"ready": "yes", "phase": "1"}})
    eventually(lambda: guest.data() == {"ready": "yes", "phase": "1"})
    guest.say({"say": {"phase": None}})
    eventually(lambda: guest.data() == {"ready": "yes"})


def test_many_words_are_few_writes(world: World) -> None:
    writes: list[dict[str, str]] = []
    guest = world.guest().accept()
    world.db.on_commit(lambda: writes.append(guest.data()))
    # In one piece: what a halted test sends one by one may well be written one by one.
    guest.raw(b"".join(b'{"say": {"count": "%d"}}\n' % number for number in range(200)))
    eventually(lambda: guest.data() == {"count": "199"})
    assert len(set(map(str, writes))) < 10


def test_a_wrong_line_is_answered_and_the_next_one_heard(world: World) -> None:
    guest = world.guest().accept()
    guest.raw(b"garbage\n")
    assert guest.hear() == {"error": "not JSON"}
    guest.say({"say": {"still": "here"}})
    eventually(lambda: guest.data() == {"still": "here"})


def test_a_line_without_end_is_dropped_and_the_next_one_heard(world: World) -> None:
    guest = world.guest().accept()
    sender = threading.Thread(
        target=guest.raw, args=(b"x" * (4 * guest_channel.LINE) + b'\n{"say":{"a":"b"}}\n',)
    )
    sender.start()
    assert guest.hear() == {"error": "the line is too long"}
    eventually(lambda: guest.data() == {"a": "b"})
    sender.join()


def test_too_many_keys_change_nothing(world: World) -> None:
    guest = world.guest().accept()
    guest.say({"say": {"kept": "1"}})
    guest.say({"say": {f"k{number}": "" for number in range(1000)}})
    assert "keys" in guest.hear()["error"]
    eventually(lambda: guest.data() == {"kept": "1"})


def test_a_guest_that_does_not_read_costs_no_memory_and_is_told_the_last_state_later(world: World) -> None:
    guest = world.guest().accept()
    guest.say({"ask": "config"})
    guest.hear()
    for number in range(100):
        guest.vm.channel_config = {"n": str(number), "long": "x" * 30_000}
    (there,) = world.channels._guests.values()
    eventually(lambda: there.owed)
    assert len(there.outbox) <= channels.BACKLOG
    told = guest.hear()
    while told["config"]["n"] != "99":
        told = guest.hear()


def test_one_guest_that_floods_does_not_keep_another_waiting(world: World) -> None:
    loud, quiet = world.guest().accept(), world.guest().accept()
    ended = threading.Event()

    def flood() -> None:
        try:
            while not ended.is_set():
                loud.raw(b'{"say": {"a": 1}}\n' * 4000)
        except OSError:
            pass

    thread = threading.Thread(target=flood)
    thread.start()
    quiet.say({"ask": "config", "id": "q"})
    assert quiet.hear() == {"id": "q", "config": {}}
    ended.set()
    loud.end.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_the_host_comes_back_to_a_guest_that_hung_up(world: World) -> None:
    guest = world.guest().accept()
    guest.hang_up()
    guest.accept().say({"say": {"again": "yes"}})
    eventually(lambda: guest.data() == {"again": "yes"})


def test_what_was_said_outlives_a_restart_of_the_daemon(world: World) -> None:
    guest = world.guest().accept()
    guest.say({"say": {"before": "1"}, "id": 1})
    guest.hear()
    world.restart()
    guest.accept().say({"say": {"after": "2"}})
    eventually(lambda: guest.data() == {"before": "1", "after": "2"})


def test_a_new_run_and_a_reboot_begin_with_nothing_said(world: World) -> None:
    guest = world.guest().accept()
    guest.say({"say": {"ready": "yes"}})
    eventually(guest.data)
    guest.raw(b'{"say": {"half')
    eventually(lambda: world.channels._guests[guest.vm.uuid].inbox)
    world.hypervisor.reboot(guest.vm.uuid)
    eventually(lambda: not guest.data())
    guest.say({"say": {"whole": "1"}})
    eventually(lambda: guest.data() == {"whole": "1"})
    world.hypervisor.destroy(guest.vm.uuid)
    world.run(guest.vm)
    guest.accept()
    eventually(lambda: not guest.data())


@pytest.mark.parametrize("restarted", [False, True])
def test_a_guest_that_comes_back_from_suspension_has_said_what_it_said(world: World, restarted: bool) -> None:
    guest = world.guest().accept()
    guest.say({"say": {"ready": "yes"}})
    eventually(guest.data)
    domain = world.hypervisor.guests[guest.vm.uuid].domain
    image = world.hypervisor.run_directory / "image"
    world.hypervisor.suspend(guest.vm.uuid, image)
    eventually(lambda: not world.channels._guests)
    guest.vm.power_state = "Suspended"
    if restarted:
        world.restart()
    world.hypervisor.resume(domain, image)
    guest.accept().say({"say": {"again": "yes"}})
    eventually(lambda: guest.data() == {"ready": "yes", "again": "yes"})


def test_one_whose_memory_was_thrown_away_begins_anew(world: World) -> None:
    guest = world.guest().accept()
    guest.say({"say": {"ready": "yes"}})
    eventually(guest.data)
    world.hypervisor.suspend(guest.vm.uuid, world.hypervisor.run_directory / "image")
    eventually(lambda: not world.channels._guests)
    guest.vm.power_state = "Suspended"
    guest.vm.power_state = "Halted"
    world.run(guest.vm)
    guest.accept()
    eventually(lambda: not guest.data())


def test_last_words_are_kept_when_a_guest_ends(world: World) -> None:
    guest = world.guest().accept()
    guest.say({"say": {"first": "1"}})
    eventually(guest.data)
    guest.say({"say": {"result": "42"}})
    world.hypervisor.power_off(guest.vm.uuid)
    eventually(lambda: guest.data() == {"first": "1", "result": "42"})


def test_a_terminal_is_spoken_to_raw(world: World) -> None:
    vm = world.vm(channel_config={"a": "1"})
    guest_end, host_end = os.openpty()
    path = world.hypervisor.run_directory / vm.uuid / "channel"
    path.parent.mkdir(parents=True)
    path.symlink_to(os.ttyname(host_end))
    tty.setraw(guest_end)
    world.run(vm)
    with os.fdopen(guest_end, "r+b", buffering=0) as end:
        assert json.loads(end.readline()) == {"hello": "kronos", "protocol": 1}
        end.write(b'{"ask": "config"}\n')
        assert json.loads(end.readline()) == {"config": {"a": "1"}}
    os.close(host_end)


def test_a_guest_without_an_agent_tells_its_metrics_in_xenstores_layout(world: World) -> None:
    network = world.db.create(Network, bridge="xenbr0")
    guest = world.guest()
    vif = world.db.create(VIF, VM=guest.vm.ref, network=network.ref, device="0")
    guest.accept().say(
        {"say": {"data/os_name": "Tiny", "attr/vif/0/ipv4/0": "10.0.0.3", "data/updated": "1"}}
    )
    row = world.db.get(VM_guest_metrics, guest.vm.guest_metrics)
    eventually(lambda: row.live)
    assert row.os_version == {"name": "Tiny"}
    assert row.networks == {"0/ip": "10.0.0.3", "0/ipv4/0": "10.0.0.3"}
    assert row.other["feature-shutdown"] == "1"
    assert network.assigned_ips == {vif.ref: "10.0.0.3"}


def test_an_agent_that_told_of_drivers_by_another_way_is_not_contradicted(world: World) -> None:
    guest = world.guest().accept()
    drivers = {"major": "8", "minor": "4", "micro": "0", "build": "1"}
    row = world.db.get(VM_guest_metrics, guest.vm.guest_metrics)
    world.db.write(row, {"PV_drivers_version": drivers, "os_version": {"name": "Debian"}, "live": True})
    guest.say({"say": {"data/os_name": "Tiny", "data/updated": "1"}})
    eventually(guest.data)
    guest.say({"ask": "config"})  # answered when the record has all
    guest.hear()
    assert (row.os_version, row.PV_drivers_version) == ({"name": "Debian"}, drivers)


def test_no_thread_for_each_guest(world: World) -> None:
    world.guest().accept()
    before = threading.active_count()
    for _ in range(50):
        world.guest().accept()
    assert threading.active_count() == before


def test_an_event_of_a_vm_that_nobody_knows_is_passed_over(world: World) -> None:
    world.channels._later(lambda: world.channels._happened(Event("0" * 8, EventKind.STARTED)))
    guest = world.guest().accept()
    guest.say({"ask": "config"})
    assert guest.hear() == {"config": {}}
