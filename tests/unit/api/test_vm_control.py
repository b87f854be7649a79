"""What can be done to a running VM and asked of its guest's agent: each answer, and each way of refusing."""

from __future__ import annotations

import json
import threading
import time
from xmlrpc.server import SimpleXMLRPCServer

import pytest

from kronos.api.vm import agents, conversion, sysprep
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.records import VBD, VDI, VM, VM_guest_metrics

AGENT = "guest-agent-operation"
SCRIPT = {"username": "u", "password": "p", "script": "echo hello"}


def until(condition, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@pytest.fixture
def vm(host, monkeypatch) -> VM:
    monkeypatch.setattr(agents, "_pace", agents.Pace())
    made = host.halted_vm(host.vdi(host.storage, 1 << 20))
    host("VM.start", made.ref, False, False)
    return made


def says(host, vm: VM, **other: str) -> None:
    row = host.db.get(VM_guest_metrics, vm.guest_metrics)
    row.other = row.other | {name.replace("_", "-"): value for name, value in other.items()}


# --- the machine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("send_sysrq", ["h"]), ("send_trigger", ["nmi"]), ("add_to_VCPUs_params_live", ["weight", "1"])],
)
def test_what_the_reference_does_not_do_is_answered_as_it_does(host, vm, name, arguments):
    says(host, vm, feature_vcpu_hotplug="1")
    assert host.refused(f"VM.{name}", vm.ref, *arguments) == ["NOT_IMPLEMENTED", name]
    host("VM.hard_shutdown", vm.ref)
    assert host.refused(f"VM.{name}", vm.ref, *arguments) == [
        "VM_BAD_POWER_STATE",
        vm.ref,
        "running",
        "halted",
    ]
    assert vm.current_operations == {}


def test_a_shadow_multiplier_is_written_down_unless_it_is_too_small(host, vm):
    host("VM.set_shadow_multiplier_live", vm.ref, 1.5)
    assert vm.HVM_shadow_multiplier == 1.5
    assert host.refused("VM.set_shadow_multiplier_live", vm.ref, 0.5) == [
        "INVALID_VALUE",
        "multiplier",
        "0.5",
    ]
    assert vm.HVM_shadow_multiplier == 1.5


def test_a_guest_sleeps_and_is_woken_and_runs_all_the_time(host, vm):
    host("VM.s3_suspend", vm.ref)
    assert (host.hypervisor.asleep, vm.power_state) == ({vm.uuid}, "Running")
    host("VM.s3_resume", vm.ref)
    assert host.hypervisor.asleep == set()
    host("VM.hard_shutdown", vm.ref)
    for name in ("VM.s3_suspend", "VM.s3_resume"):
        assert host.refused(name, vm.ref) == ["VM_BAD_POWER_STATE", vm.ref, "running", "halted"]


def test_a_vm_with_a_new_device_model_is_a_new_run_of_the_same_guest(host, vm):
    before = vm.domid
    host("VM.restart_device_models", vm.ref)
    assert (vm.power_state, vm.suspend_VDI) == ("Running", NULL)
    assert vm.domid != before
    host("VM.hard_shutdown", vm.ref)
    assert host.refused("VM.restart_device_models", vm.ref) == [
        "VM_BAD_POWER_STATE",
        vm.ref,
        "Running",
        "Halted",
    ]


# --- the guest's agent -----------------------------------------------------------------------------------------------


def test_an_agent_is_asked_to_let_remote_desktops_in(host, vm):
    host.hypervisor.trees[vm.uuid] = {}
    says(host, vm, feature_ts2="1")
    assert host("VM.call_plugin", vm.ref, AGENT, "request-rdp-on", {}) == ""
    assert host.hypervisor.trees[vm.uuid] == {"control/ts": "1"}


@pytest.mark.parametrize("told", [True, False])
def test_a_guest_that_cannot_be_told_says_so(host, vm, told):
    if told:  # over its channel; it has no xenstore
        says(host, vm, feature_ts2="1")
    code, what, *_ = host.refused("VM.call_plugin", vm.ref, AGENT, "request-rdp-on", {})
    assert (code, what) == ("XENAPI_PLUGIN_FAILURE", "failed to execute fn")


