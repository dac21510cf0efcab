"""One turnover with 1 to 50 instances of the engine, in virtual time; and with one that dies."""

from datetime import timedelta
from itertools import pairwise

from bench.conflicts import percents
from bench.measure import Cell, Table, UnsoundError
from bench.virtual import Course, Played, bound, play
from shared.domain.states import State

DEVICES = 3_000
INSTANCES = (1, 2, 4, 8, 16, 50)
DIES_AT = timedelta(minutes=2)


def run() -> Table:
    """The same devices each time."""
    rows = [_row(str(count), play(Course(DEVICES, instances=count))) for count in INSTANCES]
    rows.append(_row("4, one dies after 2 min", play(Course(DEVICES, instances=4, dies_at=DIES_AT))))
    columns = (
        *("Instances", "ready", "orders: ratio to the bound", "most writes in 20 s", "429s", "longest gap, s"),
        *("conflicts on the pace row, %", "on the row of caps, %", "of all transactions, %", "transactions a device"),
    )
    return Table(columns, tuple(rows))


def _row(name: str, played: Played) -> tuple[Cell, ...]:
    if played.false_ready or played.ends[State.READY] != DEVICES:
        raise UnsoundError(f"{played.ends}, {played.false_ready} of them falsely")
    orders = [at for at, _ in played.orders]
    return (
        name,
        played.ends[State.READY],
        orders[-1] / bound(played.orders),
        played.most,
        played.throttled,
        max((after - before).total_seconds() for before, after in pairwise(orders)),
        *percents(played.conflicts),
        played.storage["table commit"] / DEVICES,
    )
