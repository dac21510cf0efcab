"""A plan says what would become of a request, and that is what becomes of it; making it changes nothing."""

import json
from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.devices import AutopilotIdentity, DeviceFacts, DeviceReference, Finding, ReferenceKind
from shared.domain.guardrails import SPAN, Budget, Halt, Orders, Pace, tomorrow
from shared.domain.policy import Policy
from shared.domain.reasons import Code
from shared.domain.request import ResetRequest
from shared.domain.states import State
from shared.messages.queues import DISPATCH, NOTICES, REQUESTS, RESULTS
from shared.pipeline.control import control
from shared.pipeline.pace import slow_down
from shared.pipeline.plan import ABSENCE, Plan, Situation, Verdict, plan, situation
from tests.pipeline.fakes import START, Device, Rig, asking, device, device_id, lenient, rig

HALT = Halt("a.admin@contoso.example", "a burst", START)


def asked(*numbers: int, **fields: Any) -> ResetRequest:  # Any: fields of the request
    return ResetRequest.model_validate_json(asking(*numbers, **fields))


async def planned(world: Rig, request: ResetRequest, messages: list[str] | None = None) -> Plan:
    """The plan, made while any commit would fail."""
    world.fail(1, took_effect=False)
    now = world.clock()
    texts = messages or [request.model_dump_json(by_alias=True, exclude_none=True)]
    met = await situation(world.parts.store, request, texts, now, world.parts.policy)
    findings = await world.intune.find(request.references())
    made = plan(request, findings, met, world.parts.policy, now)
    assert world.faulty.commits == 0, "a plan commits nothing"
    world.heal()
    return made


def offline(request: ResetRequest, findings: dict[DeviceReference, Finding], policy: Policy | None = None) -> Plan:
    return plan(request, findings, Situation(), policy or lenient(), START, offline=True)


def found(*devices: Device) -> dict[DeviceReference, Finding]:
    return {
        DeviceReference(ReferenceKind.SERIAL_NUMBER, str(one.facts.managed.serial_number)): Finding((one.facts,))
        for one in devices
    }


# --- it changes nothing


async def test_s8_a_plan_writes_nothing_orders_nothing_and_puts_nothing_on_a_queue() -> None:
    world = rig(device(1), device(2, operating_system="iOS"), device(3))
    await world.trigger(3, request="R0")
    queues = (REQUESTS, DISPATCH, NOTICES, RESULTS)
    rows, waiting = world.table.keys(""), [world.queues.waiting(queue) for queue in queues]
    orders = world.intune.calls["reset"]
    made = await planned(world, asked(1, 2, 3))
    assert len(made.devices) == 3
    assert (world.table.keys(""), [world.queues.waiting(queue) for queue in queues]) == (rows, waiting)
    assert (world.intune.calls["reset"], world.intune.calls["sync"]) == (orders, 0)


# --- it says what would happen


async def test_s8_what_is_planned_is_what_intake_then_does() -> None:
    world = rig(device(1), device(2, operating_system="iOS"), device(3), device(4, management_state="wipePending"))
    world.intune.devices[device_id(1)].facts = replace(world.intune.devices[device_id(1)].facts, autopilot=None)
    await world.trigger(3, request="R0")
    made = await planned(world, asked(1, 2, 3, 4, 5))
    await world.ask(1, 2, 3, 4, 5)
    closed = {one.event.reference: one.event.reason async for one in world.store.closed(made.request_id)}
    assert {one.reference: one.why.code for one in made.devices if one.why} == {
        reference: reason.code for reference, reason in closed.items() if reason
    }
    assert len(closed) == 5


async def test_a_device_that_may_be_reset_goes_at_once_and_says_when_it_would_be_ready() -> None:
    world = rig(device(1))
    made = await planned(world, asked(1))
    (one,) = made.devices
    assert (one.verdict, one.intune_id, one.name, one.serial_number) == (Verdict.RESET, device_id(1), "PC-1", "SN1")
    assert one.order_at == made.made_at
    assert one.ready_earliest == made.made_at + timedelta(minutes=15)
    assert one.ready_likely == made.made_at + timedelta(minutes=50)
    assert made.all_reset
    assert "PT45M (usual_reset_duration)" in made.estimate


async def test_s8_a_refusal_has_code_sentence_and_remedy() -> None:
    made = await planned(rig(device(1, operating_system="iOS")), asked(1))
    (one,) = made.devices
    assert one.verdict is Verdict.REFUSED
    assert one.why is not None
    assert (one.why.code, one.why.sentence) == (
        Code.NOT_WINDOWS,
        "The device does not run Windows. Intune shows iOS.",
    )
    assert one.why.remedy
    assert one.order_at is None
    assert not made.all_reset


