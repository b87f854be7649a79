"""Who may call what: every message and every protected key as every role and as root, by every way in."""

from __future__ import annotations

import asyncio
import http.client
import json
import xmlrpc.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.client import Client, UnixConnection
from kronos.datamodel.errors import Failure
from kronos.datamodel.model import Message, model
from kronos.db.database import Database
from kronos.db.records import KINDS, Role, Session
from kronos.dispatch import roles
from kronos.dispatch.call import Origin
from kronos.dispatch.pipeline import Pipeline, Route
from kronos.server import rpc
from kronos.server.access import Access, SessionAPI
from kronos.server.http import Server, UnixListener
from kronos.server.limits import Limits
from kronos.server.routing import Doors

ROLES = [role for role in model().roles if role != "client-cert"]
IDENTITIES = [*ROLES, "root"]
MESSAGES = [each for each in model().messages.values() if each.session and each.state != "removed"]
REMOTE = Origin(address="192.0.2.1")


def session_as(pipeline: Pipeline, identity: str) -> Session:
    """A session of somebody with this role alone, or of root."""
    root = identity == "root"
    return pipeline.sessions.begin(
        user=identity if root else "someone",
        host=pipeline.machine.host_ref,
        origin=REMOTE,
        originator=f"a test of {identity}",
        superuser=root,
        permissions=() if root else roles.granted(frozenset({identity})),
        sid="" if root else "u1000",
    )


class Hall:
    """A pipeline that stops each call that was let in, with REACHED, before it does anything; and the doors to it."""

    def __init__(self, contract: Any, directory: Path) -> None:
        self.contract = contract
        self.pipeline = Pipeline(contract.db, contract.pipeline.machine, contract.loop)
        self.socket = directory / "hall"
        doors = Doors()
        rpc.add_doors(doors, self.pipeline, Limits().inline_body)
        self.server = Server(doors)
        self._on_loop(self.server.start([UnixListener(self.socket)]))
        for message in MESSAGES:
            self.pipeline._routes[message.full_name] = Route(message, _reached, None, False, False)
        self.access = Access(self.pipeline)

    def _on_loop(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self.contract.loop).result(10)

    def close(self) -> None:
        self._on_loop(self.server.stop(1.0))
        self.pipeline.close()


def _reached(*_: object) -> Any:
    raise Failure("REACHED")


