"""The world around the pipeline, small and scripted: a clock, an Intune, and faults at every call of the table.

`Rig` holds one pipeline in such a world and hands messages from queue to stage as the Functions host would.
"""

import asyncio
import json
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sandbox.memory import MemoryQueues, MemoryTable
from shared.domain.devices import (
    ActionResult,
    ActionState,
    AuditedAction,
    AutopilotIdentity,
    DeviceFacts,
    DeviceReference,
    EntraDevice,
    Finding,
    ManagedDevice,
    ReferenceKind,
    Sighting,
)
from shared.domain.ids import EntraDeviceId, ManagedDeviceId, RequestId, UserId
from shared.domain.orders import AdminDecision, Answer, AnswerKind, Order
from shared.domain.policy import Policy
from shared.domain.reset import Event, Reset
from shared.domain.states import State
from shared.messages.queues import CONTROL, DISPATCH, NOTICES, REQUESTS, RESULTS
from shared.pipeline.control import control
from shared.pipeline.dispatch import dispatch
from shared.pipeline.intake import intake
from shared.pipeline.notify import notify
from shared.pipeline.parts import Memory, Parts
from shared.pipeline.poll import poll
from shared.pipeline.ports import GraphError
from shared.pipeline.retention import forget
from shared.pipeline.sweep import sweep
from shared.pipeline.sync import sync
from shared.state.store import Store
from shared.state.table import Change, Row, Table, each_of

START = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


def lenient(**changes: object) -> Policy:
    """A policy whose guardrails let everything through, but for the changes: a test names those that it is about."""
    open_ = {
        "approval_above": 5_000,
        "unapproved_per_day": 100_000,
        "wave_above": 5_000,
        "fleet_share_per_day": 1,
        "resets_per_hour": 100_000,
        "halt_failed_min": 0,
        "halt_refused": 0,
        "halt_burst_factor": 0,
    }
    return Policy.model_validate(open_ | changes)


class Crash(BaseException):
    """The process died here. No `except Exception` catches it."""


