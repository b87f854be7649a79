"""pool: settings that are more than a field, and what a pool of this kind has not."""

from __future__ import annotations

import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from harness.outside import NotedOutside
from kronos.datamodel.types import at
from kronos.db.records import Secret
from kronos.rules.certificates import first, self_signed


def test_agents_are_told_what_they_know(xapi):
    xapi("pool.add_to_guest_agent_config", xapi.pool.ref, "auto_update_enabled", "true")
    xapi("pool.add_to_guest_agent_config", xapi.pool.ref, "auto_update_url", "https://updates.example/")
    assert xapi.refused("pool.add_to_guest_agent_config", xapi.pool.ref, "auto_update_enabled", "false")[
        0
    ] == ("MAP_DUPLICATE_KEY")
    xapi("pool.remove_from_guest_agent_config", xapi.pool.ref, "auto_update_enabled")
    assert xapi("pool.get_guest_agent_config", xapi.pool.ref) == {
        "auto_update_url": "https://updates.example/"
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_update_enabled", "perhaps"),
        ("auto_update_url", "ftp://x"),
        ("auto_update_url", "http://["),
        ("other", "x"),
    ],
)
def test_agents_are_told_nothing_else(xapi, key, value):
    assert xapi.refused("pool.add_to_guest_agent_config", xapi.pool.ref, key, value) == [
        "INVALID_VALUE",
        "guest_agent_config",
        f"{key} = {value}",
    ]


def test_telemetry_gets_another_identity(xapi):
    xapi("pool.reset_telemetry_uuid", xapi.pool.ref)
    first_secret = xapi.db.get(Secret, xapi.pool.telemetry_uuid)
    xapi("pool.reset_telemetry_uuid", xapi.pool.ref)
    second = xapi.db.get(Secret, xapi.pool.telemetry_uuid)
    assert xapi.db.all(Secret) == [second]
    assert first_secret.ref != second.ref


def test_telemetry_is_not_put_off_for_ever(xapi):
    soon, late = at(time.time() + 86400), at(time.time() + 15 * 86400)
    xapi("pool.set_telemetry_next_collection", xapi.pool.ref, soon)
    assert xapi("pool.get_telemetry_next_collection", xapi.pool.ref) == soon
    assert xapi.refused("pool.set_telemetry_next_collection", xapi.pool.ref, late) == [
        "TELEMETRY_NEXT_COLLECTION_TOO_LATE",
        late,
    ]


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("pool.set_uefi_certificates", ["SELF", ""], "OPERATION_NOT_ALLOWED"),
        ("pool.set_custom_uefi_certificates", ["SELF", ""], "OPERATION_NOT_ALLOWED"),
        ("pool.set_igmp_snooping_enabled", ["SELF", True], "OPENVSWITCH_NOT_ACTIVE"),
        ("pool.set_vswitch_controller", ["192.0.2.1"], "OPERATION_NOT_ALLOWED"),
        ("pool.test_archive_target", ["SELF", {}], "MESSAGE_REMOVED"),
        ("pool.deconfigure_wlb", [], "WLB_NOT_INITIALIZED"),
        ("pool.send_wlb_configuration", [{}], "WLB_NOT_INITIALIZED"),
        ("pool.retrieve_wlb_configuration", [], "WLB_NOT_INITIALIZED"),
        ("pool.retrieve_wlb_recommendations", [], "WLB_NOT_INITIALIZED"),
    ],
)
def test_what_a_pool_has_not_is_refused_by_its_own_error(xapi, name, arguments, code):
    given = [xapi.pool.ref if each == "SELF" else each for each in arguments]
    assert xapi.refused(name, *given)[0] == code


def test_every_host_is_told_and_those_that_failed_are_named(xapi, tmp_path):
    outside = NotedOutside()
    xapi.machine.outside, xapi.machine.root = outside, tmp_path
    unit = tmp_path / "usr/lib/systemd/system/sshd.service"
    unit.parent.mkdir(parents=True)
    unit.touch()

    xapi("pool.disable_ssh", xapi.pool.ref)
    xapi("pool.enable_ssh", xapi.pool.ref)
    xapi("pool.set_console_idle_timeout", xapi.pool.ref, 60)
    assert outside.commands == ["systemctl disable --now sshd.service", "systemctl enable --now sshd.service"]
    assert xapi.host.console_idle_timeout == 60

    outside.refused = {"systemctl"}
    assert xapi.refused("pool.disable_ssh", xapi.pool.ref) == ["DISABLE_SSH_PARTIALLY_FAILED", xapi.host.ref]
    assert xapi.refused("pool.set_ssh_enabled_timeout", xapi.pool.ref, -5)[0] == "INVALID_VALUE"


def test_the_only_host_coordinates_on(xapi):
    xapi("pool.designate_new_master", xapi.host.ref)
    xapi("pool.emergency_transition_to_master")
    xapi("pool.disable_redo_log")
    assert xapi("pool.get_master", xapi.pool.ref) == xapi.host.ref


@pytest.fixture
def stranger(tmp_path):
    """Somebody's HTTPS server, which says what it was sent."""
    pem = tmp_path / "stranger.pem"
    pem.write_bytes(self_signed("localhost", ["127.0.0.1"]))

    class Echo(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"you said " + body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Echo)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], first(pem.read_text())
    server.shutdown()
    server.server_close()


def test_a_stranger_is_believed_once_its_authority_is(xapi, stranger):
    port, certificate = stranger
    assert xapi.refused("pool.send_test_post", "127.0.0.1", port, "hello")[0] == "SSL_VERIFY_ERROR"

    xapi("pool.install_ca_certificate", "stranger.pem", certificate)
    assert xapi("pool.send_test_post", "127.0.0.1", port, "hello") == "you said hello"

    xapi("pool.uninstall_ca_certificate", "stranger.pem")
    assert xapi.refused("pool.send_test_post", "127.0.0.1", port, "hello")[0] == "SSL_VERIFY_ERROR"


def test_who_does_not_answer_is_named(xapi):
    assert xapi.refused("pool.send_test_post", "127.0.0.1", 1, "x") == [
        "TLS_CONNECTION_FAILED",
        "127.0.0.1",
        "1",
    ]
