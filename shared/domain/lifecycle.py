"""One device's turnaround, step by step: `step()` takes what happened and says what follows.

It is pure: the same record, happening, time and policy give the same decision, so that any history can be replayed.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from shared.domain import evidence
from shared.domain.devices import DeviceFacts, Sighting
from shared.domain.eligibility import same_device
from shared.domain.guardrails import tomorrow
from shared.domain.ids import OrderId
from shared.domain.orders import AdminDecision, Answer, AnswerKind
from shared.domain.policy import Policy
from shared.domain.reasons import Code, Reason
from shared.domain.reset import Event, EventKind, Reset, changed
from shared.domain.states import (
    DEVICE_MAY_BE_TOLD,
    IN_FLIGHT,
    NOTHING_SENT,
    TERMINAL,
    TRANSITIONS,
    WATCHED,
    State,
)
from shared.domain.timing import deadline, sync_gap

RETRY_THROTTLED = timedelta(seconds=30)
"""How long to wait after a 429 that does not say how long (Retry-After is often missing); doubled at each order."""

MOST_DOUBLINGS = 5
"""So that the waits between orders that are not taken grow to 16 minutes: a tenant's wipes of the day may be used up
without Graph saying so."""

MAX_ORDERS = 3
"""Orders of one turnaround whose answers were lost, before a person decides."""

SILENCE_BROKEN = 3
"""After this many check-ins in what should be silence, the device is not being reset, whatever Graph says."""


# --- what can happen ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Woken:
    """The wake-up time has come, and nothing else is new."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The facts were weighed: `refusal` and `hold` say why not, or why not yet."""

    refusal: Reason | None = None
    hold: Reason | None = None
    until: datetime | None = None
    """When what holds it is over by itself; None: only a command ends it."""
    seen: dict[str, str] | None = None
    """The facts that were weighed, with their times; None where they are in the history already."""


@dataclass(frozen=True, slots=True)
class Sending:
    """Its turn has come: an order with this id is about to be sent; `facts` where they were read again."""

    order: OrderId
    facts: DeviceFacts | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """Graph answered the order that was sent at `called_at`, by our clock."""

    order: OrderId
    answer: Answer
    called_at: datetime


@dataclass(frozen=True, slots=True)
class Reconciled:
    """Graph was asked whether an order whose answer was lost had been carried out.

    `audited` says whether the audit shows a reset since; None means that the audit could not be read.
    """

    sighting: Sighting | None
    audited: bool | None


@dataclass(frozen=True, slots=True)
class SyncAnswered:
    """Graph answered a forced sync."""

    answer: Answer


class Command(StrEnum):
    """What a person or a system may order for a device."""

    CANCEL = "cancel"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Commanded:
    """Somebody gave a command."""

    command: Command
    by: str
    why: str


@dataclass(frozen=True, slots=True)
class Released:
    """What held it, by this code, is over."""

    code: Code


@dataclass(frozen=True, slots=True)
class Stopped:
    """What holds it will not end by itself: no further wave of its request starts."""

    why: str


@dataclass(frozen=True, slots=True)
class Declined:
    """The second person who was asked said no."""

    by: str
    why: str


@dataclass(frozen=True, slots=True)
class AdminDecided:
    """Intune was asked what its administrators decided about the order under this code."""

    code: str
    decision: AdminDecision


Happening = (
    Woken
    | Judged
    | Sending
    | Answered
    | Reconciled
    | SyncAnswered
    | Commanded
    | Released
    | Stopped
    | Declined
    | AdminDecided
    | Sighting
)


class Effect(StrEnum):
    """What the pipeline does once the decision is committed."""

    DISPATCH = "dispatch"
    """Put the device on the dispatch queue."""
    SYNC = "sync"
    """Tell the device to check in."""
    LOOK = "look"
    """Look closely at the device: a list does not show enough to decide by."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows: the record as it is now, what goes into history, what is to be done."""

    reset: Reset
    events: tuple[Event, ...] = ()
    effects: frozenset[Effect] = frozenset()


