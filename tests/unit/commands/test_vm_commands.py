"""Commands on VMs: whom they select, what they call, what they say."""

from __future__ import annotations

import pytest

from kronos.commands.protocol import NULL
from kronos.datamodel.errors import Failure


@pytest.mark.parametrize("selector", ["vm=web", "vm=VM-1", "uuid=VM-1", "name-label=web"])
def test_a_vm_is_selected_by_name_or_uuid(xe, api, vm, selector):
    api.add("VM", name_label="other")
    xe("vm-start", selector)
    assert xe.status == 0, xe.err
    assert api.called("VM.start") == [(vm, False, False)]


def test_no_matching_vm_is_an_error(xe, vm):
    xe("vm-start", "vm=none")
    assert xe.err == "Error: No matching VMs found\n"
    assert xe.status == 1


def test_several_vms_need_multiple(xe, api, vm):
    second = api.add("VM", name_label="web")
    xe("vm-start", "vm=web")
    assert "--multiple required" in xe.err
    assert not api.called("VM.start")
    xe("vm-start", "vm=web", "--multiple")
    assert [call[0] for call in api.called("VM.start")] == [vm, second]


def test_no_selector_means_every_vm_but_templates_and_control_domains(xe, api, vm):
    api.add("VM", name_label="dom0", is_control_domain=True)
    api.add("VM", name_label="template", is_a_template=True)
    xe("vm-pause")
    assert api.called("VM.pause") == [(vm,)]


def test_one_failure_of_several_does_not_spare_the_rest(xe, api, vm):
    second = api.add("VM", name_label="web")

    def start(ref, paused, force):
        if ref == vm:
            raise Failure("VM_BAD_POWER_STATE", ref, "halted", "running")

    api.answers["VM.start"] = start
    shown = xe("vm-start", "vm=web", "--multiple")
    assert shown == (
        "operation failed on VM-1: The VM is not in a power state that allows this.\n"
        "vm: VM-1 (web)\nexpected: halted\nactual: running\n"
    )
    assert xe.status == 1
    assert api.called("VM.start")[-1][0] == second


def test_a_failure_is_told_with_names_for_references(xe, api, vm):
    def start(ref, paused, force):
        raise Failure("VM_BAD_POWER_STATE", ref, "halted", "running")

    api.answers["VM.start"] = start
    xe("vm-start", "vm=web")
    assert xe.err == (
        "The VM is not in a power state that allows this.\nvm: VM-1 (web)\nexpected: halted\nactual: running\n"
    )
    assert xe.status == 1


def test_an_error_without_a_sentence_is_told_as_code_and_parameters(xe, api, vm):
    def start(ref, paused, force):
        raise Failure("SR_BACKEND_FAILURE_73", "", "NFS mount error", "")

    api.answers["VM.start"] = start
    xe("vm-start", "vm=web")
    assert xe.terminal.failures == [("SR_BACKEND_FAILURE_73", ["", "NFS mount error", ""])]


def test_no_host_is_explained_host_by_host(xe, api, vm):
    def refuse(*_):
        raise Failure("NO_HOSTS_AVAILABLE")

    def disabled(vm, host):
        raise Failure("HOST_DISABLED", host)

    api.answers |= {"VM.start": refuse, "VM.assert_can_boot_here": disabled}
    shown = xe("vm-start", "vm=web")
    assert "alpha    : Cannot start here [Host disabled (use 'xe host-enable' to re-enable)]" in shown
    assert xe.err.startswith("No host can take this VM now.")


def test_start_on_a_host_and_paused(xe, api, vm):
    host = next(iter(api.objects["host"]))
    xe("vm-start", "vm=web", "on=alpha", "paused=true")
    assert api.called("VM.start_on") == [(vm, host, True, False)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("vm-shutdown",), "VM.clean_shutdown"),
        (("vm-shutdown", "--force"), "VM.hard_shutdown"),
        (("vm-reboot",), "VM.clean_reboot"),
        (("vm-reboot", "force=true"), "VM.hard_reboot"),
        (("vm-suspend",), "VM.suspend"),
    ],
)
def test_power_commands(xe, api, vm, words, message):
    xe(*words, "vm=web")
    assert api.called(message) == [(vm,)]


