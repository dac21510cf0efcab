"""What may not go yet: the halt, a later time, the pace that Graph bears, the day's limit."""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from shared.domain.policy import Policy
from shared.domain.reasons import Code, Reason

WINDOW = timedelta(seconds=20)
"""Intune allows 200 writes in 20 seconds an app and tenant (learn.microsoft.com/graph/throttling-limits)."""

BURST = 20
"""Writes that may go at once: one `$batch`. Burst and rate together stay within the limit in every window."""


@dataclass(frozen=True, slots=True)
class Halt:
    """The halt switch, thrown: nothing is sent until somebody resumes."""

    by: str
    why: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a device may not go yet; `until` is None where only a command ends it."""

    reason: Reason
    until: datetime | None


def hold(halt: Halt | None, not_before: datetime | None, now: datetime) -> Hold | None:
    """What holds a device that may be reset, or None where it may go."""
    if not_before is not None and not_before > now:
        return Hold(Reason(Code.NOT_YET, f"It starts at {not_before.astimezone(UTC):%Y-%m-%d %H:%M} UTC."), not_before)
    if halt is not None:
        return Hold(Reason(Code.HALTED, halt.why), None)
    return None


def within_day(used: int, wanted: int, policy: Policy) -> int:
    """How many of the wanted resets still fit into the day of which `used` are gone."""
    return max(0, min(wanted, policy.resets_per_day - used))


def tomorrow(now: datetime) -> datetime:
    """The next UTC midnight, when the day's count starts anew."""
    return datetime.combine(now.astimezone(UTC).date() + timedelta(days=1), time(), UTC)


def reserve(booked_until: datetime | None, now: datetime, writes: int, policy: Policy) -> tuple[datetime, datetime]:
    """Book writes ahead (generic cell rate algorithm): when they may start, and the new end of what is booked.

    All instances book on one row, so that together they stay within `writes_per_window` in every 20 seconds.
    """
    each = WINDOW / max(1, policy.writes_per_window - BURST)
    end = max(booked_until or now, now) + writes * each
    return max(now, end - BURST * each), end
