"""What a seed draws: a tenant, its devices, what is asked of them, what people do, and what goes wrong."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from random import Random
from zoneinfo import ZoneInfo

from sandbox.scenario import Scenario
from sandbox.simulation.openings import Opening
from sandbox.tenant.calls import Fault, FaultKind
from sandbox.tenant.devices import Json
from sandbox.tenant.quirks import ACTION_NAMES, iso
from sandbox.virtual.world import START
from shared.domain.request import MAX_DEVICES, Part, ResetRequest, messages
from shared.domain.timing import Occurrence
from shared.domain.windows import Windows

DESK, BOSS, OTHER = "desk@contoso.example", "boss@contoso.example", "someone@contoso.example"
"""Who asks, who may approve, and who may do neither."""
TAGS = ("LAB", "AULA")
LATE = timedelta(minutes=20)
HARD = 0.12
"""The share of days that are hard in one way, and quiet else."""
SMALL = 8
"""Devices of a day up to which a process dies at one call as likely as drawn; at more devices there are more calls, and
as many deaths."""
GOOD = "good"
"""How the name of a device begins that may be reset; what stands in the way of the others is in their names."""


class Deed(StrEnum):
    """What people, and machines, do at a drawn time."""

    CANCEL = "cancel"
    CANCEL_BY_FRONT = "cancel by the front's queue"
    RETRY = "retry"
    APPROVE_BLINDLY = "approve blindly"
    APPROVE_BY_FRONT = "approve by the front's queue"
    HALT = "halt"
    RESUME = "resume"
    NONSENSE = "nonsense"
    RENAME = "rename"
    SWAP_NAMES = "swap names"
    REENROL = "re-enrol"
    SWITCH_OFF = "switch off"
    SWITCH_ON = "switch on"
    START_INSTANCE = "start an instance"
    KILL_INSTANCE = "kill an instance"
    DRAIN_INSTANCE = "scale in"


@dataclass(frozen=True, order=True)
class Act:
    """One deed. `number` chooses whom it concerns: a request, a device or an instance, counted round."""

    at: timedelta
    deed: Deed
    number: int = 0


@dataclass(frozen=True)
class Rates:
    """How likely each call meets each trouble, as long as there is trouble."""

    storage: float = 0.0
    """Of table and queue calls: fails before or after it took effect, takes effect late, conflicts."""
    sends: float = 0.0
    """Of messages sent, the same once more."""
    graph: float = 0.0
    """Of HTTP calls: refused, lost before or after they took effect, arriving late."""
    slow: float = 0.0
    """Of all calls: takes up to a minute, or two."""
    death: float = 0.0
    """Of all calls: the process dies before it takes effect, after it, or while it is on its way."""
    repeat: float = 0.0
    """Of messages: put on their queue twice, or shown late."""
    lease: float = 0.0
    """Of messages received: hidden for seconds only, so that another takes them while they are handled."""
    skip: float = 0.0
    """Of timer ticks: does not come."""
    ambush: float = 0.0
    """Of sends about to be committed: waits for so long that a halt or a cancel, given just then, comes before it."""


@dataclass(frozen=True)
class Reactions:
    """How likely people react to what they are told."""

    approve: float = 0.5
    approve_wrongly: float = 0.2
    """With another digest, or one's own request, or without the right to."""
    decline: float = 0.1
    retry: float = 0.3
    cancel: float = 0.2
    resume: float = 0.6
    reenrol: float = 0.0
    """Whoever is called to a device takes it out of Intune and enrols it anew."""


