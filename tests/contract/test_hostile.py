"""Hostile values end as data, refused with a code or shown escaped, never as behaviour: at every edge of the system.

Each test is a property; `make fuzz` runs the same far longer (tests/fuzz.py).
"""

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import azure.functions as func
import httpx
import pytest
from hypothesis import strategies as st
from pydantic import ValidationError

from functions.message import text as message_text
from sandbox.memory import MemoryQueues, MemoryTable
from shared.domain import story
from shared.domain.devices import ReferenceKind
from shared.domain.guardrails import Halt
from shared.domain.ids import RequestId
from shared.domain.page import page
from shared.domain.reasons import Code
from shared.domain.record import record
from shared.domain.request import RefusedMessage, ResetRequest, parse
from shared.domain.reset import Event
from shared.domain.shown import shown
from shared.domain.timing import Occurrence
from shared.domain.windows import Windows
from shared.graph import answers, decode
from shared.pipeline import status
from shared.pipeline.control import control
from shared.pipeline.intake import intake
from shared.pipeline.poison import poison
from shared.state import rows
from shared.state.store import Store
from tests.hostile import DEEP, JSON, TEXT, TOLD, Body, assert_event, assert_page, assert_plain, changed, hostile
from tests.pipeline.fakes import Device, Rig, device, device_id, rig
from web.api import create

NOW = datetime(2026, 11, 21, tzinfo=UTC)
GOOD: Body = {
    "requestId": "R1",
    "requester": "desk@contoso.example",
    "reason": "INC-1",
    "devices": [{"intuneId": device_id(1)}, {"serialNumber": "SN2"}],
}
SELECTORS = st.lists(st.dictionaries(st.sampled_from(list(ReferenceKind)), TEXT, min_size=1, max_size=1), max_size=3)
FIELDS = ["requester", "reason", "requestId", "devices", "notBefore", "readyBy", "outcomeQueue", "part"]
WORDS = st.fixed_dictionaries({"requester": TEXT, "reason": TEXT}).map(lambda words: GOOD | words)
NAMED = SELECTORS.map(lambda devices: GOOD | {"devices": [*devices, {"intuneId": device_id(1)}]})
REQUEST = (changed(GOOD, FIELDS) | WORDS | NAMED).map(json.dumps)
ORDER: Body = {"command": "cancel", "requestId": "R1", "by": "admin@contoso.example", "why": "wrong list"}
KINDS = st.sampled_from(["cancel", "retry", "halt", "resume"]).map(lambda kind: {"command": kind})
KINDS |= st.sampled_from(["approve", "decline"]).map(lambda kind: {"command": kind, "digest": "a" * 64})
COMMAND = st.builds(
    lambda kind, body: json.dumps(body | kind),
    KINDS | st.just({}),
    changed(ORDER, ["by", "why", "intuneId", "command"]),
)
COLUMNS = ["name", "serial_number", "model", "manufacturer", "os_version", "management_state", "operating_system"]
RECORDS = st.dictionaries(st.sampled_from(COLUMNS), TOLD, max_size=4)


# --- messages -----------------------------------------------------------------------------------------------------


@hostile(REQUEST, examples=150)
def test_s16_a_request_is_refused_as_malformed_or_names_everything_in_characters_that_can_be_seen(body: str) -> None:
    request = parse(body)
    if isinstance(request, RefusedMessage):
        assert request.code in (Code.MALFORMED, Code.TOO_LARGE)
        assert_plain("\n".join(request.problems))
        assert not any("\n" in problem for problem in request.problems)
        return
    named = [request.requester, *(reference.value for reference in request.references())]
    assert [shown(value) for value in named] == named
    assert not set(request.reason) & set(map(chr, [*range(9), 11, 12, *range(14, 32), *range(127, 160)]))


@hostile(DEEP | JSON.map(json.dumps) | TEXT | st.binary(max_size=50), examples=100)
def test_s16_what_is_no_request_is_refused_and_nothing_is_raised(sent: str | bytes) -> None:
    raw = sent if isinstance(sent, bytes) else sent.encode("utf-8", "surrogatepass")
    assert isinstance(parse(message_text(func.QueueMessage(body=raw))), RefusedMessage)


