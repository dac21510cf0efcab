"""Timer schedules as Azure Functions reads them: NCRONTAB expressions and "hh:mm:ss" intervals. Pure.

Sources: https://learn.microsoft.com/azure/azure-functions/functions-bindings-timer#ncrontab-expressions for what is
documented, and https://github.com/atifaziz/NCrontab, the library the real host uses, for what is not: day of month and
day of week must both match, a reversed range is turned round, and "5/10" means every tenth from 5 on.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from zoneinfo import ZoneInfo

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

# The longest gap between two days that match: 29 February on one given weekday, across a century without leap year.
HORIZON_DAYS = 366 * 41

TIMESPAN = re.compile(r"(?:(\d+)\.)?(\d{1,2}):(\d{2}):(\d{2})(?:\.(\d{1,7}))?")


class ScheduleError(ValueError):
    """The schedule cannot be read; the message names the part that is wrong."""


@dataclass(frozen=True)
class Field:
    """One place of an expression: its name, its range, and the names its values may be given by."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def parse(self, text: str) -> frozenset[int]:
        """The values that match, for example "*/20" in seconds gives {0, 20, 40}; raises ScheduleError."""
        return frozenset(value for part in text.split(",") for value in self._part(part))

    def _part(self, part: str) -> range:
        span, slash, step_text = part.partition("/")
        if slash and not (step_text.isdecimal() and int(step_text)):
            raise ScheduleError(f"{self.name}: the step in {part!r} must be a whole number above 0")
        step = int(step_text or 1)
        if span == "*":
            return range(self.low, self.high + 1, step)
        first, dash, last = span.partition("-")
        start = self._value(first)
        end = self._value(last) if dash else self.high if step > 1 else start
        return range(min(start, end), max(start, end) + 1, step)

    def _value(self, text: str) -> int:
        if text.isdecimal():
            value = int(text)
        else:
            name = text[:3].lower()  # "mon" and "Monday" are both right
            if name not in self.names:
                raise ScheduleError(f"{self.name}: {text!r} is not a value, a name, a range or *")
            value = self.names.index(name) + self.low
        if not self.low <= value <= self.high:
            raise ScheduleError(f"{self.name}: {text} is not between {self.low} and {self.high}")
        return value


FIELDS = (
    Field("second", 0, 59),
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day", 1, 31),
    Field("month", 1, 12, MONTHS),
    Field("day of week", 0, 6, WEEKDAYS),  # 0 is Sunday; 7 is not a day here
)


@dataclass(frozen=True)
class Cron:
    """An NCRONTAB expression, read."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]

    @property
    def adjusts_for_dst(self) -> bool:
        """Whether it follows the wall clock when clocks change; what runs in every hour goes on evenly."""
        return len(self.hours) < 24

    def following(self, moment: datetime) -> datetime:
        """The first matching second after a naive local time; raises ScheduleError when there is none."""
        start = moment.replace(microsecond=0) + timedelta(seconds=1)
        for offset in range(HORIZON_DAYS):
            day = start.date() + timedelta(days=offset)
            if self._matches(day):
                earliest = start.time() if offset == 0 else clock_time()
                for at in self._times(earliest):
                    return datetime.combine(day, at)
        raise ScheduleError("it never comes: no date matches day, month and day of week together")

    def _matches(self, day: date) -> bool:
        return day.day in self.days and day.month in self.months and day.isoweekday() % 7 in self.weekdays

    def _times(self, earliest: clock_time) -> Iterator[clock_time]:
        for hour in self.hours:
            if hour < earliest.hour:
                continue
            for minute in self.minutes:
                if (hour, minute) < (earliest.hour, earliest.minute):
                    continue
                for second in self.seconds:
                    if (at := clock_time(hour, minute, second)) >= earliest:
                        yield at


@dataclass(frozen=True)
class Interval:
    """A constant interval, counted from the last run."""

    every: timedelta

    adjusts_for_dst = False

    def following(self, moment: datetime) -> datetime:
        """The moment one interval later."""
        return moment + self.every


type Schedule = Cron | Interval


def parse_timespan(text: str) -> timedelta | None:
    """Read .NET's "[d.]hh:mm:ss[.fffffff]"; None when it is something else."""
    match = TIMESPAN.fullmatch(text.strip())
    if match is None or int(match[3]) > 59 or int(match[4]) > 59:
        return None
    fraction = int((match[5] or "0").ljust(7, "0")) / 10_000_000
    return timedelta(
        days=int(match[1] or 0), hours=int(match[2]), minutes=int(match[3]), seconds=int(match[4]) + fraction
    )


def parse(text: str) -> Schedule:
    """Read six fields (second first), five (second 0), or "hh:mm:ss"; raises ScheduleError."""
    every = parse_timespan(text)
    if every is not None:
        if not every:
            raise ScheduleError("an interval must be longer than nothing")
        return Interval(every)
    parts = text.split()
    if len(parts) == 5:
        parts.insert(0, "0")
    if len(parts) != 6:
        raise ScheduleError(f"{text!r} has {len(parts)} fields; six (or five, without seconds) or hh:mm:ss are wanted")
    seconds, minutes, hours, days, months, weekdays = (
        field.parse(part) for field, part in zip(FIELDS, parts, strict=True)
    )
    cron = Cron(tuple(sorted(seconds)), tuple(sorted(minutes)), tuple(sorted(hours)), days, months, weekdays)
    cron.following(datetime(2000, 1, 1))  # noqa: DTZ001 - local time; refuses what never comes, such as 30 February
    return cron


def following(schedule: Schedule, moment: datetime, zone: ZoneInfo) -> datetime:
    """The first run after an aware `moment`, in UTC, with the expression read in `zone`'s local time."""
    here = moment.astimezone(zone)
    offset = here.utcoffset()
    local = schedule.following(here.replace(tzinfo=None))
    if not schedule.adjusts_for_dst and offset is not None:
        return (local - offset).replace(tzinfo=UTC)
    first = local.replace(tzinfo=zone).astimezone(UTC)
    # When clocks go back an hour comes twice: in its second pass the first is already over.
    return first if first > moment else local.replace(tzinfo=zone, fold=1).astimezone(UTC)
