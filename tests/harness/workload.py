"""A random workload, and a model of what it was answered: what of it must be there after the daemon was killed.

Each worker has objects of its own, told by their names. What a call does is written down twice: `effect` changes the
model once the answer has come; where none came, the model must fit what is found either without the effect or with it.
"""

from __future__ import annotations

import copy
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from harness.audit import Records
from harness.client import Client, NoAnswer
from harness.daemon import Daemon
from harness.guests import MIB, add_disk, add_interface, new_disk, vm_record
from harness.model import (
    OWNED,
    Model,
    Operation,
    adopt,
    differences,
    named_row,
    owned,
    vbd_row,
    vdi_row,
    vif_row,
    vm_row,
)
from kronos.datamodel.errors import Failure

# Refusals that the model does not foresee: a chain that grew too long, and memory that other tests have taken.
EXPECTED = ("SR_BACKEND_FAILURE_109", "HOST_NOT_ENOUGH_FREE_MEMORY", "NO_HOSTS_AVAILABLE")


class Worker:
    """One client with its objects. `run` works until the daemon dies or `stop` is set."""

    def __init__(self, daemon: Daemon, name: str, seed: int) -> None:
        self.daemon = daemon
        self.name = name
        self.random = random.Random(seed)
        self.model = Model()
        self.pending: Operation | None = None
        self.answered: Counter[str] = Counter()
        self.refused: list[str] = []
        self.unanswered: Counter[str] = Counter()
        self.unmoved: set[str] = set()
        """VMs whose power no call of this round was about: their guests must be the same processes afterwards."""
        self._made = 0

    # --- working -----------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        self.unmoved = set(self.model.objects["VM"])
        try:
            client = self.daemon.client(timeout=60)
        except (NoAnswer, OSError):
            return
        try:
            while not stop.is_set():
                self._step(client)
        except NoAnswer:
            pass
        finally:
            client.close()

    def _step(self, client: Client) -> None:
        for vm in list(self.model.shapes):
            self._learn(client, vm)
        operation = self._choose()
        self.pending = operation
        self.unmoved.discard(operation.moves)
        try:
            result = operation.run(client)
        except Failure as failure:
            if failure.code not in EXPECTED:
                self.refused.append(f"{self.name}: {operation.method}: {failure.description}")
        else:
            operation.effect(self.model, result)
            self.answered[operation.method] += 1
        self.pending = None

    def _learn(self, client: Client, vm: str) -> None:
        """Look at the devices of a VM that was made from another."""
        row = client("VM.get_record", vm)
        vbds = {ref: client("VBD.get_record", ref) for ref in row["VBDs"]}
        vifs = {ref: client("VIF.get_record", ref) for ref in row["VIFs"]}
        vdis = {row["VDI"]: client("VDI.get_record", row["VDI"]) for row in vbds.values()}
        problem = adopt(self.model, vm, {"VM": {vm: row}, "VBD": vbds, "VIF": vifs, "VDI": vdis})
        assert problem is None, problem

    def _new_name(self) -> str:
        self._made += 1
        return f"{self.name}-{self._made}"

    # --- choosing ----------------------------------------------------------------------------------------------

    def _choose(self) -> Operation:
        """The next call: one of those that are valid now."""
        while True:
            (kind,) = self.random.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))
            operation: Operation | None = getattr(self, f"_{kind}")()
            if operation is not None:
                return operation

    def _pick(self, cls: str, wanted: Callable[[dict[str, Any]], bool] = lambda row: True) -> str | None:
        found = [ref for ref, row in self.model.objects[cls].items() if wanted(row)]
        return self.random.choice(found) if found else None

    def _vm(self, *states: str, snapshot: bool = False) -> str | None:
        def fits(row: dict[str, Any]) -> bool:
            return row["power_state"] in states and row["is_a_snapshot"] is snapshot

        return self._pick("VM", fits)

    def _free_vdi(self) -> str | None:
        used = {row["VDI"] for row in self.model.objects["VBD"].values()}
        found = [
            r for r, row in self.model.objects["VDI"].items() if r not in used and not row["is_a_snapshot"]
        ]
        return self.random.choice(found) if found else None

    # --- VMs ---------------------------------------------------------------------------------------------------

    def _create_vm(self) -> Operation | None:
        if len(self.model.objects["VM"]) >= 5:
            return None
        name = self._new_name()
        record = vm_record(self.daemon.state, name)

        def effect(model: Model, ref: Any) -> None:
            model.objects["VM"][ref] = vm_row(name)

        return Operation("VM.create", lambda c: c("VM.create", record), effect, "VM")

    def _copy_of_vm(self, method: str, source: str, *arguments: Any, asynchronous: bool = False) -> Operation:
        name = self._new_name()
        snapshot = method == "VM.snapshot"
        expected = self.model.objects["VM"][source]
        shape: Counter[tuple[str, Any]] = Counter()
        for row in self.model.of_vm("VBD", source).values():
            shape["VBD", self.model.objects["VDI"][row["VDI"]]["virtual_size"]] += 1
        for row in self.model.of_vm("VIF", source).values():
            shape["VIF", row["network"]] += 1

        def effect(model: Model, ref: Any) -> None:
            ref = ref.removeprefix("<value>").removesuffix("</value>")
            kept = {"name_description": expected["name_description"], "tags": list(expected["tags"])}
            model.objects["VM"][ref] = vm_row(name) | kept | {"is_a_snapshot": snapshot}
            model.shapes[ref] = shape

        def run(client: Client) -> Any:
            call = client.task if asynchronous else client
            return call(method, source, name, *arguments)

        return Operation(f"{'Async.' if asynchronous else ''}{method}", run, effect, "VM")

    def _clone_vm(self) -> Operation | None:
        source = self._vm("Halted")
        if source is None or len(self.model.objects["VM"]) >= 6:
            return None
        return self._copy_of_vm("VM.clone", source, asynchronous=self.random.random() < 0.3)

    def _snapshot_vm(self) -> Operation | None:
        source = self._vm("Halted", "Running")
        if source is None or len(self.model.objects["VM"]) >= 6:
            return None
        return self._copy_of_vm("VM.snapshot", source, [])

    def _destroy_vm(self) -> Operation | None:
        vm = self._vm("Halted", snapshot=self.random.random() < 0.5)
        if vm is None or len(self.model.objects["VM"]) < 3:
            return None
        return Operation(
            "VM.destroy", lambda c: c("VM.destroy", vm), lambda model, _: model.forget_vm(vm), "", vm
        )

    def _start_vm(self) -> Operation | None:
        vm = self._vm("Halted")
        if vm is None or sum(r["power_state"] != "Halted" for r in self.model.objects["VM"].values()) >= 2:
            return None
        paused = self.random.random() < 0.2
        state = "Paused" if paused else "Running"

        def effect(model: Model, _: Any) -> None:
            model.started(vm, state)

        return Operation("VM.start", lambda c: c("VM.start", vm, paused, False), effect, moves=vm)

    def _to_state(self, method: str, before: tuple[str, ...], after: str, *args: Any) -> Operation | None:
        vm = self._vm(*before)
        if vm is None:
            return None

        def effect(model: Model, _: Any) -> None:
            if after == "Halted":
                model.halted(vm)
            else:
                model.objects["VM"][vm] |= {"power_state": after}

        moves = "" if method in ("VM.pause", "VM.unpause") else vm
        return Operation(method, lambda c: c(method, vm, *args), effect, moves=moves)

    def _pause_vm(self) -> Operation | None:
        return self._to_state("VM.pause", ("Running",), "Paused")

    def _unpause_vm(self) -> Operation | None:
        return self._to_state("VM.unpause", ("Paused",), "Running")

    def _stop_vm(self) -> Operation | None:
        return self._to_state("VM.hard_shutdown", ("Running", "Paused", "Suspended"), "Halted")

    def _suspend_vm(self) -> Operation | None:
        return self._to_state("VM.suspend", ("Running",), "Suspended")

    def _resume_vm(self) -> Operation | None:
        return self._to_state("VM.resume", ("Suspended",), "Running", False, False)

    # --- fields ------------------------------------------------------------------------------------------------

    def _set_description(self) -> Operation | None:
        cls = self.random.choice(OWNED)
        ref = self._pick(cls)
        if ref is None:
            return None
        text = f"described {self.random.random()}"

        def effect(model: Model, _: Any) -> None:
            model.objects[cls][ref]["name_description"] = text

        method = f"{cls}.set_name_description"
        return Operation(method, lambda c: c(method, ref, text), effect)

    def _add_to_map(self) -> Operation | None:
        cls = self.random.choice(("VM", "VDI", "VBD", "VIF", "network"))
        ref = self._pick(cls, lambda row: len(row["other_config"]) < 10)
        if ref is None:
            return None
        key = f"key{self._new_name()}"

        def effect(model: Model, _: Any) -> None:
            model.objects[cls][ref]["other_config"][key] = "value"

        method = f"{cls}.add_to_other_config"
        return Operation(method, lambda c: c(method, ref, key, "value"), effect)

    def _remove_from_map(self) -> Operation | None:
        cls = self.random.choice(("VM", "VDI", "VBD", "VIF", "network"))
        ref = self._pick(cls, lambda row: bool(row["other_config"]))
        if ref is None:
            return None
        key = self.random.choice(list(self.model.objects[cls][ref]["other_config"]))

        def effect(model: Model, _: Any) -> None:
            del model.objects[cls][ref]["other_config"][key]

        method = f"{cls}.remove_from_other_config"
        return Operation(method, lambda c: c(method, ref, key), effect)

    def _add_tag(self) -> Operation | None:
        cls = self.random.choice(OWNED)
        ref = self._pick(cls, lambda row: len(row["tags"]) < 5)
        if ref is None:
            return None
        tag = f"tag{self._new_name()}"

        def effect(model: Model, _: Any) -> None:
            model.objects[cls][ref]["tags"].append(tag)

        return Operation(f"{cls}.add_tags", lambda c: c(f"{cls}.add_tags", ref, tag), effect)

    # --- disks -------------------------------------------------------------------------------------------------

    def _create_vdi(self) -> Operation | None:
        if len(self.model.objects["VDI"]) >= 12:
            return None
        name, size = self._new_name(), self.random.randrange(1, 64) * MIB

        def effect(model: Model, ref: Any) -> None:
            model.objects["VDI"][ref] = vdi_row(name, size)

        return Operation("VDI.create", lambda c: new_disk(c, name, size), effect, "VDI")

    def _branch_vdi(self) -> Operation | None:
        snapshot = self.random.random() < 0.5
        source = self._pick("VDI", lambda row: not row["is_a_snapshot"]) if snapshot else self._free_vdi()
        if source is None or len(self.model.objects["VDI"]) >= 14:
            return None
        method = "VDI.snapshot" if snapshot else "VDI.clone"
        expected = self.model.objects["VDI"][source]

        def effect(model: Model, ref: Any) -> None:
            inherited: dict[str, Any] = {"name_description": expected["name_description"]}
            inherited |= {"other_config": dict(expected["other_config"]), "tags": list(expected["tags"])}
            made = vdi_row(expected["name_label"], expected["virtual_size"]) | inherited
            model.objects["VDI"][ref] = made | {"is_a_snapshot": snapshot}

        return Operation(method, lambda c: c(method, source, {}), effect, "VDI")

    def _destroy_vdi(self) -> Operation | None:
        live = {vm for vm, row in self.model.objects["VM"].items() if row["power_state"] != "Halted"}
        used = {row["VDI"] for row in self.model.objects["VBD"].values() if row["VM"] in live}
        found = [ref for ref in self.model.objects["VDI"] if ref not in used]
        if len(found) < 4:
            return None
        vdi = self.random.choice(found)
        return Operation(
            "VDI.destroy", lambda c: c("VDI.destroy", vdi), lambda model, _: model.forget_vdi(vdi)
        )

    def _resize_vdi(self) -> Operation | None:
        vdi = self._free_vdi()
        if vdi is None:
            return None
        size = self.model.objects["VDI"][vdi]["virtual_size"] + self.random.randrange(1, 8) * MIB

        def effect(model: Model, _: Any) -> None:
            model.objects["VDI"][vdi]["virtual_size"] = size

        return Operation("VDI.resize", lambda c: c("VDI.resize", vdi, size), effect)

    # --- devices -----------------------------------------------------------------------------------------------

    def _free_device(self, cls: str, vm: str, name: str) -> str | None:
        taken = {row[name] for row in self.model.of_vm(cls, vm).values()}
        free = [str(number) for number in range(3) if str(number) not in taken]
        return self.random.choice(free) if free else None

    def _create_vbd(self) -> Operation | None:
        vm, vdi = self._vm("Halted", "Running"), self._free_vdi()
        device = self._free_device("VBD", vm, "userdevice") if vm is not None else None
        if vm is None or vdi is None or device is None:
            return None

        def effect(model: Model, ref: Any) -> None:
            model.objects["VBD"][ref] = vbd_row(vm, vdi, device)

        return Operation("VBD.create", lambda c: add_disk(c, vm, vdi, device), effect, "VBD")

    def _create_vif(self) -> Operation | None:
        vm, network = self._vm("Halted", "Running"), self._pick("network")
        device = self._free_device("VIF", vm, "device") if vm is not None else None
        if vm is None or network is None or device is None:
            return None

        def effect(model: Model, ref: Any) -> None:
            model.objects["VIF"][ref] = vif_row(vm, network, device)

        return Operation("VIF.create", lambda c: add_interface(c, vm, network, device), effect, "VIF")

    def _device(self, cls: str, *, attached: bool) -> str | None:
        def fits(row: dict[str, Any]) -> bool:
            vm = self.model.objects["VM"][row["VM"]]
            usable = vm["power_state"] == "Running" or (not attached and vm["power_state"] == "Halted")
            return row["currently_attached"] is attached and usable and not vm["is_a_snapshot"]

        return self._pick(cls, fits)

    def _destroy_device(self) -> Operation | None:
        cls = self.random.choice(("VBD", "VIF"))
        ref = self._device(cls, attached=False)
        if ref is None:
            return None

        def effect(model: Model, _: Any) -> None:
            del model.objects[cls][ref]

        return Operation(f"{cls}.destroy", lambda c: c(f"{cls}.destroy", ref), effect)

    def _plug(self, *, attached: bool) -> Operation | None:
        cls = self.random.choice(("VBD", "VIF"))
        ref = self._device(cls, attached=attached)
        if ref is None:
            return None
        if self.model.objects["VM"][self.model.objects[cls][ref]["VM"]]["power_state"] != "Running":
            return None

        def effect(model: Model, _: Any) -> None:
            model.objects[cls][ref]["currently_attached"] = not attached

        method = f"{cls}.unplug" if attached else f"{cls}.plug"
        return Operation(method, lambda c: c(method, ref), effect)

    def _plug_device(self) -> Operation | None:
        return self._plug(attached=False)

    def _unplug_device(self) -> Operation | None:
        return self._plug(attached=True)

    def _set_locking_mode(self) -> Operation | None:
        vif = self._pick("VIF")
        if vif is None:
            return None
        mode = self.random.choice(("network_default", "unlocked", "disabled"))

        def effect(model: Model, _: Any) -> None:
            model.objects["VIF"][vif]["locking_mode"] = mode

        return Operation("VIF.set_locking_mode", lambda c: c("VIF.set_locking_mode", vif, mode), effect)

    # --- networks ----------------------------------------------------------------------------------------------

    def _create_network(self) -> Operation | None:
        if len(self.model.objects["network"]) >= 3:
            return None
        name = self._new_name()
        record = {
            "name_label": name,
            "name_description": "",
            "MTU": 1500,
            "other_config": {},
            "bridge": "",
            "managed": True,
            "tags": [],
        }

        def effect(model: Model, ref: Any) -> None:
            model.objects["network"][ref] = named_row(name)

        return Operation("network.create", lambda c: c("network.create", record), effect, "network")

    def _destroy_network(self) -> Operation | None:
        used = {row["network"] for row in self.model.objects["VIF"].values()}
        found = [ref for ref in self.model.objects["network"] if ref not in used]
        if not found:
            return None
        network = self.random.choice(found)

        def effect(model: Model, _: Any) -> None:
            del model.objects["network"][network]

        return Operation("network.destroy", lambda c: c("network.destroy", network), effect)

    # --- judging -----------------------------------------------------------------------------------------------

    def judge(self, rows: Records) -> list[str]:
        """Compare what is found after a restart with the model; the call without an answer is settled by it."""
        operation, self.pending = self.pending, None
        without = copy.deepcopy(self.model)
        problems = differences(without, rows, self.name)
        if not problems:
            self.model = without
            return []
        if operation is None:
            return [f"{self.name}: {problem}" for problem in problems]
        self.unanswered[operation.method] += 1
        done = copy.deepcopy(self.model)
        ref = None
        if operation.made:
            new = owned(rows, self.name)[operation.made].keys() - self.model.objects[operation.made].keys()
            # A VM that was made from another has disks of its own, but comes first.
            ref = next(iter(new), None)
        if not operation.made or ref is not None:
            operation.effect(done, ref)
            others = differences(done, rows, self.name)
            if not others:
                self.model = done
                return []
            problems += ["or, if it was done:", *others]
        return [f"{self.name}: {operation.method} without an answer: {problem}" for problem in problems]


WEIGHTS = {
    "create_vm": 3,
    "clone_vm": 5,
    "snapshot_vm": 3,
    "destroy_vm": 4,
    "start_vm": 5,
    "pause_vm": 2,
    "unpause_vm": 2,
    "stop_vm": 3,
    "suspend_vm": 3,
    "resume_vm": 3,
    "set_description": 4,
    "add_to_map": 4,
    "remove_from_map": 3,
    "add_tag": 2,
    "create_vdi": 5,
    "branch_vdi": 4,
    "destroy_vdi": 5,
    "resize_vdi": 3,
    "create_vbd": 5,
    "create_vif": 4,
    "destroy_device": 3,
    "plug_device": 4,
    "unplug_device": 3,
    "set_locking_mode": 2,
    "create_network": 2,
    "destroy_network": 1,
}
