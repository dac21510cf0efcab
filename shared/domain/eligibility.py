"""May this device be reset, and may this person ask for it? Decided from fresh facts alone, never from what the request
says of the device. What is not known refuses; an exception has its reason beside it.
"""

import re
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from shared.domain.devices import DeviceFacts, Finding, ManagedDevice
from shared.domain.patterns import matching
from shared.domain.policy import ERASING_ACTIONS, Policy, RequesterScope
from shared.domain.reasons import Code, Reason

_SETTLED = "managed"
"""The only `managementState` in which no remote action is under way (Graph managementState)."""

_UNDER_WAY = {
    "retirepending": "It is to be retired at its next check-in",
    "retireissued": "It is being retired",
    "wipepending": "It is to be wiped or reset at its next check-in",
    "wipeissued": "It is being wiped or reset",
    "deletepending": "It is being deleted from Intune",
}
_NOT_UNDER_WAY = frozenset(
    {"retirefailed", "wipefailed", "retirecanceled", "wipecanceled", "unhealthy", "discovered", "unknown"}
)
"""States in which nothing is under way, and which nobody has set right yet."""

_OLDEST_WINDOWS = (10, 0, 17763)
"""Windows 10 1809: remote Autopilot Reset exists from there on (windows-itpro-docs, windows-autopilot-reset.md)."""
_NEWEST_WINDOWS = (10, 0)
"""Windows 10 and 11 alike; nothing is known of what may come."""
_VERSION = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})")

_OTHER_MODELS = re.compile(r"hololens|surface ?hub|windows 365 link", re.IGNORECASE)
"""Autopilot Reset does not support Surface Hub (learn.microsoft.com/autopilot/windows-autopilot-reset). The names are
the makers' (learn.microsoft.com/surface/surface-system-sku-reference). A hub that runs Windows 11 counts as one."""
_OTHER_EDITIONS = re.compile(r"holographic|hololens|surface ?hub|ppi|team|server|iotuap|cpc", re.IGNORECASE)
"""Editions for which there is none, as Intune spells them: `Holographic`, `PPIPro` (the hub's Windows 10 Team),
`ServerRdsh` (multi-session hosts), `IoTUAP` (Intune's page filters-device-properties, operatingSystemSKU); and as
another enumeration of Graph does: `windowsTeamSurface`, `holoLens`, `surfaceHub`, `windowsCPC`
(deviceManagementConfigurationWindowsSkus). Which spelling skuFamily uses is not documented."""

_VIRTUAL = re.compile(
    r"\b(?:virtual|vmware|innotek|qemu|standard pc \(|kvm\b|xen\b|hvm dom|hyper-v|parallels|bochs|bhyve|amazon ec2"
    r"|google compute engine|openstack|kubevirt|nutanix|ovirt|rhev)",
    re.IGNORECASE,
)
"""Maker or model of a virtual machine: the names in the firmware, by which systemd too tells them (its
src/basic/virt.c), and Hyper-V's model `Virtual Machine`."""

_HARMLESS = frozenset(
    action.lower()
    for action in (
        *("quickScan", "fullScan", "windowsDefenderScan", "windowsDefenderUpdateSignatures", "signatureUpdate"),
        *("syncDevice", "rebootNow", "shutDown", "remoteLock", "locateDevice", "resetPasscode", "recoverPasscode"),
        *("rotateBitLockerKeys", "rotateLocalAdminPassword", "initiateDeviceAttestation", "pauseConfigurationRefresh"),
        *("customTextNotification", "sendCustomNotificationToCompanyPortal"),
    )
)
"""Actions that nobody misses on a device that is erased (names: Graph remoteAction, managedDeviceRemoteAction)."""

_REENROLLED = timedelta(seconds=1)
"""Lists cut instants to seconds, a single read does not."""
_LONGEST_SHOWN = 80


@dataclass(frozen=True, slots=True)
class _Case:
    """A device, and by what it is judged."""

    facts: DeviceFacts
    policy: Policy
    now: datetime

    @property
    def managed(self) -> ManagedDevice:
        return self.facts.managed


