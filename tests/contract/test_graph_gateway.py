"""`GraphIntune` against an in-memory Graph that plays the JSON, and the faults, that Graph is known for."""

import asyncio
import base64
import dataclasses
import json
import logging
import re
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import httpx
import pytest
from azure.core.credentials import AccessToken
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox.graph_schema.schema import Schema
from sandbox.processes import ready_line, spawn, stop
from shared.domain import eligibility
from shared.domain.devices import ActionState, DeviceFacts, DeviceReference, ReferenceKind
from shared.domain.ids import ManagedDeviceId, OrderId
from shared.domain.policy import Policy
from shared.domain.reasons import Code
from shared.graph import answers, decode
from shared.graph.credential import CredentialError, StaticTokenCredential, credential_for
from shared.graph.endpoint import EndpointError, GraphEndpoint
from shared.graph.finding import MOST_ASKED_SINGLY, Book, Collection, Question, identifies
from shared.graph.gateway import GraphIntune, Patience
from shared.graph.sdk import FACTS, Sdk, literal
from shared.pipeline.ports import (
    Answer,
    AnswerKind,
    GraphError,
    GraphForbidden,
    GraphRejected,
    GraphThrottled,
    GraphUnavailable,
    Order,
)
from tests.contract.conftest import Send

type Json = dict[str, Any]  # JSON of any shape

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
ZEROS = "00000000-0000-0000-0000-000000000000"
FORBIDDEN_INNER = json.dumps(
    {
        "ErrorCode": "Forbidden",
        "Message": json.dumps({"_version": 3, "Message": "An error has occurred", "CustomApiErrorPhrase": "Forbidden"}),
        "RetryAfter": None,
    }
)


def guid(n: int) -> str:
    return f"{n:08x}-1111-2222-3333-444444444444"


def managed(n: int, **changes: object) -> Json:
    return {
        "id": guid(n),
        "deviceName": f"LAB-{n}",
        "serialNumber": f"SN{n:05}",
        "azureADDeviceId": guid(n + 0x10000),
        "operatingSystem": "Windows",
        "lastSyncDateTime": "2026-11-20T10:11:12.1234567Z",
        "enrolledDateTime": "2025-01-01T00:00:00Z",
        "managementState": "managed",
        "userId": guid(n + 0x30000),
        "model": "Box",
        "manufacturer": "Contoso",
        "joinType": "azureADJoined",
        "osVersion": "10.0.22631.4460",
        "skuFamily": "Enterprise",
        "managementAgent": "mdm",
        "deviceActionResults": [],
        **changes,
    }


def identity(n: int, **changes: object) -> Json:
    return {
        "id": guid(n + 0x20000),
        "serialNumber": f"SN{n:05}",
        "groupTag": "lab",
        "managedDeviceId": guid(n),
        "azureActiveDirectoryDeviceId": guid(n + 0x10000),
        "enrollmentState": "notContacted",
        **changes,
    }


def entra(n: int, **changes: object) -> Json:
    return {
        "id": guid(n + 0x40000),
        "deviceId": guid(n + 0x10000),
        "trustType": "AzureAd",
        "accountEnabled": True,
        **changes,
    }


def error(code: str, message: str = "") -> Json:
    return {"error": {"code": code, "message": message}}


BETA_ONLY = {"joinType", "skuFamily"}


class FakeGraph(httpx.AsyncBaseTransport):
    """Plays Graph: collections with $filter, $select and pages, single records, groups, orders and $batch."""

    def __init__(self, count: int = 0) -> None:
        self.collections: dict[str, list[Json]] = {
            "deviceManagement/managedDevices": [managed(n) for n in range(1, count + 1)],
            "deviceManagement/windowsAutopilotDeviceIdentities": [identity(n) for n in range(1, count + 1)],
            "deviceManagement/remoteActionAudits": [],
            "devices": [entra(n) for n in range(1, count + 1)],
        }
        self.devices = self.collections["deviceManagement/managedDevices"]
        self.identities = self.collections["deviceManagement/windowsAutopilotDeviceIdentities"]
        self.audits = self.collections["deviceManagement/remoteActionAudits"]
        self.entra = self.collections["devices"]
        self.groups: dict[str, Json] = {}
        """Entra groups, each with its members: Entra device ids and users."""
        self.users: set[str] = {row["userId"] for row in self.devices}
        self.overview: Json = {"deviceOperatingSystemSummary": {"windowsCount": count}}
        self.requests: list[httpx.Request] = []
        self.items: list[Json] = []
        """Of each $batch, with the version of Graph that was asked."""
        self.page = 1000
        self.filters_work = True
        self.hidden: set[str] = set()
        """Ids that full lists leave out."""
        self.on_call: Callable[[httpx.Request], httpx.Response | None] = lambda _: None
        self.on_item: Callable[[Json], Json | None] = lambda _: None
        self.on_batch: Callable[[list[Json]], list[Json]] = lambda responses: responses

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if (special := self.on_call(request)) is not None:
            return special
        _, version, path = request.url.raw_path.decode().split("/", 2)
        if path == "$batch":
            responses = self.batch(json.loads(request.content), version)
            return httpx.Response(200, json={"responses": self.on_batch(responses)})
        status, body = self.answer(request.method, path, version)
        return httpx.Response(status, json=body)

    def batch(self, body: Json, version: str) -> list[Json]:
        assert len(body["requests"]) <= 20
        responses = []
        for item in body["requests"]:
            self.items.append({**item, "version": version})
            if (special := self.on_item(item)) is None:
                status, content = self.answer(item["method"], item["url"], version, item.get("body"))
                special = {"status": status, "headers": {"Content-Type": "application/json"}, "body": content}
            responses.append({"id": item["id"], **special})
        return responses[::-1]

    def answer(self, method: str, url: str, version: str, sent: Json | None = None) -> tuple[int, Json | None]:
        path, _, query = url.strip("/").partition("?")
        options = {name: values[0] for name, values in parse_qs(query).items()}
        if version == "v1.0" and BETA_ONLY & set(options.get("$select", "").split(",")):
            return 400, error("BadRequest", "Could not find a property named 'joinType' on type 'managedDevice'.")
        if path in self.collections:
            return 200, self.rows(path, options, version)
        if path == "deviceManagement/managedDeviceOverview":
            return 200, self.overview
        if path.startswith("groups/"):
            found = self.groups.get(path.removeprefix("groups/"))
            return (404, error("Request_ResourceNotFound")) if found is None else (200, found)
        if sent is not None and (held := re.fullmatch(r"(devices|users).*?([0-9a-f-]{36}).*/checkMemberGroups", path)):
            assert method == "POST"
            return self.held_by(held[1], held[2], sent["groupIds"])
        key = path.removeprefix("deviceManagement/managedDevices/").split("/")[0]
        device = next((d for d in self.devices if d["id"] == key), None)
        if device is None:
            return 404, error("ResourceNotFound")
        if method == "POST":
            return 204, None
        wanted = options["$select"].split(",")
        return 200, {name: value for name, value in device.items() if name in wanted}

    def held_by(self, kind: str, holder: str, groups: list[str]) -> tuple[int, Json]:
        known = self.users if kind == "users" else {row["deviceId"] for row in self.entra}
        if holder not in known:
            return 404, error("Request_ResourceNotFound", f"Resource '{holder}' does not exist.")
        return 200, {"value": [group for group in groups if holder in self.groups.get(group, {}).get("members", ())]}

    def rows(self, path: str, options: dict[str, str], version: str) -> Json:
        rows = self.collections[path]
        where = options.get("$filter", "")
        if "operatingSystem eq" in where or not where:
            rows = [row for row in rows if row["id"] not in self.hidden]
        elif self.filters_work and where:
            rows = [row for row in rows if holds(row, where)]
        skip = int(options.get("$skiptoken", "0"))
        body: Json = {"value": rows[skip : skip + self.page]}
        if skip + self.page < len(rows):
            more = httpx.QueryParams({**options, "$skiptoken": str(skip + self.page)})
            body["@odata.nextLink"] = f"http://127.0.0.1:9/{version}/{path}?{more}"
        return body


def holds(row: Json, where: str) -> bool:
    if re.fullmatch(r"deviceId eq '[^']*'( or deviceId eq '[^']*')+", where):
        return any(holds(row, part) for part in where.split(" or "))
    if match := re.fullmatch(r"(\w+) eq '(.*)'", where):
        return str(row.get(match[1])).lower() == match[2].replace("''", "'").lower()
    if match := re.fullmatch(r"contains\((\w+),'(.*)'\)", where):
        return match[2].replace("''", "'").lower() in str(row.get(match[1])).lower()
    if match := re.fullmatch(r"(\w+) gt (\S+)", where):
        return datetime.fromisoformat(row[match[1]]) > datetime.fromisoformat(match[2])
    raise AssertionError(where)


class Waits(list[float]):
    async def sleep(self, seconds: float) -> None:
        self.append(seconds)


async def connect(graph: httpx.AsyncBaseTransport, waits: Waits | None = None, **options: Any) -> GraphIntune:
    return await GraphIntune.create(
        GraphEndpoint.parse("http://127.0.0.1:9"),
        options.pop("credential", StaticTokenCredential("sandbox")),
        transport=graph,
        now=lambda: NOW,
        patience=Patience(sleep=(waits if waits is not None else Waits()).sleep, jitter=lambda: 0.0),
        **options,
    )


def device_id(n: int) -> ManagedDeviceId:
    return ManagedDeviceId(guid(n))


def order(n: int) -> Order:
    return Order(device_id(n), OrderId(f"order-{n}"))


def by(kind: ReferenceKind, value: str) -> DeviceReference:
    return DeviceReference(kind, value)


def serial(value: str) -> DeviceReference:
    return DeviceReference(ReferenceKind.SERIAL_NUMBER, value)


def ids(finding: Any) -> list[str]:
    return [facts.managed.id for facts in finding.devices]


# Cold start


