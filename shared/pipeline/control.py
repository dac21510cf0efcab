"""Commands: cancel, retry, halt, resume. Each is a message on `reset-control`, and each is answered or recorded."""

import hashlib
import json
import logging
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from itertools import batched

from shared.domain import guardrails
from shared.domain.commands import READER, ApprovalCommand, DeviceCommand, HaltCommand
from shared.domain.guardrails import Approval, Terms
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.lifecycle import Command, Commanded, Declined
from shared.domain.notices import notice
from shared.domain.policy import Policy
from shared.domain.reasons import Code, Reason
from shared.domain.request import RESULTS_QUEUE, ResetRequest, checked, messages
from shared.domain.reset import Event, EventKind
from shared.domain.states import State
from shared.pipeline.advance import advance
from shared.pipeline.gate import approval_given, release, throw_halt
from shared.pipeline.parts import BATCH, MAX_ITEM, Parts, flush, outbox_change, to_requests, to_tell
from shared.pipeline.refusal import refuse
from shared.pipeline.status import request_status
from shared.state import rows
from shared.state.rows import EarlyApproval, RequestRecord, RequestState, Stored
from shared.state.store import Watermark
from shared.state.table import Change, Conflict

log = logging.getLogger(__name__)
UNFINISHED = frozenset({RequestState.RECEIVING, RequestState.ACCEPTED})


async def control(parts: Parts, body: str, only: Collection[str] | None = None) -> None:
    """Carry a command out, or `only` one of these. One that cannot be read is refused with an outcome."""
    message = checked(READER, body)
    if isinstance(message, tuple):
        await _record(parts, EventKind.COMMAND_REFUSED, "control", Reason(Code.MALFORMED, "; ".join(message)), None)
        return
    if only is not None and message.command not in only:
        reason = Reason(Code.MALFORMED, f"This queue takes only these commands: {', '.join(sorted(only))}.")
        await _record(parts, EventKind.COMMAND_REFUSED, message.by, reason, None)
    elif isinstance(message, DeviceCommand):
        await _for_devices(parts, message)
    elif isinstance(message, ApprovalCommand):
        await _approval(parts, message)
    elif message.command == "halt":
        await throw_halt(parts, message.by, message.why)
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
    again = False if cancels else await _ask_again(parts, request, wanted, message)
    if not named and not again and not (cancels and await _cancelled(parts, request, wanted)):
        words = "No device of this request is in flight" + (
            "." if cancels else ", or failed lately and was not reset since."
        )
        reason = Reason(Code.UNKNOWN_DEVICE, words)
        await _record(parts, EventKind.COMMAND_REFUSED, message.by, reason, request)
    for start in range(0, len(named), BATCH):
        batch = named[start : start + BATCH]
        commanded = Commanded(message.command, message.by, message.why)
        await advance(parts, {reset.device: [commanded] for reset in batch}, message.by)


async def _ask_again(parts: Parts, request: RequestId, wanted: str | None, message: DeviceCommand) -> bool:
    """Ask for the devices whose reset failed once more: as a new request of whoever retries, subject to all that a
    request is subject to. Its id follows from what failed and who says what, so that the message may come twice."""
    known = await parts.store.request(request)
    ends = [closed.event async for closed in parts.store.closed(request)]
    failed = {
        event.device: event.at
        for event in ends
        if event.to_state is State.FAILED and event.device is not None and wanted in (None, event.device)
    }
    said = json.dumps([[(device, at.isoformat()) for device, at in sorted(failed.items())], message.by, message.why])
    new_id = f"retry-{hashlib.sha256(said.encode()).hexdigest()[:12]}.{request[:80]}"
    events = [event async for event in parts.store.history(f"request:{request}")]
    if any(event.kind is EventKind.RETRIED and event.evidence.get("as") == new_id for event in events):
        return True
    devices = [device for device, at in sorted(failed.items()) if await _still_failed(parts, request, device, at)]
    if not devices or known is None:
        return False
    new = ResetRequest.model_validate(
        {
            "requestId": new_id,
            "requester": message.by,
            "reason": f"Retry of {request}: {message.why}"[:500],
            "devices": [{"intuneId": device} for device in devices],
            "outcomeQueue": known.record.outcome_queue,
        }
    )
    now = parts.clock()
    evidence = {"as": new.id, "devices": str(len(devices)), "why": message.why}
    event = Event(kind=EventKind.RETRIED, at=now, who=message.by, request=request, evidence=evidence)
    outgoing = to_requests(now, messages(new, MAX_ITEM))
    await parts.store.commit([rows.insert_event(event), *map(outbox_change, outgoing)])
    await flush(parts, outgoing)
    return True


async def _still_failed(parts: Parts, request: RequestId, device: ManagedDeviceId, at: datetime) -> bool:
    """Whether nothing was sent to the device since it failed, and it failed lately: else it may have its next user."""
    if at + parts.policy.request_valid_for <= parts.clock():
        return False
    since = [event async for event in parts.store.history(device) if event.request != request and event.at > at]
    return not any(event.to_state is State.SENDING for event in since)


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


