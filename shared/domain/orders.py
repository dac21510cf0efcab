"""Orders to Intune (reset this device, sync that one) and what became of them."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from shared.domain.ids import ManagedDeviceId, OrderId


class AnswerKind(StrEnum):
    """What became of an order (a reset or a sync) to Intune."""

    ACCEPTED = "accepted"
    """Graph took it (204)."""
    THROTTLED = "throttled"
    """Refused for want of budget (429): it was not carried out."""
    FORBIDDEN = "forbidden"
    """Our identity lacks a permission, or a scope; the detail names which."""
    NOT_FOUND = "not_found"
    """There is no such managed device."""
    REJECTED = "rejected"
    """Graph will never take this order as it stands (400, 405, 409 and the like)."""
    APPROVAL_REQUIRED = "approval_required"
    """Multi Admin Approval holds it until a second administrator agrees."""
    DAILY_LIMIT = "daily_limit"
    """Refused because the tenant's wipes of the day are used up: it was not carried out, and will not be today."""
    NOT_SENT = "not_sent"
    """It provably never reached Graph: no connection, or no token."""
    UNKNOWN = "unknown"
    """No answer, or one (any 5xx) that does not tell whether it was carried out: never to be sent again blindly. A
    `retry_after` beside it asks for fewer calls, not for this one again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Graph's answer to one order."""

    kind: AnswerKind
    detail: str = ""
    """One sentence for people: Graph's own words, unwrapped."""
    retry_after: timedelta | None = None
    approval_code: str | None = None
    server_time: datetime | None = None
    """Graph's clock when it answered (the Date header), so that times of two clocks are never compared blindly."""


@dataclass(frozen=True, slots=True)
class Order:
    """One order about one device."""

    device: ManagedDeviceId
    id: OrderId
    justification: str = ""
    """Why, for the administrator whom Multi Admin Approval asks; where that is off, nobody reads it."""
    approval_code: str = ""
    """The code under which a second administrator agreed to this very order, where one had to."""


class AdminDecision(StrEnum):
    """What became of a request for Multi Admin Approval (Graph beta `operationApprovalRequestStatus`)."""

    WAITING = "waiting"
    """Nobody has decided yet (`needsApproval`)."""
    APPROVED = "approved"
    """The order may be sent again, with its code."""
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """Nobody decided within Intune's 3 days."""
    COMPLETED = "completed"
    """An order with this code was carried out."""
    UNKNOWN = "unknown"
    """Graph shows no such request, or a status that is not known."""
