"""Traffic of the gateway with the simulated tenant, held against Graph's published schema; and the checker itself."""

import asyncio
import contextlib
import json
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import cycle, product
from pathlib import Path

import httpx
import pytest

from sandbox.graph_schema.check import Rule, check, main
from sandbox.processes import ready_line, spawn, stop
from sandbox.tenant.quirks import Quirks
from shared.domain.devices import DeviceReference, ReferenceKind
from shared.domain.ids import ManagedDeviceId, OrderId
from shared.graph.credential import StaticTokenCredential
from shared.graph.endpoint import GraphEndpoint
from shared.graph.gateway import GraphIntune, Patience
from shared.pipeline.ports import GraphError, Intune, Order

type Json = dict[str, object]

SCENARIO = """
[scenario]
name = "traffic"
speed = 60

[tenant.quirks]
stale_reads = "PT0S"
audit_lag = "PT0S"
page_size = 3

[[devices]]
count = 7
name = "LAB-{n:02}"
serial = "5CG{n:04}"
group_tag = "LAB"
first_check_in = "PT1M"

[[devices]]
name = "SHELF-01"
serial = "SHELF001"
group_tag = "LAB"
enrolled = false

[[groups]]
name = "Board"
id = "99999999-0000-4000-8000-000000000001"
members = ["device:5CG0001", "user:student2@contoso.example"]
"""
BOARD, NO_GROUP = "99999999-0000-4000-8000-000000000001", "99999999-0000-4000-8000-00000000000f"

# The recorded run.


