"""May this device be reset, and by whom? Each refusal by its code, and nothing that is not known passes."""

from dataclasses import fields, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.devices import AutopilotIdentity, DeviceFacts, EntraDevice, Finding, ManagedDevice
from shared.domain.eligibility import (
    handed_on,
    is_sensitive,
    is_unknown,
    refusal,
    requester_refusal,
    resolve,
    same_device,
    seen,
)
from shared.domain.ids import EntraDeviceId, ManagedDeviceId, UserId
from shared.domain.policy import Policy, RequesterScope
from shared.domain.reasons import Code, Reason
from tests.domain.builders import (
    AUTOPILOT_RECORD,
    DEVICE,
    ENROLLED,
    ENTRA,
    LAST_SYNC,
    NEXT_USER,
    NOBODY,
    NOON,
    OTHER_DEVICE,
    OTHER_ENTRA,
    POLICY,
    USER,
    at,
    facts,
    managed,
)

GROUP = "44444444-dddd-4ddd-8ddd-000000000001"
OTHER_GROUP = "44444444-dddd-4ddd-8ddd-000000000002"
IN_NONE: frozenset[str] = frozenset()


def policy(**settings: object) -> Policy:
    return Policy.model_validate(settings)


def judged(found: DeviceFacts, policy: Policy = POLICY, now: datetime = NOON) -> Reason:
    reason = refusal(found, policy, now)
    assert reason is not None, "the device may be reset"
    return reason


def code(found: DeviceFacts, policy: Policy = POLICY, now: datetime = NOON) -> Code | None:
    reason = refusal(found, policy, now)
    return reason.code if reason else None


def entra(
    trust_type: str | None = "AzureAd", device: EntraDeviceId = ENTRA, *, enabled: bool | None = True
) -> EntraDevice:
    return EntraDevice(device, trust_type, enabled)


def autopilot(
    *,
    serial: str | None = "SN-0001",
    device: ManagedDeviceId | None = DEVICE,
    entra_device: EntraDeviceId | None = ENTRA,
    tag: str | None = None,
) -> AutopilotIdentity:
    return AutopilotIdentity("autopilot-1", serial, tag, device, entra_device)


def joined(trust_type: str | None, join_type: str | None) -> DeviceFacts:
    return facts(managed(join_type=join_type), entra=entra(trust_type))


# --- which device is meant ----------------------------------------------------------------------------------------


def test_a_name_that_leads_to_one_device_means_that_one() -> None:
    found = facts()
    assert resolve(Finding(devices=(found,))) is found


def test_a_name_that_leads_to_nothing_is_unknown() -> None:
    assert resolve(Finding()) == Reason(Code.UNKNOWN_DEVICE)


def test_a_name_that_only_autopilot_knows_is_not_enrolled() -> None:
    assert resolve(Finding(not_enrolled=(AUTOPILOT_RECORD,))) == Reason(Code.NOT_ENROLLED)


def test_s1_a_name_of_several_devices_is_refused_with_the_candidates() -> None:
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
    assert refusal(facts(), POLICY, NOON) is None


@pytest.mark.parametrize(
    "found",
    [
        facts(managed(primary_user=NOBODY)),
        facts(managed(operating_system="windows", management_state="Managed", management_agent="MDM")),
        joined("azuread", "AzureADJoined"),
        facts(autopilot=autopilot(device=None)),
        facts(autopilot=autopilot(entra_device=None)),
        facts(autopilot=autopilot(serial=" sn-0001 ")),
        facts(managed(enrolled_at=None, name=None)),
        facts(managed(sku_family=None)),
        facts(managed(sku_family="IoTEnterprise")),
        facts(managed(management_agent="easMdm")),
        facts(managed(os_version="10.0.17763.1")),
        facts(managed(os_version="10.0.26100.4349 (24H2)")),
        facts(managed(model="Surface Laptop 5", manufacturer="Microsoft Corporation")),
        facts(managed(model="ThinkServer-like Tower", manufacturer="Xenon Systems")),
        facts(managed(last_sync=at(3))),
    ],
    ids=[
        "no user",
        "spelt otherwise",
        "join spelt otherwise",
        "stale Intune link",
        "no Entra link",
        "serial spelt otherwise",
        "no name",
        "no edition",
        "IoT Enterprise",
        "mail by Exchange",
        "Windows 10 1809",
        "words after the version",
        "Microsoft's own laptop",
        "names like others",
        "its clock ahead of ours",
    ],
)
def test_what_does_not_matter_refuses_nothing(found: DeviceFacts) -> None:
    assert refusal(found, POLICY, NOON) is None


