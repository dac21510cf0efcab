"""What happened to a device, in words for people: one turnaround a request, one passage an event.

All words here are safe to show (`shown`): whatever of them came from outside holds nothing that a terminal obeys.
Times of events are on our clock; facts that Graph told with a time say so.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.reasons import Code
from shared.domain.reset import Event, EventKind, Reset
from shared.domain.shown import shown
from shared.domain.states import TERMINAL, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Turnaround:
    """All that is kept of one device under one request."""

    request: RequestId
    device: ManagedDeviceId
    reference: str = ""
    """How the request names the device."""
    requester: str | None = None
    """None: nothing is kept of the request any more. The same holds for the next two."""
    reason: str | None = None
    received_at: datetime | None = None
    not_before: datetime | None = None
    ready_by: datetime | None = None
    reset: Reset | None = None
    """As it is, or as it ended; None where the device had no turnaround of its own under the request."""
    events: tuple[Event, ...] = ()
    """The device's under this request, oldest first."""
    request_events: tuple[Event, ...] = ()
    """The request's own: accepted, approved, ..."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that was seen at an event."""

    label: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """One event in words."""

    at: datetime
    who: str
    """The stage, or the person who gave a command."""
    text: str
    code: Code | None = None
    """The rule by which it was decided."""
    remedy: str = ""
    facts: tuple[Fact, ...] = ()
    left: State | None = None
    """The state that ended here, and how long it had lasted."""
    lasted: timedelta | None = None


_ENTERED = {
    State.RECEIVED: "The device was found and its facts were read.",
    State.HELD: "It has to wait.",
    State.CLEARED: "Nothing stands in the way; it waits for its turn.",
    State.SENDING: "The order to reset it goes to Intune.",
    State.AWAITING_ADMIN_APPROVAL: "Intune did not carry the order out: its administrators decide first.",
    State.TRIGGERED: "Intune took the order.",
    State.RESETTING: "The device took the reset; it is silent while the reset runs.",
    State.SETTLING: "The device is back; the proof that it was reset is not complete.",
    State.READY: "The device is proven ready for its next user.",
    State.REFUSED: "It is not reset.",
    State.CANCELLED: "It was withdrawn.",
    State.FAILED: "The turnaround failed.",
    State.ATTENTION: "A person is needed.",
}
_MOVED = {
    (State.HELD, State.CLEARED): "What held it is over; it waits for its turn.",
    (State.SENDING, State.CLEARED): "Nothing shows that the order was carried out; it gets another turn.",
    (State.SENDING, State.HELD): "Intune did not take the order; it has to wait.",
    (State.AWAITING_ADMIN_APPROVAL, State.CLEARED): "Intune's administrators agreed; it waits for its turn.",
    (State.ATTENTION, State.CLEARED): "It gets another turn.",
    (State.ATTENTION, State.TRIGGERED): "It is followed again: Intune has the order, the device has not taken it.",
    (State.ATTENTION, State.ATTENTION): "A person is needed for another reason.",
}
_FOUND = {
    "answer": "Graph's answer came late: it took the order.",
    "device": "Graph's answer was lost; Intune's record of the device shows that it took the order.",
    "audit": "Graph's answer was lost; Intune's audit shows that it took the order.",
}
_KINDS = {
    EventKind.ACCEPTED: "The request was accepted; its devices are looked up.",
    EventKind.ORDER_DOUBTFUL: "Graph's answer was lost: whether Intune took the order is not known yet.",
    EventKind.NOT_SILENT: "The device checked in while a reset would have kept it silent: no reset has run yet.",
    EventKind.HALTED: "Turnaround was halted: nothing is sent.",
    EventKind.RESUMED: "Turnaround goes on after a halt.",
    EventKind.APPROVAL_NEEDED: "The request waits for a second person.",
    EventKind.DECLINED: "A second person declined the request.",
    EventKind.WAVE_OPENED: "The next wave of the request begins.",
    EventKind.WAVES_STOPPED: "No further wave of the request begins.",
    EventKind.WINDOW_OPENED: "A lab window opened.",
    EventKind.RETRIED: "Devices whose reset failed were asked for again, by a new request.",
    EventKind.POISONED: "A message was set aside.",
}
_LABELS = {
    "readAt": "facts read at",
    "lastCheckIn": "last check-in",
    "osVersion": "OS version",
    "entraEnabled": "enabled in Entra",
    "enrolledAt": "enrolled at",
    "takenBy": "had the order by",
    "returnedAt": "was back at",
    "silenceTestedAt": "silence tested by a sync at",
    "actionDone": "Intune shows the reset as done",
    "primaryUserGone": "the primary user is gone",
    "actionOpenAfterTaken": "the reset was not done yet long after the device had the order",
    "primaryUserStillThereAfterTaken": "the primary user was still there long after the device had the order",
    "stateIssuedAfterTaken": "Intune still showed the wipe as issued long after the device had the order",
    "stateBack": "Intune shows the management state of before",
    "checkedInAgainSoon": "it checked in again soon after",
}
_ON_GRAPHS_CLOCK = frozenset({"lastCheckIn", "enrolledAt", "takenBy", "returnedAt"})


