"""`GraphIntune` and Multi Admin Approval: what an intercepted order tells, and what became of its request."""

import json
from typing import Any

import httpx
import pytest

from shared.domain.orders import AdminDecision
from shared.pipeline.ports import AnswerKind, GraphError, GraphForbidden, GraphRejected, GraphThrottled, Order
from tests.contract.conftest import Send
from tests.contract.test_graph_gateway import (
    FORBIDDEN_INNER,
    FakeGraph,
    Json,
    Waits,
    connect,
    device_id,
    error,
    guid,
    order,
)

REQUESTS = "deviceManagement/operationApprovalRequests"
CODE = guid(0xAB)
SAID = "Approval Required. Its id is in the x-msft-approval-code response header."


# The order


@pytest.mark.parametrize("status", [400, 403, 409, 412])
@pytest.mark.parametrize(
    ("headers", "message", "code"),
    [
        ({"X-Msft-Approval-Code": CODE}, "", CODE),
        ({"x-msft-approval-code": CODE}, f"{SAID} x-msft-approval-code: {guid(7)}", CODE),
        ({"x-msft-approval-code": " "}, f"{SAID} x-msft-approval-code: {CODE}", CODE),
        ({}, f"{SAID} X-MSFT-Approval-Code: {CODE} - Activity ID: {guid(7)}", CODE),
        ({}, json.dumps({"Message": f"{SAID} x-msft-approval-code={CODE}", "CustomApiErrorPhrase": ""}), CODE),
        ({}, f"{SAID} Activity ID: {guid(7)}", None),
        ({}, f"{SAID} x-msft-approval-code: 4711", None),
    ],
)
async def test_an_intercepted_order_tells_its_code_by_header_or_words_whatever_the_status(
    send: Send, status: int, headers: dict[str, str], message: str, code: str | None
) -> None:
    graph = FakeGraph(1)
    graph.on_item = lambda _: {"status": status, "headers": headers, "body": error("BadRequest", message)}
    async with await connect(graph) as intune:
        answer = (await send(intune, [order(1)]))[device_id(1)]
    assert (answer.kind, answer.approval_code) == (AnswerKind.APPROVAL_REQUIRED, code)
    assert len(graph.requests) == 1


async def test_s9_the_code_goes_out_with_its_own_order_alone(send: Send) -> None:
    graph = FakeGraph(3)
    orders = [order(1), Order(device_id(2), order(2).id, "why", CODE), order(3)]
    async with await connect(graph) as intune:
        await send(intune, orders)
    assert [item["headers"].get("x-msft-approval-code") for item in graph.items] == [None, CODE, None]
    assert ["x-msft-approval-justification" in item["headers"] for item in graph.items] == [True, False, True]


@pytest.mark.parametrize(("status", "kind"), [(403, AnswerKind.FORBIDDEN), (400, AnswerKind.REJECTED)])
async def test_an_approved_order_that_is_refused_says_that_its_approval_may_be_why(
    send: Send, status: int, kind: AnswerKind
) -> None:
    graph = FakeGraph(2)
    graph.on_item = lambda _: {"status": status, "body": error("UnknownError", "An error has occurred")}
    async with await connect(graph) as intune:
        found = await send(intune, [order(1), Order(device_id(2), order(2).id, "why", CODE)])
    assert [answer.kind for answer in found.values()] == [kind, kind]
    assert ["approval" in found[device_id(n)].detail for n in (1, 2)] == [False, True]


# What was decided


def asked(status: object = "approved", **ids: str) -> Json:
    return {"id": guid(0xFFFF), **ids, "status": status, "requestJustification": "why"}


def requests(*rows: Json) -> FakeGraph:
    graph = FakeGraph()
    graph.collections[REQUESTS] = list(rows)
    return graph


@pytest.mark.parametrize(
    ("status", "decision"),
    [
        ("needsApproval", AdminDecision.WAITING),
        ("approved", AdminDecision.APPROVED),
        ("rejected", AdminDecision.REJECTED),
        ("cancelled", AdminDecision.CANCELLED),
        ("canceled", AdminDecision.CANCELLED),
        ("completed", AdminDecision.COMPLETED),
        ("Completed", AdminDecision.COMPLETED),
        ("expired", AdminDecision.EXPIRED),
        ("unknown", AdminDecision.UNKNOWN),
        ("unknownFutureValue", AdminDecision.UNKNOWN),
        ("escalated", AdminDecision.UNKNOWN),
        ("", AdminDecision.UNKNOWN),
        (None, AdminDecision.UNKNOWN),
        (2, AdminDecision.UNKNOWN),
    ],
)
async def test_s9_each_status_of_a_request_is_a_decision(status: object, decision: AdminDecision) -> None:
    async with await connect(requests(asked(status, id=CODE))) as intune:
        assert await intune.admin_decisions([CODE]) == {CODE: decision}


