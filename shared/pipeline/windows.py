"""Timer: open the lab windows whose time has come, each occurrence exactly once."""

import logging
from datetime import datetime
from functools import partial

from shared.domain.request import ResetRequest, messages
from shared.domain.reset import Event, EventKind
from shared.domain.timing import Occurrence, open_occurrences
from shared.domain.windows import Window, Windows
from shared.pipeline.parts import MAX_ITEM, Parts, each, flush, outbox_change, to_requests
from shared.state import rows
from shared.state.table import Conflict

log = logging.getLogger(__name__)
WHO = "windows"


async def windows(parts: Parts, plan: Windows) -> None:
    """Put the request of every window that is open and was not opened yet on the queue `reset-requests`.

    A missed tick is made good by the next one while the window is open; a doubled one finds the window opened.
    """
    now = parts.clock()
    await each(
        *(
            partial(_open, parts, window, occurrence, now)
            for window in plan.window
            for occurrence in open_occurrences(window.cron, window.zone, window.open_for, now)
        )
    )


async def _open(parts: Parts, window: Window, occurrence: Occurrence, now: datetime) -> None:
    request = window.request(occurrence)
    while await parts.store.window_opened(request.id) is None:
        bodies = messages(request, MAX_ITEM)
        event = Event(
            kind=EventKind.WINDOW_OPENED,
            at=now,
            who=WHO,
            request=request.id,
            evidence={
                "window": window.name,
                "opens": occurrence.opens.isoformat(),
                "digests": " ".join(ResetRequest.model_validate_json(body).digest for body in bodies),
            },
        )
        outgoing = to_requests(now, bodies)
        opened = [rows.insert(rows.window_key(request.id), event), rows.insert_event(event)]
        try:
            await parts.store.commit([*opened, *map(outbox_change, outgoing)])
        except Conflict:
            continue  # another tick may have opened it at the same time: the next look says so
        await flush(parts, outgoing)
        log.info("window %s opened", request.id)
        return
