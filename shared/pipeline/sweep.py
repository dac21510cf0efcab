"""Timer: deadlines, lost turns and wake-ups, answers that were lost, messages not handed over, retention."""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from itertools import batched

from shared.domain import guardrails
from shared.domain.guardrails import Orders
from shared.domain.ids import ManagedDeviceId
from shared.domain.lifecycle import AdminDecided, Happening, Reconciled, Woken
from shared.domain.reset import Reset
from shared.domain.states import WATCHED, State
from shared.pipeline.advance import advance
from shared.pipeline.gate import throw_halt
from shared.pipeline.intake import resume
from shared.pipeline.parts import BATCH, Outgoing, Parts, each, flush
from shared.pipeline.ports import GraphError
from shared.pipeline.retention import forget
from shared.pipeline.sync import look
from shared.state import rows
from shared.state.rows import Quiet
from shared.state.store import AtHand
from shared.state.table import Conflict

log = logging.getLogger(__name__)
WHO = "sweep"
LIMIT = 1000
LATELY = timedelta(hours=1)
"""How far back the halt that throws itself looks."""
LEFT_BEHIND = timedelta(seconds=30)
"""Outbox rows older than this were left behind by a process that died."""


async def sweep(parts: Parts) -> None:
    """Do everything that is due and belongs to no other timer. Where nothing is, that is one call to the table."""
    now = parts.clock()
    found = await parts.store.at_hand(now, now - LEFT_BEHIND, LIMIT)
    devices = [wake.device for wake in found.due if wake.device is not None]
    requests = [wake.request for wake in found.due if wake.request is not None]
    await each(
        partial(_hand_out, parts, found.left),
        partial(_watch, parts, found),
        *(partial(_sweep, parts, batch) for batch in batched(devices, BATCH, strict=False)),
        *(partial(resume, parts, request) for request in requests),
        partial(forget, parts, found.forgotten_at),
    )


async def _hand_out(parts: Parts, left: Sequence[Outgoing]) -> None:
    """Hand out what was committed and not handed out."""
    if left:
        log.info("%s messages were left behind; they go out now", len(left))
        await flush(parts, left)


async def _watch(parts: Parts, found: AtHand) -> None:
    """Stop everything where what happened lately is not what usually happens; where nothing did, look no more until
    devices are taken in."""
    if found.halt is not None or (found.quiet is not None and found.quiet.record.since is not None):
        return
    # Before the ends are counted: whatever ended until then is among them.
    flying = await parts.store.anything_in_flight()
    # After the look at the halt: once that is lifted, it stands here what is excused.
    now, resumed_at = parts.clock(), await parts.store.resumed_at()
    ends = await parts.store.ended_since(max(now - LATELY, resumed_at or now - LATELY), LIMIT)
    counted = await parts.store.orders()
    why = guardrails.anomaly(ends, counted.record if counted else Orders(), resumed_at, now, parts.policy)
    if why is not None:
        await throw_halt(parts, WHO, why, unless_halted=True)
    elif not flying and not ends:
        with contextlib.suppress(Conflict):  # devices were taken in since the look
            await parts.store.commit([rows.write(rows.QUIET, found.quiet, Quiet(now))])


async def _sweep(parts: Parts, devices: Sequence[ManagedDeviceId]) -> None:
    known = await parts.store.resets(devices)
    stored = {device: found.record for device, found in known.items()}
    happenings: dict[ManagedDeviceId, Sequence[Happening]] = {device: [Woken()] for device in stored}
    # Nobody is called without a last look: the device may have come back between two polls.
    watched = [device for device, reset in stored.items() if reset.state in WATCHED]
    sightings = await look(parts, watched)
    for device, sighting in sightings.items():
        happenings[device] = [sighting, Woken()]
    doubtful = {device: reset for device, reset in stored.items() if reset.state is State.SENDING}
    for device, decided in (await _admin_decisions(parts, stored)).items():
        happenings[device] = [decided, Woken()]
    audited = await _audited(parts, doubtful)
    for device in doubtful:
        happenings[device] = [Reconciled(sightings.get(device), audited.get(device)), Woken()]
    await advance(parts, happenings, WHO, known=known)


async def _admin_decisions(
    parts: Parts, stored: Mapping[ManagedDeviceId, Reset]
) -> dict[ManagedDeviceId, AdminDecided]:
    """What Intune's administrators decided about the devices that wait for them; empty where it cannot be read."""
    codes = {
        device: reset.approval_code for device, reset in stored.items() if reset.state is State.AWAITING_ADMIN_APPROVAL
    }
    if not codes:
        return {}
    try:
        found = await (await parts.intune()).admin_decisions(sorted(set(codes.values())))
    except GraphError as error:
        log.warning("the approval of %s devices could not be asked for: %s", len(codes), error)
        return {}
    return {device: AdminDecided(code, found[code]) for device, code in codes.items() if code in found}


async def _audited(parts: Parts, doubtful: dict[ManagedDeviceId, Reset]) -> dict[ManagedDeviceId, bool]:
    """Whether Intune's audit shows a reset of each device since its order; empty where it cannot be read."""
    since = [reset.graph_earliest for reset in doubtful.values() if reset.graph_earliest is not None]
    if not since:
        return {}
    try:
        found = await (await parts.intune()).audited_resets(list(doubtful), min(since))
    except GraphError as error:
        log.warning("the audit of %s devices could not be read: %s", len(doubtful), error)
        return {}
    return {
        device: any(
            reset.graph_earliest is not None and action.requested_at >= reset.graph_earliest
            for action in found.get(device, ())
        )
        for device, reset in doubtful.items()
    }
