"""Transfers before any data moves: who may make one, which task tells of it, and what an archive may say of itself."""

from __future__ import annotations

import copy
import io
import socket

import pytest

from kronos.api.vm import exporting, firmware, importing
from kronos.background.inventory import storage as storage_inventory
from kronos.datamodel.errors import Failure
from kronos.datamodel.model import model
from kronos.datamodel.types import NULL
from kronos.db.records import VBD, VDI, VIF, VM, VTPM, Network, Secret, Session
from kronos.dispatch.call import Call, Origin
from kronos.dispatch.task import Task
from kronos.rules import packing, unpacking
from kronos.server.access import Access
from kronos.server.routing import Doors, Request
from kronos.server.streams import PlainStream
from kronos.server.transfers import Transfers
from kronos.transfer import value
from kronos.transfer.stream import Reader

ACTIONS = (
    "get_export_raw_vdi",
    "put_import_raw_vdi",
    "get_export",
    "put_import",
    "get_export_metadata",
    "put_import_metadata",
)


def asked(xapi, method: str, target: str, headers: dict[bytes, bytes] | None = None) -> bytes:
    """What a client hears that asks for a transfer and sends nothing."""
    doors = Doors()
    Transfers(Access(xapi.pipeline)).add_doors(doors)
    request = Request(method.encode(), target.encode(), headers or {}, Origin(address="192.0.2.1"), False)
    door = doors.find(request)
    assert door is not None
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.shutdown(socket.SHUT_WR)
        door.handle(request, PlainStream(theirs, b""))
        theirs.close()
        parts = []
        while data := ours.recv(65536):
            parts.append(data)
    return b"".join(parts)


def session_with(xapi, *permissions: str) -> Session:
    """A session of somebody who may do this alone."""
    return xapi.db.create(
        Session,
        this_host=xapi.host.ref,
        auth_user_sid="ann",
        rbac_permissions=permissions,
        is_local_superuser=False,
    )


@pytest.mark.parametrize("action", ACTIONS)
def test_each_transfer_asks_for_its_own_permission(xapi, action):
    facts = model().http_actions[action]
    others = [f"http/{each}" for each in ACTIONS if each != action]
    session, task = session_with(xapi, *others), xapi("task.create", "transfer", "")
    xapi.db.rows[task].session = session.ref
    target = f"{facts['uri']}?session_id={session.ref}&task_id={task}&vdi=x&ref=x&sr_id=x"
    assert asked(xapi, facts["method"], target).startswith(b"HTTP/1.1 403")
    assert xapi.db.rows[task].error_info[:2] == ("RBAC_PERMISSION_DENIED", f"http/{action}")
    allowed = session_with(xapi, f"http/{action}")
    answer = asked(xapi, facts["method"], f"{facts['uri']}/?session_id={allowed.ref}&vdi=x&ref=x&sr_id=x")
    assert b"RBAC" not in answer, "let in, to be told that there is no x"


def test_nobody_is_let_in_without_a_session(xapi):
    assert asked(xapi, "GET", "/export?ref=x").startswith(b"HTTP/1.1 401")
    assert asked(xapi, "GET", "/export?ref=x&session_id=OpaqueRef:wrong").startswith(b"HTTP/1.1 401")


def test_another_users_task_is_not_taken(xapi):
    task = xapi("task.create", "mine", "")
    session = session_with(xapi, "http/get_export")
    answer = asked(xapi, "GET", f"/export?ref=x&session_id={session.ref}&task_id={task}")
    assert answer.startswith(b"HTTP/1.1 403") and b"task.destroy/any" in answer
    assert xapi.db.rows[task].status == "pending"


def test_a_task_that_has_ended_is_not_taken_again(xapi):
    task = xapi("task.create", "mine", "")
    xapi("task.set_status", task, "success")
    answer = asked(xapi, "GET", f"/export?ref=x&session_id={xapi.session}&task_id={task}")
    assert b"OPERATION_NOT_ALLOWED" in answer and xapi.db.rows[task].status == "success"


