"""Whether a run ended as its scenario says it must, device by device. Pure: it weighs what was observed."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import cast

from sandbox.scenario import DeviceEnd, RequestEnd, RequestTable, Scenario
from sandbox.tenant.devices import Json
from shared.domain.notices import NoticeType, notice_id
from shared.domain.reasons import Reason
from shared.domain.reset import Event, EventKind
from shared.domain.states import State
from shared.pipeline.status import DeviceStatus, RequestStatus

NOTICE_OF = {
    State.READY: NoticeType.DEVICE_READY,
    State.REFUSED: NoticeType.DEVICE_REFUSED,
    State.FAILED: NoticeType.DEVICE_FAILED,
    State.CANCELLED: NoticeType.DEVICE_CANCELLED,
    State.ATTENTION: NoticeType.DEVICE_ATTENTION,
}
Ends = Mapping[str, tuple[DeviceEnd, str | None]]
"""Expected end and reason code of each device, as `Scenario.expected` gives them."""


@dataclass(frozen=True)
class Sent:
    """A message that was put on the queue of requests."""

    table: RequestTable
    request: str
    part: bool
    at: datetime
    devices: int = 0


@dataclass(frozen=True)
class Told:
    """A notice that arrived."""

    queue: str
    at: datetime
    notice: Json

    @property
    def id(self) -> str:
        return str(self.notice["id"])

    @property
    def type(self) -> str:
        return str(self.notice["type"]).removeprefix("io.turnaround.")

    @property
    def data(self) -> Json:
        return cast("Json", self.notice["data"])

    @property
    def request(self) -> str:
        return str(self.data["requestId"])

    @property
    def code(self) -> str | None:
        code = self.data.get("code")
        return None if code is None else str(code)

    @property
    def about(self) -> tuple[str | None, str]:
        """Intune id, where there is one, and reference of the device."""
        device = cast("Json", self.data.get("device") or {})
        intune_id = device.get("intuneId")
        return (None if intune_id is None else str(intune_id)), str(device.get("reference", ""))


@dataclass(frozen=True)
class Observed:
    """All that was seen of a run from outside."""

    scenario: Scenario
    start: datetime
    ended: datetime
    timed_out: bool
    sent: Sequence[Sent]
    windows: Sequence[str]
    """Request ids of the openings of lab windows."""
    statuses: dict[str, RequestStatus | None]
    events: Sequence[Event]
    told: Sequence[Told]
    before: Sequence[Json]
    """The tenant's truth of each device at the start."""
    truth: Sequence[Json]
    """The same, in the same order, at the end."""


@dataclass(frozen=True)
class Turn:
    """What became of one device, or of a reference that leads to none."""

    name: str
    serial: str
    intune_id: str | None
    request: str | None
    reference: str | None
    expected: DeviceEnd
    expected_reason: str | None
    actual: str
    """A state, or untouched."""
    reason: Reason | None
    states: Sequence[tuple[State, datetime]] = ()
    truth: Json = field(default_factory=dict)
    faults: Sequence[str] = ()

    @property
    def ready_at(self) -> datetime | None:
        return next((at for state, at in self.states if state is State.READY), None)


@dataclass(frozen=True)
class RequestTurn:
    """What became of one request."""

    request: str
    expected: Sequence[str]
    """accepted, refused or duplicate, one a message; window for the opening of a lab window."""
    actual: Sequence[str]
    """Types of the notices about it as a whole."""
    codes: Sequence[str]
    faults: Sequence[str] = ()


@dataclass(frozen=True)
class Verdict:
    """The whole of it."""

    devices: Sequence[Turn]
    references: Sequence[Turn]
    requests: Sequence[RequestTurn]
    faults: Sequence[str]
    """What belongs to no single device, reference or request."""

    @property
    def all_faults(self) -> list[str]:
        turns = [f"{turn.name}: {fault}" for turn in (*self.devices, *self.references) for fault in turn.faults]
        requests = [f"request {turn.request}: {fault}" for turn in self.requests for fault in turn.faults]
        return [*self.faults, *turns, *requests]


def listed(scenario: Scenario, request: str, device: DeviceStatus) -> bool:
    """Whether the scenario states the end of this reference by itself."""
    if device.reference.startswith("groupTag:") and device.intune_id is not None:
        return False
    return any((one.request, one.reference) == (request, device.reference) for one in scenario.references)


