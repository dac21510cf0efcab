"""At most one reset a turnaround (S13), and none that an old request orders for a device that has a new user (S14):
whoever freezes or dies where, whatever the clocks do."""

import json
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from shared.domain.ids import UserId
from shared.domain.orders import Answer, AnswerKind
from shared.domain.reasons import Code
from shared.domain.states import IN_FLIGHT, State
from shared.messages.queues import DISPATCH
from shared.pipeline.control import control
from shared.pipeline.dispatch import dispatch
from shared.pipeline.intake import intake
from shared.pipeline.sweep import sweep
from tests.pipeline.fakes import Crash, Dies, Lost, Rig, asking, device, device_id, rig

NEXT_USER = UserId("22222222-2222-4222-8222-222222222222")
NUMBERS = (1, 2, 3)
ONCE = {device_id(number): 1 for number in NUMBERS}


def message(*numbers: int) -> str:
    return json.dumps({"devices": [device_id(number) for number in numbers]})


async def cleared(*numbers: int, **fields: Any) -> Rig:  # Any: fields of the request
    """A world in which these devices wait for their turn, and no message is under way."""
    world = rig(*map(device, numbers))
    await world.ask(*numbers, **fields)
    await lose_dispatch(world)
    return world


async def lose_dispatch(world: Rig) -> None:
    for lost in await world.queues.receive(DISPATCH):
        await world.queues.delete(DISPATCH, lost)


async def command(world: Rig, name: str, **fields: Any) -> None:  # Any: fields of the message
    body = {"command": name, "by": "ann", "why": "because"} | fields
    await control(world.other_instance(), json.dumps(body))


async def all_of_it(world: Rig) -> None:
    """What another instance does in the twelve minutes in which this one is frozen."""
    mine, world.parts = world.parts, world.other_instance()
    for _ in range(4):
        await world.tick(minutes=3)
    world.parts = mine


def told(world: Rig, name: str) -> list[str]:
    once = {one["id"]: one["data"]["code"] for one in world.told() if one["type"] == f"io.turnaround.{name}"}
    return list(once.values())


# --- S13: frozen, dead, doubled


@pytest.mark.parametrize("doubled", [False, True])
async def test_s13_an_instance_that_freezes_at_any_moment_of_dispatch_sends_nothing_twice(doubled: bool) -> None:
    """Meanwhile the others do all that is due; and with `doubled` they have the very same message."""
    call = 0
    while True:
        call += 1
        world = await cleared(*NUMBERS)
        if doubled:
            await world.queues.send(DISPATCH, message(*NUMBERS))

        async def frozen(world: Rig = world) -> None:
            await all_of_it(world)

        world.at_call(call, frozen)
        await dispatch(world.parts, message(*NUMBERS))
        if world.still_to_happen:
            break
        await all_of_it(world)
        assert world.intune.wiped() == ONCE, f"frozen before call {call}"
    assert call > 8


async def test_s13_a_process_that_dies_at_any_moment_of_dispatch_leaves_nothing_twice_and_nothing_lost() -> None:
    call = 0
    while True:
        call += 1
        world = await cleared(*NUMBERS)

        async def dies() -> None:
            raise Crash("the process died")

        world.at_call(call, dies)
        try:
            await dispatch(world.parts, message(*NUMBERS))
            break
        except Crash:
            world.heal()
        await dispatch(world.parts, message(*NUMBERS))
        await all_of_it(world)
        await all_of_it(world)
        assert world.intune.wiped() == ONCE, f"died before call {call}"
    assert call > 8


@pytest.mark.parametrize("trouble", [Lost(arrived=True), Lost(arrived=False), Dies(arrived=True), Dies(arrived=False)])
async def test_s13_an_answer_that_never_comes_is_settled_once_by_any_number_of_sweeps(trouble: Lost | Dies) -> None:
    for frozen_at in range(1, 12, 2):
        world = await cleared(*NUMBERS)
        world.intune.script[device_id(2)].append(trouble)
        try:
            await dispatch(world.parts, message(*NUMBERS))
        except Crash:
            world.heal()
        world.clock.forward(minutes=6)

        async def frozen(world: Rig = world) -> None:
            await all_of_it(world)

        world.at_call(frozen_at, frozen)
        await sweep(world.parts)
        if world.still_to_happen:
            break
        await world.deliver()
        world.heal()
        await all_of_it(world)
        assert world.intune.wiped()[device_id(2)] == 1
        assert set(world.intune.wiped().values()) == {1}
    assert frozen_at > 8


