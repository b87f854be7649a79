"""host: processors, ways to storage, and what is asked of it now and then."""

from __future__ import annotations

import re

import pytest

from kronos.api import updates
from kronos.api.host import processors, storage_access
from kronos.db.journal import Journal
from kronos.db.records import PIF, SM, VM, Driver_variant, Host_driver, Network
from kronos.system import hardware


@pytest.fixture
def xen(xapi, monkeypatch):
    """Commands that Xen's tools were given, on a host that runs it."""
    ran = []
    info = "release : 6.1\nxen_commandline : placeholder dom0_mem=1G sched-gran=core\n"
    xapi.machine.hypervisor.type = "XEN"
    for module in ("xen_console", "xen_info"):
        monkeypatch.setattr(f"kronos.hypervisor.{module}.run", lambda argv, **_: ran.append(argv) or info)
    return ran


def test_processors_sleep_as_deeply_as_xen_is_told(xapi, xen):
    xapi("host.set_max_cstate", xapi.host.ref, "1")
    xapi("host.set_max_cstate", xapi.host.ref, "1,0")
    assert xapi("host.get_max_cstate", xapi.host.ref) == "1,0"
    processors.resume(xapi.db, xapi.machine)
    xapi("host.set_max_cstate", xapi.host.ref, "")
    assert [argv[2:] for argv in xen] == [
        ["1", "unlimited"],
        ["1", "0"],
        ["1", "0"],
        ["unlimited", "unlimited"],
    ]


def test_a_state_is_a_number_that_xen_has(xapi, xen):
    assert xapi.refused("host.set_max_cstate", xapi.host.ref, "C1")[:2] == ["INVALID_VALUE", "max_cstate"]
    assert xapi.refused("host.set_max_cstate", xapi.host.ref, "2")[0] == "VALUE_NOT_SUPPORTED"
    assert xen == []


def test_without_xen_the_kernel_decides(xapi):
    assert xapi.refused("host.set_max_cstate", xapi.host.ref, "1")[0] == "OPERATION_NOT_ALLOWED"
    assert xapi("host.get_sched_gran", xapi.host.ref) == "cpu"


def test_what_xen_schedules_as_one_is_in_its_command_line(xapi, xen):
    assert xapi("host.get_sched_gran", xapi.host.ref) == "core"
    assert xapi.refused("host.set_sched_gran", xapi.host.ref, "cpu")[0] == "OPERATION_NOT_ALLOWED"


def test_only_policies_with_an_effect_are_taken(xapi):
    xapi("host.set_numa_affinity_policy", xapi.host.ref, "any")
    assert xapi("host.get_numa_affinity_policy", xapi.host.ref) == "any"
    assert (
        xapi.refused("host.set_numa_affinity_policy", xapi.host.ref, "best_effort")[0]
        == "VALUE_NOT_SUPPORTED"
    )


def test_the_hosts_screen_stays(xapi):
    assert xapi("host.enable_display", xapi.host.ref) == "enabled"
    assert xapi.refused("host.disable_display", xapi.host.ref) == ["FEATURE_RESTRICTED"]


def test_the_host_has_an_iscsi_name(xapi, system, put):
    file = put("etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.old\n", 0o600)

    xapi("host.set_iscsi_iqn", xapi.host.ref, "iqn.2026-01.example:a")

    assert file.read_text() == "InitiatorName=iqn.2026-01.example:a\n"
    assert xapi("host.get_iscsi_iqn", xapi.host.ref) == "iqn.2026-01.example:a"
    assert xapi("host.get_other_config", xapi.host.ref)["iscsi_iqn"] == "iqn.2026-01.example:a"


@pytest.mark.parametrize("name", ["", "a b", "a\nInitiatorAlias=x", "x" * 224])
def test_a_name_is_one_word(xapi, system, name):
    assert xapi.refused("host.set_iscsi_iqn", xapi.host.ref, name)[:2] == ["INVALID_VALUE", "value"]


def test_multipathing_is_noted_where_drivers_look(xapi):
    xapi("host.set_multipathing", xapi.host.ref, True)
    assert xapi("host.get_multipathing", xapi.host.ref) is True
    assert xapi("host.get_other_config", xapi.host.ref)["multipathing"] == "true"


def test_older_clients_set_both_in_other_config(xapi):
    xapi.db.derive(storage_access.follow_other_config)
    xapi("host.add_to_other_config", xapi.host.ref, "iscsi_iqn", "iqn.2026-01.example:b")
    xapi("host.add_to_other_config", xapi.host.ref, "multipathing", "true")
    assert (xapi.host.iscsi_iqn, xapi.host.multipathing) == ("iqn.2026-01.example:b", True)

    xapi("host.set_other_config", xapi.host.ref, {"iscsi_iqn": "no name", "multipathing": "perhaps"})
    assert (xapi.host.iscsi_iqn, xapi.host.multipathing) == ("iqn.2026-01.example:b", True)


def test_a_driver_says_whether_its_srs_can_cache(xapi):
    sr = xapi.sr()
    xapi.host.enabled = True
    assert xapi.refused("host.enable_local_storage_caching", xapi.host.ref, sr.ref) == ["HOST_NOT_DISABLED"]
    xapi.host.enabled = False
    running = xapi.db.create(VM, resident_on=xapi.host.ref, power_state="Running")
    assert xapi.refused("host.enable_local_storage_caching", xapi.host.ref, sr.ref) == [
        "HOST_IN_USE",
        xapi.host.ref,
        "vm",
        running.ref,
    ]
    xapi.db.delete(running)
    assert xapi.refused("host.enable_local_storage_caching", xapi.host.ref, sr.ref) == [
        "SR_OPERATION_NOT_SUPPORTED",
        sr.ref,
    ]
    assert xapi.refused("pool.enable_local_storage_caching", xapi.pool.ref) == [
        "HOSTS_FAILED_TO_ENABLE_CACHING",
        xapi.host.ref,
    ]

    driver = next(row for row in xapi.db.all(SM) if row.type == sr.type)
    driver.features = driver.features | {"SR_SUPPORTS_LOCAL_CACHING": 1}
    xapi("pool.enable_local_storage_caching", xapi.pool.ref)
    assert xapi.host.local_cache_sr == sr.ref and sr.local_cache_enabled

    xapi("pool.disable_local_storage_caching", xapi.pool.ref)
    assert xapi.host.local_cache_sr == "OpaqueRef:NULL" and not sr.local_cache_enabled