async def _approval(parts: Parts, message: ApprovalCommand) -> None:
    """Note what a second person decided, in one transaction with the request it is about; then its devices go on."""
    request = RequestId(message.requestId)
    approval = Approval(message.by, message.why, parts.clock(), message.digest)
    while True:
        known = await parts.store.request(request)
        record = known.record if known is not None else None
        fault = _approval_fault(record, approval, message.command == "approve", parts.policy)
        if fault is not None:
            await _record(parts, EventKind.COMMAND_REFUSED, message.by, fault, request)
            return
        try:
            if known is None or known.record.terms is None:
                # The approval of a plan, kept until the request comes: who takes it in meanwhile meets a conflict.
                await parts.store.commit(_early(known, request, approval))
                if known is None and await parts.store.request(request) is not None:
                    continue
                return
            if message.command == "approve":
                await _approve(parts, known, known.record.terms, approval)
            else:
                await _decline(parts, known, known.record.terms, approval)
        except Conflict:
            continue
        break
    devices = [found.record.device async for found in parts.store.in_flight(request=request)]
    if message.command == "approve":
        await release(parts, devices, message.by)
        return
    for batch in batched(devices, BATCH, strict=False):
        await advance(parts, {device: [Declined(message.by, message.why)] for device in batch}, message.by)


def _approval_fault(record: RequestRecord | None, approval: Approval, approves: bool, policy: Policy) -> Reason | None:
    """Why this person may not decide this; whether an approval is of what is not known yet is seen once it is."""
    if approves and (record is None or (record.terms is None and record.state in UNFINISHED)):
        return guardrails.approval_fault(approval, "", approval.digest, policy)
    if record is None or record.terms is None or not record.terms.needs:
        return Reason(Code.NOTHING_TO_APPROVE)
    if record.terms.declined and approves:
        return Reason(Code.APPROVAL_REFUSED, record.terms.declined)
    return guardrails.approval_fault(approval, record.requester, record.terms.digest, policy)


def _early(known: Stored[RequestRecord] | None, request: RequestId, approval: Approval) -> list[Change]:
    early = rows.put(rows.approval_key(request), EarlyApproval(approval))
    return [early] if known is None else [early, *rows.update_request(known, known.record)]


async def _approve(parts: Parts, known: Stored[RequestRecord], terms: Terms, approval: Approval) -> None:
    """The message may come twice: only an approval that is over is renewed by the same again."""
    earlier = terms.approval
    same = earlier is not None and (earlier.by, earlier.digest) == (approval.by, approval.digest)
    if same and earlier and approval.at < guardrails.approved_until(earlier, known.record.not_before, parts.policy):
        return
    record = replace(known.record, terms=replace(terms, approval=approval))
    event = approval_given(record, terms, approval, approval.at)
    outgoing = [to_tell(event.at, notice(event, record.outcome_queue))]
    changes = [*rows.update_request(known, record), rows.insert_event(event), *map(outbox_change, outgoing)]
    await parts.store.commit(changes)
    await flush(parts, outgoing)


async def _decline(parts: Parts, known: Stored[RequestRecord], terms: Terms, said: Approval) -> None:
    """From now on nothing of it is sent, approved or not. The message may come twice, and the first to decline did."""
    if terms.declined:
        return
    reason = Reason(Code.APPROVAL_REFUSED, f"By {said.by}: {said.why}")
    event = Event(kind=EventKind.DECLINED, at=said.at, who=said.by, request=known.record.id, reason=reason)
    record = replace(known.record, terms=replace(terms, declined=reason.detail))
    await parts.store.commit([*rows.update_request(known, record), rows.insert_event(event)])


async def _resume(parts: Parts, message: HaltCommand) -> None:
    while True:
        found = await parts.store.halted()
        if found is not None and message.at is not None and message.at < found.record.at:
            reason = Reason(Code.HALTED, f"By {found.record.by}, after this resume was given: {found.record.why}")
            await _record(parts, EventKind.COMMAND_REFUSED, message.by, reason, None)
            return
        # In one transaction: whoever finds no halt finds the time up to which all is excused.
        changes = [rows.put(rows.RESUMED, Watermark(parts.clock()))]
        try:
            await parts.store.commit([*changes, rows.delete(rows.HALT, found.etag)] if found else changes)
        except Conflict:
            continue
        break
    await _record(parts, EventKind.RESUMED, message.by, None, None)
    held = [found.record.device async for found in parts.store.in_flight(state=State.HELD.value)]
    await release(parts, held, message.by)


async def _record(parts: Parts, kind: EventKind, who: str, reason: Reason | None, request: RequestId | None) -> None:
    """Write it into history, and tell it: commands are answered."""
    event = Event(kind=kind, at=parts.clock(), who=who, request=request, reason=reason, told=True)
    outgoing = [to_tell(event.at, notice(event, RESULTS_QUEUE))]
    await parts.store.commit([rows.insert_event(event), *map(outbox_change, outgoing)])
    await flush(parts, outgoing)
    log.info("%s", kind)
