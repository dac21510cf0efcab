"""The `turnaround` command: ask for resets, see how they stand, intervene."""

import asyncio
import contextlib
import json
import os
import sys
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from shared import wiring
from shared.domain.ids import RequestId
from shared.domain.lifecycle import Command
from shared.domain.policy import Policy
from shared.domain.request import RefusedMessage, ResetRequest, messages, parse
from shared.domain.reset import Event
from shared.graph.export import Export, ExportError
from shared.messages.queues import CONTROL, MAX_BODY, REQUESTS
from shared.pipeline import plan as planning
from shared.pipeline import status as state_of
from shared.pipeline.control import DeviceCommand, HaltCommand
from shared.pipeline.plan import Plan, PlannedDevice
from shared.pipeline.ports import GraphError
from shared.pipeline.status import RequestStatus
from shared.settings import STORAGE, SettingsError

if TYPE_CHECKING:
    from shared.state.store import Store

BAD_INPUT = 2
NOT_ALL = 3
"""Some devices of a plan would not be reset."""
WIDE = 130
"""Columns from which a plan's table has room for the Intune ids."""
MAX_FILE = 2 * 1024 * 1024
"""Bytes of a request file, as of a posted request; more than 5,000 devices ever need."""
PATIENCE = 30.0
"""Seconds that storage may take to answer."""

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Return Windows devices to service by remote Autopilot Reset: ask, see how it stands, intervene."""


for _plugin in entry_points(group="turnaround.commands"):
    # Commands from beside the deployed app, such as the sandbox's: they are there where their package is.
    with contextlib.suppress(ModuleNotFoundError):
        app.add_typer(_plugin.load())

Connection = Annotated[
    str | None, typer.Option("--connection", envvar=STORAGE, show_envvar=True, help="Storage connection string.")
]
Tenant = Annotated[
    str | None, typer.Option("--tenant", envvar="TURNAROUND_TENANT_ID", help="The Entra tenant, as the app names it.")
]
TableName = Annotated[str | None, typer.Option("--table", envvar="TURNAROUND_TABLE", help="The state table.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
By = Annotated[str, typer.Option("--by", help="Who gives the command.")]
Why = Annotated[str, typer.Option("--why", help="Why; it goes into the history.")]
Named = Annotated[str, typer.Argument(metavar="REQUEST_ID", help="The request.")]
Device = Annotated[str | None, typer.Option("--device", help="Only this device of it, by Intune id.")]


class InputError(Exception):
    """What was given cannot be used. The message is for people."""


class NothingKnownError(Exception):
    """There is nothing to show. The message is for people."""


# --- asking -------------------------------------------------------------------------------------------------------


@app.command()
def request(
    file: Annotated[Path, typer.Argument(help="A reset request as JSON; - reads it from the input.", allow_dash=True)],
    check: Annotated[bool, typer.Option("--check", help="Only check it; nothing is sent.")] = False,
    connection: Connection = None,
    as_json: AsJson = False,
) -> None:
    """Ask for devices to be reset: check a request file and put it on the queue."""
    with _told_to_people():
        asked = _read_request(file)
        texts = messages(asked, MAX_BODY)
        if not check:
            _use_queues(connection)
            asyncio.run(_patiently(_send(REQUESTS, texts)))
        devices = len(asked.references())
        if as_json:
            print(json.dumps({"requestId": asked.id, "devices": devices, "messages": len(texts), "sent": not check}))
            return
        what = f"request {asked.id}: {_count(devices, 'device')} in {_count(len(texts), 'message')}"
        if check:
            _print(f"{file} is valid. {what}; nothing was sent.")
        else:
            _print(f"Sent {what}. See how it stands: turnaround status {asked.id}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a reset request."""
    print(json.dumps(ResetRequest.model_json_schema(by_alias=True), indent=2))


