"""The verdict of a run: what must make it fail does, and what must not does not."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sandbox.scenario import Scenario
from sandbox.verdict import Observed, Sent, Told, Verdict, judge
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.notices import notice
from shared.domain.reasons import Code, Reason
from shared.domain.reset import Event, EventKind
from shared.domain.states import State
from shared.pipeline.status import DeviceStatus, RequestStatus
from shared.state.rows import RequestState

START = datetime(2026, 5, 1, 9, tzinfo=UTC)
R1 = RequestId("R-1")
SCENARIO = """
[scenario]
name = "verdict"

[[devices]]
name = "PC"
serial = "SN-1"
expect = "ready"

[[devices]]
name = "HYB"
serial = "SN-2"
join = "hybrid"
expect = "refused"
expect_reason = "hybrid_joined"

[[devices]]
name = "OTHER"
serial = "SN-3"

[[requests]]
[requests.body]
requestId = "R-1"
requester = "t"
reason = "t"
devices = [{ name = "PC" }, { name = "HYB" }, { name = "NO" }]

[[references]]
request = "R-1"
reference = "name:NO"
expect = "refused"
expect_reason = "unknown_device"
"""


@pytest.fixture
def seen(tmp_path: Path) -> Observed:
    """A run that went as it should."""
    file = tmp_path / "scenario.toml"
    file.write_text(SCENARIO)
    scenario = Scenario.load(file)
    before = [
        {"name": d.name, "serial": d.serial, "intune_id": d.intune.id if d.intune else None, "activity": "awake"}
        for d in scenario.fleet(1, START).devices
    ]
    quiet = {"wipes_received": [], "resets_taken": 0, "truly_ready": False, "next_users_lost": 0, "ready_since": None}
    wiped = {"at": str(START), "body": {"keepEnrollmentData": True, "keepUserData": False}}
    truth = [{**device, **quiet} for device in before]
    truth[0] |= {"wipes_received": [wiped], "resets_taken": 1, "truly_ready": True, "ready_since": str(START)}
    pc, hyb = (ManagedDeviceId(str(device["intune_id"])) for device in before[:2])
    at = START + timedelta(minutes=40)
    events = [
        Event(kind=EventKind.ACCEPTED, at=START, who="intake", request=R1, told=True),
        ended(State.READY, pc, "name:PC", None, at),
        ended(State.REFUSED, hyb, "name:HYB", Code.HYBRID_JOINED, at),
        ended(State.REFUSED, None, "name:NO", Code.UNKNOWN_DEVICE, at),
    ]
    devices = [
        DeviceStatus(
            reference=event.reference,
            state=event.to_state or State.REFUSED,
            since=event.at,
            intune_id=event.device,
            reason=event.reason,
        )
        for event in events[1:]
    ]
    status = RequestStatus(id=R1, state=RequestState.EXPANDED, received_at=START, ended=True, devices=tuple(devices))
    return Observed(
        scenario=scenario,
        start=START,
        ended=at,
        timed_out=False,
        sent=[Sent(scenario.requests[0], R1, part=False, at=START)],
        windows=[],
        statuses={R1: status},
        events=events,
        told=[told(event) for event in events],
        before=before,
        truth=truth,
    )


def ended(state: State, device: ManagedDeviceId | None, reference: str, code: Code | None, at: datetime) -> Event:
    return Event(
        kind=EventKind.MOVED if device else EventKind.REFUSED,
        at=at,
        who="test",
        request=R1,
        device=device,
        reference=reference,
        to_state=state,
        reason=Reason(code) if code else None,
        told=True,
    )


def told(event: Event) -> Told:
    made = notice(event, "reset-results")
    return Told(made.queue, event.at, {"id": made.id, "type": f"io.turnaround.{made.type}", "data": dict(made.data)})


def changed(seen: Observed, number: int, **values: Any) -> Observed:
    truth = [dict(device) for device in seen.truth]
    truth[number] |= values
    return dataclasses.replace(seen, truth=truth)


def faults(verdict: Verdict) -> str:
    return "\n".join(verdict.all_faults)


def test_a_run_that_went_as_it_should_has_no_faults(seen: Observed) -> None:
    assert judge(seen).all_faults == []


def test_a_notice_that_came_twice_is_no_fault(seen: Observed) -> None:
    assert judge(dataclasses.replace(seen, told=[*seen.told, *seen.told])).all_faults == []


TWICE = [{"at": str(START), "body": {"keepEnrollmentData": True, "keepUserData": False}}] * 2
FULL = [{"at": str(START), "body": {"keepEnrollmentData": False, "keepUserData": False}}]
BROKEN: dict[str, tuple[Callable[[Observed], Observed], str]] = {
    "reset twice": (lambda seen: changed(seen, 0, resets_taken=2), "PC: it was reset 2 times"),
    "told twice to reset": (lambda seen: changed(seen, 0, wipes_received=TWICE), "PC: it received 2 resets"),
    "not truly ready": (lambda seen: changed(seen, 0, truly_ready=False), "PC: it was called ready, and in truth"),
    "next user lost": (lambda seen: changed(seen, 0, next_users_lost=1), "PC: it was reset over its next user"),
    "a full wipe": (lambda seen: changed(seen, 0, wipes_received=FULL), "PC: it was sent something else"),
    "a refused device reset": (lambda seen: changed(seen, 1, wipes_received=FULL), "HYB: it is refused, and received"),
    "a bystander reset": (lambda seen: changed(seen, 2, wipes_received=FULL), "OTHER: it is untouched, and received"),
    "time limit": (lambda seen: dataclasses.replace(seen, timed_out=True), "the scenario's time limit passed"),
    "nothing told of the request": (
        lambda seen: dataclasses.replace(seen, told=seen.told[1:]),
        "request R-1: it must be accepted, and that was not told",
    ),
    "an end not told": (
        lambda seen: dataclasses.replace(seen, told=[seen.told[0], *seen.told[2:]]),
        "PC: its end was not told",
    ),
    "a reference's end not told": (
        lambda seen: dataclasses.replace(seen, told=seen.told[:-1]),
        "name:NO: its end was not told",
    ),
    "told without a promise": (
        lambda seen: dataclasses.replace(seen, events=seen.events[:-1]),
        "told, and in no history: R-1/name:NO",
    ),
    "another end": (
        lambda seen: with_state(seen, 1, State.READY),
        "HYB: it must end refused, and is ready",
    ),
    "another reason": (
        lambda seen: with_reason(seen, 1, Code.PROTECTED),
        "HYB: it must end refused (hybrid_joined), and ended refused (protected)",
    ),
    "a device that nobody expects": (
        lambda seen: with_reason(seen, 2, Code.UNKNOWN_DEVICE, reference="name:WHO"),
        "name:WHO of the request R-1 ended refused, which the scenario does not expect",
    ),
    "a reference that is missing": (
        lambda seen: with_reason(seen, 2, Code.UNKNOWN_DEVICE, reference="name:WHO"),
        "name:NO: it must end refused, and is missing",
    ),
}


def with_state(seen: Observed, number: int, state: State) -> Observed:
    return _with(seen, number, state=state, reason=None)


def with_reason(seen: Observed, number: int, code: Code, **more: Any) -> Observed:
    return _with(seen, number, reason=Reason(code), **more)


def _with(seen: Observed, number: int, **values: Any) -> Observed:
    status = seen.statuses[R1]
    assert status is not None
    devices = list(status.devices)
    devices[number] = dataclasses.replace(devices[number], **values)
    return dataclasses.replace(seen, statuses={R1: dataclasses.replace(status, devices=tuple(devices))})


@pytest.mark.parametrize("case", BROKEN)
def test_what_went_wrong_is_a_fault_by_name(seen: Observed, case: str) -> None:
    spoil, said = BROKEN[case]
    assert said in faults(judge(spoil(seen)))
