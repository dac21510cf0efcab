"""Forget what ended long ago, once a day: policy says how long history is kept."""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import batched

from shared.domain.windows import LONGEST_OPEN
from shared.pipeline.parts import Parts
from shared.state import rows
from shared.state.store import Watermark
from shared.state.table import MAX_CHANGES

log = logging.getLogger(__name__)
EVERY = timedelta(days=1)


async def forget(parts: Parts, last: datetime | None) -> None:
    """Delete ended turnarounds, their history and their requests that are older than the policy's retention; `last` is
    when that was done before."""
    now = parts.clock()
    if last is not None and now - last < EVERY:
        return
    await parts.store.commit([rows.put(rows.RETENTION, Watermark(now))])
    if last is None:
        return  # the first run: nothing here is a day old
    count = 0
    async for keys in parts.store.expired(now - parts.policy.retention):
        count += await _drop(parts, keys)
    stale = parts.store.stale_notes(
        sent=now - parts.policy.device_window,
        ended=now - EVERY,
        approvals=now - parts.policy.approval_valid_for,
        windows=now - max(parts.policy.retention, LONGEST_OPEN),
    )
    notes = [key async for key in stale]
    count += await _drop(parts, notes)
    log.info("retention: %s rows forgotten", count)


async def _drop(parts: Parts, keys: Sequence[str]) -> int:
    for some in batched(dict.fromkeys(keys), MAX_CHANGES, strict=False):
        await parts.store.drop(some)
    return len(keys)
