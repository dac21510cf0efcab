"""What the things that Graph shows prove, piece by piece. How they add up is told in the lifecycle's tests."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shared.domain import evidence
from shared.domain.devices import ActionResult, ActionState, Sighting
from shared.domain.evidence import (
    RESET_ACTIONS,
    complete,
    describe,
    done,
    failure,
    had_user,
    our_action,
    proves_order,
    weigh,
)
from shared.domain.reset import Proof, Reset
from tests.domain.builders import (
    ACTIVE,
    DONE,
    NEXT_USER,
    NOBODY,
    PENDING,
    POLICY,
    USER,
    action,
    at,
    moved,
    received,
    resetting,
    sending,
    settling,
    sighting,
    triggered,
)


def shown(*actions: ActionResult, management_state: str | None = "managed", synced: float | None = 3) -> Sighting:
    return sighting(10, synced, USER, *actions, management_state=management_state)


# --- which action is ours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*sorted(RESET_ACTIONS), "FactoryReset", "AUTOMATICREDEPLOYMENT"])
def test_a_reset_action_since_our_order_is_ours_under_each_of_its_names(name: str) -> None:
    assert our_action(triggered().reset, shown(action(PENDING, name=name))) is not None


@pytest.mark.parametrize(
    "other",
    [
        action(DONE, name="quickScan"),
        action(DONE, name="syncDevice"),
        action(DONE, name=None),
        action(DONE, name=""),
        action(DONE, started=-1),
        action(DONE, started=-60 * 24 * 365),
        action(DONE, started=None),
    ],
    ids=["a scan", "a sync", "no name", "an empty name", "just before", "a year ago", "no date"],
)
def test_no_other_action_is_ours(other: ActionResult) -> None:
    assert our_action(triggered().reset, shown(other)) is None
    assert not proves_order(triggered().reset, shown(other))


def test_of_several_the_newest_is_ours() -> None:
    newest = action(ACTIVE, started=2)
    assert our_action(triggered().reset, shown(action(DONE, started=1), newest, action(DONE, started=0))) is newest


def test_nothing_is_ours_before_an_order_or_where_no_actions_are_shown() -> None:
    assert our_action(received(), shown(action(DONE))) is None
    assert our_action(triggered().reset, replace(shown(), actions=None)) is None


# --- order and failure --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["wipePending", "wipeIssued", "WIPEPENDING"])
def test_a_management_state_that_moved_since_proves_the_order(state: str) -> None:
    assert proves_order(sending().reset, shown(management_state=state))


@pytest.mark.parametrize("state", ["managed", "wipeFailed", "retirePending", None])
def test_another_management_state_does_not(state: str | None) -> None:
    assert not proves_order(sending().reset, shown(management_state=state))


def test_a_management_state_that_was_there_before_proves_nothing() -> None:
    reset = sending().reset
    reset = moved(reset, before=replace(reset.before, management_state="wipePending"))
    assert not proves_order(reset, shown(management_state="wipePending"))


def test_either_the_action_or_the_management_state_says_that_it_failed() -> None:
    reset = triggered().reset
    assert failure(reset, shown(management_state="wipeCanceled")) == "wipeCanceled"
    assert failure(reset, shown(action(DONE), management_state="wipeFailed")) == "wipeFailed"
    assert failure(reset, shown(action(ActionState.FAILED))) == "failed"
    assert failure(reset, shown()) is None


def test_a_failure_from_before_the_order_is_not_ours() -> None:
    assert failure(triggered().reset, shown(action(ActionState.FAILED, started=-60))) is None


# --- when it was taken --------------------------------------------------------------------------------------------


def taken(reset: Reset, seen: Sighting) -> float | None:
    """The minute by which the device had taken the order."""
    time = weigh(reset, seen, POLICY).taken_at
    return None if time is None else (time - at(0)) / timedelta(minutes=1)


def test_a_check_in_after_the_order_was_acknowledged_takes_it() -> None:
    assert taken(triggered().reset, shown(synced=3)) == 3
    assert taken(triggered().reset, shown(synced=1)) is None, "its session may have begun before the order"
    assert taken(triggered().reset, shown(synced=None)) is None


@pytest.mark.parametrize("state", [ACTIVE, DONE])
def test_a_check_in_that_shows_the_action_under_way_takes_it_even_at_once(state: ActionState) -> None:
    assert taken(triggered().reset, shown(action(state), synced=0.5)) == 0.5
    assert taken(triggered().reset, shown(action(state), synced=-120)) is None, "no check-in since the order"


def test_an_action_that_began_in_the_second_of_a_check_in_that_was_cut_was_taken_at_it() -> None:
    assert taken(triggered().reset, shown(action(ACTIVE, started=0.5 + 0.4 / 60), synced=0.5)) == 0.5
    assert taken(triggered().reset, shown(action(ACTIVE, started=0.5 + 1.4 / 60), synced=0.5)) is None


def test_a_wipe_that_was_issued_was_taken() -> None:
    assert taken(triggered().reset, shown(management_state="wipeIssued", synced=0.5)) == 0.5
    assert taken(triggered().reset, shown(management_state="wipePending", synced=0.5)) is None


def test_the_earliest_bound_counts() -> None:
    assert taken(triggered().reset, shown(action(DONE, updated=2), synced=2.5)) == 2.5, "and then it checked in again"
    proof = weigh(triggered().reset, sighting(41, 40, USER, action(DONE, updated=2)), POLICY)
    assert (proof.taken_at, proof.returned_at) == (at(2), at(40))


# --- silence and return -------------------------------------------------------------------------------------------


def test_s17_a_check_in_in_the_silence_starts_the_clock_anew_and_forgets_what_was_shown() -> None:
    before = resetting().seen(9, 3, USER, ACTIVE).reset
    proof = weigh(before, sighting(12, 11, USER, ACTIVE), POLICY)
    assert before.proof.user_late
    assert (proof.taken_at, proof.restarts, proof.user_late, proof.open_late) == (at(11), 1, False, False)


def test_s17_a_record_without_a_check_in_is_empty_and_proves_nothing() -> None:
    before = resetting().seen(9, 3, USER, ACTIVE).reset
    assert weigh(before, sighting(41, None, NOBODY, DONE), POLICY) == before.proof


@pytest.mark.parametrize(("synced", "back"), [(17.9, False), (18, True), (40, True)])
def test_s17_a_return_is_a_check_in_once_a_reset_can_be_over(synced: float, back: bool) -> None:
    proof = weigh(resetting().reset, sighting(41, synced), POLICY)
    assert (proof.returned_at is not None) is back
    assert proof.restarts == (0 if back else 1)


def test_a_return_that_is_soon_followed_by_another_check_in_is_kept() -> None:
    proof = weigh(settling().reset, sighting(51, 50), POLICY)
    assert (proof.returned_at, proof.last_sync, proof.awake) == (at(40), at(50), True)


def test_a_return_that_is_followed_by_silence_was_the_taking_and_what_was_seen_late_is_forgotten() -> None:
    proof = weigh(settling().reset, sighting(61, 60), POLICY)
    assert (proof.taken_at, proof.returned_at, proof.awake) == (at(40), at(60), False)


# --- done ---------------------------------------------------------------------------------------------------------


def proven(user: str, proof: Proof) -> Reset:
    base = received(user=NOBODY if user == "none" else USER)
    return moved(base, proof=proof)


@pytest.mark.parametrize(
    ("proof", "with_user", "without_user"),
    [
        (Proof(), False, False),
        (Proof(done=True, shown=True), False, True),
        (Proof(user_gone=True), True, False),
        (Proof(user_gone=True, shown=True), False, False),
        (Proof(user_gone=True, done=True, shown=True), True, True),
        (Proof(user_gone=True, issued_late=True), False, False),
        (Proof(user_gone=True, issued_late=True, state_back=True), True, True),
    ],
)
def test_done_is_what_all_shown_signs_say_and_a_user_who_was_there_is_one(
    proof: Proof, with_user: bool, without_user: bool
) -> None:
    assert (done(proven("one", proof)), done(proven("none", proof))) == (with_user, without_user)


def test_a_primary_user_is_there_only_where_graph_said_so() -> None:
    assert had_user(received())
    assert not had_user(received(user=NOBODY))
    assert not had_user(received(user=None))


@pytest.mark.parametrize(
    ("proof", "late"),
    [
        (Proof(), False),
        (Proof(done=True), False),
        (Proof(user_gone=True), False),
        (Proof(open_late=True, user_late=True), False),
        (Proof(done=True, user_late=True), False),
        (Proof(user_gone=True, open_late=True), False),
        (Proof(probed_at=at(9)), False),
        (Proof(probed_at=at(9), done=True), False),
        (Proof(probed_at=at(9), done=True, user_gone=True), True),
        (Proof(issued_late=True), False),
        (Proof(issued_late=True, state_back=True), True),
    ],
)
def test_s17_what_appeared_early_is_untested_until_the_silence_was(proof: Proof, late: bool) -> None:
    assert evidence.tested(proven("one", proof)) is late


@pytest.mark.parametrize(
    "proof",
    [
        Proof(user_gone=True, probed_at=at(9)),
        Proof(returned_at=at(40), probed_at=at(9)),
        Proof(returned_at=at(40), user_gone=True),
        Proof(returned_at=at(40), done=True, open_late=True),
    ],
    ids=["not back", "not done", "not tested", "the user still there"],
)
def test_s17_two_thirds_of_a_proof_are_none(proof: Proof) -> None:
    assert not complete(proven("one", proof))


def test_returned_done_and_tested_is_proof() -> None:
    awake = Proof(returned_at=at(40), awake=True)
    assert complete(proven("one", replace(awake, user_gone=True, done=True, shown=True, probed_at=at(9))))
    assert complete(proven("none", replace(awake, issued_late=True, state_back=True)))


def test_s17_the_next_user_is_not_the_old_one() -> None:
    assert weigh(resetting().reset, sighting(41, 40, NEXT_USER), POLICY).user_gone
    assert not weigh(resetting().reset, sighting(41, 40, None), POLICY).user_gone


# --- for people ---------------------------------------------------------------------------------------------------


def test_a_proof_is_described_by_what_is_there_alone() -> None:
    assert describe(Proof()) == {}
    assert describe(Proof(taken_at=at(3), done=True)) == {"takenBy": at(3).isoformat(), "actionDone": "yes"}
