"""What may hold a device, as it stands now: read in one way when it comes in, before every send, and on release.

Whoever holds a device asks again after the commit (`release`), since what held it may have ended between the look and
the commit; whoever ends what holds devices commits that first, then releases. So one of the two always sees the other.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import batched

from shared.domain import guardrails
from shared.domain.guardrails import Approval, Halt, Hold, Orders, Terms
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.lifecycle import Released
from shared.domain.notices import notice
from shared.domain.policy import Policy
from shared.domain.reasons import Code, Reason
from shared.domain.request import RESULTS_QUEUE
from shared.domain.reset import Event, EventKind, Reset
from shared.domain.states import State
from shared.pipeline.advance import advance
from shared.pipeline.parts import BATCH, Parts, flush, outbox_change, to_tell
from shared.state import rows
from shared.state.rows import RequestRecord
from shared.state.table import Conflict

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gate:
    """The halt, and the terms of the requests concerned."""

    halt: Halt | None
    requests: Mapping[RequestId, RequestRecord]

    def hold(self, reset: Reset, now: datetime, policy: Policy) -> Hold | None:
        """What holds this device, or None where it may go."""
        request = self.requests.get(reset.request)
        terms = request.terms if request is not None else None
        return guardrails.hold(terms, reset.requester, reset.wave, reset.not_before, self.halt, now, policy)

    def approved(self, reset: Reset) -> bool:
        """Whether a second person approved its request."""
        request = self.requests.get(reset.request)
        return request is not None and request.terms is not None and request.terms.approval is not None


async def gate(parts: Parts, resets: Iterable[Reset]) -> Gate:
    """The gate as it stands for these devices. The halt is read last."""
    requests = await parts.store.requests({reset.request for reset in resets})
    return Gate(await parts.store.halt(), requests)


async def release(parts: Parts, devices: Sequence[ManagedDeviceId], by: str) -> None:
    """Let go those of the devices that are held by what is over. What holds by the clock alone ends by its wake-up."""
    for batch in batched(devices, BATCH, strict=False):
        stored = [found.record for found in (await parts.store.resets(batch)).values()]
        held = [reset for reset in stored if reset.state is State.HELD and reset.reason and reset.next_step is None]
        if not held:
            continue
        now, open_ = parts.clock(), await gate(parts, held)
        happenings = {}
        for reset in held:
            hold = open_.hold(reset, now, parts.policy)
            if reset.reason is not None and (hold is None or hold.reason.code is not reset.reason.code):
                happenings[reset.device] = [Released(reset.reason.code)]
        await advance(parts, happenings, by)


async def require_approval(parts: Parts, requests: Iterable[RequestId], why: str) -> None:
    """From now on these requests need a second person; their senders are told."""
    for request in requests:
        while (known := await parts.store.request(request)) is not None:
            record, now = known.record, parts.clock()
            if record.terms is None or record.terms.needs:
                break
            terms = replace(record.terms, needs=why)
            event = approval_needed(record, terms, now)
            outgoing = [to_tell(now, notice(event, record.outcome_queue))]
            changes = [*rows.update_request(known, replace(record, terms=terms)), rows.insert_event(event)]
            try:
                await parts.store.commit([*changes, *map(outbox_change, outgoing)])
            except Conflict:
                continue
            await flush(parts, outgoing)
            break


def approval_given(record: RequestRecord, terms: Terms, approval: Approval, now: datetime) -> Event:
    """What is recorded and told when a second person agreed."""
    return Event(
        kind=EventKind.APPROVED,
        at=now,
        who=approval.by,
        request=record.id,
        evidence={"digest": terms.digest, "devices": str(terms.devices), "why": approval.why},
        told=True,
    )


def approval_needed(record: RequestRecord, terms: Terms, now: datetime, more: str = "") -> Event:
    """What is recorded and told when a request waits for a second person."""
    return Event(
        kind=EventKind.APPROVAL_NEEDED,
        at=now,
        who="gate",
        request=record.id,
        reason=Reason(Code.APPROVAL_NEEDED, f"{terms.needs} {more}".strip()),
        evidence={"digest": terms.digest, "devices": str(terms.devices)},
        told=True,
    )


async def throw_halt(parts: Parts, by: str, why: str, *, unless_halted: bool = False) -> None:
    """Stop every send in every instance. The same halt again, as a message may come twice, changes nothing; with
    `unless_halted` nor does any, so that the one that somebody threw keeps its name.

    The commit changes the row that every send changes too: a send that read the halt before it meets a conflict, and
    reads it again.
    """
    while True:
        orders, halt, now = await parts.store.orders(), await parts.store.halt(), parts.clock()
        if halt is not None and (unless_halted or (halt.by, halt.why) == (by, why)):
            return
        event = Event(kind=EventKind.HALTED, at=now, who=by, reason=Reason(Code.HALTED, f"By {by}: {why}"), told=True)
        outgoing = [to_tell(now, notice(event, RESULTS_QUEUE))]
        sends = rows.write(rows.ORDERS, orders, orders.record if orders else Orders())
        changes = [rows.put(rows.HALT, Halt(by, why, now)), sends, rows.insert_event(event)]
        try:
            await parts.store.commit([*changes, *map(outbox_change, outgoing)])
        except Conflict:
            continue
        await flush(parts, outgoing)
        log.warning("halted by %s", by)
        return
