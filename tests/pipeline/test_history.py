"""History is append-only and complete (S11): seen over long runs in which everything happens, crashes too."""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache, partial
from random import Random

import pytest

from sandbox.memory import MemoryTable
from shared.domain.devices import ActionState
from shared.domain.guardrails import Orders
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.orders import AdminDecision, Answer, AnswerKind
from shared.domain.reasons import Code
from shared.domain.reset import Event, EventKind, Reset
from shared.domain.states import TERMINAL, State
from shared.domain.windows import Windows
from shared.messages.queues import CONTROL, DISPATCH, REQUESTS
from shared.pipeline.gate import gate
from shared.pipeline.poison import poison
from shared.pipeline.windows import windows
from shared.state import rows
from shared.state.rows import RequestRecord, RequestState, SentRecord
from shared.state.table import Change, ChangeKind, Row, Scalar
from tests.pipeline.fakes import Crash, Lost, Script, asking, device, device_id, lenient, rig

DEVICES = range(1, 41)
STEPS = 160
LAB = Windows.model_validate({"window": [{"name": "lab", "cron": "0 */6 * * *", "open_for": "PT3H", "group_tag": "B"}]})
POLICY = {
    "approval_above": 6,
    "unapproved_per_day": 8,
    "approvers": ["eve", "adam"],
    "wave_above": 8,
    "wave_first": 2,
    "wave_growth": 2,
    "resets_per_hour": 5,
    "resets_per_day": 14,
    "resets_per_device": 100,
    "halt_failed_min": 6,
    "request_valid_for": "P2D",
    "audit_after": "PT5M",
    "sending_for": "PT15M",
    "attention_for": "P1D",
}


@dataclass
class Watched:
    """A table that notes every transaction that took effect, with the rows as they were before it."""

    table: MemoryTable
    commits: list[list[tuple[Change, Mapping[str, Scalar] | None]]] = field(default_factory=list)

    async def get(self, key: str) -> Row | None:
        return await self.table.get(key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Row]:
        return await self.table.get_many(keys)

    def scan(
        self, first: str, before: str, where: Mapping[str, str] | None = None, limit: int | None = None
    ) -> AsyncIterator[Row]:
        return self.table.scan(first, before, where, limit)

    async def commit(self, changes: Sequence[Change]) -> None:
        contents = self.table.contents()
        was = [(change, contents.get(change.key)) for change in changes]
        await self.table.commit(changes)
        self.commits.append(was)


