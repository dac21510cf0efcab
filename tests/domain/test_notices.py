"""What is told: under ids that let repeats be dropped, and without the name of any user."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from shared.domain.ids import RequestId
from shared.domain.lifecycle import Command
from shared.domain.notices import NoticeType, notice, notice_id
from shared.domain.orders import AnswerKind
from shared.domain.reasons import Code, Reason
from shared.domain.reset import Event, EventKind
from shared.domain.states import State
from tests.domain.builders import (
    ACTIVE,
    DEVICE,
    NOON,
    STORIES,
    USER,
    Story,
    at,
    cleared,
    ready,
    resetting,
    sending,
    story,
)


def about_request(kind: EventKind, code: Code | None = None) -> Event:
    return Event(
        kind=kind, at=NOON, who="intake", request=RequestId("REQ-1"), reason=Reason(code) if code else None, told=True
    )


STORIES_TOLD: dict[NoticeType, Callable[[], Story]] = {
    NoticeType.DEVICE_READY: ready,
    NoticeType.DEVICE_REFUSED: STORIES["refused"],
    NoticeType.DEVICE_FAILED: STORIES["failed"],
    NoticeType.DEVICE_CANCELLED: STORIES["cancelled"],
    NoticeType.DEVICE_ATTENTION: lambda: sending().answered(AnswerKind.FORBIDDEN),
    NoticeType.DEVICE_HELD: lambda: cleared().judged(1, hold=Reason(Code.HALTED, "By someone: why")),
    NoticeType.DEVICE_RESUMED: lambda: resetting().woken(200).seen(300, 299, USER, ACTIVE),
    NoticeType.DEVICE_LATE: lambda: resetting(ready_by=at(30)).woken(30),
    NoticeType.COMMAND_REFUSED: lambda: resetting().commanded(5, Command.CANCEL),
}


REQUESTS_TOLD: dict[NoticeType, tuple[EventKind, Code | None]] = {
    NoticeType.REQUEST_ACCEPTED: (EventKind.ACCEPTED, None),
    NoticeType.REQUEST_REFUSED: (EventKind.REFUSED, Code.MALFORMED),
    NoticeType.REQUEST_APPROVAL_NEEDED: (EventKind.APPROVAL_NEEDED, Code.APPROVAL_NEEDED),
    NoticeType.REQUEST_APPROVED: (EventKind.APPROVED, None),
    NoticeType.REQUEST_STOPPED: (EventKind.WAVES_STOPPED, Code.WAVE_FAILED),
    NoticeType.MESSAGE_POISONED: (EventKind.POISONED, Code.POISONED),
}


def about_everything(kind: EventKind, minute: float = 0, by: str = "ops") -> Event:
    return Event(kind=kind, at=at(minute), who=by, reason=Reason(Code.HALTED, f"By {by}: drill."), told=True)


@pytest.mark.parametrize("kind", sorted(STORIES_TOLD))
def test_each_thing_told_of_a_device_has_its_type_and_names_the_device(kind: NoticeType) -> None:
    told = notice(STORIES_TOLD[kind]().told[-1], "reset-results", {"serialNumber": "SN-0001", "name": "LAB3-01"})
    assert (told.type, told.subject, told.queue) == (kind, f"REQ-1/{DEVICE}", "reset-results")
    assert told.data["device"] == {
        "intuneId": DEVICE,
        "reference": "serialNumber:SN-0001",
        "serialNumber": "SN-0001",
        "name": "LAB3-01",
    }


@pytest.mark.parametrize("kind", sorted(REQUESTS_TOLD))
def test_each_thing_told_of_a_request_has_its_type_and_names_the_request(kind: NoticeType) -> None:
    told = notice(about_request(*REQUESTS_TOLD[kind]), "reset-results-desk")
    assert (told.type, told.subject, told.queue) == (kind, "REQ-1", "reset-results-desk")
    assert "device" not in told.data


@pytest.mark.parametrize(
    ("event", "kind"), [(EventKind.HALTED, NoticeType.HALTED), (EventKind.RESUMED, NoticeType.RESUMED)]
)
def test_what_concerns_every_request_is_told_of_turnaround_itself(event: EventKind, kind: NoticeType) -> None:
    told = notice(about_everything(event), "reset-results")
    assert (told.type, told.subject, told.data["requestId"]) == (kind, "turnaround", None)
    assert "device" not in told.data


def test_every_type_of_notice_can_be_told() -> None:
    assert {*STORIES_TOLD, *REQUESTS_TOLD, NoticeType.HALTED, NoticeType.RESUMED} == set(NoticeType)


@pytest.mark.parametrize("code", [Code.APPROVAL_NEEDED, Code.HOURLY_LIMIT, Code.FLEET_SHARE])
def test_a_device_that_waits_is_told_as_held(code: Code) -> None:
    told = notice(story().judged(hold=Reason(code)).told[-1], "reset-results")
    assert (told.type, told.data["code"]) == (NoticeType.DEVICE_HELD, code)


def test_a_device_that_waits_for_intunes_administrators_is_told_as_held_with_what_to_do() -> None:
    told = notice(STORIES["awaiting admin approval"]().told[-1], "reset-results")
    assert (told.type, told.data["state"]) == (NoticeType.DEVICE_HELD, State.AWAITING_ADMIN_APPROVAL)
    assert "Multi Admin Approval" in str(told.data["remedy"])


def test_what_happens_again_to_a_request_or_to_everything_is_told_again_and_its_repeats_are_known() -> None:
    halts = [about_everything(EventKind.HALTED, minute, by) for minute in (0, 1) for by in ("ops", "eve")]
    approvals = [replace(about_request(EventKind.APPROVED), at=at(minute)) for minute in (0, 1)]
    ids = [notice_id(event) for event in (*halts, *approvals)]
    assert len(set(ids)) == len(ids)
    assert ids == [notice_id(event) for event in (*halts, *approvals)]


def test_a_message_that_comes_again_with_the_same_faults_is_told_under_the_same_id() -> None:
    for kind, code in ((EventKind.REFUSED, Code.MALFORMED), (EventKind.POISONED, Code.POISONED)):
        event = about_request(kind, code)
        assert notice_id(replace(event, at=at(60))) == notice_id(event)
        assert notice_id(replace(event, reason=Reason(code, "another fault"))) != notice_id(event)


def test_a_name_that_leads_to_no_device_is_told_by_that_name() -> None:
    event = Event(
        kind=EventKind.REFUSED,
        at=NOON,
        who="intake",
        request=RequestId("REQ-1"),
        reference="name:NOBODYS-PC",
        to_state=State.REFUSED,
        reason=Reason(Code.UNKNOWN_DEVICE),
    )
    told = notice(event, "reset-results")
    assert (told.type, told.subject) == (NoticeType.DEVICE_REFUSED, "REQ-1/name:NOBODYS-PC")
    assert told.data["code"] == Code.UNKNOWN_DEVICE


def test_what_belongs_to_no_request_is_told_all_the_same() -> None:
    event = Event(kind=EventKind.POISONED, at=NOON, who="poison", reason=Reason(Code.POISONED))
    assert notice_id(event).startswith("none/request/")
    assert notice(event, "reset-results").data["requestId"] is None


def test_a_refusal_carries_code_message_and_remedy_and_an_end_its_evidence() -> None:
    refused = notice(STORIES["refused"]().told[-1], "reset-results").data
    assert (refused["code"], refused["state"]) == (Code.HYBRID_JOINED, State.REFUSED)
    assert refused["message"]
    assert refused["remedy"]
    told = notice(ready().told[-1], "reset-results").data
    assert isinstance(told["evidence"], dict)
    assert "code" not in told


def test_the_same_event_has_the_same_id_and_different_events_differ() -> None:
    def ids() -> list[str]:
        return [notice_id(event) for told in STORIES_TOLD.values() for event in told().events if event.told]

    assert ids() == ids()
    one = resetting(ready_by=at(30)).woken(30).commanded(31, Command.CANCEL).commanded(32, Command.CANCEL)
    assert len({notice_id(event) for event in one.told}) == 3


def test_the_notices_of_a_turnaround_are_in_order_by_their_sequence_and_no_others_have_one() -> None:
    one = resetting(ready_by=at(30)).woken(30).commanded(29, Command.CANCEL).commanded(32, Command.CANCEL)
    told = [notice(event, "reset-results") for event in one.told]
    assert len({notice.subject for notice in told}) == 1
    assert len({notice.sequence for notice in told}) == len(told) == 3
    assert sorted(told, key=lambda notice: notice.sequence) == told
    for event in (about_request(EventKind.ACCEPTED), about_everything(EventKind.HALTED)):
        assert notice(event, "reset-results").sequence == ""


def all_told() -> list[Story]:
    return [tell() for tell in (*STORIES_TOLD.values(), *STORIES.values())]


def test_a_notice_is_json() -> None:
    for told in all_told():
        for event in told.told:
            json.dumps(notice(event, "reset-results").data)


@pytest.mark.parametrize(
    "name",
    [USER, "teacher@school.example", "helpdesk@school.example"],
    ids=["primary user", "requester", "who gave a command"],
)
def test_no_notice_holds_the_name_of_a_user(name: str) -> None:
    for told in all_told():
        for event in told.told:
            assert name not in json.dumps(notice(event, "reset-results").data), event.kind
