"""The commands `turnaround demo` and `turnaround up`: Turnaround on one machine, without Azure."""

import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import psutil
import typer
from rich.console import Console

if TYPE_CHECKING:
    from sandbox.stack import Stack

ROOT = Path(__file__).resolve().parent.parent
MAIN = ROOT / "examples" / "scenarios" / "main.toml"
FILES = ROOT / ".sandbox"
API_PORT = 7071
"""The port that Azure Functions Core Tools use."""
BAD_INPUT = 2
INTERRUPTED = 130
RUNNING = "running.json"
"""The file in a folder that says that it is ours, and which process uses or used it last."""

app = typer.Typer()

ScenarioFile = Annotated[Path, typer.Option("--scenario", help="The scenario file.")]
Speed = Annotated[
    float | None, typer.Option(help="How many times faster than life, instead of the scenario's own speed.", min=0.01)
]
Har = Annotated[Path | None, typer.Option(help="Record all Graph traffic here, as HAR 1.2.")]
Folder = Annotated[Path, typer.Option(help="Where logs, notices and histories are kept.")]


class InputError(Exception):
    """What was given cannot be used. The message is for people."""


@app.command()
def demo(
    scenario: ScenarioFile = MAIN,
    speed: Speed = None,
    result: Annotated[Path | None, typer.Option("--json", help="Write the result here, device by device.")] = None,
    har: Har = None,
    folder: Folder = FILES / "demo",
) -> None:
    """Run a scenario from its request messages to the end of each device, and say whether all ended as it must."""
    import asyncio

    from sandbox import report, stack
    from sandbox.demo import Run
    from sandbox.scenario import Scenario
    from sandbox.show import Screen
    from sandbox.verdict import judge

    console = Console()
    with _told_to_people(console):
        stack.ends_like_ctrl_c()
        plan = Scenario.load(scenario, speed=speed)
        with _alone(folder):
            _empty(folder)
            recording = har or (folder / "graph.har" if result is not None else None)
            with Screen(console, plan) as screen:
                screen.say("Starting storage, the simulated tenant and the Functions host ...")
                with stack.run(plan, folder, har=recording) as running:
                    run = Run(plan, running, folder / "notices.jsonl")
                    seen, graph = asyncio.run(run.watch(screen))
            verdict = judge(seen)
            storage = report.storage_calls(folder / "storage-calls.log", run.own_calls, run.outcome_queues())
            figures = report.measure(seen, verdict, graph, recording, storage)
            report.write_histories(folder / "history", seen, verdict)
            report.summary(console, verdict, figures, _short(folder))
            if result is not None:
                result.write_text(json.dumps(report.result(seen, verdict, figures), indent=2) + "\n", "utf-8")
    if verdict.all_faults:
        raise typer.Exit(1)