WRONG: dict[str, tuple[DeviceFacts, Code]] = {
    "an iPad": (facts(managed(operating_system="iOS")), Code.NOT_WINDOWS),
    "no system": (facts(managed(operating_system=None)), Code.FACTS_INCOMPLETE),
    "no model": (facts(managed(model=None)), Code.FACTS_INCOMPLETE),
    "no manufacturer": (facts(managed(manufacturer=None)), Code.FACTS_INCOMPLETE),
    "a Cloud PC": (
        facts(managed(model="Cloud PC Enterprise 2vCPU/8GB/128GB", manufacturer="Microsoft Corporation")),
        Code.CLOUD_PC,
    ),
    "a server": (facts(managed(operating_system="Windows Server")), Code.UNSUPPORTED_WINDOWS),
    "HoloLens by its system": (facts(managed(operating_system="Windows Holographic")), Code.UNSUPPORTED_WINDOWS),
    "HoloLens by its model": (facts(managed(model="HoloLens 2")), Code.UNSUPPORTED_WINDOWS),
    "HoloLens by its edition": (facts(managed(sku_family="Holographic")), Code.UNSUPPORTED_WINDOWS),
    "Surface Hub by its model": (facts(managed(model="Surface Hub 2S")), Code.UNSUPPORTED_WINDOWS),
    "Surface Hub by its edition": (facts(managed(sku_family="PPIPro")), Code.UNSUPPORTED_WINDOWS),
    "a session host": (facts(managed(sku_family="ServerRdsh")), Code.UNSUPPORTED_WINDOWS),
    "a Windows to come": (facts(managed(os_version="11.0.30000.1")), Code.UNSUPPORTED_WINDOWS),
    "Windows 7": (facts(managed(os_version="6.1.7601")), Code.WINDOWS_TOO_OLD),
    "Windows 8.1": (facts(managed(os_version="6.3.9600.0")), Code.WINDOWS_TOO_OLD),
    "Windows 10 1803": (facts(managed(os_version="10.0.17134.2208")), Code.WINDOWS_TOO_OLD),
    "no version": (facts(managed(os_version=None)), Code.FACTS_INCOMPLETE),
    "no build": (facts(managed(os_version="10.0")), Code.FACTS_INCOMPLETE),
    "no agent": (facts(managed(management_agent=None)), Code.FACTS_INCOMPLETE),
    "co-managed": (facts(managed(management_agent="configurationManagerClientMdm")), Code.CO_MANAGED),
    "co-managed, with mail": (facts(managed(management_agent="configurationManagerClientMdmEas")), Code.CO_MANAGED),
    "Configuration Manager alone": (
        facts(managed(management_agent="configurationManagerClient")),
        Code.NOT_MDM_MANAGED,
    ),
    "Exchange alone": (facts(managed(management_agent="eas")), Code.NOT_MDM_MANAGED),
    "Defender alone": (facts(managed(management_agent="msSense")), Code.NOT_MDM_MANAGED),
    "an agent to come": (facts(managed(management_agent="mdmOfTomorrow")), Code.NOT_MDM_MANAGED),
    "hybrid": (joined("ServerAd", "hybridAzureADJoined"), Code.HYBRID_JOINED),
    "hybrid, says Entra": (joined("ServerAd", "azureADJoined"), Code.HYBRID_JOINED),
    "hybrid, says Intune": (joined("AzureAd", "hybridAzureADJoined"), Code.HYBRID_JOINED),
    "hybrid, says Entra alone": (joined("ServerAd", None), Code.HYBRID_JOINED),
    "registered": (joined("Workplace", "azureADRegistered"), Code.NOT_ENTRA_JOINED),
    "registered, says Entra alone": (joined("Workplace", None), Code.NOT_ENTRA_JOINED),
    "registered, Entra disagrees": (joined("AzureAd", "azureADRegistered"), Code.JOIN_DISAGREES),
    "registered, Intune disagrees": (joined("Workplace", "azureADJoined"), Code.JOIN_DISAGREES),
    "join unknown to Entra": (joined(None, "azureADJoined"), Code.JOIN_UNKNOWN),
    "join unknown to Intune": (joined("AzureAd", None), Code.JOIN_UNKNOWN),
    "join unknown to both": (joined("somethingNew", "unknown"), Code.JOIN_UNKNOWN),
    "no Entra record": (facts(entra=None), Code.JOIN_UNKNOWN),
    "no Entra id": (facts(managed(entra_device_id=None)), Code.JOIN_UNKNOWN),
    "another Entra device": (facts(entra=entra(device=OTHER_ENTRA)), Code.FACTS_INCOMPLETE),
    "disabled": (facts(entra=entra(enabled=False)), Code.DISABLED_IN_ENTRA),
    "perhaps disabled": (facts(entra=entra(enabled=None)), Code.FACTS_INCOMPLETE),
    "not registered": (facts(autopilot=None), Code.NOT_AUTOPILOT_REGISTERED),
    "another's registration": (
        facts(autopilot=autopilot(device=OTHER_DEVICE, entra_device=OTHER_ENTRA)),
        Code.AUTOPILOT_MISMATCH,
    ),
    "nobody's registration": (facts(autopilot=autopilot(device=None, entra_device=None)), Code.AUTOPILOT_MISMATCH),
    "another serial number": (facts(autopilot=autopilot(serial="SN-0002")), Code.AUTOPILOT_MISMATCH),
    "no serial in Autopilot": (facts(autopilot=autopilot(serial=None)), Code.FACTS_INCOMPLETE),
    "no serial in Intune": (facts(managed(serial_number="")), Code.FACTS_INCOMPLETE),
    "to be wiped": (facts(managed(management_state="wipePending")), Code.OTHER_ACTION_PENDING),
    "a state to come": (facts(managed(management_state="somethingNew")), Code.OTHER_ACTION_PENDING),
    "no state": (facts(managed(management_state=None)), Code.FACTS_INCOMPLETE),
    "a wipe that failed": (facts(managed(management_state="wipeFailed")), Code.NOT_SETTLED),
    "a retire that was cancelled": (facts(managed(management_state="retireCanceled")), Code.NOT_SETTLED),
    "another action": (facts(managed(pending_actions=("cleanWindowsDevice",))), Code.OTHER_ACTION_PENDING),
    "an action to come": (facts(managed(pending_actions=("quickScan", "newAction"))), Code.OTHER_ACTION_PENDING),
    "never seen": (facts(managed(last_sync=None)), Code.NOT_SEEN_LATELY),
    "long not seen": (facts(managed(last_sync=NOON - timedelta(days=30, seconds=1))), Code.NOT_SEEN_LATELY),
    "user unknown": (facts(managed(primary_user=None)), Code.FACTS_INCOMPLETE),
}
"""One thing is wrong with each; all else is as it should be."""


