"""Commands on storage, networks, hosts and pools; transfers, events, help, and how a command can end."""

from __future__ import annotations

import pytest

from kronos.commands.protocol import NULL, Login
from kronos.datamodel.errors import Failure


def test_an_sr_is_created_on_the_only_host(xe, api):
    host = next(iter(api.objects["host"]))
    api.answers["SR.create"] = lambda *_: next(iter(api.objects["SR"]))
    words = ("name-label=nfs", "type=nfs", "device-config:server=filer", "device-config-serverpath=/srv")
    assert xe("sr-create", *words) == "SR-1\n"
    config = {"server": "filer", "serverpath": "/srv"}
    assert api.called("SR.create") == [(host, config, 0, "nfs", "", "nfs", "", False, {})]


def test_a_local_sr_in_a_pool_needs_a_host(xe, api):
    api.add("host", name_label="beta")
    xe("sr-create", "name-label=x", "type=file")
    assert xe.err == "Error: Required parameter not found: host-uuid\n"


def test_a_device_config_can_come_from_a_file(xe, api):
    xe.terminal.files["/tmp/cfg"] = b"text"
    api.answers["SR.create"] = lambda *_: next(iter(api.objects["SR"]))
    xe("sr-create", "name-label=x", "type=x", "device-config:key-filename=/tmp/cfg")
    assert api.called("SR.create")[0][1] == {"key": "text"}


def test_a_wrapped_answer_of_a_probe_is_unwrapped(xe, api):
    text = "<SRlist><SR/></SRlist>"
    wrapped = (
        "<value><array><data><value>Raw</value>"
        "<value>&lt;SRlist&gt;&lt;SR/&gt;&lt;/SRlist&gt;</value></data></array></value>"
    )
    for answer in (text, wrapped):
        api.answers["SR.probe"] = lambda *_, answer=answer: answer
        assert xe("sr-probe", "type=nfs") == f"{text}\n"


def test_the_host_of_an_sr_is_its_only_one_or_shared(xe, api):
    host = next(iter(api.objects["host"]))
    sr = next(iter(api.objects["SR"]))
    api.objects["SR"][sr]["PBDs"] = (api.add("PBD", host=host, SR=sr),)
    assert "host ( RO): alpha\n" in xe("sr-list")
    api.objects["SR"][sr]["PBDs"] += (api.add("PBD", host=host, SR=sr),)
    assert "host ( RO): <shared>\n" in xe("sr-list")


def test_a_vdi_is_created_with_a_size(xe, api):
    assert xe("vdi-create", "sr-uuid=SR-1", "name-label=d", "virtual-size=1GiB", "sm-config:a=b") == "VDI-1\n"
    (made,) = api.called("VDI.create")[0]
    assert (made["virtual_size"], made["type"], made["sm_config"]) == (1 << 30, "user", {"a": "b"})


def test_a_vdi_is_copied_to_an_sr_or_into_a_vdi_but_not_both(xe, api):
    vdi = api.add("VDI")
    xe("vdi-copy", "uuid=VDI-1")
    assert "Please specify one but not both" in xe.err
    sr = next(iter(api.objects["SR"]))
    api.answers["VDI.copy"] = lambda *_: vdi
    assert xe("vdi-copy", "uuid=VDI-1", "sr-uuid=SR-1") == "VDI-1\n"
    assert api.called("VDI.copy") == [(vdi, sr, NULL, NULL)]


def test_a_vlan_prints_the_uuid_of_its_interface(xe, api):
    pif = api.add("PIF")
    vlan = api.add("VLAN", untagged_PIF=api.add("PIF"))
    network = next(iter(api.objects["network"]))
    api.answers["VLAN.create"] = lambda *_: vlan
    assert xe("vlan-create", "pif-uuid=PIF-1", "network-uuid=network-1", "vlan=12") == "PIF-2\n"
    assert api.called("VLAN.create") == [(pif, 12, network)]


def test_enabling_a_host_ends_its_maintenance_mode(xe, api):
    host = next(iter(api.objects["host"]))
    api.objects["host"][host]["other_config"] = {"MAINTENANCE_MODE": "on"}
    xe("host-enable", "host=alpha")
    assert api.objects["host"][host]["other_config"] == {}
    assert api.called("host.enable") == [(host,)]


def test_forgetting_a_host_asks_first(xe, api):
    assert "WARNING" in xe("host-forget", "uuid=host-1")
    assert api.objects["host"]
    xe("host-forget", "uuid=host-1", "--force")
    assert not api.objects["host"]


def test_a_role_is_given_by_its_name(xe, api):
    subject, role = api.add("subject"), api.add("role", name_label="vm-admin")
    api.answers["subject.add_to_roles"] = lambda *_: ""
    xe("subject-role-add", "uuid=subject-1", "role-name=vm-admin")
    assert api.called("subject.add_to_roles") == [(subject, role)]


def test_a_message_has_one_owner(xe, api):
    xe("message-create", "name=n", "priority=3", "body=text", "vm-uuid=VM-1")
    assert api.called("message.create") == [("n", 3, "VM", "VM-1", "text")]
    xe("message-create", "name=n", "priority=3", "body=text")
    assert xe.err == "Error: Need one of: vm-uuid, host-uuid, sr-uuid or pool-uuid\n"


def test_a_wait_ends_with_the_event_that_fits(xe, api, vm):
    halted = api.objects["VM"][vm] | {"power_state": "Halted"}
    running = halted | {"power_state": "Running"}
    rounds = iter([halted, running])

    def events(classes, token, timeout):
        assert classes == ("vm",)
        event = {"operation": "mod", "ref": vm, "snapshot": next(rounds)}
        return {"events": [event], "token": f"{token}x"}

    api.answers["event.from"] = events
    xe("event-wait", "class=vm", "name-label=web", "power-state=/=halted")
    assert xe.status == 0
    assert [call[1] for call in api.called("event.from")] == ["", "x"]