class Run:
    """Things happen to forty devices, chosen by a seed, for some days."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.world = rig(*map(device, DEVICES))
        self.watched = Watched(self.world.table)
        self.world.faulty.table = self.watched
        self.world.parts = replace(self.world.parts, policy=lenient(**POLICY))
        for number in DEVICES[-8:]:
            tenant = self.world.intune.devices[device_id(number)]
            assert tenant.facts.autopilot is not None
            tenant.facts = replace(tenant.facts, autopilot=replace(tenant.facts.autopilot, group_tag="B"))
        self.requests: list[str] = []

    async def whole(self) -> "Run":
        deeds = [value for name, value in vars(Run).items() if name.startswith("do_")]
        deeds += [Run.do_ask, Run.do_ask_for_many, Run.do_approve, Run.do_resume, Run.do_mend_graph]
        deeds += [Run.do_come_back] * 3
        for _ in range(STEPS):
            if self.chance.random() < 0.1:
                self.world.fail(self.chance.randrange(1, 12), took_effect=self.chance.random() < 0.5)
            await self._survive(partial(self.chance.choice(deeds), self))
            await self._survive(partial(self.world.tick, minutes=self.chance.choice((1, 2, 7, 31))))
            self.world.heal()
        return self

    async def _survive(self, deed: Callable[[], Awaitable[object]]) -> None:
        """Whatever dies comes back; its message does, after its lease."""
        try:
            await deed()
        except Crash:
            self.world.heal()
            self.world.clock.forward(seconds=31)

    async def calm(self) -> None:
        """Nothing goes wrong any more; everything that is under way or due has its turn."""
        self.world.heal()
        await self.do_mend_graph()
        self.world.intune.script.clear()
        for _ in range(4):
            await self.world.tick(minutes=3)

    def some(self, most: int) -> list[int]:
        return self.chance.sample(DEVICES, self.chance.randint(1, most))

    async def _command(self, name: str, **fields: object) -> None:
        body = {"command": name, "by": self.chance.choice(("eve", "adam", "ann")), "why": "because"} | fields
        for _ in range(self.chance.choice((1, 1, 2))):
            await self.world.queues.send(CONTROL, json.dumps(body))

    def _request(self) -> str:
        return self.chance.choice(self.requests or ["none"])

    async def do_ask(self, most: int = 3) -> None:
        self.requests.append(f"R{len(self.requests)}")
        later = (self.world.clock.now + timedelta(hours=3)).isoformat()
        fields = self.chance.choice(({}, {}, {"notBefore": later}, {"readyBy": later}))
        body = asking(
            *self.some(most), request=self.requests[-1], requester=self.chance.choice(("ann", "bob")), **fields
        )
        for _ in range(self.chance.choice((1, 1, 2))):
            await self.world.queues.send(REQUESTS, body)

    async def do_ask_for_many(self) -> None:
        await self.do_ask(16)

    async def do_approve(self) -> None:
        for one in self.requests[-4:]:
            known = await self.world.store.request(RequestId(one))
            if known is not None and known.record.terms is not None:
                name = self.chance.choice(("approve", "approve", "approve", "decline"))
                await self._command(name, requestId=one, digest=known.record.terms.digest)

    async def do_cancel(self) -> None:
        await self._command("cancel", requestId=self._request())

    async def do_retry(self) -> None:
        await self._command("retry", requestId=self._request())

    async def do_halt(self) -> None:
        await self._command("halt")

    async def do_resume(self) -> None:
        await self._command("resume")

    async def do_send_nonsense(self) -> None:
        await self.world.queues.send(REQUESTS, '{"requestId": "R0", "devices": 5}')
        await self.world.queues.send(REQUESTS, '{"command": "resume"}')
        await poison(self.world.parts, DISPATCH, "nonsense")

    async def do_open_windows(self) -> None:
        await windows(self.world.parts, LAB)

    async def do_script_trouble(self) -> None:
        for number in self.some(12):
            code = f"code-{self.world.clock.now:%H%M%S}-{number}"
            self.world.intune.decisions[code] = self.chance.choice(list(AdminDecision))
            trouble: tuple[Script, ...] = (
                Lost(arrived=True),
                Lost(arrived=False),
                Answer(AnswerKind.THROTTLED),
                Answer(AnswerKind.NOT_SENT),
                Answer(AnswerKind.FORBIDDEN),
                Answer(AnswerKind.DAILY_LIMIT),
                *[Answer(AnswerKind.APPROVAL_REQUIRED, approval_code=code)] * 3,
            )
            self.world.intune.script[device_id(number)].append(self.chance.choice(trouble))

    async def do_break_graph(self) -> None:
        self.world.intune.down = set(self.chance.sample(("find", "facts", "managed", "look", "admin_decisions"), 2))
        self.world.intune.sync_answer = Answer(AnswerKind.THROTTLED)

    async def do_mend_graph(self) -> None:
        self.world.intune.down = set()
        self.world.intune.sync_answer = Answer(AnswerKind.ACCEPTED)

    async def do_come_back(self) -> None:
        """Some devices take what waits for them, and come back or fail."""
        flying = [found.record async for found in self.world.store.in_flight(state=State.TRIGGERED.value)]
        self.world.clock.forward(minutes=3)
        for reset in flying:
            if self.world.intune.devices[reset.device].actions and self.chance.random() < 0.8:
                failed = self.chance.random() < 0.2
                self.world.intune.check_in(reset.device, ActionState.FAILED if failed else ActionState.ACTIVE)
        await self.world.tick(minutes=6)
        self.world.clock.forward(minutes=34)
        for reset in flying:
            if self.world.intune.devices[reset.device].actions[-1].state is ActionState.ACTIVE:
                self.world.intune.come_back(reset.device)
        await self.world.tick(minutes=1)
        self.world.clock.forward(minutes=3)
        for reset in flying:
            self.world.intune.check_in(reset.device)

    async def do_wait(self) -> None:
        for _ in range(6):
            await self.world.tick(hours=1)
        for number in DEVICES:
            self.world.intune.check_in(device_id(number))


@cache
def run_of(seed: int) -> Run:
    """One run to its calm end; made once."""

    async def all_of_it() -> Run:
        run = await Run(seed).whole()
        await run.calm()
        return run

    return asyncio.run(all_of_it())


SEEDS = range(1, 4)
seeds = pytest.mark.parametrize("seed", SEEDS)


def read[T](kind: type[T], run: Run, first: str) -> list[T]:
    """The records in the rows whose keys begin so."""
    return [rows.adapter(kind).validate_json(str(row["doc"])) for row in run.world.table.contents(first).values()]


def events(run: Run) -> list[Event]:
    return read(Event, run, "event|")


def test_s11_the_runs_of_these_tests_see_all_that_can_happen() -> None:
    """Else what they show is little."""
    seen = [event for seed in SEEDS for event in events(run_of(seed))]
    assert set(State) - {event.to_state for event in seen} == {State.RECEIVED}
    assert set(EventKind) - {event.kind for event in seen} <= {EventKind.NOT_SILENT}
    codes = {event.reason.code for event in seen if event.reason is not None}
    assert codes >= {Code.HALTED, Code.APPROVAL_NEEDED, Code.WAITS_FOR_WAVE, Code.WAVE_FAILED, Code.HOURLY_LIMIT}
    assert codes >= {Code.DAILY_LIMIT, Code.NOT_YET, Code.APPROVAL_REFUSED, Code.ADMIN_APPROVAL_REQUIRED}


# --- history


@seeds
def test_s11_no_entry_is_ever_changed_or_deleted(seed: int) -> None:
    for commit in run_of(seed).watched.commits:
        for change, was in commit:
            if change.key.startswith("event|"):
                assert change.kind in (ChangeKind.INSERT, ChangeKind.PUT), change.key
                assert was is None or was == change.values, change.key


@seeds
def test_s11_every_change_of_a_device_is_committed_with_its_entry(seed: int) -> None:
    changed = 0
    for commit in run_of(seed).watched.commits:
        written = [change.values for change, _ in commit if change.key.startswith("event|")]
        entries = {
            (one.device, one.to_state) for one in (rows.adapter(Event).validate_json(str(v["doc"])) for v in written)
        }
        for change, was in commit:
            if not change.key.startswith("reset|"):
                continue
            device_ = ManagedDeviceId(change.key.removeprefix("reset|"))
            if change.kind is ChangeKind.DELETE:
                changed += 1
                assert any((device_, end) in entries for end in TERMINAL)
            elif was is None or was["state"] != change.values["state"]:
                changed += 1
                assert (device_, State(str(change.values["state"]))) in entries
    assert changed > 200


@seeds
def test_s11_what_stops_or_frees_requests_is_committed_with_its_entry(seed: int) -> None:
    for commit in run_of(seed).watched.commits:
        kinds = {
            json.loads(str(change.values["doc"]))["kind"] for change, _ in commit if change.key.startswith("event|")
        }
        for change, was in commit:
            if change.key == rows.HALT and change.kind is ChangeKind.PUT:
                assert EventKind.HALTED in kinds
            if not change.key.startswith("request|") or was is None:
                continue
            before, after = (rows.adapter(RequestRecord).validate_json(str(one["doc"])) for one in (was, change.values))
            if before.state is not RequestState.REFUSED and after.state is RequestState.REFUSED:
                assert EventKind.REFUSED in kinds
            if before.terms is None or after.terms is None:
                continue
            for kind, happened in (
                (EventKind.APPROVED, after.terms.approval not in (None, before.terms.approval)),
                (EventKind.DECLINED, after.terms.declined != before.terms.declined),
                (EventKind.WAVE_OPENED, after.terms.wave > before.terms.wave),
                (EventKind.WAVES_STOPPED, after.terms.stopped != before.terms.stopped),
                (EventKind.APPROVAL_NEEDED, after.terms.needs != before.terms.needs),
            ):
                assert not happened or kind in kinds, kind


@seeds
def test_s11_a_turnarounds_entries_are_numbered_without_gap(seed: int) -> None:
    run = run_of(seed)
    flying = {reset.device: reset for reset in read(Reset, run, "reset|")}
    numbers: dict[tuple[ManagedDeviceId, RequestId], list[int]] = defaultdict(list)
    for event in events(run):
        if event.device is not None and event.request is not None and event.from_state is not None:
            numbers[event.device, event.request].append(event.seq)
    for (device_, request), found in numbers.items():
        assert found == list(range(len(found)))
        if device_ in flying and flying[device_].request == request:
            assert flying[device_].seq == len(found)


@seeds
def test_s11_every_order_that_went_out_is_in_the_history_by_its_id_with_who_asked(seed: int) -> None:
    run = run_of(seed)
    ordered = [event for event in events(run) if event.kind is EventKind.MOVED and event.to_state is State.SENDING]
    noted = {event.evidence["order"] for event in ordered}
    sent = {order.id for batch in run.world.intune.batches for order in batch}
    assert sent <= noted
    assert len(sent) > 20
    asked = {record.id: record.requester for record in read(RequestRecord, run, "request|")}
    assert all(event.request is not None and asked[event.request] for event in ordered)


# --- what must hold all the time, whatever happens


@seeds
def test_s13_no_turnaround_resets_its_device_twice(seed: int) -> None:
    run = run_of(seed)
    sent: dict[ManagedDeviceId, list[tuple[datetime, RequestId | None]]] = defaultdict(list)
    for event in events(run):
        if event.device is not None and event.to_state is State.SENDING and event.from_state is not State.SENDING:
            sent[event.device].append((event.at, event.request))
    for one in run.world.intune.devices.values():
        arrived = Counter(max(order for order in sent[one.id] if order[0] <= at)[1] for at in one.wipes)
        assert set(arrived.values()) <= {1}, one.id


@seeds
def test_s6_no_send_is_committed_between_a_halt_and_its_resume(seed: int) -> None:
    halted, sends = False, 0
    for commit in run_of(seed).watched.commits:
        for change, was in commit:
            if change.key == rows.HALT:
                halted = change.kind is ChangeKind.PUT
            elif change.key.startswith("sent|") and was is None:
                sends += 1
                assert not halted
    assert sends > 10


def test_s4_no_count_ever_passes_its_cap() -> None:
    most = Counter[str]()
    for commit in (commit for seed in SEEDS for commit in run_of(seed).watched.commits):
        for change in (change for change, _ in commit if change.key == rows.ORDERS):
            orders = rows.adapter(Orders).validate_json(str(change.values["doc"]))
            counts = {"hour": orders.hours, "day": orders.days, "unapproved": orders.unapproved}
            most |= Counter({name: max(counted.values(), default=0) for name, counted in counts.items()})
    policy = lenient(**POLICY)
    caps = {"hour": policy.resets_per_hour, "day": policy.resets_per_day, "unapproved": policy.unapproved_per_day}
    assert most == caps, "each is reached, none is passed"


@seeds
def test_s4_what_is_counted_is_what_may_have_been_carried_out(seed: int) -> None:
    run = run_of(seed)
    noted = Counter(f"{record.at:%Y-%m-%d}" for record in read(SentRecord, run, "sent|") for _ in record.devices)
    (orders,) = read(Orders, run, rows.ORDERS)
    assert noted == Counter(orders.days)
    assert noted.total() >= sum(len(one.wipes) for one in run.world.intune.devices.values())


@seeds
def test_whoever_is_held_is_let_go_by_somebody(seed: int) -> None:
    run = run_of(seed)
    held = [reset for reset in read(Reset, run, "reset|") if reset.state is State.HELD]
    by_command = [reset for reset in held if reset.next_step is None]

    async def still_held() -> list[str]:
        open_ = await gate(run.world.parts, by_command)
        wrong = []
        for reset in by_command:
            hold = open_.hold(reset, run.world.clock.now, run.world.parts.policy)
            if hold is None or reset.reason is None or hold.reason.code is not reset.reason.code:
                wrong.append(f"{reset.device} is held by {reset.reason}, which is over")
            elif hold.reason.code is Code.WAITS_FOR_WAVE and open_.requests[reset.request].due is None:
                wrong.append(f"{reset.device} waits for a wave that nobody looks at")
        return wrong

    assert asyncio.run(still_held()) == []


@seeds
def test_every_wake_up_is_of_something_that_waits_for_it(seed: int) -> None:
    run = run_of(seed)
    due = run.world.table.keys("due|")
    waiting = [str(row["due"]) for row in run.world.table.contents("reset|").values()]
    waiting += [record.due for record in read(RequestRecord, run, "request|") if record.due]
    assert sorted(due) == sorted(waiting)
    assert run.world.table.keys("deliver|") == []


@pytest.mark.parametrize("seed", SEEDS[:2])
async def test_every_request_ends_once_people_have_done_their_part(seed: int) -> None:
    """Everything is let go or withdrawn, each device comes back, and nothing is left that wakes up, or waits."""
    run = await (Run(seed + 100)).whole()
    await run.calm()
    await run._command("resume")
    for request in run.requests:
        await run._command("cancel", requestId=request)
    for _ in range(20):
        await run.world.tick(hours=6)
        for number in DEVICES:
            run.world.intune.check_in(device_id(number))
    for _ in range(8):
        await run.world.tick(days=2)
    for first in ("reset|", "due|", "deliver|", "approval|"):
        assert run.world.table.keys(first) == [], first
