"""The rows of the state table: their keys, their columns, and the records they hold.

Keys order as text. `|` separates, since Azure refuses / \\ # ? in keys; every id that enters a key was checked or made
by us. A record lies as JSON in the column `doc`; other columns repeat what is filtered by.
"""

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter

from shared.domain.guardrails import Approval, Budget, Terms
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.reset import Event, Reset
from shared.domain.states import State
from shared.domain.timing import WakeKind
from shared.state.table import Change, ChangeKind, Row, Scalar


class RequestState(StrEnum):
    """How far a request has come; its devices have states of their own."""

    RECEIVING = "receiving"
    """Not all of its parts have come."""
    ACCEPTED = "accepted"
    """All parts are here and valid; its devices are being looked up."""
    EXPANDED = "expanded"
    """Every device it names is in flight or has ended."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """A request as it was taken in."""

    id: RequestId
    state: RequestState
    header_digest: str
    parts: int
    received_at: datetime
    requester: str
    ticket: str
    outcome_queue: str
    not_before: datetime | None = None
    ready_by: datetime | None = None
    devices: int = 0
    """What it came to, once expanded: devices, and names that lead to none."""
    tries: int = 0
    """Times that looking its devices up failed."""
    due: str | None = None
    """Key of its wake-up row, as long as it has one."""
    terms: Terms | None = None
    """None until its devices are known."""


@dataclass(frozen=True, slots=True)
class EarlyApproval:
    """An approval that came before what it approves was known: that of a plan."""

    approval: Approval


@dataclass(frozen=True, slots=True)
class Quiet:
    """Whether a sweep has seen that nothing is in flight and nothing came to an end lately, and when; whoever takes
    devices in writes it anew."""

    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class SentRecord:
    """Devices whose resets were ordered together."""

    at: datetime
    devices: tuple[ManagedDeviceId, ...]
    serials: tuple[str, ...] = ()
    """Their serial numbers: a device that enrols anew gets another id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedRecord:
    """An ended turnaround: the whole record where there was one, else what was asked for."""

    event: Event
    """The one that ended it."""
    reset: Reset | None = None


@dataclass(frozen=True, slots=True)
class OutboxRecord:
    """Something that is to go out by a queue and was not yet handed over. Several may share a message."""

    queue: str
    item: str
    """JSON."""


@dataclass(frozen=True, slots=True)
class Due:
    """A wake-up: of a device's turnaround or of a request."""

    key: str
    kind: WakeKind
    device: ManagedDeviceId | None
    request: RequestId | None


@dataclass(frozen=True, slots=True)
class Stored[Record]:
    """A record with the ETag it was read with."""

    record: Record
    etag: str
    due: str | None = None


# --- keys ---------------------------------------------------------------------------------------------------------
# What a sweep goes by lies together, so that one look shows it: `control|`, `deliver|`, `due|`, with nothing between.

HALT = "control|halt"
WATERMARK = "control|watermark"
RETENTION = "control|retention"
RESUMED = "control|resumed"
QUIET = "control|quiet"
ORDERS = "budget|orders"


def reset_key(device: ManagedDeviceId) -> str:
    return f"reset|{device}"


def request_key(request: RequestId) -> str:
    return f"request|{request}"


def part_key(request: RequestId, number: int) -> str:
    return f"part|{request}|{number:04}"


def closed_key(request: RequestId, about: str) -> str:
    return f"closed|{request}|{about}"


def about_reference(reference: str) -> str:
    """A key for something that a request named but that is no device: the text may hold any character."""
    return f"ref-{hashlib.sha256(reference.encode()).hexdigest()[:24]}"


def about(end: Event) -> str:
    """The device that came to an end, or what was named in vain."""
    return end.device or about_reference(end.reference)


def due_key(at: datetime, about: str) -> str:
    return f"due|{stamp(at)}|{about}"


def event_key(event: Event) -> str:
    """A turnaround's events are numbered; others are told apart by what they say, so that none hides another."""
    if event.device is not None:
        return f"event|{event.device}|{stamp(event.at)}|{event.seq:06}|{event.request}"
    about = f"request:{event.request}" if event.request else "control"
    return f"event|{about}|{stamp(event.at)}|{hashlib.sha256(doc(event).encode()).hexdigest()[:24]}"


def pace_key(budget: Budget) -> str:
    return f"budget|pace|{budget.value}"


def approval_key(request: RequestId) -> str:
    return f"approval|{request}"


def sent_key(at: datetime, devices: Sequence[ManagedDeviceId]) -> str:
    return f"sent|{stamp(at)}|{hashlib.sha256(','.join(devices).encode()).hexdigest()[:24]}"


def ended_key(at: datetime, about: str) -> str:
    return f"ended|{stamp(at)}|{about}"


