"""A device's turn has come: check once more, write down that its reset is being sent, send it, keep the answer."""

import json
import logging
from collections.abc import Sequence
from datetime import datetime

from shared.domain import eligibility, guardrails
from shared.domain.devices import DeviceFacts
from shared.domain.ids import ManagedDeviceId, OrderId
from shared.domain.lifecycle import Answered, Judged, Sending, Woken
from shared.domain.orders import AnswerKind, Order
from shared.domain.reasons import Code, Reason
from shared.domain.reset import Reset
from shared.domain.states import State
from shared.pipeline.advance import TRIES, ContendedError, advance, release
from shared.pipeline.pace import await_turn
from shared.pipeline.parts import BATCH, Parts
from shared.pipeline.ports import GraphError
from shared.pipeline.sync import look
from shared.state import rows
from shared.state.store import DayCount
from shared.state.table import Change

log = logging.getLogger(__name__)
WHO = "dispatch"


async def dispatch(parts: Parts, body: str) -> None:
    """Send the resets of a dispatch message's devices, those that are still cleared. Any other device is left alone:
    its turn was taken before, or it was withdrawn. What does not go now stays cleared, and the sweep gives it another
    turn."""
    named = [ManagedDeviceId(device) for device in json.loads(body)["devices"]]
    for start in range(0, len(named), BATCH):
        await _dispatch(parts, named[start : start + BATCH])


async def _dispatch(parts: Parts, named: Sequence[ManagedDeviceId]) -> None:
    cleared = await _cleared(parts, named)
    if not cleared:
        return
    intune = await parts.intune()  # before anything is promised: connecting may fail
    await await_turn(parts, len(cleared))
    # After the wait, which may have been long: what is read now is what the orders go by.
    fresh = await _fresh(parts, await _looked_at_again(parts, cleared))
    orders, committed_at = await _commit_sending(parts, fresh)
    if not orders:
        return
    called_at = parts.clock()
    if called_at - committed_at > parts.policy.reconcile_after / 2:
        # The sweep may take silence for proof that nothing was sent, and send anew: too late to send now.
        log.warning("%s orders are too old to be sent; the sweep settles them", len(orders))
        return
    answers = await intune.reset(orders)
    for order in orders:
        if (kind := answers[order.device].kind) is not AnswerKind.ACCEPTED:
            log.warning("reset of device %s (order %s): %s", order.device, order.id, kind)
    outcomes = {order.device: [Answered(order.id, answers[order.device], called_at)] for order in orders}
    await advance(parts, outcomes, WHO)


async def _cleared(parts: Parts, devices: Sequence[ManagedDeviceId]) -> dict[ManagedDeviceId, Reset]:
    stored = await parts.store.resets(devices)
    return {device: found.record for device, found in stored.items() if found.record.state is State.CLEARED}


async def _looked_at_again(parts: Parts, cleared: dict[ManagedDeviceId, Reset]) -> dict[ManagedDeviceId, Reset]:
    """The devices without those whose earlier order, its answer lost, shows after all, or cannot be looked for now."""
    doubtful = [device for device, reset in cleared.items() if reset.doubtful]
    sightings = await look(parts, doubtful)
    decisions = await advance(parts, {device: [sighting] for device, sighting in sightings.items()}, WHO)
    clear = {device for device, decision in decisions.items() if decision.reset.state is State.CLEARED}
    return {device: reset for device, reset in cleared.items() if device not in doubtful or device in clear}


async def _fresh(parts: Parts, cleared: dict[ManagedDeviceId, Reset]) -> dict[ManagedDeviceId, DeviceFacts | None]:
    """The devices that may still be reset, with facts where the ones at hand were too old to go by."""
    oldest = parts.clock() - parts.policy.facts_max_age
    stale = [device for device, reset in cleared.items() if reset.facts_at < oldest or reset.attempt > 0]
    fresh: dict[ManagedDeviceId, DeviceFacts | None] = {device: None for device in cleared if device not in stale}
    if not stale:
        return fresh
    try:
        facts = await (await parts.intune()).facts(stale)
    except GraphError as error:
        log.warning("%s devices wait for another turn, since their facts could not be read: %s", len(stale), error)
        return fresh
    refused: dict[ManagedDeviceId, Reason] = {}
    for device in stale:
        if device not in facts:
            continue
        found = facts[device]
        if found is None:
            refused[device] = Reason(Code.FACTS_CHANGED, "Intune no longer has its record.")
        elif not eligibility.same_device(cleared[device].before, found.managed):
            refused[device] = Reason(Code.FACTS_CHANGED, "The record is of another device now.")
        elif reason := eligibility.refusal(found, parts.policy):
            refused[device] = reason
        else:
            fresh[device] = found
    await advance(parts, {device: [Judged(refusal=reason)] for device, reason in refused.items()}, WHO)
    return fresh


async def _commit_sending(
    parts: Parts, fresh: dict[ManagedDeviceId, DeviceFacts | None]
) -> tuple[list[Order], datetime]:
    """Commit `sending` for as many as may go now, with the day's count in the same transaction: the orders to send, and
    when their commit began."""
    orders: list[Order] = []
    now = parts.clock()
    for _ in range(TRIES):
        stored = {device: found.record for device, found in (await parts.store.resets(list(fresh))).items()}
        if ours := [order for order in orders if order.device in stored and stored[order.device].order == order.id]:
            return ours, now  # our own commit, whose answer was lost on the way back
        cleared = [device for device in fresh if device in stored and stored[device].state is State.CLEARED]
        day = await parts.store.day(parts.clock())
        halt = await parts.store.halt()
        now = parts.clock()
        if halt is not None:
            hold = Reason(Code.HALTED, halt.why)
            await advance(parts, {device: [Judged(hold=hold)] for device in cleared}, WHO)
            await release(parts, cleared, WHO)
            return [], now
        overdue = [device for device in cleared if _overdue(stored[device], now)]
        await advance(parts, {device: [Woken()] for device in overdue}, WHO)
        devices = [device for device in cleared if device not in overdue]
        used = day.record.used if day else 0
        room = guardrails.within_day(used, len(devices), parts.policy)
        await _hold_until_tomorrow(parts, devices[room:], now)
        orders = [Order(device, OrderId(parts.new_id()), _justification(stored[device])) for device in devices[:room]]
        if not orders:
            return [], now
        count = DayCount(used + len(orders))
        key = rows.day_key(now)
        change: Change = rows.insert(key, count) if day is None else rows.replace(key, day.etag, count)
        happenings = {order.device: [Sending(order.id, fresh[order.device])] for order in orders}
        try:
            decisions = await advance(parts, happenings, WHO, together=[change])
        except ContendedError:
            continue
        sent = {device: decision.reset for device, decision in decisions.items()}
        return [order for order in orders if order.device in sent and sent[order.device].order == order.id], now
    raise ContendedError("the day's count was changed by others at every try; the message comes back")


def _overdue(reset: Reset, now: datetime) -> bool:
    """Whether the time by which it was needed has just passed: then its sender is asked before anything is sent."""
    return reset.ready_by is not None and reset.ready_by <= now and not reset.late_told


def _justification(reset: Reset) -> str:
    """What the administrator reads whom Multi Admin Approval asks."""
    return f"Turnaround, request {reset.request}: {reset.ticket}"


async def _hold_until_tomorrow(parts: Parts, devices: Sequence[ManagedDeviceId], now: datetime) -> None:
    full = guardrails.day_is_full(now)
    await advance(parts, {device: [Judged(hold=full.reason, until=full.until)] for device in devices}, WHO)