class IllegalTransitionError(Exception):
    """A step tried a transition that the table does not have: a defect of Turnaround, never of its input."""


# --- the step ----------------------------------------------------------------------------------------------------


def step(reset: Reset, happening: Happening, now: datetime, policy: Policy, who: str) -> Decision:
    """What follows from what happened. A happening that the state has no use for changes nothing.

    Raises IllegalTransitionError on a defect in this module only.
    """
    course = _Course(reset, now, policy, who)
    if reset.state in TERMINAL:
        if isinstance(happening, Commanded):
            course.note(EventKind.COMMAND_REFUSED, told=True, evidence={"command": happening.command})
        return course.decision()
    match happening:
        case Woken():
            _woken(course)
        case Judged():
            _judged(course, happening)
        case Sending():
            _sending(course, happening)
        case Answered():
            _answered(course, happening)
        case Reconciled():
            _reconciled(course, happening)
        case SyncAnswered():
            _sync_answered(course, happening.answer)
        case Commanded():
            _commanded(course, happening)
        case Released():
            if _held_by(reset, happening.code):
                _clear(course)
        case Stopped():
            if _held_by(reset, Code.WAITS_FOR_WAVE):
                _refuse(course, Reason(Code.WAVE_FAILED, happening.why), to=State.ATTENTION)
        case Declined():
            course.who = happening.by
            if _held_by(reset, Code.APPROVAL_NEEDED):
                _refuse(course, Reason(Code.APPROVAL_REFUSED, f"By {happening.by}: {happening.why}"))
        case AdminDecided():
            _admin_decided(course, happening)
        case _:
            _sighted(course, happening)
    return course.decision()


_WAIT_IS_TOLD = frozenset({Code.HALTED, Code.DAILY_LIMIT, Code.HOURLY_LIMIT, Code.FLEET_SHARE, Code.APPROVAL_NEEDED})
"""Who asked for a later time knows of it, and waves are no news; other waits are told, with the date where there is
one."""


@dataclass(slots=True)
class _Course:
    """A decision in the making."""

    so_far: Reset
    now: datetime
    policy: Policy
    who: str
    events: list[Event] = field(default_factory=list)
    effects: set[Effect] = field(default_factory=set)
    changes: dict[str, object] = field(default_factory=dict)
    """What is to change in `so_far`, which is copied once for all that changes in a row."""

    @property
    def reset(self) -> Reset:
        if self.changes:
            self.so_far, self.changes = changed(self.so_far, **self.changes), {}
        return self.so_far

    @property
    def at(self) -> datetime:
        """Now, as history has it: the clocks of instances differ, and the history of a turnaround never goes back."""
        return max(self.now, self.reset.noted_at or self.reset.since)

    def set(self, **changes: object) -> None:
        self.changes |= changes

    def note(
        self,
        kind: EventKind,
        *,
        told: bool = False,
        reason: Reason | None = None,
        evidence: dict[str, str] | None = None,
        before: Reset | None = None,
    ) -> None:
        reset, at = self.reset, self.at
        self.events.append(
            Event(
                kind=kind,
                at=at,
                who=self.who,
                request=reset.request,
                device=reset.device,
                reference=reset.reference,
                seq=reset.seq,
                from_state=before.state if before else reset.state,
                to_state=reset.state,
                reason=reason,
                evidence=evidence or {},
                lasted=at - before.since if before else None,
                told=told,
            )
        )
        self.set(seq=reset.seq + 1, noted_at=at)

    def move(self, to: State, reason: Reason | None = None, evidence: dict[str, str] | None = None) -> None:
        before = self.reset
        if (before.state, to) not in TRANSITIONS:
            raise IllegalTransitionError(f"{before.state} > {to} for device {before.device}")
        self.set(
            state=to,
            since=self.at,
            deadline=deadline(to, self.now, self.policy, before.not_before),
            next_step=None,
            reason=reason,
            syncs=0,
            attention_from=before.state if to is State.ATTENTION else None,
        )
        waits = to is State.HELD and reason is not None and reason.code in _WAIT_IS_TOLD
        told = waits or to is State.AWAITING_ADMIN_APPROVAL or to in TERMINAL or State.ATTENTION in (to, before.state)
        self.note(EventKind.MOVED, told=told, reason=reason, evidence=evidence, before=before)

    def decision(self) -> Decision:
        return Decision(self.reset, tuple(self.events), frozenset(self.effects))


