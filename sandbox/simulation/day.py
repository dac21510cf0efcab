"""One bad day in virtual time: the plan is played, trouble ends, and everything must come to its end."""

import asyncio
import hashlib
import json
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from heapq import heappop, heappush
from random import Random
from typing import Self, cast

import httpx

from sandbox.memory import MemoryTable
from sandbox.scenario import Encoding
from sandbox.simulation.kept import concerned
from sandbox.simulation.openings import Opening, Openings
from sandbox.simulation.plan import BOSS, DESK, GOOD, OTHER, Act, Deed, Plan
from sandbox.simulation.rules import Rules
from sandbox.simulation.story import BROKEN, told
from sandbox.simulation.trouble import (
    LATE,
    MOST_CALLS,
    WRITES,
    Fate,
    Noted,
    StorageDownError,
    Trouble,
    TroubledGraph,
    TroubledQueues,
    TroubledTable,
)
from sandbox.tenant.devices import Device, Fleet, Json
from sandbox.tenant.graph import Tenant
from sandbox.virtual.functions import POISON, Instance, host_options, schedules
from sandbox.virtual.graph import TenantTransport
from sandbox.virtual.loop import run
from sandbox.virtual.storage import VirtualQueues
from sandbox.virtual.world import START, parts_of
from shared.domain.guardrails import plan_digest
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.notices import NoticeType
from shared.domain.policy import Policy
from shared.domain.request import RESULTS_QUEUE, ResetRequest, parse
from shared.domain.reset import Event
from shared.domain.states import WATCHED, State
from shared.domain.timing import WakeKind
from shared.messages.queues import CONTROL, REQUESTS, TRIGGERING
from shared.pipeline.advance import ContendedError
from shared.pipeline.status import request_status
from shared.state import rows
from shared.state.store import Store
from shared.state.table import Change, ChangeKind, Conflict, Scalar

BOUND = timedelta(days=60)
"""Everything must have ended so long after the trouble; it is more than all the policy's durations together."""
OPTIONS, SCHEDULES = host_options(), schedules()
STORAGE, GRAPH = (0.001, 0.005), (0.02, 0.25)
"""Seconds that a way takes on a good day, at least and at most."""
SEEN_WITHIN = timedelta(seconds=90)
"""For so long after reads show that a device has moved, poll is given ticks to see it."""
CHANCES = ("p429", "p503", "p503_acted", "lost_answer", "forbidden")
"""The tenant's faults at random, which end with the trouble."""
DAY = timedelta(days=1)
DOUBLED = timedelta(minutes=10)
"""For so long after a lab window was to open its timer goes on to tick."""
MOST_TRIES = 3
"""How often people try the same again."""


@dataclass(frozen=True)
class Outcome:
    """What became of a day."""

    plan: Plan
    faults: Sequence[tuple[str, str]]
    """Rules that did not hold, each with the device concerned or ""."""
    took: timedelta
    """Virtual time."""
    injected: Counter[str]
    """Trouble, by kind."""
    ends: Counter[State]
    resets: int
    """That Intune took."""
    log: Sequence[Noted]
    table: dict[str, dict[str, Scalar]]
    queues: dict[str, list[str]]

    @property
    def digest(self) -> str:
        """The same for the same run, to the byte."""
        log = [(noted.at.isoformat(), noted.who, noted.text) for noted in self.log]
        return hashlib.sha256(repr((log, self.table, self.queues)).encode()).hexdigest()

    def story(self, about: str) -> list[str]:
        """What happened to a device (its Intune id) or a request (`request:ID`), and to all, with what went wrong
        around it; of nothing in particular (""), the last lines before the first rule was broken."""
        return [f"{noted.at:%d %H:%M:%S.%f} {noted.text}" for noted in told(self.log, about)]


def play(plan: Plan) -> Outcome:
    """Play a day to its end."""

    async def whole() -> Outcome:
        async with Day.open(plan) as day:
            return await day.play()

    return run(whole())