@hostile(TEXT, examples=60)
def test_whoever_halts_is_named_in_characters_that_can_be_seen_or_the_command_is_refused(by: str) -> None:
    async def halted() -> tuple[Halt | None, list[str]]:
        world = rig()
        await control(world.parts, json.dumps({"command": "halt", "by": by, "why": "test"}))
        events = [event async for event in world.store.history("control")]
        return await world.store.halt(), [event.reason.code for event in events if event.reason]

    halt, codes = asyncio.run(halted())
    assert codes == [Code.HALTED if halt else Code.MALFORMED]
    if halt is not None:
        assert shown(halt.by) == halt.by
        assert halt.by == by.strip()


# --- the pipeline -------------------------------------------------------------------------------------------------


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def logged() -> Iterator[list[str]]:
    """All that the app logs."""
    handler, logger = _Lines(), logging.getLogger("shared")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def renamed(number: int, changes: dict[str, Any], tag: str) -> Device:  # Any: columns
    made = device(number, **changes)
    identity = made.facts.autopilot
    assert identity is not None
    same = replace(identity, group_tag=tag, serial_number=made.facts.managed.serial_number)
    made.facts = replace(made.facts, autopilot=same)
    return made


async def lived(records: dict[str, Any], tag: str, bodies: list[str], commands: list[str]) -> Rig:
    """A world in which all of it came, and a device went its whole way. The table and the queues refuse what Azure
    refuses: bad keys, rows and messages that are too large."""
    world = rig(renamed(1, records, tag), renamed(2, {}, tag))
    for body in [*bodies, json.dumps(GOOD)]:
        await intake(world.parts, body)
    for command in commands:
        await control(world.parts, command)
    await poison(world.parts, "reset-requests", "".join(bodies))
    await world.deliver()
    await world.tick(minutes=5)
    if world.intune.devices[device_id(1)].wipes:
        world.intune.take(device_id(1))
        await world.tick(minutes=20)
        world.intune.come_back(device_id(1))
    for _ in range(3):
        await world.tick(minutes=5)
    return world


@hostile(RECORDS, TOLD, st.lists(REQUEST, max_size=2), st.lists(COMMAND, max_size=2), examples=40)
def test_s16_whatever_comes_is_carried_by_table_and_queues_told_as_events_and_logged_in_plain_lines(
    records: dict[str, str], tag: str, bodies: list[str], commands: list[str]
) -> None:
    with logged() as lines:
        world = asyncio.run(lived(records, tag, bodies, commands))
    for line in lines:
        assert_plain(line)
        assert "\n" not in line
    told = [
        body
        for queue in world.queues.names()
        if queue.startswith("reset-results")
        for body in world.queues.waiting(queue)
    ]
    assert told
    for body in told:
        assert_event(body)
    for values in world.table.contents("event|").values():
        passage = story.passage(rows.adapter(Event).validate_json(str(values["doc"])))
        for line in story.lines([passage]):
            assert_plain(line)
            assert "\n" not in line


@hostile(RECORDS, TOLD, st.lists(REQUEST, max_size=1), st.lists(COMMAND, max_size=1), examples=25)
def test_s16_the_record_is_valid_and_its_page_holds_nothing_but_text_from_outside(
    records: dict[str, str], tag: str, bodies: list[str], commands: list[str]
) -> None:
    async def made() -> str | None:
        world = await lived(records, tag, bodies, commands)
        found = await status.turnaround(world.store, RequestId("R1"), device_id(1))
        return None if found is None else page(record(found, NOW))

    text = asyncio.run(made())
    if text is not None:
        assert_page(text)


# --- Graph --------------------------------------------------------------------------------------------------------

GUID = "0f6c0f9b-7d0e-4d0c-9a52-3a8f0c6f1b11"
RECORD: Body = {"id": GUID, "deviceId": GUID, "azureADDeviceId": GUID, "deviceName": "PC", "serialNumber": "SN"}
PROPERTIES = [
    *("id", "deviceId", "deviceName", "serialNumber", "groupTag", "model", "manufacturer", "userId", "trustType"),
    *("operatingSystem", "osVersion", "managementState", "lastSyncDateTime", "enrolledDateTime", "deviceActionResults"),
    *("joinType", "skuFamily", "managementAgent", "managedDeviceId", "azureActiveDirectoryDeviceId", "accountEnabled"),
]


@hostile(changed(RECORD, PROPERTIES), examples=150)
def test_a_record_of_graphs_is_read_or_left_out_and_fits_a_row(found: Body) -> None:
    for read in (decode.managed_device, decode.entra_device, decode.autopilot_identity):
        try:
            made = read(found)
        except decode.UnreadableRecordError as error:
            assert_plain(str(error))
            continue
        if made is not None:
            assert len(rows.doc(made).encode("utf-16-le")) < 32 * 1024
    try:
        decode.sighting(found, NOW)
        decode.listed(found, NOW)
        decode.audited_action(found)
    except decode.UnreadableRecordError as error:
        assert_plain(str(error))


