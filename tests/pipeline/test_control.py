"""Commands: each does exactly what it says, and each is answered or recorded."""

import asyncio
import json

import pytest

from shared.domain.ids import RequestId
from shared.domain.orders import Answer, AnswerKind
from shared.domain.reasons import Code
from shared.domain.reset import EventKind
from shared.domain.states import State
from shared.messages.queues import DISPATCH
from shared.pipeline.control import control
from shared.pipeline.intake import intake
from shared.pipeline.status import request_status
from shared.state.table import Conflict
from tests.pipeline.fakes import Crash, Rig, asking, device, device_id, rig


def command(name: str, **fields: object) -> str:
    body: dict[str, object] = {"command": name, "by": "ann@contoso.example", "why": "because"}
    if name in ("cancel", "retry"):
        body["requestId"] = "R1"
    return json.dumps(body | fields)


async def refusals(world: Rig) -> list[str]:
    await world.deliver()
    return [one["data"].get("code") for one in world.told() if one["type"].endswith("command.refused")]


async def lose_dispatch(world: Rig) -> None:
    for message in await world.queues.receive(DISPATCH):
        await world.queues.delete(DISPATCH, message)


# --- cancel


async def test_a_cancel_before_the_reset_was_sent_is_exact() -> None:
    world = rig(device(1), device(2))
    await world.ask(1, 2)
    await control(world.parts, command("cancel"))
    await world.deliver()
    for _ in range(20):
        await world.tick(minutes=5)
    assert world.intune.wiped() == {}
    assert [await world.state(number) for number in (1, 2)] == [State.CANCELLED, State.CANCELLED]
    assert world.told_types() == {"request.accepted": 1, "device.cancelled": 2}
    assert world.table.keys("reset|") == world.table.keys("due|") == []


async def test_one_device_of_a_request_is_cancelled_however_its_id_is_spelt() -> None:
    world = rig(device(1), device(2))
    await world.ask(1, 2)
    await control(world.parts, command("cancel", intuneId=device_id(1).upper()))
    await world.deliver()
    assert await world.state(1) is State.CANCELLED
    assert world.intune.wiped() == {device_id(2): 1}


async def test_a_cancel_after_the_reset_was_sent_is_refused_and_the_device_stays_watched() -> None:
    world = rig(device(1))
    await world.trigger(1)
    await control(world.parts, command("cancel"))
    assert await refusals(world) == [Code.RESET_ALREADY_SENT]
    assert await world.state(1) is State.TRIGGERED


async def test_a_cancelled_device_may_be_asked_for_again() -> None:
    world = rig(device(1))
    await world.ask(1)
    await control(world.parts, command("cancel"))
    await world.trigger(1, request="R2")
    assert world.intune.wiped() == {device_id(1): 1}
    assert await world.state(1, "R2") is State.TRIGGERED


async def test_a_cancel_that_comes_twice_is_answered_once() -> None:
    world = rig(device(1), device(2))
    world.intune.down = {"find"}
    await world.ask(2, request="R2")
    world.intune.down.clear()
    await world.ask(1)
    for _ in range(2):
        await control(world.parts, command("cancel"))
        await control(world.parts, command("cancel", requestId="R2"))
    await world.deliver()
    assert world.told_types() == {"request.accepted": 2, "device.cancelled": 1, "request.refused": 1}


async def test_a_command_for_another_request_leaves_the_device_alone() -> None:
    world = rig(device(1))
    await world.ask(1)
    await control(world.parts, command("cancel", requestId="R2"))
    assert len(await refusals(world)) == 1
    assert world.intune.wiped() == {device_id(1): 1}


async def test_a_cancel_of_many_devices_reaches_all_of_them() -> None:
    world = rig(*(device(number) for number in range(1, 121)))
    await world.ask(*range(1, 121))
    await control(world.parts, command("cancel"))
    await world.deliver()
    assert world.intune.wiped() == {}
    assert world.told_types()["device.cancelled"] == 120