def window_key(request: RequestId) -> str:
    """`request`: that of the opening, which names window and time."""
    return f"window|{request}"


def stamp(at: datetime) -> str:
    """A time as text that orders as time does."""
    text = at.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00")
    return text.replace("-", "").replace(":", "") + "Z"


# --- records ------------------------------------------------------------------------------------------------------


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}  # Any: each adapter is of the type that is its key


def adapter(kind: type) -> TypeAdapter[Any]:
    """The reader and writer of a record's JSON, made once."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def doc(record: object) -> str:
    return adapter(type(record)).dump_json(record, exclude_defaults=True).decode()


def read[T](kind: type[T], row: Row) -> T:
    """The record in a row. Raises pydantic.ValidationError where another version wrote something else."""
    record: T = adapter(kind).validate_json(str(row.values["doc"]))
    return record


def stored[T](kind: type[T], row: Row) -> Stored[T]:
    due = row.values.get("due")
    return Stored(read(kind, row), row.etag, str(due) if due else None)


def due_of(row: Row) -> Due:
    device, request = row.values.get("device"), row.values.get("request")
    return Due(
        row.key,
        WakeKind(str(row.values["kind"])),
        ManagedDeviceId(str(device)) if device else None,
        RequestId(str(request)) if request else None,
    )


def pack(body: str) -> bytes:
    """A request message as it is kept: at most 64 KiB, which is what one binary column may hold."""
    return gzip.compress(body.encode(), mtime=0)


def unpack(body: Scalar | None) -> str:
    if not isinstance(body, bytes):
        raise TypeError("a part's body is not binary")
    return gzip.decompress(body).decode()


# --- changes ------------------------------------------------------------------------------------------------------


def put(key: str, record: object, **columns: Scalar) -> Change:
    return Change(ChangeKind.PUT, key, {"doc": doc(record), **columns})


def insert(key: str, record: object, **columns: Scalar) -> Change:
    return Change(ChangeKind.INSERT, key, {"doc": doc(record), **columns})


def replace(key: str, etag: str, record: object, **columns: Scalar) -> Change:
    return Change(ChangeKind.REPLACE, key, {"doc": doc(record), **columns}, etag)


def write(key: str, found: Stored[Any] | None, record: object, **columns: Scalar) -> Change:  # Any: of any record
    """Writes a record where `found`, or nothing, was read: whoever else has read that meets a conflict."""
    return insert(key, record, **columns) if found is None else replace(key, found.etag, record, **columns)


def delete(key: str, etag: str | None = None) -> Change:
    return Change(ChangeKind.DELETE, key, etag=etag)


def insert_due(key: str, kind: WakeKind, device: ManagedDeviceId | None, request: RequestId | None) -> Change:
    columns: dict[str, Scalar] = {"kind": kind.value}
    if device:
        columns["device"] = device
    if request:
        columns["request"] = request
    return Change(ChangeKind.PUT, key, columns)


def update_request(known: Stored[RequestRecord], record: RequestRecord) -> list[Change]:
    """The request's row and its wake-up, as the record now has them."""
    changes = [replace(request_key(record.id), known.etag, record, state=record.state.value)]
    if known.record.due and known.record.due != record.due:
        changes.append(delete(known.record.due))
    if record.due and known.record.due != record.due:
        changes.append(insert_due(record.due, WakeKind.SWEEP, None, record.id))
    return changes


def insert_event(event: Event) -> Change:
    """A turnaround's number is taken once; what is keyed by its own content may be written twice."""
    write = insert if event.device is not None else put
    return write(event_key(event), event, request=event.request or "")


def ended(event: Event) -> Change:
    """Notes in order of time that a device came to an end, or to need a person."""
    state = event.to_state or State.REFUSED
    return Change(ChangeKind.PUT, ended_key(event.at, f"{about(event)}|{event.request}"), {"state": state.value})


def insert_part(key: str, body: str, digest: str) -> Change:
    return Change(ChangeKind.INSERT, key, {"body": pack(body), "digest": digest})


def outbox_key(at: datetime, record: OutboxRecord) -> str:
    return f"deliver|{stamp(at)}|{record.queue}|{hashlib.sha256(record.item.encode()).hexdigest()[:24]}"


def closed(event: Event, reset: Reset | None) -> Change:
    if event.request is None or event.to_state is None:
        raise ValueError("only an event that ends a turnaround closes one")
    return insert(
        closed_key(event.request, about(event)),
        ClosedRecord(event=event, reset=reset),
        state=State(event.to_state).value,
        at=event.at,
    )


def columns_of(reset: Reset, due: str) -> Mapping[str, Scalar]:
    return {"state": reset.state.value, "request": reset.request, "due": due}
