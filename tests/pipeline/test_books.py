"""Poison messages, retention and status: what is written down stays true, and is forgotten only in time."""

import json
from datetime import timedelta

import pytest

from shared.domain.ids import RequestId
from shared.domain.reasons import Code
from shared.domain.reset import Event, EventKind
from shared.domain.states import State
from shared.messages.queues import CONTROL, DISPATCH, NOTICES, REQUESTS, RESULTS
from shared.pipeline.control import control
from shared.pipeline.intake import intake
from shared.pipeline.poison import poison
from shared.pipeline.status import history, request_status
from shared.state import rows
from shared.state.rows import RequestState, SentRecord
from tests.pipeline.fakes import Rig, asking, device, device_id, rig

# --- poison


@pytest.mark.parametrize("queue", [REQUESTS, DISPATCH, CONTROL, NOTICES])
@pytest.mark.parametrize("body", ["", "{", '{"devices": 5}', "\x00\ud7ff", "x" * 60_000])
async def test_a_message_that_was_set_aside_is_recorded_and_told(queue: str, body: str) -> None:
    world = rig()
    await poison(world.parts, queue, body)
    await world.deliver()
    (told,) = world.told()
    assert told["type"] == "io.turnaround.message.poisoned"
    assert (told["data"]["code"], queue in told["data"]["message"]) == (Code.POISONED, True)
    assert told["data"]["remedy"]
    kinds = [event.kind for event in await history(world.store, f"request:{told['data']['requestId']}")]
    assert kinds == [EventKind.POISONED]


async def test_a_request_that_was_set_aside_is_told_to_its_sender() -> None:
    world = rig()
    await poison(world.parts, REQUESTS, asking(1, outcomeQueue="reset-results-lab"))
    await world.deliver()
    (body,) = world.queues.waiting("reset-results-lab")
    assert json.loads(body)["data"]["requestId"] == "R1"
    assert world.queues.waiting(RESULTS) == []


async def test_a_message_set_aside_twice_is_told_under_one_id() -> None:
    world = rig()
    await poison(world.parts, DISPATCH, "x")
    world.clock.forward(minutes=1)
    await poison(world.parts, DISPATCH, "x")
    await poison(world.parts, DISPATCH, "y")
    await world.deliver()
    assert world.told_types() == {"message.poisoned": 2}


async def test_notices_that_were_set_aside_are_not_lost() -> None:
    world = rig(device(1, operating_system="iOS"))
    await world.ask(1)
    for message in await world.queues.receive(NOTICES):
        await world.queues.delete(NOTICES, message)
        notices = json.loads(message.body)["notices"]
        await poison(world.parts, NOTICES, json.dumps({"notices": notices + notices}))
    await world.deliver()
    await world.tick(minutes=1)
    assert world.told_types() == {"request.accepted": 1, "device.refused": 1}


# --- status


async def test_the_status_counts_devices_and_says_when_all_have_ended() -> None:
    world = rig(device(1), device(2, operating_system="iOS"))
    await intake(world.parts, asking(devices=[{"serialNumber": f"SN{number}"} for number in (1, 2, 3)]))
    status = await request_status(world.store, RequestId("R1"))
    assert status is not None
    assert (status.state, status.ended) == (RequestState.EXPANDED, False)
    assert status.counts == {State.CLEARED: 1, State.REFUSED: 2}
    found = {one.reference: (one.state, one.intune_id, one.reason and one.reason.code) for one in status.devices}
    assert found == {
        "serialNumber:SN1": (State.CLEARED, device_id(1), None),
        "serialNumber:SN2": (State.REFUSED, device_id(2), Code.NOT_WINDOWS),
        "serialNumber:SN3": (State.REFUSED, None, Code.UNKNOWN_DEVICE),
    }
    await finish(world, 1)
    status = await request_status(world.store, RequestId("R1"))
    assert status is not None
    assert status.ended
    assert status.counts == {State.READY: 1, State.REFUSED: 2}