class Clock:
    """Time that stands still but for a microsecond a look, and jumps when told to."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now
        self._sleepers: list[datetime] = []

    def __call__(self) -> datetime:
        self.now += timedelta(microseconds=1)
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)

    async def sleep(self, seconds: float) -> None:
        """Of all who sleep, whoever is due first wakes first; nobody's sleep delays another's."""
        due = self.now + timedelta(seconds=seconds)
        self._sleepers.append(due)
        turns = 0
        while turns < 300:  # so many turns for whoever is awake to do what it can do now
            await asyncio.sleep(0)
            turns = turns + 1 if min(self._sleepers) == due else 0
        self._sleepers.remove(due)
        self.now = max(self.now, due)


# --- the table's faults -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interruption:
    """What others do while this process is at a commit that changes a row whose key begins so."""

    prefix: str
    happens: Callable[[], Awaitable[None]]
    after: bool = False
    """After the commit took effect and before its answer comes; else before it takes effect."""


@dataclass
class FaultyTable:
    """A table whose n-th commit (from 1) fails: before it took effect, or after, when only the answer is lost."""

    table: Table
    fail_at: int = 0
    took_effect: bool = False
    error: BaseException = field(default_factory=lambda: Crash("the process died at a commit"))
    commits: int = 0
    interruptions: list[Interruption] = field(default_factory=list)
    """Each happens once, at the first commit that it fits."""
    calls: int = 0
    at_call: dict[int, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    """What others do, or what befalls this process, just before the call of this number, reads too."""

    async def get(self, key: str) -> Row | None:
        await self._call()
        return await self.table.get(key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Row]:
        return await each_of(self.get, keys)

    async def scan(
        self, first: str, before: str, where: Mapping[str, str] | None = None, limit: int | None = None
    ) -> AsyncIterator[Row]:
        await self._call()
        async for row in self.table.scan(first, before, where, limit):
            yield row

    async def _call(self) -> None:
        self.calls += 1
        if (happens := self.at_call.pop(self.calls, None)) is not None:
            await happens()

    async def commit(self, changes: Sequence[Change]) -> None:
        await self._call()
        self.commits += 1
        fails = self.commits == self.fail_at
        due = [one for one in self.interruptions if any(change.key.startswith(one.prefix) for change in changes)]
        self.interruptions = [one for one in self.interruptions if one not in due]
        for one in due:
            if not one.after:
                await one.happens()
        if fails and not self.took_effect:
            raise self.error
        await self.table.commit(changes)
        for one in due:
            if one.after:
                await one.happens()
        if fails:
            raise self.error


# --- Intune -------------------------------------------------------------------------------------------------------


@dataclass
class Lost:
    """The answer to an order is lost; `arrived` says whether the order was."""

    arrived: bool


@dataclass
class Dies:
    """This process dies in the call; `arrived` says whether the order had arrived."""

    arrived: bool


type Script = Answer | Lost | Dies


@dataclass
class Device:
    """A device as the tenant has it."""

    facts: DeviceFacts
    actions: list[ActionResult] = field(default_factory=list)
    wipes: list[datetime] = field(default_factory=list)
    """When an order to reset or wipe it arrived."""
    full_wipes: int = 0
    """How many of them were full wipes."""
    syncs: int = 0

    @property
    def id(self) -> ManagedDeviceId:
        return self.facts.managed.id

    def change(self, **changes: Any) -> None:  # Any: whatever columns the record has
        self.facts = replace(self.facts, managed=replace(self.facts.managed, **changes))


class FakeIntune:
    """`shared.pipeline.ports.Intune`, scripted. A reset is accepted unless `script` says otherwise for its device."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.devices: dict[ManagedDeviceId, Device] = {}
        self.findings: dict[DeviceReference, Finding] = {}
        """Answers of `find` that do not follow from the devices."""
        self.script: dict[ManagedDeviceId, deque[Script]] = defaultdict(deque)
        self.sync_answer = Answer(AnswerKind.ACCEPTED)
        self.down: set[str] = set()
        """Reads that raise GraphError, by name."""
        self.unreadable: set[ManagedDeviceId] = set()
        """Devices that reads leave out."""
        self.audit_shows = True
        self.groups: dict[ManagedDeviceId, set[str]] = defaultdict(set)
        """The Entra groups that hold a device or its primary user."""
        self.fleet = 100_000
        self.decisions: dict[str, AdminDecision] = {}
        """What Intune's administrators decided, by approval code."""
        self.calls: Counter[str] = Counter()
        self.batches: list[list[Order]] = []
        """The orders of each call of `reset`."""
        self.before_reset: Callable[[Sequence[Order]], Awaitable[None]] | None = None
        self.before_find: Callable[[Sequence[DeviceReference]], Awaitable[None]] | None = None
        self.checked_in: list[Sighting] | None = None
        """What `changed_since` lists; None: what the devices' records say."""

    def add(self, *devices: Device) -> None:
        self.devices |= {device.id: device for device in devices}

    # what the pipeline calls

    async def find(self, references: Sequence[DeviceReference]) -> Mapping[DeviceReference, Finding]:
        await self._read("find")
        if self.before_find is not None:
            await self.before_find(references)
        named = self._named()
        return {
            reference: self.findings.get(reference) or Finding(tuple(self._found(reference, named)))
            for reference in references
        }

    async def facts(self, devices: Sequence[ManagedDeviceId]) -> Mapping[ManagedDeviceId, DeviceFacts | None]:
        await self._read("facts")
        return {
            device: self._facts(self.devices[device]) if device in self.devices else None
            for device in devices
            if device not in self.unreadable
        }

    async def managed(self, devices: Sequence[ManagedDeviceId]) -> Mapping[ManagedDeviceId, ManagedDevice | None]:
        await self._read("managed")
        return {
            device: self.devices[device].facts.managed if device in self.devices else None
            for device in devices
            if device not in self.unreadable
        }

    async def reset(self, orders: Sequence[Order]) -> Mapping[ManagedDeviceId, Answer]:
        self.calls["reset"] += 1
        self.batches.append(list(orders))
        if self.before_reset is not None:
            await self.before_reset(orders)
        await asyncio.sleep(0)
        answers = {order.device: self._order(order.device) for order in orders}
        await asyncio.sleep(0)
        return answers

    async def wipe(self, orders: Sequence[Order]) -> Mapping[ManagedDeviceId, Answer]:
        self.calls["wipe"] += 1
        await asyncio.sleep(0)
        answers = {order.device: self._order(order.device, full=True) for order in orders}
        await asyncio.sleep(0)
        return answers

    async def sync(self, orders: Sequence[Order]) -> Mapping[ManagedDeviceId, Answer]:
        self.calls["sync"] += 1
        await asyncio.sleep(0)
        for order in orders:
            self.devices[order.device].syncs += 1
        return {order.device: self.sync_answer for order in orders}

    async def changed_since(self, since: datetime) -> AsyncIterator[Sighting]:
        await self._read("changed_since")
        everything = [self.listed(device) for device in self.devices]
        for sighting in everything if self.checked_in is None else self.checked_in:
            if sighting.last_sync is not None and sighting.last_sync > since:
                yield sighting

    async def look(self, devices: Sequence[ManagedDeviceId]) -> Mapping[ManagedDeviceId, Sighting]:
        await self._read("look")
        return {device: self.sighting(device) for device in devices if device not in self.unreadable}

    async def memberships(
        self, devices: Sequence[DeviceFacts], groups: frozenset[str]
    ) -> Mapping[ManagedDeviceId, frozenset[str]]:
        await self._read("memberships")
        return {
            facts.managed.id: frozenset(self.groups[facts.managed.id] & groups)
            for facts in devices
            if facts.managed.id not in self.unreadable
        }

    async def fleet_size(self) -> int:
        await self._read("fleet_size")
        return self.fleet

    async def admin_decisions(self, codes: Sequence[str]) -> Mapping[str, AdminDecision]:
        await self._read("admin_decisions")
        return {code: self.decisions.get(code, AdminDecision.UNKNOWN) for code in codes}

    async def audited_resets(
        self, devices: Sequence[ManagedDeviceId], since: datetime
    ) -> Mapping[ManagedDeviceId, Sequence[AuditedAction]]:
        await self._read("audited_resets")
        return {
            device: [
                AuditedAction(device, "factoryReset", at)
                for at in self.devices[device].wipes
                if at >= since and self.audit_shows
            ]
            for device in devices
            if device in self.devices
        }

    # what happens in the tenant

    def wiped(self) -> Counter[ManagedDeviceId]:
        """How many orders to reset it arrived, for each device that had any."""
        return Counter({device.id: len(device.wipes) for device in self.devices.values() if device.wipes})

    def check_in(
        self, device: ManagedDeviceId, state: ActionState | None = None, **changes: Any
    ) -> None:  # Any: columns
        """The device checks in now; its newest action is in this state from now on."""
        now = self.clock()
        self.devices[device].change(last_sync=now, **changes)
        if state is not None:
            newest = self.devices[device].actions[-1]
            self.devices[device].actions[-1] = replace(newest, state=state, updated_at=now)

    def take(self, device: ManagedDeviceId) -> None:
        """The device checks in and takes its reset."""
        self.check_in(device, ActionState.ACTIVE)

    def come_back(self, device: ManagedDeviceId) -> None:
        """The device was reset and checks in again: no primary user any more, its action done."""
        self.check_in(device, ActionState.DONE, primary_user=UserId(""), management_state="managed")

    def sighting(self, device: ManagedDeviceId) -> Sighting:
        if device not in self.devices:
            return Sighting(device, self.clock(), exists=False)
        managed = self.devices[device].facts.managed
        return Sighting(
            device,
            self.clock(),
            exists=True,
            last_sync=managed.last_sync.replace(microsecond=0) if managed.last_sync else None,
            management_state=managed.management_state,
            primary_user=managed.primary_user,
            actions=tuple(self.devices[device].actions),
            entra_device_id=managed.entra_device_id,
            enrolled_at=managed.enrolled_at,
        )

    def listed(self, device: ManagedDeviceId) -> Sighting:
        """The device as a list shows it."""
        seen = self.sighting(device)
        user = seen.primary_user or None
        return replace(seen, primary_user=user, actions=None, entra_device_id=None, enrolled_at=None, listed=True)

    async def _read(self, name: str) -> None:
        self.calls[name] += 1
        await asyncio.sleep(0)
        if name in self.down:
            raise GraphError(f"Graph is down ({name})")

    def _order(self, device: ManagedDeviceId, *, full: bool = False) -> Answer:
        said = self.script[device].popleft() if self.script[device] else Answer(AnswerKind.ACCEPTED)
        arrived = said.kind is AnswerKind.ACCEPTED if isinstance(said, Answer) else said.arrived
        if arrived:
            now = self.clock()
            self.devices[device].wipes.append(now)
            self.devices[device].full_wipes += full
            self.devices[device].actions.append(ActionResult("factoryReset", ActionState.PENDING, now, now))
            said = replace(said, server_time=now) if isinstance(said, Answer) else said
        if isinstance(said, Dies):
            raise Crash("the process died in the call")
        return said if isinstance(said, Answer) else Answer(AnswerKind.UNKNOWN, "The connection broke.")

    def _named(self) -> dict[DeviceReference, list[Device]]:
        """Every name in the tenant, with the devices that bear it."""
        named: dict[DeviceReference, list[Device]] = defaultdict(list)
        for one in self.devices.values():
            names = {
                ReferenceKind.INTUNE_ID: one.id,
                ReferenceKind.ENTRA_DEVICE_ID: one.facts.managed.entra_device_id,
                ReferenceKind.SERIAL_NUMBER: one.facts.managed.serial_number,
                ReferenceKind.NAME: one.facts.managed.name,
                ReferenceKind.GROUP_TAG: one.facts.autopilot.group_tag if one.facts.autopilot else None,
            }
            for kind, name in names.items():
                if name:
                    named[DeviceReference(kind, name)].append(one)
        return named

    def _facts(self, device: Device) -> DeviceFacts:
        return replace(device.facts, read_at=self.clock())

    def _found(self, reference: DeviceReference, named: Mapping[DeviceReference, list[Device]]) -> list[DeviceFacts]:
        """The devices that a reference names; filters do not show what is pending."""
        found = [self._facts(device) for device in named.get(reference, ())]
        if reference.kind is ReferenceKind.INTUNE_ID:
            return found
        return [replace(facts, managed=replace(facts.managed, pending_actions=None)) for facts in found]