def test_a_host_is_not_forgotten_by_itself(xapi):
    assert xapi.refused("host.destroy", xapi.host.ref) == ["HOST_IS_LIVE", xapi.host.ref]


def test_threads_and_srs_are_told_of(xapi):
    sr = xapi.sr()
    assert "MainThread" in xapi("host.get_thread_diagnostics", xapi.host.ref)
    assert sr.uuid in xapi("host.get_sm_diagnostics", xapi.host.ref)
    assert xapi("host.ha_xapi_healthcheck") is True


def test_guidance_is_set_aside(xapi):
    xapi.host.pending_guidances = ("reboot_host",)
    xapi("host.emergency_clear_mandatory_guidance")
    assert xapi("host.get_pending_guidances", xapi.host.ref) == ()


def test_a_host_that_updates_want_rebooted_takes_no_vms_before(xapi, monkeypatch):
    monkeypatch.setattr(hardware, "boot_id", lambda: "boot")
    xapi.machine.keys.put("updated_boot", "boot")
    xapi("host.disable", xapi.host.ref)
    xapi.host.pending_guidances = ("reboot_host",)
    refusal = ["HOST_PENDING_MANDATORY_GUIDANCE_NOT_EMPTY", xapi.host.ref]
    assert xapi.refused("host.enable", xapi.host.ref) == refusal

    xapi.host.enabled = True  # as a daemon that starts would have it
    updates.resume(xapi.db, xapi.machine)
    assert not xapi.host.enabled

    xapi("host.emergency_clear_mandatory_guidance")
    xapi("host.enable", xapi.host.ref)
    assert xapi.host.enabled


def test_a_host_that_was_rebooted_after_updates_takes_vms(xapi, monkeypatch):
    monkeypatch.setattr(hardware, "boot_id", lambda: "second boot")
    xapi.machine.keys.put("updated_boot", "first boot")
    xapi.host.enabled = True
    xapi.host.pending_guidances = ("reboot_host", "restart_toolstack")
    updates.resume(xapi.db, xapi.machine)
    assert xapi.host.enabled and xapi.host.pending_guidances == ()


def test_a_network_without_an_interface_of_the_host_is_not_managements(xapi):
    network = xapi.db.create(Network, bridge="br0")
    assert xapi.refused("pool.management_reconfigure", network.ref) == [
        "PIF_NOT_PRESENT",
        xapi.host.ref,
        network.ref,
    ]
    pif = xapi.db.create(PIF, host=xapi.host.ref, network=network.ref, device="eth0")
    code = "PIF_HAS_NO_NETWORK_CONFIGURATION"
    assert xapi.refused("pool.management_reconfigure", network.ref) == [code, pif.ref]
    assert xapi.refused("host.local_management_reconfigure", "eth0") == ["NOT_IN_EMERGENCY_MODE"]

    xapi.db.write(pif, {"management": True, "ip_configuration_mode": "DHCP"})
    xapi("host.management_reconfigure", pif.ref)
    xapi("pool.management_reconfigure", network.ref)


def test_programs_that_are_logged_in_are_listed(xapi):
    xapi.raw("session.login_with_password", "root", "", "1.0", "XenCenter/8.2.3 (Windows)")
    found = xapi("host.get_tracked_user_agents", xapi.host.ref)
    assert found["XenCenter"] == "8.2.3"


def test_a_coordinator_is_not_sent_away(xapi):
    assert xapi.refused("pool.eject", xapi.host.ref)[0] == "INTERNAL_ERROR"


def test_how_long_the_disk_takes_is_told(xapi, tmp_path):
    assert xapi("host.get_diagnostic_timing_stats", xapi.host.ref) == {}
    xapi.db.journal = journal = Journal(tmp_path / "state.db")
    try:
        xapi.host.name_description = "written down"
        journal.wait(xapi.db.position)
        found = xapi("host.get_diagnostic_timing_stats", xapi.host.ref, True)
    finally:
        xapi.db.journal = None
        journal.close()
    assert list(found) == ["database write"]
    assert re.fullmatch(r"0\.\d{6} \[min = 0\.\d{6}, max = 0\.\d{6}, n = \d+\]", found["database write"])


@pytest.mark.parametrize("name", ["host.rescan_drivers", "Host_driver.rescan"])
def test_drivers_in_several_versions_are_not_this_hosts(xapi, name):
    came_along = xapi.db.create(Host_driver, host=xapi.host.ref, name="e1000e")
    xapi.db.create(Driver_variant, driver=came_along.ref, name="older")
    others = xapi.db.create(Host_driver, host="OpaqueRef:another", name="e1000e")
    kept = xapi.db.create(Driver_variant, driver=others.ref, name="older")
    xapi(name, xapi.host.ref)
    assert (xapi.db.all(Host_driver), xapi.db.all(Driver_variant)) == ([others], [kept])
    assert xapi.refused(name, "OpaqueRef:none")[0] == "HANDLE_INVALID"
