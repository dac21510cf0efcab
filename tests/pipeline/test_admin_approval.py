"""Intune's Multi Admin Approval is followed, never worked around: nothing goes twice, nothing without consent (S9)."""

import json
from typing import Any

import pytest

from shared.domain.ids import RequestId, UserId
from shared.domain.orders import AdminDecision, Answer, AnswerKind, Order
from shared.domain.reasons import Code
from shared.domain.states import State
from shared.messages.queues import DISPATCH
from shared.pipeline.control import control
from shared.pipeline.dispatch import dispatch
from shared.pipeline.status import request_status
from shared.pipeline.sweep import sweep
from tests.pipeline.fakes import Crash, Dies, Lost, Rig, device, device_id, rig

POLL = 11
"""Minutes after which Intune is asked what was decided."""


def intercepted(number: int) -> Answer:
    return Answer(AnswerKind.APPROVAL_REQUIRED, "Somebody must approve it.", approval_code=f"code-{number}")


async def awaiting(*numbers: int, **policy: Any) -> Rig:  # Any: fields of the policy
    """Intune has stopped the orders of these devices, each under a code of its own."""
    world = rig(*map(device, numbers))
    world.with_policy(**{"audit_after": "PT5M", "sending_for": "PT30M"} | policy)
    for number in numbers:
        world.intune.script[device_id(number)].append(intercepted(number))
    await world.trigger(*numbers)
    assert {await world.state(number) for number in numbers} == {State.AWAITING_ADMIN_APPROVAL}
    assert world.intune.wiped() == {}
    return world


def decided(world: Rig, decision: AdminDecision, *numbers: int) -> None:
    for number in numbers:
        world.intune.decisions[f"code-{number}"] = decision


def orders(world: Rig, number: int) -> list[Order]:
    """All orders for a device, in the order sent."""
    return [order for batch in world.intune.batches for order in batch if order.device == device_id(number)]


def told(world: Rig, name: str) -> list[str]:
    once = {one["id"]: one["data"]["code"] for one in world.told() if one["type"] == f"io.turnaround.{name}"}
    return list(once.values())


async def command(world: Rig, name: str, **fields: Any) -> None:  # Any: fields of the message
    body = {"command": name, "by": "ann", "why": "because"} | fields
    if name in ("cancel", "retry"):
        body = {"requestId": "R1"} | body
    await control(world.other_instance(), json.dumps(body))


async def lose_dispatch(world: Rig) -> None:
    for lost in await world.queues.receive(DISPATCH):
        await world.queues.delete(DISPATCH, lost)


# --- followed


async def test_s9_an_order_that_intune_stops_waits_for_its_administrators_and_is_told() -> None:
    world = await awaiting(1)
    assert told(world, "device.held") == [Code.ADMIN_APPROVAL_REQUIRED]
    for _ in range(6):
        await world.tick(minutes=POLL)
    assert len(orders(world, 1)) == 1, "asking what was decided is no order"
    assert world.intune.calls["admin_decisions"] == 6
    assert await world.state(1) is State.AWAITING_ADMIN_APPROVAL
    status = await request_status(world.store, RequestId("R1"))
    assert status is not None
    assert not status.ended


async def test_s9_once_they_agree_the_very_same_order_goes_once_more_with_their_code() -> None:
    world = await awaiting(1, 2)
    decided(world, AdminDecision.APPROVED, 1)
    for _ in range(6):
        await world.tick(minutes=POLL)
    first, second = orders(world, 1)
    assert (first.justification, first.approval_code) == ("Turnaround, request R1: TICKET-1", "")
    assert (second.justification, second.approval_code) == (first.justification, "code-1")
    assert world.intune.wiped() == {device_id(1): 1}, "the other one still waits"
    assert len(orders(world, 2)) == 1
    await world.turn_around(1)
    assert await world.state(1) is State.READY


async def test_s9_twenty_devices_that_are_stopped_and_approved_together_all_go() -> None:
    numbers = range(1, 21)
    world = await awaiting(*numbers)
    assert len(told(world, "device.held")) == 20
    decided(world, AdminDecision.APPROVED, *numbers)
    await world.tick(minutes=POLL)
    assert world.intune.wiped() == {device_id(number): 1 for number in numbers}


