"""What Graph writes, read into records: pure functions over one JSON object each.

They bear what Graph is known to send: fields that are missing, null or of another type, enum members beyond the
published ones, dates of year 1 for "never", all-zero GUIDs for "none". Only a record that does not say which it is
raises UnreadableRecordError. Nothing here logs a value: values may be personal.
"""

import logging
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from shared.domain.devices import (
    ActionResult,
    ActionState,
    AuditedAction,
    AutopilotIdentity,
    EntraDevice,
    ManagedDevice,
    Sighting,
)
from shared.domain.ids import EntraDeviceId, ManagedDeviceId, UserId
from shared.domain.orders import AdminDecision

type JsonObject = Mapping[str, object]

_log = logging.getLogger(__name__)

_GUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NO_GUID = "00000000-0000-0000-0000-000000000000"
_EARLIEST_YEAR = 1601
"""Azure tables hold nothing earlier, and no device has."""
_LONGEST = 1_000
"""Characters of one text; nothing in Intune has more, and a row must hold a whole record."""
_LATEST_YEAR = 9999
"""What Graph writes for "without end": no instant either."""


def _spellings(members: Iterable[str]) -> Mapping[str, str]:
    return {member.casefold(): member for member in members}


_JOIN_TYPES = _spellings(("azureADJoined", "azureADRegistered", "hybridAzureADJoined"))
"""The members of joinType that say something (Graph beta)."""
_AGENTS = _spellings(
    (
        *("eas", "mdm", "easMdm", "intuneClient", "easIntuneClient", "configurationManagerClient"),
        *("configurationManagerClientMdm", "configurationManagerClientMdmEas", "jamf", "msSense", "google"),
        *("googleCloudDevicePolicyController", "microsoft365ManagedMdm", "intuneAosp"),
    )
)
"""The members of managementAgentType that say something (Graph beta)."""
_SETTLED = (ActionState.NONE, ActionState.DONE, ActionState.FAILED, ActionState.CANCELED, ActionState.NOT_SUPPORTED)
"""States in which nothing of an action is still to come."""


class UnreadableRecordError(ValueError):
    """A record without the id that says which one it is, or with a name that is none."""


def guid(value: object) -> str | None:
    """Give a GUID in lower case; None for anything that is none, and for the all-zero GUID."""
    if not isinstance(value, str):
        return None
    text = value.strip().lower()
    return text if _GUID.fullmatch(text) and text != _NO_GUID else None


def text(record: JsonObject, field: str) -> str | None:
    """Give a text without blanks around it; None when missing, empty, too long to be kept, or no text."""
    value = record.get(field)
    if not isinstance(value, str) or len(value) > _LONGEST:
        return None
    # JSON can carry half a surrogate pair, which no URL and no table can.
    return value.encode("utf-8", "replace").decode("utf-8").strip() or None


def name(record: JsonObject, field: str) -> str | None:
    """Give a text as `text` does, by which a device may be named or protected.

    Raises UnreadableRecordError where it is too long: left out, it would protect no longer; cut, it could be another's.
    """
    value = record.get(field)
    if isinstance(value, str) and len(value) > _LONGEST:
        raise UnreadableRecordError(f"a record whose {field} is longer than {_LONGEST} characters")
    return text(record, field)


def instant(record: JsonObject, field: str) -> datetime | None:
    """Give an instant in UTC; None for "never" (year 1), "without end" (year 9999), and what is no date.

    Graph writes 0 to 7 digits of a second's fraction; what is finer than a microsecond is cut off.
    """
    value = record.get(field)
    if value is None or value == "":
        return None
    try:
        if not isinstance(value, str):
            raise TypeError
        parsed = datetime.fromisoformat(value)
        # Before the conversion, which overflows at both ends of the calendar.
        if not _EARLIEST_YEAR <= parsed.year < _LATEST_YEAR:
            return None
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        _log.warning("Graph sent a %s that is no date; it is taken as not told", field)
        return None