@dataclass(frozen=True)
class Plan:
    """A day, from which everything else follows."""

    seed: int
    scenario: Scenario
    acts: Sequence[Act] = ()
    rates: Rates = Rates()
    reactions: Reactions = Reactions()
    clocks: Sequence[timedelta] = (timedelta(),)
    """By how much the clock of each instance is ahead; new ones take them in turn."""
    outages: Sequence[tuple[timedelta, timedelta]] = ()
    """When Graph cannot be reached: from, until."""
    table_outages: Sequence[tuple[timedelta, timedelta]] = ()
    """When the table cannot be reached: messages fail so often that they are set aside."""
    order_faults: Sequence[Fault] = ()
    """What meets orders of resets at the tenant, beside its quirks."""
    doubled_ticks: bool = False
    """Whether timers tick in every instance, not in one alone."""
    calm_at: timedelta = timedelta(hours=6)
    """When trouble ends."""
    extra: Sequence[tuple[timedelta, str]] = ()
    """Further messages on the queue of requests: repeats, and other content under a known id."""
    names: dict[str, str] = field(default_factory=dict)
    """By serial number, what stands in the way of the device: the name's first word."""
    windows: Windows = field(default_factory=Windows)
    openings: Sequence[Opening] = ()
    """When the lab windows open, in order."""
    forgets: bool = False
    """Whether the day is played on until retention has taken everything."""

    @property
    def quiet_at(self) -> timedelta:
        """When nothing goes wrong any more: outages may outlast the other trouble."""
        return max([self.calm_at, *(last for _, last in (*self.outages, *self.table_outages))])


def draw(seed: int, size: int = 8) -> Plan:
    """The plan of this seed, with at most `size` devices; some days have what is hard only where it comes together."""
    if (chance := Random(f"hard/{seed}")).random() < HARD:
        return _hard(seed, chance)
    chance = Random(f"plan/{seed}")
    calm_at = timedelta(minutes=chance.choice((90, 240, 600, 1500)))
    devices, names = _fleet(chance, max(1, round(size * chance.uniform(0.3, 1))))
    requests, extra = _requests(chance, devices, calm_at, size)
    policy = _policy(chance, size)
    windows, openings = _windows(Random(f"windows/{seed}"), devices, calm_at)
    extra += _impostors(Random(f"impostors/{seed}"), windows, openings, calm_at)
    later = Random(f"later/{seed}")
    forgets, patient = later.random() < 0.15, later.random() < 0.25
    if forgets:  # some devices are in flight for longer than history is kept, or other requests start after that
        policy |= {"retention": "P30D", "attention_for": "P35D" if patient else "PT12H"}
        extra += [] if patient else _much_later(later, devices)
    scenario = Scenario.model_validate(
        {
            "scenario": {"name": "bad-day", "time_limit": "P90D"},
            "tenant": {
                "quirks": {
                    **_quirks(chance),
                    **_lists(Random(f"lists/{seed}")),
                    "write_limit": policy["writes_per_window"],
                }
            },
            "policy": policy,
            "devices": devices,
            "requests": requests,
        }
    )
    plan = Plan(
        seed=seed,
        scenario=scenario,
        acts=_acts(chance, calm_at),
        rates=_rates(chance, len(names)),
        reactions=replace(_reactions(chance), reenrol=Random(f"hands/{seed}").choice((0.0, 0.0, 0.5))),
        clocks=_clocks(chance),
        outages=_outages(chance, calm_at),
        table_outages=_table_outages(Random(f"table/{seed}"), calm_at),
        order_faults=_order_faults(chance),
        doubled_ticks=chance.random() < 0.3,
        calm_at=calm_at,
        extra=extra,
        names=names,
        windows=windows,
        openings=openings,
        forgets=forgets,
    )
    return replace(plan, reactions=replace(plan.reactions, retry=0.0)) if forgets and patient else plan


def calm(seed: int, devices: int) -> Plan:
    """A day on which nothing goes wrong: that many devices, in one request."""
    many = max(5000, devices)
    policy: Json = {"halt_burst_floor": many, "cleared_for": "PT12H"}
    scenario = _together(devices, {"first_check_in": "PT4M"}, {"daily_wipe_limit": many}, policy)
    return Plan(seed=seed, scenario=scenario, calm_at=timedelta(), reactions=Reactions(0, 0, 0, 0, 0, 0))


