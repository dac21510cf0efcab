"""A halt stops every send at once, everywhere, until a person resumes; it throws itself where something is odd (S6)."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.domain.devices import ActionState
from shared.domain.guardrails import Orders
from shared.domain.ids import RequestId
from shared.domain.orders import Answer, AnswerKind
from shared.domain.policy import Policy
from shared.domain.reasons import Code
from shared.domain.request import ResetRequest
from shared.domain.reset import Event, EventKind
from shared.domain.states import State
from shared.messages.queues import DISPATCH, REQUESTS
from shared.pipeline.control import control
from shared.pipeline.dispatch import dispatch
from shared.pipeline.intake import intake
from shared.pipeline.plan import Verdict, plan, situation
from shared.pipeline.status import request_status
from shared.pipeline.sweep import sweep
from shared.state import rows
from shared.state.store import Store
from tests.pipeline.fakes import Crash, Rig, asking, device, device_id, lenient, rig

NUMBERS = (1, 2, 3)
ALL = {device_id(number): 1 for number in NUMBERS}
type Job = Callable[[Rig], Awaitable[None]]


def message(*numbers: int) -> str:
    return json.dumps({"devices": [device_id(number) for number in numbers]})


async def command(world: Rig, name: str, **fields: Any) -> None:  # Any: fields of the message
    body = {"command": name, "by": "ann", "why": "a fire"} | fields
    await control(world.other_instance(), json.dumps(body))


async def halt(world: Rig) -> None:
    await command(world, "halt")


async def resume(world: Rig) -> None:
    await command(world, "resume", why="out")


async def lose(world: Rig, queue: str) -> None:
    for lost in await world.queues.receive(queue):
        await world.queues.delete(queue, lost)


async def told(world: Rig, name: str) -> list[str]:
    """What the notices of this type say, repeats left out as a receiver would by their ids."""
    await world.deliver()
    once = {one["id"]: one["data"].get("message", "") for one in world.told() if one["type"] == f"io.turnaround.{name}"}
    return list(once.values())


# --- a world before each of the stages that send, or let others send


async def before_dispatch() -> tuple[Rig, Job]:
    world = rig(*map(device, NUMBERS))
    await world.ask(*NUMBERS)
    await lose(world, DISPATCH)
    return world, lambda world: dispatch(world.parts, message(*NUMBERS))


async def before_dispatch_on_another_day() -> tuple[Rig, Job]:
    """The number of the tenant's devices is read, and facts too: between the look and the commit lie calls of Graph."""
    world = rig(*map(device, NUMBERS), device(4))
    world.with_policy(fleet_share_per_day=0.5, audit_after="PT5M", sending_for="PT15M")
    await world.trigger(4, request="R0")
    await world.ask(*NUMBERS)
    await lose(world, DISPATCH)
    world.clock.forward(minutes=30)
    return world, lambda world: dispatch(world.parts, message(*NUMBERS))


async def before_intake() -> tuple[Rig, Job]:
    world = rig(*map(device, NUMBERS))

    async def taken(world: Rig) -> None:
        await intake(world.parts, asking(*NUMBERS))

    return world, taken


async def before_approval() -> tuple[Rig, Job]:
    world = rig(*map(device, NUMBERS))
    world.with_policy(approval_above=1, approvers=["eve"])
    await world.trigger(*NUMBERS)
    known = await world.store.request(RequestId("R1"))
    assert known is not None
    assert known.record.terms is not None
    approve = {"command": "approve", "requestId": "R1", "by": "eve", "why": "seen", "digest": known.record.terms.digest}
    return world, lambda world: control(world.parts, json.dumps(approve))


async def before_next_wave() -> tuple[Rig, Job]:
    world = rig(*map(device, NUMBERS))
    world.with_policy(wave_above=2, wave_first=1)
    await world.trigger(*NUMBERS)
    await world.turn_around(1)
    world.clock.forward(minutes=1)
    return world, lambda world: sweep(world.parts)