def primary_user(record: JsonObject) -> UserId | None:
    """Give the primary user's id: empty where Graph says that there is none, None where it does not say."""
    if "userId" not in record:
        return None
    value = record["userId"]
    if value is None or (isinstance(value, str) and value.strip() in ("", _NO_GUID)):
        return UserId("")
    user = text(record, "userId")
    return UserId(user) if user is not None else None


def managed_device(record: JsonObject, *, alone: bool = False) -> ManagedDevice:
    """Decode a `managedDevice`: one of a list, or one that was read alone, by its id.

    Only the latter tells by an empty `deviceActionResults` that nothing is pending: lists always leave it empty. Raises
    UnreadableRecordError without a GUID as id, or with a name that is too long.
    """
    entra = guid(record.get("azureADDeviceId"))
    return ManagedDevice(
        id=_managed_id(record, "id"),
        name=name(record, "deviceName"),
        serial_number=name(record, "serialNumber"),
        entra_device_id=EntraDeviceId(entra) if entra else None,
        operating_system=_word(record, "operatingSystem"),
        last_sync=instant(record, "lastSyncDateTime"),
        enrolled_at=instant(record, "enrolledDateTime"),
        management_state=_word(record, "managementState"),
        primary_user=primary_user(record),
        model=_word(record, "model"),
        manufacturer=_word(record, "manufacturer"),
        join_type=_member(record, "joinType", _JOIN_TYPES),
        os_version=_word(record, "osVersion"),
        sku_family=_word(record, "skuFamily"),
        management_agent=_member(record, "managementAgent", _AGENTS),
        pending_actions=_pending(record, alone=alone),
    )


def entra_device(record: JsonObject) -> EntraDevice:
    """Decode a `device`. Raises UnreadableRecordError without a GUID as deviceId."""
    device_id = guid(record.get("deviceId"))
    if device_id is None:
        raise UnreadableRecordError("an Entra device without a deviceId")
    enabled = record.get("accountEnabled")
    return EntraDevice(
        device_id=EntraDeviceId(device_id),
        trust_type=text(record, "trustType"),
        account_enabled=enabled if isinstance(enabled, bool) else None,
    )


def autopilot_identity(record: JsonObject) -> AutopilotIdentity:
    """Decode a `windowsAutopilotDeviceIdentity`, in either spelling of its Entra id.

    Raises UnreadableRecordError without an id, or with a name that is too long.
    """
    identity = text(record, "id")
    if identity is None:
        raise UnreadableRecordError("an Autopilot device identity without an id")
    managed = guid(record.get("managedDeviceId"))
    entra = guid(record.get("azureActiveDirectoryDeviceId")) or guid(record.get("azureAdDeviceId"))
    return AutopilotIdentity(
        id=identity,
        serial_number=name(record, "serialNumber"),
        group_tag=name(record, "groupTag"),
        managed_device_id=ManagedDeviceId(managed) if managed else None,
        entra_device_id=EntraDeviceId(entra) if entra else None,
        enrollment_state=text(record, "enrollmentState"),
    )


def sighting(record: JsonObject, seen_at: datetime) -> Sighting:
    """Decode a `managedDevice` with its actions. Raises UnreadableRecordError without a GUID as id."""
    entra = guid(record.get("azureADDeviceId"))
    return Sighting(
        device=_managed_id(record, "id"),
        seen_at=seen_at,
        exists=True,
        last_sync=_whole_second(record, "lastSyncDateTime"),
        management_state=text(record, "managementState"),
        primary_user=primary_user(record),
        actions=_actions(record),
        entra_device_id=EntraDeviceId(entra) if entra else None,
        enrolled_at=instant(record, "enrolledDateTime"),
    )