def test_a_transfer_without_a_task_gets_one(xapi):
    before = set(xapi("task.get_all"))
    assert b"HANDLE_INVALID" in asked(xapi, "GET", f"/export?ref=OpaqueRef:x&session_id={xapi.session}")
    (task,) = set(xapi("task.get_all")) - before
    row = xapi("task.get_record", task)
    assert (row["name_label"], row["status"]) == ("VM.export", "failure")
    assert row["error_info"] == ("HANDLE_INVALID", "VM", "OpaqueRef:x")


def test_a_probe_changes_nothing_and_makes_no_task(xapi):
    vdi, before = xapi.vdi(xapi.sr()), set(xapi("task.get_all"))
    target = f"/import_raw_vdi/?vdi={vdi.ref}&session_id={xapi.session}"
    assert asked(xapi, "PUT", target, {b"content-length": b"0"}).startswith(b"HTTP/1.1 200")
    assert set(xapi("task.get_all")) == before


def test_a_vhd_of_more_than_its_format_holds_is_refused(xapi):
    vdi = xapi.vdi(xapi.sr(), size=2041 << 30)
    answer = asked(xapi, "GET", f"/export_raw_vdi?vdi={vdi.ref}&format=vhd&session_id={xapi.session}")
    assert b"VDI_TOO_LARGE" in answer


def test_iso_libraries_take_no_vm(xapi):
    sr = xapi.sr()
    sr.content_type = "iso"
    answer = asked(xapi, "PUT", f"/import?sr_id={sr.ref}&session_id={xapi.session}")
    assert answer.startswith(b"HTTP/1.1 400") and b"SR_OPERATION_NOT_SUPPORTED" in answer


def test_the_pool_needs_a_default_sr_where_none_is_named(xapi):
    assert b"DEFAULT_SR_NOT_FOUND" in asked(xapi, "PUT", f"/import?session_id={xapi.session}")


# --- descriptions ----------------------------------------------------------------------------------------------------


@pytest.fixture
def vm(xapi) -> VM:
    """A VM with a disk, a drive with a disc of an SR that holds those, and an interface."""
    vm = xapi.vm(xapi.vdi(xapi.sr()))
    library = xapi.sr()
    library.content_type = "iso"
    xapi.db.create(VBD, VM=vm.ref, VDI=xapi.vdi(library).ref, userdevice="3", mode="RO", type="CD")
    xapi.db.create(VIF, VM=vm.ref, network=xapi.net().ref, device="0", MAC="02:00:00:00:00:01")
    return vm


def described(xapi, vm: VM, **options: bool) -> dict[str, object]:
    packed = packing.pack(xapi.db, [vm])
    found = value.parse(packing.describe(packed, xapi.host, date="today", **options))
    assert isinstance(found, dict)
    return found


def test_what_was_packed_is_understood(xapi, vm):
    found = unpacking.read(described(xapi, vm))
    (read,) = unpacking.virtual_machines(found)
    assert read["name_label"] == "vm" and read["uuid"] == vm.uuid
    (disk,) = unpacking.streamed_disks(found)
    assert [id for id, _ in packing.pack(xapi.db, [vm]).disks] == [disk.id], "the disc does not go along"


def test_a_tpm_goes_along_with_what_is_in_it(xapi, vm):
    tpm = firmware.add_tpm(xapi.db, vm, unique=True, contents="c2VjcmV0")
    description = described(xapi, vm)
    (shown,) = (each["snapshot"] for each in description["objects"] if each["class"] == "VTPM")
    assert shown["vTPM'_content"] == "c2VjcmV0" and tpm.contents not in str(description)
    found = unpacking.read(description)
    (read,), (its_vm,) = found.of("VTPM"), found.of("VM")
    assert (read["VM"], read["uuid"], read["is_unique"]) == (its_vm.id, tpm.uuid, True)
    shown["vTPM'_content"] = "not base64!"
    with pytest.raises(Failure, match="base64"):
        unpacking.read(description)
    assert packing.pack(xapi.db, [vm], left_out=frozenset({"vtpm"})).secrets == {}


