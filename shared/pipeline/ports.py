"""What the pipeline asks of the systems around it: small protocols, one per system.

`shared.graph`, `shared.state` and `shared.messages` have the real ones; tests and the simulation bring others, and one
suite of contract tests holds them all to the same behaviour.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from shared.domain.devices import AuditedAction, CheckIn, DeviceFacts, DeviceReference, Finding, Sighting
from shared.domain.ids import ManagedDeviceId
from shared.domain.orders import Answer as Answer
from shared.domain.orders import AnswerKind as AnswerKind
from shared.domain.orders import Order as Order


class GraphError(Exception):
    """A read from Graph failed; nothing was learnt. The message is for people."""


class GraphThrottled(GraphError):  # noqa: N818 - says what happened
    """Graph asks to slow down."""

    def __init__(self, message: str, retry_after: timedelta | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class GraphForbidden(GraphError):  # noqa: N818 - says what happened
    """Our identity may not read this; the message names the permission."""


class GraphRejected(GraphError):  # noqa: N818 - says what happened
    """Graph will not take this call as it stands: asking again does not help."""


class GraphUnavailable(GraphError):  # noqa: N818 - says what happened
    """Graph could not be reached, or could not answer: asking again later may help."""

    def __init__(self, message: str, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Intune(Protocol):
    """Microsoft Graph, as far as Turnaround needs it. Reads raise GraphError when they could not be completed."""

    async def find(self, references: Sequence[DeviceReference]) -> Mapping[DeviceReference, Finding]:
        """For every reference, all devices that it names, with their facts. Absence was asked for directly: it is
        never concluded from a list, which may be incomplete."""
        ...

    async def facts(self, devices: Sequence[ManagedDeviceId]) -> Mapping[ManagedDeviceId, DeviceFacts | None]:
        """Fresh facts of these devices; None for one that Intune no longer has."""
        ...

    async def reset(self, orders: Sequence[Order]) -> Mapping[ManagedDeviceId, Answer]:
        """Order an Autopilot Reset of each device, once, with no retry of any kind. At most 20 orders; every order has
        an answer: never raises GraphError."""
        ...

    async def sync(self, orders: Sequence[Order]) -> Mapping[ManagedDeviceId, Answer]:
        """Ask each device to check in. At most 20 orders. Never raises GraphError."""
        ...

    def changed_since(self, since: datetime) -> AsyncIterator[CheckIn]:
        """Windows devices that have checked in at or after `since`, cut to the second as lists cut it; page by page, in
        no order. Each was checked by us, since Graph may ignore a filter."""
        ...

    async def look(self, devices: Sequence[ManagedDeviceId]) -> Mapping[ManagedDeviceId, Sighting]:
        """A close look at each device. One that could not be read is left out."""
        ...

    async def audited_resets(
        self, devices: Sequence[ManagedDeviceId], since: datetime
    ) -> Mapping[ManagedDeviceId, Sequence[AuditedAction]]:
        """Wipes and Autopilot Resets of these devices that Intune's audit shows at or after `since`, by anyone."""
        ...
