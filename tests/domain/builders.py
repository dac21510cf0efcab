"""Shared by the domain's tests: a device as Graph shows it, and a story in which things happen to it, minute by minute.

Minute 0 is noon of one day; every time in a test is a number of minutes from then.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Self

from shared.domain.devices import (
    ActionResult,
    ActionState,
    AutopilotIdentity,
    DeviceFacts,
    EntraDevice,
    ManagedDevice,
    Sighting,
)
from shared.domain.ids import EntraDeviceId, ManagedDeviceId, OrderId, RequestId, UserId
from shared.domain.lifecycle import (
    AdminDecided,
    Answered,
    Command,
    Commanded,
    Decision,
    Effect,
    Happening,
    Judged,
    Reconciled,
    Sending,
    Stopped,
    SyncAnswered,
    Woken,
    step,
)
from shared.domain.orders import AdminDecision, Answer, AnswerKind
from shared.domain.policy import Policy
from shared.domain.reasons import Code, Reason
from shared.domain.reset import Event, Reset
from shared.domain.states import State
from shared.domain.timing import deadline

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
POLICY = Policy(audit_after=timedelta(minutes=5), sending_for=timedelta(minutes=15))

DEVICE = ManagedDeviceId("11111111-aaaa-4aaa-8aaa-000000000001")
OTHER_DEVICE = ManagedDeviceId("11111111-aaaa-4aaa-8aaa-000000000002")
ENTRA = EntraDeviceId("22222222-bbbb-4bbb-8bbb-000000000001")
OTHER_ENTRA = EntraDeviceId("22222222-bbbb-4bbb-8bbb-000000000002")
USER = UserId("33333333-cccc-4ccc-8ccc-000000000001")
NEXT_USER = UserId("33333333-cccc-4ccc-8ccc-000000000002")
NOBODY = UserId("")
FIRST, SECOND = OrderId("order-1"), OrderId("order-2")
APPROVAL_CODE = "44444444-dddd-4ddd-8ddd-000000000001"
OTHER_CODE = "44444444-dddd-4ddd-8ddd-000000000002"

PENDING, ACTIVE, DONE = ActionState.PENDING, ActionState.ACTIVE, ActionState.DONE


def at(minute: float) -> datetime:
    return NOON + timedelta(minutes=minute)


LAST_SYNC, ENROLLED = at(-120), at(-60 * 24 * 90)


def managed(
    *,
    id: ManagedDeviceId = DEVICE,  # noqa: A002 - the field's name
    name: str | None = "LAB3-01",
    serial_number: str | None = "SN-0001",
    entra_device_id: EntraDeviceId | None = ENTRA,
    operating_system: str | None = "Windows",
    last_sync: datetime | None = LAST_SYNC,
    enrolled_at: datetime | None = ENROLLED,
    management_state: str | None = "managed",
    primary_user: UserId | None = USER,
    model: str | None = "Latitude 7440",
    manufacturer: str | None = "Dell Inc.",
    join_type: str | None = "azureADJoined",
    os_version: str | None = "10.0.22631.4460",
    sku_family: str | None = "Enterprise",
    management_agent: str | None = "mdm",
    pending_actions: tuple[str, ...] | None = None,
) -> ManagedDevice:
    return ManagedDevice(
        id=id,
        name=name,
        serial_number=serial_number,
        entra_device_id=entra_device_id,
        operating_system=operating_system,
        last_sync=last_sync,
        enrolled_at=enrolled_at,
        management_state=management_state,
        primary_user=primary_user,
        model=model,
        manufacturer=manufacturer,
        join_type=join_type,
        os_version=os_version,
        sku_family=sku_family,
        management_agent=management_agent,
        pending_actions=pending_actions,
    )


ENTRA_RECORD = EntraDevice(ENTRA, "AzureAd", account_enabled=True)
AUTOPILOT_RECORD = AutopilotIdentity("autopilot-1", "SN-0001", "LAB-3", DEVICE, ENTRA)


def facts(
    device: ManagedDevice | None = None,
    *,
    entra: EntraDevice | None = ENTRA_RECORD,
    autopilot: AutopilotIdentity | None = AUTOPILOT_RECORD,
    read: float = 0,
    groups: frozenset[str] | None = None,
) -> DeviceFacts:
    return DeviceFacts(device or managed(), entra, autopilot, at(read), groups)


def received(
    *,
    user: UserId | None = USER,
    not_before: datetime | None = None,
    ready_by: datetime | None = None,
    expires_at: datetime | None = None,
    wave: int = 0,
) -> Reset:
    return Reset(
        device=DEVICE,
        request=RequestId("REQ-1"),
        requester="teacher@school.example",
        ticket="INC-4711",
        reference="serialNumber:SN-0001",
        outcome_queue="reset-results",
        before=managed(primary_user=user),
        facts_at=NOON,
        state=State.RECEIVED,
        since=NOON,
        deadline=deadline(State.RECEIVED, NOON, POLICY),
        not_before=not_before,
        expires_at=expires_at,
        wave=wave,
        ready_by=ready_by,
    )


def action(
    state: ActionState,
    *,
    name: str | None = "automaticRedeployment",
    started: float | None = 0,
    updated: float | None = None,
) -> ActionResult:
    return ActionResult(name, state, None if started is None else at(started), None if updated is None else at(updated))


def sighting(
    seen: float,
    synced: float | None,
    user: UserId | None = USER,
    *actions: ActionResult | ActionState,
    exists: bool = True,
    management_state: str | None = "managed",
    entra: EntraDeviceId | None = ENTRA,
    device: ManagedDeviceId = DEVICE,
    shows_actions: bool = True,
) -> Sighting:
    """A close look at minute `seen` that shows a check-in at minute `synced`."""
    results = tuple(result if isinstance(result, ActionResult) else action(result) for result in actions)
    return Sighting(
        device=device,
        seen_at=at(seen),
        exists=exists,
        last_sync=None if synced is None else at(synced),
        management_state=management_state,
        primary_user=user,
        actions=results if shows_actions else None,
        entra_device_id=entra,
    )


def listed(seen: float, synced: float | None, user: UserId | None = None, state: str | None = "managed") -> Sighting:
    """A list of minute `seen` that shows a check-in at minute `synced`."""
    shown = sighting(seen, synced, user, management_state=state, entra=None, shows_actions=False)
    return replace(shown, listed=True)


@dataclass(frozen=True)
class Step:
    """One thing that happened, and what the domain made of it."""

    now: datetime
    happening: Happening
    before: Reset
    decision: Decision

    @property
    def after(self) -> Reset:
        return self.decision.reset

    @property
    def look(self) -> Sighting | None:
        """The close look at the device that came with it, if one did."""
        match self.happening:
            case Sighting():
                return self.happening
            case Reconciled(sighting=seen):
                return seen
            case _:
                return None


@dataclass
class Story:
    """One device's turnaround, told in minutes. Each method is something that happens; `reset` is what came of it."""

    reset: Reset
    policy: Policy = POLICY
    now: datetime = NOON
    events: list[Event] = field(default_factory=list, repr=False)
    effects: frozenset[Effect] = frozenset()
    """Of the last happening alone."""
    log: list[Step] = field(default_factory=list, repr=False)
    changed_at: int = 0
    """The step before which a test changed the record."""

    @property
    def state(self) -> State:
        return self.reset.state

    @property
    def code(self) -> Code | None:
        return self.reset.reason.code if self.reset.reason else None

    @property
    def path(self) -> list[State]:
        """The states entered, in order."""
        states = [self.events[0].from_state] if self.events else []
        states += [event.to_state for event in self.events if event.from_state is not event.to_state]
        return [state for state in states if state is not None]

    @property
    def told(self) -> list[Event]:
        return [event for event in self.events if event.told]

    def happens(self, minute: float, happening: Happening, who: str = "test") -> Self:
        return self.happens_at(at(minute), happening, who)

    def happens_at(self, now: datetime, happening: Happening, who: str = "test") -> Self:
        self.now = now
        decision = step(self.reset, happening, now, self.policy, who)
        self.log.append(Step(now, happening, self.reset, decision))
        self.reset, self.effects = decision.reset, decision.effects
        self.events += decision.events
        return self

    def judged(
        self,
        minute: float = 0,
        refusal: Reason | None = None,
        hold: Reason | None = None,
        until: datetime | None = None,
    ) -> Self:
        return self.happens(minute, Judged(refusal, hold, until))

    def sending(self, minute: float = 0, order: OrderId = FIRST, read_again: DeviceFacts | None = None) -> Self:
        return self.happens(minute, Sending(order, read_again))

    def answered(
        self,
        kind: AnswerKind,
        minute: float = 0,
        order: OrderId = FIRST,
        *,
        detail: str = "",
        retry_after: timedelta | None = None,
        approval_code: str | None = None,
        server_time: datetime | None = None,
    ) -> Self:
        answer = Answer(kind, detail, retry_after, approval_code, server_time)
        return self.happens(minute, Answered(order, answer, at(minute)))

    def accepted(self, minute: float = 0, order: OrderId = FIRST) -> Self:
        return self.answered(AnswerKind.ACCEPTED, minute, order, server_time=at(minute))

    def seen(
        self,
        minute: float,
        synced: float | None,
        user: UserId | None = USER,
        *actions: ActionResult | ActionState,
        management_state: str | None = "managed",
    ) -> Self:
        return self.happens(minute, sighting(minute, synced, user, *actions, management_state=management_state))

    def listed(
        self, minute: float, synced: float | None, user: UserId | None = None, state: str | None = "managed"
    ) -> Self:
        return self.happens(minute, listed(minute, synced, user, state))

    def back(
        self, seen: float, synced: float, user: UserId | None = USER, *actions: ActionResult | ActionState
    ) -> Self:
        """It is back, and checks in once more four minutes later."""
        return self.seen(seen, synced, user, *actions).seen(seen + 4, synced + 4, user, *actions)

    def reconciled(self, minute: float, seen: Sighting | None, *, audited: bool | None) -> Self:
        return self.happens(minute, Reconciled(seen, audited))

    def woken(self, minute: float) -> Self:
        return self.happens(minute, Woken())

    def sync_answered(self, minute: float, kind: AnswerKind = AnswerKind.ACCEPTED) -> Self:
        return self.happens(minute, SyncAnswered(Answer(kind, "Graph's words")))

    def admin_decided(self, minute: float, decision: AdminDecision, code: str = APPROVAL_CODE) -> Self:
        return self.happens(minute, AdminDecided(code, decision))

    def commanded(self, minute: float, command: Command, by: str = "helpdesk@school.example") -> Self:
        return self.happens(minute, Commanded(command, by, "because"), who="control")


