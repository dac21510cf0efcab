"""A policy in plain words, for whoever reviews it: what it means, topic by topic, and what deserves a second look.

Every field of `Policy` has its sentence here, once; tests/domain/test_policy_words.py names those that lack one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from shared.domain.policy import OverCap, Policy, RequesterScope
from shared.domain.request import MAX_DEVICES

WIPES_PER_DAY = 500
"""Intune's documented limit a tenant and day (learn.microsoft.com/intune/device-management/actions/wipe)."""
_USUAL = Policy()
"""Whoever only lowers the limit of a day below these need not be told that they limit nothing more."""


class Topic(StrEnum):
    """What a part of the policy is about, in the order in which people ask."""

    TARGETS = "Who may be reset"
    REQUESTERS = "Who may ask"
    APPROVAL = "What needs a second person"
    LIMITS = "How many, and how fast"
    HALT = "What stops everything"
    PROOF = "What counts as proof"
    WAITS = "How long things may take"


@dataclass(frozen=True, slots=True)
class Says:
    """What a field means; `{name}` stands for the value of a field."""

    some: str
    none: str = ""
    """Said instead where the value is nothing: an empty list, 0, false, or not given."""


SENTENCES: Mapping[Topic, Mapping[str, Says]] = {
    Topic.TARGETS: {
        "protected_devices": Says(
            "Never reset, by serial number, name or id: {protected_devices}.",
            "No device is protected by its serial number, name or id.",
        ),
        "protected_groups": Says(
            "Never reset, as the device or its primary user is in an Entra group: {protected_groups}.",
            "No device is protected by a group that it or its primary user is in.",
        ),
        "protected_users": Says(
            "Never reset, as their primary user is one of: {protected_users}.",
            "No device is protected by its primary user.",
        ),
        "allowed_devices": Says(
            "Only these are reset, and what is in `allowed_groups`: {allowed_devices}.",
            "Resets are not limited to named devices.",
        ),
        "allowed_groups": Says(
            "Only devices are reset that are in these Entra groups, or whose primary user is, and `allowed_devices`: "
            "{allowed_groups}.",
            "Resets are not limited to the devices of groups.",
        ),
        "allow_virtual_machines": Says(
            "Virtual machines are reset too; Cloud PCs never are.", "No virtual machine is reset."
        ),
        "allow_co_managed": Says(
            "Devices are reset too that Configuration Manager manages as well.",
            "No device is reset that Configuration Manager manages as well.",
        ),
        "ignored_actions": Says(
            "Devices are reset although one of these actions is pending in Intune: {ignored_actions}.",
            "No pending action is ignored, but for scans, syncs and the like.",
        ),
        "last_check_in_max_age": Says("A device that has not checked in for {last_check_in_max_age} is refused."),
        "facts_max_age": Says(
            "What is known of a device may be {facts_max_age} old when its reset is sent; what is older is read again."
        ),
    },
    Topic.REQUESTERS: {
        "requesters": Says("May ask, and nobody else: {requesters}.", "Everybody may ask for every device."),
    },
    Topic.APPROVAL: {
        "approval_above": Says(
            "A request for more than {approval_above} devices needs a second person's approval.",
            "Every request needs a second person's approval.",
        ),
        "unapproved_per_day": Says(
            "On one UTC day, {unapproved_per_day} resets may go without approval; more need it, however small their "
            "requests.",
            "No reset goes without a second person's approval.",
        ),
        "approvers": Says(
            "May approve what others ask for: {approvers}.", "Nobody is named who may approve, so nobody can."
        ),
        "sensitive_devices": Says(
            "A request for one of these needs approval, however small it is: {sensitive_devices}.",
            "No device needs approval for its serial number, name or id.",
        ),
        "sensitive_groups": Says(
            "A request for a device needs approval that is in one of these Entra groups, or whose primary user is: "
            "{sensitive_groups}.",
            "No device needs approval for a group that it or its primary user is in.",
        ),
        "approval_within": Says("A request that nobody approves within {approval_within} is refused."),
        "approval_valid_for": Says(
            "An approval holds for {approval_valid_for}, or as long after the start that the request asked for."
        ),
        "admin_approval_for": Says("Intune's own Multi Admin Approval may take {admin_approval_for}."),
        "admin_approval_poll": Says("Intune is asked every {admin_approval_poll} what its administrators decided."),
    },
    Topic.LIMITS: {
        "resets_per_day": Says("At most {resets_per_day} resets on one UTC day."),
        "resets_per_hour": Says("At most {resets_per_hour} resets in one hour of the clock (UTC)."),
        "fleet_share_per_day": Says("At most {fleet_share_per_day} of the tenant's Windows devices on one UTC day."),
        "fleet_share_floor": Says(
            "That share always leaves room for {fleet_share_floor} resets a day; no more as long as the size of the "
            "fleet is not known."
        ),
        "over_cap": Says("A device for which these limits have no room {over_cap}."),
        "resets_per_device": Says(
            "At most {resets_per_device} resets of the same device within {device_window}; another is refused."
        ),
        "device_window": Says("The resets of one device are counted over {device_window}."),
        "wave_above": Says("A request for more than {wave_above} devices goes out in waves."),
        "wave_first": Says("Devices in the first wave, the canary: {wave_first}."),
        "wave_growth": Says("Each further wave is {wave_growth} times as large as the one before."),
        "wave_ready_share": Says("The next wave starts when {wave_ready_share} of the one before are ready."),
        "wave_failed_share": Says(
            "When more than {wave_failed_share} of a wave failed or need a person, the rest stops.",
            "When any device of a wave failed or needs a person, the rest stops.",
        ),
        "wave_within": Says("When a wave has not come so far within {wave_within}, the rest stops too."),
        "writes_per_window": Says("At most {writes_per_window} Graph writes in 20 seconds."),
        "reads_per_window": Says("At most {reads_per_window} Graph reads in 20 seconds."),
    },
    Topic.HALT: {
        "halt_failed_min": Says(
            "Turnaround halts itself when at least {halt_failed_min} resets failed or need a person within an hour, "
            "and they are more than {halt_failed_share} of those that ended.",
            "Failed resets never halt it.",
        ),
        "halt_failed_share": Says(
            "Failures up to {halt_failed_share} of the resets that ended within an hour never halt it.",
            "The share of failures does not matter.",
        ),
        "halt_refused": Says(
            "It halts itself when more than {halt_refused} devices are refused within an hour.",
            "Refusals never halt it.",
        ),
        "halt_burst_factor": Says(
            "It halts itself when a UTC day has more than {halt_burst_factor} times the resets of any of the 28 days "
            "before.",
            "An unusual number of resets never halts it.",
        ),
        "halt_burst_floor": Says("A day with no more than {halt_burst_floor} resets is never unusual."),
        "halt_on_unknown_requester": Says(
            "It halts itself when somebody asks who is not among the requesters, where those are named.",
            "Somebody who is not among the requesters is refused, and nothing halts.",
        ),
    },
    Topic.PROOF: {
        "min_reset_duration": Says(
            "A device that checks in within {min_reset_duration} of taking the reset has not been reset yet."
        ),
        "delivery_margin": Says(
            "A check-in within {delivery_margin} of Intune's taking the order may have begun before it."
        ),
        "clock_tolerance": Says(
            "Our clock and Graph's may differ by {clock_tolerance}, where Graph's own time is not known."
        ),
        "sync_answer": Says("A device that is on and not being reset answers a forced sync within {sync_answer}."),
        "reconcile_after": Says(
            "Graph may take {reconcile_after} to show what it was told; only then does its silence mean anything."
        ),
        "audit_after": Says(
            "Intune's audit may take {audit_after} to show a reset; only then does its silence mean that none was sent."
        ),
        "sending_for": Says("Whether a reset was sent may stay open for {sending_for}; then a person is called."),
        "poll_overlap": Says(
            "What a list of devices shows may be {poll_overlap} old; each look for new check-ins reaches back further."
        ),
    },
    Topic.WAITS: {
        "request_valid_for": Says(
            "A reset that was not sent within {request_valid_for} of its request, or of the start that it asked for, "
            "is refused."
        ),
        "parts_within": Says("All parts of a request must arrive within {parts_within}."),
        "lookup_for": Says("Looking up a request's devices may go on failing for {lookup_for}."),
        "received_for": Says("Intake may take {received_for} to come back to a device."),
        "held_for": Says("A device may be held for {held_for} beyond the start that its request asked for."),
        "cleared_for": Says("A device may wait {cleared_for} for its turn."),
        "redispatch_after": Says("A device whose turn has not come within {redispatch_after} is queued again."),
        "sync_grace": Says("A device has {sync_grace} to check in by itself before a sync is forced."),
        "sync_backoff": Says("The second forced sync follows after {sync_backoff}; each further gap is doubled."),
        "sync_attempts": Says("Forced syncs before a person is asked to sync at the device: {sync_attempts}."),
        "triggered_for": Says("A device may take {triggered_for} to take its reset."),
        "usual_reset_duration": Says("A device that is not back within {usual_reset_duration} is told to sync."),
        "resetting_for": Says("A reset may take {resetting_for}."),
        "settling_for": Says("Proof may take {settling_for} after the device has returned."),
        "attention_for": Says("What needs a person and gets none within {attention_for} is given up as failed."),
        "retention": Says("Ended turnarounds, their history and their requests are kept for {retention}."),
    },
}