async def test_a_device_in_flight_is_refused_with_the_others_id() -> None:
    world = rig(device(1))
    await world.trigger(1, request="R0")
    (one,) = (await planned(world, asked(1))).devices
    assert one.why is not None
    assert (one.why.code, "R0" in one.why.sentence) == (Code.ALREADY_IN_FLIGHT, True)


async def test_a_device_named_twice_is_planned_once() -> None:
    request = asked(1, devices=[{"serialNumber": "SN1"}, {"name": "PC-1"}])
    made = await planned(rig(device(1)), request)
    assert (len(made.devices), made.totals.references, made.totals.reset) == (1, 2, 1)


async def test_a_request_that_was_taken_in_is_not_planned_anew() -> None:
    world = rig(device(1))
    await world.trigger(1)
    made = await planned(world, asked(1), [asking(1)])
    assert (made.devices, made.refused, made.all_reset) == ((), None, False)
    assert made.taken_at is not None


async def test_other_content_under_a_known_id_is_refused_as_a_whole() -> None:
    world = rig(device(1), device(2))
    await world.trigger(1)
    made = await planned(world, asked(2), [asking(2)])
    assert made.refused is not None
    assert made.refused.code == Code.REQUEST_ID_REUSED
    assert (made.devices, made.taken_at) == ((), None)


# --- when


async def test_under_a_halt_a_device_waits_and_no_time_is_foretold() -> None:
    world = rig(device(1))
    made = plan(asked(1), found(device(1)), Situation(halt=HALT), world.parts.policy, START)
    (one,) = made.devices
    assert (one.verdict, one.wait_until, one.order_at, one.ready_likely) == (Verdict.WAIT, None, None, None)
    assert one.why is not None
    assert one.why.code == Code.HALTED
    assert not made.all_reset


async def test_under_a_halt_no_time_is_foretold_for_a_later_start_either() -> None:
    later = START + timedelta(days=3)
    request = asked(1, notBefore=later.isoformat())
    (one,) = plan(request, found(device(1)), Situation(halt=HALT), lenient(), START).devices
    assert (one.verdict, one.wait_until, one.order_at) == (Verdict.WAIT, later, None)


async def test_the_halt_and_what_is_booked_are_read_from_the_table() -> None:
    world = rig(device(1))
    await control(world.parts, json.dumps({"command": "halt", "by": HALT.by, "why": HALT.why}))
    await slow_down(world.parts, timedelta(minutes=3), Budget.WRITES)
    met = await situation(world.store, asked(1), [asking(1)], world.clock(), world.parts.policy)
    assert met.halt is not None
    assert (met.halt.by, met.halt.why) == (HALT.by, HALT.why)
    made = plan(asked(1), found(device(1)), replace(met, halt=None), lenient(), START)
    (one,) = made.devices
    assert one.order_at is not None
    assert one.order_at >= START + timedelta(minutes=3)


async def test_a_later_start_is_waited_for() -> None:
    later = START + timedelta(days=3)
    made = await planned(rig(device(1)), asked(1, notBefore=later.isoformat()))
    (one,) = made.devices
    assert (one.verdict, one.wait_until, one.order_at) == (Verdict.WAIT, later, later)
    assert one.why is not None
    assert one.why.code == Code.NOT_YET
    assert made.all_reset, "it would be reset, at a time that is known"


async def test_what_does_not_fit_into_the_day_goes_on_the_next_days() -> None:
    world = rig(*map(device, range(1, 8)))
    world.with_policy(resets_per_day=3)
    await world.trigger(7, request="R0")
    made = await planned(world, asked(1, 2, 3, 4, 5, 6))
    midnight = tomorrow(START)
    days = [(one.order_at or START).date() for one in made.devices]
    assert days == [date(2026, 11, 21)] * 2 + [date(2026, 11, 22)] * 3 + [date(2026, 11, 23)]
    assert [one.verdict for one in made.devices] == [Verdict.RESET] * 2 + [Verdict.WAIT] * 4
    assert {one.why.code for one in made.devices[2:] if one.why} == {Code.DAILY_LIMIT}
    assert made.devices[2].wait_until == made.devices[2].order_at == midnight
    assert "2026-11-22 00:00" in (made.devices[2].why.sentence if made.devices[2].why else "")
    assert made.totals.orders_by_day == Counter(days)
    assert made.totals.all_ready_likely == made.devices[-1].ready_likely


async def test_s8_a_plan_for_a_full_day_is_what_dispatch_then_does() -> None:
    world = rig(*map(device, range(1, 6)))
    world.with_policy(resets_per_day=2)
    made = await planned(world, asked(1, 2, 3, 4, 5))
    await world.trigger(1, 2, 3, 4, 5)
    states = Counter([await world.state(number) for number in range(1, 6)])
    assert states == {State.TRIGGERED: made.totals.reset, State.HELD: made.totals.wait}
    assert made.totals.reset == 2