async def traffic(graph: str) -> set[str]:
    """Use every method of the gateway, rightly and under faults; the names of those used."""
    used: set[str] = set()
    nobody = ManagedDeviceId("00000000-0000-4000-8000-000000000000")
    began = datetime(2000, 1, 1, tzinfo=UTC)
    patience = Patience(attempts=2, first=timedelta(milliseconds=1))

    async def control(what: str, **body: object) -> None:
        (await tenant.request("POST" if body else "DELETE", f"/sandbox/{what}", json=body)).raise_for_status()

    def orders(*devices: ManagedDeviceId, code: str = "") -> list[Order]:
        return [Order(device, OrderId(str(uuid.uuid4())), approval_code=code) for device in devices]

    async with (
        httpx.AsyncClient(base_url=graph, trust_env=False) as tenant,
        await GraphIntune.create(
            GraphEndpoint.parse(graph), StaticTokenCredential("sandbox"), patience=patience
        ) as intune,
    ):

        async def changed(since: datetime) -> list[object]:
            return [change async for change in intune.changed_since(since)]

        async def use(name: str, call: Callable[[], Awaitable[object]]) -> None:
            used.add(name)
            with contextlib.suppress(GraphError):
                await call()

        for filters in ("reference", "schema"):
            await control("quirks", filter_support=filters)
            for kind, value in (
                (ReferenceKind.NAME, "LAB-01"),
                (ReferenceKind.SERIAL_NUMBER, "5CG0002"),
                (ReferenceKind.SERIAL_NUMBER, "SHELF001"),
                (ReferenceKind.GROUP_TAG, "LAB"),
                (ReferenceKind.NAME, "it's, or not & %41 +?#/"),
                (ReferenceKind.INTUNE_ID, nobody),
                (ReferenceKind.ENTRA_DEVICE_ID, nobody),
            ):
                reference = DeviceReference(kind, value)
                await use("find", lambda reference=reference: intune.find([reference]))  # type: ignore[misc]  # bound now
        many = [DeviceReference(ReferenceKind.SERIAL_NUMBER, f"5CG{n:04}") for n in range(1, 9)]
        found = await intune.find(many)
        devices = [finding.devices[0].managed.id for finding in found.values() if finding.devices]
        assert len(devices) == 7
        await use("facts", lambda: intune.facts([*devices, nobody]))
        await use("managed", lambda: intune.managed([*devices, nobody]))
        facts = [finding.devices[0] for finding in found.values() if finding.devices]
        assert sum(map(len, (await intune.memberships(facts, frozenset({BOARD}))).values())) == 2
        await use("memberships", lambda: intune.memberships(facts, frozenset({BOARD, NO_GROUP})))
        await use("fleet_size", intune.fleet_size)
        await use("look", lambda: intune.look([*devices, nobody]))
        await use("sync", lambda: intune.sync(orders(devices[0], nobody)))
        await use("reset", lambda: intune.reset(orders(*devices[:3], nobody)))
        await use("wipe", lambda: intune.wipe(orders(devices[5], nobody)))
        for fault in ("429", "503", "503_html", "500", "forbidden", "lost_answer", "503_acted"):
            await control("faults", on="wipe", fault=fault)
            await use("reset", lambda: intune.reset(orders(devices[3])))
            await control("faults", on="wipe", fault=fault)
            await use("wipe", lambda: intune.wipe(orders(devices[3])))
            for read in ("managed_device", "managed_devices"):
                await control("faults", on=read, fault=fault)
            await use("look", lambda: intune.look([devices[0]]))
            await use("changed_since", lambda: changed(began))
            await control("faults", on="approvals", fault=fault)
            await use("admin_decisions", lambda: intune.admin_decisions([nobody]))
            await control("faults")
        ways = product(("id", "request_id", "both"), ("works", "ignored", "refused"))
        for status, (ids, filters) in zip(cycle(("400", "403", "409", "412")), ways, strict=False):
            await control("quirks", multi_admin_approval=status, approval_ids=ids, approval_filter=filters, page_size=1)
            held = (await intune.reset(orders(devices[6])))[devices[6]].approval_code
            assert held is not None
            await use("admin_decisions", partial(intune.admin_decisions, [held, nobody]))
            await control("approvals", decision="approved" if filters == "works" else "rejected")
            await intune.reset(orders(devices[6], code=held))
        await use("audited_resets", lambda: intune.audited_resets(devices, began))
    return used


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], Json]:
    """The methods used, and the recording."""
    folder = tmp_path_factory.mktemp("traffic")
    (folder / "scenario.toml").write_text(SCENARIO, "utf-8")
    har, errors = folder / "graph.har", folder / "stderr.log"
    command: list[str | Path] = [sys.executable, "-m", "sandbox.tenant", "--scenario", folder / "scenario.toml"]
    process = spawn([*command, "--port", "0", "--har", har], stdout=subprocess.PIPE, stderr=errors)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("shared.graph.finding.MOST_ASKED_SINGLY", 2)  # so that eight devices are listed
            used = asyncio.run(traffic(str(ready_line(process, stderr=errors)["url"])))
    finally:
        stop(process)
    return used, json.loads(har.read_text("utf-8"))


def test_every_method_of_the_gateway_is_in_the_recording(recorded: tuple[set[str], Json]) -> None:
    assert recorded[0] == {name for name in vars(Intune) if not name.startswith("_")}


def test_all_that_the_gateway_sends_and_the_tenant_answers_is_as_graph_publishes_it(
    recorded: tuple[set[str], Json],
) -> None:
    assert [str(fault) for fault in check(recorded[1])] == []


def test_the_recording_holds_what_the_rules_are_about(recorded: tuple[set[str], Json]) -> None:
    text = json.dumps(recorded[1])
    for part in (
        "/wipe",
        "/syncDevice",
        "/beta/",
        "$select",
        "$filter",
        "@odata.nextLink",
        "remoteActionAudits",
        "x-msft-approval-code",
    ):
        assert part in text, part
    for part in ("joinType", "checkMemberGroups", "managedDeviceOverview", "/groups/"):
        assert part in text, part
    assert {200, 204, 404, 429, 500, 503} <= statuses(recorded[1])


def statuses(har: Json) -> set[object]:
    log = har["log"]
    assert isinstance(log, dict)
    found: set[object] = set()
    for entry in log["entries"]:
        found.add(entry["response"]["status"])
        if entry["request"]["url"].endswith("$batch") and entry["response"]["status"] == 200:
            found |= {one["status"] for one in json.loads(entry["response"]["content"]["text"])["responses"]}
    return found


