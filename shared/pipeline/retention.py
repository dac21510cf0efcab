"""Forget what ended long ago, once a day: policy says how long history is kept."""

import logging
from collections.abc import Sequence
from datetime import timedelta
from itertools import batched

from shared.pipeline.parts import Parts
from shared.state import rows
from shared.state.store import Watermark
from shared.state.table import MAX_CHANGES

log = logging.getLogger(__name__)
EVERY = timedelta(days=1)


async def forget(parts: Parts) -> None:
    """Delete ended turnarounds, their history and their requests that are older than the policy's retention."""
    now = parts.clock()
    last = await parts.store.forgotten_at()
    if last is not None and now - last < EVERY:
        return
    await parts.store.commit([rows.put(rows.RETENTION, Watermark(now))])
    if last is None:
        return  # the first run: nothing here is a day old
    count = 0
    async for keys in parts.store.expired(now - parts.policy.retention):
        count += await _drop(parts, keys)
    approvals = now - parts.policy.approval_valid_for
    notes = [key async for key in parts.store.stale_notes(now - parts.policy.device_window, now - EVERY, approvals)]
    count += await _drop(parts, notes)
    log.info("retention: %s rows forgotten", count)


async def _drop(parts: Parts, keys: Sequence[str]) -> int:
    for some in batched(dict.fromkeys(keys), MAX_CHANGES, strict=False):
        await parts.store.drop(some)
    return len(keys)
