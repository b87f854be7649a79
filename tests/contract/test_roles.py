"""Who may call what: every message as every role that may not, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.client import Client, UnixConnection
from kronos.datamodel.errors import Failure
from kronos.datamodel.model import Message, model
from kronos.dispatch import roles
from kronos.dispatch.call import Origin
from kronos.server import rpc
from kronos.server.http import Server, UnixListener
from kronos.server.limits import Limits
from kronos.server.routing import Doors

ROLES = [role for role in model().roles if role != "client-cert"]
MESSAGES = [each for each in model().messages.values() if each.session and each.state != "removed"]


@pytest.fixture(scope="module")
def door(contract: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A socket that leads to the pipeline, as the daemon's does."""
    path = tmp_path_factory.mktemp("door") / "xapi"
    doors = Doors()
    rpc.add_doors(doors, contract.pipeline, Limits().inline_body)
    server = Server(doors)
    asyncio.run_coroutine_threadsafe(server.start([UnixListener(path)]), contract.loop).result(10)
    yield path
    asyncio.run_coroutine_threadsafe(server.stop(1.0), contract.loop).result(10)


def client_as(contract: Any, door: Path, role: str) -> Client:
    client = Client(UnixConnection(door, 30))
    client.session = contract.pipeline.sessions.begin(
        user="someone",
        host=contract.pipeline.machine.host_ref,
        origin=Origin(address="192.0.2.1"),
        originator=f"a test of {role}",
        superuser=False,
        permissions=roles.permissions_of(role),
        sid="u1000",
    ).ref
    return client


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def arguments(message: Message) -> list[Any]:
    """Something of the right type for every parameter."""
    return [plain(param.type.zero) for param in message.params]


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_may_not_do_is_denied_by_name(contract: Any, door: Path, role: str) -> None:
    client = client_as(contract, door, role)
    forbidden = [message for message in MESSAGES if role not in message.roles]
    for message in forbidden:
        with pytest.raises(Failure) as denied:
            client(message.full_name, *arguments(message))
        assert denied.value.description[:2] == ["RBAC_PERMISSION_DENIED", message.permission]
    if role != "pool-admin":
        assert len(forbidden) > 100
    client.close()


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_may_do_is_not_denied(contract: Any, door: Path, role: str) -> None:
    client = client_as(contract, door, role)
    getters = [each for each in MESSAGES if each.kind == "field_get" and role in each.roles]
    assert len(getters) > 800
    for message in getters:
        with pytest.raises(Failure) as refused:
            client(message.full_name, *arguments(message))
        assert refused.value.code == "HANDLE_INVALID"
    client.close()


def test_a_denied_call_says_who_may(contract: Any, door: Path) -> None:
    client = client_as(contract, door, "read-only")
    with pytest.raises(Failure) as denied:
        client("VM.start", "OpaqueRef:NULL", False, False)
    _, permission, text = denied.value.description
    assert permission == "vm.start"
    assert "vm-operator" in text and "read-only" not in text
    client.close()


def test_a_map_of_an_object_of_another_class_is_no_defect(contract: Any, door: Path) -> None:
    client = client_as(contract, door, "vm-admin")
    host = contract.pipeline.machine.host_ref
    with pytest.raises(Failure) as refused:
        client("VM.set_platform", host, {"a": "b"})
    assert refused.value.description == ["HANDLE_INVALID", "VM", host]
    client.close()


def test_the_roles_stand_in_the_order_of_what_they_may() -> None:
    for lower, higher in zip(ROLES[1:], ROLES, strict=False):
        assert set(roles.permissions_of(lower)) < set(roles.permissions_of(higher)), (lower, higher)
