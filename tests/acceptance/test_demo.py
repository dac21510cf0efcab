"""The commands demo and up, run as a user runs them."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from sandbox.graph_schema.check import check
from sandbox.scenario import Scenario

MAIN = Path(__file__).resolve().parents[2] / "examples" / "scenarios" / "main.toml"

SMALL = """
[scenario]
name = "small"
speed = 180
time_limit = "PT2H"

# All is shown at once, so that a slow machine does not miss the short time in which it can be seen.
[tenant.quirks]
action_done_at = "end"
stale_reads = "PT0S"
audit_lag = "PT0S"

[policy]
reconcile_after = "PT1M"

[[devices]]
count = 2
name = "PC-{n}"
serial = "SN-{n}"
first_check_in = "PT6M"
reset_duration = "PT20M"
first_sync_after = "PT4M"
expect = "PC_END"

[[devices]]
name = "HYBRID"
serial = "SN-H"
join = "hybrid"
expect = "HYBRID_END"

[[requests]]
body = { requestId = "R-1", requester = "desk", reason = "test", devices = [{ serialNumber = "SN-H" } ASKED] }
"""


def small(folder: Path, *, hybrid: str = "refused", asked: tuple[str, ...] = ()) -> Path:
    """A scenario file; its request names the hybrid-joined device and these serial numbers."""
    text = SMALL.replace("HYBRID_END", hybrid)
    text = text.replace(" ASKED", "".join(f', {{ serialNumber = "{serial}" }}' for serial in asked))
    file = folder / "small.toml"
    file.write_text(text.replace("PC_END", "ready" if asked else "untouched"))
    return file


class Command:
    """A running `turnaround`: what it says, and the processes that it started."""

    def __init__(self, *arguments: str | Path) -> None:
        turnaround = Path(sys.executable).parent / ("turnaround.exe" if os.name == "nt" else "turnaround")
        self.process = subprocess.Popen(
            [turnaround, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
        )
        self.lines: list[str] = []
        self.children: set[psutil.Process] = set()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    @property
    def said(self) -> str:
        return "".join(self.lines)

    def look(self) -> bool:
        """Note the processes that it has started; whether it is still running."""
        with contextlib.suppress(psutil.Error):
            self.children |= set(psutil.Process(self.process.pid).children(recursive=True))
        return self.process.poll() is None

    def until(self, seen: Callable[["Command"], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not seen(self):
            assert self.look(), f"it ended:\n{self.said}"
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)
        self.look()

    def end(self, seconds: float = 90) -> int:
        """Wait for its end; its exit code."""
        deadline = time.monotonic() + seconds
        while self.look():
            assert time.monotonic() < deadline, self.said
            time.sleep(0.1)
        self._reader.join(10)
        return self.process.returncode

    def left_behind(self) -> list[psutil.Process]:
        return psutil.wait_procs(self.children, timeout=0.5)[1]


@pytest.fixture
def turnaround() -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(*arguments: str | Path) -> Command:
        started.append(Command(*arguments))
        return started[-1]

    yield start
    for command in started:
        command.look()
        if command.process.poll() is None:
            command.process.terminate()
            command.process.wait(30)
        for child in command.left_behind():
            child.kill()


def said_by(environment: dict[str, str], *arguments: str | Path) -> str:
    """What a command says that must succeed."""
    ended = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def result(file: Path) -> Any:
    return json.loads(file.read_text("utf-8"))


def test_the_demo_ends_as_its_scenario_says_and_leaves_no_process_behind(
    turnaround: Callable[..., Command], tmp_path: Path
) -> None:
    run = turnaround("demo", "--json", tmp_path / "result.json", "--folder", tmp_path / "files")
    assert run.end(115) == 0, run.said
    assert len(run.children) >= 3
    assert not run.left_behind()
    ended = result(tmp_path / "result.json")
    assert ended["asExpected"] is True
    assert ended["faults"] == []
    asked = [device for device in ended["devices"] if device["actual"] != "untouched"]
    assert len(asked) >= 30
    for device in asked:
        assert device["actual"] == device["expected"]
        resets = device["graphCalls"].get("POST /deviceManagement/managedDevices/{id}/wipe", 0)
        assert resets == (0 if device["actual"] == "refused" else 1), device["name"]
        if device["actual"] == "ready":
            assert [step["state"] for step in device["states"]][-1] == "ready"
            assert device["truth"]["truly_ready"] is True
            assert "> ready" in (tmp_path / "files" / "history" / f"{device['name']}.txt").read_text("utf-8")
    told = [json.loads(line)["notice"] for line in (tmp_path / "files" / "notices.jsonl").read_text().splitlines()]
    ready = {notice["subject"] for notice in told if notice["type"] == "io.turnaround.device.ready"}
    assert len(ready) == ended["totals"]["ready"]
    assert re.search(r"ing > ready$", run.said, re.MULTILINE)
    recorded = json.loads((tmp_path / "files" / "graph.har").read_text("utf-8"))
    assert check(recorded, Scenario.load(MAIN).quirks()) == [], "only what Microsoft's schema has went over the wire"


def test_a_device_that_does_not_end_as_the_scenario_says_makes_the_exit_code_1(
    turnaround: Callable[..., Command], tmp_path: Path
) -> None:
    scenario = small(tmp_path, hybrid="ready")
    run = turnaround("demo", "--scenario", scenario, "--json", tmp_path / "r.json", "--folder", tmp_path / "files")
    assert run.end() == 1
    assert "HYBRID: it must end ready, and is refused (hybrid_joined)" in run.said
    assert result(tmp_path / "r.json")["asExpected"] is False


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no such signals to one process")
@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, lambda run: len(run.children) >= 2),
        (signal.SIGTERM, lambda run: re.search("sending|triggered|resetting", run.said) is not None),
    ],
    ids=["while it starts", "while devices are on their way"],
)
def test_asked_to_end_it_leaves_no_process_behind(
    turnaround: Callable[..., Command], tmp_path: Path, number: signal.Signals, moment: Callable[[Command], bool]
) -> None:
    run = turnaround("demo", "--scenario", small(tmp_path, asked=("SN-1",)), "--folder", tmp_path / "files")
    run.until(moment)
    run.process.send_signal(number)
    assert run.end(20) == 130
    assert not run.left_behind()


def test_what_ends_too_soon_is_told_with_the_end_of_its_log(turnaround: Callable[..., Command], tmp_path: Path) -> None:
    scenario = small(tmp_path)
    scenario.write_text(scenario.read_text().replace("[policy]", '[policy]\nsync_attempts = "many"'))
    run = turnaround("demo", "--scenario", scenario, "--folder", tmp_path / "files")
    assert run.end() == 1
    assert "TURNAROUND_POLICY__SYNC_ATTEMPTS" in run.said
    assert not run.left_behind()


def test_up_takes_requests_by_http_until_it_is_ended(turnaround: Callable[..., Command], tmp_path: Path) -> None:
    scenario = small(tmp_path, asked=("SN-1", "SN-2"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        run = turnaround("up", "--scenario", scenario, "--folder", tmp_path / "files", "--port", str(port))
        run.until(lambda run: "turnaround status" in run.said)
        assert f"Port {port} is taken" in run.said
    url, key = (str(re.search(rf"^  {name} +(\S+)", run.said, re.MULTILINE)[1]) for name in ("API", "Function key"))  # type: ignore[index]
    asked = {"requestId": "POSTED", "requester": "t", "reason": "t", "devices": [{"serialNumber": "SN-2"}]}
    assert httpx.post(url, json=asked).status_code == 401
    answer = httpx.post(url, json=asked, headers={"x-functions-key": key}, timeout=20)
    assert answer.status_code == 202

    def status() -> Any:
        shown = httpx.get(f"{url}/POSTED", headers={"x-functions-key": key}, timeout=20)
        return shown.json() if shown.status_code == 200 else {"ended": False}

    environment = dict(re.findall(r"(TURNAROUND_\w+)='?([^\s']+)", run.said))
    request = tmp_path / "request.json"
    request.write_text(json.dumps({**asked, "requestId": "QUEUED", "devices": [{"serialNumber": "SN-1"}]}))
    assert "Sent request QUEUED: 1 device in 1 message" in said_by(environment, "request", request)
    run.until(lambda _: bool(status()["ended"]))
    assert status()["counts"] == {"ready": 1}
    queued = json.loads(said_by(environment, "status", "QUEUED", "--json"))
    assert list(queued["counts"]) in (["triggered"], ["resetting"], ["settling"], ["ready"]), "it is under way, or done"
    history = said_by(environment, "history", queued["devices"][0]["intune_id"])
    assert "The order to reset it goes to Intune, client-request-id" in history
    run.process.send_signal(signal.SIGINT if os.name != "nt" else signal.SIGTERM)
    assert run.end(20) == 130
    assert not run.left_behind()