# --- S13: clocks


JUMPS = [timedelta(minutes=7), timedelta(minutes=-7), timedelta(hours=26), timedelta(hours=-26)]


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("jump", JUMPS, ids=str)
async def test_s13_a_clock_that_jumps_at_any_moment_sends_nothing_twice_and_loses_nothing(
    jump: timedelta, lost: bool
) -> None:
    call = 0
    while True:
        call += 1
        world = await cleared(*NUMBERS)
        if lost:
            world.intune.script[device_id(2)].append(Lost(arrived=False))

        async def jumps(world: Rig = world) -> None:
            world.clock.now += jump

        world.at_call(call, jumps)
        await dispatch(world.parts, message(*NUMBERS))
        if world.still_to_happen:
            break
        where = f"the clock jumped by {jump} before call {call}"
        for _ in range(4):
            await world.tick(minutes=6)
        for _ in range(3):
            await world.tick(hours=10)
            await world.tick(minutes=6)
        assert set(world.intune.wiped().values()) <= {1}, where
        for number in NUMBERS:
            state = await world.state(number)
            assert state in IN_FLIGHT, where
            assert world.intune.wiped().get(device_id(number)) or state is State.ATTENTION, where
        await lose_dispatch(world)
    assert call > 8


async def test_s13_a_clock_that_goes_back_and_forth_between_all_steps_sends_nothing_twice() -> None:
    world = rig(*map(device, range(1, 21)))
    world.intune.script[device_id(3)].append(Lost(arrived=True))
    world.intune.script[device_id(4)].append(Lost(arrived=False))
    await world.ask(*range(1, 21))
    shifts = (5, -5, 90, -85, 3, -3, 2000, -2000, 1, 6, -4, 6, 6, 6, 30)
    for shift in shifts:
        world.clock.now += timedelta(minutes=shift)
        await world.tick(seconds=10)
    for _ in range(10):
        await world.tick(minutes=10)
    assert set(world.intune.wiped().values()) == {1}
    assert len(world.intune.wiped()) >= 19


# --- S14: how a device may come to wait, and for how long


async def until_later(world: Rig) -> Callable[[], Awaitable[None]]:
    await world.trigger(1, 2, notBefore="2026-11-24T09:00:00Z")

    async def nothing() -> None:
        pass

    return nothing


async def for_a_resume(world: Rig) -> Callable[[], Awaitable[None]]:
    await command(world, "halt")
    await world.trigger(1, 2)
    return lambda: command(world, "resume")


async def for_an_approval(world: Rig) -> Callable[[], Awaitable[None]]:
    world.with_policy(approval_above=1, approvers=["eve"], approval_within="P6D")
    await world.trigger(1, 2)
    (needed,) = [one["data"] for one in world.told() if one["type"].endswith("approval_needed")]
    return lambda: command(world, "approve", requestId="R1", by="eve", digest=needed["evidence"]["digest"])


async def for_its_wave(world: Rig) -> Callable[[], Awaitable[None]]:
    world.intune.add(device(3))
    world.with_policy(wave_above=1, wave_first=1, wave_growth=2, sync_attempts=20, wave_within="P6D")
    await intake(world.parts, asking(3, 1, 2))
    await world.deliver()
    assert world.intune.wiped() == {device_id(3): 1}
    return lambda: world.turn_around(3)


async def for_a_person(world: Rig) -> Callable[[], Awaitable[None]]:
    for number in (1, 2):
        world.intune.script[device_id(number)].append(Answer(AnswerKind.FORBIDDEN))
    await world.trigger(1, 2)
    return lambda: command(world, "retry", requestId="R1")


async def for_room(world: Rig) -> Callable[[], Awaitable[None]]:
    world.intune.add(device(3))
    world.with_policy(resets_per_day=1)
    await world.trigger(3, request="R0")
    await world.trigger(1, 2)

    async def more_room() -> None:
        world.with_policy()

    return more_room


WAITS = {
    "until a later time": until_later,
    "for a resume": for_a_resume,
    "for an approval": for_an_approval,
    "for its wave": for_its_wave,
    "for a person": for_a_person,
    "for room": for_room,
}
waits = pytest.mark.parametrize("wait", WAITS)


