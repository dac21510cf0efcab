"""Commands: cancel, retry, halt, resume. Each is a message on `reset-control`, and each is answered or recorded."""

import logging
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from shared.domain.guardrails import Halt
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.lifecycle import Command, Commanded
from shared.domain.notices import notice
from shared.domain.reasons import Code, Reason
from shared.domain.request import RESULTS_QUEUE
from shared.domain.reset import Event, EventKind
from shared.domain.states import State
from shared.pipeline.advance import advance, release
from shared.pipeline.intake import refuse
from shared.pipeline.parts import BATCH, Parts, flush, outbox_change, to_tell
from shared.pipeline.status import request_status
from shared.state import rows
from shared.state.rows import RequestState
from shared.state.table import Conflict

log = logging.getLogger(__name__)
UNFINISHED = frozenset({RequestState.RECEIVING, RequestState.ACCEPTED})


class _Contract(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    by: Annotated[str, Field(min_length=1, max_length=200)]
    """Who gives the command."""
    why: Annotated[str, Field(min_length=1, max_length=500)]


class DeviceCommand(_Contract):
    """Cancel or retry all devices of a request, or one of them."""

    command: Literal[Command.CANCEL, Command.RETRY]
    requestId: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,99}$")]  # noqa: N815 - the message's name
    intuneId: str | None = None  # noqa: N815 - the message's name


class HaltCommand(_Contract):
    """Stop every send, or go on with them."""

    command: Literal["halt", "resume"]


ControlMessage = Annotated[DeviceCommand | HaltCommand, Field(discriminator="command")]
_READER: TypeAdapter[DeviceCommand | HaltCommand] = TypeAdapter(ControlMessage)


async def control(parts: Parts, body: str) -> None:
    """Carry a command out. One that cannot be read is refused with an outcome."""
    try:
        message = _READER.validate_json(body)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'message'}: {e['msg']}"[:300] for e in error.errors()[:20]
        )
        await _record(parts, EventKind.COMMAND_REFUSED, "control", Reason(Code.MALFORMED, faults), None)
        return
    if isinstance(message, DeviceCommand):
        await _for_devices(parts, message)
    elif message.command == "halt":
        halt = Halt(message.by, message.why, parts.clock())
        await parts.store.commit([rows.put(rows.HALT, halt)])
        await _record(parts, EventKind.HALTED, message.by, Reason(Code.HALTED, message.why), None)
    else:
        await _resume(parts, message)


async def _for_devices(parts: Parts, message: DeviceCommand) -> None:
    request = RequestId(message.requestId)
    wanted = message.intuneId.lower() if message.intuneId else None
    cancels = message.command is Command.CANCEL
    if cancels and wanted is None:
        await _withdraw(parts, request, message)
    found = [stored.record async for stored in parts.store.in_flight(request=request)]
    named = [reset for reset in found if wanted in (None, reset.device)]
    if not named and not (cancels and await _cancelled(parts, request, wanted)):
        reason = Reason(Code.UNKNOWN_DEVICE, "No device of this request is in flight.")
        await _record(parts, EventKind.COMMAND_REFUSED, message.by, reason, request)
    for start in range(0, len(named), BATCH):
        batch = named[start : start + BATCH]
        commanded = Commanded(message.command, message.by, message.why)
        await advance(parts, {reset.device: [commanded] for reset in batch}, message.by)


async def _withdraw(parts: Parts, request: RequestId, message: DeviceCommand) -> None:
    """Keep what a request that is not wholly taken in still names from being taken in."""
    reason = Reason(Code.CANCELLED, message.why)
    while (known := await parts.store.request(request)) is not None and known.record.state in UNFINISHED:
        try:
            await refuse(parts, known, reason, message.by)
        except Conflict:
            continue


async def _cancelled(parts: Parts, request: RequestId, wanted: str | None) -> bool:
    """Whether it was cancelled already: just now, or before, as a message may come twice."""
    status = await request_status(parts.store, request)
    if status is None:
        return False
    if status.reason is not None and status.reason.code is Code.CANCELLED:
        return True
    return any(one.state is State.CANCELLED and wanted in (None, one.intune_id) for one in status.devices)


async def _resume(parts: Parts, message: HaltCommand) -> None:
    await parts.store.drop([rows.HALT])
    await _record(parts, EventKind.RESUMED, message.by, None, None)
    held: list[ManagedDeviceId] = []
    async for stored in parts.store.in_flight(state=State.HELD.value):
        reason = stored.record.reason
        if reason is not None and reason.code is Code.HALTED:
            held.append(stored.record.device)
    await release(parts, held, message.by)


async def _record(parts: Parts, kind: EventKind, who: str, reason: Reason | None, request: RequestId | None) -> None:
    """Write it into history, and tell it where it is an answer to somebody."""
    told = kind is EventKind.COMMAND_REFUSED
    event = Event(kind=kind, at=parts.clock(), who=who, request=request, reason=reason, told=told)
    outgoing = [to_tell(event.at, notice(event, RESULTS_QUEUE))] if told else []
    await parts.store.commit([rows.insert_event(event), *map(outbox_change, outgoing)])
    await flush(parts, outgoing)
    log.info("%s by %s", kind, who)
