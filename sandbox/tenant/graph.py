"""The simulated tenant: answers calls as Microsoft Graph does. No HTTP here; `now` comes with each call."""

import json
import random
import re
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime
from itertools import accumulate
from math import ceil
from urllib.parse import unquote, urlencode

from sandbox.graph_schema.schema import Version
from sandbox.tenant import records
from sandbox.tenant.approvals import Approvals
from sandbox.tenant.batch import answer_batch
from sandbox.tenant.calls import Answer, Call, CallCounts, FaultKind, Faults
from sandbox.tenant.devices import ID_NAMESPACE, Device, Fleet, IntuneRecord, Json
from sandbox.tenant.errors import (
    GraphError,
    bad_request,
    entra_forbidden,
    intune_forbidden,
    intune_message,
    no_property,
    no_segment,
    not_allowed,
    not_found,
    not_in_directory,
    over_daily_limit,
    too_many,
    unauthenticated,
    unavailable,
    without_intune,
)
from sandbox.tenant.groups import HIDDEN, Groups
from sandbox.tenant.odata import (
    Both,
    Either,
    Filter,
    Not,
    Query,
    Test,
    has,
    least,
    matches,
    parse_query,
    selected,
    skip_token,
    tests,
)
from sandbox.tenant.quirks import Quirks
from sandbox.tenant.schema import (
    APPROVAL,
    AUDIT,
    AUTOPILOT_IDENTITY,
    AUTOPILOT_IDENTITY_BETA,
    ENTRA_DEVICE,
    ENTRA_DEVICE_BETA,
    ENUMS,
    EXCHANGE_SUMMARY,
    GROUP,
    MANAGED_DEVICE,
    MANAGED_DEVICE_BETA,
    MANAGED_DEVICE_FILTERS,
    OS_SUMMARY,
    OVERVIEW,
    parameters,
)
from sandbox.tenant.throttle import Limits, Window

READ_DEVICES = (
    "DeviceManagementManagedDevices.Read.All",
    "DeviceManagementManagedDevices.ReadWrite.All",
)
ACT = ("DeviceManagementManagedDevices.PrivilegedOperations.All",)
READ_AUTOPILOT = (
    "DeviceManagementServiceConfig.Read.All",
    "DeviceManagementServiceConfig.ReadWrite.All",
)
READ_APPROVALS = (
    "DeviceManagementConfiguration.Read.All",
    "DeviceManagementConfiguration.ReadWrite.All",
    "DeviceManagementRBAC.Read.All",
    "DeviceManagementRBAC.ReadWrite.All",
)
READ_DIRECTORY = ("Device.Read.All", "Device.ReadWrite.All", "Directory.Read.All", "Directory.ReadWrite.All")
READ_GROUPS = ("GroupMember.Read.All", "Group.Read.All", "Directory.Read.All", "Directory.ReadWrite.All")
READ_USERS = ("User.ReadBasic.All", "User.Read.All", "Directory.Read.All", "Directory.ReadWrite.All")
READ_HIDDEN = "Member.Read.Hidden"
_DIRECTORY_ROLES = (READ_DIRECTORY[0], READ_GROUPS[0], READ_USERS[0])
DEFAULT_ROLES = (READ_DEVICES[0], ACT[0], READ_AUTOPILOT[0], READ_APPROVALS[0], *_DIRECTORY_ROLES)
"""The app roles that a tenant needs to grant, and no more."""

_GUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_SHOWN_AS_IT_IS = frozenset({"serialNumber", "deviceName", "azureADDeviceId"})
"""What every read shows of a managed device as it is, however stale it is."""
_REFERENCE_FILTERS = {
    "lastSyncDateTime": {"lt", "gt"},
    "enrolledDateTime": {"lt", "gt"},
    "deviceCategoryDisplayName": {"eq"},
    "jailBroken": {"eq"},
}
_ENTRA_FILTERS = {
    "deviceId": {"eq", "in"},
    "id": {"eq", "in"},
    "displayName": {"eq", "in", "startswith"},
    "trustType": {"eq"},
    "operatingSystem": {"eq"},
    "accountEnabled": {"eq"},
    "isManaged": {"eq"},
}
_AUDIT_FILTERS = {"requestDateTime": {"lt", "gt", "le", "ge"}, "action": {"eq"}}
_MAX_GROUPS = 20
"""Source: https://learn.microsoft.com/graph/api/directoryobject-checkmembergroups. By the same page one malformed id
fails the whole call, and groups with hidden members are left out."""
_MAX_CHILDREN = 15
"""How many values an Entra $filter may hold. Source: https://learn.microsoft.com/graph/filter-query-parameter."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One supported call: who may make it, and whether it counts as a write."""

    name: str
    template: str
    roles: tuple[str, ...]
    """Any of these."""
    method: str = "GET"
    versions: tuple[str, ...] = ("v1.0", "beta")
    also: tuple[str, ...] = ()
    """And any of these, where something is named."""

    @property
    def pattern(self) -> re.Pattern[str]:
        # A key stands in its own segment or in parentheses after the collection: devices/{id}, devices('{id}').
        text = re.escape(self.template).replace(r"/\{id\}", r"(?:/(?P<id>[^/]+)|\('(?P<key>[^/']+)'\))")
        return re.compile(text.replace(r"\{deviceId\}", r"(?P<device_id>[^/']*)"))

    @property
    def intune(self) -> bool:
        return self.template.startswith("deviceManagement")