def test_importing_the_gateway_does_not_import_the_sdk() -> None:
    program = (
        "import sys, shared.graph, shared.graph.gateway, shared.graph.credential, shared.graph.endpoint\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('msgraph', 'msgraph_core', 'kiota_abstractions')"
        " or m.startswith('azure.identity')])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


# Where and who


@pytest.mark.parametrize(
    ("setting", "origin", "authority"),
    [
        ("global", "https://graph.microsoft.com", "https://login.microsoftonline.com"),
        ("usgov", "https://graph.microsoft.us", "https://login.microsoftonline.us"),
        ("USGovDoD", "https://dod-graph.microsoft.us", "https://login.microsoftonline.us"),
    ],
)
def test_a_cloud_name_gives_address_scope_and_authority(setting: str, origin: str, authority: str) -> None:
    endpoint = GraphEndpoint.parse(setting)
    assert (endpoint.origin, endpoint.authority, endpoint.scope) == (origin, authority, f"{origin}/.default")
    assert not endpoint.loopback


def test_china_is_refused_with_the_reason() -> None:
    with pytest.raises(EndpointError, match="Autopilot"):
        GraphEndpoint.parse("china")


@pytest.mark.parametrize("address", ["http://127.0.0.1:8080", "http://localhost:1/", "http://[::1]:8080"])
def test_an_address_on_loopback_is_taken_even_without_tls(address: str) -> None:
    endpoint = GraphEndpoint.parse(address)
    assert endpoint.loopback
    assert endpoint.origin == address.rstrip("/")


@pytest.mark.parametrize(
    "address",
    [
        "http://graph.microsoft.com",
        "https://example.org",
        "http://127.0.0.1.example.org:80",
        "http://user@127.0.0.1:80",
        "http://127.0.0.1:80/v1.0",
        "http://127.0.0.1:notaport",
        "http://10.0.0.1",
        "ftp://127.0.0.1",
        "moon",
        "",
    ],
)
def test_any_other_address_is_refused(address: str) -> None:
    with pytest.raises(EndpointError):
        GraphEndpoint.parse(address)


def test_a_static_token_is_refused_when_graph_is_not_on_loopback() -> None:
    with pytest.raises(CredentialError, match="static token"):
        credential_for(GraphEndpoint.parse("global"), client_id=None, static_token="t", environment={})


async def test_a_static_token_is_given_on_loopback_only_when_asked_for() -> None:
    endpoint = GraphEndpoint.parse("http://127.0.0.1:1")
    credential = credential_for(endpoint, client_id=None, static_token="t", environment={})
    assert (await credential.get_token(endpoint.scope)).token == "t"
    with pytest.raises(CredentialError):
        credential_for(endpoint, client_id=None, static_token=None, environment={})


async def test_in_azure_the_managed_identity_is_used_and_elsewhere_a_developers_tools() -> None:
    endpoint = GraphEndpoint.parse("global")
    in_azure = credential_for(endpoint, client_id="c", static_token=None, environment={"IDENTITY_ENDPOINT": "x"})
    elsewhere = credential_for(endpoint, client_id="c", static_token=None, environment={})
    assert type(in_azure).__name__ == "ManagedIdentityCredential"
    assert type(elsewhere).__name__ == "DefaultAzureCredential"
    tried = [type(credential).__name__ for credential in elsewhere.credentials]  # type: ignore[attr-defined]  # a chain
    assert "AzureCliCredential" in tried
    assert "ManagedIdentityCredential" not in tried
    await in_azure.close()
    await elsewhere.close()


async def test_the_token_goes_out_with_the_scope_of_the_endpoint() -> None:
    scopes: list[Sequence[str]] = []

    class Noting(StaticTokenCredential):
        async def get_token(self, *wanted: str, **options: Any) -> AccessToken:
            scopes.append(wanted)
            return await super().get_token(*wanted)

    graph = FakeGraph(1)
    async with await connect(graph, credential=Noting("sandbox")) as intune:
        await intune.sync([order(1)])
    assert scopes == [("http://127.0.0.1:9/.default",)]
    assert graph.requests[0].headers["Authorization"] == "Bearer sandbox"


# Orders


@pytest.mark.parametrize(
    ("ordered", "flags"),
    [
        (GraphIntune.reset, '"keepEnrollmentData": true, "keepUserData": false'),
        (GraphIntune.wipe, '"keepEnrollmentData": false, "keepUserData": false'),
    ],
)
@pytest.mark.parametrize(
    ("code", "header"),
    [
        ("", '"x-msft-approval-justification": "TGFiIEIgaXMgcmV0dXJuZWQsIMOp"'),
        ("8b17c4f2-0000-4000-8000-000000000001", '"x-msft-approval-code": "8b17c4f2-0000-4000-8000-000000000001"'),
    ],
)
async def test_an_order_states_both_flags_and_says_why_or_who_agreed(
    ordered: Send, flags: str, code: str, header: str
) -> None:
    graph = FakeGraph(1)
    one = Order(device_id(1), OrderId("order-1"), "Lab B is returned, é", code)
    async with await connect(graph) as intune:
        assert await ordered(intune, [one]) == {device_id(1): Answer(AnswerKind.ACCEPTED)}
    assert str(graph.requests[0].url) == "http://127.0.0.1:9/v1.0/$batch"
    assert graph.requests[0].content.decode() == (
        '{"requests": [{"id": "0", "method": "POST", '
        '"url": "/deviceManagement/managedDevices/00000001-1111-2222-3333-444444444444/wipe", '
        f'"headers": {{"client-request-id": "order-1", {header}, "Content-Type": "application/json"}}, '
        f'"body": {{{flags}, "persistEsimDataPlan": false}}}}]}}'
    )


@pytest.mark.parametrize(
    ("why", "said"),
    [("", None), ("  \n", None), ("x" * 5000, "x" * 1000), ("a" + "é" * 800, "a" + "é" * 499)],
)
@pytest.mark.parametrize(
    ("ordered", "default"), [(GraphIntune.reset, "Autopilot Reset"), (GraphIntune.wipe, "Full wipe")]
)
async def test_a_justification_is_never_missing_and_never_longer_than_intune_takes(
    ordered: Send, default: str, why: str, said: str | None
) -> None:
    graph = FakeGraph(1)
    async with await connect(graph) as intune:
        await ordered(intune, [Order(device_id(1), OrderId("o"), why)])
    header = graph.items[0]["headers"]["x-msft-approval-justification"]
    assert base64.b64decode(header, validate=True).decode() == (said or default)


async def test_a_sync_has_no_body() -> None:
    graph = FakeGraph(1)
    async with await connect(graph) as intune:
        assert (await intune.sync([order(1)]))[device_id(1)].kind is AnswerKind.ACCEPTED
    (item,) = graph.items
    assert item == {
        "id": "0",
        "method": "POST",
        "url": f"/deviceManagement/managedDevices/{guid(1)}/syncDevice",
        "headers": {"client-request-id": "order-1"},
        "version": "v1.0",
    }


async def test_twenty_orders_are_one_call_and_each_gets_its_own_answer_in_any_order(send: Send) -> None:
    graph = FakeGraph(20)
    graph.devices[4]["id"] = guid(999)
    async with await connect(graph) as intune:
        found = await send(intune, [order(n) for n in range(1, 21)])
    assert len(graph.requests) == 1
    assert [n for n in range(1, 21) if found[device_id(n)].kind is not AnswerKind.ACCEPTED] == [5]
    assert found[device_id(5)].kind is AnswerKind.NOT_FOUND


async def test_more_than_twenty_orders_or_two_for_one_device_are_a_mistake(send: Send) -> None:
    graph = FakeGraph()
    async with await connect(graph) as intune:
        with pytest.raises(ValueError):
            await send(intune, [order(n) for n in range(21)])
        with pytest.raises(ValueError):
            await send(intune, [order(1), order(1)])
        with pytest.raises(ValueError):
            await send(intune, [order(0xAB), Order(ManagedDeviceId(guid(0xAB).upper()), OrderId("other"))])
        assert await send(intune, []) == {}
    assert graph.requests == []


async def test_an_order_for_what_is_no_device_id_is_not_sent(send: Send) -> None:
    graph = FakeGraph()
    async with await connect(graph) as intune:
        found = await send(intune, [Order(ManagedDeviceId("../users"), OrderId("o"))])
    assert [answer.kind for answer in found.values()] == [AnswerKind.REJECTED]
    assert graph.requests == []


DATE = "Sat, 21 Nov 2026 08:00:40 GMT"
ITEM_ANSWERS: list[tuple[int, dict[str, str], object, AnswerKind]] = [
    (204, {}, None, AnswerKind.ACCEPTED),
    (200, {}, {}, AnswerKind.UNKNOWN),
    (202, {}, None, AnswerKind.UNKNOWN),
    (302, {"Location": "https://example.org"}, None, AnswerKind.UNKNOWN),
    (400, {}, error("BadRequest"), AnswerKind.REJECTED),
    (401, {}, error("UnknownError", FORBIDDEN_INNER), AnswerKind.FORBIDDEN),
    (403, {}, error("Forbidden"), AnswerKind.FORBIDDEN),
    (403, {}, "<html>no</html>", AnswerKind.FORBIDDEN),
    (500, {}, error("UnknownError", FORBIDDEN_INNER), AnswerKind.FORBIDDEN),
    (404, {}, error("ResourceNotFound"), AnswerKind.NOT_FOUND),
    (405, {}, error("MethodNotAllowed"), AnswerKind.REJECTED),
    (408, {}, error("Timeout"), AnswerKind.UNKNOWN),
    (409, {}, error("Conflict"), AnswerKind.REJECTED),
    (429, {}, error("TooManyRequests"), AnswerKind.THROTTLED),
    (500, {}, error("InternalServerError", "An error has occurred"), AnswerKind.UNKNOWN),
    (503, {}, error("CancelledOnServiceTimeout", "EndExecuteAction"), AnswerKind.UNKNOWN),
    (504, {}, error("UnknownError"), AnswerKind.UNKNOWN),
    (400, {}, error("ApprovalRequired"), AnswerKind.APPROVAL_REQUIRED),
    (403, {}, error("Forbidden", json.dumps({"ErrorCode": "ApprovalRequired"})), AnswerKind.APPROVAL_REQUIRED),
    (412, {"X-MsFt-Approval-Code": "c"}, None, AnswerKind.APPROVAL_REQUIRED),
    (202, {"x-msft-approval-code": "c"}, None, AnswerKind.APPROVAL_REQUIRED),
    (204, {"x-msft-approval-code": "c"}, None, AnswerKind.UNKNOWN),
    (400, {}, error("BadRequest", "Header 'x-msft-approval-justification' is required"), AnswerKind.APPROVAL_REQUIRED),
    (409, {}, error("Conflict", "An approval request is already pending."), AnswerKind.APPROVAL_REQUIRED),
    (429, {}, error("TooManyRequests", "The daily limit of wipes is exceeded"), AnswerKind.DAILY_LIMIT),
    (429, {"Retry-After": "3601"}, error("TooManyRequests"), AnswerKind.DAILY_LIMIT),
    (429, {"Retry-After": "3600"}, error("TooManyRequests"), AnswerKind.THROTTLED),
    (400, {}, error("BadRequest", json.dumps({"Message": "At most 500 wipes: daily quota"})), AnswerKind.DAILY_LIMIT),
    (403, {}, error("DailyWipeLimitExceeded"), AnswerKind.DAILY_LIMIT),
    (403, {}, error("Forbidden", "Maximum number of wipes per day reached"), AnswerKind.DAILY_LIMIT),
    (500, {}, error("InternalServerError", "The daily limit is exceeded"), AnswerKind.UNKNOWN),
    (400, {}, error("BadRequest", "The device limit is exceeded"), AnswerKind.REJECTED),
    (400, {}, error("BadRequest", "The daily report is not ready"), AnswerKind.REJECTED),
    (401, {}, error("InvalidAuthenticationToken", "Lifetime validation failed"), AnswerKind.FORBIDDEN),
    (500, {"x-msft-approval-code": "c"}, "", AnswerKind.APPROVAL_REQUIRED),
]


@pytest.mark.parametrize(("status", "headers", "body", "kind"), ITEM_ANSWERS)
async def test_each_answer_to_an_order_is_classified_and_never_sent_again(
    send: Send, status: int, headers: dict[str, str], body: object, kind: AnswerKind
) -> None:
    graph = FakeGraph(1)
    graph.on_item = lambda _: {"status": status, "headers": headers, "body": body}
    async with await connect(graph) as intune:
        answer = (await send(intune, [order(1)]))[device_id(1)]
    assert answer.kind is kind
    assert len(graph.requests) == 1
    if kind is AnswerKind.FORBIDDEN and "token" not in answer.detail:
        assert "DeviceManagementManagedDevices.PrivilegedOperations.All" in answer.detail
    if kind is AnswerKind.APPROVAL_REQUIRED:
        assert answer.approval_code == (next(iter(headers.values())) if headers else None)


WHOLE_ANSWERS: list[tuple[httpx.Response, AnswerKind]] = [
    (httpx.Response(503, json=error("ServiceUnavailable")), AnswerKind.UNKNOWN),
    (httpx.Response(500), AnswerKind.UNKNOWN),
    (httpx.Response(502, html="<html>bad gateway</html>"), AnswerKind.UNKNOWN),
    (httpx.Response(200, html="<html>hello</html>"), AnswerKind.UNKNOWN),
    (httpx.Response(200, text='{"responses": [{"id": "0", "status": 2'), AnswerKind.UNKNOWN),
    (httpx.Response(200, json={"responses": []}), AnswerKind.UNKNOWN),
    (httpx.Response(200, json={"responses": [{"id": "7", "status": 204}]}), AnswerKind.UNKNOWN),
    (httpx.Response(200, json={"responses": [{"id": "0", "status": "204"}]}), AnswerKind.UNKNOWN),
    (
        httpx.Response(200, json={"responses": [{"id": "0", "status": 204}, {"id": "0", "status": 404}]}),
        AnswerKind.UNKNOWN,
    ),
    (httpx.Response(200, json=[1]), AnswerKind.UNKNOWN),
    (httpx.Response(204), AnswerKind.UNKNOWN),
    (httpx.Response(302, headers={"Location": "http://127.0.0.1:9/elsewhere"}), AnswerKind.UNKNOWN),
    (httpx.Response(307, headers={"Location": "http://127.0.0.1:9/elsewhere"}), AnswerKind.UNKNOWN),
    (httpx.Response(429), AnswerKind.THROTTLED),
    (httpx.Response(401, json=error("InvalidAuthenticationToken")), AnswerKind.FORBIDDEN),
    (
        httpx.Response(401, headers={"WWW-Authenticate": 'Bearer error="insufficient_claims", claims="eyJhIjoxfQ=="'}),
        AnswerKind.FORBIDDEN,
    ),
    (httpx.Response(403), AnswerKind.FORBIDDEN),
    (httpx.Response(404), AnswerKind.REJECTED),
    (httpx.Response(413), AnswerKind.REJECTED),
    (httpx.Response(429, headers={"Retry-After": "40000"}), AnswerKind.DAILY_LIMIT),
    (httpx.Response(412, headers={"x-msft-approval-code": "c"}), AnswerKind.APPROVAL_REQUIRED),
]


@pytest.mark.parametrize(("response", "kind"), WHOLE_ANSWERS)
async def test_the_answer_to_a_whole_batch_is_every_orders_and_never_sent_again(
    send: Send, response: httpx.Response, kind: AnswerKind
) -> None:
    graph = FakeGraph(2)
    graph.on_call = lambda _: response
    waits = Waits()
    async with await connect(graph, waits) as intune:
        found = await send(intune, [order(1)])
    assert {answer.kind for answer in found.values()} == {kind}
    assert len(graph.requests) == 1
    assert waits == []


async def test_an_order_that_the_answer_leaves_out_is_unknown_and_the_others_are_not(send: Send) -> None:
    graph = FakeGraph(3)
    graph.on_batch = lambda responses: [r for r in responses if r["id"] != "1"]
    async with await connect(graph) as intune:
        found = await send(intune, [order(1), order(2), order(3)])
    assert [found[device_id(n)].kind for n in (1, 2, 3)] == [
        AnswerKind.ACCEPTED,
        AnswerKind.UNKNOWN,
        AnswerKind.ACCEPTED,
    ]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (httpx.ConnectError("refused"), AnswerKind.NOT_SENT),
        (httpx.ConnectTimeout("slow"), AnswerKind.NOT_SENT),
        (httpx.PoolTimeout("full"), AnswerKind.NOT_SENT),
        (httpx.ProxyError("407 Proxy Authentication Required"), AnswerKind.NOT_SENT),
        (httpx.ReadTimeout("slow"), AnswerKind.UNKNOWN),
        (httpx.WriteTimeout("slow"), AnswerKind.UNKNOWN),
        (httpx.WriteError("broken"), AnswerKind.UNKNOWN),
        (httpx.ReadError("reset"), AnswerKind.UNKNOWN),
        (httpx.RemoteProtocolError("cut"), AnswerKind.UNKNOWN),
        (TimeoutError(), AnswerKind.UNKNOWN),
        (RuntimeError("a bug"), AnswerKind.UNKNOWN),
    ],
)
async def test_a_broken_connection_says_whether_the_order_may_have_been_sent(
    send: Send, fault: Exception, kind: AnswerKind
) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise fault

    graph = FakeGraph(1)
    graph.on_call = fail
    async with await connect(graph) as intune:
        assert (await send(intune, [order(1)]))[device_id(1)].kind is kind
    assert len(graph.requests) == 1


