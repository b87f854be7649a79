"""host: its logs, and its name."""

from __future__ import annotations

import pytest

from kronos.db.records import VM
from kronos.system.host_logs import MOST, newest


@pytest.fixture
def rsyslog(put, system):
    put("usr/lib/systemd/system/rsyslog.service")
    return system.root / "etc/rsyslog.d/xapi-remote.conf"


def test_the_hosts_log_is_sent_to_another_host(xapi, system, rsyslog):
    xapi.host.logging = {"syslog_destination": "logs.example:1514"}
    xapi("host.syslog_reconfigure", xapi.host.ref)

    assert '*.* action(type="omfwd" target="logs.example" port="1514" protocol="udp")' in rsyslog.read_text()
    assert system.commands == ["systemctl restart rsyslog.service"]

    xapi.host.logging = {}
    xapi("host.syslog_reconfigure", xapi.host.ref)
    assert not rsyslog.exists()


@pytest.mark.parametrize("text", ['a" protocol="tcp', "a\nb", "host:0", "host:70000", "-x", "a b", "[::1"])
def test_a_destination_is_a_host_and_nothing_else(xapi, rsyslog, text):
    xapi.host.logging = {"syslog_destination": text}
    assert xapi.refused("host.syslog_reconfigure", xapi.host.ref)[:2] == [
        "INVALID_VALUE",
        "syslog_destination",
    ]
    assert not rsyslog.exists()


def test_an_address_of_ipv6_is_taken(xapi, rsyslog):
    xapi.host.logging = {"syslog_destination": "[2001:db8::1]:514"}
    xapi("host.syslog_reconfigure", xapi.host.ref)
    assert 'target="2001:db8::1"' in rsyslog.read_text()


def test_a_log_service_that_does_not_start_is_told_nothing(xapi, system, rsyslog):
    system.refused = {"systemctl restart"}
    xapi.host.logging = {"syslog_destination": "logs.example"}
    assert xapi.refused("host.syslog_reconfigure", xapi.host.ref)[0] == "INTERNAL_ERROR"
    assert not rsyslog.exists()


def test_a_host_that_cannot_forward_says_so(xapi, system):
    xapi.host.logging = {"syslog_destination": "logs.example"}
    refusal = xapi.refused("host.syslog_reconfigure", xapi.host.ref)
    assert refusal[0] == "OPERATION_NOT_ALLOWED" and "rsyslog" in refusal[1]


def test_the_kernels_messages_are_read_and_forgotten(xapi, system):
    system.answers = {"dmesg --read-clear": "[0.0] Linux\n"}
    assert xapi("host.dmesg_clear", xapi.host.ref) == "[0.0] Linux\n"
    assert system.commands == ["dmesg --read-clear"]


def test_a_log_ends_with_its_newest_line_and_begins_with_a_whole_one():
    text = "".join(f"line {number}\n" for number in range(400_000))
    shown = newest(text)
    assert len(shown) <= MOST
    assert shown.startswith("line ") and shown.endswith("line 399999\n")


def test_debug_keys_are_for_xen(xapi):
    assert xapi.refused("host.send_debug_keys", xapi.host.ref, "h")[0] == "OPERATION_NOT_ALLOWED"
    assert xapi.refused("host.send_debug_keys", xapi.host.ref, "-h")[0] == "INVALID_VALUE"


def test_debug_keys_are_pressed_on_xen(xapi, monkeypatch):
    run = []
    xapi.machine.hypervisor.type = "XEN"
    monkeypatch.setattr("kronos.hypervisor.xen_console.run", lambda argv: run.append(argv) or "(XEN) hello\n")
    xapi("host.send_debug_keys", xapi.host.ref, "q")
    assert xapi("host.dmesg", xapi.host.ref) == "(XEN) hello\n"
    assert run == [["xl", "debug-keys", "q"], ["xl", "dmesg"]]


def test_the_host_gets_another_name(xapi, system):
    domain = xapi.db.create(VM, is_control_domain=True)
    xapi.host.control_domain = domain.ref

    xapi("host.set_hostname_live", xapi.host.ref, "node-7.example")

    assert system.commands == ["hostnamectl set-hostname node-7.example"]
    assert xapi("host.get_hostname", xapi.host.ref) == "node-7.example"
    assert domain.name_label == "Control domain on host: node-7.example"


def test_a_control_domain_that_somebody_named_keeps_its_name(xapi, system):
    domain = xapi.db.create(VM, is_control_domain=True, name_label="rack 3, top")
    xapi.host.control_domain = domain.ref

    xapi("host.set_hostname_live", xapi.host.ref, "node-7.example")

    assert domain.name_label == "rack 3, top"


@pytest.mark.parametrize("name", ["", "a_b", "-a", "a-", "x" * 256, "a b"])
def test_what_is_no_host_name_is_refused(xapi, system, name):
    assert xapi.refused("host.set_hostname_live", xapi.host.ref, name)[0] == "HOST_NAME_INVALID"
    assert system.ran == []
