"""Timer: see which devices have checked in, and look closely at those that are being turned around."""

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import batched

from shared.domain.devices import CheckIn
from shared.domain.ids import ManagedDeviceId
from shared.domain.states import WATCHED
from shared.pipeline.advance import advance
from shared.pipeline.parts import BATCH, Parts
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
    """Handle all check-ins from a little before the watermark on; up to when all are handled."""
    newest = watermark
    unread: list[datetime] = []
    batch: list[CheckIn] = []
    async for check_in in (await parts.intune()).changed_since(watermark - parts.policy.poll_overlap):
        newest = max(newest, check_in.last_sync)
        batch.append(check_in)
        if len(batch) == AT_ONCE:
            unread += await _handle(parts, batch)
            batch = []
    unread += await _handle(parts, batch)
    now = parts.clock()
    # A device whose record is dated into the future must not hide the others' check-ins.
    newest = min(newest, now + timedelta(minutes=5))
    return min(newest, max(min(unread, default=newest), now - UNREAD_FOR))


async def _handle(parts: Parts, check_ins: Iterable[CheckIn]) -> list[datetime]:
    """Look closely at those of the devices that are watched and have moved since the last close look; the check-ins of
    those that could not be read."""
    newest: dict[ManagedDeviceId, datetime] = {}
    for check_in in check_ins:
        newest[check_in.device] = max(check_in.last_sync, newest.get(check_in.device, check_in.last_sync))
    stored = await parts.store.resets(list(newest))
    moved = [
        device
        for device, found in stored.items()
        if found.record.state in WATCHED and _moved(newest[device], found.record.proof.last_sync)
    ]
    unread: list[datetime] = []
    for devices in batched(moved, BATCH, strict=False):
        sightings = await (await parts.intune()).look(devices)
        await advance(parts, {device: [sighting] for device, sighting in sightings.items()}, WHO)
        unread += [newest[device] for device in devices if device not in sightings]
    return unread


def _moved(listed: datetime, seen: datetime | None) -> bool:
    """Lists cut times to whole seconds, single answers do not: only a whole second more is news."""
    return seen is None or listed > seen.replace(microsecond=0)