# --- before the reset is sent -------------------------------------------------------------------------------------


def _held_by(reset: Reset, code: Code) -> bool:
    return reset.state is State.HELD and reset.reason is not None and reset.reason.code is code


def _clear(course: _Course, evidence: dict[str, str] | None = None) -> None:
    course.move(State.CLEARED, evidence=evidence)
    course.set(next_step=course.now + course.policy.redispatch_after)
    course.effects.add(Effect.DISPATCH)


def _judged(course: _Course, judged: Judged) -> None:
    reset = course.reset
    if reset.state not in (State.RECEIVED, State.CLEARED):
        return
    if judged.refusal is not None:
        _refuse(course, judged.refusal, judged.seen)
    elif judged.hold is not None and _too_late(reset, judged.until or course.now):
        words = f"It would have to wait until {judged.until:%Y-%m-%d %H:%M} UTC. " if judged.until else ""
        _refuse(course, Reason(Code.REQUEST_EXPIRED, f"{words}{judged.hold.sentence}"), judged.seen)
    elif judged.hold is not None and judged.hold.code is Code.WAVE_FAILED:
        _refuse(course, judged.hold, judged.seen, to=State.ATTENTION)  # only a person can let it go
    elif judged.hold is not None and judged.hold.code is Code.APPROVAL_REFUSED:
        _refuse(course, judged.hold, judged.seen)
    elif judged.hold is not None:
        course.move(State.HELD, judged.hold, judged.seen)
        course.set(next_step=judged.until, deadline=_held_until(course, judged))
    elif reset.state is State.RECEIVED:
        _clear(course, judged.seen)


def _held_until(course: _Course, judged: Judged) -> datetime:
    code, expires_at = judged.hold.code if judged.hold else None, course.reset.expires_at
    if code is Code.APPROVAL_NEEDED:
        return course.now + course.policy.approval_within
    if code is Code.WAITS_FOR_WAVE and expires_at is not None:
        return expires_at
    return deadline(State.HELD, course.now, course.policy, judged.until)


def _too_late(reset: Reset, at: datetime) -> bool:
    return reset.expires_at is not None and at >= reset.expires_at


def _refuse(course: _Course, reason: Reason, seen: dict[str, str] | None = None, to: State = State.REFUSED) -> None:
    """End it unsent; where an earlier order may have been carried out after all, only a person can."""
    if course.reset.doubtful:
        detail = reason.detail if reason.code is Code.SEND_UNKNOWN else reason.sentence
        course.move(State.ATTENTION, Reason(Code.SEND_UNKNOWN, detail), seen)
    else:
        course.move(to, reason, seen)


def _sending(course: _Course, sending: Sending) -> None:
    reset, now, policy = course.reset, course.now, course.policy
    if reset.state is not State.CLEARED:
        return
    if reset.doubtful and not may_send_again(reset, sending.facts, now, policy):
        course.move(State.ATTENTION, Reason(Code.SEND_UNKNOWN))
        return
    if sending.facts is not None and not same_device(reset.before, sending.facts.managed):
        course.move(State.ATTENTION, Reason(Code.FACTS_CHANGED))
        return
    if _too_late(reset, now):
        _refuse(course, Reason(Code.REQUEST_EXPIRED))
        return
    if reset.ready_by is not None and now >= reset.ready_by and not reset.late_told:
        course.move(State.ATTENTION, Reason(Code.NOT_SENT_IN_TIME))
        return
    # An earlier order that may have been carried out after all must stay within what counts as ours.
    earliest = reset.graph_earliest if reset.doubtful else None
    facts = None if reset.doubtful else sending.facts
    course.set(
        attempt=reset.attempt + 1,
        order=sending.order,
        sent_at=now,
        graph_earliest=earliest or now - policy.clock_tolerance,
        graph_latest=None,
        before=facts.managed if facts else reset.before,
        facts_at=facts.read_at if facts else reset.facts_at,
    )
    course.move(State.SENDING, evidence={"order": sending.order})
    course.set(next_step=now + policy.reconcile_after)


