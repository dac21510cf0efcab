"""What goes wrong between one instance of the app and the table, the queues and Graph.

Every call may fail before it takes effect or after, take effect late, be slow, or be the one at which the process dies.
What is on its way when a process dies still arrives: the systems around it know nothing of its death.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import batched
from random import Random

import httpx

from sandbox.memory import LeaseLostError, MemoryTable, Message
from sandbox.simulation.plan import Rates
from sandbox.virtual.storage import VirtualQueues
from shared.domain.reset import Event
from shared.domain.story import lines, passage
from shared.messages.queues import TRIGGERING
from shared.state.table import AT_ONCE, Change, Conflict, Row, each_of

ORDERS = 4
"""So many times likelier than other calls to Graph are orders of resets to meet trouble."""

WRITES = "writes"
"""What is told of a call to Graph that orders something."""

MOST_CALLS = 20_000
"""More than this no instance needs in an hour: it tries the same again and again."""

Spawn = Callable[[Coroutine[object, object, None]], object]
"""Lets something go on whatever becomes of whoever started it."""


class StorageDownError(OSError):
    """A table or a queue did not answer, or said that it could not."""


class Fate(StrEnum):
    """What becomes of a call."""

    WELL = "well"
    FAILS = "fails before it takes effect"
    ACTS = "takes effect, and its answer is lost"
    LINGERS = "fails, and takes effect later all the same"
    CONFLICTS = "meets a conflict that is none"
    ACTS_CONFLICTS = "takes effect, and answers with a conflict"
    SLOW = "is slow"
    DIES = "the process dies before"
    ACTS_DIES = "the process dies after"
    LINGERS_DIES = "the process dies while it is on its way"
    AMBUSHED = "waits, and a command to stop it comes first"
    REPEATS = "puts its message on the queue twice"
    SHOWS_LATE = "shows its message late"
    LEASES_SHORT = "hides its message for seconds only"


_FAILURES = (Fate.FAILS, Fate.ACTS, Fate.LINGERS)
_CONFLICTS = (Fate.CONFLICTS, Fate.ACTS_CONFLICTS)
_DEATHS = (Fate.DIES, Fate.ACTS_DIES, Fate.LINGERS_DIES)
LATE = (Fate.SLOW, Fate.LINGERS, Fate.LINGERS_DIES)
"""What takes effect at another time than it was sent."""


@dataclass
class Trouble:
    """The trouble of one instance. `note` is told of everything that goes wrong, and counts it."""

    chance: Random
    rates: Rates
    calm: Callable[[], bool]
    die: Callable[[], None]
    spawn: Spawn
    note: Callable[[str, Fate, str], None]
    dead: bool = False
    hour: float = 0.0
    calls: int = 0
    """Within this hour."""
    most_calls: int = MOST_CALLS

    def fate(self, kind: str, rate: float, fates: Sequence[Fate], about: str = "") -> Fate:
        """What becomes of the next call of a dead instance is death; else mostly nothing."""
        if self.dead:
            raise asyncio.CancelledError("a dead process calls nobody")
        hour = asyncio.get_running_loop().time() // 3600
        if hour != self.hour and self.calls <= self.most_calls:
            self.calls, self.hour = 0, hour
        self.calls += 1
        if self.calls > self.most_calls:
            raise RuntimeError("it goes round in circles")
        if self.calm():
            return Fate.WELL
        dice, rates = self.chance.random(), self.rates
        for share, found in ((rate, fates), (rates.death, _DEATHS), (rates.slow, (Fate.SLOW,))):
            if found and dice < share:
                fate = self.chance.choice(found)
                self.note(kind, fate, about)
                return fate
            dice -= share
        return Fate.WELL

    def also(self, kind: str, fate: Fate, rate: float) -> bool:
        """Whether this happens to a call besides."""
        if self.calm() or self.chance.random() >= rate:
            return False
        self.note(kind, fate, "")
        return True

    async def pause(self, longest: float) -> None:
        await asyncio.sleep(self.chance.uniform(0.5, longest))

    async def last_words(self) -> None:
        """The process ends here: nothing of it goes on."""
        self.die()
        raise asyncio.CancelledError("the process died")

    async def call[T](self, fate: Fate, effect: Callable[[], Awaitable[T]], down: Exception, linger: float) -> T:
        """Make a call with this fate. Raises `down` where it fails, and Conflict where it conflicts."""
        match fate:
            case Fate.WELL:
                return await effect()
            case Fate.SLOW:
                await self.pause(linger)
                found = await effect()
                await self.pause(linger)
                return found
            case Fate.FAILS:
                await self.pause(5)
                raise down
            case Fate.CONFLICTS:
                raise Conflict("0: this is none")
            case Fate.DIES:
                await self.last_words()
            case Fate.LINGERS | Fate.LINGERS_DIES:
                self.spawn(self._later(effect, self.chance.uniform(0.5, linger)))
                if fate is Fate.LINGERS_DIES:
                    await self.last_words()
                raise down
            case _:
                await effect()
        if fate is Fate.ACTS_DIES:
            await self.last_words()
        raise Conflict("0: its own") if fate is Fate.ACTS_CONFLICTS else down

    async def _later[T](self, effect: Callable[[], Awaitable[T]], seconds: float) -> None:
        await asyncio.sleep(seconds)
        try:
            await effect()
        except (Conflict, LeaseLostError, httpx.HTTPError):
            return  # nobody hears of it


@dataclass
class TroubledTable:
    """`shared.state.table.Table` as one instance reaches it."""

    table: MemoryTable
    trouble: Trouble
    delay: Callable[[], float]
    calls: Counter[str]
    committed: Callable[[Sequence[Change]], None]
    """Told of every transaction at the moment it takes effect."""
    refused: Callable[[Exception], None]
    """Told of what storage would never take."""
    ambush: Callable[[Sequence[Change]], None]
    """Gives a command that may stop the send that this transaction commits."""
    outage: Callable[[], bool]
    """Whether the table cannot be reached."""

    async def get(self, key: str) -> Row | None:
        self.calls["table get"] += 1
        await self._reach(key)
        fate = self.trouble.fate("table read", self.trouble.rates.storage / 3, (Fate.FAILS,), key)
        return await self.trouble.call(fate, lambda: self._get(key), _down(), 20)

    async def _get(self, key: str) -> Row | None:
        await asyncio.sleep(self.delay())
        return await self.table.get(key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Row]:
        if not self.trouble.calm():
            return await each_of(self.get, keys)
        self.calls["table get"] += len(keys)
        found: dict[str, Row] = {}
        for some in batched(keys, AT_ONCE, strict=False):  # the same, and quicker to play
            await self._reach(some[0])
            self.trouble.fate("table read", 0, ())
            await asyncio.sleep(self.delay())
            found |= await self.table.get_many(some)
        return found

    async def scan(
        self, first: str, before: str, where: Mapping[str, str] | None = None, limit: int | None = None
    ) -> AsyncIterator[Row]:
        self.calls["table scan"] += 1
        await self._reach(first)
        fate = self.trouble.fate("table read", self.trouble.rates.storage / 3, (Fate.FAILS,), first)
        await self.trouble.call(fate, lambda: asyncio.sleep(self.delay()), _down(), 20)
        async for row in self.table.scan(first, before, where, limit):
            yield row

    async def commit(self, changes: Sequence[Change]) -> None:
        self.calls["table commit"] += 1
        about = " ".join(change.key for change in changes[:6])
        await self._reach(about)
        fate = self.trouble.fate("table commit", self.trouble.rates.storage, (*_FAILURES, *_CONFLICTS), about)
        await self.trouble.call(fate, lambda: self._commit(changes), _down(), 30)

    async def _reach(self, about: str) -> None:
        if self.outage():
            self.trouble.note("table call", Fate.FAILS, f"outage: {about}")
            await self.trouble.pause(5)
            raise _down()

    async def _commit(self, changes: Sequence[Change]) -> None:
        trouble = self.trouble
        sends = any(change.key.startswith("sent|") for change in changes)
        if sends and trouble.also("send", Fate.AMBUSHED, trouble.rates.ambush):
            self.ambush(changes)
            await trouble.pause(25)
        await asyncio.sleep(self.delay())
        try:
            await self.table.commit(changes)
        except (ValueError, TypeError) as error:
            self.refused(error)
            raise
        self.committed(changes)
        await asyncio.sleep(self.delay())


def _down() -> Exception:
    return StorageDownError("storage did not answer")


@dataclass
class TroubledQueues:
    """The queues as one instance reaches them, as sender and as the host that listens."""

    queues: VirtualQueues
    trouble: Trouble

    async def send(self, queue: str, body: str) -> None:
        rates = self.trouble.rates
        fate = self.trouble.fate("queue send", rates.storage + rates.sends, _FAILURES, queue)
        await self.trouble.call(fate, lambda: self._send(queue, body), _down(), 30)

    async def _send(self, queue: str, body: str) -> None:
        trouble = self.trouble
        if queue in TRIGGERING and trouble.also("queue send", Fate.SHOWS_LATE, trouble.rates.repeat / 2):
            trouble.spawn(self._send_later(queue, body, trouble.chance.uniform(5, 900)))
            return
        await self.queues.send(queue, body)
        if trouble.also("queue send", Fate.REPEATS, trouble.rates.repeat):
            await self.queues.send(queue, body)

    async def _send_later(self, queue: str, body: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.queues.send(queue, body)

    async def receive(self, queue: str, limit: int, lease: timedelta) -> list[Message]:
        self.trouble.fate("queue receive", 0, ())
        if self.trouble.also("queue receive", Fate.LEASES_SHORT, self.trouble.rates.lease):
            lease = timedelta(seconds=self.trouble.chance.uniform(1, 20))
        return await self.queues.receive(queue, limit, lease)

    async def delete(self, queue: str, message: Message) -> None:
        fate = self.trouble.fate("queue delete", self.trouble.rates.storage, (Fate.FAILS, Fate.ACTS), queue)
        await self.trouble.call(fate, lambda: self.queues.delete(queue, message), _down(), 30)

    async def hide(self, queue: str, message: Message, time: timedelta) -> Message:
        fate = self.trouble.fate("queue update", self.trouble.rates.storage, (Fate.FAILS, Fate.ACTS), queue)
        return await self.trouble.call(fate, lambda: self.queues.hide(queue, message, time), _down(), 30)

    async def visible(self, queue: str) -> None:
        await self.queues.visible(queue)


@dataclass
class TroubledGraph(httpx.AsyncBaseTransport):
    """The way to the simulated tenant."""

    tenant: httpx.AsyncBaseTransport
    trouble: Trouble
    outage: Callable[[], bool]
    counts: Counter[str] = field(default_factory=Counter)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The tenant's answer. Raises httpx.ConnectError or httpx.ReadError where there is none."""
        content = await request.aread()
        orders = b"/wipe" in content
        rate = self.trouble.rates.graph * (ORDERS if orders else 1)
        path = request.url.path
        writes = orders or b"/syncDevice" in content or path.endswith(("/wipe", "/syncDevice"))
        about = WRITES if writes else path
        fate = self.trouble.fate("graph call", rate, (*_FAILURES, Fate.ACTS_DIES), about)
        if self.outage():
            self.trouble.note("graph call", Fate.FAILS, "outage")
            await self.trouble.pause(5)
            if self.trouble.chance.random() < 0.5:
                raise httpx.ConnectError("Graph is away", request=request)
            return httpx.Response(503, content=b"<html>away</html>", request=request)
        if fate is Fate.FAILS and self.trouble.chance.random() < 0.5:
            raise httpx.ConnectError("no connection", request=request)

        async def send() -> httpx.Response:
            again = httpx.Request(request.method, request.url, headers=request.headers, content=content)
            return await self.tenant.handle_async_request(again)

        return await self.trouble.call(fate, send, httpx.ReadError("no answer", request=request), 100)


@dataclass(frozen=True)
class Noted:
    """One thing that happened, for the story of a run."""

    at: datetime
    who: str
    what: str | Event

    @property
    def text(self) -> str:
        if isinstance(self.what, str):
            return self.what
        words = " ".join(line.strip() for line in lines([passage(self.what)]))
        return f"  {words} ({self.what.request}, {self.what.seq})"
