"""What the things that Graph shows prove about a reset.

Graph never says "ready". What it shows is weighed by these rules:

1. *Taken.* The device has the order once our action's result is active or done, once the management state says that the
   wipe was issued, or once it has checked in later than the order was acknowledged plus a margin for delivery. The
   earliest of these is an upper bound of the true time.
2. *Silent.* A reset keeps the device from checking in. A check-in sooner than `min_reset_duration` after it took the
   order, or sooner than `sync_answer` after a forced sync that tests the silence, means that the reset has not run yet:
   the clock starts anew.
3. *Returned.* The first check-in after the silence, confirmed by another one less than `min_reset_duration` later: a
   device that was merely off, and takes the reset at the check-in that looks like its return, falls silent again. It
   may take the reset later still: where only a look after the return shows that the action is done or the user gone,
   and nothing else changed late, the check-in of that look is the return that is to be confirmed.
4. *Done.* Our action's result says done; and where there was a primary user before, that user is gone. Either may
   appear as early as at the order itself, so neither counts alone: one of them must have appeared late (the action was
   still open, or the user still there, well after the device had taken the order), or the silence must have been put to
   the test by a forced sync that the device did not answer until its return.

Only returned and done together make a device ready, and only at a close look. A list of check-ins adds what it can show
by itself: that the device checked in, and that user or state were still those of before or of the taking. What it does
not name may merely be left out, and what it shows may be as old as `poll_overlap` allows for.

Sources: Autopilot Reset removes the primary user and blocks the desktop until an Intune sync completes
(learn.microsoft.com/autopilot/windows-autopilot-reset); when action results and the primary user change is not
documented, hence rules 2 and 4.
"""

from datetime import datetime, timedelta

from shared.domain.devices import ActionResult, ActionState, Sighting
from shared.domain.policy import Policy
from shared.domain.reset import Proof, Reset, changed
from shared.domain.states import DEVICE_MAY_BE_TOLD

RESET_ACTIONS = frozenset(
    name.lower()
    for name in ("factoryReset", "factoryResetKeepEnrollmentData", "automaticRedeployment", "cleanWindowsDevice")
)
"""Names under which a wipe with keepEnrollmentData has been seen in `deviceActionResults` (graph/api wipe, CIPP)."""

ACTION_FAILED = frozenset({ActionState.FAILED, ActionState.CANCELED, ActionState.NOT_SUPPORTED})
OPEN = frozenset({ActionState.PENDING, ActionState.ACTIVE})
STATE_ORDERED = frozenset({"wipepending", "wipeissued"})
STATE_TAKEN = frozenset({"wipeissued"})
STATE_FAILED = frozenset({"wipefailed", "wipecanceled"})

A_SECOND = timedelta(seconds=1)
"""Check-ins no further apart may be one that was cut, or rounded, in two ways."""


def our_action(reset: Reset, sighting: Sighting) -> ActionResult | None:
    """The newest reset action that was started no earlier than our order; names repeat and old results pile up."""
    floor = reset.graph_earliest
    if floor is None:
        return None
    ours = [
        (action.started_at, action)
        for action in sighting.actions or ()
        if action.name and action.name.lower() in RESET_ACTIONS and action.started_at and action.started_at >= floor
    ]
    return max(ours, key=lambda pair: pair[0])[1] if ours else None


def management_state_moved_to(reset: Reset, sighting: Sighting, states: frozenset[str]) -> bool:
    """Whether the management state is one of `states` now and was another before the order."""
    now, before = (sighting.management_state or "").lower(), (reset.before.management_state or "").lower()
    return now in states and now != before


def proves_order(reset: Reset, sighting: Sighting) -> bool:
    """Whether Graph shows that a reset was ordered at or after ours."""
    return our_action(reset, sighting) is not None or management_state_moved_to(reset, sighting, STATE_ORDERED)


def failure(reset: Reset, sighting: Sighting) -> str | None:
    """What Graph calls the failure of our reset, or None where it shows none."""
    action = our_action(reset, sighting)
    if action is not None and action.state in ACTION_FAILED:
        return action.state.value
    if management_state_moved_to(reset, sighting, STATE_FAILED):
        return sighting.management_state
    return None


