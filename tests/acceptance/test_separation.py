"""The front can ask for a reset and cannot send one: storage refuses it all else, whatever its code does.

The two apps run as two processes with credentials of their own. In Azure those are two identities with roles
(`infra/`, checked by tests/contract/test_infra.py); here the engine has the account's key, and the front two SAS with
the same rights: it adds messages to one queue and reads one table. Azurite enforces them.
"""

import contextlib
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import HttpResponseError, ResourceExistsError
from azure.data.tables import TableClient, TableSasPermissions, TableServiceClient, UpdateMode, generate_table_sas
from azure.data.tables.aio import TableClient as AsyncTableClient
from azure.storage.queue import QueueSasPermissions, QueueServiceClient, generate_queue_sas
from azure.storage.queue.aio import QueueServiceClient as AsyncQueueServiceClient

from functions import ENGINE
from sandbox import processes, stack
from sandbox.azurite import ACCOUNT, ACCOUNT_KEY, Azurite
from sandbox.scenario import Scenario
from shared.messages.queues import CONTROL, DISPATCH, NOTICES, REQUESTS, RESULTS, AzureQueues
from shared.state.store import Store
from shared.state.table import AzureTable
from web.api import create

TENANT = "tenant"
HOUR = timedelta(hours=1)


def table_address(azurite: Azurite, table: str, valid_for: timedelta = HOUR) -> str:
    """The table service's address with a SAS that reads this table."""
    key, read = AzureNamedKeyCredential(ACCOUNT, ACCOUNT_KEY), TableSasPermissions(read=True)
    sas = generate_table_sas(key, table, permission=read, expiry=datetime.now(UTC) + valid_for)
    return f"{azurite.table_url}?{sas}"


def queue_address(azurite: Azurite) -> str:
    """The queue service's address with a SAS that adds messages to `reset-requests`."""
    add, until = QueueSasPermissions(add=True), datetime.now(UTC) + HOUR
    return f"{azurite.queue_url}?{generate_queue_sas(ACCOUNT, REQUESTS, ACCOUNT_KEY, permission=add, expiry=until)}"


# --- what the front's credentials are good for --------------------------------------------------------------------


@dataclass(frozen=True)
class Storage:
    """The queues and the state table, as one credential opens them."""

    queues: QueueServiceClient
    tables: TableServiceClient
    name: str

    @property
    def table(self) -> TableClient:
        return self.tables.get_table_client(self.name)

    def send(self, queue: str, body: str = "x") -> None:
        self.queues.get_queue_client(queue).send_message(body)


@dataclass(frozen=True)
class Both:
    engine: Storage
    front: Storage


@pytest.fixture
def both(azurite: Azurite) -> Iterator[Both]:
    """One account, opened by each app's credentials; there is a turnaround, a halt and a message on every queue."""
    name = f"t{uuid.uuid4().hex}"
    queues = QueueServiceClient.from_connection_string(azurite.connection_string)
    tables = TableServiceClient.from_connection_string(azurite.connection_string)
    engine = Storage(queues, tables, name)
    for queue in (REQUESTS, DISPATCH, CONTROL, NOTICES, RESULTS):
        with contextlib.suppress(ResourceExistsError):
            queues.create_queue(queue)
        engine.send(queue)
    tables.create_table(name)
    for key in ("reset|1", "control|halt"):
        engine.table.create_entity({"PartitionKey": TENANT, "RowKey": key, "state": "held"})
    front = Storage(QueueServiceClient(queue_address(azurite)), TableServiceClient(table_address(azurite, name)), name)
    with queues, tables, front.queues, front.tables:
        yield Both(engine, front)


def row(key: str) -> dict[str, str]:
    return {"PartitionKey": TENANT, "RowKey": key, "state": "cleared"}


def delete_a_message(storage: Storage) -> None:
    queue = storage.queues.get_queue_client(REQUESTS)
    queue.delete_message(queue.send_message("x"))


def change_a_message(storage: Storage) -> None:
    queue = storage.queues.get_queue_client(REQUESTS)
    queue.update_message(queue.send_message("x"), content="y")


