"""A dry run: what would become of a request if it came in now, device by device. Nothing is written, nothing ordered.

The devices are judged by the code that intake carries out (`decide`); days and pace are those of `guardrails`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from itertools import batched, groupby

from pydantic import TypeAdapter

from shared.domain import guardrails
from shared.domain.devices import DeviceFacts, DeviceReference, Finding
from shared.domain.guardrails import Approval, Budget, Halt, Hold, Orders, Pace, Terms, day_of, hour_of
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.policy import Policy
from shared.domain.reasons import Code, Reason
from shared.domain.request import ResetRequest, parse
from shared.domain.reset import Reset
from shared.domain.states import State
from shared.pipeline.decide import Met, Named, clash, decide, named_devices, record_of, to_reset
from shared.pipeline.parts import BATCH
from shared.state.rows import RequestRecord, RequestState
from shared.state.store import Store

ABSENCE = "The export does not show it, which proves nothing: an export may be incomplete."
EXPORT = (
    "This is judged from an export, which is as old as its files and may be incomplete. What is in flight, halted or "
    "already ordered today is not known. Nothing is reset by it: a request is judged anew from what Graph says then."
)
_ABSENT = frozenset({Code.UNKNOWN_DEVICE, Code.NOT_ENROLLED, Code.NO_DEVICES, Code.NOT_AUTOPILOT_REGISTERED})
"""Reasons that say that some record is not there."""


class Verdict(StrEnum):
    """What would become of a device."""

    RESET = "reset"
    WAIT = "wait"
    """It would be reset later, or once somebody resumes."""
    REFUSED = "refused"
    ATTENTION = "attention"
    """It would need a person before anything is sent."""


@dataclass(frozen=True, slots=True)
class Why:
    """A reason in full."""

    code: Code
    sentence: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDevice:
    """What would become of one device, or of a name that leads to none."""

    reference: str
    verdict: Verdict
    intune_id: ManagedDeviceId | None = None
    name: str | None = None
    serial_number: str | None = None
    last_check_in: datetime | None = None
    why: Why | None = None
    wave: int = 0
    """The wave it would go in, from 1; 0: the request has none."""
    wait_until: datetime | None = None
    """None beside the verdict `wait`: only a command ends it."""
    order_at: datetime | None = None
    """When its reset would be sent to Intune, estimated; None: not, or nobody can say when."""
    ready_earliest: datetime | None = None
    ready_likely: datetime | None = None
    late: bool = False
    """It would likely not be ready by the time that the request asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The plan in numbers."""

    references: int
    """Names in the request; a group tag is one."""
    reset: int
    wait: int
    refused: int
    attention: int
    late: int
    orders_by_day: Mapping[date, int]
    """By UTC day."""
    last_order_at: datetime | None
    all_ready_likely: datetime | None
    """When the last of those that would be reset is likely ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would become of a request."""

    request_id: RequestId
    digest: str
    """What an approval of this plan is bound to: the request, and exactly the devices that it would reset."""
    needs_approval: str
    """Why a second person must approve it; empty where nobody has to, or where somebody has."""
    waves: tuple[int, ...]
    """How many devices go in each wave; none: all go at once."""
    made_at: datetime
    offline: bool
    devices: tuple[PlannedDevice, ...]
    totals: Totals
    estimate: str
    """How the times are estimated."""
    halt: Halt | None = None
    refused: Why | None = None
    """Why the request as a whole would be refused; then no device is judged."""
    taken_at: datetime | None = None
    """This very request was taken in then, and sent again would change nothing; then no device is judged."""
    notes: tuple[str, ...] = ()

    @property
    def all_reset(self) -> bool:
        """Whether every device would be reset, now or at a time that is known."""
        return bool(self.devices) and all(device.order_at is not None for device in self.devices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a request would meet; the defaults know of nothing."""

    in_flight: Mapping[ManagedDeviceId, Reset] = field(default_factory=dict)
    """All turnarounds in flight: they keep their devices, and those not sent yet take their share of the days."""
    halt: Halt | None = None
    orders: Orders = field(default_factory=Orders)
    """What the caps count."""
    sent: Mapping[str, int] = field(default_factory=dict)
    """How many resets of a device were ordered within the policy's `device_window`."""
    approval: Approval | None = None
    """One that came before the request."""
    pace: Pace | None = None
    """Until when Graph writes are booked."""
    known: RequestRecord | None = None
    """The request that is known under this id."""
    clash: Reason | None = None
    """Why this one is not that request."""