async def test_an_answer_that_never_ends_is_unknown(send: Send) -> None:
    class Silent(FakeGraph):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await asyncio.sleep(60)
            raise AssertionError

    async with await connect(Silent(1), timeout=timedelta(milliseconds=20)) as intune:
        assert (await send(intune, [order(1)]))[device_id(1)].kind is AnswerKind.UNKNOWN


async def test_without_a_token_nothing_is_sent(send: Send) -> None:
    class Broken(StaticTokenCredential):
        async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
            raise RuntimeError("no identity here")

    class Empty(StaticTokenCredential):
        async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
            return AccessToken("", 0)

    graph = FakeGraph(1)
    for credential in (Broken("x"), Empty("x")):
        async with await connect(graph, credential=credential) as intune:
            assert (await send(intune, [order(1)]))[device_id(1)].kind is AnswerKind.NOT_SENT
            with pytest.raises(GraphError, match="No call"):
                await intune.look([device_id(1)])
    assert graph.requests == []


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("17", timedelta(seconds=17)),
        (DATE, timedelta(seconds=40)),
        ("Sat, 21 Nov 2026 07:00:00 GMT", timedelta()),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("9" * 30, None),
    ],
)
async def test_retry_after_is_read_in_seconds_or_as_a_date(send: Send, value: str, wait: timedelta | None) -> None:
    graph = FakeGraph(1)
    graph.on_item = lambda _: {"status": 429, "headers": {"retry-AFTER": value}}
    async with await connect(graph) as intune:
        assert (await send(intune, [order(1)]))[device_id(1)].retry_after == wait


@pytest.mark.parametrize(("status", "kind"), [(429, AnswerKind.THROTTLED), (503, AnswerKind.UNKNOWN)])
@pytest.mark.parametrize(
    ("headers", "own", "wait"),
    [
        ({"Retry-After": "9"}, {}, 9),
        ({"Retry-After": "9"}, {"Retry-After": "4"}, 4),
        ({"Date": "Sat, 21 Nov 2026 08:10:00 GMT"}, {"Retry-After": "Sat, 21 Nov 2026 08:10:07 GMT"}, 7),
        ({}, {}, None),
    ],
)
async def test_an_item_that_must_wait_says_how_long_by_itself_or_by_the_whole_answer_and_by_graphs_own_clock(
    send: Send, status: int, kind: AnswerKind, headers: dict[str, str], own: dict[str, str], wait: int | None
) -> None:
    graph = FakeGraph(2)
    body = {"responses": [{"id": "1", "status": 204}, {"id": "0", "status": status, "headers": own}]}
    graph.on_call = lambda _: httpx.Response(200, json=body, headers=headers)
    async with await connect(graph) as intune:
        found = await send(intune, [order(1), order(2)])
    assert (found[device_id(1)].kind, found[device_id(2)].kind) == (kind, AnswerKind.ACCEPTED)
    assert found[device_id(1)].retry_after == (None if wait is None else timedelta(seconds=wait))
    assert len(graph.requests) == 1


@pytest.mark.parametrize(("status", "kind"), [(429, AnswerKind.THROTTLED), (503, AnswerKind.UNKNOWN)])
@pytest.mark.parametrize(("value", "wait"), [("12", 12), (DATE, 40), (None, None)])
async def test_a_whole_batch_that_must_wait_says_how_long(
    send: Send, status: int, kind: AnswerKind, value: str | None, wait: int | None
) -> None:
    graph = FakeGraph(2)
    graph.on_call = lambda _: httpx.Response(status, headers={"Retry-After": value} if value else {})
    async with await connect(graph) as intune:
        found = await send(intune, [order(1), order(2)])
    expected = (kind, None if wait is None else timedelta(seconds=wait))
    assert {(answer.kind, answer.retry_after) for answer in found.values()} == {expected}
    assert len(graph.requests) == 1


async def test_an_accepted_order_carries_graphs_own_time(send: Send) -> None:
    graph = FakeGraph(1)
    body = {"responses": [{"id": "0", "status": 204}]}
    graph.on_call = lambda _: httpx.Response(200, json=body, headers={"Date": DATE})
    async with await connect(graph) as intune:
        answer = (await send(intune, [order(1)]))[device_id(1)]
    assert answer.server_time == datetime(2026, 11, 21, 8, 0, 40, tzinfo=UTC)


def test_graphs_words_are_unwrapped_from_json_in_strings() -> None:
    said = answers.words(error("UnknownError", json.dumps({"Message": json.dumps({"Message": "Not here - Url: x"})})))
    assert said.message == "Not here"
    assert said.codes == {"unknownerror"}
    assert answers.words(error("UnknownError", "{broken")).message == "{broken"
    assert answers.words("<html>a page</html>").message == ""


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda x: (
            st.lists(x) | st.dictionaries(st.sampled_from(["error", "message", "code", "Message"]) | st.text(), x)
        ),
    )
)
def test_any_body_can_be_classified(body: object) -> None:
    assert isinstance(answers.order_answer(answers.Reply(500, {}, body), NOW), Answer)


# Finding


async def test_a_serial_number_is_found_with_its_three_records() -> None:
    graph = FakeGraph(3)
    async with await connect(graph) as intune:
        found = await intune.find([serial(" sn00002 ")])
    (facts,) = found[serial(" sn00002 ")].devices
    assert facts.managed.id == guid(2)
    assert facts.managed.primary_user == guid(2 + 0x30000)
    assert facts.entra is not None
    assert facts.entra.trust_type == "AzureAd"
    assert facts.autopilot is not None
    assert facts.autopilot.managed_device_id == guid(2)
    assert facts.read_at == NOW


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (ReferenceKind.INTUNE_ID, guid(2).upper()),
        (ReferenceKind.ENTRA_DEVICE_ID, guid(2 + 0x10000)),
        (ReferenceKind.NAME, "lab-2"),
        (ReferenceKind.SERIAL_NUMBER, "SN00002"),
    ],
)
@pytest.mark.parametrize("filters_work", [True, False])
async def test_each_kind_of_reference_finds_its_device_alone_even_when_graph_ignores_the_filter(
    kind: ReferenceKind, value: str, filters_work: bool
) -> None:
    graph = FakeGraph(5)
    graph.filters_work = filters_work
    graph.page = 2
    async with await connect(graph) as intune:
        found = (await intune.find([by(kind, value)]))[by(kind, value)]
    assert ids(found) == [guid(2)]
    assert found.devices[0].entra is not None
    assert found.devices[0].entra.device_id == guid(2 + 0x10000)
    assert found.devices[0].autopilot is not None
    assert found.not_enrolled == ()


async def test_a_tenant_that_ignores_filters_is_read_once_not_once_a_question() -> None:
    graph = FakeGraph(40)
    graph.filters_work = False
    graph.page = 10
    async with await connect(graph) as intune:
        found = await intune.find([by(ReferenceKind.NAME, f"LAB-{n}") for n in range(1, 42)])
    assert [len(finding.devices) for finding in found.values()] == [1] * 40 + [0]
    pages = [request for request in graph.requests if request.url.path.endswith("/managedDevices")]
    assert len(pages) == 4


