"""Limits an hour, a day, a device and of the fleet's share (S4), what goes without a second person (S5), and what never
goes (S3): however many instances send, whatever their clocks say."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.domain.guardrails import Approval, Budget, Orders, Pace
from shared.domain.ids import RequestId
from shared.domain.orders import Answer, AnswerKind
from shared.domain.reasons import Code
from shared.domain.states import State
from shared.messages.queues import DISPATCH, REQUESTS
from shared.pipeline.control import control
from shared.pipeline.dispatch import dispatch
from shared.pipeline.intake import intake
from shared.pipeline.parts import Parts
from shared.state import rows
from shared.state.rows import SentRecord
from tests.pipeline.fakes import START, Crash, Device, Lost, Rig, asking, device, device_id, rig

TOMORROW = datetime(2026, 11, 22, tzinfo=UTC)
MANY = 10_000
"""No limit."""


def message(*numbers: int) -> str:
    return json.dumps({"devices": [device_id(number) for number in numbers]})


async def cleared(*numbers: int, **policy: Any) -> Rig:  # Any: fields of the policy
    """A world in which these devices wait for their turn, and no message is under way."""
    world = rig(*map(device, numbers))
    world.with_policy(**{"resets_per_day": MANY} | policy)
    await world.ask(*numbers)
    for lost in await world.queues.receive(DISPATCH):
        await world.queues.delete(DISPATCH, lost)
    return world


async def orders(world: Rig) -> Orders:
    stored = await world.store.orders()
    return stored.record if stored else Orders()


def sent(world: Rig) -> int:
    wiped = world.intune.wiped()
    assert set(wiped.values()) <= {1}
    return len(wiped)


async def reasons(world: Rig, *numbers: int) -> Counter[tuple[State, Code | None]]:
    found = [await world.reset(number) for number in numbers]
    return Counter((one.state, one.reason.code if one.reason else None) for one in found)


def told(world: Rig, name: str) -> list[dict[str, Any]]:  # Any: JSON
    """What the notices of this type say, repeats left out as a receiver would by their ids."""
    once = {one["id"]: one["data"] for one in world.told() if one["type"] == f"io.turnaround.{name}"}
    return list(once.values())


def ahead(world: Rig, **by: float) -> Parts:
    """Another instance, whose clock is ahead."""
    return replace(world.other_instance(), clock=lambda: world.clock() + timedelta(**by))


# --- S4: an hour, a day, the fleet's share


CAPS: dict[Code, dict[str, object]] = {
    Code.HOURLY_LIMIT: {"resets_per_hour": 7},
    Code.DAILY_LIMIT: {"resets_per_day": 7},
    Code.FLEET_SHARE: {"fleet_share_per_day": 0.07, "fleet_share_floor": 1},
}
caps = pytest.mark.parametrize("code", CAPS, ids=str)


@caps
@pytest.mark.parametrize("instances", [2, 5])
async def test_s4_no_cap_is_passed_however_many_instances_send_at_once(code: Code, instances: int) -> None:
    world = await cleared(*range(1, 31), **CAPS[code])
    world.intune.fleet = 100
    others = [world.other_instance() for _ in range(instances)]
    batches = [message(*range(first, first + 6)) for first in range(1, 31, 6)]
    await asyncio.gather(*(dispatch(others[n % instances], batch) for n, batch in enumerate(batches)))
    for _ in range(3):
        await world.tick(minutes=6)
    assert sent(world) == 7
    held = Counter([(await world.reset(number)).state for number in range(1, 31)])
    assert held == {State.TRIGGERED: 7, State.HELD: 23}
    counted = await orders(world)
    assert (counted.today(world.clock()), counted.this_hour(world.clock())) == (7, 7)


@caps
async def test_s4_what_a_cap_holds_is_told_with_the_date_and_goes_when_there_is_room(code: Code) -> None:
    world = await cleared(*range(1, 11), **CAPS[code])
    world.intune.fleet = 100
    await dispatch(world.parts, message(*range(1, 11)))
    await world.deliver()
    assert await reasons(world, *range(1, 11)) == {(State.TRIGGERED, None): 7, (State.HELD, code): 3}
    room_at = datetime(2026, 11, 21, 10, tzinfo=UTC) if code is Code.HOURLY_LIMIT else TOMORROW
    held = told(world, "device.held")
    assert [(one["code"], f"It goes on at {room_at:%Y-%m-%d %H:%M} UTC." in one["message"]) for one in held] == [
        (code, True)
    ] * 3
    world.clock.now = room_at - timedelta(seconds=30)
    await world.tick()
    assert sent(world) == 7
    await world.tick(minutes=1)
    assert sent(world) == 10


@caps
async def test_s4_over_a_cap_is_refused_at_once_where_the_policy_says_so(code: Code) -> None:
    world = await cleared(*range(1, 11), over_cap="refuse", **CAPS[code])
    world.intune.fleet = 100
    await dispatch(world.parts, message(*range(1, 11)))
    await world.deliver()
    refused = told(world, "device.refused")
    assert [one["code"] for one in refused] == [code] * 3
    assert all("goes on by itself" not in one["remedy"] or "unless" in one["remedy"] for one in refused)
    await world.tick(days=2)
    assert sent(world) == 7


async def test_s4_the_nearest_cap_holds_and_the_other_one_after_it() -> None:
    world = await cleared(*range(1, 13), resets_per_hour=5, resets_per_day=8)
    await dispatch(world.parts, message(*range(1, 13)))
    assert sent(world) == 5
    await world.tick(hours=1)
    assert sent(world) == 8
    assert (await reasons(world, *range(1, 13)))[(State.HELD, Code.DAILY_LIMIT)] == 4
    await world.tick(hours=14)
    await world.tick(minutes=1)
    assert sent(world) == 12


async def test_s4_nothing_is_held_longer_than_its_request_is_valid() -> None:
    world = rig(*map(device, range(1, 8)))
    world.with_policy(resets_per_day=2, request_valid_for="P2D")
    await world.trigger(*range(1, 8))
    for _ in range(10):
        await world.tick(hours=6)
        for number in range(1, 8):
            world.intune.check_in(device_id(number))
    ended = Counter([await world.state(number) for number in range(1, 8)])
    assert ended[State.REFUSED] == 1, "two a day, of three days: the third is within the two times 24 hours"
    (last,) = told(world, "device.refused")
    assert last["code"] == Code.REQUEST_EXPIRED
    assert "It would have to wait until 2026-11-24 00:00 UTC." in last["message"]
    assert sent(world) == 6


async def test_s4_instances_whose_clocks_differ_pass_no_cap_at_the_full_hour_or_at_midnight() -> None:
    """By each clock's own reckoning, which is how they are counted."""
    world = await cleared(*range(1, 121), resets_per_hour=10, resets_per_day=25, cleared_for="P2D", held_for="P3D")
    fast, slow = ahead(world, minutes=6), ahead(world, minutes=-6)
    world.clock.now = datetime(2026, 11, 21, 22, 45, tzinfo=UTC)
    first = 1
    for _ in range(10):
        world.clock.forward(minutes=9)
        batches = [message(*range(first + n * 4, first + n * 4 + 4)) for n in range(3)]
        await asyncio.gather(*(dispatch(one, batch) for one, batch in zip((fast, slow, fast), batches, strict=True)))
        first += 12
    records = [
        rows.adapter(SentRecord).validate_json(str(row["doc"])) for row in world.table.contents("sent|").values()
    ]
    hours, days = Counter[str](), Counter[str]()
    for record in records:
        hours[f"{record.at:%dT%H}"] += len(record.devices)
        days[f"{record.at:%d}"] += len(record.devices)
    assert max(hours.values()) == 10
    assert max(days.values()) <= 25
    assert len(hours) > 2
    assert sum(hours.values()) == sent(world)


