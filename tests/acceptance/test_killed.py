"""The host is killed (SIGKILL) at the worst moments and started again: nothing is lost, nothing is reset twice."""

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from azure.data.tables import TableClient
from azure.storage.queue import QueueClient

from sandbox import processes, stack
from sandbox.scenario import Scenario
from shared.domain.ids import RequestId
from shared.domain.states import TERMINAL, State
from shared.pipeline.status import RequestStatus, request_status
from shared.state.store import Store
from shared.state.table import AzureTable

SCENARIO = """
[scenario]
name = "killed"
speed = 90
time_limit = "PT3H"

[[devices]]
count = 8
name = "PC-{n}"
serial = "SN-{n}"
sync_reaction = "PT2M"
check_in_every = "PT48H"
reset_duration = "PT20M"
expect = "ready"
"""
REQUEST = {
    "requestId": "K-1",
    "requester": "desk",
    "reason": "killed on the way",
    "devices": [{"serialNumber": f"SN-{number}"} for number in range(1, 9)],
}
PATIENCE = 150
pytestmark = pytest.mark.timeout(300)


class Killable:
    """The sandbox with a Functions host that the test kills and starts again."""

    def __init__(self, running: stack.Stack, folder: Path) -> None:
        self.running = running
        self.folder = folder
        self.told: dict[str, set[str]] = {}
        self.host = next(child.process for child in running.children if child.name == stack.HOST)
        self.table = TableClient.from_connection_string(running.connection, stack.TABLE)

    def kill(self) -> None:
        processes.kill(self.host)

    def start(self) -> None:
        self.host = stack.start_host(self.folder / "settings.json", self.folder)
        processes.ready_line(self.host, stderr=self.folder / "host.log", timeout=60)

    def send(self) -> None:
        with QueueClient.from_connection_string(self.running.connection, "reset-requests") as queue:
            queue.send_message(json.dumps(REQUEST))

    def states(self) -> list[str]:
        rows = self.table.query_entities("RowKey ge 'reset|' and RowKey lt 'reset|~'", select=["state"])
        return [str(row["state"]) for row in rows]

    def has(self, first: str) -> bool:
        found = self.table.query_entities(f"RowKey ge '{first}' and RowKey lt '{first}~'", select=["RowKey"])
        return next(iter(found), None) is not None

    def await_that(self, what: str, holds: Callable[[], bool], every: float = 0.3) -> None:
        until = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < until, f"never came: {what}; states {self.states()}"
            time.sleep(every)

    def status(self) -> RequestStatus:
        async def read() -> RequestStatus | None:
            table = AzureTable.open(stack.TABLE, self.running.tenant_id, connection=self.running.connection)
            async with table:
                return await request_status(Store(table), RequestId("K-1"))

        status = asyncio.run(read())
        assert status is not None
        return status

    def truth(self) -> list[dict[str, object]]:
        answer = httpx.get(f"{self.running.graph}/sandbox/devices").json()
        devices: list[dict[str, object]] = answer["devices"] if isinstance(answer, dict) else answer
        return devices

    def arm(self, fault: str) -> None:
        """Something goes wrong with the next wipe."""
        httpx.post(f"{self.running.graph}/sandbox/faults", json={"on": "wipe", "fault": fault}).raise_for_status()

    def collect(self) -> None:
        """Take what has been told off the queue."""
        with QueueClient.from_connection_string(self.running.connection, "reset-results") as queue:
            for page in queue.receive_messages(messages_per_page=32, visibility_timeout=600).by_page():
                for message in page:
                    event = json.loads(base64.b64decode(message.content))
                    self.told.setdefault(str(event["type"]), set()).add(str(event["id"]))

    def heard(self, kind: str) -> int:
        """How many different notices of a type have come; repeats have the same id."""
        self.collect()
        return len(self.told.get(f"io.turnaround.{kind}", ()))


def ends_ready_and_reset_once(sandbox: Killable) -> None:
    sandbox.await_that("every device has ended", lambda: sandbox.has("closed|K-1|") and not sandbox.states())
    status = sandbox.status()
    assert [device.state for device in status.devices] == [State.READY] * 8
    assert all(device.state in TERMINAL for device in status.devices)
    for device in sandbox.truth():
        wipes = device["wipes_received"]
        assert isinstance(wipes, list)
        assert (len(wipes), device["resets_taken"], device["truly_ready"]) == (1, 1, True), device
    sandbox.await_that("every end is told", lambda: sandbox.heard("device.ready") == 8)
    sandbox.await_that("the acceptance is told", lambda: sandbox.heard("request.accepted") == 1)


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    file = tmp_path / "killed.toml"
    file.write_text(SCENARIO)
    return Scenario.load(file)


@pytest.fixture
def sandbox(scenario: Scenario, tmp_path: Path) -> Iterator[Killable]:
    # Real time: the tenant's audit lags by 3.3 seconds at this speed, and a host takes two to start again.
    overrides = {"SANDBOX_QUEUE_LEASE_SECONDS": "2", "TURNAROUND_POLICY__AUDIT_AFTER": "PT5S"}
    with stack.run(scenario, tmp_path, overrides=overrides) as running:
        killable = Killable(running, tmp_path)
        try:
            yield killable
        finally:
            killable.kill()
            killable.table.close()


def test_s13_a_host_killed_at_every_stage_loses_nothing_and_resets_nothing_twice(sandbox: Killable) -> None:
    sandbox.send()
    for moment, reached in {
        "the request is kept": lambda: sandbox.has("request|K-1"),
        "its devices are taken in": lambda: bool(sandbox.states()),
        "a reset is being sent": lambda: State.SENDING in sandbox.states(),
        "Intune has taken the orders": lambda: State.TRIGGERED in sandbox.states(),
        "a device is being reset": lambda: State.RESETTING in sandbox.states(),
        "a device is ready": lambda: sandbox.has("closed|K-1|"),
    }.items():
        sandbox.await_that(moment, reached, every=0.01)
        sandbox.kill()
        sandbox.start()
    ends_ready_and_reset_once(sandbox)


@pytest.mark.parametrize("fault", ["lost_answer", "lost_request"])
def test_s13_a_host_killed_while_the_answer_to_a_reset_is_lost_finds_out_what_became_of_it(
    sandbox: Killable, fault: str
) -> None:
    sandbox.arm(fault)
    sandbox.send()
    sandbox.await_that("a reset is being sent", lambda: State.SENDING in sandbox.states(), every=0.01)
    sandbox.kill()
    sandbox.start()
    ends_ready_and_reset_once(sandbox)
