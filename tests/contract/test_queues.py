"""What the pipeline relies on of queues, held against the fake in memory and against Azurite through Azure's SDK."""

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from azure.storage.queue.aio import QueueServiceClient

from sandbox.memory import LeaseLostError, MemoryQueues
from shared.messages.queues import MAX_BODY, AzureQueues, Queues


@dataclass(frozen=True)
class Seen:
    """A message as it lies on the queue."""

    content: str
    never_expires: bool
    dequeue_count: int

    @property
    def body(self) -> str:
        return base64.b64decode(self.content, validate=True).decode()


@dataclass(frozen=True)
class Case:
    queues: Queues
    receive: Callable[[str], Awaitable[list[Seen]]]
    name: str


@pytest.fixture(params=["memory", "azurite"])
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    name = f"reset-results-{uuid.uuid4().hex[:12]}"
    if request.param == "memory":
        memory = MemoryQueues()

        async def from_memory(queue: str) -> list[Seen]:
            taken = await memory.receive(queue)
            return [Seen(one.content, one.expires_at is None, one.dequeue_count) for one in taken]

        yield Case(memory, from_memory, name)
        return
    connection = request.getfixturevalue("azurite").connection_string
    azure = AzureQueues(lambda: QueueServiceClient.from_connection_string(connection))
    receiver = QueueServiceClient.from_connection_string(connection)

    async def from_azure(queue: str) -> list[Seen]:
        async with receiver.get_queue_client(queue) as client:
            found = [one async for one in client.receive_messages(max_messages=32, messages_per_page=32)]
        year = datetime.now(UTC) + timedelta(days=365)
        return [
            Seen(one.content, one.expires_on is None or one.expires_on > year, one.dequeue_count or 0) for one in found
        ]

    yield Case(azure, from_azure, name)
    await receiver.close()
    await azure.close()


async def test_sending_to_a_missing_queue_makes_it(case: Case) -> None:
    await case.queues.send(case.name, "first")
    await case.queues.send(case.name, "second")
    assert sorted(seen.body for seen in await case.receive(case.name)) == ["first", "second"]


async def test_a_message_is_in_base64_and_comes_back_as_it_was_sent(case: Case) -> None:
    body = json.dumps({"ticket": "Zurück bitte 🙂", "n": 1}, ensure_ascii=False)
    await case.queues.send(case.name, body)
    (seen,) = await case.receive(case.name)
    assert seen.content == base64.b64encode(body.encode()).decode()
    assert seen.body == body


async def test_a_message_stays_for_ever(case: Case) -> None:
    await case.queues.send(case.name, "x")
    (seen,) = await case.receive(case.name)
    assert seen.never_expires


async def test_a_received_message_is_hidden_from_others_and_counts_its_deliveries(case: Case) -> None:
    await case.queues.send(case.name, "x")
    (seen,) = await case.receive(case.name)
    assert seen.dequeue_count == 1
    assert await case.receive(case.name) == []


async def test_messages_sent_at_once_all_arrive_in_whatever_order(case: Case) -> None:
    bodies = {f"message {number}" for number in range(30)}
    await asyncio.gather(*(case.queues.send(case.name, body) for body in bodies))
    assert {seen.body for seen in await case.receive(case.name)} == bodies


async def test_the_largest_message_that_the_pipeline_makes_fits(case: Case) -> None:
    await case.queues.send(case.name, "x" * MAX_BODY)
    (seen,) = await case.receive(case.name)
    assert len(seen.body) == MAX_BODY


async def test_a_message_of_more_than_64_kibibytes_is_refused(case: Case) -> None:
    await case.queues.send(case.name, "x")
    with pytest.raises(Exception):  # noqa: B017 - which one differs: the SDK has many
        await case.queues.send(case.name, "x" * 50_000)
    assert [seen.body for seen in await case.receive(case.name)] == ["x"]


@pytest.mark.parametrize("name", ["ab", "Results", "reset_results", "-results", "reset--results"])
async def test_names_that_no_queue_may_have_are_refused(case: Case, name: str) -> None:
    with pytest.raises(Exception):  # noqa: B017 - which one differs: the SDK has many
        await case.queues.send(name, "x")


# --- the receiver's side, which only the fake has


@dataclass
class Clock:
    now: datetime = datetime(2026, 11, 21, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


async def test_a_lease_that_ends_makes_the_message_visible_again_and_its_receipt_void() -> None:
    clock = Clock()
    queues = MemoryQueues(clock)
    await queues.send("reset-dispatch", "x")
    (first,) = await queues.receive("reset-dispatch", lease=timedelta(seconds=30))
    clock.now += timedelta(seconds=29)
    assert await queues.receive("reset-dispatch") == []
    clock.now += timedelta(seconds=1)
    (second,) = await queues.receive("reset-dispatch")
    assert (second.body, second.dequeue_count) == ("x", 2)
    with pytest.raises(LeaseLostError):
        await queues.delete("reset-dispatch", first)
    await queues.delete("reset-dispatch", second)
    with pytest.raises(LeaseLostError):
        await queues.delete("reset-dispatch", second)
    assert queues.waiting("reset-dispatch") == []


async def test_the_fake_promises_no_order_either() -> None:
    queues = MemoryQueues()
    for number in range(20):
        await queues.send("reset-notices", str(number))
    received = [message.body for message in await queues.receive("reset-notices")]
    assert received != sorted(received, key=int)
    assert sorted(received, key=int) == queues.waiting("reset-notices")
