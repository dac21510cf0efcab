"""The JSON of the three records, the users and the audits: as made for a scenario, and as shown under the quirks."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Literal

from sandbox.graph_schema.schema import Version
from sandbox.tenant.devices import ID_NAMESPACE, ActionResult, Device, IntuneRecord, Json, Records, User
from sandbox.tenant.quirks import UNPUBLISHED, Quirks
from sandbox.tenant.schema import (
    AUTOPILOT_IDENTITY,
    AUTOPILOT_IDENTITY_BETA,
    ENTRA_DEVICE,
    ENTRA_DEVICE_BETA,
    MANAGED_DEVICE,
)
from sandbox.tenant.schema import MANAGED_DEVICE_BETA as BETA

type Join = Literal["entra", "hybrid", "registered"]

NEVER = "0001-01-01T00:00:00Z"
NO_ID = "00000000-0000-0000-0000-000000000000"

ONLY_WHEN_SELECTED = frozenset(
    {
        "activationLockBypassCode",
        "ethernetMacAddress",
        "iccid",
        "notes",
        "physicalMemoryInBytes",
        "remoteAssistanceSessionUrl",
        "udid",
    }
)
"""Empty unless a single device is read with the property in $select (as the metadata's descriptions say)."""

SWAPPED = {
    "emailAddress": "",
    "userDisplayName": "",
    "userId": "",
    "userPrincipalName": "",
    "subscriberCarrier": "",
    "phoneNumber": "",
    "jailBroken": "Unknown",
    "deviceCategoryDisplayName": "Unknown",
}
"""How an absent string looks in a list; in a single read it is null."""

HIDDEN = frozenset({"userId", "userPrincipalName", "userDisplayName", "emailAddress", "managementState"})
"""What lists leave out under `list_hides`."""

_MANAGED_DEFAULTS: Json = {
    "managedDeviceOwnerType": "company",
    "deviceRegistrationState": "registered",
    "complianceState": "compliant",
    "jailBroken": None,
    "easActivated": False,
    "azureADRegistered": True,  # true on joined, hybrid, registered and even Android devices
    "isSupervised": False,
    "isEncrypted": True,
    "exchangeAccessState": "none",
    "exchangeAccessStateReason": "none",
    "partnerReportedThreatState": "unknown",
    "enrollmentProfileName": None,
    "totalStorageSpaceInBytes": 255_013_683_200,
    "freeStorageSpaceInBytes": 181_193_932_800,
    "requireUserEnrollmentApproval": None,
    "notes": None,
    "physicalMemoryInBytes": 17_179_869_184,
}


@dataclass(frozen=True, slots=True)
class Shown:
    """What a scenario says that Intune shows of a device, whatever it is in truth."""

    manufacturer: str = "Contoso Devices"
    os: str = "Windows"
    os_version: str = "10.0.26100.4349"
    sku_family: str = "Enterprise"
    management_agent: str = "mdm"
    join_type: str | None = None
    """None: as it is joined."""
    unsettled: tuple[tuple[str, str, timedelta], ...] = ()
    """Actions that were never settled: name, state and age."""


PLAIN = Shown()


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What a scenario says of a device's records; the rest is made up, the same in every run."""

    scenario: str
    serial: str
    name: str
    ordinal: int
    """Its place in the fleet, by which quirks vary."""
    copy: int
    """How many devices before it have the same serial number: some serial numbers identify nothing."""
    model: str
    join: Join
    group_tag: str
    enrolled: bool
    autopilot: bool
    user: str
    start: datetime
    shown: Shown = PLAIN

    def id(self, kind: str) -> str:
        return str(uuid.uuid5(ID_NAMESPACE, f"{self.scenario}/{self.serial}/{self.copy}/{kind}"))


def make_records(plan: Blueprint) -> Records:
    """Make the three records of a device that has been in use for a while; never two the same id."""
    user = User.named(plan.user) if plan.user else None
    trust = {"entra": "AzureAd", "hybrid": "ServerAd", "registered": "Workplace"}[plan.join]
    joined = {"entra": "azureADJoined", "hybrid": "hybridAzureADJoined", "registered": "azureADRegistered"}[plan.join]
    enrollment = {
        "entra": "windowsAzureADJoin",
        "hybrid": "windowsAutoEnrollment",
        "registered": "userEnrollment",
    }[plan.join]
    since = plan.start - timedelta(days=400 + plan.ordinal % 90, hours=plan.ordinal % 24)
    managed: Json = {
        **_MANAGED_DEFAULTS,
        "id": plan.id("intune"),
        "deviceName": plan.name,
        "managedDeviceName": f"{(user.name.split('@')[0] if user else plan.name)}_Windows_{plan.ordinal}",
        "serialNumber": plan.serial,
        "model": plan.model,
        "manufacturer": plan.shown.manufacturer,
        "operatingSystem": plan.shown.os,
        "osVersion": plan.shown.os_version,
        "managementAgent": plan.shown.management_agent,
        "azureADDeviceId": plan.id("entra-device"),
        "deviceEnrollmentType": enrollment,
        "enrolledDateTime": exact(since),
        "managedDeviceOwnerType": "personal" if plan.join == "registered" else "company",
        "managementCertificateExpirationDate": exact(plan.start + timedelta(days=200)),
        "wiFiMacAddress": f"{plan.ordinal:012X}",
        "ethernetMacAddress": f"{plan.ordinal + 0x10_0000:012X}",
        "deviceActionResults": old_actions(plan, since),
        **user_properties(user),
    }
    entra: Json = {
        "id": plan.id("entra-object"),
        "deviceId": plan.id("entra-device"),
        "deletedDateTime": None,
        "accountEnabled": True,
        "displayName": plan.name,
        "trustType": trust,
        "profileType": "RegisteredDevice",
        "operatingSystem": plan.shown.os,
        "operatingSystemVersion": plan.shown.os_version,
        "isManaged": plan.enrolled,
        "isCompliant": plan.enrolled,
        "managementType": "MDM" if plan.enrolled else None,
        "mdmAppId": "0000000a-0000-0000-c000-000000000000" if plan.enrolled else None,
        "deviceOwnership": "Personal" if plan.join == "registered" else "Company",
        "enrollmentType": "AzureDomainJoined" if plan.join == "entra" else None,
        "manufacturer": plan.shown.manufacturer,
        "model": plan.model,
        "deviceVersion": 2,
        "onPremisesSyncEnabled": True if plan.join == "hybrid" else None,
        "registrationDateTime": exact(since)[:19] + "Z",
        "approximateLastSignInDateTime": exact(plan.start - timedelta(days=9))[:19] + "Z",
        "physicalIds": [f"[OrderId]:{plan.group_tag}"] if plan.autopilot and plan.group_tag else [],
        "systemLabels": [],
        "alternativeSecurityIds": [],
    }
    identity: Json = {
        "id": plan.id("autopilot"),
        "groupTag": plan.group_tag,
        "purchaseOrderIdentifier": "",
        "serialNumber": plan.serial,
        "productKey": "",
        "manufacturer": plan.shown.manufacturer,
        "model": plan.model,
        "enrollmentState": "enrolled" if plan.enrolled else "notContacted",
        "lastContactedDateTime": exact(plan.start - timedelta(days=3)) if plan.enrolled else NEVER,
        "addressableUserName": "",
        "userPrincipalName": "",
        "resourceName": "",
        "skuNumber": "",
        "systemFamily": plan.model,
        "azureActiveDirectoryDeviceId": plan.id("entra-device"),
        "managedDeviceId": plan.id("intune") if plan.enrolled else NO_ID,
        "displayName": "",
    }
    beta: Json = {
        "joinType": plan.shown.join_type or joined,
        "autopilotEnrolled": plan.autopilot and plan.join != "registered",
        "skuFamily": plan.shown.sku_family,
        "skuNumber": 4,
        "chassisType": "laptop",
        "deviceType": "windowsRT",
        "ownerType": managed["managedDeviceOwnerType"],
        "lostModeState": "disabled",
        "processorArchitecture": "x64",
        "roleScopeTagIds": ["0"],
        "usersLoggedOn": [],
    }
    return Records(managed if plan.enrolled else None, entra, identity if plan.autopilot else None, beta)


def old_actions(plan: Blueprint, since: datetime) -> list[Json]:
    """Actions of before the start, some of them resets: proof of nothing that happens now."""
    done = [("factoryReset", 300), ("quickScan", 120), ("remoteLock", 60), ("quickScan", 20)]
    results: list[Json] = []
    for name, days in done[plan.ordinal % 2 :]:
        at = max(since, plan.start - timedelta(days=days))
        results.append(_action_json(ActionResult(name, "done", at, at + timedelta(minutes=4))))
    for name, state, age in plan.shown.unsettled:
        at = plan.start - age
        results.append({**_action_json(ActionResult(name, "pending", at, at)), "actionState": state})
    return results


@cache
def user_properties(user: User | None) -> Json:
    """The properties of a managedDevice that name its primary user; all absent without one."""
    if user is None:
        return dict.fromkeys(("userId", "userPrincipalName", "userDisplayName", "emailAddress"))
    display = user.name.split("@")[0].replace(".", " ").title()
    return {
        "userId": user.id,
        "userPrincipalName": user.name,
        "userDisplayName": display,
        "emailAddress": user.name,
    }


def intune_record(managed: Json, last_sync_at: datetime | None = None) -> IntuneRecord:
    """Read the moving part out of a managedDevice; raises KeyError or ValueError when it cannot be one."""
    name, user_id = managed.get("userPrincipalName"), managed.get("userId")
    user = User.named(str(name)) if name else None
    if user is not None and user_id:
        user = User(str(user_id), user.name)
    enrolled = instant(managed.get("enrolledDateTime"))
    return IntuneRecord(
        id=str(managed["id"]).lower(),
        user=user,
        enrolled_at=enrolled,
        last_sync_at=last_sync_at or instant(managed.get("lastSyncDateTime")),
        management_state=str(managed.get("managementState") or "managed"),
    )


# How records are shown.


def managed_device(
    device: Device,
    record: IntuneRecord,
    quirks: Quirks,
    version: Version,
    *,
    listing: bool,
    select: tuple[str, ...] = (),
) -> Json:
    """A managedDevice as Graph shows it: in a list or alone, with the properties selected or all of the version's."""
    known = MANAGED_DEVICE if version == "v1.0" else BETA
    names = select or tuple(known)
    source = device.records.managed_device or {}
    moving: Json = {
        "id": record.id,
        "enrolledDateTime": record.enrolled_at + quirks.clock_offset,
        "lastSyncDateTime": record.last_sync_at + quirks.clock_offset,
        "managementState": record.management_state,
        **user_properties(record.user),
    }
    shown: Json = {}
    for name in names:
        value = moving[name] if name in moving else source.get(name, device.records.managed_device_beta.get(name))
        shown[name] = _shown_value(name, value, known[name], device, record, quirks, listing, name in select)
    return shown


def _shown_value(
    name: str,
    value: object,
    kind: str,
    device: Device,
    record: IntuneRecord,
    quirks: Quirks,
    listing: bool,
    selected: bool,
) -> object:
    if name in HIDDEN and listing and quirks.list_hides:
        value = None
    if name == "deviceActionResults":
        return [] if listing and quirks.list_without_action_results else action_results(device, record, quirks)
    if isinstance(value, datetime):
        return seconds(value) if listing and quirks.list_seconds_only else exact(value)
    if name in ONLY_WHEN_SELECTED and (listing or not selected):
        return 0 if kind == "Int64" else None
    if value is None and kind == "Collection":
        return []
    if value is None and kind == "DateTimeOffset":
        if not quirks.never_dates:
            return None
        if name == "complianceGracePeriodExpirationDateTime":
            return "9999-12-31T23:59:59Z" if listing else "9999-12-31T23:59:59.9999999Z"
        return NEVER
    if kind == "DateTimeOffset" and listing and quirks.list_seconds_only and isinstance(value, str):
        return seconds(instant(value))
    if not value and name in SWAPPED and quirks.null_swaps:
        return SWAPPED[name] if listing else None
    if name == "joinType" and quirks.join_type != "right" and device.ordinal % 5 == 3:
        before = {"azureADJoined": "azureADRegistered"}.get(str(value), "azureADJoined")
        return "unknown" if quirks.join_type == "unknown" else before
    if name in UNPUBLISHED and quirks.strange_enum_members and device.ordinal % 5 == 4:
        return UNPUBLISHED[name][0]
    return value


def action_results(device: Device, record: IntuneRecord, quirks: Quirks) -> list[Json]:
    """deviceActionResults: what has piled up, then what happened since the start."""
    source = device.records.managed_device or {}
    old = source.get("deviceActionResults") if str(source.get("id")).lower() == record.id else None
    results: list[Json] = [dict(result) for result in old if isinstance(result, dict)] if isinstance(old, list) else []
    if not quirks.old_action_results:
        results = [result for result in results if result.get("actionState") in ("pending", "active")]
    results += [_action_json(action, quirks.clock_offset) for action in record.actions]
    if quirks.untyped_action_results:
        for result in results[1::2]:
            result.pop("@odata.type", None)
    return results


def _action_json(action: ActionResult, offset: timedelta = timedelta()) -> Json:
    return {
        "@odata.type": "#microsoft.graph.deviceActionResult",
        "actionName": action.name,
        "actionState": action.state,
        "startDateTime": exact(action.started_at + offset),
        "lastUpdatedDateTime": exact(action.updated_at + offset),
    }


def managed_device_stub(record_id: str, version: Version) -> Json:
    """What a read of a vanished record may answer with 200: nothing but defaults."""
    known = MANAGED_DEVICE if version == "v1.0" else BETA
    stub: Json = {name: NEVER if kind == "DateTimeOffset" else None for name, kind in known.items()}
    return {**stub, "id": record_id, "managementState": "managed", "deviceActionResults": []}


def entra_device(device: Device, version: Version) -> Json | None:
    """The Entra device with all properties of the version."""
    source = device.records.entra_device
    known = ENTRA_DEVICE if version == "v1.0" else ENTRA_DEVICE_BETA
    if source is None:
        return None
    return {name: source.get(name, [] if kind == "Collection" else None) for name, kind in known.items()}


def autopilot_identity(
    device: Device, record: IntuneRecord | None, quirks: Quirks, version: Version, *, listing: bool
) -> Json | None:
    """The Autopilot identity; under odd_autopilot_links its links to the other records cannot be trusted."""
    source = device.records.autopilot_identity
    if source is None:
        return None
    known = AUTOPILOT_IDENTITY if version == "v1.0" else AUTOPILOT_IDENTITY_BETA
    shown = {name: source.get(name) for name in known}
    moved = record is not None and record.id != str((device.records.managed_device or {}).get("id", "")).lower()
    if record is None and device.records.managed_device is not None:
        shown["enrollmentState"] = "notContacted"
    if record is not None and moved:
        shown["managedDeviceId"] = record.id
    if quirks.odd_autopilot_links:
        odd = {1: NO_ID, 3: None, 5: "", 6: str(uuid.uuid5(ID_NAMESPACE, f"deleted/{device.serial}"))}
        if device.ordinal % 7 in odd:
            shown["managedDeviceId"] = odd[device.ordinal % 7]
        if device.ordinal % 7 in (2, 3):
            shown |= {"enrollmentState": "notContacted", "lastContactedDateTime": NEVER}
    shown["serialNumber"] = autopilot_serial(device, quirks)
    if shown.get("lastContactedDateTime") is None:
        shown["lastContactedDateTime"] = NEVER
    elif listing and quirks.list_seconds_only:
        shown["lastContactedDateTime"] = seconds(instant(shown["lastContactedDateTime"]))
    if version == "beta":
        shown["azureAdDeviceId"] = shown["azureActiveDirectoryDeviceId"]
        shown["deploymentProfileAssignmentStatus"] = "assignedInSync"
        shown["userlessEnrollmentStatus"] = "unknown"
    return shown


def autopilot_serial(device: Device, quirks: Quirks) -> object:
    """The serial number as the Autopilot identity shows it."""
    serial = (device.records.autopilot_identity or {}).get("serialNumber")
    return f"{serial} " if quirks.serial_oddities and device.ordinal % 8 == 5 else serial


def user_json(user: User) -> Json:
    """The few properties by which GET managedDevices/{id}/users names the primary user."""
    properties = user_properties(user)
    return {
        "id": user.id,
        "displayName": properties["userDisplayName"],
        "mail": user.name,
        "userPrincipalName": user.name,
    }


# Instants. Lists show the same ones again and again.

SHOWN_AGAIN = 10_000


@lru_cache(SHOWN_AGAIN)
def exact(at: datetime) -> str:
    """An instant with seven digits, as a single read shows it."""
    at = at.astimezone(UTC)
    return f"{at.isoformat(timespec='microseconds')[:26]}{at.microsecond % 10}Z"


@lru_cache(SHOWN_AGAIN)
def seconds(at: datetime) -> str:
    """An instant cut to the second, as lists show it."""
    return f"{at.astimezone(UTC).isoformat(timespec='seconds')[:19]}Z"


def instant(text: object) -> datetime:
    """Read Graph's instants; year 1 when there is none. Raises ValueError for anything else."""
    if text is None or text == "":
        return datetime(1, 1, 1, tzinfo=UTC)
    at = datetime.fromisoformat(str(text))
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