def device(number: int, **changes: Any) -> Device:  # Any: whatever columns Intune's record has
    """A device that may be reset, whose ids and names all end in the number."""
    entra = EntraDeviceId(f"feedfeed-0000-4000-8000-{number:012}")
    managed = ManagedDevice(
        id=device_id(number),
        name=f"PC-{number}",
        serial_number=f"SN{number}",
        entra_device_id=entra,
        operating_system="Windows",
        last_sync=START - timedelta(hours=2),
        enrolled_at=START - timedelta(days=90),
        management_state="managed",
        primary_user=UserId("11111111-1111-4111-8111-111111111111"),
        model="Latitude",
        manufacturer="Dell Inc.",
        join_type="azureADJoined",
        os_version="10.0.22631.4460",
        sku_family="Enterprise",
        management_agent="mdm",
        pending_actions=(),
    )
    return Device(
        DeviceFacts(
            managed=replace(managed, **changes),
            entra=EntraDevice(entra, "AzureAd", True),
            autopilot=AutopilotIdentity(
                id=f"autopilot-{number}",
                serial_number=managed.serial_number,
                group_tag="LAB",
                managed_device_id=managed.id,
                entra_device_id=entra,
                enrollment_state="enrolled",
            ),
            read_at=START,
        )
    )


def device_id(number: int) -> ManagedDeviceId:
    return ManagedDeviceId(f"abcdefab-2222-4222-8222-{number:012}")


