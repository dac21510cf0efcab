"""One tick of poll with many devices in flight, of which one in a hundred has checked in; beside it what peers do, a
GET of every device in flight. Each size in a process of its own: `python -m bench.poll DEVICES`."""

import asyncio
import json
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from itertools import batched

from bench.measure import Cell, Table, UnsoundError, child
from bench.memory import resident
from bench.virtual import FULL_BUDGET, MeteredTenant
from sandbox.memory import MemoryTable
from sandbox.scenario import Scenario
from sandbox.virtual.graph import TenantTransport
from sandbox.virtual.loop import run as in_virtual_time
from sandbox.virtual.storage import VirtualQueues, VirtualTable
from sandbox.virtual.world import START, parts_of
from shared.domain.devices import DeviceFacts, DeviceReference, ReferenceKind
from shared.domain.ids import ManagedDeviceId, OrderId, RequestId
from shared.domain.policy import Policy
from shared.domain.reset import Proof, Reset
from shared.domain.states import State
from shared.pipeline.parts import BATCH, Parts
from shared.pipeline.poll import poll
from shared.state import rows
from shared.state.store import Watermark, reset_changes

IN_FLIGHT = (100, 1_000, 10_000, 100_000)
MINUTE = timedelta(minutes=1)
TAKEN = START - 30 * MINUTE
"""When the devices took their reset. They are silent since."""


def run() -> Table:
    """Each number of devices, in a fresh process."""
    columns = (
        *("In flight", "checked in", "Graph calls", "Graph calls, one GET a device", "table reads"),
        *("CPU ms", "CPU ms, one GET a device", "peak growth of resident memory, MB"),
    )
    return Table(
        columns, tuple(_row(devices, child("bench.poll", str(devices), timeout=1800)) for devices in IN_FLIGHT)
    )


def _row(devices: int, told: Mapping[str, object]) -> tuple[Cell, ...]:
    names = ("changed", "calls", "calls of peers", "reads", "ms", "ms of peers", "mb")
    return (devices, *(float(str(told[name])) for name in names))


async def _measure(devices: int) -> dict[str, object]:
    changed = max(1, devices // 100)
    silent = {"check_in_every": "P30D", "first_check_in": "P20D"}
    groups = [{"count": changed, "name": "BACK-{n}", "check_in_every": "P30D", "first_check_in": "PT5M"}]
    groups += [{"count": size, "name": f"LAB-{n}-{{n}}", **silent} for n, size in enumerate(_parts(devices - changed))]
    scenario = Scenario.model_validate(
        {
            "scenario": {"name": "poll"},
            "tenant": {"quirks": {"throttle": False}},
            "policy": FULL_BUDGET,
            "devices": [{**one, "group_tag": "T"} for one in groups],
        }
    )
    loop, chance, calls, table = asyncio.get_running_loop(), random.Random(1), Counter[str](), MemoryTable()

    def now() -> datetime:
        return START + timedelta(seconds=loop.time())

    tenant = MeteredTenant(scenario.fleet(1, START), chance)
    counted = VirtualTable(table, lambda: 0.002, calls, committed=lambda _: None)
    way = TenantTransport(tenant, now, lambda: 0.05)
    policy = Policy.model_validate(scenario.real_policy())
    parts = parts_of(policy, counted, VirtualQueues(clock=now), way, tenant.token, now, chance, chance)
    found = await (await parts.intune()).find([DeviceReference(ReferenceKind.GROUP_TAG, "T")])
    facts = [one for finding in found.values() for one in finding.devices]
    for some in batched(facts, 50, strict=False):
        await table.commit([change for one in some for change in reset_changes(_reset(one), None)])
    await table.commit([rows.put(rows.WATERMARK, Watermark(START))])
    ids = [one.managed.id for one in facts]
    del found, facts
    await asyncio.sleep((6 * MINUTE - (now() - START)).total_seconds())

    calls.clear()
    ours = await _counted(tenant, partial(poll, parts))
    ours["reads"] = calls["table get"] + calls["table scan"]
    moved = [row for row in table.contents("reset|").values() if row["state"] == State.SETTLING.value]
    if len(moved) < changed:
        raise UnsoundError(f"{len(moved)} devices were seen to be back, of {changed}")
    theirs = await _counted(tenant, partial(_get_each, parts, ids))
    peers = {"calls of peers": theirs["calls"], "ms of peers": theirs["ms"]}
    return {"event": "ready", "changed": len(moved), **ours, **peers}


def _parts(devices: int) -> list[int]:
    return [min(50_000, devices - first) for first in range(0, devices, 50_000)]


async def _counted(tenant: MeteredTenant, work: Callable[[], Awaitable[None]]) -> dict[str, float]:
    before, began, cpu = tenant.graph_calls().total(), time.process_time(), tenant.cpu
    with resident() as grown:
        await work()
    took = time.process_time() - began - (tenant.cpu - cpu)
    return {"calls": tenant.graph_calls().total() - before, "ms": took * 1000, "mb": grown[0]}


async def _get_each(parts: Parts, devices: list[ManagedDeviceId]) -> None:
    """What a tool does that keeps a list of devices: read each, twenty at a time."""
    intune = await parts.intune()
    for some in batched(devices, BATCH, strict=False):
        await intune.look(some)


def _reset(facts: DeviceFacts) -> Reset:
    return Reset(
        device=facts.managed.id,
        request=RequestId("R1"),
        requester="bench",
        ticket="T",
        reference="groupTag:T",
        outcome_queue="reset-results",
        before=facts.managed,
        facts_at=TAKEN - MINUTE,
        state=State.RESETTING,
        since=TAKEN,
        deadline=START + timedelta(hours=3),
        order=OrderId("1"),
        attempt=1,
        sent_at=TAKEN - MINUTE,
        graph_earliest=TAKEN - MINUTE,
        graph_latest=TAKEN - MINUTE,
        proof=Proof(taken_at=TAKEN, last_sync=TAKEN),
        seq=4,
    )


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    print(json.dumps(in_virtual_time(_measure(int(sys.argv[1])))), flush=True)
