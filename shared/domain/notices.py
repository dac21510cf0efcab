"""What is told, to whom, in which words."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from shared.domain.reset import Event, EventKind
from shared.domain.states import State

type JsonValue = str | int | Mapping[str, JsonValue] | list[JsonValue] | None


class NoticeType(StrEnum):
    """The CloudEvents `type` of every notice, without its prefix."""

    REQUEST_ACCEPTED = "request.accepted"
    REQUEST_REFUSED = "request.refused"
    REQUEST_APPROVAL_NEEDED = "request.approval_needed"
    """A second person must approve it; `evidence` has the digest to approve."""
    REQUEST_APPROVED = "request.approved"
    REQUEST_STOPPED = "request.stopped"
    """Too few devices of a wave became ready: the rest waits for a person."""
    DEVICE_REFUSED = "device.refused"
    DEVICE_READY = "device.ready"
    DEVICE_FAILED = "device.failed"
    DEVICE_CANCELLED = "device.cancelled"
    DEVICE_ATTENTION = "device.attention"
    DEVICE_HELD = "device.held"
    """The halt, a limit or Intune's administrators keep it waiting; `message` has the date where there is one."""
    DEVICE_RESUMED = "device.resumed"
    """It goes on after it needed a person."""
    DEVICE_LATE = "device.late"
    COMMAND_REFUSED = "command.refused"
    MESSAGE_POISONED = "message.poisoned"
    HALTED = "halted"
    """Nothing is sent any more: `message` says who halted it and why."""
    RESUMED = "resumed"


_BY_END = {
    State.READY: NoticeType.DEVICE_READY,
    State.FAILED: NoticeType.DEVICE_FAILED,
    State.REFUSED: NoticeType.DEVICE_REFUSED,
    State.CANCELLED: NoticeType.DEVICE_CANCELLED,
    State.ATTENTION: NoticeType.DEVICE_ATTENTION,
    State.HELD: NoticeType.DEVICE_HELD,
    State.AWAITING_ADMIN_APPROVAL: NoticeType.DEVICE_HELD,
}
_BY_KIND = {
    EventKind.ACCEPTED: NoticeType.REQUEST_ACCEPTED,
    EventKind.LATE: NoticeType.DEVICE_LATE,
    EventKind.COMMAND_REFUSED: NoticeType.COMMAND_REFUSED,
    EventKind.POISONED: NoticeType.MESSAGE_POISONED,
    EventKind.APPROVAL_NEEDED: NoticeType.REQUEST_APPROVAL_NEEDED,
    EventKind.APPROVED: NoticeType.REQUEST_APPROVED,
    EventKind.WAVES_STOPPED: NoticeType.REQUEST_STOPPED,
    EventKind.HALTED: NoticeType.HALTED,
    EventKind.RESUMED: NoticeType.RESUMED,
}


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that somebody is told. The id is the same whenever it is told again, so that repeats can be dropped."""

    id: str
    type: NoticeType
    subject: str
    queue: str
    data: Mapping[str, JsonValue]
    sequence: str = ""
    """Orders the notices of one device's turnaround, which have one subject, as text does; "" for all others."""


def notice(event: Event, queue: str, known: Mapping[str, str | None] | None = None) -> Notice:
    """The notice of an event that was marked to be told.

    `known` names the device (serial number, name) for those who read the notice; it holds nothing personal.
    """
    kind = _type(event)
    about = f"{event.request or 'none'}/{event.device or event.reference}" if _about_device(event) else event.request
    data: dict[str, JsonValue] = {
        "requestId": event.request,
        "at": event.at.isoformat(),
    }
    if _about_device(event):
        data["device"] = {"intuneId": event.device, "reference": event.reference, **(known or {})}
        data["state"] = event.to_state
        data["previousState"] = event.from_state
    if event.reason is not None:
        data |= {"code": event.reason.code, "message": event.reason.sentence, "remedy": event.reason.remedy}
    if event.evidence:
        data["evidence"] = dict(event.evidence)
    sequence = f"{event.seq:06}" if _about_device(event) else ""
    return Notice(notice_id(event), kind, about or "turnaround", queue, data, sequence)


def notice_id(event: Event) -> str:
    """The same for the same event, however often it is told; another for another."""
    about = event.device or event.reference or "request"
    return f"{event.request or 'none'}/{about}/{_number(event)}/{_type(event)}"


def _number(event: Event) -> str:
    """Tells events of one thing apart. A turnaround's are counted. A message that is refused again for the
    same faults, or set aside again, is the same; everything else is told apart by its time."""
    if _about_device(event) or event.kind is EventKind.ACCEPTED:
        return str(event.seq)
    what = event.reason.sentence if event.reason is not None else ""
    when = "" if event.kind in (EventKind.REFUSED, EventKind.POISONED) else event.at.isoformat()
    return hashlib.sha256(f"{what}|{when}".encode()).hexdigest()[:12]


def _about_device(event: Event) -> bool:
    return event.device is not None or bool(event.reference)


def _type(event: Event) -> NoticeType:
    if event.kind is EventKind.REFUSED:
        return NoticeType.DEVICE_REFUSED if _about_device(event) else NoticeType.REQUEST_REFUSED
    if event.kind is EventKind.MOVED and event.to_state is not None:
        return _BY_END.get(event.to_state, NoticeType.DEVICE_RESUMED)
    return _BY_KIND[event.kind]