@pytest.mark.parametrize("restore", [True, False])
def test_an_imported_vm_has_its_tpm(host, restore):
    vm = host.halted_vm()
    tpm = firmware.add_tpm(host.db, vm, unique=True, contents="c2VjcmV0")
    archive, uuids = io.BytesIO(exported(host, vm)), (vm.uuid, tpm.uuid)
    host("VM.destroy", vm.ref)
    call = a_call(host)
    options = importing.Options(restore=restore, metadata=True)
    (ref,) = importing.import_archive(call, Reader(Source(archive)), None, options)
    row = host.db.get(VM, ref)
    made = host.db.get(VTPM, row.VTPMs[0])
    assert host("VTPM.get_contents", made.ref) == "c2VjcmV0" and made.is_unique
    assert ((row.uuid, made.uuid) == uuids) is restore
    assert [secret.value for secret in host.db.all(Secret)] == ["c2VjcmV0"]


class Source:
    """A file as what sends an archive."""

    def __init__(self, file: io.BytesIO) -> None:
        self.recv_into = file.readinto


def exported(xapi, vm: VM) -> bytes:
    return exporting.metadata(a_call(xapi), [vm], snapshots=False, left_out=frozenset())


def a_call(xapi) -> Call:
    session = xapi.db.get(Session, xapi.session)
    message = model().messages["VM.import"]
    task = Task(xapi.db, "import")
    return Call(xapi.db, xapi.machine, xapi.pipeline, Origin(local=True), message, session, task)


def test_references_to_what_is_not_in_the_archive_are_gone(xapi, vm):
    vm.suspend_SR = xapi.sr().ref
    text = str(described(xapi, vm))
    assert "OpaqueRef:" not in text.replace(NULL, "")


def test_what_concerns_this_host_alone_stays_here(xapi, vm):
    xapi.db.write(vm, {"resident_on": xapi.host.ref})
    xapi.host.license_params = {"secret": "key"}
    assert "secret" not in str(described(xapi, vm))


@pytest.mark.parametrize(
    ("major", "minor", "export", "code"),
    [("1", "20", "2", ""), ("26", "99", "2", ""), ("27", "0", "2", "IMPORT_INCOMPATIBLE_VERSION"),
     ("1", "0", "0", "IMPORT_INCOMPATIBLE_VERSION"), ("x", "0", "2", "IMPORT_ERROR")],
)  # fmt: skip
def test_archives_of_known_versions_are_taken(xapi, vm, major, minor, export, code):
    description = described(xapi, vm)
    description["version"] |= {"xapi_major": major, "xapi_minor": minor, "export_vsn": export}
    if not code:
        assert unpacking.read(description).objects
        return
    with pytest.raises(Failure) as failure:
        unpacking.read(description)
    assert failure.value.code == code


def changed(description: dict, cls: str, **fields: object) -> dict:
    """The description with other fields in its objects of a class."""
    found = copy.deepcopy(description)
    for each in found["objects"]:
        if each["class"] == cls:
            each["snapshot"] |= fields
    return found


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        ("VM", {"memory_static_max": "much"}),
        ("VM", {"domain_type": "toaster"}),
        ("VM", {"other_config": ["a"]}),
        ("VDI", {"virtual_size": "9" * 30}),
        ("VBD", {"type": "Tape"}),
    ],
)
def test_fields_of_wrong_types_are_refused_by_name(xapi, vm, cls, fields):
    with pytest.raises(Failure) as failure:
        unpacking.read(changed(described(xapi, vm), cls, **fields))
    assert failure.value.code == "IMPORT_ERROR" and next(iter(fields)) in failure.value.params[0]


def test_fields_that_are_not_needed_may_say_anything(xapi, vm):
    description = changed(described(xapi, vm), "VM", allowed_operations=["fly"], new_field={"a": ["b"]})
    description["objects"].append({"class": "Spaceship", "id": "Ref:99", "snapshot": {}})
    assert unpacking.read(description).of("VM")


