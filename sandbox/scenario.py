"""Scenario files: a fleet, how it behaves, how the tenant behaves, what is asked and how all of it must end.

TOML; every key is described in docs/reference/scenarios.md. Durations are simulated ones: `Scenario` divides them by
the scenario's speed wherever it hands something out that runs in real time.
"""

import base64
import json
import random
import tomllib
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from sandbox.tenant.devices import Behaviour, Day, Device, Fleet, Json, Records
from sandbox.tenant.graph import DEFAULT_ROLES
from sandbox.tenant.groups import Groups, MemberError
from sandbox.tenant.pace import paced
from sandbox.tenant.quirks import DeviceQuirks, Duration, Quirks, iso
from sandbox.tenant.records import PLAIN, Blueprint, Join, Shown, intune_record, make_records

type PolicyValue = str | int | float | bool | list[str]

_GUID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_BEHAVIOUR = frozenset(Behaviour.model_fields)
_DURATION: TypeAdapter[timedelta] = TypeAdapter(Duration)


class ScenarioError(Exception):
    """A scenario file that cannot be used; the message names file, table, key and fault, one a line."""


class DeviceEnd(StrEnum):
    """How a device's turnaround must end."""

    READY = "ready"
    REFUSED = "refused"
    ATTENTION = "attention"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNTOUCHED = "untouched"
    """Nobody asks for it, and nothing may happen to it."""


class RequestEnd(StrEnum):
    """What must become of a request message as a whole."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    DUPLICATE = "duplicate"


class Encoding(StrEnum):
    """How a message is put on the queue."""

    BASE64 = "base64"
    PLAIN = "plain"


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class About(_Table):
    """[scenario]"""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,60}$")]
    """The ids of all records are derived from it, so it names one fleet for good."""
    description: str = ""
    speed: Annotated[float, Field(gt=0, le=100_000)] = 1
    """How many times faster than real time simulated time runs."""
    time_limit: Duration = timedelta(hours=12)
    """When the scenario counts as failed if not everything has ended (simulated)."""
    time_of_day: Duration = timedelta(hours=9)
    """The simulated time of day at the start, for `online_hours`."""


class TenantTable(_Table):
    """[tenant]"""

    id: Annotated[str, Field(pattern=_GUID)] = "11111111-2222-3333-4444-555555555555"
    roles: tuple[str, ...] = DEFAULT_ROLES
    """The Graph app roles granted to the app."""
    deleted_users: tuple[str, ...] = ()
    """Users whom Intune still names, and Entra knows no longer."""
    quirks: Quirks = Quirks()


class PendingAction(_Table):
    """A remote action that was never settled."""

    name: str
    state: Literal["pending", "active"] = "pending"
    age: Duration = timedelta(hours=1)
    """How long before the start it was ordered."""


class DeviceGroup(Behaviour):
    """[[devices]]: one or several alike devices, made up or given as raw Graph records."""

    count: Annotated[int, Field(ge=1, le=50_000)] = 1
    first: Annotated[int, Field(ge=0)] = 1
    """The number of the first one, for {n} in `name` and `serial`."""
    name: str = "LAB-{n:02}"
    serial: str = "SN-{n:04}"
    group_tag: str = ""
    model: str = "Contoso Book 14"
    manufacturer: str = PLAIN.manufacturer
    os: str = PLAIN.os
    os_version: str = PLAIN.os_version
    sku_family: str = PLAIN.sku_family
    management_agent: str = PLAIN.management_agent
    join: Join = "entra"
    join_type: str | None = None
    """What Intune's joinType says; left out, how the device is joined."""
    pending_actions: tuple[PendingAction, ...] = ()
    enrolled: bool = True
    autopilot: bool = True
    primary_user: str = "student{n}@contoso.example"
    duplicate_records: Annotated[int, Field(ge=0, le=5)] = 0
    """Older Intune records of the same machine, left over from earlier enrolments."""
    managed_device: Json | None = None
    device: Json | None = None
    autopilot_identity: Json | None = None
    records: str | None = None
    """A folder with managedDevices.json, devices.json and windowsAutopilotDeviceIdentities.json."""
    quirks: DeviceQuirks = DeviceQuirks()
    """How Graph shows these devices, where that differs from the tenant's quirks."""
    expect: DeviceEnd = DeviceEnd.UNTOUCHED
    expect_reason: str | None = None

    @field_validator("name", "serial", "primary_user")
    @classmethod
    def _pattern(cls, pattern: str) -> str:
        try:
            pattern.format(n=1)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"{pattern!r} is not a pattern over {{n}}: {error}") from None
        return pattern

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        raw = any(one is not None for one in (self.managed_device, self.device, self.autopilot_identity))
        if raw and self.records is not None:
            raise ValueError("give either inline records or a folder of records, not both")
        if (raw or self.records) and self.count != 1:
            raise ValueError("count goes with made-up devices only; raw records say themselves how many they are")
        return self

    def behaviour(self, speed: float) -> Behaviour:
        """The behaviour in real time."""
        return paced(Behaviour.model_validate(self.model_dump(include=set(_BEHAVIOUR))), speed)

    def own_quirks(self, speed: float) -> dict[str, object]:
        """The quirks that are given, by name, in real time."""
        return {name: value for name, value in paced(self.quirks, speed) if name in self.quirks.model_fields_set}


