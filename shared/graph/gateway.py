"""`GraphIntune`: Microsoft Graph behind the port `Intune`."""

import asyncio
import contextlib
import copy
import json
import logging
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import batched
from types import TracebackType
from typing import TYPE_CHECKING, Self

import httpx

from shared.domain.devices import (
    AuditedAction,
    DeviceFacts,
    DeviceReference,
    Finding,
    ManagedDevice,
    ReferenceKind,
    Sighting,
)
from shared.domain.ids import ManagedDeviceId
from shared.graph import answers, decode, finding, membership
from shared.graph.answers import Reply
from shared.graph.decode import JsonObject, UnreadableRecordError
from shared.graph.endpoint import GraphEndpoint
from shared.graph.finding import Book, Collection, Question, Record
from shared.graph.network import transport_for
from shared.pipeline.ports import (
    AdminDecision,
    Answer,
    AnswerKind,
    GraphError,
    GraphRejected,
    GraphThrottled,
    GraphUnavailable,
    Order,
)

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

    from shared.graph.sdk import Call, Sdk

BATCH = 20
"""Most items that Graph takes in one `$batch` (learn.microsoft.com/graph/json-batching)."""
TOGETHER = 15
"""Most comparisons that Entra takes in one $filter (learn.microsoft.com/graph/filter-query-parameter)."""
RESET_ACTIONS = ("factoryReset", "factoryResetKeepEnrollmentData", "automaticRedeployment", "cleanWindowsDevice")
"""The names under which a wipe, an Autopilot Reset or a Fresh Start may stand in the audit."""

_AT_ONCE = 4
_PERMISSIONS = {
    Collection.MANAGED: "DeviceManagementManagedDevices.Read.All",
    Collection.AUTOPILOT: "DeviceManagementServiceConfig.Read.All",
    Collection.ENTRA: "Device.Read.All",
}
_APPROVALS = "DeviceManagementConfiguration.Read.All"
"""The least permission to read requests for Multi Admin Approval; DeviceManagementRBAC.Read.All does as well
(learn.microsoft.com/graph/api/intune-rbac-operationapprovalrequest-list)."""

_log = logging.getLogger(__name__)


class _NoFullUrls(logging.Filter):
    """Keeps httpx from logging each URL, whose filters hold serial numbers and device names."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING


_NO_FULL_URLS = _NoFullUrls()


@dataclass(frozen=True, slots=True)
class Patience:
    """How reads, and only reads, are asked again."""

    attempts: int = 4
    first: timedelta = timedelta(seconds=1)
    most: timedelta = timedelta(seconds=20)
    """Longest wait. When Graph asks for more, the read fails at once and says so."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = field(default=random.random)
    """Gives a share from 0 to 1 of half the wait, to add."""

    def wait(self, attempt: int, errors: Sequence[GraphError]) -> timedelta | None:
        """How long to wait after this attempt (the first is 0) failed; None: give up."""
        asked = [e.retry_after for e in errors if isinstance(e, _PASSING) and e.retry_after is not None]
        wanted = max(asked, default=timedelta())
        if attempt + 1 >= self.attempts or wanted > self.most:
            return None
        backoff = min(self.first * (1 << attempt), self.most)
        return max(wanted, backoff) + backoff * 0.5 * self.jitter()


async def _unpaced(_calls: int) -> None:
    """Go at once: nobody else reads from this tenant, or what is read is paced otherwise."""


_PASSING = (GraphThrottled, GraphUnavailable)
"""After these a read may be asked again."""


