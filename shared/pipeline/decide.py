"""What becomes of each device that a request names: no I/O. Intake carries it out, a plan only shows it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from shared.domain import eligibility, guardrails, timing
from shared.domain.devices import DeviceFacts, DeviceReference, Finding, ReferenceKind
from shared.domain.guardrails import Halt
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.lifecycle import Decision, Judged, step
from shared.domain.policy import Policy
from shared.domain.reasons import Code, Reason
from shared.domain.request import ResetRequest
from shared.domain.reset import Reset
from shared.domain.states import State
from shared.state.rows import RequestRecord, RequestState

WHO = "intake"


@dataclass(frozen=True, slots=True)
class Named:
    """A device that a request names, or a name that leads to none and why."""

    reference: DeviceReference
    outcome: DeviceFacts | Reason

    @property
    def device(self) -> ManagedDeviceId | None:
        return self.outcome.managed.id if isinstance(self.outcome, DeviceFacts) else None


def named_devices(references: Iterable[DeviceReference], findings: Mapping[DeviceReference, Finding]) -> list[Named]:
    """Each device once, by the first reference that names it."""
    named: list[Named] = []
    seen: set[ManagedDeviceId] = set()
    for reference in references:
        finding = findings.get(reference, Finding())
        for outcome in _outcomes(reference, finding):
            if isinstance(outcome, DeviceFacts):
                if outcome.managed.id in seen:
                    continue
                seen.add(outcome.managed.id)
            named.append(Named(reference, outcome))
    return named


def _outcomes(reference: DeviceReference, finding: Finding) -> Sequence[DeviceFacts | Reason]:
    if reference.kind is not ReferenceKind.GROUP_TAG:
        return [eligibility.resolve(finding)]
    missing = len(finding.not_enrolled)
    absent = [Reason(Code.NOT_ENROLLED, f"{missing} devices of this group tag.")] if missing else []
    return [*finding.devices, *absent] or [Reason(Code.NO_DEVICES)]


def record_of(request: ResetRequest, state: RequestState, now: datetime, due: str | None = None) -> RequestRecord:
    """The record of a request that came in now."""
    return RequestRecord(
        id=request.id,
        state=state,
        header_digest=request.header_digest,
        parts=request.part.of if request.part else 1,
        received_at=now,
        requester=request.requester,
        ticket=request.reason,
        outcome_queue=request.outcome_queue,
        not_before=request.not_before,
        ready_by=request.ready_by,
        due=due,
    )


def clash(known: RequestRecord, request: ResetRequest, kept: str | None) -> Reason | None:
    """Why a message cannot belong to the request that is known under its id; None where it is the same or a part of it.

    `kept` is the digest of what was kept before as this very part.
    """
    count = request.part.of if request.part else 1
    if known.state is RequestState.REFUSED:
        return Reason(Code.REQUEST_ID_REUSED, "The request under this id was refused.")
    if (known.header_digest, known.parts) != (request.header_digest, count):
        return Reason(Code.PARTS_DISAGREE if request.part and known.parts > 1 else Code.REQUEST_ID_REUSED)
    if kept is not None and kept != request.digest:
        return Reason(Code.REQUEST_ID_REUSED)
    return None


@dataclass(frozen=True, slots=True)
class Met:
    """What a request meets, beside its devices themselves."""

    halt: Halt | None
    in_flight: Mapping[ManagedDeviceId, RequestId]
    """By which request a device is being turned around."""
    sent: Mapping[str, int]
    """How many resets of a device, by its id or its serial number, were ordered within the policy's `device_window`."""


def judge(requester: str, facts: DeviceFacts, met: Met, now: datetime, policy: Policy) -> Reason | None:
    """Why a device may not be reset for this requester, or None where it may."""
    device = facts.managed
    sent = max(met.sent.get(device.id, 0), met.sent.get(device.serial_number or device.id, 0))
    return (
        # As of when they were read: a plan may go by an export of last month.
        eligibility.refusal(facts, policy, min(now, facts.read_at))
        or eligibility.requester_refusal(requester, facts, policy)
        or guardrails.device_limit(sent, policy)
    )


def to_reset(
    request: RequestRecord, named: Sequence[Named], met: Met, now: datetime, policy: Policy
) -> list[DeviceFacts]:
    """The devices that the request would reset, in its order; those with it that are in flight for it already."""
    wanted: list[DeviceFacts] = []
    for facts in (one.outcome for one in named if isinstance(one.outcome, DeviceFacts)):
        other = met.in_flight.get(facts.managed.id)
        if other == request.id or (other is None and judge(request.requester, facts, met, now, policy) is None):
            wanted.append(facts)
    return wanted


def decide(
    request: RequestRecord, named: Named, wave: int, met: Met, now: datetime, policy: Policy
) -> Reason | Decision:
    """The start of a device's turnaround: refused, held or cleared. A bare reason where it gets no turnaround of its
    own: its name leads nowhere, or another request is already turning it around.
    """
    if isinstance(named.outcome, Reason):
        return named.outcome
    facts = named.outcome
    if (other := met.in_flight.get(facts.managed.id)) is not None:
        return Reason(Code.ALREADY_IN_FLIGHT, f"It is the request {other}.")
    reset = Reset(
        device=facts.managed.id,
        request=request.id,
        requester=request.requester,
        ticket=request.ticket,
        reference=str(named.reference),
        outcome_queue=request.outcome_queue,
        before=facts.managed,
        facts_at=facts.read_at,
        state=State.RECEIVED,
        since=now,
        deadline=timing.deadline(State.RECEIVED, now, policy),
        not_before=request.not_before,
        expires_at=max(request.received_at, request.not_before or request.received_at) + policy.request_valid_for,
        wave=wave,
        ready_by=request.ready_by,
    )
    hold = guardrails.hold(request.terms, request.requester, wave, request.not_before, met.halt, now, policy)
    judged = Judged(
        refusal=judge(request.requester, facts, met, now, policy),
        hold=hold.reason if hold else None,
        until=hold.until if hold else None,
        seen=eligibility.seen(facts),
    )
    return step(reset, judged, now, policy, WHO)