@pytest.mark.parametrize("ids", [{"id": CODE}, {"requestId": CODE}, {"id": CODE, "requestId": CODE}])
@pytest.mark.parametrize("filters", ["work", "are ignored", "are refused"])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("spelled", [CODE, CODE.upper(), f" {CODE} "])
async def test_s9_a_request_is_known_by_either_id_and_no_other_is_taken_for_it(
    ids: dict[str, str], filters: str, hidden: bool, spelled: str
) -> None:
    others = [asked("rejected", id=guid(n), requestId=guid(n + 100)) for n in range(1, 6)]
    graph = requests(*others[:3], asked("approved", **ids), *others[3:])
    graph.page = 2
    graph.filters_work = filters == "work"
    if hidden:
        graph.hidden = {ids.get("id", guid(0xFFFF))}
    if filters == "are refused":
        graph.on_item = lambda item: (
            {"status": 400, "body": error("BadRequest")} if "requestId" in item["url"] else None
        )
    async with await connect(graph) as intune:
        found = await intune.admin_decisions([spelled])
    lost = hidden and (filters != "work" or "requestId" not in ids)
    assert found == {spelled: AdminDecision.UNKNOWN if lost else AdminDecision.APPROVED}


async def test_many_requests_are_read_by_their_list_whose_pages_are_followed_as_far_as_needed() -> None:
    graph = requests(*(asked("approved" if n % 2 else "rejected", id=guid(n)) for n in range(1, 101)))
    graph.page = 10
    async with await connect(graph) as intune:
        found = await intune.admin_decisions([guid(n) for n in range(1, 36)])
    assert [found[guid(n)] for n in (1, 2, 34, 35)] == [
        AdminDecision.APPROVED,
        AdminDecision.REJECTED,
        AdminDecision.REJECTED,
        AdminDecision.APPROVED,
    ]
    assert len(graph.requests) == 4


async def test_the_requests_are_asked_of_graphs_beta_by_list_and_by_the_documented_filter() -> None:
    graph = requests()
    async with await connect(graph) as intune:
        assert await intune.admin_decisions([CODE]) == {CODE: AdminDecision.UNKNOWN}
    assert [(item["method"], item["url"], item["version"]) for item in graph.items] == [
        ("GET", f"/{REQUESTS}", "beta"),
        ("GET", f"/{REQUESTS}?$filter=requestId%20eq%20%27{CODE}%27", "beta"),
    ]


async def test_without_codes_nothing_is_asked() -> None:
    graph = requests(asked(id=CODE))
    async with await connect(graph) as intune:
        assert await intune.admin_decisions([]) == {}
    assert graph.requests == []


@pytest.mark.parametrize("row", [{"id": None, "status": "approved"}, {"id": 4711, "requestId": [], "status": {}}])
async def test_a_record_of_no_use_is_passed_over(row: Json) -> None:
    async with await connect(requests(row, asked(id=CODE), row)) as intune:
        assert await intune.admin_decisions([CODE]) == {CODE: AdminDecision.APPROVED}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"status": 403, "body": error("Forbidden")}, GraphForbidden),
        ({"status": 401, "body": error("UnknownError", FORBIDDEN_INNER)}, GraphForbidden),
        ({"status": 429}, GraphThrottled),
        ({"status": 400, "body": error("BadRequest")}, GraphRejected),
        ({"status": 404, "body": error("ResourceNotFound")}, GraphRejected),
        ({"status": 200, "body": {"value": 7}}, GraphError),
        ({"status": 200, "body": {"value": [], "@odata.nextLink": 7}}, GraphError),
    ],
)
async def test_requests_that_cannot_be_listed_are_an_error_not_a_decision(answer: Json, kind: type[GraphError]) -> None:
    graph = requests(asked(id=CODE))
    graph.on_item = lambda _: answer
    async with await connect(graph) as intune:
        with pytest.raises(kind) as caught:
            await intune.admin_decisions([CODE])
    if kind is GraphForbidden:
        assert "DeviceManagementConfiguration.Read.All" in str(caught.value)


async def test_a_page_that_cannot_be_read_is_an_error_not_a_decision() -> None:
    graph = requests(asked(id=guid(1)), asked(id=CODE))
    graph.page = 1
    graph.on_call = lambda request: None if request.url.path.endswith("$batch") else httpx.Response(403)
    async with await connect(graph) as intune:
        with pytest.raises(GraphForbidden, match=r"DeviceManagementConfiguration\.Read\.All"):
            await intune.admin_decisions([CODE])


@pytest.mark.parametrize(("status", "raised"), [(400, False), (403, False), (404, False), (503, False), (429, True)])
async def test_one_request_that_cannot_be_asked_for_does_not_keep_the_other_decisions_back(
    status: int, raised: bool
) -> None:
    graph = requests(asked(id=CODE))
    refusal: dict[str, Any] = {"status": status, "body": error("InternalServerError")}
    graph.on_item = lambda item: refusal if guid(1) in item["url"] else None
    waits = Waits()
    async with await connect(graph, waits) as intune:
        if raised:
            with pytest.raises(GraphThrottled):
                await intune.admin_decisions([CODE, guid(1)])
        else:
            found = await intune.admin_decisions([CODE, guid(1)])
            assert found == {CODE: AdminDecision.APPROVED, guid(1): AdminDecision.UNKNOWN}
    assert len(waits) == (3 if status in (429, 503) else 0)
