"""The story of a turnaround, its record, and the page that is printed of it."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from datetime import timedelta

import jsonschema
import pytest

from shared.domain import story as stories
from shared.domain.ids import RequestId
from shared.domain.lifecycle import Command
from shared.domain.orders import AnswerKind
from shared.domain.page import HEADERS, page
from shared.domain.reasons import Code, Reason
from shared.domain.record import NOT_A_CERTIFICATE, SEEN_THROUGH_GRAPH, ResetRecord, record, schema
from shared.domain.reset import Event, EventKind
from shared.domain.shown import shown
from shared.domain.states import State
from shared.domain.story import Turnaround, ending, heading, lines, passage, passages, span
from tests.domain.builders import (
    ACTIVE,
    DEVICE,
    NOON,
    SECOND,
    STORIES,
    USER,
    Story,
    at,
    given_up,
    managed,
    moved,
    ready,
    received,
    resetting,
    sending,
    story,
    triggered,
)
from tests.hostile import assert_page, assert_plain

ACCEPTED = Event(kind=EventKind.ACCEPTED, at=NOON, who="intake", request=RequestId("REQ-1"))
APPROVED = Event(
    kind=EventKind.APPROVED,
    at=at(-1),
    who="boss@school.example",
    request=RequestId("REQ-1"),
    evidence={"digest": "ab12", "devices": "40", "why": "end of term"},
)


def turnaround(told: Story, *request_events: Event) -> Turnaround:
    reset = told.reset
    return Turnaround(
        request=reset.request,
        device=reset.device,
        reference=reset.reference,
        requester=reset.requester,
        reason=reset.ticket,
        received_at=at(-2),
        reset=reset,
        events=tuple(told.events),
        request_events=request_events,
    )


def text(told: Story, *request_events: Event) -> str:
    one = turnaround(told, *request_events)
    return "\n".join([*heading(one), *lines(passages(one)), ending(one)])


def made(told: Story, *request_events: Event) -> ResetRecord:
    return record(turnaround(told, *request_events), at(100))


# --- text that is safe to show ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "safe"),
    [
        ("LAB3-01 Grüße 日本", "LAB3-01 Grüße 日本"),
        ("CONTOSO\\anna", "CONTOSO\\anna"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\u200bb\xa0c\u3164", "a\\u200bb\\xa0c\\u3164"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_a_terminal_obeys_or_nobody_sees_is_shown_escaped_and_all_else_as_it_is(raw: str, safe: str) -> None:
    assert shown(raw) == safe
    assert shown(safe) == safe


# --- the story ----------------------------------------------------------------------------------------------------


def test_s11_the_story_of_a_device_that_became_ready_has_who_what_when_and_what_proved_it() -> None:
    told = text(ready(), ACCEPTED, APPROVED)
    expected = [
        "Asked by teacher@school.example at 2026-03-02 11:58:00 UTC: INC-4711",
        "boss@school.example approved the request: end of term.",
        "The request was accepted",
        "Nothing stands in the way",
        "The order to reset it goes to Intune, client-request-id order-1.",
        "Intune took the order.",
        "The device took the reset",
        "had the order by (Graph's clock): 2026-03-02 12:03:00 UTC",
        "The device is back",
        "The device is proven ready for its next user.",
        "the primary user is gone: yes",
        "Ended ready at 2026-03-02 12:45:00 UTC, 47 min after it was asked for.",
    ]
    position = 0
    for words in expected:
        position = told.find(words, position)
        assert position >= 0, words


def test_how_long_a_state_lasted_is_told_where_it_ends() -> None:
    assert "Intune took the order. (after 0 s as sending)" in text(ready())
    assert re.search(r"The device is back.* \(after 37 min 30 s as resetting\)", text(ready()))


def test_a_fact_is_told_once_and_again_at_the_end_which_it_proves() -> None:
    assert text(resetting().seen(20, 3, USER, ACTIVE).back(41, 40, USER, ACTIVE)).count("had the order by") == 1
    assert text(ready()).count("had the order by") == 2


def test_a_refusal_names_the_rule_and_the_remedy() -> None:
    told = text(STORIES["refused"]())
    assert "It is not reset. The device is hybrid-joined" in told
    assert "code hybrid_joined; what to do: Use a full wipe" in told


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (
            lambda: sending().answered(AnswerKind.THROTTLED, detail="Too many."),
            "did not take the order (throttled: Too",
        ),
        (given_up, "Nothing shows that the order was carried out; it gets another turn."),
        (lambda: sending().answered(AnswerKind.UNKNOWN), "Graph's answer was lost: whether Intune took the order"),
        (lambda: sending().reconciled(6, None, audited=True), "Intune's audit shows that it took the order."),
        (lambda: triggered().woken(30), "The device was told to sync, for the 1st time in this state."),
        (
            lambda: triggered().woken(30).sync_answered(30, AnswerKind.REJECTED),
            "did not take the sync (rejected: Graph",
        ),
        (lambda: resetting(ready_by=at(30)).woken(30), "It is late: it was needed by 2026-03-02 12:30:00 UTC."),
        (
            lambda: resetting().commanded(5, Command.CANCEL),
            "gave the command cancel: because. The command was refused.",
        ),
        (lambda: STORIES["not checked in"]().commanded(5000, Command.RETRY), "It is followed again"),
        (lambda: resetting().seen(10, 9, USER), "The device checked in while a reset would have kept it silent"),
    ],
)
def test_what_happens_on_the_way_is_told_in_words(told: object, words: str) -> None:
    assert callable(told)
    assert words in text(told())


def test_every_kind_of_event_and_every_move_has_words() -> None:
    for kind in EventKind:
        assert len(passage(Event(kind=kind, at=NOON, who="x")).text) > 3 or kind is EventKind.MOVED, kind
    for state in State:
        event = Event(kind=EventKind.MOVED, at=NOON, who="x", from_state=State.RECEIVED, to_state=state)
        assert passage(event).text.endswith("."), state


def test_an_event_without_words_of_its_own_is_named_with_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stories, "_KINDS", {})
    event = Event(kind=EventKind.WAVE_OPENED, at=NOON, who="sweep", evidence={"waveNumber": "2"})
    assert lines([passage(event)]) == ["2026-03-02 12:00:00 UTC  sweep: Wave opened.", "    seen: wave number: 2"]


def test_a_story_of_which_the_request_is_no_longer_kept_says_so() -> None:
    one = replace(turnaround(ready()), requester=None, reason=None, received_at=None)
    assert heading(one)[0] == "Who asked is not kept any more."


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.6, "1 min"), (3661, "1 h 1 min"), (86400, "1 d"), (90061, "1 d 1 h"), (-5, "0 s")],
)
def test_a_span_is_told_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert span(timedelta(seconds=seconds)) == words


# --- the record ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(STORIES))
def test_the_record_of_every_turnaround_fits_its_published_schema_and_has_a_page(name: str) -> None:
    one = made(STORIES[name](), ACCEPTED, APPROVED)
    jsonschema.validate(json.loads(one.model_dump_json(by_alias=True)), schema())
    assert assert_page(page(one))


def test_s11_the_record_says_what_was_asked_approved_done_proven_and_how_it_ended() -> None:
    one = made(ready(), ACCEPTED, APPROVED)
    assert (one.asked.requester, one.asked.reason) == ("teacher@school.example", "INC-4711")
    assert [(approval.by, approval.why, approval.digest) for approval in one.approvals] == [
        ("boss@school.example", "end of term", "ab12")
    ]
    assert [(order.client_request_id, order.answer) for order in one.orders] == [("order-1", "Intune took the order.")]
    assert (one.outcome.state, one.outcome.proven_ready, one.outcome.ended) == (State.READY, True, True)
    assert one.proof is not None
    assert (one.proof.taken_by, one.proof.returned_at, one.proof.return_confirmed) == (at(3), at(40), True)
    assert (one.device.serial_number, one.device.had_primary_user) == ("SN-0001", True)


def test_the_record_says_plainly_what_it_is_not_and_by_what_it_was_seen() -> None:
    one = made(ready())
    assert "not a certificate of data sanitization" in one.statement.not_a_certificate
    assert "NIST SP 800-88 Rev. 2" in one.statement.not_a_certificate
    said = " ".join(assert_page(page(one)))
    assert NOT_A_CERTIFICATE in said
    assert SEEN_THROUGH_GRAPH in said


def test_the_record_of_a_turnaround_under_way_claims_nothing_yet() -> None:
    outcome = made(resetting()).outcome
    assert (outcome.state, outcome.ended, outcome.proven_ready, outcome.order_sent) == (
        State.RESETTING,
        False,
        False,
        True,
    )


@pytest.mark.parametrize("name", ["refused", "cancelled", "failed", "forbidden", "cleared"])
def test_where_no_reset_was_carried_out_the_record_and_its_page_say_so(name: str) -> None:
    one = made(STORIES[name]())
    assert not one.outcome.order_sent
    assert "No reset was carried out." in assert_page(page(one))


def test_a_failure_has_its_code_and_remedy_in_the_record() -> None:
    outcome = made(STORIES["refused"]()).outcome
    assert outcome.code is Code.HYBRID_JOINED
    assert outcome.remedy.startswith("Use a full wipe")


def test_s11_each_order_is_told_with_what_became_of_it() -> None:
    orders = made(sending().answered(AnswerKind.THROTTLED).sending(7, SECOND).accepted(8, SECOND)).orders
    assert [order.client_request_id for order in orders] == ["order-1", "order-2"]
    assert orders[0].answer == "Intune did not take the order (throttled); it gets another turn."
    assert orders[1].answer == "Intune took the order."


def test_s12_the_primary_users_identity_is_not_in_the_record() -> None:
    assert USER not in made(ready()).model_dump_json()


def test_a_device_that_had_no_turnaround_of_its_own_has_a_record_of_its_refusal() -> None:
    refused = Event(
        kind=EventKind.REFUSED,
        at=NOON,
        who="intake",
        request=RequestId("REQ-1"),
        device=DEVICE,
        to_state=State.REFUSED,
        reason=Reason(Code.ALREADY_IN_FLIGHT),
    )
    one = record(Turnaround(request=RequestId("REQ-1"), device=DEVICE, events=(refused,)), NOON)
    assert (one.outcome.state, one.outcome.code, one.outcome.order_sent) == (
        State.REFUSED,
        Code.ALREADY_IN_FLIGHT,
        False,
    )
    assert (one.device.intune_id, one.device.name, one.proof) == (DEVICE, None, None)


# --- its page -----------------------------------------------------------------------------------------------------


def named(name: str) -> Story:
    return story(moved(received(), before=managed(name=name, serial_number=name), requester=name, ticket=name)).judged()


@pytest.mark.parametrize(
    "name",
    ["<script>alert(1)</script>", "</title><script>", '" onload="x', "&#60;b&#62;", "{{7*7}}", "\x1b[2J", "\u202eabc"],
)
def test_what_devices_and_people_are_called_is_text_in_the_page(name: str) -> None:
    texts = assert_page(page(made(named(name))))
    assert texts.count(shown(name)) >= 3
    assert any(shown(name) in one for one in texts if one.startswith("Reset record: "))


def test_the_page_needs_nothing_from_outside_and_allows_no_script() -> None:
    text = page(made(ready()))
    assert not re.search(r"<(script|link|img|iframe|form|a)\b|@import|url\(", text)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    for policy in (HEADERS["Content-Security-Policy"], text):
        assert "default-src 'none'" in policy.replace("&#x27;", "'")
        assert f"style-src 'sha256-{digest}'" in policy.replace("&#x27;", "'")


def test_lines_of_a_story_are_plain_whatever_people_wrote() -> None:
    told = named("a\nb\x1b[31m\u202e").commanded(1, Command.CANCEL, by="x\x1b]0;y\x07")
    for line in text(told).split("\n"):
        assert_plain(line)
    assert len(text(told).split("\n")) == len(text(named("plain").commanded(1, Command.CANCEL)).split("\n"))
