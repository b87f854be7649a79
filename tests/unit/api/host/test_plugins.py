"""host: plugins and extensions, as real programs that speak the protocol of their kind."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import xmlrpc.client

import pytest

from kronos.dispatch.call import Origin
from kronos.server.access import Access
from kronos.server.doors import all_doors
from kronos.server.http import Server, UnixListener

PLUGIN = f"""#!{sys.executable}
import sys, xmlrpc.client
(session, args), name = xmlrpc.client.loads(sys.argv[1])
if name == "echo":
    answer = {{"Status": "Success", "Value": session + " " + ",".join(f"{{k}}={{v}}" for k, v in sorted(args.items()))}}
elif name == "number":
    answer = {{"Status": "Success", "Value": ["no", "string"]}}
elif name == "fault":
    print(xmlrpc.client.dumps(xmlrpc.client.Fault(7, "broken"), methodresponse=True)); sys.exit()
elif name == "exit":
    print("half"); print("why", file=sys.stderr); sys.exit(3)
elif name == "die":
    import os; os.kill(os.getpid(), 15)
elif name == "nonsense":
    print("<hello"); sys.exit()
else:
    answer = {{"Status": "Failure", "ErrorDescription": ["UNKNOWN_XENAPI_PLUGIN_FUNCTION", name]}}
print(xmlrpc.client.dumps((answer,), "", True))
"""

EXTENSION = f"""#!{sys.executable}
import sys, xmlrpc.client
assert sys.argv[1:] == ["--xmlrpc"]
params, name = xmlrpc.client.loads(sys.stdin.read())
if params and params[-1] == "fail":
    answer = {{"Status": "Failure", "ErrorDescription": ["MY_ERROR", "so sorry"]}}
else:
    answer = {{"Status": "Success", "Value": {{"name": name, "count": len(params), "what": list(params)}}}}
print(xmlrpc.client.dumps((answer,), "", True))
"""


@pytest.fixture
def plugin(put):
    return put("etc/xapi.d/plugins/tool.py", PLUGIN, 0o755)


@pytest.fixture
def extension(put):
    return put("etc/xapi.d/extensions/Acme.frobnicate", EXTENSION, 0o755)


def call(xapi, fn, args=None):
    return xapi("host.call_plugin", xapi.host.ref, "tool.py", fn, args or {})


def refused(xapi, fn):
    return xapi.refused("host.call_plugin", xapi.host.ref, "tool.py", fn, {})


def test_a_plugin_gets_the_callers_session_and_its_arguments(xapi, plugin):
    assert call(xapi, "echo", {"a": "1", "b": "<&>ü"}) == f"{xapi.session} a=1,b=<&>ü"


def test_what_a_plugin_fails_with_goes_through(xapi, plugin):
    assert refused(xapi, "other") == ["UNKNOWN_XENAPI_PLUGIN_FUNCTION", "other"]


@pytest.mark.parametrize(
    ("fn", "failure"),
    [
        ("exit", ["non-zero exit", "half\n", "why\n"]),
        ("fault", ["fault", "7", "broken"]),
        ("die", ["signal: SIGTERM", "", ""]),
    ],
)
def test_a_plugin_that_breaks_down_is_described(xapi, plugin, fn, failure):
    assert refused(xapi, fn) == ["XENAPI_PLUGIN_FAILURE", *failure]


def test_an_answer_that_is_none_is_shown(xapi, plugin):
    assert refused(xapi, "nonsense")[:3] == [
        "XENAPI_PLUGIN_FAILURE",
        "failed to parse plugin output",
        "<hello\n",
    ]
    assert refused(xapi, "number")[:2] == ["XENAPI_PLUGIN_FAILURE", "unexpected XMLRPC result"]


@pytest.mark.parametrize("name", ["nothing", "", ".", "..", "../plugins/tool.py", "tool.py/", "/bin/sh"])
def test_only_programs_of_the_folder_are_plugins(xapi, plugin, name):
    assert xapi.refused("host.call_plugin", xapi.host.ref, name, "echo", {}) == [
        "XENAPI_MISSING_PLUGIN",
        name,
    ]


@pytest.mark.parametrize("mode", [0o757, 0o775, 0o644])
def test_a_program_that_others_may_write_is_not_run(xapi, plugin, mode):
    plugin.chmod(mode)
    assert refused(xapi, "echo")[:2] == ["XENAPI_PLUGIN_FAILURE", "not run"]


def test_a_folder_that_others_may_write_is_not_trusted(xapi, plugin):
    plugin.parent.chmod(0o777)
    assert refused(xapi, "echo")[:2] == ["XENAPI_PLUGIN_FAILURE", "not run"]


def test_a_cancelled_task_ends_its_plugin(xapi, put, tmp_path):
    started = tmp_path / "started"
    put("etc/xapi.d/plugins/slow", f"#!/bin/sh\ntouch {started}\nexec sleep 600\n", 0o755)
    task = xapi("Async.host.call_plugin", xapi.host.ref, "slow", "x", {})
    while not started.exists():
        time.sleep(0.01)

    xapi("task.cancel", task)

    while xapi("task.get_status", task) == "pending":
        time.sleep(0.01)
    assert xapi("task.get_status", task) == "cancelled"


def test_an_extension_serves_a_method_of_its_own(xapi, extension):
    assert xapi("host.has_extension", xapi.host.ref, "Acme.frobnicate") is True
    assert xapi("pool.has_extension", xapi.pool.ref, "Acme.other") is False

    answer = xapi("Acme.frobnicate", "one", 2)

    assert answer == {"name": "Acme.frobnicate", "count": 3, "what": [xapi.session, "one", 2]}


def test_an_extension_answers_in_both_encodings(xapi, extension):
    async def serve():
        return await xapi.pipeline.call(Origin(local=True), "Acme.frobnicate", [xapi.session, "a&b"])

    answer = asyncio.run_coroutine_threadsafe(serve(), xapi.loop).result(30)
    text = b"<methodResponse><params><param>" + answer.xml() + b"</param></params></methodResponse>"
    assert xmlrpc.client.loads(text)[0][0]["what"] == [xapi.session, "a&b"]
    assert json.loads(answer.json())["what"] == [xapi.session, "a&b"]


def test_what_an_extension_fails_with_goes_through(xapi, extension):
    assert xapi.refused("Acme.frobnicate", "fail") == ["MY_ERROR", "so sorry"]


def test_a_method_that_no_extension_serves_is_unknown(xapi, extension):
    assert xapi.refused("Acme.other", 1) == ["MESSAGE_METHOD_UNKNOWN", "Acme.other"]


def test_an_extension_is_called_by_name(xapi, extension):
    text = json.dumps({"method": "Acme.frobnicate", "params": [1], "id": 1})
    assert json.loads(xapi("host.call_extension", xapi.host.ref, text))["what"] == [1]
    assert xapi.refused("host.call_extension", xapi.host.ref, "{}")[0] == "INTERNAL_ERROR"


def test_an_unknown_method_needs_the_right_to_call_extensions(xapi, extension):
    row = xapi.pipeline.sessions.require(xapi.session)
    xapi.db.write(row, {"is_local_superuser": False, "rbac_permissions": ("vm.start",)})
    assert xapi.refused("Acme.frobnicate", 1)[0] == "RBAC_PERMISSION_DENIED"


LIBRARY_PLUGIN = """
import XenAPIPlugin

