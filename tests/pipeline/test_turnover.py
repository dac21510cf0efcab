"""A whole turnover: from the request to the notice that the device is ready, through every stage."""

import json
from collections import Counter

from shared.domain.ids import RequestId
from shared.domain.reset import EventKind
from shared.domain.states import State
from shared.messages.queues import REQUESTS, RESULTS
from shared.pipeline.status import request_status
from tests.pipeline.fakes import Lost, Rig, asking, device, device_id, rig


async def run(world: Rig, *numbers: int, minutes: int = 120) -> None:
    """Minute by minute: each device takes its reset 3 minutes after it was told and comes back 35 minutes later."""
    for _ in range(minutes):
        for number in numbers:
            tenant = world.intune.devices[device_id(number)]
            if not tenant.wipes:
                continue
            since = (world.clock.now - tenant.wipes[-1]).total_seconds() / 60
            if 3 <= since < 4:
                world.intune.take(tenant.id)
            elif 38 <= since < 39:
                world.intune.come_back(tenant.id)
            elif 42 <= since < 43:
                world.intune.check_in(tenant.id)
        await world.tick(minutes=1)


async def test_a_request_becomes_a_ready_device_and_every_step_is_in_its_history() -> None:
    world = rig(device(1))
    await world.queues.send(REQUESTS, asking(1))
    await world.deliver()
    await run(world, 1)
    assert await world.state(1) is State.READY
    assert world.intune.wiped() == {device_id(1): 1}
    events = await world.history(1)
    moved = [(event.from_state, event.to_state) for event in events if event.kind is EventKind.MOVED]
    assert moved == [
        (State.RECEIVED, State.CLEARED),
        (State.CLEARED, State.SENDING),
        (State.SENDING, State.TRIGGERED),
        (State.TRIGGERED, State.RESETTING),
        (State.RESETTING, State.SETTLING),
        (State.SETTLING, State.READY),
    ]
    assert [event.seq for event in events] == list(range(len(events)))
    assert {"takenBy", "returnedAt", "primaryUserGone"} <= set(events[-1].evidence)
    told = [json.loads(body) for body in world.queues.waiting(RESULTS)]
    assert [one["type"] for one in told] == ["io.turnaround.request.accepted", "io.turnaround.device.ready"]
    assert told[1]["data"]["evidence"] == dict(events[-1].evidence)
    for left in ("reset|", "due|", "deliver|"):
        assert world.table.keys(left) == []


async def test_a_room_full_of_devices_is_turned_over_whatever_becomes_of_each() -> None:
    numbers = range(1, 41)
    world = rig(*(device(number) for number in numbers), device(41, operating_system="macOS"))
    world.intune.script[device_id(5)].append(Lost(arrived=True))
    world.intune.script[device_id(6)].append(Lost(arrived=False))
    body = asking(devices=[{"serialNumber": f"SN{number}"} for number in range(1, 43)])
    await world.queues.send(REQUESTS, body)
    await world.queues.send(REQUESTS, body)
    await world.deliver()
    await run(world, *range(1, 40), minutes=400)
    status = await request_status(world.store, RequestId("R1"))
    assert status is not None
    assert status.counts == {State.READY: 39, State.ATTENTION: 1, State.REFUSED: 2}
    assert world.intune.wiped() == {device_id(number): 1 for number in numbers}
    assert world.told_types() == Counter(
        {"request.accepted": 1, "device.refused": 2, "device.ready": 39, "device.attention": 1}
    )
    await world.queues.send(REQUESTS, asking(1, request="R2"))
    await world.deliver()
    await run(world, 1)
    assert await world.state(1, "R2") is State.READY
    assert world.intune.wiped()[device_id(1)] == 2, "a new request is a new turnaround"
