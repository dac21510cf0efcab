"""Why something was refused, failed or needs a person: a code for machines, a sentence and a remedy for people."""

from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """Every reason Turnaround gives. Codes are part of the interface: they are added, never renamed."""

    # A request or message as a whole
    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    REQUEST_ID_REUSED = "request_id_reused"
    PARTS_DISAGREE = "parts_disagree"
    PARTS_MISSING = "parts_missing"
    TOO_MANY_DEVICES = "too_many_devices"
    NO_DEVICES = "no_devices"
    POISONED = "poisoned"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    LOOKUP_FAILED = "lookup_failed"
    RESERVED_ID = "reserved_id"
    REQUEST_EXPIRED = "request_expired"

    # Which device is meant
    UNKNOWN_DEVICE = "unknown_device"
    AMBIGUOUS = "ambiguous"
    ALREADY_IN_FLIGHT = "already_in_flight"

    # Whether it may be reset
    NOT_ENROLLED = "not_enrolled"
    NOT_WINDOWS = "not_windows"
    UNSUPPORTED_WINDOWS = "unsupported_windows"
    WINDOWS_TOO_OLD = "windows_too_old"
    VIRTUAL_MACHINE = "virtual_machine"
    NOT_MDM_MANAGED = "not_mdm_managed"
    CO_MANAGED = "co_managed"
    HYBRID_JOINED = "hybrid_joined"
    NOT_ENTRA_JOINED = "not_entra_joined"
    JOIN_UNKNOWN = "join_unknown"
    JOIN_DISAGREES = "join_disagrees"
    DISABLED_IN_ENTRA = "disabled_in_entra"
    NOT_AUTOPILOT_REGISTERED = "not_autopilot_registered"
    AUTOPILOT_MISMATCH = "autopilot_mismatch"
    OTHER_ACTION_PENDING = "other_action_pending"
    NOT_SETTLED = "not_settled"
    NOT_SEEN_LATELY = "not_seen_lately"
    CLOUD_PC = "cloud_pc"
    PROTECTED = "protected"
    NOT_ALLOWED = "not_allowed"
    FACTS_INCOMPLETE = "facts_incomplete"
    GROUPS_UNKNOWN = "groups_unknown"
    FACTS_CHANGED = "facts_changed"
    HANDED_ON = "handed_on"
    UNKNOWN_REQUESTER = "unknown_requester"
    OUT_OF_SCOPE = "out_of_scope"

    # Why it waits
    NOT_YET = "not_yet"
    HALTED = "halted"
    DAILY_LIMIT = "daily_limit"
    HOURLY_LIMIT = "hourly_limit"
    FLEET_SHARE = "fleet_share"
    DEVICE_LIMIT = "device_limit"
    APPROVAL_NEEDED = "approval_needed"
    WAITS_FOR_WAVE = "waits_for_wave"
    WAVE_FAILED = "wave_failed"

    # What went wrong on the way
    REJECTED_BY_GRAPH = "rejected_by_graph"
    FORBIDDEN_BY_GRAPH = "forbidden_by_graph"
    ADMIN_APPROVAL_REQUIRED = "admin_approval_required"
    ADMIN_APPROVAL_REJECTED = "admin_approval_rejected"
    ADMIN_APPROVAL_EXPIRED = "admin_approval_expired"
    NOT_SENT_IN_TIME = "not_sent_in_time"
    SEND_UNKNOWN = "send_unknown"
    NOT_CHECKED_IN = "not_checked_in"
    RESET_FAILED_ON_DEVICE = "reset_failed_on_device"
    RESET_TOO_LONG = "reset_too_long"
    NOT_PROVEN = "not_proven"
    RECORD_GONE = "record_gone"
    IDENTITY_CHANGED = "identity_changed"
    CANCELLED = "cancelled"
    RESET_ALREADY_SENT = "reset_already_sent"
    NOBODY_ACTED = "nobody_acted"

    # A second person's approval
    APPROVAL_REFUSED = "approval_refused"
    APPROVAL_EXPIRED = "approval_expired"
    NOT_AN_APPROVER = "not_an_approver"
    OWN_REQUEST = "own_request"
    DIGEST_DIFFERS = "digest_differs"
    NOTHING_TO_APPROVE = "nothing_to_approve"


@dataclass(frozen=True, slots=True)
class Words:
    """What a person reads: what happened, and what to do next."""

    sentence: str
    remedy: str


_SYNC_AT_DEVICE = (
    "At the device: switch it on, connect it to the internet, sign in and open Settings > Accounts > "
    "Access work or school > Info > Sync (or run ms-settings:workplace)."
)

