"""Take turnarounds a step further: read, decide, commit, hand out what was committed. Every stage goes through here."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from shared.domain.devices import ManagedDevice
from shared.domain.ids import ManagedDeviceId
from shared.domain.lifecycle import Decision, Effect, Happening, step
from shared.domain.notices import notice
from shared.domain.reasons import Code
from shared.domain.reset import Event, Reset
from shared.domain.states import NEEDS_A_PERSON, TERMINAL, State
from shared.pipeline.parts import Outgoing, Parts, flush, outbox_change, to_dispatch, to_tell
from shared.state import rows
from shared.state.rows import Stored
from shared.state.store import reset_changes
from shared.state.table import Change

TRIES = 6
"""How often a decision is made anew when somebody else changes the device at the same time."""


class ContendedError(Exception):
    """A device was changed by others at every try; the message comes back later."""


async def advance(
    parts: Parts,
    happenings: Mapping[ManagedDeviceId, Sequence[Happening]],
    who: str,
    together: Sequence[Change] = (),
    known: Mapping[ManagedDeviceId, Stored[Reset]] | None = None,
    at: datetime | None = None,
    unless: Effect | None = None,
) -> dict[ManagedDeviceId, Decision]:
    """Step each device through what happened to it, in one transaction or as few as hold them, and commit.

    A conflict re-reads and re-decides; nothing is overwritten. Devices not in flight are left out of the answer.
    `together` is committed in the same transaction as all of them; then a conflict is not tried again here. `known` are
    the devices as the caller has read them, all of them: it saves reading them once more.
    `at` is the time by which the caller has decided what is in `together`.
    A decision that asks for `unless` is answered, and not committed: the caller sees to that first, and comes again.
    Raises ContendedError when others keep changing a device, and at the first conflict where there is `together`.
    """
    decided: dict[ManagedDeviceId, Decision] = {}
    waiting = list(happenings)
    previous: dict[ManagedDeviceId, Decision] = {}
    for _ in range(TRIES):
        stored = known or await parts.store.resets(waiting)
        known = None
        now = at or parts.clock()
        pending: dict[ManagedDeviceId, tuple[Decision, list[Change], list[Outgoing]]] = {}
        for device in waiting:
            if (found := stored.get(device)) is None:
                continue
            if device in previous and previous[device].reset == found.record:
                decided[device] = previous[device]  # our own commit, whose answer was lost on the way back
                continue
            decision = _steps(found.record, happenings[device], now, parts, who)
            decided[device] = decision
            if unless in decision.effects:
                continue
            if decision.reset != found.record or decision.events:
                pending[device] = (decision, *changes_of(decision, found, now))
        groups = [changes for _, changes, _ in pending.values()]
        conflicts = {list(pending)[number] for number in await parts.store.commit_groups(groups, together)}
        outgoing = [out for device, (_, _, outs) in pending.items() if device not in conflicts for out in outs]
        await flush(parts, outgoing)
        if not conflicts:
            return decided
        if together:
            raise ContendedError("what belongs together was changed by others")
        waiting = sorted(conflicts)
        previous = {device: decided.pop(device) for device in waiting}
    raise ContendedError(f"{len(waiting)} devices were changed by others at every try: {', '.join(waiting[:5])}")


def _steps(reset: Reset, happenings: Sequence[Happening], now: datetime, parts: Parts, who: str) -> Decision:
    events: list[Event] = []
    effects: set[Effect] = set()
    for happening in happenings:
        decision = step(reset, happening, now, parts.policy, who)
        reset = decision.reset
        events += decision.events
        effects |= decision.effects
    return Decision(reset, tuple(events), frozenset(effects))


def changes_of(decision: Decision, old: Stored[Reset] | None, now: datetime) -> tuple[list[Change], list[Outgoing]]:
    """All rows that a decision changes, for one transaction: the device's state, its history, what is promised."""
    reset = decision.reset
    changes = reset_changes(reset, old)
    outgoing: list[Outgoing] = []
    for event in decision.events:
        changes.append(rows.insert_event(event))
        if event.told:
            outgoing.append(to_tell(now, notice(event, reset.outcome_queue, called(reset.before))))
    if reset.state in TERMINAL:
        changes.append(rows.closed(decision.events[-1], reset))
    changes += [rows.ended(event) for event in decision.events if _tells_how_resets_go(event)][-1:]
    if Effect.DISPATCH in decision.effects:
        outgoing.append(to_dispatch(now, reset.device))
    return [*changes, *map(outbox_change, outgoing)], outgoing


def _tells_how_resets_go(event: Event) -> bool:
    """Whether the halt that throws itself counts it: an end, or the call for a person, that nobody had to expect."""
    news = event.to_state in _NOTED and event.from_state is not event.to_state
    return news and (event.reason is None or event.reason.code not in _EXPECTED)


_NOTED = (TERMINAL | NEEDS_A_PERSON) - {State.CANCELLED}
_EXPECTED = frozenset(
    {
        *(Code.WAVE_FAILED, Code.NOT_SENT_IN_TIME, Code.REQUEST_EXPIRED),
        *(Code.APPROVAL_REFUSED, Code.APPROVAL_EXPIRED, Code.ADMIN_APPROVAL_REJECTED, Code.ADMIN_APPROVAL_EXPIRED),
        *(Code.HOURLY_LIMIT, Code.DAILY_LIMIT, Code.FLEET_SHARE),
        Code.NOBODY_ACTED,
    }
)
"""What people, time or a limit decided while nothing was sent; and what was counted when a person was called."""


def called(device: ManagedDevice) -> dict[str, str | None]:
    """What a notice calls the device by, beside its id."""
    return {"serialNumber": device.serial_number, "name": device.name}
