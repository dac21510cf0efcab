"""The main job in every dialect of Graph that is plausible: tenants that show the same turnovers in different ways.

Every turnover runs the app's own stages, the gateway and the Graph SDK in virtual time, with production's durations.
"""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

import pytest
from _pytest.mark import ParameterSet

from sandbox.dialects import DIALECTS, DIMENSIONS, End, Row, expected, named, provable, quirks, selector
from sandbox.scenario import RequestTable, Scenario
from sandbox.tenant.calls import Fault, FaultKind
from sandbox.tenant.devices import Json
from sandbox.tenant.quirks import Quirks
from sandbox.verdict import Observed, judge
from sandbox.virtual.loop import run
from sandbox.virtual.world import START, Moment, Speed, World
from shared.domain.notices import notice_id
from shared.domain.policy import Policy
from shared.domain.reset import EventKind
from shared.domain.states import TERMINAL, State

# --- the devices --------------------------------------------------------------------------------------------------

HEALTHY: dict[str, Json] = {
    "punctual": {"first_check_in": "PT4M", "count": 2},
    "chatty": {"check_in_every": "PT10M"},
    "quiet": {"first_check_in": "PT7H"},
    "wanted": {"first_check_in": "PT2M", "next_user": "next@contoso.example", "next_user_after": "PT30M"},
    "slow": {"first_check_in": "PT3M", "reset_duration": "PT1H50M"},
    "away": {"first_check_in": "PT5M", "off_from": "PT20M", "off_until": "PT2H30M"},
    "late": {"first_check_in": "PT5M", "off_from": "PT0S", "off_until": "PT1H40M"},
}
"""Devices that are reset in the end: one that checks in by itself, one that does so often, one that must be told to,
one whose next user is quick, one that takes long, one that is off when it should return, one that is off at first."""

UNWELL: dict[str, Json] = {
    "off": {"off_from": "PT0S"},
    "winre": {"first_check_in": "PT5M", "failure": "winre_disabled"},
    "silent": {"first_check_in": "PT5M", "failure": "silent_failure"},
    "cut": {"first_check_in": "PT5M", "failure": "interrupted"},
}
"""Devices that are never reset: switched off, unable to, saying that they were, and stuck on the way."""

DECEIVING: dict[str, Json] = {
    "midway": {"first_check_in": "PT5M", "failure": "reset_fails_midway"},
    "dozing": {
        "first_check_in": "PT5M",
        "failure": "power",
        "on_battery_until": "PT38M",
        "off_from": "PT8M",
        "off_until": "PT40M",
    },
    "stubborn": {"first_check_in": "PT5M", "failure": "power", "off_from": "PT8M", "off_until": "PT40M"},
}
"""Devices whose silence is no reset: rolled back half-way; on battery, then asleep, and reset only when they wake; or
on battery, then asleep, and never reset."""


def scenario(row: Row, groups: Mapping[str, Json], limit: str) -> Scenario:
    """A tenant with these devices, all named in one request, each by another kind of name."""
    tables, count = list[Json](), 1
    for kind, behaviour in groups.items():
        expect = "ready" if kind in HEALTHY and provable(row) else "attention"
        user = "" if row["user"] == "none" else "student{n}@contoso.example"
        tables.append({"name": kind + "-{n}", "primary_user": user, "first": count, "expect": expect, **behaviour})
        count += cast("int", behaviour.get("count", 1))
    plan = Scenario.model_validate(
        {
            "scenario": {"name": "dialects", "time_limit": limit},
            "tenant": {"quirks": quirks(row)},
            "devices": tables,
        }
    )
    selectors = [selector(device, row) for device in plan.fleet(0, START).devices]
    body: Json = {"requestId": "R1", "requester": "desk", "reason": "TICKET-1", "devices": selectors}
    return plan.model_copy(update={"requests": (RequestTable.model_validate({"body": body}),)})


