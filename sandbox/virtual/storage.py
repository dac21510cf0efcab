"""Table and queues in memory as an app's instances reach them: every call takes a moment, and is counted and seen."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from sandbox.memory import MemoryQueues, MemoryTable, Message
from shared.state.table import AT_ONCE, Change, Row

Delay = Callable[[], float]
"""Seconds that the next call takes, one way."""


@dataclass
class VirtualTable:
    """`shared.state.table.Table` over one in memory."""

    table: MemoryTable
    delay: Delay
    calls: Counter[str]
    committed: Callable[[Sequence[Change]], None]
    """Told of every transaction at the moment it takes effect."""

    async def get(self, key: str) -> Row | None:
        self.calls["table get"] += 1
        await asyncio.sleep(self.delay())
        return await self.table.get(key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Row]:
        self.calls["table get"] += len(keys)
        for _ in range(0, len(keys), AT_ONCE):
            await asyncio.sleep(self.delay())
        return await self.table.get_many(keys)

    async def scan(
        self, first: str, before: str, where: Mapping[str, str] | None = None, limit: int | None = None
    ) -> AsyncIterator[Row]:
        self.calls["table scan"] += 1
        await asyncio.sleep(self.delay())
        async for row in self.table.scan(first, before, where, limit):
            yield row

    async def commit(self, changes: Sequence[Change]) -> None:
        self.calls["table commit"] += 1
        await asyncio.sleep(self.delay())
        await self.table.commit(changes)
        self.committed(changes)
        await asyncio.sleep(self.delay())


@dataclass
class VirtualQueues(MemoryQueues):
    """Queues whose receivers can wait for a message instead of asking again and again."""

    delay: Delay = lambda: 0.0
    calls: Counter[str] = field(default_factory=Counter)
    _changes: defaultdict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))

    async def send(self, queue: str, body: str) -> None:
        self.calls["queue send"] += 1
        await asyncio.sleep(self.delay())
        await super().send(queue, body)
        self._changes[queue].set()
        await asyncio.sleep(self.delay())

    async def receive(self, queue: str, limit: int = 32, lease: timedelta = timedelta(seconds=30)) -> list[Message]:
        self.calls["queue receive"] += 1
        await asyncio.sleep(self.delay())
        return await super().receive(queue, limit, lease)

    async def delete(self, queue: str, message: Message) -> None:
        self.calls["queue delete"] += 1
        await asyncio.sleep(self.delay())
        await super().delete(queue, message)

    async def hide(self, queue: str, message: Message, time: timedelta) -> Message:
        self.calls["queue update"] += 1
        await asyncio.sleep(self.delay())
        hidden = await super().hide(queue, message, time)
        self._changes[queue].set()
        return hidden

    async def visible(self, queue: str) -> None:
        """Come back when a message can be received: at once, when one is sent, or when it is hidden no longer."""
        while True:
            times = [message.visible_at for message in self._messages.get(queue, {}).values()]
            soonest, now = min(times, default=None), self.clock()
            if soonest is not None and soonest <= now:
                return
            self._changes[queue].clear()
            try:
                async with asyncio.timeout(None if soonest is None else (soonest - now).total_seconds()):
                    await self._changes[queue].wait()
            except TimeoutError:
                continue
