"""Intake of one request, in a process of its own: `python -m bench.intake DEVICES`."""

import asyncio
import json
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from bench.measure import Cell, Table, UnsoundError, child
from bench.memory import resident
from bench.virtual import FULL_BUDGET, MeteredTenant
from sandbox.memory import MemoryTable
from sandbox.scenario import Scenario
from sandbox.virtual.graph import TenantTransport
from sandbox.virtual.loop import run as in_virtual_time
from sandbox.virtual.storage import VirtualQueues, VirtualTable
from sandbox.virtual.world import START, parts_of
from shared.domain.policy import Policy
from shared.domain.states import State
from shared.messages.queues import DISPATCH
from shared.pipeline.intake import intake
from shared.state.table import Change

SIZES = (20, 500, 5_000)
FIGURES = ("transactions", "rows", "messages", "calls", "seconds", "ms", "mb")


def run() -> Table:
    """Each size, in a fresh process."""
    columns = (
        *("Devices in the request", "transactions", "most rows in one", "dispatch messages", "Graph calls"),
        *("seconds, virtual", "CPU ms", "peak growth of resident memory, MB"),
    )
    rows: list[tuple[Cell, ...]] = []
    for devices in SIZES:
        told = child("bench.intake", str(devices), timeout=600)
        rows.append((devices, *(float(str(told[name])) for name in FIGURES)))
    return Table(columns, tuple(rows))


async def _measure(devices: int) -> dict[str, object]:
    scenario = Scenario.model_validate(
        {
            "scenario": {"name": "intake"},
            "policy": FULL_BUDGET,
            "devices": [{"count": devices, "name": "LAB-{n}", "group_tag": "T"}],
        }
    )
    loop, chance, calls = asyncio.get_running_loop(), random.Random(1), Counter[str]()
    sizes: list[int] = []

    def now() -> datetime:
        return START + timedelta(seconds=loop.time())

    def committed(changes: Sequence[Change]) -> None:
        sizes.append(len(changes))

    tenant = MeteredTenant(scenario.fleet(1, START), chance)
    memory = MemoryTable()
    table = VirtualTable(memory, lambda: chance.uniform(0.001, 0.005), calls, committed)
    way = TenantTransport(tenant, now, lambda: chance.uniform(0.02, 0.25))
    policy, queues = Policy.model_validate(scenario.real_policy()), VirtualQueues(clock=now)
    parts = parts_of(policy, table, queues, way, tenant.token, now, chance, chance)
    await parts.intune()  # the SDK is loaded once in a process
    selectors = [{"groupTag": "T"}]
    body = json.dumps({"requestId": "R1", "requester": "bench", "reason": "T", "devices": selectors})
    before, began = now(), time.process_time()
    with resident() as grown:
        await intake(parts, body)
    took = time.process_time() - began - tenant.cpu
    cleared = [row for row in memory.contents("reset|").values() if row["state"] == State.CLEARED.value]
    if len(cleared) != devices:
        raise UnsoundError(f"{len(cleared)} of {devices} devices were taken in")
    figures = (
        *(len(sizes), max(sizes), len(queues.waiting(DISPATCH)), tenant.graph_calls().total()),
        *((now() - before).total_seconds(), took * 1000, grown[0]),
    )
    return {"event": "ready", **dict(zip(FIGURES, figures, strict=True))}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    print(json.dumps(in_virtual_time(_measure(int(sys.argv[1])))), flush=True)