async def before_retry() -> tuple[Rig, Job]:
    world = rig(*map(device, NUMBERS))
    for number in NUMBERS:
        world.intune.script[device_id(number)].append(Answer(AnswerKind.FORBIDDEN))
    await world.trigger(*NUMBERS)
    retry = {"command": "retry", "requestId": "R1", "by": "ann", "why": "granted"}
    return world, lambda world: control(world.parts, json.dumps(retry))


async def before_a_release_by_the_clock() -> tuple[Rig, Job]:
    world = rig(*map(device, NUMBERS))
    await world.trigger(*NUMBERS, notBefore="2026-11-21T10:00:00Z")
    world.clock.forward(hours=1)
    return world, lambda world: sweep(world.parts)


STAGES = {
    "dispatch": before_dispatch,
    "dispatch on another day": before_dispatch_on_another_day,
    "intake": before_intake,
    "approval": before_approval,
    "next wave": before_next_wave,
    "retry": before_retry,
    "release by the clock": before_a_release_by_the_clock,
}
stages = pytest.mark.parametrize("stage", STAGES)


async def settled(world: Rig) -> None:
    """All that is on its way has come, what was lost with a process too: until all are sent, or for a while."""
    world.heal()
    await world.deliver()
    for _ in range(6):
        if ours(world) == ALL:
            return
        await world.tick(minutes=2)


def ours(world: Rig) -> dict[str, int]:
    """How many resets of each of the three devices arrived."""
    return {key: count for key, count in world.intune.wiped().items() if key in ALL}


# --- stops at once


@stages
async def test_s6_nothing_is_sent_whose_commit_comes_after_the_halts_wherever_in_a_stage_it_comes(stage: str) -> None:
    call = 0
    while True:
        call += 1
        world, job = await STAGES[stage]()
        committed = len(world.table.keys("sent|"))
        orders = world.intune.calls["reset"]
        sent_before: list[int] = []

        async def thrown(world: Rig = world, sent_before: list[int] = sent_before) -> None:
            await halt(world)
            sent_before.append(len(world.table.keys("sent|")))

        world.at_call(call, thrown)
        await job(world)
        if world.still_to_happen:
            break
        await world.deliver()
        await world.tick(minutes=6)
        assert world.intune.calls["reset"] - orders == sent_before[0] - committed, f"{stage}: halt before call {call}"
        if sent_before == [committed]:
            assert {await world.state(number) for number in NUMBERS} <= {State.HELD, State.READY}, f"call {call}"
        await resume(world)
        await settled(world)
        assert ours(world) == ALL, f"{stage}: halt before call {call}, then resumed: each goes once"
    assert call > 5


async def test_s6_a_halt_is_met_by_every_instance_that_sends_at_once() -> None:
    numbers = range(1, 41)
    for turns in range(0, 56, 8):
        world = rig(*map(device, numbers))
        await world.ask(*numbers)
        await lose(world, DISPATCH)
        committed: list[int] = []

        async def thrown(world: Rig = world, turns: int = turns, committed: list[int] = committed) -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            await halt(world)
            committed.append(sum(len(one) for one in sent_rows(world)))

        batches = [message(*range(first, first + 10)) for first in range(1, 41, 10)]
        await asyncio.gather(thrown(), *(dispatch(world.other_instance(), batch) for batch in batches))
        await settled(world)
        assert sum(world.intune.wiped().values()) == committed[0]


def sent_rows(world: Rig) -> list[list[str]]:
    """The devices of each transaction that committed to send."""
    return [json.loads(str(row["doc"]))["devices"] for row in world.table.contents("sent|").values()]


# --- until somebody resumes, and then all of it


@stages
async def test_s6_a_resume_at_any_moment_of_a_stage_forgets_no_device_even_where_the_process_then_dies(
    stage: str,
) -> None:
    """Whoever holds a device under the halt that is just being lifted, lets it go again itself, or its message does."""
    call = 0
    while True:
        call += 1
        ended = False
        for dies_after in (0, 1):
            world, job = await STAGES[stage]()
            await halt(world)

            async def lifted(world: Rig = world, dies_after: int = dies_after) -> None:
                await resume(world)
                if dies_after:
                    world.faulty.fail_at = world.faulty.commits + dies_after
                    world.faulty.took_effect = True

            world.at_call(call, lifted)
            try:
                await job(world)
            except Crash:
                world.heal()
                await job(world)  # the message comes again
            if world.still_to_happen:
                ended = True
                break
            await settled(world)
            assert ours(world) == ALL, f"{stage}: resumed before call {call}, died {dies_after} commits later"
        if ended:
            break
    assert call > 5