OPERATIONS = (
    Operation("managed_devices", "deviceManagement/managedDevices", READ_DEVICES),
    Operation("managed_device", "deviceManagement/managedDevices/{id}", READ_DEVICES),
    Operation("users", "deviceManagement/managedDevices/{id}/users", READ_DEVICES),
    Operation("wipe", "deviceManagement/managedDevices/{id}/wipe", ACT, "POST"),
    Operation("sync", "deviceManagement/managedDevices/{id}/syncDevice", ACT, "POST"),
    Operation("autopilot_identities", "deviceManagement/windowsAutopilotDeviceIdentities", READ_AUTOPILOT),
    Operation("autopilot_identity", "deviceManagement/windowsAutopilotDeviceIdentities/{id}", READ_AUTOPILOT),
    Operation("audits", "deviceManagement/remoteActionAudits", READ_DEVICES, versions=("beta",)),
    Operation("approvals", "deviceManagement/operationApprovalRequests", READ_APPROVALS, versions=("beta",)),
    Operation("entra_devices", "devices", READ_DIRECTORY),
    Operation("entra_device_by_key", "devices(deviceId='{deviceId}')", READ_DIRECTORY),
    Operation("entra_device", "devices/{id}", READ_DIRECTORY),
    Operation("overview", "deviceManagement/managedDeviceOverview", READ_DEVICES),
    Operation("group", "groups/{id}", READ_GROUPS),
    *(
        Operation("device_groups", f"{path}/checkMemberGroups", READ_DIRECTORY, "POST", also=READ_GROUPS)
        for path in ("devices(deviceId='{deviceId}')", "devices/{id}")
    ),
    Operation("user_groups", "users/{id}/checkMemberGroups", READ_USERS, "POST", also=READ_GROUPS),
)
_PATTERNS = tuple((operation, operation.pattern) for operation in OPERATIONS)


@dataclass(frozen=True, slots=True)
class Audit:
    """A remote action as beta's remoteActionAudits shows it, after a while."""

    device: Device
    action: str
    at: datetime
    intune_id: str


@dataclass(slots=True)
class _Context:
    """What a handler needs to know of the call it answers."""

    call: Call
    version: Version
    now: datetime
    request_id: str
    key: str = ""

    def query(self, known: Mapping[str, str], kind: str, allowed: tuple[str, ...], top: int = 1000) -> Query:
        return parse_query(list(self.call.query), known, kind, allowed=allowed, top_limit=top)


_LIST = ("$select", "$filter", "$top", "$skiptoken", "$count")


