"""crashdump and host_crashdump: memory of guests and hosts that crashed, kept for whoever looks into it."""

from __future__ import annotations

from kronos.datamodel.errors import Failure
from kronos.db.records import VDI, Crashdump, Host_crashdump
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.system import crashes


@message("crashdump.destroy")
def destroy_of_guest(call: Call, self: str) -> None:
    """Destroy a guest's dump with its disk."""
    row = call.db.get(Crashdump, self)
    if call.db.find(VDI, row.VDI) is not None:
        call.invoke("VDI.destroy", row.VDI)
    call.db.delete(row)


@message("host_crashdump.destroy")
def destroy(call: Call, self: str) -> None:
    """Destroy a dump of this host's kernel."""
    row = _own(call, self)
    crashes.remove(row.filename)
    call.db.delete(row)


@message("host_crashdump.upload")
def upload(call: Call, self: str, url: str, options: dict[str, str]) -> None:
    """Send a dump to an HTTP address, as a compressed tar archive by PUT.

    Raises INVALID_VALUE ["url", url] where nobody takes it.
    """
    row = _own(call, self)
    try:
        crashes.upload(row.filename, url)
    except crashes.UploadFailed as error:
        raise Failure("INVALID_VALUE", "url", f"{url}: {error}") from error


def _own(call: Call, ref: str) -> Host_crashdump:
    """A dump of this host. Raises HOST_OFFLINE [host] for another's."""
    row = call.db.get(Host_crashdump, ref)
    if row.host != call.machine.host_ref:
        raise Failure("HOST_OFFLINE", row.host)
    return row
