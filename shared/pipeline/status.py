"""What there is to know of a request or a device: read from the table alone, so that the front app can."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from shared.domain.guardrails import Halt, Terms
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.reasons import Reason
from shared.domain.reset import Event, EventKind, Reset
from shared.domain.states import TERMINAL, State
from shared.domain.story import Turnaround
from shared.state.rows import ClosedRecord, RequestState
from shared.state.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """One device of a request, or a name in it that leads to none."""

    reference: str
    state: State
    since: datetime
    intune_id: ManagedDeviceId | None = None
    serial_number: str | None = None
    name: str | None = None
    reason: Reason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStatus:
    """A request and its devices."""

    id: RequestId
    state: RequestState
    received_at: datetime
    ended: bool
    """Every device has ended: ready, refused, cancelled or failed."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Devices by state."""
    devices: tuple[DeviceStatus, ...] = ()
    reason: Reason | None = None
    """Why the request as a whole was refused."""
    terms: Terms | None = None
    """The approval that it needs or has, and its waves; None until its devices are known."""
    halt: Halt | None = None
    """The halt, while nothing is sent."""


async def request_status(store: Store, request: RequestId) -> RequestStatus | None:
    """The state of a request, or None where nothing is known of it (yet: its message may still be on the queue)."""
    known = await store.request(request)
    if known is None:
        return await _refused(store, request)
    devices = [_flying(stored.record) async for stored in store.in_flight(request=request)]
    devices += [_ended(closed) async for closed in store.closed(request)]
    counts: dict[str, int] = {}
    for device in devices:
        counts[device.state] = counts.get(device.state, 0) + 1
    refused = await _refused(store, request) if known.record.state is RequestState.REFUSED else None
    settled = known.record.state in (RequestState.EXPANDED, RequestState.REFUSED)
    return RequestStatus(
        id=request,
        state=known.record.state,
        received_at=known.record.received_at,
        ended=settled and all(device.state in TERMINAL for device in devices),
        counts=counts,
        devices=tuple(devices),
        reason=refused.reason if refused else None,
        terms=known.record.terms,
        halt=await store.halt(),
    )


async def _refused(store: Store, request: RequestId) -> RequestStatus | None:
    refusals = [event async for event in store.history(f"request:{request}") if event.kind is EventKind.REFUSED]
    if not refusals:
        return None
    last = refusals[-1]
    return RequestStatus(id=request, state=RequestState.REFUSED, received_at=last.at, ended=True, reason=last.reason)


def _flying(reset: Reset) -> DeviceStatus:
    return DeviceStatus(
        reference=reset.reference,
        state=reset.state,
        since=reset.since,
        intune_id=reset.device,
        serial_number=reset.before.serial_number,
        name=reset.before.name,
        reason=reset.reason,
    )


def _ended(closed: ClosedRecord) -> DeviceStatus:
    if closed.reset is not None:
        return _flying(closed.reset)
    event = closed.event
    return DeviceStatus(
        reference=event.reference,
        state=event.to_state or State.REFUSED,
        since=event.at,
        intune_id=event.device,
        reason=event.reason,
    )


async def turnarounds(store: Store, device: ManagedDeviceId) -> list[Turnaround]:
    """All turnarounds of a device of which something is kept, oldest first."""
    events = await history(store, device)
    requests = dict.fromkeys(event.request for event in events if event.request is not None)
    return [await _turnaround(store, request, device, events) for request in requests]


async def turnaround(store: Store, request: RequestId, device: ManagedDeviceId) -> Turnaround | None:
    """A device's turnaround for a request, or None where nothing is kept of it."""
    events = await history(store, device)
    named = any(event.request == request for event in events)
    return await _turnaround(store, request, device, events) if named else None


async def _turnaround(
    store: Store, request: RequestId, device: ManagedDeviceId, history_of_device: Sequence[Event]
) -> Turnaround:
    # In this order: a turnaround that ends in between is found among the ended ones.
    flying = await store.reset(device)
    closed = await store.end_of(request, device)
    known = await store.request(request)
    mine = flying.record if flying is not None and flying.record.request == request else None
    reset = closed.reset if closed is not None else mine
    asked = known.record if known is not None else reset
    events = tuple(event for event in history_of_device if event.request == request)
    return Turnaround(
        request=request,
        device=device,
        reference=reset.reference if reset is not None else events[0].reference,
        requester=asked.requester if asked is not None else None,
        reason=asked.ticket if asked is not None else None,
        received_at=known.record.received_at if known is not None else None,
        not_before=asked.not_before if asked is not None else None,
        ready_by=asked.ready_by if asked is not None else None,
        reset=reset,
        events=events,
        request_events=tuple(await history(store, f"request:{request}")),
    )


async def history(store: Store, about: str) -> list[Event]:
    """All that happened to a device (its Intune id) or a request (`request:ID`), oldest first."""
    return [event async for event in store.history(about)]
