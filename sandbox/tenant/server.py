"""The tenant over HTTP: Graph's calls, the token endpoint, and /sandbox/... to look behind the scenes."""

import asyncio
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox.tenant.approvals import Decision
from sandbox.tenant.calls import Answer, Call, Fault
from sandbox.tenant.devices import Behaviour, Device, Json, Truth
from sandbox.tenant.graph import Tenant
from sandbox.tenant.groups import MemberError
from sandbox.tenant.har import HarFile
from sandbox.tenant.pace import paced
from sandbox.tenant.quirks import Quirks

_TRUTH = TypeAdapter(Truth)
_DECISION: TypeAdapter[Decision] = TypeAdapter(Decision)


class _Cut(Response):
    """No answer at all: the connection is closed."""

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        await scope["sandbox.cut"]()


def cuttable(app: ASGIApp) -> ASGIApp:
    """Let an app close its connection without answering, which ASGI itself has no word for.

    uvicorn's `receive` is a method of the object that holds the connection's transport; under another server a
    `_Cut` fails loudly.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def cut() -> None:
            cycle: object = getattr(receive, "__self__", None)
            transport: object = getattr(cycle, "transport", None)
            if not isinstance(transport, asyncio.Transport):
                raise TypeError("cutting a connection needs uvicorn")
            transport.abort()
            while (await receive())["type"] != "http.disconnect":
                pass

        await app({**scope, "sandbox.cut": cut}, receive, send)

    return wrapped


def build_app(
    tenant: Tenant,
    *,
    har: HarFile | None = None,
    speed: float = 1,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> ASGIApp:
    """Serve a tenant, recording to `har`. Durations at /sandbox are simulated ones, `speed` times the real."""

    async def graph(request: Request) -> Response:
        began, tick = clock(), time.perf_counter()
        body = await request.body()
        call = Call(
            method=request.method,
            path=request.scope["raw_path"].decode("ascii").split("?")[0],
            query=tuple(parse_qsl(request.url.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=body,
            base_url=f"{request.url.scheme}://{request.url.netloc}",
        )
        await _on_the_way()
        answer = tenant.answer(call, clock())
        await _on_the_way()
        return _respond(request, body, answer, began, tick)

    async def _on_the_way() -> None:
        """A call may take long to arrive, and its answer too."""
        if tenant.quirks.answers_within:
            await asyncio.sleep(random.random() * tenant.quirks.answers_within.total_seconds() / 2)

    async def token(request: Request) -> Response:
        began, tick = clock(), time.perf_counter()
        body = await request.body()
        answer = _token(tenant, request.path_params["tenant"], body.decode("utf-8", "replace"))
        tenant.counts.add("POST /{tenant}/oauth2/v2.0/token", answer, batched=False)
        return _respond(request, body, answer, began, tick)

    def _respond(request: Request, body: bytes, answer: Answer, began: datetime, tick: float) -> Response:
        content = b"" if answer.cut else answer.encoded()
        headers = {} if answer.cut else answer.headers
        if har is not None:
            har.add(
                began=began,
                took_ms=round((time.perf_counter() - tick) * 1000, 3),
                method=request.method,
                url=str(request.url),
                request_headers=request.headers.items(),
                request_body=body,
                status=0 if answer.cut else answer.status,
                response_headers=headers.items(),
                response_body=content,
            )
        return _Cut() if answer.cut else Response(content, answer.status, headers)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "devices": len(tenant.fleet.devices)})

    async def devices(request: Request) -> Response:
        now = clock()
        tenant.fleet.advance(now)
        serial = request.path_params.get("serial")
        found = tenant.fleet.devices if serial is None else _named(serial)
        return JSONResponse({"now": now.isoformat(), "devices": [_truth(device, now) for device in found]})

    async def change_device(request: Request) -> Response:
        now = clock()
        tenant.fleet.advance(now)
        change = await _object(request)
        for device in _named(request.path_params["serial"]):
            power = change.pop("power", None)
            if power not in (None, "on", "off"):
                raise HTTPException(400, 'power must be "on" or "off"')
            if change:
                simulated = paced(device.behaviour, 1 / speed).model_dump(mode="json")
                device.behave(paced(_valid(Behaviour, {**simulated, **change}), speed))
            if power is not None:
                tenant.fleet.switch(device, on=power == "on", now=now)
        return await devices(request)

    async def change_quirks(request: Request) -> Response:
        tenant.fleet.advance(clock())
        simulated = paced(tenant.quirks, 1 / speed).model_dump(mode="json")
        new = _valid(Quirks, {**simulated, **await _object(request)})
        tenant.change_quirks(paced(new, speed))
        return JSONResponse(new.model_dump(mode="json"))

    async def arm(request: Request) -> Response:
        if request.method == "DELETE":
            tenant.faults.clear()
            return JSONResponse({"armed": None})
        fault = _valid(Fault, await _object(request))
        tenant.faults.arm(fault)
        return JSONResponse({"armed": fault.model_dump(mode="json")})

    async def decide(request: Request) -> Response:
        change = await _object(request)
        try:
            decision = _DECISION.validate_python(change.get("decision", "approved"))
        except ValidationError as error:
            raise HTTPException(400, str(error)) from None
        code = change.get("code")
        decided = tenant.approvals.decide(None if code is None else str(code), decision, clock(), tenant.quirks)
        return JSONResponse({"decided": decided})

    async def change_group(request: Request) -> Response:
        change = await _object(request)
        add, remove = (change.get(one, []) for one in ("add", "remove"))
        try:
            group = tenant.groups.change(request.path_params["name"], _texts(add), _texts(remove), clock())
        except MemberError as error:
            raise HTTPException(404, str(error)) from None
        return JSONResponse({"id": group.id, "name": group.name, "members": sorted(group.members)})

    async def calls(_: Request) -> Response:
        return JSONResponse(tenant.counts.report())

    def _named(serial: str) -> tuple[Device, ...]:
        found = tenant.fleet.by_serial(serial)
        if not found:
            raise HTTPException(404, f"no device has the serial number {serial!r}")
        return found

    app = Starlette(
        routes=[
            Route("/sandbox/health", health),
            Route("/sandbox/devices", devices),
            Route("/sandbox/devices/{serial:path}", devices, methods=["GET"]),
            Route("/sandbox/devices/{serial:path}", change_device, methods=["POST"]),
            Route("/sandbox/calls", calls),
            Route("/sandbox/quirks", change_quirks, methods=["GET", "POST"]),
            Route("/sandbox/faults", arm, methods=["POST", "DELETE"]),
            Route("/sandbox/approvals", decide, methods=["POST"]),
            Route("/sandbox/groups/{name:path}", change_group, methods=["POST"]),
            Route("/{tenant}/oauth2/v2.0/token", token, methods=["POST"]),
            Route("/{path:path}", graph, methods=["GET", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"]),
        ],
    )
    return cuttable(app)


def _valid[Model: (Quirks, Behaviour, Fault)](model: type[Model], value: object) -> Model:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise HTTPException(400, "; ".join(f"{e['loc']}: {e['msg']}" for e in error.errors())) from None


async def _object(request: Request) -> Json:
    if not await request.body():
        return {}
    try:
        body = await request.json()
    except ValueError:
        raise HTTPException(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return body


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise HTTPException(400, "add and remove are lists of texts")
    return value


def _truth(device: Device, now: datetime) -> Json:
    shown: Json = _TRUTH.dump_python(device.truth(now), mode="json")
    return shown


def _token(tenant: Tenant, name: str, body: str) -> Answer:
    """Answer a client-credentials request. Any client id and secret will do; what is missing or odd will not.

    Source: https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow.
    """
    form = dict(parse_qsl(body))

    def refused(error: str, description: str) -> Answer:
        return Answer(400, {"error": error, "error_description": description}, {"Content-Type": "application/json"})

    if name != tenant.tenant_id:
        return refused("invalid_request", f"AADSTS90002: Tenant '{name}' not found.")
    if form.get("grant_type") != "client_credentials":
        return refused("unsupported_grant_type", "AADSTS70003: The app requested an unsupported grant type.")
    if not form.get("client_id"):
        return refused("invalid_request", "AADSTS900144: The request body must contain 'client_id'.")
    if not form.get("client_secret") and not form.get("client_assertion"):
        return refused("invalid_client", "AADSTS7000216: 'client_assertion' or 'client_secret' is required.")
    if not form.get("scope", "").endswith("/.default"):
        return refused("invalid_scope", "AADSTS1002012: The scope must be a resource with /.default.")
    granted: Json = {
        "token_type": "Bearer",
        "expires_in": 3599,
        "ext_expires_in": 3599,
        "access_token": tenant.token,
    }
    return Answer(200, granted, {"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store"})
