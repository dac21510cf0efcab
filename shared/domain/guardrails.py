"""What may not go yet: the halt, a later time, the pace that Graph bears, the day's limit."""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum

from shared.domain.policy import Policy
from shared.domain.reasons import Code, Reason

WINDOW = timedelta(seconds=20)
"""Intune allows an app 200 writes and 2,000 calls of any kind in 20 seconds a tenant
(learn.microsoft.com/graph/throttling-limits)."""

BURST = 20
"""Calls that may go at once: one `$batch`. Burst and rate together stay within the limit in every window."""


class Budget(StrEnum):
    """What is booked ahead; each has a limit of its own."""

    WRITES = "writes"
    READS = "reads"


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


def day_is_full(now: datetime) -> Hold:
    """What holds a device for which the day has no room left."""
    until = tomorrow(now)
    return Hold(Reason(Code.DAILY_LIMIT, f"It goes on at {until:%Y-%m-%d %H:%M} UTC."), until)


def reserve(
    booked_until: datetime | None, now: datetime, calls: int, budget: Budget, policy: Policy
) -> tuple[datetime, datetime]:
    """Book calls ahead (generic cell rate algorithm): when they may start, and the new end of what is booked.

    All instances book on one row, so that together they stay within the policy's limit in every 20 seconds, as long as
    what is booked at once is not above BURST.
    """
    each = _each(budget, policy)
    end = max(booked_until or now, now) + calls * each
    return max(now, end - max(BURST, calls) * each), end


def pause(now: datetime, wait: timedelta, budget: Budget, policy: Policy) -> datetime:
    """The end of what is booked, so that nothing starts before the wait is over."""
    return now + wait + BURST * _each(budget, policy)


def _each(budget: Budget, policy: Policy) -> timedelta:
    limit = policy.writes_per_window if budget is Budget.WRITES else policy.reads_per_window
    return WINDOW / (limit - BURST)
