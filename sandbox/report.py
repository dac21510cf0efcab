"""What a run came to: the summary for people, the JSON result for machines, the history of each device."""

import json
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.table import Table

from sandbox.scenario import DeviceEnd, RequestEnd
from sandbox.show import clock, style
from sandbox.tenant.devices import Json
from sandbox.tenant.quirks import iso
from sandbox.verdict import Observed, Turn, Verdict
from shared.domain.notices import NoticeType
from shared.domain.reset import Event
from shared.domain.states import State

POINT_READ, QUERY, SEND = "table point reads", "table queries", "queue sends"
_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_STORAGE_CALL = re.compile(r'"(GET|POST|PUT|DELETE|MERGE|HEAD) /[^/]+/(\S+) HTTP')
_FILE_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Figures:
    """What was measured, in real time."""

    message_to_wipe: Sequence[timedelta]
    """From a request's message to the reset's arrival at Graph, a device each."""
    ready_to_notice: Sequence[timedelta]
    """From the device's true readiness to the arrival of its notice, a device each."""
    time_to_ready: Sequence[timedelta]
    """From the request to proven readiness, a device each, in simulated time."""
    graph: Json
    """The tenant's count of calls."""
    graph_by_device: Mapping[str, Mapping[str, int]]
    """Calls that name a device, by its Intune id; empty where the traffic was not recorded."""
    storage: Mapping[str, int]
    """The app's calls to queues and table, by kind."""
    run_time: timedelta
    """From the first message to the last device's end."""


def measure(seen: Observed, verdict: Verdict, graph: Json, har: Path | None, storage: Mapping[str, int]) -> Figures:
    """Take the figures of a run."""
    sent = {one.request: one.at for one in reversed(seen.sent)}
    told = {(one.request, one.about[0]): one.at for one in reversed(seen.told) if one.type == NoticeType.DEVICE_READY}
    accepted = {event.request: event.at for event in reversed(seen.events) if event.kind == "accepted"}
    to_wipe, to_notice, to_ready = [], [], []
    for turn in verdict.devices:
        wipes = cast("list[Json]", turn.truth["wipes_received"])
        if wipes and turn.request in sent:
            to_wipe.append(_time(wipes[0]["at"]) - sent[str(turn.request)])
        notice = told.get((str(turn.request), turn.intune_id))
        if notice is not None and turn.truth["ready_since"]:
            to_notice.append(notice - _time(turn.truth["ready_since"]))
        if turn.ready_at is not None and turn.request is not None:
            asked = next((at for request, at in accepted.items() if request == turn.request), seen.start)
            to_ready.append((turn.ready_at - asked) * seen.scenario.speed)
    return Figures(
        message_to_wipe=to_wipe,
        ready_to_notice=to_notice,
        time_to_ready=to_ready,
        graph=graph,
        graph_by_device=graph_calls(har, verdict.devices) if har is not None else {},
        storage=storage,
        run_time=seen.ended - seen.start,
    )


def _time(text: object) -> datetime:
    return datetime.fromisoformat(str(text)).astimezone(UTC)


# --- counting -----------------------------------------------------------------------------------------------------


def graph_calls(har: Path, devices: Iterable[Turn]) -> dict[str, dict[str, int]]:
    """How often each device's records were asked for or changed by id, alone or within a batch, by kind of call."""
    ids = {turn.intune_id for turn in devices if turn.intune_id}
    found: dict[str, Counter[str]] = {}
    entries = json.loads(har.read_text("utf-8"))["log"]["entries"]
    for entry in entries:
        request = entry["request"]
        path = re.sub(r"^https?://[^/]+", "", request["url"])
        calls = [(request["method"], path)]
        if path.endswith("$batch"):
            items = json.loads(request["postData"]["text"])["requests"]
            calls = [(item["method"], item["url"]) for item in items]
        for method, url in calls:
            for guid in {match[0].lower() for match in _GUID.finditer(url)} & ids:
                kind = _GUID.sub("{id}", url.split("?")[0]).removeprefix("/v1.0").removeprefix("/beta")
                found.setdefault(guid, Counter())[f"{method} {kind}"] += 1
    return {device: dict(counts) for device, counts in found.items()}