def may_send_again(reset: Reset, facts: DeviceFacts | None, now: datetime, policy: Policy) -> bool:
    """After a lost answer: only within minutes, and only while the device provably has not checked in since."""
    if facts is None or reset.sent_at is None or now > reset.sent_at + policy.sending_for:
        return False
    return _silent_since(reset, facts.managed.last_sync)


# --- the answer ---------------------------------------------------------------------------------------------------


def _answered(course: _Course, answered: Answered) -> None:
    reset, now, policy, answer = course.reset, course.now, course.policy, answered.answer
    if answered.order == reset.given_up and answer.kind is AnswerKind.ACCEPTED:
        if reset.state in (State.CLEARED, State.HELD):
            course.move(State.ATTENTION, Reason(Code.SEND_UNKNOWN, "Graph has now said that it took the order."))
        if reset.state in (State.CLEARED, State.HELD, State.SENDING):
            _trigger(course, now + policy.clock_tolerance, {"found": "answer"})
        return
    if reset.state is not State.SENDING or reset.order != answered.order:
        return
    if reset.doubtful and answer.kind in _REFUSED:
        course.set(order=None)
        course.move(State.ATTENTION, Reason(Code.SEND_UNKNOWN, answer.detail))
        return
    match answer.kind:
        case AnswerKind.ACCEPTED:
            if answer.server_time is not None:
                # The Date header is cut to whole seconds, and Intune's own clock may lag behind the one that wrote it.
                lag = timedelta(seconds=1) + policy.delivery_margin / 2
                began = answer.server_time - (now - answered.called_at) - lag
                ended = answer.server_time + timedelta(seconds=1)
            else:
                began, ended = reset.graph_earliest or now - policy.clock_tolerance, now + policy.clock_tolerance
            if not reset.doubtful:
                course.set(graph_earliest=began)
            _trigger(course, ended)
        case AnswerKind.THROTTLED | AnswerKind.NOT_SENT:
            course.set(order=None)
            course.move(State.CLEARED, evidence={"answer": answer.kind.value, "detail": answer.detail})
            again = RETRY_THROTTLED * 2 ** min(reset.attempt - 1, MOST_DOUBLINGS)
            course.set(next_step=now + (answer.retry_after or again))
        case AnswerKind.DAILY_LIMIT:
            course.set(order=None)
            until = tomorrow(now)
            detail = f"It goes on at {until:%Y-%m-%d %H:%M} UTC. {answer.detail}".strip()
            course.move(State.HELD, Reason(Code.DAILY_LIMIT, detail))
            course.set(next_step=until, deadline=deadline(State.HELD, now, policy, until))
        case AnswerKind.FORBIDDEN:
            # An approval that is used up or has run out is forbidden too: the next order asks for another.
            course.set(order=None, approval_code="")
            course.move(State.ATTENTION, Reason(Code.FORBIDDEN_BY_GRAPH, answer.detail))
        case AnswerKind.APPROVAL_REQUIRED if answer.approval_code not in (None, "", reset.approval_code):
            course.set(order=None, approval_code=answer.approval_code)
            evidence = {"approvalCode": answer.approval_code}
            course.move(State.AWAITING_ADMIN_APPROVAL, Reason(Code.ADMIN_APPROVAL_REQUIRED, answer.detail), evidence)
            course.set(next_step=now + policy.admin_approval_poll)
        case AnswerKind.APPROVAL_REQUIRED:
            # Another request for this device waits there, or it does not take the approval that it gave: without a new
            # code of our own nothing can be followed.
            course.set(order=None, approval_code="")
            course.move(State.ATTENTION, Reason(Code.ADMIN_APPROVAL_REQUIRED, answer.detail))
        case AnswerKind.NOT_FOUND:
            course.set(order=None)
            course.move(State.FAILED, Reason(Code.RECORD_GONE, answer.detail))
        case AnswerKind.REJECTED:
            course.set(order=None)
            course.move(State.FAILED, Reason(Code.REJECTED_BY_GRAPH, answer.detail))
        case _:
            course.note(EventKind.ORDER_DOUBTFUL, evidence={"detail": answer.detail})


