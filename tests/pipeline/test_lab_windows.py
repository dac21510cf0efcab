"""Lab windows: each opening happens once, also after a missed or doubled tick."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from shared.domain.ids import RequestId
from shared.domain.reset import EventKind
from shared.domain.windows import Windows
from shared.messages.queues import REQUESTS
from shared.pipeline.intake import intake
from shared.pipeline.status import request_status
from shared.pipeline.windows import windows
from shared.state.table import Conflict
from tests.pipeline.fakes import Crash, Rig, device, device_id, rig

EVENING = {"name": "lab-3", "cron": "0 18 * * *", "open_for": "PT2H", "ready_by": "PT13H", "group_tag": "LAB"}
OPENING = "window:lab-3:20261121T1800Z"


def plan(*entries: Mapping[str, object]) -> Windows:
    return Windows.model_validate({"window": entries or (EVENING,)})


def at(hour: int, minute: int = 0, *devices: int, day: int = 21) -> Rig:
    world = rig(*(device(number) for number in devices or (1, 2)))
    world.clock.now = datetime(2026, 11, day, hour, minute, tzinfo=UTC)
    return world


def opened(world: Rig) -> list[str]:
    return [json.loads(body)["requestId"] for body in world.queues.waiting(REQUESTS)]


async def test_a_window_opens_at_its_time_and_its_devices_are_reset() -> None:
    world = at(17, 59)
    await windows(world.parts, plan())
    assert opened(world) == []
    world.clock.forward(minutes=1)
    await windows(world.parts, plan())
    assert opened(world) == [OPENING]
    await world.deliver()
    assert world.intune.wiped() == {device_id(1): 1, device_id(2): 1}
    reset = await world.reset(1)
    assert (reset.request, reset.requester) == (OPENING, "lab timetable")
    assert reset.ready_by == datetime(2026, 11, 22, 7, tzinfo=UTC)
    kinds = [event.kind async for event in world.store.history(f"request:{OPENING}")]
    assert EventKind.WINDOW_OPENED in kinds


async def test_a_doubled_tick_opens_it_once() -> None:
    world = at(18)
    for _ in range(5):
        await windows(world.parts, plan())
        await world.deliver()
        world.clock.forward(minutes=20)
    status = await request_status(world.store, RequestId(OPENING))
    assert status is not None
    assert world.told_types() == {"request.accepted": 1}
    assert world.intune.wiped() == {device_id(1): 1, device_id(2): 1}


async def test_ticks_in_several_instances_at_once_open_it_once() -> None:
    world = at(18)
    await asyncio.gather(*(windows(world.other_instance(), plan()) for _ in range(5)))
    assert opened(world) == [OPENING]


async def test_a_missed_tick_is_made_good_while_the_window_is_open() -> None:
    world = at(19, 59)
    await windows(world.parts, plan())
    assert opened(world) == [OPENING]


async def test_a_window_that_has_closed_is_not_opened() -> None:
    world = at(20, 1)
    await windows(world.parts, plan())
    assert opened(world) == []


async def test_it_opens_anew_the_next_day() -> None:
    world = at(18)
    for _ in range(3):
        await windows(world.parts, plan())
        world.clock.forward(days=1)
    assert sorted(opened(world)) == [f"window:lab-3:202611{day}T1800Z" for day in (21, 22, 23)]


async def test_a_window_that_stays_open_for_longer_than_history_is_kept_opens_once() -> None:
    world = at(18)
    world.with_policy(retention="P30D")
    year = plan(EVENING | {"cron": "0 18 21 11 *", "open_for": "P300D"})
    for _ in range(40):
        await windows(world.parts, year)
        await world.forget()
        world.clock.forward(days=1)
    assert opened(world) == [OPENING]


async def test_a_conflict_that_was_none_does_not_leave_it_shut() -> None:
    world = at(18)
    world.fail(1, took_effect=False, error=Conflict("0: nobody knows why"))
    await windows(world.parts, plan())
    assert opened(world) == [OPENING]


@pytest.mark.parametrize("took_effect", [False, True])
async def test_a_crash_while_it_opens_does_not_lose_or_double_it(took_effect: bool) -> None:
    for commit in (1, 2):
        world = at(18)
        world.fail(commit, took_effect=took_effect)
        with pytest.raises(Crash):
            await windows(world.parts, plan())
        world.heal()
        await windows(world.parts, plan())
        await world.tick(minutes=2)
        await world.tick(minutes=2)
        assert world.intune.wiped() == {device_id(1): 1, device_id(2): 1}
        assert world.told_types() == {"request.accepted": 1}


async def test_a_window_with_thousands_of_devices_opens() -> None:
    serials = [{"serialNumber": f"SN{number}"} for number in range(1, 1501)]
    window = {key: value for key, value in EVENING.items() if key != "group_tag"} | {"devices": serials}
    world = at(18, 0, *range(1, 1501))
    await windows(world.parts, plan(window))
    for message in await world.queues.receive(REQUESTS):
        await intake(world.parts, message.body)
        await world.queues.delete(REQUESTS, message)
    assert len(world.table.keys("reset|")) == 1500


async def test_one_window_that_cannot_be_opened_keeps_no_other_shut() -> None:
    world = at(18)
    other = EVENING | {"name": "lab-4"}
    world.fail(1, took_effect=False, error=OSError("storage"))
    with pytest.raises(ExceptionGroup):
        await windows(world.parts, plan(EVENING, other))
    assert opened(world) == ["window:lab-4:20261121T1800Z"]


async def test_devices_already_in_flight_are_told_so_and_the_others_go() -> None:
    world = at(17)
    await world.trigger(1)
    world.clock.forward(hours=1)
    await windows(world.parts, plan())
    await world.deliver()
    assert world.intune.wiped() == {device_id(1): 1, device_id(2): 1}
    assert world.told_types()["device.refused"] == 1
