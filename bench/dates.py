"""A turnover that takes days, since Intune bears 500 wipes a day: when the plan says that it ends, and when it does."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from bench.measure import Cell, Table, UnsoundError
from bench.virtual import FULL_BUDGET, Course, play
from sandbox.virtual.world import START
from shared.domain.request import ResetRequest, parse
from shared.domain.states import State
from shared.pipeline.facts import find
from shared.pipeline.parts import Parts
from shared.pipeline.plan import plan, situation

DEVICES = 2_200
A_DAY = 500


def run() -> Table:
    """One request, asked for and planned at the same moment; its resets by day, and its end."""
    last: list[datetime] = []
    planned = Counter[int]()

    async def first(parts: Parts, texts: Sequence[str]) -> None:
        request = parse(texts[0])
        if not isinstance(request, ResetRequest):
            raise UnsoundError("the request was refused")
        met = await situation(parts.store, request, texts, parts.clock(), parts.policy)
        found = await find(await parts.intune(), request.references(), parts.policy)
        made = plan(request, found, met, parts.policy, parts.clock())
        planned.update({(day - START.date()).days: count for day, count in made.totals.orders_by_day.items()})
        last.extend(at for at in (made.totals.last_order_at, made.totals.all_ready_likely) if at is not None)

    played = play(Course(DEVICES, policy={**FULL_BUDGET, "resets_per_day": A_DAY}, days=20), first=first)
    if played.ends[State.READY] != DEVICES:
        raise UnsoundError(f"{played.ends}")
    orders, orders_end = Counter[int](), played.orders[-1][0]
    for at, count in played.orders:
        orders[(START + at).toordinal() - START.toordinal()] += count
    rows: list[tuple[Cell, ...]] = [
        (f"resets on day {day + 1}", planned[day], orders[day], orders[day] - planned[day]) for day in sorted(planned)
    ]
    for name, expected, real in zip(("last order", "all ready"), last, (orders_end, played.ready[-1]), strict=True):
        before = expected - START
        rows.append((f"{name}, hours after the request", _hours(before), _hours(real), _hours(real - before)))
    return Table(("What", "as planned", "as it was", "difference"), tuple(rows))


def _hours(time: timedelta) -> float:
    return time.total_seconds() / 3600
