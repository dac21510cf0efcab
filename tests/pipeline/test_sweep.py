"""The sweep: what nobody else does is done in the end; nothing waits for ever and nothing is silent."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from shared.domain.guardrails import Budget
from shared.domain.ids import RequestId
from shared.domain.reasons import Code
from shared.domain.reset import Event, EventKind
from shared.domain.states import State
from shared.domain.windows import Windows
from shared.messages.queues import DISPATCH, NOTICES
from shared.pipeline.control import control
from shared.pipeline.poll import poll
from shared.pipeline.ports import Intune
from shared.pipeline.sweep import sweep
from shared.pipeline.sync import sync
from shared.pipeline.windows import windows
from shared.state import rows
from shared.state.rows import OutboxRecord
from tests.pipeline.fakes import START, Crash, Lost, Rig, device, device_id, rig


async def attention(world: Rig) -> list[str]:
    return [one["data"]["code"] for one in world.told() if one["type"].endswith("device.attention")]


async def pass_by(world: Rig, hours: float, step_minutes: float = 30) -> None:
    for _ in range(round(hours * 60 / step_minutes)):
        await world.tick(minutes=step_minutes)


async def test_a_dispatch_message_that_was_lost_is_sent_again() -> None:
    world = rig(device(1))
    await world.ask(1)
    for lost in await world.queues.receive(DISPATCH):
        await world.queues.delete(DISPATCH, lost)
    await world.tick(minutes=4)
    assert world.intune.wiped() == {}
    await world.tick(minutes=2)
    assert world.intune.wiped() == {device_id(1): 1}


async def test_a_device_whose_turn_never_comes_is_called_for() -> None:
    world = rig(device(1))
    await world.ask(1)
    for _ in range(13):
        world.clock.forward(minutes=5)
        await sweep(world.parts)
        for lost in await world.queues.receive(DISPATCH):
            await world.queues.delete(DISPATCH, lost)
    await world.deliver()
    assert await world.state(1) is State.ATTENTION
    assert await attention(world) == [Code.NOT_SENT_IN_TIME]


async def test_a_reset_that_runs_for_too_long_is_called_for_and_late_proof_still_makes_it_ready() -> None:
    world = rig(device(1))
    await world.trigger(1)
    world.clock.forward(minutes=3)
    world.intune.take(device_id(1))
    await poll(world.parts)
    await pass_by(world, 4)
    assert await world.state(1) is State.ATTENTION
    assert await attention(world) == [Code.RESET_TOO_LONG]
    world.intune.come_back(device_id(1))
    await world.tick(minutes=1)
    world.intune.check_in(device_id(1))
    await world.tick(minutes=1)
    assert await world.state(1) is State.READY
    assert world.told_types()["device.ready"] == 1


async def test_a_device_that_nobody_helps_fails_in_the_end_and_makes_room() -> None:
    world = rig(device(1))
    await world.trigger(1)
    await pass_by(world, 24, 60)
    assert await world.state(1) is State.ATTENTION
    await pass_by(world, 14 * 24 + 1, 12 * 60)
    assert await world.state(1) is State.FAILED
    assert world.told_types()["device.failed"] == 1
    assert world.table.keys("reset|") == world.table.keys("due|") == []


async def test_a_device_that_is_not_ready_when_it_is_needed_is_told_late_once() -> None:
    world = rig(device(1))
    needed = world.clock.now + timedelta(hours=2)
    await world.trigger(1, readyBy=needed.isoformat())
    await pass_by(world, 6, 15)
    assert world.told_types()["device.late"] == 1


async def test_somebody_is_called_only_after_a_last_look() -> None:
    world = rig(device(1))
    world.with_policy(sync_attempts=1)
    await world.trigger(1)
    world.clock.forward(minutes=3)
    world.intune.take(device_id(1))
    await poll(world.parts)
    while (reset := await world.reset(1)).next_step is not None:
        world.clock.forward(minutes=1)
        await sync(world.parts)
    assert reset.state is State.RESETTING, "all syncs are used up; only the deadline is left"
    world.intune.come_back(device_id(1))
    world.clock.now = reset.deadline
    await sweep(world.parts)
    await world.deliver()
    assert await world.state(1) is State.SETTLING
    assert await attention(world) == []


async def test_a_minute_without_anything_to_do_costs_three_calls_to_the_table_and_none_to_graph() -> None:
    world = rig(device(1), device(2, operating_system="iOS"))
    await world.trigger(1, 2)
    await world.turn_around(1)
    await pass_by(world, 2)
    assert await world.state(1) is State.READY

    async def no_graph() -> Intune:
        raise AssertionError("Graph was asked")

    parts, before = replace(world.parts, intune=no_graph), world.faulty.calls
    await windows(parts, Windows())
    for timer in (poll, sync, sweep):
        await timer(parts)
    assert world.faulty.calls - before == 3


def test_what_a_sweep_goes_by_lies_together_in_the_table() -> None:
    event = Event(kind=EventKind.HALTED, at=START, who="test")
    about, request = device_id(1), RequestId("R1")
    wanted = [rows.HALT, rows.QUIET, rows.RETENTION, rows.due_key(START, about)]
    wanted.append(rows.outbox_key(START, OutboxRecord("queue", "item")))
    others = [rows.reset_key(about), rows.request_key(request), rows.part_key(request, 1), rows.event_key(event)]
    others += [rows.closed_key(request, about), rows.ORDERS, rows.pace_key(Budget.READS), rows.approval_key(request)]
    others += [rows.sent_key(START, [about]), rows.ended_key(START, about), rows.window_key(request)]
    assert [key for key in others if min(wanted) <= key <= max(wanted)] == []
    assert max(wanted) == rows.due_key(START, about), "so that the look ends with what is due now"


async def test_what_was_committed_but_not_handed_out_goes_out_later_with_the_same_ids() -> None:
    world = rig(device(1, operating_system="iOS"), device(2))
    queues = world.queues
    real = queues.send

    async def dies(queue: str, body: str) -> None:
        raise Crash("the process died before it could send")

    queues.send = dies  # type: ignore[method-assign]  # the fault
    for _ in range(3):
        with pytest.raises(Crash):
            await world.ask(1, 2)
    queues.send = real  # type: ignore[method-assign]  # the fault is over
    promised = {
        json.loads(json.loads(str(row["doc"]))["item"])["id"]
        for key, row in world.table.contents("deliver|").items()
        if "reset-notices" in key
    }
    assert promised
    assert queues.waiting(NOTICES) == []
    await world.tick(seconds=20)
    assert queues.names() == [], "it may still be on its way: it is left alone for half a minute"
    await world.tick(minutes=3)
    assert promised <= {one["id"] for one in world.told()}
    assert world.told_types() == {"request.accepted": 1, "device.refused": 1}
    assert world.intune.wiped() == {device_id(2): 1}
    assert world.table.keys("deliver|") == []


@pytest.mark.parametrize("took_effect", [False, True])
async def test_a_crash_at_any_commit_of_the_sweep_loses_nothing(took_effect: bool) -> None:
    for commit in range(1, 9):
        world = rig(device(1), device(2), device(3))
        world.intune.down = {"find"}
        await world.ask(2, request="R2")
        world.intune.down.clear()
        world.intune.script[device_id(1)].append(Lost(arrived=True))
        await world.trigger(1)
        await world.ask(3, request="R3", notBefore=(world.clock.now + timedelta(minutes=5)).isoformat())
        world.clock.forward(minutes=6)
        world.fail(commit, took_effect=took_effect)
        try:
            await sweep(world.parts)
        except Crash:
            world.heal()
        world.heal()
        for _ in range(15):
            await world.tick(minutes=1)
        assert world.intune.wiped() == {device_id(number): 1 for number in (1, 2, 3)}, f"commit {commit}"
        assert world.told_types() == {"request.accepted": 3}


async def test_sweeps_at_once_do_everything_once() -> None:
    world = rig(device(1), device(2))
    world.intune.script[device_id(1)].append(Lost(arrived=False))
    await world.trigger(1, 2)
    world.clock.forward(minutes=6)
    await asyncio.gather(*(sweep(world.other_instance()) for _ in range(4)))
    await world.deliver()
    assert world.intune.wiped() == {device_id(1): 1, device_id(2): 1}


async def test_a_failing_device_keeps_neither_the_others_nor_the_requests_waiting() -> None:
    world = rig(*(device(number) for number in range(1, 60)))
    await world.ask(*range(1, 41))
    for lost in await world.queues.receive(DISPATCH):
        await world.queues.delete(DISPATCH, lost)
    world.intune.down = {"find"}
    await world.ask(50, request="R2")
    world.intune.down.clear()
    world.clock.forward(minutes=6)
    world.fail(1, took_effect=False, error=OSError("storage"))
    with pytest.raises(ExceptionGroup):
        await sweep(world.parts)
    world.heal()
    await world.deliver()
    assert len(world.intune.wiped()) == 21, "twenty devices and the other request go on"


async def test_every_device_in_flight_always_has_exactly_one_wake_up() -> None:
    world = rig(*(device(number) for number in range(1, 9)))
    await world.trigger(1, 2)
    await world.ask(3, 4, request="R2")
    await world.ask(5, request="R3", notBefore=(world.clock.now + timedelta(hours=1)).isoformat())
    world.intune.script[device_id(6)].append(Lost(arrived=True))
    await world.trigger(6, request="R4")
    for _ in range(30):
        await world.tick(minutes=7)
        woken = sorted(key.split("|")[2] for key in world.table.keys("due|"))
        assert woken == sorted(key.split("|")[1] for key in world.table.keys("reset|"))
    await control(world.parts, json.dumps({"command": "cancel", "requestId": "R1", "by": "ann", "why": "x"}))
