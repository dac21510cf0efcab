"""From a message to the wipe call, and from the check-in that completes a proof to its notice, at light load."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench import local
from bench.local import Invocation, Sender, progress
from bench.measure import NO_LIMITS, Cell, Table, UnsoundError
from sandbox.stack import Stack
from shared.domain.reset import Event, EventKind
from shared.domain.states import State

REQUESTS = 110
"""Requests for one device each."""
FOLLOWED = 40
"""The first of them are followed until they are ready."""
FLEET = 300
SPEED = 10
"""How much shorter than real the devices' and the policy's times are; schedules, polling and Graph's pace are real."""
AGAIN = timedelta(minutes=12.5)
"""Between the first check-ins after a reset, simulated: more than a minute of real time, so that no poll sees two."""
PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Way:
    """The moments of one request, from its message to the wipe call."""

    put: datetime
    taken: datetime
    """Intake began."""
    kept: datetime
    cleared: datetime
    turn: datetime
    """Dispatch began."""
    sending: datetime
    called: datetime


STEPS = (
    ("message to wipe call", "put", "called"),
    ("· waits on `reset-requests`", "put", "taken"),
    ("· request kept", "taken", "kept"),
    ("· device looked up and judged", "kept", "cleared"),
    ("· committed, handed on, waits on `reset-dispatch`", "cleared", "turn"),
    ("· turn booked, record read again, caps and gate", "turn", "sending"),
    ("· `sending` committed, wipe sent", "sending", "called"),
)


def run(requests: int = REQUESTS, followed: int = FOLLOWED) -> Table:
    """Raises UnsoundError where a device was not reset exactly once, or a proof was completed in another way."""
    with local.running(_scenario(), local.production()) as (started, folder):
        return asyncio.run(_measure(started, folder, requests, followed))


def _scenario() -> str:
    device = {
        "count": FLEET,
        "reacts_to_orders": True,
        "reset_duration": "PT25M",
        "first_sync_after": "PT1M",
        "new_enrolment": [["PT2H", f"PT{AGAIN.total_seconds():.0f}S"]],
    }
    # Graph shows what is so: how late it shows it is no matter of ours. The policy need not wait for it either, which
    # would leave the polls, a minute of real time apart, too little of each reset to see at this speed.
    return (
        local.table("scenario", {"name": "latency", "speed": SPEED})
        + local.table("tenant.quirks", {"stale_reads": "PT0S"})
        + local.table("policy", {**NO_LIMITS, "reconcile_after": "PT2M"})
        + local.table("[devices]", device)
    )


async def _measure(started: Stack, folder: Path, requests: int, followed: int) -> Table:
    async with local.sender(started) as sender:
        await _send(started, sender, requests)
        ids = list(sender.sent)[:followed]
        progress(f"all sent; the first {followed} are followed until they are ready")
        await local.until(lambda: all(map(sender.ready, ids)), started, PATIENCE, "every device's notice")
        events, invoked = await local.history(started), local.invocations(folder)
    truth = {str(device["intune_id"]): device for device in local.truth(started)}
    ways = [_way(one, at, events, invoked, truth) for one, at in sender.sent.items()]
    table: list[tuple[Cell, ...]] = [
        _row(name, [(getattr(way, to) - getattr(way, start)).total_seconds() for way in ways])
        for name, start, to in STEPS
    ]
    proofs = [_proof(one, events, invoked, truth, sender) for one in ids]
    for number, name in enumerate(
        (
            "check-in that completes the proof to its notice",
            "· waits for a timer",
            "· close look, proof weighed, committed",
            "· handed on, waits on `reset-notices`, delivered",
            "first check-in after the reset to its notice",
        )
    ):
        table.append(_row(name, [proof[number].total_seconds() for proof in proofs]))
    return Table(("Span", "count", "P50, s", "P99, s", "most, s"), tuple(table))


async def _send(started: Stack, sender: Sender, requests: int) -> None:
    """One request at a time, with so much time between them that the host polls as slowly as it does when idle."""
    chance, gap = random.Random(1), 2 * local.polling().total_seconds()
    await asyncio.sleep(max(0.0, (started.start - datetime.now(UTC)).total_seconds()))
    await sender.send("R-0", [f"SN-{requests + 1:04}"])  # loads what loads at first use
    await asyncio.sleep(10)
    del sender.sent["R-0"]
    for number in range(1, requests + 1):
        started.check()
        await sender.send(f"R-{number}", [f"SN-{number:04}"])
        if number % 20 == 0:
            progress(f"{number} of {requests} requests")
        await asyncio.sleep(1 + gap + chance.uniform(0, gap))


def _way(
    request: str,
    put: datetime,
    events: Sequence[Event],
    invoked: Sequence[Invocation],
    truth: dict[str, dict[str, object]],
) -> Way:
    mine = [event for event in events if event.request == request]
    (kept,) = [event.at for event in mine if event.kind is EventKind.ACCEPTED]
    at = {event.to_state: event.at for event in reversed(mine) if event.to_state is not None}
    device = next(event.device for event in mine if event.device is not None)
    wipes = truth[str(device)]["wipes_received"]
    if not isinstance(wipes, list) or len(wipes) != 1:
        raise UnsoundError(f"{request}: its device received {wipes}")
    return Way(
        put=put,
        taken=_within("intake", kept, invoked),
        kept=kept,
        cleared=at[State.CLEARED],
        turn=_within("dispatch", at[State.SENDING], invoked),
        sending=at[State.SENDING],
        called=datetime.fromisoformat(wipes[0]["at"]),
    )


def _within(name: str, at: datetime, invoked: Sequence[Invocation]) -> datetime:
    """When the invocation of this function began that was running at this time, as the log rounds it."""
    slack = timedelta(milliseconds=2)
    began = [one.began for one in invoked if one.name == name and one.began - slack <= at <= one.ended + slack]
    return max(began)


def _proof(
    request: str,
    events: Sequence[Event],
    invoked: Sequence[Invocation],
    truth: dict[str, dict[str, object]],
    sender: Sender,
) -> Sequence[timedelta]:
    (ready,) = [event for event in events if event.request == request and event.to_state is State.READY]
    told = sender.ready(request)
    really = truth[str(ready.device)]
    first, completing = (
        datetime.fromisoformat(str(one)) for one in (really["ready_since"], ready.evidence["lastCheckIn"])
    )
    # The second check-in completes the proof; it must be the one that was seen, not a later one.
    if told is None or not timedelta(0) < completing - first < AGAIN / SPEED + timedelta(seconds=1):
        raise UnsoundError(f"{request}: returned at {first}, proven by the check-in at {completing}, told at {told}")
    looked = _within(ready.who, ready.at, invoked)
    return told - completing, looked - completing, ready.at - looked, told - ready.at, told - first


def _row(name: str, seconds: Sequence[float]) -> tuple[Cell, ...]:
    return name, len(seconds), local.percentile(seconds, 50), local.percentile(seconds, 99), max(seconds)
