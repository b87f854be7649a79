"""kronos-client's sessions against a host that is made up: what goes over the wire, and what becomes of trouble."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import httpx
import pytest

from kronos_client import AsyncSession, Failure, Malformed, NoAnswer, Session


class Refusal:
    """An answer that is an error: the first `times` times, and then what it is from there on."""

    def __init__(self, code: str, *params: str, times: int = 1 << 30, then: Any = "") -> None:
        self.error = {"code": 1, "message": code, "data": list(params)}
        self.times, self.then = times, then


class Host:
    """Answers by name of the message; keeps what was asked."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = {"session.login_with_password": "OpaqueRef:1", "session.logout": "", **answers}
        self.asked: list[tuple[str, list[Any]]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        call = json.loads(request.content)
        self.asked.append((call["method"], call["params"]))
        answer = self.answers[call["method"]]
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, Refusal):
            answer.times -= 1
            if answer.times >= 0:
                return reply(request, error=answer.error)
            answer = answer.then
        return reply(request, result=answer)

    def session(self) -> Session:
        return Session("host.example", "root", "secret", transport=httpx.MockTransport(self))

    def times(self, method: str) -> int:
        return sum(1 for asked, _ in self.asked if asked == method)


def reply(request: httpx.Request, **content: Any) -> httpx.Response:
    return httpx.Response(200, json={"jsonrpc": "2.0", "id": json.loads(request.content)["id"], **content})


def test_arguments_may_be_named_and_go_in_their_order() -> None:
    made = Host({"VM.start": ""})
    with made.session() as xapi:
        xapi.VM.start("OpaqueRef:vm", force=False, start_paused=True)
    assert ("VM.start", ["OpaqueRef:1", "OpaqueRef:vm", True, False]) in made.asked


@pytest.mark.parametrize("named", [{"pause": True}, {"vm": "OpaqueRef:other"}])
def test_an_argument_that_a_message_does_not_take_is_told_before_anything_is_sent(named: Any) -> None:
    made = Host({})
    with made.session() as xapi, pytest.raises(TypeError, match="start_paused"):
        xapi.VM.start("OpaqueRef:vm", **named)
    assert not made.times("VM.start")


def test_a_class_or_message_that_xenapi_lacks_is_an_attribute_that_is_not_there() -> None:
    with Host({}).session() as xapi:
        assert not hasattr(xapi, "vm")
        assert not hasattr(xapi.VM, "begin")
        assert {"start", "get_record"} <= set(dir(xapi.VM))


def test_a_refusal_has_its_code_and_parameters() -> None:
    answers = {"VM.start": Refusal("VM_BAD_POWER_STATE", "OpaqueRef:vm", "halted", "running")}
    with Host(answers).session() as xapi, pytest.raises(Failure) as raised:
        xapi.VM.start("OpaqueRef:vm", False, False)
    assert (raised.value.code, raised.value.params[1:]) == ("VM_BAD_POWER_STATE", ("halted", "running"))


def test_a_session_that_was_forgotten_is_renewed_and_the_call_made_again() -> None:
    made = Host({"VM.start": Refusal("SESSION_INVALID", "OpaqueRef:1", times=1)})
    with made.session() as xapi:
        made.answers["session.login_with_password"] = "OpaqueRef:2"
        xapi.VM.start("OpaqueRef:vm", False, False)
        assert xapi.ref == "OpaqueRef:2"
    assert [args[0] for method, args in made.asked if method == "VM.start"] == ["OpaqueRef:1", "OpaqueRef:2"]


