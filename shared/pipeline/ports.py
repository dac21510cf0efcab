"""What the pipeline asks of the systems around it: small protocols, one per system.

`shared.graph`, `shared.state` and `shared.messages` have the real ones; tests and the simulation bring others, and one
suite of contract tests holds them all to the same behaviour.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from shared.domain.devices import AuditedAction, DeviceFacts, DeviceReference, Finding, ManagedDevice, Sighting
from shared.domain.ids import ManagedDeviceId
from shared.domain.orders import AdminDecision as AdminDecision
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
        never concluded from a list, which may be incomplete. Pending actions are told only of devices named by their
        Intune id: lists and filters do not show them."""
        ...

    async def facts(self, devices: Sequence[ManagedDeviceId]) -> Mapping[ManagedDeviceId, DeviceFacts | None]:
        """Fresh facts of these devices, with their pending actions; None for one that Intune no longer has."""
        ...

    async def managed(self, devices: Sequence[ManagedDeviceId]) -> Mapping[ManagedDeviceId, ManagedDevice | None]:
        """Intune's own record of each device, read by itself, with its pending actions; None for one that is gone.

        It goes at once: whoever asks has booked an order for each of them, and they go by the pace of the orders."""
        ...

    async def memberships(
        self, devices: Sequence[DeviceFacts], groups: frozenset[str]
    ) -> Mapping[ManagedDeviceId, frozenset[str]]:
        """Of these Entra groups (object ids), those that hold the device or its primary user, directly or through other
        groups. A device is left out, and nothing is known of its groups, where Entra has no such device, or where its
        Entra id or its primary user was not told. A user that Entra no longer has is in no group. Entra shows a change
        of membership only after a while. Raises GraphError also for a group that Entra does not have, or that hides its
        members."""
        ...

    async def fleet_size(self) -> int:
        """How many Windows devices Intune manages, as its own overview counts them."""
        ...

    async def reset(self, orders: Sequence[Order]) -> Mapping[ManagedDeviceId, Answer]:
        """Order an Autopilot Reset of each device, once, with no retry of any kind. At most 20 orders; every order has
        an answer: never raises GraphError."""
        ...

    async def wipe(self, orders: Sequence[Order]) -> Mapping[ManagedDeviceId, Answer]:
        """Order a full wipe of each device, which takes it out of Intune too: otherwise as `reset`."""
        ...

    async def sync(self, orders: Sequence[Order]) -> Mapping[ManagedDeviceId, Answer]:
        """Ask each device to check in. At most 20 orders. Never raises GraphError."""
        ...

    def changed_since(self, since: datetime) -> AsyncIterator[Sighting]:
        """Windows devices that have checked in at or after `since`, cut to the second as lists cut it, with what the
        list shows of them; page by page, in no order. Each was checked by us, since Graph may ignore a filter."""
        ...

    async def look(self, devices: Sequence[ManagedDeviceId]) -> Mapping[ManagedDeviceId, Sighting]:
        """A close look at each device. One that could not be read is left out."""
        ...

    async def audited_resets(
        self, devices: Sequence[ManagedDeviceId], since: datetime
    ) -> Mapping[ManagedDeviceId, Sequence[AuditedAction]]:
        """Wipes and Autopilot Resets of these devices that Intune's audit shows at or after `since`, by anyone."""
        ...

    async def admin_decisions(self, codes: Sequence[str]) -> Mapping[str, AdminDecision]:
        """What became of the requests for Multi Admin Approval with these codes. UNKNOWN for one that Graph does not
        show now: nothing follows from that."""
        ...