@pytest.mark.parametrize("name", WRONG)
def test_s2_a_device_that_may_not_be_reset_is_refused_by_its_code(name: str) -> None:
    found, expected = WRONG[name]
    assert code(found) is expected


@pytest.mark.parametrize(
    ("model", "manufacturer"),
    [
        ("Virtual Machine", "Microsoft Corporation"),
        ("VMware7,1", "VMware, Inc."),
        ("VMware Virtual Platform", "VMware, Inc."),
        ("VirtualBox", "innotek GmbH"),
        ("Standard PC (Q35 + ICH9, 2009)", "QEMU"),
        ("Standard PC (i440FX + PIIX, 1996)", "Acme Cloud"),
        ("KVM", "Red Hat"),
        ("Parallels ARM Virtual Machine", "Parallels International GmbH."),
        ("HVM domU", "Xen"),
        ("t3.large", "Amazon EC2"),
        ("Google Compute Engine", "Google"),
        ("OpenStack Nova", "OpenStack Foundation"),
        ("AHV", "Nutanix"),
    ],
)
def test_s2_a_virtual_machine_is_refused_unless_the_policy_allows_them(model: str, manufacturer: str) -> None:
    found = facts(managed(model=model, manufacturer=manufacturer))
    assert code(found) is Code.VIRTUAL_MACHINE
    assert model in judged(found).detail
    assert code(found, policy(allow_virtual_machines=True)) is None


def test_a_policy_that_allows_virtual_machines_allows_no_cloud_pc_and_needs_no_manufacturer() -> None:
    allowing = policy(allow_virtual_machines=True)
    assert code(WRONG["a Cloud PC"][0], allowing) is Code.CLOUD_PC
    assert code(facts(managed(manufacturer=None)), allowing) is None


