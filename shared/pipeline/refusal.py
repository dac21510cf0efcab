"""Refuse a request as a whole: it stands in the history, and its sender is told."""

from dataclasses import replace

from shared.domain.ids import RequestId
from shared.domain.notices import notice
from shared.domain.reasons import Reason
from shared.domain.reset import Event, EventKind
from shared.pipeline.parts import Parts, flush, outbox_change, to_tell
from shared.state import rows
from shared.state.rows import RequestRecord, RequestState, Stored


async def refuse_message(parts: Parts, request: RequestId, queue: str, reason: Reason) -> None:
    """Refuse a message that is not kept: of the request of this id, as far as there is one, nothing changes."""
    event = Event(kind=EventKind.REFUSED, at=parts.clock(), who="intake", request=request, reason=reason, told=True)
    outgoing = [to_tell(event.at, notice(event, queue))]
    await parts.store.commit([rows.insert_event(event), *map(outbox_change, outgoing)])
    await flush(parts, outgoing)


async def refuse(parts: Parts, known: Stored[RequestRecord], reason: Reason, who: str = "intake") -> None:
    """Refuse a request that was kept: none of its devices is looked up any more. Raises Conflict."""
    event = Event(kind=EventKind.REFUSED, at=parts.clock(), who=who, request=known.record.id, reason=reason, told=True)
    outgoing = [to_tell(event.at, notice(event, known.record.outcome_queue))]
    refused = replace(known.record, state=RequestState.REFUSED, due=None)
    told = [rows.insert_event(event), *map(outbox_change, outgoing)]
    await parts.store.commit([*rows.update_request(known, refused), *told])
    await flush(parts, outgoing)