@dataclass(frozen=True, slots=True)
class Explained:
    """One field of a policy in words."""

    name: str
    topic: Topic
    sentence: str


@dataclass(frozen=True, slots=True)
class Risk:
    """A choice that deserves a second look: the field, and why."""

    name: str
    sentence: str


def explain(policy: Policy) -> list[Explained]:
    """The whole policy in words, topic by topic."""
    words = {name: in_words(name, value) for name, value in policy}
    return [
        Explained(name, topic, (says.some if getattr(policy, name) or not says.none else says.none).format(**words))
        for topic, fields in SENTENCES.items()
        for name, says in fields.items()
    ]


def in_words(name: str, value: object) -> str:
    """A field's value as people write it: 15 minutes, 25%, one, two and three."""
    match value:
        case timedelta():
            return _duration(value)
        case OverCap.HOLD:
            return "waits until there is room, as long as its request is valid"
        case OverCap.REFUSE:
            return "is refused at once"
        case float() if "share" in name:
            return f"{value * 100:g}%"
        case int() | float():
            return f"{value:,}" if isinstance(value, int) else f"{value:g}"
        case str() | None:
            return value or "none"
        case frozenset():
            return ", ".join(sorted(value)) or "none"
        case tuple():
            return "; ".join(map(_scope, value)) or "none"
        case _:
            raise TypeError(f"there are no words for {type(value).__name__}")