def test_s2_a_co_managed_device_is_reset_where_the_policy_allows_it() -> None:
    allowing = policy(allow_co_managed=True)
    assert code(WRONG["co-managed"][0], allowing) is None
    assert code(WRONG["Configuration Manager alone"][0], allowing) is Code.NOT_MDM_MANAGED


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("an iPad", "iOS"),
        ("a Cloud PC", "Cloud PC Enterprise 2vCPU/8GB/128GB"),
        ("Surface Hub by its model", "Surface Hub 2S"),
        ("Surface Hub by its edition", "PPIPro"),
        ("Windows 8.1", "6.3.9600.0"),
        ("no build", "10.0"),
        ("a Windows to come", "11.0.30000.1"),
        ("an agent to come", "mdmOfTomorrow"),
        ("co-managed", "configurationManagerClientMdm"),
        ("join unknown to both", "Entra shows somethingNew, Intune unknown"),
        ("registered, Entra disagrees", "Entra shows AzureAd, Intune azureADRegistered"),
        ("join unknown to Intune", "Entra shows AzureAd, Intune nothing"),
        ("to be wiped", "wiped or reset at its next check-in: Intune shows the management state wipePending"),
        ("a state to come", "somethingNew"),
        ("a wipe that failed", "wipeFailed"),
        ("another action", "erased or removed already. Intune shows as pending: cleanWindowsDevice"),
        ("an action to come", "pending: newAction"),
        ("never seen", "no check-in"),
        ("long not seen", "2026-01-31"),
    ],
)
def test_a_refusal_says_what_graph_shows(name: str, shown: str) -> None:
    assert shown in judged(WRONG[name][0]).sentence


# --- other actions that are pending -------------------------------------------------------------------------------


def test_a_scan_or_a_sync_that_is_pending_for_ever_does_not_keep_a_device_from_being_reset() -> None:
    found = facts(managed(pending_actions=("windowsDefenderScan", "FullScan", "syncDevice", "rotateBitLockerKeys")))
    assert code(found) is None


def test_s2_an_action_that_the_policy_ignores_may_be_pending_and_no_other() -> None:
    ignoring = policy(ignored_actions=["setdevicename"])
    assert code(facts(managed(pending_actions=("setDeviceName",))), ignoring) is None
    assert code(facts(managed(pending_actions=("setDeviceName", "retire"))), ignoring) is Code.OTHER_ACTION_PENDING


def test_actions_that_a_list_does_not_show_refuse_nothing() -> None:
    """Dispatch reads the device by itself before it sends, and sees them then."""
    assert code(facts(managed(pending_actions=None))) is None
    assert code(facts(managed(pending_actions=()))) is None


# --- the last check-in --------------------------------------------------------------------------------------------


def test_s1_a_device_counts_as_seen_for_as_long_as_the_policy_says() -> None:
    found = facts(managed(last_sync=NOON))
    week = policy(last_check_in_max_age="P7D")
    assert code(found, week, NOON + timedelta(days=7)) is None
    assert code(found, week, NOON + timedelta(days=7, seconds=1)) is Code.NOT_SEEN_LATELY


# --- protected devices --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ["sn-0001", "LAB3-01", "lab3-*", "LAB?-01", DEVICE, ENTRA.upper(), "*"])
def test_s3_a_protected_device_is_refused_by_any_of_its_names(entry: str) -> None:
    reason = judged(facts(), policy(protected_devices=[entry]))
    assert reason.code is Code.PROTECTED
    assert entry in reason.detail


@pytest.mark.parametrize("entry", ["SN-000", "LAB4-*", OTHER_DEVICE])
def test_an_entry_for_another_device_protects_nothing_else(entry: str) -> None:
    assert code(facts(), policy(protected_devices=[entry])) is None


def test_a_protected_name_with_brackets_is_that_name_and_no_pattern() -> None:
    """Only * and ? are patterns; a bracket read as one would leave the device unprotected."""
    found = facts(managed(serial_number="SN[1]"), autopilot=autopilot(serial="SN[1]"))
    assert code(found, policy(protected_devices=["SN[1]"])) is Code.PROTECTED
    assert code(found, policy(protected_devices=["SN[1]*"])) is Code.PROTECTED


def test_s3_where_devices_are_protected_by_name_a_nameless_one_is_refused() -> None:
    assert code(facts(managed(name=None)), policy(protected_devices=["BOSS-*"])) is Code.FACTS_INCOMPLETE


def test_s3_a_device_of_a_protected_group_is_refused() -> None:
    protecting = policy(protected_groups=[GROUP])
    reason = judged(facts(groups=frozenset({GROUP.upper(), OTHER_GROUP})), protecting)
    assert (reason.code, GROUP in reason.detail) == (Code.PROTECTED, True)
    assert code(facts(groups=frozenset({OTHER_GROUP})), protecting) is None


def test_s3_the_device_of_a_protected_user_is_refused_without_naming_them() -> None:
    protecting = policy(protected_users=[USER.upper()])
    reason = judged(facts(), protecting)
    assert reason.code is Code.PROTECTED
    assert USER not in reason.sentence
    assert code(facts(managed(primary_user=UserId(USER.upper()))), protecting) is Code.PROTECTED
    assert code(facts(managed(primary_user=NEXT_USER)), protecting) is None
    assert code(facts(managed(primary_user=NOBODY)), protecting) is None