@pytest.mark.parametrize("count", [1, 150])
async def test_a_tenant_that_refuses_filters_is_read_as_a_whole_once(count: int) -> None:
    graph = FakeGraph(count)
    graph.hidden = {graph.devices[0]["id"]}
    refusal = error("BadRequest", "Unsupported filter")
    graph.on_item = lambda item: {"status": 400, "body": refusal} if "$filter" in item["url"] else None
    graph.on_call = lambda request: httpx.Response(400, json=refusal) if "$filter" in request.url.params else None
    graph.page = 50
    wanted = [serial(f"SN{n:05}") for n in range(1, count + 1)]
    async with await connect(graph) as intune:
        found = await intune.find(wanted)
        facts = (await intune.facts([device_id(1)]))[device_id(1)]
    assert [ids(found[one]) for one in wanted[1:]] == [[guid(n)] for n in range(2, count + 1)]
    assert ids(found[wanted[0]]) == [guid(1)], "what the list leaves out is asked for by the identity's link"
    assert facts is not None
    assert facts.entra is not None
    assert facts.autopilot is not None
    good = [request.url.path for request in graph.requests if "$filter" not in request.url.params]
    pages = -(-max(1, count) // 50)
    assert 1 <= good.count("/beta/deviceManagement/managedDevices") <= 2 * pages


async def test_what_is_refused_whatever_is_asked_is_an_error_not_an_absence() -> None:
    graph = FakeGraph(1)
    refusal = {"status": 400, "body": error("BadRequest", "Resource not found for the segment 'deviceManagement'.")}
    graph.on_item = lambda _: refusal
    graph.on_call = lambda request: (
        None if request.url.path.endswith("/$batch") else httpx.Response(400, json=refusal["body"])
    )
    async with await connect(graph) as intune:
        with pytest.raises(GraphRejected):
            await intune.find([serial("SN00001")])
        with pytest.raises(GraphRejected):
            await intune.facts([device_id(1)])


async def test_what_does_not_exist_is_found_empty_after_asking() -> None:
    graph = FakeGraph(1)
    wanted = [
        by(ReferenceKind.INTUNE_ID, guid(9)),
        by(ReferenceKind.ENTRA_DEVICE_ID, guid(9)),
        by(ReferenceKind.NAME, "nobody"),
        serial("SN99999"),
        by(ReferenceKind.GROUP_TAG, "none such"),
    ]
    async with await connect(graph) as intune:
        found = await intune.find(wanted)
    assert [found[w].devices + found[w].not_enrolled for w in wanted] == [()] * 5
    assert len(graph.items) == 5


@pytest.mark.parametrize(
    "reference",
    [
        by(ReferenceKind.INTUNE_ID, "not a guid"),
        by(ReferenceKind.INTUNE_ID, ZEROS),
        by(ReferenceKind.INTUNE_ID, "../devices"),
        by(ReferenceKind.ENTRA_DEVICE_ID, ZEROS),
        by(ReferenceKind.NAME, "  "),
        by(ReferenceKind.GROUP_TAG, ""),
        serial(""),
        serial("0"),
        serial("System Serial Number"),
        serial("Default string"),
        serial(" To be filled by O.E.M. "),
        serial("None"),
        serial("Unknown"),
        serial("0000000"),
    ],
)
async def test_a_value_that_identifies_nothing_finds_nothing_and_asks_nothing(reference: DeviceReference) -> None:
    graph = FakeGraph(0)
    graph.devices += [managed(1, serialNumber=reference.value, deviceName=reference.value, azureADDeviceId=ZEROS)]
    graph.identities += [identity(1, serialNumber=reference.value, groupTag="")]
    async with await connect(graph) as intune:
        found = (await intune.find([reference]))[reference]
    assert found.devices == ()
    assert found.not_enrolled == ()
    assert graph.requests == []


@pytest.mark.parametrize("value", ["0012345", "5CD1234XYZ", "VMware-56 4d"])
def test_real_serial_numbers_identify(value: str) -> None:
    assert identifies(value)


async def test_quotes_and_signs_in_a_value_stay_inside_the_filter() -> None:
    graph = FakeGraph(2)
    odd = "O'Brien & co + 100% #1/é"
    graph.devices[0]["deviceName"] = odd
    async with await connect(graph) as intune:
        found = await intune.find([by(ReferenceKind.NAME, odd), by(ReferenceKind.NAME, "x' or deviceName ne '")])
    assert [ids(finding) for finding in found.values()] == [[guid(1)], []]
    asked = {parse_qs(item["url"].partition("?")[2])["$filter"][0] for item in graph.items}
    assert asked >= {"deviceName eq 'O''Brien & co + 100% #1/é'", "deviceName eq 'x'' or deviceName ne '''"}


async def test_a_name_that_two_devices_have_finds_both() -> None:
    graph = FakeGraph(3)
    graph.devices[2]["deviceName"] = "LAB-1"
    async with await connect(graph) as intune:
        (found,) = (await intune.find([by(ReferenceKind.NAME, "LAB-1")])).values()
    assert sorted(ids(found)) == [guid(1), guid(3)]


async def test_a_serial_number_that_merely_contains_the_one_asked_for_is_not_taken() -> None:
    graph = FakeGraph(0)
    graph.identities += [identity(1, serialNumber="SN000011", managedDeviceId=None)]
    async with await connect(graph) as intune:
        (found,) = (await intune.find([serial("SN00001")])).values()
    assert found.not_enrolled == ()


@pytest.mark.parametrize("link", [None, "", ZEROS, guid(77)])
@pytest.mark.parametrize("reference", [serial("SN00002"), by(ReferenceKind.GROUP_TAG, "lab")])
async def test_an_autopilot_identity_without_a_managed_device_is_not_enrolled(
    link: str | None, reference: DeviceReference
) -> None:
    graph = FakeGraph(2)
    del graph.devices[1]
    del graph.identities[0]
    graph.identities[0]["managedDeviceId"] = link
    async with await connect(graph) as intune:
        found = (await intune.find([reference]))[reference]
    assert found.devices == ()
    assert [i.serial_number for i in found.not_enrolled] == ["SN00002"]


async def test_an_enrolled_device_is_not_called_unenrolled_for_a_stale_link() -> None:
    graph = FakeGraph(1)
    graph.identities[0]["managedDeviceId"] = guid(77)
    async with await connect(graph) as intune:
        (found,) = (await intune.find([serial("SN00001")])).values()
    assert ids(found) == [guid(1)]
    assert found.not_enrolled == ()


async def test_a_group_tag_finds_its_devices_by_link_or_serial_and_no_others() -> None:
    graph = FakeGraph(5)
    graph.identities[1]["groupTag"] = "lab2"
    graph.identities[2]["managedDeviceId"] = guid(88)  # enrolled anew since
    graph.identities[3]["managedDeviceId"] = guid(5)  # by its serial another machine
    graph.identities[3]["serialNumber"] = "SN77777"
    for row in graph.identities:
        row["groupTag"] = row["groupTag"].replace("lab", "Lab")
    graph.identities[4]["groupTag"] = "LAB"
    tag = by(ReferenceKind.GROUP_TAG, "Lab")
    async with await connect(graph) as intune:
        found = (await intune.find([tag]))[tag]
    assert sorted(ids(found)) == [guid(1), guid(3)]
    assert [i.serial_number for i in found.not_enrolled] == ["SN77777"]


async def test_an_identity_is_linked_by_either_spelling_of_its_entra_id() -> None:
    graph = FakeGraph(1)
    graph.devices[0]["serialNumber"] = "System Serial Number"
    row = graph.identities[0]
    row["managedDeviceId"], row["azureAdDeviceId"] = None, row.pop("azureActiveDirectoryDeviceId").upper()
    async with await connect(graph) as intune:
        (found,) = (await intune.find([by(ReferenceKind.NAME, "LAB-1")])).values()
    assert found.devices[0].autopilot is not None


async def test_records_that_graph_does_not_have_are_none() -> None:
    graph = FakeGraph(1)
    graph.identities.clear()
    graph.entra.clear()
    async with await connect(graph) as intune:
        found = await intune.facts([device_id(1), device_id(2)])
    facts = found[device_id(1)]
    assert facts is not None
    assert (facts.entra, facts.autopilot) == (None, None)
    assert found[device_id(2)] is None


async def test_a_record_read_by_itself_costs_one_call_and_shows_what_is_pending() -> None:
    graph = FakeGraph(2)
    graph.devices[0]["deviceActionResults"] = [{"actionName": "retire", "actionState": "pending"}]
    gone_, odd = device_id(9), ManagedDeviceId("no id")
    async with await connect(graph) as intune:
        alone = await intune.managed([device_id(1), device_id(2), gone_, odd])
        asked = len(graph.items)
        facts = await intune.facts([device_id(1), device_id(2)])
    assert asked == 3
    assert (alone[gone_], alone[odd]) == (None, None)
    for device, shown in ((device_id(1), ("retire",)), (device_id(2), ())):
        record, whole = alone[device], facts[device]
        assert record is not None
        assert whole is not None
        assert record == whole.managed
        assert record.pending_actions == shown


async def test_entra_devices_are_asked_for_together_and_what_is_left_out_by_itself() -> None:
    graph = FakeGraph(32)
    del graph.entra[4]
    async with await connect(graph) as intune:
        found = await intune.facts([device_id(n) for n in range(1, 33)])
    missing = [n for n in range(1, 33) if (facts := found[device_id(n)]) is not None and facts.entra is None]
    assert missing == [5]
    assert all(
        facts and (facts.entra is None or facts.entra.device_id == facts.managed.entra_device_id)
        for facts in found.values()
    )
    asked = [unquote(item["url"]) for item in graph.items if item["url"].startswith("/devices")]
    assert [url.count("deviceId eq") for url in asked] == [15, 15, 2, 1]


@pytest.mark.parametrize("answer", ["refused", "ignored", "and", "odd"])
async def test_entra_devices_are_asked_for_singly_where_asking_together_does_not_work(answer: str) -> None:
    graph = FakeGraph(3)
    others = [entra(n) for n in range(50, 60)]

    def together(item: Json) -> Json | None:
        if " or " not in unquote(item["url"]):
            return None
        rows = {"ignored": others, "and": [], "odd": [{"deviceId": None}]}
        if answer == "refused":
            return {"status": 400, "body": error("Request_UnsupportedQuery")}
        return {"status": 200, "body": {"value": rows[answer]}}

    graph.on_item = together
    async with await connect(graph) as intune:
        found = await intune.facts([device_id(n) for n in (1, 2, 3)])
    for n in (1, 2, 3):
        facts = found[device_id(n)]
        assert facts is not None
        assert facts.entra is not None
        assert facts.entra.device_id == facts.managed.entra_device_id


async def test_facts_are_read_device_by_device_even_for_many() -> None:
    graph = FakeGraph(150)
    async with await connect(graph) as intune:
        found = await intune.facts([device_id(n) for n in range(1, 151)])
    assert all(found.values())
    assert {item["url"].split("?")[0] for item in graph.items} >= {
        f"/deviceManagement/managedDevices/{guid(n)}" for n in range(1, 151)
    }


async def test_many_references_are_found_in_lists_and_what_lists_leave_out_is_asked_for() -> None:
    graph = FakeGraph(200)
    graph.page = 60
    graph.hidden = {graph.devices[0]["id"], graph.identities[1]["id"], graph.entra[2]["id"]}
    wanted = [serial(f"SN{n:05}") for n in range(1, 202)]
    async with await connect(graph) as intune:
        found = await intune.find(wanted)
    for n in range(1, 201):
        (facts,) = found[wanted[n - 1]].devices
        assert facts.managed.id == guid(n)
        assert facts.entra is not None
        assert facts.autopilot is not None
    assert found[wanted[200]].devices == ()
    asked = [item["url"] for item in graph.items]
    assert len(asked) == 6  # the three that the lists left out, and the last, by both collections, whose absence counts


async def test_every_read_waits_for_a_turn_of_as_many_calls_as_graph_counts() -> None:
    graph = FakeGraph(200)
    graph.page = 60
    graph.hidden = {graph.devices[0]["id"], graph.identities[1]["id"], graph.entra[2]["id"]}
    turns: list[int] = []

    async def turn(calls: int) -> None:
        assert len(graph.requests) <= len(turns), "what waits for its turn is not sent yet"
        turns.append(calls)
        await asyncio.sleep(0)

    async with await connect(graph, turn=turn) as intune:
        await intune.find([serial(f"SN{n:05}") for n in range(1, 202)])
        assert [found async for found in intune.changed_since(NOW - timedelta(days=9000))]
    alone = [request for request in graph.requests if not request.url.path.endswith("/$batch")]
    assert len(graph.requests) == len(turns)
    assert sum(turns) == len(alone) + len(graph.items)


async def test_the_record_that_is_read_right_before_an_order_waits_for_no_other_reads() -> None:
    async def turn(_calls: int) -> None:
        raise AssertionError("it waits for a turn")

    async with await connect(FakeGraph(1), turn=turn) as intune:
        assert await intune.managed([device_id(1)])
        with pytest.raises(AssertionError):
            await intune.facts([device_id(1)])


async def test_names_are_asked_for_even_when_lists_are_at_hand() -> None:
    graph = FakeGraph(120)
    graph.devices[1]["deviceName"] = "LAB-1"
    graph.hidden = {graph.devices[1]["id"]}
    name = by(ReferenceKind.NAME, "LAB-1")
    async with await connect(graph) as intune:
        found = await intune.find([*(serial(f"SN{n:05}") for n in range(1, 121)), name])
    assert sorted(ids(found[name])) == [guid(1), guid(2)]


def test_a_list_neither_answers_for_a_name_nor_is_read_for_names() -> None:
    book = Book()
    book.learn_list(Collection.MANAGED, [decode.managed_device(managed(1))])
    asked = Question(Collection.MANAGED, "deviceName", "LAB-1")
    assert book.get(asked) == ()
    assert book.missing == {asked}
    many = Book()
    for n in range(MOST_ASKED_SINGLY + 1):
        many.get(Question(Collection.MANAGED, "deviceName", f"N{n}"))
    assert many.plan(lists_allowed=True)[0] == set()


def test_listing_begins_where_asking_would_cost_more() -> None:
    def planned(count: int) -> tuple[set[Collection], int]:
        book = Book()
        for n in range(count):
            book.get(Question(Collection.MANAGED, "serialNumber", f"S{n}"))
        to_list, ask = book.plan(lists_allowed=True)
        return to_list, len(ask)

    assert planned(MOST_ASKED_SINGLY) == (set(), MOST_ASKED_SINGLY)
    assert planned(MOST_ASKED_SINGLY + 1) == ({Collection.MANAGED}, 0)


@pytest.mark.parametrize(("count", "calls", "items"), [(1, 3, 3), (20, 3, 42), (500, 3, 0)])
async def test_finding_costs_few_calls(count: int, calls: int, items: int) -> None:
    graph = FakeGraph(500)
    async with await connect(graph) as intune:
        found = await intune.find([serial(f"SN{n:05}") for n in range(1, count + 1)])
        assert intune.calls["http"] == len(graph.requests) == calls
    assert len(graph.items) == items
    assert all(len(finding.devices) == 1 for finding in found.values())


async def test_a_find_that_could_not_be_completed_fails() -> None:
    graph = FakeGraph(3)
    graph.on_item = lambda item: {"status": 500, "body": error("InternalError")} if "devices?" in item["url"] else None
    async with await connect(graph) as intune:
        with pytest.raises(GraphError):
            await intune.find([serial("SN00001")])


async def test_another_record_than_the_one_asked_for_by_id_is_an_error_not_an_answer() -> None:
    graph = FakeGraph(2)
    graph.on_item = lambda _: {"status": 200, "body": managed(2)}
    async with await connect(graph) as intune:
        with pytest.raises(GraphError):
            await intune.facts([device_id(1)])


# What Graph's beta tells


async def test_facts_of_managed_devices_are_read_from_beta_and_all_else_from_v1() -> None:
    graph = FakeGraph(150)
    async with await connect(graph) as intune:
        await intune.find([serial("SN00001"), serial("SN99999"), by(ReferenceKind.NAME, "LAB-2")])
        await intune.find([serial(f"SN{n:05}") for n in range(1, 151)])
        await intune.facts([device_id(3)])
        asked_of_beta = {
            path for version, path in paths(graph) if version == "beta" and not path.startswith("deviceManagement/man")
        }
        of_managed_devices = {version for version, path in paths(graph) if "managedDevices" in path}
        graph.requests.clear()
        graph.items.clear()
        await intune.look([device_id(1)])
        assert [change async for change in intune.changed_since(NOW - timedelta(days=9))]
        await intune.sync([order(1)])
        await intune.reset([order(1)])
        await intune.fleet_size()
        elsewhere = {version for version, _ in paths(graph)}
    assert (asked_of_beta, of_managed_devices, elsewhere) == (set(), {"beta"}, {"v1.0"})


def paths(graph: FakeGraph) -> list[tuple[str, str]]:
    """Version and path of all that was asked, alone or in a $batch."""
    alone = [request.url.path.strip("/").split("/", 1) for request in graph.requests]
    asked = [(version, path) for version, path in alone if path != "$batch"]
    return asked + [(item["version"], item["url"].strip("/").partition("?")[0]) for item in graph.items]


@pytest.mark.parametrize("reference", [by(ReferenceKind.INTUNE_ID, guid(2)), serial("SN00002")])
async def test_what_beta_tells_of_a_device_is_in_its_facts(reference: DeviceReference) -> None:
    graph = FakeGraph(2)
    async with await connect(graph) as intune:
        (found,) = (await intune.find([reference])).values()
    one = found.devices[0].managed
    assert (one.manufacturer, one.model, one.sku_family) == ("Contoso", "Box", "Enterprise")
    assert (one.join_type, one.os_version, one.management_agent) == ("azureADJoined", "10.0.22631.4460", "mdm")


@pytest.mark.parametrize(
    ("shown", "pending"),
    [
        ([], ()),
        (None, None),
        ("nonsense", None),
        ([("quickScan", "done"), ("factoryReset", "failed"), ("retire", "canceled")], ()),
        ([("factoryReset", "none"), ("locateDevice", "notSupported")], ()),
        ([("quickScan", "done"), ("factoryReset", "pending"), ("quickScan", "active")], ("factoryReset", "quickScan")),
        ([("rotateBitLockerKeys", "somethingNew"), ("retire", None)], ("rotateBitLockerKeys", "retire")),
        ([(None, "pending")], ("unnamed",)),
    ],
)
async def test_pending_actions_are_told_of_a_device_that_is_read_alone(
    shown: Any, pending: tuple[str, ...] | None
) -> None:
    graph = FakeGraph(1)
    results = [action(*one) for one in shown] if isinstance(shown, list) else shown
    graph.devices[0]["deviceActionResults"] = results
    async with await connect(graph) as intune:
        facts = (await intune.facts([device_id(1)]))[device_id(1)]
        (named,) = (await intune.find([by(ReferenceKind.INTUNE_ID, guid(1))])).values()
    assert facts is not None
    assert facts.managed.pending_actions == named.devices[0].managed.pending_actions == pending


def action(name: str | None, state: str | None, started: str = "2026-11-20T10:00:00Z") -> Json:
    return {"actionName": name, "actionState": state, "startDateTime": started, "lastUpdatedDateTime": started}


async def test_an_action_that_has_been_pending_for_years_is_told_as_pending() -> None:
    graph = FakeGraph(1)
    graph.devices[0]["deviceActionResults"] = [
        action("factoryReset", "done", "2023-01-01T00:00:00Z"),
        action("rotateBitLockerKeys", "pending", "2023-01-01T00:00:00Z"),
    ]
    async with await connect(graph) as intune:
        facts = (await intune.facts([device_id(1)]))[device_id(1)]
    assert facts is not None
    assert facts.managed.pending_actions == ("rotateBitLockerKeys",)


@pytest.mark.parametrize("count", [1, 150])
async def test_a_list_or_a_filter_does_not_say_that_nothing_is_pending(count: int) -> None:
    graph = FakeGraph(150)
    async with await connect(graph) as intune:
        found = await intune.find([serial(f"SN{n:05}") for n in range(1, count + 1)])
    assert {finding.devices[0].managed.pending_actions for finding in found.values()} == {None}


def test_a_saved_list_tells_pending_actions_only_where_it_shows_some() -> None:
    def told(*results: Json) -> tuple[str, ...] | None:
        return decode.managed_device(managed(1, deviceActionResults=list(results))).pending_actions

    assert told() is None
    assert told(action("retire", "pending")) == ("retire",)
    assert told(action("retire", "done")) == ()


@pytest.mark.parametrize("value", ["", "  ", "Unknown", "unknown", "UNKNOWN", None, 5, ["mdm"]])
@pytest.mark.parametrize("reference", [by(ReferenceKind.INTUNE_ID, guid(1)), serial("SN00001")])
async def test_what_is_not_told_is_none_however_graph_writes_it(value: object, reference: DeviceReference) -> None:
    graph = FakeGraph(1)
    told = ("manufacturer", "model", "joinType", "osVersion", "skuFamily", "managementAgent", "operatingSystem")
    graph.devices[0].update(dict.fromkeys(told, value))
    async with await connect(graph) as intune:
        (found,) = (await intune.find([reference])).values()
    one = found.devices[0].managed
    assert (one.manufacturer, one.model, one.operating_system, one.sku_family) == (None, None, None, None)
    assert (one.join_type, one.os_version, one.management_agent) == (None, None, None)


@pytest.mark.parametrize(
    ("shown", "read"),
    [
        ({"joinType": "hybridAzureADJoined"}, ("hybridAzureADJoined", "mdm")),
        ({"joinType": "AZUREADJOINED", "managementAgent": "MDM"}, ("azureADJoined", "mdm")),
        ({"joinType": "azureADJoinedNew"}, (None, "mdm")),
        ({"joinType": "unknownFutureValue", "managementAgent": "unknownFutureValue"}, (None, None)),
        ({"managementAgent": "mdmNew"}, ("azureADJoined", None)),
        ({"managementAgent": "configurationManagerClientMdm"}, ("azureADJoined", "configurationManagerClientMdm")),
    ],
)
def test_members_that_graph_does_not_publish_are_not_told(shown: Json, read: tuple[str | None, str | None]) -> None:
    one = decode.managed_device(managed(1, **shown))
    assert (one.join_type, one.management_agent) == read


def test_each_published_member_that_says_something_is_read() -> None:
    enums = Schema.kept("beta").enums
    for field, read, enum in (
        ("joinType", "join_type", "joinType"),
        ("managementAgent", "management_agent", "managementAgentType"),
    ):
        for member in set(enums[enum]) - {"unknown", "unknownFutureValue"}:
            assert getattr(decode.managed_device(managed(1, **{field: member})), read) == member


def test_texts_that_devices_share_are_kept_once() -> None:
    one, other = (decode.managed_device(json.loads(json.dumps(managed(n)))) for n in (1, 2))
    for field in ("model", "manufacturer", "os_version", "sku_family", "management_agent", "join_type"):
        assert getattr(one, field) is getattr(other, field)


NO_PROPERTY = error("BadRequest", "Parsing OData Select and Expand failed: Could not find a property named 'joinType'.")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [(400, NO_PROPERTY, GraphRejected), (403, error("Forbidden"), GraphForbidden), (404, "gone", GraphRejected)],
)
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("count", [1, 150])
async def test_where_beta_cannot_be_used_the_read_fails_in_words_and_v1_is_not_asked_instead(
    status: int, body: object, kind: type[GraphError], whole: bool, count: int
) -> None:
    graph = FakeGraph(150)
    beta = httpx.Response(status, json=body)
    graph.on_call = lambda request: (
        beta if request.url.path.startswith("/beta/") and (whole or not request.url.path.endswith("/$batch")) else None
    )
    graph.on_item = lambda item: {"status": status, "body": body} if "managedDevices" in item["url"] else None
    async with await connect(graph) as intune:
        with pytest.raises(kind, match=r"managedDevices.* \(beta\)"):
            await intune.find([serial(f"SN{n:05}") for n in range(1, count + 1)])
        with pytest.raises(kind, match=r"managedDevices.* \(beta\)"):
            await intune.facts([device_id(1)])
    assert [path for version, path in paths(graph) if version == "v1.0" and "managedDevices" in path] == []


