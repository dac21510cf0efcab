"""Turnovers in virtual time against the bound that Graph sets, and what each device of them costs:
`python -m bench.turnover 100000` plays one size by itself."""

import sys
from collections.abc import Mapping

from bench.measure import Cell, Table, UnsoundError
from bench.plot import svg
from bench.virtual import COMES, WAITS, Course, Played, bound, play
from shared.domain.states import State

SIZES = (100, 1_000, 10_000)
MIX: tuple[tuple[float, Mapping[str, object]], ...] = (
    (0.5, COMES),
    (0.3, WAITS),
    (0.1, {**WAITS, "online_hours": ("PT11H", "PT17H")}),
    (0.05, {"off_from": "PT0S", "off_until": "P2D"}),
    (0.02, {"off_from": "PT0S"}),
    (0.02, {**COMES, "failure": "reset_fails_midway"}),
    (0.01, {**COMES, "failure": "winre_disabled"}),
)
"""Half come by themselves, a third need a forced sync; some are off at first, for days, or for good; some fail."""


COLUMNS = (
    *("Devices", "ready", "hours", "bound, hours", "writes: ratio to the bound", "429s", "Graph calls a device"),
    *("HTTP requests a device", "transactions a device", "table reads a device", "queue operations a device"),
    *("bytes a device", "storage operations of 10,000 devices, dollars", "CPU us a device"),
)
TABLE_PRICE, QUEUE_PRICE = 0.00036e-4, 0.004e-4
"""Dollars for one operation: list prices of general-purpose v2 storage (azure.microsoft.com/pricing)."""


def run() -> Table:
    """Each size with half of the devices in need of a forced sync, and the largest but one with a realistic mix."""
    rows = [_row(f"{size:,}", play(Course(size))) for size in SIZES]
    rows.append(_row("10,000, mixed", play(Course(10_000, MIX, days=3))))
    return Table(COLUMNS, tuple(rows))


def _row(name: str, played: Played) -> tuple[Cell, ...]:
    if played.false_ready:
        raise UnsoundError(f"{played.false_ready} devices were called ready that were not")
    least = bound(played.writes)
    devices = played.devices
    writes, reads = played.storage["table commit"], played.storage["table get"] + played.storage["table scan"]
    sends = sum(number for kind, number in played.storage.items() if kind.startswith("queue"))
    return (
        name,
        played.ends[State.READY],
        played.ready[-1].total_seconds() / 3600,
        least.total_seconds() / 3600,
        played.writes[-1][0] / least,
        played.throttled,
        sum(played.graph.values()) / devices,
        played.http / devices,
        writes / devices,
        reads / devices,
        sends / devices,
        played.row_bytes,
        10_000 * ((writes + reads) * TABLE_PRICE + sends * QUEUE_PRICE) / devices,
        (played.cpu - played.tenant_cpu) / devices * 1e6,
    )


def picture(table: Table) -> str:
    """What a device costs, by the size of the turnover."""
    names = ("Graph calls", "HTTP requests", "transactions", "table reads", "queue operations")
    at = {name: table.columns.index(f"{name} a device") for name in names}
    rows = [row for row in table.rows if str(row[0]).replace(",", "").isdecimal()]
    lines = {
        name: [(float(str(row[0]).replace(",", "")), float(row[column])) for row in rows] for name, column in at.items()
    }
    return svg("What a device costs, by the devices of a turnover", "devices", lines)


def main(devices: int) -> None:
    played = play(Course(devices))
    print(Table(COLUMNS, (_row(f"{devices:,}", played),)).markdown())
    print(dict(played.ends), dict(played.graph), dict(played.storage), dict(played.conflicts))


if __name__ == "__main__":
    main(int(sys.argv[1]))
