"""Simulated Windows devices and what Intune believes of them. Pure: no I/O, and no clock of its own.

`now` and the random numbers come in as arguments, so that the same fleet runs behind the HTTP server in real time and
in a simulation in virtual time. All durations are the caller's: a scenario divides simulated ones by its speed first.
"""

import heapq
import random
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from sandbox.tenant.quirks import ACTION_NAMES, Duration, Quirks

type Json = dict[str, object]
"""One JSON object as Graph returns it."""

ID_NAMESPACE = uuid.UUID("6f1f3a44-52a5-5a0e-9a53-0d6f9f4c7c11")
"""Every id of the sandbox is a uuid5 under this, so that a scenario has the same ids in every run."""


class Failure(StrEnum):
    """How a device fails its reset; the empty one does not."""

    NONE = ""
    WINRE_DISABLED = "winre_disabled"
    """The reset fails at once when it is picked up (0x80070032); the old user stays."""
    RESET_FAILS_MIDWAY = "reset_fails_midway"
    """The device goes silent, rolls back after half the time and returns with the old user."""
    POWER = "power"
    """On battery (until `on_battery_until`) the device checks in but does not take the reset."""
    SILENT_FAILURE = "silent_failure"
    """Intune says done, but the device was never reset and goes on checking in with the old user."""
    INTERRUPTED = "interrupted"
    """Intune says done, but the reset was cut short and the device never returns."""


class Activity(StrEnum):
    """What the machine is doing."""

    AWAKE = "awake"
    """Windows runs; the device checks in while it is online."""
    RESETTING = "resetting"
    """The reset runs; the device is silent."""
    OUT = "out"
    """Windows waits for somebody: after a full wipe, or after a reset that was cut short."""


class ResetKind(StrEnum):
    """What a wipe call does, decided by its two flags (a flag left out is false)."""

    AUTOPILOT_RESET = "autopilot_reset"
    """keepEnrollmentData, not keepUserData: the record stays and loses its primary user."""
    FULL_WIPE = "full_wipe"
    """Neither: the Intune record goes at pick-up; the Autopilot identity stays."""
    KEEP_USER = "keep_user"
    """keepUserData: Windows is refreshed and the user's data stay."""

    @classmethod
    def of(cls, body: Mapping[str, object]) -> Self:
        """Read the flags of a wipe body."""
        if body.get("keepUserData") is True:
            return cls("keep_user")
        return cls("autopilot_reset" if body.get("keepEnrollmentData") is True else "full_wipe")


