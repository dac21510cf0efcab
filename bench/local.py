"""What the benchmarks share that run the app in the local Functions host, over Azurite and a simulated tenant."""

import asyncio
import base64
import contextlib
import json
import re
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from azure.storage.queue.aio import QueueServiceClient

from bench.measure import ROOT
from sandbox import stack
from sandbox.scenario import Scenario
from sandbox.stack import Stack
from sandbox.tenant.devices import Json
from shared.domain.notices import NoticeType
from shared.domain.reset import Event
from shared.messages.queues import REQUESTS, RESULTS
from shared.state import rows
from shared.state.store import END
from shared.state.table import AzureTable

COLLECT_EVERY = 0.05
"""Seconds between two looks at the outcome queue."""
_INVOKED = re.compile(
    r"^(\S+ \S+) (?:INFO|ERROR) sandbox\.host: (\w+) [0-9a-f-]{36} (\d+) ms (succeeded|failed)", re.MULTILINE
)
FIGURES = "figures.json"
_QUEUES = "AzureFunctionsJobHost__extensions__queues__"


@dataclass(frozen=True, slots=True)
class Invocation:
    """A function that the host ran."""

    name: str
    began: datetime
    ended: datetime
    succeeded: bool


def progress(text: str) -> None:
    """Say on stderr how far it is."""
    print(f"  {text}", file=sys.stderr, flush=True)


def polling() -> timedelta:
    """How long the host waits at most, by host.json, before it looks at an empty queue again."""
    hours, minutes, seconds = _host_json()["maxPollingInterval"].split(":")
    return timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds))


def production() -> dict[str, str]:
    """The app's own queue settings (host.json) and schedules (the sample's settings), which the sandbox speeds up."""
    sample: dict[str, str] = json.loads((ROOT / "local.settings.sample.json").read_text("utf-8"))["Values"]
    queues = {f"{_QUEUES}{name}": _host_json()[name] for name in ("maxPollingInterval", "visibilityTimeout")}
    return queues | {name: value for name, value in sample.items() if name.startswith("TURNAROUND_SCHEDULE_")}


def _host_json() -> dict[str, str]:
    settings: dict[str, str] = json.loads((ROOT / "host.json").read_text("utf-8"))["extensions"]["queues"]
    return settings


@contextlib.contextmanager
def running(scenario: str, overrides: Mapping[str, str], span: float = 0) -> Iterator[tuple[Stack, Path]]:
    """Run the sandbox for a scenario (TOML), with these settings of the app and this SPAN (see `bench.watched`); gives
    it and the folder of its files.

    Raises ChildError when a part of it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        file = folder / "scenario.toml"
        file.write_text(scenario, "utf-8")
        host = host_in(folder, span)
        with stack.run(Scenario.load(file), folder, overrides=overrides, host_module=host) as started:
            yield started, folder


def host_in(folder: Path, span: float = 0) -> tuple[str, ...]:
    """The module of a host that is watched, with its own arguments."""
    return "bench.watched", str(folder / FIGURES), str(span)


def figures(folder: Path) -> dict[str, int]:
    """What the host last said of itself."""
    counted: dict[str, int] = json.loads((folder / FIGURES).read_text("utf-8"))
    return counted


def table(name: str, values: Mapping[str, object]) -> str:
    """A table of a scenario, in TOML."""
    # A number, a string or a list of them is written in JSON as in TOML.
    return "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]) + "\n"


def request(request_id: str, serials: Sequence[str]) -> str:
    """A request for these devices, as a ticket system sends it."""
    named = [{"serialNumber": serial} for serial in serials]
    return json.dumps({"requestId": request_id, "requester": "bench", "reason": "measured", "devices": named})


@dataclass
class Sender:
    """Puts requests on the queue and takes the notices off theirs, each with its time on this machine's clock."""

    queues: QueueServiceClient
    sent: dict[str, datetime] = field(default_factory=dict)
    """When each request was about to be put there, by its id."""
    told: dict[tuple[str, str], datetime] = field(default_factory=dict)
    """When the first notice of this type came, by type and request; several devices of a request are not told apart."""
    count: dict[str, int] = field(default_factory=dict)
    """How many different notices of each type came."""
    _known: set[str] = field(default_factory=set)

    async def send(self, request_id: str, serials: Sequence[str]) -> None:
        async with self.queues.get_queue_client(REQUESTS) as queue:
            self.sent[request_id] = datetime.now(UTC)
            await queue.send_message(request(request_id, serials))

    async def collect(self) -> None:
        """Until it is cancelled."""
        async with self.queues.get_queue_client(RESULTS) as queue:
            while True:
                async for message in queue.receive_messages(messages_per_page=32):
                    told = json.loads(base64.b64decode(message.content))
                    kind = str(told["type"]).removeprefix("io.turnaround.")
                    if told["id"] not in self._known:
                        self._known.add(told["id"])
                        self.told.setdefault((kind, str(told["data"]["requestId"])), datetime.now(UTC))
                        self.count[kind] = self.count.get(kind, 0) + 1
                    await queue.delete_message(message)
                await asyncio.sleep(COLLECT_EVERY)

    def ready(self, request_id: str) -> datetime | None:
        """When it was told that the request's one device is ready."""
        return self.told.get((NoticeType.DEVICE_READY, request_id))


@contextlib.asynccontextmanager
async def sender(started: Stack) -> AsyncIterator[Sender]:
    """A sender that collects what is told for as long as the block lasts."""
    async with QueueServiceClient.from_connection_string(started.connection) as queues:
        one = Sender(queues)
        collecting = asyncio.create_task(one.collect())
        try:
            yield one
        finally:
            collecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await collecting


async def until(holds: Callable[[], bool], started: Stack, patience: timedelta, what: str) -> None:
    """Come back when it holds. Raises TimeoutError that says what did not come, ChildError when a child ended."""
    give_up = datetime.now(UTC) + patience
    while not holds():
        started.check()
        if datetime.now(UTC) > give_up:
            raise TimeoutError(f"in {patience} did not come: {what}")
        await asyncio.sleep(0.2)


async def history(started: Stack) -> list[Event]:
    """All events in the state table, oldest first."""
    async with AzureTable.open(started.table, started.tenant_id, connection=started.connection) as found:
        events = [rows.read(Event, row) async for row in found.scan("event|", "event|" + END)]
    return sorted(events, key=lambda event: (event.at, event.seq))


def truth(started: Stack) -> list[Json]:
    """What is really so of each device of the tenant."""
    answer = httpx.get(f"{started.graph}/sandbox/devices", timeout=60, trust_env=False).raise_for_status().json()
    devices: list[Json] = answer["devices"]
    return devices


def invocations(folder: Path) -> list[Invocation]:
    """What the host ran, by its log, in order of their ends; times to the millisecond."""
    found: list[Invocation] = []
    for at, name, took, how in _INVOKED.findall((folder / "host.log").read_text("utf-8", errors="replace")):
        ended = datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f").astimezone(UTC)
        found.append(Invocation(name, ended - timedelta(milliseconds=int(took)), ended, how == "succeeded"))
    return found


def percentile(values: Sequence[float], percent: int) -> float:
    """Between the values where none is exactly there, to three digits that count."""
    return float(f"{statistics.quantiles(values, n=100, method='inclusive')[percent - 1]:.3g}")
