"""Timer: see which devices have checked in, and look closely at those of which a list does not show enough."""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import batched

from shared.domain.devices import Sighting
from shared.domain.ids import ManagedDeviceId
from shared.domain.lifecycle import Effect
from shared.pipeline.advance import advance
from shared.pipeline.parts import BATCH, Parts, Shown
from shared.pipeline.ports import GraphError
from shared.state import rows
from shared.state.store import Watermark

log = logging.getLogger(__name__)
WHO = "poll"
AT_ONCE = 200
"""Check-ins handled together, so that a large fleet is never held in memory."""
UNREAD_FOR = timedelta(hours=1)
"""How long the watermark waits for a device that cannot be read; after it, the device's own wake-up looks again."""


async def poll(parts: Parts) -> None:
    """Handle every check-in since the last poll. Without anything in flight, Graph is not asked at all.

    The watermark moves only after all was handled; after a failure the next poll looks at the same span again.
    """
    if not await parts.store.anything_in_flight():
        return
    watermark = await parts.store.watermark() or parts.clock()
    try:
        handled = await _look_since(parts, watermark)
    except GraphError as error:
        log.warning("check-ins could not be read, the next poll tries again: %s", error)
        return
    await parts.store.commit([rows.put(rows.WATERMARK, Watermark(handled))])


async def _look_since(parts: Parts, watermark: datetime) -> datetime:
    """Handle all check-ins from a little before the watermark on, so that lists have time to show them, and what is
    still so late; up to when all are handled."""
    # Where nobody checks in any more, the span must not grow.
    newest = max(watermark, parts.clock() - parts.policy.lists_lag - parts.policy.clock_tolerance)
    unread: list[datetime] = []
    batch: list[Sighting] = []
    async for listed in (await parts.intune()).changed_since(watermark - parts.policy.listed_for):
        newest = max(newest, _checked_in(listed))
        batch.append(listed)
        if len(batch) == AT_ONCE:
            unread += await _handle(parts, batch)
            batch = []
    unread += await _handle(parts, batch)
    now = parts.clock()
    for device in [one for one, (_, at) in parts.memory.handled.items() if now - at > parts.policy.reconcile_after]:
        del parts.memory.handled[device]
    # A device whose record is dated into the future must not hide the others' check-ins.
    newest = min(newest, now + timedelta(minutes=5))
    return min(newest, max(min(unread, default=newest), now - UNREAD_FOR))


async def _handle(parts: Parts, listed: Iterable[Sighting]) -> list[datetime]:
    """Take the watched devices as far as the list does, and look closely at those of which it does not show enough; the
    check-ins of those that could not be read."""
    newest: dict[ManagedDeviceId, Sighting] = {}
    for sighting in listed:
        if not _just_handled(parts, sighting):
            newest[sighting.device] = max(newest.get(sighting.device, sighting), sighting, key=_checked_in)
    stored = await parts.store.resets(list(newest))
    decisions = await advance(
        parts, {device: [newest[device]] for device in stored}, WHO, known=stored, unless=Effect.LOOK
    )
    close = [device for device, decision in decisions.items() if Effect.LOOK in decision.effects]
    unread: list[datetime] = []
    behind: list[ManagedDeviceId] = []
    for devices in batched(close, BATCH, strict=False):
        sightings = await (await parts.intune()).look(devices)
        seen = {device: [newest[device], *([sightings[device]] if device in sightings else [])] for device in devices}
        await advance(parts, seen, WHO, known={device: stored[device] for device in devices})
        unread += [_checked_in(newest[device]) for device in devices if device not in sightings]
        behind += [one for one in devices if _checked_in(sightings.get(one)) < _checked_in(newest[one])]
    handled = {device: (_shown(seen), seen.seen_at) for device, seen in newest.items() if device not in behind}
    parts.memory.handled.update(handled)
    return unread


def _just_handled(parts: Parts, sighting: Sighting) -> bool:
    """Whether the same was handled by this process lately, and has not come to count as late since: each list shows the
    check-ins of the last quarter of an hour or so again."""
    shown, at = parts.memory.handled.get(sighting.device, (None, None))
    if at is None or shown != _shown(sighting) or parts.clock() - at >= parts.policy.reconcile_after:
        return False
    return not at < _checked_in(sighting) + parts.policy.lists_lag <= sighting.seen_at


def _shown(sighting: Sighting) -> Shown:
    return sighting.last_sync, sighting.management_state, sighting.primary_user


def _checked_in(sighting: Sighting | None) -> datetime:
    return (sighting and sighting.last_sync) or datetime.min.replace(tzinfo=UTC)
