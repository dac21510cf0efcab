"""The policy refuses what would undo a promise, by name."""

from datetime import timedelta

import pytest
from pydantic import ValidationError

from shared.domain.guardrails import BURST
from shared.domain.policy import Policy


def test_the_defaults_fit_together() -> None:
    policy = Policy()
    assert policy.reconcile_after < policy.sending_for
    assert policy.min_reset_duration == timedelta(minutes=15)


def test_durations_are_written_as_iso_8601() -> None:
    assert Policy.model_validate({"sync_grace": "PT7M"}).sync_grace == timedelta(minutes=7)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sync_grace", "PT0S"),
        ("min_reset_duration", "-PT15M"),
        ("sync_attempts", 0),
        ("sync_attempts", 21),
        ("writes_per_window", 0),
        ("writes_per_window", 201),
        ("resets_per_day", 0),
        ("no_such_field", 1),
    ],
)
def test_a_bad_value_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        Policy.model_validate({field: value})


def test_a_doubt_must_be_settled_within_the_time_that_it_may_last() -> None:
    with pytest.raises(ValidationError, match="audit_after must be at least reconcile_after, and shorter than"):
        Policy.model_validate({"audit_after": "PT1H", "sending_for": "PT1H"})
    with pytest.raises(ValidationError, match="audit_after"):
        Policy.model_validate({"audit_after": "PT4M", "reconcile_after": "PT5M"})


def test_a_pace_below_one_batch_is_refused_since_a_batch_would_break_it() -> None:
    with pytest.raises(ValidationError, match="writes_per_window"):
        Policy.model_validate({"writes_per_window": BURST})


def test_graph_must_have_time_to_show_the_pick_up_before_a_reset_can_be_over() -> None:
    """Otherwise nothing that is missing late, and no forced sync, could ever tell a reset from none."""
    with pytest.raises(ValidationError, match="reconcile_after must be shorter than min_reset_duration"):
        Policy.model_validate({"reconcile_after": "PT10M", "min_reset_duration": "PT10M"})


def test_a_protected_device_is_protected_however_its_entry_is_spaced() -> None:
    assert Policy.model_validate({"protected_devices": [" SN-0001 "]}).protected_devices == {"SN-0001"}