def expectation(scenario: Scenario, ends: Ends, request: str, device: DeviceStatus) -> DeviceEnd:
    """How what a request names must end; untouched where the scenario does not say."""
    if listed(scenario, request, device):
        return next(
            one.expect for one in scenario.references if (one.request, one.reference) == (request, device.reference)
        )
    return ends.get(device.intune_id or "", (DeviceEnd.UNTOUCHED, None))[0]


def judge(seen: Observed) -> Verdict:
    """Compare what was seen with what the scenario expects, with the tenant's truth and with what was promised."""
    entries = [(request, device) for request, status in seen.statuses.items() for device in _devices(status)]
    own = [(request, device) for request, device in entries if not listed(seen.scenario, request, device)]
    expected = seen.scenario.expected()
    turns: list[Turn] = []
    claimed: list[tuple[str, DeviceStatus]] = []
    for before, truth in zip(seen.before, seen.truth, strict=True):
        key = str(before["intune_id"] or before["serial"])
        mine = [entry for entry in own if _is_of(entry[1], before)]
        claimed += mine
        end = expected.get(key, (DeviceEnd.UNTOUCHED, None)) if before["activity"] != "out" else None
        turns.append(_turn(seen, before, truth, end or (DeviceEnd.UNTOUCHED, None), mine))
    faults = [
        f"{device.reference} of the request {request} ended {device.state}, which the scenario does not expect"
        for request, device in own
        if not any(device is other for _, other in claimed)
    ]
    if seen.timed_out:
        faults.append("the scenario's time limit passed before everything had ended")
    requests = [*dict.fromkeys([sent.request for sent in seen.sent] + list(seen.windows))]
    return Verdict(
        turns,
        list(_references(seen, entries)),
        [_request(seen, request) for request in requests],
        [*faults, *_promises(seen)],
    )


def _devices(status: RequestStatus | None) -> Sequence[DeviceStatus]:
    return status.devices if status is not None else ()


def _is_of(entry: DeviceStatus, device: Json) -> bool:
    if entry.intune_id is not None or device["intune_id"] is not None:
        return entry.intune_id == device["intune_id"]
    return entry.reference in (f"serialNumber:{device['serial']}", f"name:{device['name']}")


def _turn(
    seen: Observed,
    before: Json,
    truth: Json,
    expected: tuple[DeviceEnd, str | None],
    entries: Sequence[tuple[str, DeviceStatus]],
) -> Turn:
    request, status = max(entries, key=lambda entry: entry[1].since, default=(None, None))
    actual = status.state.value if status else DeviceEnd.UNTOUCHED.value
    reason = status.reason if status else None
    faults = [*_end_faults(expected, actual, reason), *_truth_faults(actual, truth)]
    if request is not None and status is not None:
        faults += _told_faults(seen, request, status)
    intune_id = None if before["intune_id"] is None else str(before["intune_id"])
    return Turn(
        name=str(before["name"]),
        serial=str(before["serial"]),
        intune_id=intune_id,
        request=request,
        reference=status.reference if status else None,
        expected=expected[0],
        expected_reason=expected[1],
        actual=actual,
        reason=reason,
        states=[
            (event.to_state, event.at)
            for event in seen.events
            if intune_id is not None
            and (event.device, event.request) == (intune_id, request)
            and event.to_state is not None
            and event.kind in (EventKind.MOVED, EventKind.REFUSED)
        ],
        truth=truth,
        faults=faults,
    )


def _end_faults(expected: tuple[DeviceEnd, str | None], actual: str, reason: Reason | None) -> Iterator[str]:
    end, code = expected
    because = f" ({reason.code})" if reason else ""
    if actual != end.value:
        yield f"it must end {end}, and is {actual}{because}"
    elif code is not None and (reason is None or reason.code != code):
        yield f"it must end {end} ({code}), and ended {actual}{because}"


def _truth_faults(actual: str, truth: Json) -> Iterator[str]:
    wipes = len(cast("list[Json]", truth["wipes_received"]))
    if wipes > 1:
        yield f"it received {wipes} resets"
    if cast("int", truth["resets_taken"]) > 1:
        yield f"it was reset {truth['resets_taken']} times"
    if truth["next_users_lost"]:
        yield "it was reset over its next user"
    if actual == State.READY and not truth["truly_ready"]:
        yield "it was called ready, and in truth is not"
    if actual in (State.REFUSED, DeviceEnd.UNTOUCHED) and wipes:
        yield f"it is {actual}, and received a reset"
    for wipe in cast("list[Json]", truth["wipes_received"]):
        body = cast("Json", wipe["body"])
        if (body.get("keepEnrollmentData"), body.get("keepUserData")) != (True, False):
            yield f"it was sent something else than an Autopilot Reset: {body}"


