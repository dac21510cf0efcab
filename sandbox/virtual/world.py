"""A scenario played in virtual time: its tenant, its storage, the app, and all that can be known of it afterwards."""

import asyncio
import base64
import binascii
import contextlib
import json
import random
import tomllib
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self, cast

import httpx
from pydantic import TypeAdapter

from sandbox.memory import MemoryTable
from sandbox.scenario import DeviceEnd, RequestTable, Scenario
from sandbox.tenant.devices import Json, Truth
from sandbox.tenant.graph import Tenant
from sandbox.verdict import Observed, Sent, Told
from sandbox.virtual.functions import POISON, Instance, host_options, schedules
from sandbox.virtual.graph import TenantTransport
from sandbox.virtual.storage import VirtualQueues, VirtualTable
from shared.domain.guardrails import Budget
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.policy import Policy
from shared.domain.request import RESULTS_QUEUE, ResetRequest, parse
from shared.domain.reset import Event
from shared.domain.states import NEEDS_A_PERSON, TERMINAL, State
from shared.domain.timing import open_occurrences
from shared.domain.windows import Windows
from shared.graph.credential import StaticTokenCredential
from shared.graph.endpoint import GraphEndpoint
from shared.graph.gateway import GraphIntune, Patience
from shared.messages.queues import CONTROL, REQUESTS, TRIGGERING, Queues
from shared.pipeline.pace import Paced, await_turn
from shared.pipeline.parts import Parts
from shared.pipeline.ports import Intune
from shared.pipeline.status import RequestStatus, request_status
from shared.state import rows
from shared.state.store import END, Store
from shared.state.table import Change, ChangeKind, Table

START = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
_GRAPH = "http://127.0.0.1"
_TRUTH = TypeAdapter(Truth)


@dataclass(frozen=True)
class Speed:
    """Seconds that a way takes, at least and at most; a call is a way there and a way back."""

    graph: tuple[float, float] = (0.02, 0.25)
    storage: tuple[float, float] = (0.001, 0.005)


@dataclass(frozen=True)
class Moment:
    """A device's turnaround entered a state, and what was really so at that moment."""

    at: datetime
    device: ManagedDeviceId
    request: RequestId
    state: State
    truth: Truth


