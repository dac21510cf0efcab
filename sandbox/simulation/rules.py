"""What must hold on every day, however bad: checked at every transaction, at every reset that Intune takes, at the end.

Resets are counted in the simulated tenant, never in our records; what stops a send is looked at in the table as it is
in the very transaction that commits the send, and judged here anew: never by the code that is judged.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import cast

from sandbox.memory import MemoryTable
from sandbox.simulation.plan import BOSS, GOOD
from sandbox.tenant.devices import Device, Json, ReceivedWipe, ResetKind
from sandbox.tenant.graph import Tenant
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.notices import Notice, notice_id
from shared.domain.policy import Policy
from shared.domain.reset import Event, EventKind, Reset
from shared.domain.states import TERMINAL, TRANSITIONS, State
from shared.pipeline.notify import envelope
from shared.state import rows
from shared.state.rows import ClosedRecord, OutboxRecord, RequestRecord, SentRecord
from shared.state.table import Change, ChangeKind

JUST = timedelta(minutes=3)
"""A send may have been on its way when its request came to need approval: the cap of a day without one holds all the
same, and what needs approval from the start is held before."""

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
    """Watches one day. `faults` has what did not hold, each with the device concerned or "" """

    policy: Policy
    tenant: Tenant
    table: MemoryTable
    names: Mapping[str, str]
    """By serial number, what stands in the way of the device; see `plan.Plan`."""
    fleet: int
    """Devices that Intune manages."""
    skew: timedelta
    """By how much any instance's clock is off at most."""
    faults: list[tuple[str, str]] = field(default_factory=list)
    states: dict[Turn, State] = field(default_factory=dict)
    """Where each turnaround stands, by its history alone."""
    orders: dict[str, Sent] = field(default_factory=dict)
    promised: dict[str, Notice] = field(default_factory=dict)
    """By id, the notices that were committed."""
    delivered: Counter[str] = field(default_factory=Counter)
    ended: Counter[State] = field(default_factory=Counter)
    _needed_at: dict[RequestId, datetime] = field(default_factory=dict)
    _seqs: dict[Turn, int] = field(default_factory=dict)
    _by_device: defaultdict[str, list[datetime]] = field(default_factory=lambda: defaultdict(list))
    _answered: set[str] = field(default_factory=set)
    _contents: dict[str, str] = field(default_factory=dict)

    def broken(self, rule: str, device: str = "") -> None:
        """Note that a rule did not hold."""
        self.faults.append((rule, device))

    # --- at every transaction

    def committed(self, changes: Sequence[Change], now: datetime) -> None:
        """Check a transaction at the moment at which it took effect."""
        events = [
            rows.adapter(Event).validate_json(str(change.values["doc"]))
            for change in changes
            if change.key.startswith("event|")
        ]
        sending: list[Event] = []
        turns: dict[Turn, State] = {}
        for event in events:
            if event.device is not None and event.request is not None and event.to_state is not None:
                self._fold(event)
                turns[event.device, event.request] = event.to_state
            began = any(event.request == request for _, request in self.states)
            if event.kind is EventKind.APPROVAL_NEEDED and event.request is not None and began:
                self._needed_at[event.request] = now
            if event.to_state is State.SENDING and event.from_state is State.CLEARED:
                sending.append(event)
        for turn, state in turns.items():
            self._agrees(turn, state)
        for change in changes:
            if change.key.startswith("event|") and change.kind is ChangeKind.REPLACE:
                self.broken(f"history was changed: {change.key}")
            if change.key.startswith("outbox|") and change.kind is not ChangeKind.DELETE:
                self._promise(change)
        if sending:
            self._sends(sending, changes, now)

    def _fold(self, event: Event) -> None:
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
            self.orders[event.evidence["order"]] = Sent((device, request), at, now, approved)

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

    def _caps(self, at: datetime) -> None:
        """What Intune took must stay within the caps, by the time at which we counted it."""
        orders, policy = [sent for sent in self.orders.values() if sent.taken], self.policy
        day = [sent for sent in orders if sent.counted_at.date() == at.date()]
        hour = [sent for sent in day if sent.counted_at.hour == at.hour]
        share = max(policy.fleet_share_floor, int(self.fleet * policy.fleet_share_per_day))
        a_day = min(policy.resets_per_day, share if policy.fleet_share_per_day < 1 else policy.resets_per_day)
        caps = (
            ("hour", len(hour), policy.resets_per_hour),
            ("day", len(day), a_day),
            ("day without a second person", sum(not sent.approved for sent in day), policy.unapproved_per_day),
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
        sent.taken.append(now)
        if sum(len(other.taken) for other in self.orders.values() if other.turn == sent.turn) > 1:
            self.broken(f"a second reset of one turnaround took effect: {sent.turn}", name)
        self._caps(sent.counted_at)
        lately = self._by_device[device.serial]
        lately.append(now)
        window = [at for at in lately if at > now - self.policy.device_window + self.skew]
        if len(window) > self.policy.resets_per_device:
            self.broken(f"{len(window)} resets of one device, of {self.policy.resets_per_device}", name)

    def ready(self, event: Event, device: Device, now: datetime) -> None:
        """Check a device at the moment at which it is called ready."""
        turn = (event.device, event.request)
        taken = [at for sent in self.orders.values() if sent.turn == turn for at in sent.taken]
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

    # --- at the end

    def end(self, accepted: Mapping[str, bool], asked: Sequence[str], left: Mapping[str, int]) -> None:
        """Check what is left. `accepted`: by request id, whether it has ended; `asked`: the ids of all requests that
        were sent; `left`: messages by queue."""
        for turn, state in self.states.items():
            if state not in TERMINAL:
                self.broken(f"it never ends, and is {state}: {turn}", turn[0])
        for request, over in accepted.items():
            if not over:
                self.broken(f"the request {request} never ends")
        for request in dict.fromkeys(asked):
            if request not in self._answered:
                self.broken(f"the request {request} was never answered")
        for prefix in ("due|", "outbox|", "reset|", "approval|"):
            for key in self.table.keys(prefix):
                self.broken(f"a row is left over: {key}", key.split("|")[1] if prefix == "reset|" else "")
        for queue, count in left.items():
            if count:
                self.broken(f"{count} messages are left over on {queue}")
        for event in self._history():
            if event.told and not self.delivered[notice_id(event)]:
                self.broken(f"promised, and never told: {notice_id(event)}", event.device or "")
        if self.tenant.limits.writes.refused:
            self.broken(f"Graph's limit of writes was passed {self.tenant.limits.writes.refused} times")

    def _history(self) -> list[Event]:
        return [rows.adapter(Event).validate_json(str(row["doc"])) for row in self.table.contents("event|").values()]


def _words(body: str) -> str:
    """A notice without its times, where it is about a message: the same fault found again is the same, at any time."""
    given: Json = json.loads(body)
    if str(given["type"]).startswith(("io.turnaround.request.", "io.turnaround.message.")):
        given = {**given, "time": "", "data": {**cast("Json", given["data"]), "at": ""}}
    return json.dumps(given, sort_keys=True)
