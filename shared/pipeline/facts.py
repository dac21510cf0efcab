"""A device's facts with what the policy wants to know of its Entra groups."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from shared.domain.devices import DeviceFacts, DeviceReference, Finding
from shared.domain.ids import ManagedDeviceId
from shared.domain.policy import Policy
from shared.pipeline.ports import Intune


async def find(
    intune: Intune, references: Sequence[DeviceReference], policy: Policy
) -> Mapping[DeviceReference, Finding]:
    """What each reference leads to. Raises GraphError."""
    findings = await intune.find(references)
    known = await _groups(intune, [facts for finding in findings.values() for facts in finding.devices], policy)
    return {
        reference: replace(finding, devices=tuple(_with(facts, known) for facts in finding.devices))
        for reference, finding in findings.items()
    }


async def facts(
    intune: Intune, devices: Sequence[ManagedDeviceId], policy: Policy
) -> Mapping[ManagedDeviceId, DeviceFacts | None]:
    """Fresh facts of these devices; None for one that Intune no longer has. Raises GraphError."""
    found = await intune.facts(devices)
    known = await _groups(intune, [facts for facts in found.values() if facts is not None], policy)
    return {device: None if facts is None else _with(facts, known) for device, facts in found.items()}


async def _groups(
    intune: Intune, devices: Sequence[DeviceFacts], policy: Policy
) -> Mapping[ManagedDeviceId, frozenset[str]]:
    """Nothing is asked where the policy names no group; a device that is left out of the answer stays unknown."""
    return await intune.memberships(devices, policy.watched_groups) if policy.watched_groups else {}


def _with(facts: DeviceFacts, known: Mapping[ManagedDeviceId, frozenset[str]]) -> DeviceFacts:
    return replace(facts, groups=known.get(facts.managed.id))
