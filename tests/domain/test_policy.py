"""The policy refuses what would undo a promise, by name."""

from datetime import timedelta

import pytest
from pydantic import ValidationError

from shared.domain.policy import Policy


def test_the_defaults_fit_together() -> None:
    policy = Policy()
    assert policy.reconcile_after < policy.sending_for
    assert policy.min_reset_duration == timedelta(minutes=15)


def test_durations_are_written_as_iso_8601() -> None:
    assert Policy.model_validate({"sync_grace": "PT7M"}).sync_grace == timedelta(minutes=7)


@pytest.mark.parametrize("value", [15, 15.0, "15", "0:15", True])
def test_a_duration_without_units_is_refused_since_nobody_knows_which_are_meant(value: object) -> None:
    with pytest.raises(ValidationError, match="write a duration with its units, as ISO 8601 does: PT15M"):
        Policy.model_validate({"min_reset_duration": value})


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
        ("retention", "P11Y"),
        ("retention", "P29D"),
        ("wave_growth", "inf"),
        ("halt_burst_factor", float("inf")),
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
        Policy.model_validate({"writes_per_window": 19})


def test_graph_must_have_time_to_show_the_pick_up_before_a_reset_can_be_over() -> None:
    """Otherwise nothing that is missing late, and no forced sync, could ever tell a reset from none."""
    with pytest.raises(ValidationError, match="reconcile_after must be shorter than min_reset_duration"):
        Policy.model_validate({"reconcile_after": "PT10M", "min_reset_duration": "PT10M"})


def test_a_protected_device_is_protected_however_its_entry_is_spaced() -> None:
    assert Policy.model_validate({"protected_devices": [" SN-0001 "]}).protected_devices == {"SN-0001"}


GROUPS = [f"44444444-dddd-4ddd-8ddd-00000000000{number}" for number in range(5)]


@pytest.mark.parametrize("field", ["protected_devices", "allowed_devices", "sensitive_devices"])
def test_an_empty_entry_in_a_list_of_devices_is_refused_by_name(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Policy.model_validate({field: ["LAB-*", "  "]})


@pytest.mark.parametrize("field", ["protected_groups", "protected_users", "allowed_groups", "sensitive_groups"])
@pytest.mark.parametrize("value", ["Executives", "boss@school.example", "", GROUPS[0][:-1], GROUPS[0] + "0", "*"])
def test_a_group_or_user_is_named_by_its_object_id_and_anything_else_is_refused_by_name(field: str, value: str) -> None:
    with pytest.raises(ValidationError, match=field) as refused:
        Policy.model_validate({field: [GROUPS[1], value]})
    assert f"{value!r} is no object id" in str(refused.value)


def test_an_object_id_is_the_same_in_capitals_and_with_blanks_around_it() -> None:
    assert Policy.model_validate({"protected_groups": [f" {GROUPS[0].upper()} "]}).protected_groups == {GROUPS[0]}


def test_every_group_that_the_policy_names_is_watched() -> None:
    policy = Policy.model_validate(
        {
            "protected_groups": GROUPS[:1],
            "allowed_groups": GROUPS[1:2],
            "sensitive_groups": GROUPS[2:3],
            "requesters": [{"name": "a", "groups": GROUPS[3:4]}, {"name": "b", "groups": GROUPS[3:]}, {"name": "c"}],
        }
    )
    assert policy.watched_groups == set(GROUPS)
    assert Policy().watched_groups == frozenset()


@pytest.mark.parametrize("action", ["factoryReset", "wipe", " Retire ", "cleanWindowsDevice", "delete"])
def test_an_action_that_erases_a_device_cannot_be_ignored(action: str) -> None:
    with pytest.raises(ValidationError, match="ignored_actions") as refused:
        Policy.model_validate({"ignored_actions": ["setDeviceName", action]})
    assert f"{action.strip()} erases" in str(refused.value)


@pytest.mark.parametrize(
    ("scope", "fault"),
    [
        ({}, "name"),
        ({"name": " "}, "name"),
        ({"name": "a", "group_tag": ["LAB"]}, "group_tag"),
        ({"name": "a", "groups": ["LAB"]}, "groups"),
        ({"name": "a", "devices": [""]}, "devices"),
    ],
)
def test_a_bad_scope_of_a_requester_is_refused_by_name(scope: dict[str, object], fault: str) -> None:
    with pytest.raises(ValidationError, match=rf"requesters\.1\.{fault}\b"):
        Policy.model_validate({"requesters": [{"name": "good"}, scope]})