# Groups


GROUP, NESTED, OTHER = guid(0x5000A), guid(0x5000B), guid(0x5000C)


def grouped(count: int = 3) -> FakeGraph:
    """Devices, of which the first is in a group, and the second's user in another."""
    graph = FakeGraph(count)
    for group, members in ((GROUP, [guid(1 + 0x10000)]), (NESTED, [guid(2 + 0x30000)]), (OTHER, [])):
        graph.groups[group] = {"id": group, "visibility": None, "members": members}
    return graph


async def facts_of(intune: GraphIntune, *numbers: int) -> list[DeviceFacts]:
    found = await intune.facts([device_id(n) for n in numbers])
    return [facts for facts in found.values() if facts is not None]


def without(graph: FakeGraph) -> None:
    graph.requests.clear()
    graph.items.clear()


async def test_a_device_is_in_its_own_groups_and_in_those_of_its_primary_user() -> None:
    graph = grouped()
    async with await connect(graph) as intune:
        facts = await facts_of(intune, 1, 2, 3)
        without(graph)
        found = await intune.memberships(facts, frozenset({GROUP.upper(), NESTED, OTHER}))
    assert found == {
        device_id(1): frozenset({GROUP.upper()}),
        device_id(2): frozenset({NESTED}),
        device_id(3): frozenset(),
    }
    assert len(graph.requests) == 1
    asked = [item for item in graph.items if item["method"] == "POST"]
    assert {item["url"] for item in asked} == {
        *(f"/devices(deviceId='{guid(n + 0x10000)}')/checkMemberGroups" for n in (1, 2, 3)),
        *(f"/users/{guid(n + 0x30000)}/checkMemberGroups" for n in (1, 2, 3)),
    }
    for item in asked:
        assert item["body"] == {"groupIds": [GROUP, NESTED, OTHER]}
        assert item["headers"]["Content-Type"] == "application/json"
    assert {item["version"] for item in graph.items} == {"v1.0"}


async def test_without_groups_or_devices_nothing_is_asked() -> None:
    graph = grouped()
    async with await connect(graph) as intune:
        facts = await facts_of(intune, 1)
        without(graph)
        assert await intune.memberships(facts, frozenset()) == {device_id(1): frozenset()}
        assert await intune.memberships([], frozenset({GROUP})) == {}
    assert graph.requests == []


async def test_more_groups_than_one_call_takes_are_asked_for_in_several() -> None:
    graph = grouped(1)
    many = [guid(0x60000 + n) for n in range(41)]
    for group in many:
        graph.groups[group] = {"id": group, "members": [guid(1 + 0x10000)] if group in many[::20] else []}
    async with await connect(graph) as intune:
        facts = await facts_of(intune, 1)
        without(graph)
        found = await intune.memberships(facts, frozenset(many))
    assert found == {device_id(1): frozenset(many[::20])}
    sizes = [len(item["body"]["groupIds"]) for item in graph.items if "devices" in item["url"]]
    assert sorted(sizes) == [1, 20, 20]
    assert len(graph.items) == 41 + 2 * 3


async def test_a_user_of_many_devices_is_asked_for_once() -> None:
    graph = grouped(30)
    for row in graph.devices:
        row["userId"] = guid(2 + 0x30000)
    async with await connect(graph) as intune:
        facts = await facts_of(intune, *range(1, 31))
        without(graph)
        found = await intune.memberships(facts, frozenset({GROUP, NESTED}))
    assert len([item for item in graph.items if "/users/" in item["url"]]) == 1
    assert found[device_id(1)] == {GROUP, NESTED}
    assert {groups for device, groups in found.items() if device != device_id(1)} == {frozenset({NESTED})}


async def test_a_device_that_entra_does_not_know_is_left_out_and_a_user_that_is_gone_is_in_no_group() -> None:
    graph = grouped()
    async with await connect(graph) as intune:
        facts = await facts_of(intune, 1, 2, 3)
        del graph.entra[2]
        graph.users.remove(guid(1 + 0x30000))
        found = await intune.memberships(facts, frozenset({GROUP, NESTED}))
    assert found == {device_id(1): frozenset({GROUP}), device_id(2): frozenset({NESTED})}


@pytest.mark.parametrize(
    ("changes", "groups"),
    [
        ({"primary_user": ""}, frozenset({GROUP})),
        ({"primary_user": None}, None),
        ({"primary_user": "anna@contoso.example"}, None),
        ({"entra_device_id": None}, None),
        ({"entra_device_id": "../users"}, None),
    ],
)
async def test_a_device_of_which_the_ids_were_not_told_is_left_out_and_not_asked_for(
    changes: Json, groups: frozenset[str] | None
) -> None:
    graph = grouped()
    async with await connect(graph) as intune:
        (facts,) = await facts_of(intune, 1)
        without(graph)
        odd = dataclasses.replace(facts, managed=dataclasses.replace(facts.managed, **changes))
        found = await intune.memberships([odd], frozenset({GROUP}))
    assert found.get(device_id(1)) == groups
    assert bool(graph.items) is (groups is not None)


@pytest.mark.parametrize("group", ["VIP", "", ZEROS, f"{GROUP}/members", f"{GROUP}'"])
async def test_what_is_no_id_of_a_group_is_refused_before_anything_is_asked(group: str) -> None:
    graph = grouped()
    async with await connect(graph) as intune:
        facts = await facts_of(intune, 1)
        without(graph)
        with pytest.raises(GraphRejected, match="object id"):
            await intune.memberships(facts, frozenset({GROUP, group}))
    assert graph.requests == []


async def test_a_group_that_is_gone_or_hides_its_members_is_an_error_since_it_would_protect_nobody() -> None:
    graph = grouped()
    async with await connect(graph) as intune:
        facts = await facts_of(intune, 1)
        with pytest.raises(GraphRejected, match=f"no group {guid(0x59999)}"):
            await intune.memberships(facts, frozenset({GROUP, guid(0x59999)}))
        graph.groups[GROUP]["visibility"] = "HiddenMembership"
        with pytest.raises(GraphRejected, match=f"{GROUP} hides its members"):
            await intune.memberships(facts, frozenset({GROUP}))
        graph.groups[GROUP]["id"] = OTHER
        with pytest.raises(GraphError, match="another group"):
            await intune.memberships(facts, frozenset({GROUP}))


@pytest.mark.parametrize(
    ("about", "status", "body", "kind"),
    [
        ("/users/", 403, error("Authorization_RequestDenied"), GraphForbidden),
        ("/devices(", 403, error("Authorization_RequestDenied"), GraphForbidden),
        ("/groups/", 403, error("Authorization_RequestDenied"), GraphForbidden),
        ("/users/", 404, "<html>not found</html>", GraphRejected),
        ("/users/", 404, {}, GraphRejected),
        ("/users/", 404, error("Request_ResourceNotFound", f"Resource '{GROUP}' does not exist."), GraphError),
        ("/devices(", 404, error("Request_ResourceNotFound", f"Resource '{GROUP}' does not exist."), GraphError),
        ("/users/", 400, error("Request_BadRequest", "Invalid object identifier"), GraphRejected),
        ("/devices(", 200, {}, GraphError),
        ("/users/", 200, {"value": [{"id": GROUP}]}, GraphError),
        ("/users/", 200, {"value": GROUP}, GraphError),
        ("/devices(", 429, error("TooManyRequests"), GraphThrottled),
        ("/devices(", 503, error("ServiceUnavailable"), GraphUnavailable),
    ],
)
async def test_an_answer_that_does_not_tell_the_groups_is_an_error_not_an_absence(
    about: str, status: int, body: object, kind: type[GraphError]
) -> None:
    graph = grouped()
    async with await connect(graph) as intune:
        facts = await facts_of(intune, 1, 2)
        graph.on_item = lambda item: {"status": status, "body": body} if about in item["url"] else None
        with pytest.raises(kind) as caught:
            await intune.memberships(facts, frozenset({GROUP}))
    if kind is GraphForbidden:
        assert "GroupMember.Read.All" in str(caught.value)


