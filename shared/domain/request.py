"""The request contract: what may be put on the queue `reset-requests` or posted to the HTTP API, and how it is checked.

`ResetRequest.model_json_schema(by_alias=True)` is the published JSON Schema.
"""

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from shared.domain.devices import DeviceReference, ReferenceKind
from shared.domain.ids import RequestId
from shared.domain.reasons import Code
from shared.domain.shown import is_seen, shown

MAX_DEVICES = 5_000
MAX_MESSAGE_BYTES = 64 * 1024
RESULTS_QUEUE = "reset-results"

ID = r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,99}"


def _line(text: str) -> str:
    """What names somebody or something: a character in it that nobody sees could name another than it seems to."""
    if shown(text) != text:
        unseen = next(one for one in text if not is_seen(one))
        raise ValueError(f"{shown(unseen)} is a character that cannot be seen, or a line break")
    return text


def _text(text: str) -> str:
    """What people wrote: line breaks are theirs, and some scripts need marks that cannot be seen; nothing else is."""
    if control := next((one for one in text if unicodedata.category(one) == "Cc" and one not in "\t\n\r"), None):
        raise ValueError(f"{shown(control)} is a control character")
    return text


def _utc(time: datetime) -> datetime:
    if not 2000 <= time.year <= 2999:
        raise ValueError("not a time between the years 2000 and 2999")
    return time.astimezone(UTC)


Instant = Annotated[AwareDatetime, AfterValidator(_utc)]
Value = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_line)]
"""One line in which every character can be seen."""
Text = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_text)]
"""Words of a person; line breaks are allowed."""


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

    request_id: Annotated[str, Field(pattern=rf"^{ID}$")] | None = None
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
        """SHA-256 of all but id, devices and part: it must be the same in all parts of a request."""
        unlike = {"request_id", "devices", "part"}
        return _sha256(self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=unlike))

    @property
    def id(self) -> RequestId:
        return RequestId(self.request_id or f"request-{self.digest[:24]}")

    def references(self) -> tuple[DeviceReference, ...]:
        """Each device named once, in the order given."""
        return tuple(dict.fromkeys(selector.reference() for selector in self.devices))


_REQUEST = TypeAdapter(ResetRequest)


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


def is_request_id(text: str) -> bool:
    """Whether a request can have this id."""
    return re.fullmatch(ID, text) is not None


def parse(body: str, limit: int = MAX_MESSAGE_BYTES) -> ResetRequest | RefusedMessage:
    """The request in a message's text of at most `limit` bytes, or why it is none. Never raises."""
    if len(body.encode("utf-8", "surrogatepass")) > limit:
        return _refused(body, Code.TOO_LARGE, (f"message: larger than {limit} bytes",))
    request = checked(_REQUEST, body)
    return _refused(body, Code.MALFORMED, request) if isinstance(request, tuple) else request


def checked[Message](contract: TypeAdapter[Message], body: str) -> Message | tuple[str, ...]:
    """The message in a text, or what is wrong with it: at most 20 times `field: fault`, each safe to show and of at
    most 300 characters."""
    try:
        message = contract.validate_json(body)
    except ValidationError as error:
        faults = (f"{_field(e['loc'])}: {shown(e['msg'].removeprefix('Value error, '))}" for e in error.errors()[:20])
        return tuple(fault[:300] for fault in faults)
    twice = _said_twice(body)
    return message if twice is None else (f"{_field((twice,))}: is there twice",)


def _said_twice(body: str) -> str | None:
    """A name that an object of this valid JSON has twice: readers disagree about which of the two is meant."""
    twice: list[str] = []

    def note(pairs: list[tuple[str, object]]) -> None:
        names: set[str] = set()
        for name, _ in pairs:
            twice.extend([name] if name in names else [])
            names.add(name)

    json.loads(body, object_pairs_hook=note, parse_int=str)  # a number may have more digits than Python reads
    return twice[0] if twice else None


def _field(location: tuple[int | str, ...]) -> str:
    return ".".join(shown(str(step))[:60] for step in location) or "message"


def _refused(body: str, code: Code, problems: tuple[str, ...]) -> RefusedMessage:
    digest = hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        fields = None
    fields = fields if isinstance(fields, dict) else {}
    named, queue = fields.get("requestId"), fields.get("outcomeQueue")
    usable = isinstance(named, str) and is_request_id(named)
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
    whole = _json(request)
    if len(whole.encode()) <= limit:
        return [whole]
    if request.part is not None:
        raise ValueError("a part of a request cannot be split into parts")
    head = request.model_copy(update={"devices": (), "request_id": request.id, "part": Part(number=500, of=500)})
    room = limit - len(_json(head).encode())
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
        _json(head.model_copy(update={"devices": tuple(batch), "part": Part(number=number, of=len(batches))}))
        for number, batch in enumerate(batches, start=1)
    ]


def _json(request: ResetRequest) -> str:
    return request.model_dump_json(by_alias=True, exclude_none=True)


def _sha256(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
