"""A request came in: check it, keep it, look its devices up, and decide for each whether it may be reset.

The message's work is done once the request is kept, with a wake-up of its own: if Graph is down or this process dies,
the sweep goes on with it. Doing any of it again changes nothing and answers the same.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from shared.domain.devices import DeviceFacts, DeviceReference
from shared.domain.guardrails import Halt
from shared.domain.ids import RequestId
from shared.domain.notices import notice
from shared.domain.reasons import Code, Reason
from shared.domain.request import MAX_DEVICES, RefusedMessage, ResetRequest, parse
from shared.domain.reset import Event, EventKind
from shared.domain.states import State
from shared.domain.timing import WakeKind
from shared.pipeline.advance import called, changes_of, release
from shared.pipeline.decide import WHO, Named, clash, decide, named_devices, record_of
from shared.pipeline.parts import BATCH, Outgoing, Parts, flush, outbox_change, to_tell
from shared.pipeline.ports import GraphError
from shared.state import rows
from shared.state.rows import RequestRecord, RequestState, Stored
from shared.state.table import Change, Conflict

log = logging.getLogger(__name__)
RETRY = timedelta(minutes=2)
"""When a request is looked at again whose devices could not be looked up; doubled each time, up to an hour."""

LONGEST_PROBLEM = 300
"""Characters of one fault that are told; with 20 of them a notice stays far below what a row may hold."""


async def intake(parts: Parts, body: str) -> None:
    """Take a message in. A message that is no valid request is refused with an outcome, and never comes back."""
    request = parse(body)
    if isinstance(request, RefusedMessage):
        await _refuse_message(parts, request)
        return
    record = await _keep(parts, request, body)
    if record is not None and record.state is RequestState.ACCEPTED:
        await expand(parts, request.id)


# --- keeping the request ------------------------------------------------------------------------------------------


async def _keep(parts: Parts, request: ResetRequest, body: str) -> RequestRecord | None:
    """Keep the request, or this part of it. Gives its record, or None where it was refused."""
    while True:
        known = await parts.store.request(request.id)
        try:
            if known is None:
                return await _keep_new(parts, request, body)
            return await _keep_part(parts, request, body, known)
        except Conflict:
            log.info("request %s: another message of it came at the same time", request.id)


async def _keep_new(parts: Parts, request: ResetRequest, body: str) -> RequestRecord:
    now = parts.clock()
    complete = request.part is None or request.part.of == 1
    due = rows.due_key(now + (RETRY if complete else parts.policy.parts_within), f"request:{request.id}")
    record = record_of(request, RequestState.ACCEPTED if complete else RequestState.RECEIVING, now, due)
    told, outgoing = _accepted(record, now) if complete else ([], [])
    await parts.store.commit(
        [
            rows.insert(rows.request_key(request.id), record, state=record.state.value),
            _part(request, body),
            rows.insert_due(due, WakeKind.SWEEP, None, request.id),
            *told,
        ]
    )
    await flush(parts, outgoing)
    return record


async def _keep_part(
    parts: Parts, request: ResetRequest, body: str, known: Stored[RequestRecord]
) -> RequestRecord | None:
    record = known.record
    kept = await parts.store.part(request.id, request.part.number if request.part else 1)
    if reason := clash(record, request, str(kept.values["digest"]) if kept else None):
        await _refuse_request(parts, request.id, request.outcome_queue, reason)
        return None
    if kept is None:
        await parts.store.commit([_part(request, body)])
    if record.state is RequestState.RECEIVING:
        return await _accept(parts, known)
    # The same again: the same answer, under the same id, so that whoever has it already can drop it.
    _, outgoing = _accepted(record, record.received_at)
    await parts.store.commit([outbox_change(out) for out in outgoing])
    await flush(parts, outgoing)
    return record


async def _accept(parts: Parts, known: Stored[RequestRecord]) -> RequestRecord:
    """Accept a request in several parts once all of them are here. Raises Conflict."""
    record, now = known.record, parts.clock()
    present = [row.key async for row in parts.store.parts(record.id)]
    if len(present) < record.parts:
        return record
    due = rows.due_key(now + RETRY, f"request:{record.id}")
    accepted = replace(record, state=RequestState.ACCEPTED, due=due)
    told, outgoing = _accepted(accepted, now)
    await parts.store.commit([*_update_request(known, accepted), *told])
    await flush(parts, outgoing)
    return accepted


def _part(request: ResetRequest, body: str) -> Change:
    number = request.part.number if request.part else 1
    return rows.insert_part(rows.part_key(request.id, number), body, request.digest)


def _accepted(record: RequestRecord, now: datetime) -> tuple[list[Change], list[Outgoing]]:
    event = Event(kind=EventKind.ACCEPTED, at=now, who=WHO, request=record.id, told=True)
    outgoing = [to_tell(now, notice(event, record.outcome_queue))]
    return [rows.insert_event(event), *map(outbox_change, outgoing)], outgoing


def _update_request(known: Stored[RequestRecord], record: RequestRecord) -> list[Change]:
    """The request's row and its wake-up, as the record now has them."""
    changes = [rows.replace(rows.request_key(record.id), known.etag, record, state=record.state.value)]
    if known.record.due and known.record.due != record.due:
        changes.append(rows.delete(known.record.due))
    if record.due and known.record.due != record.due:
        changes.append(rows.insert_due(record.due, WakeKind.SWEEP, None, record.id))
    return changes


