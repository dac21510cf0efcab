"""Sync and poll: a device that was told is nudged, watched and believed only on proof."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from shared.domain.devices import ActionState
from shared.domain.orders import Answer, AnswerKind
from shared.domain.reset import EventKind
from shared.domain.states import State
from shared.pipeline.poll import poll
from shared.pipeline.sync import sync
from tests.pipeline.fakes import Crash, Rig, device, device_id, rig


async def triggered(*numbers: int) -> Rig:
    """A world in which these devices were told, and neither queue nor outbox holds anything."""
    world = rig(*(device(number) for number in numbers))
    await world.trigger(*numbers)
    for number in numbers:
        assert await world.state(number) is State.TRIGGERED
    world.intune.calls.clear()
    return world


async def ready_from_triggered(world: Rig, number: int) -> None:
    """The device takes its reset, is silent, and comes back."""
    world.clock.forward(minutes=3)
    world.intune.take(device_id(number))
    await poll(world.parts)
    world.clock.forward(minutes=6)
    await sync(world.parts)
    world.clock.forward(minutes=34)
    world.intune.come_back(device_id(number))
    await poll(world.parts)
    world.clock.forward(minutes=4)
    world.intune.check_in(device_id(number))
    await poll(world.parts)


async def back(*numbers: int) -> Rig:
    """A world in which these devices took their resets and came back half an hour later, which lists alone have shown:
    only a close look at their next check-in can say that they are ready."""
    world = await triggered(*numbers)
    await world.take_and_come_back(*numbers, minutes=24)
    for number in numbers:
        assert await world.state(number) is State.SETTLING
    world.intune.calls.clear()
    world.clock.forward(minutes=3)
    return world


# --- sync


async def test_a_device_that_checks_in_by_itself_is_not_told_to() -> None:
    world = await triggered(1)
    await ready_from_triggered(world, 1)
    assert world.intune.devices[device_id(1)].syncs == 0
    assert await world.state(1) is State.READY


async def test_a_silent_device_is_told_to_sync_with_growing_gaps_and_then_a_person_is_called() -> None:
    world = await triggered(1)
    told = []
    for minute in range(300):
        before = world.intune.devices[device_id(1)].syncs
        world.clock.forward(minutes=1)
        await sync(world.parts)
        if world.intune.devices[device_id(1)].syncs > before:
            told.append(minute + 1)
    assert len(told) == 4
    assert 5 <= told[0] <= 6
    gaps = [later - sooner for sooner, later in pairwise(told)]
    assert all(later > sooner * 1.6 for sooner, later in pairwise(gaps))
    assert await world.state(1) is State.ATTENTION
    await world.deliver()
    assert world.told_types()["device.attention"] == 1


async def test_nobody_is_called_for_a_device_that_took_its_reset_unseen() -> None:
    world = await triggered(1)
    for _ in range(100):
        world.clock.forward(minutes=1)
        await sync(world.parts)
    world.intune.take(device_id(1))
    for _ in range(120):
        world.clock.forward(minutes=1)
        await sync(world.parts)
    assert await world.state(1) is State.RESETTING
    await world.deliver()
    assert "device.attention" not in world.told_types()


async def test_before_the_grace_period_is_over_nothing_is_asked_of_graph() -> None:
    world = await triggered(1)
    world.clock.forward(minutes=4)
    await sync(world.parts)
    assert dict(world.intune.calls) == {}


async def test_a_tick_that_runs_twice_or_in_two_instances_syncs_once() -> None:
    world = await triggered(*range(1, 31))
    world.clock.forward(minutes=6)
    await asyncio.gather(*(sync(world.other_instance()) for _ in range(3)))
    await sync(world.parts)
    assert {world.intune.devices[device_id(number)].syncs for number in range(1, 31)} == {1}


async def test_syncs_of_many_devices_go_in_batches_of_twenty_within_the_pace() -> None:
    world = await triggered(*range(1, 51))
    world.clock.forward(minutes=6)
    before = world.clock.now
    await sync(world.parts)
    assert world.intune.calls["sync"] == 3
    assert world.clock.now - before >= timedelta(seconds=30 * 20 / 160 - 1), "beyond the first burst they wait"


async def test_a_sync_that_graph_does_not_take_is_in_the_history_and_tried_again() -> None:
    world = await triggered(1)
    world.intune.sync_answer = Answer(AnswerKind.THROTTLED, "Too many requests.")
    world.clock.forward(minutes=6)
    await sync(world.parts)
    kinds = [event.kind for event in await world.history(1)]
    assert kinds[-1] is EventKind.SYNC_NOT_TAKEN
    world.intune.sync_answer = Answer(AnswerKind.ACCEPTED)
    world.clock.forward(minutes=15)
    await sync(world.parts)
    assert world.intune.devices[device_id(1)].syncs == 2
    assert await world.state(1) is State.TRIGGERED


@pytest.mark.parametrize("took_effect", [False, True])
async def test_a_crash_at_any_commit_of_sync_leaves_a_next_step(took_effect: bool) -> None:
    for commit in (1, 2, 3):
        world = await triggered(1, 2)
        world.clock.forward(minutes=6)
        world.fail(commit, took_effect=took_effect)
        with suppress(Crash):
            await sync(world.parts)
        world.heal()
        for _ in range(20):
            await world.tick(minutes=1)
        for number in (1, 2):
            assert 1 <= world.intune.devices[device_id(number)].syncs <= 3
            assert await world.state(number) is State.TRIGGERED
        assert world.intune.wiped() == {device_id(1): 1, device_id(2): 1}


async def test_one_device_whose_sync_cannot_be_committed_keeps_no_other_from_its_own() -> None:
    world = await triggered(*range(1, 41))
    world.clock.forward(minutes=6)
    world.fail(1, took_effect=False, error=OSError("storage"))
    with pytest.raises(ExceptionGroup):
        await sync(world.parts)
    assert sum(world.intune.devices[device_id(number)].syncs for number in range(1, 41)) == 20


async def test_a_device_that_can_never_be_looked_at_does_not_hold_the_watermark_for_ever() -> None:
    world = await back(1)
    world.intune.add(device(100))
    world.intune.check_in(device_id(1))
    world.intune.unreadable = {device_id(1)}
    for _ in range(20):
        world.clock.forward(minutes=10)
        world.intune.check_in(device_id(100))
        await poll(world.parts)
    watermark = await world.store.watermark()
    assert watermark is not None
    assert world.clock.now - watermark <= timedelta(hours=1)


# --- poll


async def test_with_nothing_in_flight_graph_is_not_asked() -> None:
    world = rig(device(1))
    await poll(world.parts)
    assert dict(world.intune.calls) == {}
    assert await world.store.watermark() is None


async def test_only_devices_that_are_tracked_and_moved_are_taken_on() -> None:
    world = await triggered(1, 2)
    world.intune.add(device(3))
    world.clock.forward(minutes=2)
    world.intune.take(device_id(1))
    world.intune.check_in(device_id(3))
    await poll(world.parts)
    assert await world.state(1) is State.RESETTING
    assert await world.state(2) is State.TRIGGERED
    before = await world.reset(1)
    world.clock.forward(minutes=1)
    await poll(world.parts)
    assert await world.reset(1) == before, "the same check-in, seen again in the overlap, is no news"


async def test_a_list_takes_a_device_on_without_a_look_and_one_look_ends_it() -> None:
    world = await back(1)
    assert world.intune.calls["look"] == 0
    world.intune.check_in(device_id(1))
    await poll(world.parts)
    assert world.intune.calls["look"] == 1
    assert await world.state(1) is State.READY


async def test_a_check_in_whose_look_shows_no_proof_is_looked_at_once() -> None:
    world = await back(1)
    world.intune.check_in(device_id(1), ActionState.ACTIVE)
    for _ in range(5):
        await poll(world.parts)
        world.clock.forward(minutes=1)
    assert world.intune.calls["look"] == 1
    assert await world.state(1) is State.SETTLING


async def test_a_device_that_is_not_silent_is_looked_at_to_see_why() -> None:
    world = await triggered(1)
    world.clock.forward(minutes=2)
    world.intune.take(device_id(1))
    await poll(world.parts)
    world.clock.forward(minutes=4)
    world.intune.check_in(device_id(1), ActionState.FAILED)
    await poll(world.parts)
    assert world.intune.calls["look"] == 1
    assert await world.state(1) is State.FAILED


async def test_a_list_that_calls_a_reset_failed_is_not_believed_but_looked_into() -> None:
    world = await triggered(1)
    world.clock.forward(minutes=2)
    world.intune.take(device_id(1))
    wrong = replace(world.intune.listed(device_id(1)), management_state="wipeFailed")
    world.intune.checked_in = [wrong]
    await poll(world.parts)
    assert world.intune.calls["look"] == 1
    assert await world.state(1) is State.RESETTING


async def test_a_device_that_a_list_shows_as_wiped_late_needs_no_look_in_the_middle() -> None:
    world = await triggered(1)
    world.clock.forward(minutes=2)
    world.intune.check_in(device_id(1), ActionState.DONE, management_state="wipeIssued")
    for _ in range(14):
        await poll(world.parts)
        await sync(world.parts)
        world.clock.forward(minutes=1)
    assert world.intune.calls["look"] == 0
    proof = (await world.reset(1)).proof
    assert proof.issued_late
    world.clock.forward(minutes=20)
    world.intune.come_back(device_id(1))
    await poll(world.parts)
    world.clock.forward(minutes=3)
    world.intune.check_in(device_id(1))
    await poll(world.parts)
    assert await world.state(1) is State.READY
    assert dict(world.intune.calls) == {"changed_since": 16, "look": 1}


async def test_what_comes_to_count_as_late_counts_although_the_same_was_handled_just_before() -> None:
    world = await triggered(1)
    world.clock.forward(minutes=2)
    world.intune.check_in(device_id(1), ActionState.DONE, management_state="wipeIssued")
    for minutes, late in ((9, False), (2, True)):
        world.clock.forward(minutes=minutes)
        await poll(world.parts)
        assert (await world.reset(1)).proof.issued_late is late


async def test_a_device_that_no_list_shows_late_is_looked_at_in_the_middle() -> None:
    world = await triggered(1)
    world.clock.forward(minutes=2)
    world.intune.check_in(device_id(1), ActionState.ACTIVE, management_state="wipeIssued")
    await poll(world.parts)
    world.clock.forward(minutes=12)
    await sync(world.parts)
    assert world.intune.calls["look"] == 0, "lists may show it still"
    world.intune.down = {"changed_since"}
    world.clock.forward(minutes=1)
    await poll(world.parts)
    await sync(world.parts)
    assert world.intune.calls["look"] == 1
    assert (await world.reset(1)).proof.issued_late


async def test_a_check_in_too_soon_after_the_order_to_say_who_took_it_is_looked_at() -> None:
    world = await triggered(1)
    world.clock.forward(seconds=30)
    world.intune.check_in(device_id(1), ActionState.PENDING)
    await poll(world.parts)
    assert world.intune.calls["look"] == 1
    assert await world.state(1) is State.TRIGGERED
    world.clock.forward(minutes=1)
    await poll(world.parts)
    assert world.intune.calls["look"] == 1


async def test_a_taking_that_graph_shows_only_minutes_later_is_found_without_another_check_in() -> None:
    world = await triggered(1)
    world.clock.forward(seconds=30)
    world.intune.check_in(device_id(1), ActionState.PENDING)
    await poll(world.parts)
    shown = world.intune.devices[device_id(1)].actions
    shown[-1] = replace(shown[-1], state=ActionState.ACTIVE)
    for _ in range(14):
        await poll(world.parts)
        world.clock.forward(minutes=1)
    assert world.intune.calls["look"] == 2, "one at once, and one when Graph has had the time"
    assert await world.state(1) is State.RESETTING


async def test_a_check_in_from_before_the_order_changes_nothing_and_costs_nothing() -> None:
    world = rig(device(1))
    world.clock.forward(minutes=30)
    world.intune.check_in(device_id(1))
    world.clock.forward(minutes=4)
    await world.trigger(1)
    before = await world.reset(1)
    world.intune.calls.clear()
    await poll(world.parts)
    assert await world.reset(1) == before
    assert world.intune.calls["look"] == 0


async def test_the_span_that_polls_look_at_does_not_grow_while_nobody_checks_in() -> None:
    world = await triggered(1)
    for _ in range(12):
        world.clock.forward(minutes=10)
        await poll(world.parts)
    watermark = await world.store.watermark()
    assert watermark is not None
    assert world.clock.now - watermark <= timedelta(minutes=20)


async def test_the_watermark_follows_the_newest_check_in_once_all_are_handled() -> None:
    world = await triggered(1)
    world.clock.forward(minutes=2)
    world.intune.take(device_id(1))
    newest = world.intune.devices[device_id(1)].facts.managed.last_sync
    assert newest is not None
    await poll(world.parts)
    watermark = await world.store.watermark()
    assert watermark is not None
    assert abs(watermark - newest) <= timedelta(seconds=1)


@pytest.mark.parametrize("down", ["changed_since", "look"])
async def test_the_watermark_stays_where_it_is_while_graph_fails(down: str) -> None:
    world = await back(1)
    before = await world.store.watermark()
    world.clock.forward(minutes=5)
    world.intune.check_in(device_id(1))
    world.intune.down = {down}
    await poll(world.parts)
    assert await world.store.watermark() == before
    assert await world.state(1) is State.SETTLING
    world.intune.down.clear()
    world.clock.forward(hours=3)
    await poll(world.parts)
    assert await world.state(1) is State.READY


async def test_the_watermark_stays_where_it_is_when_a_commit_fails() -> None:
    world = await triggered(1)
    await poll(world.parts)
    before = await world.store.watermark()
    world.clock.forward(minutes=20)
    world.intune.take(device_id(1))
    world.fail(1, took_effect=False)
    with pytest.raises(Crash):
        await poll(world.parts)
    assert await world.store.watermark() == before
    world.heal()
    await poll(world.parts)
    assert await world.state(1) is State.RESETTING


async def test_a_device_that_could_not_be_looked_at_is_looked_at_again() -> None:
    world = await back(1, 2)
    world.intune.check_in(device_id(1))
    world.intune.check_in(device_id(2))
    world.intune.unreadable = {device_id(1)}
    await poll(world.parts)
    assert await world.state(1) is State.SETTLING
    assert await world.state(2) is State.READY
    world.intune.unreadable.clear()
    world.clock.forward(minutes=1)
    await poll(world.parts)
    assert await world.state(1) is State.READY


async def test_a_device_that_cannot_be_looked_at_for_long_is_not_forgotten_while_others_check_in() -> None:
    world = await back(1)
    others = [device(number) for number in range(100, 150)]
    world.intune.add(*others)
    world.intune.check_in(device_id(1))
    world.intune.unreadable = {device_id(1)}
    for other in others:
        world.clock.forward(minutes=1)
        world.intune.check_in(other.id)
        await poll(world.parts)
    world.intune.unreadable.clear()
    await poll(world.parts)
    assert await world.state(1) is State.READY


async def test_a_record_dated_into_the_future_does_not_hide_the_others() -> None:
    world = await triggered(1, 2)
    ahead = world.clock.now + timedelta(days=3650)
    world.intune.devices[device_id(2)].change(last_sync=ahead)
    await poll(world.parts)
    world.clock.forward(minutes=10)
    world.intune.take(device_id(1))
    await poll(world.parts)
    assert await world.state(1) is State.RESETTING


async def test_a_stale_list_changes_nothing() -> None:
    world = await triggered(1)
    world.clock.forward(minutes=2)
    world.intune.take(device_id(1))
    await poll(world.parts)
    before = await world.reset(1)
    stale = world.clock.now - timedelta(hours=1)
    world.intune.checked_in = [replace(world.intune.listed(device_id(1)), last_sync=stale)]
    world.clock.forward(minutes=1)
    await poll(world.parts)
    world.intune.checked_in = []
    await poll(world.parts)
    assert await world.reset(1) == before


async def test_a_look_that_is_older_than_the_list_decides_nothing_and_the_next_one_does() -> None:
    world = await back(1)
    tenant = world.intune.devices[device_id(1)]
    older = replace(tenant.facts)
    world.intune.check_in(device_id(1))
    newer, world.intune.checked_in = tenant.facts, [world.intune.listed(device_id(1))]
    tenant.facts = older
    await poll(world.parts)
    assert await world.state(1) is State.SETTLING
    tenant.facts = newer
    world.clock.forward(minutes=1)
    await poll(world.parts)
    assert await world.state(1) is State.READY


async def test_a_check_in_too_soon_after_the_pick_up_is_no_return() -> None:
    world = await triggered(1)
    world.clock.forward(minutes=3)
    world.intune.take(device_id(1))
    await poll(world.parts)
    world.clock.forward(minutes=5)
    world.intune.come_back(device_id(1))
    await poll(world.parts)
    assert await world.state(1) is State.RESETTING
    assert EventKind.NOT_SILENT in {event.kind for event in await world.history(1)}


async def test_polls_that_run_at_once_write_each_event_once() -> None:
    world = await triggered(1, 2, 3)
    world.clock.forward(minutes=2)
    for number in (1, 2, 3):
        world.intune.take(device_id(number))
    await asyncio.gather(*(poll(world.other_instance()) for _ in range(4)))
    for number in (1, 2, 3):
        events = await world.history(number)
        assert [event.seq for event in events] == list(range(len(events)))
        assert [event.to_state for event in events].count(State.RESETTING) == 1


async def test_thousands_of_check_ins_are_handled() -> None:
    world = await triggered(1)
    world.intune.add(*(device(number) for number in range(100, 2600)))
    world.clock.forward(minutes=2)
    for number in range(100, 2600):
        world.intune.check_in(device_id(number))
    world.intune.take(device_id(1))
    await poll(world.parts)
    assert await world.state(1) is State.RESETTING
