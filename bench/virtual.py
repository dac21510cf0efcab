"""A whole turnover in virtual time: the app's own stages, the gateway and the Graph SDK, between storage in memory and
the simulated tenant. Hours pass in minutes; what is counted is what Graph and storage would count."""

import asyncio
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, cast

from bench.conflicts import counted
from bench.measure import NO_LIMITS, UNLIMITED
from sandbox.memory import MemoryTable
from sandbox.scenario import Scenario
from sandbox.tenant.calls import Answer, Call
from sandbox.tenant.graph import Tenant
from sandbox.virtual.functions import Instance, host_options, schedules
from sandbox.virtual.graph import TenantTransport
from sandbox.virtual.loop import run
from sandbox.virtual.storage import VirtualQueues, VirtualTable
from sandbox.virtual.world import START, Speed, parts_of
from shared.domain.policy import Policy
from shared.domain.request import MAX_DEVICES
from shared.domain.reset import Event
from shared.domain.states import TERMINAL, State
from shared.messages.queues import REQUESTS
from shared.pipeline.parts import Parts
from shared.state import rows
from shared.state.table import Change, ChangeKind

WINDOW, WRITES = timedelta(seconds=20), 200
"""Graph's limit of writes (learn.microsoft.com/graph/throttling-limits, Intune)."""
FULL_BUDGET: Mapping[str, object] = {
    **NO_LIMITS,
    # What fails ends sooner than what becomes ready, so that at first most of what ends has failed.
    "halt_failed_min": 0,
    "writes_per_window": 200,
    # Nobody has to wait for hours but in a turnover of this size.
    "cleared_for": "PT12H",
    "redispatch_after": "PT6H",
}
"""A policy that lifts every limit but Graph's own."""

COMES: Mapping[str, object] = {"reacts_to_orders": True}
"""A device that comes for its reset by itself."""
WAITS: Mapping[str, object] = {"check_in_every": "P2D", "first_check_in": "P2D"}
"""A device that comes only for a forced sync."""


@dataclass(frozen=True)
class Course:
    """What is to be played."""

    devices: int
    kinds: Sequence[tuple[float, Mapping[str, object]]] = ((0.5, COMES), (0.5, WAITS))
    """Parts of the devices, and how each behaves."""
    policy: Mapping[str, object] = field(default_factory=lambda: FULL_BUDGET)
    instances: int = 1
    days: float = 3
    """Played no longer than this."""
    dies_at: timedelta | None = None
    """When one of the instances dies."""


@dataclass
class Played:
    """What became of it. Times are after the start."""

    course: Course
    ends: Counter[State] = field(default_factory=Counter)
    false_ready: int = 0
    writes: list[tuple[timedelta, int]] = field(default_factory=list)
    """Resets and forced syncs: when, and how many in one call."""
    orders: list[tuple[timedelta, int]] = field(default_factory=list)
    """The resets alone."""
    ready: list[timedelta] = field(default_factory=list)
    """When each device was proven ready."""
    truly: list[timedelta] = field(default_factory=list)
    """How much earlier each of them was ready in truth."""
    throttled: int = 0
    """429s that Graph answered."""
    graph: Counter[str] = field(default_factory=Counter)
    """Calls as Graph counts them, by what they are about."""
    http: int = 0
    storage: Counter[str] = field(default_factory=Counter)
    """Calls to storage, by kind."""
    conflicts: Counter[str] = field(default_factory=Counter)
    """Transactions that met a conflict, by the kind of the row that all of them share, and all in all ("commits")."""
    row_bytes: float = 0.0
    """What a device that has ended leaves in the table."""
    cpu: float = 0.0
    """Seconds of this process, all parts included."""
    tenant_cpu: float = 0.0
    """Those of them that the simulated tenant took."""

    @property
    def devices(self) -> int:
        return self.course.devices

    @property
    def most(self) -> int:
        """The most writes in any 20 seconds."""
        most, left, first = 0, 0, 0
        for at, count in self.writes:
            left += count
            while self.writes[first][0] <= at - WINDOW:
                left -= self.writes[first][1]
                first += 1
            most = max(most, left)
        return most


def bound(writes: Sequence[tuple[timedelta, int]]) -> timedelta:
    """How long Graph's limit makes so many writes last."""
    return sum(count for _, count in writes) * WINDOW / WRITES


type First = Callable[[Parts, Sequence[str]], Awaitable[None]]


def play(course: Course, *, progress: bool = True, first: First | None = None) -> Played:
    """Play a turnover to its end; `first` is done before the requests are sent, with the texts of these."""
    logging.disable(logging.CRITICAL)
    began = time.process_time()
    played = run(_play(course, progress, first))
    played.cpu = time.process_time() - began
    return played


