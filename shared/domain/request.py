"""The request contract: what may be put on the queue `reset-requests` or posted to the HTTP API, and how it is checked.

`ResetRequest.model_json_schema(by_alias=True)` is the published JSON Schema.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from shared.domain.devices import DeviceReference, ReferenceKind
from shared.domain.ids import RequestId
from shared.domain.reasons import Code

MAX_DEVICES = 5_000
MAX_MESSAGE_BYTES = 64 * 1024
RESULTS_QUEUE = "reset-results"

_ID = r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,99}"
Text = Annotated[str, Field(min_length=1, max_length=500)]


def _utc(time: datetime) -> datetime:
    if not 2000 <= time.year <= 2999:
        raise ValueError("not a time between the years 2000 and 2999")
    return time.astimezone(UTC)


Instant = Annotated[AwareDatetime, AfterValidator(_utc)]
Value = Annotated[str, Field(min_length=1, max_length=200)]


class _Contract(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, str_strip_whitespace=True)


class DeviceSelector(_Contract):
    """One device, named in exactly one way; `groupTag` names all devices of that Autopilot group tag."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    intune_id: Value | None = None
    entra_device_id: Value | None = None
    serial_number: Value | None = None
    name: Value | None = None
    group_tag: Value | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            names = ", ".join(kind.value for kind in ReferenceKind)
            raise ValueError(f"name the device in exactly one of these ways: {names}")
        return self

    def reference(self) -> DeviceReference:
        """How this names a device. Ids are lower-cased, as Graph shows them."""
        ((alias, value),) = self.model_dump(by_alias=True, exclude_none=True).items()
        kind = ReferenceKind(alias)
        is_id = kind in (ReferenceKind.INTUNE_ID, ReferenceKind.ENTRA_DEVICE_ID)
        return DeviceReference(kind, value.lower() if is_id else value)


class Part(_Contract):
    """Which of several messages under one request id this is; nothing starts before all have come."""

    number: Annotated[int, Field(ge=1)]
    of: Annotated[int, Field(ge=1, le=500)]

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if self.number > self.of:
            raise ValueError("the part's number is above the number of parts")
        return self


class ResetRequest(_Contract):
    """Please return these devices to service."""

    request_id: Annotated[str, Field(pattern=rf"^{_ID}$")] | None = None
    """The sender's own id, and the idempotency key; without it one is derived from the content."""
    requester: Value
    """Who asks: a person's or a system's sign-in name."""
    reason: Text
    """Why: a ticket reference or a sentence."""
    devices: Annotated[tuple[DeviceSelector, ...], Field(min_length=1, max_length=MAX_DEVICES)]
    not_before: Instant | None = None
    """No device is told before this time."""
    ready_by: Instant | None = None
    """When the devices are needed; a device that is not ready then is reported late."""
    outcome_queue: Annotated[str, Field(pattern=rf"^{RESULTS_QUEUE}(-[a-z0-9]+)*$", max_length=63)] = RESULTS_QUEUE
    """Where the outcome notices go: `reset-results`, or a queue whose name begins so."""
    part: Part | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.part is not None and self.request_id is None:
            raise ValueError("a request in several parts needs a requestId")
        if self.not_before and self.ready_by and self.ready_by <= self.not_before:
            raise ValueError("readyBy is not after notBefore")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the content, whatever the order of its keys or its white space."""
        return _sha256(self.model_dump(mode="json", by_alias=True, exclude_none=True))

    @property
    def header_digest(self) -> str:
        """SHA-256 of all but devices and part: it must be the same in all parts of a request."""
        return _sha256(self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"devices", "part"}))

    @property
    def id(self) -> RequestId:
        return RequestId(self.request_id or f"request-{self.digest[:24]}")

    def references(self) -> tuple[DeviceReference, ...]:
        """Each device named once, in the order given."""
        return tuple(dict.fromkeys(selector.reference() for selector in self.devices))


@dataclass(frozen=True, slots=True)
class RefusedMessage:
    """A message that is not a valid request: which fields, what is wrong with each, and whose it seems to be."""

    code: Code
    id: RequestId
    """The id in the message where there is a usable one, else one derived from its bytes."""
    digest: str
    problems: tuple[str, ...]
    """`field: fault`, at most 20."""
    outcome_queue: str


def parse(body: str, limit: int = MAX_MESSAGE_BYTES) -> ResetRequest | RefusedMessage:
    """The request in a message's text of at most `limit` bytes, or why it is none. Never raises."""
    if len(body.encode("utf-8", "surrogatepass")) > limit:
        return _refused(body, Code.TOO_LARGE, (f"message: larger than {limit} bytes",))
    try:
        return ResetRequest.model_validate_json(body)
    except ValidationError as error:
        problems = tuple(f"{_field(e['loc'])}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors())
        return _refused(body, Code.MALFORMED, problems[:20])


def _field(location: tuple[int | str, ...]) -> str:
    return ".".join(str(step)[:60] for step in location) or "message"


def _refused(body: str, code: Code, problems: tuple[str, ...]) -> RefusedMessage:
    digest = hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        fields = None
    fields = fields if isinstance(fields, dict) else {}
    named, queue = fields.get("requestId"), fields.get("outcomeQueue")
    usable = isinstance(named, str) and re.fullmatch(_ID, named) is not None
    valid_queue = isinstance(queue, str) and re.fullmatch(rf"{RESULTS_QUEUE}(-[a-z0-9]+)*", queue) and len(queue) <= 63
    return RefusedMessage(
        code,
        RequestId(str(named) if usable else f"message-{digest[:24]}"),
        digest,
        problems,
        str(queue) if valid_queue else RESULTS_QUEUE,
    )


def messages(request: ResetRequest, limit: int) -> list[str]:
    """The request as message texts of at most `limit` bytes each: one, or several parts under its id.

    Raises ValueError where a single device does not fit.
    """
    whole = _text(request)
    if len(whole.encode()) <= limit:
        return [whole]
    if request.part is not None:
        raise ValueError("a part of a request cannot be split into parts")
    head = request.model_copy(update={"devices": (), "request_id": request.id, "part": Part(number=500, of=500)})
    room = limit - len(_text(head).encode())
    batches: list[list[DeviceSelector]] = [[]]
    used = 0
    for selector in request.devices:
        size = len(selector.model_dump_json(by_alias=True, exclude_none=True).encode()) + 1
        if size > room:
            raise ValueError("a device's name does not fit into a message")
        if used + size > room:
            batches.append([])
            used = 0
        batches[-1].append(selector)
        used += size
    return [
        _text(head.model_copy(update={"devices": tuple(batch), "part": Part(number=number, of=len(batches))}))
        for number, batch in enumerate(batches, start=1)
    ]


def _text(request: ResetRequest) -> str:
    return request.model_dump_json(by_alias=True, exclude_none=True)


def _sha256(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