def weigh(reset: Reset, sighting: Sighting, policy: Policy) -> Proof:
    """The proof so far with what this sighting adds. Older sightings change nothing."""
    proof = reset.proof
    last_sync = sighting.last_sync
    if last_sync is None:
        return proof  # a record that is gone may still be answered, empty: without a user, and managed
    if last_sync > sighting.seen_at + policy.clock_tolerance:
        return proof  # no check-in lies in the future
    if proof.last_sync is None or last_sync > proof.last_sync:
        proof = changed(proof, last_sync=last_sync)
    elif last_sync < proof.last_sync.replace(microsecond=0):  # records of older versions have fractions
        return proof  # a stale read: what else it shows is of that time too

    action = our_action(reset, sighting)
    taken_at = proof.taken_at
    if taken_at is None:
        taken_at = min(_taken_bounds(reset, sighting, action), default=None)
        proof = changed(proof, taken_at=taken_at)
    if not sighting.listed and (taken_at is not None or sighting.seen_at >= last_sync + policy.reconcile_after):
        proof = changed(proof, looked_to=proof.last_sync)  # else Graph may yet show that it took the order then
    if taken_at is None:
        return proof

    back = proof.returned_at
    if back is not None and last_sync > back + A_SECOND and not proof.awake:
        if last_sync < back + policy.min_reset_duration:
            proof = changed(proof, awake=True)
        else:
            # So long a silence after its "return": that check-in was the one that took the order.
            taken_at = back
            proof = Proof(
                taken_at=taken_at,
                returned_at=last_sync,
                last_sync=proof.last_sync,
                looked_to=proof.looked_to,
                restarts=proof.restarts,
                probed_at=proof.asked_at,
                shown=proof.shown,
                done=proof.done,
            )
    if proof.returned_at is None and last_sync > taken_at:
        if last_sync < silent_until(proof, taken_at, policy):
            taken_at = last_sync
            restarts = proof.restarts + 1
            proof = Proof(taken_at=taken_at, last_sync=proof.last_sync, looked_to=proof.looked_to, restarts=restarts)
        else:
            proof = changed(proof, returned_at=last_sync)

    if proof.returned_at is None and _said(reset, sighting, action):
        proof = changed(proof, taken_shown=True)
    state = (sighting.management_state or "").lower()
    before = (reset.before.management_state or "").lower()
    done = proof.done or (action is not None and action.state is ActionState.DONE)
    if sighting.seen_at >= taken_at + shown_within(sighting, policy):
        proof = changed(
            proof,
            open_late=proof.open_late or (action is not None and not done and action.state in OPEN),
            issued_late=proof.issued_late or (state in STATE_TAKEN and proof.returned_at is None),
            user_late=proof.user_late or (had_user(reset) and sighting.primary_user == reset.before.primary_user),
        )
    if sighting.listed:
        return proof
    proof = changed(
        proof, shown=proof.shown or action is not None, done=done, state_back=bool(state) and state == before
    )
    user_gone = proof.user_gone if sighting.primary_user is None else _user_gone(reset, sighting)
    news = (user_gone and not reset.proof.user_gone) or (done and not reset.proof.done)
    if news and proof.returned_at is not None and not late_sign(proof):
        # It may have left the order alone until now, and be resetting.
        proof = changed(proof, returned_at=last_sync, awake=False)
    return changed(proof, user_gone=user_gone)


def shown_within(sighting: Sighting, policy: Policy) -> timedelta:
    """How long Graph may take to show there what it has been told."""
    return policy.lists_lag if sighting.listed else policy.reconcile_after


def since_order(reset: Reset, sighting: Sighting) -> bool:
    """Whether the device has checked in since a reset was ordered."""
    floor, last_sync = reset.graph_earliest, sighting.last_sync
    return floor is not None and last_sync is not None and last_sync >= floor


def look_needed(reset: Reset, listed: Sighting) -> bool:
    """Whether only a close look can tell what follows from a check-in that a list shows and no look has shown yet.

    None is needed at the check-in by which the device took the order, where it would come too early to tell anything;
    nor at its return, which another check-in must confirm first.
    """
    proof = reset.proof
    looked = proof.looked_to is not None and listed.last_sync is not None and proof.looked_to >= listed.last_sync
    if looked or not since_order(reset, listed) or (reset.order is None and not reset.doubtful):
        return False
    silent = proof.taken_at is not None and proof.returned_at is None and not proof.restarts
    back = proof.returned_at is not None and not proof.awake
    in_course = reset.state in DEVICE_MAY_BE_TOLD and failure(reset, listed) is None
    return not (in_course and (silent or back))