def taken_unseen(row: Row, truth: Json) -> bool:
    """Whether the device took its reset so soon that nothing can show when.

    Where neither action nor state shows the taking, a check-in is all there is, and one within the delivery margin of
    the order may have begun before it. The device's return is then the first that counts as taking, no silence follows
    it, and a person is asked to look.
    """
    wipes, taken = cast("list[Json]", truth["wipes_received"]), truth["last_pickup_at"]
    if row["results"] != "always empty" or row["state"] == "moves" or not wipes or taken is None:
        return False
    ordered = datetime.fromisoformat(str(wipes[0]["at"]))
    return datetime.fromisoformat(str(taken)) - ordered < Policy().delivery_margin + timedelta(seconds=30)


# --- what must hold -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turnover:
    """A tenant's turnover, when all had settled, and after a person had closed what needed one."""

    settled: Observed
    closed: Observed
    moments: Sequence[Moment]


def turnover(row: Row, seed: int, groups: Mapping[str, Json]) -> Turnover:
    """Play it, with a person who closes whatever needs one once nothing more is to be expected."""
    if not provable(row):  # each device takes hours more until a person is called: the quicker ones will do
        groups = {kind: behaviour for kind, behaviour in groups.items() if kind not in ("slow", "away", "late")}

    async def play() -> Turnover:
        speed = Speed(graph=(1, 15)) if row["speed"] == "slow" else Speed()
        async with World.open(scenario(row, groups, "PT6H"), seed, speed=speed) as world:
            await world.play()
            settled = await world.observe()
            await world.command("cancel", "R1")
            await world.until(world.now() + world.policy.reconcile_after, all_ended=True)
            return Turnover(settled, await world.observe(), world.moments)

    return run(play())


def reset_twice(seen: Observed) -> list[str]:
    """Devices to which more than one reset was sent, or on which more than one ran."""
    received = {str(truth["name"]): len(cast("list[Json]", truth["wipes_received"])) for truth in seen.truth}
    taken = {str(truth["name"]): cast("int", truth["resets_taken"]) for truth in seen.truth}
    return [
        f"{name} received {received[name]} resets, and ran {taken[name]}"
        for name in received
        if received[name] > 1 or taken[name] > 1
    ]


def falsely_ready(moments: Sequence[Moment]) -> list[str]:
    """Devices that were called ready at a moment at which they were not."""
    return [
        f"{moment.truth.name} was called ready at {moment.at:%H:%M:%S}, and was {moment.truth.activity}, last reset at "
        f"{moment.truth.reset_done_at and moment.truth.reset_done_at.time()}"
        for moment in moments
        if moment.state is State.READY and not moment.truth.truly_ready
    ]


def ended_otherwise(row: Row, seen: Observed) -> list[str]:
    """Devices that did not come to the end that they must.

    A lost answer to the reset itself may leave a doubt that only a person can settle.
    """
    status = seen.statuses["R1"]
    doubtful = {event.device for event in seen.events if event.kind is EventKind.ORDER_DOUBTFUL}
    unseen = {str(truth["name"]) for truth in seen.truth if taken_unseen(row, truth)}
    found = {device.name or device.reference: device for device in status.devices} if status else {}
    faults = [f"{truth['name']} is nowhere" for truth in seen.truth if truth["name"] not in found]
    for name, device in found.items():
        end: End = (device.state.value, device.reason.code.value if device.reason else None)
        wanted = expected(row, name.split("-")[0])
        if end == ("attention", "send_unknown") and device.intune_id in doubtful:
            continue
        if end == ("attention", "not_proven") and (name in unseen or name.startswith("away")):
            continue  # one that was off in the middle of it all may be off again before its return is confirmed
        if end != wanted:
            faults.append(f"{name} must end {wanted}, and is {end}")
    return faults


def not_closed(seen: Observed) -> list[str]:
    """Whatever of the request has not ended although a person has closed what needed one."""
    status = seen.statuses["R1"]
    if status is None:
        return ["the request is unknown"]
    open_ = [f"{device.name} is {device.state}" for device in status.devices if device.state not in TERMINAL]
    return open_ if status.ended else [*open_, "the request has not ended"]


def told_otherwise(seen: Observed) -> list[str]:
    """What was told in another way than history promised: each told event at least once, under an id of its own."""
    promised = Counter(notice_id(event) for event in seen.events if event.told)
    shared = [f"{count} events share the notice id {one}" for one, count in promised.items() if count > 1]
    contents: dict[str, Json] = {}
    changed = [told.id for told in seen.told if contents.setdefault(told.id, told.notice) != told.notice]
    return [*judge(seen).faults, *shared, *(f"told again with another content: {one}" for one in changed)]


