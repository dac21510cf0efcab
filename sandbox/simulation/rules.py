"""What must hold on every day, however bad: checked at every transaction, at every reset that Intune takes, at the end.

Resets are counted in the simulated tenant, never in our records; what stops a send is looked at in the table as it is
in the very transaction that commits the send, and judged here anew: never by the code that is judged.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import combinations
from typing import cast

from sandbox.memory import MemoryTable
from sandbox.simulation.kept import Kept, concerned
from sandbox.simulation.openings import Openings
from sandbox.simulation.plan import BOSS, GOOD
from sandbox.tenant.devices import Device, Json, ReceivedWipe, ResetKind
from sandbox.tenant.graph import Tenant
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.notices import Notice, notice_id
from shared.domain.policy import Policy
from shared.domain.reset import Event, EventKind, Reset
from shared.domain.states import NOTHING_SENT, TERMINAL, TRANSITIONS, State
from shared.pipeline.notify import envelope
from shared.state import rows
from shared.state.rows import ClosedRecord, OutboxRecord, RequestRecord, SentRecord
from shared.state.table import Change, ChangeKind

JUST = timedelta(minutes=3)
"""A send may have been on its way when its request came to need approval: the cap of a day without one holds all the
same, and what needs approval from the start is held before."""

APART = timedelta(minutes=1)
"""Queues may show messages in another order than they were sent in, if these are sent soon after each other."""

TURN = timedelta(minutes=45)
"""So long a device may wait for its turn where nothing is in the way: the longest wait after an order that was not
taken is 16 minutes, and a message may be hidden for 10 and more."""

MOST_TELLINGS = 20
"""A notice about a device comes again only where its own way failed, or that of the message that carried it: more often
than that, the faults of others repeat it."""

AGREE = timedelta(seconds=1)
"""Clocks that differ by no more agree."""

type Turn = tuple[ManagedDeviceId, RequestId]
"""A device's turnaround: the device, and the request that asked for it."""


@dataclass
class Sent:
    """An order that was committed to be sent."""

    turn: Turn
    counted_at: datetime
    """By the clock of whoever committed it, as the caps count it."""
    at: datetime
    approved: bool
    taken: list[datetime] = field(default_factory=list)
    """When Intune took it; true times."""