@pytest.mark.parametrize(
    ("decision", "state", "code"),
    [
        (AdminDecision.REJECTED, State.REFUSED, Code.ADMIN_APPROVAL_REJECTED),
        (AdminDecision.CANCELLED, State.REFUSED, Code.ADMIN_APPROVAL_REJECTED),
        (AdminDecision.EXPIRED, State.ATTENTION, Code.ADMIN_APPROVAL_EXPIRED),
        (AdminDecision.COMPLETED, State.ATTENTION, Code.SEND_UNKNOWN),
        (AdminDecision.WAITING, State.AWAITING_ADMIN_APPROVAL, Code.ADMIN_APPROVAL_REQUIRED),
        (AdminDecision.UNKNOWN, State.AWAITING_ADMIN_APPROVAL, Code.ADMIN_APPROVAL_REQUIRED),
    ],
)
async def test_s9_without_their_consent_nothing_more_is_sent(decision: AdminDecision, state: State, code: Code) -> None:
    numbers = range(1, 21)
    world = await awaiting(*numbers)
    decided(world, decision, *numbers)
    for _ in range(4):
        await world.tick(minutes=POLL)
    assert {await world.state(number) for number in numbers} == {state}
    assert world.intune.calls["reset"] == 1
    if state is not State.AWAITING_ADMIN_APPROVAL:
        assert told(world, f"device.{state}") == [code] * 20


async def test_s9_what_somebody_else_sent_with_our_code_is_followed_to_its_end_and_never_sent_again() -> None:
    world = await awaiting(1)
    decided(world, AdminDecision.COMPLETED, 1)
    sent = world.intune._order(device_id(1))  # an administrator sends it by the portal
    assert sent.kind is AnswerKind.ACCEPTED
    await world.tick(minutes=POLL)
    await command(world, "retry")
    await world.deliver()
    await world.turn_around(1)
    assert await world.state(1) is State.READY
    assert len(orders(world, 1)) == 1


async def test_s9_while_graph_does_not_tell_what_was_decided_the_device_waits() -> None:
    world = await awaiting(1)
    decided(world, AdminDecision.APPROVED, 1)
    world.intune.down = {"admin_decisions"}
    for _ in range(4):
        await world.tick(minutes=POLL)
    assert await world.state(1) is State.AWAITING_ADMIN_APPROVAL
    world.intune.down = set()
    await world.tick(minutes=POLL)
    assert world.intune.wiped() == {device_id(1): 1}


async def test_s9_a_decision_that_never_comes_is_a_persons_after_its_time_and_leaves_no_code_behind() -> None:
    world = await awaiting(1)
    for _ in range(29):
        await world.tick(hours=3)
    assert await world.state(1) is State.ATTENTION
    assert told(world, "device.attention") == [Code.ADMIN_APPROVAL_EXPIRED]
    decided(world, AdminDecision.APPROVED, 1)
    await world.tick(minutes=POLL)
    assert world.intune.wiped() == {}, "their consent comes too late"
    world.intune.check_in(device_id(1))
    await command(world, "retry")
    await world.deliver()
    assert [order.approval_code for order in orders(world, 1)] == ["", ""], "a retry asks them anew"


# --- stopped again


@pytest.mark.parametrize("again", [Answer(AnswerKind.APPROVAL_REQUIRED), Answer(AnswerKind.FORBIDDEN, "It ran out.")])
async def test_s9_an_order_that_intune_does_not_take_with_its_own_code_calls_a_person(again: Answer) -> None:
    world = await awaiting(1)
    world.intune.script[device_id(1)].append(again)
    decided(world, AdminDecision.APPROVED, 1)
    for _ in range(6):
        await world.tick(minutes=POLL)
    assert await world.state(1) is State.ATTENTION
    assert len(orders(world, 1)) == 2
    await command(world, "retry")
    await world.deliver()
    assert orders(world, 1)[-1].approval_code == "", "the code is used up: they are asked anew"


