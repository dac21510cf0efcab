"""May this device be reset? Decided from fresh facts alone, never from what the request says of the device."""

from collections.abc import Callable
from fnmatch import fnmatchcase

from shared.domain.devices import DeviceFacts, Finding, ManagedDevice
from shared.domain.policy import Policy
from shared.domain.reasons import Code, Reason

_SETTLED = "managed"
"""The only `managementState` in which no remote action is under way (Graph managementState)."""

Check = Callable[[DeviceFacts, Policy], Reason | None]


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


def refusal(facts: DeviceFacts, policy: Policy) -> Reason | None:
    """Why the device may not be reset by Autopilot Reset, or None where it may. What is not known refuses."""
    for check in _CHECKS:
        if reason := check(facts, policy):
            return reason
    return None


def same_device(then: ManagedDevice, now: ManagedDevice) -> bool:
    """Whether facts read again are still of the device that the request was accepted for."""
    return (then.id, then.entra_device_id, then.serial_number) == (now.id, now.entra_device_id, now.serial_number)


def _protected(facts: DeviceFacts, policy: Policy) -> Reason | None:
    managed = facts.managed
    names = {
        name.lower() for name in (managed.id, managed.name, managed.serial_number, managed.entra_device_id) if name
    }
    patterns = {pattern.lower().replace("[", "[[]") for pattern in policy.protected_devices}
    hit = any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
    return Reason(Code.PROTECTED) if hit else None


def _windows(facts: DeviceFacts, _: Policy) -> Reason | None:
    managed = facts.managed
    if managed.operating_system is None:
        return Reason(Code.FACTS_INCOMPLETE, "Its operating system is not known.")
    if managed.operating_system.lower() != "windows":
        return Reason(Code.NOT_WINDOWS, f"Intune shows {managed.operating_system}.")
    if managed.model and managed.model.lower().startswith("cloud pc"):
        return Reason(Code.CLOUD_PC)
    return None


def _joined(facts: DeviceFacts, _: Policy) -> Reason | None:
    if facts.managed.entra_device_id is None or facts.entra is None:
        return Reason(Code.JOIN_UNKNOWN, "Intune's record leads to no device in Entra.")
    if facts.entra.device_id != facts.managed.entra_device_id:
        return Reason(Code.FACTS_INCOMPLETE, "Entra's record is of another device.")
    # The members of trustType: the Graph reference page of the resource type device.
    match facts.entra.trust_type:
        case "AzureAd":
            return None
        case "ServerAd":
            return Reason(Code.HYBRID_JOINED)
        case "Workplace":
            return Reason(Code.NOT_ENTRA_JOINED)
        case other:
            return Reason(Code.JOIN_UNKNOWN, f"Entra shows trust type {other!r}." if other else "")


def _registered(facts: DeviceFacts, _: Policy) -> Reason | None:
    managed, autopilot = facts.managed, facts.autopilot
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


def _settled(facts: DeviceFacts, _: Policy) -> Reason | None:
    state = facts.managed.management_state
    if state is None:
        return Reason(Code.FACTS_INCOMPLETE, "Its management state is not known.")
    if state.lower() != _SETTLED:
        return Reason(Code.OTHER_ACTION_PENDING, f"Intune shows the management state {state}.")
    return None


def _provable(facts: DeviceFacts, _: Policy) -> Reason | None:
    if facts.managed.primary_user is None:
        return Reason(Code.FACTS_INCOMPLETE, "Its primary user is not known, so a reset could not be proven.")
    return None


_CHECKS: tuple[Check, ...] = (_protected, _windows, _joined, _registered, _settled, _provable)
