"""Commands: each does exactly what it says, and each is answered or recorded."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from shared.domain.devices import ActionState
from shared.domain.ids import RequestId
from shared.domain.orders import Answer, AnswerKind
from shared.domain.reasons import Code
from shared.domain.reset import EventKind
from shared.domain.states import State
from shared.domain.timing import Occurrence
from shared.domain.windows import Windows
from shared.messages.queues import DISPATCH, REQUESTS
from shared.pipeline.control import control
from shared.pipeline.intake import intake
from shared.pipeline.status import request_status
from shared.pipeline.windows import windows
from shared.state import rows
from shared.state.rows import RequestRecord
from shared.state.table import Conflict, Scalar
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


# --- retry of what failed: a new request of whoever retries


async def failed(*numbers: int, request: str = "R1", **policy: object) -> Rig:
    """The devices took their resets, and these failed."""
    world = rig(*(device(number) for number in range(1, 7)))
    world.with_policy(**policy)
    await world.trigger(*range(1, 7), request=request)
    world.clock.forward(minutes=3)
    for number in numbers:
        world.intune.check_in(device_id(number), ActionState.FAILED)
    await world.turn_around(*(number for number in range(1, 7) if number not in numbers))
    assert {await world.state(number, request) for number in numbers} == {State.FAILED}
    return world


async def retries(world: Rig) -> list[RequestRecord]:
    """The requests that retries have made."""
    records = [rows.adapter(RequestRecord).validate_json(str(row["doc"])) for row in requests_of(world)]
    return [record for record in records if "etry" in record.ticket]


def requests_of(world: Rig) -> list[Mapping[str, Scalar]]:
    return list(world.table.contents("request|").values())


async def retry(world: Rig, **fields: object) -> None:
    await control(world.parts, command("retry", **fields))
    await world.deliver()


async def test_a_retry_of_devices_that_failed_is_one_new_request_of_whoever_retries_for_these_alone() -> None:
    world = await failed(1, 2)
    await retry(world)
    assert world.intune.wiped() == {device_id(number): 2 if number < 3 else 1 for number in range(1, 7)}
    (made,) = await retries(world)
    assert made.requester == "ann@contoso.example"
    assert made.ticket == "Retry of R1: because"
    assert [event.evidence["as"] async for event in world.store.history("request:R1") if event.kind == "retried"] == [
        made.id
    ]


async def test_a_retry_that_comes_twice_makes_one_request_and_is_answered_quietly() -> None:
    world = await failed(1, 2)
    for _ in range(3):
        await retry(world)
        await world.tick(minutes=1)
    assert len(await retries(world)) == 1
    await world.turn_around(1, 2)
    await retry(world)
    assert world.intune.wiped() == {device_id(number): 2 if number < 3 else 1 for number in range(1, 7)}
    assert await refusals(world) == []


async def test_s13_a_device_whose_retry_went_well_is_not_reset_by_a_further_retry_of_the_first_request() -> None:
    """It may have its next user by then."""
    world = await failed(1, 2)
    await retry(world, intuneId=device_id(1))
    await world.turn_around(1)
    await retry(world, why="the other one too")
    assert world.intune.wiped()[device_id(1)] == 2, "its reset that failed, and its retry"
    assert world.intune.wiped()[device_id(2)] == 2
    await retry(world, why="once more")
    assert world.intune.wiped()[device_id(1)] == 2
    assert world.intune.wiped()[device_id(2)] == 2
    assert await refusals(world) == [Code.UNKNOWN_DEVICE]


async def test_s14_what_failed_longer_ago_than_a_request_is_valid_is_not_retried() -> None:
    """Somebody may have reset it by hand and handed it out."""
    world = await failed(1, request_valid_for="P2D")
    await world.tick(days=2)
    world.intune.check_in(device_id(1))
    await retry(world)
    assert world.intune.wiped()[device_id(1)] == 1
    assert await refusals(world) == [Code.UNKNOWN_DEVICE]


async def test_a_retry_of_one_device_is_of_this_one() -> None:
    world = await failed(1, 2)
    await retry(world, intuneId=device_id(2).upper())
    assert world.intune.wiped()[device_id(1)] == 1
    assert world.intune.wiped()[device_id(2)] == 2


async def test_what_failed_in_a_lab_window_can_be_retried() -> None:
    world = rig(device(1))
    world.clock.now = datetime(2026, 11, 21, 18, 0, tzinfo=UTC)
    await windows(world.parts, LAB)
    await world.deliver()
    world.clock.forward(minutes=3)
    world.intune.check_in(device_id(1), ActionState.FAILED)
    await world.tick(minutes=1)
    await world.tick(minutes=5)  # which is when the device is looked at
    await retry(world, requestId=OPENING)
    assert world.intune.wiped() == {device_id(1): 2}


async def test_s5_a_retry_waits_for_a_second_person_like_any_request() -> None:
    world = await failed(1, 2, 3)
    world.with_policy(approval_above=2, approvers=["ann@*", "eve"])
    await retry(world)
    assert sum(world.intune.wiped().values()) == 6
    (made,) = await retries(world)
    assert made.terms is not None
    for by in ("ann@contoso.example", "eve"):
        approve = {"command": "approve", "by": by, "why": "x", "requestId": made.id, "digest": made.terms.digest}
        await control(world.parts, json.dumps(approve))
        await world.deliver()
        assert sum(world.intune.wiped().values()) == (6 if by != "eve" else 9), "nobody approves their own retry"


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ({"resets_per_device": 1}, Code.DEVICE_LIMIT),
        ({"requesters": [{"name": "ann@*", "devices": ["SN6"]}]}, Code.OUT_OF_SCOPE),
        ({"requesters": [{"name": "bob"}], "halt_on_unknown_requester": False}, Code.UNKNOWN_REQUESTER),
        ({"protected_devices": ["PC-*"]}, Code.PROTECTED),
    ],
)
async def test_s15_a_retry_is_judged_as_a_request_of_whoever_retries(policy: dict[str, object], code: Code) -> None:
    world = await failed(1, 2)
    world.with_policy(**policy)
    await retry(world)
    assert sum(world.intune.wiped().values()) == 6
    refused = [one["data"]["code"] for one in world.told() if one["type"].endswith("device.refused")]
    assert refused == [code, code]


async def test_s4_a_retry_waits_where_a_cap_has_no_room() -> None:
    world = await failed(1, 2)
    world.with_policy(resets_per_day=7)
    await retry(world)
    assert sum(world.intune.wiped().values()) == 7
    await world.tick(hours=16)
    assert sum(world.intune.wiped().values()) == 8


@pytest.mark.parametrize("took_effect", [False, True])
async def test_a_retry_that_comes_back_after_a_crash_makes_one_request(took_effect: bool) -> None:
    commit = 0
    while True:
        commit += 1
        world = await failed(1, 2)
        world.fail(commit, took_effect=took_effect)
        try:
            await control(world.parts, command("retry"))
            break
        except Crash:
            world.heal()
        await control(world.parts, command("retry"))
        await world.tick(minutes=1)
        assert len(await retries(world)) == 1
        assert sum(world.intune.wiped().values()) == 8
    assert commit > 1


async def test_a_request_of_hundreds_that_failed_is_retried_in_as_many_messages_as_it_takes() -> None:
    numbers = range(1, 301)
    world = rig(*map(device, numbers))
    world.with_policy(resets_per_day=1000)
    await world.trigger(*numbers)
    world.clock.forward(minutes=3)
    for number in numbers:
        world.intune.check_in(device_id(number), ActionState.FAILED)
    await world.tick(minutes=1)
    await world.tick(minutes=5)  # which is when the device is looked at
    await retry(world)
    assert world.intune.wiped() == {device_id(number): 2 for number in numbers}


# --- who may command what, from where


@pytest.mark.parametrize("name", ["cancel", "halt"])
async def test_s10_commands_that_stop_things_are_taken_from_the_queue_of_requests(name: str) -> None:
    world = rig(device(1))
    await world.ask(1)
    await world.queues.send(REQUESTS, command(name))
    await lose_dispatch(world)
    await world.deliver()
    await world.tick(minutes=6)
    assert world.intune.wiped() == {}
    assert await world.state(1) is (State.CANCELLED if name == "cancel" else State.HELD)


@pytest.mark.parametrize("name", ["resume", "retry", "approve", "decline", "Resume", "explode", None, 5, {}, []])
async def test_s10_no_other_command_is_taken_from_the_queue_of_requests(name: object) -> None:
    world = rig(device(1))
    world.with_policy(approval_above=0, approvers=["ann@contoso.example"])
    await world.ask(1)
    await control(world.parts, command("halt"))
    known = await world.store.request(RequestId("R1"))
    assert known is not None
    assert known.record.terms is not None
    fields: dict[str, object] = {"requestId": "R1"} if name in ("retry", "approve", "decline") else {}
    fields |= {"digest": known.record.terms.digest} if name in ("approve", "decline") else {}
    before = await world.store.request(RequestId("R1"))
    await intake(world.parts, json.dumps(json.loads(command("x", **fields)) | {"command": name}))
    assert await refusals(world) == [Code.MALFORMED]
    assert await world.store.request(RequestId("R1")) == before
    assert await world.store.halt() is not None
    assert await world.state(1) is State.HELD


LAB = Windows.model_validate(
    {"window": [{"name": "lab", "cron": "0 18 * * *", "open_for": "PT2H", "group_tag": "LAB"}]}
)
OPENING = "window:lab:20261121T1800Z"


async def test_s15_ids_of_lab_windows_are_refused_to_all_but_their_opening_and_block_no_window() -> None:
    world = rig(device(1), device(2))
    forged = LAB.window[0].request(
        Occurrence(datetime(2026, 11, 21, 18, tzinfo=UTC), datetime(2026, 11, 21, 20, tzinfo=UTC))
    )
    for body in (
        asking(1, request=OPENING),
        asking(1, request="window:x"),
        forged.model_dump_json(by_alias=True, exclude_none=True),
    ):
        await world.queues.send(REQUESTS, body)
    await world.deliver()
    told = [one["data"]["code"] for one in world.told() if one["type"].endswith("request.refused")]
    assert told == [Code.RESERVED_ID] * 3
    assert world.intune.wiped() == {}
    world.clock.now = datetime(2026, 11, 21, 18, 0, tzinfo=UTC)
    await windows(world.parts, LAB)
    await world.queues.send(REQUESTS, asking(2, request=OPENING))
    await world.deliver()
    assert world.intune.wiped() == {device_id(1): 1, device_id(2): 1}
    status = await request_status(world.store, RequestId(OPENING))
    assert status is not None
    assert status.counts == {State.TRIGGERED: 2}


# --- halt, resume


async def test_s6_a_halt_outlives_restarts_and_stops_every_send_until_it_is_lifted() -> None:
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


async def test_s6_a_halt_lifted_while_a_request_is_being_taken_in_leaves_no_device_held() -> None:
    world = rig(*(device(number) for number in range(1, 61)))
    await control(world.parts, command("halt"))

    async def resume() -> None:
        await control(world.other_instance(), command("resume"))

    world.meanwhile("reset|", resume)  # at the commit that holds the first devices
    await intake(world.parts, asking(*range(1, 61)))
    await world.deliver()
    assert len(world.intune.wiped()) == 60


async def test_s6_halt_and_dispatch_at_once_send_either_before_the_halt_or_not_at_all() -> None:
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