class GraphIntune:
    """Microsoft Graph as `shared.pipeline.ports.Intune`. Made by `create`; closed by `aclose` or as a context."""

    def __init__(
        self,
        sdk: "Sdk",
        transport: httpx.AsyncBaseTransport,
        *,
        now: Callable[[], datetime],
        patience: Patience,
        timeout: timedelta,
        turn: Callable[[int], Awaitable[None]] = _unpaced,
    ) -> None:
        self.calls: Counter[str] = Counter()
        """Calls so far: `http` counts requests on the wire, the others what they held, by path template."""
        self._sdk = sdk
        self._transport = transport
        self._now = now
        self._patience = patience
        self._timeout = timeout.total_seconds()
        self._turn = turn
        self._slots = asyncio.Semaphore(_AT_ONCE)

    @classmethod
    async def create(
        cls,
        endpoint: GraphEndpoint,
        credential: "AsyncTokenCredential",
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        patience: Patience | None = None,
        timeout: timedelta = timedelta(seconds=120),  # noqa: ASYNC109 - a limit for each later call, not for this one
        turn: Callable[[int], Awaitable[None]] = _unpaced,
    ) -> Self:
        """Connect to Graph; no call is made yet. The caller keeps and closes the credential.

        `transport` replaces the network in tests and recordings. `turn` is awaited before every read, with the number
        of calls that Graph will count; orders are the caller's own to pace, and `managed` right before them. This
        imports msgraph-sdk, hence not at import time.
        Raises EndpointError where the environment names a proxy or certificates that cannot be used.
        """
        from shared.graph.sdk import Sdk

        logging.getLogger("httpx").addFilter(_NO_FULL_URLS)
        network = transport if transport is not None else transport_for(endpoint)
        sdk = Sdk(endpoint, credential, network)
        return cls(sdk, network, now=now, patience=patience or Patience(), timeout=timeout, turn=turn)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._sdk.http.aclose()
        await self._transport.aclose()  # the SDK's transport around it does not

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # Orders

    async def reset(self, orders: Sequence[Order]) -> Mapping[ManagedDeviceId, Answer]:
        """See `Intune.reset`. Raises ValueError for more than 20 orders, or two for one device."""
        return await self._order(orders, self._sdk.reset)

    async def wipe(self, orders: Sequence[Order]) -> Mapping[ManagedDeviceId, Answer]:
        """See `Intune.wipe`. Raises ValueError for more than 20 orders, or two for one device."""
        return await self._order(orders, self._sdk.wipe)

    async def sync(self, orders: Sequence[Order]) -> Mapping[ManagedDeviceId, Answer]:
        """See `Intune.sync`. Raises ValueError for more than 20 orders, or two for one device."""
        return await self._order(orders, lambda order: self._sdk.sync(order.device))

    async def _order(self, orders: Sequence[Order], build: "Callable[[Order], Call]") -> dict[ManagedDeviceId, Answer]:
        # Compared as Graph compares them, without case: one device written in two ways would be reset twice.
        if len(orders) > BATCH or len({decode.guid(one.device) or one.device for one in orders}) < len(orders):
            raise ValueError(f"At most {BATCH} orders at once, and one a device.")
        outcome: dict[ManagedDeviceId, Answer] = {}
        items: dict[str, tuple[Order, Call]] = {}
        for number, order in enumerate(orders):
            if decode.guid(order.device) is None:
                outcome[order.device] = Answer(AnswerKind.REJECTED, "This is not the id of a managed device.")
            else:
                items[str(number)] = (order, build(order))
        if items:
            own_id = str(uuid.uuid4())
            sent = await self._send_orders({key: (call, order.id) for key, (order, call) in items.items()}, own_id)
            for key, (order, call) in items.items():
                outcome[order.device] = _told_of_approval(sent[key]) if order.approval_code else sent[key]
                _log.info(
                    "graph order %s: %s, client-request-id %s in %s", call.template, sent[key].kind, order.id, own_id
                )
        return outcome

    async def _send_orders(self, items: "Mapping[str, tuple[Call, str]]", own_id: str) -> dict[str, Answer]:
        """Send orders once. Nothing here may send again, whatever happens."""

        def all_(answer: Answer) -> dict[str, Answer]:
            return dict.fromkeys(items, answer)

        try:
            async with asyncio.timeout(self._timeout):
                request = await self._sdk.batch(items, own_id, beta=False)
        except Exception as error:  # noqa: BLE001 - whatever a credential raises: nothing was sent
            return all_(Answer(AnswerKind.NOT_SENT, f"No token for Microsoft Graph: {_brief(error)}"))
        try:
            response = await self._send(request, "/$batch", [call for call, _ in items.values()])
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            return all_(Answer(AnswerKind.NOT_SENT, f"Microsoft Graph could not be reached: {_brief(error)}"))
        except Exception as error:  # noqa: BLE001 - every order has an answer, and this one may have been carried out
            return all_(Answer(AnswerKind.UNKNOWN, f"The order was sent, and no answer came: {_brief(error)}"))
        now = self._now()
        whole = _reply(response)
        if (refusal := answers.batch_refusal(whole, now)) is not None:
            return all_(refusal)
        found: dict[str, Answer] = {}
        for key, item in _items(whole):
            if key in found:
                found[key] = Answer(AnswerKind.UNKNOWN, "Graph answered this order twice.")
                continue
            found[key] = answers.order_answer(item, now)
        silent = Answer(AnswerKind.UNKNOWN, "Graph's answer leaves this order out.")
        return {key: found.get(key, silent) for key in items}

    # Reads

    async def find(self, references: Sequence[DeviceReference]) -> Mapping[DeviceReference, Finding]:
        """See `Intune.find`.

        Few references are asked for by `$batch`; for many, the collections are listed and joined, and what the lists
        did not show is asked for.
        """
        return await self._resolve(references, lists_allowed=True)

    async def facts(self, devices: Sequence[ManagedDeviceId]) -> Mapping[ManagedDeviceId, DeviceFacts | None]:
        """See `Intune.facts`. Each device is read by itself, never from a list."""
        references = {device: DeviceReference(ReferenceKind.INTUNE_ID, device) for device in devices}
        found = await self._resolve(list(references.values()), lists_allowed=False)
        return {device: next(iter(found[reference].devices), None) for device, reference in references.items()}

    async def managed(self, devices: Sequence[ManagedDeviceId]) -> Mapping[ManagedDeviceId, ManagedDevice | None]:
        """See `Intune.managed`."""
        unpaced, book = copy.copy(self), Book()
        unpaced._turn = _unpaced  # noqa: SLF001 - it is of this class
        asked = {device: Question(Collection.MANAGED, "id", decode.guid(device) or "") for device in devices}
        await unpaced._ask([question for question in asked.values() if question.value], book)  # noqa: SLF001 - the same
        return {device: next(iter(book.managed("id", question.value)), None) for device, question in asked.items()}

    async def _resolve(
        self, references: Sequence[DeviceReference], *, lists_allowed: bool
    ) -> dict[DeviceReference, Finding]:
        read_at, book = self._now(), Book()
        while True:
            findings = {reference: finding.resolve(reference, book, read_at) for reference in references}
            to_list, ask = book.plan(lists_allowed=lists_allowed)
            if not to_list and not ask:
                return findings
            lists = [self._list(collection, book) for collection in to_list]
            for outcome in await asyncio.gather(self._ask(ask, book), *lists, return_exceptions=True):
                if outcome is not None:
                    raise outcome

    async def _list(self, collection: Collection, book: Book, *, windows_only: bool = True) -> None:
        call = self._sdk.whole(collection, windows_only=windows_only)
        records: list[Record] = []
        try:
            async for rows in self._pages(call, _PERMISSIONS[collection]):
                for row in rows:
                    try:
                        records.append(_DECODERS[collection](row))
                    except UnreadableRecordError as error:
                        _log.warning("graph %s: left out %s", call.template, error)
        except GraphRejected:
            if not windows_only:
                raise
            await self._list(collection, book, windows_only=False)  # its filter may be what was refused
            return
        book.learn_list(collection, records)

    async def _ask_together(self, questions: Sequence[Question], book: Book) -> list[Question]:
        """Ask for Entra devices several at a time; the questions that are still open. What such an answer leaves out is
        one of them: that there is no such device must not follow from it."""
        singly = [question for question in questions if question.collection is Collection.ENTRA]
        parts = [part for part in batched(singly, TOGETHER, strict=False) if len(part) > 1]
        calls = {part: self._sdk.entra_among([question.value for question in part]) for part in parts}
        learnt: set[Question] = set()
        for part, reply in (await self._batches(calls, dict.fromkeys(calls, _PERMISSIONS[Collection.ENTRA]))).items():
            if isinstance(reply, GraphError) or reply.status != 200:
                continue
            with contextlib.suppress(GraphError, UnreadableRecordError):
                records = [decode.entra_device(row) for row in _page(reply, calls[part])[0]]
                for question in part:
                    if any(finding.answers(record, question) for record in records):
                        book.learn(question, records)
                        learnt.add(question)
        return [question for question in questions if question not in learnt]

    async def _ask(self, questions: Sequence[Question], book: Book) -> None:
        questions = await self._ask_together(questions, book)
        calls = {question: self._sdk.question(question) for question in questions}
        replies = await self._batches(calls, {q: _PERMISSIONS[q.collection] for q in questions})
        read_whole: set[Collection] = set()
        for question, call in calls.items():
            reply = replies[question]
            try:
                if not isinstance(reply, GraphError):
                    found = await self._answer(question, call, reply, read_whole, book)
                elif isinstance(reply, GraphRejected) and question.by != "id":
                    found = await self._from_whole(question, read_whole, book)  # it supports no such filter
                else:
                    raise reply
                book.learn(question, found)
            except UnreadableRecordError as error:
                raise GraphError(f"Graph answered {call.template} with {error}.") from error

    async def _from_whole(self, question: Question, read_whole: set[Collection], book: Book) -> Sequence[Record]:
        """Answer from the whole collection, where no filter helps: read once, not once a question."""
        if question.collection not in read_whole:
            await self._list(question.collection, book, windows_only=False)
            read_whole.add(question.collection)
        return book.known(question)

    async def _answer(
        self, question: Question, call: "Call", reply: Reply, read_whole: set[Collection], book: Book
    ) -> Sequence[Record]:
        """Read the answer to one question; `read_whole` notes the collections that were read as a whole for it."""
        collection = question.collection
        read = _DECODERS[collection]
        if collection is Collection.MANAGED and question.by == "id":
            if reply.status == 404:
                return []
            device = decode.managed_device(_object(reply), alone=True)
            if not finding.answers(device, question):
                raise GraphError("Graph answered with another managed device than the one asked for.")
            return [device]
        rows, link = _page(reply, call)
        records = [read(row) for row in rows]
        if link is None:
            return records
        if all(finding.answers(record, question) for record in records):
            return records + [read(row) for row in await self._all_rows(link, call, _PERMISSIONS[collection])]
        # The filter was ignored: the answer is the whole tenant.
        return [*records, *await self._from_whole(question, read_whole, book)]

    async def memberships(
        self, devices: Sequence[DeviceFacts], groups: frozenset[str]
    ) -> Mapping[ManagedDeviceId, frozenset[str]]:
        """See `Intune.memberships`."""
        asked = membership.questions(devices, groups)
        calls = {question: self._sdk.membership(question) for question in asked}
        replies = await self._batches(calls, {question: membership.PERMISSIONS[question.kind] for question in asked})
        read: dict[membership.Question, Reply] = {}
        for question, reply in replies.items():
            if isinstance(reply, GraphError):
                raise reply
            read[question] = reply
        return membership.resolve(devices, groups, read)

    async def fleet_size(self) -> int:
        """See `Intune.fleet_size`."""
        reply = await self._page_reply(self._sdk.overview(), _PERMISSIONS[Collection.MANAGED], None)
        count = decode.windows_count(_object(reply))
        if count is None:
            raise GraphError("Graph's overview of the managed devices does not tell how many run Windows.")
        return count

    async def look(self, devices: Sequence[ManagedDeviceId]) -> Mapping[ManagedDeviceId, Sighting]:
        """See `Intune.look`. Raises GraphError if not one of them could be read."""
        sdk, seen, failures = self._sdk, dict[ManagedDeviceId, Sighting](), list[GraphError]()
        wanted = {device: sdk.device(device, _sight()) for device in devices if decode.guid(device) is not None}
        asked_at = self._now()
        replies = await self._batches(wanted, dict.fromkeys(wanted, _PERMISSIONS[Collection.MANAGED]))
        for device, reply in replies.items():
            if isinstance(reply, GraphError):
                failures.append(reply)
                continue
            if reply.status == 404:
                seen[device] = Sighting(device, asked_at, exists=False)
                continue
            try:
                sighting = decode.sighting(_object(reply), asked_at)
            except (UnreadableRecordError, GraphError) as error:
                failures.append(GraphError(f"Graph answered a managed device with {error}."))
                continue
            if sighting.device == decode.guid(device):
                seen[device] = sighting
            else:
                failures.append(GraphError("Graph answered with another managed device than the one asked for."))
        if failures:
            kind = type(failures[0]).__name__
            _log.warning("graph: %d of %d devices could not be looked at (%s)", len(failures), len(wanted), kind)
            if not seen:
                raise failures[0]
        return seen

    async def changed_since(self, since: datetime) -> AsyncIterator[Sighting]:
        """See `Intune.changed_since`.

        Lists cut the time to whole seconds, so `since` is cut too: a check-in later in that same second is shown.
        """
        whole_second = since.astimezone(UTC).replace(microsecond=0)
        call, asked_at = self._sdk.changed_since(whole_second), self._now()
        async for rows in self._pages(call, _PERMISSIONS[Collection.MANAGED]):
            for row in rows:
                system = decode.text(row, "operatingSystem")
                if system is not None and not system.casefold().startswith("windows"):
                    continue
                try:
                    sighting = decode.listed(row, asked_at)
                except UnreadableRecordError as error:
                    _log.warning("graph %s: left out %s", call.template, error)
                    continue
                if sighting.last_sync is not None and sighting.last_sync >= whole_second:
                    yield sighting
            asked_at = self._now()

    async def audited_resets(
        self, devices: Sequence[ManagedDeviceId], since: datetime
    ) -> Mapping[ManagedDeviceId, Sequence[AuditedAction]]:
        """See `Intune.audited_resets`. One question for each kind of action, whatever the number of devices."""
        found: dict[ManagedDeviceId, list[AuditedAction]] = {device: [] for device in devices}
        if not found:
            return found
        permission = _PERMISSIONS[Collection.MANAGED]
        calls = {action: self._sdk.audits(action) for action in RESET_ACTIONS}
        replies = await self._batches(calls, dict.fromkeys(calls, permission))
        for action, call in calls.items():
            reply = replies[action]
            if isinstance(reply, GraphError):
                raise reply
            # The audit holds years: page by page, never all of it.
            async for rows in self._pages_from(reply, call, permission):
                for row in rows:
                    audited = decode.audited_action(row)
                    # Graph may ignore the filter: only this question's own action, so that none is counted twice.
                    if (
                        audited is not None
                        and audited.device in found
                        and audited.action.casefold() == action.casefold()
                        and audited.requested_at >= since
                    ):
                        found[audited.device].append(audited)
        return found

    async def admin_decisions(self, codes: Sequence[str]) -> Mapping[str, AdminDecision]:
        """See `Intune.admin_decisions`.

        The requests are listed; one that the list does not show is asked for by its code. Whether a code is a record's
        `id` or its `requestId`, and whether it can be filtered by, differs by source: each record is checked for both.
        """
        found: dict[str, AdminDecision] = {}
        wanted = {finding.folded(code) for code in codes}
        if not wanted:
            return found

        def note(rows: Sequence[JsonObject]) -> None:
            for row in rows:
                names, decision = decode.admin_decision(row)
                found.update(dict.fromkeys(names & wanted, decision))

        whole = self._sdk.approvals()
        reply = (await self._batches({"": whole}, {"": _APPROVALS}))[""]
        if isinstance(reply, GraphError):
            raise reply
        async for rows in self._pages_from(reply, whole, _APPROVALS):
            note(rows)
            if found.keys() == wanted:
                break
        missing = {code: self._sdk.approvals(code) for code in wanted - found.keys()}
        for code, reply in (await self._batches(missing, dict.fromkeys(missing, _APPROVALS))).items():
            if isinstance(reply, GraphThrottled):
                raise reply
            # Any other failure is about this one question, and must not keep the other decisions back.
            if isinstance(reply, Reply) and reply.status == 200:
                note(_page(reply, missing[code])[0])
        return {code: found.get(finding.folded(code), AdminDecision.UNKNOWN) for code in codes}

    # How reads are asked

    async def _batches[Key](
        self, calls: "Mapping[Key, Call]", permissions: Mapping[Key, str]
    ) -> dict[Key, Reply | GraphError]:
        """Ask by `$batch`, 20 at a time, again where that may help: each with its answer (200 or 404) or why not."""
        done: dict[Key, Reply | GraphError] = {}
        pending = list(calls)
        for attempt in range(self._patience.attempts):
            of_version = [[key for key in pending if calls[key].beta is beta] for beta in (False, True)]
            parts = [part for keys in of_version for part in batched(keys, BATCH, strict=False)]
            outcomes = await asyncio.gather(*(self._batch({k: calls[k] for k in p}, permissions) for p in parts))
            again: list[GraphError] = []
            pending = []
            for part in outcomes:
                for key, outcome in part.items():
                    done[key] = outcome
                    if isinstance(outcome, _PASSING):
                        pending.append(key)
                        again.append(outcome)
            wait = self._patience.wait(attempt, again)
            if not pending or wait is None:
                break
            await self._patience.sleep(wait.total_seconds())
        return done

    async def _batch[Key](
        self, calls: "Mapping[Key, Call]", permissions: Mapping[Key, str]
    ) -> dict[Key, Reply | GraphError]:
        """Ask by one `$batch`, all of one version of Graph."""
        own_id = str(uuid.uuid4())
        beta = any(call.beta for call in calls.values())
        names = {str(number): key for number, key in enumerate(calls)}
        items = {name: (calls[key], own_id) for name, key in names.items()}
        reply = await self._read(lambda: self._sdk.batch(items, own_id, beta=beta), "/$batch", list(calls.values()))
        if isinstance(reply, GraphError):
            return dict.fromkeys(calls, reply)
        now = self._now()
        if reply.status != 200 or not isinstance(reply.body, Mapping):
            return {key: answers.read_failure(reply, _path(call), permissions[key], now) for key, call in calls.items()}
        found: dict[Key, Reply | GraphError] = {}
        for name, item in _items(reply):
            if (key := names.get(name)) is None:
                continue
            # A 404 that is Graph's own says so in JSON; anything else between us and Graph might answer 404 too.
            absent = item.status == 404 and isinstance(item.body, Mapping) and "error" in item.body
            if absent or (item.status == 200 and isinstance(item.body, Mapping)):
                found[key] = item
            else:
                found[key] = answers.read_failure(item, _path(calls[key]), permissions[key], now)
                _log.info(
                    "graph item %s: %s, request-id %s, client-request-id %s",
                    calls[key].template,
                    item.status,
                    item.request_id,
                    own_id,
                )
        silent = GraphUnavailable("Graph's answer to a $batch leaves items out.")
        return {key: found.get(key, silent) for key in calls}

    async def _all_rows(self, link: str | None, call: "Call", permission: str) -> list[JsonObject]:
        """Give all rows of a list from a link on."""
        return [row async for rows in self._pages(call, permission, link) for row in rows] if link is not None else []

    async def _pages_from(self, first: Reply, call: "Call", permission: str) -> AsyncIterator[Sequence[JsonObject]]:
        """Give a list's pages, of which the first is here already."""
        rows, link = _page(first, call)
        yield rows
        if link is not None:
            async for rows in self._pages(call, permission, link):
                yield rows

    async def _pages(
        self, call: "Call", permission: str, link: str | None = None
    ) -> AsyncIterator[Sequence[JsonObject]]:
        """Give a list's pages, from the start or from a link on."""
        followed: set[str] = set()
        while True:
            reply = await self._page_reply(call, permission, link)
            rows, link = _page(reply, call)
            yield rows
            if link is None:
                return
            if link in followed:
                raise GraphError(f"Graph's pages of {_path(call)} go round in a circle.")
            followed.add(link)

    async def _page_reply(self, call: "Call", permission: str, link: str | None) -> Reply:
        own_id = str(uuid.uuid4())

        async def build() -> httpx.Request:
            return await (self._sdk.get(call, own_id) if link is None else self._sdk.follow(link, own_id))

        attempt = 0
        while True:
            reply = await self._read(build, call.template, [call])
            if isinstance(reply, Reply):
                if reply.status == 200 and isinstance(reply.body, Mapping):
                    return reply
                reply = answers.read_failure(reply, _path(call), permission, self._now())
            wait = self._patience.wait(attempt, [reply]) if isinstance(reply, _PASSING) else None
            if wait is None:
                raise reply
            await self._patience.sleep(wait.total_seconds())
            attempt += 1

    async def _read(
        self, build: Callable[[], Awaitable[httpx.Request]], template: str, holds: "Sequence[Call]"
    ) -> Reply | GraphError:
        """Send one read, once."""
        await self._turn(len(holds))
        async with self._slots:
            try:
                async with asyncio.timeout(self._timeout):
                    request = await build()
            except Exception as error:  # noqa: BLE001 - whatever a credential raises
                return GraphError(f"No call to Microsoft Graph could be made: {_brief(error)}")
            try:
                return _reply(await self._send(request, template, holds))
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
                return GraphUnavailable(f"Microsoft Graph did not answer: {_brief(error)}")

    async def _send(self, request: httpx.Request, template: str, holds: "Sequence[Call]") -> httpx.Response:
        started = time.monotonic()
        outcome: object = "no answer"
        graphs_id: str | None = None
        self.calls["http"] += 1
        self.calls.update(f"{call.method} {call.template}" for call in holds)
        try:
            # httpx limits only the wait for each piece of an answer; this limits the whole.
            async with asyncio.timeout(self._timeout):
                response = await self._sdk.http.send(request)
            outcome, graphs_id = response.status_code, response.headers.get("request-id")
            # httpx lets an answer and its stream hold each other: each page read would stay until a full collection.
            response.stream = httpx.ByteStream(b"")
            return response
        finally:
            _log.info(
                "graph %s %s: %s in %d ms, client-request-id %s, request-id %s",
                request.method,
                template,
                outcome,
                (time.monotonic() - started) * 1000,
                request.headers.get("client-request-id"),
                graphs_id,
            )


