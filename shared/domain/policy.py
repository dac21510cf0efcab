"""What an organisation decides for itself: durations, limits, protected devices. Defaults are cautious."""

import re
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)


def _with_units(value: object) -> object:
    # pydantic takes a bare number as seconds, and "1:00:00" too: whoever writes 15 mostly means minutes.
    if isinstance(value, timedelta) or (isinstance(value, str) and value.lstrip("+-").startswith("P")):
        return value
    raise ValueError("write a duration with its units, as ISO 8601 does: PT15M, PT2H or P3D")


Duration = Annotated[timedelta, BeforeValidator(_with_units), Field(gt=timedelta(0), le=timedelta(days=3660))]
"""More than ten years is a slip of the pen, and some of it leads beyond the year 9999."""


Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
"""A name, or a pattern of names: * stands for any characters, ? for one; case does not matter."""

_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _object_id(value: str) -> str:
    given = value.strip().lower()
    if not _GUID.fullmatch(given):
        raise ValueError(f"{value!r} is no object id of Entra, such as 5f3c1d1e-0a2b-4c3d-8e9f-001122334455")
    return given


ObjectId = Annotated[str, AfterValidator(_object_id)]
"""An object id of Entra, which is a GUID, in lower case."""

ERASING_ACTIONS = frozenset(
    {
        *("wipe", "factoryreset", "factoryresetkeepenrollmentdata", "automaticredeployment", "cleanwindowsdevice"),
        *("retire", "removecompanydata", "delete", "deprovision"),
    }
)
"""Remote actions that erase a device or take it from Intune, in lower case (Graph remoteAction)."""


def _not_erasing(value: str) -> str:
    if value.lower() in ERASING_ACTIONS:
        raise ValueError(f"{value} erases or removes the device, and cannot be ignored")
    return value


class OverCap(StrEnum):
    """What becomes of a device for which a limit has no room."""

    HOLD = "hold"
    REFUSE = "refuse"


class RequesterScope(BaseModel):
    """Who may ask for which devices. A scope with none of the three lists holds every device."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    """The requester's sign-in name (with * and ?)."""
    group_tags: frozenset[Name] = frozenset()
    """Autopilot group tags (with * and ?)."""
    devices: frozenset[Name] = frozenset()
    """Names or serial numbers (with * and ?), Intune ids or Entra device ids."""
    groups: frozenset[ObjectId] = frozenset()
    """Object ids of Entra groups that hold the device or its primary user, directly or through other groups."""


