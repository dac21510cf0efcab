"""The real parts a stage works with, built by `shared.wiring`; tests and the sandbox build others."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from shared.domain.ids import ManagedDeviceId, RequestId, UserId
from shared.domain.notices import Notice
from shared.domain.policy import Policy
from shared.messages import queues
from shared.messages.queues import DISPATCH, MAX_BODY, NOTICES, REQUESTS, Queues
from shared.pipeline.ports import Intune
from shared.state import rows
from shared.state.rows import OutboxRecord
from shared.state.store import Store
from shared.state.table import MAX_CHANGES, Change

Clock = Callable[[], datetime]
Outgoing = tuple[str, OutboxRecord]
"""An outbox row's key and what it holds."""

Shown = tuple[datetime | None, str | None, UserId | None]
"""What a list shows of a device: its last check-in, its management state, its primary user."""

MAX_ITEM = 15_000
"""Bytes of one message of a request: its outbox row escapes them once more, into at most 32 Ki characters."""
BATCH = 20
"""Devices in one dispatch message and in one `$batch`, which Graph limits to 20."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What one process knows between its invocations, and needs not survive it."""

    handled: dict[ManagedDeviceId, tuple[Shown, datetime]] = field(default_factory=dict)
    """What a list of check-ins, asked for when, showed of a device that this process handled; see `poll`."""
    booking: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Keeps apart what books Graph's budget: it would only meet its own conflicts."""
    sending: asyncio.Lock = field(default_factory=asyncio.Lock)
    """The same for what the caps count."""
    finding: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Keeps apart the look-ups of large requests: the first one's devices go out while the next one's are read."""
    taking_in: set[RequestId] = field(default_factory=set)
    """Requests that are being taken in, or stand in line for it."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything a stage may touch. Clock, ids and sleep are parts too, so that a run can be replayed."""

    store: Store
    queues: Queues
    intune: Callable[[], Awaitable[Intune]]
    """Connects at the first call, as the SDK is slow to load and many invocations never need it."""
    policy: Policy
    clock: Clock
    """Aware UTC."""
    new_id: Callable[[], str]
    """A fresh GUID each time."""
    sleep: Callable[[float], Awaitable[None]]
    """Seconds."""
    memory: Memory = field(default_factory=Memory)


def to_dispatch(at: datetime, device: ManagedDeviceId) -> Outgoing:
    """The outbox row that gives a device its turn."""
    return _outgoing(at, OutboxRecord(DISPATCH, json.dumps(device)))


def to_tell(at: datetime, notice: Notice) -> Outgoing:
    """The outbox row of a notice."""
    return _outgoing(at, OutboxRecord(NOTICES, rows.doc(notice)))


def to_requests(at: datetime, bodies: Iterable[str]) -> list[Outgoing]:
    """The outbox rows of a request of our own, in messages of at most MAX_ITEM bytes."""
    return [_outgoing(at, OutboxRecord(REQUESTS, body)) for body in bodies]


def _outgoing(at: datetime, record: OutboxRecord) -> Outgoing:
    return rows.outbox_key(at, record), record


def outbox_change(outgoing: Outgoing) -> Change:
    """The change that commits an outbox row with what caused it."""
    key, record = outgoing
    return rows.put(key, record)


async def flush(parts: Parts, outgoing: Sequence[Outgoing]) -> None:
    """Hand committed outbox rows to their queues, then drop them. A crash in between repeats messages, losing none."""
    for queue in dict.fromkeys(record.queue for _, record in outgoing):
        batch = [(key, record) for key, record in outgoing if record.queue == queue]
        for body in bodies(queue, [record.item for _, record in batch]):
            await parts.queues.send(queue, body)
        keys = list(dict.fromkeys(key for key, _ in batch))
        for start in range(0, len(keys), MAX_CHANGES):
            await parts.store.drop(keys[start : start + MAX_CHANGES])


async def each(*jobs: Callable[[], Awaitable[None]]) -> None:
    """Do every job in turn; one that fails keeps no other from its turn. Raises ExceptionGroup of what failed."""
    failed: list[Exception] = []
    for job in jobs:
        try:
            await job()
        except Exception as error:  # noqa: BLE001 - raised below, once the others had their turn
            failed.append(error)
    if failed:
        raise ExceptionGroup(f"{len(failed)} of {len(jobs)} jobs failed", failed)


def bodies(queue: str, items: Sequence[str]) -> list[str]:
    """Message texts that carry the items, in order: devices to dispatch by twenties, notices as many as fit."""
    match queue:
        case queues.DISPATCH:
            return [_array("devices", items[start : start + BATCH]) for start in range(0, len(items), BATCH)]
        case queues.NOTICES:
            packed: list[list[str]] = []
            size = MAX_BODY
            for item in items:
                if size + len(item.encode()) + 1 > MAX_BODY - 20:
                    packed.append([])
                    size = 0
                packed[-1].append(item)
                size += len(item.encode()) + 1
            return [_array("notices", some) for some in packed]
        case _:
            return list(items)


def _array(name: str, items: Sequence[str]) -> str:
    return f'{{"{name}":[{",".join(items)}]}}'
