"""What an organisation decides for itself: durations, limits, protected devices. Defaults are cautious."""

from datetime import timedelta
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Duration = Annotated[timedelta, Field(gt=timedelta(0))]


class Policy(BaseModel):
    """Typed policy. Each field is set by `TURNAROUND_POLICY__<NAME>`; durations as ISO 8601, such as PT15M."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    """How far before the watermark each poll looks again, since lists lag."""
    parts_within: Duration = timedelta(hours=1)
    """All parts of a request must arrive within this time of the first."""
    retention: Duration = timedelta(days=400)
    """Ended turnarounds, their history and their requests are kept this long."""

    writes_per_window: Annotated[int, Field(ge=21, le=200)] = 180
    """Graph writes in 20 seconds that Turnaround allows itself, of the documented 200 an app and tenant."""
    reads_per_window: Annotated[int, Field(ge=21, le=1500)] = 1500
    """Graph reads in 20 seconds that Turnaround allows itself, of the documented 2,000 calls of any kind."""
    resets_per_day: Annotated[int, Field(ge=1)] = 500
    """Resets a UTC day; Intune's documented limit of wipes a tenant and day is 500 unless support raised it."""

    protected_devices: frozenset[Annotated[str, StringConstraints(strip_whitespace=True)]] = frozenset()
    """Serial numbers, names (with * and ?), Intune ids or Entra device ids that are never reset."""

    @model_validator(mode="after")
    def _reconcile_in_time(self) -> Self:
        if not self.reconcile_after <= self.audit_after < self.sending_for:
            raise ValueError("audit_after must be at least reconcile_after, and shorter than sending_for")
        if self.reconcile_after >= self.min_reset_duration:
            raise ValueError("reconcile_after must be shorter than min_reset_duration")
        return self