def test_progress_is_drawn_on_standard_error(xe, vm):
    xe("vm-start", "vm=web", "--progress")
    assert "50%" in xe.err
    assert xe.status == 0


def test_progress_can_be_said_no_to(xe, vm):
    xe("vm-start", "vm=web", "progress=false")
    assert xe.err == ""
    xe("vm-start", "vm=web", "progress=perhaps")
    assert xe.err.startswith("Error: Failed to parse parameter 'progress'")


def test_several_hosts_where_one_is_wanted(xe, api):
    api.add("host", name_label="beta")
    xe("host-disable")
    assert xe.err == "Error: Multiple matching hosts found. --multiple required to complete the operation\n"
    assert not api.called("host.disable")


def test_messages_of_the_vm_are_shown_after_an_operation(xe, api, vm):
    urgent = {"priority": 2, "timestamp": "20260101T00:00:00Z", "name": "VM_CRASHED"}
    casual = {"priority": 5, "timestamp": "20260101T00:00:00Z", "name": "VM_STARTED"}
    api.answers["message.get"] = lambda *_: {"OpaqueRef:1": urgent, "OpaqueRef:2": casual}
    xe("vm-start", "vm=web")
    assert xe.err == "Message: time=20260101T00:00:00Z priority=2 name='VM_CRASHED'\n"


def test_a_clone_prints_its_uuid_and_takes_a_description(xe, api, vm):
    made = api.add("VM", name_label="copy")
    api.answers["VM.clone"] = lambda *_: made
    shown = xe("vm-clone", "vm=web", "new-name-label=copy", "new-name-description=text")
    assert shown == "VM-2\n"
    assert api.called("VM.clone") == [(vm, "copy")]
    assert api.objects["VM"][made]["name_description"] == "text"


def test_a_snapshot_can_leave_disks_out(xe, api, vm):
    disk = api.add("VDI")
    api.answers["VM.snapshot"] = lambda *_: vm
    xe("vm-snapshot", "vm=web", "new-name-label=s", "ignore-vdi-uuids=VDI-1")
    assert api.called("VM.snapshot") == [(vm, "s", (disk,))]


def test_only_a_snapshot_is_reverted_to(xe, api, vm):
    xe("snapshot-revert", "snapshot-uuid=VM-1")
    assert "VM-1 is not a VM snapshot" in xe.err
    snapshot = api.add("VM", is_a_snapshot=True)
    xe("snapshot-revert", "snapshot-uuid=VM-2")
    assert api.called("VM.revert") == [(snapshot,)]


@pytest.fixture
def template(api):
    disks = '<provision><disk device="0" size="1073741824" sr="" bootable="true" type="system"/></provision>'
    return api.add("VM", name_label="Debian", is_a_template=True, other_config={"disks": disks})


@pytest.fixture
def cloned(api, template):
    made = api.add("VM", name_label="new", other_config=dict(api.objects["VM"][template]["other_config"]))
    api.answers |= {"VM.clone": lambda *_: made, "VM.copy": lambda *_: made}
    return made


@pytest.mark.parametrize("name", ["template=Debian", "template-name-label=Debian", "template-uuid=VM-1"])
def test_install_clones_the_template_places_its_disks_and_provisions(xe, api, template, cloned, name):
    assert xe("vm-install", name, "new-name-label=new") == "VM-2\n"
    assert api.called("VM.clone") == [(template, "new")]
    assert 'sr="SR-1"' in api.objects["VM"][cloned]["other_config"]["disks"]
    assert [call[0] for call in api.calls].index("VM.add_to_other_config") < [c[0] for c in api.calls].index(
        "VM.provision"
    )
    assert api.called("VM.set_name_description") == [(cloned, "Installed via xe CLI")]


def test_install_on_another_sr_copies(xe, api, template, cloned):
    sr = api.add("SR", name_label="fast")
    xe("vm-install", "template=Debian", "new-name-label=new", "sr-name-label=fast")
    assert api.called("VM.copy") == [(template, "new", sr)]
    assert 'sr="SR-2"' in api.objects["VM"][cloned]["other_config"]["disks"]
    assert api.called("VM.set_suspend_SR") == [(cloned, sr)]


