"""Observers: who is told of calls, what they are told, and that nobody else pays for it."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kronos.background import observers
from kronos.background.observers import Observers
from kronos.db.records import VM, Observer, VM_appliance
from kronos.dispatch import tracing
from kronos.dispatch.call import Origin
from kronos.server import doors
from kronos.server.access import Access
from kronos.server.http import Server, TcpListener


@pytest.fixture
def collector():
    """A real collector: its address, and what was posted to it by path."""
    got: list[tuple[str, object]] = []
    arrived = threading.Condition()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with arrived:
                got.append((self.path, json.loads(body)))
                arrived.notify_all()
            self.send_response(200 if self.path != "/broken" else 503)
            self.end_headers()

        def log_message(self, *args):
            pass

    class Collector:
        def wait(self, count=1):
            with arrived:
                assert arrived.wait_for(lambda: len(got) >= count, 60), "nothing came"
                return list(got)

        def wait_for(self, name, count=1):
            """What was posted, once it has so many spans of a name: others may have been posted before."""
            with arrived:
                assert arrived.wait_for(lambda: names_of(got).count(name) >= count, 60), names_of(got)
                return list(got)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        found = Collector()
        found.url = f"http://127.0.0.1:{running.server_address[1]}"
        yield found
        running.shutdown()


@pytest.fixture
def sending(xapi, monkeypatch):
    monkeypatch.setattr(observers, "INTERVAL", 0.2)
    return Observers(xapi.pipeline, xapi.directory)


def observer(xapi, **fields: object) -> Observer:
    record = {"name_label": "jaeger", "enabled": True, "components": ["xapi"]} | fields
    return xapi.db.get(Observer, xapi("Observer.create", record))


def names_of(posted) -> list[str]:
    """The names of the spans that were posted, in either form."""
    spans = []
    for _, body in posted:
        if isinstance(body, list):
            spans += body
        else:
            scopes = [scope for resource in body["resourceSpans"] for scope in resource["scopeSpans"]]
            spans += [span for scope in scopes for span in scope["spans"]]
    return [span["name"] for span in spans]


def spans_of(posted) -> dict[str, dict]:
    """Zipkin's spans, by name."""
    return {span["name"]: span for _, spans in posted for span in spans}


def test_calls_are_told_as_zipkin_takes_them(xapi, sending, collector):
    observer(xapi, endpoints=[f"{collector.url}/api/v2/spans"], attributes={"site.name": "north"})
    xapi("VM.create_new_blob", xapi.db.create(VM).ref, "notes", "", False)
    span = spans_of(collector.wait_for("VM.create_new_blob"))["VM.create_new_blob"]
    assert span["localEndpoint"] == {"serviceName": "xapi"} and span["duration"] > 0
    assert span["tags"]["site.name"] == "north" and span["tags"]["xs.host.uuid"] == xapi.host.uuid


def test_calls_are_told_as_opentelemetry_takes_them(xapi, sending, collector):
    observer(xapi, endpoints=[f"{collector.url}/v1/traces"])
    vm = xapi.db.create(VM)
    xapi("VM.create_new_blob", vm.ref, "notes", "", False)
    xapi.refused("VM.create_new_blob", vm.ref, "notes", "", False)
    posted = collector.wait_for("VM.create_new_blob")
    path, body = next(each for each in posted if "VM.create_new_blob" in names_of([each]))
    (resource,) = body["resourceSpans"]
    named = {each["key"]: each["value"]["stringValue"] for each in resource["resource"]["attributes"]}
    assert path == "/v1/traces" and named["service.name"] == "xapi"
    sent = [span for span in resource["scopeSpans"][0]["spans"] if span["name"] == "VM.create_new_blob"]
    assert [span["status"]["code"] for span in sent][:2] in ([1], [1, 2])
    assert all(int(span["endTimeUnixNano"]) >= int(span["startTimeUnixNano"]) for span in sent)


def test_the_parts_of_a_call_are_in_its_trace(xapi, sending, collector):
    observer(xapi, endpoints=[f"{collector.url}/api/v2/spans"])
    appliance = xapi.db.create(VM_appliance)
    vms = [xapi.db.create(VM, appliance=appliance.ref, power_state="Running") for _ in range(2)]
    xapi("VM_appliance.hard_shutdown", appliance.ref)
    assert {vm.power_state for vm in vms} == {"Halted"}
    posted = collector.wait_for("VM_appliance.hard_shutdown")  # it ends last
    spans = [span for _, each in posted for span in each]
    whole = next(span for span in spans if span["name"] == "VM_appliance.hard_shutdown")
    parts = [span for span in spans if span["name"] == "VM.hard_shutdown"]
    assert {(part["traceId"], part["parentId"]) for part in parts} == {(whole["traceId"], whole["id"])}


def test_a_clients_own_trace_goes_on_here(xapi, sending, collector):
    observer(xapi, endpoints=[f"{collector.url}/api/v2/spans"])
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    origin = Origin(local=True, traceparent=parent)

    async def serve():
        answer = xapi.pipeline.call(origin, "blob.create", (xapi.session, "", False))
        return answer if not hasattr(answer, "__await__") else await answer

    asyncio.run_coroutine_threadsafe(serve(), xapi.loop).result(30)
    span = spans_of(collector.wait_for("blob.create"))["blob.create"]
    assert (span["traceId"], span["parentId"]) == (parent[3:35], parent[36:52])