def test_an_agent_is_not_called_without_end(host, vm):
    assert host.refused("VM.call_plugin", vm.ref, AGENT, "dance", {})[:2] == [
        "XENAPI_PLUGIN_FAILURE",
        "failed to find fn",
    ]
    code, whose, interval, wait = host.refused("VM.call_plugin", vm.ref, AGENT, "dance", {})
    assert (code, whose, interval) == ("VM_CALL_PLUGIN_RATE_LIMIT", vm.ref, "10.")
    assert 0 < float(wait) <= 10


def test_an_agent_may_be_called_again_after_a_while_and_others_meanwhile():
    pace = agents.Pace()
    pace.take("one", 100.0)
    pace.take("other", 101.0)
    with pytest.raises(Failure) as refused:
        pace.take("one", 104.0)
    assert refused.value.description == ["VM_CALL_PLUGIN_RATE_LIMIT", "one", "10.", "6"]
    pace.take("one", 110.5)


def test_there_is_one_plugin_for_guests(host, vm):
    assert host.refused("VM.call_plugin", vm.ref, "other", "fn", {}) == ["XENAPI_MISSING_PLUGIN", "other"]
    host("VM.hard_shutdown", vm.ref)
    assert host.refused("VM.call_plugin", vm.ref, AGENT, "fn", {})[0] == "VM_BAD_POWER_STATE"


def test_a_script_is_run_by_the_agent_of_a_pool_that_allows_it(host, vm, monkeypatch):
    monkeypatch.setattr(agents, "INTERVAL", 0.0)
    tree = host.hypervisor.trees
    tree[vm.uuid] = {"control/feature-xs-batcmd": "1", "control/batcmd/state": "SUCCESS"}
    assert host.refused("VM.call_plugin", vm.ref, AGENT, "run-script", SCRIPT) == ["FEATURE_RESTRICTED"]
    host.pool.other_config = {"allow_guest_agent_run_script": "true"}

    def agent() -> None:
        assert until(lambda: tree[vm.uuid].get("control/batcmd/state") == "READY")
        assert tree[vm.uuid]["control/batcmd/script"] == "echo hello"
        done = {"return": "0", "stdout": "hello", "stderr": "", "state": "SUCCESS"}
        tree[vm.uuid] |= {f"control/batcmd/{key}": value for key, value in done.items()}

    thread = threading.Thread(target=agent)
    thread.start()
    answer = host("VM.call_plugin", vm.ref, AGENT, "run-script", SCRIPT)
    thread.join()
    assert json.loads(answer) == {"rc": 0, "stdout": "hello", "stderr": ""}
    assert not [key for key in tree[vm.uuid] if key.startswith("control/batcmd")]


def test_a_guest_without_an_agent_for_scripts_runs_none(host, vm):
    host.pool.other_config = {"allow_guest_agent_run_script": "true"}
    assert host.refused("VM.call_plugin", vm.ref, AGENT, "run-script", SCRIPT)[0] == "NOT_IMPLEMENTED"


def test_the_plugin_of_a_vms_host_is_called_while_the_vm_runs(host, vm):
    assert host.refused("VM.call_host_plugin", vm.ref, "none", "fn", {}) == ["XENAPI_MISSING_PLUGIN", "none"]
    host("VM.hard_shutdown", vm.ref)
    refusal = ["VM_BAD_POWER_STATE", vm.ref, "Running", "Halted"]
    assert host.refused("VM.call_host_plugin", vm.ref, "none", "fn", {}) == refusal


def test_agents_are_offered_what_the_pool_is_told(host):
    host("pool.add_to_guest_agent_config", host.pool.ref, "auto_update_enabled", "true")
    assert host.hypervisor.offered["GAAU/parameters/enabled"] == "1"
    host("pool.remove_from_guest_agent_config", host.pool.ref, "auto_update_enabled")
    assert "GAAU/parameters/enabled" not in host.hypervisor.offered
    host.hypervisor.offered = {}
    host("host.apply_guest_agent_config", host.host.ref)
    assert host.hypervisor.offered["GAAU/licensed"] == "1"