def test_an_id_is_used_once_and_is_no_path(xapi, vm):
    for id in ("Ref:0", "../x", "a/b", ""):
        description = described(xapi, vm)
        description["objects"].append({"class": "VM", "id": id, "snapshot": {}})
        with pytest.raises(Failure, match="IMPORT_ERROR"):
            unpacking.read(description)


def test_nobody_imports_a_control_domain_or_a_default_template(xapi, vm):
    description = unpacking.read(changed(described(xapi, vm), "VM", is_control_domain=True))
    assert unpacking.virtual_machines(description) == []
    other = {"default_template": "true", "owner": "ann", "mac_seed": "old"}
    description = unpacking.read(
        changed(described(xapi, vm), "VM", is_default_template=True, other_config=other)
    )
    (read,) = unpacking.virtual_machines(description)
    fields = unpacking.vm_fields(read, restore=False, mac_seed="new", generation_id="", hosts={})
    assert not fields["is_default_template"] and fields["other_config"] == {"owner": "ann", "mac_seed": "new"}


def test_vms_from_before_ballooning_get_all_their_memory(xapi, vm):
    description = changed(described(xapi, vm), "VM", memory_static_max="4096", memory_dynamic_max="1")
    del next(each for each in description["objects"] if each["class"] == "VM")["snapshot"]["parent"]
    (read,) = unpacking.virtual_machines(unpacking.read(description))
    assert (read["memory_dynamic_min"], read["memory_dynamic_max"]) == (4096, 4096)


# --- making ----------------------------------------------------------------------------------------------------------


def checked(xapi, description: dict, **options: bool) -> None:
    importing._check(a_call(xapi), unpacking.read(description), importing.Options(**options))


def test_saved_memory_is_left_only_where_that_is_asked_for(xapi, vm):
    description = changed(described(xapi, vm), "VM", power_state="Suspended")
    with pytest.raises(Failure, match="suspended"):
        checked(xapi, description)
    checked(xapi, description, force=True)


def test_a_vm_that_is_here_is_replaced_by_a_newer_one_alone(xapi, vm):
    description = described(xapi, vm)
    with pytest.raises(Failure) as failure:
        checked(xapi, description, restore=True)
    assert failure.value.description == ["VM_TO_IMPORT_IS_NOT_NEWER_VERSION", vm.ref, "0", "0"]
    checked(xapi, changed(description, "VM", version="1"), restore=True)
    vm.power_state = "Running"
    with pytest.raises(Failure) as failure:
        checked(xapi, changed(description, "VM", version="1"), restore=True)
    assert failure.value.description == ["VM_BAD_POWER_STATE", vm.ref, "halted", "running"]


def test_two_vms_never_have_one_seed(xapi, vm):
    description = changed(described(xapi, vm), "VM", uuid="12345678-1234-1234-1234-123456789abc")
    with pytest.raises(Failure) as failure:
        checked(xapi, description, restore=True)
    assert failure.value.description == ["DUPLICATE_MAC_SEED", "seed"]
    checked(xapi, description)


def test_what_a_crash_left_of_an_import_goes_at_the_next_start(xapi, vm):
    made, network = xapi.vdi(xapi.sr()), xapi.net()
    half = xapi.vm(made)
    facts = {"kind": "import", "vms": half.uuid, "vdis": made.uuid, "networks": network.uuid}
    with pytest.raises(RuntimeError), xapi.machine.intents.declared("import-x", facts):
        (xapi.machine.intents.directory / "copy").write_bytes(
            (xapi.machine.intents.directory / "import-x").read_bytes()
        )
        raise RuntimeError("killed")
    (xapi.machine.intents.directory / "copy").rename(xapi.machine.intents.directory / "import-x")
    storage_inventory.settle_disks(xapi.pipeline)
    assert half.ref not in xapi.db.rows and vm.ref in xapi.db.rows
    assert xapi.db.find(VDI, made.ref) is None and xapi.db.find(Network, network.ref) is None
    assert xapi.machine.intents.left() == {}
