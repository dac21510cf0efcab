"""Book Graph writes ahead, together with all other instances, and wait for our turn."""

from shared.domain.guardrails import reserve
from shared.pipeline.parts import Parts
from shared.state import rows
from shared.state.store import Pace
from shared.state.table import Conflict


async def await_turn(parts: Parts, writes: int) -> None:
    """Come back when this many writes may go to Graph. A crash while waiting costs a little budget, nothing else."""
    while True:
        booked = await parts.store.pace()
        now = parts.clock()
        start, end = reserve(booked.record.booked_until if booked else None, now, writes, parts.policy)
        change = (
            rows.insert(rows.PACE, Pace(end)) if booked is None else rows.replace(rows.PACE, booked.etag, Pace(end))
        )
        try:
            await parts.store.commit([change])
        except Conflict:
            continue
        if start > now:
            await parts.sleep((start - now).total_seconds())
        return