@pytest.mark.parametrize("field", ["protected_groups", "sensitive_groups", "allowed_groups"])
def test_s3_where_the_policy_names_groups_a_device_whose_groups_are_not_known_is_refused(field: str) -> None:
    assert code(facts(groups=None), policy(**{field: [GROUP]})) is Code.GROUPS_UNKNOWN


def test_where_the_policy_names_no_groups_none_need_be_known() -> None:
    assert code(facts(groups=None), policy(requesters=[{"name": "*", "groups": [GROUP]}])) is None


def test_s3_protection_goes_before_permission() -> None:
    for allowed in ("LAB3-01", "OFFICE-01"):
        both = policy(protected_devices=["LAB3-*"], allowed_devices=[allowed])
        assert code(facts(), both) is Code.PROTECTED


# --- the allow-list -----------------------------------------------------------------------------------------------


def test_s3_where_the_policy_allows_some_devices_no_other_is_reset() -> None:
    allowing = policy(allowed_devices=["LAB3-*"], allowed_groups=[GROUP])
    other = managed(name="OFFICE-01")
    assert code(facts(groups=IN_NONE), allowing) is None
    assert code(facts(other, groups=frozenset({GROUP})), allowing) is None
    assert code(facts(other, groups=frozenset({OTHER_GROUP})), allowing) is Code.NOT_ALLOWED
    assert code(facts(other), policy(allowed_devices=["LAB3-*"])) is Code.NOT_ALLOWED


def test_s3_an_empty_allow_list_with_an_allowed_group_is_no_allow_for_all() -> None:
    assert code(facts(groups=IN_NONE), policy(allowed_groups=[GROUP])) is Code.NOT_ALLOWED


# --- sensitive devices --------------------------------------------------------------------------------------------


def test_s5_a_device_is_sensitive_by_its_name_or_by_its_groups() -> None:
    watching = policy(sensitive_devices=["EXEC-*"], sensitive_groups=[GROUP])
    assert is_sensitive(facts(managed(name="exec-7"), groups=IN_NONE), watching)
    assert is_sensitive(facts(groups=frozenset({GROUP})), watching)
    assert not is_sensitive(facts(groups=frozenset({OTHER_GROUP})), watching)
    assert not is_sensitive(facts(managed(name=None)), POLICY)


def test_s5_a_device_of_which_it_is_not_known_whether_it_is_sensitive_is() -> None:
    assert is_sensitive(facts(groups=None), policy(sensitive_groups=[GROUP]))
    assert is_sensitive(facts(managed(name=None)), policy(sensitive_devices=["EXEC-*"]))


# --- what is not known --------------------------------------------------------------------------------------------

MAY_BE_MISSING = frozenset({"name", "enrolled_at", "sku_family", "pending_actions"})
"""What an eligible device's Intune record may leave out."""
NEEDED = sorted({field.name for field in fields(ManagedDevice)} - MAY_BE_MISSING - {"id"})
EVERYTHING = policy(
    protected_devices=["BOSS-*", "SN-9*"],
    protected_groups=[GROUP],
    protected_users=[NEXT_USER],
    allowed_devices=["LAB3-*"],
    allowed_groups=[OTHER_GROUP],
    sensitive_groups=[GROUP],
)
"""A policy that asks all there is to ask, and lets the eligible device through."""


def without(device: ManagedDevice, *names: str) -> ManagedDevice:
    return replace(device, **dict.fromkeys(names))  # type: ignore[arg-type]  # each of these may be None


@given(st.sets(st.sampled_from(NEEDED), min_size=1))
def test_s1_a_record_that_leaves_out_anything_that_counts_is_refused(missing: set[str]) -> None:
    assert refusal(facts(without(managed(), *missing)), POLICY, NOON) is not None


@given(
    st.sampled_from(sorted(WRONG)),
    st.sets(st.sampled_from(sorted({*NEEDED, *MAY_BE_MISSING}))),
    st.booleans(),
    st.booleans(),
)
def test_s1_nothing_that_is_missing_makes_up_for_what_is_wrong(
    name: str, missing: set[str], no_entra: bool, no_autopilot: bool
) -> None:
    """Least of all the wrong thing itself, where it is not told any more."""
    found, _ = WRONG[name]
    shown_wrong = {field for field in MAY_BE_MISSING if getattr(found.managed, field) != getattr(managed(), field)}
    less = replace(
        found,
        managed=without(found.managed, *(missing - shown_wrong)),
        entra=None if no_entra else found.entra,
        autopilot=None if no_autopilot else found.autopilot,
    )
    assert refusal(less, POLICY, NOON) is not None