class GroupTable(_Table):
    """[[groups]]: an Entra group."""

    name: str
    id: Annotated[str, Field(pattern=_GUID)] | None = None
    """Its object id; left out, made of the names of scenario and group."""
    members: tuple[str, ...] = ()
    """Each `device:SERIAL` (with * and ?), `user:NAME` or `group:NAME`."""
    hidden: bool = False
    """Whether its membership is hidden."""


class RequestTable(_Table):
    """[[requests]]: a message put on the queue."""

    file: str | None = None
    """A file beside the scenario, as it is."""
    body: Json | None = None
    raw: str | None = None
    """Any text, for messages that are no JSON."""
    at: Duration = timedelta()
    """When, after the start."""
    encoding: Encoding = Encoding.BASE64
    expect: RequestEnd = RequestEnd.ACCEPTED
    expect_reason: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(one is not None for one in (self.file, self.body, self.raw)) != 1:
            raise ValueError("give exactly one of file, body and raw")
        return self


class ReferenceTable(_Table):
    """[[references]]: the end of one reference within a request, where it is not the end of a device."""

    request: str
    """The requestId."""
    reference: Annotated[str, Field(pattern=r"^(intuneId|entraDeviceId|serialNumber|name|groupTag):.+$")]
    expect: DeviceEnd
    expect_reason: str | None = None


