"""A call to Graph and its answer, without any HTTP library; the faults that meet calls; the count of calls."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from sandbox.tenant.devices import Json
from sandbox.tenant.quirks import Quirks


@dataclass(frozen=True, slots=True)
class Call:
    """One call, or one item of a $batch. Header names are in lower case."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    base_url: str = "http://127.0.0.1"
    """Where the caller reached the tenant, for @odata.nextLink."""
    batched: bool = False


@dataclass(slots=True)
class Answer:
    """What is sent back; `cut` means that the connection ends instead of an answer."""

    status: int
    body: Json | str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False

    def encoded(self) -> bytes:
        if self.body is None:
            return b""
        text = self.body if isinstance(self.body, str) else json.dumps(self.body, separators=(",", ":"))
        return text.encode()


class FaultKind(StrEnum):
    """What may go wrong with a call."""

    LOST_ANSWER = "lost_answer"
    """The call takes effect; the connection is cut before the answer."""
    LOST_REQUEST = "lost_request"
    """The connection is cut before the call takes effect."""
    TOO_MANY = "429"
    UNAVAILABLE = "503"
    UNAVAILABLE_ACTED = "503_acted"
    """503 CancelledOnServiceTimeout, although the call took effect."""
    UNAVAILABLE_HTML = "503_html"
    SERVER_ERROR = "500"
    FORBIDDEN = "forbidden"
    TOKEN_EXPIRED = "token_expired"


class Fault(BaseModel):
    """A fault armed for calls to come. `on` names an operation ("wipe", "sync", ...) or is "any"."""

    model_config = ConfigDict(extra="forbid")

    on: str = "any"
    fault: FaultKind
    times: int = Field(default=1, ge=1)
    skip: int = Field(default=0, ge=0)
    """How many matching calls go well first."""
    serial: str | None = None


class Faults:
    """The faults armed, and those that quirks bring at random."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._armed: list[Fault] = []

    def arm(self, fault: Fault) -> None:
        self._armed.append(fault)

    def clear(self) -> None:
        self._armed.clear()

    def pick(self, operation: str, serial: str | None, quirks: Quirks) -> FaultKind | None:
        """The fault that meets this call, used up by it."""
        for fault in self._armed:
            if fault.on not in ("any", operation) or fault.serial not in (None, serial):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            fault.times -= 1
            if not fault.times:
                self._armed.remove(fault)
            return fault.fault
        return self._at_random(quirks)

    def _at_random(self, quirks: Quirks) -> FaultKind | None:
        rates = {
            FaultKind.TOO_MANY: quirks.p429,
            FaultKind.UNAVAILABLE: quirks.p503,
            FaultKind.UNAVAILABLE_ACTED: quirks.p503_acted,
            FaultKind.LOST_ANSWER: quirks.lost_answer,
            FaultKind.FORBIDDEN: quirks.forbidden,
        }
        if not any(rates.values()):
            return None
        dice = self._rng.random()
        for kind, rate in rates.items():
            if dice < rate:
                return kind
            dice -= rate
        return None


class CallCounts:
    """How often each kind of call was made, by method and path template, alone and in a $batch."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = {}
        self._statuses: dict[str, dict[str, int]] = {}

    def add(self, template: str, answer: Answer, *, batched: bool) -> None:
        counts = self._counts.setdefault(template, {"alone": 0, "batched": 0})
        counts["batched" if batched else "alone"] += 1
        statuses = self._statuses.setdefault(template, {})
        status = "cut" if answer.cut else str(answer.status)
        statuses[status] = statuses.get(status, 0) + 1

    def report(self) -> Json:
        """Counts by template, and totals: `requests` over the wire, `items` in batches."""
        calls = {
            template: {**counts, "statuses": self._statuses[template]} for template, counts in self._counts.items()
        }
        return {
            "requests": sum(counts["alone"] for counts in self._counts.values()),
            "items": sum(counts["batched"] for counts in self._counts.values()),
            "calls": calls,
        }