def _admin_decided(course: _Course, decided: AdminDecided) -> None:
    """Their consent gives the device another turn, in which the very same order is sent with the code."""
    reset = course.reset
    if reset.state is not State.AWAITING_ADMIN_APPROVAL or reset.approval_code != decided.code:
        return
    match decided.decision:
        case AdminDecision.APPROVED:
            _clear(course, {"adminApproval": "approved"})
        case AdminDecision.REJECTED | AdminDecision.CANCELLED:
            course.move(State.REFUSED, Reason(Code.ADMIN_APPROVAL_REJECTED, f"It was {decided.decision.value} there."))
        case AdminDecision.EXPIRED:
            course.set(approval_code="")
            course.move(State.ATTENTION, Reason(Code.ADMIN_APPROVAL_EXPIRED))
        case AdminDecision.COMPLETED:
            # Somebody sent it with our code: never send it again, and take what Graph shows of it as the proof.
            course.set(doubtful=True)
            course.move(State.ATTENTION, Reason(Code.SEND_UNKNOWN, "Intune shows the approved order as carried out."))
        case _:
            course.set(next_step=course.now + course.policy.admin_approval_poll)


_REFUSED = frozenset(
    {
        AnswerKind.FORBIDDEN,
        AnswerKind.APPROVAL_REQUIRED,
        AnswerKind.DAILY_LIMIT,
        AnswerKind.NOT_FOUND,
        AnswerKind.REJECTED,
    }
)
"""Not carried out, and not to be sent again within the minutes in which a lost order may be."""


def _trigger(course: _Course, acknowledged: datetime, evidence: dict[str, str] | None = None) -> None:
    """`acknowledged`: Graph's clock had passed this when the order had been taken."""
    course.move(State.TRIGGERED, evidence=evidence)
    course.set(
        graph_latest=acknowledged + course.policy.delivery_margin, next_step=course.now + course.policy.sync_grace
    )


def _reconciled(course: _Course, happening: Reconciled) -> None:
    """Settle a lost answer. Silence means "not carried out" only where Graph had time to show it, both the device's
    record and the audit were read, and the device has not checked in since; anything else waits, then asks a person."""
    reset, now, policy, sighting = course.reset, course.now, course.policy, happening.sighting
    if reset.state is not State.SENDING or reset.sent_at is None:
        return
    shown = sighting is not None and evidence.proves_order(reset, sighting)
    if shown or happening.audited:
        _trigger(course, now + policy.clock_tolerance, {"found": "device" if shown else "audit"})
        if sighting is not None:
            _sighted(course, sighting)
    elif now >= reset.deadline:
        course.move(State.ATTENTION, Reason(Code.SEND_UNKNOWN))
    elif (
        sighting is None
        or happening.audited is None
        or sighting.seen_at < reset.sent_at + policy.audit_after
        or (sighting.exists and (sighting.actions is None or sighting.management_state is None))
    ):
        course.set(next_step=now + policy.reconcile_after)
    elif not sighting.exists or reset.attempt >= MAX_ORDERS or not _silent_since(reset, sighting.last_sync):
        course.move(State.ATTENTION, Reason(Code.SEND_UNKNOWN))
    else:
        course.set(doubtful=True, given_up=reset.order, order=None)
        _clear(course)


def _silent_since(reset: Reset, last_sync: datetime | None) -> bool:
    """Whether the device provably has not checked in since the order: both times must be known."""
    before = reset.before.last_sync
    return last_sync is not None and before is not None and last_sync <= before + timedelta(seconds=1)


