"""When the next thing is due: deadlines, wake-ups, sync back-off, the openings of lab windows."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.ids import ManagedDeviceId
from shared.domain.states import IN_FLIGHT, TERMINAL, State
from shared.domain.timing import FOREVER, Wake, WakeKind, deadline, open_occurrences, sync_gap, wake
from tests.domain.builders import DEVICE, NOON, OTHER_DEVICE, POLICY, STORIES, at, cleared, moved, story, triggered

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = timedelta(hours=1)


def opened(cron: str, zone: ZoneInfo, now: datetime, open_for: timedelta = HOUR) -> list[datetime]:
    return [occurrence.opens for occurrence in open_occurrences(cron, zone, open_for, now)]


# --- deadlines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(IN_FLIGHT))
def test_every_state_in_flight_has_a_deadline_of_its_own(state: State) -> None:
    name = "admin_approval" if state is State.AWAITING_ADMIN_APPROVAL else state
    assert deadline(state, NOON, POLICY) - NOON == getattr(POLICY, f"{name}_for")


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_an_end_has_none(state: State) -> None:
    assert deadline(state, NOON, POLICY) == FOREVER


def test_what_is_held_for_a_later_time_is_given_up_only_after_that_time() -> None:
    assert deadline(State.HELD, NOON, POLICY, at(600)) == at(600) + POLICY.held_for
    assert deadline(State.HELD, NOON, POLICY, at(-600)) == NOON + POLICY.held_for


# --- wake-ups -----------------------------------------------------------------------------------------------------


def test_a_device_that_may_be_told_is_woken_for_its_sync() -> None:
    assert wake(triggered().reset) == Wake(at(5), WakeKind.SYNC)


def test_a_device_that_waits_for_its_turn_is_woken_by_the_sweep() -> None:
    assert wake(cleared().reset) == Wake(at(5), WakeKind.SWEEP)


def test_a_device_with_no_step_of_its_own_is_woken_at_its_deadline() -> None:
    assert wake(story().reset) == Wake(at(60), WakeKind.SWEEP)


def test_a_device_is_woken_when_it_is_late_and_only_once() -> None:
    waiting = moved(STORIES["not checked in"]().reset, ready_by=at(5000))
    assert wake(waiting) == Wake(at(5000), WakeKind.SWEEP)
    assert wake(moved(waiting, late_told=True)) == Wake(waiting.deadline, WakeKind.SWEEP)


@pytest.mark.parametrize("name", ["received", "held", "held for its wave", "cleared", "awaiting admin approval"])
def test_what_was_not_sent_is_woken_when_its_request_is_too_old(name: str) -> None:
    reset = moved(STORIES[name]().reset, expires_at=at(2))
    assert wake(reset) == Wake(at(2), WakeKind.SWEEP)
    assert wake(moved(reset, next_step=at(1))) == Wake(at(1), WakeKind.SWEEP)


@pytest.mark.parametrize("name", ["sending", "triggered", "resetting", "settling", "forbidden"])
def test_what_was_sent_or_needs_a_person_is_not_woken_because_its_request_is_too_old(name: str) -> None:
    reset = STORIES[name]().reset
    assert wake(moved(reset, expires_at=at(2))) == wake(reset)


def test_a_device_that_waits_for_administrators_is_woken_to_ask_what_they_decided() -> None:
    assert wake(STORIES["awaiting admin approval"]().reset) == Wake(at(10), WakeKind.SWEEP)


@pytest.mark.parametrize("ready_by", [-60, 1, 7, 10_000_000])
@pytest.mark.parametrize("next_step", [None, -60, 1, 7, 10_000_000])
@pytest.mark.parametrize("name", ["received", "held", "cleared", "sending", "triggered", "resetting", "forbidden"])
def test_a_wake_up_is_never_later_than_the_deadline(name: str, next_step: float | None, ready_by: float) -> None:
    step = None if next_step is None else at(next_step)
    reset = moved(STORIES[name]().reset, next_step=step, ready_by=at(ready_by))
    assert wake(reset).at <= reset.deadline
    assert step is None or wake(reset).at <= step


# --- sync back-off ------------------------------------------------------------------------------------------------


@given(st.uuids().map(str), st.integers(1, 20))
def test_gaps_double_and_spread_by_a_fifth(device: str, syncs: int) -> None:
    plain = POLICY.sync_backoff * 2 ** (syncs - 1)
    assert plain <= sync_gap(ManagedDeviceId(device), syncs, POLICY) <= plain * 1.2


@given(st.uuids().map(str))
def test_gaps_grow(device: str) -> None:
    gaps = [sync_gap(ManagedDeviceId(device), syncs, POLICY) for syncs in range(1, 21)]
    assert all(later > earlier for earlier, later in pairwise(gaps))


def test_the_same_history_replays_to_the_same_times_and_devices_differ() -> None:
    assert sync_gap(DEVICE, 1, POLICY) == sync_gap(DEVICE, 1, POLICY)
    assert sync_gap(DEVICE, 1, POLICY) != sync_gap(OTHER_DEVICE, 1, POLICY)


# --- lab windows --------------------------------------------------------------------------------------------------


def test_a_window_opens_on_the_wall_clock_of_its_time_zone_summer_and_winter() -> None:
    winter = datetime(2026, 1, 15, 17, 0, tzinfo=UTC)
    summer = datetime(2026, 7, 15, 16, 0, tzinfo=UTC)
    assert opened("0 18 * * *", BERLIN, winter) == [winter]
    assert opened("0 18 * * *", BERLIN, summer) == [summer]


def test_a_window_is_open_from_its_opening_until_just_before_it_closes() -> None:
    opens = datetime(2026, 1, 15, 17, 0, tzinfo=UTC)
    second = timedelta(seconds=1)
    assert opened("0 18 * * *", BERLIN, opens - second) == []
    assert opened("0 18 * * *", BERLIN, opens) == [opens]
    assert opened("0 18 * * *", BERLIN, opens + HOUR - second) == [opens]
    assert opened("0 18 * * *", BERLIN, opens + HOUR) == []


def test_a_missed_tick_is_made_good_while_the_window_is_open() -> None:
    opens = datetime(2026, 1, 15, 17, 0, tzinfo=UTC)
    assert opened("0 18 * * *", BERLIN, opens + timedelta(minutes=40)) == [opens]


def test_a_doubled_tick_finds_the_same_opening() -> None:
    now = datetime(2026, 1, 15, 17, 0, 1, tzinfo=UTC)
    assert opened("0 18 * * *", BERLIN, now) == opened("0 18 * * *", BERLIN, now + timedelta(seconds=59))


def test_openings_that_overlap_are_all_open() -> None:
    now = datetime(2026, 1, 15, 17, 10, tzinfo=UTC)
    assert [opens.minute for opens in opened("*/30 * * * *", BERLIN, now)] == [30, 0]


@pytest.mark.parametrize(
    ("cron", "day"),
    [("30 2 * * *", datetime(2026, 3, 29, tzinfo=BERLIN)), ("30 2 * * *", datetime(2026, 10, 25, tzinfo=BERLIN))],
    ids=["the hour that is skipped", "the hour that comes twice"],
)
def test_a_window_opens_once_on_the_day_the_clocks_change(cron: str, day: datetime) -> None:
    ticks = [day.astimezone(UTC) + timedelta(minutes=minute) for minute in range(0, 26 * 60, 5)]
    nightly = {
        opens for tick in ticks for opens in opened(cron, BERLIN, tick) if opens < ticks[0] + timedelta(hours=24)
    }
    assert len(nightly) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001 - made aware
    st.lists(st.integers(1, 50), min_size=1, max_size=40),
    st.sampled_from(["0 18 * * *", "30 2 * * *", "0 */3 * * *", "15 7 * * 1-5"]),
)
def test_ticks_closer_than_the_window_is_long_miss_no_opening(start: datetime, gaps: list[int], cron: str) -> None:
    now, seen = start, set(opened(cron, BERLIN, start))
    for gap in gaps:
        now += timedelta(minutes=gap)
        seen |= set(opened(cron, BERLIN, now))
    everything = set(opened(cron, BERLIN, now, now - start + HOUR))
    assert seen == everything
