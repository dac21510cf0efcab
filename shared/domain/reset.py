"""The Reset record: all that is known of one device's turnaround. It changes only through `lifecycle.step`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from shared.domain.devices import ManagedDevice
from shared.domain.ids import ManagedDeviceId, OrderId, RequestId
from shared.domain.reasons import Reason
from shared.domain.states import State


def changed[Record: (Proof, Reset)](record: Record, **changes: object) -> Record:
    """The record with some of its fields changed, as `dataclasses.replace` does it at ten times the cost: it makes the
    frozen record anew, field by field, and these are copied several times a step. Raises TypeError for a name that is
    no field."""
    fields = vars(record)
    if not changes.keys() <= fields.keys():
        raise TypeError(f"no field of {type(record).__name__}: {', '.join(changes.keys() - fields.keys())}")
    copy = object.__new__(type(record))
    object.__setattr__(copy, "__dict__", fields | changes)
    return copy


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What Graph has shown of the reset so far; all times on Graph's clock but `probed_at`. See `evidence`."""

    taken_at: datetime | None = None
    """The device had taken the order by this time at the latest."""
    done: bool = False
    """Our action's result says done; which may mean only that the device took it."""
    user_gone: bool = False
    """The primary user who was there before is not there now."""
    open_late: bool = False
    """After the device had taken the order, and Graph had had time to show it, our action was not yet done."""
    user_late: bool = False
    """At such a time the old primary user was still there."""
    shown: bool = False
    """Our action has appeared in the results."""
    issued_late: bool = False
    """At such a time the management state still said that the wipe was issued."""
    state_back: bool = False
    """The management state is again what it was before the order."""
    asked_at: datetime | None = None
    """A sync was forced at this time since its return."""
    awake: bool = False
    """It checked in again so soon after its return that it cannot be resetting now."""
    taken_shown: bool = False
    """Graph itself said that the device has it, while the device could still be silent."""
    probing: bool = False
    """A sync was forced since the device took the order, to test the silence."""
    probed_at: datetime | None = None
    """A sync was forced at this time while the device should have been silent."""
    returned_at: datetime | None = None
    """The device checked in at this time, long enough after it took the order to have been reset."""
    restarts: int = 0
    """How often the device checked in while a reset would have kept it silent."""
    last_sync: datetime | None = None
    """Latest check-in that Graph has shown."""
    looked_to: datetime | None = None
    """Latest check-in that a close look has shown."""


@dataclass(frozen=True, kw_only=True)
class Reset:
    """One device's turnaround. Times are aware UTC, on our clock where nothing else is said."""

    device: ManagedDeviceId
    request: RequestId
    requester: str
    ticket: str
    """The request's reason, as its sender wrote it."""
    reference: str
    """How the request named the device."""
    outcome_queue: str
    before: ManagedDevice
    """The device's Intune record before the reset, which proof is measured against."""
    facts_at: datetime
    """When `before` was read."""

    state: State
    since: datetime
    """When the state was entered."""
    deadline: datetime
    """When the state has lasted too long."""
    next_step: datetime | None = None
    """When the state's own next step is due: a release, a turn, a look, a forced sync."""
    reason: Reason | None = None
    """Why it is held, needs a person, or ended as it did."""

    not_before: datetime | None = None
    expires_at: datetime | None = None
    """From then on no reset is sent any more: the device may have another user."""
    wave: int = 0
    """The wave of its request that it goes in; 0 where there are none, or where a person freed it."""
    ready_by: datetime | None = None
    late_told: bool = False

    attempt: int = 0
    """Orders committed to be sent."""
    order: OrderId | None = None
    """The latest order; None as long as none was made or when the latest provably was not carried out."""
    approval_code: str = ""
    """Under it Intune's Multi Admin Approval keeps the latest order."""
    given_up: OrderId | None = None
    """The latest order that was concluded not to have been carried out."""
    sent_at: datetime | None = None
    """When the latest order was committed to be sent."""
    doubtful: bool = False
    """An earlier order's answer was lost; it was concluded not to have been carried out."""
    graph_earliest: datetime | None = None
    """Graph's clock cannot have shown less than this when an order was taken."""
    graph_latest: datetime | None = None
    """Graph's clock had passed this when the order had been taken."""

    syncs: int = 0
    """Syncs forced in the present state."""
    proof: Proof = field(default_factory=Proof)
    attention_from: State | None = None
    seq: int = 0
    """Events recorded so far."""
    noted_at: datetime | None = None
    """The time of the latest of them."""


class EventKind(StrEnum):
    """What happened to a request or a device. Each is an entry of the append-only history."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    MOVED = "moved"
    """The device went from one state to another."""
    ORDER_DOUBTFUL = "order_doubtful"
    """The answer to the reset was lost."""
    SYNC_FORCED = "sync_forced"
    SYNC_NOT_TAKEN = "sync_not_taken"
    """Graph did not take a forced sync; the next one may."""
    NOT_SILENT = "not_silent"
    """The device checked in while a reset would have kept it silent."""
    LATE = "late"
    """The time by which the device was needed has passed."""
    COMMAND_REFUSED = "command_refused"
    HALTED = "halted"
    RESUMED = "resumed"
    APPROVAL_NEEDED = "approval_needed"
    """A request waits for a second person."""
    APPROVED = "approved"
    DECLINED = "declined"
    WAVE_OPENED = "wave_opened"
    WAVES_STOPPED = "waves_stopped"
    """Too few devices of a wave became ready: the rest waits for a person."""
    WINDOW_OPENED = "window_opened"
    RETRIED = "retried"
    """Devices of a request whose reset failed were asked for again, by a new request."""
    POISONED = "poisoned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry of history. `told` marks those that somebody was promised to be told of."""

    kind: EventKind
    at: datetime
    who: str
    """The stage, or the person who gave a command."""
    request: RequestId | None = None
    device: ManagedDeviceId | None = None
    reference: str = ""
    seq: int = 0
    """Number of the event within its turnaround."""
    from_state: State | None = None
    to_state: State | None = None
    reason: Reason | None = None
    evidence: Mapping[str, str] = field(default_factory=dict)
    lasted: timedelta | None = None
    """How long the state that was left had lasted."""
    told: bool = False
