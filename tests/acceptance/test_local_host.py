"""The local Functions host runs an app over Azurite as Azure would."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.storage.queue import QueueClient

from sandbox import processes
from sandbox.azurite import Azurite

APP = """
import asyncio, json, os, time
import azure.functions as func

app = func.FunctionApp()
more = func.Blueprint()

def note(**fields):
    with open(os.environ["NOTES"], "a") as file:
        file.write(json.dumps(fields) + "\\n")

@app.queue_trigger(arg_name="msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")
async def work(msg: func.QueueMessage) -> None:
    body = msg.get_body().decode()
    note(event="began", body=body, tries=msg.dequeue_count, id=msg.id, inserted=str(msg.insertion_time))
    print("an app may print")
    if body.startswith("sleep "):
        await asyncio.sleep(float(body.split()[1]))
    if body.startswith("fail"):
        raise ValueError("cannot do " + body)
    note(event="ended", body=body)

@app.timer_trigger(arg_name="timer", schedule="%SCHEDULE%")
async def tick(timer: func.TimerRequest) -> None:
    note(event="tick", past_due=timer.past_due)

@more.route(route="things/{id:int}", methods=["GET", "POST"], auth_level=func.AuthLevel.FUNCTION)
async def thing(req: func.HttpRequest) -> func.HttpResponse:
    if req.params.get("fail"):
        raise RuntimeError("no such thing")
    said = {"id": req.route_params["id"], "body": req.get_body().decode(), "url": req.url, "x": req.headers.get("x-a")}
    return func.HttpResponse(json.dumps(said), status_code=201, headers={"x-b": "2"}, mimetype="application/json")

@more.route(route="open/{*rest}", auth_level=func.AuthLevel.ANONYMOUS)
def open_to_all(req: func.HttpRequest) -> str:
    return req.route_params.get("rest", "")

@more.route(route="slow", auth_level=func.AuthLevel.ANONYMOUS)
async def slow(req: func.HttpRequest) -> str:
    await asyncio.sleep(float(req.params["for"]))
    return "awake"

