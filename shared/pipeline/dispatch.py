"""A device's turn has come: check once more, write down that its reset is being sent, send it, keep the answer."""

import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import batched

from shared.domain import eligibility, guardrails
from shared.domain.devices import DeviceFacts
from shared.domain.guardrails import Budget, Hold, Orders
from shared.domain.ids import ManagedDeviceId, OrderId
from shared.domain.lifecycle import Answered, Happening, Judged, Sending, Woken, may_send_again
from shared.domain.orders import AnswerKind, Order
from shared.domain.policy import OverCap
from shared.domain.reasons import Code, Reason
from shared.domain.reset import Reset
from shared.domain.states import State
from shared.pipeline.advance import TRIES, ContendedError, advance
from shared.pipeline.facts import facts as read_facts
from shared.pipeline.gate import Gate, gate, release, require_approval
from shared.pipeline.pace import book, until
from shared.pipeline.parts import BATCH, Parts
from shared.pipeline.ports import GraphError
from shared.pipeline.sync import look
from shared.state import rows
from shared.state.rows import SentRecord, Stored
from shared.state.table import Conflict

log = logging.getLogger(__name__)
WHO = "dispatch"
FLEET_KNOWN_FOR = timedelta(days=1)
"""How long the number of the tenant's devices is gone by."""
FLEET_ASKED_AGAIN = timedelta(minutes=10)
"""When Graph is asked again where it could not tell."""
READ_AT_LEAST, READ_AT_MOST = timedelta(seconds=0.5), timedelta(seconds=3)
"""How long before its turn a device's facts are read again."""
LATE = timedelta(seconds=0.1)
"""Whoever comes later than this, since others read much, takes another turn: a full budget has no room for both."""
GIVEN_BACK = 16
"""Devices whose answers, at most six rows each, fit one transaction with what is counted."""


@dataclass(frozen=True, slots=True)
class _Booked:
    """Orders that were committed to be sent, and what was counted of them."""

    orders: Sequence[Order]
    at: datetime
    """When the commit began, and as of when they count."""
    row: str = ""
    """Key of the row that notes them for the cap of a device."""
    devices: Mapping[ManagedDeviceId, str] = field(default_factory=dict)
    """Those that it notes, with their serial numbers."""
    unapproved: frozenset[ManagedDeviceId] = frozenset()
    """Those of them that go without a second person."""

    @property
    def record(self) -> SentRecord:
        return SentRecord(self.at, tuple(self.devices), tuple(self.devices.values()))


async def dispatch(parts: Parts, body: str) -> None:
    """Send the resets of a dispatch message's devices, those that are still cleared. Any other device is left alone:
    its turn was taken before, or it was withdrawn. What does not go now stays cleared, and the sweep gives it another
    turn."""
    named = [ManagedDeviceId(device) for device in json.loads(body)["devices"]]
    for start in range(0, len(named), BATCH):
        await _dispatch(parts, named[start : start + BATCH])