def listed(record: JsonObject, seen_at: datetime) -> Sighting:
    """Decode a `managedDevice` of a list of check-ins; that it names no user is no news.

    Raises UnreadableRecordError without a GUID as id.
    """
    return Sighting(
        device=_managed_id(record, "id"),
        seen_at=seen_at,
        exists=True,
        last_sync=_whole_second(record, "lastSyncDateTime"),
        management_state=text(record, "managementState"),
        primary_user=primary_user(record) or None,
        listed=True,
    )


def windows_count(record: JsonObject) -> int | None:
    """Give the number of Windows devices of a `managedDeviceOverview`; None where it does not tell."""
    summary = record.get("deviceOperatingSystemSummary")
    count = summary.get("windowsCount") if isinstance(summary, Mapping) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def audited_action(record: JsonObject) -> AuditedAction | None:
    """Decode a `remoteActionAudit`; None for one that does not tell its device, its action or its time."""
    device, action, at = guid(record.get("managedDeviceId")), text(record, "action"), instant(record, "requestDateTime")
    if device is None or action is None or at is None:
        return None
    return AuditedAction(ManagedDeviceId(device), action, at)


_DECISIONS = {
    "needsapproval": AdminDecision.WAITING,
    "approved": AdminDecision.APPROVED,
    "rejected": AdminDecision.REJECTED,
    "cancelled": AdminDecision.CANCELLED,
    "canceled": AdminDecision.CANCELLED,  # as the admin centre spells it
    "expired": AdminDecision.EXPIRED,
    "completed": AdminDecision.COMPLETED,
}


def admin_decision(record: JsonObject) -> tuple[frozenset[str], AdminDecision]:
    """Decode an `operationApprovalRequest` (beta): what may be its code, in lower case, and what became of it."""
    names = (text(record, name) for name in ("id", "requestId"))
    status = (text(record, "status") or "").lower()
    return frozenset(name.lower() for name in names if name), _DECISIONS.get(status, AdminDecision.UNKNOWN)


def _whole_second(record: JsonObject, field: str) -> datetime | None:
    at = instant(record, field)
    return None if at is None else at.replace(microsecond=0)


def _managed_id(record: JsonObject, field: str) -> ManagedDeviceId:
    device = guid(record.get(field))
    if device is None:
        raise UnreadableRecordError("a managed device without an id")
    return ManagedDeviceId(device)


def _actions(record: JsonObject) -> tuple[ActionResult, ...] | None:
    results = record.get("deviceActionResults")
    if not isinstance(results, list):
        return None
    return tuple(
        ActionResult(
            name=text(result, "actionName"),
            state=_action_state(result.get("actionState")),
            started_at=instant(result, "startDateTime"),
            updated_at=instant(result, "lastUpdatedDateTime"),
        )
        for result in results
        if isinstance(result, Mapping)
    )


def _pending(record: JsonObject, *, alone: bool) -> tuple[str, ...] | None:
    """Give the names of the actions that are pending or active; None where the record cannot tell.

    However old: Intune was seen to leave results pending for ever, but a device that was off for months takes its
    orders when it is back, and nothing tells the two apart. An action of a state that is not known counts as pending,
    since nothing says that it is over.
    """
    actions = _actions(record)
    if actions is None or not (actions or alone):
        return None
    return tuple(action.name or "unnamed" for action in actions if action.state not in _SETTLED)


def _word(record: JsonObject, field: str) -> str | None:
    """Give a text that many devices share, kept once for all of them; None also for "Unknown", which lists write."""
    value = text(record, field)
    return sys.intern(value) if value is not None and value.casefold() != "unknown" else None


def _member(record: JsonObject, field: str, known: Mapping[str, str]) -> str | None:
    """Give a published member of an enumeration; None for any other, which says nothing that can be relied upon."""
    value = text(record, field)
    return known.get(value.casefold()) if value is not None else None


def _action_state(value: object) -> ActionState:
    try:
        return ActionState(value) if isinstance(value, str) else ActionState.UNKNOWN
    except ValueError:
        return ActionState.UNKNOWN
