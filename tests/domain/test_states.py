"""The states and the table of what may follow what."""

from shared.domain.states import (
    DEVICE_MAY_BE_TOLD,
    IN_FLIGHT,
    NEEDS_A_PERSON,
    NOTHING_SENT,
    TERMINAL,
    TRANSITIONS,
    WATCHED,
    State,
)


def successors(state: State) -> set[State]:
    return {after for before, after in TRANSITIONS if before is state}


def reachable_from(state: State, without: State | None = None) -> set[State]:
    found: set[State] = set()
    todo = [state]
    while todo:
        new = successors(todo.pop()) - found - {without}
        found |= new
        todo += new
    return found


def test_nothing_follows_an_end() -> None:
    assert not any(successors(state) for state in TERMINAL)


def test_every_state_can_be_reached_and_every_state_in_flight_can_end() -> None:
    assert reachable_from(State.RECEIVED) == set(State) - {State.RECEIVED}
    assert all(reachable_from(state) & TERMINAL for state in IN_FLIGHT)


def test_every_state_in_flight_can_call_a_person() -> None:
    assert all(State.ATTENTION in successors(state) for state in IN_FLIGHT - {State.ATTENTION})


def test_ready_follows_settling_alone() -> None:
    assert {before for before, after in TRANSITIONS if after is State.READY} == {State.SETTLING}


def test_an_order_is_sent_from_cleared_alone() -> None:
    assert {before for before, after in TRANSITIONS if after is State.SENDING} == {State.CLEARED}


def test_an_order_that_administrators_stopped_goes_on_only_by_another_turn_or_a_person() -> None:
    assert successors(State.AWAITING_ADMIN_APPROVAL) & IN_FLIGHT == {State.CLEARED, State.ATTENTION}
    assert {before for before, after in TRANSITIONS if after is State.AWAITING_ADMIN_APPROVAL} == {State.SENDING}


def test_only_what_was_not_sent_can_be_refused() -> None:
    assert {before for before, after in TRANSITIONS if after is State.REFUSED} == NOTHING_SENT


def test_nothing_is_ready_that_was_never_sent() -> None:
    sent_by_us = reachable_from(State.RECEIVED, without=State.SENDING) - {State.ATTENTION}
    only_through_a_person = reachable_from(State.ATTENTION, without=State.SENDING)
    assert State.READY not in sent_by_us - only_through_a_person


def test_the_named_sets_fit_together() -> None:
    assert set(State) == IN_FLIGHT | TERMINAL
    assert not NOTHING_SENT & WATCHED
    assert IN_FLIGHT == NOTHING_SENT | WATCHED
    assert DEVICE_MAY_BE_TOLD < WATCHED
    assert WATCHED - DEVICE_MAY_BE_TOLD - {State.SENDING} == NEEDS_A_PERSON
