"""The reset record over HTTP: as JSON, or as a page that can do nothing."""

import json
from collections.abc import AsyncIterator

import httpx
import jsonschema
import pytest

from sandbox.memory import MemoryQueues
from shared.domain.shown import shown
from tests.hostile import assert_page
from tests.pipeline.fakes import asking, device, device_id, rig
from web.api import create

NAME = "<script>alert(1)</script>\u202e"
RECORD = f"/api/v1/requests/R1/devices/{device_id(1)}/record"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """The API over a table in which device 1 was told to reset."""
    world = rig(device(1, name=NAME))
    await world.trigger(1)
    transport = httpx.ASGITransport(create(world.store, MemoryQueues()))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as asking_:
        yield asking_


async def test_the_record_is_json_that_fits_the_published_schema(client: httpx.AsyncClient) -> None:
    answer = await client.get(RECORD)
    assert answer.headers["content-type"] == "application/json"
    jsonschema.validate(answer.json(), (await client.get("/api/v1/schemas/reset-record")).json())
    assert (answer.json()["outcome"]["state"], answer.json()["device"]["name"]) == ("triggered", NAME)


@pytest.mark.parametrize(
    ("query", "headers", "kind"),
    [
        ("", {}, "application/json"),
        ("", {"Accept": "application/json"}, "application/json"),
        ("", BROWSER, "text/html"),
        ("?format=html", {}, "text/html"),
        ("?format=json", BROWSER, "application/json"),
    ],
)
async def test_a_browser_gets_a_page_and_so_does_who_asks_for_one(
    client: httpx.AsyncClient, query: str, headers: dict[str, str], kind: str
) -> None:
    answer = await client.get(RECORD + query, headers=headers)
    assert answer.headers["content-type"].split(";")[0] == kind
    assert answer.headers["cache-control"] == "no-store"


async def test_the_page_is_sent_so_that_it_can_do_nothing_and_holds_names_as_text(client: httpx.AsyncClient) -> None:
    answer = await client.get(RECORD, headers=BROWSER)
    assert shown(NAME) in assert_page(answer.text)
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "script" not in policy
    assert "unsafe" not in policy


async def test_an_id_in_capital_letters_is_the_same_device(client: httpx.AsyncClient) -> None:
    assert (await client.get(RECORD.replace(device_id(1), device_id(1).upper()))).status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (RECORD.replace("R1", "R2"), 404),
        (RECORD.replace(device_id(1), device_id(2)), 404),
        (RECORD.replace("R1", "R%00"), 422),
        (RECORD.replace(device_id(1), "PC-1"), 422),
        (RECORD + "?format=pdf", 422),
    ],
)
async def test_what_is_not_known_or_no_id_is_refused(client: httpx.AsyncClient, path: str, status: int) -> None:
    assert (await client.get(path)).status_code == status


async def test_the_history_has_each_event_in_words_too(client: httpx.AsyncClient) -> None:
    events = (await client.get(f"/api/v1/devices/{device_id(1)}/history")).json()
    assert events[-1]["text"] == "Intune took the order."


async def test_a_part_that_fits_into_no_message_is_refused_and_not_failed_over(client: httpx.AsyncClient) -> None:
    devices = [{"serialNumber": f"{number:060}"} for number in range(2000)]
    body = json.loads(asking(request="R9")) | {"devices": devices, "part": {"number": 1, "of": 2}}
    answer = await client.post("/api/v1/requests", json=body)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