# --- refusing -----------------------------------------------------------------------------------------------------


async def _refuse_message(parts: Parts, refused: RefusedMessage) -> None:
    # A fault may name a field whose name is as long as the message.
    reason = Reason(refused.code, "; ".join(problem[:LONGEST_PROBLEM] for problem in refused.problems))
    log.warning("request %s refused: %s", refused.id, reason.code)
    await _refuse_request(parts, refused.id, refused.outcome_queue, reason)


async def _refuse_request(parts: Parts, request: RequestId, queue: str, reason: Reason) -> None:
    event = Event(kind=EventKind.REFUSED, at=parts.clock(), who=WHO, request=request, reason=reason, told=True)
    outgoing = [to_tell(event.at, notice(event, queue))]
    await parts.store.commit([rows.insert_event(event), *map(outbox_change, outgoing)])
    await flush(parts, outgoing)


async def refuse(parts: Parts, known: Stored[RequestRecord], reason: Reason, who: str = WHO) -> None:
    """Refuse a request that was kept: none of its devices is looked up any more. Raises Conflict."""
    event = Event(kind=EventKind.REFUSED, at=parts.clock(), who=who, request=known.record.id, reason=reason, told=True)
    outgoing = [to_tell(event.at, notice(event, known.record.outcome_queue))]
    refused = replace(known.record, state=RequestState.REFUSED, due=None)
    told = [rows.insert_event(event), *map(outbox_change, outgoing)]
    await parts.store.commit([*_update_request(known, refused), *told])
    await flush(parts, outgoing)


async def resume(parts: Parts, request_id: RequestId) -> None:
    """Go on with a request whose wake-up has come: look its devices up, or refuse it where parts are still missing."""
    known = await parts.store.request(request_id)
    if known is not None and known.record.state is RequestState.RECEIVING:
        try:
            if (await _accept(parts, known)).state is RequestState.RECEIVING:
                await refuse(parts, known, Reason(Code.PARTS_MISSING))
        except Conflict:
            log.info("request %s: a message of it came at the same time", request_id)
            return
    await expand(parts, request_id)


# --- its devices --------------------------------------------------------------------------------------------------


