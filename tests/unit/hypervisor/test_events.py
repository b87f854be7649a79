"""libvirt's callbacks as events, their delivery, and what is worked out after an absence."""

from __future__ import annotations

import threading
import time

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.hypervisor.announcer import Announcer
from kronos.hypervisor.base import DeviceId, Event, EventKind, Reason, State
from kronos.hypervisor.happenings import alias, device_of, lifecycle
from kronos.hypervisor.kvm import is_reboot
from kronos.hypervisor.libvirt import missed
from kronos.hypervisor.removals import Outcome, Removals
from kronos.hypervisor.turns import Turns

VM = "11111111-2222-4333-8444-555555555555"


@given(st.sampled_from(["disk", "interface"]), st.integers(0, 1000))
def test_a_device_is_recognised_by_its_alias(kind: str, number: int) -> None:
    device = DeviceId(kind, number)  # type: ignore[arg-type]

    assert device_of(alias(device)) == device


@pytest.mark.parametrize(
    "name", ["", "balloon0", "ua-disk-", "ua-disk-1x", "ua-cd-1", "xua-disk-1", "ua-disk-1\n"]
)
def test_other_aliases_are_nobodys_device(name: str) -> None:
    assert device_of(name) is None


@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        (libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN, Event(VM, EventKind.HALTED, Reason.SHUTDOWN)),
        (libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED, Event(VM, EventKind.HALTED, Reason.DESTROYED)),
        (libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED, Event(VM, EventKind.HALTED, Reason.CRASHED)),
        (libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED, Event(VM, EventKind.HALTED, Reason.MIGRATED)),
        (libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED, Event(VM, EventKind.HALTED, Reason.FAILED)),
        (libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED, Event(VM, EventKind.SUSPENDED)),
        (99, Event(VM, EventKind.HALTED, Reason.UNKNOWN)),
    ],
)
def test_the_end_of_a_vm_has_a_reason(detail: int, expected: Event) -> None:
    assert lifecycle(VM, libvirt.VIR_DOMAIN_EVENT_STOPPED, detail) == expected


def test_steps_on_the_way_are_no_news() -> None:
    assert lifecycle(VM, libvirt.VIR_DOMAIN_EVENT_DEFINED, 0) is None
    assert lifecycle(VM, libvirt.VIR_DOMAIN_EVENT_SHUTDOWN, 0) is None


@pytest.mark.parametrize(
    ("before", "now", "kinds"),
    [
        (None, State.RUNNING, [EventKind.STARTED]),
        (None, State.PAUSED, [EventKind.STARTED, EventKind.PAUSED]),
        (State.RUNNING, State.PAUSED, [EventKind.PAUSED]),
        (State.PAUSED, State.RUNNING, [EventKind.RESUMED]),
        (State.RUNNING, None, [EventKind.HALTED]),
        (State.PAUSED, None, [EventKind.HALTED]),
        (State.RUNNING, State.RUNNING, []),
        (None, None, []),
    ],
)
def test_what_happened_in_an_absence_is_told(
    before: State | None, now: State | None, kinds: list[EventKind]
) -> None:
    assert [event.kind for event in missed(VM, before, now)] == kinds


def test_events_are_delivered_in_order_and_in_one_thread() -> None:
    announcer = Announcer("test")
    heard: list[tuple[int, str]] = []
    announcer.watch(lambda event: heard.append((event.value, threading.current_thread().name)))

    for number in range(100):
        announcer.announce(Event(VM, EventKind.MEMORY_CHANGED, value=number))
    assert announcer.settle()
    announcer.close()

    assert heard == [(number, "test") for number in range(100)]


def test_a_slow_watcher_does_not_hold_up_who_announces() -> None:
    announcer, release = Announcer("test"), threading.Event()
    announcer.watch(lambda event: release.wait(60) and None)

    began = time.monotonic()
    announcer.announce(Event(VM, EventKind.STARTED))
    assert time.monotonic() - began < 20

    release.set()
    announcer.close()


def test_a_removal_is_answered() -> None:
    removals, disk = Removals(), DeviceId("disk", 1)

    with removals.expect(VM, disk) as wanted, removals.expect(VM, DeviceId("disk", 2)) as other:
        removals.settle(VM, disk, Outcome.REJECTED)
        assert wanted.wait(0) is Outcome.REJECTED
        assert other.wait(0) is Outcome.NONE


def test_the_end_of_a_vm_frees_its_devices() -> None:
    removals = Removals()

    with (
        removals.expect(VM, DeviceId("disk", 1)) as removal,
        removals.expect("other", DeviceId("disk", 1)) as other,
    ):
        removals.all_of(VM)
        assert removal.wait(0) is Outcome.REMOVED
        assert other.wait(0) is Outcome.NONE


def test_an_answer_nobody_waits_for_is_no_mistake() -> None:
    Removals().settle(VM, DeviceId("disk", 1), Outcome.REMOVED)


def test_turns_are_taken_by_name() -> None:
    turns, inside, most = Turns(), [0], [0]

    def work() -> None:
        for _ in range(50):
            with turns.of("a"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == [1]
    assert len(turns) == 0


def test_those_who_want_different_vms_do_not_wait() -> None:
    turns, done = Turns(), threading.Event()

    def other() -> None:
        with turns.of("b"):
            done.set()

    with turns.of("a"):
        thread = threading.Thread(target=other)
        thread.start()
        assert done.wait(5)
    thread.join()


def test_a_turn_ends_with_an_error() -> None:
    turns = Turns()

    with pytest.raises(ValueError, match="x"), turns.of("a"):
        raise ValueError("x")

    with turns.of("a"):
        assert len(turns) == 1


@pytest.mark.parametrize(
    ("details", "asked"),
    [
        ('{"guest": true, "reason": "guest-reset"}', True),
        ('{"guest": true, "reason": "guest-shutdown"}', False),
        ('{"guest": false, "reason": "host-signal"}', False),
        ("[]", False),
        ("", False),
    ],
)
def test_qemu_says_whether_a_guest_that_ends_asked_for_a_reboot(details: str, asked: bool) -> None:
    assert is_reboot(details) is asked
