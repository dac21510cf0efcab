"""Check recorded Graph traffic (HAR 1.2) against the kept extracts of Graph's schema.

    python -m sandbox.graph_schema.check TRAFFIC.har

Requests and answers are judged alike: the first show that Turnaround asks for nothing that Graph lacks, the second that
the simulated tenant answers as Graph would. What only one of the tenant's quirks can explain is allowed where that
quirk is on.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from sandbox.graph_schema.schema import Property, Schema, Version
from sandbox.tenant.batch import LIMIT, relative
from sandbox.tenant.errors import GraphError
from sandbox.tenant.odata import Either, Not, Query, has, parse_query, tests
from sandbox.tenant.quirks import UNPUBLISHED, Quirks
from sandbox.tenant.schema import kinds

type Json = Mapping[str, object]


class Rule(StrEnum):
    """What a fault is against."""

    HAR = "the recording is HAR"
    TOKEN = "calls carry a token, and recordings do not"
    PATH = "the path exists"
    METHOD = "the path takes the method"
    QUERY = "the query options are right"
    PARAMETER = "the action's parameters are right, and those of a wipe stated"
    BATCH_REQUEST = "a $batch is formed as Graph wants it"
    BATCH_ANSWER = "each request of a $batch is answered once"
    STATUS = "the status fits"
    CONTENT_TYPE = "what is JSON says so"
    ERROR = "an error has Graph's shape"
    RECORD = "a record holds what its type has"
    SELECT = "$select is honoured"
    NEXT_LINK = "a next page is on the same host, of the same question"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something in the traffic that breaks a rule."""

    entry: int
    """Which entry of the recording, from 0."""
    item: str
    """The id within a $batch; empty otherwise."""
    rule: Rule
    what: str

    def __str__(self) -> str:
        return f"entry {self.entry}{f', item {self.item}' if self.item else ''}: {self.what} (rule: {self.rule})"


STATED = {"wipe": ("keepEnrollmentData", "keepUserData"), "checkMemberGroups": ("groupIds",)}
"""Parameters that must always be stated: those of a wipe, left out, mean false, and that is a full wipe."""
MOST = {"groupIds": 20}
"""Items that a parameter may hold (https://learn.microsoft.com/graph/api/directoryobject-checkmembergroups)."""

_GUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,7})?Z")
_KEY = re.compile(r"(?:/(?P<plain>[^/()]+)|\((?:(?P<name>\w+)=)?'(?P<quoted>[^']*)'\))(?:/(?P<rest>\w+))?")
_LIST = ("$select", "$filter", "$top", "$skiptoken", "$count")
_TOP = {"devices": 999}
_BATCH_METHODS = ("GET", "POST", "PATCH", "PUT", "DELETE")