def rough(seed: int, devices: int) -> Plan:
    """A turnover that nothing holds, in requests as large as may be, with trouble in its first two hours."""
    rates = Rates(storage=0.01, graph=0.02, slow=0.005, death=0.0002, repeat=0.1, lease=0.1, skip=0.1)
    clocks = _clocks(Random(f"rough/{seed}"))
    return replace(calm(seed, devices), rates=rates, calm_at=timedelta(hours=2), clocks=clocks)


def _together(devices: int, way: Json, quirks: Json, policy: Json) -> Scenario:
    """That many devices of one kind, in as few requests as may be, that nothing holds."""
    wide = dict.fromkeys(
        ("approval_above", "wave_above", "resets_per_hour", "resets_per_day", "unapproved_per_day"), max(5000, devices)
    )
    sizes = [min(MAX_DEVICES, devices - first) for first in range(0, devices, MAX_DEVICES)]
    tags = [TAGS[0], *(f"{TAGS[0]}-{number}" for number in range(2, len(sizes) + 1))]
    return Scenario.model_validate(
        {
            "scenario": {"name": "calm-day", "time_limit": "P90D"},
            "tenant": {"quirks": quirks},
            "policy": {**wide, "fleet_share_per_day": 1.0, **policy},
            "devices": [
                {"count": size, "first": 1 + MAX_DEVICES * number, "name": GOOD + "-{n}", "group_tag": tag, **way}
                for number, (size, tag) in enumerate(zip(sizes, tags, strict=True))
            ],
            "requests": [
                {"body": _body(f"R{number}", [{"groupTag": tag}])} for number, tag in enumerate(tags, start=1)
            ],
        }
    )


# --- devices ------------------------------------------------------------------------------------------------------

_DOZES: Json = {"first_check_in": "PT5M", "off_from": "PT8M", "off_until": "PT40M"}
_WAYS: Sequence[tuple[int, Json]] = (
    (6, {"first_check_in": "PT4M", "check_in_every": "PT3H"}),
    (4, {}),
    (2, {"first_check_in": "PT3M", "reset_duration": "PT1H50M"}),
    (2, {"first_check_in": "PT2M", "next_user": "next@contoso.example", "next_user_after": "PT40M"}),
    (2, {"first_check_in": "PT5M", "off_from": "PT20M", "off_until": "PT5H"}),
    (1, {"off_from": "PT0S"}),
    (1, {"off_from": "PT10M", "off_until": "P16D"}),
    (1, {"reacts_to_sync": False, "check_in_every": "P3D"}),
    (1, {"first_check_in": "PT5M", "failure": "winre_disabled"}),
    (1, {"first_check_in": "PT5M", "failure": "silent_failure"}),
    (1, {"first_check_in": "PT5M", "failure": "interrupted"}),
    (1, {"first_check_in": "PT5M", "failure": "reset_fails_midway"}),
    (1, {"first_check_in": "PT5M", "failure": "power", "on_battery_until": "PT2H"}),
    (2, {**_DOZES, "failure": "power"}),
    (1, {**_DOZES, "failure": "power", "on_battery_until": "PT38M"}),
)
"""How devices behave, and how often."""


@dataclass(frozen=True)
class _Hard:
    """What is hard where it comes together: how all devices of the day behave, and how the tenant shows it."""

    way: Json
    quirks: Json
    policy: Json = field(default_factory=dict)
    devices: int = 4
    reenrol: float = 0.0
    again: bool = False
    """Once they were reset, all of them are enrolled anew and asked for again."""
    sends: float = 0.0
    """How likely messages that are sent meet trouble."""


_DOZED: Json = {"check_in_every": "PT10M", "off_from": "PT8M", "off_until": "PT40M", "failure": "power"}

