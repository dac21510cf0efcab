"""What Graph's answers mean: pure functions over status, headers and JSON.

Statuses and codes of Graph's Intune part disagree with each other, and its own words come as JSON in a string in JSON;
so every word is looked at, and what is not clearly "no" or "yes" is "unknown".
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from shared.pipeline.ports import Answer, AnswerKind, GraphError, GraphForbidden, GraphThrottled

ORDER_PERMISSION = "DeviceManagementManagedDevices.PrivilegedOperations.All"
_APPROVAL_HEADER = "x-msft-approval-code"
_DEEPEST = 8
"""Nesting beyond which an error's words are not followed; two levels of JSON in a string are usual."""
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of Graph: to a call, or to one item of a `$batch`."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: object
    """The JSON; None where there is none, or where it cannot be read."""

    @classmethod
    def of_item(cls, item: Mapping[str, object]) -> "Reply | None":
        """Read one entry of a `$batch` answer's `responses`; None if it tells no status."""
        status, headers = item.get("status"), item.get("headers")
        if not isinstance(status, int) or isinstance(status, bool):
            return None
        if not isinstance(headers, Mapping):
            headers = {}
        return cls(status, {str(name).lower(): str(value) for name, value in headers.items()}, item.get("body"))


@dataclass(frozen=True, slots=True)
class Words:
    """All that an error says, unwrapped."""

    codes: frozenset[str]
    """In lower case."""
    message: str
    """The innermost message, on one line; the outermost code where there is no message."""

    @property
    def forbidden(self) -> bool:
        """Whether it says that our identity may not do this, whatever the status."""
        return "forbidden" in self.codes or "not authorized to perform this operation" in self.message.lower()


def words(body: object) -> Words:
    """Unwrap Graph's error."""
    codes: list[str] = []
    messages: list[str] = []
    _collect(body, codes, messages, 0)
    message = " ".join((messages[-1] if messages else codes[0] if codes else "").split())
    # Intune appends the address of its own back end, which tells nobody anything.
    message = message.split(" - Url:")[0]
    if len(message) > _LONGEST:
        message = message[: _LONGEST - 1] + "…"
    return Words(frozenset(code.lower() for code in codes), message)


def _collect(value: object, codes: list[str], messages: list[str], depth: int) -> None:
    if depth > _DEEPEST:
        return
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            messages += [str(value)] if depth else []  # a whole body that is no JSON is a page, not words
            return
    if not isinstance(value, Mapping):
        return
    for name in ("code", "Code", "ErrorCode", "errorCode", "CustomApiErrorPhrase"):
        if isinstance(code := value.get(name), str) and code.strip():
            codes += [code.strip()]
    for name in ("error", "innerError", "innererror"):
        if isinstance(inner := value.get(name), Mapping):
            _collect(inner, codes, messages, depth + 1)
    for name in ("message", "Message"):
        if isinstance(message := value.get(name), str) and message.strip():
            if message.lstrip().startswith("{"):
                _collect(message, codes, messages, depth + 1)
            else:
                messages.append(message)


def retry_after(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """Read `Retry-After`, in seconds or as an HTTP date (RFC 9110, 10.2.3); None if missing or unreadable."""
    value = headers.get("retry-after", "").strip()
    try:
        if value.isascii() and value.isdigit():
            return timedelta(seconds=int(value))
        at = parsedate_to_datetime(value)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
        return max(timedelta(), at - now)
    except (ValueError, TypeError, OverflowError):
        return None


def order_answer(reply: Reply, now: datetime) -> Answer:
    """Classify the answer to one order. Whatever does not clearly say yes or no is UNKNOWN."""
    return _refusal(reply, now, of_one=True) or (
        Answer(AnswerKind.ACCEPTED) if reply.status == 204 else Answer(AnswerKind.UNKNOWN, _unclear(reply))
    )


def batch_refusal(reply: Reply, now: datetime) -> Answer | None:
    """Classify the refusal of a whole `$batch` of orders; None if it was taken (200) and each item tells for itself."""
    if reply.status == 200:
        return None
    return _refusal(reply, now, of_one=False) or Answer(AnswerKind.UNKNOWN, _unclear(reply))


def _refusal(reply: Reply, now: datetime, *, of_one: bool) -> Answer | None:
    said = words(reply.body)
    own_words = f" Graph says: {said.message}" if said.message else ""
    code = reply.headers.get(_APPROVAL_HEADER)
    if code or "approvalrequired" in said.codes:
        return Answer(
            AnswerKind.APPROVAL_REQUIRED,
            f"Multi Admin Approval holds this order until a second administrator agrees.{own_words}",
            approval_code=code,
        )
    if reply.status == 429:
        detail = f"Graph asks to slow down.{own_words}"
        return Answer(AnswerKind.THROTTLED, detail, retry_after=retry_after(reply.headers, now))
    if reply.status in (401, 403) or (reply.status >= 400 and said.forbidden):
        return Answer(
            AnswerKind.FORBIDDEN,
            f"Graph forbids this ({reply.status}): the identity needs the application permission {ORDER_PERMISSION}, "
            f"and no Intune scope that leaves this device out.{own_words}",
        )
    if reply.status == 404 and of_one:
        return Answer(AnswerKind.NOT_FOUND, f"Intune has no such managed device.{own_words}")
    # 408 says that the server stopped waiting, not what it did before.
    if 400 <= reply.status < 500 and reply.status != 408:
        return Answer(AnswerKind.REJECTED, f"Graph will not take this order ({reply.status}).{own_words}")
    return None


def _unclear(reply: Reply) -> str:
    said = words(reply.body).message
    return f"Graph answered {reply.status}, which does not tell whether the order was carried out." + (
        f" Graph says: {said}" if said else ""
    )


def read_failure(reply: Reply, what: str, permission: str, now: datetime) -> tuple[GraphError, bool]:
    """Give the error for a read that was not answered with what was asked for, and whether asking again may help."""
    said = words(reply.body)
    own_words = f" Graph says: {said.message}" if said.message else ""
    if reply.status == 429:
        message = f"Graph asks to slow down while reading {what}.{own_words}"
        return GraphThrottled(message, retry_after(reply.headers, now)), True
    if reply.status in (401, 403) or (reply.status >= 400 and said.forbidden):
        return (
            GraphForbidden(
                f"Graph forbids reading {what} ({reply.status}): the identity needs the application permission "
                f"{permission}.{own_words}"
            ),
            False,
        )
    if reply.status < 300:
        return GraphError(f"Graph answered {reply.status} for {what}, but not with the JSON that was asked for."), True
    return GraphError(f"Graph could not read {what} ({reply.status}).{own_words}"), reply.status in (
        408,
        *range(500, 600),
    )