@pytest.mark.parametrize("named", ["deviceName", "serialNumber"])
def test_a_record_with_an_endless_name_is_left_out_since_cut_it_could_be_anothers(named: str) -> None:
    assert decode.managed_device(RECORD | {named: "x" * 1000})
    with pytest.raises(decode.UnreadableRecordError, match=named):
        decode.managed_device(RECORD | {named: "x" * 1001})


def test_an_endless_text_that_names_nothing_is_not_told() -> None:
    assert decode.managed_device(RECORD | {"model": "x" * 1000}).model == "x" * 1000
    assert decode.managed_device(RECORD | {"model": "x" * 1001}).model is None


ERROR = st.builds(lambda code, message: {"error": {"code": code, "message": message}}, TEXT | JSON, TEXT | JSON)


@hostile(ERROR | JSON, TEXT, examples=100)
def test_words_of_graphs_are_one_plain_line_of_bounded_length(body: object, own_id: str) -> None:
    said = answers.words(body).message
    assert_plain(said)
    assert "\n" not in said
    assert len(said) <= 300
    inner = {"error": {"innerError": {"request-id": own_id}}}
    for reply in (answers.Reply(500, {"request-id": own_id}, body), answers.Reply(500, {}, inner)):
        assert_plain(reply.request_id or "")
        assert "\n" not in (reply.request_id or "")


# --- lab windows --------------------------------------------------------------------------------------------------

WINDOW: Body = {"name": "lab", "cron": "0 18 * * 1-5", "timezone": "Europe/Berlin", "group_tag": "LAB"}
KEYS = ["name", "cron", "timezone", "open_for", "ready_by", "group_tag", "devices", "requester", "outcome_queue"]
CRON = st.lists(
    st.sampled_from(["*", "0", "59", "L", "1#3", "*/5", "1-5", "MON", "99", "-1", "0/0", "1,2", ""]), max_size=7
)
ODD: list[Body] = [
    *({"timezone": zone} for zone in ("Europe", ".", "../Europe", "x" * 5000, "\x00", "Etc/../UTC")),
    *({"open_for": time} for time in ("P999999999D", "P367D", "PT0S", "-P1D", 1e308)),
    *({"ready_by": time} for time in ("P999999999D", "P9999999999999D", "PT-1S")),
    *({"cron": cron} for cron in ("* * * *", "", "@reboot", "0 0 31 2 *")),
    *({"group_tag": "LAB\x00"}, {"requester": "a\nb"}, {"name": "lab\n"}),
]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:40])
def test_a_window_that_could_not_be_opened_is_refused_by_name(odd: Body) -> None:
    with pytest.raises(ValidationError):
        Windows.model_validate({"window": [WINDOW | odd]})


@hostile(changed(WINDOW, KEYS) | CRON.map(lambda fields: WINDOW | {"cron": " ".join(fields)}), examples=100)
def test_a_windows_file_is_refused_or_opens_as_a_valid_request(window: Body) -> None:
    try:
        loaded = Windows.model_validate({"window": [window]})
    except ValidationError:
        return
    for one in loaded.window:
        assert isinstance(
            parse(one.request(Occurrence(NOW, NOW + one.open_for)).model_dump_json(by_alias=True)), ResetRequest
        )


# --- the HTTP API -------------------------------------------------------------------------------------------------


@hostile(REQUEST | DEEP | st.binary(max_size=60), TEXT, examples=40)
def test_s16_the_api_answers_whatever_is_asked_of_it_and_never_fails(body: str | bytes, path: str) -> None:
    async def asked() -> None:
        app = create(Store(MemoryTable()), MemoryQueues())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            posted = await client.post("/api/v1/requests", content=body)
            assert posted.status_code in (202, 409, 413, 422)
            quoted = httpx.QueryParams({"x": path.encode("utf-8", "replace").decode()})
            name = str(quoted).removeprefix("x=").replace("+", "%20")
            for where in (
                f"requests/{name}",
                f"devices/{name}/history",
                f"requests/R1/devices/{name}/record?format={name}",
            ):
                answer = await client.get(f"/api/v1/{where}")
                assert answer.status_code in (200, 307, 404, 405, 422), where

    asyncio.run(asked())