def storage_calls(log: Path, own: Mapping[str, int], outcome_queues: Iterable[str]) -> dict[str, int]:
    """The app's calls to storage by kind, from Azurite's own log; those of the demo itself (`own`) are left out."""
    counts: Counter[str] = Counter({kind: -count for kind, count in own.items()})
    outcomes = set(outcome_queues)
    for method, path in _STORAGE_CALL.findall(log.read_text("utf-8", errors="replace")):
        where = path.split("?")[0]
        queue, _, messages = where.partition("/messages")
        if where == "$batch":
            counts["table transactions"] += 1
        elif method == "GET" and "(" in where:
            counts[POINT_READ if "RowKey=" in where else QUERY] += 1
        elif messages or where.endswith("/messages"):
            if queue in outcomes and method != "POST":
                continue  # the demo takes the notices from there
            kind = {"GET": "queue receives", "POST": SEND, "DELETE": "queue deletes", "PUT": "queue renewals"}
            counts[kind.get(method, method)] += 1
    return dict(sorted(counts.items()))


# --- the summary --------------------------------------------------------------------------------------------------


def summary(console: Console, verdict: Verdict, figures: Figures, folder: Path) -> None:
    """Tell people how it went."""
    turns = [turn for turn in verdict.devices if turn.actual != DeviceEnd.UNTOUCHED]
    console.rule("How it ended", align="left", characters="-")
    ready = [turn for turn in turns if turn.actual == State.READY]
    if ready:
        low, middle, high = (clock(span) for span in _spread(figures.time_to_ready))
        _say(console, f"{len(ready)} devices ready", State.READY)
        console.print(f"  from request to proven ready: {low} at least, {middle} median, {high} at most (simulated)")
    ended = [*turns, *verdict.references]
    _listed(console, ended, State.REFUSED, "refused; nothing was done to them")
    _listed(console, ended, State.FAILED, "failed")
    _listed(console, ended, State.CANCELLED, "cancelled")
    _listed(console, ended, State.ATTENTION, "waiting for a person")
    refused = [turn for turn in verdict.requests if RequestEnd.REFUSED.value in turn.expected or turn.codes]
    if refused:
        _say(console, f"{len(refused)} whole messages refused", State.REFUSED)
        for turn in refused:
            console.print(f"  {turn.request}: {', '.join(turn.codes)}", highlight=False)
    untouched = len(verdict.devices) - len(turns)
    console.print(f"{untouched} devices of the tenant that nobody may touch were left alone")
    console.print(
        f"\nHistory of each device: {folder}/history/   notices as they were told: {folder}/notices.jsonl\n"
        f"Run: {figures.run_time.total_seconds():.0f} s, {figures.graph.get('requests')} calls to Graph",
        highlight=False,
        soft_wrap=True,
    )
    faults = verdict.all_faults
    if faults:
        console.print(f"[bold red]Not as expected ({len(faults)})[/]")
        for fault in faults:
            console.print(f"  {fault}", highlight=False, markup=False, soft_wrap=True)
    else:
        console.print("[green]Every device, reference and request ended as the scenario says it must.[/]")


def _say(console: Console, words: str, state: State) -> None:
    console.print(words, style=style(state), highlight=False)


def _listed(console: Console, turns: Sequence[Turn], state: State, words: str) -> None:
    found = [turn for turn in turns if turn.actual == state]
    if not found:
        return
    _say(console, f"{len(found)} {words}", state)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for turn in found:
        told = turn.reason.sentence if turn.reason else ""
        remedy = f"\n-> {turn.reason.remedy}" if turn.reason else ""
        table.add_row(turn.name, f"{told}{remedy}")
    console.print(table, highlight=False, markup=False)


def _spread(spans: Sequence[timedelta]) -> tuple[timedelta, timedelta, timedelta]:
    middle = statistics.median(span.total_seconds() for span in spans)
    return min(spans), timedelta(seconds=middle), max(spans)


# --- the result as JSON -------------------------------------------------------------------------------------------


