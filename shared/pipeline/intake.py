"""A request came in: check it, keep it, look its devices up, and decide for each whether it may be reset.

The message's work is done once the request is kept, with a wake-up of its own: if Graph is down or this process dies,
the sweep goes on with it. Doing any of it again changes nothing and answers the same.
"""

import asyncio
import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import batched

from shared.domain import eligibility, guardrails
from shared.domain.commands import STOPPING, is_command
from shared.domain.devices import DeviceFacts, DeviceReference, Finding, ReferenceKind
from shared.domain.guardrails import Approval, Terms
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.lifecycle import Decision
from shared.domain.notices import notice
from shared.domain.policy import Policy
from shared.domain.reasons import Code, Reason
from shared.domain.request import MAX_DEVICES, RefusedMessage, ResetRequest, parse
from shared.domain.reset import Event, EventKind
from shared.domain.states import State
from shared.domain.timing import WakeKind
from shared.domain.windows import WINDOW_ID
from shared.pipeline.advance import called, changes_of
from shared.pipeline.control import control
from shared.pipeline.decide import WHO, Met, Named, clash, decide, named_devices, record_of, to_reset
from shared.pipeline.facts import find
from shared.pipeline.gate import approval_given, approval_needed, release, throw_halt
from shared.pipeline.parts import BATCH, Outgoing, Parts, flush, outbox_change, to_tell
from shared.pipeline.ports import GraphError
from shared.pipeline.refusal import refuse, refuse_message
from shared.pipeline.waves import WAVE_LOOK, next_wave
from shared.state import rows
from shared.state.rows import Quiet, RequestRecord, RequestState, Stored
from shared.state.store import END
from shared.state.table import Change, Conflict

log = logging.getLogger(__name__)
RETRY = timedelta(minutes=2)
"""When a request is looked at again whose devices could not be looked up; doubled each time, up to an hour."""

LONGEST_PROBLEM = 300
"""Characters of one fault that are told; with 20 of them a notice stays far below what a row may hold."""


async def intake(parts: Parts, body: str) -> None:
    """Take a message in: a request, or a command that only stops things. One that is neither is refused with an
    outcome, and never comes back."""
    if is_command(body):
        await control(parts, body, only=STOPPING)
        return
    request = parse(body)
    if isinstance(request, RefusedMessage):
        await _refuse_message(parts, request)
        return
    if not await _may_bear(parts, request):
        await refuse_message(parts, request.id, request.outcome_queue, Reason(Code.RESERVED_ID))
        return
    record = await _keep(parts, request, body)
    if record is not None and record.state is RequestState.ACCEPTED:
        await expand(parts, request.id)


async def _may_bear(parts: Parts, request: ResetRequest) -> bool:
    """Whether the request may have its id: those of lab windows are for what was put on the queue by their opening."""
    if not request.id.startswith(WINDOW_ID):
        return True
    opened = await parts.store.window_opened(request.id)
    return opened is not None and request.digest in opened.evidence.get("digests", "").split()


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
        await refuse_message(parts, request.id, request.outcome_queue, reason)
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
    await parts.store.commit([*rows.update_request(known, accepted), *told])
    await flush(parts, outgoing)
    return accepted


def _part(request: ResetRequest, body: str) -> Change:
    number = request.part.number if request.part else 1
    return rows.insert_part(rows.part_key(request.id, number), body, request.digest)


def _accepted(record: RequestRecord, now: datetime) -> tuple[list[Change], list[Outgoing]]:
    event = Event(kind=EventKind.ACCEPTED, at=now, who=WHO, request=record.id, told=True)
    outgoing = [to_tell(now, notice(event, record.outcome_queue))]
    return [rows.insert_event(event), *map(outbox_change, outgoing)], outgoing


# --- refusing -----------------------------------------------------------------------------------------------------


async def _refuse_message(parts: Parts, refused: RefusedMessage) -> None:
    # A fault may name a field whose name is as long as the message.
    reason = Reason(refused.code, "; ".join(problem[:LONGEST_PROBLEM] for problem in refused.problems))
    log.warning("request %s refused: %s", refused.id, reason.code)
    await refuse_message(parts, refused.id, refused.outcome_queue, reason)