class WindowTable(_Table):
    """[[windows]]: a lab-turnover window."""

    name: str
    cron: str | None = None
    """When it opens, in real time."""
    opens_after: Duration | None = None
    """Or once, this long after the start."""
    timezone: str = "UTC"
    devices: tuple[str, ...] = ()
    """References such as serialNumber:SN-0001."""
    group_tag: str | None = None
    ready_by: Duration | None = None
    """After the opening."""
    open_for: Duration | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.cron is None) == (self.opens_after is None):
            raise ValueError("give exactly one of cron and opens_after")
        if bool(self.devices) == (self.group_tag is not None):
            raise ValueError("give exactly one of devices and group_tag")
        try:
            ZoneInfo(self.timezone)
            if self.cron is not None:
                CronSim(self.cron, datetime(2026, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise ValueError(f"cron: {error}") from None
        except (KeyError, ValueError, OSError):
            raise ValueError(f"there is no time zone {self.timezone!r}") from None
        return self


class Scenario(_Table):
    """A whole scenario file."""

    scenario: About
    tenant: TenantTable = TenantTable()
    policy: dict[str, PolicyValue] = {}
    app: dict[str, PolicyValue] = {}
    devices: tuple[DeviceGroup, ...] = ()
    groups: tuple[GroupTable, ...] = ()
    requests: tuple[RequestTable, ...] = ()
    references: tuple[ReferenceTable, ...] = ()
    windows: tuple[WindowTable, ...] = ()
    path: Path = Field(default=Path(), exclude=True)

    @classmethod
    def load(cls, path: Path, *, speed: float | None = None) -> Self:
        """Read a scenario file, with another speed than its own if given; raises ScenarioError."""
        try:
            table: Json = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise ScenarioError(f"{path}: {error.strerror or error}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ScenarioError(f"{path}: not TOML: {error}") from None
        if "path" in table:
            raise ScenarioError(f"{path}: path: unknown key")
        if speed is not None and isinstance(about := table.get("scenario"), dict):
            about["speed"] = speed
        try:
            scenario = cls.model_validate({**table, "path": path})
        except ValidationError as error:
            raise ScenarioError("\n".join(_faults(path, error))) from None
        for number, request in enumerate(scenario.requests, start=1):
            if request.file is not None and not (path.parent / request.file).is_file():
                raise ScenarioError(f"{path}: [[requests]] #{number}: file: there is no {request.file}")
        return scenario

    # Simulated time becomes real time here.

    @property
    def speed(self) -> float:
        return self.scenario.speed

    def real(self, simulated: timedelta) -> timedelta:
        """How long a simulated duration takes."""
        return simulated / self.speed

    def quirks(self) -> Quirks:
        """The tenant's quirks in real time."""
        return paced(self.tenant.quirks, self.speed)

    def real_policy(self) -> dict[str, PolicyValue]:
        """[policy] with every ISO duration in it turned into real time; all else as it stands."""
        return {key: self._real_value(value) for key, value in self.policy.items()}

    def _real_value(self, value: PolicyValue) -> PolicyValue:
        if not isinstance(value, str) or not value.startswith("P"):
            return value
        try:
            return iso(self.real(_DURATION.validate_python(value)))
        except ValidationError:
            return value

    # What the scenario holds, ready to use.

    def message(self, request: RequestTable) -> str:
        """The text of a request as it goes on the queue."""
        if request.raw is not None:
            text = request.raw
        elif request.file is not None:
            text = (self.path.parent / request.file).read_text("utf-8")
        else:
            text = json.dumps(request.body)
        return base64.b64encode(text.encode()).decode() if request.encoding is Encoding.BASE64 else text

    def expected(self, start: datetime | None = None) -> dict[str, tuple[DeviceEnd, str | None]]:
        """The expected end and reason code of each device, by Intune id, or by serial number where it has none."""
        ends: dict[str, tuple[DeviceEnd, str | None]] = {}
        for group, device in self._devices(random.Random(0), start or datetime(2026, 1, 1, tzinfo=UTC)):
            if device.machine:
                ends[device.intune.id if device.intune else device.serial] = (group.expect, group.expect_reason)
        return ends

    def fleet(self, seed: int, start: datetime) -> Fleet:
        """The devices as they are at `start`, in real time. Raises ScenarioError for raw records that do not read."""
        devices = list[Device]()
        for group, device in self._devices(random.Random(seed), start):
            device.quirks = group.own_quirks(self.speed)
            devices.append(device)
        return Fleet(devices, self.quirks())

    def directory(self, fleet: Fleet) -> Groups:
        """The Entra groups of the tenant with this fleet. Raises ScenarioError for a member that there is not."""
        groups = Groups.of(fleet, self.tenant.deleted_users)
        for table in self.groups:
            groups.add(self.scenario.name, table.name, table.id, hidden=table.hidden)
        for number, table in enumerate(self.groups, start=1):
            try:
                groups.change(table.name, table.members, ())
            except MemberError as error:
                raise ScenarioError(f"{self.path}: [[groups]] #{number}: members: {error}") from None
        return groups

    def _devices(self, rng: random.Random, start: datetime) -> Iterator[tuple[DeviceGroup, Device]]:
        length = self.real(timedelta(hours=24))
        day = Day(start - self.real(self.scenario.time_of_day) % length, length)
        ordinal, serials = 0, Counter[str]()
        for number, group in enumerate(self.devices, start=1):
            behaviour = group.behaviour(self.speed)
            for n, given in self._sources(group, number):
                records = given or make_records(self._plan(group, n, ordinal, serials, start))
                own = random.Random(rng.getrandbits(64))
                try:
                    yield group, _device(records, behaviour, start, own, day, ordinal, raw=given is not None)
                except (KeyError, ValueError) as error:
                    raise ScenarioError(f"{self.path}: [[devices]] #{number}: managed_device: {error}") from None
                ordinal += 1
                for years in range(1, group.duplicate_records + 1):
                    plan = self._plan(group, n, ordinal, serials, start - timedelta(days=365 * years))
                    yield group, _leftover(records, make_records(plan), behaviour, start, own, ordinal)
                    ordinal += 1

    def _sources(self, group: DeviceGroup, number: int) -> Iterator[tuple[int, Records | None]]:
        """The number of each device of a group, with its records where the scenario gives them."""
        if group.records is not None:
            where = f"{self.path}: [[devices]] #{number}: records"
            yield from enumerate(_exported(where, self.path.parent / group.records), start=group.first)
        elif group.managed_device or group.device or group.autopilot_identity:
            yield group.first, Records(group.managed_device, group.device, group.autopilot_identity)
        else:
            for n in range(group.first, group.first + group.count):
                yield n, None

    def _plan(self, group: DeviceGroup, n: int, ordinal: int, serials: Counter[str], start: datetime) -> Blueprint:
        serial = group.serial.format(n=n)
        serials[serial] += 1
        return Blueprint(
            scenario=self.scenario.name,
            serial=serial,
            name=group.name.format(n=n),
            ordinal=ordinal,
            copy=serials[serial] - 1,
            model=group.model,
            join=group.join,
            shown=self._shown(group),
            group_tag=group.group_tag,
            enrolled=group.enrolled,
            autopilot=group.autopilot,
            user=group.primary_user.format(n=n),
            start=start,
        )

    def _shown(self, group: DeviceGroup) -> Shown:
        return Shown(
            manufacturer=group.manufacturer,
            os=group.os,
            os_version=group.os_version,
            sku_family=group.sku_family,
            management_agent=group.management_agent,
            join_type=group.join_type,
            unsettled=tuple((one.name, one.state, self.real(one.age)) for one in group.pending_actions),
        )


def _device(
    records: Records, behaviour: Behaviour, start: datetime, rng: random.Random, day: Day, ordinal: int, *, raw: bool
) -> Device:
    """A device with its machine; a made-up one has checked in at some time within its last interval."""
    intune = None
    if records.managed_device is not None:
        last_sync = None if raw else start - behaviour.check_in_every * rng.random()
        intune = intune_record(records.managed_device, last_sync)
    serial, name = _names(records)
    return Device(serial, name, behaviour, records, intune, start, rng, day, ordinal=ordinal)


def _leftover(
    records: Records, older: Records, behaviour: Behaviour, start: datetime, rng: random.Random, ordinal: int
) -> Device:
    """An older Intune record of the same machine and Entra device, with no machine that answers for it."""
    managed = dict(older.managed_device or {})
    if records.managed_device is not None:
        for key in ("serialNumber", "deviceName", "azureADDeviceId"):
            managed[key] = records.managed_device.get(key)
    intune = intune_record(managed, start - timedelta(days=200))
    serial, name = _names(records)
    alone = Records(managed, None, None, older.managed_device_beta)
    return Device(serial, name, behaviour, alone, intune, start, rng, machine=False, ordinal=ordinal)


def _names(records: Records) -> tuple[str, str]:
    """Serial number and name of a machine, from whichever record has them."""
    managed, entra = records.managed_device or {}, records.entra_device or {}
    identity = records.autopilot_identity or {}
    serial = managed.get("serialNumber") or identity.get("serialNumber") or ""
    return str(serial), str(managed.get("deviceName") or entra.get("displayName") or serial)


def _exported(where: str, folder: Path) -> Iterator[Records]:
    """Put an export's three files together: by Entra device id, and by serial number."""
    managed = _export(where, folder / "managedDevices.json")
    entra = {str(one.get("deviceId")).lower(): one for one in _export(where, folder / "devices.json")}
    identities = {
        str(one.get("serialNumber")).strip().lower(): one
        for one in _export(where, folder / "windowsAutopilotDeviceIdentities.json")
    }
    for one in managed:
        device_id, serial = str(one.get("azureADDeviceId")).lower(), str(one.get("serialNumber")).strip().lower()
        yield Records(one, entra.pop(device_id, None), identities.pop(serial, None), one)
    for identity in identities.values():
        device_id = str(identity.get("azureActiveDirectoryDeviceId")).lower()
        yield Records(None, entra.pop(device_id, None), identity)
    for device in entra.values():
        yield Records(None, device, None)


def _export(where: str, path: Path) -> list[Json]:
    if not path.exists():
        return []
    try:
        value = json.loads(path.read_text("utf-8"))["value"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScenarioError(f'{where}: {path.name} is not Graph\'s {{"value": [...]}}: {error}') from None
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ScenarioError(f"{where}: {path.name}: value is not a list of objects")
    return value


_ARRAYS = ("devices", "groups", "requests", "references", "windows")


def _faults(path: Path, error: ValidationError) -> Iterator[str]:
    """One line a fault: file, table as it stands in the file, key, and what is wrong."""
    for fault in error.errors():
        table, *rest = [str(part) for part in fault["loc"]] or ["?"]
        if table in _ARRAYS:
            number = f" #{int(rest.pop(0)) + 1}" if rest else ""
            shown = f"[[{table}]]{number}"
        else:
            shown = f"[{table}]"
        key = f": {'.'.join(rest)}" if rest else ""
        message = "unknown key" if fault["type"] == "extra_forbidden" else fault["msg"].removeprefix("Value error, ")
        yield f"{path}: {shown}{key}: {message}"
