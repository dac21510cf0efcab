"""What the benchmarks share: a table of figures, medians, this machine, a tenant to measure against."""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from sandbox.processes import ready_line, spawn, stop
from shared.graph.credential import StaticTokenCredential
from shared.graph.endpoint import GraphEndpoint
from shared.graph.gateway import GraphIntune

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "sandbox"
PACKAGES = ("msgraph-sdk", "httpx", "azure-functions", "azure-data-tables", "azure-storage-queue", "fastapi")
UNLIMITED = 10**6
NO_LIMITS: Mapping[str, object] = {
    "approval_above": UNLIMITED,
    "wave_above": UNLIMITED,
    "unapproved_per_day": UNLIMITED,
    "resets_per_hour": UNLIMITED,
    "resets_per_day": UNLIMITED,
    "resets_per_device": UNLIMITED,
    "fleet_share_per_day": 1.0,
    "halt_burst_floor": UNLIMITED,
    "halt_refused": 0,
}
"""A policy under which nothing waits but for Graph's own limits."""
GROUP = 50_000
"""Most devices in one [[devices]] table of a scenario."""

type Cell = str | int | float


class UnsoundError(Exception):
    """What was measured did not do what it should have done, so that its figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class Table:
    """Figures side by side: numbers, with their unit in the column's name."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def markdown(self) -> str:
        """Numbers to three digits, thousands with a comma, aligned to the right."""
        numeric = [all(not isinstance(row[n], str) for row in self.rows) for n in range(len(self.columns))]
        lines = [self.columns, tuple("--:" if right else "---" for right in numeric)]
        lines += [tuple(shown(cell) for cell in row) for row in self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark. Its name is its block in docs/performance.md; `run` takes seconds, not minutes."""

    name: str
    title: str
    run: Callable[[], Table]


def shown(cell: Cell) -> str:
    """Write a figure with three digits that count."""
    if isinstance(cell, str):
        return cell
    return f"{cell:,.0f}" if isinstance(cell, int) or abs(cell) >= 100 else f"{cell:.3g}"


def median(values: Sequence[float]) -> float:
    """The median, to three digits that count: more would only be noise."""
    return float(f"{statistics.median(values):.3g}")


def machine() -> dict[str, str]:
    """What the figures depend on: machine, versions, date."""
    memory = psutil.virtual_memory().total / 2**30
    cores, load = os.cpu_count() or 0, psutil.getloadavg()[0]
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{_processor()}, {cores} cores, {memory:.0f} GiB",
        "load": f"load {load:.1f} at the start",
        "system": f"{platform.system()} {platform.machine()}, {platform.python_implementation()} "
        f"{platform.python_version()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.machine())


@contextmanager
def tenant(devices: int, **quirks: str | int) -> Iterator[str]:
    """Serve a tenant with so many devices from a child process, for as long as the block lasts; gives its address.

    It has no limits, so that what is measured is the caller. Device n has the serial number SN-n, with four digits at
    least. Raises ChildError when it does not start.
    """
    scenario = f'[scenario]\nname = "bench"\n[tenant.quirks]\nthrottle = false\ndaily_wipe_limit = {10**9}\n'
    scenario += "".join(f"{name} = {value!r}\n" for name, value in quirks.items())
    for first in range(1, devices + 1, GROUP):
        # No device checks in or reacts while it is measured.
        count = min(GROUP, devices + 1 - first)
        scenario += f'[[devices]]\nfirst = {first}\ncount = {count}\ncheck_in_every = "P30D"\nsync_reaction = "P1D"\n'
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder) / "scenario.toml"
        path.write_text(scenario, "utf-8")
        errors = path.with_name("stderr.log")
        command: list[str | Path] = [sys.executable, "-m", "sandbox.tenant", "--scenario", path, "--token", TOKEN]
        process = spawn(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors)
        try:
            yield str(ready_line(process, timeout=120, stderr=errors)["url"])
        finally:
            stop(process)


async def connect(url: str) -> GraphIntune:
    """The gateway, as the app makes it, to a tenant of the sandbox."""
    return await GraphIntune.create(GraphEndpoint.parse(url), StaticTokenCredential(TOKEN))


def environment(app: Mapping[str, str]) -> dict[str, str]:
    """For a child that loads the app: these settings and no others of its own, and byte code is kept once compiled."""
    foreign = ("TURNAROUND_", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | dict(app)


def child(module: str, *arguments: str, timeout: float = 120) -> dict[str, object]:
    """Run a module of ours in a fresh process; the object that it prints as {"event": "ready", ...}.

    Raises ChildError when it fails.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        errors = Path(folder) / "stderr.log"
        command = [sys.executable, "-m", module, *arguments]
        process = spawn(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors)
        try:
            return ready_line(process, timeout=timeout, stderr=errors)
        finally:
            stop(process)