REAL_WORLD: dict[str, tuple[DeviceFacts, Policy]] = {
    "a Surface Hub": (
        facts(managed(model="Surface Hub 2S", manufacturer="Microsoft Corporation", sku_family="PPIPro")),
        POLICY,
    ),
    "a HoloLens": (
        facts(
            managed(
                operating_system="Windows Holographic",
                model="HoloLens 2",
                manufacturer="Microsoft Corporation",
                sku_family="Holographic",
            )
        ),
        POLICY,
    ),
    "a session host": (
        facts(managed(model="Virtual Machine", manufacturer="Microsoft Corporation", sku_family="ServerRdsh")),
        POLICY,
    ),
    "a protected name": (facts(managed(name="BOSS-1"), groups=frozenset({OTHER_GROUP})), EVERYTHING),
    "a protected serial number": (
        facts(managed(serial_number="SN-99"), autopilot=autopilot(serial="SN-99"), groups=IN_NONE),
        EVERYTHING,
    ),
    "a protected user": (facts(managed(primary_user=NEXT_USER), groups=IN_NONE), EVERYTHING),
    "a protected group": (facts(groups=frozenset({GROUP})), EVERYTHING),
    "outside of the allow-list": (facts(managed(name="OFFICE-1"), groups=IN_NONE), EVERYTHING),
}


def test_the_policy_that_asks_everything_lets_the_eligible_device_through() -> None:
    assert refusal(facts(groups=IN_NONE), EVERYTHING, NOON) is None


@pytest.mark.parametrize("name", REAL_WORLD)
def test_s1_a_device_that_must_not_be_reset_stays_refused_whichever_one_fact_is_missing(name: str) -> None:
    found, by = REAL_WORLD[name]
    assert refusal(found, by, NOON) is not None
    for field in fields(ManagedDevice):
        if field.name != "id":
            assert refusal(replace(found, managed=without(found.managed, field.name)), by, NOON) is not None, field.name
    for part in ("entra", "autopilot", "groups"):
        if getattr(found, part) is not None:
            assert refusal(replace(found, **{part: None}), by, NOON) is not None, part  # type: ignore[arg-type]


RIGHT = {
    "operating_system": {"windows"},
    "management_state": {"managed"},
    "management_agent": {"mdm", "easmdm"},
    "join_type": {"azureadjoined"},
}


@given(st.sampled_from(sorted(RIGHT)), st.text())
def test_s2_an_unknown_word_where_one_is_expected_is_refused(field: str, word: str) -> None:
    found = facts(replace(managed(), **{field: word}))  # type: ignore[arg-type]  # each of these is a text
    assert (refusal(found, POLICY, NOON) is None) == (word.lower() in RIGHT[field])


@given(st.text())
def test_s2_an_unknown_trust_type_is_refused(word: str) -> None:
    assert (code(joined(word, "azureADJoined")) is None) == (word.lower() == "azuread")


@given(st.text() | st.from_regex(r"\A[0-9]{1,12}(\.[0-9]{1,12}){0,4}\Z"))
def test_s2_a_version_that_is_not_of_windows_10_or_11_is_refused(version: str) -> None:
    if code(facts(managed(os_version=version))) is None:
        assert version.startswith("10.0.")
        assert int(version.split(".")[2][:9]) >= 17763


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_model_and_maker_are_judged_without_a_fault(model: str, maker: str) -> None:
    assert code(facts(managed(model=model, manufacturer=maker))) in (
        None,
        Code.CLOUD_PC,
        Code.UNSUPPORTED_WINDOWS,
        Code.VIRTUAL_MACHINE,
    )


@given(st.lists(st.sampled_from(["LAB3-01", "SN-0001", DEVICE, ENTRA, "lab*", "*1", "OTHER", "SN[0-9]*"]), min_size=1))
def test_the_verdict_does_not_depend_on_the_order_of_a_list(entries: list[str]) -> None:
    one, other = policy(protected_devices=entries), policy(protected_devices=entries[::-1])
    assert refusal(facts(), one, NOON) == refusal(facts(), other, NOON)


# --- who asks -----------------------------------------------------------------------------------------------------

TEACHER = "Teacher@school.example"
IN_LAB_3 = facts(autopilot=autopilot(tag="LAB-3"))