async def test_s4_the_number_of_the_tenants_devices_is_read_once_a_day_and_kept_while_graph_is_down() -> None:
    world = await cleared(*range(1, 41), fleet_share_per_day=0.1, fleet_share_floor=2)
    world.intune.fleet = 50
    for first in (1, 6, 11):
        await dispatch(world.parts, message(*range(first, first + 5)))
    assert (sent(world), world.intune.calls["fleet_size"]) == (5, 1)
    world.intune.down = {"fleet_size"}
    world.clock.now = TOMORROW + timedelta(hours=10)
    for _ in range(3):
        await world.tick(minutes=1)
    assert world.intune.calls["fleet_size"] == 2
    assert sent(world) == 10, "what was known of yesterday still counts"


async def test_s4_as_long_as_nobody_knows_how_many_devices_there_are_the_floor_is_the_limit() -> None:
    world = await cleared(*range(1, 11), fleet_share_per_day=0.5, fleet_share_floor=3)
    world.intune.down = {"fleet_size"}
    for _ in range(3):
        await dispatch(world.parts, message(*range(1, 11)))
    assert sent(world) == 3
    assert world.intune.calls["fleet_size"] == 1
    assert (await reasons(world, *range(1, 11)))[(State.HELD, Code.FLEET_SHARE)] == 7