# --- proof --------------------------------------------------------------------------------------------------------

_BEFORE_THE_ANSWER = frozenset({State.SENDING, State.CLEARED, State.HELD, State.AWAITING_ADMIN_APPROVAL})


def _sighted(course: _Course, sighting: Sighting) -> None:
    reset, policy = course.reset, course.policy
    if sighting.device != reset.device or reset.sent_at is None:
        return
    if sighting.listed:
        _listed(course, sighting)
        return
    if reset.state in (State.CLEARED, State.HELD) and reset.doubtful and evidence.proves_order(reset, sighting):
        course.move(State.ATTENTION, Reason(Code.SEND_UNKNOWN))
        reset = course.reset
    if reset.state not in WATCHED:
        return
    in_doubt = reset.state is State.SENDING or reset.attention_from in _BEFORE_THE_ANSWER
    if in_doubt and not evidence.proves_order(reset, sighting):
        return
    if not sighting.exists:
        _call(course, Reason(Code.RECORD_GONE))
        return
    if sighting.entra_device_id is None and reset.reason is not None and reset.reason.code is Code.IDENTITY_CHANGED:
        return
    expected = reset.before.entra_device_id
    if sighting.entra_device_id is not None and sighting.entra_device_id != expected:
        _call(course, Reason(Code.IDENTITY_CHANGED))
        return
    if reset.order is None and not reset.doubtful:
        return  # needs a person, with nothing sent: what the device does now is not our doing
    if in_doubt:
        _trigger(course, course.now + policy.clock_tolerance, {"found": "device"})

    _weigh(course, sighting)
    _follow_proof(course, sighting)


def _listed(course: _Course, sighting: Sighting) -> None:
    """A check-in that a list shows takes the turnaround on as far as check-ins alone do; never to its end, nor out of a
    doubt or a person's hands."""
    if course.reset.state in DEVICE_MAY_BE_TOLD and evidence.since_order(course.reset, sighting):
        _weigh(course, sighting)
        _follow_check_ins(course, sighting)
    if course.reset.state in WATCHED and evidence.look_needed(course.reset, sighting):
        course.effects.add(Effect.LOOK)


def _weigh(course: _Course, sighting: Sighting) -> None:
    before = course.reset.proof
    proof = evidence.weigh(course.reset, sighting, course.policy)
    if proof != before:
        course.set(proof=proof)
    if proof.restarts > before.restarts:
        course.note(EventKind.NOT_SILENT, evidence=evidence.describe(proof))
        if course.reset.state in DEVICE_MAY_BE_TOLD:
            course.set(next_step=max(course.now, _look_again(course, sighting)))


def _follow_proof(course: _Course, sighting: Sighting) -> None:
    """Move along as far as the proof reaches; each state on the way is entered, for the history's sake."""
    proof = course.reset.proof
    failed = evidence.failure(course.reset, sighting)
    if failed is not None:
        course.move(State.FAILED, Reason(Code.RESET_FAILED_ON_DEVICE, f"Intune shows: {failed}."))
        return
    _follow_check_ins(course, sighting)
    complete = evidence.complete(course.reset)
    if complete and course.reset.state is State.ATTENTION:
        course.move(State.SETTLING, evidence=evidence.describe(proof))
    if complete and course.reset.state is State.SETTLING:
        course.move(State.READY, evidence=evidence.describe(proof))
    elif proof.restarts >= SILENCE_BROKEN and course.reset.state in DEVICE_MAY_BE_TOLD:
        course.move(State.ATTENTION, Reason(Code.NOT_PROVEN), evidence.describe(proof))


def _follow_check_ins(course: _Course, sighting: Sighting) -> None:
    """Move along as far as check-ins alone lead."""
    reset, policy = course.reset, course.policy
    proof = reset.proof
    if proof.taken_at is not None and _before(course, State.RESETTING):
        course.move(State.RESETTING, evidence=evidence.describe(proof))
        course.set(next_step=max(course.now, _look_again(course, sighting)))
    elif reset.state is State.RESETTING and reset.next_step is not None and not proof.probing:
        course.set(next_step=max(reset.next_step, _look_again(course, sighting)))
    if proof.returned_at is not None and _before(course, State.SETTLING):
        course.move(State.SETTLING, evidence=evidence.describe(proof))
        course.set(next_step=course.now + policy.sync_grace)