_DECODERS: Mapping[Collection, Callable[[JsonObject], Record]] = {
    Collection.MANAGED: decode.managed_device,
    Collection.AUTOPILOT: decode.autopilot_identity,
    Collection.ENTRA: decode.entra_device,
}


def _sight() -> Sequence[str]:
    from shared.graph.sdk import SIGHT

    return SIGHT


def _told_of_approval(answer: Answer) -> Answer:
    """Say of an order with an approval code why else it may be refused: Intune was seen to answer with a bare 403."""
    if answer.kind not in (AnswerKind.FORBIDDEN, AnswerKind.REJECTED):
        return answer
    hint = "The order carried an approval; one that is used up, has run out or is another order's is refused too."
    return replace(answer, detail=f"{answer.detail} {hint}")


def _brief(error: BaseException) -> str:
    said = " ".join(str(error).split())[:300]
    hint = " (Where a proxy opens TLS, SSL_CERT_FILE must name its authority.)" if "CERTIFICATE_VERIFY" in said else ""
    return f"{type(error).__name__}: {said}{hint}" if said else type(error).__name__


def _path(call: "Call") -> str:
    return call.template.removeprefix("/") + (" (beta)" if call.beta else "")


def _reply(response: httpx.Response) -> Reply:
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        body = None
    return Reply(response.status_code, {name.lower(): value for name, value in response.headers.items()}, body)


def _items(whole: Reply) -> list[tuple[str, Reply]]:
    """Give the answers in a `$batch`, which come in any order, with their ids."""
    responses = whole.body.get("responses") if isinstance(whole.body, Mapping) else None
    found: list[tuple[str, Reply]] = []
    for item in responses if isinstance(responses, list) else ():
        if not isinstance(item, Mapping):
            continue
        name, reply = item.get("id"), whole.item(item)
        if isinstance(name, str) and reply is not None:
            found.append((name, reply))
    return found


def _object(reply: Reply) -> JsonObject:
    if not isinstance(reply.body, Mapping):
        raise GraphError("Graph answered with something else than a record.")
    return reply.body


def _page(reply: Reply, call: "Call") -> tuple[Sequence[JsonObject], str | None]:
    if reply.status == 404:
        raise GraphRejected(f"Graph knows no {_path(call)}.")
    body = _object(reply)
    rows, link = body.get("value"), body.get("@odata.nextLink")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise GraphError(f"Graph answered {_path(call)} without the list that was asked for.")
    if link is not None and not isinstance(link, str):
        raise GraphError(f"Graph answered {_path(call)} with a next page that is no address.")
    return rows, link
