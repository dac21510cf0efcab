"""A large or sensitive request waits for a second person, who approves exactly what it would do (S5)."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from shared.domain.ids import RequestId
from shared.domain.reasons import Code
from shared.domain.request import ResetRequest
from shared.domain.reset import EventKind
from shared.domain.states import State
from shared.messages.queues import REQUESTS
from shared.pipeline.control import control
from shared.pipeline.intake import expand, intake
from shared.pipeline.plan import Plan, plan, situation
from shared.state.store import Store
from tests.pipeline.fakes import Crash, FaultyTable, Rig, asking, device, device_id, rig

APPROVER = "eve@contoso.example"


def approvable(*numbers: int, **policy: Any) -> Rig:  # Any: fields of the policy
    world = rig(*(device(number) for number in numbers))
    world.with_policy(**{"approval_above": 2, "approvers": ["eve@*", "service@contoso.example"]} | policy)
    return world


async def digest(world: Rig, request: str = "R1") -> str:
    known = await world.store.request(RequestId(request))
    assert known is not None
    assert known.record.terms is not None
    return known.record.terms.digest


async def decide(world: Rig, command: str = "approve", **fields: Any) -> None:  # Any: fields of the message
    body = {"command": command, "requestId": "R1", "by": APPROVER, "why": "seen"} | fields
    await control(world.parts, json.dumps(body))
    await world.deliver()


async def refused(world: Rig) -> list[str]:
    await world.deliver()
    return [one["data"]["code"] for one in world.told() if one["type"].endswith("command.refused")]


async def planned(world: Rig, request: ResetRequest) -> Plan:
    now = world.clock()
    met = await situation(world.store, request, [], now, world.parts.policy)
    return plan(request, await world.intune.find(request.references()), met, world.parts.policy, now)


async def test_s5_a_request_above_the_size_waits_for_a_second_person_and_its_sender_is_told_the_digest() -> None:
    world = approvable(1, 2, 3)
    await world.trigger(1, 2, 3)
    await world.tick(minutes=30)
    assert world.intune.wiped() == {}
    (needed,) = [one for one in world.told() if one["type"].endswith("request.approval_needed")]
    assert needed["data"]["evidence"] == {"digest": await digest(world), "devices": "3"}
    await decide(world, digest=await digest(world))
    assert world.intune.wiped() == {device_id(number): 1 for number in (1, 2, 3)}


async def test_s5_a_request_within_the_size_needs_nobody() -> None:
    world = approvable(1, 2)
    await world.trigger(1, 2)
    assert len(world.intune.wiped()) == 2


async def test_s5_devices_that_are_refused_anyway_do_not_count() -> None:
    world = approvable(1, 2)
    world.intune.add(device(3, operating_system="macOS"))
    await world.trigger(1, 2, 3)
    assert len(world.intune.wiped()) == 2


async def test_s5_one_sensitive_device_makes_any_request_wait() -> None:
    world = approvable(1, 2, sensitive_devices=["SN2"])
    await world.trigger(1, 2)
    assert world.intune.wiped() == {}
    await decide(world, digest=await digest(world))
    assert len(world.intune.wiped()) == 2


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"by": "service@contoso.example"}, Code.OWN_REQUEST),
        ({"by": "  SERVICE@Contoso.example"}, Code.OWN_REQUEST),
        ({"by": "mallory@contoso.example"}, Code.NOT_AN_APPROVER),
        ({"digest": "0" * 64}, Code.DIGEST_DIFFERS),
        ({"requestId": "R2"}, None),
    ],
)
async def test_s5_what_is_no_approval_lets_nothing_go_and_is_answered(
    fields: dict[str, str], code: Code | None
) -> None:
    world = approvable(1, 2, 3)
    await world.trigger(1, 2, 3)
    await decide(world, **{"digest": await digest(world)} | fields)
    await world.tick(minutes=5)
    assert world.intune.wiped() == {}
    assert await refused(world) == ([code] if code else [])


async def test_s5_nobody_can_approve_where_the_policy_names_nobody() -> None:
    world = approvable(1, 2, 3, approvers=[])
    await world.trigger(1, 2, 3)
    await decide(world, digest=await digest(world))
    assert world.intune.wiped() == {}
    assert await refused(world) == [Code.NOT_AN_APPROVER]


async def test_s5_a_request_that_nobody_approves_in_time_is_refused() -> None:
    world = approvable(1, 2, 3, approval_within="PT2H")
    await world.trigger(1, 2, 3)
    await world.tick(hours=2, minutes=1)
    assert [await world.state(number) for number in (1, 2, 3)] == [State.REFUSED] * 3
    assert world.intune.wiped() == {}
    await decide(world, digest=await digest(world))
    assert world.intune.wiped() == {}


async def test_s5_an_approval_that_is_too_old_lets_nothing_go_until_it_is_given_anew() -> None:
    world = approvable(1, 2, 3, approval_valid_for="PT1H", approval_within="P2D")
    await world.trigger(1, 2, 3)
    await control(world.parts, json.dumps({"command": "halt", "by": "ops", "why": "drill"}))
    await decide(world, digest=await digest(world))
    world.clock.forward(hours=2)
    await control(world.parts, json.dumps({"command": "resume", "by": "ops", "why": "over"}))
    await world.deliver()
    assert world.intune.wiped() == {}
    assert await world.state(1) is State.HELD
    await decide(world, digest=await digest(world))
    assert len(world.intune.wiped()) == 3


async def test_s5_a_declined_request_is_refused_with_the_reason() -> None:
    world = approvable(1, 2, 3)
    await world.trigger(1, 2, 3)
    await decide(world, "decline", digest=await digest(world), why="exam week")
    assert [await world.state(number) for number in (1, 2, 3)] == [State.REFUSED] * 3
    assert "exam week" in world.told()[-1]["data"]["message"]


async def test_s5_a_decline_at_any_moment_of_the_intake_holds_for_all_of_the_request_and_nobody_approves_it_then() -> (
    None
):
    call = 0
    while True:
        call += 1
        world = approvable(*range(1, 25))
        agreed = (await planned(world, ResetRequest.model_validate_json(asking(*range(1, 25))))).digest
        declined = {"command": "decline", "requestId": "R1", "by": "eve@first", "why": "exams", "digest": agreed}

        async def decline(world: Rig = world, body: str = json.dumps(declined)) -> None:
            await control(world.other_instance(), body)

        world.at_call(call * 7, decline)
        await intake(world.parts, asking(*range(1, 25)))
        if world.still_to_happen:
            break
        too_early = await refused(world) == [Code.NOTHING_TO_APPROVE]
        await decide(world, digest=agreed, by="eve@second")
        await world.tick(minutes=6)
        assert len(world.intune.wiped()) == (24 if too_early else 0), f"declined before call {call * 7}"
        if not too_early:
            assert {await world.state(number) for number in range(1, 25)} == {State.REFUSED}
            assert (await refused(world))[-1] == Code.APPROVAL_REFUSED
            assert world.table.keys("due|") == []
    assert call > 5


async def test_s5_a_decline_after_somebody_elses_approval_stops_what_was_not_sent() -> None:
    world = approvable(1, 2, 3)
    await world.ask(1, 2, 3, notBefore="2026-11-21T12:00:00Z")
    await decide(world, digest=await digest(world), by="eve@first")
    await decide(world, "decline", digest=await digest(world), by="eve@second")
    await world.tick(hours=4)
    assert world.intune.wiped() == {}
    assert [await world.state(number) for number in (1, 2, 3)] == [State.REFUSED] * 3


async def test_s5_only_whoever_may_approve_may_decline() -> None:
    world = approvable(1, 2, 3)
    await world.trigger(1, 2, 3)
    await decide(world, "decline", digest=await digest(world), by="mallory@contoso.example")
    assert await world.state(1) is State.HELD


async def test_s5_who_approved_what_and_why_is_in_the_history() -> None:
    world = approvable(1, 2, 3)
    await world.trigger(1, 2, 3)
    await decide(world, digest=await digest(world), why="term is over")
    events = [event async for event in world.store.history("request:R1") if event.kind is EventKind.APPROVED]
    assert [(event.who, event.evidence["why"]) for event in events] == [(APPROVER, "term is over")]
    assert events[0].evidence["digest"] == await digest(world)


async def test_s5_an_approval_that_comes_twice_counts_once() -> None:
    world = approvable(1, 2, 3)
    await world.trigger(1, 2, 3)
    for _ in range(2):
        await decide(world, digest=await digest(world))
    assert world.told_types()["request.approved"] == 1
    assert world.intune.wiped() == {device_id(number): 1 for number in (1, 2, 3)}


# --- plans


async def test_s5_a_plan_that_was_approved_runs_without_waiting() -> None:
    world = approvable(1, 2, 3)
    request = ResetRequest.model_validate_json(asking(1, 2, 3))
    await decide(world, digest=(await planned(world, request)).digest)
    await world.trigger(1, 2, 3)
    assert world.intune.wiped() == {device_id(number): 1 for number in (1, 2, 3)}
    assert world.told_types()["request.approved"] == 1
    assert world.table.keys("approval|") == []


@pytest.mark.parametrize(
    "other",
    [
        {"reason": "another"},
        {"requester": "bob@contoso.example"},
        {"notBefore": "2026-11-21T09:00:00Z"},
        {"readyBy": "2026-11-22T09:00:00Z"},
        {"devices": [{"serialNumber": f"SN{number}"} for number in (1, 2, 4)]},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_s5_a_request_that_differs_from_the_approved_plan_waits_for_an_approval_of_its_own(
    other: dict[str, Any],  # Any: fields of the request
) -> None:
    world = approvable(1, 2, 3, 4)
    request = ResetRequest.model_validate_json(asking(1, 2, 3))
    await decide(world, digest=(await planned(world, request)).digest)
    await world.queues.send(REQUESTS, asking(1, 2, 3, **other))
    await world.deliver()
    assert world.intune.wiped() == {}
    (needed,) = [one for one in world.told() if one["type"].endswith("request.approval_needed")]
    assert "not what the request would do now" in needed["data"]["message"]


async def test_s5_devices_that_joined_the_group_since_the_plan_was_approved_are_not_reset_by_it() -> None:
    world = approvable(1, 2, 3)
    body = asking(devices=[{"groupTag": "LAB"}])
    await decide(world, digest=(await planned(world, ResetRequest.model_validate_json(body))).digest)
    world.intune.add(device(4))
    await world.queues.send(REQUESTS, body)
    await world.deliver()
    assert world.intune.wiped() == {}


async def test_s5_nobody_approves_a_plan_that_then_is_their_own_request() -> None:
    world = approvable(1, 2, 3)
    request = ResetRequest.model_validate_json(asking(1, 2, 3, requester=APPROVER))
    await decide(world, digest=(await planned(world, request)).digest)
    await world.queues.send(REQUESTS, asking(1, 2, 3, requester=APPROVER))
    await world.deliver()
    assert world.intune.wiped() == {}


async def test_s5_what_changed_since_the_approval_is_seen_before_the_reset_is_sent() -> None:
    world = approvable(1, 2, 3)
    await world.ask(1, 2, 3)
    world.clock.forward(minutes=20)
    world.intune.check_in(device_id(2), primary_user="99999999-1111-4111-8111-111111111111")
    await decide(world, digest=await digest(world))
    assert world.intune.wiped() == {device_id(1): 1, device_id(3): 1}
    assert await world.state(2) is State.REFUSED


# --- at bad moments


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("prefix", ["request|", "reset|", "approval|"])
async def test_s5_an_approval_at_any_moment_of_the_intake_is_neither_lost_nor_taken_for_another(
    prefix: str, after: bool
) -> None:
    world = approvable(1, 2, 3)
    made = await planned(world, ResetRequest.model_validate_json(asking(1, 2, 3)))
    other = world.other_instance()

    async def approve() -> None:
        body = {"command": "approve", "requestId": "R1", "by": APPROVER, "why": "seen", "digest": made.digest}
        await control(other, json.dumps(body))

    world.meanwhile(prefix, approve, after=after)
    await intake(world.parts, asking(1, 2, 3))
    if world.faulty.interruptions:
        await approve()
    await world.deliver()
    assert world.intune.wiped() == {device_id(number): 1 for number in (1, 2, 3)}


@pytest.mark.parametrize("took_effect", [False, True])
async def test_s5_a_crash_at_any_commit_of_an_approval_loses_nothing(took_effect: bool) -> None:
    for commit in range(1, 6):
        world = approvable(1, 2, 3)
        await world.ask(1, 2, 3)
        body = {"command": "approve", "requestId": "R1", "by": APPROVER, "why": "seen", "digest": await digest(world)}
        world.fail(commit, took_effect=took_effect, error=ConnectionError("the table is away"))
        try:
            await control(world.parts, json.dumps(body))
        except ConnectionError:
            world.heal()
            await control(world.parts, json.dumps(body))
        world.heal()
        await world.deliver()
        await world.tick(minutes=6)
        assert world.intune.wiped() == {device_id(number): 1 for number in (1, 2, 3)}, f"commit {commit}"


# --- taken in anew after a crash, when the devices may be others


def joins(world: Rig) -> None:
    world.intune.add(device(5))


def leaves(world: Rig) -> None:
    left = world.intune.devices[device_id(4)]
    assert left.facts.autopilot is not None
    left.facts = replace(left.facts, autopilot=replace(left.facts.autopilot, group_tag="OTHER"))


def looks_unfit(world: Rig) -> None:
    for number in (1, 2):
        world.intune.devices[device_id(number)].change(management_state="retirePending")


@pytest.mark.parametrize("planned_first", [False, True])
@pytest.mark.parametrize("took_effect", [False, True])
@pytest.mark.parametrize("what", [joins, leaves, looks_unfit])
async def test_s5_a_request_begun_anew_resets_exactly_what_is_approved_then(
    what: Callable[[Rig], None], took_effect: bool, planned_first: bool
) -> None:
    body = asking(devices=[{"groupTag": "LAB"}])
    commit = 0
    while True:
        commit += 1
        world = approvable(1, 2, 3, 4)
        agreed = (await planned(world, ResetRequest.model_validate_json(body))).digest
        if planned_first:
            await decide(world, digest=agreed)
        world.fail(commit, took_effect=took_effect)
        try:
            await intake(world.parts, body)
            break
        except Crash:
            world.heal()
        known = await world.store.request(RequestId("R1"))
        if known is None or known.record.terms is None:
            continue  # nothing had begun
        what(world)
        await intake(world.parts, body)
        for number in (1, 2):
            world.intune.devices[device_id(number)].change(management_state="managed")
        await world.tick(minutes=4)
        found = await digest(world)
        if not planned_first or found != agreed:
            assert set(world.intune.wiped()) <= {device_id(number) for number in range(1, 5)}, f"commit {commit}"
            assert world.intune.wiped() == {} or planned_first
            await decide(world, digest=found)
        known = await world.store.request(RequestId("R1"))
        assert known is not None
        assert known.record.terms is not None
        assert known.record.terms.needs
        await world.tick(minutes=6)
        assert len(world.intune.wiped()) == known.record.terms.devices, f"commit {commit}"
    assert commit > 6


async def test_s5_an_instance_that_found_other_devices_before_takes_none_of_them_under_newer_terms() -> None:
    world = approvable(1, 2, 3, 4)
    body = asking(devices=[{"groupTag": "LAB"}])
    world.intune.down = {"find"}
    await intake(world.parts, body)
    world.intune.down = set()

    async def left_and_looked_up_anew() -> None:
        """By another instance, which dies once it has written down the newer terms."""
        leaves(world)
        dying = FaultyTable(world.table, fail_at=3)
        with pytest.raises(Crash):
            await expand(replace(world.other_instance(), store=Store(dying)), RequestId("R1"))

    world.meanwhile(f"reset|{device_id(1)}", left_and_looked_up_anew)
    await expand(world.parts, RequestId("R1"))
    assert not world.still_to_happen
    await world.tick(minutes=4)
    await decide(world, digest=await digest(world))
    assert world.intune.wiped() == {device_id(number): 1 for number in (1, 2, 3)}


async def test_s5_whom_the_policy_does_not_name_cannot_put_their_approval_in_the_place_of_an_approvers() -> None:
    world = approvable(1, 2, 3)
    made = await planned(world, ResetRequest.model_validate_json(asking(1, 2, 3)))
    await decide(world, digest=made.digest)
    await decide(world, digest="0" * 64, by="mallory@contoso.example")
    await world.trigger(1, 2, 3)
    assert len(world.intune.wiped()) == 3
    assert await refused(world) == [Code.NOT_AN_APPROVER]