def names(session, args):
    return ",".join(session.xenapi.host.get_hostname(ref) for ref in session.xenapi.host.get_all()) + args["end"]

def refuse(session, args):
    raise XenAPIPlugin.Failure("MY_ERROR", ["a", "b"])

def fail(session, args):
    session.xenapi.VM.get_record("OpaqueRef:nothing")

XenAPIPlugin.dispatch({"names": names, "refuse": refuse, "fail": fail})
"""


@pytest.fixture(params=["ours", "installed"])
def interpreter(request):
    """A Python without XenAPI of its own, and one that has it."""
    return "/usr/bin/python3" if request.param == "ours" else sys.executable


@pytest.fixture
def socket(xapi):
    """The host's own door, which a plugin comes back through."""
    server = Server(all_doors(xapi.pipeline, Access(xapi.pipeline)))
    xapi.machine.socket = xapi.directory / "xapi"
    asyncio.run_coroutine_threadsafe(server.start([UnixListener(xapi.machine.socket)]), xapi.loop).result(10)
    yield xapi.machine.socket
    asyncio.run_coroutine_threadsafe(server.stop(0), xapi.loop).result(10)


def test_a_plugin_comes_back_as_its_caller(xapi, put, socket):
    put("etc/xapi.d/plugins/tool.py", f"#!/usr/bin/python3{LIBRARY_PLUGIN}", 0o755)
    assert call(xapi, "names", {"end": "!"}) == "h!"


def test_what_a_plugin_raises_is_its_callers_error(xapi, put, socket, interpreter):
    put("etc/xapi.d/plugins/tool.py", f"#!{interpreter}{LIBRARY_PLUGIN}", 0o755)
    assert refused(xapi, "refuse") == ["MY_ERROR", "a", "b"]
    assert refused(xapi, "nothing") == ["UNKNOWN_XENAPI_PLUGIN_FUNCTION", "nothing"]


def test_what_goes_wrong_in_a_plugin_is_named(xapi, put, socket):
    put("etc/xapi.d/plugins/tool.py", f"#!/usr/bin/python3{LIBRARY_PLUGIN}", 0o755)
    failure = refused(xapi, "fail")
    assert failure[:3] == ["XENAPI_PLUGIN_FAILURE", "fail", "Failure"] and "HANDLE_INVALID" in failure[3]