async def resume(parts: Parts, request_id: RequestId) -> None:
    """Go on with a request whose wake-up has come: look its devices up, or refuse it where parts are still missing. One
    that another instance has begun meanwhile is left to it."""
    known = await parts.store.request(request_id)
    if known is not None and known.record.due is not None and known.record.due > rows.due_key(parts.clock(), END):
        return
    if known is not None and known.record.state is RequestState.RECEIVING:
        try:
            if (await _accept(parts, known)).state is RequestState.RECEIVING:
                await refuse(parts, known, Reason(Code.PARTS_MISSING))
        except Conflict:
            log.info("request %s: a message of it came at the same time", request_id)
            return
    if known is not None and known.record.state is RequestState.EXPANDED:
        await next_wave(parts, known)
        return
    await expand(parts, request_id, patience=timedelta())  # a sweep that stands in line keeps everything else waiting


# --- its devices --------------------------------------------------------------------------------------------------


async def expand(parts: Parts, request_id: RequestId, patience: timedelta = RETRY) -> None:
    """Look up every device of an accepted request and decide for each. Interrupted, it goes on where it stopped; what
    this process is at already is left to that. A large request waits so long at most for those before it: then it is
    left to its wake-up."""
    if request_id in parts.memory.taking_in:
        return
    parts.memory.taking_in.add(request_id)
    try:
        await _expand(parts, request_id, patience)
    finally:
        parts.memory.taking_in.remove(request_id)


async def _expand(parts: Parts, request_id: RequestId, patience: timedelta) -> None:
    known = await parts.store.request(request_id)
    if known is None or known.record.state is not RequestState.ACCEPTED:
        return
    references: dict[DeviceReference, None] = {}
    async for row in parts.store.parts(request_id):
        part = parse(rows.unpack(row.values["body"]))
        if isinstance(part, RefusedMessage):  # kept by a version that took it
            await refuse(parts, known, Reason(part.code, "; ".join(part.problems)))
            return
        references |= dict.fromkeys(part.references())
    if len(references) > MAX_DEVICES:
        await refuse(parts, known, Reason(Code.TOO_MANY_DEVICES))
        return
    findings = await _look_up(parts, known, list(references), patience)
    if findings is None:
        return
    devices = named_devices(references, findings)
    if eligibility.is_unknown(known.record.requester, parts.policy) and parts.policy.halt_on_unknown_requester:
        why = f"Request {request_id} came from {known.record.requester!r}, whom nobody knows."
        await throw_halt(parts, WHO, why, unless_halted=True)
    met = await _met(parts, devices)
    digest, waves = await _set_terms(parts, request_id, devices, met)
    for batch in batched(devices, BATCH, strict=False):
        await _take(parts, request_id, batch, digest, waves, met)
    known = await parts.store.request(request_id)
    if known is not None and _goes_on(known.record, digest):
        await _settle(parts, known, _expanded(known.record, len(devices), parts.clock()))


async def _look_up(
    parts: Parts, known: Stored[RequestRecord], references: Sequence[DeviceReference], patience: timedelta
) -> Mapping[DeviceReference, Finding] | None:
    """What the request's names lead to; None where it is left to its wake-up, or to another instance."""
    async with contextlib.AsyncExitStack() as line:
        mine: Stored[RequestRecord] | None = known
        if _is_large(references):
            try:
                async with asyncio.timeout(patience.total_seconds()):
                    await line.enter_async_context(parts.memory.finding)
            except TimeoutError:
                return None
            mine = await _claim(parts, known.record)
        if mine is None:
            return None
        try:
            return await find(await parts.intune(), references, parts.policy)
        except GraphError as error:
            log.warning("request %s waits, since its devices could not be looked up: %s", mine.record.id, error)
            await _try_later(parts, mine, error)
            return None


