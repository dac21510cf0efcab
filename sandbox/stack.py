"""Azurite, the simulated tenant and the local Functions host: started together, ended together."""

import contextlib
import json
import math
import os
import secrets
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from zoneinfo import ZoneInfo

from azure.core.exceptions import ResourceExistsError
from azure.data.tables import TableServiceClient
from azure.storage.queue import QueueServiceClient

from sandbox import processes
from sandbox.azurite import Azurite, azurite
from sandbox.scenario import Scenario, WindowTable
from sandbox.tenant.quirks import iso
from shared.domain.policy import Policy
from shared.domain.windows import Windows
from shared.messages.queues import RESULTS, TRIGGERING

ROOT = Path(__file__).resolve().parent.parent
HEAD_START = timedelta(seconds=4)
"""How long the start takes: the scenario's time begins only then, when everything answers."""
HOST = "the Functions host"
TOKEN = "sandbox"
TABLE = "turnaround"
EVERY_SECOND = "* * * * * *"
FOREIGN = (
    "TURNAROUND_",
    "AZUREWEBJOBS",
    "AZUREFUNCTIONSJOBHOST",
    "AZURE_",
    "SANDBOX_",
    "IDENTITY_",
    "MSI_",
    "WEBSITE_",
)
"""What a developer's own shell may have set must not reach the sandbox."""
type Handler = Callable[[int, FrameType | None], object] | int | None

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))


@dataclass(frozen=True)
class Child:
    """A child process, and where what it says is kept."""

    name: str
    process: subprocess.Popen[str]
    log: Path


@dataclass(frozen=True)
class Stack:
    """A running sandbox."""

    storage: Azurite
    tenant_id: str
    table: str
    graph: str
    """Where Graph's part is played."""
    api: str
    function_key: str
    start: datetime
    """When the scenario's time begins."""
    windows: Windows
    children: tuple[Child, ...]

    @property
    def connection(self) -> str:
        return self.storage.connection_string

    def check(self) -> None:
        """Raises ChildError, with the end of its log, for a child that has ended."""
        for child in self.children:
            code = child.process.poll()
            if code is not None:
                said = processes.tail(child.log)
                raise processes.ChildError(
                    f"{child.name} ended (exit code {code}). The end of its log {child.log}:\n{said}"
                )


@contextlib.contextmanager
def run(
    scenario: Scenario,
    folder: Path,
    *,
    keep: bool = False,
    har: Path | None = None,
    graph: str | None = None,
    port: int = 0,
    overrides: Mapping[str, str] | None = None,
    host_module: Sequence[str] = ("sandbox.host",),
) -> Iterator[Stack]:
    """Run the sandbox for a scenario, its files in `folder`, until the block ends; from the main thread only.

    `keep` leaves the storage on disk for the next run; `graph` is another Graph than the simulated tenant; `port` is
    the API's, 0 being any; `overrides` are settings of the app that come before the scenario's; `host_module` is run as
    the Functions host. While the children are ended, signals that ask this process to end wait.

    Raises ChildError when one of them does not start.
    """
    start = datetime.fromtimestamp(math.ceil((datetime.now(UTC) + HEAD_START).timestamp()), UTC)
    with contextlib.ExitStack() as stack:
        stack.callback(_restore, {name: signal.getsignal(name) for name in ENDING})
        try:
            children: list[Child] = []
            tenant = None
            if graph is None:
                tenant = Child("the simulated tenant", _tenant(scenario, folder, start, har), folder / "tenant.log")
                stack.callback(processes.stop, tenant.process)
                children.append(tenant)
            data = folder / "azurite"
            if keep:
                data.mkdir(exist_ok=True)
            logs = {"log": folder / "azurite.log", "access_log": folder / "storage-calls.log"}
            storage = stack.enter_context(azurite(data if keep else None, **logs))
            children.append(Child("Azurite", storage.process, folder / "azurite.log"))
            if tenant is not None:
                graph = str(processes.ready_line(tenant.process, stderr=tenant.log)["url"])
            if graph is None:
                raise AssertionError("either a tenant was started or another Graph is given")

            plan = folder / "windows.toml"
            plan.write_text(windows_file(scenario, start), "utf-8")
            windows = Windows.model_validate(tomllib.loads(plan.read_text("utf-8")))
            values = app_settings(scenario, storage.connection_string, graph, plan) | dict(overrides or {})
            _create(storage.connection_string, values["TURNAROUND_TABLE"])
            settings = folder / "settings.json"
            settings.write_text(json.dumps({"IsEncrypted": False, "Values": values}, indent=2) + "\n", "utf-8")
            host = Child(HOST, start_host(settings, folder, port, host_module), folder / "host.log")
            stack.callback(processes.stop, host.process)
            children.append(host)
            ready = processes.ready_line(host.process, stderr=host.log, timeout=60)
            yield Stack(
                storage=storage,
                tenant_id=values["TURNAROUND_TENANT_ID"],
                table=values["TURNAROUND_TABLE"],
                graph=graph,
                api=str(ready["url"]),
                function_key=values["SANDBOX_FUNCTION_KEY"],
                start=start,
                windows=windows,
                children=tuple(children),
            )
        finally:
            for name in ENDING:
                signal.signal(name, signal.SIG_IGN)


def _restore(handlers: Mapping[signal.Signals, Handler]) -> None:
    for name, handler in handlers.items():
        signal.signal(name, handler)