class Policy(BaseModel):
    """Typed policy. A field is set in policy.toml, or by `TURNAROUND_POLICY__<NAME>`; durations as ISO 8601: PT15M."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    facts_max_age: Duration = timedelta(minutes=10)
    """Facts older than this are read again before a reset is sent."""
    clock_tolerance: Duration = timedelta(minutes=5)
    """How far our clock and Graph's may differ, where Graph's own time is not known."""
    delivery_margin: Duration = timedelta(minutes=1)
    """A check-in sooner than this after Intune took the order may have begun before it."""
    min_reset_duration: Duration = timedelta(minutes=15)
    """A device that checks in sooner than this after taking the reset cannot have been reset yet."""
    usual_reset_duration: Duration = timedelta(minutes=45)
    """A device that is not back by then is told to sync."""
    sync_answer: Duration = timedelta(minutes=5)
    """A device that is on and not being reset answers a forced sync within this time."""

    sync_grace: Duration = timedelta(minutes=5)
    """How long a device may take to check in by itself before a sync is forced."""
    sync_backoff: Duration = timedelta(minutes=10)
    """Gap after the first forced sync; each further one doubles it; up to a fifth is added to spread devices."""
    sync_attempts: Annotated[int, Field(ge=1, le=20)] = 4
    """Forced syncs before a person is asked to sync at the device."""

    received_for: Duration = timedelta(hours=1)
    """How long intake may take to come back to a device."""
    held_for: Duration = timedelta(days=1)
    """How long a device may be held beyond the time that its request asked for."""
    cleared_for: Duration = timedelta(hours=1)
    """How long a device may wait for its turn."""
    sending_for: Duration = timedelta(hours=1)
    """How long the question whether a reset was sent may stay open; sending again is possible only within it."""
    triggered_for: Duration = timedelta(days=3)
    """How long the device may take to take the reset, whatever the syncs."""
    resetting_for: Duration = timedelta(hours=3)
    """How long a reset may take."""
    settling_for: Duration = timedelta(hours=12)
    """How long proof may take after the return."""
    attention_for: Duration = timedelta(days=14)
    """After this without anybody's action the turnaround is given up as failed."""

    redispatch_after: Duration = timedelta(minutes=5)
    """A cleared device whose turn has not come by then is put on the dispatch queue again."""
    reconcile_after: Duration = timedelta(minutes=5)
    """How long Graph may take to show what it has been told: only after it does silence mean that nothing was sent."""

    audit_after: Duration = timedelta(minutes=40)
    """How long Intune's audit may take to show a reset, which is not documented: only after it does the audit's silence
    mean that nothing was sent."""
    poll_overlap: Duration = timedelta(minutes=10)
    """How old what lists show may be: each poll looks again so far before the watermark, and only after it does a list
    show what came late."""
    parts_within: Duration = timedelta(hours=1)
    """All parts of a request must arrive within this time of the first."""
    retention: Annotated[Duration, Field(ge=timedelta(days=30))] = timedelta(days=400)
    """Ended turnarounds, their history and their requests are kept this long, at least 30 days: a request that is
    forgotten and comes again is a new one."""

    writes_per_window: Annotated[int, Field(ge=20, le=200)] = 180
    """Graph writes in 20 seconds that Turnaround allows itself, of the documented 200 an app and tenant."""
    reads_per_window: Annotated[int, Field(ge=20, le=1500)] = 1500
    """Graph reads in 20 seconds that Turnaround allows itself, of the documented 2,000 calls of any kind."""
    resets_per_day: Annotated[int, Field(ge=1)] = 500
    """Resets a UTC day; Intune's documented limit of wipes a tenant and day is 500 unless support raised it."""
    resets_per_hour: Annotated[int, Field(ge=1)] = 200
    """Resets in an hour of the clock (UTC)."""
    resets_per_device: Annotated[int, Field(ge=1)] = 3
    """Resets of one device within `device_window`, whoever asks for them; another is refused."""
    device_window: Duration = timedelta(days=7)
    """The time in which the resets of one device are counted."""
    fleet_share_per_day: Annotated[float, Field(gt=0, le=1)] = 0.25
    """The part of the tenant's Windows devices that may be reset on one UTC day; 1 lifts this limit."""
    fleet_share_floor: Annotated[int, Field(ge=1)] = 50
    """Resets a UTC day that the share never forbids; also the limit as long as the fleet's size is not known."""
    over_cap: OverCap = OverCap.HOLD
    """What becomes of a device over a limit of an hour, a day or the share: `hold` until there is room, as long as the
    request is valid, or `refuse` at once."""
    request_valid_for: Duration = timedelta(days=7)
    """A device whose reset was not sent within this time of its request, or of the start that it asked for, is refused:
    it may have another user by now."""
    lookup_for: Duration = timedelta(days=1)
    """How long looking up a request's devices may go on failing before the request is refused."""

    approval_above: Annotated[int, Field(ge=0)] = 20
    """A request that would reset more devices than this needs a second person's approval."""
    unapproved_per_day: Annotated[int, Field(ge=0)] = 100
    """Resets a UTC day that may go without a second person, over all requests together; what is beyond needs approval,
    however small its request: else a large request would be made as many small ones."""
    approvers: frozenset[Name] = frozenset()
    """Who may approve, by sign-in name (with * and ?). Nobody approves their own request; nobody named: nobody can."""
    approval_within: Duration = timedelta(days=1)
    """How long a request waits for approval before it is refused."""
    approval_valid_for: Duration = timedelta(days=3)
    """How long after an approval its resets may be sent, or after the start that the request asked for."""
    admin_approval_for: Duration = timedelta(days=3, hours=12)
    """How long Intune's Multi Admin Approval may take; Intune itself forgets a request after 3 days."""
    admin_approval_poll: Duration = timedelta(minutes=10)
    """How often Intune is asked whether its administrators have decided."""

    wave_above: Annotated[int, Field(ge=1)] = 50
    """A request that would reset more devices than this goes out in waves."""
    wave_first: Annotated[int, Field(ge=1)] = 5
    """Devices of the first wave, the canary."""
    wave_growth: Annotated[float, Field(ge=1)] = 4
    """How many times larger each wave is than the one before."""
    wave_ready_share: Annotated[float, Field(gt=0, le=1)] = 0.8
    """The part of a wave that must be ready before the next one starts."""
    wave_failed_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """When more than this part of a wave failed or needs a person, no further wave starts until a person says so."""
    wave_within: Duration = timedelta(hours=12)
    """A wave that has not come so far by then stops the rest too."""

    halt_failed_min: Annotated[int, Field(ge=0)] = 5
    """Turnaround halts itself when at least this many resets failed or need a person within an hour, and they are more
    than `halt_failed_share` of those that ended; 0 switches this off."""
    halt_failed_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """See `halt_failed_min`."""
    halt_refused: Annotated[int, Field(ge=0)] = 200
    """Turnaround halts itself when more devices than this are refused within an hour; 0 switches this off."""
    halt_burst_factor: Annotated[float, Field(ge=0)] = 5
    """Turnaround halts itself when a UTC day's resets are more than this many times the most of any of the 28 days
    before; 0 switches this off."""
    halt_burst_floor: Annotated[int, Field(ge=1)] = 300
    """A day with no more resets than this is never a burst."""
    halt_on_unknown_requester: bool = True
    """Turnaround halts itself when somebody asks who is not among the `requesters`, where those are named."""

    protected_devices: frozenset[Name] = frozenset()
    """Serial numbers, names (with * and ?), Intune ids or Entra device ids that are never reset."""
    protected_groups: frozenset[ObjectId] = frozenset()
    """Object ids of Entra groups: a device is never reset that is in one, or whose primary user is, directly or through
    other groups."""
    protected_users: frozenset[ObjectId] = frozenset()
    """Object ids of Entra users: a device is never reset whose primary user is one of them."""
    allowed_devices: frozenset[Name] = frozenset()
    """As `protected_devices`: where this or `allowed_groups` has entries, no other device is reset."""
    allowed_groups: frozenset[ObjectId] = frozenset()
    """As `protected_groups`: where this or `allowed_devices` has entries, no other device is reset."""
    sensitive_devices: frozenset[Name] = frozenset()
    """As `protected_devices`: a request for one of these needs a second person's approval."""
    sensitive_groups: frozenset[ObjectId] = frozenset()
    """As `protected_groups`: a request for a device of one of these needs a second person's approval."""
    allow_virtual_machines: bool = False
    """Whether virtual machines are reset too; Cloud PCs never are."""
    allow_co_managed: bool = False
    """Whether devices are reset that Configuration Manager manages too."""
    ignored_actions: frozenset[Annotated[Name, AfterValidator(_not_erasing)]] = frozenset()
    """Remote actions, by Graph's name, that may be pending on a device that is reset, besides scans, syncs and their
    like: for those that Intune shows as pending for ever. None that erases a device can be named."""
    last_check_in_max_age: Duration = timedelta(days=30)
    """A device that has not checked in for longer than this is refused: it may be lost, and would be erased whenever it
    is found."""
    requesters: tuple[RequesterScope, ...] = ()
    """Who may ask for which devices, as scopes: `name` is the requester's sign-in name (with * and ?); `group_tags`,
    `devices` and `groups` say which devices; a scope with none of the three holds every device. Scopes of one requester
    add up. No scope at all: everybody may ask for every device."""

    @property
    def lists_lag(self) -> timedelta:
        """How old what a list shows may be."""
        return max(self.poll_overlap, self.reconcile_after)

    @property
    def listed_for(self) -> timedelta:
        """How long a check-in is seen again in lists: long enough for them to show what is still so late."""
        return self.lists_lag + self.reconcile_after / 2

    @property
    def watched_groups(self) -> frozenset[str]:
        """Every Entra group of which must be known whether it holds a device or its primary user."""
        named = self.protected_groups | self.allowed_groups | self.sensitive_groups
        return named.union(*(scope.groups for scope in self.requesters))

    @model_validator(mode="after")
    def _reconcile_in_time(self) -> Self:
        if not self.reconcile_after <= self.audit_after < self.sending_for:
            raise ValueError("audit_after must be at least reconcile_after, and shorter than sending_for")
        if self.reconcile_after >= self.min_reset_duration:
            raise ValueError("reconcile_after must be shorter than min_reset_duration")
        return self
