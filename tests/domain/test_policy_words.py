"""A policy in plain words: no field is left out, no value is hidden, and risky choices are told of."""

import contextlib
import string
from datetime import timedelta

import pytest
from pydantic import ValidationError

from shared.domain.policy import Policy
from shared.domain.policy_words import SENTENCES, Topic, explain, in_words, risks

GROUP = "5f3c1d1e-0a2b-4c3d-8e9f-001122334455"
PRUDENT = {
    "protected_devices": ["KIOSK-*"],
    "approvers": ["*-lead@contoso.example"],
    "requesters": [{"name": "desk@contoso.example"}],
}


def said(name: str, **fields: object) -> str:
    (sentence,) = [one.sentence for one in explain(Policy.model_validate(fields)) if one.name == name]
    return sentence


def test_every_field_has_its_sentence_in_exactly_one_topic() -> None:
    """A new field needs an entry in SENTENCES, and with it a topic."""
    named = sorted(name for fields in SENTENCES.values() for name in fields)
    assert named == sorted(Policy.model_fields)
    assert list(SENTENCES) == list(Topic)


def test_every_sentence_shows_its_own_value_and_otherwise_only_those_of_other_fields() -> None:
    for fields in SENTENCES.values():
        for name, says in fields.items():
            shown = {field for _, field, _, _ in string.Formatter().parse(says.some) if field is not None}
            assert shown <= set(Policy.model_fields), name
            assert name in shown or Policy.model_fields[name].annotation is bool, name
            assert "{" not in says.none, name


def nothing(name: str) -> bool:
    """Whether the field takes a value that is nothing: an empty list, zero, false or none."""
    values: tuple[object, ...] = ([], 0, False, None)
    for value in values:
        with contextlib.suppress(ValidationError):
            if not getattr(Policy.model_validate({name: value}), name):
                return True
    return False


def test_a_value_that_may_be_nothing_has_words_for_that_and_no_other_has() -> None:
    has_words = {name for fields in SENTENCES.values() for name, says in fields.items() if says.none}
    assert has_words == {name for name in Policy.model_fields if nothing(name)}


@pytest.mark.parametrize(
    ("duration", "words"),
    [
        ("PT15M", "15 minutes"),
        ("PT1H", "1 hour"),
        ("P3DT12H", "3 days 12 hours"),
        ("PT1H1M1S", "1 hour 1 minute 1 second"),
        ("PT0.25S", "0.25 seconds"),
        ("P400D", "400 days"),
    ],
)
def test_durations_are_said_as_people_say_them(duration: str, words: str) -> None:
    value = Policy.model_validate({"attention_for": duration}).attention_for
    assert in_words("attention_for", value) == words


def test_shares_are_percentages_lists_are_in_order_and_large_numbers_have_commas() -> None:
    assert said("fleet_share_per_day", fleet_share_per_day=0.07).startswith("At most 7% of")
    assert said("protected_devices", protected_devices=["SN-2", "KIOSK-*"]).endswith(": KIOSK-*, SN-2.")
    assert said("resets_per_day", resets_per_day=12000) == "At most 12,000 resets on one UTC day."


def test_what_is_nothing_is_said_so() -> None:
    assert said("approvers") == "Nobody is named who may approve, so nobody can."
    assert said("approval_above", approval_above=0) == "Every request needs a second person's approval."
    assert said("allow_virtual_machines") == "No virtual machine is reset."
    assert said("halt_refused", halt_refused=0) == "Refusals never halt it."


def test_what_becomes_of_a_device_over_a_limit_is_said_and_not_named() -> None:
    assert said("over_cap", over_cap="refuse").endswith("no room is refused at once.")
    assert "waits until there is room" in said("over_cap", over_cap="hold")


def test_each_requester_is_said_with_what_they_may_ask_for() -> None:
    scopes = [
        {"name": "labs@contoso.example", "group_tags": ["LAB-*", "EXAM"], "groups": [GROUP]},
        {"name": "desk@contoso.example"},
    ]
    assert said("requesters", requesters=scopes) == (
        f"May ask, and nobody else: labs@contoso.example for group tags EXAM, LAB-* or groups {GROUP}; "
        "desk@contoso.example for every device."
    )