MAY = {
    "ask for a reset": lambda it: it.send(REQUESTS),
    "read a row": lambda it: it.table.get_entity(TENANT, "reset|1"),
    "read all rows": lambda it: list(it.table.list_entities()),
}
MAY_NOT: dict[str, Callable[[Storage], object]] = {
    "clear a device for its reset": lambda it: it.table.update_entity(row("reset|1"), mode=UpdateMode.REPLACE),
    "clear it by a merge": lambda it: it.table.update_entity(row("reset|1"), mode=UpdateMode.MERGE),
    "end the halt": lambda it: it.table.delete_entity(TENANT, "control|halt"),
    "halt": lambda it: it.table.upsert_entity(row("control|halt"), mode=UpdateMode.REPLACE),
    "approve a request": lambda it: it.table.upsert_entity(row("request|1"), mode=UpdateMode.MERGE),
    "book budget": lambda it: it.table.create_entity(row("budget|day|20261121")),
    # Azurite takes no transaction by any SAS; Azure checks each row of it.
    "commit a transaction": lambda it: it.table.submit_transaction([("upsert", row("reset|1"))]),
    "drop the table": lambda it: it.table.delete_table(),
    "make a table": lambda it: it.tables.create_table(f"t{uuid.uuid4().hex}"),
    "list the tables": lambda it: list(it.tables.list_tables()),
    "change who may use the table": lambda it: it.table.set_table_access_policy({}),
    "have devices dispatched": lambda it: it.send(DISPATCH, '{"devices": ["1"]}'),
    "resume, retry, cancel, approve": lambda it: it.send(CONTROL, '{"command": "resume", "by": "a", "why": "b"}'),
    "tell something": lambda it: it.send(NOTICES),
    "forge an outcome": lambda it: it.send(RESULTS),
    "read requests": lambda it: it.queues.get_queue_client(REQUESTS).peek_messages(),
    "take requests": lambda it: it.queues.get_queue_client(REQUESTS).receive_message(),
    "read outcomes": lambda it: it.queues.get_queue_client(RESULTS).peek_messages(),
    "take outcomes": lambda it: it.queues.get_queue_client(RESULTS).receive_message(),
    "delete a request": delete_a_message,
    "change a request": change_a_message,
    "drop all requests": lambda it: it.queues.get_queue_client(REQUESTS).clear_messages(),
    "drop a queue": lambda it: it.queues.delete_queue(REQUESTS),
    "make a queue": lambda it: it.queues.create_queue(f"q{uuid.uuid4().hex}"),
    "list the queues": lambda it: list(it.queues.list_queues()),
    "change who may use the queue": lambda it: it.queues.get_queue_client(REQUESTS).set_queue_access_policy({}),
}


@pytest.mark.parametrize("what", MAY)
def test_s10_the_fronts_credentials_allow_it_to(both: Both, what: str) -> None:
    MAY[what](both.front)


@pytest.mark.parametrize("what", MAY_NOT)
def test_s10_the_fronts_credentials_do_not_allow_it_to(both: Both, what: str) -> None:
    with pytest.raises(HttpResponseError) as refused:
        MAY_NOT[what](both.front)
    assert refused.value.status_code == 403
    MAY_NOT[what](both.engine)  # so that the attempt fails for want of rights alone


# --- a front whose storage is not as it should be -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("gone", "valid_for", "logged"),
    [("queue", HOUR, f"The queue {REQUESTS} is missing"), ("sas", -HOUR, "failed to authenticate")],
)
async def test_a_front_that_may_not_use_its_storage_answers_503_and_its_log_says_why(
    both: Both, azurite: Azurite, caplog: pytest.LogCaptureFixture, gone: str, valid_for: timedelta, logged: str
) -> None:
    if gone == "queue":
        both.engine.queues.delete_queue(REQUESTS)
    queues = AzureQueues(lambda: AsyncQueueServiceClient(queue_address(azurite)))
    address = table_address(azurite, both.engine.name, valid_for)
    async with AsyncTableClient(address, both.engine.name) as table:
        api = httpx.ASGITransport(create(Store(AzureTable(table, TENANT)), queues))
        async with httpx.AsyncClient(transport=api, base_url="http://front") as http:
            answer = await http.post("/api/v1/requests", json=request("R-1", "SN-1"))
    await queues.close()
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
    assert "log names the cause" in answer.json()["remedy"]
    assert logged in caplog.text
    assert "sig=" not in caplog.text


# --- both apps, side by side --------------------------------------------------------------------------------------

SCENARIO = """
[scenario]
name = "separation"
speed = 200

[tenant.quirks]
action_done_at = "end"
primary_user_cleared = "end"

[[devices]]
name = "PC-1"
serial = "SN-1"
check_in_every = "PT4M"
reset_duration = "PT16M"
first_sync_after = "PT1M"
expect = "ready"

[[devices]]
name = "HYB-1"
serial = "SN-2"
join = "hybrid"
expect = "refused"
"""
KEY = "the-key"