@pytest.mark.parametrize("took_effect", [False, True])
async def test_s4_a_crash_at_any_commit_passes_no_cap_and_loses_no_device(took_effect: bool) -> None:
    commit = 0
    while True:
        commit += 1
        world = await cleared(*range(1, 6), resets_per_day=3, audit_after="PT5M", sending_for="PT15M")
        world.fail(commit, took_effect=took_effect)
        try:
            await dispatch(world.parts, message(*range(1, 6)))
            break
        except Crash:
            world.heal()
        await dispatch(world.parts, message(*range(1, 6)))
        for _ in range(4):
            await world.tick(minutes=6)
        assert sent(world) <= 3, f"commit {commit}"
        assert (await orders(world)).today(world.clock()) <= 3
        world.clock.now = TOMORROW
        for _ in range(4):
            await world.tick(minutes=6)
        assert sent(world) >= 2
        asked = sum([await world.state(number) is State.ATTENTION for number in range(1, 6)])
        assert sent(world) + asked == 5, f"commit {commit}: what may have been sent needs a person after a day"
        assert asked in (0, 3)
    assert commit > 3


# --- S4: what counts


NOT_TAKEN = {
    "throttled": [Answer(AnswerKind.THROTTLED)] * 3,
    "no connection": [Answer(AnswerKind.NOT_SENT)] * 3,
    "intune's own limit": [Answer(AnswerKind.DAILY_LIMIT)],
}


@pytest.mark.parametrize("why", NOT_TAKEN)
async def test_s4_an_order_that_intune_provably_did_not_take_uses_nothing_up(why: str) -> None:
    """Else a connection that is down for minutes would use up the day, and call for a second person."""
    world = await cleared(*range(1, 5), resets_per_day=4, resets_per_hour=4, unapproved_per_day=4, resets_per_device=1)
    for number in (1, 2):
        world.intune.script[device_id(number)].extend(NOT_TAKEN[why])
    await dispatch(world.parts, message(1, 2, 3, 4))
    for _ in range(4):
        await world.tick(minutes=1)
    if why == "intune's own limit":
        assert (await orders(world)).today(world.clock()) == 2
        world.clock.now = TOMORROW
        await world.tick(minutes=1)
    assert sent(world) == 4
    counted = await orders(world)
    assert sum(counted.days.values()) == sum(counted.unapproved.values()) == 4
    noted = await world.store.sent_since(START)
    assert noted == {name: 1 for number in (1, 2, 3, 4) for name in (device_id(number), f"SN{number}")}


async def test_s4_an_order_whose_answer_was_lost_counts() -> None:
    world = await cleared(1, 2)
    world.intune.script[device_id(1)].append(Lost(arrived=False))
    await dispatch(world.parts, message(1, 2))
    assert (await orders(world)).today(world.clock()) == 2


async def test_s4_an_order_that_is_turned_away_as_it_is_to_be_committed_uses_nothing_up() -> None:
    """An earlier order, in doubt, may be sent again only for so long, which ends between the look and the commit."""
    world = await cleared(1, audit_after="PT5M", sending_for="PT15M")
    world.intune.script[device_id(1)].append(Lost(arrived=False))
    await dispatch(world.parts, message(1))
    sent_at = world.clock()
    world.intune.down = {"facts"}
    while await world.state(1) is not State.CLEARED:
        await world.tick(minutes=1)
    world.intune.down = set()
    world.clock.now = sent_at + timedelta(minutes=14)
    busy = Pace(sent_at + timedelta(minutes=15, seconds=1))
    await world.store.commit([rows.put(rows.pace_key(Budget.WRITES), busy)])
    await dispatch(world.parts, message(1))
    assert await world.state(1) is State.ATTENTION
    assert (await orders(world)).today(world.clock()) == 1
    assert (await world.store.sent_since(START))[device_id(1)] == 1