async def test_nothing_is_known_of_a_request_that_never_came() -> None:
    world = rig()
    assert await request_status(world.store, RequestId("R1")) is None


async def test_a_malformed_request_has_a_status_too() -> None:
    world = rig()
    await intake(world.parts, asking(1, colour="blue"))
    status = await request_status(world.store, RequestId("R1"))
    assert status is not None
    assert status.reason is not None
    assert (status.state, status.ended, status.reason.code) == (RequestState.REFUSED, True, Code.MALFORMED)


async def test_a_request_still_being_looked_up_has_not_ended() -> None:
    world = rig(device(1))
    world.intune.down = {"find"}
    await world.ask(1)
    status = await request_status(world.store, RequestId("R1"))
    assert status is not None
    assert (status.state, status.ended, status.devices) == (RequestState.ACCEPTED, False, ())


async def test_requests_whose_ids_begin_alike_are_kept_apart() -> None:
    world = rig(device(1), device(2, operating_system="iOS"))
    await world.ask(1, request="R")
    await world.ask(2, request="R1")
    await world.ask(2, request="R.1")
    for request, state in (("R", State.CLEARED), ("R1", State.REFUSED)):
        status = await request_status(world.store, RequestId(request))
        assert status is not None
        assert [one.state for one in status.devices] == [state]


# --- retention


async def finish(world: Rig, number: int) -> None:
    """The device's whole turnaround, from cleared to ready."""
    await world.deliver()
    await world.turn_around(number)
    assert await world.store.reset(device_id(number)) is None


async def test_what_ended_long_ago_is_forgotten_and_nothing_younger() -> None:
    world = rig(device(1), device(2, operating_system="iOS"), device(3))
    await world.forget()
    await intake(world.parts, asking(devices=[{"serialNumber": f"SN{number}"} for number in (1, 2, 9)]))
    await finish(world, 1)
    world.clock.forward(days=200)
    await world.ask(1, request="R2")
    await finish(world, 1)
    world.intune.check_in(device_id(3))
    await world.ask(3, request="R3", notBefore=(world.clock.now + timedelta(days=300)).isoformat())
    rows_ = world.table.contents().items()
    young = {key: row for key, row in rows_ if ("R2" in key or "R3" in key) and not key.startswith("ended|")}
    recent = [event for event in await world.history(1) if event.request == "R2"]
    assert young
    assert recent
    world.clock.forward(days=201)
    await world.forget()
    left = world.table.keys()
    assert [key for key in left if "R1|" in key or key.endswith("|R1")] == []
    assert young.items() <= world.table.contents().items()
    assert await world.history(1) == recent
    assert await world.store.reset(device_id(3)) is not None, "what is in flight is never forgotten"


async def test_a_request_is_kept_as_long_as_its_devices_wait_for_the_time_that_it_asked_for() -> None:
    """Else nobody would know any more that it needs approval."""
    world = rig(device(1), device(2))
    world.with_policy(retention="P30D", approval_above=1, approval_within="P90D")
    await world.trigger(1, 2, notBefore=(world.clock.now + timedelta(days=60)).isoformat())
    await world.tick()
    await world.tick(days=45)
    await world.tick(days=15)
    for number in (1, 2):
        world.intune.check_in(device_id(number))
    for command in ("halt", "resume"):
        await control(world.parts, json.dumps({"command": command, "by": "ann", "why": "x"}))
    await world.tick(minutes=6)
    assert world.intune.wiped() == {}
    assert await world.state(1) is State.HELD