def _scenario(course: Course) -> Scenario:
    devices: list[dict[str, object]] = []
    for first in range(0, course.devices, MAX_DEVICES):
        size, number = min(MAX_DEVICES, course.devices - first), first // MAX_DEVICES
        counts = [round(size * part) for part, _ in course.kinds]
        counts[0] += size - sum(counts)
        devices += [
            {
                "count": count,
                "name": f"LAB-{number}-{kind}-{{n}}",
                "serial": f"SN-{number}-{kind}-{{n}}",
                "group_tag": f"LAB-{number}",
                **behaviour,
            }
            for kind, (count, (_, behaviour)) in enumerate(zip(counts, course.kinds, strict=True))
            if count
        ]
    return Scenario.model_validate(
        {
            "scenario": {"name": "turnover", "time_limit": "P90D"},
            "tenant": {"quirks": {"daily_wipe_limit": UNLIMITED}},
            "policy": dict(course.policy),
            "devices": devices,
            "requests": [
                {
                    "body": {
                        "requestId": f"R{n}",
                        "requester": "bench",
                        "reason": "T",
                        "devices": [{"groupTag": f"LAB-{n}"}],
                    },
                    "encoding": "plain",
                }
                for n in range(-(-course.devices // MAX_DEVICES))
            ],
        }
    )


class MeteredTenant(Tenant):
    """A tenant that knows what it costs itself, and when it was told to do something."""

    cpu = 0.0

    def __init__(self, *given: Any, **more: Any) -> None:  # as the tenant's own
        super().__init__(*given, **more)
        self.writes: list[tuple[timedelta, int]] = []
        self.orders: list[tuple[timedelta, int]] = []

    def graph_calls(self) -> Counter[str]:
        """Calls as Graph counts them, the items of a `$batch` one by one."""
        calls = cast("dict[str, dict[str, int]]", self.counts.report()["calls"])
        counted = {name: counts["alone"] + counts["batched"] for name, counts in calls.items()}
        return Counter({name: count for name, count in counted.items() if not name.endswith("$batch")})

    def answer(self, call: Call, now: datetime) -> Answer:
        began = time.process_time()
        found = super().answer(call, now)
        self.cpu += time.process_time() - began
        if count := call.body.count(b"/wipe") + call.body.count(b"/syncDevice"):
            self.writes.append((now - START, count))
            if count == call.body.count(b"/wipe"):
                self.orders.append((now - START, count))
        return found


@dataclass
class _Counting(VirtualTable):
    """The table, which counts conflicts too."""

    conflicts: Counter[str] = field(default_factory=Counter)

    async def commit(self, changes: Sequence[Change]) -> None:
        with counted(changes, self.conflicts):
            await super().commit(changes)


async def _play(course: Course, progress: bool, first: First | None) -> Played:
    scenario, played, loop = _scenario(course), Played(course), asyncio.get_running_loop()
    fleet = scenario.fleet(1, START)
    tenant = MeteredTenant(fleet, random.Random(1), tenant_id=scenario.tenant.id, roles=scenario.tenant.roles)
    table, speed, ways = MemoryTable(), Speed(), random.Random(2)
    policy = Policy.model_validate(scenario.real_policy())
    over, left, shown = asyncio.Event(), course.devices, time.monotonic()

    def now() -> datetime:
        return START + timedelta(seconds=loop.time())

    def committed(changes: Sequence[Change]) -> None:
        nonlocal left, shown
        for change in changes:
            if change.key.startswith("closed|") and change.kind is not ChangeKind.DELETE:
                left -= 1
                event = rows.adapter(rows.ClosedRecord).validate_json(str(change.values["doc"])).event
                _ended(played, tenant, event, now())
        if left == 0:
            over.set()
        if progress and time.monotonic() > shown + 10:
            shown = time.monotonic()
            print(
                f"  {course.devices - left:,} of {course.devices:,} devices, {now() - START}",
                file=sys.stderr,
                flush=True,
            )

    queues = VirtualQueues(
        clock=now, shuffle=random.Random(3), delay=lambda: ways.uniform(*speed.storage), calls=played.storage
    )
    instances: list[Instance] = []
    for number in range(course.instances):
        chance, ids = random.Random(f"instance {number}"), random.Random(f"ids {number}")
        delay = partial(chance.uniform, *speed.storage)
        counting = _Counting(table, delay, played.storage, committed, played.conflicts)
        graph = TenantTransport(tenant, now, partial(chance.uniform, *speed.graph))
        parts = parts_of(policy, counting, queues, graph, tenant.token, now, chance, ids)
        one = Instance(parts, queues, chance, host_options(), schedules())
        one.rest = partial(_elsewhere, instances, one)
        instances.append(one)
        one.start()
    texts = [scenario.message(request) for request in scenario.requests]
    if first is not None:
        await first(instances[0].parts, texts)
    for text in texts:
        await queues.send(REQUESTS, text)
    try:
        async with asyncio.timeout(course.days * 86_400):
            if course.dies_at is not None:
                await asyncio.sleep(course.dies_at.total_seconds())
                await instances.pop(0).stop()  # the one whose timers tick
            await over.wait()
    except TimeoutError:
        pass
    failures = [failure for one in instances for failure in one.failures]
    for one in instances:
        await one.stop()
    if failures:
        print(f"  {len(failures)} invocations failed, the first: {failures[0][:200]}", file=sys.stderr)
    played.writes, played.orders, played.tenant_cpu = tenant.writes, tenant.orders, tenant.cpu
    played.throttled = tenant.limits.writes.refused + tenant.limits.calls.refused
    played.graph, played.http = tenant.graph_calls(), int(str(tenant.counts.report()["requests"]))
    kept = [row for key, row in table.contents().items() if key.split("|")[0] in ("closed", "event")]
    played.row_bytes = sum(len(str(value)) for row in kept for value in row.values()) / course.devices
    return played


async def _elsewhere(instances: Sequence[Instance], one: Instance, timer: str) -> bool:  # noqa: ARG001 - of any timer
    """Timers tick in one instance only: the host's lock, learn.microsoft.com/azure/azure-functions/
    functions-bindings-timer."""
    return instances[0] is not one


def _ended(played: Played, tenant: Tenant, event: Event, now: datetime) -> None:
    if event.device is None or event.to_state not in TERMINAL:
        return
    played.ends[event.to_state] += 1
    device = tenant.fleet.find(event.device)
    if event.to_state is not State.READY or device is None:
        return
    tenant.fleet.advance(now)
    truth = device.truth(now)
    played.false_ready += not truth.truly_ready
    played.ready.append(now - START)
    if truth.ready_since is not None:
        played.truly.append(now - truth.ready_since)
