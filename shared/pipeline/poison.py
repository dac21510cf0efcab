"""A message could not be handled in several tries: record it, and tell whoever waits for it."""

import hashlib
import logging

from shared.domain.ids import RequestId
from shared.domain.notices import notice
from shared.domain.reasons import Code, Reason
from shared.domain.request import RESULTS_QUEUE, parse
from shared.domain.reset import Event, EventKind
from shared.messages.queues import REQUESTS
from shared.pipeline.parts import Parts, flush, outbox_change, to_tell
from shared.state import rows

log = logging.getLogger(__name__)


async def poison(parts: Parts, queue: str, body: str) -> None:
    """Record a message of `queue` that was set aside, and tell it: to its sender where it was a request.

    Nothing in flight hangs on it: a device whose dispatch message was set aside is given another turn by the sweep.
    """
    message = parse(body) if queue == REQUESTS else None
    request = (
        message.id if message is not None else RequestId(f"{queue}-{hashlib.sha256(body.encode()).hexdigest()[:24]}")
    )
    event = Event(
        kind=EventKind.POISONED,
        at=parts.clock(),
        who="poison",
        request=request,
        reason=Reason(Code.POISONED, f"It was on the queue {queue}."),
        told=True,
    )
    outgoing = [to_tell(event.at, notice(event, message.outcome_queue if message is not None else RESULTS_QUEUE))]
    await parts.store.commit([rows.insert_event(event), *map(outbox_change, outgoing)])
    await flush(parts, outgoing)
    log.error("a message of %s was set aside (%s)", queue, request)
