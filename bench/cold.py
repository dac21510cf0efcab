"""What a cold process pays to load the app: fresh processes, in turns."""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.measure import ROOT, Cell, Table, environment, median
from bench.start import BARE
from sandbox.processes import ready_line, spawn, stop

ROUNDS = 9
BASE = "azure.functions alone"
_APP = "import function_app"
_ONE_MODEL = "\nfrom pydantic import BaseModel\nclass One(BaseModel):\n    one: str"
_ONE_DEVICE = (
    "from kiota_serialization_json.json_parse_node_factory import JsonParseNodeFactory as F\n"
    "from msgraph.generated.models.managed_device_collection_response import ManagedDeviceCollectionResponse as R\n"
    'F().get_root_parse_node("application/json", b\'{"value": [{"id": "x"}]}\').get_object_value(R)'
)
LOADED = {
    "Python alone": "",
    BASE: "import azure.functions",
    "a bare app: one queue, one timer": BARE,
    "+ pydantic and one model of one field": f"{BARE}{_ONE_MODEL}",
    "the app (`function_app`)": _APP,
    "+ table SDK": f"{_APP}, azure.data.tables.aio",
    "+ queue SDK": f"{_APP}, azure.storage.queue.aio",
    "+ azure.identity": f"{_APP}, azure.identity.aio",
    "+ FastAPI and the HTTP API": f"{_APP}, azure.functions, web.api",
    "+ Graph SDK, as the gateway uses it": f"{_APP}, shared.graph.sdk",
    "+ Graph SDK, and one device read by its models": f"{_APP}, msgraph\n{_ONE_DEVICE}",
}
_READY = (
    "\nimport sys, time\ncpu = time.process_time()\nimport json\n"
    'print(json.dumps({"event": "ready", "modules": len(sys.modules), "cpu": cpu}), flush=True)\n'
    "time.sleep(60)"  # until we have looked at its memory, and stop it
)


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a process, until it is ready: milliseconds, modules, MB."""

    wall: float
    cpu: float
    modules: int
    resident: float


def run() -> Table:
    """From the start of the process until all is imported; the first round only compiles and fills the disk cache."""
    started: dict[str, list[Start]] = {name: [] for name in LOADED}
    for number in range(ROUNDS + 1):
        for name, program in LOADED.items():
            start = _start(program + _READY)
            started[name] += [start] if number else []
    rows: list[tuple[Cell, ...]] = []
    for name, starts in started.items():
        ratio = median([one.cpu / base.cpu for one, base in zip(starts, started[BASE], strict=True)])
        wall, cpu = median([one.wall for one in starts]), median([one.cpu for one in starts])
        rows.append((name, wall, cpu, ratio, starts[-1].modules, starts[-1].resident))
    columns = ("Loaded", "ms", "CPU ms", f"CPU, ratio to {BASE}", "modules", "resident, MB")
    return Table(columns, tuple(rows))


def _start(program: str) -> Start:
    app = {"TURNAROUND_STORAGE": "UseDevelopmentStorage=true", "TURNAROUND_TENANT_ID": "bench.example"}
    app |= {"TURNAROUND_POLICY_FILE": "policy.toml", "TURNAROUND_WINDOWS_FILE": "windows.toml"}  # as it is deployed
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        errors = Path(folder) / "stderr.log"
        command = [sys.executable, "-c", program]
        began = time.perf_counter()
        process = spawn(command, env=environment(app), cwd=ROOT, stdout=subprocess.PIPE, stderr=errors)
        try:
            told = ready_line(process, stderr=errors)
            wall = (time.perf_counter() - began) * 1000
            resident = psutil.Process(process.pid).memory_info().rss / 1e6
            return Start(wall, float(str(told["cpu"])) * 1000, int(str(told["modules"])), resident)
        finally:
            stop(process)