@pytest.mark.parametrize("took_effect", [False, True])
async def test_a_cancel_that_comes_back_after_a_crash_is_carried_out_once(took_effect: bool) -> None:
    for commit in range(1, 5):
        world = rig(*(device(number) for number in range(1, 31)))
        await world.ask(*range(1, 31))
        await lose_dispatch(world)
        world.fail(commit, took_effect=took_effect)
        with pytest.raises(Crash):
            await control(world.parts, command("cancel"))
        world.heal()
        await control(world.parts, command("cancel"))
        await world.tick(minutes=1)
        assert world.told_types()["device.cancelled"] == 30
        assert world.intune.wiped() == {}


async def test_a_cancel_before_devices_could_be_looked_up_keeps_all_of_them_from_being_reset() -> None:
    world = rig(device(1))
    world.intune.down = {"find"}
    await world.ask(1)
    await control(world.parts, command("cancel"))
    world.intune.down.clear()
    await world.tick(minutes=10)
    assert world.intune.wiped() == {}
    (refused,) = [one["data"] for one in world.told() if one["type"].endswith("request.refused")]
    assert refused["code"] == Code.CANCELLED
    (event,) = [one async for one in world.store.history("request:R1") if one.kind is EventKind.REFUSED]
    assert event.who == "ann@contoso.example"
    status = await request_status(world.store, RequestId("R1"))
    assert status is not None
    assert status.ended


async def test_a_cancel_in_the_midst_of_taking_a_large_request_in_cancels_all_of_it() -> None:
    world = rig(*(device(number) for number in range(1, 101)))

    async def cancel() -> None:
        await control(world.other_instance(), command("cancel"))

    world.meanwhile(f"reset|{device_id(41)}", cancel)  # when forty devices are in flight
    await intake(world.parts, asking(*range(1, 101)))
    await world.deliver()
    assert world.intune.wiped() == {}
    assert world.told_types() == {"request.accepted": 1, "request.refused": 1, "device.cancelled": 40}
    assert world.table.keys("reset|") == world.table.keys("due|") == []


# --- retry


async def test_a_retry_sends_what_provably_was_not_sent() -> None:
    world = rig(device(1))
    world.intune.script[device_id(1)].append(Answer(AnswerKind.APPROVAL_REQUIRED))
    await world.trigger(1)
    assert await world.state(1) is State.ATTENTION
    await control(world.parts, command("retry"))
    await world.deliver()
    assert world.intune.wiped() == {device_id(1): 1}
    assert world.told_types()["device.resumed"] == 1
    assert "ann@contoso.example" in {event.who for event in await world.history(1)}


async def test_a_retry_whose_commit_was_reported_as_a_conflict_is_not_refused_as_a_second_one() -> None:
    world = rig(device(1))
    world.intune.script[device_id(1)].append(Answer(AnswerKind.FORBIDDEN))
    await world.trigger(1)
    world.fail(1, took_effect=True, error=Conflict("it was changed since"))
    await control(world.parts, command("retry"))
    for _ in range(3):
        await world.tick(minutes=3)
    assert world.told_types() == {"request.accepted": 1, "device.attention": 1, "device.resumed": 1}
    assert world.intune.wiped() == {device_id(1): 1}


async def test_a_retry_of_what_was_sent_sends_nothing_and_asks_for_further_syncs() -> None:
    world = rig(device(1))
    await world.trigger(1)
    for _ in range(400):
        await world.tick(minutes=1)
    assert await world.state(1) is State.ATTENTION
    before = world.intune.devices[device_id(1)].syncs
    await control(world.parts, command("retry"))
    await world.tick(minutes=1)
    assert world.intune.devices[device_id(1)].syncs == before + 1
    assert world.intune.wiped() == {device_id(1): 1}


async def test_a_retry_of_a_device_that_needs_nobody_is_refused() -> None:
    world = rig(device(1))
    await world.trigger(1)
    await control(world.parts, command("retry"))
    assert len(await refusals(world)) == 1
    assert world.intune.wiped() == {device_id(1): 1}


# --- halt, resume