async def _dispatch(parts: Parts, named: Sequence[ManagedDeviceId]) -> None:
    stored = {device: found.record for device, found in (await parts.store.resets(named)).items()}
    # Whoever held them, maybe with this very message, may have died before it asked again.
    await release(parts, [device for device, reset in stored.items() if reset.state is State.HELD], WHO)
    cleared = {device: reset for device, reset in stored.items() if reset.state is State.CLEARED}
    if not cleared:
        return
    intune = await parts.intune()  # before anything is promised: connecting may fail
    turn = await book(parts, len(cleared), Budget.WRITES, READ_AT_LEAST)
    # After the wait, which may have been long: what is read now is what the orders go by.
    await until(parts, turn - READ_AT_MOST)
    fresh = await _fresh(parts, await _looked_at_again(parts, cleared))
    if parts.clock() > turn + LATE:
        turn = await book(parts, len(cleared), Budget.WRITES)
    await until(parts, turn)
    async with parts.memory.sending:
        booked = await _commit_sending(parts, fresh)
    orders = booked.orders
    if not orders:
        return
    called_at = parts.clock()
    if called_at - booked.at > parts.policy.reconcile_after / 2:
        # The sweep may take silence for proof that nothing was sent, and send anew: too late to send now.
        log.warning("%s orders are too old to be sent; the sweep settles them", len(orders))
        return
    answers = await intune.reset(orders)
    for order in orders:
        if (kind := answers[order.device].kind) is not AnswerKind.ACCEPTED:
            log.warning("reset of device %s (order %s): %s", order.device, order.id, kind)
    outcomes = {order.device: [Answered(order.id, answers[order.device], called_at)] for order in orders}
    not_taken = [device for device in outcomes if answers[device].kind not in (AnswerKind.ACCEPTED, AnswerKind.UNKNOWN)]
    await advance(parts, {device: happened for device, happened in outcomes.items() if device not in not_taken}, WHO)
    for some in batched(not_taken, GIVEN_BACK, strict=False):
        booked = await _give_back(parts, booked, {device: outcomes[device] for device in some})


async def _give_back(parts: Parts, booked: _Booked, outcomes: Mapping[ManagedDeviceId, Sequence[Happening]]) -> _Booked:
    """Keep answers that say that nothing was done, and count their orders no more: in one transaction, so that none is
    given back twice. Where others change what is counted at every try, they stay counted."""
    devices = {device: serial for device, serial in booked.devices.items() if device not in outcomes}
    left = replace(booked, devices=devices)
    for _ in range(TRIES):
        counted = await parts.store.orders()
        if counted is None:
            break
        fewer = counted.record.minus(len(outcomes), booked.at, len(booked.unapproved.intersection(outcomes)))
        together = [
            rows.replace(rows.ORDERS, counted.etag, fewer),
            rows.put(booked.row, left.record),
        ]
        try:
            await advance(parts, outcomes, WHO, together=together)
        except ContendedError:
            continue
        return left
    await advance(parts, outcomes, WHO)
    return booked


async def _looked_at_again(parts: Parts, cleared: dict[ManagedDeviceId, Reset]) -> dict[ManagedDeviceId, Reset]:
    """The devices without those whose earlier order, its answer lost, shows after all, or cannot be looked for now."""
    doubtful = [device for device, reset in cleared.items() if reset.doubtful]
    sightings = await look(parts, doubtful)
    decisions = await advance(parts, {device: [sighting] for device, sighting in sightings.items()}, WHO)
    clear = {device for device, decision in decisions.items() if decision.reset.state is State.CLEARED}
    return {device: reset for device, reset in cleared.items() if device not in doubtful or device in clear}


async def _fresh(parts: Parts, cleared: dict[ManagedDeviceId, Reset]) -> dict[ManagedDeviceId, DeviceFacts | None]:
    """The devices that may still be reset, with facts where the ones at hand were too old to go by."""
    now = parts.clock()
    oldest = now - parts.policy.facts_max_age
    # Facts from the future were read by a clock that was wrong: nobody knows how old they are.
    stale = [device for device, one in cleared.items() if not oldest <= one.facts_at <= now or one.attempt > 0]
    # Lists do not show what is pending on a device: only its own record does, and may show that more has changed.
    listed = [device for device, one in cleared.items() if device not in stale and one.before.pending_actions is None]
    fresh: dict[ManagedDeviceId, DeviceFacts | None] = {
        device: None for device in cleared if device not in stale and device not in listed
    }
    refused: dict[ManagedDeviceId, Reason] = {}
    facts: Mapping[ManagedDeviceId, DeviceFacts | None] = {}
    try:
        alone = await (await parts.intune()).managed(listed) if listed else {}
        for device, record in alone.items():
            if record is None or not eligibility.unchanged(cleared[device].before, record):
                stale.append(device)
            elif reason := eligibility.pending(record, parts.policy):
                refused[device] = reason
            else:
                fresh[device] = None
        facts = await read_facts(await parts.intune(), stale, parts.policy) if stale else {}
    except GraphError as error:
        count = len(cleared) - len(fresh) - len(refused)
        log.warning("%s devices wait for another turn, since their facts could not be read: %s", count, error)
    for device in stale:
        if device not in facts:
            continue
        found = facts[device]
        if found is None:
            refused[device] = Reason(Code.FACTS_CHANGED, "Intune no longer has its record.")
        elif not eligibility.same_device(cleared[device].before, found.managed):
            refused[device] = Reason(Code.FACTS_CHANGED, "The record is of another device now.")
        elif eligibility.handed_on(cleared[device].before, found.managed):
            refused[device] = Reason(Code.HANDED_ON)
        elif reason := eligibility.refusal(found, parts.policy, parts.clock()):
            refused[device] = reason
        elif cleared[device].doubtful and not may_send_again(cleared[device], found, parts.clock(), parts.policy):
            refused[device] = Reason(Code.SEND_UNKNOWN)
        else:
            fresh[device] = found
    await advance(parts, {device: [Judged(refusal=reason)] for device, reason in refused.items()}, WHO)
    return fresh


