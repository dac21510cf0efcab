"""POST $batch: up to 20 calls in one, each counted and answered by itself, in no promised order.

Source: https://learn.microsoft.com/graph/json-batching.
"""

import base64
import json
import random
from collections.abc import Callable
from urllib.parse import parse_qsl, unquote, urlsplit

from sandbox.tenant.calls import Answer, Call
from sandbox.tenant.devices import Json
from sandbox.tenant.errors import bad_request

LIMIT = 20
_METHODS = ("GET", "POST", "PATCH", "PUT", "DELETE")


def answer_batch(call: Call, version: str, answer: Callable[[Call], Answer], rng: random.Random) -> Answer:
    """Answer each item; raises GraphError 400 for a batch that is malformed as a whole."""
    items = _items(call)
    waiting, done = list(items), dict[str, Answer]()
    rng.shuffle(waiting)
    while waiting:
        ready = [item for item in waiting if all(one in done for one in _depends(item))]
        if not ready:
            raise bad_request("The dependencies of the batch requests form a circle.")
        for item in ready:
            failed = any(done[one].status >= 400 for one in _depends(item))
            done[str(item["id"])] = _failed_dependency() if failed else answer(_call(item, call, version))
            waiting.remove(item)
    responses = [_response(key, one) for key, one in done.items()]
    rng.shuffle(responses)
    return Answer(200, {"responses": responses}, cut=any(one.cut for one in done.values()))


def _items(call: Call) -> list[Json]:
    if not call.headers.get("content-type", "").lower().startswith("application/json"):
        raise bad_request("A missing or unsupported content type header was found when trying to read a message.")
    try:
        body = json.loads(call.body)
    except ValueError:
        raise bad_request("Invalid batch payload format.") from None
    items = body.get("requests") if isinstance(body, dict) else None
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise bad_request("Invalid batch payload format.")
    if len(items) > LIMIT:
        raise bad_request(f"Number of batch request steps exceeds the maximum value of {LIMIT}.")
    known: set[str] = set()
    for item in items:
        key, url, method = item.get("id"), item.get("url"), item.get("method")
        if not isinstance(key, str) or not key or not isinstance(url, str) or method not in _METHODS:
            raise bad_request("Each batch request must have the strings id, method and url.")
        if key in known:
            raise bad_request("Request Id has to be unique in a batch.")
        known.add(key)
        if not relative(url) or "$batch" in unquote(url):
            raise bad_request(f"Invalid URL in batch request with id: {key}. It must be relative, and no batch itself.")
        headers = item.get("headers", {})
        if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
            raise bad_request(f"The headers of batch request with id: {key} must be an object of strings.")
        typed = any(name.lower() == "content-type" for name in headers)
        if "body" in item and not typed:
            raise bad_request(f"Write request with id: {key} does not contain Content-Type header or body.")
    for item in items:
        if not set(_depends(item)) <= known - {str(item["id"])}:
            raise bad_request(f"Batch request with id: {item['id']} depends on a request that is not in the batch.")
    return items


def relative(url: str) -> bool:
    """Whether a URL names no host, neither with a scheme nor as //host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return not parts.scheme and not parts.netloc


def _depends(item: Json) -> list[str]:
    depends = item.get("dependsOn") or []
    if not isinstance(depends, list) or not all(isinstance(one, str) for one in depends):
        raise bad_request("dependsOn must be a list of request ids.")
    return depends


def _call(item: Json, outer: Call, version: str) -> Call:
    parts = urlsplit(str(item["url"]))
    headers = item.get("headers") or {}
    body = item.get("body")
    # A string stands for a body that is not JSON, in Base64; anything else is the JSON itself.
    try:
        raw = b"" if body is None else base64.b64decode(body) if isinstance(body, str) else json.dumps(body).encode()
    except ValueError:
        raw = str(body).encode()
    return Call(
        method=str(item["method"]),
        path=f"/{version}/{parts.path.lstrip('/')}",
        query=tuple(parse_qsl(parts.query, keep_blank_values=True)),
        headers={str(k).lower(): str(v) for k, v in headers.items()} if isinstance(headers, dict) else {},
        body=raw,
        base_url=outer.base_url,
        batched=True,
    )


def _failed_dependency() -> Answer:
    message = "The request could not be completed because a request it depends on failed."
    return Answer(424, {"error": {"code": "FailedDependency", "message": message}})


def _response(key: str, answer: Answer) -> Json:
    response: Json = {"id": key, "status": answer.status, "headers": answer.headers}
    if answer.body is not None:
        response["body"] = answer.body
    return response