def test_install_without_a_default_sr_says_what_is_missing(xe, api, template, cloned):
    pool = next(iter(api.objects["pool"]))
    api.objects["pool"][pool]["default_SR"] = NULL
    xe("vm-install", "template=Debian", "new-name-label=new")
    assert "Failed to find a valid default SR for the Pool" in xe.err
    assert not api.called("VM.clone")


def test_a_failed_installation_leaves_no_vm(xe, api, template, cloned):
    def refuse(vm):
        raise Failure("PROVISION_FAILED_OUT_OF_SPACE")

    api.answers["VM.provision"] = refuse
    xe("vm-install", "template=Debian", "new-name-label=new")
    assert cloned not in api.objects["VM"]
    assert xe.status == 1


def test_install_follows_the_recommendation_of_a_vendor_device(xe, api, template, cloned):
    api.objects["VM"][template]["recommendations"] = (
        '<restrictions><restriction field="has-vendor-device" value="true"/></restrictions>'
    )
    xe("vm-install", "template=Debian", "new-name-label=new")
    assert api.called("VM.set_has_vendor_device") == [(cloned, True)]


def test_only_templates_are_installed_from(xe, api, vm):
    xe("vm-install", "template-uuid=VM-1", "new-name-label=new")
    assert xe.err == "Error: Can only install from templates\n"


@pytest.fixture
def disks(api, vm):
    """A disk that belongs to the VM, and one that is only lent to it."""
    own, lent = api.add("VDI", name_label="own"), api.add("VDI", name_label="lent")
    vbds = (
        api.add("VBD", VM=vm, VDI=own, userdevice="0", type="Disk", other_config={"owner": ""}),
        api.add("VBD", VM=vm, VDI=lent, userdevice="1", type="Disk"),
    )
    api.objects["VM"][vm]["VBDs"] = vbds
    return own, lent


def test_uninstall_asks_first(xe, api, vm, disks):
    shown = xe("vm-uninstall", "vm=web")
    assert "VM : VM-1 (web)\nVDI: VDI-1 (own)\nType 'yes' to continue\nAborted (you typed: 'no')\n" in shown
    assert vm in api.objects["VM"]


def test_uninstall_destroys_the_vm_and_its_own_disks(xe, api, vm, disks):
    xe.terminal.typed = "yes"
    xe("vm-uninstall", "vm=web")
    assert vm not in api.objects["VM"]
    assert list(api.objects["VDI"]) == [disks[1]]


def test_uninstall_with_force_stops_a_running_vm_without_asking(xe, api, vm, disks):
    api.objects["VM"][vm]["power_state"] = "Running"
    assert "All objects destroyed" in xe("vm-uninstall", "vm=web", "--force")
    assert api.called("VM.hard_shutdown") == [(vm,)]


def test_disks_of_a_vm_are_shown_with_their_vdis(xe, api, vm, disks):
    shown = xe("vm-disk-list", "vm=web", "vbd-params=userdevice", "vdi-params=name-label")
    assert shown.startswith(
        "Disk 0 VBD:\nuserdevice ( RW)    : 0\n\n\nDisk 0 VDI:\nname-label ( RW)    : own\n"
    )


def test_minimal_disk_list_without_vbds_is_the_vdis(xe, api, vm, disks):
    shown = xe("vm-disk-list", "vm=web", "vbd-params=", "--minimal")
    assert shown == "VDI-2,VDI-1\n"


def test_a_disk_is_added_on_the_default_sr_and_owned(xe, api, vm):
    xe("vm-disk-add", "vm=web", "disk-size=1GiB", "device=autodetect")
    (vdi,) = api.called("VDI.create")[0]
    (vbd,) = api.called("VBD.create")[0]
    assert (vdi["virtual_size"], vdi["sm_config"]) == (1 << 30, {"vmhint": "VM-1"})
    assert (vbd["userdevice"], vbd["other_config"]) == ("autodetect", {"owner": ""})
    assert xe.status == 0


def test_a_disk_whose_vbd_is_refused_is_not_left_behind(xe, api, vm):
    def refuse(record):
        raise Failure("DEVICE_ALREADY_EXISTS", "0")

    api.answers["VBD.create"] = refuse
    xe("vm-disk-add", "vm=web", "disk-size=1GiB", "device=0")
    assert api.objects["VDI"] == {}
    assert xe.status == 1