_HARD: Sequence[_Hard] = (
    # Nothing shows late, some copies of Graph show what was before the order, and devices are merely off for a while.
    _Hard(
        _DOZED,
        {
            "action_results": "always_empty",
            "management_state": "never",
            "primary_user_cleared": "trigger",
            "stale_reads": "PT9M",
            "clock_offset": "PT0S",
            "list_incomplete": 0.0,
        },
        devices=10,
    ),
    # A device that was never reset is enrolled anew, and an empty record answers for the old one.
    _Hard({"first_check_in": "PT4M", "failure": "silent_failure"}, {"deleted_record_stub": True}, reenrol=0.5),
    # Devices that were reset as often as they may be come back under other Intune ids.
    _Hard({"first_check_in": "PT4M"}, {}, {"resets_per_device": 1}, again=True),
    # So many devices at once that their orders alone pass what Graph bears.
    _Hard({"first_check_in": "PT4M"}, {"write_limit": 21}, {"writes_per_window": 21}, devices=50),
)

_BATTERY = tuple(
    _Hard(
        {**_DOZED, "on_battery_until": until},
        {"primary_user_cleared": user, "action_done_at": "pickup", "stale_reads": "PT9M"},
    )
    for until, user in (("PT2H", "pickup"), ("PT45M", "pickup"), ("PT45M", "trigger"))
)
"""Devices that are off for a while, check in without taking their order, for hours or once, and take it only then, at
tenants that show at that moment what else shows at the end. Drawn apart, so that other hard days stay what they are."""
BATTERY = 0.2
"""Their share of the hard days."""

_LOUD = _Hard({"join": "hybrid"}, {}, devices=50, sends=0.2)
"""So many notices at once, as all of them are refused, that one of those that share a message always fails."""
LOUD = 0.2
"""Their share of the other hard days."""


def _hard(seed: int, chance: Random) -> Plan:
    hard = chance.choice(_HARD)
    if (battery := Random(f"battery/{seed}")).random() < BATTERY:
        hard = battery.choice(_BATTERY)
    elif Random(f"loud/{seed}").random() < LOUD:
        hard = _LOUD
    quiet: Json = {
        **dict.fromkeys(("p429", "p503", "p503_acted", "lost_answer", "forbidden"), 0.0),
        "daily_wipe_limit": 500,
    }
    quirks = {**_quirks(chance), **quiet, "multi_admin_approval": "off", **hard.quirks}
    user = {"primary_user": "student{n}@contoso.example"}
    scenario = _together(hard.devices, {**user, **hard.way}, quirks, {"attention_for": "PT3H", **hard.policy})
    acts = [Act(timedelta(hours=3), Deed.REENROL, number) for number in range(hard.devices)] if hard.again else []
    again = json.dumps(_body("R2", [{"groupTag": TAGS[0]}]))
    return Plan(
        seed=seed,
        scenario=scenario,
        acts=acts,
        rates=Rates(sends=hard.sends),
        extra=[(timedelta(hours=4), again)] if hard.again else [],
        calm_at=timedelta(hours=5 if hard.again else 3),
        reactions=Reactions(reenrol=hard.reenrol),
        clocks=_clocks(chance),
    )


_BARRED: dict[str, Json] = {
    "vip": {},
    "hybrid": {"join": "hybrid"},
    "strange": {"autopilot": False},
    "server": {"os_version": "10.0.20348.2113", "sku_family": "Server"},
    "retiring": {"pending_actions": [{"name": "retire"}]},
    "managed": {"management_agent": "configurationManagerClientMdm"},
}
"""Devices that may never be reset. Those called vip are protected by the policy."""