def story(reset: Reset | None = None) -> Story:
    return Story(reset or received())


def cleared(**of: datetime | UserId | None) -> Story:
    return story(received(**of)).judged()  # type: ignore[arg-type]  # the caller names received()'s own arguments


def sending(**of: datetime | UserId | None) -> Story:
    """Committed to be sent at minute 0; the answer is still out."""
    return cleared(**of).sending()


def triggered(**of: datetime | UserId | None) -> Story:
    """Intune took the order at minute 0, by its own clock."""
    return sending(**of).accepted()


def resetting(**of: datetime | UserId | None) -> Story:
    """The device took the order at its check-in of minute 3; Graph shows the action open and the user there."""
    user = of.get("user", USER)
    assert user is None or isinstance(user, str)
    return triggered(**of).seen(3.5, 3, UserId(user or ""), ACTIVE)


def settling() -> Story:
    """The device is back at minute 40, but Graph shows the old user still."""
    return resetting().seen(41, 40, USER, ACTIVE)


def ready() -> Story:
    return resetting().seen(20, 3, USER, ACTIVE).back(41, 40, NOBODY, DONE)


def given_up(minute: float = 6) -> Story:
    """The first order's answer was lost; nothing showed that it was carried out, so it may be sent again."""
    return sending().reconciled(minute, sighting(minute, -120), audited=False)


