"""What is told: under ids that let repeats be dropped, and without the name of any user."""

import json
from collections.abc import Callable

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


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (about_request(EventKind.ACCEPTED), NoticeType.REQUEST_ACCEPTED),
        (about_request(EventKind.REFUSED, Code.MALFORMED), NoticeType.REQUEST_REFUSED),
        (about_request(EventKind.POISONED, Code.POISONED), NoticeType.MESSAGE_POISONED),
    ],
)
def test_each_thing_told_of_a_request_has_its_type_and_names_the_request(event: Event, kind: NoticeType) -> None:
    told = notice(event, "reset-results-desk")
    assert (told.type, told.subject, told.queue) == (kind, "REQ-1", "reset-results-desk")
    assert "device" not in told.data


def test_every_type_of_notice_can_be_told() -> None:
    of_requests = {NoticeType.REQUEST_ACCEPTED, NoticeType.REQUEST_REFUSED, NoticeType.MESSAGE_POISONED}
    assert set(STORIES_TOLD) | of_requests == set(NoticeType)


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
