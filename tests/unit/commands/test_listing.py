"""<class>-list and the parameter commands, character by character as scripts expect them."""

from __future__ import annotations

import pytest

from kronos.commands import facts, listing
from kronos.datamodel.errors import Failure


def test_a_list_shows_each_record_as_a_block(xe, vm):
    assert xe("vm-list") == (
        "uuid ( RO)           : VM-1\n     name-label ( RW): web\n    power-state ( RO): halted\n\n\n"
    )
    assert xe.status == 0


def test_a_list_leaves_templates_and_other_classes_of_vm_to_their_own_lists(xe, api, vm):
    api.add("VM", name_label="Debian", is_a_template=True)
    api.add("VM", name_label="snap", is_a_template=True, is_a_snapshot=True)
    assert xe("vm-list", "--minimal") == "VM-1\n"
    assert xe("template-list", "--minimal") == "VM-2\n"
    assert xe("snapshot-list", "--minimal") == "VM-3\n"


def test_minimal_prints_the_first_field_asked_for_with_commas_escaped(xe, api):
    api.add("VM", name_label="a,b")
    api.add("VM", name_label="c\\d")
    assert xe("vm-list", "params=name-label", "--minimal") == "a\\,b,c\\\\d\n"


def test_minimal_of_an_empty_list_is_an_empty_line(xe):
    assert xe("vm-list", "--minimal") == "\n"


def test_params_all_shows_every_field_that_is_not_hidden(xe, vm):
    shown = xe("vm-list", "params=all")
    names = [line.split(" (")[0].strip() for line in shown.splitlines() if " (" in line]
    assert names == [field.name for field in facts.record_fields("vm").values() if not field.hidden]


def test_expensive_fields_of_a_list_are_not_computed(xe, api, vm):
    assert "possible-hosts ( RO): <expensive field>" in xe("vm-list", "params=all")
    assert not api.called("VM.get_possible_hosts")


def test_param_list_computes_expensive_fields(xe, api, vm):
    host = next(iter(api.objects["host"]))
    api.answers["VM.get_possible_hosts"] = lambda vm: (host,)
    assert "possible-hosts ( RO): host-1\n" in xe("vm-param-list", "uuid=VM-1")


def test_what_the_server_cannot_tell_does_not_spoil_the_rest(xe, api):
    def refuse(*_):
        raise Failure("NOT_IMPLEMENTED", "pool.get_license_state")

    api.answers["pool.get_license_state"] = refuse
    shown = xe("pool-param-list", "uuid=pool-1")
    assert "license-state ( RO): <unknown>" in shown
    assert xe.status == 0


def test_metrics_are_read_together(xe, api, vm):
    api.objects["VM"][vm]["metrics"] = api.add("VM_metrics", memory_actual=1 << 30, VCPUs_number=2)
    shown = xe("vm-list", "params=memory-actual,VCPUs-number")
    assert "memory-actual ( RO)    : 1073741824\n" in shown
    assert [call[0] for call in api.calls] == ["VM.get_all_records", "VM_metrics.get_record"]


def test_markers_tell_values_sets_maps_and_what_can_be_written(xe, vm):
    shown = xe("vm-param-list", "uuid=VM-1")
    for expected in (
        "name-label ( RW):",
        "power-state ( RO):",
        "tags (SRW):",
        "allowed-operations (SRO):",
        "other-config (MRW): folder: /a",
        "os-version (MRO): <not in database>",
        "ha-always-run ( RW) [DEPRECATED]: false",
    ):
        assert expected in shown


def test_references_are_shown_as_uuids_and_names(xe, api, vm):
    network = next(iter(api.objects["network"]))
    api.add("VIF", VM=vm, network=network, device="0")
    shown = xe("vif-param-list", "uuid=VIF-1")
    assert "vm-uuid ( RO): VM-1" in shown
    assert "network-name-label ( RO): Pool-wide network" in shown


def test_a_reference_to_nothing_is_not_in_the_database(xe, api):
    api.add("VBD", VM="OpaqueRef:gone", VDI="OpaqueRef:NULL", empty=True)
    shown = xe("vbd-param-list", "uuid=VBD-1")
    assert "vm-uuid ( RO): <not in database>" in shown
    assert "vdi-name-label ( RO): <EMPTY>" in shown


def test_many_references_are_followed_with_one_call_a_class(xe, api):
    for _ in range(40):
        api.add("VBD", VM=api.add("VM"), VDI="OpaqueRef:NULL")
    xe("vbd-list")
    assert [call[0] for call in api.calls] == ["VBD.get_all_records", "VM.get_all_records"]


