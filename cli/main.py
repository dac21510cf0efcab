"""The `turnaround` command: ask for resets, see how they stand, intervene."""

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import entry_points
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from shared import wiring
from shared.domain import record as records
from shared.domain import story
from shared.domain.commands import ApprovalCommand, DeviceCommand, HaltCommand
from shared.domain.guardrails import Terms
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.lifecycle import Command
from shared.domain.page import page
from shared.domain.policy import Policy
from shared.domain.policy_words import explain, risks
from shared.domain.record import ResetRecord
from shared.domain.request import RefusedMessage, ResetRequest, is_request_id, messages, parse
from shared.domain.reset import Event
from shared.domain.shown import shown
from shared.domain.story import Turnaround
from shared.graph.export import Export, ExportError
from shared.messages.queues import CONTROL, MAX_BODY, REQUESTS
from shared.pipeline import plan as planning
from shared.pipeline import status as state_of
from shared.pipeline.facts import find
from shared.pipeline.plan import Plan, PlannedDevice
from shared.pipeline.ports import GraphError
from shared.pipeline.status import RequestStatus
from shared.settings import POLICY, STORAGE, Origin, ReadPolicy, SettingsError, load_policy

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
Digest = Annotated[str | None, typer.Option("--digest", help="The digest, from its plan, status or notice.")]
PlanFile = Annotated[
    Path | None, typer.Option("--plan", help="Or the plan itself, as `turnaround plan --json` gave it.")
]
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


class Schema(StrEnum):
    """What has a published JSON Schema."""

    REQUEST = "reset-request"
    RECORD = "reset-record"


@app.command()
def schema(of: Annotated[Schema, typer.Argument(help="What to print the schema of.")] = Schema.REQUEST) -> None:
    """Print the JSON Schema of a reset request, or of a reset record."""
    found = ResetRequest.model_json_schema(by_alias=True) if of is Schema.REQUEST else records.schema()
    print(json.dumps(found, indent=2))


