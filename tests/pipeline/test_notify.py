"""Notices: valid CloudEvents, at least once, with ids by which a receiver drops repeats."""

import json
from datetime import datetime

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from shared.messages.queues import MAX_BODY, NOTICES, RESULTS
from shared.pipeline.notify import notify
from shared.pipeline.parts import bodies
from tests.pipeline.fakes import Crash, Rig, device, device_id, rig


async def told_everything() -> Rig:
    """A world in which every usual notice was told."""
    world = rig(device(1), device(2, operating_system="iOS"))
    await world.ask(1, 2, devices=[{"serialNumber": f"SN{number}"} for number in (1, 2, 3)])
    await world.deliver()
    for _ in range(300):
        await world.tick(minutes=1)
    return world


async def test_every_notice_is_a_valid_cloud_event_in_json() -> None:
    world = await told_everything()
    assert set(world.told_types()) == {"request.accepted", "device.refused", "device.attention"}
    for body in world.queues.waiting(RESULTS):
        event = JSONFormat().read(CloudEvent, body)
        raw = json.loads(body)
        assert event.get_specversion() == raw["specversion"] == "1.0"
        assert all(isinstance(raw[name], str) and raw[name] for name in ("id", "source", "type", "subject", "time"))
        assert raw["type"].startswith("io.turnaround.")
        assert raw["datacontenttype"] == "application/json"
        assert datetime.fromisoformat(raw["time"]).utcoffset() is not None
        assert raw["time"][:19] == raw["data"]["at"][:19]
        assert raw["data"]["requestId"] == "R1"
        assert ("sequence" in raw) == ("device" in raw["data"])


async def test_notices_about_a_device_carry_the_order_in_which_they_happened() -> None:
    world = await told_everything()
    events = {f"{event.seq:06}": event for event in await world.history(1)}
    (called,) = [one for one in world.told() if one["type"].endswith("device.attention")]
    assert events[called["sequence"]].to_state == called["data"]["state"]


async def test_a_notice_about_a_device_says_which_why_and_what_to_do() -> None:
    world = await told_everything()
    (called,) = [one for one in world.told() if one["type"].endswith("device.attention")]
    assert called["data"]["device"]["intuneId"] == device_id(1)
    assert called["data"]["device"]["serialNumber"] == "SN1"
    assert called["data"]["state"] == "attention"
    assert called["data"]["remedy"]
    assert called["data"]["message"]


async def test_s12_notices_hold_nothing_about_the_user_of_the_device() -> None:
    world = await told_everything()
    user = world.intune.devices[device_id(1)].facts.managed.primary_user
    assert user
    assert not any(user in body for body in world.queues.waiting(RESULTS))


async def test_different_notices_have_different_ids() -> None:
    world = await told_everything()
    ids = [one["id"] for one in world.told()]
    assert len(ids) == len(set(ids)) == 4


async def test_a_message_delivered_again_after_a_failure_tells_the_same_with_the_same_ids() -> None:
    world = rig(device(1), device(2, operating_system="iOS"), device(3, operating_system="iOS"))
    await world.ask(1, 2, 3)
    (accepted, refused) = sorted(world.queues.waiting(NOTICES), key=len)
    real, left = world.queues.send, [1]

    async def fails_second(queue: str, body: str) -> None:
        if queue == RESULTS and not left:
            raise Crash("the process died")
        if queue == RESULTS:
            left.pop()
        await real(queue, body)

    world.queues.send = fails_second  # type: ignore[method-assign]  # the fault
    with pytest.raises(Crash):
        await notify(world.parts, refused)
    world.queues.send = real  # type: ignore[method-assign]  # the fault is over
    await notify(world.parts, refused)
    await notify(world.parts, accepted)
    told = world.told()
    assert len(told) == 4
    assert told[0] == told[1]
    assert world.told_types() == {"request.accepted": 1, "device.refused": 2}


async def test_a_notice_that_cannot_be_delivered_holds_up_no_other_and_repeats_none() -> None:
    world = rig(device(1), device(2, operating_system="iOS"))
    await world.ask(1, 2)
    (body, other) = sorted(world.queues.waiting(NOTICES), key=len)
    notices = json.loads(body)["notices"] + json.loads(other)["notices"]
    astray = notices[0] | {"id": "astray", "queue": "No_Queue"}
    await notify(world.parts, json.dumps({"notices": [astray, *notices]}))
    assert [one["id"] for one in world.told()] == [notice["id"] for notice in notices]
    (again,) = [one for one in world.queues.waiting(NOTICES) if one not in (body, other)]
    assert json.loads(again) == {"notices": [astray]}
    with pytest.raises(ExceptionGroup):
        await notify(world.parts, again)


async def test_where_what_could_not_be_delivered_cannot_be_put_back_the_whole_message_comes_again() -> None:
    world = rig(device(1))
    await world.ask(1)
    (accepted,) = world.queues.waiting(NOTICES)
    (notice,) = json.loads(accepted)["notices"]
    real = world.queues.send

    async def fails(queue: str, body: str) -> None:
        if queue == NOTICES:
            raise OSError("away")
        await real(queue, body)

    world.queues.send = fails  # type: ignore[method-assign]  # the fault
    with pytest.raises(OSError, match="away"):
        await notify(world.parts, json.dumps({"notices": [notice | {"id": "astray", "queue": "No_Queue"}, notice]}))
    assert [one["id"] for one in world.told()] == [notice["id"]]


async def test_however_many_notices_there_are_each_message_fits_a_queue() -> None:
    world = rig(*(device(number, operating_system="iOS") for number in range(1, 301)))
    await world.ask(*range(1, 301))
    assert len(world.queues.waiting(NOTICES)) < 40, "they share messages"
    await world.deliver()
    assert world.told_types() == {"request.accepted": 1, "device.refused": 300}


@pytest.mark.parametrize("size", [10, 1_000, 20_000, MAX_BODY - 40])
def test_packed_messages_keep_every_notice_and_their_order(size: int) -> None:
    items = [json.dumps({"n": number, "x": "x" * (size - 20)}) for number in range(30)]
    packed = bodies(NOTICES, items)
    assert [one["n"] for body in packed for one in json.loads(body)["notices"]] == list(range(30))
    assert max(len(body.encode()) for body in packed) <= MAX_BODY