@dataclass
class World:
    """One scenario with one seed. Made by `open`, inside a virtual loop (`loop.run`)."""

    scenario: Scenario
    seed: int
    speed: Speed
    policy: Policy
    start: datetime
    tenant: Tenant
    table: MemoryTable
    queues: VirtualQueues
    plan: Windows
    calls: Counter[str] = field(default_factory=Counter)
    """Calls to storage, by kind."""
    moments: list[Moment] = field(default_factory=list)
    """Every state that every device entered, in the order committed."""
    instances: list[Instance] = field(default_factory=list)
    before: list[Json] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    _standing: dict[ManagedDeviceId, State] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, scenario: Scenario, seed: int, *, speed: Speed | None = None, start: datetime = START
    ) -> AsyncIterator[Self]:
        """The scenario at its start, with one instance of the app running."""
        calls = Counter[str]()
        fleet = scenario.fleet(seed, start)
        tenant = Tenant(
            fleet,
            _random(seed, "tenant"),
            tenant_id=scenario.tenant.id,
            roles=scenario.tenant.roles,
            groups=scenario.directory(fleet),
        )
        loop = asyncio.get_running_loop()
        speed, ways = speed or Speed(), _random(seed, "queues")
        queues = VirtualQueues(
            clock=lambda: start + timedelta(seconds=loop.time()),
            shuffle=_random(seed, "order"),
            delay=lambda: ways.uniform(*speed.storage),
            calls=calls,
        )
        world = cls(
            scenario=scenario,
            seed=seed,
            speed=speed,
            policy=Policy.model_validate(scenario.real_policy()),
            start=start,
            tenant=tenant,
            table=MemoryTable(),
            queues=queues,
            plan=_plan(scenario, start),
            calls=calls,
        )
        world.before = world.truth()
        try:
            await world.add_instance()
            yield world
        finally:
            for instance in world.instances:
                await instance.stop()

    # The world.

    def now(self) -> datetime:
        """The one true time; the tenant's clock is off from it by its quirk."""
        return self.start + timedelta(seconds=asyncio.get_running_loop().time())

    @property
    def store(self) -> Store:
        """The state as it is, past delays and counting."""
        return Store(self.table)

    def truth(self) -> list[Json]:
        """What is really so of every device, whatever Graph shows."""
        now = self.start if self.before == [] else self.now()
        self.tenant.fleet.advance(now)
        return [cast("Json", _TRUTH.dump_python(one.truth(now), mode="json")) for one in self.tenant.fleet.devices]

    async def add_instance(self) -> Instance:
        """Another instance of the app, with nothing in its memory."""
        name = f"instance {len(self.instances)}"
        chance, ids = _random(self.seed, name), _random(self.seed, f"{name}: ids")
        table = VirtualTable(
            self.table, lambda: chance.uniform(*self.speed.storage), self.calls, committed=self._committed
        )
        transport = TenantTransport(self.tenant, self.now, lambda: chance.uniform(*self.speed.graph))
        parts = parts_of(self.policy, table, self.queues, transport, self.tenant.token, self.now, chance, ids)
        instance = Instance(parts, self.queues, chance, host_options(), schedules(), self.plan)
        instance.start()
        self.instances.append(instance)
        return instance

    def _committed(self, changes: Sequence[Change]) -> None:
        """Keep every state that was entered, with the truth of that moment."""
        for change in changes:
            if change.key.startswith("event|") and change.kind is ChangeKind.INSERT:
                event = rows.adapter(Event).validate_json(str(change.values["doc"]))
                if event.device is None or event.to_state in (None, event.from_state):
                    continue
                self._standing[event.device] = event.to_state
                self._note(event)
        self._changed.set()

    def _note(self, event: Event) -> None:
        device = self.tenant.fleet.find(event.device or "")
        if device is None or event.device is None or event.to_state is None or event.request is None:
            return
        now = self.now()
        self.tenant.fleet.advance(now)
        self.moments.append(Moment(now, event.device, event.request, event.to_state, device.truth(now)))

    # What people and ticket systems do.

    async def play(self) -> None:
        """Send what the scenario sends, each at its time, and wait until nothing more is waited for.

        That is: every request is decided, and every device has ended or, where the scenario says so, needs a person.
        The scenario's time limit ends the wait too.
        """
        limit = self.start + self.scenario.scenario.time_limit
        for table in sorted(self.scenario.requests, key=lambda table: table.at):
            await asyncio.sleep((self.start + table.at - self.now()).total_seconds())
            await self.send(table)
        await self.until(limit)

    async def send(self, table: RequestTable) -> RequestId:
        """Put a request message on its queue."""
        text = _text(self.scenario.message(table))
        request = parse(text)
        part = isinstance(request, ResetRequest) and request.part is not None
        self.sent.append(Sent(table, request.id, part=part, at=self.now()))
        await self.queues.send(REQUESTS, text)
        return request.id

    async def command(self, command: str, request: str | None = None, *, by: str = "person") -> None:
        """Give a command: cancel or retry for a request's devices, halt or resume for everything."""
        body = {"command": command, "by": by, "why": "asked for"} | ({"requestId": request} if request else {})
        await self.queues.send(CONTROL, json.dumps(body))

    async def until(self, limit: datetime, *, all_ended: bool = False) -> bool:
        """Wait as `play` does, or until every device has ended; whether it came to that before the limit."""
        ends = self.scenario.expected()
        stay = set() if all_ended else {device for device, (end, _) in ends.items() if end is DeviceEnd.ATTENTION}
        while not await self._settled(stay):
            if not await self._change(limit):
                return False
        while await self._on_its_way():
            if self.now() >= limit:
                return False
            await asyncio.sleep(1)
        return True

    async def _change(self, limit: datetime) -> bool:
        self._changed.clear()
        for instance in self.instances:
            instance.check()
        try:
            async with asyncio.timeout(max(0.0, (limit - self.now()).total_seconds())):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _settled(self, stay: Collection[str]) -> bool:
        """Whether every request is decided, and every device has ended; one in `stay` may need a person instead."""
        for device, state in self._standing.items():
            if state not in TERMINAL and not (state in NEEDS_A_PERSON and device in stay):
                return False
        for request in self.requests():
            known = await self.store.request(RequestId(request))
            if known is None and await request_status(self.store, RequestId(request)) is None:
                return False
            if known is not None and known.record.due is not None:
                return False
        return True

    async def _on_its_way(self) -> bool:
        """Whether anything that was promised is not delivered yet."""
        return self.table.first("deliver|") is not None or any(
            self.queues.waiting(name) for queue in TRIGGERING for name in (queue, queue + POISON)
        )

    # What there is to see.

    def requests(self) -> list[str]:
        """The ids of all requests so far, those of lab windows too."""
        return [*dict.fromkeys(sent.request for sent in self.sent), *self.windows()]

    def windows(self) -> list[str]:
        """The request ids of the openings of lab windows so far."""
        now, found = self.now(), list[str]()
        for window in self.plan.window:
            span = now - self.start + timedelta(seconds=1)
            opened = open_occurrences(window.cron, window.zone, span, now)
            found += [window.request(one).id for one in opened if one.opens >= self.start]
        return found

    def notices(self) -> list[Told]:
        """Every CloudEvent delivered so far, in order of delivery, repeats too."""
        names = [name for name in self.queues.names() if name.startswith(RESULTS_QUEUE)]
        return [Told(name, self.now(), json.loads(body)) for name in names for body in self.queues.waiting(name)]

    async def statuses(self) -> dict[str, RequestStatus | None]:
        """What the status of each request is now."""
        return {request: await request_status(self.store, RequestId(request)) for request in self.requests()}

    async def history(self) -> list[Event]:
        """All events, in order of time."""
        found = [rows.read(Event, row) async for row in self.table.scan("event|", "event|" + END)]
        return sorted(found, key=lambda event: (event.at, event.seq))

    def graph_calls(self) -> Json:
        """Calls that reached the tenant: see `CallCounts.report`."""
        return self.tenant.counts.report()

    async def observe(self, *, timed_out: bool = False) -> Observed:
        """All of it, for `sandbox.verdict.judge`."""
        return Observed(
            scenario=self.scenario,
            start=self.start,
            ended=self.now(),
            timed_out=timed_out,
            sent=list(self.sent),
            windows=self.windows(),
            statuses=await self.statuses(),
            events=await self.history(),
            told=self.notices(),
            before=self.before,
            truth=self.truth(),
        )