def _fleet(chance: Random, count: int) -> tuple[list[Json], dict[str, str]]:
    devices: list[Json] = []
    names: dict[str, str] = {}
    weights, ways = zip(*_WAYS, strict=True)
    for number in range(1, count + 1):
        kind = chance.choice(sorted(_BARRED)) if chance.random() < 0.15 else GOOD
        (way,) = chance.choices(ways, weights)
        serial = f"SN-{number:04}"
        names[serial] = kind
        devices.append(
            {
                "name": f"{kind}-{number}",
                "serial": serial,
                "first": number,
                "group_tag": chance.choice(TAGS),
                "primary_user": chance.choice(("", "student{n}@contoso.example", "student{n}@contoso.example")),
                **way,
                **_BARRED.get(kind, {}),
            }
        )
    return devices, names


# --- the tenant ---------------------------------------------------------------------------------------------------


def _quirks(chance: Random) -> Json:
    """A dialect of Graph, within what the policy's durations allow for."""
    pick = chance.choice
    noisy = chance.random() < 0.6
    found: Json = {
        "action_name": pick((*ACTION_NAMES, "varies")),
        "action_results": pick(("filled", "filled", "always_empty")),
        "action_done_at": pick(("pickup", "end")),
        "management_state": pick(("moves", "stuck", "never")),
        "primary_user_cleared": pick(("trigger", "pickup", "end", "late")),
        "list_seconds_only": pick((True, False)),
        "list_incomplete": pick((0.0, 0.0, 0.2)),
        "filter_support": pick(("reference", "schema")),
        "unsupported_filter_ignored": pick((True, False)),
        "stale_reads": pick(("PT0S", "PT1M", "PT4M")),
        "audit_lag": pick(("PT1M", "PT5M", "PT30M")),
        "clock_offset": pick(("PT0S", "PT0S", "-PT4M", "PT4M")),
        "retry_after": pick(("present", "missing")),
        "deleted_record_stub": pick((True, False)),
        "page_size": pick((3, 1000, 1000, 1000)),
        "daily_wipe_limit": pick((2, 500, 500)),
        "daily_limit_answer": pick(("429", "429_told", "400_told")),
        "multi_admin_approval": pick(("off",) * 12 + ("400", "403", "409", "412")),
        "approval_code_in": pick(("header", "body", "both")),
        "approval_ids": pick(("id", "request_id", "both")),
        "approval_filter": pick(("works", "ignored", "refused")),
        "admin_decides": pick(("never", "approve", "approve", "reject")),
        "admin_decides_after": pick(("PT20M", "PT5H", "P4D")),
    }
    if chance.random() < 0.2:  # nothing but the audit, late, shows that an order was taken
        found |= {"action_results": "always_empty", "management_state": "never", "audit_lag": "PT30M"}
    if noisy:
        share = pick((0.01, 0.05))
        found |= {name: pick((0.0, share)) for name in ("p429", "p503", "p503_acted", "lost_answer", "forbidden")}
    return found


def _lists(chance: Random) -> Json:
    """What is odd about lists alone: as old as the policy allows for, or without what they should name."""
    return {
        "stale_lists": chance.choice(("PT0S", "PT0S", "PT5M")),
        "list_hides": chance.random() < 0.1,
    }


_TIGHT: Sequence[Json] = (
    {"resets_per_hour": 1, "resets_per_day": 500},
    {"resets_per_day": 2},
    {"resets_per_device": 1},
    {"unapproved_per_day": 1},
    {"approval_above": 0},
    {"wave_above": 1, "wave_first": 1},
    {"request_valid_for": "PT30M", "approval_above": 0},
)
"""On many days one limit is tight."""