# The checker: a right call of each kind, and each rule broken.

HOST = "https://graph.test"
BETA = f"{HOST}/beta/deviceManagement/managedDevices"
DEVICES = f"{HOST}/v1.0/deviceManagement/managedDevices"
ID = "11111111-1111-4111-8111-111111111111"
ONE = f"{DEVICES}/{ID}"
HELD = f"{HOST}/v1.0/devices(deviceId='{ID}')"
OVERVIEW = f"{HOST}/v1.0/deviceManagement/managedDeviceOverview"
APPROVALS = f"{HOST}/beta/deviceManagement/operationApprovalRequests"
RESET = {"keepEnrollmentData": True, "keepUserData": False}
ERROR = {
    "error": {
        "code": "ResourceNotFound",
        "message": "",
        "innerError": {"date": "2026-03-02T09:00:00", "request-id": ""},
    }
}
DEVICE: Json = {
    "id": ID,
    "deviceName": None,
    "lastSyncDateTime": "2026-03-02T09:00:00.1234567Z",
    "managementState": "managed",
    "isEncrypted": True,
    "totalStorageSpaceInBytes": 2**40,
    "deviceActionResults": [
        {
            "@odata.type": "#microsoft.graph.deviceActionResult",
            "actionName": "automaticRedeployment",
            "actionState": "done",
            "startDateTime": "2026-03-02T09:00:00Z",
            "lastUpdatedDateTime": "0001-01-01T00:00:00Z",
        }
    ],
}
JSON = {"Content-Type": "application/json"}


def listed(*rows: Json, **more: object) -> Json:
    return {"@odata.context": "x", **more, "value": list(rows)}


def entry(
    method: str,
    url: str,
    answer: object = None,
    *,
    status: int = 200,
    sent: object = None,
    headers: dict[str, str] | None = None,
    answered: dict[str, str] | None = None,
) -> Json:
    """An entry of a HAR: `answer` and `sent` are JSON, or texts as they are."""
    content = answer if isinstance(answer, str) else "" if answer is None else json.dumps(answer)
    typed = {} if sent is None else JSON
    request: Json = {
        "method": method,
        "url": url,
        "headers": pairs({"Authorization": "REDACTED", **typed} | (headers or {})),
    }
    if sent is not None:
        request["postData"] = {"text": sent if isinstance(sent, str) else json.dumps(sent)}
    replied = answered if answered is not None else JSON if content else {}
    return {"request": request, "response": {"status": status, "headers": pairs(replied), "content": {"text": content}}}


def pairs(headers: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in headers.items()]


def har(*entries: object) -> Json:
    return {"log": {"entries": list(entries)}}


def read(answer: object, query: str = "", **more: object) -> Json:
    return entry("GET", f"{DEVICES}{query}", answer, **more)  # type: ignore[arg-type]  # passed on


def shown(**changes: object) -> Json:
    """A list with one device, changed."""
    return read(listed({**DEVICE, **changes}))


def wiped(body: object) -> Json:
    return entry("POST", f"{ONE}/wipe", status=204, sent=body)


def held_by(body: object, answer: object = None, *, status: int = 200) -> Json:
    answer = listed() if answer is None and status == 200 else answer
    return entry("POST", f"{HELD}/checkMemberGroups", answer, status=status, sent=body)


def batch(items: object, responses: object, **more: object) -> Json:
    sent = {"requests": items}
    return entry("POST", f"{HOST}/v1.0/$batch", {"responses": responses}, sent=sent, **more)  # type: ignore[arg-type]


def item(**changes: object) -> Json:
    url = f"/deviceManagement/managedDevices/{ID}/wipe"
    return {"id": "1", "method": "POST", "url": url, "headers": JSON, "body": RESET, **changes}


DONE = {"id": "1", "status": 204, "headers": {}}