def asking(*numbers: int, request: str = "R1", **fields: object) -> str:
    """The text of a request for these devices, by serial number."""
    body: dict[str, object] = {
        "requestId": request,
        "requester": "service@contoso.example",
        "reason": "TICKET-1",
        "devices": [{"serialNumber": f"SN{number}"} for number in numbers],
    }
    return json.dumps(body | fields)


# --- all of it together -------------------------------------------------------------------------------------------


@dataclass
class Rig:
    """One pipeline in its world."""

    clock: Clock
    table: MemoryTable
    faulty: FaultyTable
    queues: MemoryQueues
    intune: FakeIntune
    parts: Parts

    @property
    def store(self) -> Store:
        """The state as it is, past all faults."""
        return Store(self.table)

    def with_policy(self, **changes: object) -> None:
        self.parts = replace(self.parts, policy=lenient(**changes))

    def other_instance(self) -> Parts:
        """The parts of another process of the same app, which has no faults."""
        return replace(self.parts, store=self.store, memory=Memory())

    async def forget(self) -> None:
        """Retention, as the sweep calls it."""
        now = self.clock()
        await forget(self.parts, (await self.store.at_hand(now, now, 1)).forgotten_at)

    def fail(self, commit: int, *, took_effect: bool, error: BaseException | None = None) -> None:
        """Let the n-th commit from now fail."""
        self.faulty.commits, self.faulty.fail_at, self.faulty.took_effect = 0, commit, took_effect
        self.faulty.error = error or Crash("the process died at a commit")

    def meanwhile(self, prefix: str, happens: Callable[[], Awaitable[None]], *, after: bool = False) -> None:
        """Let this happen while this process is at the next commit of a row whose key begins so."""
        self.faulty.interruptions.append(Interruption(prefix, happens, after))

    def at_call(self, number: int, happens: Callable[[], Awaitable[None]]) -> None:
        """Let this happen just before the n-th call from now, a read or a commit, that this process makes of the
        table."""
        self.faulty.at_call = {self.faulty.calls + number: happens}

    @property
    def still_to_happen(self) -> bool:
        """Whether the process made fewer calls, or other ones, than something was to happen at."""
        return bool(self.faulty.at_call or self.faulty.interruptions)

    def heal(self) -> None:
        self.faulty.fail_at = 0
        self.faulty.at_call = {}

    async def deliver(self, parts: Parts | None = None) -> int:
        """Hand every message to its stage until the queues that trigger are empty; how many there were."""
        stages = {REQUESTS: intake, DISPATCH: dispatch, CONTROL: control, NOTICES: notify}
        count, handled = 0, -1
        while count > handled:
            handled = count
            for queue, stage in stages.items():
                for message in await self.queues.receive(queue):
                    count += 1
                    await stage(parts or self.parts, message.body)
                    await self.queues.delete(queue, message)
        return count

    async def tick(self, **by: float) -> None:
        """Time passes; then every timer runs, and what they put on queues is handled."""
        self.clock.forward(**by)
        for timer in (poll, sync, sweep):
            await timer(self.parts)
        await self.deliver()

    async def ask(self, *numbers: int, **fields: Any) -> None:  # Any: fields of the request
        """A request comes in; nothing is sent yet."""
        await intake(self.parts, asking(*numbers, **fields))

    async def trigger(self, *numbers: int, **fields: Any) -> None:  # Any: fields of the request
        """A request comes in and its resets are sent."""
        await self.ask(*numbers, **fields)
        await self.deliver()

    async def take_and_come_back(self, *numbers: int, minutes: float = 34) -> None:
        """The devices, whose resets were sent, take them and come back these minutes after their silence was tested."""
        self.clock.forward(minutes=3)
        for number in numbers:
            self.intune.take(device_id(number))
        await poll(self.parts)
        self.clock.forward(minutes=6)
        await sync(self.parts)
        self.clock.forward(minutes=minutes)
        for number in numbers:
            self.intune.come_back(device_id(number))
        await poll(self.parts)

    async def turn_around(self, *numbers: int) -> None:
        """The devices, whose resets were sent, take them and come back: 47 minutes in which only poll and sync run."""
        await self.take_and_come_back(*numbers)
        self.clock.forward(minutes=4)
        for number in numbers:
            self.intune.check_in(device_id(number))
        await poll(self.parts)
        await self.deliver()

    async def reset(self, number: int) -> Reset:
        stored = await self.store.reset(device_id(number))
        assert stored is not None, f"device {number} is not in flight"
        return stored.record

    async def state(self, number: int, request: str = "R1") -> State | None:
        """Where the device's turnaround for this request stands or how it ended; None where there is none."""
        stored = await self.store.reset(device_id(number))
        if stored is not None and stored.record.request == request:
            return stored.record.state
        ends = [
            one.event.to_state
            async for one in self.store.closed(RequestId(request))
            if one.event.device == device_id(number)
        ]
        return ends[0] if ends else None

    async def history(self, number: int) -> list[Event]:
        return [event async for event in self.store.history(device_id(number))]

    def told(self) -> list[dict[str, Any]]:  # Any: JSON
        """The notices on the queue `reset-results`, in the order sent."""
        return [json.loads(body) for body in self.queues.waiting(RESULTS)]

    def told_types(self) -> Counter[str]:
        """Of each type of notice how many, repeats left out as a receiver would by their ids."""
        once = {notice["id"]: notice["type"].removeprefix("io.turnaround.") for notice in self.told()}
        return Counter(once.values())


def rig(*devices: Device) -> Rig:
    clock = Clock()
    table = MemoryTable()
    faulty = FaultyTable(table)
    queues = MemoryQueues(clock)
    intune = FakeIntune(clock)
    intune.add(*devices)
    ids = iter(range(1, 10**9))

    async def connect() -> FakeIntune:
        return intune

    parts = Parts(
        store=Store(faulty),
        queues=queues,
        intune=connect,
        policy=lenient(audit_after=timedelta(minutes=5), sending_for=timedelta(minutes=15)),
        clock=clock,
        new_id=lambda: f"33333333-3333-4333-8333-{next(ids):012}",
        sleep=clock.sleep,
    )
    return Rig(clock, table, faulty, queues, intune, parts)