@app.command()
def plan(
    file: Annotated[Path, typer.Argument(help="A reset request as JSON; - reads it from the input.", allow_dash=True)],
    offline: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Judge by Graph's three lists saved in this folder; nothing else is read."),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="TOML", help=f"With --offline: the policy's file, in place of {POLICY}_FILE."),
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
            found = _plan_offline(asked, offline, load_policy(policy).policy)
        elif policy is not None:
            raise InputError("--policy goes with --offline. Without it the app's own policy holds, from its settings.")
        else:
            _use(connection, tenant, table)
            found = asyncio.run(_plan_online(asked))
        if as_json:
            print(_json(Plan, found))
        else:
            _show_plan(found)
        if not found.all_reset:
            raise typer.Exit(NOT_ALL)


def _plan_offline(asked: ResetRequest, folder: Path, policy: Policy) -> Plan:
    now = datetime.now(UTC)
    export = Export(folder)
    findings = export.find(asked.references(), min(now, export.taken_at or now))
    return planning.plan(asked, findings, planning.Situation(), policy, now, offline=True, notes=export.left_out)


async def _plan_online(asked: ResetRequest) -> Plan:
    now, policy, texts = datetime.now(UTC), wiring.settings().policy, messages(asked, MAX_BODY)
    met = await _patiently(_reading(lambda store: planning.situation(store, asked, texts, now, policy)))
    if met.known is not None:
        return planning.plan(asked, {}, met, policy, now)
    async with wiring.reading_graph() as graph:
        findings = await find(graph, asked.references(), policy)
    return planning.plan(asked, findings, met, policy, now)


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
        _print(f"Turnaround is halted by {shown(found.halt.by)}: {shown(found.halt.why)}")
    console = _console()
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
    console.print(rows)
    for device in found.devices:
        if device.why is not None:
            _print(f"{_planned_name(device)}: {shown(device.why.sentence)}\n    What to do: {device.why.remedy}")
    if found.waves:
        _print(f"It goes out in {len(found.waves)} waves of {', '.join(map(str, found.waves))} devices.")
    if found.needs_approval:
        _print(f"A second person must approve it: {found.needs_approval}")
        _print(
            f"What they approve, this plan and no other: turnaround approve {found.request_id} --digest {found.digest}"
        )
    for day, count in totals.orders_by_day.items():
        _print(f"{day}: {_count(count, 'order')}")
    if totals.all_ready_likely is not None:
        _print(
            f"Last order {_minute(totals.last_order_at)}; all of these likely ready {_minute(totals.all_ready_likely)}."
        )
    for words in (found.estimate, *found.notes):
        _print(words)


def _planned_name(device: PlannedDevice) -> str:
    return shown(device.name or device.serial_number or device.reference)


def _minute(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M}" if at else ""


# --- the policy ---------------------------------------------------------------------------------------------------

policies = typer.Typer(no_args_is_help=True, help="The policy: what this organisation decided for itself.")
app.add_typer(policies, name="policy")


@policies.command("check")
def check_policy(
    file: Annotated[Path | None, typer.Argument(help=f"The policy as TOML, in place of {POLICY}_FILE.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check the policy and say in words what it means: the file, app settings over it, defaults below it.

    Ends with 0 when it is valid, whatever deserves a second look, and with 2 when it is not.
    """
    with _told_to_people():
        try:
            read = load_policy(file)
        except SettingsError as error:
            if as_json:
                print(json.dumps({"valid": False, "faults": error.faults}, indent=2))
            else:
                _end("The policy is not valid:\n" + "\n".join(f"  {shown(fault)}" for fault in error.faults), BAD_INPUT)
            raise typer.Exit(BAD_INPUT) from None
        if as_json:
            print(json.dumps(_policy_as_json(read), indent=2))
        else:
            _show_policy(read)


def _policy_as_json(read: ReadPolicy) -> dict[str, object]:
    values = read.policy.model_dump(mode="json")
    for name, value in read.policy:
        if isinstance(value, frozenset):
            values[name] = sorted(value)
    fields = [
        {"name": one.name, "topic": one.topic, "value": values[one.name], "from": read.origins[one.name]}
        | {"means": one.sentence}
        for one in explain(read.policy)
    ]
    second_look = [{"name": risk.name, "why": risk.sentence} for risk in risks(read.policy)]
    file = str(read.file) if read.file else None
    return {"valid": True, "file": file, "fields": fields, "secondLook": second_look}


def _show_policy(read: ReadPolicy) -> None:
    own = sum(origin is not Origin.DEFAULT for origin in read.origins.values())
    _print(f"The policy is valid. Its file: {shown(str(read.file)) if read.file else 'none'}.")
    _print(f"{_count(own, 'field')} of {len(read.origins)} set by it or by app settings; these have a star.")
    for topic, fields in groupby(explain(read.policy), key=lambda one: one.topic):
        _print(f"\n{topic}")
        for one in fields:
            star = " " if read.origins[one.name] is Origin.DEFAULT else "*"
            _print(f"{star} {shown(one.sentence)}  [{one.name}, {_origin(read, one.name)}]")
    if found := list(risks(read.policy)):
        _print("\nWorth a second look")
    for risk in found:
        _print(f"! {risk.name}: {risk.sentence}  [{_origin(read, risk.name)}]")


def _origin(read: ReadPolicy, name: str) -> str:
    match read.origins[name]:
        case Origin.SETTING:
            return f"{POLICY}__{name}".upper()
        case Origin.FILE if read.file:
            return read.file.name
        case origin:
            return origin


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
        request = _request_id(request_id)
        found = asyncio.run(_patiently(_reading(lambda store: state_of.request_status(store, request))))
        if found is None:
            raise NothingKnownError(
                f"Nothing is known of a request {request_id}. If it was sent a moment ago, its message may still be on "
                "the queue."
            )
        if as_json:
            print(_json(RequestStatus, found))
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
    """Tell what happened to a device (its Intune id), or to a request as a whole (request:ID)."""
    with _told_to_people():
        _use(connection, tenant, table)
        whole = about.startswith("request:") or about == "control"
        key = about if whole else about.lower()
        events, turnarounds = asyncio.run(_patiently(_reading(lambda store: _read_history(store, key, whole))))
        if not events:
            raise NothingKnownError(
                f"There is no history of {about}. Give a device's Intune id, or request: and a request's id."
            )
        if as_json:
            print(_json(list[Event], events))
            return
        _print(f"History of {shown(about)}")
        if whole:
            _print("\n".join(story.lines(list(map(story.passage, events)))))
            return
        for turnaround in turnarounds:
            _print("")
            _tell(turnaround)


async def _read_history(store: "Store", about: str, whole: bool) -> tuple[list[Event], list[Turnaround]]:
    turnarounds = [] if whole else await state_of.turnarounds(store, ManagedDeviceId(about))
    return await state_of.history(store, about), turnarounds


@app.command()
def record(
    request_id: Named,
    device: Annotated[str, typer.Option("--device", help="The device, by Intune id.")],
    to_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", allow_dash=True, help="Write it as JSON; - prints it.")
    ] = None,
    to_html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page to read and print.")
    ] = None,
    connection: Connection = None,
    tenant: Tenant = None,
    table: TableName = None,
) -> None:
    """Make the reset record of a device and a request: what was asked, done, seen and proven."""
    with _told_to_people():
        request, intune_id = _request_id(request_id), _intune_id(device)
        _use(connection, tenant, table)
        found = asyncio.run(_patiently(_reading(lambda store: state_of.turnaround(store, request, intune_id))))
        if found is None:
            raise NothingKnownError(f"Nothing is known of the device {intune_id} under the request {request}.")
        made = records.record(found, datetime.now(UTC))
        if to_json is not None:
            _write(to_json, _json(ResetRecord, made) + "\n")
        if to_html is not None:
            _write(to_html, page(made))
        if to_json is None and to_html is None:
            _tell(found)
            _print(f"\n{records.NOT_A_CERTIFICATE}\n{records.SEEN_THROUGH_GRAPH}")


def _tell(turnaround: Turnaround) -> None:
    reset = turnaround.reset
    name = (reset.before.name or turnaround.reference) if reset is not None else turnaround.reference
    serial = f", serial number {reset.before.serial_number}" if reset is not None and reset.before.serial_number else ""
    _print(shown(f"Request {turnaround.request}, device {name}{serial}"))
    told = [*story.heading(turnaround), *story.lines(story.passages(turnaround)), story.ending(turnaround)]
    _print("\n".join(f"  {line}" for line in told if line))


def _write(file: Path, text: str) -> None:
    if str(file) == "-":
        print(text, end="")
        return
    try:
        file.write_text(text, "utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror or error}.") from error
    _print(f"Written to {file}.")


def _request_id(text: str) -> RequestId:
    if not is_request_id(text):
        raise InputError(f"{text} is no id of a request: 1 to 100 letters, digits and . _ : @ -")
    return RequestId(text)


def _intune_id(text: str) -> ManagedDeviceId:
    if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text.lower()):
        raise InputError(f"{text} is no Intune id, which looks like 0f6c0f9b-7d0e-4d0c-9a52-3a8f0c6f1b11")
    return ManagedDeviceId(text.lower())


def _show_terms(request: RequestId, terms: Terms) -> None:
    if terms.approval is not None:
        _print(
            f"Approved by {shown(terms.approval.by)} at {_minute(terms.approval.at)} UTC: {shown(terms.approval.why)}"
        )
    elif terms.needs:
        _print(f"It waits for a second person. {terms.needs}")
        _print(f"To approve it: turnaround approve {request} --digest {terms.digest}")
    if terms.waves:
        stopped = f", and no further one starts. {terms.stopped}" if terms.stopped else ""
        _print(f"Wave {terms.wave} of {len(terms.waves)} is under way{stopped}")


def _show_status(found: RequestStatus) -> None:
    counts = ", ".join(f"{count} {state}" for state, count in sorted(found.counts.items()))
    ended = "ended" if found.ended else "under way"
    _print(f"Request {found.id}: {found.state}, {ended}, received {found.received_at:%Y-%m-%d %H:%M:%S} UTC")
    if found.reason is not None:
        _print(f"{shown(found.reason.sentence)}\nWhat to do: {found.reason.remedy}")
    if found.halt is not None:
        _print(f"Turnaround is halted by {shown(found.halt.by)}: {shown(found.halt.why)}")
    if found.terms is not None:
        _show_terms(found.id, found.terms)
    if not found.devices:
        return
    _print(counts)
    devices = sorted(found.devices, key=lambda device: (device.state, device.name or device.reference))
    rows = Table(box=None, pad_edge=False)
    for title in ("device", "state", "since (UTC)", "Intune id"):
        rows.add_column(title, no_wrap=True)
    for device in devices:
        name = shown(device.name or device.reference)
        rows.add_row(name, device.state, f"{device.since:%Y-%m-%d %H:%M:%S}", device.intune_id or "")
    _console().print(rows)
    for device in devices:
        if device.reason is not None:
            name = shown(device.name or device.reference)
            _print(f"{name}: {shown(device.reason.sentence)}\n    What to do: {device.reason.remedy}")


# --- intervening --------------------------------------------------------------------------------------------------


@app.command()
def halt(by: By, why: Why, connection: Connection = None) -> None:
    """Stop sending resets, everywhere, until somebody resumes. What Intune has already taken goes on."""
    _command(lambda: HaltCommand(command="halt", by=by, why=why), connection)


@app.command()
def resume(by: By, why: Why, connection: Connection = None) -> None:
    """Go on after a halt."""
    _command(lambda: HaltCommand(command="resume", by=by, why=why, at=datetime.now(UTC)), connection)


@app.command()
def approve(
    request_id: Named, by: By, why: Why, digest: Digest = None, plan: PlanFile = None, connection: Connection = None
) -> None:
    """Approve a request as the second person: exactly what has this digest, whether it was made already or will be."""
    _command(lambda: _for_approval("approve", request_id, digest, plan, by, why), connection)


@app.command()
def decline(
    request_id: Named, by: By, why: Why, digest: Digest = None, plan: PlanFile = None, connection: Connection = None
) -> None:
    """Decline a request that waits for approval: its devices are refused."""
    _command(lambda: _for_approval("decline", request_id, digest, plan, by, why), connection)


@app.command()
def cancel(request_id: Named, by: By, why: Why, device: Device = None, connection: Connection = None) -> None:
    """Withdraw a request, or one device of it, as far as its resets were not sent."""
    _command(lambda: _for_device(Command.CANCEL, request_id, device, by, why), connection)


@app.command()
def retry(request_id: Named, by: By, why: Why, device: Device = None, connection: Connection = None) -> None:
    """Try again with the devices of a request, or one of them, that wait for a person or failed."""
    _command(lambda: _for_device(Command.RETRY, request_id, device, by, why), connection)


def _for_approval(
    command: str, request_id: str, digest: str | None, plan: Path | None, by: str, why: str
) -> ApprovalCommand:
    if (digest is None) == (plan is None):
        raise InputError("Give either --digest or --plan: they say what exactly is decided upon.")
    if plan is not None:
        try:
            made = TypeAdapter(Plan).validate_json(plan.read_bytes())
        except (OSError, ValidationError) as error:
            raise InputError(f"{plan} is no plan: make it with `turnaround plan FILE --json`.") from error
        if made.request_id != request_id:
            raise InputError(f"{plan} is the plan of request {made.request_id}.")
        digest = made.digest
    return ApprovalCommand.model_validate(
        {"command": command, "requestId": request_id, "digest": digest, "by": by, "why": why}
    )


def _for_device(command: Command, request_id: str, device: str | None, by: str, why: str) -> DeviceCommand:
    intune_id = device.lower() if device else None
    return DeviceCommand.model_validate(
        {"command": command.value, "requestId": request_id, "intuneId": intune_id, "by": by, "why": why}
    )


def _command(make: Callable[[], DeviceCommand | ApprovalCommand | HaltCommand], connection: str | None) -> None:
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
        lacks = any(fault.startswith((STORAGE, "TURNAROUND_TENANT_ID")) for fault in error.faults)
        remedy = ". Set them in the environment, or give --connection and --tenant." if lacks else ""
        _end("; ".join(error.faults) + remedy, BAD_INPUT)
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
    _print(words, _plain(stderr=True))
    raise typer.Exit(code)


def _plain(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that shows text as it is: names of devices may look like markup."""
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def _console() -> Console:
    """The terminal; what goes to a file or a pipe instead is as wide as it needs to be."""
    console = _plain()
    return console if console.is_terminal else _plain(width=1000)


def _print(words: str, console: Console | None = None) -> None:
    """Print lines. Words from outside are made safe by whoever puts them in; what was missed obeys nobody either."""
    (console or _console()).print("\n".join(map(shown, words.split("\n"))), soft_wrap=True)


def _json[Found](kind: type[Found], found: Found) -> str:
    """A record as JSON in printable ASCII, so that what devices are called stays data even in a terminal."""
    text = TypeAdapter(kind).dump_json(found, indent=2, by_alias=True, ensure_ascii=True).decode()
    return text.replace("\x7f", "\\u007f")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    app()