async def test_devices_of_other_requests_that_still_wait_take_their_share_of_the_days() -> None:
    world = rig(*map(device, range(1, 6)))
    world.with_policy(resets_per_day=2)
    await world.trigger(1, 2, 3, request="R0")
    made = await planned(world, asked(4, 5))
    assert [(one.order_at or START).date().day for one in made.devices] == [22, 23]


def test_orders_keep_to_the_pace_of_writes_behind_what_is_booked() -> None:
    devices = [device(number) for number in range(1, 61)]
    policy, booked = lenient(writes_per_window=40), START + timedelta(minutes=5)
    made = plan(asked(*range(1, 61)), found(*devices), Situation(pace=Pace(booked)), policy, START)
    starts = sorted({one.order_at for one in made.devices if one.order_at})
    # The first batch of 20 when the booking ends, the others evenly behind it.
    assert starts == [booked, booked + SPAN / 2, booked + SPAN]


@pytest.mark.parametrize(("minutes", "verdict", "late"), [(90, "reset", False), (30, "reset", True)])
def test_a_device_that_would_likely_not_be_ready_in_time_is_late(minutes: int, verdict: str, late: bool) -> None:
    wanted = (START + timedelta(minutes=minutes)).isoformat()
    (one,) = offline(asked(1, readyBy=wanted), found(device(1))).devices
    assert (one.verdict, one.late) == (verdict, late)


def test_a_device_whose_turn_comes_after_it_is_needed_would_need_a_person() -> None:
    request = asked(1, 2, readyBy=(START + timedelta(hours=10)).isoformat())
    made = offline(request, found(device(1), device(2)), lenient(resets_per_day=1))
    first, second = made.devices
    assert first.verdict is Verdict.RESET
    assert (second.verdict, second.order_at, second.late) == (Verdict.ATTENTION, None, True)
    assert second.why is not None
    assert second.why.code == Code.NOT_SENT_IN_TIME
    assert not made.all_reset


@given(
    count=st.integers(1, 60),
    a_day=st.integers(1, 30),
    today=st.integers(0, 40),
    writes=st.integers(21, 200),
)
def test_no_plan_passes_the_limit_of_a_day_and_every_device_has_its_turn(
    count: int, a_day: int, today: int, writes: int
) -> None:
    devices = [device(number) for number in range(1, count + 1)]
    policy = lenient(resets_per_day=a_day, writes_per_window=writes)
    made = plan(
        asked(*range(1, count + 1)), found(*devices), Situation(orders=Orders().plus(today, START)), policy, START
    )
    days = made.totals.orders_by_day
    assert sum(days.values()) == count
    assert all(number <= a_day for number in days.values())
    assert days.get(START.date(), 0) <= max(0, a_day - today)
    orders = [one.order_at for one in made.devices if one.order_at]
    assert orders == sorted(orders), "in the order of the request"


# --- from an export


def without_autopilot(facts: DeviceFacts) -> Finding:
    return Finding((replace(facts, autopilot=None),))


def without_entra(facts: DeviceFacts) -> Finding:
    return Finding((replace(facts, entra=None),))


NOT_ENROLLED = Finding(not_enrolled=(AutopilotIdentity("a", "SN1", "LAB", None, None),))


@pytest.mark.parametrize(
    ("finding", "code"),
    [
        (Finding(), Code.UNKNOWN_DEVICE),
        (NOT_ENROLLED, Code.NOT_ENROLLED),
        (without_autopilot(device(1).facts), Code.NOT_AUTOPILOT_REGISTERED),
        (without_entra(device(1).facts), Code.JOIN_UNKNOWN),
    ],
)
def test_a_refusal_for_what_an_export_does_not_show_says_that_this_proves_nothing(finding: Finding, code: Code) -> None:
    reference = DeviceReference(ReferenceKind.SERIAL_NUMBER, "SN1")
    (one,) = offline(asked(1), {reference: finding}).devices
    assert one.why is not None
    assert (one.why.code, ABSENCE in one.why.sentence) == (code, True)
    (online,) = plan(asked(1), {reference: finding}, Situation(), lenient(), START).devices
    assert online.why is not None
    assert ABSENCE not in online.why.sentence


def test_a_refusal_for_what_an_export_shows_stands_as_it_is() -> None:
    (one,) = offline(asked(1), found(device(1, operating_system="iOS"))).devices
    assert one.why is not None
    assert ABSENCE not in one.why.sentence


def test_the_same_input_gives_the_same_plan() -> None:
    request, findings = asked(1, 2), found(device(1), device(2))
    assert offline(request, findings) == offline(request, findings)
    assert json.loads(asking(1, 2))["requestId"] == offline(request, findings).request_id