async def test_a_halt_outlives_restarts_and_stops_every_send_until_it_is_lifted() -> None:
    world = rig(device(1), device(2))
    await world.ask(1)
    await control(world.parts, command("halt"))
    await world.deliver()
    await world.trigger(2, request="R2")
    for _ in range(10):
        await world.tick(hours=1)
    assert world.intune.calls["reset"] == 0
    await control(world.parts, command("resume"))
    await world.deliver()
    assert world.intune.wiped() == {device_id(1): 1, device_id(2): 1}
    kinds = [event.kind async for event in world.store.history("control")]
    assert kinds == [EventKind.HALTED, EventKind.RESUMED]


async def test_a_resume_leaves_devices_held_that_wait_for_something_else() -> None:
    world = rig(device(1))
    await world.ask(1, notBefore="2026-11-21T20:00:00Z")
    await control(world.parts, command("halt"))
    await control(world.parts, command("resume"))
    await world.deliver()
    assert await world.state(1) is State.HELD


async def test_a_resume_without_a_halt_is_no_fault() -> None:
    world = rig()
    await control(world.parts, command("resume"))


@pytest.mark.parametrize("took_effect", [False, True])
async def test_a_resume_that_comes_back_after_a_crash_lets_every_device_go(took_effect: bool) -> None:
    for commit in (1, 2, 3, 4):
        world = rig(*(device(number) for number in range(1, 31)))
        await control(world.parts, command("halt"))
        await world.ask(*range(1, 31))
        world.fail(commit, took_effect=took_effect)
        with pytest.raises(Crash):
            await control(world.parts, command("resume"))
        world.heal()
        await control(world.parts, command("resume"))
        await world.tick(minutes=1)
        assert world.intune.wiped() == {device_id(number): 1 for number in range(1, 31)}


async def test_a_halt_lifted_while_a_request_is_being_taken_in_leaves_no_device_held() -> None:
    world = rig(*(device(number) for number in range(1, 61)))
    await control(world.parts, command("halt"))

    async def resume() -> None:
        await control(world.other_instance(), command("resume"))

    world.meanwhile("reset|", resume)  # at the commit that holds the first devices
    await intake(world.parts, asking(*range(1, 61)))
    await world.deliver()
    assert len(world.intune.wiped()) == 60


async def test_halt_and_dispatch_at_once_send_either_before_the_halt_or_not_at_all() -> None:
    world = rig(*(device(number) for number in range(1, 41)))
    await world.ask(*range(1, 41))
    await asyncio.gather(world.deliver(), control(world.other_instance(), command("halt")))
    sent = len(world.intune.wiped())
    await world.tick(hours=1)
    assert len(world.intune.wiped()) == sent
    assert {await world.state(number) for number in range(1, 41)} <= {State.TRIGGERED, State.HELD}


# --- messages that are no command


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("{", "message"),
        ('"cancel"', "message"),
        (command("explode"), "command"),
        (command("cancel", requestId="a/b"), "requestId"),
        (command("halt", by=""), "by"),
        (command("halt", why="x" * 501), "why"),
        (command("halt", colour="blue"), "colour"),
        (command("halt", **{"x" * 50_000: 1}), "x"),
        ('{"command": "halt"}', "by"),
    ],
)
async def test_a_malformed_command_is_refused_with_the_field_named(body: str, field: str) -> None:
    world = rig(device(1))
    await control(world.parts, body)
    await world.deliver()
    (notice,) = world.told()
    assert notice["type"] == "io.turnaround.command.refused"
    assert notice["data"]["code"] == Code.MALFORMED
    assert field in notice["data"]["message"] or field == "message"
    assert await world.store.halt() is None


async def test_two_refused_commands_are_told_with_two_ids() -> None:
    world = rig()
    await control(world.parts, command("cancel", requestId="R1"))
    world.clock.forward(hours=1)
    await control(world.parts, command("retry", requestId="R1", why="other"))
    await control(world.parts, "{")
    await control(world.parts, command("explode"))
    await world.deliver()
    assert len({one["id"] for one in world.told()}) == 4