def _told_faults(seen: Observed, request: str, status: DeviceStatus) -> Iterator[str]:
    """Its end must have been told, under one id however often, with its code."""
    kind = NOTICE_OF.get(status.state)
    if kind is None:
        return
    about = [
        told
        for told in seen.told
        if told.request == request
        and (told.about[0] == status.intune_id if status.intune_id else told.about == (None, status.reference))
    ]
    ends = {told.id: told for told in about if told.type == kind}
    if not ends:
        yield "its end was not told"
    elif status.reason is not None and status.reason.code not in {told.code for told in ends.values()}:
        yield f"its end was told with another code than {status.reason.code}"
    others = {told.type for told in about} & {NOTICE_OF[state].value for state in NOTICE_OF if state != State.ATTENTION}
    for other in sorted(others - {kind.value}):
        yield f"it was told to be {other.removeprefix('device.')} too"


def _references(seen: Observed, entries: Sequence[tuple[str, DeviceStatus]]) -> Iterator[Turn]:
    for one in seen.scenario.references:
        found = next(
            (
                device
                for request, device in entries
                if (request, device.reference) == (one.request, one.reference)
                and listed(seen.scenario, request, device)
            ),
            None,
        )
        actual = found.state.value if found else "missing"
        faults = list(_end_faults((one.expect, one.expect_reason), actual, found.reason if found else None))
        if found is not None:
            faults += _told_faults(seen, one.request, found)
        yield Turn(
            name=one.reference,
            serial="",
            intune_id=found.intune_id if found else None,
            request=one.request,
            reference=one.reference,
            expected=one.expect,
            expected_reason=one.expect_reason,
            actual=actual,
            reason=found.reason if found else None,
            states=[(found.state, found.since)] if found else (),
            faults=faults,
        )


def _request(seen: Observed, request: str) -> RequestTurn:
    sent = [one for one in seen.sent if one.request == request]
    expected = [one.table.expect for one in sent] or [RequestEnd.ACCEPTED]
    whole = [told for told in seen.told if told.request == request and told.type.startswith("request.")]
    accepted = [told for told in whole if told.type == NoticeType.REQUEST_ACCEPTED]
    refused = {told.id: told for told in whole if told.type == NoticeType.REQUEST_REFUSED}
    wanted = Counter(expected)
    faults: list[str] = []
    if wanted[RequestEnd.ACCEPTED] and not accepted:
        faults.append("it must be accepted, and that was not told")
    if not wanted[RequestEnd.ACCEPTED] and accepted:
        faults.append("it must not be accepted, and was")
    if len({told.id for told in accepted}) > 1:
        faults.append("it was accepted more than once, under several notice ids")
    answers = wanted[RequestEnd.ACCEPTED] + wanted[RequestEnd.DUPLICATE]
    if wanted[RequestEnd.DUPLICATE] and not any(one.part for one in sent) and len(accepted) < answers:
        faults.append("a message that repeats it was not answered")
    if wanted[RequestEnd.REFUSED] and not refused:
        faults.append("it must be refused, and that was not told")
    if len(refused) > wanted[RequestEnd.REFUSED]:
        faults.append(f"it was refused ({', '.join(str(told.code) for told in refused.values())})")
    codes = [str(told.code) for told in refused.values()]
    missing = {one.table.expect_reason for one in sent if one.table.expect is RequestEnd.REFUSED} - {None, *codes}
    if refused and missing:
        faults.append(f"it must be refused with {', '.join(map(str, missing))}, and was with {', '.join(codes)}")
    return RequestTurn(request, [*expected] if sent else ["window"], [told.type for told in whole], codes, faults)


def _promises(seen: Observed) -> Iterator[str]:
    """What history says was promised must have been told, on the queue named, and nothing else."""
    promised = {notice_id(event) for event in seen.events if event.told}
    told = {one.id for one in seen.told}
    for one in sorted(promised - told):
        yield f"promised, and not told: {one}"
    for one in sorted(told - promised):
        yield f"told, and in no history: {one}"
