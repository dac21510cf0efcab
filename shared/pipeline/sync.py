"""Timer: look at the devices whose own next step is due, and tell those to check in that still need telling."""

import logging
from collections.abc import Sequence
from functools import partial
from itertools import batched

from shared.domain.devices import Sighting
from shared.domain.ids import ManagedDeviceId, OrderId
from shared.domain.lifecycle import Effect, Happening, SyncAnswered, Woken
from shared.domain.orders import AnswerKind, Order
from shared.domain.states import State
from shared.domain.timing import WakeKind
from shared.pipeline.advance import advance
from shared.pipeline.pace import await_turn
from shared.pipeline.parts import BATCH, Parts, each
from shared.pipeline.ports import GraphError

log = logging.getLogger(__name__)
WHO = "sync"
LIMIT = 1000
"""Devices looked after in one tick; the rest waits for the next."""


async def sync(parts: Parts) -> None:
    """Look after every device whose sync is due. What a crash leaves undone is due again after its back-off."""
    due = await parts.store.due(WakeKind.SYNC, parts.clock(), LIMIT)
    devices = [wake.device for wake in due if wake.device is not None]
    await each(*(partial(_sync, parts, batch) for batch in batched(devices, BATCH, strict=False)))


async def _sync(parts: Parts, devices: Sequence[ManagedDeviceId]) -> None:
    stored = await parts.store.resets(devices)
    # Where the device should be silent or is back, what Graph shows now decides whether a sync is wanted at all; and
    # nobody is called without a last look.
    looked = await look(
        parts,
        [
            device
            for device, found in stored.items()
            if found.record.state is not State.TRIGGERED or found.record.syncs >= parts.policy.sync_attempts
        ],
    )
    happenings: dict[ManagedDeviceId, Sequence[Happening]] = {
        device: [looked[device], Woken()] if device in looked else [Woken()] for device in stored
    }
    decisions = await advance(parts, happenings, WHO, known=stored)
    wanted = [device for device, decision in decisions.items() if Effect.SYNC in decision.effects]
    if not wanted:
        return
    await await_turn(parts, len(wanted))
    answers = await (await parts.intune()).sync([Order(device, OrderId(parts.new_id())) for device in wanted])
    for device, answer in answers.items():
        if answer.kind is not AnswerKind.ACCEPTED:
            log.warning("sync of device %s was not taken: %s %s", device, answer.kind, answer.detail)
    await advance(parts, {device: [SyncAnswered(answer)] for device, answer in answers.items()}, WHO)


async def look(parts: Parts, devices: Sequence[ManagedDeviceId]) -> dict[ManagedDeviceId, Sighting]:
    """A close look at the devices; those that cannot be read now are left out, and the next tick tries again."""
    if not devices:
        return {}
    try:
        return dict(await (await parts.intune()).look(devices))
    except GraphError as error:
        log.warning("%s devices could not be looked at: %s", len(devices), error)
        return {}
