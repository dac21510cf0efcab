"""What may not go yet, and what may not go at all: approval, a later time, waves, caps, the halt, Graph's own pace."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from itertools import accumulate

from shared.domain.devices import DeviceFacts
from shared.domain.eligibility import is_sensitive
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.patterns import folded, matching
from shared.domain.policy import Policy
from shared.domain.reasons import Code, Reason
from shared.domain.states import NOTHING_SENT, State

WINDOW = timedelta(seconds=20)
"""Intune allows an app 200 writes and 2,000 calls of any kind in 20 seconds a tenant
(learn.microsoft.com/graph/throttling-limits)."""

SPAN = WINDOW + timedelta(milliseconds=350)
"""In what time a budget is kept to: calls that start together do not arrive together."""
GRAIN = timedelta(milliseconds=50)
"""How exactly the start of what is booked is noted."""


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
    """Why a device may not go yet; `until` is None where only a command, or another device's progress, ends it."""

    reason: Reason
    until: datetime | None


# --- what was ordered so far --------------------------------------------------------------------------------------

_DAYS_KEPT = 28


@dataclass(frozen=True, slots=True)
class Orders:
    """Resets ordered so far, as the caps count them (UTC): one record, which every send changes in its transaction."""

    hours: Mapping[str, int] = field(default_factory=dict)
    """By hour of the clock, this one and the two before: instances' clocks differ."""
    days: Mapping[str, int] = field(default_factory=dict)
    """By day, today and the 28 before."""
    unapproved: Mapping[str, int] = field(default_factory=dict)
    """By day, as `days`: those that went without a second person."""
    fleet: int | None = None
    """Windows devices in the tenant; None as long as nobody knows."""
    fleet_at: datetime | None = None

    def today(self, now: datetime) -> int:
        """Resets ordered on this day."""
        return self.days.get(day_of(now), 0)

    def this_hour(self, now: datetime) -> int:
        """Resets ordered in this hour of the clock."""
        return self.hours.get(hour_of(now), 0)

    def past(self, now: datetime) -> list[int]:
        """Resets on each of the days before today that had any."""
        return [count for day, count in self.days.items() if day < day_of(now)]

    def plus(self, count: int, now: datetime, unapproved: int = 0) -> "Orders":
        """With so many more resets ordered now, `unapproved` of them without a second person."""
        oldest_hour, oldest_day = hour_of(now - timedelta(hours=2)), day_of(now - timedelta(days=_DAYS_KEPT))
        hours = {hour: n for hour, n in self.hours.items() if hour >= oldest_hour}
        days = {day: n for day, n in self.days.items() if day >= oldest_day}
        hours[hour_of(now)] = self.this_hour(now) + count
        days[day_of(now)] = self.today(now) + count
        without = {day: n for day, n in self.unapproved.items() if day >= oldest_day}
        without[day_of(now)] = without.get(day_of(now), 0) + unapproved
        return replace(self, hours=hours, days=days, unapproved=without)

    def minus(self, count: int, at: datetime, unapproved: int = 0) -> "Orders":
        """Without so many of the resets ordered at this time, `unapproved` of them without a second person: Intune
        provably did not take them."""
        hours = _less(self.hours, hour_of(at), count)
        days, without = _less(self.days, day_of(at), count), _less(self.unapproved, day_of(at), unapproved)
        return replace(self, hours=hours, days=days, unapproved=without)


def _less(counts: Mapping[str, int], key: str, by: int) -> Mapping[str, int]:
    return {**counts, key: max(0, counts[key] - by)} if key in counts else counts


