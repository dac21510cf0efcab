"""Intake: every request is kept, answered once and carried out once, whatever happens on the way."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from shared.domain.devices import DeviceReference, Finding, ReferenceKind
from shared.domain.guardrails import Halt
from shared.domain.ids import RequestId
from shared.domain.reasons import Code
from shared.domain.states import State
from shared.messages.queues import DISPATCH, NOTICES, RESULTS
from shared.pipeline.control import control
from shared.pipeline.intake import expand, intake
from shared.pipeline.ports import GraphError
from shared.pipeline.status import request_status
from shared.pipeline.sweep import sweep
from shared.state import rows
from shared.state.rows import RequestState
from shared.state.table import Conflict
from tests.pipeline.fakes import START, Crash, Rig, asking, device, device_id, rig

R1 = RequestId("R1")


async def request_state(world: Rig, request: str = "R1") -> RequestState | None:
    stored = await world.store.request(RequestId(request))
    return None if stored is None else stored.record.state


async def codes(world: Rig, request: str = "R1") -> dict[str, str]:
    """Code by reference of whatever of the request has ended."""
    ended = [closed.event async for closed in world.store.closed(RequestId(request))]
    return {event.reference: event.reason.code if event.reason else "" for event in ended}


def refusals(world: Rig) -> list[str]:
    """Codes of the requests that were told to be refused."""
    return [one["data"]["code"] for one in world.told() if one["type"].endswith("request.refused")]


# --- a request that is in order


async def test_a_request_is_accepted_told_and_its_devices_cleared() -> None:
    world = rig(device(1), device(2))
    await world.ask(1, 2)
    assert await request_state(world) is RequestState.EXPANDED
    assert [await world.state(number) for number in (1, 2)] == [State.CLEARED, State.CLEARED]
    dispatched = [device for body in world.queues.waiting(DISPATCH) for device in json.loads(body)["devices"]]
    assert dispatched == [device_id(1), device_id(2)]
    await world.queues.receive(DISPATCH)
    await world.deliver()
    assert world.told_types() == {"request.accepted": 1}
    assert world.table.keys("deliver|") == []
    assert world.intune.wiped() == {}, "intake itself sends nothing"


async def test_a_request_without_an_id_gets_one_from_its_content() -> None:
    world = rig(device(1))
    body = json.loads(asking(1))
    del body["requestId"]
    await intake(world.parts, json.dumps(body))
    await intake(world.parts, json.dumps(body, indent=3))
    assert len(world.table.keys("request|")) == 1
    assert len(world.table.keys("reset|")) == 1


async def test_a_device_named_twice_is_taken_once() -> None:
    world = rig(device(1))
    body = asking(1, devices=[{"serialNumber": "SN1"}, {"name": "PC-1"}, {"intuneId": device_id(1).upper()}])
    await intake(world.parts, body)
    assert world.table.keys("reset|") == [f"reset|{device_id(1)}"]
    assert world.table.keys("closed|") == []
    assert len(world.queues.waiting(DISPATCH)) == 1


async def test_a_group_tag_stands_for_all_its_devices() -> None:
    world = rig(*(device(number) for number in range(1, 31)))
    await intake(world.parts, asking(devices=[{"groupTag": "LAB"}]))
    assert len(world.table.keys("reset|")) == 30


@pytest.mark.parametrize(
    ("selector", "finding", "code"),
    [
        ({"serialNumber": "gone"}, Finding(), Code.UNKNOWN_DEVICE),
        ({"name": "twins"}, Finding((device(1).facts, device(2).facts)), Code.AMBIGUOUS),
        ({"groupTag": "empty"}, Finding(), Code.NO_DEVICES),
    ],
)
async def test_a_name_that_leads_to_no_one_device_is_refused_and_told(
    selector: dict[str, str], finding: Finding, code: Code
) -> None:
    world = rig(device(1), device(2), device(3))
    ((kind, value),) = selector.items()
    world.intune.findings[DeviceReference(ReferenceKind(kind), value)] = finding
    await intake(world.parts, asking(devices=[selector, {"serialNumber": "SN3"}]))
    assert await codes(world) == {f"{kind}:{value}": code}
    assert world.table.keys("reset|") == [f"reset|{device_id(3)}"], "the others go on"
    await world.deliver()
    (refused,) = [notice for notice in world.told() if notice["type"].endswith("device.refused")]
    assert (refused["data"]["code"], refused["data"]["device"]["reference"]) == (code, f"{kind}:{value}")
    assert refused["data"]["message"]
    assert refused["data"]["remedy"]


async def test_a_device_that_may_not_be_reset_is_refused_and_told() -> None:
    world = rig(device(1, operating_system="macOS"), device(2))
    await world.trigger(1, 2)
    assert await codes(world) == {"serialNumber:SN1": Code.NOT_WINDOWS}
    assert world.intune.wiped() == {device_id(2): 1}
    assert world.told_types() == {"request.accepted": 1, "device.refused": 1}


async def test_a_device_in_flight_for_another_request_is_refused_with_the_others_id() -> None:
    world = rig(device(1))
    await world.trigger(1)
    await world.trigger(1, request="R2")
    status = await request_status(world.store, RequestId("R2"))
    assert status is not None
    assert status.ended
    reason = status.devices[0].reason
    assert reason is not None
    assert (reason.code, "R1" in reason.sentence) == (Code.ALREADY_IN_FLIGHT, True)
    assert await world.state(1) is State.TRIGGERED
    assert world.intune.wiped() == {device_id(1): 1}


async def test_a_device_asked_for_twice_at_once_flies_for_one_request_only() -> None:
    world = rig(device(1))
    await asyncio.gather(intake(world.parts, asking(1)), intake(world.parts, asking(1, request="R2")))
    reset = await world.reset(1)
    loser = "R2" if reset.request == "R1" else "R1"
    assert await codes(world, loser) == {"serialNumber:SN1": Code.ALREADY_IN_FLIGHT}
    await world.deliver()
    assert world.intune.wiped() == {device_id(1): 1}


async def test_what_happens_at_one_instant_is_all_written_down() -> None:
    world = rig(device(1))
    world.parts = replace(world.parts, clock=lambda: START)
    async with asyncio.timeout(20):
        for request in ("R1", "R2", "R3"):
            await world.ask(1, request=request)
        for colour in ("blue", "red"):
            await intake(world.parts, asking(1, request="R4", **{colour: 1}))
    assert [event.request for event in await world.history(1)] == ["R1", "R2", "R3"]
    assert len([event async for event in world.store.history("request:R4")]) == 2


async def test_a_request_for_later_is_held_until_then() -> None:
    world = rig(device(1))
    later = world.clock.now + timedelta(hours=3)
    await world.trigger(1, notBefore=later.isoformat())
    assert await world.state(1) is State.HELD
    await world.tick(hours=2, minutes=59)
    assert world.intune.wiped() == {}
    await world.tick(minutes=2)
    assert world.intune.wiped() == {device_id(1): 1}


async def test_a_request_during_a_halt_is_held() -> None:
    world = rig(device(1))
    await world.store.commit([rows.put(rows.HALT, Halt("ann", "a fire", world.clock()))])
    await world.trigger(1)
    assert await world.state(1) is State.HELD
    assert world.intune.calls["reset"] == 0


# --- the same again, and what only looks like it


async def test_the_same_again_gets_the_same_answer_and_changes_nothing() -> None:
    world = rig(device(1))
    await world.trigger(1)
    before, wiped, told = world.table.contents(), world.intune.wiped(), world.told()
    world.clock.forward(minutes=20)
    await world.trigger(1)
    assert world.table.contents() == before
    assert world.intune.wiped() == wiped
    assert world.told() == [*told, told[0]], "the acceptance is told again, word for word"


async def test_the_same_again_with_its_keys_in_another_order_is_the_same() -> None:
    world = rig(device(1))
    await world.trigger(1)
    await intake(world.parts, json.dumps(dict(reversed(json.loads(asking(1)).items())), indent=2))
    await world.deliver()
    assert world.told_types() == {"request.accepted": 1}


@pytest.mark.parametrize("other", [{"reason": "TICKET-2"}, {"devices": [{"serialNumber": "SN2"}]}])
async def test_the_same_id_with_another_body_is_refused(other: dict[str, Any]) -> None:  # Any: fields of a request
    world = rig(device(1), device(2))
    await world.trigger(1)
    await intake(world.parts, asking(1, **other))
    await world.deliver()
    assert world.told_types() == {"request.accepted": 1, "request.refused": 1}
    assert refusals(world) == [Code.REQUEST_ID_REUSED]
    assert world.intune.wiped() == {device_id(1): 1}
    assert world.table.keys("reset|") == [f"reset|{device_id(1)}"]


# --- messages that are no request


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (asking(1, notBefor="2026-01-01T00:00:00Z"), "notBefor"),
        (asking(1, devices=[{"serialNumber": "SN1"}, {"serialNumber": ""}]), "devices.1.serialNumber"),
        (asking(1, readyBy="tomorrow"), "readyBy"),
        (asking(1, devices=[]), "devices"),
        ("{", "message"),
        ("", "message"),
        ("[1]", "message"),
    ],
)
async def test_a_malformed_message_is_refused_with_the_field_named(body: str, field: str) -> None:
    world = rig(device(1))
    await intake(world.parts, body)
    await world.deliver()
    (notice,) = world.told()
    assert notice["type"] == "io.turnaround.request.refused"
    assert notice["data"]["code"] == Code.MALFORMED
    assert field in notice["data"]["message"]
    history = [event async for event in world.store.history(f"request:{notice['data']['requestId']}")]
    assert [event.reason.code for event in history if event.reason] == [Code.MALFORMED]
    assert world.table.keys("reset|") == world.table.keys("request|") == []


async def test_a_message_that_is_too_large_is_refused() -> None:
    world = rig()
    await intake(world.parts, asking(1, reason="x" * 70_000))
    await world.deliver()
    assert world.told()[0]["data"]["code"] == Code.TOO_LARGE


@pytest.mark.parametrize("name", ["x" * 60_000, '"' * 20_000, "🙂" * 10_000])
async def test_a_malformed_message_with_an_enormous_field_name_is_refused_all_the_same(name: str) -> None:
    world = rig()
    body = json.dumps({"requestId": "R1", name: 1}, ensure_ascii=False)
    assert len(body.encode()) < 64 * 1024
    await intake(world.parts, body)
    await world.deliver()
    assert world.told_types() == {"request.refused": 1}


async def test_a_request_may_be_corrected_and_sent_again_under_its_id() -> None:
    world = rig(device(1))
    await intake(world.parts, asking(1, colour="blue"))
    await world.trigger(1)
    assert world.told_types() == {"request.refused": 1, "request.accepted": 1}
    assert world.intune.wiped() == {device_id(1): 1}


async def test_the_outcome_goes_to_the_queue_that_the_message_names() -> None:
    world = rig(device(1))
    await world.trigger(1, outcomeQueue="reset-results-helpdesk")
    assert world.queues.waiting(RESULTS) == []
    (body,) = world.queues.waiting("reset-results-helpdesk")
    assert json.loads(body)["type"] == "io.turnaround.request.accepted"


# --- several parts


def part(number: int, of: int, *numbers: int, **fields: object) -> str:
    return asking(*numbers, part={"number": number, "of": of}, **fields)  # type: ignore[arg-type]  # fields hold no request


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 2, 3, 1, 3)])
async def test_parts_may_come_in_any_order_and_nothing_starts_before_the_last(order: tuple[int, ...]) -> None:
    world = rig(*(device(number) for number in range(1, 7)))
    for count, number in enumerate(order, start=1):
        assert world.table.keys("reset|") == [], f"before message {count}"
        assert await request_state(world) is (None if count == 1 else RequestState.RECEIVING)
        await intake(world.parts, part(number, 3, number * 2 - 1, number * 2))
        if len(set(order[:count])) == 3:
            break
    await world.deliver()
    assert len(world.table.keys("reset|")) == 6
    assert world.told_types() == {"request.accepted": 1}
    assert sum(world.intune.wiped().values()) == 6


async def test_parts_that_come_at_once_start_once() -> None:
    world = rig(*(device(number) for number in range(1, 5)))
    await asyncio.gather(*(intake(world.parts, part(number, 4, number)) for number in range(1, 5)))
    await world.deliver()
    await sweep(world.parts)
    assert world.told_types() == {"request.accepted": 1}
    assert world.intune.wiped() == {device_id(number): 1 for number in range(1, 5)}


async def test_a_part_that_disagrees_with_the_others_is_refused() -> None:
    world = rig(device(1), device(2))
    await intake(world.parts, part(1, 2, 1))
    await intake(world.parts, part(2, 2, 2, reason="another"))
    await world.deliver()
    assert refusals(world) == [Code.PARTS_DISAGREE]
    assert await request_state(world) is RequestState.RECEIVING
    await intake(world.parts, part(2, 2, 2))
    await world.deliver()
    assert sum(world.intune.wiped().values()) == 2


async def test_a_part_that_comes_again_with_other_devices_is_refused() -> None:
    world = rig(device(1), device(2), device(3))
    await intake(world.parts, part(1, 2, 1))
    await intake(world.parts, part(1, 2, 3))
    await intake(world.parts, part(2, 2, 2))
    await world.deliver()
    assert world.told_types() == {"request.refused": 1, "request.accepted": 1}
    assert world.intune.wiped() == {device_id(1): 1, device_id(2): 1}


async def test_missing_parts_are_refused_by_the_sweep_and_late_ones_too() -> None:
    world = rig(device(1), device(2))
    await intake(world.parts, part(1, 2, 1))
    await world.tick(minutes=59)
    assert await request_state(world) is RequestState.RECEIVING
    await world.tick(minutes=2)
    assert await request_state(world) is RequestState.REFUSED
    assert refusals(world) == [Code.PARTS_MISSING]
    assert world.table.keys("due|") == []
    await intake(world.parts, part(2, 2, 2))
    await world.deliver()
    assert refusals(world) == [Code.PARTS_MISSING, Code.REQUEST_ID_REUSED]
    assert world.intune.wiped() == {}


async def test_a_refused_request_says_why_in_its_status() -> None:
    world = rig(device(1))
    await intake(world.parts, part(1, 2, 1))
    await world.tick(minutes=61)
    status = await request_status(world.store, R1)
    assert status is not None
    assert (status.state, status.ended) == (RequestState.REFUSED, True)
    assert status.reason is not None
    assert status.reason.code is Code.PARTS_MISSING


async def test_too_many_devices_over_all_parts_are_refused() -> None:
    world = rig()
    chunks = 6
    for number in range(chunks):
        serials = [{"serialNumber": f"S{number}-{one}"} for one in range(900)]
        await intake(world.parts, part(number + 1, chunks, devices=serials))
    await world.deliver()
    assert refusals(world) == [Code.TOO_MANY_DEVICES]
    assert await request_state(world) is RequestState.REFUSED
    assert world.intune.calls["find"] == 0


async def test_five_thousand_devices_are_taken_in() -> None:
    world = rig(*(device(number) for number in range(1, 5001)))
    for number in range(5):
        await intake(world.parts, part(number + 1, 5, *range(number * 1000 + 1, number * 1000 + 1001)))
    status = await request_status(world.store, R1)
    assert status is not None
    assert status.counts == {State.CLEARED: 5000}
    bodies = [json.loads(body)["devices"] for body in world.queues.waiting(DISPATCH)]
    assert {len(devices) for devices in bodies} == {20}
    assert {one for devices in bodies for one in devices} == {device_id(number) for number in range(1, 5001)}
    assert world.table.keys("deliver|") == []


# --- faults


async def test_while_graph_is_down_the_request_is_kept_and_the_sweep_finishes_it() -> None:
    world = rig(device(1))
    world.intune.down = {"find"}
    await world.trigger(1)
    assert await request_state(world) is RequestState.ACCEPTED
    assert world.told_types() == {"request.accepted": 1}
    await world.tick(minutes=5)
    await world.tick(minutes=10)
    assert await request_state(world) is RequestState.ACCEPTED
    world.intune.down.clear()
    await world.tick(hours=1)
    assert await request_state(world) is RequestState.EXPANDED
    assert world.intune.wiped() == {device_id(1): 1}
    assert world.told_types() == {"request.accepted": 1}


async def test_a_request_whose_devices_cannot_be_looked_up_is_tried_less_and_less_often() -> None:
    world = rig(device(1))
    world.intune.down = {"find"}
    await world.ask(1)
    for _ in range(24 * 60):
        await world.tick(minutes=1)
    assert 20 <= world.intune.calls["find"] <= 32


def mixed() -> Rig:
    """A world in which one request of three parts meets everything: cleared, refused, unknown and in flight."""
    return rig(*(device(number) for number in range(1, 25)), device(25, operating_system="iOS"), device(26), device(27))


async def send_mixed(world: Rig) -> None:
    for message in (part(1, 2, *range(1, 24)), part(2, 2, *range(24, 29))):
        await intake(world.parts, message)


async def prepare(world: Rig) -> None:
    await world.trigger(26, request="R0")


async def outcome(world: Rig) -> dict[str, object]:
    """What became of it all, as far as anybody outside can see."""
    status = await request_status(world.store, R1)
    assert status is not None
    for stored in [stored.record async for stored in world.store.in_flight()]:
        events = await world.history(int(stored.device[-4:]))
        mine = [event for event in events if event.request == stored.request]
        assert [event.seq for event in mine] == list(range(stored.seq)), "history has each event once"
    return {
        "state": status.state,
        "devices": {
            device.reference: (device.state, device.reason and device.reason.code) for device in status.devices
        },
        "number": len(status.devices),
        "wiped": world.intune.wiped(),
        "told": world.told_types(),
        "due": sorted(key.split("|")[2] for key in world.table.keys("due|")),
        "outbox": world.table.keys("deliver|"),
    }


async def undisturbed() -> tuple[dict[str, object], int]:
    world = mixed()
    await prepare(world)
    world.fail(0, took_effect=False)
    await send_mixed(world)
    commits = world.faulty.commits
    await world.deliver()
    return await outcome(world), commits


@pytest.mark.parametrize("way", ["redelivery", "sweep"])
@pytest.mark.parametrize("took_effect", [False, True])
async def test_a_crash_at_any_commit_of_intake_changes_nothing_of_the_result(took_effect: bool, way: str) -> None:
    expected, commits = await undisturbed()
    assert commits >= 10
    for commit in range(1, commits + 1):
        world = mixed()
        await prepare(world)
        world.fail(commit, took_effect=took_effect)
        with pytest.raises(Crash):
            await send_mixed(world)
        world.heal()
        kept = await request_state(world)
        both_kept = len(world.table.keys("part|R1|")) == 2
        if way == "redelivery" or not both_kept:
            await send_mixed(world)
        else:
            assert kept is not None
        await world.tick(minutes=3)
        if way == "sweep":
            await world.tick(hours=1)
        else:
            await world.tick(minutes=3)
        found = await outcome(world)
        for name in expected:
            if name == "devices" or (name == "due" and way == "sweep"):
                continue
            assert found[name] == expected[name], f"{name} after a crash at commit {commit} of {commits}"
        assert set(found["devices"]) == set(expected["devices"])  # type: ignore[call-overload]


async def test_a_commit_that_took_effect_but_was_reported_as_a_conflict_changes_nothing_of_the_result() -> None:
    """The SDK repeats a commit whose answer was lost, and the repetition meets its own effect."""
    expected, commits = await undisturbed()
    for commit in range(1, commits + 1):
        world = mixed()
        await prepare(world)
        world.fail(commit, took_effect=True, error=Conflict("it was changed since"))
        await send_mixed(world)
        world.heal()
        await world.tick(minutes=3)
        found = await outcome(world)
        assert found["wiped"] == expected["wiped"], f"commit {commit}"
        assert found["told"] == expected["told"], f"commit {commit}"
        assert found["number"] == expected["number"], f"commit {commit}"


async def test_two_instances_that_expand_the_same_request_at_once_take_each_device_once() -> None:
    world = mixed()
    await prepare(world)
    world.intune.down = {"find"}
    await send_mixed(world)
    world.intune.down.clear()
    await asyncio.gather(*(expand(world.parts, R1) for _ in range(4)))
    await world.tick(seconds=40)
    expected, _ = await undisturbed()
    assert await outcome(world) == expected


@dataclass
class Lookups:
    """Lookups that wait until they may end."""

    world: Rig
    begun: list[str] = field(default_factory=list)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    error: GraphError | None = None
    """How they end."""

    async def __call__(self, references: Sequence[DeviceReference]) -> None:
        self.begun.append(references[0].value)
        await self.may_end.wait()
        if self.error is not None:
            raise self.error

    async def turn(self) -> None:
        """Whatever can go on does."""
        for _ in range(100):
            await asyncio.sleep(0)


def held_up(world: Rig) -> Lookups:
    lookups = Lookups(world)
    world.intune.before_find = lookups
    return lookups


async def test_large_requests_are_looked_up_one_after_the_other_and_a_small_one_waits_for_none_of_them() -> None:
    world = rig(device(1), device(2))
    lookups = held_up(world)
    async with asyncio.TaskGroup() as group:
        for number, names in enumerate(([{"groupTag": "LAB"}], [{"groupTag": "HALL"}], [{"serialNumber": "SN2"}])):
            group.create_task(intake(world.parts, asking(request=f"R{number}", devices=names)))
            await lookups.turn()
        assert lookups.begun == ["LAB", "SN2"]
        lookups.may_end.set()
    assert lookups.begun == ["LAB", "SN2", "HALL"]
    assert [await request_state(world, f"R{number}") for number in range(3)] == [RequestState.EXPANDED] * 3


async def test_a_request_that_is_being_taken_in_or_in_line_is_left_to_that_by_the_sweep_of_the_same_process() -> None:
    world = rig(device(1))
    lookups = held_up(world)
    async with asyncio.TaskGroup() as group:
        for number in (1, 2):
            group.create_task(intake(world.parts, asking(request=f"R{number}", devices=[{"groupTag": "LAB"}])))
        await lookups.turn()
        world.clock.forward(minutes=5)
        await sweep(world.parts)
        assert lookups.begun == ["LAB"]
        lookups.may_end.set()
    assert lookups.begun == ["LAB", "LAB"]


async def test_a_large_request_whose_lookup_has_begun_is_begun_by_no_other_instance_one_in_line_is() -> None:
    world = rig(device(1))
    lookups = held_up(world)
    async with asyncio.TaskGroup() as group:
        for number, tag in enumerate(("LAB", "HALL"), start=1):
            asks = asking(request=f"R{number}", devices=[{"groupTag": tag}])
            world.intune.down = {"find"}
            await intake(world.parts, asks)
        world.intune.down = set()
        world.clock.forward(minutes=5)
        group.create_task(expand(world.parts, R1))
        group.create_task(expand(world.parts, RequestId("R2")))
        await lookups.turn()
        group.create_task(sweep(world.other_instance()))
        await lookups.turn()
        assert lookups.begun == ["LAB", "HALL"]
        lookups.may_end.set()
    assert lookups.begun == ["LAB", "HALL"]
    assert await request_state(world, "R2") is RequestState.EXPANDED


async def test_the_sweep_does_not_stand_in_line_for_a_large_request_and_goes_on_with_the_small_ones() -> None:
    world = rig(device(1), device(2))
    world.intune.down = {"find"}
    await intake(world.parts, asking(request="R1", devices=[{"groupTag": "HALL"}]))
    await intake(world.parts, asking(2, request="R2"))
    world.intune.down = set()
    lookups = held_up(world)
    async with asyncio.TaskGroup() as group:
        group.create_task(intake(world.parts, asking(request="R3", devices=[{"groupTag": "LAB"}])))
        await lookups.turn()
        world.intune.before_find = None
        world.clock.forward(minutes=5)
        await sweep(world.parts)
        assert await request_state(world, "R2") is RequestState.EXPANDED
        lookups.may_end.set()
    assert await request_state(world) is RequestState.ACCEPTED
    world.clock.forward(minutes=5)
    await sweep(world.parts)
    assert await request_state(world) is RequestState.EXPANDED


async def test_a_large_request_whose_turn_does_not_come_is_left_to_its_wake_up() -> None:
    world = rig(device(1))
    lookups = held_up(world)
    async with asyncio.TaskGroup() as group:
        group.create_task(intake(world.parts, asking(request="R1", devices=[{"groupTag": "LAB"}])))
        await lookups.turn()
        world.intune.down = {"find"}
        await intake(world.other_instance(), asking(request="R2", devices=[{"groupTag": "LAB"}]))
        world.intune.down = set()
        await expand(world.parts, RequestId("R2"), timedelta(milliseconds=1))
        assert await request_state(world, "R2") is RequestState.ACCEPTED
        lookups.may_end.set()
    world.clock.forward(minutes=5)
    await sweep(world.parts)
    assert await request_state(world, "R2") is RequestState.EXPANDED


@pytest.mark.timeout(20)
async def test_a_large_request_is_taken_in_by_a_clock_that_stands_still() -> None:
    world = rig(device(1))
    world.parts = replace(world.parts, clock=lambda: START)
    await intake(world.parts, asking(devices=[{"groupTag": "LAB"}]))
    assert await request_state(world) is RequestState.EXPANDED


async def test_an_approval_of_its_plan_does_not_put_a_request_out_of_the_line() -> None:
    world = rig(*(device(number) for number in range(1, 31)))
    world.with_policy(approvers=["ann"])
    lookups = held_up(world)
    async with asyncio.TaskGroup() as group:
        group.create_task(intake(world.parts, asking(request="R2", devices=[{"groupTag": "LAB"}])))
        await lookups.turn()
        group.create_task(intake(world.parts, asking(*range(1, 31))))
        await lookups.turn()
        command = {"command": "approve", "requestId": "R1", "by": "ann", "why": "ok", "digest": "0" * 64}
        await control(world.parts, json.dumps(command))
        lookups.may_end.set()
    assert await request_state(world) is RequestState.EXPANDED


@pytest.mark.parametrize("count", [20, 30])
async def test_a_lookup_that_fails_late_does_not_refuse_a_request_that_another_instance_takes_in(count: int) -> None:
    world = rig(*(device(number) for number in range(1, count + 1)))
    world.intune.down = {"find"}
    await world.ask(*range(1, count + 1))
    world.intune.down = set()
    world.clock.forward(hours=25)
    lookups = held_up(world)
    task = asyncio.create_task(expand(world.other_instance(), R1))
    await lookups.turn()
    world.intune.before_find = None
    world.clock.forward(minutes=5)

    async def fails() -> None:
        lookups.error = GraphError("timed out at last")
        lookups.may_end.set()
        await asyncio.wait([task])

    world.meanwhile(f"reset|{device_id(count)}", fails)
    await sweep(world.parts)
    await task
    assert not world.still_to_happen
    await world.deliver()
    assert refusals(world) == []
    assert sum(world.intune.wiped().values()) == count


async def test_an_instance_that_was_frozen_does_not_take_a_device_anew_whose_turnaround_has_ended() -> None:
    world = rig(device(1))
    world.intune.down = {"find"}
    await world.ask(1)
    world.intune.down.clear()

    async def all_of_it() -> None:
        await expand(world.other_instance(), R1)
        command = {"command": "cancel", "requestId": "R1", "by": "ann", "why": "not needed"}
        await control(world.other_instance(), json.dumps(command))
        assert await world.state(1) is State.CANCELLED

    world.meanwhile("reset|", all_of_it)
    await expand(world.parts, R1)
    await world.deliver()
    await world.tick(minutes=10)
    assert await world.state(1) is State.CANCELLED
    assert world.intune.wiped() == {}


async def test_a_last_part_whose_process_died_before_it_saw_that_it_was_the_last_is_not_called_missing() -> None:
    world = rig(device(1), device(2))
    await intake(world.parts, part(1, 2, 1))
    world.fail(1, took_effect=True)
    with pytest.raises(Crash):
        await intake(world.parts, part(2, 2, 2))
    world.heal()
    await world.tick(minutes=61)
    assert await request_state(world) is RequestState.EXPANDED
    assert sum(world.intune.wiped().values()) == 2
    assert world.told_types()["request.accepted"] == 1


async def test_one_request_that_cannot_be_handled_does_not_keep_the_sweep_from_the_others() -> None:
    world = rig(device(1), device(2))
    world.intune.down = {"find"}
    await world.ask(1)
    await world.ask(2, request="R2")
    world.intune.down.clear()
    spoilt = rows.part_key(R1, 1)
    await world.store.commit([rows.put(spoilt, Halt("x", "x", world.clock()))])
    world.clock.forward(minutes=10)
    with pytest.raises(ExceptionGroup):
        await sweep(world.parts)
    await world.deliver()
    assert world.intune.wiped() == {device_id(2): 1}


async def test_notices_of_the_acceptance_are_handed_out_again_after_a_crash_with_the_same_id() -> None:
    world = rig(device(1))
    world.fail(2, took_effect=False)
    with pytest.raises(Crash):
        await world.ask(1)
    world.heal()
    assert len(world.queues.waiting(NOTICES)) == 1, "sent, but its outbox row is still there"
    await world.tick(minutes=3)
    accepted = [notice for notice in world.told() if notice["type"].endswith("request.accepted")]
    assert len(accepted) == 2
    assert accepted[0] == accepted[1]