async def test_s9_another_request_that_waits_there_for_the_device_calls_a_person() -> None:
    """Intune keeps one request a device, and gives no code for a second."""
    world = rig(device(1))
    world.intune.script[device_id(1)].append(Answer(AnswerKind.APPROVAL_REQUIRED, "One is pending."))
    await world.trigger(1)
    for _ in range(6):
        await world.tick(minutes=POLL)
    assert told(world, "device.attention") == [Code.ADMIN_APPROVAL_REQUIRED]
    assert len(orders(world, 1)) == 1


async def test_s9_a_throttled_resubmission_goes_again_with_the_same_code() -> None:
    world = await awaiting(1)
    world.intune.script[device_id(1)].append(Answer(AnswerKind.THROTTLED))
    decided(world, AdminDecision.APPROVED, 1)
    await world.tick(minutes=POLL)
    await world.tick(minutes=1)
    assert [order.approval_code for order in orders(world, 1)] == ["", "code-1", "code-1"]
    assert world.intune.wiped() == {device_id(1): 1}


@pytest.mark.parametrize("arrived", [False, True])
async def test_s9_a_resubmission_whose_answer_was_lost_is_not_sent_again_blindly(arrived: bool) -> None:
    world = await awaiting(1)
    world.intune.script[device_id(1)].append(Lost(arrived=arrived))
    decided(world, AdminDecision.APPROVED, 1)
    await world.tick(minutes=POLL)
    world.intune.down = {"look", "audited_resets"}
    for _ in range(2):
        await world.tick(minutes=6)
    assert len(orders(world, 1)) == 2, "nothing is known yet"
    world.intune.down = set()
    await world.tick(minutes=6)
    assert world.intune.wiped() == {device_id(1): 1}
    assert [order.approval_code for order in orders(world, 1)] == ["", "code-1", *([] if arrived else ["code-1"])]
    assert {order.justification for order in orders(world, 1)} == {"Turnaround, request R1: TICKET-1"}


async def test_s9_an_order_that_may_have_been_taken_before_it_was_stopped_calls_a_person() -> None:
    world = rig(device(1))
    world.intune.script[device_id(1)].extend([Lost(arrived=False), intercepted(1)])
    await world.trigger(1)
    for _ in range(8):
        await world.tick(minutes=2)
    assert await world.state(1) is State.ATTENTION
    assert told(world, "device.attention") == [Code.SEND_UNKNOWN]


# --- with the other guardrails


async def test_s9_consent_under_a_halt_waits_for_the_resume_with_its_code() -> None:
    world = await awaiting(1)
    await command(world, "halt")
    decided(world, AdminDecision.APPROVED, 1)
    for _ in range(3):
        await world.tick(minutes=POLL)
    reset = await world.reset(1)
    assert (reset.state, reset.approval_code) == (State.HELD, "code-1")
    assert len(orders(world, 1)) == 1
    await command(world, "resume")
    await world.deliver()
    assert [order.approval_code for order in orders(world, 1)] == ["", "code-1"]
    assert world.intune.wiped() == {device_id(1): 1}


async def test_s9_consent_counts_against_the_caps_once() -> None:
    world = await awaiting(1, resets_per_device=1, resets_per_day=2, resets_per_hour=2)
    decided(world, AdminDecision.APPROVED, 1)
    await world.tick(minutes=POLL)
    counted = await world.store.orders()
    assert counted is not None
    assert counted.record.today(world.clock()) == 1


async def test_s9_a_cancel_while_they_decide_is_exact_whatever_they_say_later() -> None:
    world = await awaiting(1, 2)
    await command(world, "cancel")
    decided(world, AdminDecision.APPROVED, 1, 2)
    for _ in range(3):
        await world.tick(minutes=POLL)
    assert {await world.state(number) for number in (1, 2)} == {State.CANCELLED}
    assert world.intune.calls["reset"] == 1
    assert world.table.keys("reset|") == world.table.keys("due|") == []


async def test_s9_a_cancel_that_comes_with_their_consent_is_exact() -> None:
    call = 0
    while True:
        call += 1
        world = await awaiting(1)
        decided(world, AdminDecision.APPROVED, 1)
        world.clock.forward(minutes=POLL)

        async def cancelled(world: Rig = world) -> None:
            await command(world, "cancel")

        world.at_call(call, cancelled)
        await sweep(world.parts)
        await world.deliver()
        if world.still_to_happen:
            break
        gone = await world.state(1) is State.CANCELLED
        assert len(orders(world, 1)) == (1 if gone else 2), f"cancelled before call {call}"
    assert call > 10


