"""What may not go yet: the halt, a later time, the day's limit, the pace that Graph bears."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from shared.domain.guardrails import BURST, WINDOW, Budget, Halt, hold, pause, reserve, tomorrow, within_day
from shared.domain.policy import Policy
from shared.domain.reasons import Code
from tests.domain.builders import NOON, POLICY, at

HALT = Halt("ops@school.example", "fire drill", NOON)


def test_nothing_holds_a_device_that_may_go() -> None:
    assert hold(None, None, NOON) is None
    assert hold(None, NOON, NOON) is None


def test_a_later_time_holds_until_then() -> None:
    held = hold(None, at(90), NOON)
    assert held is not None
    assert (held.reason.code, held.until) == (Code.NOT_YET, at(90))
    assert "2026-03-02 13:30 UTC" in held.reason.sentence


def test_a_later_time_in_another_time_zone_is_told_in_utc() -> None:
    held = hold(None, at(90).astimezone(timezone(timedelta(hours=2))), NOON)
    assert held is not None
    assert "13:30 UTC" in held.reason.sentence


def test_a_halt_holds_until_somebody_resumes() -> None:
    held = hold(HALT, None, NOON)
    assert held is not None
    assert (held.reason.code, held.until) == (Code.HALTED, None)
    assert "fire drill" in held.reason.sentence


def test_a_later_time_outlasts_a_halt() -> None:
    held = hold(HALT, at(90), NOON)
    assert held is not None
    assert held.reason.code is Code.NOT_YET


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_a_day_never_holds_more_than_its_limit(used: int, wanted: int) -> None:
    fit = within_day(used, wanted, POLICY)
    assert 0 <= fit <= wanted
    assert fit == 0 or used + fit <= POLICY.resets_per_day
    assert fit == wanted or used + fit >= POLICY.resets_per_day, "and no room is left unused"


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - made aware
def test_tomorrow_is_the_next_utc_midnight(now: datetime) -> None:
    start = tomorrow(now)
    assert timedelta(0) < start - now <= timedelta(days=1)
    assert (start.hour, start.minute, start.second, start.microsecond, start.tzinfo) == (0, 0, 0, 0, UTC)


def test_tomorrow_is_a_matter_of_utc_not_of_the_time_zone_in_which_it_is_asked() -> None:
    assert tomorrow(datetime(2026, 3, 2, 1, tzinfo=timezone(timedelta(hours=2)))) == datetime(2026, 3, 2, tzinfo=UTC)


# --- the pace -----------------------------------------------------------------------------------------------------


def test_the_first_batch_goes_at_once() -> None:
    assert reserve(None, NOON, BURST, Budget.WRITES, POLICY)[0] == NOON


def test_what_was_booked_long_ago_takes_nothing_from_now() -> None:
    assert reserve(at(-60), NOON, BURST, Budget.WRITES, POLICY) == reserve(None, NOON, BURST, Budget.WRITES, POLICY)


def test_a_long_queue_goes_at_the_rate_that_the_policy_allows() -> None:
    booked, start = None, NOON
    for _ in range(250):
        start, booked = reserve(booked, NOON, 20, Budget.WRITES, POLICY)
    per_window = 5000 / ((start - NOON) / WINDOW)
    assert 0.8 * POLICY.writes_per_window < per_window <= POLICY.writes_per_window


@given(
    st.integers(BURST + 1, 200),
    st.lists(st.tuples(st.integers(-3_000, 30_000), st.integers(1, BURST)), min_size=1, max_size=60),
)
def test_in_every_window_there_are_at_most_as_many_writes_as_the_policy_allows(
    writes_per_window: int, bookings: list[tuple[int, int]]
) -> None:
    """Several instances book on one row, their clocks a little apart; each sends all that it booked when it may."""
    policy = POLICY.model_copy(update={"writes_per_window": writes_per_window})
    now, booked = NOON, None
    sent: list[tuple[datetime, int]] = []
    for milliseconds, writes in bookings:
        now += timedelta(milliseconds=milliseconds)
        start, booked = reserve(booked, now, writes, Budget.WRITES, policy)
        assert start >= now
        sent.append((start, writes))
    for opens, _ in sent:
        assert sum(writes for start, writes in sent if opens <= start < opens + WINDOW) <= writes_per_window


@given(st.integers(1, 300), st.integers(1, BURST), st.sampled_from(Budget))
def test_nothing_starts_before_a_pause_is_over(seconds: int, calls: int, budget: Budget) -> None:
    wait = timedelta(seconds=seconds)
    start, _ = reserve(pause(NOON, wait, budget, POLICY), NOON, calls, budget, POLICY)
    assert start >= NOON + wait


def test_reads_have_a_budget_of_their_own() -> None:
    _, writes = reserve(None, NOON, 20, Budget.WRITES, POLICY)
    _, reads = reserve(None, NOON, 20, Budget.READS, POLICY)
    assert reads < writes


def test_the_default_pace_is_below_what_intune_allows() -> None:
    assert Policy().writes_per_window < 200
    # The largest single booking of reads (300) comes on top of what the rate lets through.
    assert Policy().reads_per_window + 300 + Policy().writes_per_window <= 2000
