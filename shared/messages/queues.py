"""The queues: their names, and the one place that sends to them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # heavy: only processes that send pay for it
    from azure.storage.queue.aio import QueueClient, QueueServiceClient

REQUESTS = "reset-requests"
DISPATCH = "reset-dispatch"
CONTROL = "reset-control"
NOTICES = "reset-notices"
RESULTS = "reset-results"

TRIGGERING = (REQUESTS, DISPATCH, CONTROL, NOTICES)
"""Queues that a function listens to; each has a `-poison` queue beside it."""

MAX_BODY = 45_000
"""Bytes of text in one message, so that it stays under 64 KiB in base64."""


class Queues(Protocol):
    """What the pipeline needs of queues."""

    async def send(self, queue: str, body: str) -> None:
        """Put a message on a queue; it is made where it is missing. At least once: a lost answer repeats it."""
        ...


@dataclass
class AzureQueues:
    """Azure Storage queues (or Azurite's). Messages are sent in base64, which is what queue triggers expect."""

    connect: "Callable[[], QueueServiceClient]"
    """Called at the first message that is sent: the SDK is slow to load, and many invocations send none."""
    calls: int = 0
    _service: "QueueServiceClient | None" = None
    _clients: "dict[str, QueueClient]" = field(default_factory=dict)

    async def send(self, queue: str, body: str) -> None:
        """Raises ResourceNotFoundError, by the queue's name, where it is missing and cannot be made, as by an app that
        may only add messages; other errors of Azure's SDK (AzureError) where storage refuses or does not answer."""
        from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

        client = self._client(queue)
        self.calls += 1
        try:
            await client.send_message(body, time_to_live=-1)
        except ResourceNotFoundError:
            try:
                await self.create(queue)
            except HttpResponseError as error:
                said = f"The queue {queue} is missing, and could not be made: {error.message}"
                raise ResourceNotFoundError(said) from error
            await client.send_message(body, time_to_live=-1)

    async def create(self, queue: str) -> None:
        """Make the queue where it is missing."""
        from azure.core.exceptions import ResourceExistsError

        try:
            await self._client(queue).create_queue()
        except ResourceExistsError:
            return

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
        if self._service is not None:
            await self._service.close()

    def _client(self, queue: str) -> "QueueClient":
        if queue not in self._clients:
            from azure.storage.queue import TextBase64EncodePolicy

            self._service = self._service or self.connect()
            client = self._service.get_queue_client(queue, message_encode_policy=TextBase64EncodePolicy())
            self._clients[queue] = client
        return self._clients[queue]