def _is_large(references: Collection[DeviceReference]) -> bool:
    """Whether a request may name more devices than are ordered together; a small one waits for no other."""
    return len(references) > BATCH or any(one.kind is ReferenceKind.GROUP_TAG for one in references)


def _goes_on(record: RequestRecord, digest: str) -> bool:
    """Whether the request is still to be taken in, under these terms: those of another instance, which found other
    devices, have another digest."""
    return record.state is RequestState.ACCEPTED and record.terms is not None and record.terms.digest == digest


async def _met(parts: Parts, devices: Sequence[Named]) -> Met:
    ids = [named.device for named in devices if named.device is not None]
    return Met(
        halt=await parts.store.halt(),
        in_flight={device: found.record.request for device, found in (await parts.store.resets(ids)).items()},
        sent=await parts.store.sent_since(parts.clock() - parts.policy.device_window),
    )


def _expanded(record: RequestRecord, devices: int, now: datetime) -> RequestRecord:
    """A request that goes out in waves keeps a wake-up, which opens the next one."""
    waves = record.terms is not None and bool(record.terms.waves)
    due = rows.due_key(now + WAVE_LOOK, f"request:{record.id}") if waves else None
    return replace(record, state=RequestState.EXPANDED, devices=devices, due=due)


async def _claim(parts: Parts, mine: RequestRecord) -> Stored[RequestRecord] | None:
    """The request with its wake-up put off, so that no other instance begins with it too, for RETRY; None where another
    one has begun or ended it since it was read."""
    claimed = replace(mine, due=rows.due_key(parts.clock() + RETRY, f"request:{mine.id}"))
    while (known := await parts.store.request(mine.id)) is not None and known.record == mine != claimed:
        await _settle(parts, known, claimed)
    return known if known is not None and known.record == claimed else None


async def _try_later(parts: Parts, known: Stored[RequestRecord], error: GraphError) -> None:
    now, record = parts.clock(), known.record
    if now >= record.received_at + parts.policy.lookup_for:
        with contextlib.suppress(Conflict):  # another instance goes on with it
            await refuse(parts, known, Reason(Code.LOOKUP_FAILED, str(error)[:LONGEST_PROBLEM]))
        return
    wait = min(RETRY * 2 ** min(record.tries + 1, 10), timedelta(hours=1))
    due = rows.due_key(now + wait, f"request:{record.id}")
    await _settle(parts, known, replace(record, tries=record.tries + 1, due=due))


async def _settle(parts: Parts, known: Stored[RequestRecord], record: RequestRecord) -> None:
    try:
        await parts.store.commit(rows.update_request(known, record))
    except Conflict:
        log.info("request %s: another instance goes on with it", record.id)


async def _set_terms(
    parts: Parts, request_id: RequestId, devices: Sequence[Named], met: Met
) -> tuple[str, Mapping[ManagedDeviceId, int]]:
    """Write down what the request as a whole is subject to, with an approval that came before it; gives the digest, and
    which device goes in which wave. Begun anew after a crash the devices may be others: then so are the terms, and an
    approval of the earlier ones is none of these. What needed a second person once, needs one."""
    while True:
        known = await parts.store.request(request_id)
        now = parts.clock()
        if known is None or known.record.state is not RequestState.ACCEPTED:
            return "", {}
        record = known.record
        wanted = to_reset(record, devices, met, now, parts.policy)
        wanted += await _taken_before(parts, record, wanted)
        orders = await parts.store.orders()
        counted = orders.record if orders else None
        terms = guardrails.terms(record.id, record.header_digest, wanted, now, parts.policy, counted)
        same = record.terms if record.terms is not None and record.terms.digest == terms.digest else None
        sizes = (same or terms).waves
        waves = {facts.managed.id: guardrails.wave_of(number, sizes) for number, facts in enumerate(wanted)}
        if same is not None:
            return terms.digest, waves
        if record.terms is not None:
            terms = replace(terms, needs=terms.needs or record.terms.needs, declined=record.terms.declined)
        early = await parts.store.early_approval(request_id)
        terms, event = _with_approval(record, terms, early, now, parts.policy)
        outgoing = [to_tell(now, notice(event, record.outcome_queue))] if event is not None else []
        changes = rows.update_request(known, replace(record, terms=terms))
        changes += [rows.insert_event(event)] if event is not None else []
        changes += [rows.delete(rows.approval_key(request_id))] if early is not None else []
        try:
            await parts.store.commit([*changes, *map(outbox_change, outgoing)])
        except Conflict:
            continue
        await flush(parts, outgoing)
        return terms.digest, waves