@app.command()
def plan(
    file: Annotated[Path, typer.Argument(help="A reset request as JSON; - reads it from the input.", allow_dash=True)],
    offline: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Judge by Graph's three lists saved in this folder; nothing else is read."),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="TOML", help="With --offline: the policy, else the defaults hold.")
    ] = None,
    connection: Connection = None,
    tenant: Tenant = None,
    table: TableName = None,
    as_json: AsJson = False,
) -> None:
    """Show what would become of a request, device by device. Nothing is changed and nothing sent.

    Ends with 0 when every device would be reset, now or at a known time, and with 3 when some would not.
    """
    with _told_to_people():
        asked = _read_request(file)
        if asked.part is not None and asked.part.of > 1:
            raise InputError(f"{file} is part of a request. A plan needs all devices in one file, without `part`.")
        if offline is not None:
            found = _plan_offline(asked, offline, _read_policy(policy))
        elif policy is not None:
            raise InputError("--policy goes with --offline. Without it the app's own policy holds, from its settings.")
        else:
            _use(connection, tenant, table)
            found = asyncio.run(_plan_online(asked))
        if as_json:
            print(TypeAdapter(Plan).dump_json(found, indent=2).decode())
        else:
            _show_plan(found)
        if not found.all_reset:
            raise typer.Exit(NOT_ALL)


def _plan_offline(asked: ResetRequest, folder: Path, policy: Policy) -> Plan:
    now = datetime.now(UTC)
    export = Export(folder)
    findings = export.find(asked.references(), now)
    return planning.plan(asked, findings, planning.Situation(), policy, now, offline=True, notes=export.left_out)


async def _plan_online(asked: ResetRequest) -> Plan:
    now = datetime.now(UTC)
    met = await _patiently(_reading(lambda store: planning.situation(store, asked, messages(asked, MAX_BODY), now)))
    if met.known is not None:
        return planning.plan(asked, {}, met, wiring.settings().policy, now)
    async with wiring.reading_graph() as graph:
        findings = await graph.find(asked.references())
    return planning.plan(asked, findings, met, wiring.settings().policy, now)


def _show_plan(found: Plan) -> None:
    totals = found.totals
    _print(f"Plan of request {found.request_id}, made {_minute(found.made_at)} UTC. Nothing was changed or sent.")
    if found.refused is not None:
        _print(f"The request would be refused: {found.refused.sentence}\nWhat to do: {found.refused.remedy}")
        return
    if found.taken_at is not None:
        _print(f"This request was taken in at {_minute(found.taken_at)} UTC; sent again, it changes nothing.")
        _print(f"See how it stands: turnaround status {found.request_id}")
        return
    counts = [(totals.reset, "reset"), (totals.wait, "wait"), (totals.refused, "refused")]
    counts += [(totals.attention, "attention")] if totals.attention else []
    _print(", ".join(f"{count} {what}" for count, what in counts))
    if found.halt is not None:
        _print(f"Turnaround is halted by {_shown(found.halt.by)}: {_shown(found.halt.why)}")
    # A table that goes to a file or a pipe is as wide as it needs to be.
    console = _console() if _console().is_terminal else Console(width=1000)
    rows = Table(box=None, pad_edge=False)
    rows.add_column("device", no_wrap=True)
    for title, width in (("verdict", 9), ("order (UTC)", 16), ("ready at earliest", 17), ("likely", 16)):
        rows.add_column(title, no_wrap=True, min_width=width)
    if with_ids := console.width >= WIDE:
        rows.add_column("Intune id", no_wrap=True, min_width=36)
    for device in found.devices:
        times = [_minute(at) for at in (device.order_at, device.ready_earliest, device.ready_likely)]
        times[-1] += " (late)" if device.late and device.ready_likely else ""
        ids = [device.intune_id or ""] if with_ids else []
        rows.add_row(_planned_name(device), device.verdict, *times, *ids)
    console.print(rows, highlight=False, markup=False)
    for device in found.devices:
        if device.why is not None:
            _print(f"{_planned_name(device)}: {_shown(device.why.sentence)}\n    What to do: {device.why.remedy}")
    for day, count in totals.orders_by_day.items():
        _print(f"{day}: {_count(count, 'order')}")
    if totals.all_ready_likely is not None:
        _print(
            f"Last order {_minute(totals.last_order_at)}; all of these likely ready {_minute(totals.all_ready_likely)}."
        )
    for words in (found.estimate, *found.notes):
        _print(words)


def _planned_name(device: PlannedDevice) -> str:
    return _shown(device.name or device.serial_number or device.reference)


def _minute(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M}" if at else ""


