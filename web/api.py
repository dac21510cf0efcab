"""The HTTP API: ask for resets, see how they stand. It puts messages on queues and reads the table, nothing else."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal

from azure.core.exceptions import AzureError
from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from shared.domain import record, story
from shared.domain.commands import DeviceCommand, HaltCommand
from shared.domain.guardrails import Halt, Terms
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.page import HEADERS, page
from shared.domain.reasons import WORDS, Code, Reason
from shared.domain.record import ResetRecord
from shared.domain.request import RefusedMessage, ResetRequest, Text, Value, messages, parse
from shared.domain.reset import Event
from shared.domain.states import State
from shared.messages.queues import MAX_BODY, REQUESTS, Queues
from shared.pipeline import status
from shared.pipeline.status import DeviceStatus, RequestStatus
from shared.state.rows import RequestState
from shared.state.store import Store

log = logging.getLogger(__name__)
MAX_UPLOAD = 2 * 1024 * 1024
"""Bytes of one posted request; more than 5,000 devices ever need."""

RequestIdInPath = Annotated[str, Path(alias="requestId", pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,99}$")]
DeviceIdInPath = Annotated[str, Path(alias="intuneId", pattern=r"^[0-9A-Fa-f-]{36}$")]


class _Answer(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Why(_Answer):
    """A reason: a code for machines, sentence and remedy for people."""

    code: Code
    message: str
    remedy: str

    @classmethod
    def of(cls, reason: Reason | None) -> "Why | None":
        return None if reason is None else cls(code=reason.code, message=reason.sentence, remedy=reason.remedy)


class Problem(_Answer):
    """A refusal of the call itself."""

    code: Code
    message: str
    remedy: str
    problems: tuple[str, ...] = ()


class Accepted(_Answer):
    """The request is on the queue. Whether its devices may be reset is told by its status and by notices."""

    request_id: str
    messages: int
    status: str
    """Path of its status."""


class DeviceView(_Answer):
    reference: str
    state: State
    since: datetime
    intune_id: str | None
    serial_number: str | None
    name: str | None
    why: Why | None

    @classmethod
    def of(cls, device: DeviceStatus) -> "DeviceView":
        return cls(
            reference=device.reference,
            state=device.state,
            since=device.since,
            intune_id=device.intune_id,
            serial_number=device.serial_number,
            name=device.name,
            why=Why.of(device.reason),
        )


class TermsView(_Answer):
    """The approval that a request needs or has, and its waves."""

    digest: str
    devices: int
    needs_approval: str
    approved_by: str | None
    waves: tuple[int, ...]
    wave: int
    stopped: str

    @classmethod
    def of(cls, terms: Terms | None) -> "TermsView | None":
        if terms is None:
            return None
        return cls(
            digest=terms.digest,
            devices=terms.devices,
            needs_approval=terms.needs,
            approved_by=terms.approval.by if terms.approval else None,
            waves=terms.waves,
            wave=terms.wave,
            stopped=terms.stopped,
        )


class HaltView(_Answer):
    """The halt: who threw it, why and when."""

    by: str
    why: str
    at: datetime


class StopBody(_Answer):
    """Who stops it, and why."""

    model_config = ConfigDict(extra="forbid")

    by: Value
    why: Text


class CancelBody(StopBody):
    """`intuneId`: only this device of the request."""

    intuneId: Value | None = None  # noqa: N815 - the message's name


class RequestView(_Answer):
    request_id: str
    state: RequestState
    received_at: datetime
    ended: bool
    counts: Mapping[str, int]
    devices: tuple[DeviceView, ...]
    why: Why | None
    terms: TermsView | None
    halt: HaltView | None

    @classmethod
    def of(cls, request: RequestStatus) -> "RequestView":
        return cls(
            request_id=request.id,
            state=request.state,
            received_at=request.received_at,
            ended=request.ended,
            counts=request.counts,
            devices=tuple(map(DeviceView.of, request.devices)),
            why=Why.of(request.reason),
            terms=TermsView.of(request.terms),
            halt=_halt_view(request.halt),
        )


class EventView(_Answer):
    at: datetime
    kind: str
    who: str
    request_id: str | None
    reference: str
    from_state: State | None
    to_state: State | None
    lasted_seconds: float | None
    evidence: Mapping[str, str]
    text: str
    """The event in words, safe to show."""
    why: Why | None

    @classmethod
    def of(cls, event: Event) -> "EventView":
        return cls(
            at=event.at,
            kind=event.kind,
            who=event.who,
            request_id=event.request,
            reference=event.reference,
            from_state=event.from_state,
            to_state=event.to_state,
            lasted_seconds=event.lasted.total_seconds() if event.lasted else None,
            evidence=event.evidence,
            text=story.passage(event).text,
            why=Why.of(event.reason),
        )


def create(store: Store, queues: Queues) -> FastAPI:
    """The API over these parts."""
    app = FastAPI(
        title="Turnaround",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        responses={503: {"model": Problem}},
        description="Ask for Windows devices to be returned to service by Autopilot Reset, and see how they stand.",
    )

    @app.exception_handler(AzureError)
    async def storage_failed(_request: Request, error: AzureError) -> Response:
        """Storage is down, or its rights, a SAS or a queue are missing: nothing that the caller could mend."""
        log.error("storage: %s", error.message)
        return _problem(503, Code.STORAGE_UNAVAILABLE, ())

    @app.post(
        "/api/v1/requests",
        status_code=202,
        response_model=Accepted,
        responses={409: {"model": Problem}, 413: {"model": Problem}, 422: {"model": Problem}},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": ResetRequest.model_json_schema(by_alias=True)}},
            }
        },
    )
    async def post_request(request: Request) -> Response:
        """Ask for devices to be reset. The same request again is the same request."""
        body = (await request.body()).decode("utf-8", "replace")
        parsed = parse(body, MAX_UPLOAD)
        if isinstance(parsed, RefusedMessage):
            return _problem(413 if parsed.code is Code.TOO_LARGE else 422, parsed.code, parsed.problems)
        try:
            texts = messages(parsed, MAX_BODY)
        except ValueError as error:  # it is a part already, and too large for one message
            return _problem(413, Code.TOO_LARGE, (f"message: {error}",))
        known = await store.request(parsed.id)
        if known is not None and known.record.header_digest != parsed.header_digest:
            return _problem(409, Code.REQUEST_ID_REUSED, ())
        for text in texts:
            await queues.send(REQUESTS, text)
        accepted = Accepted(request_id=parsed.id, messages=len(texts), status=f"/api/v1/requests/{parsed.id}")
        return JSONResponse(accepted.model_dump(mode="json", by_alias=True), 202)

    @app.post("/api/v1/requests/{requestId}/cancel", status_code=202)
    async def cancel_request(request_id: RequestIdInPath, body: CancelBody) -> None:
        """Withdraw a request, or one device of it, as far as its resets were not sent. Notices tell the outcome."""
        command = {"command": "cancel", "requestId": request_id, **body.model_dump(exclude_none=True)}
        await queues.send(REQUESTS, DeviceCommand.model_validate(command).model_dump_json(exclude_none=True))

    @app.post("/api/v1/halt", status_code=202)
    async def post_halt(body: StopBody) -> None:
        """Stop every send until somebody resumes, which is not done from here."""
        await queues.send(REQUESTS, HaltCommand(command="halt", by=body.by, why=body.why).model_dump_json())

    @app.get("/api/v1/halt", response_model=HaltView | None)
    async def get_halt() -> HaltView | None:
        """Who threw the halt, why and when; null while nothing is halted."""
        return _halt_view(await store.halt())

    @app.get("/api/v1/requests/{requestId}", response_model=RequestView, responses={404: {"model": Problem}})
    async def get_request(request_id: RequestIdInPath) -> RequestView | Response:
        """How a request and each of its devices stand."""
        found = await status.request_status(store, RequestId(request_id))
        return _unknown("request") if found is None else RequestView.of(found)

    @app.get("/api/v1/requests/{requestId}/history", response_model=list[EventView])
    async def get_request_history(request_id: RequestIdInPath) -> list[EventView]:
        """What happened to a request as a whole; its devices have histories of their own."""
        return [EventView.of(event) for event in await status.history(store, f"request:{request_id}")]

    @app.get("/api/v1/devices/{intuneId}/history", response_model=list[EventView])
    async def get_device_history(intune_id: DeviceIdInPath) -> list[EventView]:
        """Everything that Turnaround has seen and done with a device, oldest first."""
        return [EventView.of(event) for event in await status.history(store, intune_id.lower())]

    @app.get(
        "/api/v1/requests/{requestId}/devices/{intuneId}/record",
        response_model=ResetRecord,
        responses={200: {"content": {"text/html": {}}}, 404: {"model": Problem}},
    )
    async def get_record(
        request: Request,
        request_id: RequestIdInPath,
        intune_id: DeviceIdInPath,
        wanted: Annotated[Literal["json", "html"] | None, Query(alias="format")] = None,
    ) -> ResetRecord | Response:
        """The reset record of a device and a request: JSON, or a page to print for a browser or by `format`."""
        found = await status.turnaround(store, RequestId(request_id), ManagedDeviceId(intune_id.lower()))
        if found is None:
            return _unknown("turnaround")
        made = record.record(found, datetime.now(UTC))
        if wanted == "html" or (wanted is None and "text/html" in request.headers.get("accept", "")):
            return HTMLResponse(page(made), headers=HEADERS | {"Vary": "Accept"})
        content = made.model_dump(mode="json", by_alias=True)
        return JSONResponse(content, headers={"Cache-Control": "no-store", "Vary": "Accept"})

    @app.get("/api/v1/schemas/reset-record")
    async def get_record_schema() -> dict[str, object]:
        """JSON Schema of a reset record."""
        return record.schema()

    @app.get("/api/v1/schemas/reset-request")
    async def get_schema() -> dict[str, object]:
        """JSON Schema of a reset request, for queue messages and for this API."""
        return ResetRequest.model_json_schema(by_alias=True)

    return app


def _halt_view(halt: Halt | None) -> HaltView | None:
    return None if halt is None else HaltView(by=halt.by, why=halt.why, at=halt.at)


def _problem(http: int, code: Code, problems: tuple[str, ...]) -> JSONResponse:
    words = WORDS[code]
    problem = Problem(code=code, message=words.sentence, remedy=words.remedy, problems=problems)
    return JSONResponse(problem.model_dump(mode="json", by_alias=True), http)


def _unknown(what: str) -> JSONResponse:
    content = {
        "code": "not_found",
        "message": f"No such {what} is known.",
        "remedy": "If it was sent a moment ago, ask again: its message may still be on the queue.",
        "problems": [],
    }
    return JSONResponse(content, 404)
