"""What the pipeline reads from and writes to the state table, in the pipeline's own words."""

from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from shared.domain.guardrails import Approval, Budget, Halt, Orders, Pace
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.reset import Event, Reset
from shared.domain.states import TERMINAL, State
from shared.domain.timing import WakeKind, wake
from shared.state import rows
from shared.state.rows import ClosedRecord, Due, EarlyApproval, OutboxRecord, Quiet, RequestRecord, SentRecord, Stored
from shared.state.table import MAX_CHANGES, Change, Conflict, Row, Table

END = "~"
"""Orders after every character that a key of ours goes on with."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """Up to when check-ins have been looked at, on Graph's clock."""

    upto: datetime


@dataclass(frozen=True, slots=True)
class AtHand:
    """What a sweep goes by, as it was at one moment."""

    halt: Halt | None
    quiet: Stored[Quiet] | None
    forgotten_at: datetime | None
    """When retention last ran."""
    left: Sequence[tuple[str, OutboxRecord]]
    """Messages that were committed for some time and are still not handed over, by their key."""
    due: Sequence[Due]
    """Wake-ups of the sweep whose time has come, oldest first."""


@dataclass(frozen=True, slots=True)
class Store:
    """Typed access to one tenant's partition."""

    table: Table

    # --- reading

    async def reset(self, device: ManagedDeviceId) -> Stored[Reset] | None:
        row = await self.table.get(rows.reset_key(device))
        return None if row is None else rows.stored(Reset, row)

    async def resets(self, devices: Sequence[ManagedDeviceId]) -> dict[ManagedDeviceId, Stored[Reset]]:
        """Those of the devices that are in flight."""
        found = await self.table.get_many([rows.reset_key(device) for device in devices])
        records = (rows.stored(Reset, row) for row in found.values())
        return {stored.record.device: stored for stored in records}

    async def in_flight(self, **where: str) -> AsyncIterator[Stored[Reset]]:
        """All turnarounds in flight, or those whose columns (`state`, `request`) are as given."""
        async for row in self.table.scan("reset|", "reset|" + END, where):
            yield rows.stored(Reset, row)

    async def anything_in_flight(self) -> bool:
        async for _ in self.table.scan("reset|", "reset|" + END, limit=1):
            return True
        return False

    async def due(self, kind: WakeKind, now: datetime, limit: int) -> list[Due]:
        """Wake-ups whose time has come, oldest first."""
        found = self.table.scan("due|", rows.due_key(now, END), {"kind": kind.value}, limit)
        return [rows.due_of(row) async for row in found]

    async def at_hand(self, now: datetime, before: datetime, limit: int) -> AtHand:
        """All that a sweep goes by, in one look: messages that were committed before this time, and what is due now; at
        most `limit` of each."""
        single: dict[str, Row] = {}
        left: list[tuple[str, OutboxRecord]] = []
        due: list[Due] = []
        async for row in self.table.scan("control|", rows.due_key(now, END)):
            match row.key.partition("|")[0]:
                case "control":
                    single[row.key] = row
                case "deliver" if len(left) < limit and row.key < f"deliver|{rows.stamp(before)}":
                    left.append((row.key, rows.read(OutboxRecord, row)))
                case "due" if row.values["kind"] == WakeKind.SWEEP.value:
                    due.append(rows.due_of(row))
                    if len(due) == limit:
                        break
        halt, quiet, retention = (single.get(key) for key in (rows.HALT, rows.QUIET, rows.RETENTION))
        return AtHand(
            halt=None if halt is None else rows.read(Halt, halt),
            quiet=None if quiet is None else rows.stored(Quiet, quiet),
            forgotten_at=None if retention is None else rows.read(Watermark, retention).upto,
            left=left,
            due=due,
        )

    async def request(self, request: RequestId) -> Stored[RequestRecord] | None:
        row = await self.table.get(rows.request_key(request))
        return None if row is None else rows.stored(RequestRecord, row)

    async def requests(self, ids: Collection[RequestId]) -> dict[RequestId, RequestRecord]:
        """Those of the requests that are known."""
        found = await self.table.get_many([rows.request_key(request) for request in ids])
        records = (rows.read(RequestRecord, row) for row in found.values())
        return {record.id: record for record in records}

    async def part(self, request: RequestId, number: int) -> Row | None:
        return await self.table.get(rows.part_key(request, number))

    async def parts(self, request: RequestId) -> AsyncIterator[Row]:
        async for row in self.table.scan(f"part|{request}|", f"part|{request}|{END}"):
            yield row

    async def closed(self, request: RequestId) -> AsyncIterator[ClosedRecord]:
        async for row in self.table.scan(f"closed|{request}|", f"closed|{request}|{END}"):
            yield rows.read(ClosedRecord, row)

    async def end_of(self, request: RequestId, device: ManagedDeviceId) -> ClosedRecord | None:
        """How a device's turnaround for the request ended; None where it has not, or never had one."""
        row = await self.table.get(rows.closed_key(request, device))
        return None if row is None else rows.read(ClosedRecord, row)

    async def is_closed(self, request: RequestId, abouts: Sequence[str]) -> set[str]:
        """Which of these (device ids, or references' keys) have ended under the request."""
        keys = {rows.closed_key(request, about): about for about in abouts}
        return {keys[key] for key in await self.table.get_many(list(keys))}

    async def history(self, about: str) -> AsyncIterator[Event]:
        """The events of a device (its id) or of a request (`request:ID`), oldest first."""
        async for row in self.table.scan(f"event|{about}|", f"event|{about}|{END}"):
            yield rows.read(Event, row)

    async def halt(self) -> Halt | None:
        found = await self.halted()
        return None if found is None else found.record

    async def halted(self) -> Stored[Halt] | None:
        """The halt as it was read, for whoever ends it."""
        row = await self.table.get(rows.HALT)
        return None if row is None else rows.stored(Halt, row)

    async def watermark(self) -> datetime | None:
        row = await self.table.get(rows.WATERMARK)
        return None if row is None else rows.read(Watermark, row).upto

    async def pace(self, budget: Budget) -> Stored[Pace] | None:
        row = await self.table.get(rows.pace_key(budget))
        return None if row is None else rows.stored(Pace, row)

    async def orders(self) -> Stored[Orders] | None:
        """What the caps count."""
        row = await self.table.get(rows.ORDERS)
        return None if row is None else rows.stored(Orders, row)

    async def sent_since(self, since: datetime) -> Counter[str]:
        """How many resets of each device were ordered since, by its id and by its serial number."""
        counts: Counter[str] = Counter()
        async for row in self.table.scan(f"sent|{rows.stamp(since)}", "sent|" + END):
            record = rows.read(SentRecord, row)
            counts.update(record.devices + record.serials)
        return counts

    async def ended_since(self, since: datetime, limit: int) -> Counter[State]:
        """How many devices came to an end, or to need a person, since: by state, the first `limit` of them."""
        found = self.table.scan(f"ended|{rows.stamp(since)}", "ended|" + END, limit=limit)
        return Counter([State(str(row.values["state"])) async for row in found])

    async def early_approval(self, request: RequestId) -> Approval | None:
        row = await self.table.get(rows.approval_key(request))
        return None if row is None else rows.read(EarlyApproval, row).approval

    async def resumed_at(self) -> datetime | None:
        """When sends were last allowed again after a halt."""
        row = await self.table.get(rows.RESUMED)
        return None if row is None else rows.read(Watermark, row).upto

    async def window_opened(self, request: RequestId) -> Event | None:
        """The opening of a lab window that made this request."""
        row = await self.table.get(rows.window_key(request))
        return None if row is None else rows.read(Event, row)

    async def expired(self, before: datetime) -> AsyncIterator[list[str]]:
        """Keys of what ended before this time. A request goes as a whole, once all of it has ended, and its row goes
        last, so that what was interrupted goes on; then commands, and messages of which nothing but history was kept.
        """
        flying = {found.record.request async for found in self.in_flight()}
        kept: set[str] = set()
        async for row in self.table.scan("request|", "request|" + END):
            request = rows.read(RequestRecord, row)
            asked = max(request.received_at, request.not_before or request.received_at)
            ends = [end.event async for end in self.closed(request.id)] if asked < before else []
            if max([asked, *(end.at for end in ends)]) >= before or request.due is not None or request.id in flying:
                kept.add(request.id)
                continue
            for end in ends:
                history = await self._history_keys(end.device, request.id) if end.device is not None else []
                yield [*history, rows.closed_key(request.id, rows.about(end))]
            parts = [part.key async for part in self.parts(request.id)]
            yield [*await self._history_keys(f"request:{request.id}", request.id), *parts, row.key]
        for about in ("request:", "control|"):
            found = self.table.scan(f"event|{about}", f"event|{about}{END}")
            old = [row.key async for row in found if row.key.split("|")[2] < rows.stamp(before)]
            yield [key for key in old if key.split("|")[1].removeprefix("request:") not in kept]

    async def _history_keys(self, about: str, request: RequestId) -> list[str]:
        """Keys of the history of a device, or of a request itself, under the request."""
        found = self.table.scan(f"event|{about}|", f"event|{about}|{END}", {"request": request})
        return [row.key async for row in found]

    async def stale_notes(
        self, sent: datetime, ended: datetime, approvals: datetime, windows: datetime
    ) -> AsyncIterator[str]:
        """Keys of what is kept only for counting, for a request that never came, or to open a window once, older than
        these times."""
        for first, before in (("sent|", sent), ("ended|", ended)):
            async for row in self.table.scan(first, f"{first}{rows.stamp(before)}"):
                yield row.key
        async for row in self.table.scan("approval|", "approval|" + END):
            if rows.read(EarlyApproval, row).approval.at < approvals:
                yield row.key
        async for row in self.table.scan("window|", "window|" + END):
            if rows.read(Event, row).at < windows:
                yield row.key

    # --- writing

    async def drop(self, keys: Sequence[str]) -> None:
        """Delete rows; those that are gone already are no fault."""
        try:
            await self.commit([rows.delete(key) for key in keys])
        except Conflict:
            for key in keys:
                try:
                    await self.commit([rows.delete(key)])
                except Conflict:
                    continue

    async def commit(self, changes: Sequence[Change]) -> None:
        """All or nothing. Raises Conflict where a row is not as it was read."""
        await self.table.commit(changes)

    async def commit_groups(self, groups: Sequence[Sequence[Change]], together: Sequence[Change] = ()) -> list[int]:
        """Commit groups of changes, as many to a transaction as fit; the numbers of those groups that met a conflict.

        A group is never torn apart. `together`, changes that belong to all of them, is allowed where one transaction
        holds everything.
        """
        if sum(map(len, groups)) + len(together) > MAX_CHANGES and together:
            raise ValueError("what belongs together does not fit one transaction")
        conflicts: list[int] = []
        start = 0
        while start < len(groups):
            end, size = start, len(together)
            while end < len(groups) and (end == start or size + len(groups[end]) <= MAX_CHANGES):
                size += len(groups[end])
                end += 1
            try:
                await self.commit([*together, *(change for group in groups[start:end] for change in group)])
            except Conflict:
                if end - start == 1 or together:
                    conflicts.extend(range(start, end))
                else:
                    for number in range(start, end):
                        conflicts += [number] if await self._refused(groups[number]) else []
            start = end
        return conflicts

    async def _refused(self, group: Sequence[Change]) -> bool:
        try:
            await self.commit(group)
        except Conflict:
            return True
        return False


def reset_changes(new: Reset, old: Stored[Reset] | None) -> list[Change]:
    """The changes that make a turnaround's rows what the record says: its row or its end, and its wake-up.

    A new record is inserted, so that a device in flight keeps a second turnaround out.
    """
    key = rows.reset_key(new.device)
    changes: list[Change] = [rows.delete(old.due)] if old is not None and old.due else []
    if new.state in TERMINAL:
        return [*changes, rows.delete(key, old.etag)] if old is not None else changes
    next_wake = wake(new)
    due = rows.due_key(next_wake.at, new.device)
    if old is not None and old.due == due:
        changes.clear()
    changes.append(rows.insert_due(due, next_wake.kind, new.device, None))
    columns = rows.columns_of(new, due)
    if old is None:
        return [rows.insert(key, new, **columns), *changes]
    return [rows.replace(key, old.etag, new, **columns), *changes]