app.register_functions(more)
"""

HOST_JSON = {
    "version": "2.0",
    "functionTimeout": "00:00:02",
    "extensions": {"queues": {"maxPollingInterval": "00:00:30", "maxDequeueCount": 2}},
}
NEVER = "0 0 0 29 2 sat"  # next in 2048
UNLIMITED = {"AzureFunctionsJobHost__functionTimeout": "-1"}


@dataclass
class Host:
    """A running host of the fixture app."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]
    notes: Path
    queue: QueueClient
    log: Path

    def noted(self, **wanted: object) -> list[dict[str, Any]]:
        """What the app wrote down that has these fields."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        entries = [json.loads(line) for line in lines]
        return [entry for entry in entries if wanted.items() <= entry.items()]

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"{self.ready['url']}{path}", **options)


@contextmanager
def run_host(
    azurite: Azurite,
    folder: Path,
    settings: Mapping[str, str] | None = None,
    *,
    functions: str | None = None,
    create: bool = True,
) -> Iterator[Host]:
    """Run the fixture app from `folder`; called again with the same folder it goes on with the same queue and state."""
    app, notes, log = folder / "app", folder / "notes", folder / "log"
    if not app.exists():
        app.mkdir()
        (app / "function_app.py").write_text(APP)
        (app / "host.json").write_text(json.dumps(HOST_JSON))
        (folder / "queue").write_text(f"q-{uuid.uuid4()}")
    name = (folder / "queue").read_text()
    values = {
        "AzureWebJobsStorage": azurite.connection_string,
        "NOTES": str(notes),
        "QUEUE": name,
        "SCHEDULE": NEVER,
        "SANDBOX_FUNCTION_KEY": "the-key",
        # host.json says 30 seconds, with which these tests would not end in time.
        "AzureFunctionsJobHost__extensions__queues__maxPollingInterval": "00:00:00.2",
        "AzureFunctionsJobHost__Extensions__Queues__VisibilityTimeout": "00:00:01",
        **(settings or {}),
    }
    queue = QueueClient.from_connection_string(azurite.connection_string, name)
    if create and not queue_exists(queue):
        queue.create_queue()
    process = processes.spawn(
        command(app, write_settings(folder, values), folder / "state", functions), stdout=subprocess.PIPE, stderr=log
    )
    try:
        yield Host(process, processes.ready_line(process, stderr=log), notes, queue, log)
    finally:
        processes.stop(process)


def write_settings(folder: Path, values: dict[str, str]) -> Path:
    file = folder / "settings.json"
    file.write_text(json.dumps({"IsEncrypted": False, "Values": values}))
    return file


def command(app: Path, settings: Path, state: Path, functions: str | None = None) -> list[str | Path]:
    only = ["--functions", functions] if functions else []
    return [sys.executable, "-m", "sandbox.host", "--app", app, "--settings", settings, "--state", state, *only]


def queue_exists(queue: QueueClient) -> bool:
    try:
        queue.get_queue_properties()
    except Exception:  # noqa: BLE001 - whatever is wrong, creating it will tell
        return False
    return True


def eventually[T](look: Callable[[], T], seconds: float = 20) -> T:
    """What `look` gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.03)
    return found


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture(scope="module")
def host(azurite: Azurite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with run_host(azurite, tmp_path_factory.mktemp("host")) as running:
        yield running


@pytest.mark.parametrize("encode", [base64_of, str])
def test_a_message_is_handed_over_decoded_whether_it_is_base64_or_plain_and_then_deleted(
    host: Host, encode: Callable[[str], str]
) -> None:
    body = f"grüße {uuid.uuid4()}"
    sent = host.queue.send_message(encode(body))
    (began,) = eventually(lambda: host.noted(event="ended", body=body) and host.noted(event="began", body=body))
    assert began["id"] == sent.id
    assert began["tries"] == 1
    assert began["inserted"] == str(sent.inserted_on)
    eventually(lambda: host.queue.get_queue_properties().approximate_message_count == 0)


def test_a_message_that_fails_each_time_lands_in_the_poison_queue_as_it_was_sent(host: Host, azurite: Azurite) -> None:
    body = f"fail {uuid.uuid4()}"
    host.queue.send_message(base64_of(body))
    poison = QueueClient.from_connection_string(azurite.connection_string, host.queue.queue_name + "-poison")
    message = eventually(lambda: queue_exists(poison) and poison.receive_message())
    assert message
    assert (message.content, message.expires_on and message.expires_on.year) == (base64_of(body), 9999)
    assert [entry["tries"] for entry in host.noted(body=body)] == [1, 2]
    eventually(lambda: host.queue.get_queue_properties().approximate_message_count == 0)


def test_an_invocation_that_runs_longer_than_function_timeout_fails(host: Host) -> None:
    assert host.get("/api/slow?for=60", timeout=20).status_code == 500
    assert "functionTimeout" in host.log.read_text()


def test_an_http_function_gets_the_request_and_gives_the_answer(host: Host) -> None:
    url = f"{host.ready['url']}/api/things/7?a=b"
    answer = httpx.post(url, content="hello", headers={"x-functions-key": "the-key", "x-a": "1"})
    assert answer.status_code == 201
    assert answer.headers["x-b"] == "2"
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"id": "7", "body": "hello", "url": url, "x": "1"}


def test_a_function_without_its_key_answers_401_with_nothing_in_it(host: Host) -> None:
    for answer in (host.get("/api/things/7"), host.get("/api/things/7?code=wrong")):
        assert (answer.status_code, answer.content) == (401, b"")
    assert host.get("/api/things/7?code=the-key").status_code == 201