def hour_of(at: datetime) -> str:
    """The hour of the clock (UTC), as text that orders as time does."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H}"


def day_of(at: datetime) -> str:
    """The UTC day, as text that orders as time does."""
    return f"{at.astimezone(UTC):%Y-%m-%d}"


# --- approval by a second person ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Approval:
    """A second person agreed to what has this digest, and to nothing else."""

    by: str
    why: str
    at: datetime
    digest: str


@dataclass(frozen=True, slots=True)
class Terms:
    """What a request as a whole is subject to: set once its devices are known, then changed by commands and waves."""

    digest: str
    """SHA-256 of the request and of the devices that it would reset."""
    devices: int
    """How many it would reset."""
    needs: str = ""
    """Why a second person must approve it; empty where nobody has to."""
    approval: Approval | None = None
    waves: tuple[int, ...] = ()
    """How many devices go in each wave; none: all go at once."""
    wave: int = 1
    """The wave that is under way: devices of later ones wait."""
    wave_since: datetime | None = None
    """Since when all of that wave is sent; as long as it is not, when it was last looked at."""
    stopped: str = ""
    """Why no further wave starts."""
    declined: str = ""
    """Who declined it, and why: nothing of it is sent any more."""


def terms(
    request: RequestId,
    header_digest: str,
    devices: Sequence[DeviceFacts],
    now: datetime,
    policy: Policy,
    orders: Orders | None = None,
) -> Terms:
    """The terms of a request that would reset these devices. `header_digest` is of all but its id and devices."""
    waves = wave_sizes(len(devices), policy)
    return Terms(
        digest=plan_digest(request, header_digest, [facts.managed.id for facts in devices]),
        devices=len(devices),
        needs=_needs_approval(devices, policy) or beyond_unapproved(len(devices), orders or Orders(), now, policy),
        waves=waves,
        wave_since=now if waves else None,
    )


def plan_digest(request: RequestId, header_digest: str, devices: Iterable[ManagedDeviceId]) -> str:
    """What an approval is bound to: the request in all its fields, and exactly the devices that it would reset."""
    return hashlib.sha256("\n".join([request, header_digest, *sorted(devices)]).encode()).hexdigest()


def _needs_approval(devices: Sequence[DeviceFacts], policy: Policy) -> str:
    if len(devices) > policy.approval_above:
        return f"It would reset {len(devices)} devices; more than {policy.approval_above} need a second person."
    sensitive = sum(is_sensitive(facts, policy) for facts in devices)
    return f"{sensitive} of its devices are sensitive by policy." if sensitive else ""


def beyond_unapproved(devices: int, orders: Orders, now: datetime, policy: Policy) -> str:
    """Why so many more resets need a second person today, however small their request; empty where they do not."""
    if devices <= unapproved_room(orders, now, policy):
        return ""
    return f"More than {policy.unapproved_per_day} resets a day need a second person, whatever their requests' size."


def unapproved_room(orders: Orders, now: datetime, policy: Policy) -> int:
    """How many more resets may go today without a second person."""
    return max(0, policy.unapproved_per_day - orders.unapproved.get(day_of(now), 0))


def approval_fault(approval: Approval, requester: str, digest: str, policy: Policy) -> Reason | None:
    """Why this is no approval of what has the digest, or None where it is one."""
    if folded(approval.by) == folded(requester):
        return Reason(Code.OWN_REQUEST)
    if matching([approval.by], policy.approvers) is None:
        return Reason(Code.NOT_AN_APPROVER)
    if approval.digest != digest:
        return Reason(Code.DIGEST_DIFFERS)
    return None


def approved_until(approval: Approval, not_before: datetime | None, policy: Policy) -> datetime:
    """Until when what was approved may be sent."""
    return max(approval.at, not_before or approval.at) + policy.approval_valid_for


def _unapproved(
    terms: Terms, requester: str, not_before: datetime | None, now: datetime, policy: Policy
) -> Reason | None:
    if not terms.needs:
        return None
    approval = terms.approval
    if approval is None:
        return Reason(Code.APPROVAL_NEEDED, terms.needs)
    if fault := approval_fault(approval, requester, terms.digest, policy):
        return Reason(Code.APPROVAL_NEEDED, fault.sentence)
    if now >= approved_until(approval, not_before, policy):
        return Reason(Code.APPROVAL_NEEDED, f"Its approval of {approval.at:%Y-%m-%d %H:%M} UTC is too old.")
    return None


# --- waves --------------------------------------------------------------------------------------------------------


def wave_sizes(devices: int, policy: Policy) -> tuple[int, ...]:
    """How many devices go in each wave, the first small and each larger; none where all go at once."""
    if devices <= policy.wave_above:
        return ()
    sizes: list[int] = []
    size = float(policy.wave_first)
    while devices:
        sizes.append(min(devices, int(size)))
        devices -= sizes[-1]
        size = min(size * policy.wave_growth, devices + 1.0)
    return tuple(sizes)


def wave_of(number: int, waves: Sequence[int]) -> int:
    """The wave, from 1, of the device with this number, from 0; 0 where there are no waves."""
    for wave, last in enumerate(accumulate(waves), start=1):
        if number < last:
            return wave
    return 0


class WaveVerdict(StrEnum):
    """What the devices of a wave say about the next one."""

    GO = "go"
    WAIT = "wait"
    STOP = "stop"


def wave_verdict(wave: Mapping[State, int], since: datetime, now: datetime, policy: Policy) -> tuple[WaveVerdict, str]:
    """Whether the next wave may start, from how many devices of this one are in which state; and why not."""
    counted = sum(count for state, count in wave.items() if state not in (State.REFUSED, State.CANCELLED))
    ready, failed = wave.get(State.READY, 0), wave.get(State.FAILED, 0) + wave.get(State.ATTENTION, 0)
    if failed > policy.wave_failed_share * counted:
        return WaveVerdict.STOP, f"{failed} of {counted} devices failed or need a person."
    if ready >= policy.wave_ready_share * counted:
        return WaveVerdict.GO, ""
    sent = not any(wave.get(state) for state in NOTHING_SENT)
    if sent and now >= since + policy.wave_within:
        return WaveVerdict.STOP, f"Only {ready} of {counted} devices became ready in time."
    return WaveVerdict.WAIT, ""


# --- what holds a device ------------------------------------------------------------------------------------------


def hold(
    terms: Terms | None,
    requester: str,
    wave: int,
    not_before: datetime | None,
    halt: Halt | None,
    now: datetime,
    policy: Policy,
) -> Hold | None:
    """What holds a device that may be reset, or None where it may go. Asked when it comes in, and before every send.
    What was declined or stopped is not held: it ends there, or needs a person."""
    if terms is not None and terms.declined:
        return Hold(Reason(Code.APPROVAL_REFUSED, terms.declined), None)
    if terms is not None and (reason := _unapproved(terms, requester, not_before, now, policy)):
        return Hold(reason, None)
    if not_before is not None and not_before > now:
        return Hold(Reason(Code.NOT_YET, f"It starts at {not_before.astimezone(UTC):%Y-%m-%d %H:%M} UTC."), not_before)
    if terms is not None and wave > terms.wave:
        if terms.stopped:
            return Hold(Reason(Code.WAVE_FAILED, terms.stopped), None)
        return Hold(Reason(Code.WAITS_FOR_WAVE, f"It is in wave {wave} of {len(terms.waves)}."), None)
    if halt is not None:
        return Hold(Reason(Code.HALTED, f"By {halt.by}: {halt.why}"), None)
    return None


# --- caps ---------------------------------------------------------------------------------------------------------


def room(orders: Orders, now: datetime, policy: Policy) -> tuple[int, Hold]:
    """How many resets may still be ordered now, and what holds the others."""
    a_day, code = day_cap(orders, policy)
    caps = [
        (a_day - orders.today(now), code, tomorrow(now)),
        (policy.resets_per_hour - orders.this_hour(now), Code.HOURLY_LIMIT, next_hour(now)),
    ]
    left, code, until = min(caps, key=lambda cap: (max(0, cap[0]), -cap[2].timestamp()))
    return max(0, left), full(code, until)


def day_cap(orders: Orders, policy: Policy) -> tuple[int, Code]:
    """How many resets a day are allowed, and which limit says so."""
    share = policy.fleet_share_floor
    if orders.fleet is not None:
        share = max(share, int(orders.fleet * policy.fleet_share_per_day))
    if policy.fleet_share_per_day < 1 and share < policy.resets_per_day:
        return share, Code.FLEET_SHARE
    return policy.resets_per_day, Code.DAILY_LIMIT


def full(code: Code, until: datetime) -> Hold:
    """What holds a device for which this limit has no room before a time."""
    return Hold(Reason(code, f"It goes on at {until:%Y-%m-%d %H:%M} UTC."), until)


def tomorrow(now: datetime) -> datetime:
    """The next UTC midnight, when the day's count starts anew."""
    return datetime.combine(now.astimezone(UTC).date() + timedelta(days=1), time(), UTC)


