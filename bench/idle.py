"""What an app costs that has nothing to do, and one that waits for a single device."""

import asyncio
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from bench import local
from bench.local import progress
from bench.measure import NO_LIMITS, Cell, Table, UnsoundError
from sandbox.stack import Stack

EVERY = 5
"""Seconds between two ticks of each timer, a minute in production: what they do at a tick is the same."""
TICKS = 12
SETTLE = timedelta(seconds=30)
"""Until what is done only once is done: connecting, the first look at everything."""
_CALL = re.compile(r'\[(\S+ \S+)\] "(GET|POST|PUT|DELETE|MERGE) /[^/]+/(\S+) HTTP')
OURS = ("table queries", "table point reads", "table transactions", "messages sent")
HOSTS = "the host's own queue polling, a minute"


def run() -> Table:
    """Raises UnsoundError where an idle app asked Graph."""
    timers = {name: f"*/{EVERY} * * * * *" for name in local.production() if name.startswith("TURNAROUND_SCHEDULE_")}
    with local.running(_scenario(), local.production() | timers) as (started, folder):
        idle, waiting = asyncio.run(_measure(started, folder))
    if idle["Graph calls"]:
        raise UnsoundError(f"an idle app asked Graph: {idle}")
    columns = ("At each tick of the four timers", *OURS, "storage operations in all", "Graph calls", HOSTS)
    return Table(columns, (_row("nothing in flight", idle), _row("one device in flight, which is off", waiting)))


def _scenario() -> str:
    return (
        local.table("scenario", {"name": "idle"})
        + local.table("policy", NO_LIMITS)
        + local.table("[devices]", {"count": 100, "check_in_every": "P2D", "first_check_in": "P1D", "off_from": "PT0S"})
    )


async def _measure(started: Stack, folder: Path) -> tuple[Counter[str], Counter[str]]:
    await asyncio.sleep(max(0.0, (started.start - datetime.now(UTC)).total_seconds()))
    await asyncio.sleep(SETTLE.total_seconds())
    progress("nothing in flight")
    idle = await _count(started, folder)
    async with local.sender(started) as sender:
        await sender.send("I-1", ["SN-0001"])
        await asyncio.sleep(SETTLE.total_seconds())
    progress("one device in flight")
    return idle, await _count(started, folder)


async def _count(started: Stack, folder: Path) -> Counter[str]:
    """What was done in so many ticks, from the middle between two on."""
    now = datetime.now(UTC)
    begin = datetime.fromtimestamp((now.timestamp() // EVERY + 1) * EVERY + EVERY // 2, UTC)
    end = begin + timedelta(seconds=TICKS * EVERY)
    await asyncio.sleep((begin - now).total_seconds())
    calls = _graph(started)
    await asyncio.sleep((end - datetime.now(UTC)).total_seconds() + 1)  # the log's times are whole seconds
    counts = Counter({"Graph calls": _graph(started) - calls})
    for at, method, path in _CALL.findall((folder / "storage-calls.log").read_text("utf-8", errors="replace")):
        if begin <= datetime.strptime(at, "%d/%b/%Y:%H:%M:%S %z") < end:
            counts[_kind(method, path)] += 1
    return counts


def _kind(method: str, path: str) -> str:
    if path.partition("?")[0] == "$batch":
        return "table transactions"
    if "/messages" in path:
        return "messages sent" if method == "POST" else HOSTS
    return "table point reads" if "RowKey=" in path else "table queries"


def _graph(started: Stack) -> int:
    answer = httpx.get(f"{started.graph}/sandbox/calls", timeout=60, trust_env=False).raise_for_status().json()
    return int(answer["requests"])


def _row(name: str, counts: Counter[str]) -> tuple[Cell, ...]:
    ticks = {kind: counts[kind] / TICKS for kind in (*OURS, "Graph calls")}
    in_all = sum(ticks[kind] for kind in OURS)
    return name, *(ticks[kind] for kind in OURS), in_all, ticks["Graph calls"], counts[HOSTS] * 60 / (TICKS * EVERY)
