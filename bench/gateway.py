"""Gateway calls a second, beside plain httpx posting the same bytes to the same tenant."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import batched

import httpx

from bench.measure import TOKEN, Cell, Table, UnsoundError, connect, median, tenant
from shared.domain.ids import ManagedDeviceId, OrderId
from shared.graph.credential import StaticTokenCredential
from shared.graph.endpoint import GraphEndpoint
from shared.graph.gateway import BATCH, GraphIntune
from shared.pipeline.ports import AnswerKind, Order

ROUNDS = 9
CALLS = 10
"""Calls of each kind in a round, one after the other."""
DEVICES = 2 * ROUNDS * CALLS * BATCH

type Ids = tuple[ManagedDeviceId, ...]
type Ask = Callable[[GraphIntune, Ids], Awaitable[int]]
"""Makes one gateway call, and gives how many of its devices were answered as they should be."""


async def _look(intune: GraphIntune, ids: Ids) -> int:
    return sum(sighting.exists for sighting in (await intune.look(ids)).values())


def _orders(ids: Ids) -> list[Order]:
    return [Order(device, OrderId(f"order-{device}")) for device in ids]


async def _sync(intune: GraphIntune, ids: Ids) -> int:
    return sum(a.kind is AnswerKind.ACCEPTED for a in (await intune.sync(_orders(ids))).values())


async def _reset(intune: GraphIntune, ids: Ids) -> int:
    return sum(a.kind is AnswerKind.ACCEPTED for a in (await intune.reset(_orders(ids))).values())


CALLED: dict[str, tuple[Ask, int]] = {"look": (_look, 200), "sync": (_sync, 204), "reset": (_reset, 204)}
"""Each call, and the status with which the tenant answers every item of it."""


def run() -> Table:
    """Calls of 20 devices each, one at a time."""
    with tenant(DEVICES) as url:
        return asyncio.run(_run(url))


async def _run(url: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    async with await connect(url) as intune:
        since = datetime.now(UTC) - timedelta(days=400)
        ids = [check_in.device async for check_in in intune.changed_since(since)]
        groups = list(batched(ids, BATCH, strict=True))
        half = len(groups) // 2
        for name, (ask, status) in CALLED.items():
            bodies = [await _bytes(url, ask, group) for group in groups[half:]]
            figures = await _side_by_side(url, intune, ask, groups[:half], bodies, status)
            rows.append((f"{name}, {BATCH} devices", *figures))
    columns = (
        *("Call", "gateway, calls/s", "plain httpx, calls/s", "ratio"),
        *("gateway, CPU ms/call", "plain, CPU ms/call", "gateway, CPU us/device"),
    )
    return Table(columns, tuple(rows))


async def _side_by_side(
    url: str, intune: GraphIntune, ask: Ask, groups: Sequence[Ids], bodies: Sequence[bytes], status: int
) -> tuple[float, ...]:
    """Rates and CPU a call, gateway and plain in turns, each of its own devices; the first round only warms up."""
    rates: dict[str, list[float]] = {"gateway": [], "plain": []}
    cpu: dict[str, list[float]] = {"gateway": [], "plain": []}
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", "Accept": "application/json"}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as client:

        async def gateway(n: int) -> None:
            if await ask(intune, groups[n]) != BATCH:
                raise UnsoundError("the tenant did not answer every device as it should")

        async def plain(n: int) -> None:
            answer = await client.post(f"{url}/v1.0/$batch", content=bodies[n])
            answers.append(answer.raise_for_status().content)

        answers: list[bytes] = []
        for start in range(0, ROUNDS * CALLS, CALLS):
            for name, call in (("gateway", gateway), ("plain", plain)):
                began, busy = time.perf_counter(), time.process_time()
                for n in range(start, start + CALLS):
                    await call(n)
                if start:
                    rates[name].append(CALLS / (time.perf_counter() - began))
                    cpu[name].append((time.process_time() - busy) / CALLS * 1000)
    if any(item["status"] != status for answer in answers for item in json.loads(answer)["responses"]):
        raise UnsoundError("the tenant did not take the plain posts")
    ratio = median([ours / theirs for ours, theirs in zip(rates["gateway"], rates["plain"], strict=True)])
    own = median(cpu["gateway"])
    return (
        median(rates["gateway"]),
        median(rates["plain"]),
        ratio,
        own,
        median(cpu["plain"]),
        median([own / BATCH * 1000]),
    )


async def _bytes(url: str, ask: Ask, ids: Ids) -> bytes:
    """The body that the gateway posts for a call, which reaches no tenant."""
    seen: list[bytes] = []

    def keep(request: httpx.Request) -> httpx.Response:
        seen.append(request.content)
        items = json.loads(request.content)["requests"]
        absent = [{"id": item["id"], "status": 404, "body": {"error": {}}} for item in items]
        return httpx.Response(200, json={"responses": absent})

    transport = httpx.MockTransport(keep)
    endpoint, credential = GraphEndpoint.parse(url), StaticTokenCredential(TOKEN)
    async with await GraphIntune.create(endpoint, credential, transport=transport) as unsent:
        await ask(unsent, ids)
    return seen[0]