def test_a_list_by_uuid_reads_one_record(xe, api, vm):
    for _ in range(20):
        api.add("VM")
    assert xe("vm-list", "uuid=VM-1", "--minimal") == "VM-1\n"
    assert [call[0] for call in api.calls] == ["VM.get_by_uuid", "VM.get_record"]


def test_an_unknown_uuid_lists_nothing(xe):
    assert xe("vm-list", "uuid=none") == ""
    assert xe.status == 0


def test_filters_compare_whole_values(xe, api, vm):
    api.add("VM", name_label="web2", power_state="Running")
    assert xe("vm-list", "name-label=web", "--minimal") == "VM-1\n"
    assert xe("vm-list", "power-state=running", "--minimal") == "VM-2\n"
    assert xe("vm-list", "name-label=we", "--minimal") == "\n"


@pytest.mark.parametrize("key", ["other-config:folder", "other-config-folder"])
def test_filters_look_into_maps(xe, api, vm, key):
    api.add("VM", other_config={"folder": "/b"})
    assert xe("vm-list", f"{key}=/a", "--minimal") == "VM-1\n"


def test_filters_look_into_sets(xe, api, vm):
    api.add("VM", tags=("red", "green"))
    assert xe("vm-list", "tags:contains=red", "--minimal") == "VM-2\n"


def test_mac_addresses_are_compared_in_any_case(xe, api):
    api.add("VIF", MAC="aa:bb:cc:00:11:22")
    assert xe("vif-list", "MAC=AA:BB:CC:00:11:22", "--minimal") == "VIF-1\n"


def test_an_unknown_field_is_an_error(xe, vm):
    xe("vm-list", "nonsense=1")
    assert xe.err == "Error: Unknown field 'nonsense'\n"
    assert xe.status == 1


def test_param_get_prints_one_value_and_reads_no_more(xe, api, vm):
    assert xe("vm-param-get", "uuid=VM-1", "param-name=name-label") == "web\n"
    assert [call[0] for call in api.calls] == ["VM.get_by_uuid", "VM.get_name_label"]


def test_param_get_prints_one_key_of_a_map(xe, vm):
    assert xe("vm-param-get", "uuid=VM-1", "param-name=other-config", "param-key=folder") == "/a\n"


def test_param_get_of_a_missing_key_is_an_error(xe, vm):
    xe("vm-param-get", "uuid=VM-1", "param-name=other-config", "param-key=none")
    assert xe.err == "Error: Key none not found in map\n"


def test_param_get_of_an_unknown_field_is_an_error(xe, vm):
    xe("vm-param-get", "uuid=VM-1", "param-name=nonsense")
    assert xe.terminal.failures == [("Missing parameter", ["nonsense"])]
    assert xe.status == 1


def test_param_set_writes_values_of_each_type(xe, api, vm):
    xe("vm-param-set", "uuid=VM-1", "name-label=db", "memory-static-max=2GiB", "VCPUs-max=4", "order=3")
    assert api.called("VM.set_name_label") == [(vm, "db")]
    assert api.called("VM.set_memory_static_max") == [(vm, 2 << 30)]
    assert api.called("VM.set_VCPUs_max") == [(vm, 4)]
    assert api.called("VM.set_order") == [(vm, 3)]


def test_param_set_replaces_a_key_of_a_map(xe, api, vm):
    xe("vm-param-set", "uuid=VM-1", "other-config:folder=/b", "other-config:new=1")
    assert api.objects["VM"][vm]["other_config"] == {"folder": "/b", "new": "1"}


def test_param_set_turns_a_uuid_into_a_reference_and_nothing_into_null(xe, api, vm):
    host = next(iter(api.objects["host"]))
    xe("vm-param-set", "uuid=VM-1", "affinity=host-1")
    xe("vm-param-set", "uuid=VM-1", "affinity=")
    assert api.called("VM.set_affinity") == [(vm, host), (vm, "OpaqueRef:NULL")]


def test_param_set_of_a_map_as_a_whole_is_refused(xe, vm):
    xe("vm-param-set", "uuid=VM-1", "other-config=x")
    assert "use the 'name:key=value' syntax" in xe.err


def test_param_set_of_a_read_only_field_is_refused(xe, vm):
    xe("vm-param-set", "uuid=VM-1", "power-state=running")
    assert xe.err == "Error: Field 'power-state' is read-only.\n"
    assert xe.status == 1