async def test_s4_what_is_given_back_is_given_back_once_and_to_its_own_hour() -> None:
    world = await cleared(*range(1, 7))
    world.clock.now = datetime(2026, 11, 21, 9, 59, 59, tzinfo=UTC)
    for number in (1, 2):
        world.intune.script[device_id(number)].append(Answer(AnswerKind.NOT_SENT))

    async def late(_: object) -> None:
        world.clock.forward(seconds=20)

    world.intune.before_reset = late
    await dispatch(world.parts, message(1, 2, 3))
    world.intune.before_reset = None
    await dispatch(world.parts, message(4, 5))
    counted = await orders(world)
    assert counted.hours == {"2026-11-21T09": 1, "2026-11-21T10": 2}
    for _ in range(2):
        await world.tick(minutes=2)
    assert (await orders(world)).hours == {"2026-11-21T09": 1, "2026-11-21T10": 4}


@pytest.mark.parametrize("took_effect", [False, True])
async def test_s4_a_crash_while_it_is_given_back_never_gives_back_too_much(took_effect: bool) -> None:
    commit = 0
    while True:
        commit += 1
        world = await cleared(*range(1, 4), audit_after="PT5M", sending_for="PT15M")
        world.intune.script[device_id(1)].append(Answer(AnswerKind.NOT_SENT))
        world.fail(commit, took_effect=took_effect)
        try:
            await dispatch(world.parts, message(1, 2, 3))
            break
        except Crash:
            world.heal()
        await dispatch(world.parts, message(1, 2, 3))
        for _ in range(5):
            await world.tick(minutes=6)
        assert sent(world) == 3, f"commit {commit}"
        assert 3 <= (await orders(world)).today(world.clock()) <= 6
    assert commit > 4


# --- S4: a device


async def test_s4_a_device_is_not_reset_more_often_than_the_policy_says_whoever_asks() -> None:
    world = rig(device(1))
    world.with_policy(resets_per_device=2, device_window="P7D")
    for number, requester in enumerate(("ann", "bob")):
        await world.trigger(1, request=f"R{number}", requester=requester)
        await world.turn_around(1)
    await world.trigger(1, request="R3", requester="cyd")
    assert await world.state(1, "R3") is State.REFUSED
    assert [one["code"] for one in told(world, "device.refused")] == [Code.DEVICE_LIMIT]
    world.clock.forward(days=7)
    world.intune.check_in(device_id(1))
    await world.trigger(1, request="R4")
    assert world.intune.wiped() == {device_id(1): 3}


async def test_s4_a_device_that_enrols_anew_is_still_the_same_device() -> None:
    world = rig(device(1))
    world.with_policy(resets_per_device=1)
    await world.trigger(1)
    await world.turn_around(1)
    facts = world.intune.devices.pop(device_id(1)).facts
    assert facts.autopilot is not None
    anew = replace(facts.managed, id=device_id(2))
    linked = replace(facts.autopilot, managed_device_id=device_id(2))
    world.intune.add(Device(replace(facts, managed=anew, autopilot=linked)))
    await world.trigger(1, request="R2")
    assert await world.state(2, "R2") is State.REFUSED
    assert [one["code"] for one in told(world, "device.refused")] == [Code.DEVICE_LIMIT]


# --- S5: many small requests are one large one


def small(world: Rig, count: int, size: int = 2) -> list[str]:
    """So many requests of this size, of several requesters."""
    return [
        asking(*range(n * size + 1, n * size + size + 1), request=f"R{n}", requester=f"person{n % 3}")
        for n in range(count)
    ]


async def approve(world: Rig, request: str, parts: Parts | None = None, by: str = "eve") -> None:
    known = await world.store.request(RequestId(request))
    assert known is not None
    assert known.record.terms is not None
    digest = known.record.terms.digest
    body = {"command": "approve", "requestId": request, "by": by, "why": "seen", "digest": digest}
    await control(parts or world.other_instance(), json.dumps(body))


def unapproved(numbers: range, **policy: Any) -> Rig:  # Any: fields of the policy
    world = rig(*map(device, numbers))
    world.with_policy(**{"unapproved_per_day": 7, "approval_above": 5, "approvers": ["eve"]} | policy)
    return world


