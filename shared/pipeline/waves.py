"""A large request goes out in waves: open the next one when enough of the last is ready, stop where too much failed."""

import logging
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta

from shared.domain import guardrails
from shared.domain.guardrails import Terms, WaveVerdict
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.lifecycle import Stopped
from shared.domain.notices import notice
from shared.domain.reasons import Code, Reason
from shared.domain.reset import Event, EventKind
from shared.domain.states import NOTHING_SENT, State
from shared.pipeline.advance import advance
from shared.pipeline.gate import release
from shared.pipeline.parts import BATCH, Parts, flush, outbox_change, to_tell
from shared.state import rows
from shared.state.rows import RequestRecord, Stored
from shared.state.table import Conflict

log = logging.getLogger(__name__)
WHO = "waves"
WAVE_LOOK = timedelta(minutes=2)
"""How often a wave is looked at."""


async def next_wave(parts: Parts, known: Stored[RequestRecord]) -> None:
    """Decide about the next wave, write it down, then let its devices go; a crash in between is made good at the next
    look, which comes until no device waits for a wave any more."""
    record, now = known.record, parts.clock()
    terms = record.terms
    if terms is None or not terms.waves:
        return
    wave, waiting, later = await _counted(parts, record.id, terms.wave)
    decided, event = _decided(parts, record, terms, wave)
    over = not waiting and (bool(decided.stopped) or not later)
    due = None if over else rows.due_key(now + WAVE_LOOK, f"request:{record.id}")
    outgoing = [to_tell(now, notice(event, record.outcome_queue))] if event is not None and event.told else []
    changes = rows.update_request(known, replace(record, terms=decided, due=due))
    changes += [rows.insert_event(event)] if event is not None else []
    try:
        await parts.store.commit([*changes, *map(outbox_change, outgoing)])
    except Conflict:
        return  # somebody else changed the request: the next look decides
    await flush(parts, outgoing)
    if decided.stopped:
        for start in range(0, len(waiting), BATCH):
            batch = waiting[start : start + BATCH]
            await advance(parts, {device: [Stopped(decided.stopped)] for device in batch}, WHO)
    else:
        await release(parts, waiting, WHO)


async def _counted(parts: Parts, request: RequestId, wave: int) -> tuple[Counter[State], list[ManagedDeviceId], bool]:
    """The wave's devices by state, all devices of the request that wait for a wave, and whether any is of a later
    one."""
    counts: Counter[State] = Counter()
    waiting: list[ManagedDeviceId] = []
    later = False
    async for found in parts.store.in_flight(request=request):
        reset = found.record
        counts[reset.state] += reset.wave == wave
        later = later or (reset.wave > wave and reset.state in NOTHING_SENT)
        if reset.state is State.HELD and reset.reason is not None and reset.reason.code is Code.WAITS_FOR_WAVE:
            waiting.append(reset.device)
    async for closed in parts.store.closed(request):
        if closed.reset is not None:
            counts[closed.reset.state] += closed.reset.wave == wave
    return counts, waiting, later


def _decided(parts: Parts, record: RequestRecord, terms: Terms, wave: Counter[State]) -> tuple[Terms, Event | None]:
    now = parts.clock()
    if terms.stopped or terms.wave == len(terms.waves):
        return terms, None
    verdict, why = guardrails.wave_verdict(wave, terms.wave_since or record.received_at, now, parts.policy)
    counts = {state.value: str(count) for state, count in wave.items() if count}
    match verdict:
        case WaveVerdict.WAIT:
            unsent = any(wave[state] for state in NOTHING_SENT)  # its time begins once all of it was sent
            return replace(terms, wave_since=now) if unsent else terms, None
        case WaveVerdict.GO:
            opened = replace(terms, wave=terms.wave + 1, wave_since=now)
            return opened, _event(record, EventKind.WAVE_OPENED, now, None, {"wave": str(opened.wave), **counts})
        case WaveVerdict.STOP:
            why = f"Wave {terms.wave} of {len(terms.waves)}: {why}"
            reason = Reason(Code.WAVE_FAILED, why)
            return replace(terms, stopped=why), _event(record, EventKind.WAVES_STOPPED, now, reason, counts)


def _event(
    record: RequestRecord, kind: EventKind, now: datetime, reason: Reason | None, evidence: dict[str, str]
) -> Event:
    told = kind is EventKind.WAVES_STOPPED
    return Event(kind=kind, at=now, who=WHO, request=record.id, reason=reason, evidence=evidence, told=told)