def _scope(scope: RequesterScope) -> str:
    lists = (("group tags", scope.group_tags), ("devices", scope.devices), ("groups", scope.groups))
    held = " or ".join(f"{what} {', '.join(sorted(names))}" for what, names in lists if names)
    return f"{scope.name} for {held or 'every device'}"


def _duration(value: timedelta) -> str:
    hours, rest = divmod(value.seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    counts = ((value.days, "day"), (hours, "hour"), (minutes, "minute"))
    parts = [f"{count} {unit}{'' if count == 1 else 's'}" for count, unit in counts if count]
    if exact := seconds + value.microseconds / 1_000_000:
        parts.append(f"{exact:g} second{'' if exact == 1 else 's'}")
    return " ".join(parts)


def risks(policy: Policy) -> Iterator[Risk]:
    """What in a policy deserves a second look. The defaults name nobody and nothing, which is told too."""
    if not (policy.protected_devices or policy.protected_groups or policy.protected_users):
        yield Risk("protected_devices", "Nothing is protected. Name what must never be reset, such as kiosks.")
    if policy.allow_virtual_machines:
        yield Risk("allow_virtual_machines", "A virtual machine is better made anew from its image.")
    if policy.allow_co_managed:
        yield Risk("allow_co_managed", "Configuration Manager may set up again what the reset removes.")
    if policy.last_check_in_max_age > timedelta(days=90):
        yield Risk("last_check_in_max_age", "A device that was lost long ago is erased whenever somebody finds it.")
    if policy.facts_max_age > timedelta(hours=1):
        yield Risk("facts_max_age", "A device may have got another user since it was looked at.")

    if not policy.requesters:
        yield Risk("requesters", "Whoever can put a message on the queue may have every device reset.")
    elif any(
        scope.name == "*" and not (scope.group_tags | scope.devices | scope.groups) for scope in policy.requesters
    ):
        yield Risk("requesters", "Everybody may ask for every device, whatever the other scopes say.")

    if policy.approval_above >= MAX_DEVICES:
        yield Risk(
            "approval_above", f"No request names more than {MAX_DEVICES:,} devices: none needs approval for that."
        )
    if policy.unapproved_per_day >= policy.resets_per_day > _USUAL.unapproved_per_day:
        yield Risk("unapproved_per_day", "A large request that needs approval can be made as many small ones.")
    by_number = policy.approval_above < MAX_DEVICES or policy.unapproved_per_day < policy.resets_per_day
    if not policy.approvers and (by_number or policy.sensitive_devices or policy.sensitive_groups):
        yield Risk("approvers", "Some requests need approval, and nobody may give it: they will all be refused.")
    if "*" in policy.approvers:
        yield Risk("approvers", "Everybody may approve what others ask for.")
    if policy.approval_valid_for > timedelta(days=14):
        yield Risk("approval_valid_for", "What was approved that long ago may be wanted no longer.")
    if policy.request_valid_for > timedelta(days=30):
        yield Risk("request_valid_for", "After such a time a device may have another user.")

    if policy.resets_per_day > WIPES_PER_DAY:
        yield Risk(
            "resets_per_day",
            f"Intune's documented limit is {WIPES_PER_DAY} wipes a tenant and day, and resets are taken to count as "
            "such. Unless Microsoft's support raised yours, the rest is refused, and so is every other wipe that day.",
        )
    if policy.resets_per_hour >= policy.resets_per_day > _USUAL.resets_per_hour:
        yield Risk("resets_per_hour", "It is no smaller than the limit of a day, so it limits nothing.")
    if policy.fleet_share_per_day == 1:
        yield Risk("fleet_share_per_day", "The size of the fleet limits nothing.")
    elif policy.fleet_share_floor >= policy.resets_per_day > _USUAL.fleet_share_floor:
        yield Risk("fleet_share_floor", "It is no smaller than the limit of a day, so the fleet's size limits nothing.")
    if policy.resets_per_device > 10:
        yield Risk("resets_per_device", "A ticket system gone wrong could reset the same device over and over.")
    if policy.wave_above >= MAX_DEVICES:
        yield Risk(
            "wave_above", f"No request names more than {MAX_DEVICES:,} devices: there are no waves, so no canary."
        )
    elif policy.wave_first >= policy.wave_above:
        yield Risk("wave_first", "The canary is as large as a request that goes out at once.")
    if policy.wave_failed_share > 0.5:
        yield Risk("wave_failed_share", "The next wave starts although most of the one before failed.")
    if policy.wave_within < policy.sync_grace + policy.usual_reset_duration:
        yield Risk("wave_within", "A usual reset takes longer, so each first wave stops the rest.")

    if not policy.halt_failed_min:
        yield Risk("halt_failed_min", "Nothing stops a turnover in which everything fails.")
    if not policy.halt_refused:
        yield Risk("halt_refused", "Nothing stops somebody who tries one device after another.")
    if not policy.halt_burst_factor:
        yield Risk("halt_burst_factor", "Nothing stops a day with far more resets than usual.")
    elif policy.halt_burst_floor >= policy.resets_per_day > _USUAL.halt_burst_floor:
        yield Risk("halt_burst_floor", "It is no smaller than the limit of a day, so no day is ever unusual.")
    if policy.requesters and not policy.halt_on_unknown_requester:
        yield Risk("halt_on_unknown_requester", "Nothing stops somebody who tries one name after another.")

    if policy.min_reset_duration < timedelta(minutes=10):
        yield Risk("min_reset_duration", "A reset takes tens of minutes: a mere check-in could pass for a return.")
    if policy.clock_tolerance < timedelta(minutes=1):
        yield Risk("clock_tolerance", "Clocks may well differ by more.")
    if policy.audit_after < timedelta(minutes=30):
        yield Risk("audit_after", "Nobody documents how far the audit lags: a reset that was sent could be sent again.")
    if policy.retention < timedelta(days=90):
        yield Risk("retention", "Who had what reset, and why, is forgotten early: before an incident is looked into.")