async def test_s5_many_small_requests_at_once_send_no_more_than_may_go_without_a_second_person() -> None:
    world = unapproved(range(1, 31))
    others = [world.other_instance() for _ in range(5)]
    await asyncio.gather(*(intake(others[n % 5], body) for n, body in enumerate(small(world, 15))))
    await asyncio.gather(*(world.deliver(one) for one in others), return_exceptions=True)
    for _ in range(4):
        await world.tick(minutes=6)
    assert sent(world) == 7
    assert (await orders(world)).unapproved == {"2026-11-21": 7}
    held = Counter([await world.state(n * 2 + 1 + k, f"R{n}") for n in range(15) for k in range(2)])
    assert held == {State.TRIGGERED: 7, State.HELD: 23}
    needed = told(world, "request.approval_needed")
    waiting = {n for n in range(15) for k in range(2) if await world.state(n * 2 + 1 + k, f"R{n}") is State.HELD}
    assert sorted(one["requestId"] for one in needed) == sorted(f"R{n}" for n in waiting), "each is told once"
    for n in waiting:
        await approve(world, f"R{n}")
    await world.deliver()
    assert sent(world) == 30
    assert (await orders(world)).unapproved == {"2026-11-21": 7}


async def test_s5_nobody_approves_the_rest_of_what_they_asked_for() -> None:
    world = unapproved(range(1, 11), approvers=["person0", "eve"])
    for body in small(world, 5):
        await world.queues.send(REQUESTS, body)
    await world.deliver()
    (partly, *whole) = {one["requestId"] for one in told(world, "request.approval_needed")}
    for request in (partly, *whole):
        await approve(world, request, by=f"person{int(request[1:]) % 3}")
    await world.deliver()
    assert sent(world) == 7


async def test_s5_what_a_second_person_agreed_to_uses_up_nothing_of_what_goes_without_one() -> None:
    world = unapproved(range(1, 21))
    await world.trigger(*range(1, 11), request="large")
    await approve(world, "large")
    await world.deliver()
    assert sent(world) == 10
    await world.trigger(*range(11, 16), request="small")
    assert sent(world) == 15


async def test_s5_the_next_day_has_room_again_but_what_was_asked_to_wait_waits() -> None:
    world = unapproved(range(1, 13), approval_within="P3D")
    for body in small(world, 5):
        await world.queues.send(REQUESTS, body)
    await world.deliver()
    assert sent(world) == 7
    world.clock.now = TOMORROW
    for _ in range(2):
        await world.tick(minutes=6)
    assert sent(world) == 7
    await world.trigger(11, 12, request="new")
    assert sent(world) == 9


async def test_s5_a_request_of_which_a_part_was_sent_waits_with_the_rest_and_goes_on_once_approved() -> None:
    """Twenty at once in one transaction, on both sides of the limit."""
    world = unapproved(range(1, 46), unapproved_per_day=25, approval_above=50)
    await world.ask(*range(1, 21), request="R1")
    await world.ask(*range(21, 41), request="R2")
    await world.ask(41, 42, 43, 44, 45, request="R3")
    await world.deliver()
    for _ in range(2):
        await world.tick(minutes=6)
    assert sent(world) == 25
    needed = told(world, "request.approval_needed")
    assert {one["code"] for one in needed} == {Code.APPROVAL_NEEDED}
    assert all("More than 25 resets a day need a second person" in one["message"] for one in needed)
    for request in {one["requestId"] for one in needed}:
        await approve(world, request)
    await world.deliver()
    assert sent(world) == 45


@pytest.mark.parametrize("died", [False, True])
async def test_s5_an_approval_at_any_moment_of_a_send_that_needs_it_is_not_lost(died: bool) -> None:
    """The approval comes while dispatch finds out that one is needed, and where it then dies."""
    call = 0
    while True:
        call += 1
        world = unapproved(range(1, 5), unapproved_per_day=1)
        world.with_policy(unapproved_per_day=10, approvers=["eve"])
        await world.ask(1, 2, 3, 4)
        world.with_policy(unapproved_per_day=1, approvers=["eve"], audit_after="PT5M", sending_for="PT15M")
        for lost in await world.queues.receive(DISPATCH):
            await world.queues.delete(DISPATCH, lost)

        async def approved(world: Rig = world) -> None:
            await approve(world, "R1")
            if died:
                world.faulty.fail_at, world.faulty.took_effect = world.faulty.commits + 1, True

        world.at_call(call, approved)
        try:
            await dispatch(world.parts, message(1, 2, 3, 4))
        except Crash:
            world.heal()
            await dispatch(world.parts, message(1, 2, 3, 4))
        if world.still_to_happen:
            break
        world.heal()
        await world.deliver()
        for _ in range(3):
            await world.tick(minutes=6)
        known = await world.store.request(RequestId("R1"))
        assert known is not None
        assert known.record.terms is not None
        if known.record.terms.needs and known.record.terms.approval is None:
            await approve(world, "R1")  # it came before anybody knew that it was needed, and was refused
            await world.deliver()
        assert sent(world) == 4, f"approved before call {call}"
    assert call > 5


