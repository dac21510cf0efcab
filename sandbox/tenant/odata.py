"""The OData query options: a small honest parser of $filter, and the checks of $select, $top and the others.

What is not OData is always refused with 400. What is OData but not supported by the resource is for the caller to
judge (`unsupported`), because Graph itself sometimes refuses it and sometimes ignores it.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from sandbox.tenant.devices import Json
from sandbox.tenant.errors import GraphError, bad_request, no_property
from sandbox.tenant.records import instant
from sandbox.tenant.schema import ENUMS

type Literal = str | float | bool | datetime | None

_TOKEN = re.compile(
    r"\s*(?:(?P<string>'(?:[^']|'')*')"
    r"|(?P<instant>\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d{1,7})?)?(?:Z|[+-]\d\d:\d\d))"
    r"|(?P<number>-?\d+(?:\.\d+)?(?![\w-]))"
    r"|(?P<name>[A-Za-z_][\w/.]*)"
    r"|(?P<mark>[(),]))"
)
_COMPARE = ("eq", "ne", "gt", "ge", "lt", "le")
_CALLS = ("contains", "startswith", "endswith")


@dataclass(frozen=True, slots=True)
class Test:
    """One comparison: `operator` is eq ... le, in, contains, startswith or endswith."""

    property: str
    operator: str
    values: tuple[Literal, ...]


@dataclass(frozen=True, slots=True)
class Both:
    left: "Filter"
    right: "Filter"


@dataclass(frozen=True, slots=True)
class Either:
    left: "Filter"
    right: "Filter"


@dataclass(frozen=True, slots=True)
class Not:
    inner: "Filter"


type Filter = Test | Both | Either | Not


class _Parser:
    def __init__(self, text: str, known: Mapping[str, str], kind: str) -> None:
        self.text, self.known, self.kind = text, known, kind
        self.at = 0
        self.tokens = list(self._tokens())
        self.next = 0

    def _tokens(self) -> Iterator[tuple[str, str]]:
        text = self.text.rstrip()
        while self.at < len(text):
            match = _TOKEN.match(text, self.at)
            if match is None or match.lastgroup is None:
                raise self._wrong()
            self.at = match.end()
            yield match.lastgroup, match[match.lastgroup]

    def _wrong(self) -> GraphError:
        return bad_request(f"Invalid filter clause: Syntax error at position {self.at} in '{self.text}'.")

    def _peek(self) -> tuple[str, str]:
        return self.tokens[self.next] if self.next < len(self.tokens) else ("end", "")

    def _take(self, kind: str | None = None, text: str | None = None) -> str:
        found, word = self._peek()
        if found == "end" or (kind and found != kind) or (text and word != text):
            raise self._wrong()
        self.next += 1
        return word

    def parse(self) -> Filter:
        found = self._either()
        if self._peek()[0] != "end":
            raise self._wrong()
        return found

    def _either(self) -> Filter:
        left = self._both()
        while self._peek() == ("name", "or"):
            self._take()
            left = Either(left, self._both())
        return left

    def _both(self) -> Filter:
        left = self._one()
        while self._peek() == ("name", "and"):
            self._take()
            left = Both(left, self._one())
        return left

    def _one(self) -> Filter:
        kind, word = self._peek()
        if word == "(":
            self._take()
            inner = self._either()
            self._take("mark", ")")
            return inner
        if (kind, word) == ("name", "not"):
            self._take()
            return Not(self._one())
        name = self._take("name")
        if self._peek() == ("mark", "(") and name.lower() in _CALLS:
            self._take()
            name, called = self._take("name"), name.lower()
            self._take("mark", ",")
            value = self._literal(name)
            self._take("mark", ")")
            if self._type(name) != "String":
                raise bad_request(f"No function signature for the function with name '{called}' matches '{name}'.")
            return Test(name, called, (value,))
        operator = self._take("name")
        if operator == "in":
            self._take("mark", "(")
            values = [self._literal(name)]
            while self._peek() == ("mark", ","):
                self._take()
                values.append(self._literal(name))
            self._take("mark", ")")
            return Test(name, "in", tuple(values))
        if operator not in _COMPARE:
            raise self._wrong()
        return Test(name, operator, (self._literal(name),))

    def _type(self, name: str) -> str:
        if name not in self.known:
            raise no_property(name, self.kind)
        return self.known[name]

    def _literal(self, name: str) -> Literal:
        kind, word = self._peek()
        expected = self._type(name)
        if kind in ("end", "mark"):
            raise self._wrong()
        self._take()
        if (kind, word) == ("name", "null"):
            return None
        value: Literal
        if kind == "string" and (expected == "String" or expected in ENUMS):
            value = word[1:-1].replace("''", "'")
            if expected in ENUMS and value not in ENUMS[expected]:
                raise bad_request(f"The string '{value}' is not a valid enumeration type constant.")
        elif kind == "instant" and expected == "DateTimeOffset":
            try:
                value = instant(word)
            except ValueError:
                raise self._wrong() from None
        elif kind == "number" and expected in ("Int32", "Int64"):
            value = float(word)
        elif kind == "name" and word in ("true", "false") and expected == "Boolean":
            value = word == "true"
        else:
            raise bad_request(
                f"A binary operator with incompatible types was detected. Found operand types 'Edm.{expected}' and "
                f"'{kind}' for '{name}'."
            )
        return value


def parse_filter(text: str, known: Mapping[str, str], kind: str) -> Filter:
    """Parse a $filter over the properties `known`; raises GraphError 400 for what is not OData."""
    return _Parser(text, known, kind).parse()


def tests(condition: Filter) -> Iterator[Test]:
    """Every comparison in a filter."""
    match condition:
        case Test():
            yield condition
        case Not(inner):
            yield from tests(inner)
        case Both(left, right) | Either(left, right):
            yield from tests(left)
            yield from tests(right)


def least(condition: Filter | None, name: str) -> datetime | None:
    """The time that this property must have at least in whatever meets a filter, so that others need no closer look;
    None where the filter does not say."""
    match condition:
        case Test(property, "gt" | "ge", (datetime() as value,)) if property == name:
            return value
        case Both(left, right):
            return max((at for at in (least(left, name), least(right, name)) if at is not None), default=None)
        case _:
            return None


def has(condition: Filter, kind: type[Both] | type[Either] | type[Not]) -> bool:
    """Whether `and`, `or` or `not` occurs in a filter."""
    if isinstance(condition, kind):
        return True
    match condition:
        case Test():
            return False
        case Not(inner):
            return has(inner, kind)
        case Both(left, right) | Either(left, right):
            return has(left, kind) or has(right, kind)


def matches(
    condition: Filter, record: Mapping[str, object], known: Mapping[str, str], *, or_is_and: bool = False
) -> bool:
    """Whether a record, its instants as text or datetimes, meets a filter. Strings compare without case."""
    match condition:
        case Both(left, right):
            return matches(left, record, known, or_is_and=or_is_and) and matches(
                right, record, known, or_is_and=or_is_and
            )
        case Either(left, right):
            first = matches(left, record, known, or_is_and=or_is_and)
            second = matches(right, record, known, or_is_and=or_is_and)
            return (first and second) if or_is_and else (first or second)
        case Not(inner):
            return not matches(inner, record, known, or_is_and=or_is_and)
        case Test():
            return _holds(condition, record.get(condition.property), known[condition.property])


def _holds(test: Test, actual: object, kind: str) -> bool:
    if kind == "DateTimeOffset" and actual is not None and not isinstance(actual, datetime):
        actual = instant(actual)
    if test.operator == "in":
        return any(_equal(actual, value) for value in test.values)
    wanted = test.values[0]
    if test.operator in ("eq", "ne"):
        return _equal(actual, wanted) is (test.operator == "eq")
    if test.operator in _CALLS:
        left, right = str(actual or "").casefold(), str(wanted or "").casefold()
        found: Callable[[str], bool] = {
            "contains": left.__contains__,
            "startswith": left.startswith,
            "endswith": left.endswith,
        }[test.operator]
        return found(right)
    if isinstance(actual, datetime) and isinstance(wanted, datetime):
        return _ordered(test.operator, actual < wanted, actual == wanted)
    if isinstance(actual, int | float) and isinstance(wanted, int | float):
        return _ordered(test.operator, actual < wanted, actual == wanted)
    if isinstance(actual, str) and isinstance(wanted, str):
        return _ordered(test.operator, actual < wanted, actual == wanted)
    return False


def _ordered(operator: str, less: bool, equal: bool) -> bool:
    return {"lt": less, "le": less or equal, "gt": not less and not equal, "ge": not less}[operator]


def _equal(actual: object, wanted: Literal) -> bool:
    if isinstance(actual, str) and isinstance(wanted, str):
        return actual.casefold() == wanted.casefold()
    return actual == wanted


# The other options.

_OPTIONS = ("$select", "$filter", "$top", "$skiptoken", "$count", "$skip", "$orderby", "$search", "$expand", "$format")


@dataclass(frozen=True, slots=True)
class Query:
    """The query options of a call, checked."""

    select: tuple[str, ...] = ()
    filter: Filter | None = None
    top: int | None = None
    start: int = 0
    count: bool = False


def parse_query(
    pairs: list[tuple[str, str]],
    known: Mapping[str, str],
    kind: str,
    *,
    allowed: tuple[str, ...],
    top_limit: int = 1000,
) -> Query:
    """Check the query options of a call; raises GraphError 400 for unknown, repeated, unsupported or malformed ones."""
    options: dict[str, str] = {}
    for key, value in pairs:
        name = key.lower() if key.startswith("$") else f"${key.lower()}"
        if name not in _OPTIONS:
            raise bad_request(f"The query parameter '{key}' is not supported.")
        if name in options:
            raise bad_request(f"Query option '{key}' was specified more than once.")
        if name not in allowed:
            raise bad_request(f"Query option '{name[1:]}' is not allowed on this resource.")
        options[name] = value
    return Query(
        select=_select(options["$select"], known, kind) if "$select" in options else (),
        filter=parse_filter(options["$filter"], known, kind) if "$filter" in options else None,
        top=_top(options["$top"], top_limit) if "$top" in options else None,
        start=_start(options["$skiptoken"]) if "$skiptoken" in options else 0,
        count=_boolean(options.get("$count", "false"), "$count"),
    )


def _select(text: str, known: Mapping[str, str], kind: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in known:
            raise bad_request(
                f"Parsing OData Select and Expand failed: Could not find a property named '{name}' on type "
                f"'microsoft.graph.{kind}'."
            )
    return names


def _top(text: str, limit: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise bad_request(f"Invalid value '{text}' for $top query option found.")
    if int(text) > limit:
        raise bad_request(
            f"The limit of '{limit}' for Top query has been exceeded. The value from the incoming request is '{text}'."
        )
    return int(text)


def _boolean(text: str, option: str) -> bool:
    if text not in ("true", "false"):
        raise bad_request(f"Invalid value '{text}' for {option} query option found.")
    return text == "true"


def skip_token(start: int) -> str:
    """An opaque token that names where the next page starts."""
    return base64.urlsafe_b64encode(json.dumps({"from": start}).encode()).decode().rstrip("=")


def _start(token: str) -> int:
    try:
        start = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))["from"]
    except (binascii.Error, ValueError, TypeError, KeyError):
        raise bad_request("Skip token is not valid.") from None
    if not isinstance(start, int) or start < 0:
        raise bad_request("Skip token is not valid.")
    return start


def selected(record: Json, names: tuple[str, ...]) -> Json:
    """A record with only the properties selected, if any were; the order is the selection's."""
    return {name: record.get(name) for name in names} if names else record