def _shown(words: str) -> str:
    """Words from outside without what a terminal would obey: control characters and marks of direction, escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in words)


# --- looking ------------------------------------------------------------------------------------------------------


@app.command()
def status(
    request_id: Named,
    connection: Connection = None,
    tenant: Tenant = None,
    table: TableName = None,
    as_json: AsJson = False,
) -> None:
    """Show how a request and each of its devices stand."""
    with _told_to_people():
        _use(connection, tenant, table)
        found = asyncio.run(_patiently(_reading(lambda store: state_of.request_status(store, RequestId(request_id)))))
        if found is None:
            raise NothingKnownError(
                f"Nothing is known of a request {request_id}. If it was sent a moment ago, its message may still be on "
                "the queue."
            )
        if as_json:
            print(TypeAdapter(RequestStatus).dump_json(found, indent=2).decode())
        else:
            _show_status(found)


@app.command()
def history(
    about: Annotated[str, typer.Argument(metavar="DEVICE_OR_REQUEST", help="An Intune id, or request:ID.")],
    connection: Connection = None,
    tenant: Tenant = None,
    table: TableName = None,
    as_json: AsJson = False,
) -> None:
    """Show all that happened to a device (its Intune id) or to a request as a whole (request:ID)."""
    with _told_to_people():
        _use(connection, tenant, table)
        key = about if about.startswith("request:") else about.lower()
        events = asyncio.run(_patiently(_reading(lambda store: state_of.history(store, key))))
        if not events:
            raise NothingKnownError(
                f"There is no history of {about}. Give a device's Intune id, or request: and a request's id."
            )
        if as_json:
            print(TypeAdapter(list[Event]).dump_json(events, indent=2).decode())
        else:
            _show_history(about, events)


def _show_status(found: RequestStatus) -> None:
    counts = ", ".join(f"{count} {state}" for state, count in sorted(found.counts.items()))
    ended = "ended" if found.ended else "under way"
    _print(f"Request {found.id}: {found.state}, {ended}, received {found.received_at:%Y-%m-%d %H:%M:%S} UTC")
    if found.reason is not None:
        _print(f"{found.reason.sentence}\nWhat to do: {found.reason.remedy}")
    if not found.devices:
        return
    _print(counts)
    devices = sorted(found.devices, key=lambda device: (device.state, device.name or device.reference))
    rows = Table(box=None, pad_edge=False)
    for title in ("device", "state", "since (UTC)", "Intune id"):
        rows.add_column(title, no_wrap=True)
    for device in devices:
        name = device.name or device.reference
        rows.add_row(name, device.state, f"{device.since:%Y-%m-%d %H:%M:%S}", device.intune_id or "")
    _console().print(rows, highlight=False, markup=False)
    for device in devices:
        if device.reason is not None:
            name = device.name or device.reference
            _print(f"{name}: {device.reason.sentence}\n    What to do: {device.reason.remedy}")


def _show_history(about: str, events: list[Event]) -> None:
    _print(f"History of {about}")
    for event in events:
        moved = f": {event.from_state} > {event.to_state}" if event.from_state != event.to_state else ""
        _print(f"{event.at:%Y-%m-%d %H:%M:%S} UTC  {event.kind.replace('_', ' ')}{moved}  by {event.who}")
        if event.reason is not None:
            _print(f"    {event.reason.code}: {event.reason.sentence} {event.reason.remedy}")
        for name, value in event.evidence.items():
            _print(f"    {name}: {value}")


# --- intervening --------------------------------------------------------------------------------------------------


@app.command()
def halt(by: By, why: Why, connection: Connection = None) -> None:
    """Stop sending resets, everywhere, until somebody resumes. What Intune has already taken goes on."""
    _command(lambda: HaltCommand(command="halt", by=by, why=why), connection)


@app.command()
def resume(by: By, why: Why, connection: Connection = None) -> None:
    """Go on after a halt."""
    _command(lambda: HaltCommand(command="resume", by=by, why=why), connection)


@app.command()
def cancel(request_id: Named, by: By, why: Why, device: Device = None, connection: Connection = None) -> None:
    """Withdraw a request, or one device of it, as far as its resets were not sent."""
    _command(lambda: _for_device(Command.CANCEL, request_id, device, by, why), connection)


@app.command()
def retry(request_id: Named, by: By, why: Why, device: Device = None, connection: Connection = None) -> None:
    """Try again with the devices of a request, or one of them, that wait for a person."""
    _command(lambda: _for_device(Command.RETRY, request_id, device, by, why), connection)


def _for_device(command: Command, request_id: str, device: str | None, by: str, why: str) -> DeviceCommand:
    intune_id = device.lower() if device else None
    return DeviceCommand.model_validate(
        {"command": command.value, "requestId": request_id, "intuneId": intune_id, "by": by, "why": why}
    )


def _command(make: Callable[[], DeviceCommand | HaltCommand], connection: str | None) -> None:
    with _told_to_people():
        message = make()
        _use_queues(connection)
        asyncio.run(_patiently(_send(CONTROL, [message.model_dump_json(exclude_none=True)])))
        _print(f"The command {message.command} is on its way. What came of it stands in the history.")


# --- the ways out -------------------------------------------------------------------------------------------------


def _read_request(file: Path) -> ResetRequest:
    try:
        body = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        text = body.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8: {error.reason} at byte {error.start}.") from error
    parsed = parse(text, MAX_FILE)
    if isinstance(parsed, RefusedMessage):
        faults = "\n".join(f"  {problem}" for problem in parsed.problems)
        raise InputError(f"{file} is not a valid reset request ({parsed.code}):\n{faults}")
    return parsed


def _read_policy(file: Path | None) -> Policy:
    if file is None:
        return Policy()
    try:
        return Policy.model_validate(tomllib.loads(file.read_text("utf-8-sig")))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{file} is not TOML: {error}.") from error
    except ValidationError as error:
        faults = "\n".join(f"  {'.'.join(map(str, one['loc'])) or 'policy'}: {one['msg']}" for one in error.errors())
        raise InputError(f"{file} is not a valid policy:\n{faults}") from error


def _use(connection: str | None, tenant: str | None = None, table: str | None = None) -> None:
    """Let the options stand for the settings of the same names. Raises SettingsError."""
    given = {STORAGE: connection, "TURNAROUND_TENANT_ID": tenant, "TURNAROUND_TABLE": table}
    os.environ.update({name: value for name, value in given.items() if value})
    wiring.settings()


def _use_queues(connection: str | None) -> None:
    """The same for a command that only sends, which needs no tenant: all queues of the account are one tenant's."""
    os.environ.setdefault("TURNAROUND_TENANT_ID", "any")
    _use(connection)


