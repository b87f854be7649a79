"""The doors of XML-RPC and JSON-RPC: from a request's body through the pipeline to the reply's body."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

from kronos.datamodel.errors import Failure
from kronos.dispatch.answer import Answer
from kronos.dispatch.call import Origin
from kronos.dispatch.pipeline import Fault
from kronos.server import jsonrpc, piecewise, xmlrpc
from kronos.server.routing import Doors, Later, Page, Reply, Request, error_page

log = logging.getLogger(__name__)

XML_PATHS: Final = ("/", "/RPC2", "/xmlrpc")
JSON_PATHS: Final = ("/jsonrpc", "/json")

Parsed = TypeVar("Parsed")


class Road(Protocol):
    """What the doors need of `kronos.dispatch.pipeline.Pipeline`."""

    def call(self, origin: Origin, name: str, args: Sequence[object]) -> Answer | Awaitable[Answer]: ...

    def settled(self) -> bool: ...

    async def settle(self) -> None: ...


def add_doors(doors: Doors, road: Road, inline_body: int) -> None:
    """Serve both protocols on their paths. A body above `inline_body` bytes is parsed on a thread, off the loop."""
    xml, json = XmlDoor(road, inline_body), JsonDoor(road, inline_body)
    for path in XML_PATHS:
        doors.add("POST", path, Page(xml.handle))
    for path in JSON_PATHS:
        doors.add("POST", path, Page(json.handle))


def _defect(name: str, error: Exception) -> Failure:
    # Neither the arguments nor the traceback's values are logged: they may hold passwords.
    log.error("%s failed", name, exc_info=error)
    return Failure("INTERNAL_ERROR", f"{type(error).__name__}: {error}")


async def _on_thread(parse: Callable[[bytes], Parsed], body: bytes) -> Parsed:
    return await asyncio.get_running_loop().run_in_executor(None, parse, body)


def _xml(body: bytes) -> Reply:
    return Reply(200, (body,), xmlrpc.CONTENT_TYPE)


def _json(*body: bytes) -> Reply:
    return Reply(200, body, jsonrpc.CONTENT_TYPE)


class XmlDoor:
    """XML-RPC."""

    def __init__(self, road: Road, inline_body: int) -> None:
        self._road = road
        self._call = road.call
        self._inline_body = inline_body

    def handle(self, request: Request) -> Reply | Awaitable[Reply]:
        if len(request.body) > self._inline_body:
            return self._large(request)
        try:
            name, args = xmlrpc.parse(request.body)
        except (xmlrpc.BadRequest, Failure) as error:
            return self._refused(error)
        return self._serve(request.origin, name, args)

    async def _large(self, request: Request) -> Reply:
        try:
            name, args = await _on_thread(xmlrpc.parse, request.body)
        except (xmlrpc.BadRequest, Failure) as error:
            return self._refused(error)
        reply = self._serve(request.origin, name, args)
        return reply if isinstance(reply, Reply) else await reply

    def _serve(self, origin: Origin, name: str, args: list[object]) -> Reply | Awaitable[Reply]:
        try:
            answer = self._call(origin, name, args)
            if isinstance(answer, Answer):
                if piecewise.is_long(answer, xml=True):
                    return self._later(name, piecewise.at_hand(answer))
                reply = _answer_xml(answer)
                return self._settled(name, reply) if answer.lazy and not self._road.settled() else reply
        except Exception as error:  # noqa: BLE001  # whatever a handler does, its client gets a reply
            return self._failed(name, error)
        if isinstance(answer, asyncio.Future):
            return Later(answer, lambda done: self._done(name, done))
        return self._later(name, answer)

    def _done(self, name: str, answer: asyncio.Future[Answer]) -> Reply:
        try:
            return _answer_xml(answer.result())
        except Exception as error:  # noqa: BLE001  # whatever it is, the client is answered
            return self._failed(name, error)

    async def _later(self, name: str, pending: Awaitable[Answer]) -> Reply:
        try:
            answer = await pending
            if piecewise.is_long(answer, xml=True):
                await piecewise.ready(answer, xml=True)
            reply = _answer_xml(answer)
            if answer.lazy and not self._road.settled():
                await self._road.settle()
            return reply
        except Exception as error:  # noqa: BLE001  # whatever it is, the client is answered
            return self._failed(name, error)

    async def _settled(self, name: str, reply: Reply) -> Reply:
        try:
            await self._road.settle()
            return reply
        except Failure as error:
            return self._failed(name, error)

    def _failed(self, name: str, error: Exception) -> Reply:
        if isinstance(error, Fault):
            return _xml(xmlrpc.fault(str(error)))
        failure = error if isinstance(error, Failure) else _defect(name, error)
        return _xml(xmlrpc.failure(failure.description))

    def _refused(self, error: xmlrpc.BadRequest | Failure) -> Reply:
        if isinstance(error, Failure):
            return _xml(xmlrpc.failure(error.description))
        return error_page(500, str(error))


def _answer_xml(answer: Answer) -> Reply:
    return Reply(200, (xmlrpc.SUCCESS_HEAD, *answer.xml_parts(), xmlrpc.SUCCESS_TAIL), xmlrpc.CONTENT_TYPE)


def _answer_json(call: jsonrpc.Call, answer: Answer) -> Reply:
    return Reply(200, jsonrpc.success(call, answer.json_parts()), jsonrpc.CONTENT_TYPE)


class JsonDoor:
    """JSON-RPC 1.0 and 2.0."""

    def __init__(self, road: Road, inline_body: int) -> None:
        self._road = road
        self._call = road.call
        self._inline_body = inline_body

    def handle(self, request: Request) -> Reply | Awaitable[Reply]:
        if len(request.body) > self._inline_body:
            return self._large(request)
        try:
            parsed = jsonrpc.parse(request.body)
        except (jsonrpc.Malformed, Failure) as error:
            return self._refused(error)
        if isinstance(parsed, list):
            return self._batch(request.origin, parsed)
        return self._serve(request.origin, parsed)

    async def _large(self, request: Request) -> Reply:
        try:
            parsed = await _on_thread(jsonrpc.parse, request.body)
        except (jsonrpc.Malformed, Failure) as error:
            return self._refused(error)
        if isinstance(parsed, list):
            return await self._batch(request.origin, parsed)
        reply = self._serve(request.origin, parsed)
        return reply if isinstance(reply, Reply) else await reply

    def _serve(self, origin: Origin, call: jsonrpc.Call) -> Reply | Awaitable[Reply]:
        try:
            answer = self._call(origin, call.name, call.args)
            if isinstance(answer, Answer):
                if piecewise.is_long(answer, xml=False):
                    return self._later(call, piecewise.at_hand(answer))
                reply = _answer_json(call, answer)
                return self._settled(call, reply) if answer.lazy and not self._road.settled() else reply
        except Exception as error:  # noqa: BLE001  # whatever a handler does, its client gets a reply
            return self._failed(call, error)
        if isinstance(answer, asyncio.Future):
            return Later(answer, lambda done: self._done(call, done))
        return self._later(call, answer)

    def _done(self, call: jsonrpc.Call, answer: asyncio.Future[Answer]) -> Reply:
        try:
            return _answer_json(call, answer.result())
        except Exception as error:  # noqa: BLE001  # whatever it is, the client is answered
            return self._failed(call, error)

    async def _later(self, call: jsonrpc.Call, pending: Awaitable[Answer]) -> Reply:
        try:
            answer = await pending
            if piecewise.is_long(answer, xml=False):
                await piecewise.ready(answer, xml=False)
            reply = _answer_json(call, answer)
            if answer.lazy and not self._road.settled():
                await self._road.settle()
            return reply
        except Exception as error:  # noqa: BLE001  # whatever it is, the client is answered
            return self._failed(call, error)

    async def _settled(self, call: jsonrpc.Call, reply: Reply) -> Reply:
        try:
            await self._road.settle()
            return reply
        except Failure as error:
            return self._failed(call, error)

    async def _batch(self, origin: Origin, calls: list[jsonrpc.Call | jsonrpc.Malformed]) -> Reply:
        replies: list[bytes] = []
        for call in calls:
            if isinstance(call, jsonrpc.Malformed):
                replies.append(call.reply())
                continue
            reply = self._serve(origin, call)
            done = reply if isinstance(reply, Reply) else await reply
            replies.append(b"".join(done.body))
        return _json(b"[", b",".join(replies), b"]")

    def _failed(self, call: jsonrpc.Call, error: Exception) -> Reply:
        if isinstance(error, Fault):
            return _json(jsonrpc.fault(call, str(error)))
        failure = error if isinstance(error, Failure) else _defect(call.name, error)
        return _json(jsonrpc.failure(call, failure.description))

    def _refused(self, error: jsonrpc.Malformed | Failure) -> Reply:
        if isinstance(error, Failure):
            # It was raised before the call's id was read.
            return _json(jsonrpc.failure(jsonrpc.Call("", [], b"null", 2), error.description))
        return _json(error.reply())
