"""Identifiers, each with a type of its own, so that one kind is never handed over as another."""

from typing import NewType

ManagedDeviceId = NewType("ManagedDeviceId", str)
"""Intune's id of a managed device: a lower-case GUID. A device that enrols anew gets a new one."""

EntraDeviceId = NewType("EntraDeviceId", str)
"""Entra's `deviceId` of a device (not its object id): a lower-case GUID."""

UserId = NewType("UserId", str)
"""Entra's object id of a user. The empty string says that Graph shows no user."""

RequestId = NewType("RequestId", str)
"""The sender's id of a request, or one that was derived from its content."""

OrderId = NewType("OrderId", str)
"""Our id of one order to Intune, sent as `client-request-id`, by which Microsoft's support finds the call."""