class Tenant:
    """A tenant with its fleet. `answer` is the one way in."""

    def __init__(
        self,
        fleet: Fleet,
        rng: random.Random,
        *,
        tenant_id: str = records.NO_ID,
        roles: Iterable[str] = DEFAULT_ROLES,
        token: str = "sandbox",
        groups: Groups | None = None,
    ) -> None:
        self.fleet = fleet
        self.groups = Groups.of(fleet) if groups is None else groups
        self.tenant_id = tenant_id
        self.roles = frozenset(roles)
        self.token = token
        self.counts = CallCounts()
        self.faults = Faults(rng)
        self.approvals = Approvals()
        self._rng = rng
        self._audits: list[Audit] = []
        self._wipes_a_day = Window(fleet.quirks.daily_wipe_limit, timedelta(hours=24))
        self.limits = Limits(fleet.quirks.write_limit, fleet.quirks.call_limit)
        self._entra = _indexed(fleet, "deviceId", lambda device: device.records.entra_device)
        self._entra_objects = _indexed(fleet, "id", lambda device: device.records.entra_device)
        self._identities = _indexed(fleet, "id", lambda device: device.records.autopilot_identity)
        serials = [
            str((device.records.autopilot_identity or {}).get("serialNumber") or "").casefold()
            for device in fleet.devices
        ]
        self._serials = "\n".join(serials) + "\n"
        self._serial_starts = [0, *accumulate(len(serial) + 1 for serial in serials)][:-1]
        self._handlers: dict[str, Callable[[_Context], Answer]] = {
            "managed_devices": self._managed_devices,
            "managed_device": self._managed_device,
            "users": self._users,
            "wipe": self._wipe,
            "sync": self._sync,
            "autopilot_identities": self._autopilot_identities,
            "autopilot_identity": self._autopilot_identity,
            "audits": self._audit_list,
            "approvals": self._approval_list,
            "entra_devices": self._entra_devices,
            "entra_device_by_key": self._entra_device,
            "entra_device": self._entra_device,
            "overview": self._overview,
            "group": self._group,
            "device_groups": self._device_groups,
            "user_groups": self._user_groups,
        }

    @property
    def quirks(self) -> Quirks:
        return self.fleet.quirks

    def change_quirks(self, quirks: Quirks) -> None:
        """Behave otherwise from now on; limits take effect at once."""
        self.fleet.quirks = quirks
        self.limits.writes.limit, self.limits.calls.limit = quirks.write_limit, quirks.call_limit
        self._wipes_a_day.limit = quirks.daily_wipe_limit

    def answer(self, call: Call, now: datetime) -> Answer:
        """Answer a call at `now`, having moved the fleet on to then. Never raises for what the caller did wrong."""
        self.fleet.advance(now)
        path = unquote(call.path)
        version = path.strip("/").split("/")[0]
        if self._refused(call) is None and path == f"/{version}/$batch" and version in ("v1.0", "beta"):
            answer = self._guarded(call, now, lambda _: self._batch(call, version, now))
            self.counts.add(f"POST /{version}/$batch", answer, batched=False)
            return answer
        return self._one(call, now)

    # One call.

    def _batch(self, call: Call, version: str, now: datetime) -> Answer:
        if call.method != "POST":
            raise not_allowed()
        fault = self.faults.pick("batch", None, Quirks())
        if fault is FaultKind.LOST_REQUEST:
            return Answer(0, cut=True)
        if fault is not None and fault not in (FaultKind.LOST_ANSWER, FaultKind.UNAVAILABLE_ACTED):
            self._fail(fault, ACT, "batch")
        answer = answer_batch(call, version, lambda item: self._one(item, now), self._rng)
        if fault is FaultKind.UNAVAILABLE_ACTED:
            self._fail(fault, ACT, "batch")
        answer.cut = answer.cut or fault is FaultKind.LOST_ANSWER
        return answer

    def _one(self, call: Call, now: datetime) -> Answer:
        template = "other"

        def run(request_id: str) -> Answer:
            nonlocal template
            if not call.batched and (refused := self._refused(call)) is not None:
                raise refused
            operation, context = self._route(call, now, request_id)
            template = f"{operation.method} /{context.version}/{operation.template}"
            self._throttle(operation, now, request_id)
            self._authorise(operation, request_id)
            device = self.fleet.find(context.key) if operation.intune else None
            fault = self.faults.pick(operation.name, device.serial if device else None, self.quirks)
            if fault is FaultKind.LOST_REQUEST:
                return Answer(0, cut=True)
            if fault is not None and fault not in (FaultKind.LOST_ANSWER, FaultKind.UNAVAILABLE_ACTED):
                self._fail(fault, operation.roles, request_id)
            answer = self._handlers[operation.name](context)
            if fault is FaultKind.UNAVAILABLE_ACTED:
                self._fail(fault, operation.roles, request_id)
            answer.cut = fault is FaultKind.LOST_ANSWER
            return answer

        answer = self._guarded(call, now, run)
        self.counts.add(template, answer, batched=call.batched)
        return answer

    def _guarded(self, call: Call, now: datetime, run: Callable[[str], Answer]) -> Answer:
        request_id = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        client_id = call.headers.get("client-request-id") or request_id
        shown = now + self.quirks.clock_offset
        try:
            answer = run(request_id)
        except GraphError as error:
            body = error.message if error.html else error.body(records.exact(shown), request_id, client_id)
            answer = Answer(error.status, body, dict(error.headers))
        kind = "text/html" if isinstance(answer.body, str) else "application/json"
        if answer.body is not None:
            odata = ";odata.metadata=minimal;odata.streaming=true;IEEE754Compatible=false;charset=utf-8"
            answer.headers["Content-Type"] = kind if kind == "text/html" else kind + odata
        if not call.batched:
            answer.headers |= {
                "Date": format_datetime(shown, usegmt=True),
                "request-id": request_id,
                "client-request-id": client_id,
                "Cache-Control": "no-cache",
            }
        return answer

    def _refused(self, call: Call) -> GraphError | None:
        header = call.headers.get("authorization", "")
        if not header:
            return unauthenticated("Access token is empty.")
        kind, _, token = header.partition(" ")
        if kind.lower() != "bearer" or token != self.token:
            return unauthenticated("IDX14100: JWT is not well formed, there are no dots (.).")
        return None

    def _route(self, call: Call, now: datetime, request_id: str) -> tuple[Operation, _Context]:
        _, version, *rest = unquote(call.path).split("/", 2)
        if version not in ("v1.0", "beta"):
            raise bad_request(f"Invalid version: {version}")
        path = rest[0] if rest else ""
        found: list[tuple[Operation, dict[str, str | None]]] = []
        for operation, pattern in _PATTERNS:
            if version in operation.versions and (match := pattern.fullmatch(path)):
                found.append((operation, match.groupdict()))
        if not found:
            raise no_segment(path.rsplit("/", 1)[-1] or version)
        operation, groups = found[0]
        key = groups.get("id") or groups.get("key") or groups.get("device_id") or ""
        if operation.method != call.method:
            raise not_allowed()
        return operation, _Context(call, "v1.0" if version == "v1.0" else "beta", now, request_id, key)

    def _throttle(self, operation: Operation, now: datetime, request_id: str) -> None:
        if not self.quirks.throttle:
            return
        write = operation.method != "GET"
        wait = self.limits.intune(now, write=write) if operation.intune else self.limits.entra(now)
        if wait is not None:
            raise too_many(request_id, wait if self.quirks.retry_after == "present" else None)

    def _authorise(self, operation: Operation, request_id: str) -> None:
        if operation.intune and self.quirks.no_intune != "off":
            raise without_intune(self.quirks.no_intune, request_id)
        if self.roles.isdisjoint(operation.roles) or (operation.also and self.roles.isdisjoint(operation.also)):
            if operation.intune:
                raise intune_forbidden(operation.roles, request_id, self._shape())
            raise entra_forbidden()

    def _shape(self) -> str:
        shape = self.quirks.forbidden_shape
        return self._rng.choice(("403", "401", "500")) if shape == "varies" else shape

    def _fail(self, fault: FaultKind, roles: tuple[str, ...], request_id: str) -> None:
        lasts = max(1, ceil(self.quirks.fault_lasts.total_seconds()))
        wait = lasts if self.quirks.retry_after == "present" else None
        match fault:
            case FaultKind.TOO_MANY:
                raise too_many(request_id, wait)
            case FaultKind.UNAVAILABLE:
                raise unavailable(request_id, wait)
            case FaultKind.UNAVAILABLE_ACTED:
                raise unavailable(request_id, None, "CancelledOnServiceTimeout")
            case FaultKind.UNAVAILABLE_HTML:
                raise without_intune("503", request_id)
            case FaultKind.SERVER_ERROR:
                raise GraphError(500, "InternalServerError", intune_message("An error has occurred", request_id))
            case FaultKind.FORBIDDEN:
                raise intune_forbidden(roles, request_id, self._shape())
            case FaultKind.TOKEN_EXPIRED:
                raise unauthenticated("Lifetime validation failed, the token is expired.")
            case FaultKind.LOST_ANSWER | FaultKind.LOST_REQUEST:
                raise AssertionError("a cut connection is no error body")

    # Intune devices.

    def _known(self, version: Version) -> Mapping[str, str]:
        return MANAGED_DEVICE if version == "v1.0" else MANAGED_DEVICE_BETA

    def _managed_devices(self, context: _Context) -> Answer:
        known, quirks = self._known(context.version), self.quirks
        query = context.query(known, "managedDevice", _LIST)
        condition = self._managed_filter(query)
        wanted = tuple({test.property for test in tests(condition)}) if condition is not None else ()
        oldest = least(condition, "lastSyncDateTime")
        devices: Sequence[Device] | None = None
        match condition:
            case Test(property, "eq", (str() as value,)) if property in _SHOWN_AS_IT_IS:
                devices = self.fleet.with_value(property, value)  # as the filter would find them, without a look at all

        def shown(device: Device) -> Json | None:
            if oldest is not None and device.last_sync_at < oldest - quirks.clock_offset and not device.quirks:
                return None  # as the filter would find; it saves most of the work in a large fleet
            own = self.fleet.quirks_of(device)
            record = device.shown(context.now - own.stale_reads - own.stale_lists)
            if record is None:
                return None
            if condition is not None:
                exact = records.managed_device(device, record, own, context.version, listing=False, select=wanted)
                if not matches(condition, exact, known, or_is_and=quirks.or_acts_like_and):
                    return None
            if own.list_incomplete and self._rng.random() < own.list_incomplete:
                return None
            return records.managed_device(device, record, own, context.version, listing=True, select=query.select)

        return self._page(context, query, "deviceManagement/managedDevices", shown, quirks.page_size, devices)

    def _managed_filter(self, query: Query) -> Filter | None:
        condition, quirks = query.filter, self.quirks
        if condition is None:
            return None
        schema = quirks.filter_support == "schema"
        supported = MANAGED_DEVICE_FILTERS if schema else _REFERENCE_FILTERS
        good = all(test.operator in supported.get(test.property, ()) for test in tests(condition))
        good = good and not has(condition, Not) and (schema or not has(condition, Either))
        good = good and not (query.count and any(test.property == "azureADDeviceId" for test in tests(condition)))
        if good:
            return condition
        if quirks.unsupported_filter_ignored:
            return None
        raise bad_request("Unsupported filter: this operator is not supported on this property.")

    def _found(self, context: _Context) -> tuple[Device, IntuneRecord] | None:
        """The device of a single read, with its record as reads show it."""
        device = self._device(context)
        record = self._shown(device, context) if device else None
        if device is None or record is None or record.id != context.key.lower():
            return None
        return device, record

    def _shown(self, device: Device, context: _Context) -> IntuneRecord | None:
        return device.shown(context.now - self.fleet.quirks_of(device).stale_reads)

    def _device(self, context: _Context) -> Device | None:
        if not _GUID.fullmatch(context.key):
            raise bad_request(intune_message("The id is not a GUID", context.request_id))
        return self.fleet.find(context.key)

    def _managed_device(self, context: _Context) -> Answer:
        known = self._known(context.version)
        query = context.query(known, "managedDevice", ("$select",))
        entity = "deviceManagement/managedDevices/$entity"
        found = self._found(context)
        if found is not None:
            device, record = found
            shown = records.managed_device(
                device, record, self.fleet.quirks_of(device), context.version, listing=False, select=query.select
            )
        elif (gone := self.fleet.find(context.key)) and self.fleet.quirks_of(gone).deleted_record_stub:
            shown = selected(records.managed_device_stub(context.key, context.version), query.select)
        else:
            raise not_found("Device", context.request_id)
        return Answer(200, {"@odata.context": self._context(context, entity, query), **shown})

    def _overview(self, context: _Context) -> Answer:
        query = context.query(OVERVIEW, "managedDeviceOverview", ("$select",))
        shown = [device for device in self.fleet.devices if self._shown(device, context)]
        systems = [str((device.records.managed_device or {}).get("operatingSystem")) for device in shown]
        windows = sum(system.startswith("Windows") for system in systems)
        whole: Json = {
            "id": self.tenant_id,
            "enrolledDeviceCount": len(shown),
            "mdmEnrolledCount": len(shown),
            "dualEnrolledDeviceCount": 0,
            "deviceOperatingSystemSummary": {
                **dict.fromkeys(OS_SUMMARY, 0),
                "windowsCount": windows,
                "unknownCount": len(shown) - windows,
            },
            "deviceExchangeAccessStateSummary": dict.fromkeys(EXCHANGE_SUMMARY, 0),
        }
        where = self._context(context, "deviceManagement/managedDeviceOverview/$entity", query)
        return Answer(200, {"@odata.context": where, **selected(whole, query.select)})

    def _users(self, context: _Context) -> Answer:
        context.query({}, "user", ())
        found = self._found(context)
        if found is None:
            raise not_found("Device", context.request_id)
        user = found[1].user
        value = [records.user_json(user)] if user else []
        return Answer(200, {"@odata.context": self._context(context, "users", Query()), "value": value})

    def _wipe(self, context: _Context) -> Answer:
        context.query({}, "managedDevice", ())
        body = _action_body(context.call, parameters(context.version, "wipe"), required=True)
        device = self._target(context)
        approval = None
        if self.quirks.multi_admin_approval != "off":
            intune_id = context.key.lower()
            approval = self.approvals.check(context.call, intune_id, context.now, self.quirks, context.request_id)
        if self._wipes_a_day.take(context.now, count_refused=False) is not None:
            raise over_daily_limit(context.request_id, self.quirks.daily_limit_answer)
        self.fleet.wipe(device, body, context.now)
        if approval is not None:
            approval.become("completed", context.now)
        action = device.action_name(self.fleet.quirks_of(device))
        self._audits.append(Audit(device, action, context.now, context.key.lower()))
        return Answer(204)

    def _sync(self, context: _Context) -> Answer:
        context.query({}, "managedDevice", ())
        _action_body(context.call, parameters(context.version, "syncDevice"), required=False)
        self.fleet.request_sync(self._target(context), context.now)
        return Answer(204)

    def _target(self, context: _Context) -> Device:
        """The device of an action, with the record as it is: actions are not taken from stale copies."""
        device = self._device(context)
        if device is None or device.intune is None or device.intune.id != context.key.lower():
            raise not_found("Device", context.request_id)
        return device

    # Autopilot, audits, approvals.

    def _autopilot_known(self, version: Version) -> Mapping[str, str]:
        return AUTOPILOT_IDENTITY if version == "v1.0" else AUTOPILOT_IDENTITY_BETA

    def _autopilot_identities(self, context: _Context) -> Answer:
        known = self._autopilot_known(context.version)
        query = context.query(known, "windowsAutopilotDeviceIdentity", _LIST)
        condition = query.filter
        if condition is not None and not all(
            (test.property, test.operator) == ("serialNumber", "contains") for test in tests(condition)
        ):
            raise bad_request("Filter is only supported as contains(serialNumber,'...') on this resource.")

        def shown(device: Device) -> Json | None:
            own = self.fleet.quirks_of(device)
            if condition is not None:
                serial = {"serialNumber": records.autopilot_serial(device, own)}
                if not matches(condition, serial, known):
                    return None
            record = self._shown(device, context)
            identity = records.autopilot_identity(device, record, own, context.version, listing=True)
            if identity is None:
                return None
            return selected(identity, query.select)

        path = "deviceManagement/windowsAutopilotDeviceIdentities"
        devices = None
        if isinstance(condition, Test):  # nearly always, of one device: the others need no closer look
            part = str(condition.values[0] or "").strip().casefold()
            devices = self._with_serial(part)
        return self._page(context, query, path, shown, self.quirks.page_size, devices)

    def _with_serial(self, part: str) -> Sequence[Device]:
        """Devices whose serial number holds this."""
        found: dict[int, None] = {}
        at = self._serials.find(part)
        while at >= 0:
            number = bisect_right(self._serial_starts, at) - 1
            found[number] = None
            at = self._serials.find(part, at + 1)
        return [self.fleet.devices[number] for number in found]

    def _autopilot_identity(self, context: _Context) -> Answer:
        known = self._autopilot_known(context.version)
        query = context.query(known, "windowsAutopilotDeviceIdentity", ("$select",))
        for device in self._identities.get(context.key.lower(), ()):
            record, own = self._shown(device, context), self.fleet.quirks_of(device)
            shown = records.autopilot_identity(device, record, own, context.version, listing=False) or {}
            entity = "deviceManagement/windowsAutopilotDeviceIdentities/$entity"
            where = self._context(context, entity, query)
            return Answer(200, {"@odata.context": where, **selected(shown, query.select)})
        raise not_found("Autopilot device identity", context.request_id)

    def _audit_list(self, context: _Context) -> Answer:
        query = context.query(AUDIT, "remoteActionAudit", _LIST)
        condition = query.filter
        if condition is not None and (
            has(condition, Not)
            or not all(test.operator in _AUDIT_FILTERS.get(test.property, ()) for test in tests(condition))
        ):
            if not self.quirks.unsupported_filter_ignored:
                raise bad_request("Unsupported filter: this operator is not supported on this property.")
            condition = None
        shown: list[Json] = []
        for number, audit in enumerate(self._audits):
            if context.now < audit.at + self.fleet.quirks_of(audit.device).audit_lag:
                continue
            one = self._audit_json(number, audit)
            if condition is None or matches(condition, one, AUDIT):
                shown.append(selected(one, query.select))
        return self._page_of(context, query, "deviceManagement/remoteActionAudits", shown)

    def _audit_json(self, number: int, audit: Audit) -> Json:
        record = audit.device.intune
        state = next(
            (one.state for one in (record.actions if record else ()) if one.started_at == audit.at),
            "done" if record is None else "pending",
        )
        return {
            "id": str(uuid.uuid5(ID_NAMESPACE, f"audit/{number}/{audit.intune_id}")),
            "deviceDisplayName": audit.device.name,
            "userName": "",
            "initiatedByUserPrincipalName": "",
            "action": audit.action,
            "requestDateTime": records.exact(audit.at + self.quirks.clock_offset),
            "deviceOwnerUserPrincipalName": "",
            "deviceIMEI": "",
            "actionState": state,
            "managedDeviceId": audit.intune_id,
            "deviceActionCategory": "single",
            "bulkDeviceActionId": "",
        }

    def _approval_list(self, context: _Context) -> Answer:
        query = context.query(APPROVAL, "operationApprovalRequest", _LIST)
        condition = None if self.quirks.approval_filter == "ignored" else query.filter
        if condition is not None and self.quirks.approval_filter == "refused":
            raise bad_request("Unsupported filter: this operator is not supported on this property.")
        named = {*query.select, *(test.property for test in (tests(condition) if condition else ()))}
        if "requestId" in named and self.quirks.approval_ids == "id":
            raise no_property("requestId", "operationApprovalRequest")
        shown = [
            selected(one, query.select)
            for one in self.approvals.listing(context.now, self.quirks)
            if condition is None or matches(condition, one, APPROVAL)
            if self._rng.random() >= self.quirks.list_incomplete
        ]
        return self._page_of(context, query, "deviceManagement/operationApprovalRequests", shown)

    # Entra devices.

    def _entra_known(self, version: Version) -> Mapping[str, str]:
        return ENTRA_DEVICE if version == "v1.0" else ENTRA_DEVICE_BETA

    def _entra_devices(self, context: _Context) -> Answer:
        known = self._entra_known(context.version)
        query = context.query(known, "device", _LIST, top=999)
        condition = query.filter
        if condition is not None:
            found = list(tests(condition))
            children = sum(len(test.values) for test in found)
            if has(condition, Not) or not all(test.operator in _ENTRA_FILTERS.get(test.property, ()) for test in found):
                raise bad_request(
                    "Unsupported or invalid query filter clause specified for property of resource 'Device'.",
                    "Request_UnsupportedQuery",
                )
            if children > _MAX_CHILDREN:
                raise bad_request(
                    "Too many child clauses specified in search filter expression containing 'OR' operators: "
                    f"{children}. Max allowed: {_MAX_CHILDREN}.",
                    "Request_UnsupportedQuery",
                )

        def shown(device: Device) -> Json | None:
            source = device.records.entra_device
            if source is None or (condition is not None and not matches(condition, source, known)):
                return None
            return selected(records.entra_device(device, context.version) or {}, query.select)

        devices: Iterable[Device] = self.fleet.devices
        among = [] if condition is None or has(condition, Both) else list(tests(condition))
        if among and all(test.property == "deviceId" for test in among):  # the one filter that must be quick
            wanted = dict.fromkeys(str(value).lower() for test in among for value in test.values)
            devices = [device for value in wanted for device in self._entra.get(value, ())]
        if context.call.headers.get("consistencylevel", "").lower() != "eventual":
            query = Query(query.select, query.filter, query.top, query.start)  # $count needs the header
        return self._page(context, query, "devices", shown, min(100, self.quirks.page_size), tuple(devices))

    def _entra_device(self, context: _Context) -> Answer:
        query = context.query(self._entra_known(context.version), "device", ("$select",))
        index = self._entra if "(deviceId=" in context.call.path else self._entra_objects
        if not _GUID.fullmatch(context.key):
            raise bad_request(f"Invalid object identifier '{context.key}'.", "Request_BadRequest")
        for device in index.get(context.key.lower(), ()):
            shown = selected(records.entra_device(device, context.version) or {}, query.select)
            where = self._context(context, "devices/$entity", query)
            return Answer(200, {"@odata.context": where, **shown})
        raise not_in_directory(context.key)

    # Groups.

    def _group(self, context: _Context) -> Answer:
        query = context.query(GROUP, "group", ("$select",))
        self._groups_may_be_read()
        group = self.groups.groups.get(_object_id(context.key))
        if group is None:
            raise not_in_directory(context.key)
        whole: Json = {"id": group.id, "displayName": group.name, "visibility": HIDDEN if group.hidden else None}
        where = self._context(context, "groups/$entity", query)
        return Answer(200, {"@odata.context": where, **selected(whole, query.select)})

    def _device_groups(self, context: _Context) -> Answer:
        index = self._entra if "(deviceId=" in context.call.path else self._entra_objects
        found = index.get(_object_id(context.key), ())
        records = [str(one.records.entra_device.get("id")).lower() for one in found if one.records.entra_device]
        return self._held_by(context, records[0] if records else None)

    def _user_groups(self, context: _Context) -> Answer:
        user = _object_id(context.key)
        return self._held_by(context, user if self.groups.knows(user) else None)

    def _held_by(self, context: _Context, member: str | None) -> Answer:
        """Which of the groups that the call names hold a device or user, by its object id; None: there is none."""
        context.query({}, "directoryObject", ())
        self._groups_may_be_read()
        asked = _group_ids(context.call)
        if member is None:
            raise not_in_directory(context.key)
        unknown = [group for group in asked if group not in self.groups.groups]
        if unknown and self.quirks.unknown_groups == "404":
            raise not_in_directory(unknown[0])
        held = self.groups.holding(member, context.now, self.quirks.group_lag, self._rng)
        hidden = {one.id for one in self.groups.groups.values() if one.hidden and READ_HIDDEN not in self.roles}
        where = f"{context.call.base_url}/{context.version}/$metadata#Collection(Edm.String)"
        return Answer(200, {"@odata.context": where, "value": [one for one in asked if one in held - hidden]})

    def _groups_may_be_read(self) -> None:
        if self.quirks.groups_forbidden:
            raise entra_forbidden()

    # Pages.

    def _page(
        self,
        context: _Context,
        query: Query,
        path: str,
        shown: Callable[[Device], Json | None],
        default_size: int,
        devices: Sequence[Device] | None = None,
    ) -> Answer:
        """One page, built without the ones after it; only $count looks at everything."""
        size = query.top if query.top is not None else default_size
        if path != "devices":
            size = min(size, self.quirks.page_size)
        devices = self.fleet.devices if devices is None else devices
        value, at = list[Json](), query.start
        following: int | None = None
        while at < len(devices):
            one = shown(devices[at])
            if one is not None and len(value) == size:
                following = at
                break
            if one is not None:
                value.append(one)
            at += 1
        body: Json = {"@odata.context": self._context(context, path, query)}
        if query.count:
            body["@odata.count"] = sum(shown(device) is not None for device in devices)
        if following is not None:
            body["@odata.nextLink"] = self._next_link(context, path, following)
        return Answer(200, body | {"value": value})

    def _page_of(self, context: _Context, query: Query, path: str, rows: Sequence[Json]) -> Answer:
        """One page of rows that are few enough to be built all at once."""
        end = query.start + min(query.top or self.quirks.page_size, self.quirks.page_size)
        body: Json = {"@odata.context": self._context(context, path, query)}
        if end < len(rows):
            body["@odata.nextLink"] = self._next_link(context, path, end)
        return Answer(200, body | {"value": list(rows[query.start : end])})

    def _next_link(self, context: _Context, path: str, start: int) -> str:
        kept = [(key, value) for key, value in context.call.query if key.lstrip("$").lower() != "skiptoken"]
        query = urlencode([*kept, ("$skiptoken", skip_token(start))], safe="$,'()")
        return f"{context.call.base_url}/{context.version}/{path}?{query}"

    def _context(self, context: _Context, path: str, query: Query) -> str:
        chosen = f"({','.join(query.select)})" if query.select else ""
        resource, _, entity = path.partition("/$entity")
        tail = "/$entity" if path.endswith("/$entity") else entity
        return f"{context.call.base_url}/{context.version}/$metadata#{resource}{chosen}{tail}"