async def _commit_sending(parts: Parts, fresh: dict[ManagedDeviceId, DeviceFacts | None]) -> _Booked:
    """Commit `sending` for as many as may go now, with what the caps count in the same transaction. The caps are read
    before the gate: a halt in between changes their row."""
    booked = _Booked([], parts.clock())
    for _ in range(TRIES):
        known = await parts.store.resets(list(fresh))
        stored = {device: found.record for device, found in known.items()}
        if ours := _ours(booked, stored):
            return ours  # our own commit, whose answer was lost on the way back
        cleared = {device: reset for device, reset in stored.items() if reset.state is State.CLEARED}
        counted = await _counted(parts)
        open_ = await gate(parts, cleared.values())
        now = parts.clock()
        free = await _let_through(parts, cleared, fresh, open_, now)
        free, unapproved = await _without_second_person(parts, free, stored, open_, counted.record, now)
        room, full = guardrails.room(counted.record, now, parts.policy)
        await _over_cap(parts, free[room:], full)
        orders = [_order(parts, stored[device]) for device in free[:room]]
        devices = {order.device: stored[order.device].before.serial_number or "" for order in orders}
        without = frozenset(unapproved.intersection(devices))
        booked = _Booked(orders, now, rows.sent_key(now, tuple(devices)), devices, without)
        if not orders:
            return booked
        together = [
            rows.replace(rows.ORDERS, counted.etag, counted.record.plus(len(orders), now, len(without))),
            rows.put(booked.row, booked.record),
        ]
        happenings = {order.device: [Sending(order.id, fresh[order.device])] for order in orders}
        try:
            decisions = await advance(parts, happenings, WHO, together, known, now)
        except ContendedError:
            continue
        sent = {device: decision.reset for device, decision in decisions.items()}
        return _ours(booked, sent) or _Booked([], now)
    raise ContendedError("what the caps count was changed by others at every try; the message comes back")


def _ours(booked: _Booked, sent: Mapping[ManagedDeviceId, Reset]) -> _Booked | None:
    """What of the booked orders the devices' records say to be under way; None where they say it of none."""
    orders = [one for one in booked.orders if one.device in sent and sent[one.device].order == one.id]
    return replace(booked, orders=orders) if orders else None


async def _counted(parts: Parts) -> Stored[Orders]:
    """What the caps count, with the fleet's size where the policy limits its share and the size is not known lately."""
    while True:
        counted = await parts.store.orders()
        record, now = counted.record if counted else Orders(), parts.clock()
        old = record.fleet_at is None or now - record.fleet_at > FLEET_KNOWN_FOR
        if parts.policy.fleet_share_per_day < 1 and old:
            fleet = await _fleet(parts)
            asked_at = now if fleet is not None else now - FLEET_KNOWN_FOR + FLEET_ASKED_AGAIN
            record = replace(record, fleet=record.fleet if fleet is None else fleet, fleet_at=asked_at)
        elif counted is not None:
            return counted
        with contextlib.suppress(Conflict):
            await parts.store.commit([rows.write(rows.ORDERS, counted, record)])