@app.command()
def up(
    graph: Annotated[
        str | None, typer.Option(help="Another Graph endpoint on loopback, instead of the simulated tenant.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="A file shaped like local.settings.json, whose Values come first.")
    ] = None,
    scenario: ScenarioFile = MAIN,
    speed: Speed = None,
    port: Annotated[int, typer.Option(help="The API's port; a free one where it is taken.", min=0, max=65535)] = (
        API_PORT
    ),
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what the storage of an earlier run holds.")] = False,
    har: Har = None,
    folder: Folder = FILES / "up",
) -> None:
    """Run storage, the simulated tenant and the Functions host until Ctrl-C, and say where they are."""
    from sandbox import stack
    from sandbox.scenario import Scenario

    console = Console()
    with _told_to_people(console):
        stack.ends_like_ctrl_c()
        plan = Scenario.load(scenario, speed=speed)
        if graph is not None:
            graph = _loopback(graph)
        overrides, left_out = read_settings(settings) if settings is not None else ({}, [])
        if left_out:
            _print(console, f"{settings}: {', '.join(left_out)} left out: the sandbox never leaves this machine.")
        if taken(port):
            _print(console, f"Port {port} is taken; the API gets a free one.")
            port = 0
        with _alone(folder):
            _empty(folder, but=None if fresh else "azurite")
            _print(console, "Starting storage, the simulated tenant and the Functions host ...")
            with stack.run(plan, folder, keep=True, har=har, graph=graph, port=port, overrides=overrides) as running:
                _say_where(console, running, folder)
                while True:
                    running.check()
                    time.sleep(0.5)


def _say_where(console: Console, running: "Stack", folder: Path) -> None:
    curl = f"curl -H 'x-functions-key: {running.function_key}' -H 'content-type: application/json'"
    lines = [
        "Turnaround is up. Ctrl-C ends it.",
        f"  API                {running.api}/api/v1/requests",
        f"  Function key       {running.function_key}   (header x-functions-key)",
        f"  Graph              {running.graph}",
        f"  Queues             {running.storage.queue_url}",
        f"  Table              {running.storage.table_url}",
        f"  Connection string  {running.connection}",
        f"  Tenant             {running.tenant_id}",
        f"  Logs               {_short(folder)}/",
        "Send a request by the API:",
        f"  {curl} -d @examples/requests/classroom.json {running.api}/api/v1/requests",
        "or on the queue reset-requests, and see how it stands:",
        f"  export TURNAROUND_STORAGE='{running.connection}'",
        f"  export TURNAROUND_TENANT_ID={running.tenant_id} TURNAROUND_TABLE={running.table}",
        "  turnaround request examples/requests/classroom.json",
        "  turnaround status CHG0004711",
    ]
    _print(console, "\n".join(lines))


def _loopback(address: str) -> str:
    """The address of a Graph on this machine; raises InputError for any other."""
    from shared.graph.endpoint import EndpointError, GraphEndpoint

    try:
        endpoint = GraphEndpoint.parse(address)
    except EndpointError as error:
        raise InputError(f"--graph: {error}") from None
    if not endpoint.loopback:
        raise InputError(
            f"--graph: {address} is not on this machine; the sandbox speaks to http://127.0.0.1:PORT only."
        )
    return endpoint.origin


def read_settings(file: Path) -> tuple[dict[str, str], list[str]]:
    """The Values of a settings file, and the names of those left out since they lead out of the sandbox.

    What says UseDevelopmentStorage means the sandbox's own storage. Raises InputError.
    """
    try:
        values = json.loads(file.read_text("utf-8-sig"))["Values"]
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f'{file} is not shaped like local.settings.json: {{"Values": {{...}}}}') from None
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise InputError(f"{file}: Values must be an object of names and strings")
    away = ("TURNAROUND_GRAPH__CLOUD", "TURNAROUND_GRAPH__CLIENT_ID", "TURNAROUND_STORAGE", "AZUREWEBJOBSSTORAGE")
    own = {name: value for name, value in values.items() if not value.lower().startswith("usedevelopmentstorage=true")}
    left_out = [name for name in own if name.upper().startswith(away)]
    return {name: value for name, value in own.items() if name not in left_out}, left_out


def taken(port: int) -> bool:
    """Whether a loopback port is in use."""
    with socket.socket() as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _empty(folder: Path, but: str | None = None) -> None:
    """Remove what an earlier run left in the folder."""
    for path in folder.iterdir():
        if path.name == but or path.name == RUNNING:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder of one that is under way; raises InputError."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / RUNNING
    me = psutil.Process()
    with contextlib.suppress(OSError, ValueError, KeyError, psutil.Error):
        other = json.loads(mark.read_text("utf-8"))
        if psutil.Process(other["pid"]).create_time() == other["since"]:
            raise InputError(f"{_short(folder)} is in use by the process {other['pid']}; give another --folder.")
    if any(folder.iterdir()) and not mark.exists() and not folder.resolve().is_relative_to(FILES):
        raise InputError(f"{folder} holds something else; give an empty folder, since it is emptied at the start.")
    mark.write_text(json.dumps({"pid": me.pid, "since": me.create_time()}), "utf-8")
    yield


def _short(folder: Path) -> Path:
    with contextlib.suppress(ValueError):
        return folder.resolve().relative_to(Path.cwd())
    return folder


def _print(console: Console, words: str) -> None:
    console.print(words, highlight=False, markup=False, soft_wrap=True)


@contextlib.contextmanager
def _told_to_people(console: Console) -> Iterator[None]:
    """Faults as sentences: 2 for what was given, 1 for a part of the sandbox that ended, 130 for Ctrl-C."""
    from sandbox.processes import ChildError
    from sandbox.scenario import ScenarioError

    try:
        yield
    except (InputError, ScenarioError) as error:
        _print(console, str(error))
        raise typer.Exit(BAD_INPUT) from None
    except (ChildError, OSError) as error:
        _print(console, str(error))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        _print(console, "Interrupted. Nothing is left running.")
        raise typer.Exit(INTERRUPTED) from None