class WatchedQueues(VirtualQueues):
    """Queues that say what arrives for people, and what is set aside."""

    told: Callable[[str], None] | None = None
    set_aside: Callable[[str, str], None] | None = None

    async def send(self, queue: str, body: str) -> None:
        await super().send(queue, body)
        if self.told is not None and queue.startswith(RESULTS_QUEUE):
            self.told(body)
        if self.set_aside is not None and queue.endswith(POISON):
            self.set_aside(queue.removesuffix(POISON), body)


@dataclass
class Host:
    """One instance of the app, as long as it lives."""

    name: str
    instance: Instance
    trouble: Trouble
    stirred: dict[str, asyncio.Event]
    """By timer: something has changed that it may look after."""
    unswept: bool = True
    """Devices have come to an end since its last sweep."""
    ticked_on: dict[str, int] = field(default_factory=dict)
    """By timer, the day of its last tick."""
    opened_at: datetime | None = None
    """When its timer of lab windows last ticked, by its own clock, until that tick is known to have ended well."""


@dataclass
class Day:
    """A plan being played. Made by `open`, inside a virtual loop."""

    plan: Plan
    policy: Policy
    tenant: Tenant
    table: MemoryTable
    queues: WatchedQueues
    rules: Rules
    people: Random
    hands: Random
    """For those who go to a device."""
    log: list[Noted] = field(default_factory=list)
    injected: Counter[str] = field(default_factory=Counter)
    hosts: list[Host] = field(default_factory=list)
    _made: int = 0
    _errands: set[asyncio.Task[None]] = field(default_factory=set)
    _heard: set[str] = field(default_factory=set)
    _tries: Counter[str] = field(default_factory=Counter)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _calls: Counter[str] = field(default_factory=Counter)
    _asked: list[RequestId] = field(default_factory=list)
    _quiet: bool = True
    """Nothing has gone wrong with table, queues and instances."""
    _again: bool = False
    """Trouble has come back."""
    _watched: dict[Device, set[str]] = field(default_factory=dict)
    """Devices in flight that poll looks after, with the Intune ids that they had."""
    _moved: dict[Device, None] = field(default_factory=dict)
    """Devices that did something lately."""
    _sights: list[tuple[datetime, int, Device]] = field(default_factory=list)
    """When a watched device is expected to do something: a heap, with times that were superseded."""
    _dues: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Keys of the wake-ups of each kind, in order."""

    @classmethod
    @asynccontextmanager
    async def open(cls, plan: Plan) -> AsyncIterator[Self]:
        """The day at its start, with its instances running."""
        seed, scenario = plan.seed, plan.scenario
        fleet = scenario.fleet(seed, START)
        tenant = Tenant(fleet, Random(f"tenant/{seed}"), tenant_id=scenario.tenant.id, roles=scenario.tenant.roles)
        ways, loop = Random(f"ways/{seed}"), asyncio.get_running_loop()
        queues = WatchedQueues(
            clock=lambda: START + timedelta(seconds=loop.time()),
            shuffle=Random(f"order/{seed}"),
            delay=lambda: ways.uniform(*STORAGE),
        )
        policy, table = Policy.model_validate(scenario.real_policy()), MemoryTable()
        skew = max(map(abs, plan.clocks)) + timedelta(seconds=1)
        managed = sum(device.intune is not None for device in fleet.devices)
        openings = Openings(plan.openings)
        rules = Rules(policy, tenant, table, plan.names, managed, skew, START + plan.quiet_at, openings=openings)
        day = cls(plan, policy, tenant, table, queues, rules, Random(f"people/{seed}"), Random(f"hands/{seed}"))
        queues.told, queues.set_aside = day._told, rules.set_aside
        rules.said = day._broke
        fleet.moved = day._moves
        for fault in plan.order_faults:
            tenant.faults.arm(fault.model_copy())  # it counts down, and the plan may be played again
        for spec, device in zip(scenario.devices, fleet.devices, strict=False):
            if device.intune is not None:
                way = spec.model_dump_json(exclude_defaults=True)
                day._note(f"Intune knows the device {device.name} as {device.intune.id}: {way}", device.intune.id)
        try:
            for _ in plan.clocks:
                day.start_instance()
            yield day
        finally:
            for task in day._errands:
                task.cancel()
            for host in day.hosts:
                await day.stop(host)

    def now(self) -> datetime:
        """The one true time."""
        return START + timedelta(seconds=asyncio.get_running_loop().time())

    def calm(self) -> bool:
        """Whether the trouble is over."""
        return self.now() >= START + self.plan.calm_at and not self._again

    def _note(self, text: str | Event, about: str = "") -> None:
        self.log.append(Noted(self.now(), about, text))

    def _broke(self, rule: str, about: str) -> None:
        self._note(f"{BROKEN} {rule}", about)

    def _errand(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Let something go on by itself."""
        task = asyncio.create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errand_done)
        return task

    def _errand_done(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self.rules.broken(f"the simulation itself failed: {error!r}")

    # --- the app

    def start_instance(self) -> Host:
        """Another instance, with nothing in its memory."""
        name = f"instance {self._made}"
        ahead = self.plan.clocks[self._made % len(self.plan.clocks)]
        self._made += 1
        chance, ids = Random(f"{name}/{self.plan.seed}"), Random(f"ids/{name}/{self.plan.seed}")
        trouble = Trouble(
            Random(f"trouble/{name}/{self.plan.seed}"),
            self.plan.rates,
            self.calm,
            die=lambda: self.kill(host),
            spawn=self._errand,
            note=partial(self._went_wrong, name),
            most_calls=max(MOST_CALLS, 200 * len(self.tenant.fleet.devices)),
        )
        table = TroubledTable(
            self.table,
            trouble,
            lambda: chance.uniform(*STORAGE),
            self._calls,
            self._committed,
            self._refused,
            self._ambush,
            partial(self._within, self.plan.table_outages),
        )
        queues = TroubledQueues(self.queues, trouble)
        way = TenantTransport(self.tenant, self.now, lambda: chance.uniform(*GRAPH))
        graph = TroubledGraph(_Watched(way, self), trouble, partial(self._within, self.plan.outages))
        parts = parts_of(self.policy, table, queues, graph, self.tenant.token, lambda: self.now() + ahead, chance, ids)
        instance = Instance(parts, queues, chance, OPTIONS, SCHEDULES, self.plan.windows)
        stirred = {timer: asyncio.Event() for timer in SCHEDULES}
        host = Host(name, instance, trouble, stirred)
        instance.rest, instance.failed = partial(self._rest, host), partial(self._failed, host)
        self.hosts.append(host)
        self._note(f"{name} starts, its clock {ahead.total_seconds():+.0f} s")
        instance.start()
        return host

    async def stop(self, host: Host) -> None:
        """End an instance where it stands, and say what broke it before, where something did."""
        try:
            await host.instance.stop()
        except RuntimeError as error:
            self.rules.broken(f"{host.name} itself failed: {error!r}")

    def kill(self, host: Host, *, again: bool = True) -> None:
        """End an instance where it stands; another takes its place after a while."""
        if host.trouble.dead:
            return
        host.trouble.dead = True
        self.hosts.remove(host)
        for event in (event for other in self.hosts for event in other.stirred.values()):
            event.set()
        self._note(f"{host.name} dies")
        self._quiet = False
        self._errand(self._bury(host, again=again))

    async def _bury(self, host: Host, *, again: bool) -> None:
        await self.stop(host)
        if again or not self.hosts:
            await asyncio.sleep(self.people.choice((1, 20, 400)))
            self.start_instance()

    async def _scale_in(self, host: Host) -> None:
        host.instance.listen_no_more()
        await asyncio.sleep(self.people.uniform(0, 300))
        self.kill(host, again=False)

    def _went_wrong(self, name: str, kind: str, fate: Fate, about: str) -> None:
        self.injected[f"{kind}: {fate}"] += 1
        self._quiet = self._quiet and not kind.startswith(("table", "queue"))
        self.rules.writes_late = self.rules.writes_late or (about == WRITES and fate in LATE)
        self._note(f"{name}: a {kind} ({about}) {fate}", name)

    def _failed(self, host: Host, name: str, error: Exception) -> None:
        """A function raised: that must come from trouble, never from a defect of ours."""
        self._note(f"{host.name}: {name} failed: {error!r}", host.name)
        if name == "windows":
            host.opened_at = None
        for one in _single(error):
            if not isinstance(one, (StorageDownError, ContendedError, Conflict, TimeoutError)):
                self.rules.broken(f"{name} raised {one!r}")

    def _refused(self, error: Exception) -> None:
        self.rules.broken(f"storage would never take a transaction: {error}")

    def _within(self, spans: Iterable[tuple[timedelta, timedelta]]) -> bool:
        return any(START + first <= self.now() < START + last for first, last in spans)

    # --- its timers rest while there is nothing to do

    async def _rest(self, host: Host, timer: str) -> bool:
        """Sleep until a tick of this timer may find something to do; True where it slept, or the tick does not come."""
        if timer == "windows" and host.opened_at is not None:
            for rule, request in self.rules.openings.ticked(host.opened_at):
                self.rules.broken(rule, request)
            host.opened_at = None
        if host.trouble.also(f"tick of {timer}", Fate.FAILS, self.plan.rates.skip):
            return True
        slept = False
        while True:
            mine = self.plan.doubled_ticks or host is self.hosts[0]
            due = self._due(host, timer) if mine else None
            now = host.instance.parts.clock()
            if due is not None and due <= now:
                if not slept:
                    self._ticks(host, timer, now)
                return slept
            slept = True
            host.stirred[timer].clear()
            try:
                async with asyncio.timeout(None if due is None else (due - now).total_seconds()):
                    await host.stirred[timer].wait()
            except TimeoutError:
                continue

    def _ticks(self, host: Host, timer: str, now: datetime) -> None:
        host.ticked_on[timer] = now.toordinal()
        if timer == "sweep":
            host.unswept = False
        elif timer == "windows":
            host.opened_at = now

    def _due(self, host: Host, timer: str) -> datetime | None:
        """When this timer next has something to do, by the instance's clock; None: not until something changes."""
        now = host.instance.parts.clock()
        match timer:
            case "windows" if due := [one for one in self.plan.openings if now < one.closes]:
                # Each minute when one has just opened, as doubled ticks come; then once a day while it stays open.
                soon = [max(now, one.opens) for one in due if now < one.opens + DOUBLED or not self._is_open(one)]
                return min([*soon, self._daily(host, timer, now)])
            case "sync":
                return self._first_due(WakeKind.SYNC)
            case "poll":
                return self._next_sight(now - self.now())
            case "sweep":
                times = [now if host.unswept else self._daily(host, timer, now), self._first_due(WakeKind.SWEEP)]
                if (left := self.table.first("deliver|")) is not None:
                    times.append(_time(left) + timedelta(seconds=31))
                return min(time for time in times if time is not None)
        return None

    def _daily(self, host: Host, timer: str, now: datetime) -> datetime:
        """Now, or tomorrow where the timer has ticked today."""
        tomorrow = datetime.combine(now + DAY, datetime.min.time(), now.tzinfo)
        return tomorrow if host.ticked_on.get(timer) == now.toordinal() else now

    def _is_open(self, opening: Opening) -> bool:
        return bool(self.rules.openings.opened[opening.request])

    def _first_due(self, kind: WakeKind) -> datetime | None:
        keys = self._dues[kind.value]
        return _time(keys[0]) if keys else None

    def _next_sight(self, ahead: timedelta) -> datetime | None:
        """When poll may next see a device that has moved, by a clock that is so far ahead."""
        now, quirks, late = self.now(), self.plan.scenario.tenant.quirks, self.policy.lists_lag
        lag = quirks.stale_reads + quirks.stale_lists
        soonest = lag if self.calm() else quirks.stale_lists  # until then some copies are not stale
        self.tenant.fleet.advance(now)
        found: list[datetime] = []
        for device in list(self._moved):
            changes = device.changes_since(now - late - SEEN_WITHIN)
            if not changes:
                del self._moved[device]
            elif device in self._watched:
                # And once more, when what a list still shows of it counts as late.
                seen = [at + after for at in changes for after in (soonest, lag, late)]
                if any(at <= now <= at + SEEN_WITHIN for at in seen):
                    return now + ahead
                found += [at + ahead for at in seen if now < at]
        while self._sights:
            due, _, device = self._sights[0]
            if device in self._watched and device.due() == due:
                found.append(due + soonest + ahead)
                break
            heappop(self._sights)
        return min(found, default=None)

    # --- what is seen

    def _committed(self, changes: Sequence[Change]) -> None:
        now = self.now()
        events: list[Event] = []
        for change in changes:
            if change.key.startswith("event|") and change.kind is not ChangeKind.DELETE:
                events.append(rows.adapter(Event).validate_json(str(change.values["doc"])))
                self._happened(events[-1], now)
            elif change.key.startswith("reset|"):
                self._watch(change.key.removeprefix("reset|"), change.values.get("state"))
            elif change.key.startswith("due|"):
                self._wakes(change)
            elif change.key.startswith("window|") and change.kind is not ChangeKind.DELETE:
                self._asked.append(RequestId(change.key.removeprefix("window|")))
        self.rules.committed(changes, events, now)
        ends = any(change.key.startswith("ended|") for change in changes)
        for host in self.hosts:
            host.unswept = host.unswept or ends
            for event in host.stirred.values():
                event.set()
        self._changed.set()

    def _wakes(self, change: Change) -> None:
        for keys in self._dues.values():
            position = bisect_left(keys, change.key)
            if position < len(keys) and keys[position] == change.key:
                del keys[position]
        if change.kind is not ChangeKind.DELETE:
            insort(self._dues[str(change.values["kind"])], change.key)

    def _watch(self, name: str, state: object) -> None:
        if (device := self.tenant.fleet.find(name)) is None:
            return
        names = self._watched.setdefault(device, set())
        if state in WATCHED:
            names.add(name)
        else:
            names.discard(name)
        if names:
            self._moves(device)
        else:
            del self._watched[device]

    def _moves(self, device: Device) -> None:
        self._moved[device] = None
        if device in self._watched and (due := device.due()) is not None:
            heappush(self._sights, (due, device.ordinal, device))

    def _happened(self, event: Event, now: datetime) -> None:
        self._note(event, concerned(event))
        if event.to_state is State.READY and event.from_state is not State.READY:
            device = self.tenant.fleet.find(event.device or "")
            if device is not None:
                self.tenant.fleet.advance(now)
                self.rules.ready(event, device, now)

    def sees_wipe(self, device: Device, order: str | None) -> None:
        """Intune took a reset just now."""
        wipe = device.wipes_received[-1]
        self._note(f"  Intune takes the reset of {device.name}, order {order}", wipe.intune_id)
        self.rules.taken(device, wipe, order, self.now())

    def _told(self, body: str) -> None:
        self.rules.told(body)
        given: Json = json.loads(body)
        data = cast("Json", given["data"])
        about = cast("Json", data.get("device", {})).get("intuneId") or f"request:{data['requestId']}"
        self._note(f"  told of {given['subject']}: {given['type']} {given.get('sequence', '')}".rstrip(), str(about))
        if str(given["id"]) not in self._heard:
            self._heard.add(str(given["id"]))
            self._react(str(given["type"]).removeprefix("io.turnaround."), data)

    # --- people

    def _react(self, kind: str, data: Json) -> None:
        likely, request = self.plan.reactions, data.get("requestId")
        dice = self.people.random()
        match kind:
            case NoticeType.REQUEST_APPROVAL_NEEDED:
                digest = cast("Json", data["evidence"])["digest"]
                if dice < likely.approve:
                    self._soon("approve", BOSS, requestId=request, digest=digest)
                elif dice < likely.approve + likely.approve_wrongly:
                    by, other = self.people.choice(((DESK, digest), (OTHER, digest), (BOSS, "0" * 64)))
                    self._soon("approve", by, requestId=request, digest=other)
                elif dice < likely.approve + likely.approve_wrongly + likely.decline:
                    self._soon("decline", BOSS, requestId=request, digest=digest)
            case NoticeType.DEVICE_ATTENTION | NoticeType.DEVICE_FAILED:
                device = str(cast("Json", data["device"])["intuneId"])
                if self.hands.random() < likely.reenrol:
                    self._errand(self._reenrol(device))
                again = self._tries[device] < MOST_TRIES
                if again and dice < likely.retry:
                    self._tries[device] += 1
                    self._soon("retry", DESK, requestId=request, intuneId=device)
                elif kind == NoticeType.DEVICE_ATTENTION and dice < likely.retry + likely.cancel:
                    self._soon("cancel", DESK, requestId=request, intuneId=device)
            case NoticeType.HALTED:
                if dice < likely.resume and self._tries["resume"] < MOST_TRIES:
                    self._tries["resume"] += 1
                    self._soon("resume", BOSS)

    async def _reenrol(self, name: str) -> None:
        await asyncio.sleep(self.hands.choice((60, 3000)))
        device = self.tenant.fleet.find(name)
        if device is not None and device.intune is not None and device.intune.id == name:
            self._note(f"somebody enrols {device.name} anew", name)
            self._enrol_anew(device)

    def _enrol_anew(self, device: Device) -> None:
        if self.plan.names.get(device.serial) != "retiring":  # it would be good then
            self.tenant.fleet.enrol_anew(device, self.now())

    def _soon(self, command: str, by: str, **more: object) -> None:
        self._errand(self._give(command, by, self.people.choice((20, 600, 9000)), CONTROL, **more))

    async def _give(self, command: str, by: str, after: float, queue: str, **more: object) -> None:
        await asyncio.sleep(after * self.people.uniform(0.5, 1))
        given = {name: value for name, value in more.items() if value is not None}
        body = json.dumps({"command": command, "by": by, "why": "It seemed right.", **given})
        request = f"request:{given['requestId']}" if "requestId" in given else ""
        self._note(f"{by} says {body} on {queue}", str(given.get("intuneId", request)))
        for _ in range(self.people.choice((1, 1, 1, 2))):
            await self.queues.send(queue, body)

    def _ambush(self, changes: Sequence[Change]) -> None:
        """Somebody wants to stop a send at the very moment at which it is committed."""
        events = [change.key.split("|") for change in changes if change.key.startswith("event|")]
        halts = not events or self.people.random() < 0.5
        about = {} if halts else {"requestId": events[0][-1], "intuneId": events[0][1]}
        self._errand(self._give("halt" if halts else "cancel", BOSS, 0, CONTROL, **about))

    async def _ask(self, at: timedelta, text: str) -> None:
        await asyncio.sleep(at.total_seconds())
        request = parse(text).id
        self._asked.append(request)
        self._note(f"a message of the request {request}: {text}", f"request:{request}")
        await self.queues.send(REQUESTS, text)

    async def _act(self, act: Act) -> None:
        await asyncio.sleep(act.at.total_seconds())
        devices = self.tenant.fleet.devices
        device, other = devices[act.number % len(devices)], devices[(act.number + 1) % len(devices)]
        known = self._asked or [RequestId("R1")]
        request = known[act.number % len(known)]
        host = self.hosts[act.number % len(self.hosts)] if self.hosts else None
        self._note(f"{act.deed}: {device.name}, {request}, {host.name if host else ''}")
        match act.deed:
            case Deed.CANCEL:
                await self._give("cancel", DESK, 0, CONTROL, requestId=request)
            case Deed.CANCEL_BY_FRONT:
                await self._give("cancel", DESK, 0, REQUESTS, requestId=request)
            case Deed.RETRY:
                await self._give("retry", DESK, 0, CONTROL, requestId=request)
            case Deed.APPROVE_BLINDLY | Deed.APPROVE_BY_FRONT:
                plans = list(self._plans.items())
                request, digest = plans[act.number % len(plans)]  # which may not have come yet
                queue = CONTROL if act.deed is Deed.APPROVE_BLINDLY else REQUESTS
                await self._give("approve", BOSS, 0, queue, requestId=request, digest=digest)
            case Deed.HALT:
                await self._give("halt", BOSS, 0, CONTROL)
            case Deed.RESUME:
                await self._give("resume", BOSS, 0, CONTROL)
            case Deed.NONSENSE:
                await self.queues.send(self.people.choice((REQUESTS, CONTROL)), "{nonsense")
            case Deed.RENAME:
                self.tenant.fleet.rename(device, f"{device.name.split('-')[0]}-{act.number}-new")
            case Deed.SWAP_NAMES if self._alike(device, other):
                first, second = device.name, other.name
                self.tenant.fleet.rename(device, second)
                self.tenant.fleet.rename(other, first)
            case Deed.REENROL:
                self._enrol_anew(device)
            case Deed.SWITCH_OFF | Deed.SWITCH_ON:
                self.tenant.fleet.switch(device, on=act.deed is Deed.SWITCH_ON, now=self.now())
            case Deed.START_INSTANCE if len(self.hosts) < 4:
                self.start_instance()
            case Deed.KILL_INSTANCE if host is not None:
                self.kill(host)
            case Deed.DRAIN_INSTANCE if host is not None:
                await self._scale_in(host)

    @property
    def _plans(self) -> dict[RequestId, str]:
        """The digest of every request that is asked for on this day, as far as the plan alone can tell it."""
        found: dict[RequestId, str] = {}
        for text in self._texts:
            request = parse(text)
            if isinstance(request, ResetRequest):
                named = {selector.reference().value for selector in request.devices}
                devices = [one for one in self.tenant.fleet.devices if self._named(one, named)]
                ids = [ManagedDeviceId(one.intune.id) for one in devices if one.intune is not None]
                found[request.id] = plan_digest(request.id, request.header_digest, ids)
        return found or {RequestId("R1"): "1" * 64}

    def _named(self, device: Device, names: Collection[str]) -> bool:
        """Whether one of these names leads to a device that may be reset."""
        identity = device.records.autopilot_identity or {}
        good = self.plan.names.get(device.serial, GOOD) == GOOD
        return good and not {device.serial, device.name, str(identity.get("groupTag"))}.isdisjoint(names)

    @property
    def _texts(self) -> list[str]:
        plain = {"encoding": Encoding.PLAIN}
        return [self.plan.scenario.message(one.model_copy(update=plain)) for one in self.plan.scenario.requests]

    def _alike(self, one: Device, other: Device) -> bool:
        """Whether names say the same of both: what stands in a device's way goes by its name too."""
        names = self.plan.names
        return names.get(one.serial, GOOD) == names.get(other.serial, GOOD)

    async def _replicas(self) -> None:
        """Copies of Graph answer in turn, some of them stale: what was seen may go back in time."""
        stale = self.plan.scenario.tenant.quirks.stale_reads
        while stale and not self.calm():
            await asyncio.sleep(self.people.uniform(20, 120))
            shown = self.people.choice((timedelta(), stale))
            self.tenant.change_quirks(self.tenant.quirks.model_copy(update={"stale_reads": shown}))

    # --- the whole

    async def play(self) -> Outcome:
        """Play the plan, wait for the end of everything, and check what is left."""
        for table, text in zip(self.plan.scenario.requests, self._texts, strict=True):
            self._errand(self._ask(table.at, text))
        self._errand(self._replicas())
        for at, text in self.plan.extra:
            self._errand(self._ask(at, text))
        for act in self.plan.acts:
            self._errand(self._act(act))
        limit = START + self.plan.calm_at + BOUND
        await asyncio.sleep(self.plan.calm_at.total_seconds())
        self._note("the trouble is over")
        self.tenant.faults.clear()
        self.tenant.change_quirks(self.tenant.quirks.model_copy(update=dict.fromkeys(CHANCES, 0.0)))
        while not self._settled() and self.now() < limit:
            self._changed.clear()
            try:
                async with asyncio.timeout(3600):
                    await self._changed.wait()
            except TimeoutError:
                continue
        for task in self._errands:
            self.rules.broken(f"something is still on its way: {task.get_coro()!r}")
        took = self.now() - START
        store, accepted = Store(self.table), dict[str, bool]()
        for key in self.table.keys("request|"):
            status = await request_status(store, RequestId(key.removeprefix("request|")))
            accepted[key.removeprefix("request|")] = status is not None and status.ended
        self.rules.end(accepted, self._asked, self._waiting(), self.now(), quiet=self._quiet)
        if self.plan.forgets:
            await self._long_after()
        return Outcome(
            plan=self.plan,
            faults=self.rules.faults,
            took=took,
            injected=self.injected,
            ends=self.rules.ended,
            resets=sum(len(sent.taken) for sent in self.rules.orders.values()),
            log=self.log,
            table={key: dict(values) for key, values in self.table.contents().items()},
            queues={name: self.queues.waiting(name) for name in self.queues.names()},
        )

    async def _long_after(self) -> None:
        """Nothing happens but that retention runs, in trouble at first; then nothing may be left."""
        kept = self.policy.retention + max(timedelta(), self.rules.kept.last - self.now())
        for again, time in ((False, kept - DAY), (True, 2 * DAY), (False, 4 * DAY)):
            self._again = again
            await asyncio.sleep(time.total_seconds())
        self.rules.kept.left()

    def _waiting(self) -> dict[str, int]:
        names = [name for queue in TRIGGERING for name in (queue, queue + POISON)]
        return {name: len(self.queues.waiting(name)) for name in names}

    def _settled(self) -> bool:
        left = any(self.table.first(prefix) for prefix in ("due|", "deliver|", "reset|", "approval|"))
        shut = any(self.now() < one.closes and not self._is_open(one) for one in self.plan.openings)
        return not left and not shut and not self._errands and not any(self._waiting().values())


@dataclass
class _Watched(httpx.AsyncBaseTransport):
    """Says which resets Intune took by a call, and under which order."""

    way: httpx.AsyncBaseTransport
    day: Day

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        content = await request.aread()
        if request.method != "POST" or b"/wipe" not in content:
            return await self.way.handle_async_request(request)
        orders = dict(_orders(json.loads(content)))
        fleet: Fleet = self.day.tenant.fleet
        devices = {name: device for name in orders if (device := fleet.find(name)) is not None}
        before = {name: len(device.wipes_received) for name, device in devices.items()}

        def look() -> None:
            for name, device in devices.items():
                if len(device.wipes_received) > before[name]:
                    before[name] = len(device.wipes_received)
                    self.day.sees_wipe(device, orders[name])

        try:
            return await self.way.handle_async_request(request)
        finally:
            look()


def _orders(batch: Json) -> list[tuple[str, str]]:
    """The devices of a batch of wipes, each with the id of its order."""
    items = cast("list[Json]", batch["requests"])
    return [
        (str(item["url"]).split("/")[-2].lower(), str(cast("Json", item["headers"])["client-request-id"]))
        for item in items
        if str(item["url"]).endswith("/wipe")
    ]


def _time(key: str) -> datetime:
    """The time in the key of a row that is ordered by it."""
    return datetime.strptime(key.split("|")[1], "%Y%m%dT%H%M%S.%f%z")


def _single(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [found for one in error.exceptions for found in _single(one)]
    return [error]
