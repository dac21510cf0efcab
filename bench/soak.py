"""Turnovers without end in the local host, over real Azurite: what the host's process holds, before and after.

`python -m bench.soak MINUTES` runs it as long as one likes, and only prints.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from bench import local
from bench.local import Sender, progress
from bench.measure import NO_LIMITS, UNLIMITED, Cell, Table, UnsoundError, machine
from sandbox.stack import HOST, Stack
from shared.domain.notices import NoticeType

MINUTES = 4.0
WARM_UP = timedelta(minutes=1)
"""Not counted: until every part of the app was loaded and used."""
REST = timedelta(seconds=20)
"""How long the host does nothing, after the last device's end, before it is looked at."""
SPEED = 60
FLEET = 240
TOGETHER = 3
"""Devices in one request."""
EVERY = 2.0
"""Seconds between two requests."""
LOOK_EVERY = 1.0
LOOKS = 15
"""Looks that make one figure, by their median: what is in flight differs from second to second."""
PATIENCE = timedelta(minutes=5)
COUNTED = ("files", "sockets", "threads", "tasks", "blocks", "interned")
COLUMNS = (
    *("Host's process", "turnovers ended", "resident, MB", "open files", "of them sockets", "threads", "tasks"),
    *("blocks of Python's heap", "interned strings"),
)
TELLS_END = (NoticeType.DEVICE_READY, NoticeType.DEVICE_REFUSED, NoticeType.DEVICE_FAILED, NoticeType.DEVICE_ATTENTION)


@dataclass(frozen=True, slots=True)
class Look:
    """What the host's process holds."""

    resident: float
    """MB."""
    files: int
    """Open file descriptors, sockets included."""
    sockets: int
    threads: int
    tasks: int
    blocks: int
    """Of Python's heap, in use; garbage in cycles too, until it is collected."""
    interned: int
    """Strings that Python keeps once each. Where these stay and memory grows, the table that holds them was made anew,
    larger, since strings came and went: that has a bound."""
    ended: int
    """Devices whose end was told by then."""


def run(minutes: float = MINUTES) -> Table:
    """Raises UnsoundError where a device did not end as it must."""
    with local.running(_scenario(), {}) as (started, folder):
        return asyncio.run(_soak(started, folder, timedelta(minutes=minutes)))


def _scenario() -> str:
    """Devices that come by themselves, and some that must be told to."""
    kinds: list[dict[str, object]] = [{"reacts_to_orders": True}, {"reacts_to_orders": True}, {"sync_reaction": "PT2M"}]
    devices = [
        {"count": FLEET // 3, "first": 1 + number * FLEET // 3, "reset_duration": "PT20M", **kind}
        for number, kind in enumerate(kinds)
    ]
    return (
        local.table("scenario", {"name": "soak", "speed": SPEED})
        + local.table("tenant.quirks", {"daily_wipe_limit": UNLIMITED})
        + local.table("policy", NO_LIMITS)
        + "".join(local.table("[devices]", {"check_in_every": "PT8H", **device}) for device in devices)
    )


async def _soak(started: Stack, folder: Path, length: timedelta) -> Table:
    (pid,) = [child.process.pid for child in started.children if child.name == HOST]
    process = psutil.Process(pid)
    async with local.sender(started) as sender:
        await asyncio.sleep(max(0.0, (started.start - datetime.now(UTC)).total_seconds()))
        looks, began = list[Look](), time.monotonic()
        number, next_request, total = 0, began, (WARM_UP + length).total_seconds()
        while (now := time.monotonic()) < began + total:
            started.check()
            if NoticeType.HALTED in sender.count:
                raise UnsoundError("it halted itself")
            if now >= next_request:
                await _send(sender, number)
                number, next_request = number + 1, next_request + EVERY
            if now >= began + len(looks) * LOOK_EVERY:
                looks.append(_look(process, folder, _ended(sender)))
                if len(looks) % 60 == 0:
                    progress(f"{len(looks) // 60} min: {looks[-1]}")
            await asyncio.sleep(0.1)
        asked = number * (TOGETHER + 1)
        await local.until(lambda: _ended(sender) >= asked, started, PATIENCE, f"the ends of {asked} devices")
        await asyncio.sleep(REST.total_seconds())
        rest = _look(process, folder, _ended(sender))
    if sender.count[NoticeType.DEVICE_READY] != number * TOGETHER:
        raise UnsoundError(f"{number * TOGETHER} devices had to become ready: {sender.count}")
    warm = int(WARM_UP.total_seconds() / LOOK_EVERY)
    middle = warm + (len(looks) - warm) // 2
    at = {"after one minute": warm, f"+ {length.total_seconds() / 120:g} min": middle}
    rows = [_row(name, _median(looks[end - LOOKS : end])) for name, end in at.items()]
    rows.append(_row(f"+ {length.total_seconds() / 60:g} min", _median(looks[-LOOKS:])))
    rows.append(_row("nothing in flight any more", rest))
    return Table(COLUMNS, tuple(rows))


async def _send(sender: Sender, number: int) -> None:
    """The next devices in turn, and one that there is not."""
    serials = [f"SN-{1 + (number * TOGETHER + one) % FLEET:04}" for one in range(TOGETHER)]
    await sender.send(f"S-{number}", [*serials, f"NONE-{number}"])


def _ended(sender: Sender) -> int:
    return sum(sender.count.get(kind, 0) for kind in TELLS_END)


def _look(process: psutil.Process, folder: Path, ended: int) -> Look:
    sockets = len(process.net_connections("all"))
    held = local.figures(folder)
    resident = process.memory_info().rss / 10**6
    files, threads = process.num_fds(), process.num_threads()
    return Look(resident, files, sockets, threads, held["tasks"], held["blocks"], held["interned"], ended)


def _median(looks: Sequence[Look]) -> Look:
    def of(name: str) -> float:
        return statistics.median([float(getattr(look, name)) for look in looks])

    counted = {name: round(of(name)) for name in COUNTED}
    return replace(looks[-1], resident=of("resident"), **counted)


def _row(name: str, look: Look) -> tuple[Cell, ...]:
    return name, look.ended, look.resident, *(getattr(look, counted) for counted in COUNTED)


if __name__ == "__main__":
    print("\n".join(f"{name}: {value}" for name, value in machine().items()))
    print(run(float(sys.argv[1])).markdown())
