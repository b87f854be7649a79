"""PGPU and GPU_group: the host's graphics adapters, in groups of which a guest gets any free one."""

from __future__ import annotations

from typing import Any

from kronos.api.devices import tally_group
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.records import PCI, PGPU, VGPU, GPU_group, VGPU_type
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.rules.passthrough import users


@message("GPU_group.create")
def create_group(call: Call, name_label: str, name_description: str, other_config: dict[str, str]) -> str:
    """A group without adapters, of no kind yet."""
    fields: dict[str, Any] = {"name_label": name_label, "name_description": name_description}
    return call.db.create(GPU_group, **fields, other_config=other_config).ref


@message("GPU_group.destroy")
def destroy_group(call: Call, self: str) -> None:
    """Raises GPU_GROUP_CONTAINS_VGPU [vgpus], GPU_GROUP_CONTAINS_PGPU [pgpus]."""
    row = call.db.get(GPU_group, self)
    with call.db.transaction():
        virtual = [call.db.get(VGPU, ref) for ref in row.VGPUs]
        attached = [each.ref for each in virtual if each.currently_attached]
        if attached:
            raise Failure("GPU_GROUP_CONTAINS_VGPU", *attached)
        if row.PGPUs:
            raise Failure("GPU_GROUP_CONTAINS_PGPU", *row.PGPUs)
        for each in virtual:
            call.db.delete(each)
        call.db.delete(row)


@message("GPU_group.update_enabled_VGPU_types")
def update_enabled(call: Call, self: str) -> None:
    """Write down what the group's adapters may be used as."""
    tally_group(call.db, call.db.get(GPU_group, self))


@message("GPU_group.update_supported_VGPU_types")
def update_supported(call: Call, self: str) -> None:
    """Write down what the group's adapters can be used as."""
    tally_group(call.db, call.db.get(GPU_group, self))


@message("GPU_group.get_remaining_capacity")
def get_group_capacity(call: Call, self: str, vgpu_type: str) -> int:
    """How many more virtual adapters of a type the group has room for."""
    row = call.db.get(GPU_group, self)
    call.db.get(VGPU_type, vgpu_type)
    members = [call.db.get(PGPU, ref) for ref in row.PGPUs]
    return sum(_capacity(call, each, vgpu_type) for each in members if vgpu_type in each.enabled_VGPU_types)


@message("PGPU.get_remaining_capacity")
def get_capacity(call: Call, self: str, vgpu_type: str) -> int:
    """How many more virtual adapters of a type an adapter has room for. Raises VGPU_TYPE_NOT_SUPPORTED."""
    row = call.db.get(PGPU, self)
    kind = call.db.get(VGPU_type, vgpu_type)
    _assert_supported(row, (kind.ref,))
    if kind.ref not in row.enabled_VGPU_types:
        raise Failure("VGPU_TYPE_NOT_ENABLED", kind.ref, *row.enabled_VGPU_types)
    return _capacity(call, row, kind.ref)


def _capacity(call: Call, row: PGPU, kind: str) -> int:
    return max(0, row.supported_VGPU_max_capacities.get(kind, 0) - len(users(call.db, row)))


def _assert_supported(row: PGPU, kinds: tuple[str, ...]) -> None:
    for kind in kinds:
        if kind not in row.supported_VGPU_types:
            raise Failure("VGPU_TYPE_NOT_SUPPORTED", kind, *row.supported_VGPU_types)


@message("PGPU.set_enabled_VGPU_types")
def set_enabled(call: Call, self: str, value: tuple[str, ...]) -> None:
    """What an adapter may be used as. Raises VGPU_TYPE_NOT_SUPPORTED [type, supported …], PGPU_IN_USE_BY_VM [vms]."""
    row = call.db.get(PGPU, self)
    with call.db.transaction():
        _assert_supported(row, value)
        taken = [ref for ref in row.enabled_VGPU_types if ref not in value]
        in_use = [
            vgpu.VM for vgpu in (call.db.get(VGPU, ref) for ref in row.resident_VGPUs) if vgpu.type in taken
        ]
        if in_use:
            raise Failure("PGPU_IN_USE_BY_VM", *in_use)
        row.enabled_VGPU_types = tuple(dict.fromkeys(value))
        _tally(call, row.GPU_group)


@message("PGPU.add_enabled_VGPU_types")
def add_enabled(call: Call, self: str, value: str) -> None:
    """Raises VGPU_TYPE_NOT_SUPPORTED [type, supported …]."""
    set_enabled(call, self, (*call.db.get(PGPU, self).enabled_VGPU_types, value))


@message("PGPU.remove_enabled_VGPU_types")
def remove_enabled(call: Call, self: str, value: str) -> None:
    """Raises PGPU_IN_USE_BY_VM [vms]."""
    kept = tuple(ref for ref in call.db.get(PGPU, self).enabled_VGPU_types if ref != value)
    set_enabled(call, self, kept)


@message("PGPU.set_GPU_group")
def set_group(call: Call, self: str, value: str) -> None:
    """Put an adapter that nobody uses into a group of its own kind, or into none.

    Raises PGPU_IN_USE_BY_VM [vms], PGPU_NOT_COMPATIBLE_WITH_GPU_GROUP [type, group's types].
    """
    row = call.db.get(PGPU, self)
    with call.db.transaction():
        in_use = users(call.db, row)
        if in_use:
            raise Failure("PGPU_IN_USE_BY_VM", *in_use)
        before, group = row.GPU_group, call.db.find(GPU_group, value)
        if value != NULL:
            group = call.db.get(GPU_group, value)
            device = call.db.get(PCI, row.PCI)
            kind = f"{device.vendor_id}/{device.device_id}"
            if group.GPU_types and kind not in group.GPU_types:
                raise Failure("PGPU_NOT_COMPATIBLE_WITH_GPU_GROUP", kind, f"[{', '.join(group.GPU_types)}]")
        row.GPU_group = value
        _tally(call, before)
        _tally(call, value)


def _tally(call: Call, ref: str) -> None:
    group = call.db.find(GPU_group, ref)
    if group is not None:
        tally_group(call.db, group)
