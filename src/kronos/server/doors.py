"""All doors of this host on one page: RPC, the command line, consoles, transfers."""

from __future__ import annotations

from kronos import __version__
from kronos.dispatch.pipeline import Pipeline
from kronos.server import audit_log, blobs, cli, console, host_files, metrics, rpc, screenshots, updates
from kronos.server.access import Access
from kronos.server.guest_consoles import GuestConsoles
from kronos.server.limits import Limits
from kronos.server.routing import Doors, OnThread, Page, Reply, Request
from kronos.server.streams import BlockingStream
from kronos.server.transfers import Transfers
from kronos.system.audit_file import AuditFile

_LANDING = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Kronos</title></head>
<body><h1>Kronos {__version__}</h1>
<p>This host is managed through XenAPI: XML-RPC on <code>/</code>, JSON-RPC on <code>/jsonrpc</code>.
Use <code>xe</code>, Xen Orchestra or any other XenAPI client.</p></body></html>
"""


def all_doors(pipeline: Pipeline, access: Access, audit: AuditFile | None = None) -> Doors:
    """The table that the HTTP server serves."""
    doors = Doors(pipeline.machine.requests)
    rpc.add_doors(doors, pipeline, Limits().inline_body)
    doors.add("GET", "/", Page(lambda request: Reply(200, (_LANDING.encode(),))))
    consoles = GuestConsoles(access)
    console.add_doors(doors, consoles.resolve)
    screenshots.add_doors(doors, access, consoles)
    blobs.add_doors(doors, access)
    metrics.add_doors(doors, access)
    if audit is not None:
        audit_log.add_doors(doors, access, audit)
    transfers = Transfers(access)
    transfers.add_doors(doors)
    host_files.add_doors(doors, transfers)
    updates.add_doors(doors, access, transfers)
    doors.add("POST", "/cli", OnThread(CommandLine(access).serve))
    return doors


class CommandLine:
    """The door of `xe`."""

    def __init__(self, access: Access) -> None:
        self.access = access

    def serve(self, request: Request, stream: BlockingStream) -> None:
        """Read the arguments and speak the thin protocol until the command has ended."""
        length = request.header("content-length")
        if not (length.isascii() and length.isdigit() and len(length) < 10) or int(length) > cli.MAX_BODY:
            stream.sendall(
                b"HTTP/1.1 413 Payload Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
            return
        body = bytearray()
        stream.settimeout(30.0)
        while len(body) < int(length):
            data = stream.recv(min(65536, int(length) - len(body)))
            if not data:
                return
            body += data
        stream.settimeout(None)
        cli.serve(stream, bytes(body), self.access.open(request.origin))