def _object_id(text: str) -> str:
    if not _GUID.fullmatch(text):
        raise bad_request(f"Invalid object identifier '{text}'.", "Request_BadRequest")
    return text.lower()


def _group_ids(call: Call) -> list[str]:
    """The groups that a checkMemberGroups names; one that is malformed spoils them all."""
    try:
        body = json.loads(call.body)
    except ValueError:
        raise bad_request("Unable to read JSON request payload. Please ensure Content-Type header is set.") from None
    named = body.get("groupIds") if isinstance(body, dict) and len(body) == 1 else None
    if not isinstance(named, list) or not named or not all(isinstance(one, str) for one in named):
        raise bad_request("Invalid value specified for property 'groupIds' of resource 'DirectoryObject'.")
    if not call.headers.get("content-type", "").lower().startswith("application/json"):
        raise bad_request("A missing or empty content type header was found when trying to read a message.")
    if len(named) > _MAX_GROUPS:
        raise bad_request(f"'groupIds' contains more than {_MAX_GROUPS} items.", "Request_BadRequest")
    return list(dict.fromkeys(map(_object_id, named)))


def _indexed(fleet: Fleet, key: str, record: Callable[[Device], Json | None]) -> dict[str, list[Device]]:
    """The devices by a property of one of their records, in lower case."""
    index: dict[str, list[Device]] = {}
    for device in fleet.devices:
        if (found := record(device)) is not None:
            index.setdefault(str(found.get(key)).lower(), []).append(device)
    return index


