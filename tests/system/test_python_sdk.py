"""The official Python SDK, as it comes from its package, on every transport that it has."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Iterator

import pytest
import XenAPI

from harness.client import Client
from harness.daemon import Daemon
from harness.guests import vm_record
from harness.host import PASSWORD

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

Open = Callable[[], XenAPI.Session]


def over_http(daemon: Daemon) -> XenAPI.Session:
    return XenAPI.Session(f"http://{daemon.host.address}")


def over_https(daemon: Daemon) -> XenAPI.Session:
    return XenAPI.Session(f"https://{daemon.host.address}", ignore_ssl=True)


def over_the_local_socket(daemon: Daemon) -> XenAPI.Session:
    # What XenAPI.xapi_local() makes, for the socket of this daemon.
    return XenAPI.Session(f"http://{str(daemon.socket).replace('/', '_')}/", transport=XenAPI.UDSTransport())


@pytest.fixture(params=[over_http, over_https, over_the_local_socket], ids=lambda each: each.__name__)
def session(request: pytest.FixtureRequest, daemon: Daemon) -> Iterator[XenAPI.Session]:
    """The SDK logged in as root."""
    session = request.param(daemon)
    session.xenapi.login_with_password("root", PASSWORD, "2.21", "kronos tests")
    yield session
    with contextlib.suppress(XenAPI.Failure):
        session.xenapi.session.logout()


@pytest.fixture
def vm(client: Client, daemon: Daemon) -> str:
    """A halted VM."""
    return str(client("VM.create", vm_record(daemon.state, "started by the SDK")))


def test_it_lists_every_class_that_the_server_names(session: XenAPI.Session) -> None:
    methods = session.system.listMethods()["Value"]
    classes = {name.partition(".")[0] for name in methods if name.endswith(".get_all_records")}
    assert len(classes) > 55
    for name in sorted(classes):
        records = session.xenapi_request(f"{name}.get_all_records", ())
        refs = session.xenapi_request(f"{name}.get_all", ())
        assert {ref[:10] for ref in records} <= {"OpaqueRef:"}
        # Sessions and tasks may come and go meanwhile.
        if name not in ("session", "task"):
            assert set(records) == set(refs)
    (host,) = session.xenapi.host.get_all_records().values()
    assert host["enabled"] is True
    assert session.API_version == f"{host['API_version_major']}.{host['API_version_minor']}"


def test_it_starts_and_stops_a_guest_and_follows_events_meanwhile(session: XenAPI.Session, vm: str) -> None:
    token = session.xenapi.event_from(["VM"], "", 0.0)["token"]
    states: list[str] = []
    session.xenapi.VM.start(vm, False, False)
    assert session.xenapi.VM.get_power_state(vm) == "Running"
    session.xenapi.VM.hard_shutdown(vm)
    deadline = time.monotonic() + 60
    while "Halted" not in states and time.monotonic() < deadline:
        told = session.xenapi.event_from(["VM"], token, 5.0)
        token = told["token"]
        states += [each["snapshot"]["power_state"] for each in told["events"] if each["ref"] == vm]
    assert states[-1] == "Halted"


def test_an_event_arrives_while_the_client_waits_for_it(
    session: XenAPI.Session, client: Client, vm: str
) -> None:
    token = session.xenapi.event_from(["vm"], "", 0.0)["token"]
    changed: list[float] = []

    def change() -> None:
        time.sleep(0.3)
        changed.append(time.monotonic())
        client("VM.set_name_description", vm, "changed")

    thread = threading.Thread(target=change)
    thread.start()
    heard: list[str] = []
    while not heard:  # of other VMs there may be news too
        told = session.xenapi.event_from(["vm"], token, 30.0)
        arrived, token = time.monotonic(), told["token"]
        heard = [each["snapshot"]["name_description"] for each in told["events"] if each["ref"] == vm]
    thread.join(10)
    assert heard == ["changed"]
    assert arrived - changed[0] < 10, "it came when the wait was over"


def test_an_asynchronous_call_is_followed_by_its_task(session: XenAPI.Session, vm: str) -> None:
    task = session.xenapi.Async.VM.clone(vm, "by a task")
    deadline = time.monotonic() + 60
    while session.xenapi.task.get_status(task) == "pending" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert session.xenapi.task.get_status(task) == "success"
    clone = session.xenapi.task.get_result(task).removeprefix("<value>").removesuffix("</value>")
    assert session.xenapi.VM.get_name_label(clone) == "by a task"
    session.xenapi.task.destroy(task)


def test_a_failure_keeps_its_code_and_parameters(session: XenAPI.Session) -> None:
    with pytest.raises(XenAPI.Failure) as caught:
        session.xenapi.VM.get_record("OpaqueRef:nothing")
    assert caught.value.details == ["HANDLE_INVALID", "VM", "OpaqueRef:nothing"]


def test_a_session_that_was_ended_elsewhere_is_logged_in_again(
    session: XenAPI.Session, client: Client
) -> None:
    client.raw("session.logout", session.handle)
    assert len(session.xenapi.pool.get_all()) == 1


def test_a_wrong_password_is_refused_after_five_seconds(daemon: Daemon) -> None:
    session = over_https(daemon)
    began = time.monotonic()
    with pytest.raises(XenAPI.Failure) as caught:
        session.xenapi.login_with_password("root", "wrong", "2.21", "kronos tests")
    assert caught.value.details[:2] == ["SESSION_AUTHENTICATION_FAILED", "root"]
    assert time.monotonic() - began >= 5


def test_the_certificate_names_the_host_and_can_be_trusted(daemon: Daemon) -> None:
    """A client that was given the certificate needs no exception for it."""
    pem = (daemon.state / "xapi-ssl.pem").read_text()
    context = ssl.create_default_context(cadata=pem[pem.index("-----BEGIN CERT") :])
    server = xmlrpc.client.ServerProxy(f"https://{daemon.host.address}/", context=context)
    assert server.session.login_with_password("root", PASSWORD)["Status"] == "Success"
