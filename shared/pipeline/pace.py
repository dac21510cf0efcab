"""Stay within what Graph bears, together with all other instances: calls are booked ahead on a row of the state table.

Writes are booked by the stages themselves, before they commit what they are about to send; reads by the gateway, before
each goes. A record that is read right before an order goes with it, so that others who read much keep no order waiting:
Graph bears these beside the writes and reads of the policy. Whoever is throttled all the same (429) pushes the booking
on, and so slows every instance down: see `Paced`.
"""

from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.domain.devices import AuditedAction, DeviceFacts, DeviceReference, Finding, ManagedDevice, Sighting
from shared.domain.guardrails import Budget, Pace, pause, reserve
from shared.domain.ids import ManagedDeviceId
from shared.domain.lifecycle import RETRY_THROTTLED
from shared.domain.orders import AdminDecision, Answer, AnswerKind, Order
from shared.pipeline.parts import Parts
from shared.pipeline.ports import GraphError, GraphThrottled, GraphUnavailable, Intune
from shared.state import rows
from shared.state.rows import Stored
from shared.state.table import Conflict


async def await_turn(parts: Parts, calls: int, budget: Budget = Budget.WRITES) -> None:
    """Come back when this many calls may go to Graph. A crash while waiting costs a little budget, nothing else."""
    await until(parts, await book(parts, calls, budget))


async def book(parts: Parts, calls: int, budget: Budget, ahead: timedelta = timedelta(0)) -> datetime:
    """When this many calls may go to Graph: as soon as may be, but not sooner than `ahead` of now."""
    async with parts.memory.booking:
        while True:
            before = await parts.store.pace(budget)
            start, pace = reserve(before.record if before else None, parts.clock() + ahead, calls, budget, parts.policy)
            if await _booked(parts, budget, before, pace):
                return start


async def until(parts: Parts, time: datetime) -> None:
    """Come back at this time; at once where it has passed."""
    if (wait := (time - parts.clock()).total_seconds()) > 0:
        await parts.sleep(wait)


async def _booked(parts: Parts, budget: Budget, before: Stored[Pace] | None, pace: Pace) -> bool:
    """Write down what is booked; False where somebody else booked in between."""
    try:
        await parts.store.commit([rows.write(rows.pace_key(budget), before, pace)])
    except Conflict:
        return False
    return True


async def slow_down(parts: Parts, wait: timedelta, budget: Budget) -> None:
    """Let nobody's calls go before this time has passed."""
    while True:
        before = await parts.store.pace(budget)
        paused = pause(before.record if before else None, parts.clock(), wait)
        if before is not None and before.record == paused:
            return
        if await _booked(parts, budget, before, paused):
            return


@dataclass(frozen=True, slots=True)
class Paced:
    """Microsoft Graph (`Intune`) that slows everybody down where it throttles."""

    graph: Intune
    parts: Parts

    async def find(self, references: Sequence[DeviceReference]) -> Mapping[DeviceReference, Finding]:
        return await self._read(self.graph.find(references))

    async def facts(self, devices: Sequence[ManagedDeviceId]) -> Mapping[ManagedDeviceId, DeviceFacts | None]:
        return await self._read(self.graph.facts(devices))

    async def managed(self, devices: Sequence[ManagedDeviceId]) -> Mapping[ManagedDeviceId, ManagedDevice | None]:
        try:
            return await self.graph.managed(devices)
        except GraphError as error:
            await self._throttled(error, *Budget)
            raise

    async def memberships(
        self, devices: Sequence[DeviceFacts], groups: frozenset[str]
    ) -> Mapping[ManagedDeviceId, frozenset[str]]:
        return await self._read(self.graph.memberships(devices, groups))

    async def fleet_size(self) -> int:
        return await self._read(self.graph.fleet_size())

    async def look(self, devices: Sequence[ManagedDeviceId]) -> Mapping[ManagedDeviceId, Sighting]:
        return await self._read(self.graph.look(devices))

    async def audited_resets(
        self, devices: Sequence[ManagedDeviceId], since: datetime
    ) -> Mapping[ManagedDeviceId, Sequence[AuditedAction]]:
        return await self._read(self.graph.audited_resets(devices, since))

    async def admin_decisions(self, codes: Sequence[str]) -> Mapping[str, AdminDecision]:
        return await self._read(self.graph.admin_decisions(codes))

    async def changed_since(self, since: datetime) -> AsyncIterator[Sighting]:
        try:
            async for sighting in self.graph.changed_since(since):
                yield sighting
        except GraphError as error:
            await self._throttled(error, Budget.READS)
            raise

    async def reset(self, orders: Sequence[Order]) -> Mapping[ManagedDeviceId, Answer]:
        return await self._after(await self.graph.reset(orders))

    async def wipe(self, orders: Sequence[Order]) -> Mapping[ManagedDeviceId, Answer]:
        return await self._after(await self.graph.wipe(orders))

    async def sync(self, orders: Sequence[Order]) -> Mapping[ManagedDeviceId, Answer]:
        return await self._after(await self.graph.sync(orders))

    async def _read[T](self, read: Awaitable[T]) -> T:
        try:
            return await read
        except GraphError as error:
            await self._throttled(error, Budget.READS)
            raise

    async def _throttled(self, error: GraphError, *budgets: Budget) -> None:
        if isinstance(error, GraphThrottled):
            wait = error.retry_after or RETRY_THROTTLED
        elif isinstance(error, GraphUnavailable) and error.retry_after is not None:
            wait = error.retry_after
        else:
            return
        for budget in budgets:
            await slow_down(self.parts, wait, budget)

    async def _after(self, answers: Mapping[ManagedDeviceId, Answer]) -> Mapping[ManagedDeviceId, Answer]:
        wait = _longest(filter(_slows_all, answers.values()))
        if wait is not None:
            await slow_down(self.parts, wait, Budget.WRITES)
        return answers


def _slows_all(answer: Answer) -> bool:
    """Whether Graph asks everybody to slow down: a 429, or a 503 that says how long. The day's limit does not."""
    asked = answer.kind is AnswerKind.UNKNOWN and answer.retry_after is not None
    return asked or answer.kind is AnswerKind.THROTTLED


def _longest(throttled: Iterable[Answer]) -> timedelta | None:
    return max((answer.retry_after or RETRY_THROTTLED for answer in throttled), default=None)