async def test_s6_a_halt_outlives_every_process_and_every_day() -> None:
    world = rig(*map(device, NUMBERS))
    await world.ask(*NUMBERS)
    await halt(world)
    for _ in range(3):
        store = Store(world.table)  # a process that starts anew knows only the table
        world.parts = replace(world.parts, store=store)
        for _ in range(4):
            await world.tick(hours=1)
    assert world.intune.calls["reset"] == 0
    assert await world.store.halt() is not None


async def test_s6_nothing_but_a_resume_ends_a_halt() -> None:
    world = rig(*map(device, NUMBERS))
    world.with_policy(approvers=["eve"])
    await halt(world)
    await world.trigger(*NUMBERS)
    for name in ("cancel", "retry", "approve", "decline"):
        fields = {"digest": "0" * 64} if name in ("approve", "decline") else {}
        await command(world, name, requestId="R2", **fields)
    await world.queues.send(REQUESTS, json.dumps({"command": "resume", "by": "ann", "why": "I would like to"}))
    await settled(world)
    assert world.intune.wiped() == {}
    assert await world.store.halt() is not None


async def test_s6_a_halt_and_a_resume_that_come_twice_count_once() -> None:
    world = rig(*map(device, NUMBERS))
    await world.ask(*NUMBERS)
    for _ in range(2):
        await halt(world)
    await world.deliver()
    assert len(await told(world, "halted")) == 1
    for _ in range(2):
        await resume(world)
    await world.deliver()
    assert world.intune.wiped() == ALL


async def test_s6_a_halt_by_another_person_is_told_too_and_is_the_one_that_shows() -> None:
    world = rig()
    await halt(world)
    await command(world, "halt", by="bob", why="a flood")
    assert ["a fire" in said or "a flood" in said for said in await told(world, "halted")] == [True, True]
    thrown = await world.store.halt()
    assert thrown is not None
    assert (thrown.by, thrown.why) == ("bob", "a flood")


@pytest.mark.parametrize("took_effect", [False, True])
async def test_s6_a_crash_at_any_commit_of_a_halt_or_a_resume_is_made_good_when_the_message_comes_again(
    took_effect: bool,
) -> None:
    for name in ("halt", "resume"):
        commit = 0
        while True:
            commit += 1
            world = rig(*map(device, NUMBERS))
            await world.ask(*NUMBERS)
            if name == "resume":
                await halt(world)
                await world.deliver()
            world.fail(commit, took_effect=took_effect)
            body = json.dumps({"command": name, "by": "ann", "why": "x"})
            try:
                await control(world.parts, body)
            except Crash:
                world.heal()
                await control(world.parts, body)
                await settled(world)
                assert (await world.store.halt() is None) == (name == "resume")
                assert world.intune.wiped() == (ALL if name == "resume" else {}), f"{name}, commit {commit}"
                assert len(await told(world, "halted")) == 1
                continue
            break
        assert commit > 2


# --- it shows


async def test_s6_who_halted_and_why_shows_at_the_device_in_the_plan_and_in_what_is_told() -> None:
    world = rig(*map(device, NUMBERS))
    await halt(world)
    await world.trigger(1)
    words = "By ann: a fire"
    status = await request_status(world.store, RequestId("R1"))
    assert status is not None
    (shown,) = status.devices
    assert shown.reason is not None
    assert (shown.state, shown.reason.code) == (State.HELD, Code.HALTED)
    assert words in shown.reason.sentence
    request = ResetRequest.model_validate_json(asking(2, request="R2"))
    now = world.clock()
    met = await situation(world.store, request, [], now, world.parts.policy)
    planned = plan(request, await world.intune.find(request.references()), met, world.parts.policy, now)
    assert planned.devices[0].verdict is Verdict.WAIT
    assert planned.devices[0].why is not None
    assert words in planned.devices[0].why.sentence
    assert [words in said for said in await told(world, "halted") + await told(world, "device.held")] == [True, True]
    events = [event async for event in world.store.history("control")]
    assert [(event.kind, event.who) for event in events] == [(EventKind.HALTED, "ann")]