NO_APPROVALS = {"approval_above": 5000, "unapproved_per_day": 500}

RISKY = [
    ("protected_devices", {"protected_devices": []}),
    ("allow_virtual_machines", {"allow_virtual_machines": True}),
    ("allow_co_managed", {"allow_co_managed": True}),
    ("last_check_in_max_age", {"last_check_in_max_age": "P91D"}),
    ("facts_max_age", {"facts_max_age": "PT61M"}),
    ("requesters", {"requesters": []}),
    ("requesters", {"requesters": [{"name": "desk@contoso.example", "devices": ["A"]}, {"name": "*"}]}),
    ("approvers", {"approvers": []}),
    ("approvers", {"approvers": [], "approval_above": 5000, "unapproved_per_day": 99}),
    ("approvers", {"approvers": [], **NO_APPROVALS, "sensitive_groups": [GROUP]}),
    ("approvers", {"approvers": ["*"]}),
    ("approval_above", {"approval_above": 5000}),
    ("unapproved_per_day", {"unapproved_per_day": 500}),
    ("approval_valid_for", {"approval_valid_for": "P15D"}),
    ("request_valid_for", {"request_valid_for": "P31D"}),
    ("resets_per_day", {"resets_per_day": 501}),
    ("resets_per_hour", {"resets_per_hour": 500}),
    ("fleet_share_per_day", {"fleet_share_per_day": 1}),
    ("fleet_share_floor", {"fleet_share_floor": 500}),
    ("resets_per_device", {"resets_per_device": 11}),
    ("wave_above", {"wave_above": 5000}),
    ("wave_first", {"wave_first": 50}),
    ("wave_failed_share", {"wave_failed_share": 0.6}),
    ("wave_within", {"wave_within": "PT49M"}),
    ("halt_failed_min", {"halt_failed_min": 0}),
    ("halt_refused", {"halt_refused": 0}),
    ("halt_burst_factor", {"halt_burst_factor": 0}),
    ("halt_burst_floor", {"halt_burst_floor": 500}),
    ("halt_on_unknown_requester", {"halt_on_unknown_requester": False}),
    ("min_reset_duration", {"min_reset_duration": "PT9M"}),
    ("clock_tolerance", {"clock_tolerance": "PT59S"}),
    ("audit_after", {"audit_after": "PT29M"}),
    ("retention", {"retention": "P89D"}),
]


@pytest.mark.parametrize(("name", "fields"), RISKY, ids=[f"{name}-{number}" for number, (name, _) in enumerate(RISKY)])
def test_a_risky_choice_is_told_of_by_name(name: str, fields: dict[str, object]) -> None:
    policy = Policy.model_validate(PRUDENT | fields)
    besides = {field for field, value in NO_APPROVALS.items() if fields.get(field) == value}
    assert {risk.name for risk in risks(policy)} == {name, *besides}


def test_nothing_is_told_of_a_policy_that_names_its_people_and_what_it_protects() -> None:
    assert list(risks(Policy.model_validate(PRUDENT))) == []
    assert list(risks(Policy.model_validate(PRUDENT | {"protected_devices": [], "protected_users": [GROUP]}))) == []


def test_whoever_needs_no_approval_need_not_name_who_may_give_it() -> None:
    policy = Policy.model_validate(PRUDENT | NO_APPROVALS | {"approvers": []})
    assert {risk.name for risk in risks(policy)} == set(NO_APPROVALS)


def test_whoever_only_lowers_the_limit_of_a_day_is_not_told_of_the_limits_above_it() -> None:
    assert list(risks(Policy.model_validate(PRUDENT | {"resets_per_day": 20}))) == []


def test_whoever_protects_nothing_and_names_nobody_is_told_so() -> None:
    """As shipped: no default can know an organisation's devices and people."""
    assert {risk.name for risk in risks(Policy())} == {"protected_devices", "requesters", "approvers"}


def test_the_least_value_of_all_durations_has_words() -> None:
    assert in_words("sync_grace", timedelta(microseconds=1)) == "1e-06 seconds"
