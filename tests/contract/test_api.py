"""The HTTP API: what it takes goes on the queue of requests, and nothing else; what it shows comes from the table."""

import json
from typing import Any

import httpx
import pytest

from shared.domain.reasons import Code
from shared.messages.queues import REQUESTS
from tests.pipeline.fakes import Rig, asking, device, device_id, rig
from web.api import create


def api(world: Rig) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create(world.store, world.queues))
    return httpx.AsyncClient(transport=transport, base_url="http://front")


async def post(world: Rig, path: str, body: dict[str, Any]) -> httpx.Response:  # Any: JSON
    async with api(world) as client:
        return await client.post(f"/api/v1/{path}", json=body)


async def get(world: Rig, path: str) -> Any:  # Any: JSON
    async with api(world) as client:
        return (await client.get(f"/api/v1/{path}")).json()


WHO = {"by": "ann@contoso.example", "why": "a burst"}


async def test_s6_a_halt_through_the_api_stops_every_send_and_shows_who_and_why() -> None:
    world = rig(device(1))
    assert await get(world, "halt") is None
    assert (await post(world, "halt", WHO)).status_code == 202
    await world.deliver()
    await world.trigger(1)
    assert world.intune.wiped() == {}
    assert {key: (await get(world, "halt"))[key] for key in WHO} == WHO
    assert (await get(world, "requests/R1"))["halt"]["why"] == "a burst"


async def test_a_request_is_cancelled_through_the_api() -> None:
    world = rig(device(1), device(2))
    await world.ask(1, 2)
    answer = await post(world, "requests/R1/cancel", {**WHO, "intuneId": device_id(1)})
    assert answer.status_code == 202
    await world.deliver()
    assert world.intune.wiped() == {device_id(2): 1}


@pytest.mark.parametrize("body", [{}, {"by": "ann"}, {**WHO, "command": "resume"}, {"by": "a\u200bnn", "why": "x"}])
async def test_a_stop_that_is_not_whole_is_refused_and_puts_nothing_on_a_queue(body: dict[str, str]) -> None:
    world = rig()
    for path in ("halt", "requests/R1/cancel"):
        assert (await post(world, path, body)).status_code == 422
    assert world.queues.waiting(REQUESTS) == []


@pytest.mark.parametrize("command", ["approve", "decline", "resume", "retry"])
async def test_s10_what_the_front_may_put_on_its_queue_approves_resumes_and_retries_nothing(command: str) -> None:
    world = rig(device(1), device(2), device(3))
    world.with_policy(approval_above=2, approvers=["*"])
    await world.trigger(1, 2, 3)
    digest = (await get(world, "requests/R1"))["terms"]["digest"]
    body = {"command": command, **WHO}
    body |= {"requestId": "R1"} if command != "resume" else {}
    body |= {"digest": digest} if command in ("approve", "decline") else {}
    await world.queues.send(REQUESTS, json.dumps(body))
    await world.deliver()
    assert world.intune.wiped() == {}
    assert world.told()[-1]["data"]["code"] == Code.MALFORMED


async def test_a_request_shows_the_approval_that_it_waits_for_and_its_waves() -> None:
    world = rig(*(device(number) for number in range(1, 8)))
    world.with_policy(approval_above=2, approvers=["*"], wave_above=3, wave_first=2, wave_growth=2)
    await world.queues.send(REQUESTS, asking(*range(1, 8)))
    await world.deliver()
    terms = (await get(world, "requests/R1"))["terms"]
    assert (terms["devices"], terms["waves"], terms["wave"], terms["approvedBy"]) == (7, [2, 4, 1], 1, None)
    assert "7 devices" in terms["needsApproval"]