Check = Callable[[_Case], Reason | None]


def resolve(finding: Finding) -> DeviceFacts | Reason:
    """The one device that a reference names, or why there is not exactly one."""
    match finding.devices:
        case (facts,):
            return facts
        case ():
            return Reason(Code.NOT_ENROLLED if finding.not_enrolled else Code.UNKNOWN_DEVICE)
        case many:
            shown = ", ".join(
                f"{facts.managed.id} (enrolled {facts.managed.enrolled_at:%Y-%m-%d})"
                if facts.managed.enrolled_at
                else facts.managed.id
                for facts in many[:10]
            )
            return Reason(Code.AMBIGUOUS, f"Candidates by Intune id: {shown}.")


# --- the device ---------------------------------------------------------------------------------------------------


def refusal(facts: DeviceFacts, policy: Policy, now: datetime) -> Reason | None:
    """Why the device may not be reset by Autopilot Reset, or None where it may. What is not known refuses."""
    case = _Case(facts, policy, now)
    for check in _CHECKS:
        if reason := check(case):
            return reason
    return None


def same_device(then: ManagedDevice, now: ManagedDevice) -> bool:
    """Whether facts read again are still of the device that the request was accepted for."""
    return (then.id, then.entra_device_id, then.serial_number) == (now.id, now.entra_device_id, now.serial_number)


def handed_on(then: ManagedDevice, now: ManagedDevice) -> bool:
    """Whether the device got another user, or was enrolled anew, since the request was accepted: its data may be
    somebody else's now. An instant that one of the two reads did not show says nothing."""
    user = (now.primary_user or "").lower()
    if user and user != (then.primary_user or "").lower():
        return True
    if then.enrolled_at is None or now.enrolled_at is None:
        return False
    return abs(now.enrolled_at - then.enrolled_at) > _REENROLLED


def unchanged(then: ManagedDevice, now: ManagedDevice) -> bool:
    """Whether a record that was read by itself says no more than the one that was judged, but for what is pending:
    then the verdict on all else still holds."""

    def as_listed(device: ManagedDevice) -> ManagedDevice:
        synced, enrolled = device.last_sync, device.enrolled_at
        return replace(
            device,
            last_sync=synced and synced.replace(microsecond=0),
            enrolled_at=enrolled and enrolled.replace(microsecond=0),
            pending_actions=None,
        )

    return as_listed(then) == as_listed(now)


def is_sensitive(facts: DeviceFacts, policy: Policy) -> bool:
    """Whether a second person must approve the device's reset. Where its name or its groups are not known, and might
    say so, somebody must."""
    if matching(_names(facts), policy.sensitive_devices) or _inside(facts, policy.sensitive_groups):
        return True
    nameless, groupless = facts.managed.name is None, facts.groups is None
    return (nameless and bool(policy.sensitive_devices)) or (groupless and bool(policy.sensitive_groups))


def seen(facts: DeviceFacts) -> dict[str, str]:
    """What was looked at, as evidence for the verdict: times in ISO 8601 UTC, nothing personal."""
    managed, entra, autopilot = facts.managed, facts.entra, facts.autopilot
    actions, user = managed.pending_actions, managed.primary_user
    looked_at = {
        "readAt": facts.read_at.isoformat(),
        "lastCheckIn": managed.last_sync.isoformat() if managed.last_sync else None,
        "enrolledAt": managed.enrolled_at.isoformat() if managed.enrolled_at else None,
        "managementState": managed.management_state,
        "managementAgent": managed.management_agent,
        "pendingActions": None if actions is None else ", ".join(actions) or "none",
        "operatingSystem": managed.operating_system,
        "osVersion": managed.os_version,
        "edition": managed.sku_family,
        "manufacturer": managed.manufacturer,
        "model": managed.model,
        "joinType": managed.join_type,
        "trustType": entra.trust_type if entra else "no record",
        "entraEnabled": _yes_or_no(entra.account_enabled) if entra else "no record",
        "groupTag": autopilot.group_tag or "none" if autopilot else "not registered",
        "watchedGroups": None if facts.groups is None else str(len(facts.groups)),
        "primaryUser": _yes_or_no(None if user is None else user != ""),
    }
    return {name: (value or "not shown")[:_LONGEST_SHOWN] for name, value in looked_at.items()}