async def _send(queue: str, texts: list[str]) -> None:
    queues = wiring.queues()
    try:
        for text in texts:
            await queues.send(queue, text)
    finally:
        await queues.close()


async def _reading[T](read: "Callable[[Store], Awaitable[T]]") -> T:
    async with _store() as store:
        return await read(store)


@contextlib.asynccontextmanager
async def _store() -> "AsyncIterator[Store]":
    from shared.state.table import AzureTable

    store = wiring.store()
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(store.table, AzureTable):
            await stack.enter_async_context(store.table)
        yield store


async def _patiently[T](work: Awaitable[T]) -> T:
    async with asyncio.timeout(PATIENCE):
        return await work


@contextlib.contextmanager
def _told_to_people() -> Iterator[None]:
    """Faults as sentences: exit code 2 for what was given, 1 for what the world did, 130 for Ctrl-C."""
    from azure.core.exceptions import AzureError

    try:
        yield
    except SettingsError as error:
        words = str(error).removeprefix("Turnaround cannot start. ")
        _end(f"{words}. Set them in the environment, or give --connection and --tenant.", BAD_INPUT)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        _end("; ".join(faults), BAD_INPUT)
    except (InputError, ExportError, ValueError) as error:
        _end(str(error), BAD_INPUT)
    except GraphError as error:
        _end(f"Graph did not tell what is needed, so nothing can be said: {error}", 1)
    except NothingKnownError as error:
        _end(str(error), 1)
    except TimeoutError:
        _end(f"The storage did not answer within {PATIENCE:g} seconds. Check the connection string and the network.", 1)
    except AzureError as error:
        _end(f"The storage refused: {error.message.splitlines()[0] if error.message else error}", 1)
    except KeyboardInterrupt:
        _end("Interrupted.", 130)


def _end(words: str, code: int) -> NoReturn:
    Console(stderr=True, soft_wrap=True).print(words, highlight=False, markup=False)
    raise typer.Exit(code)


def _console() -> Console:
    return Console()


def _print(words: str) -> None:
    _console().print(words, highlight=False, markup=False, soft_wrap=True)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    app()