# --- sysprep ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def windows(host, vm, monkeypatch) -> VM:
    """A guest with an empty drive and an agent that says that it knows sysprep."""
    monkeypatch.setattr(sysprep, "SETTLING", 0.0)
    monkeypatch.setattr(sysprep, "BEGINNING", 0.5)
    monkeypatch.setattr(sysprep, "_PAUSE", 0.01)
    host("VM.hard_shutdown", vm.ref)
    drive = {"VM": vm.ref, "VDI": NULL, "userdevice": "3", "bootable": False, "mode": "RO", "type": "CD"}
    host(
        "VBD.create",
        drive | {"empty": True, "qos_algorithm_type": "", "qos_algorithm_params": {}, "other_config": {}},
    )
    host("VM.start", vm.ref, False, False)
    host.hypervisor.trees[vm.uuid] = {"control/feature-sysprep": "1"}
    return vm


def obey(host, vm: VM, seen: list[bytes], *, shuts_down: bool = True) -> threading.Thread:
    """What the agent does: it reads the disc, says that it has begun, and has done; the guest shuts down."""
    tree = host.hypervisor.trees

    def agent() -> None:
        assert until(lambda: tree[vm.uuid].get("control/sysprep/action") == "sysprep")
        (disc,) = (disk for disk in host.hypervisor.guests[vm.uuid].disks.values() if disk.cdrom)
        seen.append(disc.path.read_bytes())
        host.hypervisor.tell(vm.uuid, {"control/sysprep/action": "running"})
        time.sleep(0.05)
        host.hypervisor.tell(vm.uuid, {"control/sysprep": None})
        assert until(lambda: not list(sysprep.folder(host.machine).iterdir()))
        if shuts_down:
            host.hypervisor.power_off(vm.uuid)

    thread = threading.Thread(target=agent)
    thread.start()
    return thread


def test_a_guest_is_prepared_with_its_answer_file_and_shuts_down(host, windows):
    seen: list[bytes] = []
    agent = obey(host, windows, seen)
    host("VM.sysprep", windows.ref, "<unattend>secret</unattend>", 5.0)
    agent.join()
    assert b"<unattend>secret</unattend>" in seen[0]
    assert windows.power_state == "Halted"
    assert list(sysprep.folder(host.machine).iterdir()) == []
    assert not [vdi for vdi in host.db.all(VDI) if vdi.name_label.startswith("sysprep-")]


@pytest.mark.parametrize("begins", [True, False])
def test_a_guest_that_does_not_prepare_itself_in_time_is_left_without_the_disc(host, windows, begins):
    agent = obey(host, windows, [], shuts_down=False) if begins else None
    refusal = host.refused("VM.sysprep", windows.ref, "<unattend/>", 0.3)
    assert refusal == ["SYSPREP", windows.uuid, "No response from sysprep within allocated time"]
    if agent is not None:
        agent.join()
    assert windows.power_state == "Running"
    assert list(sysprep.folder(host.machine).iterdir()) == []
    assert [host.db.get(VBD, ref).empty for ref in windows.VBDs] == [False, True]


def test_what_cannot_be_prepared_is_said(host, windows):
    def refused(text: str = "<unattend/>", timeout: float = 1.0) -> list[str]:
        return host.refused("VM.sysprep", windows.ref, text, timeout)

    assert refused(timeout=-1.0) == ["INVALID_VALUE", "timeout", "-1.0"]
    assert refused("x" * 32769) == ["SYSPREP", windows.uuid, "unattend.xml file too large"]
    host.hypervisor.trees[windows.uuid] = {}
    assert refused() == ["SYSPREP", windows.uuid, "VM driver does not support sysprep"]
    host.hypervisor.trees[windows.uuid] = {"control/feature-sysprep": "1"}
    drive = next(vbd for vbd in (host.db.get(VBD, ref) for ref in windows.VBDs) if vbd.type == "CD")
    host.db.write(drive, {"empty": False})
    assert refused() == ["SYSPREP", windows.uuid, "CD-ROM drive not found"]
    host("VM.hard_shutdown", windows.ref)
    assert refused()[0] == "VM_BAD_POWER_STATE"


def test_answer_files_that_a_crash_left_are_removed(host):
    sysprep.folder(host.machine).mkdir()
    (sysprep.folder(host.machine) / "sysprep-x.iso").write_text("secret")
    sysprep.tidy(host.pipeline)
    assert list(sysprep.folder(host.machine).iterdir()) == []


class Killed(BaseException):
    """The daemon is gone: nothing after this runs."""