def _yes_or_no(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _names(facts: DeviceFacts) -> tuple[str | None, ...]:
    """All that a policy may call the device by."""
    managed = facts.managed
    return managed.id, managed.name, managed.serial_number, managed.entra_device_id


def _inside(facts: DeviceFacts, groups: Set[str]) -> str | None:
    """One of these groups that holds the device or its primary user; None where none is known to."""
    return min({group.lower() for group in facts.groups or ()} & groups, default=None)


def _protected(case: _Case) -> Reason | None:
    facts, policy, user = case.facts, case.policy, case.managed.primary_user
    if entry := matching(_names(facts), policy.protected_devices):
        return Reason(Code.PROTECTED, f"The entry {entry!r} of protected_devices matches it.")
    if user and user.lower() in policy.protected_users:
        return Reason(Code.PROTECTED, "Its primary user is one of protected_users.")
    if group := _inside(facts, policy.protected_groups):
        return Reason(Code.PROTECTED, f"It or its primary user is in the group {group} of protected_groups.")
    if policy.protected_devices and not facts.managed.name:
        return Reason(Code.FACTS_INCOMPLETE, "Its name is not known, so it may be one of protected_devices.")
    return None


def _allowed(case: _Case) -> Reason | None:
    facts, policy = case.facts, case.policy
    if not policy.allowed_devices and not policy.allowed_groups:
        return None
    if matching(_names(facts), policy.allowed_devices) or _inside(facts, policy.allowed_groups):
        return None
    if policy.allowed_groups and facts.groups is None:
        return None  # it may be allowed: _grouped refuses it, and says why
    return Reason(Code.NOT_ALLOWED, "No entry of allowed_devices matches it, and it is in no group of allowed_groups.")


def _windows(case: _Case) -> Reason | None:
    managed = case.managed
    system, model, edition = managed.operating_system, managed.model, managed.sku_family
    if system is None:
        return Reason(Code.FACTS_INCOMPLETE, "Its operating system is not known.")
    if not system.lower().startswith("windows"):
        return Reason(Code.NOT_WINDOWS, f"Intune shows {system}.")
    if system.lower() != "windows":  # such as "Windows Holographic"
        return Reason(Code.UNSUPPORTED_WINDOWS, f"Intune shows {system}.")
    if model is None:
        return Reason(Code.FACTS_INCOMPLETE, "Its model is not known: it may be a Cloud PC or a Surface Hub.")
    if model.lower().startswith("cloud pc"):
        return Reason(Code.CLOUD_PC, f"Intune shows the model {model}.")
    if _OTHER_MODELS.search(model):
        return Reason(Code.UNSUPPORTED_WINDOWS, f"Intune shows the model {model}.")
    # Not known is let pass: only beta has the edition, and whether it always does is not documented. Whatever the
    # edition tells, the operating system or the model tell too.
    if edition and _OTHER_EDITIONS.search(edition):
        return Reason(Code.UNSUPPORTED_WINDOWS, f"Intune shows the edition {edition}.")
    return _version(managed.os_version)


def _version(shown: str | None) -> Reason | None:
    found = _VERSION.match(shown) if shown else None
    if found is None:
        return Reason(
            Code.FACTS_INCOMPLETE,
            f"Intune shows the Windows version {shown}." if shown else "Its Windows version is not known.",
        )
    version = tuple(map(int, found.groups()))
    if version < _OLDEST_WINDOWS:
        return Reason(Code.WINDOWS_TOO_OLD, f"Intune shows {shown}.")
    if version[:2] > _NEWEST_WINDOWS:
        return Reason(Code.UNSUPPORTED_WINDOWS, f"Intune shows the Windows version {shown}.")
    return None


def _physical(case: _Case) -> Reason | None:
    maker, model = case.managed.manufacturer, case.managed.model
    if case.policy.allow_virtual_machines:
        return None
    if maker is None:
        return Reason(Code.FACTS_INCOMPLETE, "Its manufacturer is not known: it may be a virtual machine.")
    if _VIRTUAL.search(f"{maker}\n{model}"):
        return Reason(Code.VIRTUAL_MACHINE, f"Intune shows the model {model} by {maker}.")
    return None


def _managed_by_intune(case: _Case) -> Reason | None:
    # The members: Graph managementAgentType. Only these two mean Intune's MDM alone, with or without Exchange.
    agent = case.managed.management_agent
    if agent is None:
        return Reason(Code.FACTS_INCOMPLETE, "What manages it is not known.")
    shown, name = f"Intune shows the management agent {agent}.", agent.lower()
    if name in ("mdm", "easmdm"):
        return None
    if "configurationmanager" in name and "mdm" in name:
        return None if case.policy.allow_co_managed else Reason(Code.CO_MANAGED, shown)
    return Reason(Code.NOT_MDM_MANAGED, shown)


def _joined(case: _Case) -> Reason | None:
    managed, entra = case.managed, case.facts.entra
    if managed.entra_device_id is None or entra is None:
        return Reason(Code.JOIN_UNKNOWN, "Intune's record leads to no device in Entra.")
    if entra.device_id != managed.entra_device_id:
        return Reason(Code.FACTS_INCOMPLETE, "Entra's record is of another device.")
    # The members of trustType: Graph's resource type device. Those of joinType: Graph beta joinType.
    trust, join = (entra.trust_type or "").lower(), (managed.join_type or "").lower()
    shown = f"Entra shows {entra.trust_type or 'nothing'}, Intune {managed.join_type or 'nothing'}."
    if trust == "serverad" or join == "hybridazureadjoined":
        return Reason(Code.HYBRID_JOINED, shown)
    is_joined = trust == "azuread", join == "azureadjoined"
    is_registered = trust == "workplace", join == "azureadregistered"
    if any(is_joined) and any(is_registered):
        return Reason(Code.JOIN_DISAGREES, shown)
    if any(is_registered):
        return Reason(Code.NOT_ENTRA_JOINED, shown)
    if not all(is_joined):
        return Reason(Code.JOIN_UNKNOWN, shown)
    # Entra lets a disabled device sign nobody in, and its next user neither
    # (learn.microsoft.com/entra/identity/devices/manage-device-identities).
    if entra.account_enabled is None:
        return Reason(Code.FACTS_INCOMPLETE, "Whether it is enabled in Entra is not known.")
    return None if entra.account_enabled else Reason(Code.DISABLED_IN_ENTRA)


def _registered(case: _Case) -> Reason | None:
    managed, autopilot = case.managed, case.facts.autopilot
    if autopilot is None:
        return Reason(Code.NOT_AUTOPILOT_REGISTERED)
    # The identity's managed device id may name a record that is gone; the Entra device id then still tells.
    linked = autopilot.managed_device_id == managed.id or (
        autopilot.entra_device_id is not None and autopilot.entra_device_id == managed.entra_device_id
    )
    if not linked:
        return Reason(Code.AUTOPILOT_MISMATCH, "It names neither this Intune device nor its Entra device.")
    if not managed.serial_number or not autopilot.serial_number:
        return Reason(Code.FACTS_INCOMPLETE, "Its serial number is not known.")
    if managed.serial_number.strip().lower() != autopilot.serial_number.strip().lower():
        return Reason(Code.AUTOPILOT_MISMATCH, "The serial numbers differ.")
    return None


def _settled(case: _Case) -> Reason | None:
    state = case.managed.management_state
    if state is None:
        return Reason(Code.FACTS_INCOMPLETE, "Its management state is not known.")
    name, shown = state.lower(), f"Intune shows the management state {state}."
    if name == _SETTLED:
        return None
    if name in _NOT_UNDER_WAY:
        return Reason(Code.NOT_SETTLED, shown)
    return Reason(Code.OTHER_ACTION_PENDING, f"{_UNDER_WAY[name]}: {shown}" if name in _UNDER_WAY else shown)


def pending(device: ManagedDevice, policy: Policy) -> Reason | None:
    """Why what is pending on the device must come first, or None where nothing must.

    A wipe makes Intune ignore what else is pending, so all that may matter must come first: what erases, what
    collects or mends, and whatever is not known. What is harmless, or named by the policy because it is stuck for ever,
    does not count; nor what Graph did not show, as in most lists: a single read before the send shows it.
    """
    passed = _HARMLESS | {action.lower() for action in policy.ignored_actions}
    actions = {action for action in device.pending_actions or () if action.lower() not in passed}
    if not actions:
        return None
    erases = "It is to be erased or removed already. " if {one.lower() for one in actions} & ERASING_ACTIONS else ""
    return Reason(Code.OTHER_ACTION_PENDING, f"{erases}Intune shows as pending: {', '.join(sorted(actions))}.")


def _free(case: _Case) -> Reason | None:
    return pending(case.managed, case.policy)


def _lately_seen(case: _Case) -> Reason | None:
    last = case.managed.last_sync
    if last is None:
        return Reason(Code.NOT_SEEN_LATELY, "Intune shows no check-in.")
    if case.now - last > case.policy.last_check_in_max_age:
        return Reason(Code.NOT_SEEN_LATELY, f"Its last check-in was on {last:%Y-%m-%d}.")
    return None


def _provable(case: _Case) -> Reason | None:
    if case.managed.primary_user is None:
        return Reason(Code.FACTS_INCOMPLETE, "Its primary user is not known, so a reset could not be proven.")
    return None


def _grouped(case: _Case) -> Reason | None:
    policy = case.policy
    if case.facts.groups is None and policy.protected_groups | policy.allowed_groups | policy.sensitive_groups:
        return Reason(Code.GROUPS_UNKNOWN)
    return None


_CHECKS: tuple[Check, ...] = (
    _protected,
    _allowed,
    _windows,
    _physical,
    _managed_by_intune,
    _joined,
    _registered,
    _settled,
    _free,
    _lately_seen,
    _provable,
    _grouped,
)


# --- who asks -----------------------------------------------------------------------------------------------------


def is_unknown(requester: str, policy: Policy) -> bool:
    """Whether the policy says who may ask, and this is nobody of them."""
    return bool(policy.requesters) and not _scopes(requester, policy)


def requester_refusal(requester: str, facts: DeviceFacts, policy: Policy) -> Reason | None:
    """Why this requester may not ask for this device, or None where they may. Several scopes add up."""
    if not policy.requesters:
        return None
    scopes = _scopes(requester, policy)
    if not scopes:
        return Reason(Code.UNKNOWN_REQUESTER)
    if any(_holds(scope, facts) for scope in scopes):
        return None
    if facts.groups is None and any(scope.groups for scope in scopes):
        return Reason(Code.GROUPS_UNKNOWN)
    tag = facts.autopilot.group_tag if facts.autopilot else None
    return Reason(Code.OUT_OF_SCOPE, f"Its group tag is {tag}." if tag else "It has no group tag.")


def _scopes(requester: str, policy: Policy) -> list[RequesterScope]:
    return [scope for scope in policy.requesters if matching([requester], frozenset({scope.name}))]


def _holds(scope: RequesterScope, facts: DeviceFacts) -> bool:
    if not (scope.group_tags or scope.devices or scope.groups):
        return True
    tag = facts.autopilot.group_tag if facts.autopilot else None
    return bool(
        matching([tag], scope.group_tags) or matching(_names(facts), scope.devices) or _inside(facts, scope.groups)
    )
