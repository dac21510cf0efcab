"""One turnaround, step by step: first told as stories, then as rules that hold whatever happens, in whatever order."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.domain.devices import ActionResult, ActionState, Sighting
from shared.domain.evidence import RESET_ACTIONS
from shared.domain.ids import OrderId
from shared.domain.lifecycle import (
    MAX_ORDERS,
    RETRY_THROTTLED,
    AdminDecided,
    Answered,
    Command,
    Commanded,
    Declined,
    Effect,
    Happening,
    IllegalTransitionError,
    Judged,
    Reconciled,
    Released,
    Sending,
    Stopped,
    SyncAnswered,
    Woken,
    _Course,
    step,
)
from shared.domain.orders import AdminDecision, Answer, AnswerKind
from shared.domain.reasons import Code, Reason
from shared.domain.reset import EventKind, Reset
from shared.domain.states import DEVICE_MAY_BE_TOLD, IN_FLIGHT, NOTHING_SENT, TERMINAL, TRANSITIONS, State
from shared.domain.timing import FOREVER, wake
from tests.domain.builders import (
    ACTIVE,
    APPROVAL_CODE,
    DEVICE,
    DONE,
    ENTRA,
    FIRST,
    NEXT_USER,
    NOBODY,
    NOON,
    OTHER_CODE,
    OTHER_DEVICE,
    OTHER_ENTRA,
    PENDING,
    POLICY,
    SECOND,
    STORIES,
    USER,
    Step,
    Story,
    action,
    at,
    awaiting_admin_approval,
    cleared,
    facts,
    given_up,
    held_for_wave,
    managed,
    moved,
    ready,
    received,
    resetting,
    sending,
    settling,
    sighting,
    story,
    triggered,
)

DAY = 24 * 60.0
NEVER_CARRIED_OUT = (
    AnswerKind.THROTTLED,
    AnswerKind.NOT_SENT,
    AnswerKind.FORBIDDEN,
    AnswerKind.APPROVAL_REQUIRED,
    AnswerKind.DAILY_LIMIT,
    AnswerKind.REJECTED,
    AnswerKind.NOT_FOUND,
)


# --- the main path ------------------------------------------------------------------------------------------------


def test_a_device_goes_from_received_to_ready_through_every_state_on_the_way() -> None:
    told = ready()
    assert told.path == [
        State.RECEIVED,
        State.CLEARED,
        State.SENDING,
        State.TRIGGERED,
        State.RESETTING,
        State.SETTLING,
        State.READY,
    ]
    assert [event.to_state for event in told.told] == [State.READY]
    assert told.reset.deadline == FOREVER


def test_history_says_how_long_each_state_lasted() -> None:
    lasted = {event.from_state: event.lasted for event in ready().events if event.kind is EventKind.MOVED}
    assert lasted[State.TRIGGERED] == timedelta(minutes=3.5)
    assert lasted[State.RESETTING] == timedelta(minutes=37.5)


def test_ready_is_told_with_the_times_that_prove_it() -> None:
    evidence = ready().told[-1].evidence
    assert evidence["takenBy"] == at(3).isoformat()
    assert evidence["returnedAt"] == at(40).isoformat()
    assert evidence["primaryUserGone"] == "yes"


# --- before the reset is sent -------------------------------------------------------------------------------------


def test_clearing_puts_the_device_on_the_dispatch_queue() -> None:
    assert cleared().effects == {Effect.DISPATCH}


def test_a_device_that_may_not_be_reset_ends_refused_and_told_why() -> None:
    told = story().judged(refusal=Reason(Code.HYBRID_JOINED))
    assert (told.state, told.code, len(told.told)) == (State.REFUSED, Code.HYBRID_JOINED, 1)


def test_a_device_held_until_a_time_is_cleared_when_it_comes() -> None:
    told = story(received(not_before=at(90))).judged(hold=Reason(Code.NOT_YET), until=at(90))
    assert (told.state, told.woken(89).state) == (State.HELD, State.HELD)
    assert told.woken(90).state is State.CLEARED
    assert told.effects == {Effect.DISPATCH}


def test_a_halt_holds_a_cleared_device_until_somebody_resumes() -> None:
    told = cleared().judged(1, hold=Reason(Code.HALTED, "By ops: fire drill"))
    assert (told.state, told.reset.next_step) == (State.HELD, None)
    assert told.woken(600).state is State.HELD
    assert told.happens(601, Released(Code.HALTED)).state is State.CLEARED
    assert told.effects == {Effect.DISPATCH}


@pytest.mark.parametrize("name", ["cleared", "sending", "triggered", "forbidden"])
def test_resuming_moves_only_what_the_halt_holds(name: str) -> None:
    told = STORIES[name]()
    before = told.reset
    assert told.happens(5, Released(Code.HALTED)).reset == before


WAITS = (
    Code.HALTED,
    Code.NOT_YET,
    Code.DAILY_LIMIT,
    Code.HOURLY_LIMIT,
    Code.FLEET_SHARE,
    Code.APPROVAL_NEEDED,
    Code.WAITS_FOR_WAVE,
)
"""Codes by which a device is held."""


@pytest.mark.parametrize("ended", WAITS)
@pytest.mark.parametrize("holds", WAITS)
def test_the_end_of_one_hold_releases_what_it_held_and_nothing_else(holds: Code, ended: Code) -> None:
    told = story().judged(hold=Reason(holds)).happens(5, Released(ended))
    assert (told.state is State.CLEARED) == (holds is ended)
    assert (Effect.DISPATCH in told.effects) == (holds is ended)


@pytest.mark.parametrize("holds", WAITS)
def test_a_wait_is_told_unless_its_sender_asked_for_it_or_it_is_for_a_wave(holds: Code) -> None:
    told = story().judged(hold=Reason(holds))
    assert bool(told.told) == (holds not in (Code.NOT_YET, Code.WAITS_FOR_WAVE))


def test_the_facts_by_which_a_device_was_judged_are_kept_with_the_verdict() -> None:
    verdicts = [Judged(), Judged(refusal=Reason(Code.PROTECTED)), Judged(hold=Reason(Code.HALTED))]
    verdicts.append(Judged(hold=Reason(Code.WAVE_FAILED)))
    for verdict in verdicts:
        told = story().happens(0, replace(verdict, seen={"model": "Latitude"}))
        assert told.events[-1].evidence == {"model": "Latitude"}, verdict


def test_what_is_held_for_too_long_needs_a_person() -> None:
    told = story().judged(hold=Reason(Code.HALTED)).woken(DAY)
    assert (told.state, told.code) == (State.ATTENTION, Code.NOT_SENT_IN_TIME)


def test_a_hold_may_last_a_day_longer_than_the_time_asked_for() -> None:
    told = story(received(not_before=at(2 * DAY))).judged(hold=Reason(Code.NOT_YET), until=at(2 * DAY))
    assert told.reset.deadline == at(3 * DAY)


def test_a_request_for_the_end_of_time_is_held_and_breaks_nothing() -> None:
    end_of_time = datetime.max.replace(tzinfo=NOON.tzinfo)
    told = story(received(not_before=end_of_time)).judged(hold=Reason(Code.NOT_YET), until=end_of_time)
    assert told.state is State.HELD
    assert told.reset.deadline <= FOREVER


def test_facts_read_again_that_forbid_the_reset_refuse_a_cleared_device() -> None:
    assert cleared().judged(5, refusal=Reason(Code.OTHER_ACTION_PENDING)).state is State.REFUSED


def test_a_cleared_device_that_is_judged_fit_again_just_waits_on() -> None:
    assert cleared().judged(5).state is State.CLEARED


@pytest.mark.parametrize("name", ["held", "sending", "triggered", "forbidden"])
def test_a_judgement_that_comes_too_late_changes_nothing(name: str) -> None:
    told = STORIES[name]()
    before = told.reset
    assert told.judged(5, refusal=Reason(Code.PROTECTED)).reset == before


def test_a_lost_turn_is_given_again() -> None:
    told = cleared().woken(5)
    assert (told.state, told.effects) == (State.CLEARED, frozenset({Effect.DISPATCH}))
    assert told.reset.next_step == at(10)


def test_a_turn_that_never_comes_needs_a_person() -> None:
    told = cleared().woken(60)
    assert (told.state, told.code) == (State.ATTENTION, Code.NOT_SENT_IN_TIME)


def test_intake_that_never_comes_back_needs_a_person() -> None:
    told = story().woken(60)
    assert (told.state, told.code) == (State.ATTENTION, Code.NOT_SENT_IN_TIME)


def test_an_early_wake_up_changes_nothing() -> None:
    told = story()
    before = told.reset
    assert told.woken(1).reset == before


# --- a request that is too old ------------------------------------------------------------------------------------

EXPIRES = 30.0
UNSENT: dict[str, Callable[[], Story]] = {
    "received": lambda: story(received(expires_at=at(EXPIRES))),
    "held": lambda: STORIES["expires while held"](),
    "held for approval": lambda: story(received(expires_at=at(EXPIRES))).judged(hold=Reason(Code.APPROVAL_NEEDED)),
    "held for its wave": lambda: story(received(expires_at=at(EXPIRES), wave=2)).judged(
        hold=Reason(Code.WAITS_FOR_WAVE)
    ),
    "cleared": lambda: STORIES["expires"](),
    "throttled": lambda: sending(expires_at=at(EXPIRES)).answered(
        AnswerKind.THROTTLED, retry_after=timedelta(minutes=45)
    ),
    "held by Intune's day": lambda: sending(expires_at=at(EXPIRES)).answered(AnswerKind.DAILY_LIMIT),
    "awaiting admin approval": lambda: awaiting_admin_approval(expires_at=at(EXPIRES)),
}
"""A device of a request that is too old from minute 30 on, wherever nothing was sent."""


@pytest.mark.parametrize("name", UNSENT)
def test_a_device_whose_request_is_too_old_is_refused_and_told_at_that_very_time(name: str) -> None:
    told = UNSENT[name]()
    assert wake(told.reset).at <= at(EXPIRES)
    assert told.woken(EXPIRES - 0.1).state in NOTHING_SENT
    told.woken(EXPIRES)
    assert (told.state, told.code, told.told[-1].to_state) == (State.REFUSED, Code.REQUEST_EXPIRED, State.REFUSED)


@pytest.mark.parametrize("minute", [EXPIRES, EXPIRES + 1])
def test_the_turn_of_a_device_whose_request_is_too_old_sends_nothing(minute: float) -> None:
    told = cleared(expires_at=at(EXPIRES)).sending(minute, read_again=facts(read=minute))
    assert (told.state, told.code, told.reset.attempt) == (State.REFUSED, Code.REQUEST_EXPIRED, 0)
    assert cleared(expires_at=at(EXPIRES)).sending(EXPIRES - 0.1).state is State.SENDING


def test_a_wait_that_lasts_longer_than_the_request_is_valid_refuses_at_once_and_says_until_when() -> None:
    for until in (at(EXPIRES), at(EXPIRES + 60)):
        told = story(received(expires_at=at(EXPIRES))).judged(hold=Reason(Code.DAILY_LIMIT, "Full."), until=until)
        assert (told.state, told.code) == (State.REFUSED, Code.REQUEST_EXPIRED)
        assert told.reset.reason is not None
        assert f"It would have to wait until {until:%Y-%m-%d %H:%M} UTC." in told.reset.reason.detail
        assert "Full." in told.reset.reason.detail
    told = story(received(expires_at=at(EXPIRES))).judged(hold=Reason(Code.NOT_YET), until=at(EXPIRES - 1))
    assert told.state is State.HELD


def test_a_wait_without_an_end_refuses_only_what_is_too_old_already() -> None:
    assert cleared(expires_at=at(EXPIRES)).judged(29, hold=Reason(Code.HALTED)).state is State.HELD
    told = cleared(expires_at=at(EXPIRES)).judged(EXPIRES, hold=Reason(Code.HALTED, "By ops: drill."))
    assert (told.state, told.code) == (State.REFUSED, Code.REQUEST_EXPIRED)
    assert told.reset.reason is not None
    assert "It would have to wait" not in told.reset.reason.detail


def test_s14_neither_a_release_nor_a_persons_retry_sends_what_is_too_old() -> None:
    told = UNSENT["held"]().happens(EXPIRES, Released(Code.HALTED)).sending(EXPIRES)
    assert (told.state, told.code) == (State.REFUSED, Code.REQUEST_EXPIRED)
    told = sending(expires_at=at(EXPIRES)).answered(AnswerKind.FORBIDDEN).commanded(EXPIRES, Command.RETRY)
    assert told.state is State.CLEARED
    told.sending(EXPIRES + 1, SECOND)
    assert (told.state, told.code) == (State.REFUSED, Code.REQUEST_EXPIRED)


def test_after_a_lost_answer_a_request_that_is_too_old_is_not_called_unsent() -> None:
    told = sending(expires_at=at(8)).reconciled(6, sighting(6, -120), audited=False).woken(8)
    assert (told.state, told.code) == (State.ATTENTION, Code.SEND_UNKNOWN)
    told = sending(expires_at=at(8)).reconciled(6, sighting(6, -120), audited=False).sending(8, SECOND, facts(read=8))
    assert (told.state, told.code, told.reset.attempt) == (State.ATTENTION, Code.SEND_UNKNOWN, 1)


@pytest.mark.parametrize("tell", [sending, triggered, resetting])
def test_once_sent_a_turnaround_goes_on_however_old_its_request_gets(tell: Callable[..., Story]) -> None:
    told = tell(expires_at=at(4))
    assert told.woken(4.5).state is tell().state
    assert wake(told.reset).at > at(4)


# --- a second person's approval -----------------------------------------------------------------------------------


def test_a_device_that_nobody_approves_in_time_is_refused() -> None:
    told = story()
    told.policy = POLICY.model_copy(update={"approval_within": timedelta(hours=2)})
    told.judged(hold=Reason(Code.APPROVAL_NEEDED))
    assert wake(told.reset).at == at(120)
    assert told.woken(119).state is State.HELD
    told.woken(120)
    assert (told.state, told.code) == (State.REFUSED, Code.APPROVAL_EXPIRED)


def test_a_declined_device_is_refused_with_who_said_no_and_why() -> None:
    told = STORIES["held for approval"]().happens(5, Declined("head@school.example", "exam week"))
    assert (told.state, told.code, told.events[-1].who) == (State.REFUSED, Code.APPROVAL_REFUSED, "head@school.example")
    assert told.reset.reason is not None
    assert told.reset.reason.detail == "By head@school.example: exam week"


@pytest.mark.parametrize("tell", [story, cleared])
def test_a_device_whose_request_is_found_declined_is_refused(tell: Callable[[], Story]) -> None:
    told = tell().judged(5, hold=Reason(Code.APPROVAL_REFUSED, "By head@school.example: exam week"))
    assert (told.state, told.code) == (State.REFUSED, Code.APPROVAL_REFUSED)


def test_a_decline_found_after_a_lost_answer_is_not_called_harmless() -> None:
    told = given_up().judged(7, hold=Reason(Code.APPROVAL_REFUSED))
    assert (told.state, told.code) == (State.ATTENTION, Code.SEND_UNKNOWN)


@pytest.mark.parametrize("name", sorted(set(STORIES) - {"held for approval"}))
def test_declining_stops_only_what_waits_for_approval(name: str) -> None:
    told = STORIES[name]()
    before = told.reset
    assert told.happens(5, Declined("head@school.example", "exam week")).reset == before


@pytest.mark.parametrize("end", [Declined("head@school.example", "no"), Woken()], ids=["declined", "nobody decided"])
def test_without_approval_what_may_have_been_sent_before_is_not_called_unsent(end: Happening) -> None:
    told = given_up().judged(7, hold=Reason(Code.APPROVAL_NEEDED)).happens(2 * DAY, end)
    assert (told.state, told.code) == (State.ATTENTION, Code.SEND_UNKNOWN)


def test_an_approval_that_ran_out_before_its_turn_makes_a_device_wait_for_another() -> None:
    told = cleared().judged(30, hold=Reason(Code.APPROVAL_NEEDED, "It is too old."))
    assert (told.state, told.reset.deadline) == (State.HELD, at(30) + POLICY.approval_within)
    assert told.happens(40, Released(Code.APPROVAL_NEEDED)).sending(41).state is State.SENDING


def test_a_device_that_is_needed_before_it_is_approved_is_refused() -> None:
    told = story(received(ready_by=at(30))).judged(hold=Reason(Code.APPROVAL_NEEDED)).woken(30)
    assert (told.state, told.code) == (State.REFUSED, Code.APPROVAL_EXPIRED)


# --- waves --------------------------------------------------------------------------------------------------------


def test_a_device_waits_for_its_wave_as_long_as_its_request_is_valid() -> None:
    told = held_for_wave()
    assert told.reset.deadline == told.reset.expires_at == at(7 * DAY)
    assert told.woken(6 * DAY).state is State.HELD
    assert told.happens(6 * DAY, Released(Code.WAITS_FOR_WAVE)).sending(6 * DAY + 1).state is State.SENDING


def test_a_wave_that_never_comes_needs_a_person_where_the_request_is_valid_for_ever() -> None:
    told = story(received(wave=2)).judged(hold=Reason(Code.WAITS_FOR_WAVE)).woken(DAY)
    assert (told.state, told.code) == (State.ATTENTION, Code.NOT_SENT_IN_TIME)


def test_a_device_whose_wave_is_stopped_needs_a_person_and_is_told_why() -> None:
    told = held_for_wave().happens(10, Stopped("Wave 1 of 2: 2 of 5 failed."))
    assert (told.state, told.code, told.told[-1].reason) == (
        State.ATTENTION,
        Code.WAVE_FAILED,
        Reason(Code.WAVE_FAILED, "Wave 1 of 2: 2 of 5 failed."),
    )


@pytest.mark.parametrize("name", sorted(set(STORIES) - {"held for its wave"}))
def test_a_stop_of_waves_touches_only_what_waits_for_one(name: str) -> None:
    told = STORIES[name]()
    before = told.reset
    assert told.happens(5, Stopped("Wave 1 failed.")).reset == before


def test_a_device_that_meets_a_stopped_wave_at_its_turn_needs_a_person_at_once() -> None:
    told = story(received(wave=2)).judged().judged(5, hold=Reason(Code.WAVE_FAILED, "Wave 1 failed."))
    assert (told.state, told.code) == (State.ATTENTION, Code.WAVE_FAILED)
    told = story(received(wave=2)).judged(hold=Reason(Code.WAVE_FAILED, "Wave 1 failed."))
    assert (told.state, told.code) == (State.ATTENTION, Code.WAVE_FAILED)


def test_a_persons_retry_frees_a_device_of_a_stopped_wave() -> None:
    told = STORIES["stopped wave"]().commanded(20, Command.RETRY)
    assert (told.state, told.reset.wave, told.effects) == (State.CLEARED, 0, frozenset({Effect.DISPATCH}))
    assert told.sending(21).state is State.SENDING


def test_a_retry_for_any_other_reason_leaves_a_device_in_its_wave() -> None:
    """It still counts there: a canary that is retried must not look like one that never was."""
    canary = story(received(wave=1)).judged().sending().answered(AnswerKind.FORBIDDEN).commanded(10, Command.RETRY)
    assert (canary.state, canary.reset.wave) == (State.CLEARED, 1)
    late = story(moved(held_for_wave().reset, ready_by=at(30))).woken(30).commanded(31, Command.RETRY)
    assert (late.state, late.reset.wave) == (State.CLEARED, 2)


def test_a_device_of_a_stopped_wave_can_be_withdrawn_as_never_sent() -> None:
    told = STORIES["stopped wave"]().commanded(20, Command.CANCEL)
    assert (told.state, told.code) == (State.CANCELLED, Code.CANCELLED)


@pytest.mark.parametrize(
    "stop", [Stopped("Wave 1 failed."), Judged(hold=Reason(Code.WAVE_FAILED))], ids=["while held", "at its turn"]
)
def test_a_stop_after_a_lost_answer_is_not_called_harmless(stop: Happening) -> None:
    told = given_up()
    if isinstance(stop, Stopped):
        told.judged(7, hold=Reason(Code.WAITS_FOR_WAVE))
    told.happens(8, stop)
    assert (told.state, told.code) == (State.ATTENTION, Code.SEND_UNKNOWN)
    assert told.commanded(9, Command.RETRY).state is State.ATTENTION


# --- Intune's Multi Admin Approval --------------------------------------------------------------------------------


def test_s9_an_order_that_administrators_must_approve_waits_for_them_under_its_code_and_that_is_told() -> None:
    told = awaiting_admin_approval()
    assert (told.state, told.code) == (State.AWAITING_ADMIN_APPROVAL, Code.ADMIN_APPROVAL_REQUIRED)
    assert (told.reset.approval_code, told.reset.order, told.reset.attempt) == (APPROVAL_CODE, None, 1)
    assert (told.told[-1].to_state, told.told[-1].evidence) == (told.state, {"approvalCode": APPROVAL_CODE})
    assert told.reset.next_step == NOON + POLICY.admin_approval_poll
    assert told.reset.deadline == NOON + POLICY.admin_approval_for


@pytest.mark.parametrize("code", [None, ""])
def test_an_order_that_waits_there_under_no_code_of_ours_needs_a_person(code: str | None) -> None:
    told = sending().answered(AnswerKind.APPROVAL_REQUIRED, approval_code=code)
    assert (told.state, told.code, told.reset.approval_code) == (State.ATTENTION, Code.ADMIN_APPROVAL_REQUIRED, "")


def test_intune_is_asked_again_and_again_and_nothing_is_sent_meanwhile() -> None:
    told = awaiting_admin_approval()
    for _ in range(5):
        assert told.reset.next_step is not None
        due = told.reset.next_step
        told.happens_at(due, Woken())
        assert (told.state, told.reset.next_step) == (State.AWAITING_ADMIN_APPROVAL, due + POLICY.admin_approval_poll)
        assert not told.effects
    assert told.sending(60, SECOND).state is State.AWAITING_ADMIN_APPROVAL


def test_once_they_agreed_the_order_is_sent_again_with_their_code() -> None:
    told = awaiting_admin_approval().admin_decided(5, AdminDecision.APPROVED)
    assert (told.state, told.effects) == (State.CLEARED, frozenset({Effect.DISPATCH}))
    told.sending(6, SECOND, facts(read=6))
    assert (told.state, told.reset.approval_code, told.reset.attempt) == (State.SENDING, APPROVAL_CODE, 2)
    assert told.accepted(6, SECOND).state is State.TRIGGERED


@pytest.mark.parametrize("decision", [AdminDecision.REJECTED, AdminDecision.CANCELLED])
def test_s9_what_they_declined_or_withdrew_is_refused_and_told(decision: AdminDecision) -> None:
    told = awaiting_admin_approval().admin_decided(5, decision)
    assert (told.state, told.code) == (State.REFUSED, Code.ADMIN_APPROVAL_REJECTED)
    assert told.reset.reason is not None
    assert decision.value in told.reset.reason.detail


def test_what_nobody_decided_there_needs_a_person_whose_retry_asks_them_anew() -> None:
    told = awaiting_admin_approval().admin_decided(5, AdminDecision.EXPIRED)
    assert (told.state, told.code, told.reset.approval_code) == (State.ATTENTION, Code.ADMIN_APPROVAL_EXPIRED, "")
    told.commanded(6, Command.RETRY).sending(7, SECOND)
    assert (told.state, told.reset.approval_code) == (State.SENDING, "")
    told.answered(AnswerKind.APPROVAL_REQUIRED, 7, SECOND, approval_code=OTHER_CODE)
    assert (told.state, told.reset.approval_code) == (State.AWAITING_ADMIN_APPROVAL, OTHER_CODE)


@pytest.mark.parametrize("decision", [AdminDecision.WAITING, AdminDecision.UNKNOWN])
def test_no_decision_and_one_that_cannot_be_read_leave_it_waiting(decision: AdminDecision) -> None:
    told = awaiting_admin_approval().admin_decided(12, decision)
    assert (told.state, told.effects) == (State.AWAITING_ADMIN_APPROVAL, frozenset())
    assert told.reset.next_step == at(12) + POLICY.admin_approval_poll
    assert told.reset.deadline == NOON + POLICY.admin_approval_for, "asking does not prolong the wait"


def test_an_order_that_somebody_else_carried_out_is_never_sent_again() -> None:
    told = awaiting_admin_approval().admin_decided(5, AdminDecision.COMPLETED)
    assert (told.state, told.code, told.reset.doubtful) == (State.ATTENTION, Code.SEND_UNKNOWN, True)
    assert told.commanded(6, Command.RETRY).state is State.ATTENTION
    assert told.commanded(7, Command.CANCEL).code is Code.RESET_ALREADY_SENT


def test_an_order_that_somebody_else_carried_out_is_ready_once_that_is_proven_and_not_before() -> None:
    told = awaiting_admin_approval().admin_decided(5, AdminDecision.COMPLETED)
    assert told.seen(6, 5.5, USER).state is State.ATTENTION
    told.seen(20, 19, USER, action(ACTIVE, started=4)).seen(30, 19, USER, action(ACTIVE, started=4))
    told.back(60, 59, NOBODY, action(DONE, started=4))
    assert told.path[-5:] == [State.ATTENTION, State.TRIGGERED, State.RESETTING, State.SETTLING, State.READY]


@pytest.mark.parametrize("decision", list(AdminDecision))
def test_a_decision_about_another_code_changes_nothing(decision: AdminDecision) -> None:
    told = awaiting_admin_approval()
    before = told.reset
    assert told.admin_decided(5, decision, OTHER_CODE).reset == before


@pytest.mark.parametrize("decision", list(AdminDecision))
@pytest.mark.parametrize("name", sorted(set(STORIES) - {"awaiting admin approval"}))
def test_a_decision_that_comes_late_changes_nothing(name: str, decision: AdminDecision) -> None:
    told = STORIES[name]()
    before = told.reset
    assert told.admin_decided(5, decision, before.approval_code).reset == before


def test_a_decision_that_never_comes_needs_a_person_and_their_code_is_not_used() -> None:
    limit = POLICY.admin_approval_for / timedelta(minutes=1)
    told = awaiting_admin_approval().woken(limit)
    assert (told.state, told.code, told.reset.approval_code) == (State.ATTENTION, Code.ADMIN_APPROVAL_EXPIRED, "")


def test_a_device_that_is_needed_before_they_decide_needs_a_person() -> None:
    told = awaiting_admin_approval(ready_by=at(30)).woken(30)
    assert (told.state, told.code, told.reset.approval_code) == (State.ATTENTION, Code.ADMIN_APPROVAL_EXPIRED, "")


def test_cancelling_while_they_decide_is_exact() -> None:
    told = awaiting_admin_approval().commanded(5, Command.CANCEL)
    assert (told.state, told.code) == (State.CANCELLED, Code.CANCELLED)


def test_nobody_can_retry_what_they_have_not_decided() -> None:
    told = awaiting_admin_approval().commanded(5, Command.RETRY)
    assert (told.state, told.events[-1].kind) == (State.AWAITING_ADMIN_APPROVAL, EventKind.COMMAND_REFUSED)
    assert told.events[-1].reason is None, "nothing was sent"


def test_what_they_agreed_to_and_are_asked_for_again_needs_a_person_instead_of_going_round_for_ever() -> None:
    told = STORIES["approved by administrators"]().sending(6, SECOND, facts(read=6))
    told.answered(AnswerKind.APPROVAL_REQUIRED, 6, SECOND, approval_code=APPROVAL_CODE)
    assert (told.state, told.code, told.reset.approval_code) == (State.ATTENTION, Code.ADMIN_APPROVAL_REQUIRED, "")


def test_an_order_that_needs_another_approval_waits_for_that_one() -> None:
    told = STORIES["approved by administrators"]().sending(6, SECOND, facts(read=6))
    told.answered(AnswerKind.APPROVAL_REQUIRED, 6, SECOND, approval_code=OTHER_CODE)
    assert (told.state, told.reset.approval_code) == (State.AWAITING_ADMIN_APPROVAL, OTHER_CODE)
    assert told.admin_decided(7, AdminDecision.APPROVED, APPROVAL_CODE).state is State.AWAITING_ADMIN_APPROVAL


def test_an_approval_that_is_used_up_is_not_tried_again() -> None:
    """Intune forbids it; the same code again would be forbidden for ever."""
    told = STORIES["approved by administrators"]().sending(6, SECOND, facts(read=6))
    told.answered(AnswerKind.FORBIDDEN, 6, SECOND).commanded(7, Command.RETRY).sending(8, OrderId("order-3"))
    assert (told.state, told.reset.approval_code) == (State.SENDING, "")


@pytest.mark.parametrize("kind", [AnswerKind.THROTTLED, AnswerKind.NOT_SENT, AnswerKind.DAILY_LIMIT])
def test_an_approval_that_was_not_used_is_kept_for_the_next_turn(kind: AnswerKind) -> None:
    told = STORIES["approved by administrators"]().sending(6, SECOND, facts(read=6)).answered(kind, 6, SECOND)
    assert told.reset.approval_code == APPROVAL_CODE


def test_a_device_that_waits_for_administrators_is_not_watched() -> None:
    told = awaiting_admin_approval()
    before = told.reset
    told.seen(20, 3, NOBODY, DONE).seen(60, 59, NOBODY, DONE).reconciled(61, sighting(61, 60), audited=True)
    assert told.reset == before


# --- sending ------------------------------------------------------------------------------------------------------


def test_an_order_is_written_down_before_it_is_sent() -> None:
    told = sending()
    assert (told.state, told.reset.order, told.reset.attempt, told.reset.sent_at) == (State.SENDING, FIRST, 1, NOON)


def test_facts_read_again_are_what_proof_is_measured_against() -> None:
    fresh = facts(managed(last_sync=at(8), primary_user=NEXT_USER), read=9)
    told = cleared().sending(9, read_again=fresh)
    assert (told.reset.before, told.reset.facts_at) == (fresh.managed, at(9))


@pytest.mark.parametrize("name", [name for name, tell in STORIES.items() if tell().state is not State.CLEARED])
def test_s13_a_second_turn_sends_nothing(name: str) -> None:
    told = STORIES[name]()
    before = told.reset
    assert told.sending(1, SECOND).reset == before


def test_a_device_whose_time_has_run_out_is_not_sent_for() -> None:
    told = cleared(ready_by=at(30)).sending(30)
    assert (told.state, told.code, told.reset.order) == (State.ATTENTION, Code.NOT_SENT_IN_TIME, None)


def test_facts_of_another_device_are_never_taken_for_this_ones() -> None:
    told = cleared().sending(1, read_again=facts(managed(id=OTHER_DEVICE, entra_device_id=OTHER_ENTRA)))
    assert told.reset.before.id == DEVICE
    assert told.state is not State.SENDING


# --- each answer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "state", "code"),
    [
        (AnswerKind.ACCEPTED, State.TRIGGERED, None),
        (AnswerKind.THROTTLED, State.CLEARED, None),
        (AnswerKind.NOT_SENT, State.CLEARED, None),
        (AnswerKind.FORBIDDEN, State.ATTENTION, Code.FORBIDDEN_BY_GRAPH),
        (AnswerKind.APPROVAL_REQUIRED, State.ATTENTION, Code.ADMIN_APPROVAL_REQUIRED),
        (AnswerKind.DAILY_LIMIT, State.HELD, Code.DAILY_LIMIT),
        (AnswerKind.NOT_FOUND, State.FAILED, Code.RECORD_GONE),
        (AnswerKind.REJECTED, State.FAILED, Code.REJECTED_BY_GRAPH),
        (AnswerKind.UNKNOWN, State.SENDING, None),
    ],
)
def test_each_answer_leads_to_its_own_state(kind: AnswerKind, state: State, code: Code | None) -> None:
    told = sending().answered(kind)
    assert (told.state, told.code) == (state, code)


def test_every_kind_of_answer_has_a_place_to_go() -> None:
    for kind in AnswerKind:
        assert sending().answered(kind).events, kind


@pytest.mark.parametrize("kind", NEVER_CARRIED_OUT)
def test_an_order_that_was_not_carried_out_is_forgotten(kind: AnswerKind) -> None:
    assert sending().answered(kind).reset.order is None


def test_a_throttled_order_waits_as_long_as_graph_says() -> None:
    told = sending().answered(AnswerKind.THROTTLED, retry_after=timedelta(minutes=2))
    assert (told.reset.next_step, told.effects) == (at(2), frozenset())
    assert told.woken(2).effects == {Effect.DISPATCH}


def test_a_throttled_order_waits_a_little_where_graph_does_not_say() -> None:
    assert sending().answered(AnswerKind.THROTTLED).reset.next_step == NOON + RETRY_THROTTLED


@pytest.mark.parametrize(("minute", "midnight"), [(0.5, 12 * 60), (12 * 60 - 0.5, 12 * 60), (12 * 60, 36 * 60)])
def test_an_order_over_the_tenants_daily_limit_goes_on_at_the_next_utc_midnight_and_its_sender_is_told_when(
    minute: float, midnight: float
) -> None:
    told = sending().answered(AnswerKind.DAILY_LIMIT, minute, detail="Graph's words.")
    assert (told.state, told.reset.next_step) == (State.HELD, at(midnight))
    (event,) = told.told
    assert event.reason is not None
    assert event.reason.detail == f"It goes on at {at(midnight):%Y-%m-%d %H:%M} UTC. Graph's words."
    assert told.reset.deadline == at(midnight) + POLICY.held_for, "the wait for midnight does not use up its time"
    assert told.woken(midnight - 0.1).state is State.HELD
    told.woken(midnight)
    assert (told.state, told.effects) == (State.CLEARED, frozenset({Effect.DISPATCH}))
    assert told.sending(midnight + 1, SECOND).state is State.SENDING


def test_an_order_held_by_the_daily_limit_can_be_withdrawn_without_a_trace_on_the_device() -> None:
    told = sending().answered(AnswerKind.DAILY_LIMIT).commanded(1, Command.CANCEL)
    assert (told.state, told.code) == (State.CANCELLED, Code.CANCELLED)


def test_a_lost_answer_is_kept_in_history_and_the_order_stays_open() -> None:
    told = sending().answered(AnswerKind.UNKNOWN, detail="504")
    assert told.events[-1].kind is EventKind.ORDER_DOUBTFUL
    assert (told.state, told.reset.order) == (State.SENDING, FIRST)


@pytest.mark.parametrize("kind", list(AnswerKind))
def test_an_answer_to_another_order_changes_nothing(kind: AnswerKind) -> None:
    told = sending()
    before = told.reset
    assert told.answered(kind, order=SECOND).reset == before


@pytest.mark.parametrize("kind", list(AnswerKind))
def test_an_answer_that_comes_twice_counts_once(kind: AnswerKind) -> None:
    told = triggered()
    before = told.reset
    assert told.answered(kind).reset == before


def test_graphs_own_clock_bounds_the_time_of_the_order() -> None:
    told = sending().answered(AnswerKind.ACCEPTED, server_time=at(-3))
    assert told.reset.graph_earliest == at(-3.5) - timedelta(seconds=1), "Intune's own clock may lag a little"
    assert told.reset.graph_latest == at(-2) + timedelta(seconds=1)


def test_without_graphs_clock_the_bounds_are_as_wide_as_clocks_may_differ() -> None:
    told = sending().answered(AnswerKind.ACCEPTED)
    assert (told.reset.graph_earliest, told.reset.graph_latest) == (at(-5), at(6))


# --- a lost answer ------------------------------------------------------------------------------------------------


def test_a_lost_order_is_found_at_the_device() -> None:
    told = sending().reconciled(5, sighting(5, -120, USER, PENDING), audited=False)
    assert (told.state, told.events[-1].evidence) == (State.TRIGGERED, {"found": "device"})


def test_a_lost_order_is_found_by_its_management_state() -> None:
    told = sending().reconciled(5, sighting(5, -120, management_state="wipePending"), audited=None)
    assert told.state is State.TRIGGERED


def test_a_lost_order_is_found_in_the_audit() -> None:
    told = sending().reconciled(5, sighting(5, -120), audited=True)
    assert (told.state, told.events[-1].evidence) == (State.TRIGGERED, {"found": "audit"})


def test_the_audit_alone_is_enough_where_the_device_could_not_be_looked_at() -> None:
    assert sending().reconciled(1, None, audited=True).state is State.TRIGGERED


def test_a_look_while_the_answer_is_out_may_already_show_the_order() -> None:
    told = sending().seen(1, 0.5, USER, PENDING)
    assert (told.state, told.events[-1].evidence) == (State.TRIGGERED, {"found": "device"})


def test_a_look_that_shows_no_order_leaves_the_question_open() -> None:
    told = sending()
    before = told.reset
    assert told.seen(1, 0.5).reset == before


def test_an_order_that_provably_was_not_carried_out_is_sent_again() -> None:
    told = given_up(6)
    assert (told.state, told.effects, told.reset.order) == (State.CLEARED, frozenset({Effect.DISPATCH}), None)
    fresh = facts(read=7)
    assert told.sending(7, SECOND, fresh).accepted(7, SECOND).state is State.TRIGGERED
    assert told.reset.graph_earliest == at(-5), "the first order, should it have been carried out, is still ours"


def test_nothing_is_concluded_before_graph_had_time_to_show_the_order() -> None:
    told = sending().reconciled(4, sighting(4, -120), audited=False)
    assert (told.state, told.reset.next_step) == (State.SENDING, at(9))


@pytest.mark.parametrize(("seen", "audited"), [(None, False), (sighting(6, -120), None)], ids=["no look", "no audit"])
def test_nothing_is_concluded_from_what_could_not_be_read(seen: Sighting | None, audited: bool | None) -> None:
    assert sending().reconciled(6, seen, audited=audited).state is State.SENDING


@pytest.mark.parametrize(
    "seen", [sighting(6, 2), sighting(6, -120, exists=False)], ids=["checked in since", "record gone"]
)
def test_a_doubt_that_graph_cannot_settle_goes_to_a_person(seen: Sighting) -> None:
    told = sending().reconciled(6, seen, audited=False)
    assert (told.state, told.code) == (State.ATTENTION, Code.SEND_UNKNOWN)


def test_a_device_that_had_never_checked_in_and_now_has_is_doubtful() -> None:
    told = story(moved(received(), before=managed(last_sync=None))).judged().sending()
    assert told.reconciled(6, sighting(6, 1), audited=False).code is Code.SEND_UNKNOWN


@pytest.mark.parametrize(
    "seen",
    [
        sighting(6, None),
        sighting(6, -120, shows_actions=False),
        sighting(6, -120, management_state=None),
    ],
    ids=["no check-in time", "no actions", "no management state"],
)
def test_a_look_that_leaves_out_what_would_show_the_order_concludes_nothing(seen: Sighting) -> None:
    """Never sent again on a record that did not tell: what Graph left out is not a sign that nothing happened."""
    assert sending().reconciled(6, seen, audited=False).state is not State.CLEARED


def test_a_look_from_before_graph_had_time_concludes_nothing_however_late_it_is_weighed() -> None:
    assert sending().reconciled(6, sighting(1, -120), audited=False).state is not State.CLEARED


def test_a_doubt_that_stays_open_for_too_long_goes_to_a_person() -> None:
    told = sending().reconciled(15, sighting(15, -120), audited=False)
    assert (told.state, told.code) == (State.ATTENTION, Code.SEND_UNKNOWN)


def test_a_lost_answer_is_not_followed_by_orders_without_end() -> None:
    told = sending()
    minute = 0.0
    for number in range(2, MAX_ORDERS + 1):
        minute += 6
        told.reconciled(minute, sighting(minute, -120), audited=False)
        assert told.state is State.CLEARED
        told.sending(minute, OrderId(f"order-{number}"), facts(read=minute))
    told.reconciled(minute + 6, sighting(minute + 6, -120), audited=False)
    assert (told.state, told.code) == (State.ATTENTION, Code.SEND_UNKNOWN)


@pytest.mark.parametrize("name", ["cleared", "triggered", "forbidden"])
def test_reconciliation_matters_only_while_the_answer_is_out(name: str) -> None:
    told = STORIES[name]()
    before = told.reset
    assert told.reconciled(6, sighting(6, -120), audited=True).reset == before


def test_a_wake_up_without_news_leaves_an_open_order_to_its_deadline() -> None:
    told = sending().woken(5)
    assert (told.state, told.effects) == (State.SENDING, frozenset())
    assert told.woken(15).code is Code.SEND_UNKNOWN


# --- never twice --------------------------------------------------------------------------------------------------


def test_an_acceptance_that_comes_after_the_order_was_given_up_keeps_a_second_one_back() -> None:
    """The process that sent it was slow, not dead: the device has its order."""
    told = given_up(6).answered(AnswerKind.ACCEPTED, 6.5)
    assert told.sending(7, SECOND, facts(read=7)).state is not State.SENDING


def test_an_acceptance_of_the_first_order_keeps_a_third_one_back() -> None:
    told = given_up(6).sending(7, SECOND, facts(read=7)).answered(AnswerKind.ACCEPTED, 7.5, FIRST)
    assert told.reconciled(13, sighting(13, -120), audited=False).state is not State.CLEARED


def test_an_acceptance_that_comes_while_a_second_order_is_held_keeps_it_back() -> None:
    told = given_up(6).judged(7, hold=Reason(Code.HALTED)).answered(AnswerKind.ACCEPTED, 8, FIRST)
    assert told.happens(9, Released(Code.HALTED)).sending(9, SECOND, facts(read=9)).state is not State.SENDING


def test_an_acceptance_that_comes_once_a_person_was_called_leaves_it_to_proof() -> None:
    told = given_up(6).judged(7, refusal=Reason(Code.OTHER_ACTION_PENDING))
    before = told.reset
    assert told.answered(AnswerKind.ACCEPTED, 8, FIRST).reset == before


def test_a_reset_action_seen_after_the_order_was_given_up_keeps_a_second_one_back() -> None:
    told = given_up(6).seen(6.5, -120, USER, PENDING)
    assert told.sending(7, SECOND, facts(read=7)).state is not State.SENDING


def test_s13_a_device_that_checked_in_after_the_order_was_given_up_is_not_sent_a_second_one() -> None:
    """It may have taken the first order at that check-in, and belong to its next user by now."""
    told = given_up(6).judged(7, hold=Reason(Code.DAILY_LIMIT), until=at(720)).woken(720)
    told.sending(721, SECOND, facts(managed(last_sync=at(60), primary_user=NOBODY), read=721))
    assert (told.state, told.code) == (State.ATTENTION, Code.SEND_UNKNOWN)


def test_after_a_lost_answer_nothing_is_sent_without_facts_read_again() -> None:
    assert given_up(6).sending(7, SECOND, None).state is not State.SENDING


def test_after_a_lost_answer_sending_again_is_possible_within_minutes_only() -> None:
    told = given_up(6).sending(6 + 20, SECOND, facts(read=26))
    assert (told.state, told.code) == (State.ATTENTION, Code.SEND_UNKNOWN)


@pytest.mark.parametrize("kind", [AnswerKind.REJECTED, AnswerKind.NOT_FOUND])
def test_a_refused_second_order_does_not_end_what_the_first_may_have_begun(kind: AnswerKind) -> None:
    """Graph may refuse the second order because the first is under way: "nothing was done" would free the device."""
    told = given_up(6).sending(7, SECOND, facts(read=7)).answered(kind, 7, SECOND)
    assert (told.state, told.code) == (State.ATTENTION, Code.SEND_UNKNOWN)


@pytest.mark.parametrize("kind", [AnswerKind.FORBIDDEN, AnswerKind.APPROVAL_REQUIRED, AnswerKind.DAILY_LIMIT])
def test_a_forbidden_second_order_is_not_called_harmless(kind: AnswerKind) -> None:
    told = given_up(6).sending(7, SECOND, facts(read=7)).answered(kind, 7, SECOND)
    assert (told.state, told.code) == (State.ATTENTION, Code.SEND_UNKNOWN)


def test_a_refusal_after_a_lost_answer_asks_a_person_instead_of_ending_it() -> None:
    told = given_up().judged(7, refusal=Reason(Code.OTHER_ACTION_PENDING))
    assert (told.state, told.code) == (State.ATTENTION, Code.SEND_UNKNOWN)


def test_a_turn_that_never_comes_after_a_lost_answer_is_not_called_harmless() -> None:
    assert given_up(6).woken(6 + 60).code is Code.SEND_UNKNOWN


def test_a_person_cannot_retry_what_may_have_been_sent() -> None:
    told = given_up().judged(7, refusal=Reason(Code.OTHER_ACTION_PENDING)).commanded(8, Command.RETRY)
    assert (told.state, told.events[-1].kind) == (State.ATTENTION, EventKind.COMMAND_REFUSED)


def test_cancelling_after_a_lost_answer_does_not_claim_that_nothing_was_sent() -> None:
    told = given_up().judged(7, refusal=Reason(Code.OTHER_ACTION_PENDING)).commanded(8, Command.CANCEL)
    assert (told.state, told.code) == (State.CANCELLED, Code.RESET_ALREADY_SENT)


@pytest.mark.parametrize("held", [False, True])
def test_withdrawing_what_may_have_been_sent_does_not_claim_that_nothing_was(held: bool) -> None:
    told = given_up(6)
    if held:
        told.judged(7, hold=Reason(Code.HALTED))
    told.commanded(8, Command.CANCEL)
    assert (told.state, told.code) == (State.CANCELLED, Code.RESET_ALREADY_SENT)


def test_late_proof_of_a_doubtful_order_takes_the_device_on_to_ready() -> None:
    told = given_up().judged(7, refusal=Reason(Code.OTHER_ACTION_PENDING))
    told.seen(20, 19, USER, ACTIVE).seen(30, 19, USER, ACTIVE).back(60, 59, NOBODY, DONE)
    assert told.state is State.READY
    assert told.path[-5:] == [State.ATTENTION, State.TRIGGERED, State.RESETTING, State.SETTLING, State.READY]


def test_an_order_found_after_all_is_watched_whatever_held_the_second_one() -> None:
    told = given_up().judged(7, hold=Reason(Code.HALTED)).woken(7 + DAY)
    assert told.path[-1] is State.ATTENTION
    minute = 8 + DAY
    told.happens(minute, sighting(minute, minute - 1, USER, action(ACTIVE, started=1)))
    assert told.state is State.RESETTING


# --- proof: the ways in which a device must not look ready --------------------------------------------------------


def test_s17_done_at_pick_up_with_the_old_user_still_there_is_never_ready() -> None:
    """The trap: "done" may only mean that the device took the command."""
    told = triggered().seen(3.5, 3, USER, DONE)
    for minute in range(20, 600, 20):
        told.seen(minute, minute - 1, USER, DONE)
        told.woken(minute + 1)
    assert State.READY not in told.path
    assert told.code is Code.NOT_PROVEN


def test_a_device_without_a_user_that_answers_in_the_silence_is_not_being_reset() -> None:
    told = triggered(user=NOBODY).seen(3.5, 3, NOBODY, DONE)
    for minute in (8.5, 13.8, 19.1):
        told.woken(minute)
        assert Effect.SYNC in told.effects
        told.sync_answered(minute).seen(minute + 0.3, minute + 0.2, NOBODY, DONE)
    assert (told.state, told.code, told.reset.proof.restarts) == (State.ATTENTION, Code.NOT_PROVEN, 3)
    assert State.SETTLING not in told.path


def test_a_silence_that_is_broken_while_a_person_is_called_is_kept_in_history_and_starts_nothing() -> None:
    told = resetting().woken(200).seen(201, 10, USER, ACTIVE)
    assert (told.state, told.events[-1].kind) == (State.ATTENTION, EventKind.NOT_SILENT)
    assert told.reset.next_step is None


def test_a_device_without_a_user_whose_action_is_done_early_is_not_proven_by_a_missed_sync() -> None:
    """A device that is off misses it too."""
    told = triggered(user=NOBODY).seen(3.5, 3, NOBODY, DONE).woken(8.5)
    assert told.effects == {Effect.SYNC}
    assert told.sync_answered(8.6).back(41, 40, NOBODY, DONE).state is State.SETTLING


def test_s17_a_device_that_takes_the_reset_at_what_looked_like_its_return_is_not_ready_then() -> None:
    told = triggered().seen(3.5, 3, NOBODY, PENDING).woken(8.5).sync_answered(8.6)
    told.seen(51, 50, NOBODY, DONE)
    assert told.state is State.SETTLING
    told.woken(56).sync_answered(56)
    told.seen(86, 85, NOBODY, DONE)
    assert (told.state, told.reset.proof.taken_at) == (State.SETTLING, at(50)), "so long a silence was the reset"
    assert told.seen(90, 89, NOBODY, DONE).state is State.READY


def test_silence_that_nobody_tested_proves_nothing() -> None:
    told = triggered(user=NOBODY).seen(3.5, 3, NOBODY, DONE).woken(8.5)
    told.sync_answered(8.6, AnswerKind.THROTTLED).seen(41, 40, NOBODY, DONE)
    assert told.state is State.SETTLING
    assert EventKind.SYNC_NOT_TAKEN in [event.kind for event in told.events]


def test_a_sync_that_the_device_answered_does_not_count_as_silence_however_late_graphs_answer_is_kept() -> None:
    told = triggered(user=NOBODY).seen(3.5, 3, NOBODY, DONE).woken(8.5)
    assert told.effects == {Effect.SYNC}
    told.seen(8.7, 8.6, NOBODY, DONE)  # it answered at once ...
    told.sync_answered(8.8)  # ... and only now is it kept that Graph had taken the sync
    assert told.seen(500, 499, NOBODY, DONE).state is not State.READY


def test_a_sync_that_brought_the_pick_up_about_does_not_count_as_a_test_of_the_silence() -> None:
    told = triggered(user=NOBODY).woken(5)
    assert told.effects == {Effect.SYNC}
    told.seen(5.2, 5.1, NOBODY, DONE).sync_answered(5.3)
    assert told.state is State.RESETTING
    assert told.seen(500, 499, NOBODY, DONE).state is not State.READY


def test_an_order_that_still_waited_after_a_check_in_was_not_taken_by_it() -> None:
    """The session of minute 2.5 did not deliver it; the forced one of minute 23 did, which is when the reset begins."""
    told = triggered().seen(3, 2.5, USER, PENDING).seen(8, 2.5, USER, PENDING).woken(8)
    told.woken(23).seen(24, 23.5, NOBODY, DONE)
    assert told.state is not State.READY


def test_a_pick_up_that_follows_an_untaken_first_check_in_is_not_the_return() -> None:
    """The same without any action shown: the user is removed as the device takes the order, at its second check-in."""
    told = triggered().seen(3, 2.5).seen(8, 2.5).woken(8).woken(23).seen(24, 23.5, NOBODY)
    assert told.state is not State.READY


def test_a_user_of_whom_graph_says_nothing_is_not_seen_to_be_there() -> None:
    """Removed early, unseen: that the user was there late is not known, so it proves nothing."""
    told = triggered().seen(3.5, 3, None, DONE).seen(9, 3, None, DONE)
    assert told.seen(300, 299, NOBODY, DONE).state is not State.READY


def test_an_action_in_a_state_that_nobody_knows_is_not_an_open_one() -> None:
    told = triggered(user=NOBODY).seen(3.5, 3, NOBODY, ACTIVE).seen(9, 3, NOBODY, ActionState.UNKNOWN)
    assert told.seen(300, 299, NOBODY, DONE).state is not State.READY


def test_an_action_dated_before_the_order_does_not_make_its_pick_up_the_return() -> None:
    misdated = action(DONE, updated=-60)
    told = triggered().seen(3.5, 3, USER, misdated).seen(4, 3, NOBODY, misdated)
    assert told.state is not State.READY


def test_a_check_in_shortly_before_an_order_whose_answer_was_lost_did_not_take_it() -> None:
    """Our order is looked for a little before it was sent, since clocks differ; its own start says when it began."""
    told = sending().seen(1, -4, USER, action(ACTIVE, started=0)).seen(7, -4, USER, action(ACTIVE, started=0))
    told.seen(12, 11.5, NOBODY, action(DONE, started=0))  # the first check-in since the order: it is taken now
    assert told.state is not State.READY


def test_a_check_in_dated_into_the_future_is_no_return() -> None:
    told = resetting().seen(9, 3, USER, ACTIVE).seen(10, 10 * DAY, NOBODY, DONE)
    assert told.state is not State.READY


def test_a_look_at_another_device_changes_nothing() -> None:
    told = resetting().seen(20, 3, USER, ACTIVE)
    before = told.reset
    assert told.happens(41, sighting(41, 40, NOBODY, DONE, device=OTHER_DEVICE)).reset == before


def test_a_record_that_passed_to_another_device_is_not_made_ready_by_what_does_not_say_whose_it_is() -> None:
    told = resetting().seen(20, 3, USER, ACTIVE)
    told.happens(30, sighting(30, 29, NEXT_USER, DONE, entra=OTHER_ENTRA))
    assert told.code is Code.IDENTITY_CHANGED
    assert told.happens(41, sighting(41, 40, NOBODY, DONE, entra=None)).state is State.ATTENTION


# --- proof: what lists show -----------------------------------------------------------------------------------------


def test_a_list_of_check_ins_takes_a_device_to_its_return_and_a_close_look_to_its_end() -> None:
    told = triggered().listed(3.5, 3, USER, "wipeIssued").listed(14, 3, USER, "wipeIssued").listed(40.5, 40)
    assert (told.state, told.effects) == (State.SETTLING, frozenset())
    assert told.listed(43.5, 43).state is State.SETTLING
    assert told.effects == {Effect.LOOK}
    assert told.seen(43.6, 43, NOBODY, DONE).state is State.READY


def test_s17_a_list_that_names_no_user_does_not_say_that_the_user_is_gone() -> None:
    told = resetting().seen(9, 3, USER, ACTIVE).listed(40.5, 40, None).listed(43.5, 43, None)
    assert not told.reset.proof.user_gone
    assert told.seen(43.6, 43, None, DONE).state is not State.READY


@pytest.mark.parametrize(("minute", "late"), [(8, False), (12.9, False), (13, True)])
def test_s17_what_a_list_shows_is_late_only_once_it_cannot_be_as_old_as_the_taking(minute: float, late: bool) -> None:
    told = triggered().listed(3.5, 3, USER, "wipeIssued").listed(minute, 3, USER, "wipeIssued")
    assert (told.reset.proof.issued_late, told.reset.proof.user_late) == (late, late)


def test_a_device_that_lists_show_as_wiped_is_left_to_them_before_it_is_looked_at() -> None:
    assert triggered().listed(3.5, 3).reset.next_step == at(8)
    told = triggered().listed(3.5, 3).listed(4.5, 3, None, "wipeIssued")
    assert told.reset.next_step == at(15.5)
    assert told.listed(13.5, 3, None, "wipeIssued").reset.next_step == at(48), "it is known now, and no look is needed"


def test_a_list_puts_off_no_look_at_a_silence_that_was_put_to_the_test() -> None:
    told = triggered(user=NOBODY).seen(3.5, 3, NOBODY, DONE).woken(8).sync_answered(8)
    due = told.reset.next_step
    assert told.listed(9, 3, None, "wipeIssued").reset.next_step == due


def test_a_silence_that_is_broken_is_looked_into() -> None:
    told = resetting().listed(12, 11)
    assert (told.state, told.effects) == (State.RESETTING, {Effect.LOOK})
    assert told.events[-1].kind is EventKind.NOT_SILENT
    assert told.seen(12, 11, USER, ActionState.FAILED).state is State.FAILED


def test_a_silence_broken_again_and_again_calls_a_person_at_a_look_alone() -> None:
    told = resetting().listed(5, 4).listed(6, 5).listed(7, 6)
    assert (told.state, told.effects) == (State.RESETTING, {Effect.LOOK})
    assert told.seen(7, 6, USER, PENDING).code is Code.NOT_PROVEN


def test_a_failure_that_a_list_shows_is_looked_into() -> None:
    told = triggered().listed(3.5, 3, None, "wipeFailed")
    assert (told.state, told.effects) == (State.RESETTING, {Effect.LOOK})


def test_a_check_in_too_soon_after_the_order_is_looked_into_and_one_before_it_is_no_news() -> None:
    assert triggered().listed(1, 0.5).effects == {Effect.LOOK}
    told = triggered()
    before = told.reset
    assert told.listed(1, -5).reset == before
    assert told.effects == frozenset()


def test_a_check_in_that_may_have_taken_the_order_is_looked_into_until_graph_has_had_time_to_show_it() -> None:
    told = triggered().listed(1, 0.5).seen(1, 0.5, USER, PENDING)
    assert told.listed(9, 0.5).effects == {Effect.LOOK}
    assert told.seen(11, 0.5, USER, PENDING).listed(12, 0.5).effects == frozenset()


@pytest.mark.parametrize("name", ["sending", "not checked in", "send unknown", "carried out by administrators"])
def test_where_a_person_is_called_or_an_answer_is_out_every_check_in_is_looked_at(name: str) -> None:
    told = STORIES[name]()
    before = told.reset
    minute = (told.now - NOON) / timedelta(minutes=1)
    told.listed(minute + 2, minute + 1)
    assert (told.reset, told.effects) == (before, {Effect.LOOK})


@pytest.mark.parametrize("name", ["cleared", "given up", "forbidden", "ready"])
def test_where_nothing_was_sent_a_list_is_no_news(name: str) -> None:
    told = STORIES[name]()
    before = told.reset
    assert told.listed(60, 59).reset == before
    assert told.effects == frozenset()


def test_a_check_in_that_was_looked_at_is_not_looked_at_again() -> None:
    told = settling().listed(44, 43).seen(44, 43, USER, ACTIVE)
    assert told.listed(45, 43).effects == frozenset()
    assert told.listed(47, 46).effects == {Effect.LOOK}


def test_s17_one_check_in_counts_once_whether_it_was_cut_or_rounded_or_kept_whole() -> None:
    a_second = 1 / 60
    told = resetting().seen(9, 3, USER, ACTIVE).listed(40.5, 40)
    for synced in (40 + a_second, 40 + a_second / 2, 40):
        told.listed(41, synced).seen(41, synced, NOBODY, DONE)
    assert told.state is State.SETTLING
    assert told.seen(43.5, 43, NOBODY, DONE).state is State.READY


def test_a_record_of_an_older_version_with_fractions_of_a_second_goes_on() -> None:
    told = resetting().seen(9, 3, USER, ACTIVE).seen(40.5, 40, USER, ACTIVE)
    odd = at(40) + timedelta(seconds=0.7)
    old = replace(told.reset.proof, last_sync=odd, returned_at=odd, looked_to=None)
    told.reset = moved(told.reset, proof=old)
    assert told.listed(41, 40).state is State.SETTLING, "it is the same check-in"
    assert told.seen(41, 40, NOBODY, DONE).reset.proof.done, "and what a look shows of it counts"
    assert told.state is State.SETTLING
    assert told.seen(43.5, 43, NOBODY, DONE).state is State.READY


# --- proof: the times at which the user may be removed ------------------------------------------------------------


def test_a_user_removed_at_the_order_proves_nothing_without_a_test() -> None:
    told = triggered().seen(0.5, -120, NOBODY, PENDING).seen(3.5, 3, NOBODY, DONE).seen(41, 40, NOBODY, DONE)
    assert told.state is State.SETTLING


def test_a_user_removed_at_the_order_counts_once_the_silence_was_tested() -> None:
    told = triggered().seen(0.5, -120, NOBODY, PENDING).seen(3.5, 3, NOBODY, DONE).woken(8.5)
    assert told.effects == {Effect.SYNC}
    assert told.sync_answered(8.6).back(41, 40, NOBODY, DONE).state is State.READY


def test_a_user_removed_at_pick_up_counts_once_the_silence_was_tested() -> None:
    told = triggered().seen(3.5, 3, NOBODY, DONE).woken(8.5)
    assert told.effects == {Effect.SYNC}
    assert told.sync_answered(8.6).back(41, 40, NOBODY, DONE).state is State.READY


def test_an_action_still_active_late_and_done_on_return_is_proof_without_a_test() -> None:
    told = triggered().seen(3.5, 3, NOBODY, ACTIVE).seen(9, 3, NOBODY, ACTIVE)
    assert told.back(41, 40, NOBODY, DONE).state is State.READY


def test_a_user_removed_at_the_end_is_proof() -> None:
    told = resetting().seen(20, 3, USER, ACTIVE)
    assert told.back(41, 40, NOBODY, DONE).state is State.READY


def test_a_user_removed_some_time_after_the_return_is_proof_when_it_shows() -> None:
    told = resetting().seen(20, 3, USER, ACTIVE).seen(41, 40, USER, DONE)
    assert told.state is State.SETTLING
    assert told.back(50, 44, NOBODY, DONE).state is State.READY


def test_a_user_who_is_shown_again_is_not_gone() -> None:
    told = resetting().seen(20, 3, NOBODY, DONE).seen(30, 3, USER, DONE).seen(41, 40, USER, DONE)
    assert told.state is State.SETTLING


def test_a_tenant_whose_action_results_stay_empty_still_gets_its_devices_proven() -> None:
    told = triggered().seen(3.5, 3, USER).woken(8.5)
    told.sync_answered(8.6).seen(20, 3, USER).back(41, 40, NOBODY)
    assert told.state is State.READY


def test_a_stale_read_changes_nothing() -> None:
    told = resetting().seen(20, 3, USER, ACTIVE)
    before = told.reset
    assert told.seen(21, -120, NOBODY, DONE).reset == before


def test_a_check_in_before_the_order_was_acknowledged_is_not_the_pick_up() -> None:
    assert triggered().seen(1, 0.5, USER).state is State.TRIGGERED


# --- what goes wrong at the device --------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [ActionState.FAILED, ActionState.CANCELED, ActionState.NOT_SUPPORTED])
def test_a_reset_that_failed_at_the_device_ends_failed_with_graphs_word(state: ActionState) -> None:
    told = triggered().seen(3.5, 3, USER, state)
    assert (told.state, told.code) == (State.FAILED, Code.RESET_FAILED_ON_DEVICE)
    assert told.reset.reason is not None
    assert state.value in told.reset.reason.sentence


@pytest.mark.parametrize("name", ["triggered", "resetting", "settling", "not checked in"])
def test_a_failure_ends_the_turnaround_wherever_it_is(name: str) -> None:
    told = STORIES[name]()
    minute = 4 * DAY
    assert told.seen(minute, minute - 1, USER, ActionState.FAILED).state is State.FAILED


def test_a_wipe_that_intune_calls_failed_ends_failed_without_any_action_shown() -> None:
    assert triggered().seen(3.5, 3, USER, management_state="wipeFailed").state is State.FAILED


@pytest.mark.parametrize("name", ["triggered", "resetting", "settling"])
def test_a_record_that_is_gone_is_an_alarm(name: str) -> None:
    told = STORIES[name]().happens(50, sighting(50, None, None, exists=False, entra=None))
    assert (told.state, told.code) == (State.ATTENTION, Code.RECORD_GONE)


@pytest.mark.parametrize("name", ["triggered", "resetting", "settling"])
def test_a_record_of_another_device_is_an_alarm(name: str) -> None:
    told = STORIES[name]().happens(50, sighting(50, 49, NEXT_USER, entra=OTHER_ENTRA))
    assert (told.state, told.code) == (State.ATTENTION, Code.IDENTITY_CHANGED)


def test_a_person_is_called_once_for_one_reason_and_again_for_another() -> None:
    gone = sighting(50, None, None, exists=False, entra=None)
    told = resetting().happens(50, gone).happens(51, gone)
    assert len(told.told) == 1
    told.happens(52, sighting(52, 51, NEXT_USER, entra=OTHER_ENTRA))
    assert [event.reason.code for event in told.told if event.reason] == [Code.RECORD_GONE, Code.IDENTITY_CHANGED]
    assert told.state is State.ATTENTION


def test_a_person_is_called_even_where_the_record_does_not_say_why_it_waits() -> None:
    waiting = moved(STORIES["not checked in"]().reset, reason=None)
    told = story(waiting).happens(4 * DAY, sighting(4 * DAY, None, None, exists=False, entra=None))
    assert told.code is Code.RECORD_GONE


def test_what_a_device_does_with_nothing_sent_is_not_our_doing() -> None:
    told = STORIES["forbidden"]()
    before = told.reset
    assert told.seen(30, 29, NOBODY, action(DONE, started=0)).reset == before


def test_a_device_seen_before_any_order_is_left_alone() -> None:
    told = cleared().woken(60)
    before = told.reset
    assert told.seen(61, 60.5, NOBODY, DONE).reset == before


# --- forced syncs -------------------------------------------------------------------------------------------------


def test_a_device_that_is_switched_off_is_told_to_sync_with_growing_gaps_then_a_person_is_told_what_to_do() -> None:
    told = triggered()
    times = []
    while told.state is State.TRIGGERED:
        assert told.reset.next_step is not None
        told.happens_at(told.reset.next_step, Woken())
        if Effect.SYNC in told.effects:
            times.append(told.now)
            told.happens_at(told.now, SyncAnswered(Answer(AnswerKind.ACCEPTED)))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert times[0] == at(5)
    assert len(times) == POLICY.sync_attempts
    assert all(later > earlier * 1.5 for earlier, later in pairwise(gaps))
    assert (told.state, told.code) == (State.ATTENTION, Code.NOT_CHECKED_IN)
    assert told.reset.reason is not None
    assert "ms-settings:workplace" in told.reset.reason.remedy


def test_a_sync_that_graph_did_not_take_is_kept_in_history_and_the_next_one_comes() -> None:
    told = triggered().woken(5).sync_answered(5.1, AnswerKind.THROTTLED)
    assert told.events[-1].kind is EventKind.SYNC_NOT_TAKEN
    assert told.reset.next_step is not None
    assert told.happens_at(told.reset.next_step, Woken()).effects == {Effect.SYNC}


def test_the_answer_to_a_sync_means_nothing_once_the_device_needs_a_person() -> None:
    told = STORIES["not checked in"]()
    before = told.reset
    assert told.sync_answered(4 * DAY, AnswerKind.THROTTLED).reset == before


def test_a_device_that_is_late_in_coming_back_is_helped_by_syncs_then_awaited_to_its_deadline() -> None:
    told = resetting()
    told.policy = POLICY.model_copy(update={"sync_attempts": 2})
    told.seen(8.5, 3, USER, ACTIVE).woken(8.5)
    syncs = []
    while told.reset.next_step is not None:
        told.happens_at(told.reset.next_step, Woken())
        syncs += [told.now] if Effect.SYNC in told.effects else []
    assert (told.state, len(syncs)) == (State.RESETTING, 2)
    assert syncs[0] == at(3 + 45), "not before a reset is usually over"
    told.happens_at(told.reset.deadline, Woken())
    assert (told.state, told.code) == (State.ATTENTION, Code.RESET_TOO_LONG)


def test_a_silence_tested_late_lasts_until_an_answer_to_the_test_would_have_come() -> None:
    """The sweep was down in the middle of the silence; a check-in soon after the test may be its answer."""
    tested = triggered().seen(3.5, 3, NOBODY, DONE).woken(17).sync_answered(17)
    answered = triggered().seen(3.5, 3, NOBODY, DONE).woken(17).sync_answered(17)
    answered.seen(20, 19, NOBODY, DONE)
    assert (answered.state, answered.reset.proof.restarts) == (State.RESETTING, 1)
    assert tested.back(33, 32, NOBODY, DONE).state is State.READY


def test_a_device_that_is_back_without_proof_is_told_to_sync_then_a_person_is_called() -> None:
    told = settling()
    while told.state is State.SETTLING:
        assert told.reset.next_step is not None
        told.happens_at(told.reset.next_step, Woken())
    assert (told.state, told.code) == (State.ATTENTION, Code.NOT_PROVEN)
    assert sum(event.kind is EventKind.SYNC_FORCED for event in told.events) == POLICY.sync_attempts


def test_the_deadline_of_settling_calls_a_person() -> None:
    told = settling()
    assert told.happens_at(told.reset.deadline, Woken()).code is Code.NOT_PROVEN


# --- late proof ---------------------------------------------------------------------------------------------------


def test_a_device_that_a_person_was_called_for_is_ready_when_late_proof_comes() -> None:
    told = STORIES["not checked in"]()
    start = 3 * DAY
    told.seen(start + 10, start + 9, USER, ACTIVE)
    assert (told.state, told.told[-1].to_state) == (State.RESETTING, State.RESETTING)
    told.seen(start + 20, start + 9, USER, ACTIVE).back(start + 50, start + 49, NOBODY, DONE)
    assert told.state is State.READY


def test_a_device_thought_lost_in_its_reset_is_ready_when_it_comes_back_proven() -> None:
    told = resetting().seen(20, 3, USER, ACTIVE).woken(200)
    assert told.code is Code.RESET_TOO_LONG
    assert told.back(300, 299, NOBODY, DONE).state is State.READY


def test_a_device_thought_lost_in_its_reset_settles_when_it_comes_back_unproven() -> None:
    told = resetting().seen(20, 3, USER, ACTIVE).woken(200)
    assert told.seen(300, 299, USER, DONE).state is State.SETTLING


def test_proof_that_comes_after_settling_was_given_up_makes_it_ready() -> None:
    told = resetting().seen(20, 3, USER, ACTIVE).back(41, 40, USER, DONE)
    told.happens_at(told.reset.deadline, Woken())
    assert told.code is Code.NOT_PROVEN
    told.seen(DAY, DAY - 1, NOBODY, DONE)
    assert told.path[-3:] == [State.ATTENTION, State.SETTLING, State.READY]


def test_a_user_who_goes_only_after_the_return_proves_it_once_the_device_checks_in_again_soon() -> None:
    """A device on battery may check in, leave the order alone and take it hours later, when its user goes."""
    told = resetting().seen(20, 3, USER).back(41, 40, USER, DONE).seen(47, 46, USER, DONE)
    told.seen(400, 395, NOBODY, DONE)
    assert told.state is not State.READY
    assert told.seen(402, 401, NOBODY, DONE).state is State.READY


def test_a_user_who_is_missed_first_at_the_check_in_that_confirms_the_return_may_have_gone_just_then() -> None:
    told = triggered().seen(9, 3, USER).listed(41, 40).listed(51, 50).seen(51, 50, NOBODY)
    assert told.state is State.SETTLING
    assert told.seen(54, 53, NOBODY).state is State.READY


def test_an_action_that_is_done_only_after_the_return_proves_it_once_the_device_checks_in_again_soon() -> None:
    """The user went with the order, the device was off when its silence was tested, and takes the order only now."""
    told = triggered().seen(3.5, 3, NOBODY, PENDING).woken(8.5).sync_answered(8.6)
    told.back(41, 40, NOBODY, PENDING).seen(51, 50, NOBODY, DONE)
    assert told.state is State.SETTLING
    assert told.seen(54, 53, NOBODY, DONE).state is State.READY


def test_a_device_that_takes_its_order_only_after_its_return_is_ready_after_the_next_one() -> None:
    told = triggered().seen(3.5, 3, NOBODY, PENDING).woken(8.5).sync_answered(8.6)
    told.back(41, 40, NOBODY, PENDING).seen(51, 50, NOBODY, DONE).woken(56).sync_answered(56)
    assert told.seen(86, 85, NOBODY, DONE).state is State.SETTLING
    assert told.seen(90, 89, NOBODY, DONE).state is State.READY


def test_a_device_that_nobody_looked_after_ends_failed() -> None:
    told = STORIES["not checked in"]().woken(3 * DAY + 14 * DAY)
    assert (told.state, told.code) == (State.FAILED, Code.NOBODY_ACTED)
    assert told.reset.reason is not None
    assert Code.NOT_CHECKED_IN in told.reset.reason.sentence


def test_a_device_that_nobody_looked_after_ends_failed_even_without_a_reason() -> None:
    told = story(moved(STORIES["not checked in"]().reset, reason=None)).woken(3 * DAY + 14 * DAY)
    assert told.code is Code.NOBODY_ACTED


# --- ready by -----------------------------------------------------------------------------------------------------


def test_a_device_that_is_late_is_told_once_and_goes_on() -> None:
    told = resetting(ready_by=at(30)).woken(30).woken(31)
    assert [event.kind for event in told.told] == [EventKind.LATE]
    assert told.state is State.RESETTING


@pytest.mark.parametrize("name", ["held", "cleared"])
def test_a_device_that_is_late_with_nothing_sent_needs_a_person(name: str) -> None:
    told = story(moved(STORIES[name]().reset, ready_by=at(30))).woken(30)
    assert (told.state, told.code) == (State.ATTENTION, Code.NOT_SENT_IN_TIME)
    assert [event.kind for event in told.told] == [EventKind.LATE, EventKind.MOVED]


def test_a_person_may_have_a_late_device_reset_all_the_same() -> None:
    """The notice says "Retry or cancel it", so a retry must lead somewhere."""
    told = cleared(ready_by=at(30)).woken(30).commanded(31, Command.RETRY).sending(32, FIRST, facts(read=32))
    assert told.state is State.SENDING


# --- commands -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["held", "cleared"])
def test_cancelling_before_anything_was_sent_is_exact(name: str) -> None:
    told = STORIES[name]().commanded(1, Command.CANCEL)
    assert (told.state, told.code) == (State.CANCELLED, Code.CANCELLED)
    assert told.events[-1].who == "helpdesk@school.example"


@pytest.mark.parametrize("name", ["sending", "triggered", "resetting", "settling"])
@pytest.mark.parametrize("command", list(Command))
def test_once_sent_nothing_is_taken_back_and_that_is_told(name: str, command: Command) -> None:
    told = STORIES[name]()
    before = told.state
    told.commanded(50, command)
    assert told.state is before
    assert told.events[-1].kind is EventKind.COMMAND_REFUSED
    assert told.events[-1].reason == Reason(Code.RESET_ALREADY_SENT)
    assert told.events[-1].told


@pytest.mark.parametrize(("name", "code"), [("forbidden", Code.CANCELLED), ("not checked in", Code.RESET_ALREADY_SENT)])
def test_closing_what_needs_a_person_says_whether_a_reset_was_sent(name: str, code: Code) -> None:
    told = STORIES[name]().commanded(4 * DAY, Command.CANCEL)
    assert (told.state, told.code) == (State.CANCELLED, code)


def test_what_was_provably_not_sent_can_be_retried() -> None:
    told = STORIES["forbidden"]().commanded(10, Command.RETRY)
    assert (told.state, told.effects) == (State.CLEARED, frozenset({Effect.DISPATCH}))
    assert told.sending(11, SECOND).accepted(11, SECOND).state is State.TRIGGERED


def test_a_retry_of_what_was_sent_asks_the_device_to_sync_again() -> None:
    told = STORIES["not checked in"]().commanded(4 * DAY, Command.RETRY)
    assert (told.state, told.reset.order) == (State.TRIGGERED, FIRST)
    assert told.woken(4 * DAY).effects == {Effect.SYNC}


def test_a_retry_of_an_unknown_order_is_refused() -> None:
    told = STORIES["send unknown"]().commanded(20, Command.RETRY)
    assert (told.state, told.events[-1].kind) == (State.ATTENTION, EventKind.COMMAND_REFUSED)


@pytest.mark.parametrize("name", ["received", "held", "cleared"])
def test_a_retry_of_what_only_waits_is_refused(name: str) -> None:
    told = STORIES[name]().commanded(1, Command.RETRY)
    assert (told.events[-1].kind, told.events[-1].reason) == (EventKind.COMMAND_REFUSED, None)


@pytest.mark.parametrize("name", ["ready", "refused", "cancelled", "failed"])
def test_a_command_for_what_has_ended_is_refused_and_told(name: str) -> None:
    told = STORIES[name]()
    before = told.state
    told.commanded(DAY, Command.CANCEL)
    assert told.state is before
    assert (told.events[-1].kind, told.events[-1].told) == (EventKind.COMMAND_REFUSED, True)


ANYTHING: list[Happening] = [
    Woken(),
    Judged(refusal=Reason(Code.PROTECTED)),
    Judged(hold=Reason(Code.HALTED)),
    Judged(),
    Sending(SECOND, facts()),
    Answered(FIRST, Answer(AnswerKind.ACCEPTED), NOON),
    Reconciled(sighting(6, -120), audited=True),
    SyncAnswered(Answer(AnswerKind.THROTTLED)),
    Released(Code.HALTED),
    Stopped("Wave 1 failed."),
    Declined("head@school.example", "no"),
    AdminDecided(APPROVAL_CODE, AdminDecision.APPROVED),
    sighting(41, 40, NOBODY, DONE),
]


@pytest.mark.parametrize("name", ["ready", "refused", "cancelled", "failed"])
@pytest.mark.parametrize("happening", ANYTHING, ids=lambda happening: type(happening).__name__)
def test_nothing_happens_to_what_has_ended_not_even_being_late(name: str, happening: Happening) -> None:
    ended = moved(STORIES[name]().reset, ready_by=NOON)
    told = story(ended).happens(60 * DAY, happening)
    assert (told.reset, told.events, told.effects) == (ended, [], frozenset())


# --- defects ------------------------------------------------------------------------------------------------------


def test_a_transition_that_the_table_lacks_is_a_defect_and_says_so() -> None:
    course = _Course(cleared().reset, NOON, POLICY, "test")
    with pytest.raises(IllegalTransitionError, match=r"cleared > ready for device"):
        course.move(State.READY)


def test_every_transition_of_the_table_can_happen() -> None:
    """A row that nothing takes is a promise that nothing keeps."""
    held_by_halt = STORIES["held"]
    admins = awaiting_admin_approval
    tellers: list[Callable[[], Story]] = [
        ready,
        lambda: story().judged(refusal=Reason(Code.PROTECTED)),
        lambda: story().woken(60),
        lambda: held_by_halt().judged(1, hold=Reason(Code.DAILY_LIMIT), until=at(60)),
        lambda: held_by_halt().happens(1, Released(Code.HALTED)).judged(2, hold=Reason(Code.HALTED)).woken(3 + DAY),
        lambda: held_by_halt().commanded(1, Command.CANCEL),
        lambda: UNSENT["held"]().woken(EXPIRES),
        lambda: cleared().judged(1, refusal=Reason(Code.PROTECTED)),
        lambda: cleared().commanded(1, Command.CANCEL),
        lambda: admins().admin_decided(1, AdminDecision.APPROVED),
        lambda: admins().admin_decided(1, AdminDecision.REJECTED),
        lambda: admins().admin_decided(1, AdminDecision.EXPIRED),
        lambda: admins().commanded(1, Command.CANCEL),
        lambda: cleared().woken(60).commanded(61, Command.RETRY),
        given_up,
        lambda: sending().answered(AnswerKind.REJECTED),
        lambda: sending().answered(AnswerKind.DAILY_LIMIT),
        lambda: STORIES["forbidden"]().commanded(1, Command.CANCEL),
        lambda: triggered().seen(3, 2.5, USER, management_state="wipeFailed"),
        lambda: resetting().seen(41, 40, USER, ActionState.FAILED),
        lambda: settling().seen(51, 50, USER, ActionState.FAILED),
        lambda: settling().woken(2 * DAY),
        lambda: resetting().woken(200).seen(300, 299, USER, ACTIVE),
        lambda: STORIES["not checked in"]().commanded(4 * DAY, Command.RETRY),
        lambda: STORIES["not checked in"]().seen(4 * DAY, 4 * DAY - 1, USER, ACTIVE),
        lambda: STORIES["not checked in"]().woken(20 * DAY),
    ]
    taken = {
        (event.from_state, event.to_state)
        for tell in tellers
        for event in tell().events
        if event.kind is EventKind.MOVED
    }
    assert TRANSITIONS - taken == set()


# --- rules that hold whatever happens -----------------------------------------------------------------------------

MINUTES = st.sampled_from([-30, -6, -5, -2, -1, 0, 0.5, 1, 2, 3, 5, 6, 8, 10, 14, 15, 16, 20, 30, 60, 200])
RULES = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def instants(draw: st.DrawFn, reset: Reset, now: datetime) -> datetime:
    """A time near one that matters."""
    matters = [now, NOON, reset.sent_at, reset.proof.taken_at, reset.proof.last_sync, reset.graph_latest]
    base = draw(st.sampled_from([instant for instant in matters if instant is not None]))
    return base + timedelta(minutes=draw(MINUTES))


@st.composite
def sightings(draw: st.DrawFn, reset: Reset, now: datetime) -> Sighting:
    """Anything that Graph might show, right or wrong, of this device or of another."""

    def action_results() -> ActionResult:
        return ActionResult(
            draw(st.sampled_from([*sorted(RESET_ACTIONS), "automaticRedeployment", "FactoryReset", "scan", "", None])),
            draw(st.sampled_from(ActionState)),
            draw(st.none() | instants(reset, now)),
            draw(st.none() | instants(reset, now)),
        )

    shown = draw(st.integers(-1, 2))
    found = Sighting(
        device=draw(st.sampled_from([DEVICE] * 9 + [OTHER_DEVICE])),
        seen_at=draw(st.just(now) | instants(reset, now)),
        exists=draw(st.sampled_from([True] * 9 + [False])),
        last_sync=draw(st.none() | instants(reset, now)),
        management_state=draw(
            st.sampled_from(["managed"] * 4 + ["wipePending", "wipeIssued", "WIPEFAILED", "wipeCanceled", "new", None])
        ),
        primary_user=draw(st.sampled_from([USER, NOBODY, NEXT_USER, None])),
        actions=None if shown < 0 else tuple(action_results() for _ in range(shown)),
        entra_device_id=draw(st.sampled_from([ENTRA] * 8 + [None, OTHER_ENTRA])),
        enrolled_at=draw(st.none() | instants(reset, now)),
    )
    return as_listed(found) if draw(st.integers(0, 2)) == 0 else found


def as_listed(look: Sighting) -> Sighting:
    """The same, where a list shows it."""
    return replace(look, exists=True, actions=None, entra_device_id=None, enrolled_at=None, listed=True)


REASONS = st.builds(Reason, st.sampled_from(Code), st.sampled_from(["", "a detail"]))
HOLDS = st.builds(Reason, st.sampled_from([*WAITS, Code.WAVE_FAILED]), st.just("a detail"))
CODES = [APPROVAL_CODE, OTHER_CODE]
ANSWERS = st.builds(
    Answer,
    st.sampled_from([*AnswerKind, AnswerKind.APPROVAL_REQUIRED]),
    st.just("Graph's words"),
    st.none() | st.integers(0, 3600).map(lambda seconds: timedelta(seconds=seconds)),
    st.sampled_from([None, "", *CODES]),
)
HAPPENINGS = (
    *(Woken, Judged, Sending, Sending, Answered, Answered, Reconciled, SyncAnswered, Commanded),
    *(Released, Stopped, Declined, AdminDecided, AdminDecided, Sighting, Sighting),
)
BEFORE_THE_ORDER = (Woken, Judged, Sending, Sending, Sending, Answered, Commanded, Released, AdminDecided, AdminDecided)
NOT_YET_SENT = [name for name, tell in STORIES.items() if tell().state in NOTHING_SENT]
NOT_YET_SENT += ["stopped wave", "forbidden", "carried out by administrators", "sending"]


@st.composite
def happenings(
    draw: st.DrawFn, reset: Reset, now: datetime, number: int, kinds: Sequence[type[Happening]] = HAPPENINGS
) -> Happening:
    """Anything that can happen to a device."""
    kind = draw(st.sampled_from(kinds))
    if kind is Judged:
        hold = draw(st.none() | HOLDS | REASONS)
        return Judged(draw(st.none() | st.none() | REASONS), hold, draw(st.none() | instants(reset, now)))
    if kind is Sending:
        again = facts(managed(last_sync=draw(st.none() | instants(reset, now))))
        return Sending(OrderId(f"order-{number}"), draw(st.sampled_from([None, again])))
    if kind is Answered:
        order = draw(st.sampled_from([reset.order or FIRST, FIRST, SECOND]))
        answer = replace(draw(ANSWERS), server_time=draw(st.none() | instants(reset, now)))
        return Answered(order, answer, draw(instants(reset, now)))
    if kind is Reconciled:
        return Reconciled(draw(st.none() | sightings(reset, now)), draw(st.sampled_from([None, False, True])))
    if kind is SyncAnswered:
        return SyncAnswered(draw(ANSWERS))
    if kind is Commanded:
        return Commanded(draw(st.sampled_from(Command)), "somebody", "because")
    if kind is Released:
        return Released(draw(st.sampled_from([reset.reason.code if reset.reason else Code.HALTED, *WAITS])))
    if kind is Stopped:
        return Stopped("Wave 1 failed.")
    if kind is Declined:
        return Declined("somebody else", "because")
    if kind is AdminDecided:
        code = draw(st.sampled_from([reset.approval_code, reset.approval_code, *CODES]))
        return AdminDecided(code, draw(st.sampled_from([*AdminDecision, AdminDecision.APPROVED])))
    return draw(sightings(reset, now)) if kind is Sighting else Woken()


@st.composite
def journeys(
    draw: st.DrawFn, names: Sequence[str] = sorted(STORIES), kinds: Sequence[type[Happening]] = HAPPENINGS
) -> Story:
    """A turnaround in any state, to which anything happens in any order, at times that may go backwards."""
    told = STORIES[draw(st.sampled_from(names))]()
    if draw(st.booleans()):
        told.reset = moved(told.reset, ready_by=draw(instants(told.reset, told.now)))
    if draw(st.sampled_from([True, True, False])):
        told.reset = moved(told.reset, expires_at=draw(instants(told.reset, told.now)))
    told.changed_at = len(told.log)
    for number in range(draw(st.integers(1, 8))):
        due = [told.reset.deadline] if told.reset.deadline != FOREVER else []
        due += [due_at for due_at in (told.reset.next_step, told.reset.expires_at) if due_at is not None]
        soon = told.now + timedelta(minutes=draw(MINUTES))
        now = draw(st.sampled_from([soon, soon, *due]))
        told.happens_at(now, draw(happenings(told.reset, now, number + 3, kinds)))
    return told


UNSENT_JOURNEYS = journeys(NOT_YET_SENT, BEFORE_THE_ORDER)
"""Of devices to which nothing was sent, or only what Graph refused: what is about to be sent, or is not."""


@RULES
@given(journeys())
def test_nothing_leaves_a_terminal_state(told: Story) -> None:
    for taken in told.log:
        if taken.before.state in TERMINAL:
            assert taken.after == moved(taken.before, seq=taken.after.seq, noted_at=taken.after.noted_at)
            assert not taken.decision.effects


@RULES
@given(journeys())
def test_history_never_goes_back_in_time_whatever_the_clocks_say(told: Story) -> None:
    """Else whoever reads it in order of time, as the table has it, reads it in another order than it happened."""
    times = [event.at for event in told.events]
    assert times == sorted(times)
    assert [event.seq for event in told.events] == list(range(len(told.events)))
    assert all(event.lasted is None or event.lasted >= timedelta() for event in told.events)


@RULES
@given(journeys())
def test_every_move_is_in_the_table(told: Story) -> None:
    for taken in told.log:
        state = taken.before.state
        for event in taken.decision.events:
            assert event.from_state is not None
            assert event.to_state is not None
            if event.kind is EventKind.MOVED and (event.from_state, event.to_state) != (state, state):
                assert (event.from_state, event.to_state) in TRANSITIONS
                assert event.from_state is state, "history has no gap"
                state = event.to_state
        assert state is taken.after.state, "no state is entered without an entry in history"


@RULES
@given(journeys())
def test_every_state_in_flight_has_a_deadline_and_a_wake_up_no_later(told: Story) -> None:
    for taken in told.log:
        if taken.after.state in IN_FLIGHT:
            assert taken.after.deadline < FOREVER
            assert wake(taken.after).at <= taken.after.deadline
            if taken.after.state in NOTHING_SENT and taken.after.expires_at is not None:
                assert wake(taken.after).at <= taken.after.expires_at


@RULES
@given(journeys(), st.timedeltas(timedelta(0), timedelta(days=30)))
def test_once_the_deadline_passes_a_person_is_called_and_at_last_it_fails(told: Story, later: timedelta) -> None:
    """But what was never sent, and is too old or was not approved, is refused: nobody has to do anything."""
    reset = told.reset
    if reset.state not in IN_FLIGHT:
        return
    now = reset.deadline + later
    after = step(reset, Woken(), now, POLICY, "sweep").reset
    too_old = reset.state in NOTHING_SENT and reset.expires_at is not None and reset.expires_at <= now
    unapproved = reset.state is State.HELD and told.code is Code.APPROVAL_NEEDED
    if reset.state is State.ATTENTION:
        assert after.state is State.FAILED
    elif (too_old or unapproved) and not reset.doubtful:
        assert after.state is State.REFUSED
    else:
        assert after.state is State.ATTENTION


@RULES
@given(UNSENT_JOURNEYS)
def test_s14_a_request_that_is_too_old_is_never_sent_whatever_happens(told: Story) -> None:
    for taken in told.log:
        if taken.after.attempt > taken.before.attempt and taken.before.expires_at is not None:
            assert taken.now < taken.before.expires_at


@RULES
@given(journeys() | UNSENT_JOURNEYS)
def test_what_may_have_been_sent_never_ends_as_if_it_was_not(told: Story) -> None:
    for taken in told.log:
        if taken.before.doubtful and taken.before.state in IN_FLIGHT and taken.after.state in TERMINAL:
            assert taken.after.state is not State.REFUSED
            assert taken.after.reason is None or taken.after.reason.code is not Code.CANCELLED
        if taken.after.state is State.REFUSED:
            assert taken.after.order is None


@RULES
@given(UNSENT_JOURNEYS)
def test_s9_what_waits_for_administrators_goes_on_only_when_they_agreed_to_this_very_order(told: Story) -> None:
    agreed: set[str] = set()
    for taken in told.log:
        before, after = taken.before, taken.after
        match before.state, taken.happening:
            case State.AWAITING_ADMIN_APPROVAL, AdminDecided(before.approval_code, AdminDecision.APPROVED):
                agreed.add(before.approval_code)
            case State.AWAITING_ADMIN_APPROVAL, _:
                ends = {State.REFUSED, State.CANCELLED, State.ATTENTION}
                assert after.state in {before.state, *ends}
            case _ if after.state is State.AWAITING_ADMIN_APPROVAL:
                agreed.discard(after.approval_code)  # asked for anew
        if after.attempt > before.attempt:
            assert after.approval_code in {"", *agreed}


@RULES
@given(journeys())
def test_every_end_and_every_call_for_a_person_is_told(told: Story) -> None:
    for taken in told.log:
        if taken.after.state is not taken.before.state and taken.after.state in TERMINAL | {State.ATTENTION}:
            assert [event for event in taken.decision.events if event.told and event.to_state is taken.after.state]
        if taken.after.reason != taken.before.reason and taken.after.state is State.ATTENTION:
            assert [event for event in taken.decision.events if event.told and event.reason == taken.after.reason]


@RULES
@given(journeys())
def test_history_is_numbered_without_gap_or_repeat(told: Story) -> None:
    numbers = [event.seq for event in told.events]
    assert numbers == list(range(len(numbers)))
    assert told.reset.seq == len(numbers)


@RULES
@given(journeys())
def test_the_same_again_decides_the_same(told: Story) -> None:
    for taken in told.log:
        assert step(taken.before, taken.happening, taken.now, POLICY, "test").reset == taken.after
    again = Story(told.log[0].before)
    for number, taken in enumerate(told.log):
        again.reset = taken.before if number == told.changed_at else again.reset
        again.happens_at(taken.now, taken.happening, "test")
    assert again.reset == told.reset


@RULES
@given(journeys())
def test_a_device_is_told_to_sync_only_once_the_order_is_out(told: Story) -> None:
    for taken in told.log:
        if Effect.SYNC in taken.decision.effects:
            assert taken.before.state in DEVICE_MAY_BE_TOLD
        if Effect.DISPATCH in taken.decision.effects:
            assert taken.after.state in NOTHING_SENT


# --- never twice, whatever happens --------------------------------------------------------------------------------


def concluded_not_sent(taken: Step, sent: Step) -> bool:
    """What allows a second order after a lost answer: Graph had time, told everything, and shows no trace of it."""
    if not isinstance(taken.happening, Reconciled) or taken.happening.sighting is None:
        return False
    look, before = taken.happening.sighting, sent.after.before
    return (
        taken.happening.audited is False
        and look.exists
        and look.device == DEVICE
        and look.seen_at >= sent.now + POLICY.reconcile_after
        and look.management_state is not None
        and "wipe" not in look.management_state.lower().removesuffix("failed").removesuffix("canceled")
        and look.actions is not None
        and look.last_sync is not None
        and before.last_sync is not None
        and look.last_sync <= before.last_sync + timedelta(seconds=1)
    )


@settings(RULES, max_examples=300)
@given(journeys() | UNSENT_JOURNEYS)
def test_s13_no_second_order_without_the_first_provably_not_carried_out(told: Story) -> None:
    sent: Step | None = None
    settled = True
    for taken in told.log:
        if taken.after.attempt > taken.before.attempt:
            assert taken.before.state is State.CLEARED
            assert settled
            sent, settled = taken, False
        elif sent is not None and isinstance(taken.happening, Answered):
            ours = taken.happening.order == sent.after.order
            if ours and taken.happening.answer.kind is AnswerKind.ACCEPTED:
                settled = False
            elif ours and taken.before.state is State.SENDING:
                settled = settled or taken.happening.answer.kind in NEVER_CARRIED_OUT
        elif isinstance(taken.happening, AdminDecided) and taken.before.state is State.AWAITING_ADMIN_APPROVAL:
            carried_out = taken.happening.decision is AdminDecision.COMPLETED
            settled = settled and not (carried_out and taken.happening.code == taken.before.approval_code)
        elif sent is not None and taken.before.state is State.SENDING:
            settled = settled or concluded_not_sent(taken, sent)


# --- ready means proven, whatever happens -------------------------------------------------------------------------


@st.composite
def plausible_sightings(draw: st.DrawFn, now: datetime) -> Sighting:
    """What Graph might well show of a device that was told to reset itself at noon."""
    check_ins = [None, -120, -2, 0.5, 2.5, 3, 9, 25, 60]
    states = (ActionState.NONE, PENDING, ACTIVE, DONE, DONE, ActionState.UNKNOWN)
    results = [action(state, updated=updated) for state in states for updated in (None, -60, 3)]
    found = Sighting(
        device=DEVICE,
        seen_at=now,
        exists=True,
        last_sync=draw(st.sampled_from([None if minute is None else at(minute) for minute in check_ins])),
        management_state="managed",
        primary_user=draw(st.sampled_from([USER, NOBODY, None])),
        actions=draw(st.sampled_from([(), *[(result,) for result in results]])),
        entra_device_id=ENTRA,
    )
    return as_listed(found) if draw(st.booleans()) else found


@st.composite
def watched_journeys(draw: st.DrawFn) -> Story:
    """A turnaround that is being watched, and what Graph might show of it."""
    names = ["triggered", "resetting", "resetting, no user", "sending", "settling", "not checked in", "sending again"]
    names += ["awaiting admin approval", "carried out by administrators"]
    told = STORIES[draw(st.sampled_from(names))]()
    for _ in range(draw(st.integers(1, 5))):
        now = told.now + timedelta(minutes=draw(st.sampled_from([0.1, 1, 5, 10, 20, 60])))
        match draw(st.sampled_from("pppa!?")):
            case "p":
                happening: Happening = draw(plausible_sightings(now))
            case "a":
                happening = draw(sightings(told.reset, now))
            case "!":
                happening = SyncAnswered(Answer(AnswerKind.ACCEPTED))
            case _:
                now, happening = max(told.now, told.reset.next_step or now), Woken()
        told.happens_at(now, happening)
    return told


def is_proven(told: Story) -> bool:
    """What "ready" must mean, from what happened alone and not from what the domain made of it."""
    orders = [taken.now for taken in told.log if taken.after.attempt > taken.before.attempt]
    if not orders:
        return False
    floor = min(orders) - POLICY.clock_tolerance
    old_user = told.reset.before.primary_user
    looks = [
        (number, look)
        for number, taken in enumerate(told.log)
        if (look := taken.look) is not None and look.device == DEVICE and look.exists
    ]

    def ours(look: Sighting) -> list[ActionResult]:
        return [
            result
            for result in look.actions or ()
            if (result.name or "").lower() in RESET_ACTIONS and result.started_at and result.started_at >= floor
        ]

    def is_done(look: Sighting) -> bool:
        if look.listed:
            return False
        if old_user:
            return look.primary_user is not None and look.primary_user != old_user
        return any(result.state is DONE for result in ours(look))

    seen_check_ins = sorted({look.last_sync for _, look in looks if look.last_sync and look.last_sync >= floor})
    said_done = {r.updated_at for _, look in looks for r in ours(look) if r.state is DONE and r.updated_at}
    taken_by = [time for time in [*seen_check_ins, *said_done] if time >= floor]
    returned = [
        look.last_sync
        for _, look in looks
        if look.last_sync
        and look.last_sync <= look.seen_at + POLICY.clock_tolerance
        and any(look.last_sync >= time + POLICY.min_reset_duration for time in taken_by)
    ]
    done = [number for number, look in looks if is_done(look)]
    if not returned or not done or not taken_by:
        return False

    late = [
        number
        for number, look in looks
        if look.seen_at >= min(taken_by) + (POLICY.lists_lag if look.listed else POLICY.reconcile_after)
        and (
            (old_user and look.primary_user == old_user)
            or any(result.state in (PENDING, ACTIVE) for result in ours(look))
        )
    ]
    done_says = [number for number, look in looks if is_done(look) or any(r.state is DONE for r in ours(look))]
    return bool(late and max(done_says) > min(late)) or silence_was_tested(told)


def silence_was_tested(told: Story) -> bool:
    """A sync was forced while the device should be silent, Graph took it, and no check-in came in between."""
    newest: datetime | None = None
    forced = False
    for taken in told.log:
        look = taken.look
        if look is not None and look.last_sync is not None and (newest is None or look.last_sync > newest):
            newest, forced = look.last_sync, False
        if Effect.SYNC in taken.decision.effects:
            forced = taken.after.state is State.RESETTING
        if isinstance(taken.happening, SyncAnswered) and forced and taken.after.state is State.RESETTING:
            return taken.happening.answer.kind is AnswerKind.ACCEPTED
    return False


def test_what_ready_must_mean_holds_of_a_device_that_is_ready() -> None:
    assert is_proven(ready())
    assert not is_proven(settling())


@settings(RULES, max_examples=600)
@given(watched_journeys())
def test_s17_no_device_is_ready_without_proof(told: Story) -> None:
    if told.state is State.READY and told.log[0].before.state is not State.READY:
        assert is_proven(told)


# --- lists, whatever they show -------------------------------------------------------------------------------------


@settings(RULES, max_examples=400)
@given(journeys() | watched_journeys())
def test_s17_a_list_takes_no_device_to_its_end_nor_out_of_a_doubt_or_a_persons_hands(told: Story) -> None:
    for taken in told.log:
        if not isinstance(taken.happening, Sighting) or not taken.happening.listed:
            continue
        before, after = taken.before, taken.after
        assert after.state in {before.state, State.RESETTING, State.SETTLING}
        assert before.state in DEVICE_MAY_BE_TOLD or after == before
        for sign in ("done", "user_gone", "state_back", "shown"):
            assert not getattr(after.proof, sign) or getattr(before.proof, sign), "only a look says that it is over"


@settings(RULES, max_examples=400)
@given(watched_journeys(), st.data())
def test_where_a_list_asks_for_no_look_none_could_have_made_the_device_ready(told: Story, data: st.DataObject) -> None:
    seen = told.log[-1].happening
    if not isinstance(seen, Sighting) or not seen.listed or Effect.LOOK in told.effects:
        return
    proof = told.reset.proof
    if proof.looked_to is not None and proof.last_sync is not None and proof.looked_to >= proof.last_sync:
        return  # it was looked at
    look = data.draw(sightings(told.reset, told.now).filter(lambda look: not look.listed))
    after = step(told.reset, replace(look, last_sync=proof.last_sync), told.now, POLICY, "test").reset
    assert after.state is not State.READY
