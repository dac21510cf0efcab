"""What Graph tells about a device: three records, read at a known time.

A field that Graph did not tell is None; nothing here defaults to a value that looks safe. "Never", which Graph writes
as a date of year 1, is None too.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from shared.domain.ids import EntraDeviceId, ManagedDeviceId, UserId


@dataclass(frozen=True, slots=True)
class ManagedDevice:
    """Intune's record of an enrolled device (Graph `managedDevice`)."""

    id: ManagedDeviceId
    name: str | None
    serial_number: str | None
    """As Intune has it, stripped of blanks; a string: it may have leading zeros, and some name no device."""
    entra_device_id: EntraDeviceId | None
    operating_system: str | None
    last_sync: datetime | None
    enrolled_at: datetime | None
    management_state: str | None
    """`managed`, `wipePending`, ... as Graph spells it; members beyond the published ones occur."""
    primary_user: UserId | None
    """Empty: Graph says that there is none. None: Graph did not say."""
    model: str | None = None
    manufacturer: str | None = None
    join_type: str | None = None
    """How Intune says that it is joined (Graph beta `joinType`): `azureADJoined`, `hybridAzureADJoined`, ..."""
    os_version: str | None = None
    """Such as `10.0.22631.4460`; Windows 10 and 11 both begin with `10.0`."""
    sku_family: str | None = None
    """The edition's family (Graph beta `skuFamily`)."""
    management_agent: str | None = None
    """Who manages it: `mdm`, or with Configuration Manager `configurationManagerClientMdm` (co-managed), ..."""
    pending_actions: tuple[str, ...] | None = None
    """Names of remote actions that are pending or active. None: Graph did not show them, as in most lists."""


@dataclass(frozen=True, slots=True)
class EntraDevice:
    """Entra's record of a device (Graph `device`)."""

    device_id: EntraDeviceId
    trust_type: str | None
    """`AzureAd` joined, `ServerAd` hybrid-joined, `Workplace` registered."""
    account_enabled: bool | None = None


@dataclass(frozen=True, slots=True)
class AutopilotIdentity:
    """A device's registration for Autopilot (Graph `windowsAutopilotDeviceIdentity`)."""

    id: str
    serial_number: str | None
    group_tag: str | None
    managed_device_id: ManagedDeviceId | None
    """May name a device that is gone; all zeros and the empty string are read as None."""
    entra_device_id: EntraDeviceId | None
    enrollment_state: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """A device's three records. `entra` or `autopilot` is None only when Graph was asked for it and has none."""

    managed: ManagedDevice
    entra: EntraDevice | None
    autopilot: AutopilotIdentity | None
    read_at: datetime
    """When the oldest of the three was asked for."""
    groups: frozenset[str] | None = None
    """Of the Entra groups that the policy names, those (their ids) that hold the device or its primary user, directly
    or through other groups. None: they were not asked for, or could not be read."""


class ReferenceKind(StrEnum):
    """By what a request names a device; the values are the field names of the request contract."""

    INTUNE_ID = "intuneId"
    ENTRA_DEVICE_ID = "entraDeviceId"
    SERIAL_NUMBER = "serialNumber"
    NAME = "name"
    GROUP_TAG = "groupTag"
    """Every device whose Autopilot device identity has this group tag."""


@dataclass(frozen=True, slots=True)
class DeviceReference:
    """How a request names a device (or, by group tag, several)."""

    kind: ReferenceKind
    value: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a reference leads to: devices, and Autopilot device identities for which there is no managed device."""

    devices: tuple[DeviceFacts, ...] = ()
    not_enrolled: tuple[AutopilotIdentity, ...] = ()


class ActionState(StrEnum):
    """State of a remote action (Graph `actionState`); anything Graph adds is UNKNOWN."""

    NONE = "none"
    PENDING = "pending"
    CANCELED = "canceled"
    ACTIVE = "active"
    DONE = "done"
    FAILED = "failed"
    NOT_SUPPORTED = "notSupported"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ActionResult:
    """One entry of `deviceActionResults`. They pile up for years, and names repeat."""

    name: str | None
    state: ActionState
    started_at: datetime | None
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class Sighting:
    """What Graph showed of one managed device: in a close look, which is a single GET, or in a list."""

    device: ManagedDeviceId
    seen_at: datetime
    """When we asked, by our clock."""
    exists: bool
    """False: Graph answered that there is no such managed device."""
    last_sync: datetime | None = None
    """In whole seconds, as lists cut it: one check-in looks the same in a list and in a close look."""
    management_state: str | None = None
    primary_user: UserId | None = None
    actions: tuple[ActionResult, ...] | None = None
    """None: Graph did not show them."""
    entra_device_id: EntraDeviceId | None = None
    enrolled_at: datetime | None = None
    listed: bool = False
    """It stood in a list, which never shows actions, may be older than a close look, and may leave anything out."""


@dataclass(frozen=True, slots=True)
class AuditedAction:
    """A remote action from Intune's audit of them (`remoteActionAudits`, beta)."""

    device: ManagedDeviceId
    action: str
    requested_at: datetime