def test_param_set_says_what_it_expected(xe, vm):
    xe("vm-param-set", "uuid=VM-1", "VCPUs-max=many")
    assert "expecting an integer, got 'many'" in xe.err


def test_param_add_and_remove_edit_a_set(xe, api, vm):
    xe("vm-param-add", "uuid=VM-1", "param-name=tags", "param-key=red")
    xe("vm-param-add", "uuid=VM-1", "param-name=tags", "param-key=blue")
    xe("vm-param-remove", "uuid=VM-1", "param-name=tags", "param-key=red")
    assert api.objects["VM"][vm]["tags"] == ("blue",)


def test_param_add_does_not_overwrite_a_key(xe, vm):
    xe("vm-param-add", "uuid=VM-1", "param-name=other-config", "folder=/b")
    assert xe.status == 1
    assert xe.err.startswith("The map has this key already.\n")


def test_param_remove_of_a_missing_key_is_an_error(xe, vm):
    xe("vm-param-remove", "uuid=VM-1", "param-name=other-config", "param-key=none")
    assert xe.err == "Error: Key none is not in map\n"


def test_param_clear_empties_maps_and_sets_and_values(xe, api, vm):
    api.objects["VM"][vm]["tags"] = ("red", "blue")
    for name in ("tags", "other-config", "name-label"):
        xe("vm-param-clear", "uuid=VM-1", f"param-name={name}")
        assert xe.status == 0
    record = api.objects["VM"][vm]
    assert (record["tags"], record["other_config"], record["name_label"]) == ((), {}, "")


@pytest.mark.parametrize("name", ["VCPUs-max", "is-a-template", "actions-after-crash"])
def test_param_clear_says_so_where_a_value_cannot_be_unset(xe, vm, name):
    xe("vm-param-clear", "uuid=VM-1", f"param-name={name}")
    assert xe.err == "Error: Cannot clear this parameter\n"
    assert xe.status == 1


def test_a_missing_required_parameter_is_a_usage_error(xe):
    xe("vm-param-list")
    assert xe.err == "Required parameter not found: uuid\nFor usage run: 'xe help'\n"
    assert xe.status == 1


@pytest.mark.parametrize("words", [("vm-param-list",), ("vm-list", "none=1"), ("vm-list", "minimal=?")])
def test_trace_shows_where_a_command_failed(xe, vm, words):
    xe(*words, "--trace")
    assert "Traceback" in xe.err
    assert "NoneType" not in xe.err
    assert xe.status == 1


def test_there_are_as_many_generated_commands_as_xenserver_has():
    assert len(listing.generated()) == 288


@pytest.mark.parametrize("name", sorted(facts.classes()))
def test_every_class_lists_and_shows_all_fields_by_calls_that_xenapi_has(xe, api, name):
    cls = facts.classes()[name]
    ref = next(iter(api.objects.get(cls.api_class, {})), None) or api.add(cls.api_class)
    for test, value in cls.filters:
        api.objects[cls.api_class][ref][test.replace("-", "_")] = value == "true"
    uuid = api.objects[cls.api_class][ref]["uuid"]
    assert uuid in xe(f"{name}-list", "params=all")
    assert xe.status == 0, xe.err
    xe(f"{name}-param-list", f"uuid={uuid}")
    assert xe.status == 0, xe.err
    for field in cls.fields:
        xe(f"{name}-param-get", f"uuid={uuid}", f"param-name={field}")
        assert xe.status == 0, xe.err
    if "name-label" in cls.fields:
        api.objects[cls.api_class][ref]["name_label"] = "web"
        assert uuid in xe(f"{name}-list", "name-label=web", "params=uuid")
        assert xe(f"{name}-list", "name-label=other", "--minimal") == "\n"


@pytest.mark.parametrize("record", sorted({cls.record for cls in facts.classes().values()}))
def test_every_settable_field_has_a_message_that_sets_it(record):
    from kronos.datamodel.model import model

    api_class = next(cls.api_class for cls in facts.classes().values() if cls.record == record)
    messages = model().classes[api_class].messages
    for field in facts.record_fields(record).values():
        if field.setting:
            assert f"set_{field.setter}" in messages, field.name
        if field.addable and not field.whole:
            stem = f"add_to_{field.setter}" if field.kind == "map" else f"add_{field.adder}"
            assert stem in messages, field.name
        for name in (field.clear, field.set_map, field.set_in_map):
            assert not name or name in messages, field.name