def test_a_wait_for_an_unknown_field_is_refused(xe):
    xe("event-wait", "class=vm", "nonsense=1")
    assert xe.err == "Error: key missing: nonsense\n"


@pytest.fixture
def task(api):
    """Transfers end well, with this result."""
    ref = api.add("task", status="success", result="")
    api.answers["task.create"] = lambda *_: ref
    return ref


@pytest.mark.parametrize(("said", "shown"), [("progress=true", "\n"), ("progress=false", "")])
def test_a_transfer_shows_its_progress_where_that_was_asked_for(xe, vm, task, said, shown):
    xe("vm-export", "vm=web", "filename=/tmp/web.xva", said)
    assert xe.err == shown
    assert xe.status == 0


def test_an_export_is_fetched_by_the_client(xe, api, vm, task):
    shown = xe("vm-export", "vm=web", "filename=/tmp/web.xva", "compress=zstd")
    assert shown == "Export succeeded\n"
    ((way, path, url),) = xe.terminal.moved
    assert (way, path) == ("get", "/tmp/web.xva")
    assert url.startswith("/export?session_id=OpaqueRef%3Asession&")
    for part in ("ref=OpaqueRef%3AVM-1", "use_compression=zstd", "preserve_power_state=false"):
        assert part in url
    assert task not in api.objects["task"]


def test_an_import_prints_the_uuids_of_the_vms(xe, api, vm, task):
    api.objects["task"][task]["result"] = f"<value><array><data><value>{vm}</value></data></array></value>"
    assert xe("vm-import", "filename=/tmp/web.xva", "vdi:old=new") == "VM-1\n"
    url = xe.terminal.moved[0][2]
    assert "vdi%3Aold=new" in url
    assert "sr_id=OpaqueRef%3ASR-1" in url


def test_a_failed_transfer_tells_what_the_server_says(xe, api, vm, task):
    xe.terminal.transfers_work = False
    api.objects["task"][task] |= {"status": "failure", "error_info": ("VDI_IN_USE", "x", "export")}
    xe("vm-export", "vm=web", "filename=/tmp/web.xva")
    assert xe.err.startswith("The VDI is in use.\n")
    assert xe.status == 1
    assert task not in api.objects["task"]


def test_a_backup_of_another_host_comes_from_that_host(xe, api, task):
    api.add("host", name_label="beta", address="192.0.2.2")
    xe("host-backup", "host=beta", "file-name=/tmp/b")
    assert xe.terminal.moved[0][2].startswith("https://192.0.2.2/host_backup?session_id=")


def test_a_restore_of_the_database_needs_force(xe, api, task):
    xe("pool-restore-database", "file-name=/tmp/db")
    assert "must be forced" in xe.err
    assert xe("pool-restore-database", "file-name=/tmp/db", "dry-run=true") == (
        "Dry-run backup restore successful\n"
    )


def test_recovery_reads_the_database_on_the_disk(xe, api, vm):
    api.add("VDI")
    api.answers |= {"VDI.open_database": lambda *_: "OpaqueRef:saved", "VM.recover": lambda *_: ""}
    xe("vm-recover", "uuid=VM-1", "database:vdi-uuid=VDI-1")
    assert api.using_sessions == ["OpaqueRef:saved"]
    assert api.called("VM.recover") == [(vm, "OpaqueRef:session", False)]


def test_a_database_on_a_disk_can_be_listed(xe, api, vm):
    api.add("VDI")
    api.answers["VDI.open_database"] = lambda *_: "OpaqueRef:saved"
    assert xe("vm-list", "database:vdi-uuid=VDI-1", "--minimal") == "VM-1\n"
    assert api.using_sessions == ["OpaqueRef:saved"]
    assert api.called("session.logout")


def test_an_unknown_command_hints_at_help(xe):
    xe("vm-fly")
    assert xe.err == "Unknown command: vm-fly\nFor usage run: 'xe help'\n"
    assert xe.status == 1


def test_a_refused_login_says_so(xe, api):
    from contextlib import contextmanager

    @contextmanager
    def refuse(login):
        raise Failure("SESSION_AUTHENTICATION_FAILED", "root", "wrong password")
        yield

    api.open_session = refuse
    xe("vm-list")
    assert xe.err == "Authentication failed\nFor usage run: 'xe help'\n"
    assert xe.status == 1


def test_the_login_is_not_among_the_commands_parameters(xe, api):
    xe("vm-list")
    assert api.logins == [Login("root", "null")]


def test_emergency_commands_log_in_locally(xe, api):
    xe("host-is-in-emergency-mode")
    assert api.logins == [Login("root", "null", local=True)]


def test_help_lists_common_commands_and_all_of_them(xe):
    common = xe("help")
    assert "vm-install" in common
    assert "vm-param-set" not in common
    everything = xe("help", "--minimal", "--all").strip().split(",")
    assert len(everything) == 675 - 28
    assert everything == sorted(everything)


def test_help_tells_what_a_command_takes(xe):
    shown = xe("help", "vm-start")
    assert "optional params : force, on, paused, <vm-selectors>\n" in shown
    assert "Unknown command 'vm-fly'" in xe("help", "vm-fly")


def test_no_line_of_help_is_longer_than_a_terminal(xe):
    lines = [line for line in xe("help", "--all").splitlines() if line.startswith("    ")]
    assert max(map(len, lines)) <= 80
