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

    # Which device is meant
    UNKNOWN_DEVICE = "unknown_device"
    AMBIGUOUS = "ambiguous"
    ALREADY_IN_FLIGHT = "already_in_flight"

    # Whether it may be reset
    NOT_ENROLLED = "not_enrolled"
    NOT_WINDOWS = "not_windows"
    HYBRID_JOINED = "hybrid_joined"
    NOT_ENTRA_JOINED = "not_entra_joined"
    JOIN_UNKNOWN = "join_unknown"
    NOT_AUTOPILOT_REGISTERED = "not_autopilot_registered"
    AUTOPILOT_MISMATCH = "autopilot_mismatch"
    OTHER_ACTION_PENDING = "other_action_pending"
    CLOUD_PC = "cloud_pc"
    PROTECTED = "protected"
    FACTS_INCOMPLETE = "facts_incomplete"
    FACTS_CHANGED = "facts_changed"

    # Why it waits
    NOT_YET = "not_yet"
    HALTED = "halted"
    DAILY_LIMIT = "daily_limit"

    # What went wrong on the way
    REJECTED_BY_GRAPH = "rejected_by_graph"
    FORBIDDEN_BY_GRAPH = "forbidden_by_graph"
    ADMIN_APPROVAL_REQUIRED = "admin_approval_required"
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
    Code.HYBRID_JOINED: Words(
        "The device is hybrid-joined, which Autopilot Reset does not support.",
        "Use a full wipe in Intune, or move the device to Entra join.",
    ),
    Code.NOT_ENTRA_JOINED: Words(
        "The device is only registered in Entra, not joined.", "Join it to Entra and enrol it through Autopilot."
    ),
    Code.JOIN_UNKNOWN: Words(
        "Entra does not say how the device is joined.",
        "Check the device in Entra; reset it only once its join type is known.",
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
        "Let it end, or cancel it in Intune; then ask again.",
    ),
    Code.CLOUD_PC: Words("The device is a Cloud PC, which cannot be Autopilot Reset.", "Reprovision it in Intune."),
    Code.PROTECTED: Words(
        "The device is on the list of protected devices.", "Have its entry removed by whoever keeps the policy."
    ),
    Code.FACTS_INCOMPLETE: Words(
        "Graph did not tell enough about the device to be sure that it is the right one.",
        "Open the device in Intune, force a sync, and ask again.",
    ),
    Code.FACTS_CHANGED: Words(
        "The device is no longer what it was when the request was accepted.",
        "Check the device's records in Intune, then make a new request.",
    ),
    Code.NOT_YET: Words("The request asked for a later time.", "Nothing; it starts by itself."),
    Code.HALTED: Words("Turnaround is halted: nothing is sent.", "Whoever halted it resumes it once that is safe."),
    Code.DAILY_LIMIT: Words(
        "Today's limit of resets in the tenant is used up.", "Nothing; it goes on by itself tomorrow (UTC)."
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
        "Have the request approved in Intune under Tenant administration > Multi Admin Approval, then retry.",
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