async def test_a_question_about_groups_is_asked_again_as_reads_are() -> None:
    graph = grouped()
    waits, failing = Waits(), iter([True])
    async with await connect(graph, waits) as intune:
        facts = await facts_of(intune, 1)
        without(graph)
        graph.on_item = lambda item: (
            {"status": 503, "body": error("Busy")} if item["method"] == "POST" and next(failing, False) else None
        )
        assert await intune.memberships(facts, frozenset({GROUP})) == {device_id(1): frozenset({GROUP})}
    assert waits == [1.0]
    assert [len(json.loads(request.content)["requests"]) for request in graph.requests] == [3, 1]


async def test_groups_that_were_not_asked_for_are_not_taken_from_an_answer() -> None:
    graph = grouped()
    async with await connect(graph) as intune:
        facts = await facts_of(intune, 3)
        graph.on_item = lambda item: (
            {"status": 200, "body": {"value": [OTHER, "x", GROUP.upper()]}} if "/users/" in item["url"] else None
        )
        assert await intune.memberships(facts, frozenset({GROUP})) == {device_id(3): frozenset({GROUP})}


# The size of the fleet


async def test_the_fleet_is_as_large_as_intunes_overview_counts_its_windows_devices() -> None:
    graph = FakeGraph(7)
    graph.overview = {"enrolledDeviceCount": 99, "deviceOperatingSystemSummary": {"windowsCount": 7, "iosCount": 5}}
    async with await connect(graph) as intune:
        assert await intune.fleet_size() == 7
        assert str(graph.requests[0].url).endswith("/v1.0/deviceManagement/managedDeviceOverview")


@pytest.mark.parametrize(
    "overview",
    [
        {},
        {"deviceOperatingSystemSummary": None},
        {"deviceOperatingSystemSummary": {}},
        {"deviceOperatingSystemSummary": []},
        {"deviceOperatingSystemSummary": "x"},
    ],
)
async def test_an_overview_without_the_count_is_an_error(overview: Json) -> None:
    graph = FakeGraph(1)
    graph.overview = overview
    async with await connect(graph) as intune:
        with pytest.raises(GraphError, match="how many"):
            await intune.fleet_size()


@pytest.mark.parametrize("count", [None, "7", 7.5, True, -1])
async def test_a_count_that_is_none_is_an_error(count: object) -> None:
    graph = FakeGraph(1)
    graph.overview = {"deviceOperatingSystemSummary": {"windowsCount": count}}
    async with await connect(graph) as intune:
        with pytest.raises(GraphError, match="how many"):
            await intune.fleet_size()


@pytest.mark.parametrize(
    ("status", "kind"), [(403, GraphForbidden), (404, GraphRejected), (429, GraphThrottled), (503, GraphUnavailable)]
)
async def test_an_overview_that_cannot_be_read_is_an_error(status: int, kind: type[GraphError]) -> None:
    graph = FakeGraph(1)
    graph.on_call = lambda _: httpx.Response(status, json=error("Failed"))
    async with await connect(graph) as intune:
        with pytest.raises(kind):
            await intune.fleet_size()


# Never the wrong device


def gone(graph: FakeGraph) -> None:
    del graph.devices[0]


def enrolled_anew(graph: FakeGraph) -> None:
    graph.devices[0]["id"] = guid(50)


async def test_a_device_that_is_gone_has_no_facts_and_is_seen_to_be_gone() -> None:
    graph = FakeGraph(2)
    gone(graph)
    async with await connect(graph) as intune:
        found = await intune.facts([device_id(1), device_id(2)])
        seen = await intune.look([device_id(1), device_id(2)])
        named = await intune.find([by(ReferenceKind.INTUNE_ID, guid(1)), serial("SN00001")])
    assert found[device_id(1)] is None
    assert found[device_id(2)] is not None
    assert (seen[device_id(1)].exists, seen[device_id(2)].exists) == (False, True)
    assert [ids(finding) for finding in named.values()] == [[], []]


async def test_a_device_enrolled_anew_does_not_answer_for_its_old_id() -> None:
    graph = FakeGraph(1)
    enrolled_anew(graph)
    async with await connect(graph) as intune:
        found = await intune.facts([device_id(1)])
        seen = await intune.look([device_id(1)])
        (named,) = (await intune.find([serial("SN00001")])).values()
    assert found[device_id(1)] is None
    assert not seen[device_id(1)].exists
    assert ids(named) == [guid(50)], "the request that names it by its serial number means the machine as it is now"


@pytest.mark.parametrize("reference", [serial("SN00001"), by(ReferenceKind.ENTRA_DEVICE_ID, guid(1 + 0x10000))])
async def test_a_machine_with_an_old_and_a_new_record_is_ambiguous_not_guessed(reference: DeviceReference) -> None:
    graph = FakeGraph(1)
    graph.devices.append(managed(50, serialNumber="SN00001", azureADDeviceId=guid(1 + 0x10000)))
    async with await connect(graph) as intune:
        (found,) = (await intune.find([reference])).values()
        facts = await intune.facts([device_id(1), device_id(50)])
    assert sorted(ids(found)) == [guid(1), guid(50)]
    refused = eligibility.resolve(found)
    assert getattr(refused, "code", None) is Code.AMBIGUOUS
    assert {device: one and one.managed.id for device, one in facts.items()} == {d: d for d in facts}


@pytest.mark.parametrize("shared", ["SN00001", "System Serial Number", "0", "Default string", "", None])
async def test_a_machine_that_shares_its_serial_number_is_not_given_the_registration_of_the_other(
    shared: str | None,
) -> None:
    graph = FakeGraph(2)
    graph.devices[0]["serialNumber"] = graph.devices[1]["serialNumber"] = shared
    del graph.identities[1]
    graph.identities[0]["serialNumber"] = shared
    async with await connect(graph) as intune:
        facts = (await intune.facts([device_id(2)]))[device_id(2)]
        (named,) = (await intune.find([serial(shared or "")])).values()
    assert facts is not None
    refused = eligibility.refusal(facts, Policy(), NOW)
    assert refused is not None
    assert refused.code in (Code.AUTOPILOT_MISMATCH, Code.NOT_AUTOPILOT_REGISTERED)
    assert sorted(ids(named)) == ([guid(1), guid(2)] if identifies(shared) else [])


async def test_a_look_tells_by_the_entra_id_when_the_record_is_another_machines_now() -> None:
    graph = FakeGraph(1)
    async with await connect(graph) as intune:
        before = (await intune.look([device_id(1)]))[device_id(1)]
        graph.devices[0]["azureADDeviceId"] = guid(0x7777)
        after = (await intune.look([device_id(1)]))[device_id(1)]
    assert (before.entra_device_id, after.entra_device_id) == (guid(1 + 0x10000), guid(0x7777))


@pytest.mark.parametrize(
    "reference",
    [
        serial("SN00001"),
        by(ReferenceKind.NAME, "LAB-1"),
        by(ReferenceKind.ENTRA_DEVICE_ID, guid(1 + 0x10000)),
        by(ReferenceKind.GROUP_TAG, "lab"),
    ],
)
async def test_records_of_another_tenants_devices_are_never_taken_for_what_was_asked(
    reference: DeviceReference,
) -> None:
    """Whatever Graph puts into an answer, only records with the very value that was asked for are taken."""
    graph = FakeGraph(1)
    foreign = {
        "managedDevices": [managed(9)],
        "windowsAutopilotDeviceIdentities": [identity(9, groupTag="other")],
        "devices": [entra(9)],
    }

    def rows(url: str) -> Json:
        return {"value": foreign[url.partition("?")[0].rpartition("/")[2]]}

    graph.on_item = lambda item: {"status": 200, "body": rows(item["url"])} if "?$filter" in item["url"] else None
    graph.on_call = lambda request: (
        None if request.url.path.endswith("/$batch") else httpx.Response(200, json=rows(str(request.url)))
    )
    async with await connect(graph) as intune:
        (found,) = (await intune.find([reference])).values()
        facts = (await intune.facts([device_id(1)]))[device_id(1)]
    assert found.devices + found.not_enrolled == ()
    assert facts is not None
    assert (facts.managed.id, facts.entra, facts.autopilot) == (guid(1), None, None)


async def test_a_look_that_is_answered_with_another_tenants_device_is_no_sighting() -> None:
    graph = FakeGraph(2)
    graph.on_item = lambda item: {"status": 200, "body": managed(9)} if guid(1) in item["url"] else None
    async with await connect(graph) as intune:
        assert list(await intune.look([device_id(1), device_id(2)])) == [device_id(2)]
        with pytest.raises(GraphError, match="another managed device"):
            await intune.look([device_id(1)])


# Looking


async def test_a_look_shows_actions_user_and_absence() -> None:
    graph = FakeGraph(2)
    graph.devices[0]["deviceActionResults"] = [
        {
            "actionName": "automaticRedeployment",
            "actionState": "done",
            "startDateTime": "2026-11-20T10:00:00.1234567Z",
            "lastUpdatedDateTime": "0001-01-01T00:00:00Z",
        },
        {"actionName": None, "actionState": "somethingNew"},
        "nonsense",
    ]
    async with await connect(graph) as intune:
        seen = await intune.look([device_id(1), device_id(2), device_id(3)])
    first, second = seen[device_id(1)], seen[device_id(2)]
    assert first.actions is not None
    assert [(a.name, a.state, a.updated_at) for a in first.actions] == [
        ("automaticRedeployment", ActionState.DONE, None),
        (None, ActionState.UNKNOWN, None),
    ]
    assert first.actions[0].started_at == datetime(2026, 11, 20, 10, 0, 0, 123456, tzinfo=UTC)
    assert second.actions == ()
    assert not seen[device_id(3)].exists
    assert first.seen_at == NOW


async def test_devices_that_cannot_be_read_are_left_out_of_a_look() -> None:
    graph = FakeGraph(3)

    def some(item: Json) -> Json | None:
        if guid(1) in item["url"]:
            return {"status": 403, "body": error("Forbidden")}
        if guid(2) in item["url"]:
            return {"status": 200, "body": managed(3)}
        return None

    graph.on_item = some
    async with await connect(graph) as intune:
        assert list(await intune.look([device_id(1), device_id(2), device_id(3)])) == [device_id(3)]


@pytest.mark.parametrize("body", ["<html>not found</html>", None, {}])
async def test_a_404_that_is_not_graphs_own_does_not_make_a_device_gone(body: object) -> None:
    graph = FakeGraph(1)
    graph.on_item = lambda _: {"status": 404, "body": body}
    async with await connect(graph) as intune:
        with pytest.raises(GraphError):
            await intune.look([device_id(1)])


async def test_a_look_at_many_takes_twenty_a_call() -> None:
    graph = FakeGraph(45)
    async with await connect(graph) as intune:
        assert len(await intune.look([device_id(n) for n in range(1, 46)])) == 45
    assert len(graph.requests) == 3


# Lists


async def test_changes_are_paged_and_checked_again() -> None:
    graph = FakeGraph(6)
    since = datetime(2026, 11, 20, 12, 0, 0, 500000, tzinfo=UTC)
    for row, at in zip(
        graph.devices,
        ["11:59:59", "12:00:00", "12:00:01", "13:00:00", "14:00:00", None],
        strict=True,
    ):
        row["lastSyncDateTime"] = f"2026-11-20T{at}Z" if at else "0001-01-01T00:00:00Z"
    graph.devices[3]["operatingSystem"] = "iOS"
    graph.filters_work = False
    graph.page = 2
    async with await connect(graph) as intune:
        seen = [change.device async for change in intune.changed_since(since)]
    # The second one may have checked in at 12:00:00.7: a list cuts that off.
    assert seen == [guid(2), guid(3), guid(5)]
    assert [r.url.params["$filter"] for r in graph.requests] == ["lastSyncDateTime gt 2026-11-20T12:00:00Z"] * 3
    selected = "id,lastSyncDateTime,managementState,userId,operatingSystem"
    assert graph.requests[0].url.params["$select"] == selected


async def test_a_list_of_check_ins_shows_state_and_user_and_never_that_there_is_none() -> None:
    graph = FakeGraph(3)
    graph.devices[0]["managementState"] = "wipeIssued"
    graph.devices[1]["userId"] = ""
    del graph.devices[2]["userId"], graph.devices[2]["managementState"]
    async with await connect(graph) as intune:
        listed = {one.device: one async for one in intune.changed_since(NOW - timedelta(days=9))}
        looked = await intune.look([device_id(n) for n in (1, 2, 3)])
    assert [(listed[device_id(n)].management_state, listed[device_id(n)].primary_user) for n in (1, 2, 3)] == [
        ("wipeIssued", looked[device_id(1)].primary_user),
        ("managed", None),
        (None, None),
    ]
    assert looked[device_id(2)].primary_user == ""
    assert all(one.listed and one.exists and one.actions is None for one in listed.values())
    assert not any(one.listed for one in looked.values())


