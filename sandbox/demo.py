"""The main job on this machine: a scenario's messages go in, and what becomes of each device is watched to its end."""

import asyncio
import base64
import binascii
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn, cast

import httpx
from azure.core.exceptions import AzureError
from azure.core.pipeline import PipelineResponse
from azure.core.rest import HttpRequest
from azure.data.tables.aio import TableClient
from azure.storage.queue.aio import QueueClient, QueueServiceClient

from sandbox.processes import ChildError
from sandbox.report import POINT_READ, QUERY, SEND
from sandbox.scenario import DeviceEnd, Encoding, RequestEnd, Scenario
from sandbox.show import Row, Screen
from sandbox.stack import Stack
from sandbox.tenant.devices import Json
from sandbox.verdict import Ends, Observed, Sent, Told, expectation
from shared.domain.ids import RequestId
from shared.domain.notices import notice_id
from shared.domain.request import RESULTS_QUEUE, ResetRequest, parse
from shared.domain.reset import Event
from shared.domain.states import NEEDS_A_PERSON, TERMINAL, State
from shared.domain.timing import open_occurrences
from shared.messages.queues import REQUESTS
from shared.pipeline.status import RequestStatus, request_status
from shared.state import rows
from shared.state.rows import RequestState
from shared.state.store import END, Store
from shared.state.table import AzureTable

LOOK_EVERY = 0.4
"""Seconds between two looks at the state table; more where a look takes long."""
COLLECT_EVERY = 0.1
GUARD_EVERY = 0.3
LAST_NOTICES = 5.0
"""Seconds that a promised notice may take after the last device has ended."""