@pytest.mark.parametrize("path", ["/api/things/seven", "/api/nothing", "/things/7", "/admin/nothing"])
def test_what_no_route_matches_is_404(host: Host, path: str) -> None:
    assert host.get(path, headers={"x-functions-key": "the-key"}).status_code == 404


def test_a_method_that_the_route_does_not_take_is_404(host: Host) -> None:
    assert httpx.put(f"{host.ready['url']}/api/things/7?code=the-key").status_code == 404


def test_a_route_that_takes_the_rest_needs_no_key_when_it_is_anonymous(host: Host) -> None:
    answer = host.get("/api/open/a/b%20c")
    assert (answer.status_code, answer.text) == (200, "a/b c")


def test_a_function_that_raises_answers_500_with_nothing_in_it(host: Host) -> None:
    answer = host.get("/api/things/7?code=the-key&fail=1")
    assert (answer.status_code, answer.content) == (500, b"")


def test_the_hosts_own_addresses_say_that_it_runs(host: Host) -> None:
    assert host.get("/").status_code == 200
    assert host.get("/admin/host/status").json()["state"] == "Running"


def test_a_timer_runs_when_asked_by_whoever_has_the_key(host: Host) -> None:
    url = f"{host.ready['url']}/admin/functions/"
    assert httpx.post(url + "tick", json={}).status_code == 401
    assert not host.noted(event="tick")
    assert httpx.post(url + "tick", json={}, headers={"x-functions-key": "the-key"}).status_code == 202
    eventually(lambda: host.noted(event="tick", past_due=False))
    assert httpx.post(url + "work", json={}, headers={"x-functions-key": "the-key"}).status_code == 404


def test_a_message_whose_host_was_killed_comes_back(azurite: Azurite, tmp_path: Path) -> None:
    lease = {"SANDBOX_QUEUE_LEASE_SECONDS": "2"}
    with run_host(azurite, tmp_path, lease, functions="work") as first:
        assert first.ready["functions"] == ["work"]
        first.queue.send_message("sleep 1")
        eventually(lambda: first.noted(event="began"))
        processes.kill(first.process)
    with run_host(azurite, tmp_path, lease, functions="work") as second:
        eventually(lambda: second.noted(event="ended"))
        assert [entry["tries"] for entry in second.noted(event="began")] == [1, 2]


def test_a_lease_is_renewed_while_the_function_runs(azurite: Azurite, tmp_path: Path) -> None:
    slow = {"SANDBOX_QUEUE_LEASE_SECONDS": "1", **UNLIMITED}
    with run_host(azurite, tmp_path, slow, functions="work") as host:
        host.queue.send_message("sleep 3")
        eventually(lambda: host.noted(event="ended"))
        eventually(lambda: host.queue.get_queue_properties().approximate_message_count == 0)
        assert [entry["tries"] for entry in host.noted(event="began")] == [1]


def test_a_queue_that_is_not_there_yet_is_waited_for(azurite: Azurite, tmp_path: Path) -> None:
    with run_host(azurite, tmp_path, functions="work", create=False) as host:
        eventually(lambda: "is not there" in host.log.read_text())
        time.sleep(0.5)  # it looks again at least twice
        host.queue.create_queue()
        host.queue.send_message("so late")  # "late" alone would be base64
        eventually(lambda: host.noted(event="ended", body="so late"))
        assert host.log.read_text().count("is not there") == 1


def test_a_timer_ticks_and_a_missed_tick_is_past_due(azurite: Azurite, tmp_path: Path) -> None:
    with run_host(azurite, tmp_path, {"SCHEDULE": "* * * * * *"}, functions="tick") as first:
        eventually(lambda: len(first.noted(event="tick")) >= 2)
        assert not first.noted(past_due=True)
    before = len(first.noted(event="tick"))
    time.sleep(1.2)
    with run_host(azurite, tmp_path, {"SCHEDULE": "* * * * * *"}, functions="tick") as second:
        eventually(lambda: len(second.noted(event="tick")) >= before + 2)
    assert [entry["past_due"] for entry in second.noted(event="tick")][before : before + 2] == [True, False]