@pytest.mark.parametrize("alone", ["2026-11-20T12:00:00.9999999Z", "2026-11-20T12:00:00.1Z", "2026-11-20T12:00:00Z"])
async def test_s17_one_check_in_looks_the_same_in_a_list_and_in_a_close_look(alone: str) -> None:
    graph = FakeGraph(1)
    graph.devices[0]["lastSyncDateTime"] = "2026-11-20T12:00:00Z"
    async with await connect(graph) as intune:
        (listed,) = [one async for one in intune.changed_since(NOW - timedelta(days=9))]
        graph.devices[0]["lastSyncDateTime"] = alone
        looked = (await intune.look([device_id(1)]))[device_id(1)]
    assert listed.last_sync == looked.last_sync == datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/v1.0/deviceManagement/managedDevices?$skiptoken=1",
        "http://127.0.0.1:10/v1.0/x",
        "https://127.0.0.1:9/v1.0/x",
        "http://me@127.0.0.1:9/v1.0/x",
        "/relative",
        7,
    ],
)
async def test_a_next_page_elsewhere_is_not_followed(link: object) -> None:
    graph = FakeGraph()
    graph.on_call = lambda _: httpx.Response(200, json={"value": [], "@odata.nextLink": link})
    async with await connect(graph) as intune:
        with pytest.raises(GraphError):
            [change async for change in intune.changed_since(NOW)]
    assert len(graph.requests) == 1


async def test_pages_that_go_round_in_a_circle_end() -> None:
    graph = FakeGraph()
    body = {"value": [], "@odata.nextLink": "http://127.0.0.1:9/v1.0/x?$skiptoken=1"}
    graph.on_call = lambda _: httpx.Response(200, json=body)
    async with await connect(graph) as intune:
        with pytest.raises(GraphError, match="circle"):
            [change async for change in intune.changed_since(NOW)]


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (httpx.Response(403, json=error("Forbidden")), GraphForbidden),
        (httpx.Response(500, json=error("UnknownError", FORBIDDEN_INNER)), GraphForbidden),
        (httpx.Response(429, headers={"Retry-After": "600"}), GraphThrottled),
        (httpx.Response(401, json=error("InvalidAuthenticationToken")), GraphForbidden),
        (httpx.Response(503, headers={"Retry-After": "600"}, html="<html>"), GraphUnavailable),
        (httpx.Response(503, html="<html>"), GraphUnavailable),
        (httpx.Response(408), GraphUnavailable),
        (httpx.Response(200, html="<html>"), GraphUnavailable),
        (httpx.Response(200, text='{"value": [{"id"'), GraphUnavailable),
        (httpx.Response(200, json={}), GraphError),
        (httpx.Response(200, json={"value": "x"}), GraphError),
        (httpx.Response(200, text="[" * 200_000), GraphUnavailable),
        (httpx.Response(302, headers={"Location": "http://127.0.0.1:9/x"}), GraphRejected),
        (httpx.Response(400, json=error("BadRequest")), GraphRejected),
        (httpx.Response(404, json=error("ResourceNotFound")), GraphRejected),
    ],
)
async def test_a_read_that_fails_says_so(response: httpx.Response, kind: type[GraphError]) -> None:
    graph = FakeGraph()
    graph.on_call = lambda _: response
    async with await connect(graph) as intune:
        with pytest.raises(kind) as caught:
            [change async for change in intune.changed_since(NOW)]
        with pytest.raises(kind):
            await intune.find([serial("SN00001")])
    if kind is GraphForbidden and "token" not in str(caught.value):
        assert "DeviceManagementManagedDevices.Read.All" in str(caught.value)
    if isinstance(caught.value, GraphThrottled | GraphUnavailable) and "Retry-After" in response.headers:
        assert caught.value.retry_after == timedelta(seconds=600)
    if "text/html" in response.headers.get("content-type", "") and response.status_code == 200:
        assert "proxy" in str(caught.value)


@pytest.mark.parametrize(
    ("collection", "permission"),
    [
        ("managedDevices", "DeviceManagementManagedDevices.Read.All"),
        ("windowsAutopilotDeviceIdentities", "DeviceManagementServiceConfig.Read.All"),
        ("/devices?", "Device.Read.All"),
        ("remoteActionAudits", "DeviceManagementManagedDevices.Read.All"),
    ],
)
async def test_a_forbidden_read_names_the_permission_of_the_collection_that_was_read(
    collection: str, permission: str
) -> None:
    graph = FakeGraph(1)
    forbidden = {"status": 403, "body": error("Forbidden")}
    graph.on_item = lambda item: forbidden if collection in item["url"] else None
    async with await connect(graph) as intune:
        read = (
            intune.audited_resets([device_id(1)], NOW)
            if collection == "remoteActionAudits"
            else intune.find([serial("SN00001")])
        )
        with pytest.raises(GraphForbidden, match=f"the application permission {re.escape(permission)}\\."):
            await read


async def test_a_read_is_asked_again_with_growing_waits_and_honours_retry_after() -> None:
    graph = FakeGraph(1)
    faults = iter(
        [httpx.Response(503), httpx.Response(429, headers={"Retry-After": "7"}), httpx.Response(200, html="")]
    )
    graph.on_call = lambda _: next(faults, None)
    waits = Waits()
    async with await connect(graph, waits) as intune:
        assert len([c async for c in intune.changed_since(NOW - timedelta(days=9))]) == 1
    assert waits == [1.0, 7.0, 4.0]


async def test_a_read_is_not_asked_again_without_end() -> None:
    graph = FakeGraph(1)
    graph.on_call = lambda _: httpx.Response(503)
    async with await connect(graph) as intune:
        with pytest.raises(GraphError):
            await intune.look([device_id(1)])
        assert len(graph.requests) == 4
        with pytest.raises(GraphError):
            [change async for change in intune.changed_since(NOW)]
    assert len(graph.requests) == 8


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "13"}, 13.0),
        ({"Retry-After": "Sat, 21 Nov 2026 08:00:13 GMT"}, 13.0),
        ({"Retry-After": "Sat, 21 Nov 2026 09:00:13 GMT", "Date": "Sat, 21 Nov 2026 09:00:00 GMT"}, 13.0),
        ({"Retry-After": "whenever"}, 1.0),
        ({}, 1.0),
    ],
)
@pytest.mark.parametrize("one_item", [True, False])
async def test_a_read_waits_as_long_as_graph_asks_whatever_the_form(
    status: int, headers: dict[str, str], wait: float, one_item: bool
) -> None:
    graph = FakeGraph(2)
    failing = iter([True])

    def item(item: Json) -> Json | None:
        if guid(1) in item["url"] and next(failing, False):
            return {"status": status, "headers": headers, "body": error("Busy")}
        return None

    def call(_: httpx.Request) -> httpx.Response | None:
        return httpx.Response(status, headers=headers) if next(failing, False) else None

    if one_item:
        graph.on_item = item
    else:
        graph.on_call = call
    waits = Waits()
    async with await connect(graph, waits) as intune:
        assert len(await intune.look([device_id(1), device_id(2)])) == 2
    assert waits == [wait]


async def test_a_wait_that_is_too_long_is_left_to_the_caller() -> None:
    graph = FakeGraph(1)
    graph.on_call = lambda _: httpx.Response(429, headers={"Retry-After": "21"})
    waits = Waits()
    async with await connect(graph, waits) as intune:
        with pytest.raises(GraphThrottled):
            await intune.facts([device_id(1)])
        with pytest.raises(GraphThrottled):
            [change async for change in intune.changed_since(NOW)]
    assert (len(graph.requests), waits) == (2, [])


async def test_only_the_items_that_failed_are_asked_again() -> None:
    graph = FakeGraph(3)
    failing = {guid(2)}

    def once(item: Json) -> Json | None:
        for key in [key for key in failing if key in item["url"]]:
            failing.remove(key)
            return {"status": 503, "body": error("ServiceUnavailable")}
        return None

    graph.on_item = once
    async with await connect(graph) as intune:
        assert len(await intune.look([device_id(n) for n in (1, 2, 3)])) == 3
    assert len(graph.items) == 4


async def test_audited_resets_are_those_of_the_device_the_action_and_the_time() -> None:
    graph = FakeGraph()

    def audit(action: str, device: str, at: str) -> Json:
        return {"id": f"{action}{at}", "action": action, "managedDeviceId": device, "requestDateTime": at}

    graph.audits += [
        audit("automaticRedeployment", guid(1), "2026-11-20T10:00:00Z"),
        audit("factoryResetKeepEnrollmentData", guid(1), "2026-11-20T09:00:00Z"),
        audit("factoryReset", guid(1), "2026-11-20T08:59:59Z"),
        audit("removeCompanyData", guid(1), "2026-11-20T10:00:00Z"),
        audit("factoryReset", guid(9), "2026-11-20T10:00:00Z"),
        {"id": "odd"},
    ]
    since = datetime(2026, 11, 20, 9, tzinfo=UTC)
    for filters_work in (True, False):
        graph.filters_work = filters_work
        async with await connect(graph) as intune:
            found = await intune.audited_resets([device_id(1), device_id(2)], since)
        assert sorted(a.action for a in found[device_id(1)]) == [
            "automaticRedeployment",
            "factoryResetKeepEnrollmentData",
        ]
        assert found[device_id(2)] == []
    assert {r.url.path for r in graph.requests} == {"/beta/$batch"}


# Logs


async def test_s12_logs_hold_template_status_and_request_id_but_no_values(caplog: pytest.LogCaptureFixture) -> None:
    graph = FakeGraph(2)
    graph.devices[1]["lastSyncDateTime"] = "SECRET-DATE"
    graph.filters_work = False
    with caplog.at_level(logging.INFO):
        async with await connect(graph, credential=StaticTokenCredential("SECRET-TOKEN")) as intune:
            await intune.find([serial("SN00001"), by(ReferenceKind.NAME, "LAB-2")])
            await intune.reset([order(1)])
            [change async for change in intune.changed_since(NOW)]
    log = "\n".join(record.getMessage() for record in caplog.records)
    assert "POST /$batch: 200" in log
    assert "GET /deviceManagement/managedDevices: 200" in log
    assert "client-request-id order-1" in log
    assert "lastSyncDateTime" in log
    for secret in ("SECRET", "SN00001", "LAB-", "Bearer", "$filter"):
        assert secret not in log


async def test_every_call_can_be_found_again_by_microsofts_support(caplog: pytest.LogCaptureFixture) -> None:
    graph = FakeGraph(3)
    inner = {"error": {"code": "Odd", "message": "No", "innerError": {"request-id": "inner-id"}}}
    graph.on_item = lambda item: {"status": 409, "body": inner} if guid(2) in item["url"] else None
    with caplog.at_level(logging.INFO):
        async with await connect(graph) as intune:
            answer = (await intune.reset([order(2)]))[device_id(2)]
            await intune.look([device_id(1), device_id(2)])
            graph.on_call = lambda _: httpx.Response(403, headers={"request-id": "graphs-id"})
            with pytest.raises(GraphForbidden, match="request-id: graphs-id"):
                [change async for change in intune.changed_since(NOW)]
            with pytest.raises(GraphForbidden, match="request-id: graphs-id"):
                await intune.find([serial("SN00001")])
    assert "(Graph's request-id: inner-id)" in answer.detail
    log = [record.getMessage() for record in caplog.records]
    for request in graph.requests:
        (line,) = [one for one in log if f"client-request-id {request.headers['client-request-id']}, request-id" in one]
        assert line.startswith(f"graph {request.method} /")
    assert any(line.endswith("request-id graphs-id") for line in log)
    batch = graph.requests[0].headers["client-request-id"]
    assert any(f"rejected, client-request-id order-2 in {batch}" in line for line in log)
    assert any("409, request-id inner-id, client-request-id " in line for line in log)
    assert len({request.headers["client-request-id"] for request in graph.requests}) == len(graph.requests)


async def test_calls_are_counted_by_kind() -> None:
    graph = FakeGraph(3)
    async with await connect(graph) as intune:
        await intune.reset([order(1), order(2)])
        await intune.look([device_id(1)])
        assert intune.calls == {
            "http": 2,
            "POST /deviceManagement/managedDevices/{managedDevice-id}/wipe": 2,
            "GET /deviceManagement/managedDevices/{managedDevice-id}": 1,
        }


async def test_closing_closes_the_connections() -> None:
    closed: list[bool] = []

    class Closing(FakeGraph):
        async def aclose(self) -> None:
            closed.append(True)

    async with await connect(Closing()):
        assert closed == []
    assert closed


# URLs are built by the SDK once and filled for each device: the outcome must be the SDK's own


def builder() -> Sdk:
    return Sdk(
        GraphEndpoint.parse("http://127.0.0.1:9"),
        StaticTokenCredential("x"),
        httpx.MockTransport(lambda _: httpx.Response(500)),
    )


BUILDER = builder()


