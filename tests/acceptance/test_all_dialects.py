"""The main job in every dialect of Graph that is plausible, through the whole stack: the Functions host and its worker,
Azurite, and the simulated tenant's HTTP server.

Each device has a dialect of its own, so that one tenant shows them all; what only a whole tenant can have, such as its
clock, differs between the tenants.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import batched
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from sandbox import stack
from sandbox.demo import Run
from sandbox.dialects import DIALECTS, Row, expected, named, provable, quirks, selector
from sandbox.scenario import Scenario
from sandbox.show import Screen
from sandbox.tenant.devices import Json
from sandbox.tenant.quirks import DeviceQuirks
from sandbox.verdict import Turn, Verdict, judge
from sandbox.virtual.world import START
from shared.domain.states import State

SCENARIO: Json = {
    "scenario": {"name": "dialects", "speed": 150, "time_limit": "PT4H"},
    "policy": {
        "settling_for": "PT12M",
        "usual_reset_duration": "PT1H",
        # A busy machine takes seconds of real time for what takes Azure a fraction of one.
        "facts_max_age": "PT1H",
        "reconcile_after": "PT12M",
        "min_reset_duration": "PT25M",
        "redispatch_after": "PT15M",
        # A fleet of nothing but devices to reset, many of which need a person, is no reason to stop here.
        "fleet_share_per_day": 1,
        "halt_failed_min": 0,
    },
}
A_REQUEST = 15
"""Devices of one request."""
PROMPT: Json = {
    "check_in_every": "PT8M",
    "reset_duration": "PT50M",
    "new_enrolment": [["PT6H", "PT3M"]],  # whenever it is seen to be back, it is seen again soon after
}
TOLD: Json = {**PROMPT, "first_check_in": "PT48H"}
"""Checks in when it is told to: not so soon after its order that nothing can show that it took it."""
SILENT: Json = {**PROMPT, "failure": "silent_failure"}
"""Says that it was reset, and never was."""


@dataclass(frozen=True)
class Tenant:
    """What is one for all devices of a tenant, and the dialects that these have."""

    own: Row
    dialects: Sequence[Row]
    faults: Sequence[Json] = ()


TENANTS = {
    "slow": Tenant(
        {"clock": "PT4M", "speed": "slow", "filters": "ignored"},
        DIALECTS[::-1],  # those that go on longest are asked for first
        # Without Retry-After, as the tenant's quirks are by default.
        [
            {"on": "managed_device", "fault": "429", "skip": 50},
            {"on": "managed_device", "fault": "503", "skip": 150},
            {"on": "managed_devices", "fault": "503_html", "skip": 45},
            {"on": "wipe", "fault": "503_acted", "serial": "well-20"},
        ],
    ),
    "throttled": Tenant(
        {"clock": "-PT4M", "throttled": "with Retry-After", "filters": "honoured"},
        [row for row in DIALECTS if row["clock"] == "-PT4M"],
    ),
}


def devices(dialects: Sequence[Row]) -> Iterator[tuple[Row, Json]]:
    """Each device's dialect, and the device as a scenario has it."""
    for number, row in enumerate(dialects):
        shown = row["results"] != "always empty" or row["state"] == "moves"
        kinds = {"well": PROMPT if shown else TOLD}
        if (row["results"], row["state"]) == ("done at end", "never"):
            kinds["silent"] = SILENT
        own = {name: value for name, value in quirks(row).items() if name in DeviceQuirks.model_fields}
        for kind, behaviour in kinds.items():
            end, code = expected(row, kind)
            yield (
                row,
                {
                    "name": f"{kind}-{named(row)}",
                    "serial": f"{kind}-{number}",
                    "primary_user": "" if row["user"] == "none" else f"student{number}@contoso.example",
                    "quirks": own,
                    "expect": end,
                    **({"expect_reason": code} if code else {}),
                    **behaviour,
                },
            )


def scenario(folder: Path, tenant: Tenant) -> Scenario:
    """A tenant with its devices, and requests that name them all, one soon after the other."""
    rows, tables = zip(*devices(tenant.dialects), strict=True)
    plan: Json = {
        **SCENARIO,
        "tenant": {"quirks": {**quirks(tenant.own), "late_after": "PT3M"}},
        "devices": tables,
    }
    fleet = Scenario.model_validate(plan).fleet(0, START)
    plan["requests"] = [
        {
            "at": f"PT{3 * number}M",
            "body": {"requestId": f"R{number}", "requester": "desk", "reason": "TICKET-1", "devices": selectors},
        }
        for number, selectors in enumerate(batched(map(selector, fleet.devices, rows), A_REQUEST, strict=False))
    ]
    file = folder / "dialects.toml"
    file.write_text("".join(f"{name} = {toml(value)}\n" for name, value in plan.items()))
    return Scenario.load(file)


def toml(value: object) -> str:
    """A value as TOML; strings, numbers and booleans are the same in JSON."""
    match value:
        case dict():
            return f"{{ {', '.join(f'{key} = {toml(one)}' for key, one in value.items())} }}"
        case list() | tuple():
            return f"[{', '.join(map(toml, value))}]"
        case _:
            return json.dumps(value)


def turnover(tenant: Tenant, folder: Path) -> Verdict:
    """Run it to its end, and weigh what was seen."""
    plan = scenario(folder, tenant)
    with stack.run(plan, folder) as running, Screen(Console(quiet=True), plan) as screen:
        for fault in tenant.faults:
            httpx.post(f"{running.graph}/sandbox/faults", json=fault).raise_for_status()
        seen, _ = asyncio.run(Run(plan, running, folder / "notices.jsonl").watch(screen))
    return judge(seen)


def falsely_told(turn: Turn, row: Row) -> str | None:
    """What is wrong where a device is not ready if and only if it was reset once, is back, and shows enough of it."""
    really = turn.truth["truly_ready"] is True and turn.truth["resets_taken"] == 1
    if (turn.actual == State.READY) != (really and provable(row)):
        return f"{turn.name} is {turn.actual}, in truth {'' if really else 'not '}ready; provable: {provable(row)}"
    if turn.ready_at and turn.ready_at < datetime.fromisoformat(str(turn.truth["ready_since"])):
        return f"{turn.name} was called ready before it was"
    return None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", TENANTS)
def test_s17_every_device_ends_as_it_must_in_every_dialect(name: str, tmp_path: Path) -> None:
    tenant = TENANTS[name]
    verdict = turnover(tenant, tmp_path)
    rows = [row for row, _ in devices(tenant.dialects)]
    false = [falsely_told(turn, row) for turn, row in zip(verdict.devices, rows, strict=True)]
    faults = [*verdict.all_faults, *filter(None, false)]
    assert not faults, "\n".join(faults)
