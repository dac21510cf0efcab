"""A reset record as a page to read and print: one HTML file that needs nothing else and can do nothing.

Every text goes through `_escaped`, whoever it is from; only what `_tag` made is markup. The page has no
script, link, form or outside resource, and its Content-Security-Policy allows none.
"""

import base64
import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from html import escape

from shared.domain.record import EntryPart, ProofPart, ResetRecord
from shared.domain.shown import shown
from shared.domain.story import moment, span

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 52rem; margin: 2rem auto;
  padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 1.8rem 0 .4rem; border-bottom: 1px solid #bbb; break-after: avoid; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #e4e4e4; }
th { font-weight: 600; width: 16rem; }
tr, li { break-inside: avoid; }
.outcome { font-size: 1.1rem; border: 2px solid #1a1a1a; padding: .6rem .9rem; margin: 1rem 0; }
.notice { border-left: 4px solid #1a1a1a; padding-left: .8rem; }
.small { color: #444; font-size: .87rem; }
@page { margin: 18mm; }
@media print { body { max-width: none; margin: 0; padding: 0; font-size: 10.5pt; } }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'"

HEADERS = {
    "Content-Security-Policy": f"{_POLICY}; frame-ancestors 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""What a server sends with the page."""


class _Html(str):
    """Markup of our own making."""

    __slots__ = ()


def page(record: ResetRecord) -> str:
    """The record as an HTML document, in UTF-8."""
    title = f"Reset record: {_called(record)}, request {record.asked.request_id}"
    head = _tag(
        "head",
        _Html('<meta charset="utf-8">'),
        _Html(f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'),
        _Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        _Html('<meta name="referrer" content="no-referrer">'),
        _tag("title", title),
        _tag("style", _Html(_STYLE)),
    )
    return f'<!DOCTYPE html>\n<html lang="en">{head}{_tag("body", *_body(record))}</html>\n'


def _body(record: ResetRecord) -> Iterable[_Html]:
    asked, device, outcome, said = record.asked, record.device, record.outcome, record.statement
    yield _tag("h1", "Reset record")
    yield _tag("p", _called(record), f", request {asked.request_id}. Made at {moment(record.made_at)}.")
    yield _tag(
        "div",
        _tag("strong", "Proven ready." if outcome.proven_ready else f"State: {outcome.state}."),
        f" {'Ended' if outcome.ended else 'Under way'}, since {moment(outcome.since)}.",
        _tag("div", outcome.message + (f" (code {outcome.code})" if outcome.code else "")) if outcome.message else "",
        _tag("div", f"What to do: {outcome.remedy}") if outcome.remedy else "",
        _tag("div", "No reset was carried out.") if not outcome.order_sent else "",
        kind="outcome",
    )
    yield _tag("p", said.not_a_certificate, kind="notice")
    yield _tag("p", said.seen_through_graph, kind="notice")

    yield _tag("h2", "What was asked")
    yield _table(
        ("Request", asked.request_id),
        ("Asked by", asked.requester or "not kept any more"),
        ("Why", asked.reason or "not kept any more"),
        ("Received", asked.received_at),
        ("Device named as", asked.named_as),
        ("Not before", asked.not_before),
        ("Needed by", asked.ready_by),
        *((f"Approved by {one.by}", f"{moment(one.at)}: {one.why} (digest {one.digest})") for one in record.approvals),
    )
    yield _tag("h2", "The device before the reset")
    yield _table(
        ("Name", device.name),
        ("Serial number", device.serial_number),
        ("Manufacturer and model", " ".join(filter(None, (device.manufacturer, device.model)))),
        ("Operating system", " ".join(filter(None, (device.operating_system, device.os_version)))),
        ("Intune id", device.intune_id),
        ("Entra device id", device.entra_device_id),
        ("Enrolled (Graph's clock)", device.enrolled_at),
        ("Last check-in (Graph's clock)", device.last_check_in),
        ("Had a primary user", device.had_primary_user),
        ("Read from Graph at", device.read_at),
    )
    yield _tag("h2", "What was ordered")
    if not record.orders:
        yield _tag("p", "No reset was ordered.")
    for order in record.orders:
        yield _table(
            ("client-request-id", order.client_request_id),
            ("About to be sent at", order.committed_at),
            ("What became of it", order.answer or "not known yet"),
            ("Known at", order.answered_at),
        )
    yield _tag("p", f"Syncs forced: {record.syncs_forced}.")
    if record.proof is not None:
        yield _tag("h2", "What Graph showed of the reset (times on Graph's clock)")
        yield _table(*_proof(record.proof))
    yield _tag("h2", "How long each state lasted")
    yield _table(
        *((one.state, f"{span(timedelta(seconds=one.seconds))}, until {moment(one.until)}") for one in record.states)
    )
    yield _tag("h2", "What happened (times on Turnaround's clock)")
    yield _tag("ol", *(_entry(entry) for entry in record.history))
    yield _tag("h2", "What an Autopilot Reset does")
    yield _tag("p", "It removes:")
    yield _tag("ul", *(_tag("li", one) for one in said.an_autopilot_reset_removes))
    yield _tag("p", "It keeps:")
    yield _tag("ul", *(_tag("li", one) for one in said.an_autopilot_reset_keeps))
    yield _tag("p", said.an_autopilot_reset_sets_again)
    yield _tag("p", f"Sources: {', '.join(said.sources)}", kind="small")


def _called(record: ResetRecord) -> str:
    device = record.device
    serial = f", serial number {device.serial_number}" if device.serial_number else ""
    return f"device {device.name or device.intune_id}{serial}"


def _proof(proof: ProofPart) -> Iterable[tuple[str, object]]:
    yield "Intune took the order after", proof.order_taken_by_intune_after
    yield "Intune took the order before", proof.order_taken_by_intune_before
    yield "The device had the order by", proof.taken_by
    yield "Check-ins that showed that no reset had run yet", proof.check_ins_in_the_silence
    yield "A sync tested the silence at", proof.silence_tested_at
    yield "First check-in after the reset", proof.returned_at
    yield "A second check-in soon after", proof.return_confirmed
    yield "Latest check-in seen", proof.last_check_in
    yield "Intune shows the reset as done", proof.action_done
    yield "It was not done yet long after the device had the order", proof.action_open_after_taken
    yield "The primary user is gone", proof.primary_user_gone
    yield "The primary user was still there long after", proof.primary_user_still_there_after_taken
    yield "The management state showed the wipe long after", proof.management_state_issued_after_taken
    yield "The management state is what it was before", proof.management_state_back


def _entry(entry: EntryPart) -> _Html:
    code = f" (code {entry.code})" if entry.code else ""
    facts = "; ".join(f"{fact.label}: {fact.value}" for fact in entry.facts)
    return _tag(
        "li",
        _tag("span", f"{moment(entry.at)}, {entry.who}: ", kind="small"),
        entry.text + code,
        _tag("div", f"Seen: {facts}", kind="small") if facts else "",
    )


def _table(*rows: tuple[str, object]) -> _Html:
    """What is None or empty is left out."""
    told = [(name, _cell(value)) for name, value in rows if value is not None and value != ""]
    return _tag("table", *(_tag("tr", _tag("th", name), _tag("td", value)) for name, value in told))


def _cell(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case datetime():
            return moment(value)
        case _:
            return str(value)


def _tag(name: str, *children: str, kind: str = "") -> _Html:
    """An element. Children that are no markup of ours are escaped, each kept apart from what surrounds it (bdi)."""
    opening = f'{name} class="{kind}"' if kind else name
    inner = "".join(one if isinstance(one, _Html) else _escaped(one, name) for one in children if one)
    return _Html(f"<{opening}>{inner}</{name}>")


def _escaped(text: str, inside: str) -> str:
    safe = escape(shown(text))
    return safe if inside == "title" else f"<bdi>{safe}</bdi>"  # a title holds no elements