def next_hour(now: datetime) -> datetime:
    """The next full hour of the clock, when the hour's count starts anew."""
    return now.astimezone(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)


def device_limit(earlier: int, policy: Policy) -> Reason | None:
    """Why a device that was reset so many times within `device_window` is not reset again."""
    if earlier < policy.resets_per_device:
        return None
    days = policy.device_window / timedelta(days=1)
    return Reason(Code.DEVICE_LIMIT, f"It was reset {earlier} times within {days:g} days.")


# --- the halt that throws itself ----------------------------------------------------------------------------------


def anomaly(
    ends: Mapping[State, int], orders: Orders, resumed_at: datetime | None, now: datetime, policy: Policy
) -> str | None:
    """Why everything must stop until a person has looked: `ends` counts the devices of the last hour, or since the last
    resume, that came to an end or to need a person, by state. A resume excuses what was before it."""
    failed = ends.get(State.FAILED, 0) + ends.get(State.ATTENTION, 0)
    ended = failed + ends.get(State.READY, 0)
    if 0 < policy.halt_failed_min <= failed and failed > policy.halt_failed_share * ended:
        return f"{failed} of {ended} resets failed or need a person."
    refused = ends.get(State.REFUSED, 0)
    if 0 < policy.halt_refused < refused:
        return f"{refused} devices were refused within an hour."
    usual, today = max(orders.past(now), default=0), orders.today(now)
    burst = policy.halt_burst_factor > 0 and today > max(policy.halt_burst_floor, policy.halt_burst_factor * usual)
    if burst and (resumed_at is None or day_of(resumed_at) < day_of(now)):
        return f"{today} resets today; the most of any of the {_DAYS_KEPT} days before is {usual}."
    return None