@given(st.text())
@example("a/b?c&d='e' %41+#é~\n")
def test_a_filled_filter_is_what_the_sdk_builds_for_the_value(value: str) -> None:
    quoted = literal(value)
    assert BUILDER.question(Question(Collection.MANAGED, "deviceName", value)) == dataclasses.replace(
        BUILDER.devices(f"deviceName eq {quoted}", FACTS), beta=True
    )
    assert BUILDER.question(Question(Collection.AUTOPILOT, "serialNumber", value)) == BUILDER.identities(
        f"contains(serialNumber,{quoted})"
    )
    assert BUILDER.question(Question(Collection.ENTRA, "deviceId", value)) == BUILDER.entra_devices(
        f"deviceId eq {quoted}"
    )


def test_half_a_character_in_a_value_is_replaced_not_a_crash() -> None:
    assert "%3F" in BUILDER.question(Question(Collection.MANAGED, "deviceName", "\ud800")).path


@given(st.uuids())
def test_a_filled_device_path_is_what_the_sdk_builds_for_the_id(value: uuid.UUID) -> None:
    one = ManagedDeviceId(str(value))
    item = BUILDER._client.device_management.managed_devices.by_managed_device_id(one)
    information = item.to_get_request_information()
    item_path = information.url.split("?")[0].removeprefix("http://127.0.0.1:9/v1.0")
    assert BUILDER.device(one, ["id", "userId"]).path == f"{item_path}?$select=id,userId"
    assert BUILDER.sync(one).path == f"{item_path}/syncDevice"
    for build in (BUILDER.reset, BUILDER.wipe):
        assert build(Order(one, OrderId("o"))).path == f"{item_path}/wipe"


@pytest.mark.parametrize("value", ["", "x", "../users", f"{guid(1)}/wipe", f"{guid(1)}?$select=id", ZEROS])
def test_nothing_but_a_device_id_becomes_part_of_a_path(value: str) -> None:
    one = ManagedDeviceId(value)
    builds: list[Callable[[], object]] = [
        lambda: BUILDER.device(one, ["id"]),
        lambda: BUILDER.sync(one),
        lambda: BUILDER.reset(Order(one, OrderId("o"))),
        lambda: BUILDER.wipe(Order(one, OrderId("o"))),
    ]
    for build in builds:
        with pytest.raises(ValueError, match="device"):
            build()


# Against the sandbox tenant, another hand's reading of the same facts

SCENARIO = """
[scenario]
name = "contract"
speed = 60

[tenant.quirks]
stale_reads = "PT0S"
audit_lag = "PT0S"
serial_oddities = true
page_size = 2

[[devices]]
count = 5
name = "LAB-{n:02}"
serial = "5CG{n:04}"
group_tag = "LAB"
first_check_in = "PT1M"

[[devices]]
name = "SHELF-01"
serial = "SHELF001"
group_tag = "LAB"
enrolled = false

[[devices]]
count = 2
name = "KIOSK"
serial = "KIO{n:05}"
"""


@pytest.fixture(scope="module")
def tenant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    scenario = tmp_path_factory.mktemp("tenant") / "scenario.toml"
    scenario.write_text(SCENARIO, "utf-8")
    errors = scenario.with_name("stderr.log")
    command: list[str | Path] = [sys.executable, "-m", "sandbox.tenant", "--scenario", scenario, "--port", "0"]
    process = spawn(command, stdout=subprocess.PIPE, stderr=errors)
    try:
        yield str(ready_line(process, stderr=errors)["url"])
    finally:
        stop(process)


@pytest.fixture
async def sandbox(tenant: str) -> AsyncIterator[GraphIntune]:
    patience = Patience(first=timedelta(milliseconds=1))
    endpoint = GraphEndpoint.parse(tenant)
    async with await GraphIntune.create(endpoint, StaticTokenCredential("sandbox"), patience=patience) as intune:
        yield intune


async def sandbox_id(intune: GraphIntune, name: str) -> ManagedDeviceId:
    (found,) = (await intune.find([by(ReferenceKind.NAME, name)])).values()
    return found.devices[0].managed.id


def arm(tenant: str, on: str, fault: str) -> None:
    httpx.post(f"{tenant}/sandbox/faults", json={"on": on, "fault": fault}).raise_for_status()


def set_quirk(tenant: str, **quirks: str) -> None:
    httpx.post(f"{tenant}/sandbox/quirks", json=quirks).raise_for_status()


@pytest.mark.parametrize("filters", ["reference", "schema"])
async def test_sandbox_references_of_every_kind_find_their_devices(
    tenant: str, sandbox: GraphIntune, filters: str
) -> None:
    set_quirk(tenant, filter_support=filters)
    tag = by(ReferenceKind.GROUP_TAG, "LAB")
    kiosk, shelf, nobody = by(ReferenceKind.NAME, "KIOSK"), serial("SHELF001"), serial("NOSUCH99")
    found = await sandbox.find([serial("5cg0003"), tag, kiosk, shelf, nobody])
    (facts,) = found[serial("5cg0003")].devices
    assert facts.managed.name == "LAB-03"
    assert facts.entra is not None
    assert facts.entra.trust_type == "AzureAd"
    assert facts.autopilot is not None
    assert facts.autopilot.group_tag == "LAB"
    assert sorted(d.managed.name or "" for d in found[tag].devices) == [f"LAB-{n:02}" for n in range(1, 6)]
    assert [i.serial_number for i in found[tag].not_enrolled] == ["SHELF001"]
    assert len(found[kiosk].devices) == 2
    assert found[shelf].devices == ()
    assert [i.serial_number for i in found[shelf].not_enrolled] == ["SHELF001"]
    assert found[nobody].devices + found[nobody].not_enrolled == ()
    again = [by(ReferenceKind.INTUNE_ID, facts.managed.id), by(ReferenceKind.ENTRA_DEVICE_ID, facts.entra.device_id)]
    for finding in (await sandbox.find(again)).values():
        assert ids(finding) == [facts.managed.id]
    assert (await sandbox.facts([facts.managed.id]))[facts.managed.id] is not None


async def test_sandbox_many_references_are_found_in_lists(
    tenant: str, sandbox: GraphIntune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.graph.finding.MOST_ASKED_SINGLY", 2)
    wanted = [serial(f"5CG{n:04}") for n in range(1, 6)]
    found = await sandbox.find(wanted)
    assert [len(found[reference].devices) for reference in wanted] == [1] * 5
    assert all(found[reference].devices[0].autopilot for reference in wanted)


async def test_sandbox_a_reset_is_taken_once_and_seen_by_look_list_and_audit(tenant: str, sandbox: GraphIntune) -> None:
    began = datetime.now(UTC) - timedelta(minutes=1)
    device = await sandbox_id(sandbox, "LAB-01")
    before = (await sandbox.look([device]))[device]
    answer = (await sandbox.reset([Order(device, OrderId(str(uuid.uuid4())))]))[device]
    assert answer.kind is AnswerKind.ACCEPTED
    after = (await sandbox.look([device]))[device]
    assert (before.management_state, before.exists) != (after.management_state, False)
    audited = (await sandbox.audited_resets([device], began))[device]
    assert len(audited) == 1
    changed = [change.device async for change in sandbox.changed_since(datetime(2000, 1, 1, tzinfo=UTC))]
    assert device in changed
    assert len(set(changed)) == 7


async def test_sandbox_a_sync_is_taken_and_an_unknown_device_is_not_found(sandbox: GraphIntune) -> None:
    device = await sandbox_id(sandbox, "LAB-02")
    found = await sandbox.sync([Order(device, OrderId("a")), order(1)])
    assert [found[device].kind, found[device_id(1)].kind] == [AnswerKind.ACCEPTED, AnswerKind.NOT_FOUND]
    assert not (await sandbox.look([device, device_id(1)]))[device_id(1)].exists


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("lost_answer", AnswerKind.UNKNOWN),
        ("lost_request", AnswerKind.UNKNOWN),
        ("503", AnswerKind.UNKNOWN),
        ("503_acted", AnswerKind.UNKNOWN),
        ("503_html", AnswerKind.UNKNOWN),
        ("500", AnswerKind.UNKNOWN),
        ("429", AnswerKind.THROTTLED),
    ],
)
async def test_sandbox_faults_of_a_reset_are_told_as_they_are(
    tenant: str, sandbox: GraphIntune, fault: str, kind: AnswerKind
) -> None:
    device = await sandbox_id(sandbox, "LAB-04")
    arm(tenant, "wipe", fault)
    assert (await sandbox.reset([Order(device, OrderId("a"))]))[device].kind is kind


@pytest.mark.parametrize("shape", ["401", "403", "500"])
async def test_sandbox_a_missing_permission_is_named_in_each_of_its_shapes(
    tenant: str, sandbox: GraphIntune, shape: str
) -> None:
    device = await sandbox_id(sandbox, "LAB-05")
    set_quirk(tenant, forbidden_shape=shape)
    arm(tenant, "wipe", "forbidden")
    answer = (await sandbox.reset([Order(device, OrderId("a"))]))[device]
    assert answer.kind is AnswerKind.FORBIDDEN
    assert "PrivilegedOperations.All" in answer.detail
    arm(tenant, "managed_device", "forbidden")
    with pytest.raises(GraphForbidden):
        await sandbox.look([device])


@pytest.mark.parametrize("fault", ["503", "503_html", "429", "500", "lost_answer"])
async def test_sandbox_a_passing_fault_does_not_spoil_a_read(tenant: str, sandbox: GraphIntune, fault: str) -> None:
    for operation in ("managed_devices", "entra_devices", "autopilot_identities"):
        arm(tenant, operation, fault)
    assert await sandbox_id(sandbox, "LAB-05")


# Decoding


@pytest.mark.parametrize(
    ("value", "instant"),
    [
        ("2026-11-20T10:00:00Z", datetime(2026, 11, 20, 10, tzinfo=UTC)),
        ("2026-11-20T10:00:00.123456Z", datetime(2026, 11, 20, 10, 0, 0, 123456, tzinfo=UTC)),
        ("2026-11-20T10:00:00.1234567Z", datetime(2026, 11, 20, 10, 0, 0, 123456, tzinfo=UTC)),
        ("2026-11-20T12:00:00+02:00", datetime(2026, 11, 20, 10, tzinfo=UTC)),
        ("2026-11-20T10:00:00", datetime(2026, 11, 20, 10, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59.9999999Z", None),
        ("9999-12-31T23:59:59-11:00", None),
        ("", None),
        (None, None),
    ],
)
def test_dates_are_read_in_utc_and_never_is_none(
    value: object, instant: datetime | None, caplog: pytest.LogCaptureFixture
) -> None:
    found = decode.instant({"at": value}, "at")
    assert found == instant
    assert found is None or found.tzinfo is UTC
    assert caplog.records == []


@pytest.mark.parametrize("value", ["yesterday", "2026-13-01T00:00:00Z", 20261120, ["x"]])
def test_what_is_no_date_is_none_and_warned_of_without_the_value(
    value: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert decode.instant({"lastSyncDateTime": value}, "lastSyncDateTime") is None
    assert "lastSyncDateTime" in caplog.text
    assert str(value) not in caplog.text


@pytest.mark.parametrize(
    ("record", "user"),
    [({}, None), ({"userId": None}, ""), ({"userId": ""}, ""), ({"userId": ZEROS}, ""), ({"userId": 5}, None)],
)
def test_no_primary_user_and_an_untold_one_are_told_apart(record: Json, user: str | None) -> None:
    assert decode.primary_user(record) == user
    assert decode.managed_device({"id": guid(1), **record}).primary_user == user
    assert decode.sighting({"id": guid(1), **record}, NOW).primary_user == user


def test_actions_that_graph_did_not_show_are_none() -> None:
    assert decode.sighting({"id": guid(1)}, NOW).actions is None
    assert decode.sighting({"id": guid(1), "deviceActionResults": None}, NOW).actions is None


def test_unknown_members_are_kept_as_graph_spells_them() -> None:
    assert decode.managed_device({"id": guid(1), "managementState": "hexed"}).management_state == "hexed"
    assert decode.entra_device({"deviceId": guid(1), "trustType": "New"}).trust_type == "New"


def test_serial_numbers_stay_texts() -> None:
    assert decode.text({"serialNumber": "A\ud800"}, "serialNumber") == "A?"
    assert decode.managed_device({"id": guid(1), "serialNumber": " 00123 "}).serial_number == "00123"
    assert decode.managed_device({"id": guid(1), "serialNumber": 123}).serial_number is None


FIELDS = [
    *("id", "deviceId", "deviceName", "serialNumber", "azureADDeviceId", "operatingSystem", "lastSyncDateTime"),
    *("enrolledDateTime", "userId", "managementState", "deviceActionResults", "actionName", "actionState"),
    *("startDateTime", "trustType", "accountEnabled", "groupTag", "managedDeviceId", "azureAdDeviceId", "action"),
    *("enrollmentState", "requestDateTime"),
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.just("\ud800")
    | st.sampled_from([guid(1), ZEROS, "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-11:00", "done"])
    | st.datetimes().map(lambda at: at.isoformat() + "Z"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES))
def test_any_json_object_decodes_or_is_named_unreadable(record: Json) -> None:
    for read in (
        decode.managed_device,
        decode.entra_device,
        decode.autopilot_identity,
        lambda r: decode.sighting(r, NOW),
        lambda r: decode.listed(r, NOW),
        decode.audited_action,
    ):
        try:
            decoded = read(record)
        except decode.UnreadableRecordError:
            continue
        assert decoded is None or dataclasses.is_dataclass(decoded)