def scoped(*scopes: dict[str, object]) -> Policy:
    return policy(requesters=list(scopes))


def test_where_the_policy_names_no_requesters_everybody_may_ask() -> None:
    assert requester_refusal("anybody", facts(), POLICY) is None
    assert not is_unknown("anybody", POLICY)


def test_s15_somebody_whom_the_policy_does_not_name_may_not_ask() -> None:
    naming = scoped({"name": "teacher@school.example"})
    assert requester_refusal("pupil@school.example", facts(), naming) == Reason(Code.UNKNOWN_REQUESTER)
    assert is_unknown("pupil@school.example", naming)


@pytest.mark.parametrize("name", ["teacher@school.example", " TEACHER@school.example", "*@school.example", "t?acher@*"])
def test_a_requester_is_known_by_sign_in_name_in_any_case_or_by_a_pattern(name: str) -> None:
    naming = scoped({"name": name})
    assert requester_refusal(TEACHER, facts(), naming) is None
    assert not is_unknown(TEACHER, naming)


def test_a_bracket_in_a_requesters_name_is_no_pattern() -> None:
    assert is_unknown("a@school.example", scoped({"name": "[a]@school.example"}))


@pytest.mark.parametrize(
    "scope",
    [
        {},
        {"group_tags": ["lab-*"]},
        {"devices": ["LAB3-*"]},
        {"devices": ["sn-0001"]},
        {"groups": [GROUP]},
        {"group_tags": ["OTHER"], "devices": ["LAB3-01"]},
    ],
    ids=["all devices", "by tag", "by name", "by serial number", "by group", "by any of them"],
)
def test_a_requester_may_ask_for_the_devices_of_their_scope(scope: dict[str, object]) -> None:
    found = replace(IN_LAB_3, groups=frozenset({GROUP}))
    assert requester_refusal(TEACHER, found, scoped({"name": "teacher@*", **scope})) is None


@pytest.mark.parametrize("scope", [{"group_tags": ["LAB-4"]}, {"devices": ["LAB4-*"]}, {"groups": [OTHER_GROUP]}])
def test_s15_a_requester_may_not_ask_for_a_device_out_of_their_scope(scope: dict[str, object]) -> None:
    found = replace(IN_LAB_3, groups=frozenset({GROUP}))
    reason = requester_refusal(TEACHER, found, scoped({"name": "teacher@*", **scope}))
    assert reason == Reason(Code.OUT_OF_SCOPE, "Its group tag is LAB-3.")


@pytest.mark.parametrize("found", [facts(autopilot=autopilot(tag=None)), facts(autopilot=None)])
def test_a_device_without_a_group_tag_is_in_no_scope_of_tags(found: DeviceFacts) -> None:
    reason = requester_refusal(TEACHER, found, scoped({"name": "*", "group_tags": ["*"]}))
    assert reason == Reason(Code.OUT_OF_SCOPE, "It has no group tag.")


def test_the_scopes_of_one_requester_add_up_and_those_of_others_do_not() -> None:
    scopes = scoped(
        {"name": "teacher@*", "group_tags": ["LAB-4"]},
        {"name": "*@school.example", "group_tags": ["LAB-3"]},
        {"name": "admin@*"},
    )
    assert requester_refusal(TEACHER, IN_LAB_3, scopes) is None
    other = facts(autopilot=autopilot(tag="LAB-5"))
    assert requester_refusal(TEACHER, other, scopes) == Reason(Code.OUT_OF_SCOPE, "Its group tag is LAB-5.")


def test_s15_a_scope_by_group_holds_no_device_whose_groups_are_not_known() -> None:
    naming = scoped({"name": "teacher@*", "group_tags": ["LAB-4"], "groups": [GROUP]})
    assert requester_refusal(TEACHER, IN_LAB_3, naming) == Reason(Code.GROUPS_UNKNOWN)
    assert requester_refusal(TEACHER, facts(autopilot=autopilot(tag="LAB-4")), naming) is None


