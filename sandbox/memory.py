"""The state table and the queues in memory: for tests and simulations, as strict as Azure Storage is.

What Azure refuses is refused here too, with ValueError; what Azure answers with a conflict is a Conflict. Limits: the
pages understanding-the-table-service-data-model, performing-entity-group-transactions, naming-queues-and-metadata and
put-message under learn.microsoft.com/rest/api/storageservices.
"""

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import batched
from random import Random

from sortedcontainers import SortedDict

from shared.state.table import AT_ONCE, MAX_CHANGES, Change, ChangeKind, Conflict, Row, Scalar

PAGE = 1000
"""Rows in one answer; between two of them other writers may come in."""
EARLIEST = datetime(1601, 1, 1, tzinfo=UTC)
MAX_KEY = 1024
MAX_PROPERTY = 64 * 1024
MAX_PROPERTIES = 252
MAX_ENTITY = 1024 * 1024
MAX_TRANSACTION = 4 * 1024 * 1024
INT32 = range(-(2**31), 2**31)
"""What the SDK takes for an int column."""

_FORBIDDEN_IN_KEYS = re.compile(r"[/\\#?\x00-\x1f\x7f-\x9f]")
_COLUMN = re.compile(r"[A-Za-z_]\w{0,254}")
_QUEUE_NAME = re.compile(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*")


class MemoryTable:
    """`shared.state.table.Table` in memory. Every call gives other tasks a turn before it takes effect and after it."""

    def __init__(self) -> None:
        self._rows: SortedDict[str, Row] = SortedDict()
        self._writes = 0

    async def get(self, key: str) -> Row | None:
        _check_key(key)
        await asyncio.sleep(0)
        found = self._rows.get(key)
        await asyncio.sleep(0)
        return found

    async def get_many(self, keys: Sequence[str]) -> dict[str, Row]:
        found: dict[str, Row] = {}
        for some in batched(keys, AT_ONCE, strict=False):
            for key in some:
                _check_key(key)
            await asyncio.sleep(0)
            found |= {key: self._rows[key] for key in some if key in self._rows}
            await asyncio.sleep(0)
        return found

    async def scan(
        self, first: str, before: str, where: Mapping[str, str] | None = None, limit: int | None = None
    ) -> AsyncIterator[Row]:
        wanted = (where or {}).items()
        left, start = limit, first
        while True:
            await asyncio.sleep(0)
            page: list[Row] = []
            size = PAGE if left is None else min(PAGE, left)
            after = before
            for key in self._rows.irange(start, before, inclusive=(True, False)):
                if len(page) == size:
                    after = key
                    break
                row = self._rows[key]
                if all(row.values.get(column) == value for column, value in wanted):
                    page.append(row)
            start, more = after, after < before
            for row in page:
                yield row
            if left is not None:
                left -= len(page)
            if not more or left == 0:
                return

    async def commit(self, changes: Sequence[Change]) -> None:
        if not changes:
            return
        if len(changes) > MAX_CHANGES:
            raise ValueError(f"{len(changes)} changes do not fit one entity-group transaction of {MAX_CHANGES}")
        keys = [change.key for change in changes]
        if len(set(keys)) < len(keys):
            raise ValueError("a transaction may change each row once")
        values, sizes = zip(*map(_checked, changes), strict=True)
        if sum(sizes) > MAX_TRANSACTION:
            raise ValueError("the transaction is larger than 4 MiB")
        await asyncio.sleep(0)
        for number, change in enumerate(changes):
            _check_condition(number, change, self._rows.get(change.key))
        for change, new in zip(changes, values, strict=True):
            self._apply(change, new)
        await asyncio.sleep(0)

    def _apply(self, change: Change, values: Mapping[str, Scalar]) -> None:
        if change.kind is ChangeKind.DELETE:
            del self._rows[change.key]
            return
        self._writes += 1
        self._rows[change.key] = Row(change.key, values, f'W/"{self._writes}"')

    def keys(self, prefix: str = "") -> list[str]:
        """The keys that begin so, in order: a test's view past the protocol."""
        return list(self._rows.irange(prefix, prefix + "\uffff"))

    def first(self, prefix: str) -> str | None:
        """The first of those keys; None where there are none."""
        return next(iter(self._rows.irange(prefix, prefix + "\uffff")), None)

    def row(self, key: str) -> Row | None:
        """The row with this key: a test's view past the protocol."""
        return self._rows.get(key)

    def contents(self, prefix: str = "") -> dict[str, Mapping[str, Scalar]]:
        """The columns of the rows whose keys begin so: a test's view past the protocol."""
        return {key: self._rows[key].values for key in self.keys(prefix)}


def _check_condition(number: int, change: Change, row: Row | None) -> None:
    fault = None
    if change.kind is ChangeKind.INSERT and row is not None:
        fault = "the entity exists already"
    elif change.kind in (ChangeKind.REPLACE, ChangeKind.DELETE) and row is None:
        fault = "there is no such entity"
    elif row is not None and change.etag is not None and change.etag != row.etag:
        fault = "the entity was changed since"
    if fault is not None:
        raise Conflict(f"{number}: {change.key}: {fault}")


def _checked(change: Change) -> tuple[dict[str, Scalar], int]:
    _check_key(change.key)
    if change.kind is ChangeKind.REPLACE and change.etag is None:
        raise ValueError(f"{change.key}: a replacement needs the ETag that was read")
    if len(change.values) > MAX_PROPERTIES:
        raise ValueError(f"{change.key}: more than {MAX_PROPERTIES} columns")
    values = {column: _scalar(f"{change.key}: {column}", value) for column, value in change.values.items()}
    for column in values:
        if not _COLUMN.fullmatch(column) or column in ("PartitionKey", "RowKey", "Timestamp"):
            raise ValueError(f"{change.key}: a column may not be called {column!r}")
    if (size := _size(change.key, values)) > MAX_ENTITY:
        raise ValueError(f"{change.key}: the entity is larger than 1 MiB")
    return values, size


def _check_key(key: str) -> None:
    if found := _FORBIDDEN_IN_KEYS.search(key):
        raise ValueError(f"{key!r}: a key may not contain {found[0]!r}")
    if _utf16(key) > MAX_KEY:
        raise ValueError(f"{key[:50]!r}...: the key is longer than 1 KiB")


def _scalar(name: str, value: Scalar) -> Scalar:
    match value:
        case str() if _utf16(value) > MAX_PROPERTY:
            raise ValueError(f"{name}: the text is longer than 32 Ki characters")
        case bytes() if len(value) > MAX_PROPERTY:
            raise ValueError(f"{name}: the bytes are more than 64 KiB")
        case datetime() if value.tzinfo is None:
            raise ValueError(f"{name}: the time has no time zone")
        case datetime() if value < EARLIEST:
            raise ValueError(f"{name}: the time is before the year 1601")
        case datetime():
            return value.astimezone(UTC)
        case int() if value not in INT32:
            raise ValueError(f"{name}: the number does not fit 32 bits")
        case str() | bytes() | int():
            return value
    raise TypeError(f"{name}: {type(value).__name__} is no type of a column")


def _utf16(text: str) -> int:
    return 2 * len(text) if text.isascii() else len(text.encode("utf-16-le"))


def _size(key: str, values: Mapping[str, Scalar]) -> int:
    return _utf16(key) + sum(8 + _utf16(column) + _size_of(value) for column, value in values.items())


def _size_of(value: Scalar) -> int:
    match value:
        case str():
            return 4 + _utf16(value)
        case bytes():
            return 4 + len(value)
        case _:
            return 8


@dataclass(slots=True)
class Message:
    """A message as a receiver gets it. `receipt` names this lease: a later one makes it void."""

    id: int
    content: str
    """As it lies on the queue: base64."""
    dequeue_count: int = 0
    receipt: str = ""
    visible_at: datetime = EARLIEST
    expires_at: datetime | None = None
    """None: never."""

    @property
    def body(self) -> str:
        return base64.b64decode(self.content).decode()


class LeaseLostError(Exception):
    """The message is gone, or its lease ended and somebody else has it."""


@dataclass
class MemoryQueues:
    """`shared.messages.queues.Queues` in memory, with the receiver's side. Order is not promised: it is shuffled."""

    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    shuffle: Random = field(default_factory=lambda: Random(1))
    _messages: dict[str, dict[int, Message]] = field(default_factory=dict)
    _sent: int = 0
    _hidden: int = 0

    async def send(self, queue: str, body: str) -> None:
        if not _QUEUE_NAME.fullmatch(queue):
            raise ValueError(f"{queue!r} is no name of a queue")
        content = base64.b64encode(body.encode()).decode()
        if len(content) > 64 * 1024:
            raise ValueError("the message is larger than 64 KiB in base64")
        await asyncio.sleep(0)
        self._sent += 1
        self._messages.setdefault(queue, {})[self._sent] = Message(self._sent, content)
        await asyncio.sleep(0)

    async def receive(self, queue: str, limit: int = 32, lease: timedelta = timedelta(seconds=30)) -> list[Message]:
        """Up to `limit` messages that are visible now, hidden from others until the lease ends or they are deleted."""
        await asyncio.sleep(0)
        now = self.clock()
        visible = [message for message in self._messages.get(queue, {}).values() if message.visible_at <= now]
        self.shuffle.shuffle(visible)
        taken = visible[:limit]
        for message in taken:
            message.dequeue_count += 1
            message.visible_at = now + lease
            message.receipt = f"{message.id}.{message.dequeue_count}"
        return [replace(message) for message in taken]

    async def delete(self, queue: str, message: Message) -> None:
        """The message is done. Raises LeaseLostError where the lease it was received with is no longer the latest."""
        await asyncio.sleep(0)
        kept = self._messages.get(queue, {}).get(message.id)
        if kept is None or kept.receipt != message.receipt:
            raise LeaseLostError(f"message {message.id} of {queue}")
        del self._messages[queue][message.id]

    async def hide(self, queue: str, message: Message, time: timedelta) -> Message:
        """Hide the message for this long from now: a longer lease, or its return. Raises LeaseLostError as `delete`."""
        await asyncio.sleep(0)
        kept = self._messages.get(queue, {}).get(message.id)
        if kept is None or kept.receipt != message.receipt:
            raise LeaseLostError(f"message {message.id} of {queue}")
        kept.visible_at = self.clock() + time
        self._hidden += 1
        kept.receipt = f"{message.id}.{kept.dequeue_count}.{self._hidden}"
        return replace(kept)

    def waiting(self, queue: str) -> list[str]:
        """Bodies of all messages on the queue, leased or not, in the order sent: a test's view past the protocol."""
        return [message.body for message in self._messages.get(queue, {}).values()]

    def names(self) -> list[str]:
        """The queues that were made."""
        return sorted(self._messages)