def passage(event: Event) -> Passage:
    """An event in words. A kind of event that has no words of its own is named, with all that was seen."""
    seen = dict(event.evidence)
    said = [_given(event, seen), _happened(event, seen), event.reason.sentence if event.reason else ""]
    left = event.from_state if event.lasted is not None else None
    return Passage(
        at=event.at,
        who=shown(event.who),
        text=shown(" ".join(_sentence(words) for words in said if words)),
        code=event.reason.code if event.reason else None,
        remedy=event.reason.remedy if event.reason else "",
        facts=tuple(_fact(name, value) for name, value in seen.items()),
        left=left,
        lasted=event.lasted,
    )


def _given(event: Event, seen: dict[str, str]) -> str:
    """The command that led to it, with its own words; what is said of it here is taken out of `seen`."""
    command = seen.pop("command", None)
    if command is not None:
        return f"{event.who} gave the command {command}: {seen.pop('why', '') or 'no reason given'}"
    if event.kind is EventKind.APPROVED:
        return f"{event.who} approved the request{_because(seen)}"
    return ""


def _because(seen: dict[str, str]) -> str:
    why = seen.pop("why", "")
    return f": {why}" if why else ""


def _happened(event: Event, seen: dict[str, str]) -> str:
    match event.kind:
        case EventKind.MOVED:
            return _moved(event, seen)
        case EventKind.APPROVED:
            return ""
        case EventKind.HALTED | EventKind.APPROVAL_NEEDED | EventKind.POISONED if event.reason is not None:
            return ""  # the reason says it all
        case EventKind.REFUSED:
            return "It is not reset." if event.device or event.reference else "The request was refused."
        case EventKind.COMMAND_REFUSED:
            return "The command was refused."
        case EventKind.SYNC_FORCED:
            return f"The device was told to sync, for the {_ordinal(seen.pop('number', ''))} time in this state."
        case EventKind.SYNC_NOT_TAKEN:
            return f"Graph did not take the sync{_answer(seen)}."
        case EventKind.LATE:
            return f"It is late: it was needed by {_value(seen.pop('readyBy', 'an earlier time'))}."
        case kind:
            return _KINDS.get(kind) or f"{kind.replace('_', ' ')}".capitalize()


def _moved(event: Event, seen: dict[str, str]) -> str:
    if order := seen.pop("order", None):
        return f"The order to reset it goes to Intune, client-request-id {order}."
    if (found := seen.get("found")) in _FOUND:
        del seen["found"]
        return _FOUND[found]
    if "answer" in seen:
        return f"Intune did not take the order{_answer(seen)}; it gets another turn."
    seen.pop("adminApproval", None)
    if event.from_state is not None and event.to_state is not None:
        return _MOVED.get((event.from_state, event.to_state)) or _ENTERED[event.to_state]
    return ""


