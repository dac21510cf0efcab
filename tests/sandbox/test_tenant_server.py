"""The tenant over HTTP: the token endpoint, the control endpoints, recordings, cut connections, and the process."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from sandbox.scenario import Scenario
from sandbox.tenant.graph import Tenant
from sandbox.tenant.har import HarFile, redact
from sandbox.tenant.server import build_app
from sandbox.virtual.loop import run

SCENARIO = """
[scenario]
name = "served"
speed = 600
[[devices]]
count = 3
serial = "SN{n}"
first_check_in = "PT1M"
[[devices]]
serial = "with space"
[[groups]]
name = "Big board"
"""
DEVICES = "/v1.0/deviceManagement/managedDevices"
TOKEN = "top-secret-token"


class Served:
    """A tenant in a process of its own."""

    def __init__(self, folder: Path) -> None:
        scenario = folder / "scenario.toml"
        scenario.write_text(SCENARIO)
        self.har = folder / "traffic.har"
        command = [sys.executable, "-m", "sandbox.tenant", "--scenario", str(scenario), "--har", str(self.har)]
        self.process = subprocess.Popen([*command, "--token", TOKEN], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline())
        assert ready["event"] == "ready"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self.http = httpx.Client(base_url=ready["url"], headers=headers, trust_env=False)

    def ids(self) -> list[str]:
        return [device["id"] for device in self.http.get(f"{DEVICES}?$select=id").json()["value"]]

    def entries(self) -> list[dict[str, dict[str, object]]]:
        entries = json.loads(self.har.read_text())["log"]["entries"]
        assert isinstance(entries, list)
        return entries

    def stop(self, with_signal: int = signal.SIGTERM) -> int:
        self.http.close()
        if self.process.poll() is None:
            os.kill(self.process.pid, with_signal)
        return self.process.wait(10)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    tenant = Served(tmp_path_factory.mktemp("tenant"))
    yield tenant
    tenant.stop()


def test_a_token_is_given_for_client_credentials_only(served: Served) -> None:
    path = "/11111111-2222-3333-4444-555555555555/oauth2/v2.0/token"
    form = {
        "grant_type": "client_credentials",
        "client_id": "app",
        "client_secret": "hush",
        "scope": "https://graph.microsoft.com/.default",
    }
    answer = served.http.post(path, data=form)
    assert answer.status_code == 200
    token = answer.json()["access_token"]
    assert served.http.get(DEVICES, headers={"Authorization": f"Bearer {token}"}).status_code == 200
    for wrong in ({"grant_type": "password"}, {"client_secret": ""}, {"client_id": ""}, {"scope": "x"}):
        assert served.http.post(path, data=form | wrong).status_code == 400
    assert served.http.post("/another/oauth2/v2.0/token", data=form).status_code == 400


def test_next_links_lead_back_to_the_server(served: Served) -> None:
    page = served.http.get(f"{DEVICES}?$top=1").json()
    assert page["@odata.nextLink"].startswith(str(served.http.base_url).rstrip("/"))
    assert served.http.get(page["@odata.nextLink"]).json()["value"][0]["id"] == served.ids()[1]


def test_a_204_has_no_body_and_no_content_type(served: Served) -> None:
    answer = served.http.post(f"{DEVICES}/{served.ids()[2]}/syncDevice")
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-type" not in answer.headers


def test_a_lost_answer_cuts_the_connection_after_the_effect(served: Served) -> None:
    served.http.post("/sandbox/faults", json={"on": "wipe", "fault": "lost_answer"}).raise_for_status()
    body = {"keepEnrollmentData": True, "keepUserData": False}
    with pytest.raises(httpx.RemoteProtocolError):
        served.http.post(f"{DEVICES}/{served.ids()[0]}/wipe", json=body)
    truth = served.http.get("/sandbox/devices/SN1").json()["devices"][0]
    assert [wipe["body"] for wipe in truth["wipes_received"]] == [body]
    assert served.entries()[-1]["response"]["status"] in (0, 200)
    assert 0 in [entry["response"]["status"] for entry in served.entries()]


def test_a_device_can_be_switched_off_and_changed_by_its_serial_number(served: Served) -> None:
    answer = served.http.post("/sandbox/devices/with%20space", json={"power": "off", "reset_duration": "PT1H"})
    assert answer.json()["devices"][0]["online"] is False
    answer = served.http.post("/sandbox/devices/with%20space", json={"power": "on"})
    assert answer.json()["devices"][0]["online"] is True
    assert served.http.post("/sandbox/devices/nosuch", json={"power": "on"}).status_code == 404
    assert served.http.post("/sandbox/devices/SN1", json={"power": "maybe"}).status_code == 400
    assert served.http.post("/sandbox/devices/SN1", json={"nosuch": 1}).status_code == 400
    assert served.http.post("/sandbox/devices/SN1", content=b"[").status_code == 400


def test_quirks_change_while_it_runs_and_bad_ones_are_refused(served: Served) -> None:
    changed = served.http.post("/sandbox/quirks", json={"page_size": 2, "stale_reads": "PT2M"}).json()
    assert (changed["page_size"], changed["stale_reads"]) == (2, "PT120S")
    assert len(served.ids()) == 2
    assert served.http.get("/sandbox/quirks").json() == changed
    assert served.http.post("/sandbox/quirks", json={"nosuch": True}).status_code == 400
    assert served.http.post("/sandbox/quirks", json={"p503": 2}).status_code == 400
    served.http.post("/sandbox/quirks", json={"page_size": 1000}).raise_for_status()
    assert len(served.ids()) == 4


def test_answers_may_be_slow_but_no_slower_than_the_quirk_says() -> None:
    table = {"scenario": {"name": "slow"}, "tenant": {"quirks": {"answers_within": "PT30S"}}, "devices": [{}]}
    fleet = Scenario.model_validate(table).fleet(1, datetime.now(UTC))

    async def ask() -> list[float]:
        loop, took = asyncio.get_running_loop(), list[float]()
        transport = httpx.ASGITransport(build_app(Tenant(fleet, random.Random(1))))
        async with httpx.AsyncClient(transport=transport, base_url="http://graph.test") as http:
            for _ in range(20):
                began = loop.time()
                await http.get(DEVICES)
                took.append(loop.time() - began)
        return took

    took = run(ask())
    assert 0 < min(took) < 15 < max(took) < 30


def test_faults_approvals_and_health_answer_without_a_token(served: Served) -> None:
    bare = httpx.Client(base_url=served.http.base_url, trust_env=False)
    with bare:
        assert bare.get("/sandbox/health").json() == {"status": "ok", "devices": 4}
        assert bare.post("/sandbox/faults", json={"on": "wipe", "fault": "nosuch"}).status_code == 400
        assert bare.delete("/sandbox/faults").status_code == 200
        assert bare.post("/sandbox/approvals", json={"decision": "approved"}).json() == {"decided": 0}
        assert bare.post("/sandbox/approvals", json={"decision": "maybe"}).status_code == 400
        assert bare.get("/sandbox/calls").json()["requests"] > 0
        assert bare.get(DEVICES).status_code == 401


def test_a_groups_members_change_by_its_name(served: Served) -> None:
    change = {"add": ["device:SN1", "user:anna@contoso.example"]}
    added = served.http.post("/sandbox/groups/Big board", json=change).json()
    assert len(added["members"]) == 2
    left = served.http.post("/sandbox/groups/Big board", json={"remove": ["device:SN1"]}).json()
    assert set(left["members"]) < set(added["members"])
    for path, body, status in (
        ("NoSuch", change, 404),
        ("Big board", {"add": ["device:NoSuch"]}, 404),
        ("Big board", {"add": "device:SN1"}, 400),
    ):
        assert served.http.post(f"/sandbox/groups/{path}", json=body).status_code == status


def test_the_recording_is_har_with_all_secrets_left_out(served: Served) -> None:
    before = len(served.entries())
    path = "/11111111-2222-3333-4444-555555555555/oauth2/v2.0/token"
    served.http.post(path, data={"grant_type": "client_credentials", "client_id": "app", "client_secret": "hush"})
    inner = {"id": "1", "method": "GET", "url": "/devices?$top=1", "headers": {"Authorization": f"Bearer {TOKEN}"}}
    served.http.post("/v1.0/$batch", json={"requests": [inner]})
    served.http.get("/sandbox/health")
    entries = served.entries()[before:]
    assert [entry["request"]["method"] for entry in entries] == ["POST", "POST"]
    assert entries[1]["request"]["postData"]["mimeType"] == "application/json"  # type: ignore[index]  # HAR's shape
    text = served.har.read_text()
    assert TOKEN not in text
    assert "hush" not in text


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_however_it_ends_the_recording_reads_and_a_signal_ends_it_cleanly(tmp_path: Path, ending: int) -> None:
    tenant = Served(tmp_path)
    ids = tenant.ids()
    code = tenant.stop(ending)
    assert code == (-9 if ending == signal.SIGKILL else 0)
    (entry,) = tenant.entries()
    content = entry["response"]["content"]
    assert isinstance(content, dict)
    assert [device["id"] for device in json.loads(str(content["text"]))["value"]] == ids


@pytest.mark.parametrize(
    ("text", "fault"), [("[scenario]\nname = 1", "name"), ("=", "not TOML"), (None, "No such file")]
)
def test_a_scenario_that_does_not_read_ends_it_with_the_fault(tmp_path: Path, text: str | None, fault: str) -> None:
    path = tmp_path / "bad.toml"
    if text is not None:
        path.write_text(text)
    command = [sys.executable, "-m", "sandbox.tenant", "--scenario", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert fault in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_empty_recording_is_har_too(tmp_path: Path) -> None:
    with HarFile(tmp_path / "x.har"):
        pass
    assert json.loads((tmp_path / "x.har").read_text())["log"]["entries"] == []


def test_redaction_leaves_the_rest_alone() -> None:
    assert redact('{"access_token":"abc","other":"abc"}') == '{"access_token":"REDACTED","other":"abc"}'
    assert redact("a=1&client_secret=x%20y&b=2") == "a=1&client_secret=REDACTED&b=2"
    assert redact('{"reason":"client_secret=x"}') == '{"reason":"client_secret=x"}'


def test_the_scenario_served_here_is_one(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SCENARIO)
    assert Scenario.load(tmp_path / "s.toml").speed == 600
