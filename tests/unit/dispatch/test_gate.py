"""The gate: in whose turn passwords are checked, and what a wrong one is told, and when."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from kronos.datamodel.errors import Failure
from kronos.dispatch import gate
from kronos.dispatch.gate import Gate, Guesser, Turns


class Door:
    """A gate whose passwords are all wrong but `right`, and that sleeps in no time: the waits are noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, external: int = 8) -> None:
        self.now = 1000.0
        self.gate = Gate(ThreadPoolExecutor(32), lambda: 8, lambda: external, lambda: self.now)
        self.checked: list[str] = []
        self.together = 0
        self.inside = 0
        self.block: threading.Event | None = None
        self.lock = threading.Lock()
        self.waits: list[float] = []
        monkeypatch.setattr(Gate, "_wait", self.wait)

    async def wait(self, until: float) -> None:
        self.waits.append(round(until - self.now, 3))
        await asyncio.sleep(0)

    def check(self, name: str, password: str) -> str:
        with self.lock:
            self.checked.append(name)
            self.inside += 1
            self.together = max(self.together, self.inside)
        if self.block is not None:
            self.block.wait(10)
        with self.lock:
            self.inside -= 1
        if password != "right":
            raise Failure("SESSION_AUTHENTICATION_FAILED", name, "Authentication failure")
        return f"{name} is in"

    async def knock(self, name: str, password: str, address: str = "192.0.2.1") -> str:
        guesser = Guesser(name, "", "", address)
        return await self.gate.check(guesser, lambda: self.check(name, password), external=True)

    async def refused(self, name: str, address: str = "192.0.2.1") -> Failure:
        with pytest.raises(Failure) as caught:
            await self.knock(name, "wrong", address)
        return caught.value


@pytest.fixture
def door(monkeypatch):
    return Door(monkeypatch)


def test_the_right_password_is_told_at_once(door):
    assert asyncio.run(door.knock("alice", "right")) == "alice is in"
    assert door.waits == []


def test_a_wrong_one_is_told_five_seconds_after_its_check_began(door):
    async def story():
        original = door.check

        def slow(name, password):
            door.now += 2.0
            return original(name, password)

        door.check = slow
        await door.refused("alice")

    asyncio.run(story())
    assert door.waits == [3.0]


def test_after_some_failures_the_next_guess_waits_and_longer_each_time(door):
    async def story():
        for _ in range(12):
            await door.refused("alice")

    asyncio.run(story())
    held = [wait for wait in door.waits if wait > gate.FAILED_LOGIN_DELAY]
    assert held == [10.0, 20.0, 40.0, 60.0, 60.0, 60.0, 60.0]


def test_a_success_forgets_the_failures_of_that_name(door):
    async def story():
        for _ in range(5):
            await door.refused("alice")
        await door.knock("alice", "right")
        door.waits.clear()
        await door.refused("alice")

    asyncio.run(story())
    assert door.waits == [5.0]


def test_failures_are_forgotten_in_time(door):
    async def story():
        for _ in range(8):
            await door.refused("alice")
        door.now += gate.MEMORY + 1
        door.waits.clear()
        await door.refused("alice")

    asyncio.run(story())
    assert door.waits == [5.0]


def test_one_address_has_two_checks_at_a_time_and_one_for_a_name(door):
    async def story():
        door.block = threading.Event()
        guesses = [asyncio.create_task(door.refused(f"user{number % 6}")) for number in range(24)]
        while door.inside < gate.PER_ADDRESS:
            await asyncio.sleep(0.001)
        assert sorted(set(door.checked)) == sorted(door.checked)
        door.block.set()
        await asyncio.gather(*guesses)

    asyncio.run(story())
    assert len(door.checked) == 24
    assert door.together <= gate.PER_ADDRESS


def test_a_storm_from_one_address_keeps_no_other_waiting(door):
    async def story():
        door.block = threading.Event()
        storm = [asyncio.create_task(door.refused(f"user{number}")) for number in range(200)]
        while door.inside < gate.PER_ADDRESS:
            await asyncio.sleep(0.001)
        honest = asyncio.create_task(door.knock("alice", "right", "198.51.100.7"))
        while "alice" not in door.checked:
            await asyncio.sleep(0.001)
        assert len(door.checked) == gate.PER_ADDRESS + 1
        door.block.set()
        assert await honest == "alice is in"
        await asyncio.gather(*storm)

    asyncio.run(story())


