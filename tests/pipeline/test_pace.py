"""Calls to Graph are booked by all instances together, and a throttled one slows all of them down."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta

import pytest

from shared.domain.devices import ManagedDevice, Sighting
from shared.domain.guardrails import Budget
from shared.domain.ids import ManagedDeviceId, OrderId
from shared.domain.lifecycle import RETRY_THROTTLED
from shared.domain.orders import Answer, AnswerKind, Order
from shared.pipeline.pace import Paced, await_turn, slow_down
from shared.pipeline.ports import GraphThrottled
from tests.pipeline.fakes import FakeIntune, Rig, device, device_id, rig


async def waited(world: Rig, calls: int, budget: Budget) -> timedelta:
    before = world.clock()
    await await_turn(world.parts, calls, budget)
    return world.clock() - before


async def test_a_throttled_write_makes_every_instances_writes_wait_as_long_as_graph_asks() -> None:
    world = rig(device(1))
    world.intune.sync_answer = Answer(AnswerKind.THROTTLED, retry_after=timedelta(seconds=90))
    await Paced(world.intune, world.parts).sync([Order(device_id(1), OrderId("order"))])
    assert await waited(world, 1, Budget.WRITES) >= timedelta(seconds=89)


@pytest.mark.parametrize("send", [Paced.reset, Paced.wipe], ids=["reset", "wipe"])
async def test_a_throttled_reset_or_wipe_does_so_too(
    send: Callable[[Paced, Sequence[Order]], Awaitable[Mapping[ManagedDeviceId, Answer]]],
) -> None:
    world = rig(device(1))
    world.intune.script[device_id(1)].append(Answer(AnswerKind.THROTTLED, retry_after=timedelta(seconds=90)))
    answers = await send(Paced(world.intune, world.parts), [Order(device_id(1), OrderId("order"))])
    assert answers[device_id(1)].kind is AnswerKind.THROTTLED
    assert await waited(world, 1, Budget.WRITES) >= timedelta(seconds=89)


async def test_a_throttled_read_makes_reads_wait_and_leaves_writes_alone() -> None:
    world = rig(device(1))

    class Throttling(FakeIntune):
        async def look(self, devices: Sequence[ManagedDeviceId]) -> Mapping[ManagedDeviceId, Sighting]:
            raise GraphThrottled("slow down", None)

    with pytest.raises(GraphThrottled):
        await Paced(Throttling(world.clock), world.parts).look([device_id(1)])
    assert await waited(world, 1, Budget.WRITES) < timedelta(seconds=1)
    assert await waited(world, 1, Budget.READS) >= RETRY_THROTTLED - timedelta(seconds=1)


async def test_a_throttled_read_right_before_an_order_makes_orders_wait_too() -> None:
    world = rig(device(1))

    class Throttling(FakeIntune):
        async def managed(self, devices: Sequence[ManagedDeviceId]) -> Mapping[ManagedDeviceId, ManagedDevice | None]:
            raise GraphThrottled("slow down", timedelta(seconds=90))

    with pytest.raises(GraphThrottled):
        await Paced(Throttling(world.clock), world.parts).managed([device_id(1)])
    for budget in Budget:
        assert await waited(world, 1, budget) >= timedelta(seconds=89)
        world.clock.now -= timedelta(seconds=90)


async def test_slowing_down_never_shortens_a_wait_that_is_longer() -> None:
    world = rig()
    await slow_down(world.parts, timedelta(minutes=5), Budget.WRITES)
    await slow_down(world.parts, timedelta(seconds=10), Budget.WRITES)
    assert await waited(world, 1, Budget.WRITES) > timedelta(minutes=4)
