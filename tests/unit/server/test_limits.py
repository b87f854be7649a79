"""Who is let in, and who makes room."""

from __future__ import annotations

import pytest

from kronos.server.limits import Gate, Limits


@pytest.fixture
def evictions() -> list[bool]:
    """What each eviction will find; taken from the end."""
    return []


@pytest.fixture
def gate(evictions: list[bool]) -> Gate:
    limits = Limits(connections=4, per_address=2, local_connections=1)
    return Gate(limits, lambda: bool(evictions and evictions.pop()))


def test_one_address_gets_no_more_than_its_share(gate: Gate) -> None:
    assert [gate.enter("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert gate.enter("192.0.2.2")


def test_leaving_makes_room(gate: Gate) -> None:
    gate.enter("192.0.2.1")
    gate.enter("192.0.2.1")
    gate.leave("192.0.2.1")
    assert gate.enter("192.0.2.1")
    assert gate.count == 2


def test_a_full_server_takes_one_more_only_if_an_idle_one_goes(gate: Gate, evictions: list[bool]) -> None:
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"):
        assert gate.enter(address)
    assert not gate.enter("192.0.2.5")
    evictions.append(True)
    assert gate.enter("192.0.2.5")


def test_the_unix_socket_has_its_own_count(gate: Gate) -> None:
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"):
        gate.enter(address)
    assert gate.enter("")
    assert not gate.enter("")
    gate.leave("")
    assert gate.enter("")