def ends_like_ctrl_c() -> None:
    """Let every request to end (SIGTERM, a closed terminal) do what Ctrl-C does: what is running is ended with us."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts jobs in the background without it
    for name in ENDING:
        if name is not signal.SIGINT:
            signal.signal(name, interrupt)


def _environment() -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.upper().startswith(FOREIGN)}
    return ours | {"PYTHONUNBUFFERED": "1"}


def _tenant(scenario: Scenario, folder: Path, start: datetime, har: Path | None) -> subprocess.Popen[str]:
    options: list[str | Path] = ["--scenario", scenario.path.resolve(), "--speed", str(scenario.speed)]
    options += ["--token", TOKEN, "--start", str(start.timestamp())]
    if har is not None:
        options += ["--har", har.resolve()]
    command = [sys.executable, "-m", "sandbox.tenant", *options]
    return _spawn(command, folder / "tenant.log")


def start_host(
    settings: Path, folder: Path, port: int = 0, module: Sequence[str] = ("sandbox.host",)
) -> subprocess.Popen[str]:
    """Start the Functions host, or a module that is one with arguments of its own; its ready line is the first on its
    stdout."""
    options: list[str | Path] = ["--app", ROOT, "--settings", settings, "--state", folder / "timers"]
    command = [sys.executable, "-m", *module, *options, "--port", str(port)]
    return _spawn(command, folder / "host.log")


def _spawn(command: list[str | Path], log: Path) -> subprocess.Popen[str]:
    return processes.spawn(command, env=_environment(), stdout=subprocess.PIPE, stderr=log, cwd=ROOT)


def _create(connection: str, table: str) -> None:
    """Make the table and the queues, as the deployment does in Azure."""
    with TableServiceClient.from_connection_string(connection) as tables:
        tables.create_table_if_not_exists(table)
    with QueueServiceClient.from_connection_string(connection) as queues:
        for name in (RESULTS, *TRIGGERING, *(f"{name}-poison" for name in TRIGGERING)):
            with contextlib.suppress(ResourceExistsError):
                queues.create_queue(name)


def app_settings(scenario: Scenario, connection: str, graph: str, windows: Path) -> dict[str, str]:
    """The app's settings: those of the sample, for this sandbox, at the scenario's speed."""
    sample: dict[str, str] = json.loads((ROOT / "local.settings.sample.json").read_text("utf-8"))["Values"]
    mine = {
        "AzureWebJobsStorage": connection,
        "TURNAROUND_STORAGE": connection,
        "TURNAROUND_TABLE": TABLE,
        "TURNAROUND_TENANT_ID": scenario.tenant.id,
        "TURNAROUND_GRAPH__CLOUD": graph,
        "TURNAROUND_GRAPH__STATIC_TOKEN": TOKEN,
        "TURNAROUND_POLICY_FILE": "",  # the scenario alone says what holds here, not the organisation's own policy
        "TURNAROUND_WINDOWS_FILE": str(windows.resolve()),
        "AzureFunctionsJobHost__extensions__queues__maxPollingInterval": "00:00:00.200",
        "AzureFunctionsJobHost__extensions__queues__visibilityTimeout": "00:00:01",
        "SANDBOX_FUNCTION_KEY": secrets.token_urlsafe(24),
        "SANDBOX_SHUTDOWN_GRACE_SECONDS": "2",
    }
    timers = {name: EVERY_SECOND for name in sample if name.startswith("TURNAROUND_SCHEDULE_")}
    given = {name: _text(value) for name, value in scenario.app.items()}
    return sample | mine | timers | policy_settings(scenario) | given


def policy_settings(scenario: Scenario) -> dict[str, str]:
    """Every duration of the app's policy at the scenario's speed, with the scenario's own rules over it. Only what is
    kept is kept as long as anywhere: no shorter time is allowed."""
    durations = {name: value for name, value in Policy() if isinstance(value, timedelta) and name != "retention"}
    paced = {name: iso(scenario.real(value)) for name, value in durations.items()} | scenario.real_policy()
    return {f"TURNAROUND_POLICY__{name.upper()}": _text(value) for name, value in paced.items()}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def windows_file(scenario: Scenario, start: datetime) -> str:
    """The scenario's lab windows as the app's windows.toml."""
    return "\n".join(_window(scenario, window, start) for window in scenario.windows)


def opening(scenario: Scenario, window: WindowTable, start: datetime) -> datetime | None:
    """When a window with `opens_after` opens, to the second; None for one with a cron line of its own."""
    if window.opens_after is None:
        return None
    return (start + scenario.real(window.opens_after)).replace(microsecond=0)


def _window(scenario: Scenario, window: WindowTable, start: datetime) -> str:
    opens = opening(scenario, window, start)
    entries: dict[str, object] = {"name": window.name, "timezone": window.timezone}
    if opens is None:
        entries["cron"] = window.cron
    else:
        # Six fields: the library behind the app's windows takes seconds too (cronsim).
        entries["cron"] = f"{opens.astimezone(ZoneInfo(window.timezone)):%S %M %H %d %m} *"
    if window.group_tag is not None:
        entries["group_tag"] = window.group_tag
    for name, duration in (("open_for", window.open_for), ("ready_by", window.ready_by)):
        if duration is not None:
            entries[name] = iso(scenario.real(duration))
    # A string in JSON is a string in TOML.
    lines = ["[[window]]", *(f"{name} = {json.dumps(value)}" for name, value in entries.items())]
    if window.devices:
        named = (reference.split(":", 1) for reference in window.devices)
        lines.append(f"devices = [{', '.join(f'{{ {kind} = {json.dumps(value)} }}' for kind, value in named)}]")
    return "\n".join(lines) + "\n"
