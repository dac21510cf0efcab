"""When the next thing is due: deadlines, sync back-off, wake-ups, lab windows."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim

from shared.domain.ids import ManagedDeviceId
from shared.domain.policy import Policy
from shared.domain.reset import Reset
from shared.domain.states import DEVICE_MAY_BE_TOLD, NOTHING_SENT, State

FOREVER = datetime(9999, 12, 31, tzinfo=UTC)
"""The deadline of a state that nothing has to follow."""


class WakeKind(StrEnum):
    """Which timer looks after a wake-up."""

    SYNC = "sync"
    """A close look at the device, and a forced sync where that still helps."""
    SWEEP = "sweep"
    """Everything else: releases, lost turns, doubts to settle, deadlines."""


@dataclass(frozen=True, slots=True)
class Wake:
    """When a turnaround wants to be looked at again although nothing happened."""

    at: datetime
    kind: WakeKind


def deadline(state: State, now: datetime, policy: Policy, not_before: datetime | None = None) -> datetime:
    """When a state entered now has lasted too long."""
    match state:
        case State.RECEIVED:
            return now + policy.received_for
        case State.HELD:
            start = max(now, not_before or now)
            return start + min(policy.held_for, FOREVER - start) if start < FOREVER else FOREVER
        case State.CLEARED:
            return now + policy.cleared_for
        case State.SENDING:
            return now + policy.sending_for
        case State.AWAITING_ADMIN_APPROVAL:
            return now + policy.admin_approval_for
        case State.TRIGGERED:
            return now + policy.triggered_for
        case State.RESETTING:
            return now + policy.resetting_for
        case State.SETTLING:
            return now + policy.settling_for
        case State.ATTENTION:
            return now + policy.attention_for
        case _:
            return FOREVER


def wake(reset: Reset) -> Wake:
    """The next wake-up of a turnaround in flight: its next step, lateness, expiry or deadline, whichever is first."""
    late = reset.ready_by if reset.ready_by is not None and not reset.late_told else reset.deadline
    others = min(late, reset.deadline)
    if reset.expires_at is not None and reset.state in NOTHING_SENT:
        others = min(others, reset.expires_at)
    if reset.next_step is not None and reset.next_step <= others:
        return Wake(reset.next_step, WakeKind.SYNC if reset.state in DEVICE_MAY_BE_TOLD else WakeKind.SWEEP)
    return Wake(others, WakeKind.SWEEP)


def sync_gap(device: ManagedDeviceId, syncs: int, policy: Policy) -> timedelta:
    """Time to wait after the given number of forced syncs: doubling, plus up to a fifth so that devices spread out.

    The spread follows from the device's id and the count, so that a history replays to the same times.
    """
    gap: timedelta = policy.sync_backoff * 2 ** max(0, syncs - 1)
    spread = zlib.crc32(f"{device}|{syncs}".encode()) / 2**32
    return gap + gap * (spread / 5)


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One opening of a lab window."""

    opens: datetime
    closes: datetime


def open_occurrences(cron: str, zone: ZoneInfo, open_for: timedelta, now: datetime) -> Iterator[Occurrence]:
    """The openings of a window that are open now: opened at or before `now` and not yet closed. Usually none or one.

    Looking at what is open, not at what has come since the last look, makes a missed tick harmless; the request id that
    follows from the opening time makes a doubled one harmless. Around daylight saving changes cron lines keep to the
    wall clock as Debian's cron does (cronsim).
    """
    start = (now - open_for).astimezone(zone)
    for opens in takewhile(lambda opens: opens.astimezone(UTC) <= now, CronSim(cron, start)):
        opened = opens.astimezone(UTC)
        if opened + open_for > now:
            yield Occurrence(opened, opened + open_for)
