"""What a workload was answered, as a model of what must be there, and where what is found differs from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness.audit import Records
from harness.client import Client

OWNED = ("VM", "VDI", "network")


@dataclass
class Model:
    """What must be there: some fields of each object, by class and reference.

    `shapes` are VMs made from others whose devices have not been looked at yet: (class, size or network) of each.
    """

    objects: dict[str, dict[str, dict[str, Any]]] = field(
        default_factory=lambda: {cls: {} for cls in ("VM", "VDI", "VBD", "VIF", "network")}
    )
    shapes: dict[str, Counter[tuple[str, Any]]] = field(default_factory=dict)

    def of_vm(self, cls: str, vm: str) -> dict[str, dict[str, Any]]:
        return {ref: row for ref, row in self.objects[cls].items() if row["VM"] == vm}

    def halted(self, vm: str) -> None:
        self.objects["VM"][vm] |= {"power_state": "Halted"}
        for cls in ("VBD", "VIF"):
            for row in self.of_vm(cls, vm).values():
                row["currently_attached"] = False

    def started(self, vm: str, state: str) -> None:
        self.objects["VM"][vm] |= {"power_state": state}
        for cls in ("VBD", "VIF"):
            for row in self.of_vm(cls, vm).values():
                row["currently_attached"] = True

    def forget_vm(self, vm: str) -> None:
        del self.objects["VM"][vm]
        self.shapes.pop(vm, None)
        for cls in ("VBD", "VIF"):
            for ref in self.of_vm(cls, vm):
                del self.objects[cls][ref]

    def forget_vdi(self, vdi: str) -> None:
        del self.objects["VDI"][vdi]
        for ref in [ref for ref, row in self.objects["VBD"].items() if row["VDI"] == vdi]:
            del self.objects["VBD"][ref]


Effect = Callable[[Model, Any], None]


@dataclass
class Operation:
    """One call. `made` is the class of the object that it makes, empty where it makes none; `moves` is the VM that it
    starts or ends."""

    method: str
    run: Callable[[Client], Any]
    effect: Effect
    made: str = ""
    moves: str = ""


def named_row(name: str) -> dict[str, Any]:
    return {"name_label": name, "name_description": "", "other_config": {}, "tags": []}


def vm_row(name: str) -> dict[str, Any]:
    return named_row(name) | {"power_state": "Halted", "is_a_snapshot": False}


def vdi_row(name: str, size: int) -> dict[str, Any]:
    return named_row(name) | {"virtual_size": size, "is_a_snapshot": False, "managed": True}


def vbd_row(vm: str, vdi: str, device: str) -> dict[str, Any]:
    row: dict[str, Any] = {"VM": vm, "VDI": vdi, "userdevice": device, "other_config": {}}
    return row | {"currently_attached": False}


def vif_row(vm: str, network: str, device: str) -> dict[str, Any]:
    row: dict[str, Any] = {"VM": vm, "network": network, "device": device, "other_config": {}}
    return row | {"currently_attached": False, "locking_mode": "network_default"}


def owned(rows: Records, name: str) -> Records:
    """What is a worker's own among all records."""
    found = {
        cls: {ref: row for ref, row in rows[cls].items() if row["name_label"].startswith(f"{name}-")}
        for cls in OWNED
    }
    found["VDI"] = {ref: row for ref, row in found["VDI"].items() if row["managed"]}
    for cls in ("VBD", "VIF"):
        found[cls] = {ref: row for ref, row in rows[cls].items() if row["VM"] in found["VM"]}
    return found


def differences(model: Model, rows: Records, name: str) -> list[str]:
    """Where what is found is not what the model says; VMs that were not looked at yet are adopted."""
    for vm in list(model.shapes):
        if vm not in rows["VM"]:
            return [f"VM {vm} is gone"]
        problem = adopt(model, vm, rows)
        if problem is not None:
            return [problem]
    found = owned(rows, name)
    problems = []
    for cls, expected in model.objects.items():
        problems += [f"{cls} {ref} is gone: {expected[ref]}" for ref in expected.keys() - found[cls].keys()]
        extra = found[cls].keys() - expected.keys()
        problems += [f"{cls} {ref} is too much: {_brief(found[cls][ref])}" for ref in extra]
        for ref in expected.keys() & found[cls].keys():
            problems += [f"{cls} {ref}: {each}" for each in _changed(expected[ref], found[cls][ref])]
    return problems


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    names = ("name_label", "VM", "VDI", "userdevice", "device", "is_a_snapshot", "uuid")
    return {name: row[name] for name in names if name in row}


def _changed(expected: dict[str, Any], row: dict[str, Any]) -> list[str]:
    problems = []
    for name, value in expected.items():
        actual = row[name]
        if name == "other_config":
            actual = {key: text for key, text in actual.items() if key.startswith("key")}
        if name == "tags":
            actual, value = sorted(actual), sorted(value)
        if actual != value:
            problems.append(f"{name} is {actual!r}, not {value!r}")
    return problems


def adopt(model: Model, vm: str, rows: Records) -> str | None:
    """Take the devices of a VM that was made from another into the model; what is wrong with them, if anything."""
    wanted = model.shapes[vm]
    row = rows["VM"][vm]
    vbds = {ref: rows["VBD"][ref] for ref in row["VBDs"]}
    vifs = {ref: rows["VIF"][ref] for ref in row["VIFs"]}
    for ref, vbd in vbds.items():
        if vbd["VDI"] not in rows["VDI"]:
            return f"VBD {ref} of VM {vm} has no VDI"
    actual = Counter(("VBD", rows["VDI"][vbd["VDI"]]["virtual_size"]) for vbd in vbds.values())
    actual += Counter(("VIF", vif["network"]) for vif in vifs.values())
    if actual != wanted:
        return f"VM {vm} ({row['name_label']}) has {dict(actual)}, and its original {dict(wanted)}"
    del model.shapes[vm]
    ours = ("key",)
    model.objects["VM"][vm]["other_config"] = _kept(row, ours)
    for ref, vbd in vbds.items():
        made = rows["VDI"][vbd["VDI"]]
        model.objects["VBD"][ref] = vbd_row(vm, vbd["VDI"], vbd["userdevice"])
        model.objects["VBD"][ref]["other_config"] = _kept(vbd, ours)
        vdi = vdi_row(made["name_label"], made["virtual_size"]) | {"is_a_snapshot": made["is_a_snapshot"]}
        vdi |= {"name_description": made["name_description"], "tags": made["tags"]}
        model.objects["VDI"][vbd["VDI"]] = vdi | {"other_config": _kept(made, ours)}
    for ref, vif in vifs.items():
        made_vif = vif_row(vm, vif["network"], vif["device"]) | {"locking_mode": vif["locking_mode"]}
        model.objects["VIF"][ref] = made_vif | {"other_config": _kept(vif, ours)}
    return None


def _kept(row: dict[str, Any], prefixes: tuple[str, ...]) -> dict[str, str]:
    return {key: text for key, text in row["other_config"].items() if key.startswith(prefixes)}
