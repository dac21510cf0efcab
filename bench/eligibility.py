"""Graph calls for the facts of 1 to 10,000 devices, named by serial number, in a tenant of 10,000."""

import asyncio
import time

import httpx

from bench.measure import Cell, Table, UnsoundError, connect, tenant
from shared.domain.devices import DeviceReference, ReferenceKind

DEVICES = 10_000
ASKED = (1, 20, 500, 10_000)
FILTERS = {"schema": "kept", "reference": "ignored"}
"""What a tenant does with `serialNumber eq`, by the sandbox's name for it."""


def run() -> Table:
    """Counted by the tenant, for a tenant that keeps a filter on serial numbers and one that ignores it."""
    rows: list[tuple[Cell, ...]] = []
    with tenant(DEVICES) as url:
        for support, kept in FILTERS.items():
            httpx.post(f"{url}/sandbox/quirks", json={"filter_support": support}, timeout=60).raise_for_status()
            rows += [asyncio.run(_ask(url, count, kept)) for count in ASKED]
    columns = (
        *("Devices asked for", "filter", "HTTP requests", "items in $batch", "calls that Graph counts"),
        *("calls a device", "ratio to 3 GETs a device", "seconds"),
    )
    return Table(columns, tuple(rows))


async def _ask(url: str, count: int, kept: str) -> tuple[Cell, ...]:
    # Spread over the tenant, as a request's devices are.
    serials = [f"SN-{n:04}" for n in range(1, DEVICES + 1, DEVICES // count)][:count]
    references = [DeviceReference(ReferenceKind.SERIAL_NUMBER, serial) for serial in serials]
    before = _counted(url)
    began = time.perf_counter()
    async with await connect(url) as intune:
        found = await intune.find(references)
    took = time.perf_counter() - began
    whole = [f for f in found.values() if len(f.devices) == 1 and f.devices[0].entra and f.devices[0].autopilot]
    if len(whole) != count:
        raise UnsoundError(f"{len(whole)} of {count} devices were found with all their facts")
    requests, items, batches = (now - then for now, then in zip(_counted(url), before, strict=True))
    # Graph counts the items of a $batch, not the $batch: learn.microsoft.com/graph/throttling.
    counted = requests - batches + items
    return count, kept, requests, items, counted, counted / count, counted / (3 * count), took


def _counted(url: str) -> tuple[int, int, int]:
    """HTTP requests so far, items within $batch, and how many of the requests were $batch."""
    report = httpx.get(f"{url}/sandbox/calls", timeout=60).raise_for_status().json()
    batches = sum(counts["alone"] for name, counts in report["calls"].items() if name.endswith("$batch"))
    return report["requests"], report["items"], batches