@given(
    st.lists(
        st.builds(
            RequesterScope,
            name=st.sampled_from(["teacher@*", "admin@*", "*"]),
            group_tags=st.frozensets(st.sampled_from(["LAB-3", "LAB-4", "*"]), max_size=2),
            devices=st.frozensets(st.sampled_from(["LAB3-*", "SN-0002"]), max_size=2),
            groups=st.frozensets(st.sampled_from([GROUP, OTHER_GROUP]), max_size=2),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_s15_a_device_of_which_less_is_known_is_never_in_more_scopes(scopes: list[RequesterScope]) -> None:
    naming = Policy(requesters=tuple(scopes))
    known = replace(IN_LAB_3, groups=frozenset({GROUP}))
    for less in (
        replace(known, groups=None),
        replace(known, autopilot=None),
        replace(known, managed=without(known.managed, "name", "serial_number")),
    ):
        if requester_refusal(TEACHER, known, naming) is not None:
            assert requester_refusal(TEACHER, less, naming) is not None


# --- the same device ----------------------------------------------------------------------------------------------


def test_s1_a_record_read_again_is_of_the_same_device_while_serial_number_and_entra_id_stay() -> None:
    assert same_device(managed(), managed(name="renamed", primary_user=NOBODY))
    assert not same_device(managed(), managed(serial_number="SN-0002"))
    assert not same_device(managed(), managed(entra_device_id=OTHER_ENTRA))


@pytest.mark.parametrize(
    ("then", "now", "expected"),
    [
        (managed(), managed(), False),
        (managed(), managed(primary_user=UserId(USER.upper())), False),
        (managed(), managed(primary_user=NEXT_USER), True),
        (managed(primary_user=NOBODY), managed(primary_user=NEXT_USER), True),
        (managed(), managed(primary_user=NOBODY), False),
        (managed(), managed(primary_user=None), False),
        (managed(), managed(enrolled_at=ENROLLED + timedelta(seconds=1)), False),
        (managed(), managed(enrolled_at=ENROLLED + timedelta(seconds=1.1)), True),
        (managed(), managed(enrolled_at=ENROLLED - timedelta(days=1)), True),
        (managed(enrolled_at=None), managed(), False),
        (managed(), managed(enrolled_at=None), False),
        (managed(enrolled_at=None), managed(primary_user=NEXT_USER), True),
    ],
    ids=[
        "as it was",
        "user spelt otherwise",
        "another user",
        "a first user",
        "no user any more",
        "user not shown",
        "instant cut to the second",
        "enrolled anew",
        "enrolled at another time",
        "enrolment not shown then",
        "enrolment not shown now",
        "another user, enrolment not shown",
    ],
)
def test_s14_a_device_was_handed_on_when_it_has_another_user_or_was_enrolled_anew(
    then: ManagedDevice, now: ManagedDevice, expected: bool
) -> None:
    assert handed_on(then, now) is expected


# --- evidence -----------------------------------------------------------------------------------------------------


def test_s1_evidence_shows_what_was_looked_at_and_when() -> None:
    found = replace(facts(managed(pending_actions=("quickScan", "reboot"))), groups=frozenset({GROUP}))
    assert seen(found) == {
        "readAt": NOON.isoformat(),
        "lastCheckIn": LAST_SYNC.isoformat(),
        "enrolledAt": ENROLLED.isoformat(),
        "managementState": "managed",
        "managementAgent": "mdm",
        "pendingActions": "quickScan, reboot",
        "operatingSystem": "Windows",
        "osVersion": "10.0.22631.4460",
        "edition": "Enterprise",
        "manufacturer": "Dell Inc.",
        "model": "Latitude 7440",
        "joinType": "azureADJoined",
        "trustType": "AzureAd",
        "entraEnabled": "yes",
        "groupTag": "LAB-3",
        "watchedGroups": "1",
        "primaryUser": "yes",
    }


def test_evidence_tells_what_is_not_so_from_what_was_not_shown() -> None:
    bare = seen(facts(managed(primary_user=NOBODY, pending_actions=()), entra=entra(enabled=False), autopilot=None))
    assert (bare["primaryUser"], bare["pendingActions"], bare["entraEnabled"]) == ("no", "none", "no")
    assert (bare["groupTag"], bare["watchedGroups"]) == ("not registered", "not shown")
    blank = seen(facts(without(managed(), *NEEDED, *MAY_BE_MISSING), entra=None, autopilot=autopilot(tag=None)))
    assert (blank["trustType"], blank["entraEnabled"], blank["groupTag"]) == ("no record", "no record", "none")
    assert {blank["primaryUser"], blank["lastCheckIn"], blank["pendingActions"], blank["model"]} == {"not shown"}
    assert seen(facts(entra=entra(enabled=None)))["entraEnabled"] == "not shown"


@pytest.mark.parametrize("name", WRONG)
def test_evidence_is_short_and_names_no_person_and_no_device(name: str) -> None:
    shown = seen(replace(WRONG[name][0], groups=frozenset({GROUP})))
    assert not {USER, DEVICE, ENTRA, "LAB3-01", "SN-0001", GROUP} & set(shown.values())
    assert max(map(len, seen(facts(managed(model="M" * 5000))).values())) <= 80
