"""The ways in which Graph and Intune differ from what one would expect, each switchable by name.

The defaults are the most awkward answers that are plausible: what works here need not be argued about later.
"""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

ACTION_NAMES = ("factoryReset", "factoryResetKeepEnrollmentData", "automaticRedeployment", "cleanWindowsDevice")
"""The names under which one and the same reset was seen in deviceActionResults."""


UNPUBLISHED = {"deviceEnrollmentType": ("azureAdJoinUsingAzureVmExtension",)}
"""Members that the v1.0 metadata lacks, by the property that carries them under `strange_enum_members`: one by which
nothing is decided."""


def _iso_only(value: object) -> object:
    if isinstance(value, timedelta) or (isinstance(value, str) and value.removeprefix("-").startswith("P")):
        return value
    raise ValueError("must be an ISO 8601 duration such as PT15M")


def iso(duration: timedelta) -> str:
    """Write a duration as ISO 8601 in days, hours, minutes and seconds, as exactly as a timedelta holds it."""
    seconds = duration.total_seconds()
    sign, seconds = ("-" if seconds < 0 else ""), abs(seconds)
    return f"{sign}PT{int(seconds)}S" if seconds.is_integer() else f"{sign}PT{seconds:.6f}S"


Duration = Annotated[
    timedelta, BeforeValidator(_iso_only), Field(ge=timedelta()), PlainSerializer(iso, when_used="json")
]
"""A duration written in ISO 8601 ("PT15M"); bare numbers are refused, since their unit would be a guess."""

SignedDuration = Annotated[timedelta, BeforeValidator(_iso_only), PlainSerializer(iso, when_used="json")]

Rate = Annotated[float, Field(ge=0, le=1)]


class DeviceQuirks(BaseModel):
    """What is odd about how Graph shows a device. Durations are simulated in a scenario file, real in a fleet.

    A tenant has these for all its devices, and a device may have its own: so one tenant shows many dialects at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # What a reset looks like from outside.
    action_name: Literal[
        "factoryReset", "factoryResetKeepEnrollmentData", "automaticRedeployment", "cleanWindowsDevice", "varies"
    ] = "varies"
    """The name of the reset in deviceActionResults and in the audits; "varies" by device."""
    action_results: Literal["filled", "always_empty"] = "filled"
    """Whether a reset ever appears in deviceActionResults."""
    action_done_at: Literal["pickup", "end"] = "pickup"
    """When the reset's action result turns `done`."""
    management_state: Literal["moves", "stuck", "never"] = "moves"
    """managementState: wipePending, wipeIssued, managed; or wipePending for ever; or managed throughout."""
    primary_user_cleared: Literal["trigger", "pickup", "end", "late"] = "trigger"
    """When the old primary user disappears from the record; "late" is `late_after` the first sync that follows."""
    late_after: Duration = timedelta(minutes=10)
    old_action_results: bool = True
    """Scans, locks and a done wipe of years ago stand in deviceActionResults."""
    untyped_action_results: bool = True
    """Some entries of deviceActionResults lack @odata.type."""

    # What reads show.
    list_without_action_results: bool = True
    """A list shows deviceActionResults empty."""
    list_seconds_only: bool = True
    """A list cuts instants to the second; a single read has seven digits."""
    null_swaps: bool = True
    """An absent string is "" or "Unknown" in a list and null in a single read."""
    never_dates: bool = True
    """"Never" is 0001-01-01T00:00:00Z, and "no end" is 9999-12-31 with and without fractions; else null."""
    strange_enum_members: bool = True
    """Some enum properties carry members that the published metadata lacks."""
    join_type: Literal["right", "unknown", "stale"] = "right"
    """What Intune's own joinType says of one device in five: `unknown`, or how the device was joined before."""
    odd_autopilot_links: bool = True
    """An Autopilot identity may be notContacted beside an enrolled device, its managedDeviceId wrong, zeros or ""."""
    serial_oddities: bool = False
    """The serial number of one Autopilot identity in eight ends in a space."""
    stale_reads: Duration = timedelta(minutes=1)
    """For how long reads go on showing the state before a change."""
    audit_lag: Duration = timedelta(minutes=5)
    """How long after a call its remote-action audit appears."""
    deleted_record_stub: bool = False
    """A read of a record that has gone answers 200 with a stub (no serial number, year-1 sync) instead of 404."""
    list_incomplete: Rate = 0.0
    """The share of reads by list that leave the record out."""
    stale_lists: Duration = timedelta()
    """For how much longer than single reads lists go on showing the state before a change."""
    list_hides: bool = False
    """A list names no primary user and no management state."""