WORDS: dict[Code, Words] = {
    Code.MALFORMED: Words(
        "The message is not a valid reset request.", "Correct the fields named and send it again under the same id."
    ),
    Code.TOO_LARGE: Words(
        "The message is larger than a queue message may be.",
        "Split the devices over several messages with the same requestId and `part`.",
    ),
    Code.REQUEST_ID_REUSED: Words(
        "Another request was already made under this id, with other content.", "Send it under an id of its own."
    ),
    Code.PARTS_DISAGREE: Words(
        "The parts of this request differ in more than their devices.",
        "Send all parts with the same requester, reason, times and queue, under a new requestId.",
    ),
    Code.PARTS_MISSING: Words(
        "Not all parts of the request arrived in time, so none of it was carried out.",
        "Send the whole request again under a new requestId.",
    ),
    Code.TOO_MANY_DEVICES: Words(
        "The request names more devices than one request may.", "Make several requests of at most 5,000 devices."
    ),
    Code.NO_DEVICES: Words(
        "No device has this Autopilot group tag.", "Check the tag in Intune under Devices > Enrollment > Devices."
    ),
    Code.POISONED: Words(
        "A message could not be handled in several tries and was set aside.",
        "Look the error up in the logs, mend its cause, then send the message again.",
    ),
    Code.STORAGE_UNAVAILABLE: Words(
        "Turnaround's storage refused the app, or did not answer.",
        "Send the very same again a little later; if it is still refused, the app's log names the cause.",
    ),
    Code.UNKNOWN_DEVICE: Words(
        "Neither Intune nor Autopilot knows a device by this name.",
        "Check the serial number, id or name; the device may belong to another tenant or have been removed.",
    ),
    Code.AMBIGUOUS: Words(
        "More than one device goes by this name.", "Ask again by the Intune id of the one that is meant."
    ),
    Code.ALREADY_IN_FLIGHT: Words(
        "The device is already being turned around for another request.",
        "Wait for that request to end, or cancel it first.",
    ),
    Code.NOT_ENROLLED: Words(
        "Autopilot knows the device, but it is not enrolled in Intune.",
        "Reset it by hand and let it enrol; a remote reset reaches only enrolled devices.",
    ),
    Code.NOT_WINDOWS: Words(
        "The device does not run Windows.", "Autopilot Reset exists for Windows only; use what fits the platform."
    ),
    Code.UNSUPPORTED_WINDOWS: Words(
        "The device runs a Windows for which there is no Autopilot Reset, such as that of servers, session hosts, "
        "HoloLens or Surface Hub.",
        "Use what fits the device: a full wipe in Intune for a Surface Hub.",
    ),
    Code.WINDOWS_TOO_OLD: Words(
        "The device's Windows is older than Windows 10 1809, with which remote Autopilot Reset came.",
        "Update its Windows, or reset it by hand.",
    ),
    Code.VIRTUAL_MACHINE: Words(
        "The device is a virtual machine, and the policy resets physical devices only.",
        "Make it anew from its image, or have `allow_virtual_machines` set by whoever keeps the policy.",
    ),
    Code.NOT_MDM_MANAGED: Words(
        "The device is in Intune's list, but not managed by Intune's MDM, so no reset would reach it.",
        "Enrol it in Intune, then ask again; until then use what manages it.",
    ),
    Code.CO_MANAGED: Words(
        "The device is managed by Configuration Manager too, which may set up again what the reset removes.",
        "Reset it from Configuration Manager, or have `allow_co_managed` set by whoever keeps the policy.",
    ),
    Code.HYBRID_JOINED: Words(
        "The device is hybrid-joined, which Autopilot Reset does not support.",
        "Use a full wipe in Intune, or move the device to Entra join.",
    ),
    Code.NOT_ENTRA_JOINED: Words(
        "The device is only registered in Entra, not joined.", "Join it to Entra and enrol it through Autopilot."
    ),
    Code.JOIN_UNKNOWN: Words(
        "Entra or Intune does not say how the device is joined.",
        "Check the device in Entra; reset it only once its join type is known.",
    ),
    Code.JOIN_DISAGREES: Words(
        "Entra and Intune say different things of how the device is joined.",
        "Run `dsregcmd /status` at the device and remove the stale record; ask again once both agree.",
    ),
    Code.DISABLED_IN_ENTRA: Words(
        "The device is disabled in Entra, so nobody could sign in to it after a reset.",
        "Find out why it was disabled. If it is to be used again, enable it in Entra, then ask again.",
    ),
    Code.NOT_AUTOPILOT_REGISTERED: Words(
        "The device is not registered for Autopilot.", "Register its hardware hash, then ask again."
    ),
    Code.AUTOPILOT_MISMATCH: Words(
        "The Autopilot registration of this serial number belongs to another device.",
        "Compare the records in Intune and Autopilot; remove the stale one, then ask again.",
    ),
    Code.OTHER_ACTION_PENDING: Words(
        "Another remote action is already under way on the device.",
        "Let it end, or cancel it in Intune; then ask again. A harmless one that is stuck can be named in the policy's "
        "`ignored_actions`.",
    ),
    Code.NOT_SETTLED: Words(
        "An earlier action on the device failed or was cancelled, or Intune does not have the device in order.",
        "Look at the device in Intune and mend the cause (for a failed reset: `reagentc /enable` at the device); ask "
        "again once Intune shows it as managed.",
    ),
    Code.NOT_SEEN_LATELY: Words(
        "The device has not checked in for so long that it may be lost or out of use.",
        "Find the device and ask again once it has checked in. " + _SYNC_AT_DEVICE,
    ),
    Code.CLOUD_PC: Words("The device is a Cloud PC, which cannot be Autopilot Reset.", "Reprovision it in Intune."),
    Code.PROTECTED: Words(
        "The policy protects the device: it is never reset.",
        "If it should be reset all the same, have the policy changed by whoever keeps it.",
    ),
    Code.NOT_ALLOWED: Words(
        "The device is not among those that the policy allows to be reset.",
        "If it should be, have it added by whoever keeps the policy.",
    ),
    Code.FACTS_INCOMPLETE: Words(
        "Graph did not tell enough about the device to be sure that it may be reset.",
        "Open the device in Intune, force a sync, and ask again.",
    ),
    Code.GROUPS_UNKNOWN: Words(
        "The policy names Entra groups, and which of them hold the device or its user could not be read.",
        "See the logs for the cause: Turnaround's identity may lack the right to read groups. Then ask again.",
    ),
    Code.FACTS_CHANGED: Words(
        "The device is no longer what it was when the request was accepted.",
        "Check the device's records in Intune, then make a new request.",
    ),
    Code.HANDED_ON: Words(
        "The device got another user, or was enrolled anew, since the request was accepted.",
        "Ask whoever has it now; if it is to be reset all the same, make a new request.",
    ),
    Code.UNKNOWN_REQUESTER: Words(
        "The policy says who may ask for resets, and does not name this requester.",
        "Have whoever keeps the policy add the requester, if that is right.",
    ),
    Code.OUT_OF_SCOPE: Words(
        "The requester may ask for resets, but not of this device.",
        "Ask somebody who may, or have the policy changed by whoever keeps it.",
    ),
    Code.NOT_YET: Words("The request asked for a later time.", "Nothing; it starts by itself."),
    Code.HALTED: Words("Turnaround is halted: nothing is sent.", "Whoever halted it resumes it once that is safe."),
    Code.DAILY_LIMIT: Words(
        "Today's limit of resets in the tenant is used up.",
        "Nothing; it goes on by itself tomorrow (UTC), unless the policy refuses what is over the limit.",
    ),
    Code.REJECTED_BY_GRAPH: Words(
        "Intune refused the reset; nothing was done to the device.", "See Intune's words; mend the cause and ask again."
    ),
    Code.FORBIDDEN_BY_GRAPH: Words(
        "Turnaround's identity may not reset this device; nothing was done to it.",
        "Grant DeviceManagementManagedDevices.PrivilegedOperations.All, then retry.",
    ),
    Code.ADMIN_APPROVAL_REQUIRED: Words(
        "Intune's Multi Admin Approval asks a second administrator first; nothing was done to the device.",
        "Have what waits there decided in Intune under Tenant administration > Multi Admin Approval, then retry.",
    ),
    Code.NOT_SENT_IN_TIME: Words(
        "The reset was not sent in time; nothing was done to the device.", "Retry or cancel it."
    ),
    Code.SEND_UNKNOWN: Words(
        "Graph's answer to the reset was lost, and nothing since proves or disproves that it was sent.",
        "Look at the device's actions in Intune. Cancel here if it was not sent; if it was, wait.",
    ),
    Code.NOT_CHECKED_IN: Words(
        "The reset waits in Intune, but the device has not checked in despite forced syncs.", _SYNC_AT_DEVICE
    ),
    Code.RESET_FAILED_ON_DEVICE: Words(
        "The device took the reset and reports that it failed.",
        "At the device: run `reagentc /enable` as administrator (Windows RE must be on), check power, then ask again.",
    ),
    Code.RESET_TOO_LONG: Words(
        "The device took the reset and has not been heard of since.",
        "Look at the device: it needs power and network. If it shows an error, reset it by hand.",
    ),
    Code.NOT_PROVEN: Words(
        "The device checks in, but nothing proves that its reset was completed.",
        "Look at the device: hand it out only if it shows the sign-in page of a fresh device. " + _SYNC_AT_DEVICE,
    ),
    Code.RECORD_GONE: Words(
        "The device's Intune record disappeared, which an Autopilot Reset never causes.",
        "Find out who removed or wiped it; enrol it again, then ask again.",
    ),
    Code.IDENTITY_CHANGED: Words(
        "The Intune record now belongs to another Entra device.", "Check who enrolled it anew; make a new request."
    ),
    Code.CANCELLED: Words("The turnaround was cancelled before the reset was sent.", "Nothing."),
    Code.RESET_ALREADY_SENT: Words(
        "The reset was already sent, and Intune cannot take it back.",
        "Expect the device to be reset when it next checks in.",
    ),
    Code.NOBODY_ACTED: Words(
        "The device needed a person, and nobody acted in time.", "Look at the device, then make a new request."
    ),
    Code.RESERVED_ID: Words("Ids that begin with `window:` are for lab windows.", "Send it under an id of its own."),
    Code.LOOKUP_FAILED: Words(
        "Microsoft Graph could not tell about the request's devices in time, so none of it was carried out.",
        "See the logs for Graph's words; mend the cause, then ask again under a new requestId.",
    ),
    Code.REQUEST_EXPIRED: Words(
        "The request is too old: its reset was not sent in the time in which that was safe.",
        "Make sure that the device has no other user by now, then make a new request.",
    ),
    Code.HOURLY_LIMIT: Words(
        "This hour's limit of resets is used up.",
        "Nothing; it goes on by itself in the next hour, unless the policy refuses what is over the limit.",
    ),
    Code.FLEET_SHARE: Words(
        "Today's share of the tenant's devices is used up.",
        "Nothing; it goes on by itself tomorrow (UTC), unless the policy refuses what is over the limit.",
    ),
    Code.DEVICE_LIMIT: Words(
        "The device was reset several times lately.",
        "Find out why it is reset so often; ask again later, or have the policy's limit raised.",
    ),
    Code.APPROVAL_NEEDED: Words(
        "A second person must approve the request first.",
        "One of the policy's approvers runs `turnaround approve` with the request's id and digest.",
    ),
    Code.WAITS_FOR_WAVE: Words(
        "The request goes out in waves, and this device's wave has not begun.",
        "Nothing; it goes on once enough of the wave before it is ready.",
    ),
    Code.WAVE_FAILED: Words(
        "Too few devices of an earlier wave became ready, so the rest was stopped; nothing was done to this one.",
        "Look at the devices that failed. Then retry this one, or cancel it.",
    ),
    Code.ADMIN_APPROVAL_REJECTED: Words(
        "Intune's administrators declined the reset in Multi Admin Approval; nothing was done to the device.",
        "Speak with whoever declined it; make a new request if it is right after all.",
    ),
    Code.ADMIN_APPROVAL_EXPIRED: Words(
        "Nobody decided on the reset in Intune's Multi Admin Approval in time; nothing was done to the device.",
        "Retry it, and have it approved in Intune under Tenant administration > Multi Admin Approval.",
    ),
    Code.APPROVAL_REFUSED: Words(
        "Whoever was asked to approve the request declined it.",
        "Speak with them; make a new request if it is right after all.",
    ),
    Code.APPROVAL_EXPIRED: Words(
        "The request was not approved in time, or its approval is too old by now.",
        "Make a new request, and have it approved sooner.",
    ),
    Code.NOT_AN_APPROVER: Words(
        "The policy does not name this person as one who may approve.",
        "Ask one of the policy's `approvers`, or have the policy changed.",
    ),
    Code.OWN_REQUEST: Words(
        "Nobody approves their own request.",
        "Ask another of the policy's `approvers`.",
    ),
    Code.DIGEST_DIFFERS: Words(
        "What was approved is not what the request would do now.",
        "Look at the request as it is now, and approve it by the digest that it has now.",
    ),
    Code.NOTHING_TO_APPROVE: Words(
        "No request of this id waits for approval.",
        "Check the id; see `turnaround status`.",
    ),
}


@dataclass(frozen=True, slots=True)
class Reason:
    """A code, with what is particular to this case."""

    code: Code
    detail: str = ""

    @property
    def sentence(self) -> str:
        words = WORDS[self.code].sentence
        return f"{words} {self.detail}" if self.detail else words

    @property
    def remedy(self) -> str:
        return WORDS[self.code].remedy
