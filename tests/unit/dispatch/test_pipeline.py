"""The road of a call: which check comes first, and what each of them answers."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kronos.api import event, session, task  # noqa: F401  # their handlers
from kronos.datamodel.errors import Failure
from kronos.datamodel.model import model
from kronos.db.database import Database
from kronos.db.records import SR, VM, Host, Pool, Session, Task
from kronos.dispatch import gate, registry, roles
from kronos.dispatch import task as tasks
from kronos.dispatch.answer import Answer, RecordsAnswer
from kronos.dispatch.call import Call, Origin
from kronos.dispatch.machine import Machine
from kronos.dispatch.pipeline import Fault, Pipeline
from kronos.hypervisor.fake import Fake
from kronos.network.fake import FakeNetwork
from kronos.system.commands import CommandFailed
from kronos.system.intents import Intents

LOCAL = Origin(local=True)
REMOTE = Origin(address="192.0.2.1")


class Road:
    """A pipeline with its loop on a thread, called as a client would."""

    def __init__(self, tmp_path: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.db = Database()
        host = self.db.create(Host, hostname="h")
        self.db.create(Pool, master=host.ref)
        machine = Machine(
            hypervisor=Fake(),
            network=FakeNetwork(),
            state=tmp_path,
            intents=Intents(tmp_path / "intents"),
            open_storage=lambda *_: None,
            host_ref=host.ref,
            authenticate=self.authenticate,
        )
        self.pipeline = Pipeline(self.db, machine, self.loop)
        roles.seed(self.db)

    def authenticate(self, user: str, password: str) -> None:
        if password != "right":
            raise Failure("SESSION_AUTHENTICATION_FAILED", user, "Authentication failure")

    def __call__(self, name: str, *args: object, origin: Origin = LOCAL):
        async def serve():
            answer = self.pipeline.call(origin, name, args)
            return answer if not hasattr(answer, "__await__") else await answer

        return asyncio.run_coroutine_threadsafe(serve(), self.loop).result(30).value

    def login(self) -> str:
        return self("session.login_with_password", "root", "")

    def as_role(self, role: str) -> str:
        sessions = self.pipeline.sessions
        return sessions.begin(
            user="someone",
            host=self.pipeline.machine.host_ref,
            origin=REMOTE,
            originator="",
            superuser=False,
            permissions=roles.permissions_of(role),
            sid="u1000",
        ).ref

    def refused(self, name: str, *args: object, origin: Origin = LOCAL) -> list[str]:
        with pytest.raises(Failure) as failure:
            self(name, *args, origin=origin)
        return failure.value.description

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.pipeline.close()


@pytest.fixture
def road(tmp_path):
    made = Road(tmp_path)
    yield made
    made.close()


def test_the_local_socket_needs_no_password(road):
    ref = road("session.login_with_password", "", "")
    assert road("session.get_auth_user_name", ref, ref) == "root"
    assert road("session.get_is_local_superuser", ref, ref) is True


@pytest.mark.parametrize(
    "arguments", [("root", "right"), ("root", "right", "1.0"), ("root", "right", "1.0", "me")]
)
def test_login_takes_two_three_or_four_arguments(road, arguments):
    assert road("session.login_with_password", *arguments, origin=REMOTE).startswith("OpaqueRef:")


def test_a_wrong_password_is_answered_late(road, monkeypatch):
    monkeypatch.setattr(gate, "FAILED_LOGIN_DELAY", 0.2)
    refused = road.refused("session.login_with_password", "root", "wrong", origin=REMOTE)
    assert refused == ["SESSION_AUTHENTICATION_FAILED", "root", "Authentication failure"]


def test_arity_comes_before_types_and_types_before_the_session(road):
    assert road.refused("VM.get_record", "bad") == [
        "MESSAGE_PARAMETER_COUNT_MISMATCH",
        "VM.get_record",
        "1",
        "0",
    ]
    assert road.refused("VM.get_record", "bad", 5)[0] == "INTERNAL_ERROR"
    assert road.refused("VM.get_record", "bad", "x") == ["SESSION_INVALID", "bad"]


def test_the_role_comes_before_the_object(road):
    reader = road.as_role("read-only")
    assert road.refused("VM.set_name_label", reader, "nothing", "x")[:2] == [
        "RBAC_PERMISSION_DENIED",
        "vm.set_name_label",
    ]
    assert road.refused("VM.get_name_label", reader, "nothing") == ["HANDLE_INVALID", "VM", "nothing"]


def test_a_protected_key_needs_its_own_permission(road):
    vm = road.db.create(VM)
    operator, admin = road.as_role("vm-operator"), road.as_role("vm-admin")
    assert road("VM.add_to_other_config", operator, vm.ref, "XenCenter.CustomFields.x", "1") == ""
    assert (
        road.refused("VM.add_to_other_config", operator, vm.ref, "other", "1")[1] == "vm.add_to_other_config"
    )
    assert (
        road.refused("VM.add_to_other_config", admin, vm.ref, "pci", "1")[1]
        == "vm.add_to_other_config/key:pci"
    )
    assert (
        road.refused("VM.set_other_config", admin, vm.ref, {"pci": "1"})[1]
        == "vm.add_to_other_config/key:pci"
    )
    assert road("VM.set_other_config", admin, vm.ref, {"a": "1"}) == ""


def test_unknown_removed_and_unserved_messages_have_their_own_errors(road, monkeypatch):
    ref = road.login()
    assert road.refused("VM.fly") == ["MESSAGE_METHOD_UNKNOWN", "VM.fly"]
    assert road.refused("VM.fly", "bad") == ["SESSION_INVALID", "bad"]
    assert road.refused("VM.fly", ref) == ["MESSAGE_METHOD_UNKNOWN", "VM.fly"]
    assert road.refused("VMPP.get_all", ref)[0] in ("MESSAGE_REMOVED", "NOT_IMPLEMENTED")
    assert road.refused("pool.enable_ha", ref, [], {}) == ["NOT_IMPLEMENTED", "pool.enable_ha"]


def test_a_message_without_async_mode_is_a_fault(road):
    ref = road.login()
    with pytest.raises(Fault, match="No async mode for this operation"):
        road("Async.VM.get_record", ref, "x")


def test_the_underscore_alias_works(road):
    assert road("VM_get_all", road.login()) == ()


def test_list_methods_needs_no_session(road):
    methods = road("system.listMethods")
    assert {"VM.start", "Async.VM.start", "event.from", "task.get_status"} <= set(methods)


def test_generic_editors_of_maps_and_sets(road):
    ref, sr = road.login(), road.db.create(SR)
    road("SR.add_to_other_config", ref, sr.ref, "a", "1")
    duplicate = ["MAP_DUPLICATE_KEY", "SR", "other_config", sr.ref, "a"]
    assert road.refused("SR.add_to_other_config", ref, sr.ref, "a", "1") == duplicate
    road("SR.remove_from_other_config", ref, sr.ref, "missing")
    road("SR.add_tags", ref, sr.ref, "t")
    road("SR.add_tags", ref, sr.ref, "t")
    assert (sr.other_config, sr.tags) == ({"a": "1"}, ("t",))
    road("SR.remove_tags", ref, sr.ref, "t")
    assert sr.tags == ()


def test_a_constructor_wants_what_has_no_default(road):
    ref = road.login()
    assert road.refused("secret.create", ref, {})[0] == "INTERNAL_ERROR"
    made = road("secret.create", ref, {"value": "v", "other_config": {}, "unknown": 1})
    assert road("secret.get_value", ref, made) == "v"
    road("secret.destroy", ref, made)
    assert road.refused("secret.get_value", ref, made) == ["HANDLE_INVALID", "secret", made]


def test_logout_ends_the_session_and_what_waits_on_it(road):
    ref = road.login()
    waiting = []
    token = road("event.inject", ref, "pool", road.db.all(Pool)[0].ref)
    thread = threading.Thread(
        target=lambda: waiting.append(road.refused("event.from", ref, ["vm"], token, 60.0))
    )
    thread.start()
    thread.join(0.2)
    road("session.logout", ref)
    thread.join(30)
    assert waiting == [["SESSION_INVALID", ref]]
    assert road.refused("session.get_this_host", ref, ref) == ["SESSION_INVALID", ref]


def test_an_asynchronous_call_shows_itself_as_a_task_with_an_xml_result(road):
    ref = road.login()
    group = road("Async.VM_appliance.create", ref, {"name_label": "a", "name_description": ""})
    with road.db.transaction():
        pass
    row = road.db.get(Task, group)
    for _ in range(200):
        if row.status != "pending":
            break
        threading.Event().wait(0.01)
    assert (row.status, row.progress, row.name_label) == ("success", 1.0, "Async.VM_appliance.create")
    assert row.result.startswith("<value>OpaqueRef:")


def test_events_come_after_every_earlier_write(road):
    ref = road.login()
    pool = road.db.all(Pool)[0]
    token = road("event.inject", ref, "POOL", pool.ref)
    for step in range(3):
        road("pool.add_to_other_config", ref, pool.ref, f"barrier{step}", "1")
        told = road("event.from", ref, ["Pool"], token, 5.0)
        token = told["token"]
        assert [e["operation"] for e in told["events"]] == ["mod"]
        assert f"barrier{step}" in told["events"][0]["snapshot"]["other_config"]
    assert told["valid_ref_counts"]["pool"] == 1


def test_an_empty_token_tells_every_object_once_as_added(road):
    ref = road.login()
    vm = road.db.create(VM)
    vm.name_label = "changed"
    told = road("event.from", ref, ["vm"], "", 0.0)
    assert [(e["operation"], e["ref"]) for e in told["events"]] == [("add", vm.ref)]


def test_one_object_can_be_watched(road):
    ref = road.login()
    one, other = road.db.create(VM), road.db.create(VM)
    token = road("event.from", ref, ["*"], "", 0.0)["token"]
    other.name_label = "x"
    assert road("event.from", ref, [f"VM/{one.ref}"], token, 0.05)["events"] == []
    one.name_label = "x"
    assert [e["ref"] for e in road("event.from", ref, [f"VM/{one.ref}"], token, 5.0)["events"]] == [one.ref]


def test_bad_filters_and_tokens_are_told_apart(road):
    ref = road.login()
    assert road.refused("event.from", ref, ["nonsense"], "", 0.0) == [
        "EVENT_SUBSCRIPTION_PARSE_FAILURE",
        "nonsense",
    ]
    assert road.refused("event.from", ref, ["vm"], "x", 0.0) == ["EVENT_FROM_TOKEN_PARSE_FAILURE", "x"]


def test_the_old_event_calls_work(road):
    ref = road.login()
    assert road.refused("event.next", ref) == ["SESSION_NOT_REGISTERED", ref]
    road("event.register", ref, ["vm"])
    vm = road.db.create(VM)
    assert [(e["operation"], e["ref"]) for e in road("event.next", ref)] == [("add", vm.ref)]
    road("event.unregister", ref, ["vm"])
    assert road.refused("event.next", ref) == ["SESSION_NOT_REGISTERED", ref]


def test_the_old_event_calls_follow_a_single_object_and_say_when(road):
    ref = road.login()
    one, other = road.db.create(VM), road.db.create(VM)
    road("event.register", ref, [f"vm/{one.ref}"])
    before = int(time.time())
    for vm in (other, one):
        road.db.write(vm, {"name_label": "new"})
    (told,) = road("event.next", ref)
    assert (told["operation"], told["ref"]) == ("mod", one.ref)
    assert float(told["timestamp"]) >= before
    road("event.unregister", ref, [f"VM/{one.ref}"])
    assert road.refused("event.next", ref) == ["SESSION_NOT_REGISTERED", ref]


def test_only_the_owner_or_an_operator_may_change_a_task(road):
    owner, other = road.as_role("vm-admin"), road.as_role("vm-admin")
    road.db.get(type(road.pipeline.sessions.require(other)), other).auth_user_sid = "u2000"
    made = road("task.create", owner, "mine", "")
    assert road.refused("task.set_progress", other, made, 0.5)[:2] == [
        "RBAC_PERMISSION_DENIED",
        "task.destroy/any",
    ]
    road("task.set_progress", owner, made, 0.5)
    road("task.destroy", owner, made)
    assert road.refused("task.get_status", owner, made) == ["HANDLE_INVALID", "task", made]


def test_a_handler_that_does_not_fit_the_facts_is_refused(monkeypatch):
    monkeypatch.delitem(registry.HANDLERS, "VM.start", raising=False)
    with pytest.raises(registry.Mismatch, match="takes 1 parameters, the facts say 3"):

        @registry.message("VM.start")
        def start(call, vm: str):
            """Too few."""

    with pytest.raises(registry.Mismatch, match="not in the facts"):
        registry.message("VM.fly")(lambda call: None)


def test_those_who_keep_up_with_the_news_get_one_answer(road):
    ref, vm = road.login(), road.db.create(VM)
    token = road("event.from", ref, ["*"], "", 0.0)["token"]

    async def listen(classes):
        return await road.pipeline.call(LOCAL, "event.from", [ref, classes, token, 20.0])

    def start(classes):
        return asyncio.run_coroutine_threadsafe(listen(classes), road.loop)

    alike, other = [start(["vm"]), start(["VM"]), start(["vm"])], start(["vm", "host"])
    while len(road.pipeline.changes._patient) < 4:
        threading.Event().wait(0.001)
    vm.name_label = "new"
    answers = [each.result(20) for each in alike]
    assert [each["snapshot"]["name_label"] for each in answers[0].value["events"]] == ["new"]
    assert answers[0] is answers[2]
    assert answers[0].json() is answers[2].json()
    assert other.result(20).value["events"] == answers[0].value["events"]
    vm.name_label = "newer"
    later = road("event.from", ref, ["vm"], token, 20.0)
    assert [each["snapshot"]["name_label"] for each in later["events"]] == ["newer"]


def test_an_empty_token_waits_where_there_is_nothing_to_tell(road):
    ref = road.login()
    threading.Timer(0.05, lambda: road.db.create(VM, name_label="first")).start()
    told = road("event.from", ref, ["vm"], "", 20.0)
    assert [each["snapshot"]["name_label"] for each in told["events"]] == ["first"]


def test_who_waits_for_events_when_the_daemon_stops_keeps_its_place(road):
    ref = road.login()
    token = road("event.from", ref, ["vm"], "", 0.0)["token"]
    waiting = asyncio.run_coroutine_threadsafe(
        road.pipeline.call(LOCAL, "event.from", [ref, ["vm"], token, 20.0]), road.loop
    )
    road("session.get_this_host", ref, ref)  # it has begun to wait by now
    road.loop.call_soon_threadsafe(road.pipeline.changes.close)
    told = waiting.result(10).value
    assert told["events"] == []
    assert told["token"] >= token
    assert road.refused("event.from", ref, ["vm"], token, 20.0)[0] == "TASK_CANCELLED"


def test_what_still_runs_when_the_daemon_stops_is_cancelled(road):
    one, other = (road.pipeline.tasks.start(name, "", "", "") for name in ("one", "other"))
    road.pipeline.tasks.cancel_all()
    assert one.cancelled and other.cancelled


def test_a_login_goes_on_while_every_worker_waits_for_something(road):
    go_on = threading.Event()
    road.pipeline.workers = ThreadPoolExecutor(1)
    waiting = road.pipeline.workers.submit(go_on.wait, 5)
    road("session.login_with_password", "root", "right", origin=REMOTE)
    assert not waiting.done()
    go_on.set()


def test_the_parts_of_a_call_need_no_role_of_their_own(road):
    operator = road.db.get(Session, road.as_role("vm-operator"))
    with pytest.raises(Failure) as refused:
        road.pipeline.perform(REMOTE, operator, "VM.create", ({},))
    assert refused.value.code == "RBAC_PERMISSION_DENIED"
    message = model().messages["VM.start"]
    ours = tasks.Task(road.db, message.full_name)
    call = Call(road.db, road.pipeline.machine, road.pipeline, REMOTE, message, operator, ours)
    assert call.invoke("VM_appliance.create", {"name_label": "a"}).startswith("OpaqueRef:")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_list_of_records_in_parts_is_the_same_as_in_one(road, count):
    rows = [road.db.create(VM, name_label=f'"{n}" & <so> on') for n in range(count)]
    for _ in range(2):  # rendered, and kept
        answer = RecordsAnswer(lambda: rows)
        assert b"".join(answer.json_parts()) == answer.json()
        assert b"".join(answer.xml_parts()) == answer.xml()
        assert {ref: record["name_label"] for ref, record in json.loads(answer.json()).items()} == {
            row.ref: row.name_label for row in rows
        }
    assert [json.loads(row.json())["uuid"] for row in rows] == [row.uuid for row in rows]


def test_a_task_whose_answer_cannot_be_written_fails(road, monkeypatch, caplog):
    """Not for ever pending: whoever waits for it would wait as long."""

    def unwritable(self):
        raise TypeError("what a handler should not have returned")

    monkeypatch.setattr(Answer, "xml", unwritable)
    appliance = {"name_label": "a", "name_description": ""}
    row = road.db.get(Task, road("Async.VM_appliance.create", road.login(), appliance))
    for _ in range(200):
        if row.status != "pending":
            break
        threading.Event().wait(0.01)
    assert row.status == "failure"
    assert row.error_info == ("INTERNAL_ERROR", "TypeError: what a handler should not have returned")
    assert "Traceback" in caplog.text


def test_a_program_of_the_host_that_refuses_is_quoted_without_a_traceback(road, monkeypatch, caplog):
    def refuses(call, *arguments):
        raise CommandFailed(["nft"], 1, "Operation not permitted")

    handler = registry.HANDLERS["task.set_progress"]
    refusing = dataclasses.replace(handler, function=refuses, inline=False)
    monkeypatch.setitem(registry.HANDLERS, "task.set_progress", refusing)
    ref = road.login()
    made = road("task.create", ref, "label", "")
    assert road.refused("task.set_progress", ref, made, 0.5) == [
        "INTERNAL_ERROR",
        "nft exited with 1: Operation not permitted",
    ]
    assert "task.set_progress failed: nft exited with 1" in caplog.text
    assert "Traceback" not in caplog.text