def test_a_guest_that_a_crash_left_with_the_disc_can_be_started_again(host, windows):
    def die(*_, **__):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sysprep, "_wait", die)
        patch.setattr(sysprep, "_eject", die)
        patch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
        with pytest.raises(Killed):
            host("VM.sysprep", windows.ref, "<unattend/>", 5.0)
    assert [host.db.get(VBD, ref).empty for ref in windows.VBDs] == [False, False]
    host.db.write(windows, {"current_operations": {}})
    sysprep.tidy(host.pipeline)
    assert list(sysprep.folder(host.machine).iterdir()) == []
    assert [host.db.get(VBD, ref).empty for ref in windows.VBDs] == [False, True]
    assert not [vdi for vdi in host.db.all(VDI) if vdi.name_label.startswith("sysprep-")]
    host("VM.hard_shutdown", windows.ref)
    host("VM.start", windows.ref, False, False)


# --- what the pool writes --------------------------------------------------------------------------------------------


def test_a_vm_is_called_another_ones_snapshot(host, vm):
    other = host.halted_vm()
    host("VM.update_snapshot_metadata", other.ref, vm.ref, "20260102T03:04:05Z", "there")
    assert (other.is_a_snapshot, other.snapshot_of, other.transportable_snapshot_id) == (
        True,
        vm.ref,
        "there",
    )
    assert vm.snapshots == (other.ref,)


def test_a_host_says_that_a_vm_has_come(host):
    vm = host.halted_vm()
    vm.scheduled_to_be_resident_on = host.host.ref
    host.pipeline.perform_internal("VM.atomic_set_resident_on", vm.ref, host.host.ref)
    assert (vm.resident_on, vm.scheduled_to_be_resident_on) == (host.host.ref, NULL)
    with pytest.raises(Failure, match="NOT_IMPLEMENTED"):
        host.pipeline.perform_internal("VM.hard_reboot_internal", vm.ref)


# --- conversion ------------------------------------------------------------------------------------------------------

REMOTE = {"hostname": "esx", "username": "root", "password": "secret", "vm-name": "legacy"}


def test_without_a_conversion_service_nothing_is_converted(host):
    refusal = host.refused("VM.import_convert", "ESXServer", "u", "p", host.storage.ref, REMOTE)
    assert refusal == ["XENAPI_MISSING_PLUGIN", "conversion"]


def test_a_conversion_service_is_given_a_job_and_waited_for(host, monkeypatch):
    asked: list[tuple[object, ...]] = []
    states = iter([1, 2, 3])
    server = SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False)
    server.register_function(lambda *args: (asked.append(args), {"Id": "7", "State": 0})[1], "job.create")
    server.register_function(lambda who, job: {"Id": job, "State": next(states)}, "job.get")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    plugins = host.directory / "root" / "etc/xapi.d/plugins"
    plugins.mkdir(parents=True)
    host.machine.root = host.directory / "root"
    plugin = plugins / "conversion"
    body = "<methodResponse><params><param><value>{}</value></param></params></methodResponse>"
    answer = "<struct><member><name>Status</name><value>Success</value></member><member><name>Value</name>"
    answer += f"<value>127.0.0.1:{server.server_address[1]}</value></member></struct>"
    plugin.write_text(f"#!/bin/sh\ncat <<'X'\n{body.format(answer)}\nX\n")
    plugin.chmod(0o755)
    from xmlrpc.client import ServerProxy

    monkeypatch.setattr(conversion, "service", lambda call, address: ServerProxy(f"http://{address}/"))
    monkeypatch.setattr(conversion, "_PAUSE", 0.01)
    host("VM.import_convert", "ESXServer", "u", "p", host.storage.ref, REMOTE)
    server.shutdown()
    ((credentials, job),) = asked
    assert credentials == {"Username": "u", "Password": "p"}
    assert job["Source"]["ServerType"] == 1
    assert job["SourceVmName"] == "legacy"
    assert job["ImportInfo"] == {"SRuuid": host.storage.uuid}


def test_a_job_names_its_source_whole() -> None:
    with pytest.raises(Failure, match="INVALID_VALUE"):
        conversion.job_of("Amiga", "sr", REMOTE)
    with pytest.raises(Failure, match="INVALID_VALUE"):
        conversion.job_of("default", "sr", {"hostname": "h"})
