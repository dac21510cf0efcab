"""The record of one turnaround and the entries of its history."""

import dataclasses

import pytest

from shared.domain.reset import Event, EventKind, Proof
from shared.domain.states import State
from tests.domain.builders import NOON, ready, received


def test_a_new_turnaround_has_no_order_and_no_proof() -> None:
    reset = received()
    assert (reset.order, reset.attempt, reset.doubtful, reset.proof) == (None, 0, False, Proof())


def test_the_record_changes_only_by_being_replaced() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        received().state = State.READY  # type: ignore[misc]  # that it cannot be set is what is tested


def test_nobody_is_told_of_an_event_that_was_not_marked_so() -> None:
    assert not Event(kind=EventKind.HALTED, at=NOON, who="ops").told


def test_a_decision_leaves_the_record_that_it_started_from_as_it_was() -> None:
    told = ready()
    assert [taken.before.state for taken in told.log][:3] == [State.RECEIVED, State.CLEARED, State.SENDING]
