"""From the start of a process to its first message handled: a bare Functions app, one that stores, and Turnaround."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psutil
from azure.data.tables import TableServiceClient
from azure.storage.queue import QueueClient

from bench.measure import ROOT, Cell, Table, UnsoundError, environment, median
from bench.worker import HALT
from sandbox.azurite import Azurite, azurite
from sandbox.processes import ready_line, spawn, stop, wait_for_line
from shared.messages.queues import CONTROL, NOTICES

ROUNDS = 7
BARE = """
import azure.functions as func

app = func.FunctionApp()

@app.queue_trigger(arg_name="message", queue_name="reset-control", connection="TURNAROUND_STORAGE")
async def control(message: func.QueueMessage) -> None:
    message.get_body()

@app.timer_trigger(arg_name="timer", schedule="%TURNAROUND_SCHEDULE_POLL%")
async def poll(timer: func.TimerRequest) -> None: ...
"""
"""Functions of the same names as two of ours that need no Graph: a halt, and a poll with nothing in flight."""
STORING = """
import os
import azure.functions as func

app = func.FunctionApp()

@app.queue_trigger(arg_name="message", queue_name="reset-control", connection="TURNAROUND_STORAGE")
async def control(message: func.QueueMessage) -> None:
    from azure.storage.queue.aio import QueueClient
    async with table() as rows:
        await rows.upsert_entity({"PartitionKey": "p", "RowKey": "r", "doc": message.get_body().decode()})
    async with QueueClient.from_connection_string(os.environ["TURNAROUND_STORAGE"], "reset-notices") as queue:
        await queue.send_message("told")

@app.timer_trigger(arg_name="timer", schedule="%TURNAROUND_SCHEDULE_POLL%")
async def poll(timer: func.TimerRequest) -> None:
    async with table() as rows:
        async for _ in rows.query_entities("PartitionKey eq 'p'"):
            break

def table():
    from azure.data.tables.aio import TableClient
    return TableClient.from_connection_string(os.environ["TURNAROUND_STORAGE"], os.environ["TURNAROUND_TABLE"])
"""
"""The same, with the least that must be stored, by the same SDKs: a row and a message for a halt, a look at the table
for a poll."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a process: CPU ms until its functions are known and until the first of them has run, ms until then
    by the clock, modules loaded; 0 where that was not seen."""

    indexed: float
    handled: float
    wall: float
    modules: int


def run() -> Table:
    """Ratios are to the bare app, in the same kind of process and the same round; the first round only compiles."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, azurite() as storage:
        apps = {
            "bare app": _app(Path(folder) / "bare", BARE),
            "bare app that stores": _app(Path(folder) / "storing", STORING),
            "Turnaround": ROOT,
        }
        number = count()
        QueueClient.from_connection_string(storage.connection_string, CONTROL).create_queue()
        QueueClient.from_connection_string(storage.connection_string, NOTICES).create_queue()
        kinds: dict[str, Callable[[Path, dict[str, str]], Start]] = {
            "worker, first `poll`": lambda app, env: _worker(app, "poll", env),
            "worker, first `control`": lambda app, env: _worker(app, "control", env),
            "local host, first `control`": lambda app, env: _host(app, env, storage),
        }
        started: dict[tuple[str, str], list[Start]] = {(kind, name): [] for kind in kinds for name in apps}
        for round_ in range(ROUNDS + 1):
            for kind, name in started:
                one = kinds[kind](apps[name], _settings(storage, f"bench{next(number)}"))
                started[kind, name] += [one] if round_ else []
    rows = [_row(kind, name, starts, started[kind, "bare app"]) for (kind, name), starts in started.items()]
    indexed, handled = ("indexed, CPU ms", "indexed, ratio"), ("handled, CPU ms", "handled, ratio", "handled, ms")
    return Table(("Process", "App", *indexed, *handled, "modules"), tuple(rows))


def _row(kind: str, name: str, starts: list[Start], bare: list[Start]) -> tuple[Cell, ...]:
    pairs = list(zip(starts, bare, strict=True))
    indexed: tuple[Cell, Cell] = ("", "")
    if all(one.indexed for one in starts):
        indexed = median([one.indexed for one in starts]), median([one.indexed / base.indexed for one, base in pairs])
    handled = median([one.handled for one in starts]), median([one.handled / base.handled for one, base in pairs])
    return kind, name, *indexed, *handled, median([one.wall for one in starts]), starts[-1].modules or ""


def _app(folder: Path, program: str) -> Path:
    folder.mkdir()
    (folder / "function_app.py").write_text(program, "utf-8")
    (folder / "host.json").write_text((ROOT / "host.json").read_text("utf-8"), "utf-8")
    return folder


def _settings(storage: Azurite, table: str) -> dict[str, str]:
    """Those of the sample, on a table of its own that is there, as the deployment makes it."""
    with TableServiceClient.from_connection_string(storage.connection_string) as tables:
        tables.create_table(table)
    sample: dict[str, str] = json.loads((ROOT / "local.settings.sample.json").read_text("utf-8"))["Values"]
    connections = dict.fromkeys(("AzureWebJobsStorage", "TURNAROUND_STORAGE"), storage.connection_string)
    return sample | connections | {"TURNAROUND_TABLE": table}


def _worker(app: Path, function: str, settings: dict[str, str]) -> Start:
    """The worker alone, handed what triggers the function: in Azure, too, the host is another process."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        errors = Path(folder) / "stderr.log"
        command = [sys.executable, "-m", "bench.worker", str(app), function]
        began = time.perf_counter()
        process = spawn(command, env=environment(settings), cwd=ROOT, stdout=subprocess.PIPE, stderr=errors)
        try:
            told = ready_line(process, stderr=errors)
            wall = (time.perf_counter() - began) * 1000
        finally:
            stop(process)
    if told["error"] is not None:
        raise UnsoundError(f"{app.name}: {function} failed: {told['error']}")
    indexed, handled = (float(str(told[name])) * 1000 for name in ("indexed", "handled"))
    return Start(indexed, handled, wall, int(str(told["modules"])))


def _host(app: Path, settings: dict[str, str], storage: Azurite) -> Start:
    """The local host with the worker in it: a message waits on the one queue that it listens to."""
    QueueClient.from_connection_string(storage.connection_string, CONTROL).send_message(HALT)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder) / "settings.json"
        file.write_text(json.dumps({"IsEncrypted": False, "Values": settings}), "utf-8")
        command = [sys.executable, "-m", "sandbox.host", "--app", str(app), "--settings", str(file)]
        command += ["--functions", "control"]
        began = time.perf_counter()
        process = spawn(command, env=environment({}), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            wait_for_line(process, lambda line: True if " control " in line and " succeeded" in line else None)
            wall, times = (time.perf_counter() - began) * 1000, psutil.Process(process.pid).cpu_times()
        finally:
            stop(process)
    return Start(0, (times.user + times.system) * 1000, wall, 0)
