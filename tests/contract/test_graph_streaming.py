"""Long lists are read page by page, and to their end."""

import gc
import json
import re
import weakref
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from shared.domain.ids import ManagedDeviceId
from shared.graph.credential import StaticTokenCredential
from shared.graph.endpoint import GraphEndpoint
from shared.graph.gateway import GraphIntune

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
HOST = "http://127.0.0.1:9"
PAGES = 3


def guid(n: int) -> str:
    return f"{n:08x}-1111-2222-3333-444444444444"


class Pages:
    """A Graph in which every list has three pages of one record, that of device 1, 2 and 3."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        if not request.url.path.endswith("/$batch"):
            return httpx.Response(200, json=self.page(str(request.url)))
        items = json.loads(request.content)["requests"]
        answers = [{"id": item["id"], "status": 200, "body": self.page(f"{HOST}/beta{item['url']}")} for item in items]
        return httpx.Response(200, json={"responses": answers})

    def page(self, url: str) -> dict[str, object]:
        n = int(httpx.URL(url).params.get("page", "1"))
        at = f"{NOW:%Y-%m-%dT%H:%M:%SZ}"
        filtered = re.search(r"action eq '(\w+)'", httpx.URL(url).params.get("$filter", ""))
        record = {"id": guid(n), "lastSyncDateTime": at, "operatingSystem": "Windows"}
        record |= {"managedDeviceId": guid(n), "action": filtered[1] if filtered else "", "requestDateTime": at}
        more = {"@odata.nextLink": str(httpx.URL(url).copy_set_param("page", str(n + 1)))} if n < PAGES else {}
        return {"value": [record], **more}


@pytest.fixture
def graph() -> Pages:
    return Pages()


@pytest.fixture
async def intune(graph: Pages) -> AsyncIterator[GraphIntune]:
    endpoint, credential = GraphEndpoint.parse(HOST), StaticTokenCredential("sandbox")
    transport = httpx.MockTransport(graph.answer)
    async with await GraphIntune.create(endpoint, credential, transport=transport, now=lambda: NOW) as connected:
        yield connected


async def test_check_ins_are_given_before_the_next_page_is_asked_for(graph: Pages, intune: GraphIntune) -> None:
    asked = [(one.device, len(graph.asked)) async for one in intune.changed_since(NOW - timedelta(hours=1))]
    assert asked == [(guid(n), n) for n in range(1, PAGES + 1)]


async def test_the_audit_is_read_to_its_last_page(graph: Pages, intune: GraphIntune) -> None:
    devices = [ManagedDeviceId(guid(n)) for n in range(1, PAGES + 1)]
    found = await intune.audited_resets(devices, NOW - timedelta(hours=1))
    kinds = {device: len({action.action for action in actions}) for device, actions in found.items()}
    assert kinds == dict.fromkeys(devices, 4)


async def test_a_page_that_was_read_is_let_go_at_once(graph: Pages) -> None:
    """Not only when Python next collects what is left in cycles, which in a large process it rarely does."""
    given: list[weakref.ref[httpx.Response]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        response = graph.answer(request)
        given.append(weakref.ref(response))
        return response

    endpoint, credential = GraphEndpoint.parse(HOST), StaticTokenCredential("sandbox")
    transport = httpx.MockTransport(answer)
    async with await GraphIntune.create(endpoint, credential, transport=transport, now=lambda: NOW) as intune:
        gc.disable()
        try:
            assert len([seen async for seen in intune.changed_since(NOW)]) == PAGES
            assert [page() for page in given] == [None] * PAGES
        finally:
            gc.enable()