def result(seen: Observed, verdict: Verdict, figures: Figures) -> Json:
    """The run, device by device, as it is written to --json."""
    asked = [turn for turn in verdict.devices if turn.actual != DeviceEnd.UNTOUCHED]
    ready = sum(turn.actual == State.READY for turn in asked)
    storage = dict(figures.storage)
    return {
        "scenario": seen.scenario.scenario.name,
        "speed": seen.scenario.speed,
        "startedAt": seen.start.isoformat(),
        "asExpected": not verdict.all_faults,
        "faults": verdict.all_faults,
        "devices": [_turn(turn, seen, figures) for turn in verdict.devices],
        "references": [_turn(turn, seen, figures) for turn in verdict.references],
        "requests": [
            {
                "requestId": turn.request,
                "expected": list(turn.expected),
                "told": list(turn.actual),
                "codes": list(turn.codes),
                "faults": list(turn.faults),
            }
            for turn in verdict.requests
        ],
        "totals": {
            "devices": len(verdict.devices),
            "askedFor": len(asked),
            "ready": ready,
            "notices": len(seen.told),
            "graphCalls": figures.graph,
            "graphRequestsPerReadyDevice": round(cast("int", figures.graph["requests"]) / ready, 2) if ready else None,
            "storageCalls": storage,
            "storageCallsPerReadyDevice": {kind: round(count / ready, 2) for kind, count in storage.items()}
            if ready
            else None,
            "messageToWipeSeconds": _figures(figures.message_to_wipe),
            "readyToNoticeSeconds": _figures(figures.ready_to_notice),
            "timeToReadySimulatedSeconds": _figures(figures.time_to_ready),
            "runSeconds": round(figures.run_time.total_seconds(), 1),
        },
    }


def _turn(turn: Turn, seen: Observed, figures: Figures) -> Json:
    truth = turn.truth
    shown: Json = {
        "name": turn.name,
        "serialNumber": turn.serial or None,
        "intuneId": turn.intune_id,
        "requestId": turn.request,
        "reference": turn.reference,
        "expected": turn.expected.value,
        "expectedReason": turn.expected_reason,
        "actual": turn.actual,
        "code": turn.reason.code if turn.reason else None,
        "states": [
            {"state": state, "at": at.isoformat(), "simulated": iso(_simulated(at, seen))} for state, at in turn.states
        ],
        "faults": list(turn.faults),
    }
    if truth:
        wipes = [wipe["at"] for wipe in cast("list[Json]", truth["wipes_received"])]
        shown["truth"] = {"wipesReceivedAt": wipes} | {
            name: truth[name] for name in ("resets_taken", "reset_done_at", "truly_ready", "ready_since")
        }
        shown["graphCalls"] = dict(figures.graph_by_device.get(turn.intune_id or "", {}))
    return shown


def _simulated(at: datetime, seen: Observed) -> timedelta:
    return timedelta(seconds=round((at - seen.start).total_seconds() * seen.scenario.speed))


def _figures(spans: Sequence[timedelta]) -> Json | None:
    if not spans:
        return None
    low, middle, high = (round(span.total_seconds(), 3) for span in _spread(spans))
    return {"count": len(spans), "min": low, "median": middle, "max": high}


# --- histories ----------------------------------------------------------------------------------------------------


def write_histories(folder: Path, seen: Observed, verdict: Verdict) -> int:
    """One readable file for each device that something happened to, each reference that leads to none, each request."""
    folder.mkdir(parents=True, exist_ok=True)
    names = Counter(turn.name for turn in verdict.devices)
    by_device = {
        turn.intune_id: turn.name if names[turn.name] == 1 else f"{turn.name}_{turn.intune_id}"
        for turn in verdict.devices
        if turn.intune_id
    }
    files: dict[str, list[Event]] = {}
    for event in seen.events:
        if event.device is not None:
            name = by_device.get(event.device, event.device)
        elif event.reference:
            name = event.reference.replace(":", "_")
        else:
            name = f"request_{event.request}" if event.request else "control"
        files.setdefault(_FILE_NAME.sub("_", name), []).append(event)
    for name, events in files.items():
        (folder / f"{name}.txt").write_text("\n".join(_history(name, events, seen)) + "\n", "utf-8")
    return len(files)


def _history(name: str, events: Sequence[Event], seen: Observed) -> Iterator[str]:
    yield f"History of {name}"
    yield "simulated time after the start, what happened, by whom"
    for event in events:
        yield ""
        yield f"{clock(_simulated(event.at, seen))}  {_happened(event)}  (by {event.who}, {event.at.isoformat()})"
        if event.request is not None:
            asked = f", which names it {event.reference}" if event.reference else ""
            yield f"         request {event.request}{asked}"
        if event.lasted is not None:
            yield f"         {event.from_state} had lasted {clock(event.lasted * seen.scenario.speed)}"
        if event.reason is not None:
            yield f"         {event.reason.code}: {event.reason.sentence}"
            yield f"         what to do: {event.reason.remedy}"
        for key, value in event.evidence.items():
            yield f"         {key}: {value}"
        if event.told:
            yield "         this was told"


def _happened(event: Event) -> str:
    if event.kind == "moved" and event.from_state is not None:
        return f"{event.from_state} > {event.to_state}"
    return event.kind.replace("_", " ")