def plan(
    request: ResetRequest,
    findings: Mapping[DeviceReference, Finding],
    situation: Situation,
    policy: Policy,
    now: datetime,
    *,
    offline: bool = False,
    notes: Sequence[str] = (),
) -> Plan:
    """What would become of a request that came in at `now` (aware UTC). `offline`: the findings are from an export."""
    named = [] if situation.known else named_devices(request.references(), findings)
    met = Met(situation.halt, {device: one.request for device, one in situation.in_flight.items()}, situation.sent)
    record = record_of(request, RequestState.ACCEPTED, now)
    wanted = to_reset(record, named, met, now, policy)
    terms = guardrails.terms(record.id, record.header_digest, wanted, now, policy, situation.orders)
    terms = replace(terms, approval=situation.approval)
    record = replace(record, terms=terms)
    waves = {facts.managed.id: guardrails.wave_of(number, terms.waves) for number, facts in enumerate(wanted)}
    devices = [_planned(record, one, waves, met, policy, now, offline=offline) for one in named]
    devices = _in_turn(devices, request, situation, policy, now)
    return Plan(
        request_id=request.id,
        digest=terms.digest,
        needs_approval=_needs_approval(record, terms, policy),
        waves=terms.waves,
        made_at=now,
        offline=offline,
        devices=tuple(devices),
        totals=_totals(request, devices),
        estimate=_estimate(policy),
        halt=situation.halt,
        refused=_why(situation.clash) if situation.clash else None,
        taken_at=situation.known.received_at if situation.known and not situation.clash else None,
        notes=(*([EXPORT] if offline else []), *notes),
    )


def _needs_approval(record: RequestRecord, terms: Terms, policy: Policy) -> str:
    approval = terms.approval
    fits = approval and guardrails.approval_fault(approval, record.requester, terms.digest, policy) is None
    return "" if fits else terms.needs


async def situation(
    store: Store, request: ResetRequest, messages: Sequence[str], now: datetime, policy: Policy
) -> Situation:
    """What the request would meet, read from the table alone; `messages` are the texts that it would be sent as."""
    known, orders, pace = await store.request(request.id), await store.orders(), await store.pace(Budget.WRITES)
    return Situation(
        in_flight={stored.record.device: stored.record async for stored in store.in_flight()},
        halt=await store.halt(),
        orders=orders.record if orders else Orders(),
        sent=await store.sent_since(now - policy.device_window),
        approval=await store.early_approval(request.id),
        pace=pace.record if pace else None,
        known=known.record if known else None,
        clash=await _clash(store, known.record, messages) if known else None,
    )


async def _clash(store: Store, known: RequestRecord, messages: Sequence[str]) -> Reason | None:
    for text in messages:
        message = parse(text)
        if isinstance(message, ResetRequest):
            kept = await store.part(message.id, message.part.number if message.part else 1)
            if reason := clash(known, message, str(kept.values["digest"]) if kept else None):
                return reason
    return None


# --- one device ---------------------------------------------------------------------------------------------------


def _planned(
    record: RequestRecord,
    named: Named,
    waves: Mapping[ManagedDeviceId, int],
    met: Met,
    policy: Policy,
    now: datetime,
    *,
    offline: bool,
) -> PlannedDevice:
    """The verdict on a device, its turn still to come."""
    wave = waves.get(named.device, 0) if named.device is not None else 0
    decided = decide(record, named, wave, met, now, policy)
    reason = decided if isinstance(decided, Reason) else decided.reset.reason
    state = State.REFUSED if isinstance(decided, Reason) else decided.reset.state
    until = None if isinstance(decided, Reason) else decided.reset.next_step
    if offline and reason is not None and _is_absence(reason.code, named):
        reason = replace(reason, detail=f"{reason.detail} {ABSENCE}".strip())
    verdict = {State.CLEARED: Verdict.RESET, State.HELD: Verdict.WAIT}.get(state, Verdict.REFUSED)
    device = named.outcome.managed if isinstance(named.outcome, DeviceFacts) else None
    return PlannedDevice(
        reference=str(named.reference),
        verdict=verdict,
        intune_id=device.id if device else None,
        name=device.name if device else None,
        serial_number=device.serial_number if device else None,
        last_check_in=device.last_sync if device else None,
        why=_why(reason) if reason else None,
        wave=wave,
        wait_until=until if verdict is Verdict.WAIT else None,
    )


def _is_absence(code: Code, named: Named) -> bool:
    no_join = code is Code.JOIN_UNKNOWN and isinstance(named.outcome, DeviceFacts) and named.outcome.entra is None
    return no_join or code in _ABSENT


def _why(reason: Reason) -> Why:
    return Why(reason.code, reason.sentence, reason.remedy)


# --- when ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Turn:
    """When a device would be free to go and its order would be sent; and the last limit that it would wait for."""

    free: datetime
    order_at: datetime
    full: Hold | None


def _in_turn(
    devices: Sequence[PlannedDevice], request: ResetRequest, met: Situation, policy: Policy, now: datetime
) -> list[PlannedDevice]:
    """The devices with the times at which their resets would go and be done. Nothing is foretold under a halt, nor
    where an approval is missing."""
    unapproved = any(device.why is not None and device.why.code is Code.APPROVAL_NEEDED for device in devices)
    turns = {} if met.halt is not None or unapproved else _turns(devices, met, policy, now)
    return [
        _timed(device, turns[number], request, policy) if number in turns else device
        for number, device in enumerate(devices)
    ]


