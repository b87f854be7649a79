"""Descriptions of archives that say anything: an error of ours, or objects of the right types."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as some

from kronos.datamodel.errors import Failure
from kronos.datamodel.model import model
from kronos.rules import unpacking

CLASSES = ("VM", "VDI", "VBD", "VIF", "SR", "network", "host")
SAID = some.recursive(
    some.one_of(some.none(), some.booleans(), some.integers(), some.floats(), some.text(max_size=20)),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def plain(cls: str) -> dict[str, object]:
    """A record of a class with each field as it is when nothing was said."""
    return {name: kind.zero for name, kind in model().classes[cls].record.fields.items()}


def description() -> dict[str, object]:
    version = {"product_brand": "XCP-ng", "xapi_major": "1", "xapi_minor": "20", "export_vsn": "2"}
    objects = [
        {"class": cls, "id": f"Ref:{number}", "snapshot": plain(cls)} for number, cls in enumerate(CLASSES)
    ]
    return {"version": version, "objects": objects}


def understood(untrusted: object) -> None:
    """Everything that an import asks of a description."""
    try:
        found = unpacking.read(untrusted)
        unpacking.streamed_disks(found)
        for vm in unpacking.virtual_machines(found):
            unpacking.vm_fields(vm, restore=True, mac_seed="seed", generation_id="", hosts={})
        for vbd in found.of("VBD"):
            unpacking.vbd_fields(vbd, "vm", "vdi")
        for vif in found.of("VIF"):
            unpacking.vif_fields(vif, "vm", "network", restore=False)
        for vdi in found.of("VDI"):
            unpacking.vdi_fields(vdi)
    except Failure as failure:
        assert failure.code.startswith("IMPORT_")


def test_a_description_of_empty_records_is_one():
    found = unpacking.read(description())
    assert {each.cls for each in found.objects.values()} == set(CLASSES)


@settings(deadline=None, max_examples=150)
@given(SAID)
def test_anything_may_come_in_the_place_of_a_description(untrusted):
    understood(untrusted)


@settings(deadline=None, max_examples=400)
@given(some.data())
def test_any_field_may_hold_anything(data):
    untrusted = description()
    for _ in range(data.draw(some.integers(1, 3))):
        each = data.draw(some.sampled_from(untrusted["objects"]))
        where = data.draw(some.sampled_from([each, each["snapshot"], each["snapshot"], untrusted["version"]]))
        where[data.draw(some.sampled_from(sorted(where)))] = data.draw(SAID)
        if not isinstance(each["snapshot"], dict) or not each["snapshot"]:
            break
    understood(untrusted)


@settings(deadline=None, max_examples=50)
@given(some.sampled_from(["version", "objects"]), SAID)
def test_either_half_may_be_anything(half, said):
    understood(description() | {half: said})