async def test_a_request_is_forgotten_as_a_whole_once_the_last_of_it_has_ended() -> None:
    """Else its row, with the approval that it needs, would be gone while a device of it is in flight, and the rest of
    its history would never go."""
    world = rig(device(1), device(2, operating_system="iOS"))
    world.with_policy(retention="P30D", triggered_for="P20D", attention_for="P90D")
    await world.trigger(1, 2)
    await world.tick()
    await world.tick(days=20)
    assert await world.state(1) is State.ATTENTION
    kept = {key for key in world.table.keys("") if key.split("|")[0] in ("request", "part", "closed", "event")}
    world.clock.forward(days=40)
    await world.forget()
    assert kept <= set(world.table.keys()), "one device is in flight"
    await control(world.parts, json.dumps({"command": "cancel", "requestId": "R1", "by": "ann", "why": "x"}))
    await world.deliver()
    world.clock.forward(days=29)
    await world.forget()
    assert kept <= set(world.table.keys()), "it ended less than 30 days ago"
    world.clock.forward(days=2)
    await world.forget()
    assert [key for key in world.table.keys("") if "R1" in key or device_id(1) in key or device_id(2) in key] == []


async def test_the_history_of_messages_that_were_not_kept_is_forgotten_in_time() -> None:
    world = rig(device(1))
    await world.forget()
    await intake(world.parts, "{nonsense")
    await poison(world.parts, DISPATCH, "x")
    await control(world.parts, json.dumps({"command": "cancel", "requestId": "R9", "by": "ann", "why": "x"}))
    await world.ask(1)
    old = {key for key in world.table.keys("event|request:") if "R1" not in key}
    assert len(old) == 3
    world.clock.forward(days=399)
    await world.forget()
    assert old <= set(world.table.keys())
    world.clock.forward(days=2)
    await world.forget()
    assert not old & set(world.table.keys())


async def test_the_sweep_runs_retention() -> None:
    world = rig(device(1, operating_system="iOS"))
    await world.trigger(1)
    await world.tick()
    await world.tick(days=401)
    assert [key for key in world.table.keys("") if "R1" in key] == []


async def test_retention_runs_once_a_day() -> None:
    world = rig(device(1))
    await world.forget()
    world.clock.forward(days=500)
    world.fail(0, took_effect=False)
    await world.forget()
    world.clock.forward(hours=23)
    commits = world.faulty.commits
    await world.forget()
    assert world.faulty.commits == commits
    world.clock.forward(hours=1)
    await world.forget()
    assert world.faulty.commits > commits


async def test_a_long_history_is_forgotten_though_it_does_not_fit_one_transaction() -> None:
    world = rig(device(1))
    await world.forget()
    for _ in range(30):
        for body in ('{"requestId": "R1"}', '{"requestId": "R1", "a": 1}', '{"requestId": "R1", "b": 1}'):
            for colour in range(3):
                world.clock.forward(seconds=1)
                await intake(world.parts, body.replace("1}", f"{colour}}}"))
    await world.ask(1)
    await finish(world, 1)
    assert len(world.table.keys("event|request:R1|")) > 250
    world.clock.forward(days=401)
    await world.forget()
    assert [key for key in world.table.contents() if "R1" in key] == []


async def test_commands_opened_windows_and_what_is_only_counted_are_forgotten_in_time_too() -> None:
    world = rig()
    await world.forget()
    await control(world.parts, json.dumps({"command": "halt", "by": "someone", "why": "drill"}))
    opened = Event(kind=EventKind.WINDOW_OPENED, at=world.clock(), who="windows")
    now = world.clock()
    sent = rows.put(rows.sent_key(now, (device_id(1),)), SentRecord(now, (device_id(1),)))
    await world.store.commit([sent, rows.insert(rows.window_key(RequestId("window:lab:x")), opened)])
    old = {key for first in ("event|control|", "sent|", "window|") for key in world.table.keys(first)}
    assert len(old) == 3
    world.clock.forward(days=1)
    await world.forget()
    assert old <= set(world.table.keys(""))
    world.clock.forward(days=401)
    await world.forget()
    assert not old & set(world.table.keys(""))
    assert await world.store.halt() is not None, "the halt outlives its history"
