"""Which rows the table may hold: each belongs to something, none is forgotten too early, and none stays for ever."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sandbox.memory import MemoryTable
from shared.domain.guardrails import Budget
from shared.domain.policy import Policy
from shared.domain.reset import Event, EventKind
from shared.state import rows
from shared.state.rows import ClosedRecord, RequestRecord, SentRecord
from shared.state.table import Change, ChangeKind, Row

COUNTED_FOR = timedelta(hours=1)
"""How far back the halt that throws itself counts ends."""
STAYS = frozenset({"control", "budget", "window"})
"""What stays however long nothing happens: single rows, and one an opening of a lab window."""
_CONTROL = {rows.HALT, rows.RESUMED, rows.QUIET, rows.WATERMARK, rows.RETENTION}
_SINGLE = {*_CONTROL, rows.ORDERS, *map(rows.pace_key, Budget)}
_HISTORY = frozenset({"request", "part", "closed", "event"})
_COUNTED = frozenset({"sent", "ended", "approval", "window"})
_NOT_KEPT = frozenset({EventKind.REFUSED, EventKind.COMMAND_REFUSED, EventKind.POISONED, EventKind.WINDOW_OPENED})
"""What is recorded of messages of which nothing else is kept: they were refused or set aside."""


def concerned(event: Event) -> str:
    """What an event concerns: a device (its Intune id), a request (`request:ID`), or nothing ("")."""
    return event.device or (f"request:{event.request}" if event.request else "")


@dataclass
class Kept:
    """Watches the rows of one day."""

    table: MemoryTable
    policy: Policy
    skew: timedelta
    """By how much any instance's clock is off at most."""
    broken: Callable[[str, str], None]
    """Told of a rule that did not hold, and whom it concerns: see `rules.Rules.faults`."""
    events: dict[str, Event] = field(default_factory=dict)
    """The history, by key."""
    _written: dict[str, datetime] = field(default_factory=dict)
    _last: dict[str, datetime] = field(default_factory=dict)
    """By request, when it came or is to start, or when the last of its devices ended."""

    @property
    def last(self) -> datetime:
        """When the last of all requests ended, or was to start."""
        return max(self._last.values(), default=datetime.min.replace(tzinfo=UTC))

    # --- at every transaction

    def committed(self, changes: Sequence[Change], events: Sequence[Event], now: datetime) -> None:
        """Check what a transaction deletes. `events`: the history that it adds, in order."""
        history = [change.key for change in changes if change.key.startswith("event|") and change.values]
        self.events.update(zip(history, events, strict=True))
        for change in changes:
            kind, about = change.key.split("|")[:2]
            if kind not in _HISTORY and kind not in _COUNTED:
                continue
            if change.kind is ChangeKind.DELETE:
                together = {other.key for other in changes}
                if kind in _HISTORY:
                    self._forgotten(change.key, now)
                elif kind != "approval" or f"request|{about}" not in together:  # else it has served
                    self._counted_no_more(kind, change.key, now)
                self._written.pop(change.key, None)
                continue
            if kind == "approval":
                self._written[change.key] = now  # given anew, it is as good as a new one
            self._written.setdefault(change.key, now)
            if kind == "closed":
                self._last[about] = max(now, self._last.get(about, now))
            elif kind == "request" and about not in self._last:
                record = rows.adapter(RequestRecord).validate_json(str(change.values["doc"]))
                self._last[about] = max(now, record.not_before or now)

    def _forgotten(self, key: str, now: datetime) -> None:
        request = self._request_of(key)
        since = self._last.get(request, self._written.get(key, now))
        if now - since < self.policy.retention - 2 * self.skew:
            self.broken(f"forgotten {now - since} after its end: {key}", f"request:{request}")
        flying = [other for other, row in self.table.contents("reset|").items() if row["request"] == request]
        if flying:
            self.broken(f"forgotten while {flying[0]} is in flight: {key}", f"request:{request}")

    def _counted_no_more(self, kind: str, key: str, now: datetime) -> None:
        periods = {
            "sent": self.policy.device_window,
            "ended": COUNTED_FOR,
            "approval": self.policy.approval_valid_for,
            "window": self.policy.retention,
        }
        if (age := now - self._written.get(key, now)) < periods[kind] - 2 * self.skew:
            self.broken(f"forgotten after {age}: {key}", "")

    def _request_of(self, key: str) -> str:
        """The request that a row of history belongs to; "" where there is none."""
        kind, about = key.split("|")[:2]
        return (self.events[key].request or "") if kind == "event" else about

    # --- at the end

    def orphans(self, orders: Mapping[tuple[datetime, str], bool], now: datetime) -> None:
        """Check that every row belongs to something, once everything has ended. `orders`: by the time at which each was
        counted, and its device, whether Intune took it."""
        found = {key: Row(key, values, "") for key, values in self.table.contents().items()}
        requests = {key: rows.read(RequestRecord, row) for key, row in found.items() if key.startswith("request|")}
        sent = [rows.read(SentRecord, row) for key, row in found.items() if key.startswith("sent|")]
        ends = {f"{rows.ended(event).key} {event.to_state}" for event in self.events.values() if event.to_state}
        for key, row in found.items():
            match key.split("|"):
                case ["request", about]:
                    parts = len(self.table.keys(f"part|{about}|"))
                    belongs = 0 < parts <= requests[key].parts and bool(self.table.keys(f"event|request:{about}|"))
                case ["part", about, _]:
                    belongs = f"request|{about}" in requests
                case ["closed", about, _]:
                    end = rows.read(ClosedRecord, row).event
                    belongs = f"request|{about}" in requests and rows.event_key(end) in found
                case ["event", _, *_]:
                    belongs = self._has_its_request(self.events[key], found)
                case ["sent", *_]:
                    record = rows.read(SentRecord, row)
                    belongs = all((record.at, device) in orders for device in record.devices)
                case ["ended", *_]:
                    belongs = f"{key} {row.values['state']!s}" in ends
                case ["window", _]:
                    belongs = True  # each is one of the day's openings, and stays when its request is forgotten
                case _:
                    belongs = key in _SINGLE
            if not belongs:
                about = self._request_of(key) if key.split("|")[0] in _HISTORY else ""
                self.broken(f"a row belongs to nothing: {key}", f"request:{about}" if about else "")
        self._in_order()
        counted = {(record.at, device) for record in sent for device in record.devices}
        for (at, device), taken in orders.items():
            young = now - at < self.policy.device_window - timedelta(days=1)
            if taken and young and (at, device) not in counted:
                self.broken("a reset took effect that the cap of its device does not count", device)

    def _has_its_request(self, event: Event, found: Mapping[str, Row]) -> bool:
        if event.request is None:
            return event.device is None
        if f"request|{event.request}" not in found:
            return event.device is None and event.kind in _NOT_KEPT
        return event.device is None or rows.closed_key(event.request, event.device) in found

    def _in_order(self) -> None:
        """Check that history reads as it happened: the table orders it by time, and clocks differ."""
        numbers: dict[tuple[str | None, str], int] = {}
        for key in self.table.keys("event|"):
            event = self.events[key]
            if event.device is None:
                continue
            turn = (event.request, event.device)
            if event.seq != numbers.setdefault(turn, 0):
                self.broken(f"history reads in another order than it happened: {key}", event.device)
            numbers[turn] = event.seq + 1

    def left(self) -> None:
        """Check, long after everything has ended, that retention took what it is to take."""
        for key in self.table.keys(""):
            if key.split("|")[0] not in STAYS:
                self.broken(f"never forgotten: {key}", "")
