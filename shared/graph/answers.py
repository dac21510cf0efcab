"""What Graph's answers mean: pure functions over status, headers and JSON.

Statuses and codes of Graph's Intune part disagree with each other, and its own words come as JSON in a string in JSON;
so every word is looked at, and what is not clearly "no" or "yes" is "unknown".
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from shared.domain.shown import shown
from shared.pipeline.ports import (
    Answer,
    AnswerKind,
    GraphError,
    GraphForbidden,
    GraphRejected,
    GraphThrottled,
    GraphUnavailable,
)

ORDER_PERMISSION = "DeviceManagementManagedDevices.PrivilegedOperations.All"
APPROVAL_HEADER = "x-msft-approval-code"
"""Carries the code of a request for Multi Admin Approval, in Graph's answer and, once agreed to, in ours."""
_APPROVAL_CODE = re.compile(APPROVAL_HEADER + r"\W{1,4}([0-9a-f-]{36})", re.IGNORECASE)
_A_DAY = re.compile(r"\bdaily|daily\b|\bper day\b|\ba day\b|\b24[ -]?hours?\b")
_A_LIMIT = re.compile(r"limit|quota|maximum|exceed")
_LONGEST_THROTTLE = timedelta(hours=1)
"""Graph throttles for seconds or minutes; a 429 that asks for a longer wait than this is about the day's limit."""
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

    def item(self, item: Mapping[str, object]) -> "Reply | None":
        """Read one entry of this `$batch` answer's `responses`; None if it tells no status.

        How long to wait and the time are the whole answer's where the entry has none of its own.
        """
        status, headers = item.get("status"), item.get("headers")
        if not isinstance(status, int) or isinstance(status, bool):
            return None
        own = {str(n).lower(): str(v) for n, v in headers.items()} if isinstance(headers, Mapping) else {}
        shared = {name: self.headers[name] for name in ("retry-after", "date") if name in self.headers}
        return Reply(status, shared | own, item.get("body"))

    @property
    def request_id(self) -> str | None:
        """Graph's own id of the call, by which Microsoft's support finds it; safe to show in a log."""
        if found := self.headers.get("request-id"):
            return shown(found)[:_LONGEST]
        error = self.body.get("error") if isinstance(self.body, Mapping) else None
        inner = error.get("innerError") if isinstance(error, Mapping) else None
        found = inner.get("request-id") if isinstance(inner, Mapping) else None
        return shown(found)[:_LONGEST] if isinstance(found, str) and found else None

    @property
    def server_time(self) -> datetime | None:
        """Graph's clock when it answered; None if it did not say."""
        return _http_date(self.headers.get("date", ""))


@dataclass(frozen=True, slots=True)
class Words:
    """All that an error says, unwrapped."""

    codes: frozenset[str]
    """In lower case."""
    message: str
    """The innermost message, on one line and safe to show; the outermost code where there is no message."""

    @property
    def forbidden(self) -> bool:
        """Whether it says that our identity may not do this, whatever the status."""
        return "forbidden" in self.codes or "not authorized to perform this operation" in self.message.lower()

    @property
    def bad_token(self) -> bool:
        """Whether it says that our token is not one."""
        return "invalidauthenticationtoken" in self.codes

    @property
    def daily_limit(self) -> bool:
        """Whether it speaks of a limit for the day.

        How Intune words its limit of wipes a tenant and day is not documented and was not seen: this takes any words
        that name both a day and a limit.
        """
        said = [self.message.lower(), *self.codes]
        return any(_A_DAY.search(text) and _A_LIMIT.search(text) for text in said)

    @property
    def approval_code(self) -> str | None:
        """The code of a request for Multi Admin Approval, which Graph's words name beside the header that has it."""
        found = _APPROVAL_CODE.search(self.message)
        return found[1] if found else None

    def needs_approval(self, status: int) -> bool:
        """Whether Multi Admin Approval stands in the way: by code, by the header it names, or by a request pending."""
        message = self.message.lower()
        pending = status == 409 and "approval" in message
        return pending or "approvalrequired" in self.codes or "x-msft-approval" in message


def words(body: object) -> Words:
    """Unwrap Graph's error."""
    codes: list[str] = []
    messages: list[str] = []
    _collect(body, codes, messages, 0)
    message = " ".join((messages[-1] if messages else codes[0] if codes else "").split())
    # Intune appends the address of its own back end, which tells nobody anything.
    message = shown(message.split(" - Url:")[0])
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
    """Read `Retry-After`, in seconds or as an HTTP date (RFC 9110, 10.2.3); None if missing or unreadable.

    A date is one of Graph's clock: it is measured from the answer's own `Date`, or from `now` where there is none.
    """
    value = headers.get("retry-after", "").strip()
    try:
        if value.isascii() and value.isdigit():
            return timedelta(seconds=int(value))
    except (ValueError, OverflowError):
        return None
    at = _http_date(value)
    return None if at is None else max(timedelta(), at - (_http_date(headers.get("date", "")) or now))