RIGHT = {
    "list": read(listed(DEVICE)),
    "select": read(
        listed({"id": ID}), "?$select=id&$filter=serialNumber%20eq%20'x'%20and%20deviceName%20eq%20'y'&$top=1"
    ),
    "encoded select": read(listed({"id": ID, "deviceName": ""}), "?%24select=id,deviceName"),
    "next page": read(
        listed(**{"@odata.nextLink": f"{DEVICES}?$select=id&$skiptoken=abc"}), "?$select=id&$skiptoken=x"
    ),
    "entity": entry("GET", f"{ONE}?$select=id", {"@odata.context": "x", "id": ID}),
    "key in parentheses": entry("GET", f"{DEVICES}('{ID}')", {"@odata.context": "x", **DEVICE}),
    "alternate key": entry("GET", f"{HOST}/v1.0/devices(deviceId='{ID}')", {"@odata.context": "x", "deviceId": ID}),
    "users": entry("GET", f"{ONE}/users", listed({"id": ID, "mail": None})),
    "beta": entry("GET", f"{HOST}/beta/deviceManagement/managedDevices", listed({"joinType": "azureADJoined"})),
    "beta select": entry(
        "GET",
        f"{HOST}/beta/deviceManagement/managedDevices?$select=joinType&$filter=serialNumber%20eq%20'x'",
        listed({"joinType": "unknown"}),
    ),
    "device's groups": entry("POST", f"{HELD}/checkMemberGroups", listed() | {"value": [ID]}, sent={"groupIds": [ID]}),
    "user's groups": entry("POST", f"{HOST}/v1.0/users/{ID}/checkMemberGroups", listed(), sent={"groupIds": [ID]}),
    "group": entry("GET", f"{HOST}/v1.0/groups/{ID}?$select=id", {"@odata.context": "x", "id": ID}),
    "overview": entry("GET", OVERVIEW, {"@odata.context": "x", "id": "", "enrolledDeviceCount": 1}),
    "audits": entry("GET", f"{HOST}/beta/deviceManagement/remoteActionAudits", listed({"action": "factoryReset"})),
    "approvals": entry("GET", f"{APPROVALS}?$filter=requestId%20eq%20'x'", listed({"id": "x", "status": "approved"})),
    "wipe": wiped(RESET),
    "sync": entry("POST", f"{ONE}/syncDevice", status=204),
    "batch": batch([item()], [DONE]),
    "batch of one failure": batch([item()], [{"id": "1", "status": 404, "headers": JSON, "body": ERROR}]),
    "error": entry("GET", ONE, ERROR, status=404),
    "page of a gateway": entry("GET", ONE, "<html>", status=503, answered={"Content-Type": "text/html"}),
    "cut": entry("POST", f"{ONE}/wipe", status=0, sent=RESET),
    "token": entry("POST", f"{HOST}/tenant/oauth2/v2.0/token", {"access_token": "REDACTED"}, sent="scope=x"),
    "nothing": read(listed()),
}

