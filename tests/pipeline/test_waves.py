"""A large request goes out in waves, a canary first; a wave that fails stops the rest (S7)."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from shared.domain.devices import ActionState
from shared.domain.guardrails import Terms
from shared.domain.ids import RequestId
from shared.domain.reasons import Code
from shared.domain.reset import EventKind
from shared.domain.states import State
from shared.messages.queues import DISPATCH
from shared.pipeline.control import control
from shared.pipeline.dispatch import dispatch
from shared.pipeline.poll import poll
from shared.pipeline.status import request_status
from shared.pipeline.sweep import sweep
from tests.pipeline.fakes import Crash, Rig, device, device_id, rig

FIRST, SECOND, THIRD = (1, 2), (3, 4, 5, 6), (7, 8, 9, 10)
"""The waves of ten devices."""
ALL = range(1, 11)


def waving(numbers: Iterable[int] = ALL, **policy: Any) -> Rig:  # Any: fields of the policy
    world = rig(*(device(number) for number in numbers))
    world.with_policy(**{"wave_above": 4, "wave_first": 2, "wave_growth": 2} | policy)
    return world


async def under_way(**policy: Any) -> Rig:  # Any: fields of the policy
    """The canary of ten devices is sent; the others wait."""
    world = waving(**policy)
    await world.trigger(*ALL)
    assert sent(world) == [*FIRST]
    return world


async def failing(**policy: Any) -> Rig:  # Any: fields of the policy
    """As `under_way`, and both devices of the canary have failed; nobody has looked at the wave since."""
    world = await under_way(**policy)
    for number in FIRST:
        fail(world, number)
    return world


def sent(world: Rig) -> list[int]:
    """The devices whose resets arrived, each once."""
    wiped = world.intune.wiped()
    assert set(wiped.values()) <= {1}
    return sorted(int(one[-4:]) for one in wiped)


def fail(world: Rig, number: int) -> None:
    """The device takes its reset and says that it failed."""
    world.clock.forward(minutes=1)
    world.intune.check_in(device_id(number), ActionState.FAILED)


async def command(world: Rig, name: str, **fields: Any) -> None:  # Any: fields of the message
    body = {"command": name, "by": "ann", "why": "because"} | fields
    if name in ("cancel", "retry", "approve"):
        body = {"requestId": "R1"} | body
    await control(world.other_instance(), json.dumps(body))


async def terms(world: Rig) -> Terms:
    known = await world.store.request(RequestId("R1"))
    assert known is not None
    assert known.record.terms is not None
    return known.record.terms


async def states(world: Rig, numbers: Iterable[int]) -> set[State | None]:
    return {await world.state(number) for number in numbers}


async def stopped(world: Rig) -> list[str]:
    """What was told of stopped waves."""
    await world.deliver()
    told = {one["id"]: one["data"]["message"] for one in world.told() if one["type"].endswith("request.stopped")}
    return list(told.values())


def nothing_is_left(world: Rig) -> None:
    for first in ("due|", "reset|", "deliver|"):
        assert world.table.keys(first) == []


# --- one after the other


async def test_s7_a_canary_goes_first_and_nothing_follows_it_before_it_is_ready() -> None:
    world = await under_way()
    assert (await terms(world)).waves == (2, 4, 4)
    for _ in range(6):
        await world.tick(minutes=5)
    assert sent(world) == [*FIRST]
    reset = await world.reset(3)
    assert reset.reason is not None
    assert (reset.state, reset.reason.code) == (State.HELD, Code.WAITS_FOR_WAVE)


async def test_s7_each_wave_starts_once_the_one_before_is_ready_and_all_ends_in_its_time() -> None:
    world = await under_way()
    for wave, devices in enumerate((FIRST, SECOND, THIRD), start=1):
        assert (await terms(world)).wave == wave
        await world.turn_around(*devices)
        assert await states(world, devices) == {State.READY}
        await world.tick(minutes=1)
    assert sent(world) == [*ALL]
    await world.tick(minutes=5)
    opened = [event async for event in world.store.history("request:R1") if event.kind is EventKind.WAVE_OPENED]
    assert [event.evidence["wave"] for event in opened] == ["2", "3"]
    assert world.told_types() == {"request.accepted": 1, "device.ready": 10}
    nothing_is_left(world)


async def test_s7_a_request_within_the_size_goes_at_once() -> None:
    world = waving(range(1, 5))
    await world.trigger(*range(1, 5))
    assert sent(world) == [1, 2, 3, 4]
    assert (await terms(world)).waves == ()


async def test_s7_enough_of_a_wave_is_as_much_as_the_policy_says() -> None:
    world = await under_way(wave_ready_share=0.5)
    await world.turn_around(1)
    await world.tick(minutes=1)
    assert sent(world) == [*FIRST, *SECOND]
    await world.turn_around(3)
    await world.tick(minutes=1)
    assert sent(world) == [*FIRST, *SECOND], "one of four is not enough"


async def test_s7_devices_that_were_refused_or_withdrawn_neither_help_nor_stop_a_wave() -> None:
    world = waving()
    await world.ask(*ALL)
    await command(world, "cancel", intuneId=device_id(1))
    await world.deliver()
    await world.tick(minutes=3)
    assert sent(world) == [2]
    await world.turn_around(2)
    await world.tick(minutes=1)
    assert sent(world) == [2, *SECOND]
    assert await stopped(world) == []


async def test_s7_a_wave_of_which_no_device_was_sent_makes_way_for_the_next() -> None:
    world = waving()
    await world.ask(*ALL)
    for number in FIRST:
        await command(world, "cancel", intuneId=device_id(number))
    await world.deliver()
    assert sent(world) == []
    await world.tick(minutes=3)
    assert sent(world) == [*SECOND]


async def test_s7_what_is_planned_as_waves_is_what_goes() -> None:
    world = waving(range(1, 61), wave_first=5, wave_growth=4, wave_above=50)
    await world.trigger(*range(1, 61))
    assert sent(world) == [1, 2, 3, 4, 5]
    assert (await terms(world)).waves == (5, 20, 35)
    await world.turn_around(*range(1, 6))
    await world.tick(minutes=1)
    assert sent(world) == [*range(1, 26)], "twenty and more wait and go in as many transactions as it takes"


# --- stopped


async def test_s7_a_wave_that_fails_stops_the_rest_and_a_person_is_told_once() -> None:
    world = await failing()
    for _ in range(30):
        await world.tick(minutes=10)
    (told,) = await stopped(world)
    assert "Wave 1 of 3: 2 of 2 devices failed or need a person." in told
    assert sent(world) == [*FIRST]
    assert await states(world, (*SECOND, *THIRD)) == {State.ATTENTION}
    waiting = {one["data"]["code"] for one in world.told() if one["type"].endswith("device.attention")}
    assert waiting == {Code.WAVE_FAILED}
    assert not [key for key in world.table.keys("due|") if "request:" in key], "nobody looks at its waves any more"


async def test_s7_devices_of_a_stopped_wave_that_nobody_looks_after_end_and_leave_nothing_behind() -> None:
    world = await failing()
    await world.tick(minutes=3)
    await world.tick(days=15)
    await world.tick(minutes=3)
    assert await states(world, (*SECOND, *THIRD)) == {State.FAILED}
    assert sent(world) == [*FIRST]
    nothing_is_left(world)


async def test_s7_a_failure_within_what_the_policy_bears_stops_nothing() -> None:
    world = await under_way(wave_failed_share=0.5, wave_ready_share=0.5)
    fail(world, 1)
    await world.turn_around(2)
    await world.tick(minutes=1)
    assert sent(world) == [*FIRST, *SECOND]


async def test_s7_what_failed_is_not_taken_for_ready() -> None:
    world = await under_way(wave_failed_share=0.5, wave_ready_share=0.6)
    fail(world, 1)
    await world.turn_around(2)
    await world.tick(minutes=1)
    assert sent(world) == [*FIRST]
    assert await stopped(world) == []


async def test_s7_a_later_wave_that_fails_stops_what_comes_after_it() -> None:
    world = await under_way()
    await world.turn_around(*FIRST)
    await world.tick(minutes=1)
    for number in (3, 4):
        fail(world, number)
    await world.tick(minutes=3)
    assert await states(world, THIRD) == {State.ATTENTION}
    assert await states(world, (5, 6)) == {State.TRIGGERED}, "what was sent goes on"
    assert len(await stopped(world)) == 1


async def test_s7_a_hundred_devices_are_stopped_together() -> None:
    numbers = range(1, 106)
    world = waving(numbers, wave_first=5, wave_above=50)
    await world.trigger(*numbers)
    for number in range(1, 6):
        fail(world, number)
    await world.tick(minutes=3)
    await world.tick(minutes=3)
    assert await states(world, range(6, 106)) == {State.ATTENTION}
    assert sent(world) == [1, 2, 3, 4, 5]


async def test_s7_stopping_a_request_does_not_halt_all_the_others() -> None:
    """What was never sent has not failed."""
    world = await failing(halt_failed_min=5, attention_for="P1D")
    for _ in range(3):
        await world.tick(minutes=3)
    assert await states(world, (*SECOND, *THIRD)) == {State.ATTENTION}
    assert await world.store.halt() is None
    await world.tick(days=1)
    await world.tick(minutes=3)
    assert await states(world, (*SECOND, *THIRD)) == {State.FAILED}, "nobody looked after them"
    assert await world.store.halt() is None


async def test_s7_whoever_retries_a_device_of_a_stopped_wave_lets_it_go_and_no_other() -> None:
    world = await failing()
    await world.tick(minutes=3)
    await command(world, "retry", intuneId=device_id(3))
    await world.deliver()
    await world.tick(minutes=10)
    assert sent(world) == [*FIRST, 3]
    await world.turn_around(3)
    assert await world.state(3) is State.READY
    assert await states(world, (4, 5, 6, *THIRD)) == {State.ATTENTION}


async def test_s7_a_device_freed_from_a_stopped_wave_still_waits_for_a_resume() -> None:
    world = await failing()
    await world.tick(minutes=3)
    await command(world, "halt")
    await command(world, "retry", intuneId=device_id(3))
    await world.deliver()
    assert sent(world) == [*FIRST]
    await command(world, "resume")
    await world.deliver()
    assert sent(world) == [*FIRST, 3]


# --- in time


async def test_s7_a_wave_that_does_not_become_ready_in_time_stops_the_rest() -> None:
    world = await under_way(wave_within="PT6H", sync_attempts=8)
    for _ in range(11):
        await world.tick(minutes=30)
    assert await stopped(world) == []
    for _ in range(3):
        await world.tick(minutes=30)
    (told,) = await stopped(world)
    assert "Only 0 of 2 devices became ready in time." in told
    assert sent(world) == [*FIRST]


@pytest.mark.parametrize("held_by", ["approval", "not-before", "halt", "cap"])
async def test_s7_the_time_of_a_wave_begins_when_its_devices_were_sent_not_while_they_wait(held_by: str) -> None:
    policies: dict[str, dict[str, Any]] = {  # Any: fields of the policy
        "approval": {"approval_above": 4, "approvers": ["eve"]},
        "cap": {"resets_per_day": 2},
    }
    world = waving(wave_within="PT6H", sync_attempts=8, **policies.get(held_by, {}))
    fields = {"notBefore": "2026-11-22T00:30:00Z"} if held_by == "not-before" else {}
    if held_by == "halt":
        await command(world, "halt")
    if held_by == "cap":
        world.intune.add(device(11), device(12))
        await world.trigger(11, 12, request="R0")
    await world.trigger(*ALL, **fields)
    for _ in range(31):
        await world.tick(minutes=30)
    if held_by == "halt":
        await command(world, "resume")
    if held_by == "approval":
        await command(world, "approve", by="eve", digest=(await terms(world)).digest)
    await world.deliver()
    assert sent(world)[:3] == [*FIRST, *([11] if held_by == "cap" else [])]
    for _ in range(4):
        await world.tick(minutes=30)
    assert await stopped(world) == []
    for _ in range(10):
        await world.tick(minutes=30)
    (told,) = await stopped(world)
    assert "in time" in told, "but then it begins"


# --- with the other guardrails


async def test_s7_approval_does_not_lift_the_waves() -> None:
    world = waving(approval_above=4, approvers=["eve"])
    await world.trigger(*ALL)
    await world.tick(minutes=5)
    assert sent(world) == []
    await command(world, "approve", by="eve", digest=(await terms(world)).digest)
    await world.deliver()
    await world.tick(minutes=5)
    assert sent(world) == [*FIRST]
    assert {(await world.reset(number)).reason.code for number in SECOND} == {Code.WAITS_FOR_WAVE}  # type: ignore[union-attr]  # None fails too
    await world.turn_around(*FIRST)
    await world.tick(minutes=1)
    assert sent(world) == [*FIRST, *SECOND]


async def test_s7_a_wave_whose_turn_comes_under_a_halt_waits_for_the_resume() -> None:
    world = await under_way()
    await command(world, "halt")
    await world.turn_around(*FIRST)
    for _ in range(5):
        await world.tick(minutes=2)
    assert sent(world) == [*FIRST]
    await command(world, "resume")
    await world.deliver()
    await world.tick(minutes=2)
    assert sent(world) == [*FIRST, *SECOND]
    await world.turn_around(*SECOND)
    await world.tick(minutes=2)
    assert sent(world) == [*ALL]


async def test_s7_waves_that_start_later_start_with_the_canary() -> None:
    world = waving()
    await world.trigger(*ALL, notBefore="2026-11-21T12:00:00Z")
    await world.tick(minutes=5)
    assert sent(world) == []
    await world.tick(hours=3)
    await world.tick(minutes=5)
    assert sent(world) == [*FIRST]


async def test_s7_a_wave_that_a_limit_holds_up_goes_on_when_there_is_room() -> None:
    world = waving(resets_per_hour=4, wave_ready_share=1)
    await world.trigger(*ALL)
    await world.turn_around(*FIRST)
    await world.tick(minutes=1)
    assert sent(world) == [1, 2, 3, 4], "the hour has room for two more"
    await world.tick(minutes=15)
    await world.tick(minutes=1)
    assert sent(world) == [*FIRST, *SECOND]
    assert await states(world, THIRD) == {State.HELD}


# --- ends


async def test_s7_a_cancel_between_two_waves_ends_the_request_and_the_looks_at_it() -> None:
    world = await under_way()
    await command(world, "cancel")
    await world.deliver()
    assert await states(world, (*SECOND, *THIRD)) == {State.CANCELLED}
    await world.turn_around(*FIRST)
    await world.tick(minutes=3)
    assert sent(world) == [*FIRST]
    assert await stopped(world) == []
    nothing_is_left(world)


async def test_s7_a_cancel_before_the_canary_went_ends_it_too() -> None:
    world = waving()
    await world.ask(*ALL)
    await command(world, "cancel")
    await world.deliver()
    await world.tick(minutes=3)
    assert sent(world) == []
    nothing_is_left(world)


async def test_s7_a_request_whose_waves_all_fail_one_by_one_ends() -> None:
    world = await under_way(wave_failed_share=0.9, wave_ready_share=0.1)
    for devices in (FIRST, SECOND, THIRD):
        assert await states(world, devices) == {State.TRIGGERED}
        for number in devices[1:]:
            fail(world, number)
        await world.turn_around(devices[0])
        await world.tick(minutes=2)
    await world.tick(minutes=3)
    status = await request_status(world.store, RequestId("R1"))
    assert status is not None
    assert (status.ended, status.counts) == (True, {State.READY: 3, State.FAILED: 7})
    nothing_is_left(world)


async def test_s7_a_request_that_is_declined_ends() -> None:
    world = waving(approval_above=4, approvers=["eve"])
    await world.trigger(*ALL)
    await command(world, "decline", by="eve", digest=(await terms(world)).digest, requestId="R1")
    await world.deliver()
    await world.tick(minutes=3)
    assert await states(world, ALL) == {State.REFUSED}
    nothing_is_left(world)


async def test_s7_a_request_that_grows_too_old_between_two_waves_ends() -> None:
    world = await under_way(request_valid_for="P2D", wave_within="P3D", sync_attempts=20)
    for _ in range(17):
        await world.tick(hours=3)
    assert await states(world, (*SECOND, *THIRD)) == {State.REFUSED}
    assert not [key for key in world.table.keys("due|") if "request:" in key]
    assert sent(world) == [*FIRST]


# --- at bad moments


async def test_s7_a_request_begun_anew_after_a_crash_keeps_each_device_in_its_wave() -> None:
    """The canary is sent by then, and looks like nothing that may be reset."""
    numbers = range(1, 61)
    world = waving(numbers, wave_first=5, wave_growth=4, wave_above=50)
    world.meanwhile(f"reset|{device_id(21)}", dies)
    with pytest.raises(Crash):
        await world.ask(*numbers)
    await world.deliver()
    assert sent(world) == [1, 2, 3, 4, 5]
    for number in range(1, 6):
        world.intune.devices[device_id(number)].change(management_state="wipePending")
    await world.tick(minutes=3)
    assert (await terms(world)).waves == (5, 20, 35)
    waves = [(await world.reset(number)).wave for number in numbers]
    assert waves == [1] * 5 + [2] * 20 + [3] * 35


async def dies() -> None:
    raise Crash("the process died")


@pytest.mark.parametrize("took_effect", [False, True])
async def test_s7_a_crash_at_any_commit_of_the_next_wave_loses_nothing_and_opens_it_once(took_effect: bool) -> None:
    commit = 0
    while True:
        commit += 1
        world = await under_way()
        await world.turn_around(*FIRST)
        world.clock.forward(minutes=1)
        world.fail(commit, took_effect=took_effect)
        try:
            await sweep(world.parts)
        except Crash:
            world.heal()
            await sweep(world.parts)
            await world.tick(minutes=3)
            await world.tick(minutes=6)
            assert sent(world) == [*FIRST, *SECOND], f"commit {commit}"
            assert (await terms(world)).wave == 2
            continue
        break
    assert commit > 3


@pytest.mark.parametrize("took_effect", [False, True])
async def test_s7_a_crash_at_any_commit_of_a_stop_stops_all_of_it_and_tells_it_once(took_effect: bool) -> None:
    commit = 0
    while True:
        commit += 1
        world = await failing()
        await poll(world.parts)
        world.fail(commit, took_effect=took_effect)
        try:
            await sweep(world.parts)
        except Crash:
            world.heal()
            await sweep(world.parts)
            await world.tick(minutes=3)
            assert sent(world) == [*FIRST]
            assert await states(world, (*SECOND, *THIRD)) == {State.ATTENTION}, f"commit {commit}"
            assert len(await stopped(world)) == 1, f"commit {commit}"
            continue
        break
    assert commit > 3


async def test_s7_sweeps_at_once_open_a_wave_once_and_stop_once() -> None:
    world = await under_way()
    await world.turn_around(*FIRST)
    world.clock.forward(minutes=1)
    await asyncio.gather(*(sweep(world.other_instance()) for _ in range(4)))
    await world.deliver()
    assert sent(world) == [*FIRST, *SECOND]
    assert (await terms(world)).wave == 2
    for number in SECOND:
        fail(world, number)
    await poll(world.parts)
    await asyncio.gather(*(sweep(world.other_instance()) for _ in range(4)))
    assert len(await stopped(world)) == 1
    assert sent(world) == [*FIRST, *SECOND]
    assert await states(world, THIRD) == {State.ATTENTION}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("verdict", ["go", "stop"])
async def test_s7_a_device_that_is_just_being_held_for_its_wave_is_neither_forgotten_nor_sent_too_soon(
    verdict: str, after: bool
) -> None:
    """The wave before it comes to its verdict while dispatch holds devices that an approval has let go."""
    world = waving(approval_above=4, approvers=["eve"])
    await world.trigger(*ALL)
    await command(world, "approve", by="eve", digest=(await terms(world)).digest)
    for lost in await world.queues.receive(DISPATCH):
        await world.queues.delete(DISPATCH, lost)
    await dispatch(world.parts, message(*FIRST))

    async def decided() -> None:
        mine, world.parts = world.parts, world.other_instance()
        for number in FIRST if verdict == "stop" else ():
            fail(world, number)
        if verdict == "go":
            await world.turn_around(*FIRST)
        await poll(world.parts)
        await sweep(world.parts)
        world.parts = mine

    world.meanwhile(f"reset|{device_id(3)}", decided, after=after)
    await dispatch(world.parts, message(*SECOND, *THIRD))
    assert world.faulty.interruptions == []
    await world.deliver()
    for _ in range(2):
        await world.tick(minutes=3)
    assert sent(world) == ([*FIRST, *SECOND] if verdict == "go" else [*FIRST])
    assert await states(world, THIRD) == {State.HELD if verdict == "go" else State.ATTENTION}


def message(*numbers: int) -> str:
    return json.dumps({"devices": [device_id(number) for number in numbers]})
