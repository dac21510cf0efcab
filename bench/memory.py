"""Memory while the gateway reads a fleet, in a process of its own: `python -m bench.memory WHAT URL MEASURE`."""

import asyncio
import json
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psutil

from bench.measure import Cell, Table, UnsoundError, child, connect, tenant
from shared.domain.devices import DeviceReference, ReferenceKind
from shared.graph.gateway import GraphIntune

FLEETS = (10_000, 100_000)
FOUND = 10_000


def run() -> Table:
    """The same in two tenants, the second ten times the first; each figure in a process of its own."""
    rows: list[tuple[Cell, ...]] = []
    for devices in FLEETS:
        with tenant(devices, filter_support="schema") as url:
            for what, count, read in (("changed_since", devices, "listed"), ("find", FOUND, "found by serial")):
                resident, seconds = _child(what, url, "resident", count)
                # Tracing is slow, and only the listing promises a bound.
                heap: Cell = _child(what, url, "traced", count)[0] if what == "changed_since" else "not traced"
                rows.append((f"`{what}`: {count:,} {read}", devices, resident, heap, seconds))
    rows.sort(key=lambda row: str(row[0]).split(":")[0])
    columns = ("Read", "devices in the tenant", "peak resident growth, MB", "peak of Python's heap, MB", "seconds")
    return Table(columns, tuple(rows))


def _child(what: str, url: str, measure: str, count: int) -> tuple[float, float]:
    """Megabytes and seconds."""
    told = child("bench.memory", what, url, measure)
    if told["devices"] != count:
        raise UnsoundError(f"{told['devices']} of {count} devices were read")
    return float(str(told["mb"])), float(str(told["seconds"]))


async def _measure(what: str, url: str, measure: str) -> dict[str, object]:
    async with await connect(url) as intune:
        began = time.perf_counter()
        with _traced() if measure == "traced" else resident() as grown:
            devices = await (_list(intune) if what == "changed_since" else _find(intune))
        return {"devices": devices, "mb": grown[0], "seconds": time.perf_counter() - began}


@contextmanager
def _traced() -> Iterator[list[float]]:
    """Gives, after the block, the most that Python's heap grew by in it, in MB. Slows the block down severalfold."""
    grown: list[float] = []
    tracemalloc.start()
    yield grown
    grown.append(tracemalloc.get_traced_memory()[1] / 1e6)
    tracemalloc.stop()


@contextmanager
def resident() -> Iterator[list[float]]:
    """Gives, after the block, the most that resident memory grew by in it, in MB, looked at every 2 ms."""
    grown: list[float] = []
    process, ended = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.002):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield grown
    finally:
        ended.set()
        watcher.join()
    grown.append((peak - before) / 1e6)


async def _list(intune: GraphIntune) -> int:
    count = 0
    async for _ in intune.changed_since(datetime.now(UTC) - timedelta(days=400)):
        count += 1
    return count


async def _find(intune: GraphIntune) -> int:
    references = [DeviceReference(ReferenceKind.SERIAL_NUMBER, f"SN-{n:04}") for n in range(1, FOUND + 1)]
    return sum(len(finding.devices) for finding in (await intune.find(references)).values())


def main(arguments: Sequence[str]) -> None:
    what, url, measure = arguments
    print(json.dumps({"event": "ready", **asyncio.run(_measure(what, url, measure))}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