# --- it throws itself


async def watched(world: Rig, times: int = 3) -> str:
    """Why the sweep has halted everything by now; empty where it has not."""
    for _ in range(times):
        await world.tick(minutes=1)
    thrown = await world.store.halt()
    return f"{thrown.by}: {thrown.why}" if thrown else ""


def fails(world: Rig, *numbers: int) -> None:
    for number in numbers:
        world.intune.check_in(device_id(number), ActionState.FAILED, management_state="wipeFailed")


async def many_fail() -> Rig:
    world = rig(*map(device, range(1, 31)))
    world.with_policy(halt_failed_min=5)
    await world.trigger(*range(1, 21))
    world.clock.forward(minutes=2)
    fails(world, *range(1, 7))
    return world


async def many_are_refused() -> Rig:
    world = rig(*(device(number, operating_system="iOS") for number in range(1, 26)), *map(device, range(26, 31)))
    world.with_policy(halt_refused=20)
    await world.trigger(*range(1, 26))
    return world


async def far_more_than_usual() -> Rig:
    world = rig(*map(device, range(1, 36)))
    usual = Orders(days={"2026-11-20": 5, "2026-11-19": 4})
    await world.store.commit([rows.insert(rows.ORDERS, usual)])
    world.with_policy(halt_burst_factor=5, halt_burst_floor=10)
    await world.trigger(*range(1, 27))
    return world


ANOMALIES = {
    "6 of 6 resets failed": many_fail,
    "25 devices were refused within an hour": many_are_refused,
    "26 resets today; the most of any of the 28 days before is 5": far_more_than_usual,
}


@pytest.mark.parametrize("why", ANOMALIES)
async def test_s6_what_is_not_as_usual_halts_everything_once_says_why_and_ends_only_by_a_person(why: str) -> None:
    world = await ANOMALIES[why]()
    assert why in await watched(world)
    already = world.intune.wiped()
    await world.trigger(27, 28, request="R2")
    await watched(world, times=6)
    assert world.intune.wiped() == already
    (said,) = await told(world, "halted")
    assert why in said
    await resume(world)
    assert await watched(world, times=6) == "", "what was before the resume is excused"
    assert world.intune.wiped() == already | {device_id(27): 1, device_id(28): 1}


async def test_s6_what_goes_wrong_again_after_a_resume_halts_again() -> None:
    world = await many_fail()
    assert await watched(world)
    await resume(world)
    await world.tick(minutes=1)
    fails(world, *range(7, 11))
    assert await watched(world) == "", "four are not yet as many as the policy says"
    fails(world, 11)
    assert "5 of 5 resets failed" in await watched(world)
    assert len(await told(world, "halted")) == 2


@pytest.mark.parametrize("why", ANOMALIES)
async def test_s6_several_sweeps_at_once_throw_one_halt(why: str) -> None:
    world = await ANOMALIES[why]()
    world.clock.forward(minutes=1)
    for _ in range(2):
        await asyncio.gather(*(sweep(world.other_instance()) for _ in range(3)))
    assert why in await watched(world, times=1)
    assert len(await told(world, "halted")) == 1


async def test_s6_the_sweep_does_not_take_a_persons_name_off_the_halt() -> None:
    world = await many_are_refused()

    async def by_hand() -> None:
        await halt(world)

    world.meanwhile(rows.HALT, by_hand)
    assert await watched(world) == "ann: a fire"
    assert not world.still_to_happen
    assert len(await told(world, "halted")) == 1