def silent_until(proof: Proof, taken_at: datetime, policy: Policy) -> datetime:
    """Until when a device that is being reset cannot check in."""
    silence = taken_at + policy.min_reset_duration
    return silence if proof.probed_at is None else max(silence, proof.probed_at + policy.sync_answer)


def had_user(reset: Reset) -> bool:
    """Whether Graph showed a primary user before the reset."""
    return bool(reset.before.primary_user)


def done(reset: Reset) -> bool:
    """Whether everything that Graph shows of the reset says that it is done, early or late (rule 4, first half)."""
    proof = reset.proof
    signs = [proof.user_gone] * had_user(reset) + [proof.done] * proof.shown + [proof.state_back] * proof.issued_late
    return bool(signs) and all(signs)


def late_sign(proof: Proof) -> bool:
    """Whether something changed only after the device had the order for long: it cannot be of the order itself."""
    action = proof.done and proof.open_late and proof.taken_shown
    user = proof.user_gone and proof.user_late
    return action or user or (proof.issued_late and proof.state_back)


def tested(reset: Reset) -> bool:
    """Whether what says "done" cannot have appeared before the reset ran (rule 4, second half).

    That a forced sync was missed proves nothing by itself, since a device that is off misses it too: then action and
    user must both say so.
    """
    proof = reset.proof
    return late_sign(proof) or (proof.probed_at is not None and proof.done and proof.user_gone)


def late(proof: Proof) -> bool:
    """Whether something is still missing late, after the device was shown to have the order: no test is needed."""
    return proof.taken_shown and (proof.open_late or proof.user_late or proof.issued_late)


def complete(reset: Reset) -> bool:
    """Whether the device is proven ready."""
    proof = reset.proof
    return proof.returned_at is not None and proof.awake and done(reset) and tested(reset)


def describe(proof: Proof) -> dict[str, str]:
    """The proof in words and times, for history and notices."""
    times = {
        "takenBy": proof.taken_at,
        "silenceTestedAt": proof.probed_at,
        "returnedAt": proof.returned_at,
        "lastCheckIn": proof.last_sync,
    }
    facts = {
        "actionDone": proof.done,
        "primaryUserGone": proof.user_gone,
        "actionOpenAfterTaken": proof.open_late,
        "primaryUserStillThereAfterTaken": proof.user_late,
        "stateIssuedAfterTaken": proof.issued_late,
        "stateBack": proof.issued_late and proof.state_back,
        "checkedInAgainSoon": proof.awake,
    }
    shown = {name: at.isoformat() for name, at in times.items() if at}
    return shown | {name: "yes" for name, so in facts.items() if so}


def _user_gone(reset: Reset, sighting: Sighting) -> bool:
    return had_user(reset) and sighting.primary_user != reset.before.primary_user


def _taken_bounds(reset: Reset, sighting: Sighting, action: ActionResult | None) -> list[datetime]:
    """Times by which the device had taken the order; only a check-in since the order gives any."""
    last_sync = sighting.last_sync
    if last_sync is None or not since_order(reset, sighting):
        return []
    bounds = []
    acknowledged = reset.graph_latest is not None and last_sync > reset.graph_latest
    if acknowledged or _said(reset, sighting, action):
        bounds.append(last_sync)
    if (
        action is not None
        and action.state is ActionState.DONE
        and action.started_at is not None
        and action.updated_at is not None
        and action.updated_at >= action.started_at
    ):
        bounds.append(action.updated_at)
    return bounds


def _said(reset: Reset, sighting: Sighting, action: ActionResult | None) -> bool:
    """Whether Graph itself says that the device has the order, at a check-in since it was given."""
    if sighting.last_sync is None:
        return False
    if action is not None and action.started_at is not None and action.state in (ActionState.ACTIVE, ActionState.DONE):
        return sighting.last_sync >= action.started_at.replace(microsecond=0)  # as check-ins are cut
    return management_state_moved_to(reset, sighting, STATE_TAKEN)