BROKEN: list[tuple[object, Rule]] = [
    ("no entry", Rule.HAR),
    ({"request": {}}, Rule.HAR),
    (read(listed(), headers={"Authorization": "Bearer abc"}), Rule.TOKEN),
    (read(listed(), headers={"Authorization": ""}), Rule.TOKEN),
    # Paths and methods.
    (entry("GET", f"{HOST}/v2.0/devices", listed()), Rule.PATH),
    (entry("GET", f"{HOST}/v1.0/nothing", listed()), Rule.PATH),
    (entry("GET", f"{HOST}/v1.0/deviceManagement/remoteActionAudits", listed()), Rule.PATH),
    (entry("GET", f"{DEVICES}/no-guid", DEVICE), Rule.PATH),
    (entry("GET", f"{DEVICES}(serialNumber='{ID}')", DEVICE), Rule.PATH),
    (entry("GET", f"{ONE}/nothing", listed()), Rule.PATH),
    (entry("POST", f"{ONE}/retire", status=204), Rule.PATH),
    (entry("POST", f"{HOST}/v1.0/devices/{ID}/wipe", status=204, sent=RESET), Rule.PATH),
    (entry("GET", f"{HOST}/v1.0/users", listed()), Rule.PATH),
    (entry("GET", f"{HOST}/v1.0/groups", listed()), Rule.PATH),
    (entry("GET", f"{HOST}/beta/groups/{ID}", {"@odata.context": "x", "id": ID}), Rule.PATH),
    (entry("POST", f"{HOST}/v1.0/users(deviceId='{ID}')/checkMemberGroups", listed(), sent=HELD), Rule.PATH),
    (entry("POST", f"{ONE}/checkMemberGroups", listed(), sent={"groupIds": [ID]}), Rule.PATH),
    (entry("GET", f"{HELD}/checkMemberGroups", listed()), Rule.METHOD),
    (entry("DELETE", ONE, status=204), Rule.METHOD),
    (entry("PATCH", ONE, status=204, sent={}), Rule.METHOD),
    (entry("GET", f"{ONE}/wipe", status=204), Rule.METHOD),
    (entry("GET", f"{HOST}/v1.0/$batch", {"responses": []}), Rule.METHOD),
    (read(listed(), sent={}), Rule.METHOD),
    # Queries.
    (read(listed(), "?$select=joinType"), Rule.QUERY),
    (read(listed(), "?$filter=nosuch%20eq%20'x'"), Rule.QUERY),
    (read(listed(), "?$filter=lastSyncDateTime%20gt%20'x'"), Rule.QUERY),
    (read(listed(), "?$filter=lastSyncDateTime%20ge%202026-01-01T00:00:00Z"), Rule.QUERY),
    (read(listed(), "?$filter=userId%20eq%20'x'"), Rule.QUERY),
    (read(listed(), "?$filter=managementState%20eq%20'nosuch'"), Rule.QUERY),
    (read(listed(), "?$filter=model%20eq%20'x'%20or%20model%20eq%20'y'"), Rule.QUERY),
    (read(listed(), "?$filter=not%20(model%20eq%20'x')"), Rule.QUERY),
    (read(listed(), "?$expand=users"), Rule.QUERY),
    (read(listed(), "?$top=1001"), Rule.QUERY),
    (read(listed(DEVICE, DEVICE), "?$top=1"), Rule.QUERY),
    (entry("GET", f"{HOST}/v1.0/devices?$top=1000", listed()), Rule.QUERY),
    (entry("GET", f"{ONE}?$filter=model%20eq%20'x'", {"@odata.context": "x", "id": ID}), Rule.QUERY),
    (entry("POST", f"{ONE}/syncDevice?$select=id", status=204), Rule.QUERY),
    (entry("GET", f"{OVERVIEW}?$filter=id%20eq%20'x'", {"@odata.context": "x", "id": ""}), Rule.QUERY),
    (entry("GET", f"{BETA}?$filter=joinType%20eq%20'unknown'", listed()), Rule.QUERY),
    (entry("GET", f"{BETA}?$filter=userId%20eq%20'x'", listed()), Rule.QUERY),
    (entry("GET", f"{BETA}?$filter=model%20eq%20'x'%20or%20model%20eq%20'y'", listed()), Rule.QUERY),
    # Actions.
    (held_by({}), Rule.PARAMETER),
    (held_by({"groupIds": ID}), Rule.PARAMETER),
    (held_by({"groupIds": [1]}), Rule.PARAMETER),
    (held_by({"groupIds": [ID], "securityEnabledOnly": True}), Rule.PARAMETER),
    (held_by({"groupIds": [ID] * 21}), Rule.PARAMETER),
    (entry("POST", f"{HELD}/checkMemberGroups", listed()), Rule.PARAMETER),
    (held_by({"groupIds": [ID]}, status=204), Rule.STATUS),
    (held_by({"groupIds": [ID]}, {"value": []}), Rule.RECORD),
    (held_by({"groupIds": [ID]}, {"@odata.context": "x", "value": [{"id": ID}]}), Rule.RECORD),
    (held_by({"groupIds": [ID]}, {"@odata.context": "x", "value": ID}), Rule.RECORD),
    (entry("GET", OVERVIEW, {"@odata.context": "x", "enrolledDeviceCount": "1"}), Rule.RECORD),
    (wiped({}), Rule.PARAMETER),
    (wiped({"keepEnrollmentData": True}), Rule.PARAMETER),
    (wiped({"keepUserData": False}), Rule.PARAMETER),
    (wiped({"keepEnrollmentData": None, "keepUserData": False}), Rule.PARAMETER),
    (wiped({"keepEnrollmentData": "true", "keepUserData": False}), Rule.PARAMETER),
    (wiped({"keepEnrollmentData": 1, "keepUserData": False}), Rule.PARAMETER),
    (wiped({**RESET, "useProtectedWipe": True}), Rule.PARAMETER),
    (wiped({**RESET, "macOsUnlockCode": 1}), Rule.PARAMETER),
    (wiped([]), Rule.PARAMETER),
    (wiped("{"), Rule.PARAMETER),
    (entry("POST", f"{ONE}/wipe", status=204), Rule.PARAMETER),
    (entry("POST", f"{ONE}/syncDevice", status=204, sent={"now": True}), Rule.PARAMETER),
    (entry("POST", f"{ONE}/wipe", status=204, sent=RESET, headers={"Content-Type": "text/plain"}), Rule.CONTENT_TYPE),
    (entry("POST", f"{ONE}/wipe", {}, status=200, sent=RESET), Rule.STATUS),
    (entry("POST", f"{ONE}/wipe", "x", status=204, sent=RESET), Rule.STATUS),
    (entry("POST", f"{ONE}/wipe", status=202, sent=RESET), Rule.STATUS),
    # Records.
    (read(listed(), status=206), Rule.STATUS),
    (entry("GET", ONE, status=204), Rule.STATUS),
    (read({"value": []}), Rule.RECORD),
    (read({"@odata.context": "x"}), Rule.RECORD),
    (read(listed(more=1)), Rule.RECORD),
    (read("<html>"), Rule.RECORD),
    (read(listed(), answered={}), Rule.CONTENT_TYPE),
    (shown(joinType="azureADJoined"), Rule.RECORD),
    (shown(serialNumber=4711), Rule.RECORD),
    (shown(isEncrypted="true"), Rule.RECORD),
    (shown(isEncrypted=None), Rule.RECORD),
    (shown(totalStorageSpaceInBytes="1"), Rule.RECORD),
    (shown(totalStorageSpaceInBytes=2**63), Rule.RECORD),
    (shown(totalStorageSpaceInBytes=True), Rule.RECORD),
    (shown(lastSyncDateTime="2026-03-02"), Rule.RECORD),
    (shown(lastSyncDateTime="2026-03-02T09:00:00.12345678Z"), Rule.RECORD),
    (shown(lastSyncDateTime=None), Rule.RECORD),
    (shown(managementState="resetting"), Rule.RECORD),
    (shown(managementState="ManagedX"), Rule.RECORD),
    (shown(managementAgent="nosuch"), Rule.RECORD),
    (shown(deviceActionResults={}), Rule.RECORD),
    (shown(deviceActionResults=None), Rule.RECORD),
    (shown(deviceActionResults=[None]), Rule.RECORD),
    (shown(deviceActionResults=[{"actionState": "finished"}]), Rule.RECORD),
    (shown(deviceActionResults=[{"errorCode": 1}]), Rule.RECORD),
    (shown(**{"@odata.type": "#microsoft.graph.device"}), Rule.RECORD),
    (entry("GET", f"{ONE}/users", listed({"userId": ID})), Rule.RECORD),
    (entry("GET", f"{HOST}/beta/deviceManagement/remoteActionAudits", listed({"action": "reset"})), Rule.RECORD),
    (entry("GET", APPROVALS, listed({"status": "agreed"})), Rule.RECORD),
    (entry("GET", APPROVALS, listed({"code": "x"})), Rule.RECORD),
    (entry("GET", f"{APPROVALS}?$filter=code%20eq%20'x'", listed()), Rule.QUERY),
    (entry("GET", APPROVALS.replace("beta", "v1.0"), listed()), Rule.PATH),
    (read(listed(DEVICE), "?$select=id"), Rule.SELECT),
    (read(listed({"id": ID}), "?$select=id,deviceName"), Rule.SELECT),
    (entry("GET", f"{ONE}?$select=id", {"@odata.context": "x", **DEVICE}), Rule.SELECT),
    # Next pages.
    (
        read(listed(**{"@odata.nextLink": "https://elsewhere.test/v1.0/deviceManagement/managedDevices"})),
        Rule.NEXT_LINK,
    ),
    (read(listed(**{"@odata.nextLink": DEVICES.replace("https", "http")})), Rule.NEXT_LINK),
    (read(listed(**{"@odata.nextLink": DEVICES.replace("v1.0", "beta")})), Rule.NEXT_LINK),
    (read(listed(**{"@odata.nextLink": f"{HOST}/v1.0/devices?$skiptoken=1"})), Rule.NEXT_LINK),
    (read(listed(**{"@odata.nextLink": f"{DEVICES}?$skiptoken=1"}), "?$select=id"), Rule.NEXT_LINK),
    (read(listed(**{"@odata.nextLink": None})), Rule.NEXT_LINK),
    # Errors.
    (entry("GET", ONE, status=404), Rule.ERROR),
    (entry("GET", ONE, "Not Found", status=404), Rule.ERROR),
    (entry("GET", ONE, "<html>", status=404, answered={"Content-Type": "text/html"}), Rule.ERROR),
    (entry("GET", ONE, {"message": "x"}, status=404), Rule.ERROR),
    (entry("GET", ONE, {"error": {"message": "x"}}, status=404), Rule.ERROR),
    (entry("GET", ONE, {"error": {"code": "", "message": "x"}}, status=404), Rule.ERROR),
    (entry("GET", ONE, {"error": {"code": "x", "message": {}}}, status=404), Rule.ERROR),
    (entry("GET", ONE, {"error": {"code": "x", "message": "y", "innerError": "z"}}, status=404), Rule.ERROR),
    (entry("GET", ONE, {"error": {"code": "x", "message": "y", "status": 1}}, status=404), Rule.ERROR),
    (entry("GET", ONE, {**ERROR, "more": 1}, status=404), Rule.ERROR),
    # $batch.
    (batch([], []), Rule.BATCH_REQUEST),
    (batch({}, []), Rule.BATCH_REQUEST),
    (batch([item(id=str(n)) for n in range(21)], [{**DONE, "id": str(n)} for n in range(21)]), Rule.BATCH_REQUEST),
    (batch([item(), item()], [DONE, DONE]), Rule.BATCH_REQUEST),
    (batch([item(id=1)], [DONE]), Rule.BATCH_REQUEST),
    (batch([item(id="")], [{**DONE, "id": ""}]), Rule.BATCH_REQUEST),
    (batch([item(url=f"{ONE}/wipe")], [DONE]), Rule.BATCH_REQUEST),
    (batch([item(url="//graph.test/v1.0/devices")], [DONE]), Rule.BATCH_REQUEST),
    (batch([item(url=f"/v1.0/deviceManagement/managedDevices/{ID}/wipe")], [DONE]), Rule.BATCH_REQUEST),
    (batch([item(url="/$batch")], [DONE]), Rule.BATCH_REQUEST),
    (batch([item(url=None)], [DONE]), Rule.BATCH_REQUEST),
    (batch([item(method="post")], [DONE]), Rule.BATCH_REQUEST),
    (batch([item(headers=[])], [DONE]), Rule.BATCH_REQUEST),
    (batch([item(more=1)], [DONE]), Rule.BATCH_REQUEST),
    (batch([item(headers={})], [DONE]), Rule.CONTENT_TYPE),
    (batch([item()], [DONE], headers={"Content-Type": "text/plain"}), Rule.CONTENT_TYPE),
    (batch([item(body={})], [DONE]), Rule.PARAMETER),
    (batch([item(method="GET")], [DONE]), Rule.METHOD),
    (batch([item(url="/nothing")], [DONE]), Rule.PATH),
    (batch([item()], []), Rule.BATCH_ANSWER),
    (batch([item()], [DONE, DONE]), Rule.BATCH_ANSWER),
    (batch([item()], [{**DONE, "id": "2"}]), Rule.BATCH_ANSWER),
    (batch([item()], {}), Rule.BATCH_ANSWER),
    (batch([item()], [{**DONE, "status": "204"}]), Rule.BATCH_ANSWER),
    (batch([item()], [{**DONE, "status": 200, "headers": JSON, "body": {}}]), Rule.STATUS),
    (batch([item()], [{**DONE, "status": 404, "headers": JSON, "body": {}}]), Rule.ERROR),
    (batch([item()], [{**DONE, "status": 404, "body": ERROR}]), Rule.CONTENT_TYPE),
    (batch([item()], [DONE], status=202), Rule.STATUS),
    (batch([item()], [], status=429), Rule.ERROR),
]


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_call_has_no_fault(name: str) -> None:
    assert [str(fault) for fault in check(har(RIGHT[name]))] == []