async def test_s6_a_resume_is_not_undone_by_a_sweep_that_looked_before_it() -> None:
    call = 0
    while True:
        call += 1
        world = await many_are_refused()
        await watched(world)
        world.clock.forward(minutes=1)

        async def lifted(world: Rig = world) -> None:
            await resume(world)

        world.at_call(call, lifted)
        await sweep(world.parts)
        if world.still_to_happen:
            break
        assert await watched(world) == "", f"resumed before call {call} of the sweep"
    assert call > 1


async def test_s6_failures_are_most_of_the_last_hour_once_what_went_well_is_longer_ago() -> None:
    world = rig()
    world.with_policy(halt_failed_min=5)
    for number, (minutes, state) in enumerate([*[(0, State.READY)] * 10, *[(30, State.FAILED)] * 6]):
        at = world.clock() + timedelta(minutes=minutes)
        event = Event(kind=EventKind.MOVED, at=at, who="test", device=device_id(number), to_state=state)
        await world.store.commit([rows.ended(event)])
    world.clock.forward(minutes=31)
    assert await watched(world) == "", "nothing is in flight, and most went well"
    world.clock.forward(minutes=30)
    assert "6 of 6 resets failed" in await watched(world)


async def many_come(world: Rig) -> None:
    """Devices are taken in that are none to reset: they are refused at once."""
    await intake(world.other_instance(), asking(*range(1, 26)))


async def many_change(world: Rig) -> None:
    """The devices that wait for their turn are refused when it comes, and nothing is in flight any more."""
    for number in range(26, 51):
        world.intune.devices[device_id(number)].change(serial_number="SN-other")
    await world.deliver(world.other_instance())


@pytest.mark.parametrize("rests", [False, True])
@pytest.mark.parametrize("happens", [many_come, many_change])
async def test_s6_a_sweep_that_finds_nothing_to_watch_misses_nothing_that_happens_meanwhile(
    happens: Job, rests: bool
) -> None:
    call = 0
    while True:
        call += 1
        world = rig(*(device(number, operating_system="iOS") for number in range(1, 26)), *map(device, range(26, 51)))
        world.with_policy(halt_refused=20)
        if rests:
            await sweep(world.parts)
            world.clock.forward(minutes=1)
        if happens is many_change:
            await world.ask(*range(26, 51))
            world.clock.forward(minutes=1)

        async def meanwhile(world: Rig = world) -> None:
            await happens(world)

        world.at_call(call, meanwhile)
        await sweep(world.parts)
        if world.still_to_happen:
            break
        assert "25 devices were refused within an hour" in await watched(world), f"before call {call} of the sweep"
    assert call > (1 if rests and happens is many_come else 4)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("key", [rows.RESUMED, rows.HALT])
async def test_s6_a_resume_is_not_undone_by_a_sweep_in_its_midst(key: str, after: bool) -> None:
    world = await many_are_refused()
    await watched(world)

    async def swept() -> None:
        await sweep(world.other_instance())

    world.meanwhile(key, swept, after=after)
    await control(world.parts, json.dumps({"command": "resume", "by": "ann", "why": "out"}))
    assert not world.still_to_happen
    assert await watched(world) == ""


async def test_s6_an_unknown_requester_is_refused_and_halts_everything() -> None:
    world = rig(*map(device, NUMBERS))
    world.with_policy(requesters=[{"name": "service@contoso.example"}])
    await world.ask(1)
    await world.queues.send(REQUESTS, asking(2, request="R2", requester="mallory@contoso.example"))
    await lose(world, DISPATCH)
    await world.deliver()
    await dispatch(world.parts, message(1))
    assert world.intune.wiped() == {}
    (said,) = await told(world, "halted")
    assert "mallory@contoso.example" in said
    assert "R2" in said
    assert await world.state(2, "R2") is State.REFUSED
    assert [one["data"]["code"] for one in world.told() if one["type"].endswith("device.refused")] == [
        Code.UNKNOWN_REQUESTER
    ]
    await world.queues.send(REQUESTS, asking(2, request="R2", requester="mallory@contoso.example"))
    await resume(world)
    await settled(world)
    assert world.intune.wiped() == {device_id(1): 1}, "the same message again is no news, and halts nothing"


