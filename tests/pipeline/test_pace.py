"""Calls to Graph are booked by all instances together, and a throttled one slows all of them down."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta

import pytest

from shared.domain.devices import Sighting
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


async def test_asking_for_decisions_of_administrators_books_reads_for_the_list_and_for_each_code() -> None:
    asking, waiting = rig(), rig()
    await Paced(asking.intune, asking.parts).admin_decisions([f"code-{n}" for n in range(20)])
    await await_turn(waiting.parts, 21, Budget.READS)
    assert await booked(asking) == await booked(waiting) == 21


async def test_a_throttled_read_makes_reads_wait_and_leaves_writes_alone() -> None:
    world = rig(device(1))

    class Throttling(FakeIntune):
        async def look(self, devices: Sequence[ManagedDeviceId]) -> Mapping[ManagedDeviceId, Sighting]:
            raise GraphThrottled("slow down", None)

    with pytest.raises(GraphThrottled):
        await Paced(Throttling(world.clock), world.parts).look([device_id(1)])
    assert await waited(world, 1, Budget.WRITES) < timedelta(seconds=1)
    assert await waited(world, 1, Budget.READS) >= RETRY_THROTTLED - timedelta(seconds=1)


async def booked(world: Rig) -> int:
    """How many reads are booked."""
    pace = await world.store.pace(Budget.READS)
    return 0 if pace is None else sum(one.calls for one in pace.record.booked)


async def test_questions_about_groups_are_booked_as_reads_and_none_where_nothing_is_asked() -> None:
    world = rig(device(1), device(2))
    facts = [one.facts for one in world.intune.devices.values()]
    paced = Paced(world.intune, world.parts)
    assert await paced.memberships(facts, frozenset()) == dict.fromkeys(world.intune.devices, frozenset())
    assert await paced.memberships([], frozenset({"g"})) == {}
    assert await booked(world) == 0
    await paced.memberships(facts, frozenset(f"g{n}" for n in range(21)))
    # Each group is read; each device, and the one user of both, is asked about in two calls of at most 20 groups.
    assert await booked(world) == 21 + (2 + 1) * 2


async def test_the_fleets_size_is_booked_as_one_read() -> None:
    world = rig()
    assert await Paced(world.intune, world.parts).fleet_size() == world.intune.fleet
    assert await booked(world) == 1


async def test_slowing_down_never_shortens_a_wait_that_is_longer() -> None:
    world = rig()
    await slow_down(world.parts, timedelta(minutes=5), Budget.WRITES)
    await slow_down(world.parts, timedelta(seconds=10), Budget.WRITES)
    assert await waited(world, 1, Budget.WRITES) > timedelta(minutes=4)


async def test_a_long_read_books_its_pages_as_they_come() -> None:
    world = rig(*(device(number) for number in range(1, 4)))
    paced = Paced(world.intune, world.parts)
    assert [found async for found in paced.changed_since(world.clock() - timedelta(days=1))]
    assert await world.parts.store.pace(Budget.READS) is not None