def test_many_threads_that_are_told_so_log_in_once() -> None:
    made = Host({"VM.get_uuid": "a uuid"})
    with made.session() as xapi:
        forgotten = xapi.ref
        together = threading.Barrier(8)

        def refuse(method: str, session: str, *args: Any) -> Any:
            if session == forgotten:
                together.wait(60)
                raise Failure("SESSION_INVALID", session)
            return "a uuid"

        xapi._read = refuse  # type: ignore[method-assign]  # all are refused before any logs in
        made.answers["session.login_with_password"] = "OpaqueRef:2"
        threads = [threading.Thread(target=xapi.VM.get_uuid, args=("OpaqueRef:vm",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert made.times("session.login_with_password") == 2


def test_a_parameter_whose_name_is_pythons_has_an_underscore() -> None:
    made = Host({"event.inject": ""})
    with made.session() as xapi:
        xapi.event.inject(class_="VM", ref="OpaqueRef:vm")
    assert ("event.inject", ["OpaqueRef:1", "VM", "OpaqueRef:vm"]) in made.asked


def test_another_sessions_end_is_no_reason_to_log_in_again() -> None:
    made = Host({"session.get_record": Refusal("SESSION_INVALID", "OpaqueRef:other")})
    with made.session() as xapi, pytest.raises(Failure, match="SESSION_INVALID"):
        xapi.session.get_record("OpaqueRef:other")
    assert made.times("session.login_with_password") == 1


@pytest.mark.parametrize(("master", "host"), [("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "[2001:db8::1]")])
def test_a_login_at_a_member_goes_on_at_the_master(master: str, host: str) -> None:
    made = Host(
        {"session.login_with_password": Refusal("HOST_IS_SLAVE", master, times=1, then="OpaqueRef:1")}
    )
    with made.session() as xapi:
        assert xapi.url == f"https://{host}"


def test_what_only_reads_is_asked_again_when_no_answer_comes_and_nothing_else() -> None:
    lost = httpx.ReadError("gone")
    made = Host({"VM.get_record": lost, "VM.start": lost})
    with made.session() as xapi:
        for call in (
            lambda: xapi.VM.get_record("OpaqueRef:vm"),
            lambda: xapi.VM.start("OpaqueRef:vm", False, False),
        ):
            with pytest.raises(NoAnswer):
                call()
    assert (made.times("VM.get_record"), made.times("VM.start")) == (2, 1)


@pytest.mark.parametrize("trouble", [httpx.ConnectError, httpx.ConnectTimeout])
def test_who_cannot_be_reached_was_sent_nothing_and_that_is_told(trouble: type[httpx.TransportError]) -> None:
    host = Host({"VM.start": trouble("nobody is there")})
    with host.session() as xapi, pytest.raises(trouble):
        xapi.VM.start("OpaqueRef:2", False, False)


@pytest.mark.parametrize("body", ["", "<html>", "[]", '{"id": 1}', '{"error": "no"}'])
def test_what_is_no_xenapi_is_told_so(body: str) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=body))
    with pytest.raises(Malformed):
        Session("host.example", transport=transport)


def test_a_call_that_is_awaited_has_the_result_of_its_task() -> None:
    task = {"status": "success", "progress": 1.0, "result": "<value>OpaqueRef:new</value>", "error_info": []}
    answers = {"Async.VM.clone": "OpaqueRef:task", "task.get_record": task, "task.destroy": ""}
    made = Host(answers)
    with made.session() as xapi:
        assert xapi.awaited.VM.clone("OpaqueRef:vm", "copy") == "OpaqueRef:new"
    assert made.times("task.destroy") == 1


def test_a_message_without_a_result_answers_none_however_it_is_called() -> None:
    task = {"status": "success", "progress": 1.0, "result": "<value></value>", "error_info": []}
    answers = {
        "Async.VM.start": "OpaqueRef:task",
        "task.get_record": task,
        "task.destroy": "",
        "VM.start": "",
    }
    host = Host({**answers, "VM.get_name_label": ""})
    vm = ("OpaqueRef:vm", False, False)
    with host.session() as xapi:
        assert xapi.VM.start(*vm) is None
        assert xapi.awaited.VM.start(*vm) is None
        assert xapi.VM.get_name_label(vm[0]) == "", "an empty string is one where a string is due"

    async def main() -> None:
        async with AsyncSession("host.example", transport=httpx.MockTransport(host)) as xapi:
            assert await xapi.VM.start(*vm) is None
            assert await xapi.awaited.VM.start(*vm) is None
            assert await xapi.VM.get_name_label(vm[0]) == ""

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_task_that_fails_raises_what_its_message_would_have() -> None:
    task = {"status": "failure", "progress": 1.0, "result": "", "error_info": ["SR_FULL", "4096", "0"]}
    made = Host({"task.get_record": task, "task.destroy": ""})
    with made.session() as xapi, pytest.raises(Failure, match="SR_FULL: 4096, 0"):
        xapi.wait("OpaqueRef:task")


def test_a_task_is_cancelled_when_nobody_waits_for_it_any_more() -> None:
    made = Host(
        {"Async.VM.clone": "OpaqueRef:task", "task.get_record": KeyboardInterrupt(), "task.cancel": ""}
    )
    with made.session() as xapi, pytest.raises(KeyboardInterrupt):
        xapi.awaited.VM.clone("OpaqueRef:vm", "copy")
    assert made.times("task.cancel") == 1


def test_a_thousand_calls_wait_at_once_on_one_loop() -> None:
    waiting = 0
    most = 0

    async def slow(request: httpx.Request) -> httpx.Response:
        nonlocal waiting, most
        if json.loads(request.content)["method"] != "VM.get_uuid":
            return reply(request, result="OpaqueRef:1")
        waiting += 1
        most = max(most, waiting)
        while most < 1000:
            await asyncio.sleep(0.01)
        waiting -= 1
        return reply(request, result="a uuid")

    async def main() -> None:
        async with AsyncSession("host.example", transport=httpx.MockTransport(slow)) as xapi:
            await asyncio.gather(*(xapi.VM.get_uuid("OpaqueRef:vm") for _ in range(1000)))

    asyncio.run(asyncio.wait_for(main(), 60))
    assert most == 1000
