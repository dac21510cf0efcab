"""Timer schedules are read as Azure Functions reads them."""
# ruff: noqa: DTZ001 - an expression is about local time

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sandbox.host.ncrontab import FIELDS, Cron, ScheduleError, following, parse

START = datetime(2026, 11, 21, 8, 30, 15)  # a Saturday


def next_runs(schedule: str, count: int, start: datetime = START) -> list[str]:
    cron, runs = parse(schedule), []
    for _ in range(count):
        start = cron.following(start)
        runs.append(start.strftime("%m-%d %H:%M:%S"))
    return runs


@pytest.mark.parametrize(
    ("schedule", "runs"),
    [
        ("*/20 * * * * *", ["11-21 08:30:20", "11-21 08:30:40", "11-21 08:31:00"]),
        ("0 */5 * * * *", ["11-21 08:35:00", "11-21 08:40:00"]),
        ("30 8 * * *", ["11-22 08:30:00", "11-23 08:30:00"]),
        ("15 30 8 * * *", ["11-22 08:30:15"]),
        ("0 0 7-9,17 * * Mon-Friday", ["11-23 07:00:00", "11-23 08:00:00", "11-23 09:00:00", "11-23 17:00:00"]),
        ("0 0 7 * * fri-mon", ["11-23 07:00:00", "11-24 07:00:00"]),
        ("0 50/4 * * * *", ["11-21 08:50:00", "11-21 08:54:00", "11-21 08:58:00", "11-21 09:50:00"]),
        ("0 0 0 1 january *", ["01-01 00:00:00"]),
        ("0 0 0 29 2 *", ["02-29 00:00:00"]),
        ("00:00:30", ["11-21 08:30:45", "11-21 08:31:15"]),
        ("1.02:00:00", ["11-22 10:30:15"]),
    ],
)
def test_a_schedule_names_its_next_runs(schedule: str, runs: list[str]) -> None:
    assert next_runs(schedule, len(runs)) == runs


def test_day_of_month_and_day_of_week_must_both_match() -> None:
    # Friday the 13th; where the two were ORed the first would be the next Friday, 27 November.
    assert next_runs("0 0 0 13 * fri", 2) == ["08-13 00:00:00", "10-13 00:00:00"]


@pytest.mark.parametrize(
    ("schedule", "fault"),
    [
        ("* * * *", "4 fields"),
        ("61 * * * * *", "second: 61"),
        ("0 0 0 * * 7", "day of week: 7"),
        ("0 0 0 0 * *", "day: 0"),
        ("0 0 0 * foo *", "month: 'foo'"),
        ("*/0 * * * * *", "second: the step"),
        ("0 0 0 30 2 *", "never comes"),
        ("", "0 fields"),
        ("00:00:00", "longer than nothing"),
        ("0 0 ? * * *", "hour: '?'"),
    ],
)
def test_a_schedule_that_cannot_be_read_is_refused_with_the_part_that_is_wrong(schedule: str, fault: str) -> None:
    with pytest.raises(ScheduleError, match=fault.replace("?", r"\?")):
        parse(schedule)


def one_field(number: int) -> st.SearchStrategy[str]:
    field = FIELDS[number]
    value = st.integers(field.low, field.high)
    ranges = st.tuples(value, value).map(lambda ends: f"{ends[0]}-{ends[1]}")
    span = st.one_of(st.just("*"), value.map(str), ranges)
    step = st.one_of(st.just(""), st.integers(1, 70).map(lambda step: f"/{step}"))
    part = st.tuples(span, step).map("".join)
    return st.lists(part, min_size=1, max_size=3).map(",".join)


def means(number: int, text: str) -> set[int]:
    """What a field matches, told value by value."""
    field, matched = FIELDS[number], set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        ends = sorted(int(end) for end in span.split("-")) if span != "*" else [field.low, field.high]
        if len(ends) == 1:
            ends.append(field.high if step not in ("", "1") else ends[0])
        matched |= {v for v in range(ends[0], ends[1] + 1) if (v - ends[0]) % int(step or 1) == 0}
    return matched


def matches(fields: list[str], at: datetime) -> bool:
    values = (at.second, at.minute, at.hour, at.day, at.month, (at.weekday() + 1) % 7)
    return all(value in means(number, fields[number]) for number, value in enumerate(values))


@given(
    fields=st.tuples(*(one_field(number) for number in range(6))).map(list),
    start=st.datetimes(datetime(2023, 12, 1), datetime(2025, 3, 1)),
)
def test_the_next_run_is_the_first_second_that_matches_every_field(fields: list[str], start: datetime) -> None:
    try:
        cron = parse(" ".join(fields))
    except ScheduleError:
        assume(False)
    found = cron.following(start)
    assert found > start
    assert matches(fields, found)
    # No second before it matches: look at each of the last quarter of an hour, and at one of each day before.
    look = found
    while (look := look - timedelta(seconds=1)) > max(start, found - timedelta(minutes=15)):
        assert not matches(fields, look)
    assert isinstance(cron, Cron)
    day = found.replace(hour=cron.hours[0], minute=cron.minutes[0], second=cron.seconds[0])
    for _ in range(400):
        if (day := day - timedelta(days=1)) <= start:
            break
        assert not matches(fields, day)


def test_the_time_zone_is_that_of_the_wall_clock_also_where_clocks_change() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    daily, hourly = parse("0 30 2 * * *"), parse("0 30 * * * *")
    summer = datetime(2026, 7, 1, tzinfo=UTC)
    assert following(daily, summer, berlin) == datetime(2026, 7, 1, 0, 30, tzinfo=UTC)
    before = datetime(2026, 10, 24, 23, 0, tzinfo=UTC)  # the hour from two to three comes twice
    runs = []
    for _ in range(4):
        before = following(hourly, before, berlin)
        runs.append(before.strftime("%H:%M"))
    assert runs == ["23:30", "00:30", "01:30", "02:30"]
    gap = datetime(2026, 3, 28, 12, 0, tzinfo=UTC)  # the next night has no half past two
    first = following(daily, gap, berlin)
    assert first.date() == datetime(2026, 3, 29).date()
    assert following(daily, first, berlin).date() == datetime(2026, 3, 30).date()


@given(start=st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)))
def test_a_run_is_always_after_the_moment_it_follows(start: datetime) -> None:
    assert following(parse("0 */10 * * * *"), start, ZoneInfo("Europe/Berlin")) > start