class Behaviour(BaseModel):
    """How a device behaves in time. Durations are simulated in a scenario file, real in a fleet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    check_in_every: Duration = timedelta(hours=8)
    """The interval of routine check-ins."""
    first_check_in: Duration | None = None
    """The first one, after the start; left out, anywhere within one interval."""
    reacts_to_sync: bool = True
    sync_reaction: Duration = timedelta(minutes=2)
    """An online device checks in within this of a syncDevice call; a call to an offline device is lost."""
    reacts_to_orders: bool = False
    """An online device comes for a wipe by itself, as for a sync: Intune notifies devices of what it has for them
    (source as for `new_enrolment`), and not every notification arrives."""
    online_hours: tuple[Duration, Duration] | None = None
    """Online from and until, after midnight of the simulated day; left out, always."""
    off_from: Duration | None = None
    """Switched off from this time after the start."""
    off_until: Duration | None = None
    """Switched on again; left out, never."""
    boot_sync: Duration = timedelta(minutes=2)
    """Back online, a device that missed a check-in makes it up after this."""
    reset_duration: Duration = timedelta(minutes=30)
    first_sync_after: Duration = timedelta(minutes=5)
    """The first sync after the reset is over."""
    failure: Failure = Failure.NONE
    on_battery_until: Duration | None = None
    """With failure = "power": on mains again at this time after the start; left out, never."""
    next_user: str = ""
    """Who signs in `next_user_after` the device is ready, and becomes its primary user."""
    next_user_after: Duration = timedelta(hours=1)
    reenrols_after: Duration | None = None
    """After a full wipe the device enrols anew, with a new Intune id, after this; left out, never."""
    new_enrolment: tuple[tuple[Duration, Duration], ...] = (
        (timedelta(minutes=15), timedelta(minutes=3)),
        (timedelta(hours=2, minutes=15), timedelta(minutes=15)),
    )
    """The cadence after an enrolment or reset: (until this age, check in every).

    Source: https://learn.microsoft.com/intune/intune-service/configuration/device-profile-troubleshoot (refresh
    intervals): every 3 minutes for 15 minutes, then every 15 minutes for 2 hours, then about every 8 hours.
    """

    @model_validator(mode="after")
    def _time_moves_on(self) -> Self:
        if not self.check_in_every or any(not every for _, every in self.new_enrolment):
            raise ValueError("check-in intervals must be longer than nothing")
        if self.online_hours and self.online_hours[0] >= self.online_hours[1]:
            raise ValueError("online_hours must end after they begin")
        if self.off_until is not None and (self.off_from is None or self.off_until <= self.off_from):
            raise ValueError("off_until must come after off_from")
        return self


@dataclass(frozen=True, slots=True)
class Day:
    """How the simulated day runs in real time: when it began, how long it is."""

    midnight: datetime
    length: timedelta = timedelta(hours=24)

    def since_midnight(self, now: datetime) -> timedelta:
        return (now - self.midnight) % self.length


@dataclass(frozen=True, slots=True)
class User:
    id: str
    name: str
    """The user principal name."""

    @classmethod
    def named(cls, name: str) -> Self:
        return cls(str(uuid.uuid5(ID_NAMESPACE, f"user/{name.lower()}")), name)


@dataclass(frozen=True, slots=True)
class ActionResult:
    name: str
    state: Literal["pending", "active", "done", "failed"]
    started_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class IntuneRecord:
    """The part of a managedDevice that moves; replaced, never changed, so that stale reads are old values."""

    id: str
    user: User | None
    enrolled_at: datetime
    last_sync_at: datetime
    management_state: str = "managed"
    actions: tuple[ActionResult, ...] = ()


@dataclass(frozen=True, slots=True)
class ReceivedWipe:
    at: datetime
    body: Mapping[str, object]
    intune_id: str


@dataclass(frozen=True, slots=True)
class Records:
    """The three records of a machine as Graph returned them at the start; any may be missing."""

    managed_device: Json | None
    entra_device: Json | None
    autopilot_identity: Json | None
    managed_device_beta: Json = field(default_factory=dict)
    """Properties that only beta shows."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What is really so of a device, whatever Graph shows: for tests and for the scenario's verdict."""

    serial: str
    name: str
    intune_id: str | None
    activity: Activity
    online: bool
    wipes_received: tuple[ReceivedWipe, ...]
    wipes_pending: int
    resets_taken: int
    last_pickup_at: datetime | None
    reset_done_at: datetime | None
    truly_ready: bool
    """Its reset is done, it has synced since, no further wipe waits, and the old user is not on it."""
    ready_since: datetime | None
    user: str | None
    """Who is on the machine, whatever the primary user in Intune."""
    next_user_since: datetime | None
    next_users_lost: int
    """Resets that ran over a next user's data: the disaster that must never happen."""