def test_with_one_check_at_a_time_addresses_take_turns(monkeypatch):
    door = Door(monkeypatch, external=1)

    async def story():
        door.block = threading.Event()
        storm = [asyncio.create_task(door.refused(f"user{number}")) for number in range(50)]
        while not door.inside:
            await asyncio.sleep(0.001)
        honest = asyncio.create_task(door.knock("alice", "right", "198.51.100.7"))
        await asyncio.sleep(0.01)
        door.block.set()
        await honest
        # Behind what was being checked, and the one of that address that was next in line.
        assert door.checked.index("alice") <= gate.PER_ADDRESS
        await asyncio.gather(*storm)

    asyncio.run(story())
    assert door.together == 1


def test_too_many_guesses_at_one_name_are_refused_unasked(door):
    async def story():
        door.block = threading.Event()
        guesses = [asyncio.create_task(door.refused("alice")) for _ in range(gate.WAITING + 20)]
        while not door.inside:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        door.block.set()
        return await asyncio.gather(*guesses)

    told = asyncio.run(story())
    unasked = [each for each in told if each.params[1] == "Too many logins at a time"]
    assert len(unasked) == 19
    assert len(door.checked) == gate.WAITING + 1
    assert {each.code for each in told} == {"SESSION_AUTHENTICATION_FAILED"}


def test_who_has_a_whole_network_is_one_address(door):
    async def story():
        door.block = threading.Event()
        guesses = [asyncio.create_task(door.refused(f"u{n}", f"2001:db8:0:1::{n:x}")) for n in range(10)]
        while door.inside < gate.PER_ADDRESS:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        assert len(door.checked) == gate.PER_ADDRESS
        door.block.set()
        await asyncio.gather(*guesses)

    asyncio.run(story())


def test_too_many_names_from_one_address_are_too(door, monkeypatch):
    monkeypatch.setattr(gate, "WAITING_OF_ADDRESS", 10)

    async def story():
        door.block = threading.Event()
        guesses = [asyncio.create_task(door.refused(f"user{number}")) for number in range(20)]
        while door.inside < gate.PER_ADDRESS:
            await asyncio.sleep(0.001)
        door.block.set()
        return await asyncio.gather(*guesses)

    told = asyncio.run(story())
    assert len(door.checked) == 10 + gate.PER_ADDRESS
    assert len([each for each in told if each.params[1] == "Too many logins at a time"]) == 8


def test_who_tries_many_names_is_slowed_too(door):
    async def story():
        for number in range(gate.FREE_OF_ADDRESS + 5):
            await door.refused(f"user{number}")

    asyncio.run(story())
    # One wait each, and for those beyond one more in the turn of the address.
    assert len(door.waits) == gate.FREE_OF_ADDRESS + 5 + 5


def test_a_client_that_goes_leaves_its_place(door):
    async def story():
        door.block = threading.Event()
        first = asyncio.create_task(door.refused("alice"))
        while not door.inside:
            await asyncio.sleep(0.001)
        waiting = [asyncio.create_task(door.refused("alice")) for _ in range(5)]
        await asyncio.sleep(0.01)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        door.block.set()
        await first
        await door.refused("alice")

    asyncio.run(story())
    assert len(door.checked) == 2
    assert door.gate._turns == {}


def test_what_is_remembered_is_bounded(door, monkeypatch):
    monkeypatch.setattr(gate, "_MOST_REMEMBERED", 50)

    async def story():
        for number in range(200):
            await door.refused(f"user{number}", f"2001:db8:0:{number:x}::1")

    asyncio.run(story())
    assert len(door.gate._failures) <= 50
    assert len(door.gate.tally.known) <= 50
    assert door.gate.report().total == 200
    assert door.gate.tally.total == 0


def test_a_limit_that_is_raised_counts_for_the_next():
    limits = [1]

    async def story():
        turns = Turns(lambda: limits[0])
        inside: list[int] = []
        leave = asyncio.Event()

        async def one(number: int) -> None:
            async with turns:
                inside.append(number)
                await leave.wait()

        tasks = [asyncio.create_task(one(number)) for number in range(4)]
        await asyncio.sleep(0)
        assert inside == [0]
        limits[0] = 3
        leave.set()
        await asyncio.gather(*tasks)
        assert inside == [0, 1, 2, 3]
        assert turns.idle

    asyncio.run(story())
