"""VM.import: an archive that this host fetches by itself."""

from __future__ import annotations

import http.client
from typing import Final
from urllib import request
from urllib.error import URLError
from urllib.parse import urlsplit

from kronos.api.vm import importing
from kronos.datamodel.errors import Failure
from kronos.db.records import SR
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.transfer.stream import BadStream, Reader, announced

_PATIENCE: Final = 60.0
"""Seconds that a server may take to send more; a cancelled import ends by then."""


@message("VM.import")
def import_(call: Call, url: str, sr: str, full_restore: bool, force: bool) -> tuple[str, ...]:
    """Import the archive at an http or https address, whose certificate has to be one that this host trusts.

    Raises INVALID_VALUE [url, address], IMPORT_ERROR [text] where nothing is to be had there,
    SR_OPERATION_NOT_SUPPORTED [sr], and as `importing.import_archive` does.
    """
    row = call.db.get(SR, sr)
    if row.content_type == "iso":
        raise Failure("SR_OPERATION_NOT_SUPPORTED", sr)
    options = importing.Options(restore=full_restore, force=force)
    with _fetched(url) as response:
        try:
            length = announced(response.headers.get("Content-Length", ""))
        except BadStream as error:
            raise Failure("IMPORT_ERROR", str(error)) from error
        return importing.import_archive(call, Reader(_Body(response), length), row, options)


class _Body:
    """A response's body as a source."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response

    def recv_into(self, buffer: memoryview) -> int:
        try:
            return self._response.readinto(buffer)
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(str(error)) from error


def _fetched(untrusted_url: str) -> http.client.HTTPResponse:
    if urlsplit(untrusted_url).scheme.lower() not in ("http", "https"):
        raise Failure("INVALID_VALUE", "url", untrusted_url)
    opener = request.OpenerDirector()
    for handler in (
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    try:
        found: http.client.HTTPResponse = opener.open(untrusted_url, timeout=_PATIENCE)
    except (URLError, OSError, http.client.HTTPException, ValueError) as error:
        raise Failure("IMPORT_ERROR", f"{untrusted_url}: {error}") from error
    return found


class _Redirects(request.HTTPRedirectHandler):
    """Redirections to where the web is alone: the opener knows no other scheme."""