async def _fleet(parts: Parts) -> int | None:
    try:
        return await (await parts.intune()).fleet_size()
    except GraphError as error:
        log.warning("the number of the tenant's devices could not be read: %s", error)
        return None


async def _let_through(
    parts: Parts,
    cleared: dict[ManagedDeviceId, Reset],
    fresh: dict[ManagedDeviceId, DeviceFacts | None],
    open_: Gate,
    now: datetime,
) -> list[ManagedDeviceId]:
    """Those of the devices that nothing holds, and that may have another order where an earlier one is in doubt; the
    others are held, or somebody is asked."""
    holds = {device: hold for device, reset in cleared.items() if (hold := open_.hold(reset, now, parts.policy))}
    overdue = [device for device, reset in cleared.items() if device not in holds and _overdue(reset, now)]
    happenings: dict[ManagedDeviceId, Sequence[Happening]] = {device: [Woken()] for device in overdue}
    happenings |= {device: [Judged(hold=hold.reason, until=hold.until)] for device, hold in holds.items()}
    for device, reset in cleared.items():
        if device not in happenings and reset.doubtful and not may_send_again(reset, fresh[device], now, parts.policy):
            happenings[device] = [Judged(refusal=Reason(Code.SEND_UNKNOWN))]  # before it is counted as sent
    await advance(parts, happenings, WHO)
    await release(parts, list(holds), WHO)
    return [device for device in cleared if device not in happenings]


async def _without_second_person(
    parts: Parts,
    free: list[ManagedDeviceId],
    stored: Mapping[ManagedDeviceId, Reset],
    open_: Gate,
    orders: Orders,
    now: datetime,
) -> tuple[list[ManagedDeviceId], set[ManagedDeviceId]]:
    """The devices that may go, and those of them whose request nobody approved; where the day's resets without approval
    are used up, the requests of the others need it from now on."""
    unapproved = [device for device in free if not open_.approved(stored[device])]
    beyond = unapproved[guardrails.unapproved_room(orders, now, parts.policy) :]
    if beyond:
        why = guardrails.beyond_unapproved(len(unapproved), orders, now, parts.policy)
        await require_approval(parts, {stored[device].request for device in beyond}, why)
        judged = Judged(hold=Reason(Code.APPROVAL_NEEDED, why))
        await advance(parts, {device: [judged] for device in beyond}, WHO)
        await release(parts, beyond, WHO)
    return [device for device in free if device not in beyond], set(unapproved) - set(beyond)


async def _over_cap(parts: Parts, devices: Sequence[ManagedDeviceId], full: Hold) -> None:
    """Hold, or refuse, what a limit has no room for."""
    if parts.policy.over_cap is OverCap.REFUSE:
        judged = Judged(refusal=Reason(full.reason.code, "The policy refuses what is over a limit."))
    else:
        judged = Judged(hold=full.reason, until=full.until)
    await advance(parts, {device: [judged] for device in devices}, WHO)


def _order(parts: Parts, reset: Reset) -> Order:
    """The justification is what the administrator reads whom Multi Admin Approval asks; with their code, the very same
    call is sent again."""
    why = f"Turnaround, request {reset.request}: {reset.ticket}"
    return Order(reset.device, OrderId(parts.new_id()), why, reset.approval_code)


def _overdue(reset: Reset, now: datetime) -> bool:
    """Whether the time by which it was needed has just passed, so that its sender is asked before anything is sent; or
    that in which its request was valid."""
    late = reset.ready_by is not None and reset.ready_by <= now and not reset.late_told
    return late or (reset.expires_at is not None and reset.expires_at <= now)