def _http_date(value: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(value)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None


def order_answer(reply: Reply, now: datetime) -> Answer:
    """Classify the answer to one order. Whatever does not clearly say yes or no is UNKNOWN."""
    if reply.status == 204 and APPROVAL_HEADER not in reply.headers:
        return Answer(AnswerKind.ACCEPTED, server_time=reply.server_time)
    return _refusal(reply, now, of_one=True) or _unclear(reply, now)


def batch_refusal(reply: Reply, now: datetime) -> Answer | None:
    """Classify the refusal of a whole `$batch` of orders; None if it was taken (200) and each item tells for itself."""
    if reply.status == 200:
        return None
    return _refusal(reply, now, of_one=False) or _unclear(reply, now)


def _refusal(reply: Reply, now: datetime, *, of_one: bool) -> Answer | None:
    said = words(reply.body)
    own_words, wait = _own_words(reply, said), retry_after(reply.headers, now)
    code = reply.headers.get(APPROVAL_HEADER, "").strip() or said.approval_code
    # A 204 says that it was carried out, and the header that it was not: that is unclear.
    if reply.status != 204 and (code or said.needs_approval(reply.status)):
        return Answer(
            AnswerKind.APPROVAL_REQUIRED,
            f"Multi Admin Approval holds this order until a second administrator agrees.{own_words}",
            approval_code=code,
        )
    # 408 says that the server stopped waiting, not what it did before.
    no = 400 <= reply.status < 500 and reply.status != 408
    if no and (said.daily_limit or (reply.status == 429 and wait is not None and wait > _LONGEST_THROTTLE)):
        return Answer(AnswerKind.DAILY_LIMIT, f"Intune takes no more wipes today.{own_words}", retry_after=wait)
    if reply.status == 429:
        return Answer(AnswerKind.THROTTLED, f"Graph asks to slow down.{own_words}", retry_after=wait)
    if said.bad_token:
        return Answer(AnswerKind.FORBIDDEN, f"Graph does not take the identity's token ({reply.status}).{own_words}")
    if reply.status in (401, 403) or (reply.status >= 400 and said.forbidden):
        return Answer(
            AnswerKind.FORBIDDEN,
            f"Graph forbids this ({reply.status}): the identity needs the application permission {ORDER_PERMISSION}, "
            f"and no Intune scope that leaves this device out.{own_words}",
        )
    if reply.status == 404 and of_one:
        return Answer(AnswerKind.NOT_FOUND, f"Intune has no such managed device.{own_words}")
    if no:
        return Answer(AnswerKind.REJECTED, f"Graph will not take this order ({reply.status}).{own_words}")
    return None


def _unclear(reply: Reply, now: datetime) -> Answer:
    return Answer(
        AnswerKind.UNKNOWN,
        f"Graph answered {reply.status}, which does not tell whether the order was carried out."
        f"{_own_words(reply, words(reply.body))}",
        retry_after=retry_after(reply.headers, now),
    )


def _own_words(reply: Reply, said: Words) -> str:
    quoted = f" Graph says: {said.message}" if said.message else ""
    return quoted + (f" (Graph's request-id: {reply.request_id})" if reply.request_id else "")


def read_failure(reply: Reply, what: str, permission: str, now: datetime) -> GraphError:
    """Give the error for a read that was not answered with what was asked for."""
    said = words(reply.body)
    own_words, wait = _own_words(reply, said), retry_after(reply.headers, now)
    if reply.status == 429:
        return GraphThrottled(f"Graph asks to slow down while reading {what}.{own_words}", wait)
    if said.bad_token:
        return GraphForbidden(f"Graph does not take the identity's token for {what} ({reply.status}).{own_words}")
    if reply.status in (401, 403) or (reply.status >= 400 and said.forbidden):
        return GraphForbidden(
            f"Graph forbids reading {what} ({reply.status}): the identity needs the application permission "
            f"{permission}.{own_words}"
        )
    if reply.status < 300:
        kind = reply.headers.get("content-type", "").split(";")[0]
        hint = f" It is {kind}: perhaps a proxy's page." if kind and "json" not in kind else ""
        return GraphUnavailable(
            f"Graph answered {reply.status} for {what}, but not with the JSON that was asked for.{hint}{own_words}"
        )
    if reply.status == 408 or reply.status >= 500:
        return GraphUnavailable(f"Graph could not read {what} ({reply.status}).{own_words}", wait)
    return GraphRejected(f"Graph will not read {what} ({reply.status}).{own_words}")
