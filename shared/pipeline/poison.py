"""A message could not be handled in several tries: record it, and tell whoever waits for it."""

import hashlib
import logging
from itertools import batched

from pydantic import ValidationError

from shared.domain.ids import RequestId
from shared.domain.notices import Notice, notice
from shared.domain.reasons import Code, Reason
from shared.domain.request import RESULTS_QUEUE, parse
from shared.domain.reset import Event, EventKind
from shared.messages.queues import NOTICES, REQUESTS
from shared.pipeline.notify import notices_in
from shared.pipeline.parts import Parts, flush, outbox_change, to_tell
from shared.state import rows
from shared.state.table import MAX_CHANGES

log = logging.getLogger(__name__)


async def poison(parts: Parts, queue: str, body: str) -> None:
    """Record a message of `queue` that was set aside, and tell it: to its sender where it was a request.

    Nothing in flight hangs on it: a device whose dispatch message was set aside is given another turn by the sweep.
    Notices that could not be delivered are promised anew, and the sweep hands them out again.
    """
    if queue == NOTICES and (undelivered := _notices(body)):
        log.error("%s notices could not be delivered: they are tried again", len(undelivered))
        now = parts.clock()
        again = dict(to_tell(now, notice) for notice in undelivered)  # each once, should one be there twice
        for some in batched(again.items(), MAX_CHANGES, strict=False):
            await parts.store.commit(list(map(outbox_change, some)))
        return
    digest = hashlib.sha256(body.encode()).hexdigest()[:24]
    message = parse(body) if queue == REQUESTS else None
    request = message.id if message is not None else RequestId(f"{queue}-{digest}")
    event = Event(
        kind=EventKind.POISONED,
        at=parts.clock(),
        who="poison",
        request=request,
        reason=Reason(Code.POISONED, f"It was on the queue {queue} (SHA-256 {digest}...)."),
        told=True,
    )
    outgoing = [to_tell(event.at, notice(event, message.outcome_queue if message is not None else RESULTS_QUEUE))]
    await parts.store.commit([rows.insert_event(event), *map(outbox_change, outgoing)])
    await flush(parts, outgoing)
    log.error("a message of %s was set aside (%s)", queue, request)


def _notices(body: str) -> list[Notice]:
    try:
        return notices_in(body)
    except ValidationError:
        return []
