"""May this device be reset? Each refusal by its code, and nothing that is not known passes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.devices import AutopilotIdentity, DeviceFacts, EntraDevice, Finding
from shared.domain.eligibility import refusal, resolve, same_device
from shared.domain.ids import EntraDeviceId, ManagedDeviceId
from shared.domain.policy import Policy
from shared.domain.reasons import Code, Reason
from tests.domain.builders import (
    AUTOPILOT_RECORD,
    DEVICE,
    ENTRA,
    NOBODY,
    OTHER_DEVICE,
    OTHER_ENTRA,
    POLICY,
    facts,
    managed,
)


def code(found: DeviceFacts, policy: Policy = POLICY) -> Code | None:
    reason = refusal(found, policy)
    return reason.code if reason else None


def entra(trust_type: str | None, device: EntraDeviceId = ENTRA) -> EntraDevice:
    return EntraDevice(device, trust_type)


def autopilot(
    *,
    serial: str | None = "SN-0001",
    device: ManagedDeviceId | None = DEVICE,
    entra_device: EntraDeviceId | None = ENTRA,
) -> AutopilotIdentity:
    return AutopilotIdentity("autopilot-1", serial, None, device, entra_device)


# --- which device is meant ----------------------------------------------------------------------------------------


def test_a_name_that_leads_to_one_device_means_that_one() -> None:
    found = facts()
    assert resolve(Finding(devices=(found,))) is found


def test_a_name_that_leads_to_nothing_is_unknown() -> None:
    assert resolve(Finding()) == Reason(Code.UNKNOWN_DEVICE)


def test_a_name_that_only_autopilot_knows_is_not_enrolled() -> None:
    assert resolve(Finding(not_enrolled=(AUTOPILOT_RECORD,))) == Reason(Code.NOT_ENROLLED)


def test_a_name_of_several_devices_is_refused_with_the_candidates() -> None:
    several = (facts(), facts(managed(id=OTHER_DEVICE, enrolled_at=None)))
    reason = resolve(Finding(devices=several))
    assert isinstance(reason, Reason)
    assert reason.code is Code.AMBIGUOUS
    assert f"{DEVICE} (enrolled 2025-12-02), {OTHER_DEVICE}" in reason.detail


def test_the_candidates_of_a_very_common_name_stay_readable() -> None:
    reason = resolve(Finding(devices=(facts(),) * 500))
    assert isinstance(reason, Reason)
    assert reason.detail.count(DEVICE) == 10


# --- what may be reset --------------------------------------------------------------------------------------------


def test_an_entra_joined_autopilot_registered_windows_device_may_be_reset() -> None:
    assert refusal(facts(), POLICY) is None


@pytest.mark.parametrize(
    "found",
    [
        facts(managed(primary_user=NOBODY)),
        facts(managed(operating_system="windows", management_state="Managed")),
        facts(autopilot=autopilot(device=None)),
        facts(autopilot=autopilot(entra_device=None)),
        facts(autopilot=autopilot(serial=" sn-0001 ")),
        facts(managed(last_sync=None, enrolled_at=None, name=None)),
    ],
    ids=["no user", "spelt otherwise", "stale Intune link", "no Entra link", "serial spelt otherwise", "never synced"],
)
def test_what_does_not_matter_refuses_nothing(found: DeviceFacts) -> None:
    assert refusal(found, POLICY) is None


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (facts(managed(operating_system="iOS")), Code.NOT_WINDOWS),
        (facts(managed(operating_system="Windows Holographic")), Code.NOT_WINDOWS),
        (facts(managed(operating_system=None)), Code.FACTS_INCOMPLETE),
        (facts(managed(model="Cloud PC Enterprise 2vCPU/8GB")), Code.CLOUD_PC),
        (facts(entra=entra("ServerAd")), Code.HYBRID_JOINED),
        (facts(entra=entra("Workplace")), Code.NOT_ENTRA_JOINED),
        (facts(entra=entra("somethingNew")), Code.JOIN_UNKNOWN),
        (facts(entra=entra(None)), Code.JOIN_UNKNOWN),
        (facts(entra=None), Code.JOIN_UNKNOWN),
        (facts(managed(entra_device_id=None)), Code.JOIN_UNKNOWN),
        (facts(entra=entra("AzureAd", OTHER_ENTRA)), Code.FACTS_INCOMPLETE),
        (facts(autopilot=None), Code.NOT_AUTOPILOT_REGISTERED),
        (facts(autopilot=autopilot(device=OTHER_DEVICE, entra_device=OTHER_ENTRA)), Code.AUTOPILOT_MISMATCH),
        (facts(autopilot=autopilot(device=None, entra_device=None)), Code.AUTOPILOT_MISMATCH),
        (facts(autopilot=autopilot(serial="SN-0002")), Code.AUTOPILOT_MISMATCH),
        (facts(autopilot=autopilot(serial=None)), Code.FACTS_INCOMPLETE),
        (facts(managed(serial_number="")), Code.FACTS_INCOMPLETE),
        (facts(managed(management_state="wipePending")), Code.OTHER_ACTION_PENDING),
        (facts(managed(management_state="somethingNew")), Code.OTHER_ACTION_PENDING),
        (facts(managed(management_state=None)), Code.FACTS_INCOMPLETE),
        (facts(managed(primary_user=None)), Code.FACTS_INCOMPLETE),
    ],
)
def test_a_device_that_may_not_be_reset_is_refused_by_its_code(found: DeviceFacts, expected: Code) -> None:
    assert code(found) is expected


def test_a_refusal_says_what_graph_shows() -> None:
    reason = refusal(facts(entra=entra("somethingNew")), POLICY)
    assert reason is not None
    assert "somethingNew" in reason.sentence


# --- protected devices --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ["sn-0001", "LAB3-01", "lab3-*", "LAB?-01", DEVICE, ENTRA.upper()])
def test_a_protected_device_is_refused_by_any_of_its_names(entry: str) -> None:
    assert code(facts(), Policy(protected_devices=frozenset({entry}))) is Code.PROTECTED


@pytest.mark.parametrize("entry", ["SN-000", "LAB4-*", OTHER_DEVICE, ""])
def test_an_entry_for_another_device_protects_nothing_else(entry: str) -> None:
    assert code(facts(), Policy(protected_devices=frozenset({entry}))) is None


def test_a_protected_name_with_brackets_is_that_name_and_no_pattern() -> None:
    """Only * and ? are patterns; a bracket read as one would leave the device unprotected."""
    policy = Policy(protected_devices=frozenset({"SN[1]"}))
    found = facts(managed(serial_number="SN[1]"), autopilot=autopilot(serial="SN[1]"))
    assert code(found, policy) is Code.PROTECTED


# --- what is not known --------------------------------------------------------------------------------------------


@given(
    st.sets(
        st.sampled_from(["operating_system", "entra_device_id", "serial_number", "management_state", "primary_user"]),
        min_size=1,
    )
)
def test_a_record_that_leaves_out_anything_that_counts_is_refused(missing: set[str]) -> None:
    known = managed()
    for name in missing:
        known = replace(known, **{name: None})  # type: ignore[arg-type]  # each of these may be None
    assert refusal(facts(known), POLICY) is not None


# --- the same device ----------------------------------------------------------------------------------------------


def test_a_record_read_again_is_of_the_same_device_while_serial_number_and_entra_id_stay() -> None:
    assert same_device(managed(), managed(name="renamed", primary_user=NOBODY))
    assert not same_device(managed(), managed(serial_number="SN-0002"))
    assert not same_device(managed(), managed(entra_device_id=OTHER_ENTRA))