@dataclass(frozen=True, slots=True)
class _Call:
    """A request, alone or in a $batch."""

    method: str
    version: Version
    url: SplitResult
    """Absolute, also for an item of a $batch."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes | None
    """None where there is none."""

    @property
    def path(self) -> str:
        return unquote(self.url.path).removeprefix(f"/{self.version}/")


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: Mapping[str, str]
    text: str


@dataclass(frozen=True, slots=True)
class _Target:
    """What a path leads to."""

    kind: str
    """list, entity, navigation or action."""
    type: str
    path: str
    action: str = ""


@dataclass(slots=True)
class _Judge:
    """Collects the faults of one call."""

    entry: int
    item: str
    quirks: Quirks
    faults: list[Fault] = field(default_factory=list)

    def fault(self, rule: Rule, what: str) -> None:
        self.faults.append(Fault(self.entry, self.item, rule, what))

    # Requests.

    def call(self, call: _Call) -> tuple[_Target, Query] | None:
        """Judge a request; what it asks for, where that can be told."""
        schema = Schema.kept(call.version)
        target = self.target(call.path, schema)
        if target is None:
            self.fault(Rule.PATH, f"{call.version} has no /{call.path}")
            return None
        if call.method != ("POST" if target.kind == "action" else "GET"):
            self.fault(Rule.METHOD, f"/{call.path} does not take {call.method}")
            return None
        if target.kind == "action":
            self.parameters(call, target, schema)
        elif call.body is not None:
            self.fault(Rule.METHOD, "a GET has no body")
        return target, self.query(call, target)

    def target(self, path: str, schema: Schema) -> _Target | None:
        if (single := schema.singletons.get(path)) is not None:
            return _Target("entity", single, path)
        roots = {**schema.paths, **schema.entities}
        root = next((one for one in roots if path == one or path.startswith((f"{one}/", f"{one}("))), None)
        if root is None:
            return None
        name = roots[root]
        if path == root:
            return _Target("list", name, path) if root in schema.paths else None
        match, own = _KEY.fullmatch(path.removeprefix(root)), schema.types[name]
        if match is None or (match["name"] or "id") not in ("id", *own.keys):
            return None
        if not _GUID.fullmatch(match["plain"] or match["quoted"] or ""):
            return None
        rest = match["rest"]
        if rest is None:
            return _Target("entity", name, path)
        if rest in own.actions:
            return _Target("action", name, path, action=rest)
        led_to = own.navigation.get(rest, "").removeprefix("Collection(").removesuffix(")")
        return _Target("navigation", led_to, path) if led_to in schema.types else None

    def query(self, call: _Call, target: _Target) -> Query:
        allowed = {"list": _LIST, "entity": ("$select",)}.get(target.kind, ())
        # What $skiptoken holds is Graph's own affair.
        pairs = [
            pair
            for pair in parse_qsl(call.url.query, keep_blank_values=True)
            if not (pair[0] == "$skiptoken" and target.kind == "list")
        ]
        known = kinds(call.version, target.type)
        try:
            query = parse_query(pairs, known, target.type, allowed=allowed, top_limit=_TOP.get(target.path, 1000))
        except GraphError as error:
            self.fault(Rule.QUERY, error.message)
            return Query()
        # What beta's properties take is not published; those that v1.0 has too take the same.
        own = Schema.kept("v1.0").types.get(target.type, Schema.kept(call.version).types[target.type])
        filters = {name: one.filter for name, one in own.properties.items()}
        if query.filter is not None and any(filters.values()):
            for test in tests(query.filter):
                if test.operator not in filters.get(test.property, ()):
                    self.fault(Rule.QUERY, f"{test.property} is not published to take {test.operator} in $filter")
            if has(query.filter, Either) or has(query.filter, Not):
                self.fault(Rule.QUERY, f"a $filter of {target.type} is combined by 'and' alone")
        return query

    def parameters(self, call: _Call, target: _Target, schema: Schema) -> None:
        known = schema.types[target.type].actions[target.action]
        if call.body is None:
            if known:
                self.fault(Rule.PARAMETER, f"{target.action} has no body")
            return
        body = self.json_body(call)
        if not isinstance(body, dict):
            self.fault(Rule.PARAMETER, f"the body of {target.action} is no JSON object")
            return
        for name, value in body.items():
            if name not in known:
                self.fault(Rule.PARAMETER, f"{target.action} has no parameter {name}")
            elif wrong := self.wrong(value, known[name], schema, name):
                self.fault(Rule.PARAMETER, wrong)
            elif isinstance(value, list) and len(value) > MOST.get(name, len(value)):
                self.fault(Rule.PARAMETER, f"{name} holds {len(value)} items, and may hold {MOST[name]}")
        for name in STATED.get(target.action, ()):
            if body.get(name) is None:
                self.fault(Rule.PARAMETER, f"{target.action} does not state {name}")

    def json_body(self, call: _Call) -> object:
        if not call.headers.get("content-type", "").lower().startswith("application/json"):
            self.fault(Rule.CONTENT_TYPE, "the request's body has no JSON content type")
        try:
            return json.loads(call.body or b"")
        except ValueError:
            return None

    # Answers.

    def reply(self, call: _Call, asked: tuple[_Target, Query] | None, reply: _Reply) -> None:
        if reply.status >= 400:
            self.error(reply)
        elif asked is None:
            self.fault(Rule.STATUS, f"a wrong call was answered with {reply.status}")
        elif asked[0].kind == "action" and (
            returned := Schema.kept(call.version).types[asked[0].type].returns.get(asked[0].action)
        ):
            self.returned(call, asked[0], reply, Property(type=returned))
        elif asked[0].kind == "action":
            if reply.status != 204 or reply.text:
                self.fault(Rule.STATUS, f"{asked[0].action} was answered with {reply.status}, not with an empty 204")
        elif reply.status != 200:
            self.fault(Rule.STATUS, f"a read was answered with {reply.status}")
        else:
            self.answer(call, *asked, self.json_reply(reply))

    def returned(self, call: _Call, target: _Target, reply: _Reply, known: Property) -> None:
        """Judge what an action answers with."""
        if reply.status != 200:
            self.fault(Rule.STATUS, f"{target.action} was answered with {reply.status}")
            return
        body = self.json_reply(reply)
        if not isinstance(body, dict) or set(body) != {"@odata.context", "value"}:
            self.fault(Rule.RECORD, f"{target.action} was answered without a value in a @odata.context")
        elif wrong := self.wrong(body["value"], known, Schema.kept(call.version), "value"):
            self.fault(Rule.RECORD, f"{target.action}: {wrong}")

    def json_reply(self, reply: _Reply) -> object:
        if not reply.headers.get("content-type", "").lower().startswith("application/json"):
            self.fault(Rule.CONTENT_TYPE, "the answer's body has no JSON content type")
        try:
            return json.loads(reply.text)
        except ValueError:
            return None

    def error(self, reply: _Reply) -> None:
        if reply.status == 503 and reply.headers.get("content-type", "").startswith("text/html"):
            return  # a gateway's page
        body = self.json_reply(reply)
        error = body.get("error") if isinstance(body, dict) else None
        if not isinstance(error, dict) or set(cast("Json", body)) != {"error"}:
            self.fault(Rule.ERROR, f"a {reply.status} without an error object")
            return
        if unknown := set(error) - {"code", "message", "innerError", "details", "target"}:
            self.fault(Rule.ERROR, f"the error holds {sorted(unknown)}")
        if not isinstance(error.get("code"), str) or not isinstance(error.get("message"), str) or not error["code"]:
            self.fault(Rule.ERROR, "the error's code and message must be texts")
        inner = error.get("innerError", {})
        if not isinstance(inner, dict) or not all(isinstance(one, str | dict) for one in inner.values()):
            self.fault(Rule.ERROR, "innerError must be an object of texts")

    def answer(self, call: _Call, target: _Target, query: Query, body: object) -> None:
        if not isinstance(body, dict) or not isinstance(body.get("@odata.context"), str):
            self.fault(Rule.RECORD, "the answer is no JSON object with @odata.context")
            return
        schema = Schema.kept(call.version)
        if target.kind == "entity":
            self.record(body, target.type, schema, query.select)
            return
        rows = body.get("value")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self.fault(Rule.RECORD, "a list has no value of records")
            return
        if unknown := {name for name in body if name != "value" and not name.startswith("@odata.")}:
            self.fault(Rule.RECORD, f"a list holds {sorted(unknown)} beside its value")
        if query.top is not None and len(rows) > query.top:
            self.fault(Rule.QUERY, f"{len(rows)} records, though $top is {query.top}")
        for row in rows:
            self.record(row, target.type, schema, query.select)
        if "@odata.nextLink" in body:
            self.next_link(call, body["@odata.nextLink"])

    def next_link(self, call: _Call, link: object) -> None:
        try:
            to = urlsplit(link if isinstance(link, str) else "")
        except ValueError:
            to = urlsplit("")
        if (to.scheme, to.netloc, unquote(to.path)) != (call.url.scheme, call.url.netloc, unquote(call.url.path)):
            self.fault(Rule.NEXT_LINK, f"the next page of {call.url.path} is {link}")
        elif not {*parse_qsl(to.query)} >= {pair for pair in parse_qsl(call.url.query) if pair[0] != "$skiptoken"}:
            self.fault(Rule.NEXT_LINK, f"the next page of {call.url.path} leaves out some of the query")

    def record(self, row: Mapping[str, object], name: str, schema: Schema, select: Sequence[str] = ()) -> None:
        own = schema.types[name]
        found = {key: value for key, value in row.items() if "@odata." not in key}
        for key, value in found.items():
            if key not in own.properties:
                self.fault(Rule.RECORD, f"{schema.version} {name} has no property {key}")
            elif wrong := self.wrong(value, own.properties[key], schema, key):
                self.fault(Rule.RECORD, f"{name}: {wrong}")
        if row.get("@odata.type") not in (None, f"#microsoft.graph.{name}"):
            self.fault(Rule.RECORD, f"a {name} says that it is a {row['@odata.type']}")
        if select and set(found) != set(select):
            missing, more = set(select) - set(found), set(found) - set(select)
            self.fault(Rule.SELECT, f"$select of {name}: missing {sorted(missing)}, not asked for {sorted(more)}")

    def wrong(self, value: object, known: Property, schema: Schema, name: str) -> str:
        """What is wrong with a value; empty when nothing is."""
        if value is None:
            undated = known.type == "DateTimeOffset" and not self.quirks.never_dates
            odd = undated or self.quirks.deleted_record_stub
            return "" if odd or (known.nullable and known.item is None) else f"{name} is null"
        if known.item is None:
            return self.wrong_item(value, known.type, schema, name)
        if not isinstance(value, list):
            return f"{name} is no list"
        return next((wrong for one in value if (wrong := self.wrong_item(one, known.item, schema, name))), "")

    def wrong_item(self, value: object, type_: str, schema: Schema, name: str) -> str:
        if type_ in schema.enums:
            allowed = (*schema.enums[type_], *(UNPUBLISHED.get(name, ()) if self.quirks.strange_enum_members else ()))
            return "" if value in allowed else f"{name}: {value!r} is no member of {type_}"
        good = {
            "String": isinstance(value, str),
            "Binary": isinstance(value, str),
            "Boolean": isinstance(value, bool),
            "Int32": _whole(value, 2**31),
            "Int64": _whole(value, 2**63),
            "Double": isinstance(value, int | float) and not isinstance(value, bool),
            "DateTimeOffset": isinstance(value, str) and _INSTANT.fullmatch(value) is not None,
            "Guid": isinstance(value, str) and _GUID.fullmatch(value) is not None,
        }.get(type_)
        if good is None:
            good = isinstance(value, dict)
            if isinstance(value, dict) and type_ in schema.types:
                self.record(value, type_, schema)
        return "" if good else f"{name}: {value!r} is no {type_}"

    # $batch.

    def batch(self, call: _Call, reply: _Reply) -> list[Fault]:
        """Judge a $batch whole, and give the faults of its items."""
        if call.method != "POST":
            self.fault(Rule.METHOD, f"$batch does not take {call.method}")
            return []
        body = self.json_body(call)
        items = body.get("requests") if isinstance(body, dict) else None
        if not isinstance(items, list) or not 0 < len(items) <= LIMIT or not all(isinstance(i, dict) for i in items):
            self.fault(Rule.BATCH_REQUEST, f"a $batch holds a list of 1 to {LIMIT} requests")
            items = []
        ids = [item.get("id") for item in items]
        if not all(isinstance(one, str) and one for one in ids) or len(set(map(str, ids))) < len(ids):
            self.fault(Rule.BATCH_REQUEST, "the ids of a $batch are texts, and no two the same")
        replies: dict[str, Json] = {}
        if reply.status == 200:
            replies = self.batch_replies(reply, [str(one) for one in ids])
        elif reply.status >= 400:
            self.error(reply)
        elif reply.status:
            self.fault(Rule.STATUS, f"a $batch was answered with {reply.status}")
        found: list[Fault] = []
        for item in items:
            judge = _Judge(self.entry, str(item.get("id")), self.quirks)
            judge.batch_item(item, call, replies.get(judge.item))
            found += judge.faults
        return found

    def batch_replies(self, reply: _Reply, ids: Sequence[str]) -> dict[str, Json]:
        body = self.json_reply(reply)
        responses = body.get("responses") if isinstance(body, dict) else None
        if not isinstance(responses, list) or not all(isinstance(one, dict) for one in responses):
            self.fault(Rule.BATCH_ANSWER, "a $batch is answered without a list of responses")
            return {}
        answered = [one.get("id") for one in responses]
        if sorted(map(str, answered)) != sorted(ids):
            self.fault(Rule.BATCH_ANSWER, f"requests {sorted(ids)} are answered as {sorted(map(str, answered))}")
        return {str(one.get("id")): one for one in responses}

    def batch_item(self, item: Json, outer: _Call, reply: Json | None) -> None:
        url, headers = item.get("url"), item.get("headers", {})
        if not isinstance(url, str) or item.get("method") not in _BATCH_METHODS:
            self.fault(Rule.BATCH_REQUEST, "a request of a $batch has a method and a url")
            return
        if not relative(url) or re.match(r"/?(v1\.0|beta)/|/?\$batch", unquote(url)):
            self.fault(Rule.BATCH_REQUEST, f"{url} is not relative to the version")
            return
        if not isinstance(headers, dict) or not all(isinstance(one, str) for one in headers.values()):
            self.fault(Rule.BATCH_REQUEST, "the headers of a request are an object of texts")
            return
        if unknown := set(item) - {"id", "method", "url", "headers", "body", "dependsOn"}:
            self.fault(Rule.BATCH_REQUEST, f"a request of a $batch holds {sorted(unknown)}")
        body = json.dumps(item["body"]).encode() if "body" in item else None
        origin = f"{outer.url.scheme}://{outer.url.netloc}/{outer.version}"
        call = _Call(
            str(item["method"]), outer.version, urlsplit(f"{origin}/{url.removeprefix('/')}"), _lower(headers), body
        )
        asked = self.call(call)
        if reply is None:
            return
        status, replied = reply.get("status"), reply.get("headers", {})
        if not isinstance(status, int) or isinstance(status, bool) or not isinstance(replied, dict):
            self.fault(Rule.BATCH_ANSWER, "a response has a status and headers")
            return
        content = reply.get("body")
        text = "" if content is None else content if isinstance(content, str) else json.dumps(content)
        self.reply(call, asked, _Reply(status, _lower(replied), text))


def check(har: Mapping[str, object], quirks: Quirks | None = None) -> list[Fault]:
    """Judge a recording. `quirks` are those of the tenant that answered; by default a tenant's defaults.

    Calls for a token are passed over, and answers that were cut off (status 0) are not judged. Never raises for what
    the recording holds: what is no HAR is a fault too.
    """
    log = har.get("log")
    entries = log.get("entries") if isinstance(log, dict) else None
    if not isinstance(entries, list):
        return [Fault(0, "", Rule.HAR, "there is no log with entries")]
    quirks = Quirks() if quirks is None else quirks
    return [fault for number, entry in enumerate(entries) for fault in _entry(number, entry, quirks)]


def _entry(number: int, entry: Json, quirks: Quirks) -> Iterator[Fault]:
    judge = _Judge(number, "", quirks)
    try:
        request, response = cast("Json", entry["request"]), cast("Json", entry["response"])
        url = urlsplit(str(request["url"]))
        posted, content = cast("Json | None", request.get("postData")), cast("Json", response["content"])
        headers = _pairs(request["headers"])
        body = None if posted is None else str(posted["text"]).encode()
        reply = _Reply(cast("int", response["status"]), _pairs(response["headers"]), str(content.get("text", "")))
        method = str(request["method"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        yield Fault(number, "", Rule.HAR, f"the entry does not read: {error!r}")
        return
    if url.path.endswith("/oauth2/v2.0/token"):
        return
    version = url.path.split("/")[1] if "/" in url.path else ""
    if version not in ("v1.0", "beta"):
        yield Fault(number, "", Rule.PATH, f"Graph has no version {version!r}")
        return
    if not (said := headers.get("authorization", "")) or said != "REDACTED":
        judge.fault(Rule.TOKEN, "the token is recorded" if said else "the call carries no token")
    call = _Call(method, "v1.0" if version == "v1.0" else "beta", url, headers, body)
    if call.path == "$batch":
        items = judge.batch(call, reply)
        yield from judge.faults
        yield from items
        return
    asked = judge.call(call)
    if reply.status:
        judge.reply(call, asked, reply)
    yield from judge.faults


def _whole(value: object, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -limit <= value < limit


def _lower(headers: Mapping[str, object]) -> dict[str, str]:
    return {name.lower(): str(value) for name, value in headers.items()}


def _pairs(headers: object) -> dict[str, str]:
    return {str(one["name"]).lower(): str(one["value"]) for one in cast("list[Json]", headers)}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m sandbox.graph_schema.check TRAFFIC.har", file=sys.stderr)
        return 2
    try:
        har = json.loads(Path(arguments[0]).read_text("utf-8"))
    except (OSError, ValueError) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 2
    faults = check(har if isinstance(har, dict) else {})
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