@dataclass
class Rules:
    """Watches one day."""

    policy: Policy
    tenant: Tenant
    table: MemoryTable
    names: Mapping[str, str]
    """By serial number, what stands in the way of the device; see `plan.Plan`."""
    fleet: int
    """Devices that Intune manages."""
    skew: timedelta
    """By how much any instance's clock is off at most."""
    quiet_at: datetime
    """When the last trouble ends."""
    said: Callable[[str, str], None] = lambda *_: None
    """Told of every rule that does not hold, and of what it concerns."""
    openings: Openings = field(default_factory=Openings)
    faults: list[tuple[str, str]] = field(default_factory=list)
    """What did not hold, and what it concerns: a device (its Intune id), a request (`request:ID`) or nothing ("")."""
    states: dict[Turn, State] = field(default_factory=dict)
    """Where each turnaround stands, by its history alone."""
    orders: dict[str, Sent] = field(default_factory=dict)
    _by_turn: defaultdict[Turn, list[Sent]] = field(default_factory=lambda: defaultdict(list))
    _taken: Counter[str] = field(default_factory=Counter)
    """Orders that Intune took, by the day and the hour at which we counted them."""
    promised: dict[str, Notice] = field(default_factory=dict)
    """By id, the notices that were committed."""
    writes_late: bool = False
    """Whether an order was held up on its way to Graph."""
    delivered: Counter[str] = field(default_factory=Counter)
    ended: Counter[State] = field(default_factory=Counter)
    _needed_at: dict[RequestId, datetime] = field(default_factory=dict)
    _seqs: dict[Turn, int] = field(default_factory=dict)
    _by_device: defaultdict[str, list[datetime]] = field(default_factory=lambda: defaultdict(list))
    _answered: set[str] = field(default_factory=set)
    _contents: dict[str, str] = field(default_factory=dict)
    _set_aside: dict[str, str] = field(default_factory=dict)
    """By the start of its SHA-256, the queue of each message that was set aside."""
    _since: dict[Turn, datetime] = field(default_factory=dict)
    _tales: defaultdict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    """By the subject of its notices, what happened in a turnaround that is to be told, in order: number and state."""
    _heard: defaultdict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """What its notices told, by what orders them, in the order in which they arrived."""
    _promised_at: dict[tuple[str, str], datetime] = field(default_factory=dict)
    _abouts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kept = Kept(self.table, self.policy, self.skew, self.broken)

    def broken(self, rule: str, about: str = "") -> None:
        """Note that a rule did not hold."""
        self.faults.append((rule, about))
        self.said(rule, about)

    # --- at every transaction

    def committed(self, changes: Sequence[Change], events: Sequence[Event], now: datetime) -> None:
        """Check a transaction, with the history that it adds, at the moment at which it took effect."""
        sending: list[Event] = []
        turns: dict[Turn, State] = {}
        for event in events:
            if event.device is not None and event.request is not None and event.to_state is not None:
                self._fold(event, now)
                turns[event.device, event.request] = event.to_state
            needed = event.request if event.kind is EventKind.APPROVAL_NEEDED else None
            if needed is not None and any(request == needed for _, request in self.states):
                self._needed_at[needed] = now
            if event.to_state is State.SENDING and event.from_state is State.CLEARED:
                sending.append(event)
            if event.told and (event.device or event.reference):
                subject, number = f"{event.request}/{event.device or event.reference}", f"{event.seq:06}"
                self._tales[subject].append((number, str(event.to_state)))
                self._abouts[subject] = concerned(event)
                self._promised_at[subject, number] = now
        for turn, state in turns.items():
            self._agrees(turn, state)
        for change in changes:
            if change.key.startswith("event|") and change.kind is ChangeKind.REPLACE:
                self.broken(f"history was changed: {change.key}")
            if change.key.startswith("deliver|") and change.kind is not ChangeKind.DELETE:
                self._promise(change)
        self.kept.committed(changes, events, now)
        for rule, request in self.openings.committed(changes, self.table, self.skew, now):
            self.broken(rule, request)
        if sending:
            self._sends(sending, changes, now)

    def _fold(self, event: Event, now: datetime) -> None:
        """History alone must lead from state to state."""
        turn = (cast("ManagedDeviceId", event.device), cast("RequestId", event.request))
        before, to = self.states.get(turn), cast("State", event.to_state)
        if event.kind is EventKind.REFUSED and before is None:
            self.states[turn] = to  # it never had a turnaround of its own
            return
        if event.kind is EventKind.COMMAND_REFUSED and before in TERMINAL:
            return
        if event.seq != self._seqs.get(turn, -1) + 1:
            self.broken(f"history has a gap before event {event.seq} of {turn}", turn[0])
        if (before or State.RECEIVED) is not event.from_state:
            self.broken(f"history goes on from {event.from_state}, and had come to {before}: {turn}", turn[0])
        if event.from_state is not to and (event.from_state, to) not in TRANSITIONS:
            self.broken(f"no transition leads from {event.from_state} to {to}: {turn}", turn[0])
        self._seqs[turn], self.states[turn] = event.seq, to
        if before is not to:
            self._waited(turn, before, now)
            self._since[turn] = now

    def _waited(self, turn: Turn, state: State | None, now: datetime) -> None:
        """Once all trouble has ended, nothing waits for longer than it has to."""
        began = max(self._since.get(turn, now), self.quiet_at)
        if state is State.CLEARED and now > began + TURN:
            self.broken(f"its turn did not come in {now - began}: {turn}", turn[0])
        if state in NOTHING_SENT:
            record = rows.adapter(RequestRecord).validate_json(self._row(rows.request_key(turn[1])) or "")
            start = max(record.received_at, record.not_before or record.received_at)
            if now > max(began, start + self.policy.request_valid_for) + TURN:
                self.broken(f"it waited although its request was too old: {turn}", turn[0])

    def _agrees(self, turn: Turn, state: State) -> None:
        """The rows must say what history says."""
        device, request = turn
        known = self._row(rows.reset_key(device))
        reset = rows.adapter(Reset).validate_json(known) if known else None
        mine = reset if reset is not None and reset.request == request else None
        if state in TERMINAL:
            self.ended[state] += 1
            kept = self._row(rows.closed_key(request, device))
            end = rows.adapter(ClosedRecord).validate_json(kept).event.to_state if kept else None
            if mine is not None or end is not state:
                self.broken(f"history ends {state}, and the rows say {mine and mine.state}, {end}", device)
        elif mine is None or mine.state is not state or mine.seq != self._seqs.get(turn, -1) + 1:
            self.broken(f"history says {state}, and the row {mine and (mine.state, mine.seq)}: {turn}", device)

    def _row(self, key: str) -> str | None:
        found = self.table.row(key)
        return None if found is None else str(found.values["doc"])

    def _promise(self, change: Change) -> None:
        record = rows.adapter(OutboxRecord).validate_json(str(change.values["doc"]))
        if record.queue == "reset-notices":
            promised = rows.adapter(Notice).validate_json(record.item)
            self.promised[promised.id] = promised

    def _sends(self, sending: Sequence[Event], changes: Sequence[Change], now: datetime) -> None:
        """Nothing that stops a send may stand in the table when the send is committed."""
        counted = [change for change in changes if change.key.startswith("sent|")]
        if len(counted) != 1 or not any(change.key == rows.ORDERS for change in changes):
            self.broken("a send was committed without what the caps count")
            return
        at = rows.adapter(SentRecord).validate_json(str(counted[0].values["doc"])).at
        halted = self._row(rows.HALT) is not None
        for event in sending:
            device, request = cast("ManagedDeviceId", event.device), cast("RequestId", event.request)
            reset = rows.adapter(Reset).validate_json(self._row(rows.reset_key(device)) or "")
            record = rows.adapter(RequestRecord).validate_json(self._row(rows.request_key(request)) or "")
            if halted:
                self.broken("a send was committed under the halt", device)
            for fault in self._stops(reset, record, now):
                self.broken(f"a send was committed although {fault}", device)
            approved = record.terms is not None and record.terms.approval is not None
            sent = Sent((device, request), at, now, approved)
            self.orders[event.evidence["order"]] = sent
            self._by_turn[sent.turn].append(sent)

    def _stops(self, reset: Reset, record: RequestRecord, now: datetime) -> list[str]:
        terms, found = record.terms, list[str]()
        latest, earliest = now - self.skew, now + self.skew
        if terms is None:
            return ["its request has no terms"]
        just = record.id in self._needed_at and now <= self._needed_at[record.id] + JUST
        if terms.needs and not just:
            approval = terms.approval
            if approval is None or approval.by != BOSS or record.requester == BOSS or approval.digest != terms.digest:
                found.append("nobody who may has approved its request as it is")
            elif latest >= max(approval.at, record.not_before or approval.at) + self.policy.approval_valid_for:
                found.append("its approval is too old")
        if reset.wave > terms.wave:
            found.append("its wave has not begun")
        if reset.not_before is not None and earliest < reset.not_before:
            found.append("its time has not come")
        if reset.expires_at is not None and latest >= reset.expires_at:
            found.append("its request is too old")
        return found

    def _caps(self, sent: Sent) -> None:
        """What Intune took must stay within the caps, by the time at which we counted it."""
        policy, day, hour = self.policy, f"{sent.counted_at:%Y-%m-%d}", f"{sent.counted_at:%Y-%m-%d %H}"
        self._taken.update([day, hour] if sent.approved else [day, hour, f"{day} unapproved"])
        share = max(policy.fleet_share_floor, int(self.fleet * policy.fleet_share_per_day))
        a_day = min(policy.resets_per_day, share if policy.fleet_share_per_day < 1 else policy.resets_per_day)
        caps = (
            ("hour", self._taken[hour], policy.resets_per_hour),
            ("day", self._taken[day], a_day),
            ("day without a second person", self._taken[f"{day} unapproved"], policy.unapproved_per_day),
        )
        for name, count, cap in caps:
            if count > cap:
                self.broken(f"{count} resets took effect in one {name}, of {cap}")

    # --- at every reset that Intune takes

    def taken(self, device: Device, wipe: ReceivedWipe, order: str | None, now: datetime) -> None:
        """Check a reset at the moment at which Intune took it."""
        name = wipe.intune_id
        sent = self.orders.get(order or "")
        if ResetKind.of(wipe.body) is not ResetKind.AUTOPILOT_RESET:
            self.broken(f"something else than an Autopilot Reset was sent: {dict(wipe.body)}", name)
        if self.names.get(device.serial, GOOD) != GOOD:
            self.broken(f"a device was reset that never may be: {device.name}", name)
        if sent is None or sent.turn[0] != name:
            self.broken("a reset was sent that was not committed before", name)
            return
        if not sent.taken:
            self._caps(sent)
        sent.taken.append(now)
        if sum(len(other.taken) for other in self._by_turn[sent.turn]) > 1:
            self.broken(f"a second reset of one turnaround took effect: {sent.turn}", name)
        lately = self._by_device[device.serial]
        lately.append(now)
        window = [at for at in lately if at > now - self.policy.device_window + self.skew]
        if len(window) > self.policy.resets_per_device:
            self.broken(f"{len(window)} resets of one device, of {self.policy.resets_per_device}", name)

    def ready(self, event: Event, device: Device, now: datetime) -> None:
        """Check a device at the moment at which it is called ready."""
        turn = (cast("ManagedDeviceId", event.device), cast("RequestId", event.request))
        taken = [at for sent in self._by_turn[turn] for at in sent.taken]
        truth = device.truth(now)
        done = truth.reset_done_at
        if not taken or done is None or done < min(taken) or not truth.truly_ready:
            self.broken(f"it was called ready, and is {truth.activity}, last reset at {done}", str(event.device))

    # --- at every delivery

    def told(self, body: str) -> None:
        """Check a notice that arrived: it must have been promised, and say the same whenever it is told."""
        given: Json = json.loads(body)
        about, promised = str(given["id"]), self.promised.get(str(given["id"]))
        self.delivered[about] += 1
        self._answered.add(str(cast("Json", given["data"])["requestId"]))
        if promised is None:
            self.broken(f"told, and never promised: {about}")
        if promised is not None and _words(body) != _words(envelope(promised)):
            self.broken(f"told with another content than promised: {about}")
        if self._contents.setdefault(about, _words(body)) != _words(body):
            self.broken(f"told again with another content: {about}")
        if "device" in (data := cast("Json", given["data"])):
            if self.delivered[about] == MOST_TELLINGS:
                self.broken(f"told {MOST_TELLINGS} times: {about}", str(cast("Json", data["device"]).get("intuneId")))
            self._heard[str(given["subject"])].setdefault(str(given.get("sequence")), str(data["state"]))

    def set_aside(self, queue: str, body: str) -> None:
        """Note a message that failed too often."""
        self._set_aside[hashlib.sha256(body.encode()).hexdigest()[:24]] = queue
        self.openings.came.update(request for request in self.openings.opened if f'"{request}"' in body)

    # --- at the end

    def end(
        self, accepted: Mapping[str, bool], asked: Sequence[str], left: Mapping[str, int], now: datetime, *, quiet: bool
    ) -> None:
        """Check what is left. `accepted`: by request id, whether it has ended; `asked`: the ids of all requests that
        were sent; `left`: messages by queue; `quiet`: nothing has gone wrong with table, queues and instances."""
        for turn, state in self.states.items():
            if state not in TERMINAL:
                self.broken(f"it never ends, and is {state}: {turn}", turn[0])
        for request, over in accepted.items():
            if not over:
                self.broken(f"the request {request} never ends", f"request:{request}")
        for request in dict.fromkeys(asked):
            if request not in self._answered:
                self.broken(f"the request {request} was never answered", f"request:{request}")
        for prefix in ("due|", "deliver|", "reset|", "approval|"):
            for key in self.table.keys(prefix):
                self.broken(f"a row is left over: {key}", key.split("|")[1] if prefix == "reset|" else "")
        for queue, count in left.items():
            if count:
                self.broken(f"{count} messages are left over on {queue}")
        poisoned = " ".join(str(one.reason) for one in self.kept.events.values() if one.kind is EventKind.POISONED)
        for digest, queue in self._set_aside.items():
            if digest not in poisoned and queue != "reset-notices":  # those are promises, which are looked at below
                self.broken(f"a message of {queue} was set aside, and nobody was told: {digest}")
        for event in self.kept.events.values():
            if event.told and not self.delivered[notice_id(event)]:
                self.broken(f"promised, and never told: {notice_id(event)}", concerned(event))
        for subject, tale in self._tales.items():
            heard = list(self._heard[subject].items())
            if sorted(heard) != tale:
                self.broken(f"the notices of {subject} tell {sorted(heard)}, and it was {tale}", self._abouts[subject])
            elif quiet and any(self._overtook(subject, one, other) for (one, _), (other, _) in combinations(heard, 2)):
                self.broken(f"the notices of {subject} came in the order {heard} on a quiet day", self._abouts[subject])
        for rule, about in self.openings.ended():
            self.broken(rule, about)
        orders = {(sent.counted_at, str(sent.turn[0])): bool(sent.taken) for sent in self.orders.values()}
        self.kept.orphans(orders, now)
        # Calls are booked ahead by these clocks, and for when they are sent.
        if self.tenant.limits.writes.refused and self.skew <= AGREE and not self.writes_late:
            self.broken(f"Graph's limit of writes was passed {self.tenant.limits.writes.refused} times")

    def _overtook(self, subject: str, first: str, second: str) -> bool:
        """Whether of two notices the one that came second ought to have come first: they were promised together, or so
        far apart that no queue shuffles them."""
        apart = self._promised_at[subject, first] - self._promised_at[subject, second]
        return first > second and (not apart or apart > APART)


def _words(body: str) -> str:
    """A notice as it came; without its times, where it is about a message: the same fault found again is the same, at
    any time."""
    given: Json = json.loads(body)
    if not str(given["type"]).startswith(("io.turnaround.request.", "io.turnaround.message.")):
        return body
    given = {**given, "time": "", "data": {**cast("Json", given["data"]), "at": ""}}
    return json.dumps(given, sort_keys=True)