def test_without_a_key_in_the_settings_one_is_made_and_told(azurite: Azurite, tmp_path: Path) -> None:
    with run_host(azurite, tmp_path, {"SANDBOX_FUNCTION_KEY": ""}, functions="thing") as host:
        assert host.get("/api/things/7?code=").status_code == 401
        assert host.get("/api/things/7", params={"code": host.ready["function_key"]}).status_code == 201


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_asked_to_end_the_host_lets_running_work_finish_and_takes_no_more(azurite: Azurite, tmp_path: Path) -> None:
    with run_host(azurite, tmp_path, UNLIMITED, functions="work") as host:
        host.queue.send_message("sleep 1")
        eventually(lambda: host.noted(event="began"))
        host.process.send_signal(signal.SIGTERM)
        host.queue.send_message("too late")
        assert host.process.wait(10) == 0
        assert [entry["body"] for entry in host.noted(event="ended")] == ["sleep 1"]
        assert [message.content for message in host.queue.peek_messages(5)] == ["too late"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_work_that_outlasts_the_grace_is_cut_short_and_its_message_comes_back(azurite: Azurite, tmp_path: Path) -> None:
    settings = {"SANDBOX_SHUTDOWN_GRACE_SECONDS": "0.2", **UNLIMITED}
    with run_host(azurite, tmp_path, settings, functions="work") as host:
        host.queue.send_message("sleep 60")
        eventually(lambda: host.noted(event="began"))
        host.process.send_signal(signal.SIGTERM)
        assert host.process.wait(10) == 0
        eventually(lambda: host.queue.peek_messages())


GOOD = "import azure.functions as func\napp = func.FunctionApp()\n"
BROKEN = {
    "import error": ("import no_such_module\n", "no_such_module"),
    "indexing error": (
        GOOD + "@app.queue_trigger(arg_name='m', queue_name='q', connection='C')\ndef f(other: str) -> None: ...\n",
        "cannot load the f function",
    ),
    "missing setting": (
        GOOD + "@app.timer_trigger(arg_name='t', schedule='%WHEN%')\ndef f(t: func.TimerRequest) -> None: ...\n",
        "the function f: %WHEN% needs the setting WHEN",
    ),
    "unmodelled trigger": (
        GOOD + "@app.blob_trigger(arg_name='b', path='p', connection='C')\ndef f(b: func.InputStream) -> None: ...\n",
        "the function f has a binding of type blobTrigger",
    ),
    "bad schedule": (
        GOOD + "@app.timer_trigger(arg_name='t', schedule='61 * * * * *')\ndef f(t: func.TimerRequest) -> None: ...\n",
        "second: 61 is not between 0 and 59",
    ),
    "missing connection": (
        GOOD
        + "@app.queue_trigger(arg_name='m', queue_name='q', connection='C')\ndef f(m: func.QueueMessage) -> None: ...",
        "the function f: its connection is the setting C",
    ),
    "retry policy": (
        GOOD
        + "@app.retry(strategy='fixed_delay', max_retry_count='3', delay_interval='00:00:01')\n"
        + "@app.timer_trigger(arg_name='t', schedule='1 * * * * *')\ndef f(t: func.TimerRequest) -> None: ...\n",
        "the function f has a retry policy",
    ),
    "no app": (None, "has no function_app.py"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_app_that_cannot_run_ends_the_host_with_2_and_the_reason(tmp_path: Path, case: str) -> None:
    source, reason = BROKEN[case]
    if source is not None:
        (tmp_path / "function_app.py").write_text(source)
    (tmp_path / "host.json").write_text('{"version": "2.0"}')
    ended = subprocess.run(
        command(tmp_path, write_settings(tmp_path, {}), tmp_path / "state"), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert reason in ended.stderr.splitlines()[-1]