class Device:
    """One machine, its behaviour, and its Intune record. Driven by `step` at the times that `due` names."""

    def __init__(
        self,
        serial: str,
        name: str,
        behaviour: Behaviour,
        records: Records,
        intune: IntuneRecord | None,
        start: datetime,
        rng: random.Random,
        day: Day | None = None,
        *,
        machine: bool = True,
        ordinal: int = 0,
    ) -> None:
        """Build a device as it is at `start`. Without `machine` it is a leftover record that nothing answers for."""
        self.serial = serial
        self.name = name
        self.behaviour = behaviour
        self.records = records
        self.start = start
        self.ordinal = ordinal
        self.quirks: Mapping[str, object] = {}
        """Its own, by name, where they differ from the tenant's."""
        self.machine = machine
        self.activity = Activity.AWAKE if machine else Activity.OUT
        self.user = intune.user if intune else None
        self.next_user = User.named(behaviour.next_user) if behaviour.next_user else None
        self._first_user = self.user
        self._intune = intune
        self.last_sync_at = intune.last_sync_at if intune else start
        """No record that this device ever had shows a later check-in."""
        self._seen: deque[tuple[datetime, IntuneRecord | None]] = deque(maxlen=100)
        self._rng = rng
        self._day = day or Day(start)
        self._switched_off = False
        self._missed_check_in = False
        self._queue: deque[ReceivedWipe] = deque()
        self._running: ReceivedWipe | None = None
        self._enrolment_began: datetime | None = None
        self._enrolments = 0
        self._check_in_at: datetime | None = None
        self._reset_ends_at: datetime | None = None
        self._user_clears_at: datetime | None = None
        self._next_user_at: datetime | None = None
        self._reenrols_at: datetime | None = None
        self.wipes_received: list[ReceivedWipe] = []
        self.resets_taken = 0
        self.last_pickup_at: datetime | None = None
        self.reset_done_at: datetime | None = None
        self.ready_since: datetime | None = None
        self.next_user_since: datetime | None = None
        self.next_users_lost = 0
        if intune is not None and machine:
            first = behaviour.first_check_in
            self._check_in_at = start + (behaviour.check_in_every * rng.random() if first is None else first)

    # What is asked from outside.

    @property
    def intune(self) -> IntuneRecord | None:
        """The Intune record as it is now."""
        return self._intune

    def changes_since(self, at: datetime) -> list[datetime]:
        """When the Intune record changed after this time, the last changes first."""
        found: list[datetime] = []
        for changed_at, _ in reversed(self._seen):
            if changed_at <= at:
                break
            found.append(changed_at)
        return found

    def shown(self, at: datetime) -> IntuneRecord | None:
        """The Intune record as it was at `at`, for stale reads."""
        record = self._intune
        for changed_at, before in reversed(self._seen):
            if changed_at <= at:
                break
            record = before
        return record

    def online(self, now: datetime) -> bool:
        """Whether the machine is switched on and within its online hours."""
        return self._online_from(now) == now

    def truth(self, now: datetime) -> Truth:
        ready = self.ready_since is not None and not self._queue and self.activity is Activity.AWAKE
        return Truth(
            serial=self.serial,
            name=self.name,
            intune_id=self._intune.id if self._intune else None,
            activity=self.activity,
            online=self.online(now),
            wipes_received=tuple(self.wipes_received),
            wipes_pending=len(self._queue),
            resets_taken=self.resets_taken,
            last_pickup_at=self.last_pickup_at,
            reset_done_at=self.reset_done_at,
            truly_ready=ready and (self.user is None or self.user != self._first_user),
            ready_since=self.ready_since,
            user=self.user.name if self.user else None,
            next_user_since=self.next_user_since,
            next_users_lost=self.next_users_lost,
        )

    # What is done to it.

    def wipe(self, body: Mapping[str, object], now: datetime, quirks: Quirks) -> None:
        """Queue a wipe. A second one is queued as well and will run again: the worst that Intune may do."""
        record = self._require_record()
        wipe = ReceivedWipe(now, dict(body), record.id)
        self.wipes_received.append(wipe)
        self._queue.append(wipe)
        if quirks.action_results == "filled":
            action = ActionResult(self.action_name(quirks), "pending", now, now)
            record = replace(record, actions=(*record.actions, action))
        if quirks.management_state != "never":
            record = replace(record, management_state="wipePending")
        if quirks.primary_user_cleared == "trigger" and ResetKind.of(body) is ResetKind.AUTOPILOT_RESET:
            record = replace(record, user=None)
        self._show(now, record)
        if self.behaviour.reacts_to_orders:
            self._notified(now)

    def request_sync(self, now: datetime) -> None:
        """Ask the machine to check in soon; lost when it is off, busy or deaf to such requests."""
        record = self._require_record()
        action = ActionResult("syncDevice", "pending", now, now)
        self._show(now, replace(record, actions=(*record.actions, action)))
        if self.behaviour.reacts_to_sync:
            self._notified(now)

    def _notified(self, now: datetime) -> None:
        if self.activity is Activity.AWAKE and self.online(now):
            answer = now + self.behaviour.sync_reaction * self._rng.uniform(0.25, 1)
            self._check_in_at = min(self._check_in_at, answer) if self._check_in_at else answer

    def switch(self, *, on: bool, now: datetime) -> None:
        """Switch the machine on or off by hand, on top of its behaviour."""
        self._switched_off = not on
        if on and self._missed_check_in and self.activity is Activity.AWAKE:
            self._missed_check_in = False
            self._check_in_at = now + self.behaviour.boot_sync

    def behave(self, behaviour: Behaviour) -> None:
        """Change how the machine behaves from now on."""
        self.behaviour = behaviour
        self.next_user = User.named(behaviour.next_user) if behaviour.next_user else None

    def rename(self, name: str) -> None:
        """Give the machine another name, which Intune and Entra show at once; see `Fleet.rename`."""
        self.name = name
        records = self.records
        managed, entra = records.managed_device, records.entra_device
        self.records = replace(
            records,
            managed_device=managed and {**managed, "deviceName": name},
            entra_device=entra and {**entra, "displayName": name},
        )

    def enrol_anew(self, now: datetime) -> None:
        """Somebody takes the machine out of Intune and enrols it again: its record, and what waited for it, go."""
        self._queue.clear()
        self._show(now, None)
        self._reenrol(now)

    # How it moves.

    def due(self) -> datetime | None:
        """When the machine next does something; None when nothing will ever happen by itself."""
        times = (self._check_in_at, self._reset_ends_at, self._user_clears_at, self._next_user_at, self._reenrols_at)
        return min((time for time in times if time is not None), default=None)

    def step(self, now: datetime, quirks: Quirks) -> None:
        """Do what is due at `now`, which is the time that `due` named."""
        if self._reset_ends_at is not None and self._reset_ends_at <= now:
            self._reset_ends_at = None
            self._end_reset(now, quirks)
        if self._reenrols_at is not None and self._reenrols_at <= now:
            self._reenrols_at = None
            self._reenrol(now)
        if self._user_clears_at is not None and self._user_clears_at <= now:
            self._user_clears_at = None
            if self._intune is not None:
                self._show(now, replace(self._intune, user=None))
        if self._next_user_at is not None and self._next_user_at <= now:
            self._next_user_at = None
            self._next_user_signs_in(now)
        if self._check_in_at is not None and self._check_in_at <= now:
            self._check_in_at = None
            self._try_check_in(now, quirks)

    def action_name(self, quirks: Quirks) -> str:
        """The name under which Intune shows a reset of this device."""
        return ACTION_NAMES[self.ordinal % len(ACTION_NAMES)] if quirks.action_name == "varies" else quirks.action_name

    def _try_check_in(self, now: datetime, quirks: Quirks) -> None:
        back = self._online_from(now)
        if back is None:
            self._missed_check_in = True
        elif back > now:
            self._check_in_at = back + self.behaviour.boot_sync * self._rng.uniform(0.5, 1)
        elif self._intune is not None and self.activity is Activity.AWAKE:
            self._check_in(now, self._intune, quirks)

    def _check_in(self, now: datetime, record: IntuneRecord, quirks: Quirks) -> None:
        actions = tuple(
            replace(action, state="done", updated_at=now)
            if action.name == "syncDevice" and action.state == "pending"
            else action
            for action in record.actions
        )
        if record.user is None and self.user is not None and not self._queue:
            record = replace(record, user=self.user)  # Intune learns again who is signed in
        self._show(now, replace(record, last_sync_at=now, actions=actions))
        if self.reset_done_at is not None and self.ready_since is None:
            self._ready(now, quirks)
        if self._queue and not self._on_battery(now):
            self._pick_up(self._queue.popleft(), now, quirks)
        if self.activity is Activity.AWAKE:
            self._check_in_at = now + self._interval(now)

    def _interval(self, now: datetime) -> timedelta:
        age = None if self._enrolment_began is None else now - self._enrolment_began
        for until, every in self.behaviour.new_enrolment:
            if age is not None and age < until:
                return every
        return self.behaviour.check_in_every

    def _pick_up(self, wipe: ReceivedWipe, now: datetime, quirks: Quirks) -> None:
        self.last_pickup_at = now
        failure = self.behaviour.failure
        if failure is Failure.WINRE_DISABLED:
            self._settle_action(now, quirks, "failed", "wipeFailed")
            return
        if failure is Failure.SILENT_FAILURE:
            self._settle_action(now, quirks, "done", "managed")
            return
        self.activity, self._running, self.ready_since, self.reset_done_at = Activity.RESETTING, wipe, None, None
        self._user_clears_at = self._next_user_at = None
        self._settle_action(now, quirks, "done" if quirks.action_done_at == "pickup" else "active", "wipeIssued")
        part = 0.5 if failure is Failure.RESET_FAILS_MIDWAY else 1.0
        self._reset_ends_at = now + self.behaviour.reset_duration * part
        kind = ResetKind.of(wipe.body)
        if kind is ResetKind.FULL_WIPE:
            self._show(now, None)
        elif kind is ResetKind.AUTOPILOT_RESET and quirks.primary_user_cleared == "pickup" and self._intune:
            self._show(now, replace(self._intune, user=None))

    def _end_reset(self, now: datetime, quirks: Quirks) -> None:
        wipe, self._running = self._running, None
        kind = ResetKind.of(wipe.body if wipe else {})
        if self.behaviour.failure is Failure.INTERRUPTED:
            self.activity = Activity.OUT
            self._settle_action(now, quirks, "done", "wipeIssued")
            return
        if self.behaviour.failure is Failure.RESET_FAILS_MIDWAY:
            self._settle_action(now, quirks, "failed", "wipeFailed")
            if kind is ResetKind.FULL_WIPE:
                self.activity = Activity.OUT
                return
            self.activity = Activity.AWAKE
            self._check_in_at = now + self.behaviour.boot_sync
            return
        self.resets_taken += 1
        self.reset_done_at = now
        if self.next_user_since is not None:
            self.next_users_lost += 1
            self.next_user_since = None
        if kind is not ResetKind.KEEP_USER:
            self.user = None
        if kind is ResetKind.FULL_WIPE:
            self.activity = Activity.OUT
            if self.behaviour.reenrols_after is not None:
                self._reenrols_at = now + self.behaviour.reenrols_after
            self._queue.clear()  # the commands went with the record
            return
        self.activity = Activity.AWAKE
        self._settle_action(now, quirks, "done", "managed")
        if kind is ResetKind.AUTOPILOT_RESET and quirks.primary_user_cleared == "end" and self._intune is not None:
            self._show(now, replace(self._intune, user=None))
        self._enrolment_began = now
        self._check_in_at = now + self.behaviour.first_sync_after

    def _reenrol(self, now: datetime) -> None:
        self._enrolments += 1
        new_id = str(uuid.uuid5(ID_NAMESPACE, f"{self.serial}/{self.ordinal}/enrolment/{self._enrolments}"))
        self.activity = Activity.AWAKE
        self._enrolment_began = now
        self._show(now, IntuneRecord(new_id, None, now, now))
        self._check_in_at = now + self.behaviour.first_sync_after

    def _ready(self, now: datetime, quirks: Quirks) -> None:
        self.ready_since = now
        if quirks.primary_user_cleared == "late" and self.user is None:
            self._user_clears_at = now + quirks.late_after
        if self.next_user is not None and self.user is None:
            self._next_user_at = now + self.behaviour.next_user_after

    def _next_user_signs_in(self, now: datetime) -> None:
        if self.next_user is None or self.activity is not Activity.AWAKE:
            return
        self.user, self.next_user_since, self._user_clears_at = self.next_user, now, None
        if self._intune is not None:
            self._show(now, replace(self._intune, user=self.next_user))

    def _settle_action(
        self, now: datetime, quirks: Quirks, state: Literal["active", "done", "failed"], management_state: str
    ) -> None:
        """Let Intune learn what became of the oldest wipe that is not settled."""
        record = self._intune
        if record is None:
            return
        actions = list(record.actions)
        for index, action in enumerate(actions):
            if action.name in ACTION_NAMES and action.state in ("pending", "active"):
                actions[index] = replace(action, state=state, updated_at=now)
                break
        record = replace(record, actions=tuple(actions))
        if quirks.management_state == "moves":
            record = replace(
                record,
                management_state="wipePending" if self._queue and management_state == "managed" else management_state,
            )
        self._show(now, record)

    def _show(self, now: datetime, record: IntuneRecord | None) -> None:
        self._seen.append((now, self._intune))
        self._intune = record
        if record is not None:
            self.last_sync_at = max(self.last_sync_at, record.last_sync_at)

    def _require_record(self) -> IntuneRecord:
        if self._intune is None:
            raise LookupError(f"{self.serial} has no Intune record")
        return self._intune

    def _on_battery(self, now: datetime) -> bool:
        if self.behaviour.failure is not Failure.POWER:
            return False
        until = self.behaviour.on_battery_until
        return until is None or now < self.start + until

    def _online_from(self, now: datetime) -> datetime | None:
        """The first time from `now` on at which the machine is online; None when it never is."""
        if self._switched_off:
            return None
        behaviour = self.behaviour
        for _ in range(4):  # leaving the off span may land outside the online hours, and the other way round
            at = now
            if behaviour.off_from is not None and self.start + behaviour.off_from <= at:
                if behaviour.off_until is None:
                    return None
                at = max(at, self.start + behaviour.off_until)
            if behaviour.online_hours is not None:
                opens, closes = behaviour.online_hours
                clock = self._day.since_midnight(at)
                if clock < opens:
                    at += opens - clock
                elif clock >= closes:
                    at += self._day.length - clock + opens
            if at == now:
                return at
            now = at
        return None