ATTEMPTS = """
import asyncio, json
from datetime import UTC, datetime
from shared import wiring
from shared.domain.guardrails import Halt
from shared.messages.queues import CONTROL, DISPATCH, NOTICES, RESULTS
from shared.state import rows

async def main():
    store, queues = wiring.store(), wiring.queues()
    said = {}
    for name, attempt in {
        "halt": lambda: store.commit([rows.put(rows.HALT, Halt("by", "why", datetime.now(UTC)))]),
        "dispatch": lambda: queues.send(DISPATCH, "{}"),
        "control": lambda: queues.send(CONTROL, "{}"),
        "notices": lambda: queues.send(NOTICES, "{}"),
        "results": lambda: queues.send(RESULTS, "{}"),
        "graph": wiring.intune,
    }.items():
        try:
            await attempt()
            said[name] = "done"
        except Exception as error:
            said[name] = getattr(error, "status_code", None) or type(error).__name__
    print(json.dumps(said))
    await queues.close()
    await store.table.client.close()

asyncio.run(main())
"""
"""The engine's acts, tried by its own code in a process with the front's settings."""


def request(name: str, serial: str) -> dict[str, object]:
    return {"requestId": name, "requester": "desk", "reason": "left", "devices": [{"serialNumber": serial}]}


@dataclass(frozen=True)
class Front:
    """A running front."""

    settings: dict[str, str]
    functions: list[str]
    http: httpx.Client

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def ended(self, name: str) -> dict[str, Any]:
        """The status of a request once it has ended."""
        until = time.monotonic() + 60
        while True:
            answer = self.get(f"/api/v1/requests/{name}")
            if answer.status_code == 200 and answer.json()["ended"]:
                status: dict[str, Any] = answer.json()
                return status
            assert time.monotonic() < until, f"{name} did not end: {answer.text}"
            time.sleep(0.2)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[stack.Stack]:
    file = tmp_path / "separation.toml"
    file.write_text(SCENARIO)
    with stack.run(Scenario.load(file), tmp_path, overrides={"TURNAROUND_ROLE": "engine"}) as running:
        yield running


@pytest.fixture
def front(engine: stack.Stack, tmp_path: Path) -> Iterator[Front]:
    settings = {
        "FUNCTIONS_WORKER_RUNTIME": "python",
        "TURNAROUND_ROLE": "front",
        "TURNAROUND_TENANT_ID": engine.tenant_id,
        "TURNAROUND_TABLE": engine.table,
        "TURNAROUND_STORAGE__queueServiceUri": queue_address(engine.storage),
        "TURNAROUND_STORAGE__tableServiceUri": table_address(engine.storage, engine.table),
        "SANDBOX_FUNCTION_KEY": KEY,
    }
    folder = tmp_path / "front"
    folder.mkdir()
    file = folder / "settings.json"
    file.write_text(json.dumps({"IsEncrypted": False, "Values": settings}))
    process = stack.start_host(file, folder)
    try:
        ready = processes.ready_line(process, stderr=folder / "host.log", timeout=60)
        with httpx.Client(base_url=ready["url"], headers={"x-functions-key": KEY}, timeout=30) as http:
            yield Front(settings, ready["functions"], http)
    finally:
        processes.stop(process)


def test_s10_the_front_asks_the_engine_resets_and_the_front_cannot(engine: stack.Stack, front: Front) -> None:
    assert front.functions == ["web"]
    for name in ENGINE:
        assert front.http.post(f"/admin/functions/{name}", json={}).status_code == 404
    key = {"x-functions-key": engine.function_key}
    assert httpx.get(f"{engine.api}/api/v1/requests/R-1", headers=key).status_code == 404

    for name, serial in (("R-1", "SN-1"), ("R-2", "SN-2")):
        assert front.http.post("/api/v1/requests", json=request(name, serial)).status_code == 202

    graph = {"TURNAROUND_GRAPH__CLOUD": engine.graph}  # where Graph is, is no secret
    environment = stack._environment() | front.settings | graph
    tried = subprocess.run(
        [sys.executable, "-c", ATTEMPTS], cwd=stack.ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert tried.returncode == 0, tried.stderr
    refused = {"halt": 403, "dispatch": 403, "control": 403, "notices": 403, "results": 403, "graph": "CredentialError"}
    assert json.loads(tried.stdout) == refused

    (device,) = front.ended("R-2")["devices"]
    assert (device["state"], device["why"]["code"]) == ("refused", "hybrid_joined")

    (device,) = front.ended("R-1")["devices"]
    assert device["state"] == "ready"
    history = front.get(f"/api/v1/devices/{device['intuneId']}/history").json()
    assert history[-1]["toState"] == "ready"
    assert [event["kind"] for event in front.get("/api/v1/requests/R-1/history").json()] == ["accepted"]

    wipe = f"{engine.graph}/v1.0/deviceManagement/managedDevices/{device['intuneId']}/wipe"
    assert httpx.post(wipe, json={"keepEnrollmentData": True, "keepUserData": False}).status_code == 401
    truth = httpx.get(f"{engine.graph}/sandbox/devices").json()["devices"]
    assert {one["name"]: len(one["wipes_received"]) for one in truth} == {"PC-1": 1, "HYB-1": 0}
