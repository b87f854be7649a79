"""pool: workload balancing, of which it has none until it is given the address of such a service."""

from __future__ import annotations

from typing import NoReturn

from kronos.datamodel.errors import Failure
from kronos.db.records import VM, Pool
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message


def _require_service(call: Call, *, enabled: bool = False) -> NoReturn:
    """Raises WLB_NOT_INITIALIZED, WLB_DISABLED; NOT_IMPLEMENTED for a pool that was given a service elsewhere."""
    pool = call.db.all(Pool)[0]
    if not pool.wlb_url:
        raise Failure("WLB_NOT_INITIALIZED")
    if enabled and not pool.wlb_enabled:
        raise Failure("WLB_DISABLED")
    raise Failure("NOT_IMPLEMENTED", call.message.full_name)


@message("pool.deconfigure_wlb")
def deconfigure_wlb(call: Call) -> None:
    """Leave the service. Raises WLB_NOT_INITIALIZED."""
    _require_service(call)


@message("pool.send_wlb_configuration")
def send_wlb_configuration(call: Call, config: dict[str, str]) -> None:
    """Set the service's options. Raises WLB_NOT_INITIALIZED."""
    _require_service(call)


@message("pool.retrieve_wlb_configuration")
def retrieve_wlb_configuration(call: Call) -> dict[str, str]:
    """The service's options. Raises WLB_NOT_INITIALIZED."""
    _require_service(call)


@message("pool.retrieve_wlb_recommendations")
def retrieve_wlb_recommendations(call: Call) -> dict[str, tuple[str, ...]]:
    """Which VM should be where. Raises WLB_NOT_INITIALIZED, WLB_DISABLED."""
    _require_service(call, enabled=True)


@message("VM.retrieve_wlb_recommendations")
def retrieve_vm_recommendations(call: Call, vm: str) -> dict[str, tuple[str, ...]]:
    """Where a VM should be. Raises WLB_NOT_INITIALIZED, WLB_DISABLED."""
    call.db.get(VM, vm)
    _require_service(call, enabled=True)
