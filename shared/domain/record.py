"""The reset record: what was asked, done, seen and proven for one device under one request, to be kept or printed.

`schema()` is its published JSON Schema. Its texts are data,
just as they came, but for those of the history, which are in our words: whoever shows them makes them safe to show
(`shown`) first, as `page` does.

Sources of what is stated about Autopilot Reset and about sanitization: learn.microsoft.com/autopilot,
windows-autopilot-reset and tutorial/reset/autopilot-reset-overview; NIST SP 800-88r2, "Guidelines for Media
Sanitization", September 2025 (doi.org/10.6028/NIST.SP.800-88r2).
"""

from datetime import datetime
from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from shared.domain import story
from shared.domain.reasons import Code
from shared.domain.reset import Event, EventKind, Reset
from shared.domain.states import TERMINAL, State
from shared.domain.story import Turnaround

NOT_A_CERTIFICATE = (
    "This record is not a certificate of data sanitization. An Autopilot Reset prepares a device for its next user "
    "inside the organisation. It is neither Clear, Purge nor Destroy in the terms of NIST SP 800-88 Rev. 2, Guidelines "
    "for Media Sanitization (September 2025): sanitize the device by a method of that publication before it leaves the "
    "organisation."
)
SEEN_THROUGH_GRAPH = (
    "Turnaround saw the device only through Microsoft Graph: what Intune, Entra and Autopilot show of it. It never "
    "reached the device itself and read nothing of its disk."
)
REMOVES = (
    "personal files, apps and settings",
    "the device's primary user in Intune",
    "the device's owner in Entra",
)
RESETS = "Region, language and keyboard are set again to their original values."
KEEPS = (
    "the device's identity and membership in Entra",
    "its enrolment in Intune",
    "Wi-Fi connection details",
    "provisioning packages that were applied before, and one on a USB drive that is plugged in when the reset starts",
    "SCEP certificates",
)
ABOUT_RESET = "https://learn.microsoft.com/autopilot/windows-autopilot-reset"
ABOUT_SANITIZATION = "https://doi.org/10.6028/NIST.SP.800-88r2"


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, populate_by_name=True, use_attribute_docstrings=True
    )


class AskedPart(_Part):
    """The request, as it came."""

    request_id: str
    requester: str | None
    """None where it is not kept any more; the same holds for the next two."""
    reason: str | None
    received_at: datetime | None
    """Turnaround's clock."""
    named_as: str
    """How the request names the device."""
    not_before: datetime | None
    ready_by: datetime | None


class ApprovalPart(_Part):
    """A second person's consent."""

    by: str
    at: datetime
    """Turnaround's clock."""
    why: str
    digest: str
    """SHA-256 of what was approved."""


class DevicePart(_Part):
    """The device as Intune showed it before the reset."""

    intune_id: str
    entra_device_id: str | None = None
    name: str | None = None
    serial_number: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    operating_system: str | None = None
    os_version: str | None = None
    enrolled_at: datetime | None = None
    """Graph's clock."""
    last_check_in: datetime | None = None
    """Graph's clock."""
    had_primary_user: bool | None = None
    """Who it was is not kept here."""
    read_at: datetime | None = None
    """When this was read, by Turnaround's clock; None: nothing is known of the device but its id."""


class OrderPart(_Part):
    """One order to reset the device. Intune takes at most one of a turnaround, whatever became of the others."""

    client_request_id: str
    """By it Microsoft's support finds the call."""
    committed_at: datetime
    """When it was about to be sent, by Turnaround's clock; it was sent within seconds."""
    answered_at: datetime | None = None
    """When it was known what became of it, by Turnaround's clock."""
    answer: str = ""
    code: Code | None = None


class ProofPart(_Part):
    """What Graph has shown of the reset. Times are on Graph's clock; the architecture page has the rules of proof."""

    order_taken_by_intune_after: datetime | None
    order_taken_by_intune_before: datetime | None
    taken_by: datetime | None
    """The device had the order by then."""
    silence_tested_at: datetime | None
    """A sync was forced then, while a device that is being reset cannot answer it."""
    returned_at: datetime | None
    """First check-in after the reset."""
    return_confirmed: bool
    """It checked in once more, so soon that it cannot be resetting."""
    last_check_in: datetime | None
    action_done: bool
    primary_user_gone: bool
    action_open_after_taken: bool
    """The action was still open well after the device had the order."""
    primary_user_still_there_after_taken: bool
    management_state_issued_after_taken: bool
    """The management state still said that the wipe was issued."""
    management_state_back: bool
    """The management state is again what it was before the order."""
    check_ins_in_the_silence: int
    """How often the device showed, by checking in, that no reset had run yet."""


class OutcomePart(_Part):
    """How it stands, or how it ended."""

    state: State
    ended: bool
    since: datetime
    """Turnaround's clock."""
    proven_ready: bool
    order_sent: bool
    """Whether Intune may have carried a reset out."""
    code: Code | None
    message: str
    remedy: str


class StatePart(_Part):
    """A state that was left."""

    state: State
    until: datetime
    seconds: float


class FactPart(_Part):
    label: str
    value: str


class EntryPart(_Part):
    """One entry of the history, in words."""

    at: datetime
    who: str
    text: str
    code: Code | None
    facts: tuple[FactPart, ...]


