"""The gate: how many passwords are checked at a time, in whose turn, and how long a wrong one waits for its answer.

A storm of guesses must not keep honest people out, and must learn nothing: neither by what it is told nor by when.
Root on the Unix socket does not come through here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

from kronos.datamodel.errors import Failure

log = logging.getLogger(__name__)
T = TypeVar("T")

FAILED_LOGIN_DELAY: Final = 5.0
"""Seconds from the beginning of a check to the news that it failed, whatever it failed of."""
LONGEST_DELAY: Final = 60.0
FREE_FAILURES: Final = 5
"""Wrong passwords for one name from one address before its next guess has to wait for the answer to the last."""
FREE_OF_ADDRESS: Final = 50
"""Wrong passwords from one address, for whatever names, before all its guesses wait so."""
MEMORY: Final = 600.0
"""Seconds after which a failure is forgotten."""
PER_ADDRESS: Final = 2
"""Checks at a time for one address."""
WAITING: Final = 32
"""Logins of one name from one address that may wait; more are refused unasked."""
WAITING_OF_ADDRESS: Final = 256
"""Names of one address whose logins may wait: as many people may be behind it."""
_MOST_REMEMBERED: Final = 4096


class _Crowded(Exception):
    """Too many wait for this already."""


class Turns:
    """At most `limit()` at a time, the others in the order in which they came. On the loop alone."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def idle(self) -> bool:
        return not self._inside and not self._waiting

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def __aenter__(self) -> None:
        if self._inside < max(1, self._limit()) and not self._waiting:
            self._inside += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # its turn had come just now: the next one's
                self._leave()
            else:
                with suppress(ValueError):
                    self._waiting.remove(turn)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self._inside -= 1
        while self._waiting and self._inside < max(1, self._limit()):
            turn = self._waiting.popleft()
            if not turn.done():
                self._inside += 1
                turn.set_result(None)


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last: float = 0.0


@dataclass(frozen=True, slots=True)
class Guesser:
    """Whose failures are counted together in FAILED_LOGIN_ATTEMPTS."""

    user: str
    originator: str
    user_agent: str
    address: str


@dataclass(slots=True)
class Tally:
    """Failed logins since the last report."""

    total: int = 0
    known: Counter[Guesser] = field(default_factory=Counter)
    last: dict[Guesser, float] = field(default_factory=dict)

    def add(self, guesser: Guesser, moment: float) -> None:
        self.total += 1
        if guesser in self.known or len(self.known) < _MOST_REMEMBERED:
            self.known[guesser] += 1
            self.last[guesser] = moment


class Gate:
    """Lets passwords be checked. Everything but the checks themselves is on the loop."""

    def __init__(
        self,
        executor: Executor,
        local_limit: Callable[[], int],
        external_limit: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._executor = executor
        self._local = Turns(local_limit)
        self._external = Turns(external_limit)
        self._turns: dict[Hashable, Turns] = {}
        self._failures: OrderedDict[Hashable, _Failures] = OrderedDict()
        self.tally = Tally()
        self.on_failure: Callable[[], None] = lambda: None

    async def check(self, guesser: Guesser, work: Callable[[], T], *, external: bool) -> T:
        """What `work` returns, on a thread. A Failure of it is raised when its time has come.

        The check of a name comes in turn with others of its address, and an address with other addresses: who sends
        ten thousand guesses waits behind them himself.
        """
        place = _place(guesser.address)
        account = (place, guesser.user)
        begun = self._clock()
        try:
            async with self._turn(account, 1, WAITING):
                async with self._turn(place, PER_ADDRESS, WAITING_OF_ADDRESS):
                    begun, answer = await self._ask(work, external)
                    if not isinstance(answer, Failure):
                        self._failures.pop(account, None)
                        return answer
                    failure = answer
                    self._note(guesser, failure)
                    if self._count(place) > FREE_OF_ADDRESS:
                        await self._wait(begun + FAILED_LOGIN_DELAY)
                if self._count(account) > FREE_FAILURES:  # its next guess waits as long as this answer
                    await self._wait(begun + self._delay(account))
        except _Crowded:
            failure = Failure("SESSION_AUTHENTICATION_FAILED", guesser.user, "Too many logins at a time")
        await self._wait(begun + FAILED_LOGIN_DELAY)
        raise failure

    async def _ask(self, work: Callable[[], T], external: bool) -> tuple[float, T | Failure]:
        """When the check began, and what came of it."""
        async with self._external if external else self._local:
            begun = self._clock()
            try:
                return begun, await asyncio.get_running_loop().run_in_executor(self._executor, work)
            except Failure as failure:
                return begun, failure

    @asynccontextmanager
    async def _turn(self, key: Hashable, limit: int, most: int) -> AsyncIterator[None]:
        turns = self._turns.setdefault(key, Turns(lambda: limit))
        if turns.waiting >= most:
            raise _Crowded
        try:
            async with turns:
                yield
        finally:
            if turns.idle:
                self._turns.pop(key, None)

    async def _wait(self, until: float) -> None:
        await asyncio.sleep(max(0.0, until - self._clock()))

    def _note(self, guesser: Guesser, failure: Failure) -> None:
        moment = self._clock()
        place = _place(guesser.address)
        for key in ((place, guesser.user), place):
            found = self._failures.setdefault(key, _Failures())
            if moment - found.last > MEMORY:
                found.count = 0
            found.count += 1
            found.last = moment
            self._failures.move_to_end(key)
        while len(self._failures) > _MOST_REMEMBERED:
            self._failures.popitem(last=False)
        if failure.code == "SESSION_AUTHENTICATION_FAILED":
            self.tally.add(guesser, time.time())
            self.on_failure()

    def _count(self, key: Hashable) -> int:
        found = self._failures.get(key)
        return 0 if found is None or self._clock() - found.last > MEMORY else found.count

    def _delay(self, account: Hashable) -> float:
        beyond = max(0, self._count(account) - FREE_FAILURES)
        return min(LONGEST_DELAY, FAILED_LOGIN_DELAY * 2.0 ** min(beyond, 8))

    def report(self) -> Tally:
        """The failures since the last report; they are counted anew from here."""
        tally, self.tally = self.tally, Tally()
        return tally


def _place(address: str) -> str:
    """Where a client is: of IPv6 the network of 64 bits, since whoever has one address there has them all."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(found), 64), strict=False))
    return address
