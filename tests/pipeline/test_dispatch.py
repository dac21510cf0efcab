"""Dispatch: a reset is sent once, only to a device that is cleared, and only when it may go."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shared.domain.devices import ActionState, ManagedDevice
from shared.domain.guardrails import Budget, Halt
from shared.domain.ids import EntraDeviceId, ManagedDeviceId, UserId
from shared.domain.orders import Answer, AnswerKind, Order
from shared.domain.reasons import Code
from shared.domain.reset import EventKind
from shared.domain.states import State
from shared.messages.queues import DISPATCH
from shared.pipeline.control import control
from shared.pipeline.dispatch import dispatch
from shared.pipeline.sweep import sweep
from shared.state import rows
from shared.state.table import Change, Conflict
from tests.pipeline.fakes import START, Crash, Dies, Lost, Rig, device, device_id, rig


async def ordered_today(world: Rig) -> int:
    """What the caps count."""
    orders = await world.store.orders()
    return orders.record.today(world.clock()) if orders else 0


def message(*numbers: int) -> str:
    return json.dumps({"devices": [device_id(number) for number in numbers]})


async def cleared(*numbers: int, **fields: object) -> Rig:
    """A world in which these devices wait for their turn."""
    world = rig(*(device(number) for number in numbers))
    await world.ask(*numbers, **fields)
    assert await states(world, *numbers) == {State.CLEARED}
    for lost in await world.queues.receive(DISPATCH):
        await world.queues.delete(DISPATCH, lost)
    world.fail(0, took_effect=False)
    return world


async def states(world: Rig, *numbers: int) -> set[State | None]:
    return {await world.state(number) for number in numbers}


async def halt(world: Rig) -> None:
    await world.store.commit([rows.put(rows.HALT, Halt("ann", "a fire", world.clock()))])


def never_twice(world: Rig) -> None:
    assert [many for many in world.intune.wiped().values() if many != 1] == []


# --- what is sent


async def test_s13_a_cleared_device_is_sent_its_reset_and_its_state_was_committed_before() -> None:
    world = await cleared(1)
    seen = []

    async def look(orders: Sequence[Order]) -> None:
        reset = await world.reset(1)
        seen.append((reset.state, reset.order == orders[0].id, reset.attempt))

    world.intune.before_reset = look
    await dispatch(world.parts, message(1))
    assert seen == [(State.SENDING, True, 1)]
    assert await world.state(1) is State.TRIGGERED
    assert world.intune.wiped() == {device_id(1): 1}


async def test_only_cleared_devices_are_sent() -> None:
    world = await cleared(1)
    world.intune.add(device(2), device(3), device(4, operating_system="macOS"))
    await world.ask(2, request="R2", notBefore=(world.clock.now + timedelta(hours=1)).isoformat())
    await world.ask(3, request="R3")
    await control(world.parts, json.dumps({"command": "cancel", "requestId": "R3", "by": "ann", "why": "no"}))
    await world.ask(4, request="R4")
    await dispatch(world.parts, message(1, 2, 3, 4, 99))
    assert world.intune.wiped() == {device_id(1): 1}
    await dispatch(world.parts, message(1, 2, 3, 4, 99))
    assert world.intune.wiped() == {device_id(1): 1}


async def test_a_message_of_many_devices_goes_in_batches_of_twenty() -> None:
    numbers = range(1, 51)
    world = await cleared(*numbers)
    await dispatch(world.parts, message(*numbers))
    assert [len(batch) for batch in world.intune.batches] == [20, 20, 10]
    assert len({order.id for batch in world.intune.batches for order in batch}) == 50
    never_twice(world)


async def test_a_message_that_is_no_json_is_left_to_the_poison_queue() -> None:
    world = await cleared(1)
    with pytest.raises((ValueError, KeyError)):
        await dispatch(world.parts, "devices")
    assert await world.state(1) is State.CLEARED


# --- what holds it back


async def test_s6_nothing_is_sent_during_a_halt_and_all_of_it_afterwards() -> None:
    world = await cleared(1, 2)
    await halt(world)
    await dispatch(world.parts, message(1, 2))
    assert world.intune.calls["reset"] == 0
    assert await states(world, 1, 2) == {State.HELD}
    await control(world.parts, json.dumps({"command": "resume", "by": "ann", "why": "out"}))
    await world.deliver()
    assert world.intune.wiped() == {device_id(1): 1, device_id(2): 1}


async def test_s6_a_halt_thrown_while_a_batch_waits_for_its_turn_stops_it() -> None:
    world = await cleared(*range(1, 41))
    world.with_policy(writes_per_window=21)

    async def halt_then_sleep(seconds: float) -> None:
        if world.intune.batches:
            await halt(world)
        await world.clock.sleep(seconds)

    world.parts = replace(world.parts, sleep=halt_then_sleep)
    await dispatch(world.parts, message(*range(1, 41)))
    assert len(world.intune.batches) == 1, "the first went at once; the second had to wait and met the halt"
    assert await states(world, *range(21, 41)) == {State.HELD}


async def test_s6_a_halt_lifted_while_dispatch_holds_its_devices_leaves_none_of_them_held() -> None:
    world = await cleared(1)
    await halt(world)

    async def resume() -> None:
        await control(world.other_instance(), json.dumps({"command": "resume", "by": "ann", "why": "out"}))

    world.meanwhile("reset|", resume)
    await dispatch(world.parts, message(1))
    await world.deliver()
    assert world.intune.wiped() == {device_id(1): 1}


async def test_s4_the_daily_limit_holds_the_rest_until_tomorrow() -> None:
    numbers = range(1, 31)
    world = await cleared(*numbers)
    world.with_policy(resets_per_day=25)
    await dispatch(world.parts, message(*numbers))
    assert sum(world.intune.wiped().values()) == 25
    held = [number for number in numbers if await world.state(number) is State.HELD]
    assert len(held) == 5
    reset = await world.reset(held[0])
    assert reset.reason is not None
    assert reset.reason.code is Code.DAILY_LIMIT
    assert "2026-11-22" in reset.reason.sentence
    await world.tick(hours=14)
    assert sum(world.intune.wiped().values()) == 25, "it is still today"
    await world.tick(hours=1, minutes=1)
    assert sum(world.intune.wiped().values()) == 30
    never_twice(world)


async def test_s4_the_daily_limit_holds_when_several_dispatches_run_at_once() -> None:
    numbers = range(1, 101)
    world = await cleared(*numbers)
    world.with_policy(resets_per_day=50)
    await asyncio.gather(*(dispatch(world.other_instance(), message(*range(n, n + 10))) for n in range(1, 101, 10)))
    for _ in range(3):
        await dispatch(world.parts, message(*numbers))
    assert sum(world.intune.wiped().values()) == 50
    assert await ordered_today(world) == 50
    never_twice(world)


async def test_dispatches_of_one_process_never_meet_each_others_conflicts(monkeypatch: pytest.MonkeyPatch) -> None:
    world = await cleared(*range(1, 11))
    commit, conflicts = world.table.commit, 0

    async def counted(changes: Sequence[Change]) -> None:
        nonlocal conflicts
        try:
            await commit(changes)
        except Conflict:
            conflicts += 1
            raise

    async def no_time(_seconds: float) -> None:
        """All turns come at once, as they do for a process that had no time for them when they came."""

    monkeypatch.setattr(world.table, "commit", counted)
    hurried = replace(world.parts, sleep=no_time)
    await asyncio.gather(*(dispatch(hurried, message(number)) for number in range(1, 11)))
    assert sum(world.intune.wiped().values()) == 10
    assert conflicts == 0
    never_twice(world)


async def test_s4_a_day_that_ends_while_it_is_being_counted_is_counted_anew() -> None:
    world = await cleared(1, 2)
    world.clock.now = datetime(2026, 11, 21, 23, 59, 59, 999_000, tzinfo=UTC)
    await dispatch(world.parts, message(1))
    world.clock.now = datetime(2026, 11, 21, 23, 59, 59, 999_990, tzinfo=UTC)
    await dispatch(world.parts, message(2))
    orders = await world.store.orders()
    assert orders is not None
    assert sum(orders.record.days.values()) == 2
    never_twice(world)


async def test_writes_keep_the_pace_that_policy_allows_over_all_instances() -> None:
    numbers = range(1, 401)
    world = await cleared(*numbers)
    sent: list[datetime] = []

    async def note(orders: Sequence[Order]) -> None:
        sent.extend([world.clock.now] * len(orders))

    world.intune.before_reset = note
    await asyncio.gather(*(dispatch(world.parts, message(*range(n, n + 20))) for n in range(1, 401, 20)))
    assert len(sent) == 400
    sent.sort()
    window = timedelta(seconds=20)
    most = max(sum(1 for at in sent if start <= at < start + window) for start in sent)
    assert most <= 180


async def test_whoever_read_for_too_long_before_its_turn_takes_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, turns in ((0.1, 1), (5.0, 2)):
        world = await cleared(1)

        async def slowly(
            devices: Sequence[ManagedDeviceId], world: Rig = world, seconds: float = seconds
        ) -> Mapping[ManagedDeviceId, ManagedDevice | None]:
            world.clock.forward(seconds=seconds)
            return {device: world.intune.devices[device].facts.managed for device in devices}

        monkeypatch.setattr(world.intune, "managed", slowly)
        await dispatch(world.parts, message(1))
        pace = await world.store.pace(Budget.WRITES)
        assert pace is not None
        assert sum(one.calls for one in pace.record.booked) == turns
        assert world.intune.wiped() == {device_id(1): 1}


# --- facts


async def only_the_changed_one_is_refused(world: Rig, changes: dict[str, str] | None, code: Code) -> None:
    """Of two devices the first changes, or is gone for None, before both are dispatched."""
    if changes is None:
        del world.intune.devices[device_id(1)]
    else:
        world.intune.devices[device_id(1)].change(**changes)
    await dispatch(world.parts, message(1, 2))
    await world.deliver()
    assert await world.state(1) is State.REFUSED
    assert world.intune.wiped() == {device_id(2): 1}
    assert [one["data"]["code"] for one in world.told() if one["type"].endswith("device.refused")] == [code]


async def test_fresh_facts_are_not_read_again() -> None:
    world = await cleared(1, devices=[{"intuneId": device_id(1)}])
    world.clock.forward(minutes=9)
    await dispatch(world.parts, message(1))
    assert world.intune.calls["facts"] == 0
    assert world.intune.wiped() == {device_id(1): 1}


async def test_s1_a_device_whose_pending_actions_no_list_shows_is_read_by_itself_before_its_reset_is_sent() -> None:
    world = rig(device(1, pending_actions=("retire",)))
    await world.ask(1)
    assert await world.state(1) is State.CLEARED
    await dispatch(world.parts, message(1))
    await world.deliver()
    assert [one["data"]["code"] for one in world.told() if "code" in one["data"]] == [Code.OTHER_ACTION_PENDING]
    assert not world.intune.wiped()


async def test_a_device_named_by_its_serial_number_costs_one_read_before_its_reset_is_sent() -> None:
    world = await cleared(1)
    world.intune.calls.clear()
    await dispatch(world.parts, message(1))
    assert dict(world.intune.calls) == {"managed": 1, "reset": 1}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"name": "VIP-1"}, Code.PROTECTED),
        ({"management_state": "retirePending"}, Code.OTHER_ACTION_PENDING),
        ({"serial_number": "SN-other"}, Code.FACTS_CHANGED),
        ({"entra_device_id": EntraDeviceId("another")}, Code.FACTS_CHANGED),
        ({"primary_user": UserId("22222222-2222-4222-8222-222222222222")}, Code.HANDED_ON),
        ({"enrolled_at": START - timedelta(days=1)}, Code.HANDED_ON),
        ({"join_type": "hybridAzureADJoined"}, Code.HYBRID_JOINED),
        ({"pending_actions": ("wipe",)}, Code.OTHER_ACTION_PENDING),
        (None, Code.FACTS_CHANGED),
    ],
)
async def test_s14_what_the_one_read_shows_as_changed_is_judged_anew(
    changes: dict[str, str] | None, code: Code
) -> None:
    world = await cleared(1, 2)
    world.with_policy(protected_devices=["VIP-*"])
    await only_the_changed_one_is_refused(world, changes, code)


async def test_what_lists_cut_off_is_no_change() -> None:
    world = await cleared(1)
    exactly = START - timedelta(hours=2) + timedelta(seconds=0.7)
    world.intune.devices[device_id(1)].change(last_sync=exactly, enrolled_at=START - timedelta(days=90, seconds=-0.2))
    await dispatch(world.parts, message(1))
    assert world.intune.calls["facts"] == 0
    assert world.intune.wiped() == {device_id(1): 1}


async def test_a_device_that_has_checked_in_since_is_read_in_full_so_that_proof_is_measured_against_it() -> None:
    world = await cleared(1)
    world.clock.forward(minutes=1)
    world.intune.check_in(device_id(1))
    await dispatch(world.parts, message(1))
    assert world.intune.calls["facts"] == 1
    assert (await world.reset(1)).before.last_sync == world.intune.devices[device_id(1)].facts.managed.last_sync


async def test_s1_facts_that_are_too_old_are_read_again() -> None:
    world = await cleared(1)
    world.clock.forward(minutes=11)
    world.intune.check_in(device_id(1), primary_user="")
    await dispatch(world.parts, message(1))
    assert world.intune.calls["facts"] == 1
    reset = await world.reset(1)
    assert (reset.state, reset.before.primary_user) == (State.TRIGGERED, "")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"management_state": "retirePending"}, Code.OTHER_ACTION_PENDING),
        ({"serial_number": "SN-other"}, Code.FACTS_CHANGED),
        ({"entra_device_id": EntraDeviceId("another")}, Code.FACTS_CHANGED),
        ({"primary_user": UserId("22222222-2222-4222-8222-222222222222")}, Code.HANDED_ON),
        ({"enrolled_at": START - timedelta(days=1)}, Code.HANDED_ON),
        ({"last_sync": START - timedelta(days=31)}, Code.NOT_SEEN_LATELY),
        (None, Code.FACTS_CHANGED),
    ],
)
async def test_s14_a_device_that_changed_since_is_refused_and_told(changes: dict[str, str] | None, code: Code) -> None:
    world = await cleared(1, 2)
    world.clock.forward(minutes=11)
    await only_the_changed_one_is_refused(world, changes, code)


async def test_s1_devices_whose_facts_cannot_be_read_wait_for_another_turn() -> None:
    world = await cleared(1, 2)
    world.clock.forward(minutes=11)
    world.intune.unreadable = {device_id(1)}
    await dispatch(world.parts, message(1, 2))
    assert world.intune.wiped() == {device_id(2): 1}
    world.intune.down = {"facts"}
    await dispatch(world.parts, message(1))
    assert await world.state(1) is State.CLEARED
    world.intune.down.clear()
    world.intune.unreadable.clear()
    await world.tick(minutes=6)
    assert world.intune.wiped() == {device_id(1): 1, device_id(2): 1}


async def test_s1_devices_that_cannot_be_read_by_themselves_wait_for_another_turn() -> None:
    world = await cleared(1, 2)
    world.intune.unreadable = {device_id(1)}
    await dispatch(world.parts, message(1, 2))
    assert world.intune.wiped() == {device_id(2): 1}
    world.intune.unreadable.clear()
    world.intune.down = {"managed"}
    await dispatch(world.parts, message(1))
    assert await world.state(1) is State.CLEARED
    world.intune.down.clear()
    await world.tick(minutes=6)
    assert world.intune.wiped() == {device_id(1): 1, device_id(2): 1}


# --- answers


@pytest.mark.parametrize(
    ("answer", "state", "code"),
    [
        (Answer(AnswerKind.ACCEPTED), State.TRIGGERED, None),
        (Answer(AnswerKind.THROTTLED), State.CLEARED, None),
        (Answer(AnswerKind.THROTTLED, retry_after=timedelta(minutes=3)), State.CLEARED, None),
        (Answer(AnswerKind.NOT_SENT, "No connection."), State.CLEARED, None),
        (Answer(AnswerKind.FORBIDDEN, "A role is missing."), State.ATTENTION, Code.FORBIDDEN_BY_GRAPH),
        (Answer(AnswerKind.APPROVAL_REQUIRED), State.ATTENTION, Code.ADMIN_APPROVAL_REQUIRED),
        (Answer(AnswerKind.NOT_FOUND), State.FAILED, Code.RECORD_GONE),
        (Answer(AnswerKind.REJECTED, "Bad request."), State.FAILED, Code.REJECTED_BY_GRAPH),
        (Answer(AnswerKind.UNKNOWN), State.SENDING, None),
    ],
)
async def test_each_answer_leads_where_it_should(answer: Answer, state: State, code: Code | None) -> None:
    world = await cleared(1, 2)
    world.intune.script[device_id(1)].append(answer)
    await dispatch(world.parts, message(1, 2))
    await world.deliver()
    assert await world.state(1) is state
    assert await world.state(2) is State.TRIGGERED, "the others are not touched by it"
    told = [one["data"] for one in world.told() if one["data"].get("device", {}).get("intuneId") == device_id(1)]
    assert [one["code"] for one in told] == ([code] if code else [])
    assert all(answer.detail in one["message"] and one["remedy"] for one in told)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(AnswerKind.THROTTLED),
        Answer(AnswerKind.THROTTLED, retry_after=timedelta(minutes=3)),
        Answer(AnswerKind.NOT_SENT),
    ],
)
async def test_what_was_not_taken_is_sent_again_later_by_itself(answer: Answer) -> None:
    world = await cleared(1)
    world.intune.script[device_id(1)].append(answer)
    await dispatch(world.parts, message(1))
    wait = answer.retry_after or timedelta(seconds=30)
    await world.tick(seconds=wait.total_seconds() - 1)
    assert world.intune.calls["reset"] == 1
    await world.tick(seconds=2)
    assert world.intune.wiped() == {device_id(1): 1}
    assert await world.state(1) is State.TRIGGERED


async def test_a_forbidden_reset_goes_on_once_somebody_retries_it() -> None:
    world = await cleared(1)
    world.intune.script[device_id(1)].append(Answer(AnswerKind.FORBIDDEN))
    await dispatch(world.parts, message(1))
    await control(world.parts, json.dumps({"command": "retry", "requestId": "R1", "by": "ann", "why": "granted"}))
    await world.deliver()
    assert world.intune.wiped() == {device_id(1): 1}


async def test_a_device_that_is_needed_sooner_than_it_can_be_sent_is_not_sent() -> None:
    """Twenty at once, since each takes a row more than a sent one and a transaction holds a hundred."""
    numbers = range(1, 21)
    world = await cleared(*numbers, readyBy=datetime(2026, 11, 21, 10, tzinfo=UTC).isoformat())
    world.clock.now = datetime(2026, 11, 21, 10, tzinfo=UTC)
    await dispatch(world.parts, message(*numbers))
    assert world.intune.calls["reset"] == 0
    assert await states(world, *numbers) == {State.ATTENTION}
    await world.deliver()
    assert world.told_types() == {"request.accepted": 1, "device.late": 20, "device.attention": 20}
    assert await ordered_today(world) == 0, "nothing of the day's limit is used up"


# --- lost answers


async def test_s13_an_order_that_arrived_though_its_answer_was_lost_is_found_and_not_sent_again() -> None:
    world = await cleared(1)
    world.intune.script[device_id(1)].append(Lost(arrived=True))
    await dispatch(world.parts, message(1))
    assert await world.state(1) is State.SENDING
    for _ in range(30):
        await world.tick(minutes=1)
    assert await world.state(1) in (State.TRIGGERED, State.RESETTING)
    assert world.intune.wiped() == {device_id(1): 1}
    assert world.intune.calls["reset"] == 1


async def test_an_order_that_provably_did_not_arrive_is_sent_again() -> None:
    world = await cleared(1)
    world.intune.script[device_id(1)].append(Lost(arrived=False))
    await dispatch(world.parts, message(1))
    await world.tick(minutes=4)
    assert world.intune.calls["reset"] == 1, "Graph may take as long as that to show it"
    for _ in range(10):
        await world.tick(minutes=1)
    assert world.intune.calls["reset"] == 2
    assert world.intune.wiped() == {device_id(1): 1}
    assert await world.state(1) is State.TRIGGERED


@pytest.mark.parametrize("blind", ["look", "audited_resets"])
async def test_s13_without_proof_either_way_nothing_is_sent_again_and_a_person_is_called(blind: str) -> None:
    world = await cleared(1)
    world.intune.script[device_id(1)].append(Lost(arrived=False))
    await dispatch(world.parts, message(1))
    world.intune.down = {blind}
    for _ in range(30):
        await world.tick(minutes=1)
    assert world.intune.calls["reset"] == 1
    assert await world.state(1) is State.ATTENTION
    (told,) = [one["data"] for one in world.told() if one["type"].endswith("device.attention")]
    assert told["code"] == Code.SEND_UNKNOWN


async def test_s13_a_device_that_checked_in_since_a_lost_order_is_not_sent_another() -> None:
    world = await cleared(1)
    world.intune.audit_shows = False
    world.intune.script[device_id(1)].append(Lost(arrived=False))
    await dispatch(world.parts, message(1))
    world.clock.forward(minutes=1)
    world.intune.check_in(device_id(1))
    for _ in range(30):
        await world.tick(minutes=1)
    assert world.intune.calls["reset"] == 1
    assert await world.state(1) is State.ATTENTION


async def test_s13_answers_lost_again_and_again_end_with_a_person() -> None:
    world = await cleared(1)
    world.intune.script[device_id(1)].extend([Lost(arrived=False)] * 10)
    await dispatch(world.parts, message(1))
    for _ in range(120):
        await world.tick(minutes=1)
    assert world.intune.calls["reset"] <= 3
    assert await world.state(1) is State.ATTENTION


# --- crashes: whatever dies where, no device is reset twice and none is forgotten


async def settle(world: Rig) -> None:
    """The process is back; messages come back, timers run."""
    world.heal()
    world.intune.before_reset = None
    for _ in range(40):
        await world.tick(minutes=1)


async def commits_of_a_dispatch() -> int:
    world = await cleared(1, 2, 3)
    await dispatch(world.parts, message(1, 2, 3))
    return world.faulty.commits


@pytest.mark.parametrize("took_effect", [False, True])
@pytest.mark.parametrize("again", [False, True])
async def test_s13_a_crash_at_any_commit_of_dispatch_resets_each_device_once(took_effect: bool, again: bool) -> None:
    commits = await commits_of_a_dispatch()
    assert commits >= 3
    for commit in range(1, commits + 1):
        world = await cleared(1, 2, 3)
        world.fail(commit, took_effect=took_effect)
        with pytest.raises(Crash):
            await dispatch(world.parts, message(1, 2, 3))
        world.heal()
        if again:
            await dispatch(world.parts, message(1, 2, 3))
        await settle(world)
        where = f"crash at commit {commit} of {commits}"
        assert world.intune.wiped() == {device_id(number): 1 for number in (1, 2, 3)}, where
        assert await states(world, 1, 2, 3) <= {State.TRIGGERED, State.RESETTING}, where


@pytest.mark.parametrize("took_effect", [False, True])
async def test_s13_an_error_of_the_table_at_any_commit_does_not_reset_anything_twice(took_effect: bool) -> None:
    """The storage answers with an error, and the message comes back at once, in the same process."""
    for commit in range(1, await commits_of_a_dispatch() + 1):
        world = await cleared(1, 2, 3)
        world.fail(commit, took_effect=took_effect, error=OSError("storage"))
        with pytest.raises(OSError, match="storage"):
            await dispatch(world.parts, message(1, 2, 3))
        world.heal()
        await dispatch(world.parts, message(1, 2, 3))
        await settle(world)
        assert world.intune.wiped() == {device_id(number): 1 for number in (1, 2, 3)}


async def test_s13_a_commit_that_took_effect_but_was_reported_as_a_conflict_is_recognised() -> None:
    """The SDK repeats a commit whose answer was lost, and the repetition meets its own effect."""
    for commit in range(1, await commits_of_a_dispatch() + 1):
        world = await cleared(1, 2, 3)
        world.fail(commit, took_effect=True, error=Conflict("it was changed since"))
        await dispatch(world.parts, message(1, 2, 3))
        assert world.intune.wiped() == {device_id(number): 1 for number in (1, 2, 3)}, f"commit {commit}"
        assert await states(world, 1, 2, 3) == {State.TRIGGERED}
        assert await ordered_today(world) == 3


@pytest.mark.parametrize("arrived", [False, True])
async def test_s13_a_process_that_dies_in_the_call_resets_each_device_once(arrived: bool) -> None:
    world = await cleared(1, 2, 3)
    world.intune.script[device_id(2)].append(Dies(arrived=arrived))
    with pytest.raises(Crash):
        await dispatch(world.parts, message(1, 2, 3))
    assert await states(world, 1, 2, 3) == {State.SENDING}
    await dispatch(world.parts, message(1, 2, 3))
    assert world.intune.calls["reset"] == 1, "the message that comes back finds them sending and leaves them alone"
    await settle(world)
    assert world.intune.wiped() == {device_id(number): 1 for number in (1, 2, 3)}
    assert await states(world, 1, 2, 3) <= {State.TRIGGERED, State.RESETTING}


async def test_s13_the_same_message_twice_sends_once() -> None:
    world = await cleared(1, 2)
    await dispatch(world.parts, message(1, 2))
    await dispatch(world.parts, message(1, 2))
    await dispatch(world.parts, message(2, 2, 1))
    assert world.intune.wiped() == {device_id(1): 1, device_id(2): 1}
    assert world.intune.calls["reset"] == 1


async def test_s13_one_message_handled_by_several_instances_at_once_sends_once() -> None:
    numbers = range(1, 21)
    world = await cleared(*numbers)
    others = [world.other_instance() for _ in range(5)]
    await asyncio.gather(*(dispatch(parts, message(*numbers)) for parts in (world.parts, *others)))
    assert world.intune.wiped() == {device_id(number): 1 for number in numbers}
    assert await states(world, *numbers) == {State.TRIGGERED}
    assert await ordered_today(world) == 20


async def test_s13_messages_that_overlap_and_run_at_once_send_each_device_once() -> None:
    numbers = range(1, 41)
    world = await cleared(*numbers)
    spans = [(1, 21), (10, 30), (21, 41), (1, 41), (15, 25)]
    await asyncio.gather(*(dispatch(world.other_instance(), message(*range(*span))) for span in spans))
    await dispatch(world.parts, message(*numbers))
    assert world.intune.wiped() == {device_id(number): 1 for number in numbers}


async def test_a_cancel_that_comes_at_once_with_the_dispatch_is_exact() -> None:
    for _ in range(3):
        world = await cleared(1, 2)
        cancel = json.dumps({"command": "cancel", "requestId": "R1", "by": "ann", "why": "no"})
        await asyncio.gather(dispatch(world.parts, message(1, 2)), control(world.other_instance(), cancel))
        await settle(world)
        for number in (1, 2):
            gone = await world.state(number) is State.CANCELLED
            assert world.intune.wiped().get(device_id(number), 0) == (0 if gone else 1)


async def test_s13_an_instance_frozen_before_the_call_does_not_send_what_another_has_sent_since() -> None:
    world = await cleared(1)

    async def frozen() -> None:
        mine, world.parts = world.parts, world.other_instance()
        for _ in range(12):
            await world.tick(minutes=1)
        world.parts = mine

    world.meanwhile("sent|", frozen, after=True)  # at the commit of `sending`, whose answer comes late
    await dispatch(world.parts, message(1))
    assert not world.still_to_happen
    assert world.intune.wiped() == {device_id(1): 1}


async def test_s13_an_answer_that_comes_after_the_sweep_has_settled_it_changes_nothing() -> None:
    world = await cleared(1)

    async def slow(orders: Sequence[Order]) -> None:
        world.intune.before_reset = None
        world.intune.devices[device_id(1)].wipes.append(world.clock())
        world.intune.script[device_id(1)].append(Lost(arrived=False))
        mine, world.parts = world.parts, world.other_instance()
        for _ in range(7):
            await world.tick(minutes=1)
        world.parts = mine

    world.intune.before_reset = slow
    await dispatch(world.parts, message(1))
    assert await world.state(1) is State.TRIGGERED
    assert world.intune.wiped() == {device_id(1): 1}
    assert EventKind.ORDER_DOUBTFUL not in {event.kind for event in await world.history(1)}


async def test_graph_that_cannot_be_connected_to_leaves_devices_cleared() -> None:
    world = await cleared(1)

    async def broken() -> object:
        raise RuntimeError("no such endpoint")

    parts = replace(world.parts, intune=broken)  # type: ignore[arg-type]  # never gives one
    with pytest.raises(RuntimeError):
        await dispatch(parts, message(1))
    assert await world.state(1) is State.CLEARED
    await dispatch(world.parts, message(1))
    assert world.intune.wiped() == {device_id(1): 1}


async def test_s13_a_sweep_that_was_frozen_does_not_take_an_old_look_for_proof_about_a_newer_order() -> None:
    world = await cleared(1)
    world.intune.script[device_id(1)].append(Lost(arrived=False))
    await dispatch(world.parts, message(1))
    world.clock.forward(minutes=5, seconds=1)
    real = world.intune.audited_resets
    others = [world.other_instance()]

    async def frozen(*arguments: object) -> object:
        found = await real(*arguments)  # type: ignore[arg-type]  # passed through
        if others:
            mine, world.parts = world.parts, others.pop()
            await sweep(world.parts)
            await world.deliver()
            assert world.intune.wiped() == {device_id(1): 1}, "another instance settled it and sent it anew"
            world.intune.script[device_id(1)].clear()
            world.clock.forward(minutes=6)
            world.parts = mine
        return found

    reset = await world.reset(1)
    assert reset.state is State.SENDING
    world.intune.script[device_id(1)].append(Lost(arrived=True))
    world.intune.audited_resets = frozen  # type: ignore[method-assign, assignment]  # the read after which it freezes
    await sweep(world.parts)
    await world.deliver()
    assert world.intune.wiped() == {device_id(1): 1}


async def test_a_device_retried_after_it_was_late_is_sent() -> None:
    world = await cleared(1, readyBy=datetime(2026, 11, 21, 10, tzinfo=UTC).isoformat())
    world.clock.now = datetime(2026, 11, 21, 10, tzinfo=UTC)
    await dispatch(world.parts, message(1))
    assert await world.state(1) is State.ATTENTION
    await control(world.parts, json.dumps({"command": "retry", "requestId": "R1", "by": "ann", "why": "all the same"}))
    await world.deliver()
    assert world.intune.wiped() == {device_id(1): 1}


async def test_a_device_that_took_its_reset_before_its_answer_came_is_followed_all_the_same() -> None:
    world = await cleared(1)
    world.intune.script[device_id(1)].append(Lost(arrived=True))
    await dispatch(world.parts, message(1))
    world.clock.forward(minutes=1)
    world.intune.check_in(device_id(1), ActionState.ACTIVE)
    await world.tick(minutes=1)
    assert await world.state(1) is State.RESETTING
    await settle(world)
    never_twice(world)