def parts_of(
    policy: Policy,
    table: Table,
    queues: Queues,
    transport: httpx.AsyncBaseTransport,
    token: str,
    clock: Callable[[], datetime],
    chance: random.Random,
    ids: random.Random,
) -> Parts:
    """The parts of one instance: the app's own, over these ways to storage and to Graph."""
    connected: list[Intune] = []

    async def intune() -> Intune:
        if not connected:
            gateway = await GraphIntune.create(
                GraphEndpoint.parse(_GRAPH),
                StaticTokenCredential(token),
                transport=transport,
                now=clock,
                patience=Patience(jitter=chance.random),
                turn=lambda calls: await_turn(parts, calls, Budget.READS),
            )
            connected.append(Paced(gateway, parts))
        return connected[0]

    parts = Parts(
        store=Store(table),
        queues=queues,
        intune=intune,
        policy=policy,
        clock=clock,
        new_id=lambda: str(uuid.UUID(int=ids.getrandbits(128), version=4)),
        sleep=asyncio.sleep,
    )
    return parts


def _random(seed: int, use: str) -> random.Random:
    """Chance for one use, so that more of one shifts nothing in another."""
    return random.Random(f"{seed}/{use}")


def _plan(scenario: Scenario, start: datetime) -> Windows:
    if not scenario.windows:
        return Windows()
    from sandbox.stack import windows_file

    return Windows.model_validate(tomllib.loads(windows_file(scenario, start)))


def _text(content: str) -> str:
    with contextlib.suppress(binascii.Error, ValueError):
        return base64.b64decode(content, validate=True).decode()
    return content