def _answer(seen: dict[str, str]) -> str:
    said = [seen.pop(name, "").replace("_", " ") if name == "answer" else seen.pop(name, "") for name in _ANSWER]
    words = ": ".join(word.rstrip(".") for word in said if word)
    return f" ({words})" if words else ""


_ANSWER = ("answer", "detail")


def _ordinal(number: str) -> str:
    return {"1": "1st", "2": "2nd", "3": "3rd"}.get(number) or f"{number}th"


def _sentence(words: str) -> str:
    return words if words.endswith((".", "!", "?")) else f"{words}."


def _fact(name: str, value: str) -> Fact:
    label = _LABELS.get(name) or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    clock = " (Graph's clock)" if name in _ON_GRAPHS_CLOCK and _time(value) else ""
    return Fact(shown(label + clock), shown(_value(value)))


def _value(value: str) -> str:
    at = _time(value)
    return value if at is None else moment(at)


def _time(value: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(value) if len(value) > len("2026-01-01") else None
    except ValueError:
        return None
    return at if at is not None and at.tzinfo is not None else None


def passages(turnaround: Turnaround) -> list[Passage]:
    """All that happened, to the request and to the device, oldest first."""
    events = sorted((*turnaround.request_events, *turnaround.events), key=lambda event: event.at)
    told: set[Fact] = set()
    found = []
    for event in events:
        one = passage(event)
        # What was told before is not told again, but for the end, which shows all that proves it.
        new = one.facts if event.to_state in TERMINAL else tuple(fact for fact in one.facts if fact not in told)
        told.update(one.facts)
        found.append(replace(one, facts=new))
    return found


def ended(turnaround: Turnaround) -> Event | None:
    """The event that ended it, or None while it is under way."""
    ends = [event for event in turnaround.events if event.to_state in TERMINAL]
    return ends[-1] if ends else None


def heading(turnaround: Turnaround) -> list[str]:
    """Who asked for it, why, and for when."""
    asked = f"Asked by {turnaround.requester}" if turnaround.requester else "Who asked is not kept any more"
    at = f" at {moment(turnaround.received_at)}" if turnaround.received_at else ""
    why = f": {turnaround.reason}" if turnaround.reason else "."
    words = [f"{asked}{at}{why}"]
    words += [f"Named as {turnaround.reference}."] if turnaround.reference else []
    words += [f"Not before {moment(turnaround.not_before)}."] if turnaround.not_before else []
    words += [f"Needed by {moment(turnaround.ready_by)}."] if turnaround.ready_by else []
    return [shown(line) for line in words]


def ending(turnaround: Turnaround) -> str:
    """How it ended and how long it took, or where it stands."""
    last, reset = ended(turnaround), turnaround.reset
    if last is not None:
        began = turnaround.received_at or turnaround.events[0].at
        return f"Ended {last.to_state} at {moment(last.at)}, {span(last.at - began)} after it was asked for."
    if reset is not None:
        return f"Now {reset.state}, since {moment(reset.since)}; the state's deadline is {moment(reset.deadline)}."
    return ""


def lines(passages: Sequence[Passage]) -> list[str]:
    """Passages as lines of plain text."""
    told: list[str] = []
    for one in passages:
        lasted = f" (after {span(one.lasted)} as {one.left})" if one.left and one.lasted is not None else ""
        told.append(f"{moment(one.at)}  {one.who}: {one.text}{lasted}")
        if one.facts:
            told.append("    seen: " + "; ".join(f"{fact.label}: {fact.value}" for fact in one.facts))
        if one.code is not None:
            told.append(f"    code {one.code}; what to do: {one.remedy}")
    return told


def moment(at: datetime) -> str:
    """A time as people read it, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def span(time: timedelta) -> str:
    """How long something lasted, in its two largest units."""
    seconds = max(0, round(time.total_seconds()))
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    first = next((number for number, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count) or "0 s"