def _timed(device: PlannedDevice, turn: _Turn, request: ResetRequest, policy: Policy) -> PlannedDevice:
    order_at = turn.order_at
    if request.ready_by is not None and order_at >= request.ready_by:
        words = f"Its turn would come at {order_at:%Y-%m-%d %H:%M} UTC, after the time by which it is needed."
        why = _why(Reason(Code.NOT_SENT_IN_TIME, words))
        return replace(device, verdict=Verdict.ATTENTION, why=why, wait_until=None, late=True)
    if turn.full is not None:
        device = replace(device, verdict=Verdict.WAIT, why=_why(turn.full.reason), wait_until=turn.full.until)
    likely = order_at + policy.sync_grace + policy.usual_reset_duration
    return replace(
        device,
        order_at=order_at,
        ready_earliest=order_at + policy.min_reset_duration,
        ready_likely=likely,
        late=request.ready_by is not None and likely > request.ready_by,
    )


def _turns(devices: Sequence[PlannedDevice], met: Situation, policy: Policy, now: datetime) -> dict[int, _Turn]:
    """By number of the device, when its turn would come.

    Whoever is in flight and not sent yet goes first. What an hour or a day has no room for goes in the next that has.
    """
    waiting: list[tuple[datetime, int]] = [(free, -1) for free in map(_free, met.in_flight.values()) if free]
    waiting = [(max(free, now), number) for free, number in waiting]
    a_wave = policy.sync_grace + policy.usual_reset_duration
    for number, device in enumerate(devices):
        if device.verdict is Verdict.RESET:
            waiting.append((now, number))
        elif device.why is not None and device.why.code is Code.WAITS_FOR_WAVE:
            waiting.append((now + a_wave * (device.wave - 1), number))
        elif device.verdict is Verdict.WAIT and device.wait_until is not None:
            waiting.append((device.wait_until, number))
    capacity = _Capacity(met.orders, policy, now)
    held = [(*capacity.take(start), number) for start, number in sorted(waiting, key=lambda one: (one[1] >= 0, one))]
    turns: dict[int, _Turn] = {}
    pace = met.pace
    for free, together in groupby(sorted(held, key=lambda one: one[0]), key=lambda one: one[0]):
        for batch in batched(together, BATCH, strict=False):
            order_at, pace = guardrails.reserve(pace, free, len(batch), Budget.WRITES, policy)
            turns |= {number: _Turn(free, order_at, full) for _, full, number in batch if number >= 0}
    return turns


class _Capacity:
    """What the caps still have room for, hour by hour."""

    def __init__(self, orders: Orders, policy: Policy, now: datetime) -> None:
        self._a_day, self._code = guardrails.day_cap(orders, policy)
        self._an_hour = policy.resets_per_hour
        self._used = Counter({day_of(now): orders.today(now), hour_of(now): orders.this_hour(now)})

    def take(self, at: datetime) -> tuple[datetime, Hold | None]:
        """Take a place at `at` or the first later time that has one, and the last limit that was in the way."""
        full = None
        while True:
            if self._used[day_of(at)] >= self._a_day:
                at = guardrails.tomorrow(at)
                full = guardrails.full(self._code, at)
            elif self._used[hour_of(at)] >= self._an_hour:
                at = guardrails.next_hour(at)
                full = guardrails.full(Code.HOURLY_LIMIT, at)
            else:
                self._used.update((day_of(at), hour_of(at)))
                return at, full


def _free(reset: Reset) -> datetime | None:
    """When a turnaround in flight may be sent; None where it was, or where nobody can say."""
    match reset.state:
        case State.RECEIVED | State.CLEARED:
            return reset.since
        case State.HELD:
            return reset.next_step
        case _:
            return None


def _totals(request: ResetRequest, devices: Sequence[PlannedDevice]) -> Totals:
    verdicts = Counter(device.verdict for device in devices)
    orders = sorted(device.order_at for device in devices if device.order_at is not None)
    return Totals(
        references=len(request.references()),
        reset=verdicts[Verdict.RESET],
        wait=verdicts[Verdict.WAIT],
        refused=verdicts[Verdict.REFUSED],
        attention=verdicts[Verdict.ATTENTION],
        late=sum(device.late for device in devices),
        orders_by_day=dict(Counter(at.astimezone(UTC).date() for at in orders)),
        last_order_at=orders[-1] if orders else None,
        all_ready_likely=max((device.ready_likely for device in devices if device.ready_likely), default=None),
    )


_DURATION = TypeAdapter(timedelta)


def _estimate(policy: Policy) -> str:
    earliest, grace, usual = (
        _DURATION.dump_python(duration, mode="json")
        for duration in (policy.min_reset_duration, policy.sync_grace, policy.usual_reset_duration)
    )
    return (
        f"Orders go at most {policy.writes_per_window} in 20 seconds, {policy.resets_per_hour} an hour and "
        f"{policy.resets_per_day} a UTC day, a wave once the one before is likely ready. A device "
        f"is ready {earliest} after its order at the earliest (min_reset_duration), and likely {grace} (sync_grace) "
        f"and {usual} (usual_reset_duration) after it, if it is on and online; one that is off starts once it is back."
    )