def _action_body(call: Call, known: Mapping[str, str], *, required: bool) -> Json:
    """Read an action's parameters; raises GraphError 400 for anything the action's signature does not hold."""
    if not call.body:
        if required:
            raise bad_request("Empty Payload. JSON content expected.")
        return {}
    if not call.headers.get("content-type", "").lower().startswith("application/json"):
        raise bad_request("A missing or empty content type header was found when trying to read a message.")
    try:
        body = json.loads(call.body, object_pairs_hook=_once)
    except ValueError:
        raise bad_request("Unable to read JSON request payload. Please ensure Content-Type header is set.") from None
    if not isinstance(body, dict):
        raise bad_request("Unable to read JSON request payload. An object was expected.")
    for name, value in body.items():
        if name not in known:
            raise bad_request(
                f"The parameter '{name}' in the request payload is not a valid parameter for the operation."
            )
        good = isinstance(value, bool if known[name] == "Boolean" else str)
        if value is not None and not (good and value in ENUMS.get(known[name], (value,))):
            raise bad_request(f"Cannot convert the literal '{value}' to the expected type of parameter '{name}'.")
    return body


def _once(pairs: list[tuple[str, object]]) -> Json:
    """A JSON object, unless it names a member twice: which one counts would be a guess."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("duplicate property names")
    return found
