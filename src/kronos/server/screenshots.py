"""The door to pictures of guests' screens."""

from __future__ import annotations

from typing import Final

from kronos.datamodel.errors import Failure
from kronos.server.access import Access
from kronos.server.guest_consoles import GuestConsoles
from kronos.server.replies import reply_to_error, whole_reply
from kronos.server.routing import Doors, OnThread, Reply, Request, credentials
from kronos.server.streams import BlockingStream

PATH: Final = "/vncsnapshot"
PATIENCE: Final = 60.0
"""Seconds that a client may take for the picture."""
_PNG: Final = b"\x89PNG\r\n\x1a\n"


def add_doors(doors: Doors, access: Access, consoles: GuestConsoles) -> None:
    doors.add("GET", PATH, OnThread(Screenshots(access, consoles).serve))


class Screenshots:
    """Serves what a screen shows now, under the task that `task_id` names.

    XenServer sends a JPEG; this is the picture that the hypervisor makes, without loss: a PNG, or a PPM where its
    QEMU is older than 7.1. The header says which.
    """

    def __init__(self, access: Access, consoles: GuestConsoles) -> None:
        self.access = access
        self.consoles = consoles

    def serve(self, request: Request, stream: BlockingStream) -> None:
        """`uuid` or `ref` is a console's or a VM's.

        Raises nothing: SESSION_INVALID becomes 401, RBAC_PERMISSION_DENIED 403, HANDLE_INVALID 404, others 500.
        """
        try:
            with (
                self.access.session_of(credentials(request)) as session,
                self.access.reported(request.origin, session, request.query.get("task_id", "")),
            ):
                picture = self.consoles.screenshot(session, request.query)
            kind = b"image/png" if picture.startswith(_PNG) else b"image/x-portable-pixmap"
            reply = Reply(200, (picture,), kind)
        except Failure as failure:
            reply = reply_to_error(failure, request)
        stream.settimeout(PATIENCE)
        stream.sendall(whole_reply(request, reply))