def _look_again(course: _Course, sighting: Sighting) -> datetime:
    """When something is next to be done about a silent device: once Graph has had time to show all that it will show of
    the device's taking the order; lists may do so by themselves where they show that the wipe was issued."""
    reset, policy = course.reset, course.policy
    taken_at = reset.proof.taken_at or course.now
    if evidence.late(reset.proof):
        return taken_at + policy.usual_reset_duration
    if evidence.management_state_moved_to(reset, sighting, evidence.STATE_TAKEN):
        return taken_at + policy.listed_for
    return taken_at + policy.reconcile_after


_ORDER = (State.TRIGGERED, State.RESETTING, State.SETTLING)


def _before(course: _Course, state: State) -> bool:
    """Whether the turnaround has not come as far as this state; one that needs a person counts from where it was."""
    reached = course.reset.attention_from if course.reset.state is State.ATTENTION else course.reset.state
    return reached not in _ORDER or _ORDER.index(reached) < _ORDER.index(state)


def _call(course: _Course, reason: Reason, shown: dict[str, str] | None = None) -> None:
    """Call a person, once for one reason."""
    reset = course.reset
    if reset.state is State.ATTENTION:
        if reset.reason is None or reset.reason.code is not reason.code:
            course.set(reason=reason)
            course.note(EventKind.MOVED, told=True, reason=reason, evidence=shown)
        return
    course.move(State.ATTENTION, reason, shown)


# --- time ---------------------------------------------------------------------------------------------------------


def _woken(course: _Course) -> None:
    reset, now = course.reset, course.now
    if reset.state in NOTHING_SENT and _too_late(reset, now):
        _refuse(course, Reason(Code.REQUEST_EXPIRED))
        return
    if reset.ready_by is not None and now >= reset.ready_by and not reset.late_told:
        course.set(late_told=True)
        course.note(EventKind.LATE, told=True, evidence={"readyBy": reset.ready_by.isoformat()})
        if reset.state in NOTHING_SENT:
            _overdue(course)
            return
    if now >= reset.deadline:
        _overdue(course)
    elif reset.next_step is not None and now >= reset.next_step:
        _next_step(course)


def _next_step(course: _Course) -> None:
    reset, now, policy = course.reset, course.now, course.policy
    match reset.state:
        case State.HELD:
            _clear(course)
        case State.CLEARED:
            course.set(next_step=now + policy.redispatch_after)
            course.effects.add(Effect.DISPATCH)
        case State.AWAITING_ADMIN_APPROVAL:
            course.set(next_step=now + policy.admin_approval_poll)
        case State.TRIGGERED | State.SETTLING if reset.syncs < policy.sync_attempts:
            _force_sync(course)
        case State.TRIGGERED:
            course.move(State.ATTENTION, Reason(Code.NOT_CHECKED_IN), evidence.describe(reset.proof))
        case State.SETTLING:
            course.move(State.ATTENTION, Reason(Code.NOT_PROVEN), evidence.describe(reset.proof))
        case State.RESETTING:
            _resetting_step(course)
        case _:
            course.set(next_step=None)


def _resetting_step(course: _Course) -> None:
    """Test the silence, where what Graph shows could have appeared too early; help the return where it is overdue."""
    reset, now, policy = course.reset, course.now, course.policy
    proof = reset.proof
    back_by = (proof.taken_at or reset.since) + policy.usual_reset_duration
    if not evidence.late(proof) and proof.probed_at is None:
        _force_sync(course)
        course.set(syncs=0, next_step=now + policy.reconcile_after / 2, proof=changed(proof, probing=True))
    elif now < back_by:
        course.set(next_step=back_by)
    elif reset.syncs < policy.sync_attempts:
        _force_sync(course)
    else:
        course.set(next_step=None)  # a long reset; the deadline ends the wait