async def waited(wait: str, days: float, **changes: object) -> Rig:
    """Two devices have waited so many days, in which the first of them has changed; then they go on."""
    world = rig(device(1), device(2))
    goes_on = await WAITS[wait](world)
    assert device_id(1) not in world.intune.wiped()
    world.clock.forward(days=days)
    for number in (1, 2):
        world.intune.check_in(device_id(number))
    world.intune.devices[device_id(1)].change(**changes)
    await goes_on()
    for _ in range(3):
        await world.tick(minutes=6)
    return world


@waits
@pytest.mark.parametrize(
    "changes",
    [{"primary_user": NEXT_USER}, {"enrolled_at": datetime.fromisoformat("2026-11-23T10:00:00Z")}],
    ids=lambda changes: next(iter(changes)),
)
async def test_s14_a_device_that_got_another_user_while_it_waited_is_refused_however_it_waited(
    wait: str, changes: dict[str, object]
) -> None:
    world = await waited(wait, 3.1 if wait == "until a later time" else 0.9, **changes)
    assert await world.state(1) is State.REFUSED
    assert Code.HANDED_ON in told(world, "device.refused")
    assert device_id(1) not in world.intune.wiped()
    assert world.intune.wiped()[device_id(2)] == 1


@waits
async def test_s14_what_waited_longer_than_its_request_is_valid_is_refused_however_it_waited(wait: str) -> None:
    world = await waited(wait, 10.5)
    assert {await world.state(number) for number in (1, 2)} == {State.REFUSED}
    assert set(told(world, "device.refused")) <= {Code.REQUEST_EXPIRED, Code.APPROVAL_EXPIRED}
    assert not {device_id(1), device_id(2)} & set(world.intune.wiped())


async def test_s14_facts_that_a_wrong_clock_dated_into_the_future_are_read_again() -> None:
    world = rig(device(1), device(2))
    world.clock.now += timedelta(days=3)
    await intake(world.parts, asking(devices=[{"intuneId": device_id(number)} for number in (1, 2)]))
    await lose_dispatch(world)
    world.clock.now -= timedelta(days=3)
    world.clock.forward(hours=1)
    world.intune.check_in(device_id(1), primary_user=NEXT_USER)
    await dispatch(world.parts, message(1, 2))
    assert world.intune.wiped() == {device_id(2): 1}


@pytest.mark.parametrize("wait", ["for a person", "for a resume"])
async def test_s14_twenty_devices_whose_request_is_too_old_are_refused_together(wait: str) -> None:
    """Each takes more rows than one that is sent, and a transaction holds a hundred."""
    numbers = range(1, 21)
    world = rig(*map(device, numbers))
    if wait == "for a person":
        for number in numbers:
            world.intune.script[device_id(number)].append(Answer(AnswerKind.FORBIDDEN))
    else:
        await command(world, "halt")
    await world.trigger(*numbers)
    world.clock.forward(days=7)
    for number in numbers:
        world.intune.check_in(device_id(number))
    await (command(world, "resume") if wait == "for a resume" else command(world, "retry", requestId="R1"))
    await world.deliver()
    assert {await world.state(number) for number in numbers} == {State.REFUSED}
    assert told(world, "device.refused") == [Code.REQUEST_EXPIRED] * 20
    assert world.intune.wiped() == {}


async def test_s13_twenty_devices_in_doubt_that_may_not_be_sent_again_need_a_person_and_hold_up_nobody() -> None:
    doubtful, others = range(1, 12), range(12, 21)
    world = rig(*map(device, range(1, 21)))
    for number in doubtful:
        world.intune.script[device_id(number)].append(Lost(arrived=False))
    await world.trigger(*doubtful)
    world.clock.forward(minutes=6)
    await sweep(world.parts)
    await lose_dispatch(world)
    assert {await world.state(number) for number in doubtful} == {State.CLEARED}
    await world.ask(*others, request="R2")
    await lose_dispatch(world)
    for number in doubtful:
        world.intune.check_in(device_id(number))
    await dispatch(world.parts, message(*doubtful, *others))
    await world.deliver()
    assert {await world.state(number) for number in doubtful} == {State.ATTENTION}
    assert told(world, "device.attention") == [Code.SEND_UNKNOWN] * 11
    assert world.intune.wiped() == {device_id(number): 1 for number in others}