def awaiting_admin_approval(**of: datetime | UserId | None) -> Story:
    """Intune's Multi Admin Approval stopped the order of minute 0, and keeps it under its code."""
    return sending(**of).answered(AnswerKind.APPROVAL_REQUIRED, approval_code=APPROVAL_CODE)


def held_for_wave(wave: int = 2) -> Story:
    """It is in a later wave of a request that is valid for a week."""
    return story(received(expires_at=at(7 * 24 * 60), wave=wave)).judged(hold=Reason(Code.WAITS_FOR_WAVE))


STORIES: dict[str, Callable[[], Story]] = {
    "received": story,
    "held": lambda: story().judged(hold=Reason(Code.HALTED)),
    "held by Intune's day": lambda: sending().answered(AnswerKind.DAILY_LIMIT),
    "held for approval": lambda: story().judged(hold=Reason(Code.APPROVAL_NEEDED)),
    "held for its wave": held_for_wave,
    "stopped wave": lambda: held_for_wave().happens(10, Stopped("Wave 1 of 2 failed.")),
    "expires": lambda: cleared(expires_at=at(30)),
    "expires while held": lambda: story(received(expires_at=at(30))).judged(hold=Reason(Code.HALTED)),
    "cleared": cleared,
    "sending": sending,
    "given up": given_up,
    "sending again": lambda: given_up().sending(7, SECOND),
    "awaiting admin approval": awaiting_admin_approval,
    "approved by administrators": lambda: awaiting_admin_approval().admin_decided(5, AdminDecision.APPROVED),
    "carried out by administrators": lambda: awaiting_admin_approval().admin_decided(5, AdminDecision.COMPLETED),
    "triggered": triggered,
    "resetting": resetting,
    "resetting, no user": lambda: resetting(user=NOBODY),
    "settling": settling,
    "forbidden": lambda: sending().answered(AnswerKind.FORBIDDEN),
    "not checked in": lambda: triggered().woken(3 * 24 * 60),
    "send unknown": lambda: sending().reconciled(15, None, audited=None),
    "ready": ready,
    "refused": lambda: story().judged(refusal=Reason(Code.HYBRID_JOINED)),
    "cancelled": lambda: cleared().commanded(1, Command.CANCEL),
    "failed": lambda: sending().answered(AnswerKind.REJECTED),
}
"""A turnaround in each state, some states by several ways."""


def moved(reset: Reset, **changes: object) -> Reset:
    """The record with some fields changed, for what no story leads to."""
    return replace(reset, **changes)  # type: ignore[arg-type]  # names are checked by dataclasses.replace