def _sync_answered(course: _Course, answer: Answer) -> None:
    reset = course.reset
    if reset.state not in DEVICE_MAY_BE_TOLD:
        return
    if answer.kind is not AnswerKind.ACCEPTED:
        course.note(EventKind.SYNC_NOT_TAKEN, evidence={"answer": answer.kind.value, "detail": answer.detail})
    elif reset.state is State.SETTLING and not reset.proof.awake:
        course.set(proof=changed(reset.proof, asked_at=answer.server_time or course.now))
    elif reset.state is State.RESETTING and reset.proof.probing and reset.proof.probed_at is None:
        course.set(proof=changed(reset.proof, probed_at=answer.server_time or course.now))


def _force_sync(course: _Course) -> None:
    syncs = course.reset.syncs + 1
    gap = sync_gap(course.reset.device, syncs, course.policy)
    course.set(syncs=syncs, next_step=course.now + gap)
    course.note(EventKind.SYNC_FORCED, evidence={"number": str(syncs)})
    course.effects.add(Effect.SYNC)


_OVERDUE = {
    State.RECEIVED: Code.NOT_SENT_IN_TIME,
    State.HELD: Code.NOT_SENT_IN_TIME,
    State.CLEARED: Code.NOT_SENT_IN_TIME,
    State.SENDING: Code.SEND_UNKNOWN,
    State.AWAITING_ADMIN_APPROVAL: Code.ADMIN_APPROVAL_EXPIRED,
    State.TRIGGERED: Code.NOT_CHECKED_IN,
    State.RESETTING: Code.RESET_TOO_LONG,
    State.SETTLING: Code.NOT_PROVEN,
}


def _overdue(course: _Course) -> None:
    reset = course.reset
    if reset.state is State.ATTENTION:
        code = reset.reason.code if reset.reason else Code.NOT_PROVEN
        course.move(State.FAILED, Reason(Code.NOBODY_ACTED, f"It needed a person because: {code}."))
    elif _held_by(reset, Code.APPROVAL_NEEDED):
        _refuse(course, Reason(Code.APPROVAL_EXPIRED))
    else:
        code = Code.SEND_UNKNOWN if reset.doubtful and reset.state in NOTHING_SENT else _OVERDUE[reset.state]
        if reset.state is State.AWAITING_ADMIN_APPROVAL:
            course.set(approval_code="")  # nobody agreed under it
        course.move(State.ATTENTION, Reason(code), evidence.describe(reset.proof))


# --- commands -----------------------------------------------------------------------------------------------------


def _commanded(course: _Course, commanded: Commanded) -> None:
    reset = course.reset
    course.who = commanded.by
    because = {"command": commanded.command.value, "why": commanded.why}
    sent = reset.order is not None or reset.doubtful
    match commanded.command, reset.state:
        case Command.CANCEL, State.HELD | State.CLEARED | State.AWAITING_ADMIN_APPROVAL | State.ATTENTION:
            course.move(State.CANCELLED, Reason(Code.RESET_ALREADY_SENT if sent else Code.CANCELLED), because)
        case Command.RETRY, State.ATTENTION if not sent:
            if reset.reason is not None and reset.reason.code is Code.WAVE_FAILED:
                course.set(wave=0)  # whoever retries a device of a stopped wave lets it go
            _clear(course, because)
        case Command.RETRY, State.ATTENTION if reset.attention_from is State.TRIGGERED:
            course.move(State.TRIGGERED, evidence=because)
            course.set(next_step=course.now)
        case _:
            reason = None if reset.state in NOTHING_SENT else Reason(Code.RESET_ALREADY_SENT)
            course.note(EventKind.COMMAND_REFUSED, told=True, reason=reason, evidence=because)


assert {state for pair in TRANSITIONS for state in pair} == set(State)  # noqa: S101 - checked once, at import
assert all(state in _OVERDUE or state is State.ATTENTION for state in IN_FLIGHT)  # noqa: S101
