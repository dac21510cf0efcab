"""1, 2 and 4 local hosts with the engine over one Azurite and one tenant; and two, of which one is killed at work."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import Popen

import httpx
import psutil

from bench import local
from bench.conflicts import percents
from bench.local import Sender, progress
from bench.measure import NO_LIMITS, UNLIMITED, Cell, Table, UnsoundError
from sandbox import processes, stack
from sandbox.stack import HOST, Stack
from sandbox.tenant.devices import Json
from shared.domain.notices import NoticeType

INSTANCES = (1, 2, 4)
DEVICES = 1_200
TOGETHER = 60
"""Devices in one request: three dispatch messages."""
SPAN = 2.0
"""Seconds that stand for Graph's window of 20, so that the engine is the limit, and not Graph."""
FEWER = 360
"""Devices where one of two instances is killed; Graph's pace is real then."""
KILLED_AFTER = 0.4
"""The part of them that have been ordered at the kill."""
SPEED = 30
"""All times of policy and devices, the host's lease and time-outs and the timers' gaps are this much shorter then."""
LEASE = timedelta(minutes=10)
"""For how long Azure's host hides a message that it hands out: it is seen again only then where the host died."""
HIDDEN = timedelta(seconds=30)
"""host.json's visibilityTimeout, between two tries."""
TIMERS = ("windows", "sweep", "poll", "sync")
"""They tick in one instance only, as in Azure, where the host takes a lock for each."""
PATIENCE = timedelta(minutes=5)


def run() -> Table:
    """Raises UnsoundError where a device was not ordered exactly once, or, after a kill, not ready in the end."""
    rows = [_run(count, kill=False) for count in INSTANCES]
    rows.append(_run(2, kill=True))
    columns = (
        *("Instances", "orders", "seconds", "orders a second", "CPU s of the engines", "of Azurite and the tenant"),
        *("conflicts on the pace row, %", "on the row of caps, %", "of all transactions, %"),
        *("after the kill: last order, s", "in production's time, min"),
    )
    return Table(columns, tuple(rows))


def _run(count: int, *, kill: bool) -> tuple[Cell, ...]:
    progress(f"{count} instances{', one of them is killed' if kill else ''}")
    settings = _faster() if kill else local.production()
    span = 0 if kill else SPAN
    scenario = _scenario(FEWER if kill else DEVICES, SPEED if kill else 1)
    with (
        local.running(scenario, {**settings, "TURNAROUND_ROLE": "engine"}, span) as (started, folder),
        ExitStack() as more,
    ):
        hosts = {folder: next(child.process for child in started.children if child.name == HOST)}
        for number in range(2, count + 1):
            hosts |= _another(folder, number, span, more)
        return asyncio.run(_measure(started, hosts, kill=kill))


def _faster() -> dict[str, str]:
    """Production's settings, at the speed of a kill."""
    return {
        "AzureFunctionsJobHost__extensions__queues__visibilityTimeout": f"00:00:{HIDDEN.total_seconds() / SPEED:06.3f}",
        "SANDBOX_QUEUE_LEASE_SECONDS": f"{LEASE.total_seconds() / SPEED:.0f}",
        **{f"TURNAROUND_SCHEDULE_{name.upper()}": f"*/{60 // SPEED} * * * * *" for name in TIMERS},
    }


def _scenario(devices: int, speed: int) -> str:
    device = {"count": devices, "reacts_to_orders": True, "check_in_every": "PT8H", "reset_duration": "PT20M"}
    quirks = {"throttle": False, "daily_wipe_limit": UNLIMITED, "stale_reads": "PT0S"}
    return (
        local.table("scenario", {"name": "engines", "speed": speed})
        + local.table("tenant.quirks", quirks)
        + local.table("policy", NO_LIMITS)
        + local.table("[devices]", device)
    )


def _another(folder: Path, number: int, span: float, more: ExitStack) -> dict[Path, Popen[str]]:
    """One more host, for the queues alone."""
    own = folder / f"host-{number}"
    own.mkdir()
    settings = json.loads((folder / "settings.json").read_text("utf-8"))
    settings["Values"] |= {f"AzureWebJobs.{name}.Disabled": "true" for name in TIMERS}
    (own / "settings.json").write_text(json.dumps(settings), "utf-8")
    process = stack.start_host(own / "settings.json", own, module=local.host_in(own, span))
    more.callback(processes.stop, process)
    processes.ready_line(process, stderr=own / "host.log", timeout=60)
    return {own: process}


async def _measure(started: Stack, hosts: Mapping[Path, Popen[str]], *, kill: bool) -> tuple[Cell, ...]:
    engines = [psutil.Process(process.pid) for process in hosts.values()]
    others = [psutil.Process(child.process.pid) for child in started.children if child.name != HOST]
    await asyncio.sleep(max(0.0, (started.start - datetime.now(UTC)).total_seconds()))
    used, used_by_others = _cpu(engines), _cpu(others)
    killed: datetime | None = None
    devices = FEWER if kill else DEVICES
    async with local.sender(started) as sender:
        for first in range(1, devices + 1, TOGETHER):
            await sender.send(f"E-{first}", [f"SN-{number:04}" for number in range(first, first + TOGETHER)])
        began, give_up = min(sender.sent.values()), time.monotonic() + PATIENCE.total_seconds()
        while (ordered := _ordered(started)) < devices:
            if kill and killed is None and ordered >= KILLED_AFTER * devices:
                processes.kill(list(hosts.values())[-1])
                killed = datetime.now(UTC)
                progress(f"killed when {ordered} devices were ordered")
            if time.monotonic() > give_up:
                raise TimeoutError(f"{ordered} of {devices} devices were ordered")
            await asyncio.sleep(0.25)
        if killed is not None:
            await local.until(lambda: _ready(sender) >= devices, started, PATIENCE, "every device's readiness")
            cpu: tuple[Cell, Cell] = "", ""
        else:
            cpu = _cpu(engines) - used, _cpu(others) - used_by_others
    truth = local.truth(started)
    wipes = [_wipes(device) for device in truth]
    wrong = sum(len(one) != 1 for one in wipes) + sum(not device["truly_ready"] for device in truth if killed)
    if wrong:
        raise UnsoundError(f"{wrong} devices were not ordered exactly once, or never became ready")
    last = max(max(one) for one in wipes)
    took = (last - began).total_seconds()
    counts = Counter[str]()
    for folder in hosts:
        counts.update(local.figures(folder))
    after: tuple[Cell, Cell] = "", ""
    if killed is not None:
        gap = (last - killed).total_seconds()
        after = gap, gap * SPEED / 60
    return (
        f"{len(hosts)}{', one of them killed' if kill else ''}",
        *(devices, took, devices / took if not kill else "", *cpu),
        *percents(counts),
        *after,
    )


def _ordered(started: Stack) -> int:
    calls = httpx.get(f"{started.graph}/sandbox/calls", timeout=60, trust_env=False).raise_for_status().json()["calls"]
    counted: list[int] = [one["alone"] + one["batched"] for name, one in calls.items() if name.endswith("/wipe")]
    return sum(counted)


def _ready(sender: Sender) -> int:
    return sender.count.get(NoticeType.DEVICE_READY, 0)


def _wipes(device: Json) -> list[datetime]:
    received = device["wipes_received"]
    return [datetime.fromisoformat(one["at"]) for one in received] if isinstance(received, list) else []


def _cpu(watched: Sequence[psutil.Process]) -> float:
    """Seconds, so far."""
    times = [process.cpu_times() for process in watched]
    return sum(one.user + one.system for one in times)