def some_of(number: int) -> dict[str, Json]:
    """A third of the kinds of device, in turns: each kind meets fifteen dialects. Plain devices meet them all in
    tests/acceptance/test_all_dialects.py."""
    kinds = list((HEALTHY | UNWELL).items())
    return dict(kinds[number % 3 :: 3])


@pytest.mark.parametrize(("number", "row"), list(enumerate(DIALECTS)), ids=map(named, DIALECTS))
def test_s17_every_device_ends_as_it_must_in_every_dialect(number: int, row: Row) -> None:
    played = turnover(row, number, some_of(number))
    faults = [
        *reset_twice(played.closed),
        *falsely_ready(played.moments),
        *ended_otherwise(row, played.settled),
        *not_closed(played.closed),
        *told_otherwise(played.closed),
    ]
    assert not faults, f"{dict(row)}"


@pytest.mark.parametrize("results", DIMENSIONS["results"])
def test_a_device_that_comes_back_after_a_person_was_called_still_becomes_ready(results: str) -> None:
    number = next(n for n, row in enumerate(DIALECTS) if (row["results"], row["user"]) == (results, "end"))
    gone: dict[str, Json] = {"late": {**HEALTHY["late"], "off_until": "PT3H30M"}}
    played = turnover({**DIALECTS[number], **PLAIN}, number, gone)
    states = [moment.state for moment in played.moments]
    assert State.ATTENTION in states
    assert states[-1] is State.READY
    assert not falsely_ready(played.moments)


# --- silence that is no reset -------------------------------------------------------------------------------------

PLAIN = {"clock": "PT0S", "stale": "PT1M", "throttled": "never", "speed": "quick", "faults": "none"}
"""Nothing but what proof is made of differs between these tenants."""


def deceptions() -> Iterator[ParameterSet]:
    for number, row in enumerate(DIALECTS):
        for kind in DECEIVING if row["state"] != "stuck" else ():  # to these devices the same as "never"
            yield pytest.param(number, kind, id=f"{kind}-{named(row)}")


@functools.cache
def deceivers(number: int) -> Sequence[Moment]:
    """Every state that the deceiving devices entered in a tenant, within the time that the last of them takes."""
    plan = scenario({**DIALECTS[number], **PLAIN}, DECEIVING, "PT1H45M")

    async def play() -> Sequence[Moment]:
        async with World.open(plan, number) as world:
            await world.play()
            return world.moments

    return run(play())


@pytest.mark.parametrize(("number", "kind"), list(deceptions()))
def test_s17_a_device_whose_silence_was_no_reset_is_not_called_ready(number: int, kind: str) -> None:
    moments = [moment for moment in deceivers(number) if moment.truth.name.startswith(kind)]
    assert moments[-1].state in (State.RESETTING, State.SETTLING, State.READY, State.ATTENTION, State.FAILED)
    assert not falsely_ready(moments)


# --- lost answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lag", ["PT1M", "PT4M", "PT6M", "PT30M"])
def test_s13_a_reset_whose_answer_was_lost_is_not_sent_again(lag: str) -> None:
    """Nothing but the audit shows it in this tenant, and no source says how soon the audit does."""
    silent = {"results": "always empty", "state": "never", "user": "end"}
    (row,) = [row for row in DIALECTS if silent.items() <= row.items()]
    plan = scenario({**row, **PLAIN}, {kind: HEALTHY[kind] for kind in ("quiet", "late")}, "PT2H")
    tenant = plan.tenant.model_copy(
        update={"quirks": Quirks.model_validate({**plan.tenant.quirks.model_dump(), "audit_lag": lag})}
    )

    async def play() -> Observed:
        async with World.open(plan.model_copy(update={"tenant": tenant}), 1) as world:
            world.tenant.faults.arm(Fault(on="wipe", fault=FaultKind.LOST_ANSWER, times=2))
            await world.play()
            return await world.observe()

    seen = run(play())
    assert any(event.kind is EventKind.ORDER_DOUBTFUL for event in seen.events)
    assert not reset_twice(seen)
