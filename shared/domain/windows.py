"""Lab-turnover windows: a room's devices are returned to service at fixed times."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from shared.domain.ids import RequestId
from shared.domain.policy import Duration
from shared.domain.request import RESULTS_QUEUE, DeviceSelector, ResetRequest
from shared.domain.timing import Occurrence

WINDOW_ID = "window:"
"""How the ids of their requests begin; nobody else's may."""

_SOME_TIME = datetime(2026, 1, 1, tzinfo=UTC)
LONGEST_OPEN = timedelta(days=366)
Span = Annotated[Duration, Field(le=LONGEST_OPEN)]


class Window(BaseModel):
    """One `[[window]]` of windows.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,49}$")]
    cron: str
    """When it opens: five cron fields (or six, with seconds first), on the wall clock of `timezone`."""
    timezone: str = "UTC"
    open_for: Span = timedelta(hours=1)
    """How long after its opening it may still be opened, should the timer have been down."""
    ready_by: Span | None = None
    """How long after the opening the devices are needed."""
    group_tag: str | None = None
    """All devices whose Autopilot device identity has this group tag; or else:"""
    devices: tuple[DeviceSelector, ...] = ()
    """These devices."""
    requester: str = "lab timetable"
    outcome_queue: Annotated[str, Field(pattern=rf"^{RESULTS_QUEUE}(-[a-z0-9]+)*$")] = RESULTS_QUEUE

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: a folder, or too long for a path
            raise ValueError(f"{name!r} is no time zone of the IANA database, such as Europe/Berlin") from error
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.group_tag is None) == (not self.devices):
            raise ValueError("give either group_tag or devices")
        try:
            if len(self.cron.split()) not in (5, 6):  # six: seconds first, for trials
                raise CronSimError("not five fields")
            CronSim(self.cron, _SOME_TIME)
        except CronSimError as error:
            raise ValueError(f"cron {self.cron!r}: {error}") from error
        self.request(Occurrence(_SOME_TIME, _SOME_TIME + self.open_for))  # what cannot be opened must not load
        return self

    def request(self, occurrence: Occurrence) -> ResetRequest:
        """The reset request of one opening. Its id follows from window and time: opened twice, it is still one."""
        selectors = self.devices or (DeviceSelector.model_validate({"groupTag": self.group_tag}),)
        return ResetRequest.model_validate(
            {
                "requestId": RequestId(f"{WINDOW_ID}{self.name}:{occurrence.opens:%Y%m%dT%H%MZ}"),
                "requester": self.requester,
                "reason": f"Lab window {self.name} of {occurrence.opens:%Y-%m-%d %H:%M} UTC",
                "devices": selectors,
                "readyBy": occurrence.opens + self.ready_by if self.ready_by else None,
                "outcomeQueue": self.outcome_queue,
            }
        )


class Windows(BaseModel):
    """The whole of windows.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: tuple[Window, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [window.name for window in self.window]
        if double := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two windows are called {', '.join(sorted(double))}")
        return self