class StatementPart(_Part):
    """What this record says, and what it does not say."""

    not_a_certificate: str = NOT_A_CERTIFICATE
    seen_through_graph: str = SEEN_THROUGH_GRAPH
    an_autopilot_reset_removes: tuple[str, ...] = REMOVES
    an_autopilot_reset_sets_again: str = RESETS
    an_autopilot_reset_keeps: tuple[str, ...] = KEEPS
    sources: tuple[str, ...] = (ABOUT_RESET, ABOUT_SANITIZATION)


class ResetRecord(_Part):
    """What Turnaround knows of one device under one request. All times are UTC."""

    record_version: Literal[1] = 1
    made_at: datetime
    """Turnaround's clock."""
    outcome: OutcomePart
    statement: StatementPart = StatementPart()
    asked: AskedPart
    approvals: tuple[ApprovalPart, ...]
    device: DevicePart
    orders: tuple[OrderPart, ...]
    syncs_forced: int
    proof: ProofPart | None
    """None where no reset was ordered."""
    states: tuple[StatePart, ...]
    history: tuple[EntryPart, ...]


def schema() -> dict[str, object]:
    """The JSON Schema of a reset record."""
    return ResetRecord.model_json_schema(by_alias=True, mode="serialization")


def record(turnaround: Turnaround, made_at: datetime) -> ResetRecord:
    """The record of a turnaround, ended or under way, as it stands at `made_at`."""
    events, reset = turnaround.events, turnaround.reset
    return ResetRecord(
        made_at=made_at,
        outcome=_outcome(turnaround, made_at),
        asked=AskedPart(
            request_id=turnaround.request,
            requester=turnaround.requester,
            reason=turnaround.reason,
            received_at=turnaround.received_at,
            named_as=turnaround.reference,
            not_before=turnaround.not_before,
            ready_by=turnaround.ready_by,
        ),
        approvals=tuple(_approval(one) for one in turnaround.request_events if one.kind is EventKind.APPROVED),
        device=_device(turnaround),
        orders=_orders(events),
        syncs_forced=sum(event.kind is EventKind.SYNC_FORCED for event in events),
        proof=_proof(reset) if reset is not None and reset.sent_at is not None else None,
        states=tuple(
            StatePart(state=event.from_state, until=event.at, seconds=event.lasted.total_seconds())
            for event in events
            if event.from_state is not None and event.lasted is not None
        ),
        history=tuple(
            EntryPart(
                at=one.at,
                who=one.who,
                text=one.text,
                code=one.code,
                facts=tuple(FactPart(label=fact.label, value=fact.value) for fact in one.facts),
            )
            for one in story.passages(turnaround)
        ),
    )


def _outcome(turnaround: Turnaround, made_at: datetime) -> OutcomePart:
    reset, last = turnaround.reset, turnaround.events[-1] if turnaround.events else None
    if reset is not None:
        state, since, reason = reset.state, reset.since, reset.reason
    else:  # it never had a turnaround of its own under this request
        state, since, reason = State.REFUSED, last.at if last else made_at, last.reason if last else None
    return OutcomePart(
        state=state,
        ended=state in TERMINAL,
        since=since,
        proven_ready=state is State.READY,
        order_sent=reset is not None and (reset.order is not None or reset.doubtful),
        code=reason.code if reason else None,
        message=reason.sentence if reason else "",
        remedy=reason.remedy if reason else "",
    )


def _approval(event: Event) -> ApprovalPart:
    seen = event.evidence
    return ApprovalPart(by=event.who, at=event.at, why=seen.get("why", ""), digest=seen.get("digest", ""))


def _device(turnaround: Turnaround) -> DevicePart:
    reset = turnaround.reset
    if reset is None:
        return DevicePart(intune_id=turnaround.device)
    before = reset.before
    return DevicePart(
        intune_id=before.id,
        entra_device_id=before.entra_device_id,
        name=before.name,
        serial_number=before.serial_number,
        manufacturer=before.manufacturer,
        model=before.model,
        operating_system=before.operating_system,
        os_version=before.os_version,
        enrolled_at=before.enrolled_at,
        last_check_in=before.last_sync,
        had_primary_user=None if before.primary_user is None else bool(before.primary_user),
        read_at=reset.facts_at,
    )


def _orders(events: tuple[Event, ...]) -> tuple[OrderPart, ...]:
    """Each order with what became of it: the next move out of the state `sending`."""
    moves = [event for event in events if event.kind is EventKind.MOVED and event.from_state is not event.to_state]
    answers = {id(sent): answer for sent, answer in pairwise(moves)}
    orders = []
    for sent in moves:
        if sent.to_state is not State.SENDING:
            continue
        answer = answers.get(id(sent))
        told = story.passage(answer) if answer is not None else None
        orders.append(
            OrderPart(
                client_request_id=sent.evidence.get("order", ""),
                committed_at=sent.at,
                answered_at=told.at if told else None,
                answer=told.text if told else "",
                code=told.code if told else None,
            )
        )
    return tuple(orders)


def _proof(reset: Reset) -> ProofPart:
    proof = reset.proof
    return ProofPart(
        order_taken_by_intune_after=reset.graph_earliest,
        order_taken_by_intune_before=reset.graph_latest,
        taken_by=proof.taken_at,
        silence_tested_at=proof.probed_at,
        returned_at=proof.returned_at,
        return_confirmed=proof.awake,
        last_check_in=proof.last_sync,
        action_done=proof.done,
        primary_user_gone=proof.user_gone,
        action_open_after_taken=proof.open_late,
        primary_user_still_there_after_taken=proof.user_late,
        management_state_issued_after_taken=proof.issued_late,
        management_state_back=proof.state_back,
        check_ins_in_the_silence=proof.restarts,
    )