def test_the_header_comes_with_the_request_and_only_with_that(xapi, sending, collector):
    observer(xapi, endpoints=[f"{collector.url}/api/v2/spans"])
    server = Server(doors.all_doors(xapi.pipeline, Access(xapi.pipeline)))
    asyncio.run_coroutine_threadsafe(server.start([TcpListener("127.0.0.1", 0)]), xapi.loop).result(30)
    connection = http.client.HTTPConnection("127.0.0.1", server.addresses[0][1], timeout=60)
    for name, headers in (
        ("image/png", {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}),
        ("text/plain", {}),
    ):
        call = {"jsonrpc": "2.0", "method": "blob.create", "params": [xapi.session, name, False], "id": 1}
        connection.request("POST", "/jsonrpc", json.dumps(call), headers)
        assert b"OpaqueRef" in connection.getresponse().read()
    connection.close()
    sending.flush()
    asyncio.run_coroutine_threadsafe(server.stop(0.2), xapi.loop).result(30)
    posted = collector.wait_for("blob.create", 2)
    spans = [span for _, each in posted for span in each if span["name"] == "blob.create"]
    assert spans[0]["traceId"] == "ab" * 16 and spans[0]["parentId"] == "cd" * 8
    assert spans[1]["traceId"] != "ab" * 16 and "parentId" not in spans[1]


def test_nothing_is_kept_where_nobody_observes(xapi, sending):
    row = observer(xapi, endpoints=["http://127.0.0.1:1/"], enabled=False)
    xapi("blob.create", "", False)
    assert not xapi.pipeline.tracer.on and xapi.pipeline.tracer.take(10) == []
    xapi("Observer.set_enabled", row.ref, True)
    assert xapi.pipeline.tracer.on
    xapi("Observer.set_components", row.ref, ["xenopsd"])
    assert not xapi.pipeline.tracer.on
    xapi("Observer.set_components", row.ref, [])
    xapi("Observer.destroy", row.ref)
    assert not xapi.pipeline.tracer.on


def test_an_observer_that_was_enabled_is_so_after_a_restart(xapi):
    observer(xapi)
    xapi.pipeline.tracer.on = False
    Observers(xapi.pipeline, xapi.directory)
    assert xapi.pipeline.tracer.on


def test_spans_go_to_a_file_where_bugtool_is_asked_for(xapi, sending, monkeypatch):
    monkeypatch.setattr(observers, "FILE_MOST", 10)
    observer(xapi, endpoints=["bugtool"])
    for _ in range(3):
        xapi("blob.create", "", False)
        sending.flush()
    lines = [json.loads(line) for line in sending.file.read_text().splitlines()]
    assert lines and {line["name"] for line in lines} <= {"blob.create", "Observer.create"}
    assert sending.file.with_suffix(".1.ndjson").exists()


def test_a_collector_that_is_gone_costs_the_spans_and_one_line_of_the_log(xapi, sending, collector, caplog):
    observer(xapi, endpoints=["http://127.0.0.1:1/", f"{collector.url}/broken"])
    for _ in range(2):
        xapi("blob.create", "", False)
        sending.flush()
    collector.wait()
    assert caplog.text.count("spans of calls were lost") == 1


def test_spans_that_wait_are_bounded(xapi, monkeypatch):
    monkeypatch.setattr(tracing, "MOST", 5)
    tracer = tracing.Tracer()
    tracer.on = True
    for number in range(8):
        with tracer.span(str(number)):
            pass
    assert tracer.lost == 3 and [span.name for span in tracer.take(10)] == ["3", "4", "5", "6", "7"]


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"components": ["kitchen"]}, ["component", "kitchen"]),
        ({"endpoints": ["ftp://x/"]}, ["endpoint", "ftp://x/"]),
        ({"endpoints": ["http://:1/"]}, ["endpoint", "http://:1/"]),
        ({"hosts": ["OpaqueRef:none"]}, ["host", "OpaqueRef:none"]),
        ({"attributes": {"Key": "v"}}, ["attributes", "Key:v"]),
        ({"attributes": {"k": "v"}}, ["attributes", "k:v"]),
    ],
)
def test_what_an_observer_cannot_be_is_refused(xapi, fields, refused):
    assert xapi.refused("Observer.create", {"name_label": "o"} | fields) == ["INVALID_VALUE", *refused]
    row = observer(xapi)
    name, value = next(iter(fields.items()))
    assert xapi.refused(f"Observer.set_{name}", row.ref, value) == ["INVALID_VALUE", *refused]


@pytest.mark.parametrize("header", ["", "00-xyz", "00-" + "0" * 32 + "-00f067aa0ba902b7-01"])
def test_a_header_that_names_no_trace_begins_one(header):
    tracer = tracing.Tracer()
    tracer.on = True
    with tracer.span("call", header):
        pass
    (span,) = tracer.take(1)
    assert len(span.trace) == 32 and span.parent == ""