async def _taken_before(parts: Parts, record: RequestRecord, wanted: Sequence[DeviceFacts]) -> list[DeviceFacts]:
    """Devices that are in flight for the request since it was begun before, and that it does not name any more."""
    if record.terms is None:
        return []
    named = {facts.managed.id for facts in wanted}
    taken = [found.record async for found in parts.store.in_flight(request=record.id)]
    return [DeviceFacts(one.before, None, None, one.facts_at) for one in taken if one.device not in named]


def _with_approval(
    record: RequestRecord, terms: Terms, early: Approval | None, now: datetime, policy: Policy
) -> tuple[Terms, Event | None]:
    """The terms with the approval that came before the request, where it is one of these; and what is told."""
    if not terms.needs:
        return terms, None
    fault = guardrails.approval_fault(early, record.requester, terms.digest, policy) if early is not None else None
    if early is not None and fault is None:
        return replace(terms, approval=early), approval_given(record, terms, early, now)
    return terms, approval_needed(record, terms, now, fault.sentence if fault else "")


async def _take(
    parts: Parts,
    request_id: RequestId,
    devices: Sequence[Named],
    digest: str,
    waves: Mapping[ManagedDeviceId, int],
    met: Met,
) -> None:
    """Commit what becomes of up to 20 devices, at most four rows each, in one transaction with the request's own row.

    That row changes with every such transaction: an instance that was left behind by another meets a conflict, and can
    never take a device anew whose turnaround has ended meanwhile. A device that was in flight for another request when
    the terms were set is in none of them, and is refused though it may be free by now.
    """
    while True:
        known = await parts.store.request(request_id)
        if known is None or not _goes_on(known.record, digest):
            return  # another instance has finished it, or goes on with it
        request, now = known.record, parts.clock()
        ids = [named.device for named in devices if named.device is not None]
        flying = {device: found.record.request for device, found in (await parts.store.resets(ids)).items()}
        now_met = Met(await parts.store.halt(), {**met.in_flight, **flying}, met.sent)
        ended = await parts.store.is_closed(request.id, [_about(named) for named in devices])
        changes = [rows.replace(rows.request_key(request.id), known.etag, request, state=request.state.value)]
        outgoing: list[Outgoing] = []
        free: set[ManagedDeviceId] = set()
        for one in devices:
            mine = one.device is not None and flying.get(one.device) == request.id
            if _about(one) in ended or mine:
                continue
            wave = waves.get(one.device, 0) if one.device is not None else 0
            decided = decide(request, one, wave, now_met, now, parts.policy)
            if isinstance(decided, Decision) and decided.reset.state is not State.HELD:
                free.add(decided.reset.device)
            more, outs = _carry_out(request, one, decided, now)
            changes += more
            outgoing += outs
        if len(changes) > 1:
            try:
                await parts.store.commit([*changes, rows.put(rows.QUIET, Quiet())])
            except Conflict:
                continue
            await flush(parts, outgoing)
        # Also those that were taken before: whoever took them may have died before it asked again.
        await release(parts, [device for device in ids if device not in free], WHO)
        return


def _about(named: Named) -> str:
    return named.device or rows.about_reference(str(named.reference))


def _carry_out(
    request: RequestRecord, named: Named, decided: Decision | Reason, now: datetime
) -> tuple[list[Change], list[Outgoing]]:
    """What becomes of one device: its rows and what goes out."""
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
    ends = [rows.closed(event, None), rows.ended(event)]
    return [rows.insert_event(event), *ends, *map(outbox_change, outgoing)], outgoing
