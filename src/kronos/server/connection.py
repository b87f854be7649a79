"""One client's connection: HTTP/1.x requests in order, one reply each, and the hand-over to doors that want it all.

Requests of one connection are served one after the other, also when the client sent several ahead: their effects then
have the order in which they were sent, and at most one reply per connection waits in memory for a slow reader.

When the client goes while its call is awaited, the call's awaitable is cancelled. A waiting event call ends with that;
work that a thread has begun goes on to its end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Awaitable
from typing import Any, Final

from kronos.dispatch.call import Origin
from kronos.server import compression
from kronos.server.reading import BETWEEN, BODY, DETACHED, DISCARD, DUPLEX, HELD, HTTP, RequestReader, Shared
from kronos.server.replies import CONTINUE, reply_bytes, reply_to_error, reply_to_missing
from kronos.server.routing import Later, OnLoop, OnThread, Page, Reply, Request, error_page
from kronos.server.streams import BlockingStream, Duplex, PlainStream

log = logging.getLogger(__name__)

_LOOPBACK: Final = ("127.0.0.1", "::1")
_PAUSE_AT: Final = 16
"""Requests sent ahead of their replies, before reading pauses."""


class Connection(RequestReader):
    """A connection without TLS."""

    is_tls = False

    __slots__ = (
        "_transport",
        "_entered",
        "_busy",
        "_queue",
        "_task",
        "_reading_paused",
        "_writing_paused",
        "_owes_continue",
        "_lingers",
        "_unsent_before",
        "_progress",
        "_taker",
        "_detached",
        "_duplex",
    )

    def __init__(self, shared: Shared, local: bool) -> None:
        super().__init__(shared, Origin(local, "", self.is_tls, ""))
        self._transport: Any = None
        self._entered = False
        # Requests read and not yet answered
        self._busy = False
        self._queue: deque[Request] = deque()
        self._task: asyncio.Future[Any] | None = None
        self._reading_paused = False
        self._writing_paused = False
        self._owes_continue = False
        self._lingers = False
        self._unsent_before = 0
        self._progress = shared.now
        # For doors that take over
        self._taker: Request | None = None
        self._detached: socket.socket | None = None
        self._duplex: Duplex | None = None

    # --- the loop's side ---------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        peer = transport.get_extra_info("peername")
        address = "" if self._origin.local or not peer else str(peer[0]).removeprefix("::ffff:")
        self._origin = Origin(self._origin.local, address, self.is_tls, "")
        self._since = self._shared.now
        shut = not (self._shared.plain or self.is_tls or self._origin.local)
        shut |= not (self._shared.remote or self._origin.local or address in _LOOPBACK)
        if shut or self._shared.stopping or not self._shared.gate.enter(address):
            self._transport.abort()
            return
        self._entered = True
        self._shared.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.connections.discard(self)
        if self._mode == DETACHED:
            self._start_thread()
            return
        self._mode = DISCARD
        self._queue.clear()
        if self._duplex is not None:
            self._duplex.end()  # its door reads what came before the end, and ends by itself
        elif self._task is not None:
            self._task.cancel()
        self._leave()

    def _leave(self) -> None:
        if self._entered:
            self._entered = False
            self._shared.gate.leave(self._origin.address)

    def eof_received(self) -> bool:
        if self._duplex is not None:
            self._duplex.end()
        return False  # the transport closes once it has written what it holds

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._duplex is not None:
            self._duplex.pause_writing(True)

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._duplex is not None:
            self._duplex.pause_writing(False)
        elif self._taker is not None:
            self._take_over(self._taker)
        elif self._busy and self._task is None:
            self._replied()
            self._serve_queue()

    def data_received(self, data: bytes) -> None:
        if self._mode == HTTP:
            self._parse(data)
        elif self._mode == DUPLEX:
            assert self._duplex is not None
            self._duplex.feed(data)
        elif self._mode == HELD:
            self._arrived += data

    # --- the reader's side -------------------------------------------------------------------------------------

    def _accept(self, request: Request) -> None:
        if not self._busy:
            self._serve(request)
            return
        self._queue.append(request)
        if len(self._queue) > self._limits.pipelined:
            self._mode = DISCARD
            self._transport.abort()
        elif len(self._queue) >= _PAUSE_AT:
            self._pause_reading(True)

    def _hold(self, request: Request) -> None:
        self._pause_reading(True)
        if self._busy:
            self._queue.append(request)
        else:
            self._take_over(request)

    def _refuse(self, reply: Reply) -> None:
        """The client's remaining bytes are read and thrown away, so that it gets to see the reply."""
        self._mode = DISCARD
        self._lingers = True
        request = Request(b"GET", b"", {}, self._origin, False)
        request.door = Page(lambda _request: reply)
        if self._busy:
            self._queue.append(request)
        else:
            self._serve(request)

    def _missing(self, request: Request) -> Reply:
        address = self._transport.get_extra_info("sockname")
        own = address[0] if isinstance(address, tuple) else "localhost"
        return reply_to_missing(request, self._shared.doors, self._shared.https_port, own)

    def _continue_expected(self) -> None:
        if self._busy:
            self._owes_continue = True
        else:
            self._transmit((CONTINUE,))

    # --- serving -----------------------------------------------------------------------------------------------

    def _serve(self, request: Request) -> None:
        self._busy = True
        door = request.door
        assert isinstance(door, Page)
        try:
            reply = door.handle(request)
        except Exception as error:  # noqa: BLE001  # a defect of one door must not end the connection of another
            reply = reply_to_error(error, request)
        if type(reply) is Reply:
            self._send(request, reply)
        elif type(reply) is Later:
            self._task = reply.future
            reply.future.add_done_callback(lambda _: self._end_wait(request, reply))
        else:
            assert not isinstance(reply, Reply)
            self._task = self._shared.loop.create_task(self._await(request, reply))

    def _end_wait(self, request: Request, later: Later[Any]) -> None:
        if later.future.cancelled() or self._transport.is_closing():
            return  # the client has gone, maybe between the future's end and this
        try:
            reply = later.reply(later.future)
        except Exception as error:  # noqa: BLE001  # whatever it is, the client is answered
            reply = reply_to_error(error, request)
        self._task = None
        self._send(request, reply)
        self._serve_queue()

    async def _await(self, request: Request, pending: Awaitable[Reply]) -> None:
        try:
            reply = await pending
        except Exception as error:  # noqa: BLE001  # whatever it is, the client is answered
            reply = reply_to_error(error, request)
        self._task = None
        self._send(request, reply)
        self._serve_queue()

    def _send(self, request: Request, reply: Reply) -> None:
        length = sum(map(len, reply.body))
        if length >= compression.FROM and compression.wanted(request, reply):
            self._task = self._shared.loop.create_task(self._await(request, compression.compress(reply)))
            return
        if self._shared.stopping:
            request.keep_alive = False
        self._transmit(reply_bytes(request, reply, length, self._shared.date))
        if not request.keep_alive:
            self._end_connection()
        elif not self._writing_paused:
            self._replied()

    def _replied(self) -> None:
        self._busy = False
        if self._phase == BETWEEN:
            self._since = self._shared.now

    def _serve_queue(self) -> None:
        queue = self._queue
        while queue and not self._busy:
            request = queue.popleft()
            if isinstance(request.door, Page):
                self._serve(request)
            else:
                self._take_over(request)
        if not queue and self._mode == HTTP:
            self._pause_reading(False)
            if self._owes_continue and not self._busy:
                self._owes_continue = False
                self._transmit((CONTINUE,))

    def _end_connection(self) -> None:
        self._mode = DISCARD
        self._queue.clear()
        if not self._lingers:
            self._close()
            return
        self._since = self._shared.now
        self._pause_reading(False)
        self._shut_writing()

    def _pause_reading(self, paused: bool) -> None:
        if paused == self._reading_paused or self._transport.is_closing():
            return
        self._reading_paused = paused
        if paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # --- bytes out: what TLS does otherwise --------------------------------------------------------------------

    def _transmit(self, parts: tuple[bytes, ...]) -> None:
        if len(parts) == 1:
            self._transport.write(parts[0])
        else:
            self._transport.writelines(parts)

    def _unsent(self) -> int:
        """Bytes written and not yet taken by the client."""
        return int(self._transport.get_write_buffer_size())

    def _close(self) -> None:
        self._transport.close()

    def _shut_writing(self) -> None:
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def _stream(self, sock: socket.socket) -> BlockingStream:
        return PlainStream(sock, self._arrived)

    # --- doors that take over ----------------------------------------------------------------------------------

    def _take_over(self, request: Request) -> None:
        self._busy = True
        door = request.door
        if isinstance(door, OnLoop):
            self._duplex = Duplex(
                self._arrived, lambda data: self._transmit((data,)), self._close, self._pause_reading
            )
            self._duplex.pause_writing(self._writing_paused)
            self._mode = DUPLEX
            self._pause_reading(False)
            self._task = self._shared.loop.create_task(self._run_on_loop(door, request, self._duplex))
            return
        if self._shared.stopping or len(self._shared.streams) >= self._limits.threads:
            self._busy = False
            self._refuse(error_page(503, "too many transfers"))
            return
        self._taker = request
        if (
            self._unsent()
        ):  # replies to earlier requests; `resume_writing` comes back here when they have gone
            self._transport.set_write_buffer_limits(0)
            return
        self._mode = DETACHED
        sock: socket.socket = self._transport.get_extra_info("socket")
        self._detached = socket.socket(fileno=os.dup(sock.fileno()))
        self._transport.abort()  # closes the loop's descriptor; the connection lives on in the copy

    async def _run_on_loop(self, door: OnLoop, request: Request, duplex: Duplex) -> None:
        try:
            await door.handle(request, duplex)
        except ConnectionError:
            pass
        except Exception:  # a defect of one door ends its connection alone
            log.exception("the door of %s failed", request.path)
        finally:
            self._close()

    def _start_thread(self) -> None:
        request = self._taker
        assert request is not None
        assert self._detached is not None
        self._detached.setblocking(True)
        stream = self._stream(self._detached)
        self._shared.streams.add(stream)
        name = f"door {request.path}"
        threading.Thread(target=self._run_thread, args=(request, stream), name=name, daemon=True).start()

    def _run_thread(self, request: Request, stream: BlockingStream) -> None:
        assert isinstance(request.door, OnThread)
        try:
            os.nice(request.door.niceness)  # Linux's: of this thread alone
            request.door.handle(request, stream)
        except ConnectionError:
            pass
        except Exception:  # a defect of one door ends its connection alone
            log.exception("the door of %s failed", request.path)
        finally:
            stream.close()
            try:
                self._shared.loop.call_soon_threadsafe(self._thread_ended, stream)
            except RuntimeError:
                pass  # the loop was closed first

    def _thread_ended(self, stream: BlockingStream) -> None:
        self._shared.streams.discard(stream)
        self._leave()

    # --- the server's side -------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        return self._phase <= BETWEEN and not self._busy and self._mode == HTTP

    @property
    def idle_since(self) -> float:
        return self._since

    def stop(self) -> None:
        """End the connection once the reply to what it has asked is out; a door's, which may have no end, at once."""
        if self._mode == DUPLEX:
            self._close()
        elif not self._busy:
            self._mode = DISCARD
            self._close()

    def abort(self) -> None:
        self._transport.abort()

    def check(self) -> int:
        """Close the connection when its client took too long. Returns the bytes that it has yet to read."""
        now, limits = self._shared.now, self._limits
        unsent = self._unsent()
        if unsent != self._unsent_before or not unsent:
            self._unsent_before = unsent
            self._progress = now
        elif now - self._progress > limits.stalled:
            self.abort()
        waited = now - self._since
        if self._mode == DISCARD and self._lingers:
            late = waited > limits.linger
        elif self._busy:
            late = False
        elif self._phase == BODY:
            late = waited > limits.body_time + self._body_size / limits.body_rate
        else:
            late = waited > (limits.first_request, limits.idle, limits.head_time)[self._phase]
        if late:
            self.abort()
        return unsent