# --- the pace that Graph bears ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Booked:
    """Calls that were booked to start at about this time."""

    at: datetime
    calls: int


@dataclass(frozen=True, slots=True)
class Pace:
    """What is booked of a budget, by all instances together."""

    booked_until: datetime
    """Nothing more starts before: writes go evenly; or Graph asked for a pause."""
    booked: tuple[Booked, ...] = ()
    """What counts against the limit still, in order of time."""


def reserve(pace: Pace | None, now: datetime, calls: int, budget: Budget, policy: Policy) -> tuple[datetime, Pace]:
    """Book calls ahead: when they may start, and what is booked then.

    In every 20 seconds no more calls start than the policy allows; whoever books first starts first. Writes go evenly
    where all of it is used; reads at once while there are any left, so that what is read right before a write is not
    kept waiting by whoever reads much. A booking above the limit takes as long as so many calls may take.
    """
    limit = policy.writes_per_window if budget is Budget.WRITES else policy.reads_per_window
    start = max(now, pace.booked_until) if pace is not None else now
    counted = [one for one in pace.booked if one.at > start - SPAN] if pace is not None else []
    left = sum(one.calls for one in counted)
    while counted and left + calls > limit:
        start = max(start, counted[0].at + SPAN)
        left -= counted.pop(0).calls
    until = start + SPAN * (calls / limit)
    at = max(start, until - SPAN)
    at += (_EPOCH - at) % GRAIN
    together = counted.pop().calls if counted and counted[-1].at == at else 0
    booked_until = until if budget is Budget.WRITES else max(start, at)
    return start, Pace(booked_until, (*counted, Booked(at, calls + together)))


def pause(pace: Pace | None, now: datetime, wait: timedelta) -> Pace:
    """Nothing starts before the wait is over."""
    pace = pace or Pace(now)
    return replace(pace, booked_until=max(pace.booked_until, now + wait))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
