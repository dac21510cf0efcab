"""Queue triggers as the real host runs them.

Behaviour after https://learn.microsoft.com/azure/azure-functions/functions-bindings-storage-queue-trigger and, where
that is silent, the extension's source (QueueListener in Azure/azure-sdk-for-net).
"""

import asyncio
import base64
import binascii
import contextlib
import json
import logging
import random
from datetime import datetime

from azure.core.exceptions import AzureError, ResourceExistsError, ResourceNotFoundError
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient, QueueServiceClient

from sandbox.host.config import QueueOptions
from sandbox.host.protos import TypedData
from sandbox.host.worker import Function, Outcome, Worker

log = logging.getLogger("sandbox.host")

SHORTEST_POLL = 0.1
POISON = "-poison"


class Backoff:
    """The wait before an empty queue is looked at again: 0.1 s, then about twice as long each time, to a limit."""

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self.reset()

    def reset(self) -> None:
        """A message was found: the next wait is the shortest."""
        self._empty = 0

    def next(self) -> float:
        """Seconds to wait now."""
        waited = SHORTEST_POLL * (1 + random.uniform(0.8, 1.2) * (2.0**self._empty - 1))
        if waited >= self._longest:
            return self._longest
        self._empty += 1
        return waited


class QueueListener:
    """Looks at one queue and gives its messages to one function."""

    def __init__(
        self, function: Function, service: QueueServiceClient, options: QueueOptions, lease: int, worker: Worker
    ) -> None:
        self.function = function
        self.name = function.text("queueName")
        self._queue = service.get_queue_client(self.name)
        # The poison queue of a poison queue is none: what fails there stays leased, and so is tried again only later.
        self._poison = None if self.name.endswith(POISON) else service.get_queue_client(self.name + POISON)
        self._options = options
        self._lease = lease
        self._worker = worker
        self._missing = False
        self._warned = False
        self._messages: set[asyncio.Task[None]] = set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Until `stopping` is set, take messages in batches, a new one when few enough are still running."""
        backoff = Backoff(self._options.max_polling_interval.total_seconds())
        while not stopping.is_set():
            batch = await self._receive()
            for message in batch:
                task = asyncio.create_task(self._release(message) if stopping.is_set() else self._process(message))
                self._messages.add(task)
                task.add_done_callback(self._messages.discard)
            if batch:
                backoff.reset()
                stop = asyncio.create_task(stopping.wait())
                while len(self._messages) > self._options.new_batch_threshold and not stopping.is_set():
                    await asyncio.wait({stop, *self._messages}, return_when=asyncio.FIRST_COMPLETED)
                stop.cancel()
            else:
                await wait_for(stopping, backoff.next())

    async def finish(self) -> None:
        """Wait until what became of the running messages has been written to the queue."""
        await asyncio.gather(*self._messages)

    async def _receive(self) -> list[QueueMessage]:
        size = self._options.batch_size
        pages = self._queue.receive_messages(messages_per_page=size, visibility_timeout=self._lease).by_page()
        try:
            batch = [message async for message in await anext(pages)]
        except StopAsyncIteration:
            return []
        except ResourceNotFoundError:
            if not self._missing:
                log.warning("%s: the queue %s is not there; waiting for it", self.function.name, self.name)
            self._missing = True
            return []
        except AzureError as error:
            log.warning("%s: the queue %s could not be read: %s", self.function.name, self.name, error)
            return []
        self._missing = False
        return batch

    async def _process(self, message: QueueMessage) -> None:
        lease = Lease(self._queue, message, self._lease)
        try:
            tries = message.dequeue_count or 1
            if self._poison and tries > self._options.max_dequeue_count:
                await self._bury(lease)  # the host died each time it tried
                return
            renewing = asyncio.create_task(lease.keep())
            try:
                outcome = await self._worker.invoke(self.function, self._body(message), _metadata(message))
            except asyncio.CancelledError:
                outcome = Outcome("cancelled")
            lease.done.set()
            await renewing
            if outcome.error is None:
                await self._queue.delete_message(message.id, lease.receipt)
            elif self._poison and tries >= self._options.max_dequeue_count:
                await self._bury(lease)
            elif self._poison:
                seconds = int(self._options.visibility_timeout.total_seconds())
                await self._queue.update_message(message.id, lease.receipt, visibility_timeout=seconds)
        except AzureError as error:
            # Most likely the lease ran out and someone else has the message: that is where it will be seen to.
            log.warning("%s: message %s could not be settled: %s", self.function.name, message.id, error)

    async def _release(self, message: QueueMessage) -> None:
        with contextlib.suppress(AzureError):  # then it comes back when its lease ends
            await self._queue.update_message(message.id, message.pop_receipt, visibility_timeout=0)

    async def _bury(self, lease: "Lease") -> None:
        assert self._poison is not None
        message = lease.message
        log.error(
            "%s: message %s failed %s times; moved to %s",
            self.function.name,
            message.id,
            message.dequeue_count,
            self._poison.queue_name,
        )
        try:
            await self._poison.send_message(message.content, time_to_live=-1)
        except ResourceNotFoundError:
            with contextlib.suppress(ResourceExistsError):
                await self._poison.create_queue()
            await self._poison.send_message(message.content, time_to_live=-1)
        await self._queue.delete_message(message.id, lease.receipt)

    def _body(self, message: QueueMessage) -> TypedData:
        content = str(message.content)
        if self._options.message_encoding == "none":
            return TypedData(string=content)
        decoded = decode(content)
        if decoded is None and not self._warned:
            # The real host does not hand it over: it moves it to the poison queue at once, whatever its dequeue count
            # (https://github.com/Azure/azure-sdk-for-net/pull/18326). With messageEncoding "none" both kinds arrive.
            log.warning(
                "%s: a message on %s is not base64; handed over as it is. In Azure it would go to the poison queue: "
                'set extensions.queues.messageEncoding to "none" and decode in the app',
                self.function.name,
                self.name,
            )
            self._warned = True
        return TypedData(string=content if decoded is None else decoded)


class Lease:
    """Keeps a message invisible to others while it is worked on."""

    def __init__(self, queue: QueueClient, message: QueueMessage, seconds: int) -> None:
        self.message = message
        self.receipt = message.pop_receipt
        self.done = asyncio.Event()
        self._queue = queue
        self._seconds = seconds

    async def keep(self) -> None:
        """Renew the lease whenever half of it is over, until `done`; each renewal changes `receipt`."""
        while not await wait_for(self.done, self._seconds / 2):
            try:
                renewed = await self._queue.update_message(
                    self.message.id, self.receipt, visibility_timeout=self._seconds
                )
            except AzureError as error:
                log.warning("the lease of message %s could not be renewed: %s", self.message.id, error)
            else:
                self.receipt = renewed.pop_receipt


def decode(content: str) -> str | None:
    """The text that a message's base64 holds; None when it is not base64. White space is no fault, as in .NET."""
    try:
        return base64.b64decode("".join(content.split()), validate=True).decode("utf-8", errors="replace")
    except (binascii.Error, ValueError):
        return None


def _metadata(message: QueueMessage) -> dict[str, TypedData]:
    def moment(value: datetime | None) -> TypedData:
        return TypedData(string=value.isoformat() if value else "")

    return {
        "Id": TypedData(string=message.id),
        "DequeueCount": TypedData(json=json.dumps(message.dequeue_count)),
        "PopReceipt": TypedData(string=message.pop_receipt),
        "InsertionTime": moment(message.inserted_on),
        "ExpirationTime": moment(message.expires_on),
        "NextVisibleTime": moment(message.next_visible_on),
    }


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """True as soon as the event is set, False when `seconds` have passed without it."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