async def test_s6_an_unknown_requester_is_only_refused_where_the_policy_says_so() -> None:
    world = rig(*map(device, NUMBERS))
    world.with_policy(requesters=[{"name": "service@contoso.example"}], halt_on_unknown_requester=False)
    await world.trigger(1, requester="mallory@contoso.example")
    assert await world.state(1) is State.REFUSED
    assert await world.store.halt() is None


async def test_s6_an_ordinary_day_halts_nothing() -> None:
    """A hundred and fifty resets by requests of fifteen, with the policy as it comes, some that fail, some that are
    refused, a request that nobody approves and one that is declined."""
    numbers = range(1, 151)
    mac = range(151, 161)
    many = range(161, 201)
    world = rig(*map(device, [*numbers, *many]), *(device(number, operating_system="macOS") for number in mac))
    world.parts = replace(world.parts, policy=Policy(unapproved_per_day=200, approvers=frozenset({"eve"})))
    for hour, first in enumerate(range(1, 151, 15)):
        some = range(first, first + 15)
        if hour == 0:
            await world.trigger(*many[:20], *many[20:], request="large")
        await world.trigger(*some, mac[hour], request=f"R{hour}")
        fails(world, first)
        await world.turn_around(*some[1:])
        await world.tick(minutes=15)
        assert {await world.state(number, f"R{hour}") for number in some[1:]} == {State.READY}
    await world.tick(hours=16)
    await world.tick(minutes=5)
    assert await world.state(many[0], "large") is State.REFUSED, "nobody approved it"
    assert await world.store.halt() is None
    await world.trigger(*many, request="declined")
    known = await world.store.request(RequestId("declined"))
    assert known is not None
    assert known.record.terms is not None
    await command(world, "decline", requestId="declined", by="eve", digest=known.record.terms.digest)
    await world.tick(minutes=5)
    assert await world.state(many[0], "declined") is State.REFUSED
    assert await world.store.halt() is None


async def test_s6_a_large_request_that_is_declined_is_no_anomaly() -> None:
    numbers = range(1, 31)
    world = rig(*map(device, numbers))
    world.with_policy(halt_refused=20, approval_above=10, approvers=["eve"])
    await world.trigger(*numbers)
    known = await world.store.request(RequestId("R1"))
    assert known is not None
    assert known.record.terms is not None
    await command(world, "decline", requestId="R1", by="eve", digest=known.record.terms.digest)
    assert await watched(world) == ""
    assert {await world.state(number) for number in numbers} == {State.REFUSED}


async def test_s6_the_burst_of_a_day_is_measured_by_utc_days_whatever_the_clock_of_the_sweep() -> None:
    world = await far_more_than_usual()
    world.clock.now = datetime(2026, 11, 22, 0, 0, 5, tzinfo=UTC)
    assert await watched(world) == "", "a new day has begun; nobody was there to see the old one"
    world.clock.now = datetime(2026, 11, 21, 23, 59, 0, tzinfo=UTC) - timedelta(minutes=5)
    assert "26 resets today" in await watched(world), "the clock of this instance is behind"


def test_s6_the_policy_of_these_tests_halts_nothing_by_itself() -> None:
    policy = lenient()
    assert (policy.halt_failed_min, policy.halt_refused, policy.halt_burst_factor) == (0, 0, 0)


async def test_s6_a_resume_that_comes_late_or_twice_does_not_end_a_halt_that_was_thrown_after_it() -> None:
    world = rig(device(1))
    resume = {"command": "resume", "by": "ann", "why": "over", "at": world.clock().isoformat()}
    world.clock.forward(minutes=1)
    await control(world.parts, json.dumps({"command": "halt", "by": "bob", "why": "again"}))
    await control(world.parts, json.dumps(resume))
    await world.trigger(1)
    assert world.intune.wiped() == {}
    assert [one["data"]["code"] for one in world.told() if one["type"].endswith("command.refused")] == ["halted"]
    await control(world.parts, json.dumps({**resume, "at": world.clock().isoformat()}))
    await world.deliver()
    assert world.intune.wiped() == {device_id(1): 1}