async def expand(parts: Parts, request_id: RequestId) -> None:
    """Look up every device of an accepted request and decide for each. Interrupted, it goes on where it stopped."""
    known = await parts.store.request(request_id)
    if known is None or known.record.state is not RequestState.ACCEPTED:
        return
    references: dict[DeviceReference, None] = {}
    async for row in parts.store.parts(request_id):
        part = parse(rows.unpack(row.values["body"]))
        if isinstance(part, ResetRequest):
            references |= dict.fromkeys(part.references())
    if len(references) > MAX_DEVICES:
        await refuse(parts, known, Reason(Code.TOO_MANY_DEVICES))
        return
    try:
        findings = await (await parts.intune()).find(list(references))
    except GraphError as error:
        log.warning("request %s waits, since its devices could not be looked up: %s", request_id, error)
        await _try_later(parts, known)
        return
    devices = named_devices(references, findings)
    for start in range(0, len(devices), BATCH):
        await _take(parts, request_id, devices[start : start + BATCH])
    known = await parts.store.request(request_id)
    if known is not None and known.record.state is RequestState.ACCEPTED:
        done = replace(known.record, state=RequestState.EXPANDED, devices=len(devices), due=None)
        await _settle(parts, known, done)


async def _try_later(parts: Parts, known: Stored[RequestRecord]) -> None:
    tries = known.record.tries + 1
    wait = min(RETRY * 2 ** min(tries, 10), timedelta(hours=1))
    due = rows.due_key(parts.clock() + wait, f"request:{known.record.id}")
    await _settle(parts, known, replace(known.record, tries=tries, due=due))


async def _settle(parts: Parts, known: Stored[RequestRecord], record: RequestRecord) -> None:
    try:
        await parts.store.commit(_update_request(known, record))
    except Conflict:
        log.info("request %s: another instance goes on with it", record.id)


async def _take(parts: Parts, request_id: RequestId, devices: Sequence[Named]) -> None:
    """Commit what becomes of up to 20 devices, at most four rows each, in one transaction with the request's own row.

    That row changes with every such transaction: an instance that was left behind by another meets a conflict, and can
    never take a device anew whose turnaround has ended meanwhile.
    """
    while True:
        known = await parts.store.request(request_id)
        if known is None or known.record.state is not RequestState.ACCEPTED:
            return  # another instance has finished it
        request, now = known.record, parts.clock()
        halt = await parts.store.halt()
        ids = [named.device for named in devices if named.device is not None]
        flying = await parts.store.resets(ids)
        ended = await parts.store.is_closed(request.id, [_about(named) for named in devices])
        changes = [rows.replace(rows.request_key(request.id), known.etag, request, state=request.state.value)]
        outgoing: list[Outgoing] = []
        for one in devices:
            mine = flying.get(one.device) if one.device is not None else None
            if _about(one) in ended or (mine and mine.record.request == request.id):
                continue
            other = mine.record.request if mine else None
            decided, outs = _carry_out(parts, request, one, halt, other, now)
            changes += decided
            outgoing += outs
        if len(changes) == 1:
            return
        try:
            await parts.store.commit(changes)
        except Conflict:
            continue
        await flush(parts, outgoing)
        if halt is not None:
            await release(parts, ids, WHO)
        return


def _about(named: Named) -> str:
    return named.device or rows.about_reference(str(named.reference))


def _carry_out(
    parts: Parts, request: RequestRecord, named: Named, halt: Halt | None, other: RequestId | None, now: datetime
) -> tuple[list[Change], list[Outgoing]]:
    """What becomes of one device: its rows and what goes out."""
    decided = decide(request, named, halt, other, now, parts.policy)
    if isinstance(decided, Reason):
        facts = named.outcome if isinstance(named.outcome, DeviceFacts) else None
        return _refused_reference(request, named, decided, now, facts)
    return changes_of(decided, None, now)


def _refused_reference(
    request: RequestRecord, named: Named, reason: Reason, now: datetime, facts: DeviceFacts | None
) -> tuple[list[Change], list[Outgoing]]:
    """Refuse what has no turnaround of its own: a name that leads nowhere, or a device that has one already."""
    event = Event(
        kind=EventKind.REFUSED,
        at=now,
        who=WHO,
        request=request.id,
        device=facts.managed.id if facts else None,
        reference=str(named.reference),
        to_state=State.REFUSED,
        reason=reason,
        told=True,
    )
    known = called(facts.managed) if facts else None
    outgoing = [to_tell(now, notice(event, request.outcome_queue, known))]
    return [rows.insert_event(event), rows.closed(event, None), *map(outbox_change, outgoing)], outgoing