class Fleet:
    """All devices of a tenant, moved on together."""

    def __init__(self, devices: Sequence[Device], quirks: Quirks) -> None:
        self.devices = tuple(devices)
        self.quirks = quirks
        self._by_intune_id = {device.intune.id: device for device in devices if device.intune is not None}
        self._queue: list[tuple[datetime, int]] = []
        self.moved: Callable[[Device], None] | None = None
        """Told of every device that did something, or will do something at another time than before."""
        for index in range(len(self.devices)):
            self._expect(index)
        self._index = {id(device): index for index, device in enumerate(self.devices)}
        self._named: dict[str, dict[str, list[Device]]] = {}

    def advance(self, now: datetime) -> None:
        """Move every device on to `now`, in order of time; an earlier time than before changes nothing."""
        if now.tzinfo is not UTC:
            raise ValueError("the fleet's clock runs in aware UTC")
        while self._queue and self._queue[0][0] <= now:
            due, index = heapq.heappop(self._queue)
            device = self.devices[index]
            if device.due() != due:
                continue  # superseded: an earlier or later time stands in the queue
            device.step(due, self.quirks_of(device))
            if device.intune is not None:
                self._by_intune_id.setdefault(device.intune.id, device)
            self._expect(index)

    def quirks_of(self, device: Device) -> Quirks:
        """The tenant's quirks, with the device's own over them."""
        return self.quirks.model_copy(update=device.quirks) if device.quirks else self.quirks

    def find(self, intune_id: str) -> Device | None:
        """The device that has, or had, this Intune id."""
        return self._by_intune_id.get(intune_id.lower())

    def with_value(self, name: str, value: str) -> Sequence[Device]:
        """The devices whose managed device has this value, in any case, in a property that only `rename` changes."""
        if name not in self._named:
            index = self._named[name] = {}
            for device in self.devices:
                held = (device.records.managed_device or {}).get(name)
                if isinstance(held, str):
                    index.setdefault(held.casefold(), []).append(device)
        return self._named[name].get(value.casefold(), ())

    def rename(self, device: Device, name: str) -> None:
        """Give a machine another name."""
        device.rename(name)
        self._named.clear()

    def wipe(self, device: Device, body: Mapping[str, object], now: datetime) -> None:
        """Queue a wipe at `now`; raises LookupError for a device without an Intune record."""
        device.wipe(body, now, self.quirks_of(device))
        self._expect(self._index[id(device)])

    def request_sync(self, device: Device, now: datetime) -> None:
        """Ask a device to check in; raises LookupError for a device without an Intune record."""
        device.request_sync(now)
        self._expect(self._index[id(device)])

    def switch(self, device: Device, *, on: bool, now: datetime) -> None:
        device.switch(on=on, now=now)
        self._expect(self._index[id(device)])

    def enrol_anew(self, device: Device, now: datetime) -> None:
        """See `Device.enrol_anew`; one that is being reset, or waits for somebody, is left alone."""
        if device.activity is Activity.AWAKE and device.intune is not None:
            device.enrol_anew(now)
            self._by_intune_id[device.intune.id] = device
            self._expect(self._index[id(device)])

    def by_serial(self, serial: str) -> tuple[Device, ...]:
        return tuple(device for device in self.devices if device.serial == serial)

    def _expect(self, index: int) -> None:
        if self.moved is not None:
            self.moved(self.devices[index])
        due = self.devices[index].due()
        if due is not None:
            heapq.heappush(self._queue, (due, index))