async def test_s5_a_device_that_becomes_free_while_a_request_is_taken_in_is_not_reset_beside_what_is_approved() -> None:
    """Another request holds it, until any moment of the intake: either it is in what is approved, or it is refused."""
    call = 0
    while True:
        call += 1
        world = rig(*map(device, (1, 2, 3)))
        world.with_policy(approval_above=1, approvers=["eve"])
        await world.ask(3, request="R0")

        async def freed(world: Rig = world) -> None:
            cancel = {"command": "cancel", "requestId": "R0", "by": "ann", "why": "no"}
            await control(world.other_instance(), json.dumps(cancel))

        world.at_call(call, freed)
        await intake(world.parts, asking(1, 2, 3))
        if world.still_to_happen:
            break
        await approve(world, "R1")
        await world.deliver()
        known = await world.store.request(RequestId("R1"))
        assert known is not None
        assert known.record.terms is not None
        assert known.record.terms.devices == sent(world), f"freed before call {call}"
    assert call > 10


# --- S3


GROUP = "5f3c1d1e-0a2b-4c3d-8e9f-001122334455"
PROTECTED: dict[str, Callable[[Rig], dict[str, object]]] = {
    "serial number": lambda world: {"protected_devices": ["sn1"]},
    "name": lambda world: {"protected_devices": ["PC-1*"]},
    "id": lambda world: {"protected_devices": [device_id(1).upper()]},
    "user": lambda world: {"protected_users": ["11111111-1111-4111-8111-111111111111"]},
    "group": lambda world: {"protected_groups": [GROUP]},
    "not allowed": lambda world: {"allowed_devices": ["SN2"]},
}


@pytest.mark.parametrize("how", PROTECTED)
async def test_s3_a_protected_device_is_refused_whoever_approves_it(how: str) -> None:
    world = rig(device(1))
    world.intune.groups[device_id(1)] = {GROUP}
    world.with_policy(approval_above=0, approvers=["eve"], **PROTECTED[how](world))
    await world.trigger(1)
    await world.store.commit([rows.put(rows.approval_key(RequestId("R1")), Approval("eve", "x", START, "0" * 64))])
    await world.tick(minutes=6)
    assert await world.state(1) is State.REFUSED
    assert world.intune.wiped() == {}


@pytest.mark.parametrize("how", [name for name in PROTECTED if name != "id"])
async def test_s3_a_device_that_is_protected_since_it_was_asked_for_is_refused_before_it_is_sent(how: str) -> None:
    world = rig(device(1, name="PC-0"), device(2))
    world.with_policy(protected_groups=[GROUP])
    await world.ask(1, notBefore="2026-11-21T10:00:00Z")
    world.with_policy(**{"protected_groups": [GROUP]} | PROTECTED[how](world))
    world.intune.groups[device_id(1)] = {GROUP} if how == "group" else set()
    world.intune.devices[device_id(1)].change(name="PC-1")
    await world.tick(hours=1)
    assert await world.state(1) is State.REFUSED
    assert world.intune.wiped() == {}


async def test_s3_a_device_whose_groups_cannot_be_read_waits_and_is_not_sent() -> None:
    world = rig(device(1), device(2))
    world.with_policy(protected_groups=[GROUP])
    world.intune.down = {"memberships"}
    await world.trigger(1)
    await world.tick(minutes=5)
    assert world.intune.wiped() == {}
    world.intune.down = set()
    await world.tick(minutes=10)
    assert world.intune.wiped() == {device_id(1): 1}
    await world.ask(2, request="R2", notBefore="2026-11-21T10:00:00Z")
    world.intune.down = {"memberships"}
    world.clock.forward(hours=1)
    await world.tick()
    await world.tick(minutes=6)
    assert world.intune.wiped() == {device_id(1): 1}