def test_a_cd_is_inserted_by_its_name(xe, api, vm):
    isos = api.add("SR", content_type="iso")
    image = api.add("VDI", name_label="debian.iso", SR=isos)
    drive = api.add("VBD", VM=vm, type="CD", empty=True)
    api.objects["VM"][vm]["VBDs"] = (drive,)
    xe("vm-cd-insert", "vm=web", "cd-name=debian.iso")
    assert api.called("VBD.insert") == [(drive, image)]


def test_a_vm_without_an_empty_drive_takes_no_cd(xe, api, vm):
    api.add("VDI", name_label="debian.iso", SR=api.add("SR", content_type="iso"))
    xe("vm-cd-insert", "vm=web", "cd-name=debian.iso")
    assert xe.err == "The VM has no empty CD drive.\nvm: VM-1 (web)\n"


def test_a_vbd_is_created_with_the_names_of_either_case(xe, api, vm):
    api.add("VDI")
    words = ("vm-uuid=VM-1", "vdi-uuid=VDI-1", "device=0", "mode=ro", "type=cd")
    assert xe("vbd-create", *words) == "VBD-1\n"
    (made,) = api.called("VBD.create")[0]
    assert (made["mode"], made["type"], made["empty"]) == ("RO", "CD", False)


def test_an_empty_disk_is_refused(xe, api, vm):
    xe("vbd-create", "vm-uuid=VM-1", "device=0")
    assert xe.err == "Error: Empty VBDs can only be made for type=CD\n"


def test_a_random_mac_is_local_and_unicast(xe, api, vm):
    xe("vif-create", "vm-uuid=VM-1", "network-uuid=network-1", "device=0", "mac=random")
    (made,) = api.called("VIF.create")[0]
    assert int(made["MAC"][:2], 16) & 3 == 2
    assert made["MTU"] == 1500


def test_memory_takes_sizes_with_units(xe, api, vm):
    xe(
        "vm-memory-limits-set",
        "vm=web",
        "static-min=1g",
        "static-max=2GiB",
        "dynamic-min=1024M",
        "dynamic-max=2gb",
    )
    assert api.called("VM.set_memory_limits") == [(vm, 1 << 30, 2 << 30, 1 << 30, 2 << 30)]


def test_a_vm_is_migrated_within_the_pool(xe, api, vm):
    host = next(iter(api.objects["host"]))
    xe("vm-migrate", "vm=web", "host=alpha", "live=true")
    options = {"force": "false", "live": "true", "copy": "false"}
    assert api.called("VM.pool_migrate") == [(vm, host, options)]


def test_a_vm_is_migrated_to_another_pool_with_its_disks(xe, api, vm, disks):
    there = api.elsewhere
    host = there.add("host", name_label="beta", hostname="beta")
    sr = there.add("SR", content_type="user", physical_size=100)
    there.add("PBD", host=host, SR=sr, currently_attached=True)
    network = there.add("network", name_label="lan")
    there.add("PIF", host=host, network=network, management=True)
    there.answers["host.migrate_receive"] = lambda *_: {"token": "1"}
    words = ("remote-master=beta", "remote-username=root", "remote-password=x")
    shown = xe("vm-migrate", "vm=web", *words)
    assert xe.status == 0, xe.err
    assert "VDI VDI-1 -> SR SR-1" in shown
    ref, token, live, vdis, *_ = api.called("VM.migrate_send")[0]
    assert (ref, token, live, vdis) == (vm, {"token": "1"}, True, dict.fromkeys(disks, sr))


def test_the_console_is_joined_where_the_vm_runs(xe, api, vm):
    host = next(iter(api.objects["host"]))
    api.objects["VM"][vm]["resident_on"] = host
    console = api.add("console", VM=vm, protocol="vt100", location="https://192.0.2.1/console?uuid=c")
    api.objects["VM"][vm]["consoles"] = (console,)
    xe("console", "vm=web")
    assert xe.terminal.moved == [("connect", "", "/console?uuid=c&session_id=OpaqueRef%3Asession")]


def test_a_vm_without_a_text_console_says_so(xe, vm):
    xe("console", "vm=web")
    assert xe.err == "No text console available\n"
    assert xe.status == 1