async def test_s9_a_device_that_got_another_user_while_they_decided_is_not_reset() -> None:
    world = await awaiting(1, 2)
    world.clock.forward(days=1)
    for number in (1, 2):
        world.intune.check_in(device_id(number))
    world.intune.devices[device_id(1)].change(primary_user=UserId("22222222-2222-4222-8222-222222222222"))
    decided(world, AdminDecision.APPROVED, 1, 2)
    await world.tick(minutes=1)
    assert await world.state(1) is State.REFUSED
    assert told(world, "device.refused") == [Code.HANDED_ON]
    assert world.intune.wiped() == {device_id(2): 1}


async def test_s9_a_request_that_grows_too_old_while_they_decide_is_not_sent() -> None:
    world = await awaiting(1, request_valid_for="P1D")
    for _ in range(9):
        await world.tick(hours=3)
    decided(world, AdminDecision.APPROVED, 1)
    await world.tick(minutes=POLL)
    assert await world.state(1) is State.REFUSED
    assert world.intune.wiped() == {}


# --- at bad moments


@pytest.mark.parametrize("took_effect", [False, True])
@pytest.mark.parametrize("decision", [AdminDecision.APPROVED, AdminDecision.REJECTED, AdminDecision.EXPIRED])
async def test_s9_a_crash_at_any_commit_after_their_decision_carries_it_out_once(
    decision: AdminDecision, took_effect: bool
) -> None:
    commit = 0
    while True:
        commit += 1
        world = await awaiting(1, 2)
        decided(world, decision, 1, 2)
        world.clock.forward(minutes=POLL)
        world.fail(commit, took_effect=took_effect)
        try:
            await sweep(world.parts)
            await world.deliver()
            break
        except Crash:
            world.heal()
        for _ in range(6):
            await world.tick(minutes=6)
        approved = decision is AdminDecision.APPROVED
        assert world.intune.wiped() == ({device_id(1): 1, device_id(2): 1} if approved else {}), f"commit {commit}"
        if decision is AdminDecision.REJECTED:
            assert len(told(world, "device.refused")) == 2
    assert commit > 2


@pytest.mark.parametrize("took_effect", [False, True])
async def test_s9_a_crash_at_any_commit_of_an_order_that_is_stopped_never_sends_it_past_them(took_effect: bool) -> None:
    """Where the code is lost with the process, nobody knows that they were asked: the device's order is in doubt."""
    commit = 0
    while True:
        commit += 1
        world = rig(device(1), device(2))
        for number in (1, 2):
            world.intune.script[device_id(number)].append(intercepted(number))
        await world.ask(1, 2)
        await lose_dispatch(world)
        body = json.dumps({"devices": [device_id(1), device_id(2)]})
        world.fail(commit, took_effect=took_effect)
        try:
            await dispatch(world.parts, body)
            break
        except Crash:
            world.heal()
        await dispatch(world.parts, body)
        for number in (1, 2):
            if not world.intune.script[device_id(number)]:
                world.intune.script[device_id(number)].append(Answer(AnswerKind.APPROVAL_REQUIRED, "One is pending."))
        for _ in range(6):
            await world.tick(minutes=6)
        assert world.intune.wiped() == {}, f"commit {commit}"
        states = {await world.state(number) for number in (1, 2)}
        assert states <= {State.AWAITING_ADMIN_APPROVAL, State.ATTENTION}, f"commit {commit}"
    assert commit > 3


async def test_s9_a_process_that_dies_in_the_resubmission_leaves_it_to_be_looked_for() -> None:
    for arrived in (False, True):
        world = await awaiting(1)
        world.intune.script[device_id(1)].append(Dies(arrived=arrived))
        decided(world, AdminDecision.APPROVED, 1)
        with pytest.raises(Crash):
            await world.tick(minutes=POLL)
        for _ in range(5):
            await world.tick(minutes=6)
        assert world.intune.wiped() == {device_id(1): 1}
        assert len(orders(world, 1)) == (2 if arrived else 3)