@pytest.mark.parametrize(("broken", "rule"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_rule_is_found_in_its_place(broken: object, rule: Rule) -> None:
    faults = check(har(RIGHT["list"], broken))
    assert rule in {fault.rule for fault in faults}, [str(fault) for fault in faults]
    assert {fault.entry for fault in faults} == {1}
    if rule in (Rule.QUERY, Rule.PARAMETER, Rule.RECORD, Rule.SELECT, Rule.NEXT_LINK, Rule.METHOD, Rule.PATH):
        assert {fault.rule for fault in faults} <= {rule, Rule.STATUS, Rule.CONTENT_TYPE}


def test_every_rule_is_broken_somewhere() -> None:
    assert {rule for _, rule in BROKEN} == set(Rule)


def test_faults_within_a_batch_name_the_item() -> None:
    (fault,) = check(har(batch([item(id="7", body={**RESET, "x": 1})], [{**DONE, "id": "7"}])))
    assert (fault.item, "item 7" in str(fault)) == ("7", True)


def test_what_is_no_har_is_a_fault() -> None:
    cases: list[Json] = [{}, {"log": []}, {"log": {"entries": {}}}]
    for nothing in cases:
        assert [fault.rule for fault in check(nothing)] == [Rule.HAR]


@pytest.mark.parametrize(
    ("quirk", "changes"),
    [
        ({"strange_enum_members": False}, {"deviceEnrollmentType": "azureAdJoinUsingAzureVmExtension"}),
        ({"never_dates": True}, {"lastSyncDateTime": None}),
        ({"deleted_record_stub": False}, {"complianceState": None}),
    ],
)
def test_what_only_a_quirk_explains_is_allowed_under_that_quirk_alone(quirk: Json, changes: Json) -> None:
    opposite = {name: not value for name, value in quirk.items()}
    assert check(har(shown(**changes)), Quirks.model_validate(opposite)) == []
    assert [fault.rule for fault in check(har(shown(**changes)), Quirks.model_validate(quirk))] == [Rule.RECORD]


def test_the_command_prints_the_faults_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.har", tmp_path / "bad.har"
    good.write_text(json.dumps(har(*RIGHT.values())), "utf-8")
    bad.write_text(json.dumps(har(wiped({}))), "utf-8")
    assert main([str(good)]) == 0
    assert capsys.readouterr().out == ""
    assert main([str(bad)]) == 1
    assert "wipe does not state keepUserData" in capsys.readouterr().out
    assert main([str(tmp_path / "missing.har")]) == 2
    assert main([]) == 2