def _policy(chance: Random, size: int) -> Json:
    """Limits, most of them wide on most days, so that a few devices meet some of them; and waits short or long."""
    strict, most = chance.choice((0.0, 0.2, 0.6)), max(2, size)

    def pick[T](values: Sequence[T]) -> T:
        return chance.choice(values) if chance.random() < strict else values[-1]

    tight = chance.choice((*_TIGHT, *_TIGHT, {}, {}, {}))
    return {
        "approvers": ["boss*"],
        "protected_devices": ["vip-*"],
        "approval_above": pick((1, 3, 500)),
        "unapproved_per_day": pick((1, 3, most, 500)),
        "resets_per_hour": pick((1, 3, most, 200)),
        "resets_per_day": pick((2, 5, most, 500)),
        "resets_per_device": pick((1, 2, 5)),
        "fleet_share_per_day": pick((0.25, 0.5, 1.0)),
        "fleet_share_floor": pick((1, 3, 50)),
        "over_cap": chance.choice(("hold", "hold", "refuse")),
        "wave_above": pick((2, most, max(50, size))),
        "wave_first": pick((1, max(2, size // 10))),
        "wave_growth": chance.choice((1, 4)),
        "wave_within": chance.choice(("PT3H", "PT12H")),
        "halt_failed_min": pick((2, 5, 0)),
        "halt_refused": pick((3, 200)),
        "halt_burst_factor": pick((1, 5, 0)),
        "halt_burst_floor": pick((2, 300)),
        "writes_per_window": chance.choice((21, 30, 180)),
        "sync_attempts": pick((1, 4)),
        "request_valid_for": pick(("PT6H", "P1D", "P7D")),
        "approval_within": pick(("PT3H", "P1D")),
        "approval_valid_for": pick(("PT3H", "P3D")),
        "held_for": pick(("PT4H", "P1D")),
        "lookup_for": pick(("PT2H", "P1D")),
        "parts_within": pick(("PT10M", "PT1H")),
        "admin_approval_poll": chance.choice(("PT10M", "PT2H", "PT2H", "PT2H")),
        "triggered_for": pick(("PT6H", "P3D")),
        "attention_for": chance.choice(("PT3H", "PT3H", "PT3H", "PT12H", "PT12H", "P14D")),
        **tight,
    }


# --- requests -----------------------------------------------------------------------------------------------------


def _body(request: str, selectors: Sequence[Json], **more: object) -> Json:
    return {"requestId": request, "requester": DESK, "reason": "TICKET-1", "devices": list(selectors), **more}


def _requests(
    chance: Random, devices: Sequence[Json], calm_at: timedelta, size: int
) -> tuple[list[Json], list[tuple[timedelta, str]]]:
    requests: list[Json] = []
    extra: list[tuple[timedelta, str]] = []
    for number in range(1, chance.randint(2, min(3 + size // 2, 8))):
        at = calm_at * chance.random() * chance.choice((0.001, 0.05, 0.9))
        more: Json = {}
        starts = START + at
        if chance.random() < 0.25:
            starts += timedelta(minutes=chance.choice((-30, 20, 400, 2000)))
            more["notBefore"] = starts.isoformat()
        if chance.random() < 0.25:
            more["readyBy"] = (starts + timedelta(minutes=chance.choice((10, 150, 900)))).isoformat()
        if chance.random() < 0.3:
            more["outcomeQueue"] = "reset-results-desk"
        if chance.random() < 0.15:
            more["requester"] = BOSS
        body = _body(f"R{number}", _selectors(chance, devices), **more)
        texts = [json.dumps(body)]
        if chance.random() < 0.3:
            texts = _in_parts(body)
        for part, text in enumerate(texts):
            late = timedelta(minutes=chance.choice((0, 0, 3, 30))) * part
            requests.append({"raw": text, "at": iso(at + late)})
            if chance.random() < 0.3:
                extra.append((at + timedelta(minutes=chance.choice((0, 5, 300))), text))
        if chance.random() < 0.2:
            other = {**body, "reason": "Something else under the same id."}
            extra.append((at + timedelta(minutes=chance.choice((0, 60))), json.dumps(other)))
    return requests, extra


def _selectors(chance: Random, devices: Sequence[Json]) -> list[Json]:
    if chance.random() < 0.3:
        return [{"groupTag": chance.choice(TAGS)}]
    most = 1 if chance.random() < 0.4 else max(1, len(devices) * 2 // 3)
    chosen = chance.sample(list(devices), chance.randint(1, most))
    found: list[Json] = []
    for device in chosen:
        kind = chance.choice(("serialNumber", "name"))
        found.append({kind: device["serial" if kind == "serialNumber" else "name"]})
    if chance.random() < 0.2:
        found.append({"serialNumber": "SN-NOBODYS"})
    return found


def _in_parts(body: Json) -> list[str]:
    """The request in messages of two or three devices each; one that fits is one message."""
    whole = ResetRequest.model_validate(body)
    single = whole.model_copy(update={"devices": whole.devices[:1], "part": Part(number=500, of=500)})
    return messages(whole, len(single.model_dump_json(by_alias=True, exclude_none=True)) + 60)


# --- lab windows ---------------------------------------------------------------------------------------------------

_ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")
_OPEN_FOR = (timedelta(minutes=2), timedelta(minutes=30), timedelta(hours=3), timedelta(days=50))
"""The longest is longer than history is kept on some days."""


def _windows(chance: Random, devices: Sequence[Json], calm_at: timedelta) -> tuple[Windows, list[Opening]]:
    """On some days lab windows, which open once or twice that day."""
    plans: list[Json] = []
    openings: list[Opening] = []
    for name in chance.sample(("morning", "evening"), chance.choice((0, 0, 1, 2))):
        at = START + calm_at * chance.random() * chance.choice((0.1, 0.9)) - chance.choice((timedelta(), LATE))
        at = at.replace(second=0, microsecond=0)
        local = at.astimezone(ZoneInfo(zone := chance.choice(_ZONES)))
        hours = [local.hour] + [local.hour + 2] * (local.hour < 22 and chance.random() < 0.3)
        open_for, requester = chance.choice(_OPEN_FOR), chance.choice(("lab timetable", "lab timetable", BOSS))
        tag = chance.choice(TAGS)
        room: list[Json] = [{"groupTag": tag}]
        selectors = chance.choice((room, _selectors(chance, devices)))
        whom: Json = {"group_tag": tag} if selectors == room else {"devices": selectors}
        hours_ = ",".join(map(str, hours))
        plan = {"name": name, "cron": f"{local.minute} {hours_} {local.day} {local.month} *", "timezone": zone}
        more = chance.choice(({}, {"ready_by": "PT5H"}, {"outcome_queue": "reset-results-lab"}))
        plans.append({**plan, "open_for": open_for, "requester": requester, **whom, **more})
        for later in range(len(hours)):
            opens = at + timedelta(hours=2) * later
            openings.append(Opening(name, opens, opens + open_for, requester, selectors))
    return Windows.model_validate({"window": plans}), sorted(openings, key=lambda one: one.opens)


def _impostors(
    chance: Random, windows: Windows, openings: Sequence[Opening], calm_at: timedelta
) -> list[tuple[timedelta, str]]:
    """Messages that say that they are the request of a lab window: with its very content, with another, with no
    opening at all."""
    found: list[tuple[timedelta, str]] = []
    for opening in openings:
        window = next(one for one in windows.window if one.name == opening.window)
        own = window.request(Occurrence(opening.opens, opening.closes))
        others = own.model_copy(update={"requester": OTHER})
        never = own.model_copy(update={"request_id": f"{opening.request}-2"})
        for message in chance.sample((own, others, never), chance.choice((0, 0, 1, 2))):
            at = chance.choice((opening.opens - START - LATE, calm_at * chance.random()))
            text = message.model_dump_json(by_alias=True, exclude_none=True)
            found.append((max(timedelta(), at), text))
    return found


def _much_later(chance: Random, devices: Sequence[Json]) -> list[tuple[timedelta, str]]:
    """Sometimes a request that is to start after the history of the day was forgotten."""
    if chance.random() < 0.6:
        return []
    starts = START + timedelta(days=chance.choice((32, 35)))
    body = _body("R-later", [{"serialNumber": chance.choice(list(devices))["serial"]}], notBefore=starts.isoformat())
    return [(timedelta(minutes=chance.choice((0, 30))), json.dumps(body))]


# --- people and trouble -------------------------------------------------------------------------------------------

_DEEDS = {
    Deed.CANCEL: 5,
    Deed.CANCEL_BY_FRONT: 1,
    Deed.RETRY: 5,
    Deed.APPROVE_BLINDLY: 3,
    Deed.APPROVE_BY_FRONT: 1,
    Deed.HALT: 3,
    Deed.RESUME: 3,
    Deed.NONSENSE: 1,
    Deed.RENAME: 1,
    Deed.SWAP_NAMES: 1,
    Deed.REENROL: 1,
    Deed.SWITCH_OFF: 1,
    Deed.SWITCH_ON: 1,
    Deed.START_INSTANCE: 2,
    Deed.KILL_INSTANCE: 4,
    Deed.DRAIN_INSTANCE: 2,
}


def _acts(chance: Random, calm_at: timedelta) -> list[Act]:
    deeds = chance.choices(list(_DEEDS), list(_DEEDS.values()), k=chance.choice((0, 3, 10)))
    early = (chance.choice((0.1, 1.0)) for _ in deeds)
    return sorted(
        Act(calm_at * chance.random() * soon, deed, chance.randrange(1000))
        for deed, soon in zip(deeds, early, strict=True)
    )


def _rates(chance: Random, devices: int) -> Rates:
    hard = chance.choice((0.0, 0.3, 1.0, 1.0, 3.0))
    return Rates(
        storage=hard * chance.choice((0.0, 0.01, 0.03)),
        graph=hard * chance.choice((0.0, 0.02, 0.1)),
        slow=hard * chance.choice((0.0, 0.01)),
        death=hard * chance.choice((0.0, 0.001, 0.005)) * min(1, SMALL / devices),
        repeat=hard * chance.choice((0.0, 0.1)),
        lease=hard * chance.choice((0.0, 0.1)),
        skip=hard * chance.choice((0.0, 0.1)),
        ambush=chance.choice((0.0, 0.0, 0.2)),
    )


def _reactions(chance: Random) -> Reactions:
    often = (0.0, 0.1, 0.5)
    return Reactions(
        approve=chance.choice((0.1, 0.5, 0.8)),
        approve_wrongly=chance.choice(often),
        decline=chance.choice(often),
        retry=chance.choice(often),
        cancel=chance.choice((0.0, 0.0, 0.3)),
        resume=chance.choice((0.3, 0.9)),
    )


def _order_faults(chance: Random) -> list[Fault]:
    kinds = chance.sample(list(FaultKind), chance.choice((0, 0, 1, 3)))
    return [Fault(on="wipe", fault=kind, times=chance.randint(1, 3), skip=chance.randint(0, 3)) for kind in kinds]


def _clocks(chance: Random) -> list[timedelta]:
    """One instance or several; half of the time their clocks differ."""
    differ = chance.choice((0, 0, 1, 4))
    return [timedelta(minutes=chance.uniform(-differ, differ) / 2) for _ in range(chance.choice((1, 2, 3)))]


def _outages(chance: Random, calm_at: timedelta) -> list[tuple[timedelta, timedelta]]:
    begins = [calm_at * chance.random() for _ in range(chance.choice((0, 0, 1, 2)))]
    return [(at, at + timedelta(minutes=chance.choice((3, 40, 300)))) for at in begins]


def _table_outages(chance: Random, calm_at: timedelta) -> list[tuple[timedelta, timedelta]]:
    begins = [calm_at * chance.random() * chance.choice((0.05, 1)) for _ in range(chance.choice((0, 0, 0, 1)))]
    return [(at, at + timedelta(minutes=chance.choice((3, 15, 60)))) for at in begins]