class Quirks(DeviceQuirks):
    """What the simulated tenant does oddly."""

    clock_offset: SignedDuration = timedelta()
    """How far the tenant's clock is ahead of this machine's."""
    answers_within: Duration = timedelta()
    """How long an answer takes at most."""
    group_lag: Duration = timedelta(minutes=1)
    """For how long after a change of a group's members some reads show it, and others do not."""
    unknown_groups: Literal["ignored", "404"] = "ignored"
    """What checkMemberGroups does with a group that does not exist. Uncertain: it is not documented."""
    page_size: Annotated[int, Field(ge=1, le=1000)] = 1000

    # What $filter does.
    unsupported_filter_ignored: bool = True
    """An unsupported $filter on managedDevices returns everything; else it is refused with 400."""
    filter_support: Literal["reference", "schema"] = "reference"
    """Which operators managedDevices supports: those of the reference pages, or the more of the schema."""
    or_acts_like_and: bool = True
    """`or` in a supported $filter is taken as `and`."""

    # Limits and refusals.
    throttle: bool = True
    """Whether the limits below are enforced."""
    write_limit: Annotated[int, Field(ge=1)] = 200
    """Intune device writes in 20 real seconds."""
    call_limit: Annotated[int, Field(ge=1)] = 2000
    """Intune device calls of any kind in 20 real seconds."""
    retry_after: Literal["present", "missing"] = "missing"
    """Whether a 429 or 503 says how long to wait."""
    fault_lasts: Duration = timedelta(seconds=10)
    """What Retry-After says of a fault at random, in whole seconds and at least one."""
    daily_wipe_limit: Annotated[int, Field(ge=0)] = 500
    """Wipes taken in any 24 real hours."""
    daily_limit_answer: Literal["429", "429_told", "400_told"] = "429"
    """How a wipe over that limit is refused: as any throttling, or in words that name the limit. Uncertain: how Intune
    really says it is not documented and was not seen."""
    groups_forbidden: bool = False
    """Every read of groups, and of who is in them, is refused with 403."""
    forbidden_shape: Literal["403", "401", "500", "varies"] = "varies"
    """How Intune's authorisation failures look."""
    no_intune: Literal["off", "401", "400", "503"] = "off"
    """The answers of a tenant without Intune: 401, 400 "segment", or an HTML page with 503."""
    multi_admin_approval: Literal["off", "400", "403", "409", "412"] = "off"
    """A wipe needs another administrator's approval; the status with which the first call is intercepted."""
    approval_code_in: Literal["header", "body", "both"] = "body"
    """Where that answer shows the approval's code."""
    approval_ids: Literal["id", "request_id", "both"] = "request_id"
    """Which property of an operationApprovalRequest is the code. Microsoft's page on Multi Admin Approval filters by
    `requestId`, which its SDK lacks; public scripts found the code to be the `id`."""
    approval_filter: Literal["works", "ignored", "refused"] = "ignored"
    """What $filter does on operationApprovalRequests. Under "id" it knows no `requestId`, even where it works."""
    approval_expires_after: Duration = timedelta(days=3)
    """A request that was neither decided nor used by then is lost."""
    admin_decides: Literal["never", "approve", "reject"] = "never"
    """What a second administrator does `admin_decides_after` each request; "never" leaves it to the test."""
    admin_decides_after: Duration = timedelta(hours=1)

    # Faults at random, each the share of calls that it meets.
    p429: Rate = 0.0
    p503: Rate = 0.0
    p503_acted: Rate = 0.0
    """503 CancelledOnServiceTimeout, although the call took effect."""
    lost_answer: Rate = 0.0
    """The call takes effect and the connection is cut."""
    forbidden: Rate = 0.0
    """An authorisation failure that passes."""