@pytest.fixture(scope="module")
def hall(contract: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    made = Hall(contract, tmp_path_factory.mktemp("hall"))
    yield made
    made.close()


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def arguments(message: Message) -> list[Any]:
    """Something of the right type for every parameter."""
    return [plain(param.type.zero) for param in message.params]


def expected(message: Message, identity: str) -> list[str]:
    """What the facts say of a call, up to the text of a refusal."""
    if identity == "root" or identity in message.roles:
        return ["REACHED"]
    return ["RBAC_PERMISSION_DENIED", message.permission]


Ask = Callable[[str, list[Any]], list[str]]


def by_xml(hall: Hall, session: Session) -> Ask:
    connection = UnixConnection(hall.socket, 30)

    def ask(method: str, values: list[Any]) -> list[str]:
        body = xmlrpc_call(method, [session.ref, *values])
        connection.request("POST", "/RPC2", body, {"Content-Type": "text/xml"})
        return _description_of_xml(connection)

    return ask


def xmlrpc_call(method: str, values: list[Any]) -> bytes:
    return xmlrpc.client.dumps(tuple(values), method).encode()


def _description_of_xml(connection: http.client.HTTPConnection) -> list[str]:
    (found,), _ = xmlrpc.client.loads(connection.getresponse().read())
    assert isinstance(found, dict)
    return list(found["ErrorDescription"])


def by_json(hall: Hall, session: Session) -> Ask:
    connection = UnixConnection(hall.socket, 30)

    def ask(method: str, values: list[Any]) -> list[str]:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": [session.ref, *values]})
        connection.request("POST", "/jsonrpc", body, {"Content-Type": "application/json"})
        error = json.loads(connection.getresponse().read())["error"]
        return [error["message"], *error["data"]]

    return ask


def by_command_line(hall: Hall, session: Session) -> Ask:
    """As a command of the thin protocol of `xe` makes its calls."""
    api = SessionAPI(hall.pipeline, REMOTE, session)

    def ask(method: str, values: list[Any]) -> list[str]:
        with pytest.raises(Failure) as caught:
            api(method, *values)
        return caught.value.description

    return ask


@pytest.mark.parametrize("way", [by_xml, by_json, by_command_line], ids=lambda way: way.__name__)
@pytest.mark.parametrize("identity", IDENTITIES)
def test_every_message_is_let_in_or_denied_as_the_facts_say(
    hall: Hall, identity: str, way: Callable[[Hall, Session], Ask]
) -> None:
    ask = way(hall, session_as(hall.pipeline, identity))
    wrong = []
    for message in MESSAGES:
        wanted = expected(message, identity)
        found = ask(message.full_name, arguments(message))[: len(wanted)]
        if found != wanted:
            wrong.append((message.full_name, found))
    assert wrong == []


def test_the_walk_is_long_enough() -> None:
    assert len(model().messages) > 2200
    for role, fewest in zip(ROLES, (2000, 1900, 1500, 1500, 1300, 1200), strict=True):
        assert len([each for each in MESSAGES if role in each.roles]) > fewest


KEYED = [(message, key, admitted) for message in MESSAGES for key, admitted in message.key_roles]


@pytest.mark.parametrize("identity", IDENTITIES)
def test_every_protected_key_is_too(hall: Hall, identity: str) -> None:
    ask = by_command_line(hall, session_as(hall.pipeline, identity))
    assert len(KEYED) > 30
    for message, pattern, admitted in KEYED:
        # Of a pattern with a star at its end: itself without it, and something longer.
        for key in {pattern.rstrip("*"), pattern.replace("*", "anything")}:
            values = ["OpaqueRef:NULL", key, "value"][: len(message.params)]
            allowed = identity == "root" or identity in admitted
            permission = f"{message.permission}/key:{pattern.lower()}"
            wanted = ["REACHED"] if allowed else ["RBAC_PERMISSION_DENIED", permission]
            assert ask(message.full_name, values)[: len(wanted)] == wanted
        # A key that is none of them needs the message's own permission; keys are told apart by their letters' case.
        other = "unprotected" if pattern.swapcase() == pattern else pattern.swapcase()
        values = ["OpaqueRef:NULL", other, "value"][: len(message.params)]
        wanted = expected(message, identity)
        assert ask(message.full_name, values)[: len(wanted)] == wanted


SETTERS = sorted({(message.cls, message.field) for message, _, _ in KEYED})


@pytest.mark.parametrize("identity", IDENTITIES)
def test_a_whole_map_needs_the_permission_of_each_key_that_it_changes(hall: Hall, identity: str) -> None:
    db, ask = hall.contract.db, by_command_line(hall, session_as(hall.pipeline, identity))
    for cls, field in SETTERS:
        setter = model().messages.get(f"{cls}.set_{field}")
        if setter is None:
            continue
        for message, pattern, admitted in KEYED:
            if (message.cls, message.field) != (cls, field):
                continue
            key, is_added = pattern.replace("*", "x"), message.name.startswith("add_to_")
            row = db.create(KINDS[cls], **{field: {"other": "1"} if is_added else {"other": "1", key: "1"}})
            wanted_map = {"other": "1", key: "1"} if is_added else {"other": "1"}
            answer = ask(setter.full_name, [row.ref, wanted_map])
            wanted = expected(setter, identity)
            if wanted == ["REACHED"] and not (identity == "root" or identity in admitted):
                wanted = ["RBAC_PERMISSION_DENIED", f"{message.permission}/key:{pattern.lower()}"]
            assert answer[: len(wanted)] == wanted
            # What stays as it is needs no permission of its own.
            unchanged = ask(setter.full_name, [row.ref, getattr(row, field)])
            assert unchanged[: len(expected(setter, identity))] == expected(setter, identity)
            db.delete(row)


@pytest.mark.parametrize("identity", IDENTITIES)
def test_every_http_action_is_too(hall: Hall, identity: str) -> None:
    session = session_as(hall.pipeline, identity)
    seen = 0
    for name, action in model().http_actions.items():
        for full, role in {
            name: action["role"],
            **{f"{name}/{k}": v for k, v in _subs(action).items()},
        }.items():
            seen += 1
            ranked = ROLES[: ROLES.index(role.partition("+")[0]) + 1] if role else []
            allowed = identity == "root" or identity in ranked or not action["checked"]
            try:
                hall.access.require(session, full)
                assert allowed, full
            except Failure as denied:
                assert denied.description[:2] == ["RBAC_PERMISSION_DENIED", f"http/{full}"]
                assert not allowed, full
    assert seen > 55


def _subs(action: dict[str, Any]) -> dict[str, str]:
    return action["sub"] if isinstance(action["sub"], dict) else {}


@pytest.mark.parametrize("identity", IDENTITIES)
def test_the_permission_for_everybodys_tasks(hall: Hall, identity: str) -> None:
    session = session_as(hall.pipeline, identity)
    try:
        roles.require(session, "task.destroy/any")
        assert identity in ("root", "pool-admin", "pool-operator")
    except Failure as denied:
        assert denied.params[0] == "task.destroy/any"
        assert identity not in ("root", "pool-admin", "pool-operator")


# --- roles as records ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def db() -> Database:
    made = Database()
    roles.seed(made)
    return made


def test_a_role_holds_the_permissions_that_the_facts_give_it(db: Database) -> None:
    for name in ROLES:
        (role,) = db.by_name(Role, name)
        held = {db.get(Role, ref).name_label for ref in role.subroles}
        assert {m.permission for m in model().messages.values() if name in m.roles} <= held
        assert held == set(roles.permissions_of(name))
        assert not role.is_internal and role.name_description


def test_what_no_role_may_do_cannot_be_given(db: Database) -> None:
    known = {row.name_label for row in db.all(Role)}
    secluded = {m.permission for m in model().messages.values() if not m.roles}
    assert len(secluded) > 50
    assert not secluded & known
    assert known == set(ROLES) | {"client-cert"} | set(roles.permissions_of("pool-admin"))


def test_references_are_those_that_the_reference_has(db: Database) -> None:
    # As an introduction to RBAC prints it, and the default of subject.roles has it.
    (permission,) = db.by_name(Role, "pool.get_wlb_enabled")
    assert permission.ref == "OpaqueRef:d7ea15b2-0664-1cd5-dc30-7c49a546ae80"
    assert permission.name_description == "A basic permission"
    assert permission.subroles == () and permission.is_internal
    (admin,) = db.by_name(Role, "pool-admin")
    assert (admin.ref,) == model().classes["subject"].fields["roles"].default
    (start,) = db.by_name(Role, "vm.start")
    assert start.uuid == "24b924aa-926c-879e-d2c1-fe778e82ccee"


def test_single_permissions_and_roles_add_up() -> None:
    held = set(roles.granted(frozenset({"vm-operator", "vm.pool_migrate"})))
    assert held - set(roles.permissions_of("vm-operator")) == {"vm-operator", "vm.pool_migrate"}


def test_the_table_has_a_line_for_each_permission_and_a_cross_for_each_role() -> None:
    lines = roles.table().splitlines()
    heads = lines[0].split(",")[2:-1]
    assert heads == list(model().roles)
    body = {line.split(",")[1]: line.split(",")[2:-1] for line in lines[1:]}
    assert body.keys() == roles.permissions().keys()
    for name, crosses in body.items():
        held = {role for role, cross in zip(heads, crosses, strict=True) if cross == "X"}
        assert held == roles.permissions()[name]


def test_roles_are_asked_for_by_permission_and_the_other_way(contract: Any) -> None:
    if not contract.db.all(Role):
        roles.seed(contract.db)
    (migrate,) = contract("role.get_by_name_label", "vm.pool_migrate")
    (operator,) = contract("role.get_by_name_label", "vm-operator")
    (pool_operator,) = contract("role.get_by_name_label", "pool-operator")
    assert operator not in contract("role.get_by_permission", migrate)
    assert pool_operator in contract("role.get_by_permission", migrate)
    by_name = contract("role.get_by_permission_name_label", "vm.pool_migrate")
    assert set(by_name) == set(contract("role.get_by_permission", migrate))
    assert contract("role.get_by_permission_name_label", "nothing") == ()
    assert set(contract("role.get_permissions", operator)) == set(contract("role.get_subroles", operator))
    assert contract("role.get_permissions", migrate) == (migrate,)
    assert "vm.start" in contract("role.get_permissions_name_label", operator)


def test_the_two_questions_of_clients_about_roles(contract: Any) -> None:
    if not contract.db.all(Role):
        roles.seed(contract.db)
    assert len(contract("role.get_all_where", "subroles<>[]")) == len(model().roles)
    assert len(contract("role.get_all_where", "subroles=[]")) == len(roles.permissions_of("pool-admin"))
    assert len(contract("role.get_all_records_where", "subroles<>[]")) == len(model().roles)
    (found,) = contract("role.get_all_where", 'field "name__label" = "vm-admin"')
    assert contract("role.get_name_label", found) == "vm-admin"


# --- over the real handlers ---------------------------------------------------------------------------------------


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
    client.session = session_as(contract.pipeline, role).ref
    return client


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