@dataclass
class Run:
    """A run under way, and what was seen of it so far."""

    scenario: Scenario
    stack: Stack
    notices: Path
    """Where every notice is written, a JSON line each."""
    sent: list[Sent] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    statuses: dict[str, RequestStatus | None] = field(default_factory=dict)
    windows: dict[str, None] = field(default_factory=dict)
    own_calls: Counter[str] = field(default_factory=Counter)
    """Calls to storage that watching took, by kind."""
    ends: Ends = field(init=False)

    def __post_init__(self) -> None:
        self.ends = self.scenario.expected()

    async def watch(self, screen: Screen) -> tuple[Observed, Json]:
        """Send what the scenario sends and watch until everything has ended, or its time is up.

        Gives what was seen, and the tenant's count of calls to Graph.

        Raises ChildError when a part of the sandbox ends before that.
        """
        async with _task(self._watch(screen)) as watching, _task(self._guard()) as guarding:
            await asyncio.wait({watching, guarding}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done() and isinstance(error := watching.exception(), AzureError):
                await asyncio.wait({guarding}, timeout=3 * GUARD_EVERY)
                if not guarding.done():
                    raise ChildError(f"Azurite does not answer as it should: {error.message}") from error
            return guarding.result() if guarding.done() else watching.result()

    async def _guard(self) -> NoReturn:
        while True:
            self.stack.check()
            await asyncio.sleep(GUARD_EVERY)

    async def _watch(self, screen: Screen) -> tuple[Observed, Json]:
        limit = self.stack.start + self.scenario.real(self.scenario.scenario.time_limit)
        async with contextlib.AsyncExitStack() as stack:
            queues = await stack.enter_async_context(QueueServiceClient.from_connection_string(self.stack.connection))
            store = await stack.enter_async_context(self._store())
            before = await self._truth()
            sending = await stack.enter_async_context(_task(self._send(queues)))
            collecting = await stack.enter_async_context(_task(self._collect(queues)))
            while True:
                began = asyncio.get_running_loop().time()
                await self._look(store)
                now = datetime.now(UTC)
                screen.update(self._rows(), (now - self.stack.start) * self.scenario.speed)
                for task in (sending, collecting):
                    if task.done() and (error := task.exception()):
                        raise error
                if sending.done() and (self._settled(now) or now > limit):
                    break
                took = asyncio.get_running_loop().time() - began
                await asyncio.sleep(max(LOOK_EVERY, 2 * took))
            timed_out = not self._settled(now)
            truth = await self._truth()
            calls = cast("Json", await self._get("/sandbox/calls"))
            events = await self._last_notices(store)
        observed = Observed(
            scenario=self.scenario,
            start=self.stack.start,
            ended=now,
            timed_out=timed_out,
            sent=self.sent,
            windows=list(self.windows),
            statuses=self.statuses,
            events=events,
            told=self.told,
            before=before,
            truth=truth,
        )
        return observed, calls

    # What a ticketing system does.

    async def _send(self, queues: QueueServiceClient) -> None:
        async with queues.get_queue_client(REQUESTS) as queue:
            for table in sorted(self.scenario.requests, key=lambda table: table.at):
                due = self.stack.start + self.scenario.real(table.at)
                await asyncio.sleep(max(0.0, (due - datetime.now(UTC)).total_seconds()))
                body = self.scenario.message(table)
                text = base64.b64decode(body).decode() if table.encoding is Encoding.BASE64 else body
                request = parse(text)
                at = datetime.now(UTC)
                await queue.send_message(body)
                self.own_calls[SEND] += 1
                part = isinstance(request, ResetRequest) and request.part is not None
                self.sent.append(Sent(table, request.id, part=part, at=at))

    async def _collect(self, queues: QueueServiceClient) -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients: dict[str, QueueClient] = {}
            for name in self.outcome_queues():
                clients[name] = await stack.enter_async_context(queues.get_queue_client(name))
                if name != RESULTS_QUEUE:
                    await clients[name].create_queue()
            with self.notices.open("a", encoding="utf-8") as file:
                while True:
                    for name, client in clients.items():
                        async for message in client.receive_messages(messages_per_page=32):
                            told = Told(name, datetime.now(UTC), json.loads(_text(message.content)))
                            self.told.append(told)
                            line = {"receivedAt": told.at.isoformat(), "queue": name, "notice": told.notice}
                            file.write(json.dumps(line) + "\n")
                            await client.delete_message(message)
                    file.flush()
                    await asyncio.sleep(COLLECT_EVERY)

    def outcome_queues(self) -> list[str]:
        """The queues that notices of this scenario go to."""
        requests = (parse(_text(self.scenario.message(table))) for table in self.scenario.requests)
        windows = (window.outcome_queue for window in self.stack.windows.window)
        return [*dict.fromkeys([RESULTS_QUEUE, *(request.outcome_queue for request in requests), *windows])]

    # What the state table says.

    @contextlib.asynccontextmanager
    async def _store(self) -> AsyncIterator[Store]:
        def count(response: PipelineResponse[HttpRequest, object]) -> None:
            self.own_calls[POINT_READ if "RowKey=" in response.http_request.url else QUERY] += 1

        client = TableClient.from_connection_string(self.stack.connection, self.stack.table, raw_response_hook=count)
        async with AzureTable(client, self.stack.tenant_id) as table:
            yield Store(table)

    async def _look(self, store: Store) -> None:
        now = datetime.now(UTC)
        for window in self.stack.windows.window:
            for occurrence in open_occurrences(window.cron, window.zone, window.open_for, now):
                self.windows[window.request(occurrence).id] = None
        for request in dict.fromkeys([*(sent.request for sent in self.sent), *self.windows]):
            known = self.statuses.get(request)
            if known is None or not known.ended:
                self.statuses[request] = await request_status(store, RequestId(request))

    def _settled(self, now: datetime) -> bool:
        """Whether nothing more will happen that the scenario waits for."""
        opens = [self.stack.start + self.scenario.real(w.opens_after) for w in self.scenario.windows if w.opens_after]
        if any(now < at + timedelta(seconds=1) for at in opens):
            return False
        return all(self._request_settled(request, status) for request, status in self.statuses.items())

    def _request_settled(self, request: str, status: RequestStatus | None) -> bool:
        expected = {sent.table.expect for sent in self.sent if sent.request == request}
        if status is None:
            return False
        if status.ended:
            return True
        if expected == {RequestEnd.REFUSED} or status.state is not RequestState.EXPANDED:
            return False
        return all(
            device.state in NEEDS_A_PERSON
            and expectation(self.scenario, self.ends, request, device) is DeviceEnd.ATTENTION
            for device in status.devices
            if device.state not in TERMINAL
        )

    def _rows(self) -> list[Row]:
        found: list[Row] = []
        for request, status in self.statuses.items():
            found += [
                Row(
                    key=(request, device.intune_id or device.reference),
                    name=device.name or device.reference,
                    request=request,
                    state=device.state,
                    since=(device.since - self.stack.start) * self.scenario.speed,
                    why=device.reason.code if device.reason else "",
                )
                for device in (status.devices if status is not None else ())
            ]
            if status is not None and status.reason is not None:
                found.append(
                    Row(
                        key=(request, ""),
                        name="whole message",
                        request=request,
                        state=State.REFUSED,
                        since=(status.received_at - self.stack.start) * self.scenario.speed,
                        why=status.reason.code,
                    )
                )
        return found

    async def _last_notices(self, store: Store) -> Sequence[Event]:
        """All events, once every notice that they promise has come or its time is up."""
        deadline = asyncio.get_running_loop().time() + LAST_NOTICES
        while True:
            found = [rows.read(Event, row) async for row in store.table.scan("event|", "event|" + END)]
            events = sorted(found, key=lambda event: (event.at, event.seq))
            missing = {notice_id(event) for event in events if event.told} - {told.id for told in self.told}
            if not missing or asyncio.get_running_loop().time() > deadline:
                return events
            await asyncio.sleep(COLLECT_EVERY)

    # What is really so.

    async def _truth(self) -> list[Json]:
        return cast("list[Json]", cast("Json", await self._get("/sandbox/devices"))["devices"])

    async def _get(self, path: str) -> object:
        try:
            async with httpx.AsyncClient(base_url=self.stack.graph, timeout=30, trust_env=False) as client:
                return (await client.get(path)).raise_for_status().json()
        except httpx.HTTPError as error:
            raise ChildError(f"the simulated tenant does not answer {path}: {error}") from error


def _text(content: str) -> str:
    """A message's text, whether it is base64 or plain."""
    with contextlib.suppress(binascii.Error, ValueError):
        return base64.b64decode(content, validate=True).decode()
    return content


@contextlib.asynccontextmanager
async def _task[T](work: Coroutine[object, object, T]) -> AsyncIterator["asyncio.Task[T]"]:
    """Run it beside the block, and end it with the block; what it raises is the block's to ask for."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
        _ = task.cancelled() or task.exception()  # asked for, so that asyncio does not complain
