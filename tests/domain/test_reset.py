"""The record of one turnaround and the entries of its history."""

import dataclasses

import pytest

from shared.domain.reset import Event, EventKind, Proof, changed
from shared.domain.states import State
from shared.state import rows
from tests.domain.builders import NOON, ready, received


def test_a_new_turnaround_has_no_order_and_no_proof() -> None:
    reset = received()
    assert (reset.order, reset.attempt, reset.doubtful, reset.proof) == (None, 0, False, Proof())


def test_the_record_changes_only_by_being_replaced() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        received().state = State.READY  # type: ignore[misc]  # that it cannot be set is what is tested


def test_a_changed_copy_is_what_dataclasses_replace_gives_and_leaves_the_record_as_it_was() -> None:
    reset = received()
    copy = changed(reset, state=State.CLEARED, proof=changed(reset.proof, done=True))
    assert copy == dataclasses.replace(reset, state=State.CLEARED, proof=Proof(done=True))
    assert hash(copy.proof) == hash(Proof(done=True))
    assert rows.doc(copy) == rows.doc(dataclasses.replace(reset, state=State.CLEARED, proof=Proof(done=True)))
    assert reset == received()


def test_a_record_has_no_field_that_its_class_does_not_name() -> None:
    with pytest.raises(TypeError, match="Proof: sate"):
        changed(Proof(), sate=State.READY)


def test_nobody_is_told_of_an_event_that_was_not_marked_so() -> None:
    assert not Event(kind=EventKind.HALTED, at=NOON, who="ops").told


def test_a_decision_leaves_the_record_that_it_started_from_as_it_was() -> None:
    told = ready()
    assert [taken.before.state for taken in told.log][:3] == [State.RECEIVED, State.CLEARED, State.SENDING]
