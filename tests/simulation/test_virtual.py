"""The harness itself: time jumps, functions run as the host runs them, and one seed is one run."""

import asyncio
import json
from collections.abc import Mapping
from datetime import timedelta

import pytest

from sandbox.memory import LeaseLostError, MemoryQueues
from sandbox.scenario import Scenario
from sandbox.tenant.devices import Json
from sandbox.virtual.loop import StandstillError, VirtualLoop, run
from sandbox.virtual.world import World
from shared.domain.reset import EventKind
from shared.domain.states import State
from shared.messages.queues import DISPATCH
from shared.state.table import Scalar

DEVICES: list[Json] = [
    {"count": 3, "group_tag": "LAB", "expect": "ready"},
    {"first": 4, "group_tag": "LAB", "failure": "winre_disabled", "expect": "failed"},
]


def scenario(**tables: object) -> Scenario:
    request = {"requestId": "R1", "requester": "desk", "reason": "TICKET-1", "devices": [{"groupTag": "LAB"}]}
    noisy = {"p429": 0.05, "p503": 0.03, "lost_answer": 0.02}
    plan: Json = {
        "scenario": {"name": "virtual"},
        "tenant": {"quirks": noisy},
        "devices": DEVICES,
        "requests": [{"body": request}],
    }
    return Scenario.model_validate(plan | tables)


async def test_time_passes_only_while_everybody_sleeps() -> None:
    async def sleepers() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        await asyncio.gather(*(asyncio.sleep(day * 86_400) for day in range(30)))
        return loop.time()

    assert await asyncio.to_thread(run, sleepers()) == pytest.approx(29 * 86_400)


def test_a_world_in_which_nothing_can_happen_any_more_says_so() -> None:
    async def waits() -> None:
        await asyncio.Event().wait()

    with pytest.raises(StandstillError):
        run(waits())


def test_a_thread_is_refused_as_time_would_run_ahead_of_it() -> None:
    async def starts_a_thread() -> None:
        await asyncio.to_thread(print)

    with pytest.raises(RuntimeError, match="in a thread"):
        run(starts_a_thread())


def outcome(seed: int) -> tuple[Mapping[str, Mapping[str, Scalar]], list[Json]]:
    """Every row at the end, and every notice in its order."""

    async def play() -> tuple[Mapping[str, Mapping[str, Scalar]], list[Json]]:
        async with World.open(scenario(), seed) as world:
            await world.play()
            return world.table.contents(), [told.notice for told in world.notices()]

    return run(play())


def test_one_seed_is_one_run() -> None:
    assert outcome(7) == outcome(7)
    assert outcome(7) != outcome(8)


def test_a_turnover_is_played_to_its_end_and_everything_of_it_can_be_seen() -> None:
    async def play() -> None:
        async with World.open(scenario(tenant={}), 1) as world:
            await world.play()
            status = (await world.statuses())["R1"]
            assert status is not None
            assert status.ended
            assert status.counts == {"ready": 3, "failed": 1}
            assert sum(moment.state is State.READY for moment in world.moments) == 3
            assert {told.type for told in world.notices()} == {"request.accepted", "device.ready", "device.failed"}
            assert [truth["resets_taken"] for truth in world.truth()] == [1, 1, 1, 0]
            assert world.graph_calls()["requests"]
            assert world.calls["table commit"]

    run(play())


def test_a_lab_window_opens_by_its_timer() -> None:
    window = {"name": "evening", "opens_after": "PT30M", "group_tag": "LAB", "ready_by": "PT8H"}

    async def play() -> None:
        async with World.open(scenario(requests=[], windows=[window], tenant={}), 1) as world:
            await asyncio.sleep(timedelta(hours=3).total_seconds())
            (name,) = world.windows()
            status = (await world.statuses())[name]
            assert status is not None
            assert status.counts == {"ready": 3, "failed": 1}

    run(play())


def test_a_function_that_fails_gets_its_message_again_until_it_is_set_aside() -> None:
    async def play() -> None:
        async with World.open(scenario(requests=[]), 1) as world:
            await world.queues.send(DISPATCH, "no JSON")
            await asyncio.sleep(600)
            (instance,) = world.instances
            assert len(instance.failures) == 5
            (poisoned,) = [event for event in await world.history() if event.kind is EventKind.POISONED]
            assert poisoned.at - world.start >= 4 * timedelta(seconds=30)
            assert [told.type for told in world.notices()] == ["message.poisoned"]
            assert world.queues.waiting(DISPATCH) == []

    run(play())


def test_what_an_instance_leaves_behind_another_takes_up() -> None:
    async def play() -> None:
        async with World.open(scenario(tenant={}), 1) as world:
            await world.send(world.scenario.requests[0])
            await asyncio.sleep(timedelta(minutes=20).total_seconds())
            await world.instances[0].stop()
            await asyncio.sleep(timedelta(minutes=20).total_seconds())
            await world.add_instance()
            assert await world.until(world.now() + timedelta(hours=6))
            status = (await world.statuses())["R1"]
            assert status is not None
            assert status.counts == {"ready": 3, "failed": 1}

    run(play())


async def test_a_message_is_hidden_for_as_long_as_its_receiver_says() -> None:
    queues = MemoryQueues()
    await queues.send("jobs", json.dumps({}))
    (message,) = await queues.receive("jobs", lease=timedelta(minutes=10))
    longer = await queues.hide("jobs", message, timedelta(hours=1))
    assert await queues.receive("jobs") == []
    with pytest.raises(LeaseLostError):
        await queues.delete("jobs", message)
    await queues.hide("jobs", longer, timedelta())
    (again,) = await queues.receive("jobs")
    assert again.dequeue_count == 2
