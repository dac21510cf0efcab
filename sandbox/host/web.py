"""HTTP triggers and the few addresses of the host's own, as an ASGI app.

https://learn.microsoft.com/azure/azure-functions/functions-bindings-http-webhook-trigger
"""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route as AsgiRoute

from sandbox.host import routes
from sandbox.host.declared import HostError
from sandbox.host.protos import RpcHttp, TypedData
from sandbox.host.worker import Function, Worker

log = logging.getLogger("sandbox.host")

METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"]
OPEN = "ANONYMOUS"
LEVELS = (OPEN, "FUNCTION", "ADMIN")


@dataclass(frozen=True)
class Endpoint:
    """Where an HTTP function answers; `methods` is empty when any will do."""

    function: Function
    route: routes.Route
    methods: frozenset[str]
    level: str


def endpoint(function: Function, prefix: str) -> Endpoint:
    """Read an HTTP trigger; raises HostError by name."""
    level = function.text("authLevel", "FUNCTION").upper()
    if level not in LEVELS:
        raise HostError(f"the function {function.name} has the authLevel {level}, which this host does not model")
    methods = function.trigger.get("methods") or []
    assert isinstance(methods, list)
    try:
        route = routes.parse(function.text("route", function.name), prefix)
    except routes.RouteError as error:
        raise HostError(f"the function {function.name}: {error}") from error
    return Endpoint(function, route, frozenset(str(method).upper() for method in methods), level)


class Web:
    """Serves the endpoints; `timers` may be run by name through the admin address."""

    def __init__(
        self,
        endpoints: list[Endpoint],
        timers: Mapping[str, Callable[[], Awaitable[None]]],
        key: str,
        worker: Worker,
        *,
        homepage: bool,
    ) -> None:
        self._endpoints = sorted(endpoints, key=lambda entry: entry.route.rank)
        self._timers = timers
        self._key = key
        self._worker = worker
        self._homepage = homepage
        self._started: set[asyncio.Task[None]] = set()

    def app(self) -> Starlette:
        """The ASGI app."""
        return Starlette(
            routes=[
                AsgiRoute("/admin/host/status", self._status, methods=["GET"]),
                AsgiRoute("/admin/functions/{name}", self._run_timer, methods=["POST"]),
                AsgiRoute("/{path:path}", self._function, methods=METHODS),
            ]
        )

    async def _status(self, _request: Request) -> Response:
        return JSONResponse({"id": "sandbox", "state": "Running", "version": "4.0", "errors": []})

    async def _run_timer(self, request: Request) -> Response:
        if not self._has_key(request):
            return Response(status_code=401)
        run = self._timers.get(request.path_params["name"])
        if run is None:
            return PlainTextResponse("Only timers that this host runs can be started here.", status_code=404)
        task = asyncio.ensure_future(run())
        self._started.add(task)  # a task that nobody holds may vanish
        task.add_done_callback(self._started.discard)
        return Response(status_code=202)

    async def _function(self, request: Request) -> Response:
        path = request.url.path if not request.scope.get("path") else str(request.scope["path"])
        if path == "/" and self._homepage:
            return PlainTextResponse("Your Functions app is up and running (sandbox host).")
        for entry in self._endpoints:
            params = entry.route.match(path)
            if params is not None and (not entry.methods or request.method in entry.methods):
                if entry.level != OPEN and not self._has_key(request):
                    return Response(status_code=401)
                return await self._call(entry.function, request, params)
        return Response(status_code=404)  # also where only the method is wrong, as in Azure

    def _has_key(self, request: Request) -> bool:
        given = request.headers.get("x-functions-key") or request.query_params.get("code") or ""
        return hmac.compare_digest(given.encode(), self._key.encode())

    async def _call(self, function: Function, request: Request, params: dict[str, str]) -> Response:
        data = RpcHttp(
            method=request.method,
            url=str(request.url),
            headers={name: ",".join(request.headers.getlist(name)) for name in request.headers},
            query={name: ",".join(request.query_params.getlist(name)) for name in request.query_params},
            params=params,
            body=TypedData(bytes=await request.body()),
        )
        outcome = await self._worker.invoke(function, TypedData(http=data))
        if outcome.error is not None:
            return Response(status_code=500)
        return _response(outcome.value)


def _response(value: TypedData | None) -> Response:
    if value is None:
        return Response(status_code=204)
    if value.kind != "http":
        return PlainTextResponse(value.value)
    answer = value.value
    response = Response(answer.body.value, status_code=int(answer.status_code))
    for name, text in answer.headers.items():
        response.headers[name] = text
    for cookie in answer.cookies or ():
        response.headers.append("set-cookie", _cookie(cookie))
    return response


def _cookie(cookie: Any) -> str:  # Any: a protos.RpcHttpCookie
    made: SimpleCookie = SimpleCookie({cookie.name: cookie.value})
    morsel = made[cookie.name]
    for name, field in (("domain", cookie.domain), ("path", cookie.path), ("max-age", cookie.max_age)):
        if field is not None and field.value != "":
            morsel[name] = int(field.value) if name == "max-age" else field.value
    morsel["secure"] = bool(cookie.secure and cookie.secure.value)
    morsel["httponly"] = bool(cookie.http_only and cookie.http_only.value)
    if cookie.same_site:
        morsel["samesite"] = "None" if cookie.same_site.name == "ExplicitNone" else cookie.same_site.name
    return morsel.OutputString()
