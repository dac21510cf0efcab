"""One suite over every method of the gateway and every quirk of the sandbox tenant.

Whatever the tenant does: no other device than the one that was asked for is found, looked at or reset, each reset is
received at most once, and what the gateway answers is true.
"""

import asyncio
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import httpx
import pytest

from sandbox.memory import MemoryQueues, MemoryTable
from sandbox.processes import ready_line, spawn, stop
from sandbox.tenant.quirks import Quirks
from shared.domain.devices import DeviceReference, ReferenceKind
from shared.domain.ids import ManagedDeviceId, OrderId
from shared.domain.policy import Policy
from shared.domain.reasons import Code
from shared.domain.states import State
from shared.graph.credential import StaticTokenCredential
from shared.graph.endpoint import GraphEndpoint
from shared.graph.gateway import GraphIntune, Patience
from shared.messages.queues import DISPATCH
from shared.pipeline.dispatch import dispatch
from shared.pipeline.intake import intake
from shared.pipeline.parts import Parts
from shared.pipeline.ports import (
    AdminDecision,
    Answer,
    AnswerKind,
    GraphError,
    GraphForbidden,
    GraphRejected,
    GraphThrottled,
    GraphUnavailable,
    Intune,
    Order,
)
from shared.state.store import Store
from tests.contract.conftest import Send


@dataclass(frozen=True)
class Expected:
    """What a tenant with a quirk lets the gateway see and do; left out, all of it, for resets and full wipes alike."""

    reads: type[GraphError] | None = None
    """What each read raises."""
    complete: bool = True
    """Whether lists show every record."""
    audited: int = 1
    sync: AnswerKind = AnswerKind.ACCEPTED
    reset: AnswerKind = AnswerKind.ACCEPTED
    wiped: int = 1
    """How often the device was really sent each order."""
    decision: AdminDecision = AdminDecision.UNKNOWN
    """What became of the order's request for approval."""
    retry_after: timedelta | None = None


ALL = Expected()
THROTTLED = Expected(GraphThrottled, sync=AnswerKind.THROTTLED, reset=AnswerKind.THROTTLED, wiped=0)
FORBIDDEN = Expected(GraphForbidden, sync=AnswerKind.FORBIDDEN, reset=AnswerKind.FORBIDDEN, wiped=0)
DOWN = Expected(GraphUnavailable, sync=AnswerKind.UNKNOWN, reset=AnswerKind.UNKNOWN, wiped=0)
ACTED = Expected(GraphUnavailable, sync=AnswerKind.UNKNOWN, reset=AnswerKind.UNKNOWN)
NO_INTUNE = Expected(GraphRejected, sync=AnswerKind.REJECTED, reset=AnswerKind.REJECTED, wiped=0)


def refused(reset: AnswerKind) -> Expected:
    """Only the orders that wipe are refused."""
    return Expected(reset=reset, wiped=0, audited=0)


def held(decision: AdminDecision = AdminDecision.WAITING) -> Expected:
    """Those orders wait for a second administrator, who has decided so."""
    return Expected(reset=AnswerKind.APPROVAL_REQUIRED, wiped=0, audited=0, decision=decision)


def approval(status: str, code_in: str, ids: str, filters: str, decides: str) -> dict[str, object]:
    """How Multi Admin Approval intercepts and lists; a second administrator decides at once, if ever."""
    return {
        "multi_admin_approval": status,
        "approval_code_in": code_in,
        "approval_ids": ids,
        "approval_filter": filters,
        "admin_decides": decides,
        "admin_decides_after": "PT0S",
    }


def each(
    name: str, *values: object, expected: Expected = ALL, **also: object
) -> list[tuple[dict[str, object], Expected]]:
    """A case for each of these values of a quirk."""
    return [({name: value, **also}, expected) for value in values]


CASES: list[tuple[dict[str, object], Expected]] = [
    *each("action_name", *get_args(Quirks.model_fields["action_name"].annotation)),
    *each("action_results", "filled", "always_empty"),
    *each("action_done_at", "pickup", "end"),
    *each("management_state", "moves", "stuck", "never"),
    *each("primary_user_cleared", "trigger", "pickup", "end", "late"),
    ({"late_after": "PT1H"}, ALL),
    ({"old_action_results": False}, ALL),
    ({"untyped_action_results": False}, ALL),
    ({"list_without_action_results": False}, ALL),
    ({"list_seconds_only": False}, ALL),
    ({"null_swaps": False}, ALL),
    ({"never_dates": False}, ALL),
    ({"strange_enum_members": False}, ALL),
    *each("join_type", "right", "unknown", "stale"),
    ({"odd_autopilot_links": False}, ALL),
    ({"serial_oddities": True}, ALL),
    ({"stale_reads": "PT1H"}, ALL),
    ({"group_lag": "PT1H"}, ALL),
    *each("unknown_groups", "ignored", "404"),
    ({"groups_forbidden": True}, ALL),
    ({"audit_lag": "PT1H"}, Expected(audited=0)),
    ({"clock_offset": "PT4H"}, ALL),  # four minutes at this speed
    ({"clock_offset": "-PT4H"}, ALL),
    ({"deleted_record_stub": True}, ALL),
    ({"list_incomplete": 0.5}, Expected(complete=False)),
    ({"list_incomplete": 1.0}, Expected(complete=False)),
    ({"stale_lists": "PT1H"}, ALL),
    ({"list_hides": True}, ALL),
    ({"answers_within": "PT5S"}, ALL),
    ({"page_size": 7}, ALL),
    ({"unsupported_filter_ignored": False}, ALL),
    ({"unsupported_filter_ignored": False, "filter_support": "schema"}, ALL),
    ({"filter_support": "reference"}, ALL),
    ({"filter_support": "schema"}, ALL),
    ({"or_acts_like_and": False}, ALL),
    # First of the three: the tenant counts only calls made under it.
    ({"throttle": True, "write_limit": 1}, Expected(reset=AnswerKind.THROTTLED, wiped=0, audited=0)),
    ({"throttle": True}, ALL),
    ({"throttle": True, "call_limit": 1}, THROTTLED),
    ({"retry_after": "missing", "p429": 1.0}, THROTTLED),
    (
        {"retry_after": "present", "fault_lasts": "PT10M", "p429": 1.0},
        Expected(
            GraphThrottled,
            sync=AnswerKind.THROTTLED,
            reset=AnswerKind.THROTTLED,
            wiped=0,
            retry_after=timedelta(seconds=10),
        ),
    ),
    (
        {"retry_after": "present", "fault_lasts": "PT10M", "p503": 1.0},
        Expected(
            GraphUnavailable,
            sync=AnswerKind.UNKNOWN,
            reset=AnswerKind.UNKNOWN,
            wiped=0,
            retry_after=timedelta(seconds=10),
        ),
    ),
    ({"daily_wipe_limit": 0}, refused(AnswerKind.THROTTLED)),
    ({"daily_wipe_limit": 0, "daily_limit_answer": "429"}, refused(AnswerKind.THROTTLED)),
    ({"daily_wipe_limit": 0, "daily_limit_answer": "429_told"}, refused(AnswerKind.DAILY_LIMIT)),
    ({"daily_wipe_limit": 0, "daily_limit_answer": "400_told"}, refused(AnswerKind.DAILY_LIMIT)),
    *each("forbidden_shape", "403", "401", "500", "varies", expected=FORBIDDEN, forbidden=1.0),
    ({"no_intune": "off"}, ALL),
    ({"no_intune": "401"}, FORBIDDEN),
    ({"no_intune": "400"}, NO_INTUNE),
    ({"no_intune": "503"}, DOWN),
    ({"multi_admin_approval": "off"}, ALL),
    (approval("400", "header", "id", "works", "never"), held()),
    (approval("403", "body", "request_id", "works", "approve"), held(AdminDecision.APPROVED)),
    (approval("409", "both", "both", "refused", "reject"), held(AdminDecision.REJECTED)),
    (approval("412", "body", "id", "ignored", "never") | {"page_size": 7}, held()),
    ({"multi_admin_approval": "412", "stale_reads": "PT1H"}, held(AdminDecision.UNKNOWN)),
    ({"multi_admin_approval": "400", "approval_expires_after": "PT0S"}, held(AdminDecision.EXPIRED)),
    ({"p503": 1.0}, DOWN),
    ({"p503_acted": 1.0}, ACTED),
    ({"lost_answer": 1.0}, ACTED),
]
SPARE = 6
"""Devices of tests of their own, after those of the cases."""

SCENARIO = f"""
[scenario]
name = "quirks"
speed = 60

[[devices]]
count = {len(CASES) + SPARE}
name = "LAB-{{n:03}}"
serial = "5CG{{n:04}}"
group_tag = "LAB"
first_check_in = "PT8H"
reacts_to_sync = false
"""
"""No device takes an order before a test lets it: a full wipe takes the device out of what others see."""


BOARD, USERS, STAFF, EMPTY, NO_GROUP = (f"99999999-0000-4000-8000-{n:012}" for n in range(1, 6))
SCENARIO += f"""
[[groups]]
name = "Board"
id = "{BOARD}"
members = ["device:5CG*"]

[[groups]]
name = "Users"
id = "{USERS}"
members = {[f"user:student{n}@contoso.example" for n in range(1, len(CASES) + SPARE + 1)]}

[[groups]]
name = "Staff"
id = "{STAFF}"
members = ["group:Board"]

[[groups]]
name = "Empty"
id = "{EMPTY}"
"""


def of_groups(quirks: dict[str, object], expected: Expected) -> Expected:
    """What reads of groups meet: what befalls Intune alone does not."""
    if "groups_forbidden" in quirks:
        return replace(expected, reads=GraphForbidden)
    befall_all = {"p429", "p503", "p503_acted", "lost_answer", "forbidden"} & set(quirks)
    return expected if befall_all else replace(expected, reads=None)


def join_type(serial: str | None, quirk: object) -> str | None:
    """What is known of how Intune says that a device is joined."""
    odd = int((serial or "")[3:]) % 5 == 4
    return {"unknown": None, "stale": "azureADRegistered"}.get(str(quirk), "azureADJoined") if odd else "azureADJoined"


def test_every_quirk_and_every_member_of_it_has_a_case() -> None:
    tried: dict[str, set[object]] = {}
    for quirks, _ in CASES:
        for name, value in quirks.items():
            tried.setdefault(name, set()).add(value)
    assert set(tried) == set(Quirks.model_fields)
    for name, quirk in Quirks.model_fields.items():
        if get_origin(quirk.annotation) is Literal:
            assert tried[name] >= set(get_args(quirk.annotation)), name
        elif quirk.annotation is bool:
            assert (not quirk.default) in tried[name] or name == "throttle", name


NO_CODE = "99999999-9999-4999-8999-999999999999"
_TOKEN = {"Authorization": "Bearer sandbox"}


@dataclass(frozen=True)
class Tenant:
    """The sandbox tenant and what is behind the scenes."""

    url: str

    def post(self, what: str, **body: object) -> None:
        httpx.post(f"{self.url}/sandbox/{what}", json=body, trust_env=False).raise_for_status()

    def quirks(self, **changed: object) -> None:
        """The defaults with these changes; reads show at once what was done, so that a suite can see it."""
        seen_at_once = Quirks(stale_reads=timedelta(), audit_lag=timedelta(), throttle=False)
        self.post("quirks", **seen_at_once.model_dump(mode="json") | changed)

    def truth(self, serial: str) -> dict[str, Any]:  # Any: JSON of any shape
        answer = httpx.get(f"{self.url}/sandbox/devices/{serial}", trust_env=False).raise_for_status()
        found: list[dict[str, Any]] = answer.json()["devices"]
        return found[0]

    def get(self, path: str) -> dict[str, Any]:  # Any: JSON of any shape
        """What Graph shows to somebody else."""
        answer = httpx.get(f"{self.url}/{path}", headers=_TOKEN, trust_env=False).raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def order(self, device: str, action: str, body: object = None) -> None:
        """What somebody else orders."""
        url = f"{self.url}/v1.0/deviceManagement/managedDevices/{device}/{action}"
        httpx.post(url, json=body, headers=_TOKEN, trust_env=False).raise_for_status()


@pytest.fixture(scope="module")
def tenant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenant]:
    scenario = tmp_path_factory.mktemp("quirks") / "scenario.toml"
    scenario.write_text(SCENARIO, "utf-8")
    errors = scenario.with_name("stderr.log")
    command: list[str | Path] = [sys.executable, "-m", "sandbox.tenant", "--scenario", scenario, "--port", "0"]
    process = spawn(command, stdout=subprocess.PIPE, stderr=errors)
    try:
        yield Tenant(str(ready_line(process, stderr=errors)["url"]))
    finally:
        stop(process)


@pytest.fixture
async def intune(tenant: Tenant) -> AsyncIterator[GraphIntune]:
    tenant.quirks()
    async with await connect(tenant) as connected:
        yield connected


async def connect(tenant: Tenant) -> GraphIntune:
    async def at_once(_: float) -> None:
        """Waits are somebody else's test."""

    patience = Patience(attempts=2, sleep=at_once)
    return await GraphIntune.create(
        GraphEndpoint.parse(tenant.url), StaticTokenCredential("sandbox"), patience=patience
    )


def order(device: str, approval_code: str = "") -> Order:
    return Order(ManagedDeviceId(device), OrderId(str(uuid.uuid4())), "TICKET-1", approval_code)


async def attempt[Found](read: Awaitable[Found], expected: Expected) -> Found | None:
    """What a read gives; None where it raises what it should."""
    if expected.reads is None:
        return await read
    with pytest.raises(GraphError) as caught:
        await read
    assert type(caught.value) is expected.reads
    if isinstance(caught.value, GraphThrottled | GraphUnavailable):
        assert caught.value.retry_after == expected.retry_after or expected.retry_after is None
    return None


@pytest.mark.parametrize("number", range(1, len(CASES) + 1), ids=[str(quirks) for quirks, _ in CASES])
async def test_s1_whatever_the_tenant_is_like_each_method_does_right_by_the_one_device(
    tenant: Tenant, intune: GraphIntune, number: int
) -> None:
    quirks, expected = CASES[number - 1]
    name, serial = f"LAB-{number:03}", f"5CG{number:04}"
    device = ManagedDeviceId(tenant.truth(serial)["intune_id"])
    (known,) = (await intune.find([DeviceReference(ReferenceKind.INTUNE_ID, device)])).values()
    entra = known.devices[0].managed.entra_device_id
    assert entra is not None
    began, everyone = datetime.now(UTC) - timedelta(minutes=5), len(CASES) + SPARE
    tenant.quirks(**quirks)

    by_id = DeviceReference(ReferenceKind.INTUNE_ID, device)
    references = [
        by_id,
        DeviceReference(ReferenceKind.ENTRA_DEVICE_ID, entra),
        DeviceReference(ReferenceKind.NAME, name),
        DeviceReference(ReferenceKind.SERIAL_NUMBER, serial),
    ]
    tag = DeviceReference(ReferenceKind.GROUP_TAG, "LAB")
    nobody = DeviceReference(ReferenceKind.SERIAL_NUMBER, "5CG999")
    found = await attempt(intune.find([*references, tag, nobody]), expected)
    if found is not None:
        for reference in references:
            ids = [facts.managed.id for facts in found[reference].devices]
            assert ids == [device] or (ids == [] and not expected.complete), reference
        assert [facts.managed.id for facts in found[by_id].devices] == [device]
        tagged = [facts.managed.id for facts in found[tag].devices]
        assert len(tagged) == len(set(tagged))
        assert not expected.complete or (device in tagged and len(tagged) == everyone)
        assert found[nobody].devices + found[nobody].not_enrolled == ()
        assert {one.managed.pending_actions for one in found[by_id].devices} == {()}
        for member in found[tag].devices:
            assert member.managed.join_type == join_type(member.managed.serial_number, quirks.get("join_type"))

    facts = await attempt(intune.facts([device]), expected)
    if facts is not None:
        one = facts[device]
        assert one is not None
        assert (one.managed.id, one.managed.serial_number, one.managed.name) == (device, serial, name)
        assert one.entra is not None
        assert one.entra.device_id == entra
        assert one.autopilot is not None
        assert one.autopilot.serial_number == serial
        shown = (one.managed.manufacturer, one.managed.model, one.managed.os_version, one.managed.sku_family)
        assert shown == ("Contoso Devices", "Contoso Book 14", "10.0.26100.4349", "Enterprise")
        assert (one.managed.management_agent, one.managed.pending_actions) == ("mdm", ())

        alone = await attempt(intune.managed([device]), expected)
        assert alone in (None, {device: one.managed})

    group_reads, asked = of_groups(quirks, expected), frozenset({BOARD, USERS, STAFF, EMPTY})
    held = await attempt(intune.memberships(known.devices, asked), group_reads)
    assert held in (None, {device: {BOARD, USERS, STAFF}})
    if held is not None:
        with pytest.raises(GraphRejected, match=NO_GROUP):
            await intune.memberships(known.devices, frozenset({BOARD, NO_GROUP}))
    assert await attempt(intune.fleet_size(), expected) in (None, everyone)

    seen = await attempt(intune.look([device]), expected)
    if seen is not None:
        assert (seen[device].exists, seen[device].entra_device_id) == (True, entra)
        assert seen[device].actions is not None

    async def changes() -> list[str]:
        listed = [change async for change in intune.changed_since(datetime(2000, 1, 1, tzinfo=UTC))]
        mine = next((change for change in listed if change.device == device), None)
        if mine is not None and seen is not None:
            assert mine.last_sync == seen[device].last_sync
            hidden = bool(quirks.get("list_hides"))
            shown = (None, None) if hidden else (seen[device].management_state, seen[device].primary_user or None)
            assert (mine.management_state, mine.primary_user) == shown
        return [change.device for change in listed]

    changed = await attempt(changes(), expected)
    if changed is not None:
        assert len(changed) == len(set(changed))
        assert not expected.complete or (device in changed and len(changed) == everyone)

    synced = (await intune.sync([order(device)]))[device]
    answer = (await intune.reset([order(device)]))[device]
    wiped = (await intune.wipe([order(device)]))[device]
    assert (synced.kind, answer.kind) == (expected.sync, expected.reset), (synced, answer)
    assert (wiped.kind, wiped.retry_after) == (answer.kind, answer.retry_after), (answer, wiped)
    assert answer.retry_after == expected.retry_after
    if expected.reset is AnswerKind.ACCEPTED:
        offset = {"PT4H": 240, "-PT4H": -240}.get(str(quirks.get("clock_offset")), 0)
        assert answer.server_time is not None
        assert abs(answer.server_time - datetime.now(UTC) - timedelta(seconds=offset)) < timedelta(seconds=30)
    received = tenant.truth(serial)["wipes_received"]
    flags = {"keepEnrollmentData": True, "keepUserData": False, "persistEsimDataPlan": False}
    assert [wipe["body"] for wipe in received] == [flags, flags | {"keepEnrollmentData": False}] * expected.wiped

    assert (answer.approval_code is not None) is (answer.kind is AnswerKind.APPROVAL_REQUIRED)
    code = answer.approval_code or str(uuid.uuid4())
    decided = await attempt(intune.admin_decisions([NO_CODE, code]), expected)
    assert decided in (None, {NO_CODE: AdminDecision.UNKNOWN, code: expected.decision})

    audited = await attempt(intune.audited_resets([device], began), expected)
    if audited is not None:
        assert [(one.device, len(audited)) for one in audited[device]] == [(device, 1)] * 2 * expected.audited


# A record that is gone


@pytest.mark.parametrize(("stub", "number"), [(False, len(CASES) + 1), (True, len(CASES) + 2)])
async def test_a_device_whose_record_is_gone_is_not_taken_for_a_device(
    tenant: Tenant, intune: GraphIntune, stub: bool, number: int
) -> None:
    serial = f"5CG{number:04}"
    device = ManagedDeviceId(tenant.truth(serial)["intune_id"])
    tenant.post(f"devices/{serial}", sync_reaction="PT1S", reacts_to_sync=True)
    tenant.order(device, "wipe", {})
    tenant.order(device, "syncDevice")
    give_up = time.monotonic() + 30
    while tenant.truth(serial)["intune_id"] is not None:
        assert time.monotonic() < give_up, "the full wipe was not picked up"
        await asyncio.sleep(0.02)
    tenant.quirks(deleted_record_stub=stub)
    found = await intune.find([DeviceReference(ReferenceKind.SERIAL_NUMBER, serial)])
    seen = (await intune.look([device]))[device]
    facts = (await intune.facts([device]))[device]
    (named,) = found.values()
    assert named.devices == ()
    assert [identity.serial_number for identity in named.not_enrolled] == [serial]
    if stub:  # it says nothing of the device, and so proves nothing
        assert (seen.last_sync, seen.actions, seen.entra_device_id, seen.enrolled_at) == (None, (), None, None)
        assert facts is None or (facts.managed.serial_number, facts.entra, facts.autopilot) == (None, None, None)
    else:
        assert not seen.exists
        assert facts is None
    assert (await intune.reset([order(device)]))[device].kind is AnswerKind.NOT_FOUND


# Multi Admin Approval


@pytest.mark.parametrize(("status", "number"), [("403", len(CASES) + 3), ("412", len(CASES) + 4)])
async def test_where_a_second_administrator_must_agree_nothing_is_reset_and_the_code_is_kept(
    tenant: Tenant, status: str, number: int
) -> None:
    tenant.quirks(multi_admin_approval=status)
    serial = f"5CG{number:04}"
    device = ManagedDeviceId(tenant.truth(serial)["intune_id"])

    def clock() -> datetime:
        return datetime.now(UTC)

    async with await connect(tenant) as graph:

        async def connected() -> Intune:
            return graph

        queues = MemoryQueues(clock)
        parts = Parts(
            store=Store(MemoryTable()),
            queues=queues,
            intune=connected,
            policy=Policy(),
            clock=clock,
            new_id=lambda: str(uuid.uuid4()),
            sleep=asyncio.sleep,
        )
        await intake(
            parts,
            '{"requestId": "R1", "requester": "lab@contoso.example", "reason": "TICKET-1", '
            f'"devices": [{{"serialNumber": "{serial}"}}]}}',
        )
        for message in await queues.receive(DISPATCH):
            await dispatch(parts, message.body)
        stored = await parts.store.reset(device)
        again = (await graph.reset([order(device)]))[device]
    assert stored is not None
    assert stored.record.state is State.AWAITING_ADMIN_APPROVAL
    assert stored.record.reason is not None
    assert stored.record.reason.code is Code.ADMIN_APPROVAL_REQUIRED
    assert stored.record.order is None, "what is not carried out is forgotten"
    assert again.kind is AnswerKind.APPROVAL_REQUIRED, "a request that is pending already is no refusal"
    assert tenant.truth(serial)["wipes_received"] == []
    asked = tenant.get("beta/deviceManagement/operationApprovalRequests")["value"]
    kept = {one["requestId"]: one["requestJustification"] for one in asked}[stored.record.approval_code]
    assert kept == "Turnaround, request R1: TICKET-1"


@dataclass(frozen=True)
class Ask:
    """Orders one device, as often as a test likes."""

    intune: GraphIntune
    send: Send
    device: str

    async def __call__(self, code: str = "") -> Answer:
        return (await self.send(self.intune, [order(self.device, code)]))[ManagedDeviceId(self.device)]

    async def decision(self, code: str) -> AdminDecision:
        return (await self.intune.admin_decisions([code]))[code]


@pytest.fixture
async def ask(tenant: Tenant, intune: GraphIntune, send: Send) -> Ask:
    return Ask(intune, send, tenant.truth(f"5CG{len(CASES) + 5:04}")["intune_id"])


@pytest.mark.parametrize(
    "quirks",
    [
        {"multi_admin_approval": "412", "approval_code_in": "header", "approval_ids": "id"},
        {"multi_admin_approval": "403", "approval_code_in": "body", "approval_ids": "request_id"},
        {"multi_admin_approval": "409", "approval_filter": "works", "approval_ids": "id", "list_incomplete": 0.2},
    ],
)
async def test_an_order_is_carried_out_once_when_it_comes_back_with_the_code_under_which_it_was_agreed_to(
    tenant: Tenant, ask: Ask, quirks: dict[str, object]
) -> None:
    tenant.quirks(**quirks)
    serial, other = (f"5CG{len(CASES) + n:04}" for n in (5, 6))
    before = len(tenant.truth(serial)["wipes_received"])
    code = (await ask()).approval_code
    assert code is not None
    pending = await ask()
    assert (pending.kind, pending.approval_code) == (AnswerKind.APPROVAL_REQUIRED, None)
    too_soon = await ask(code)
    assert (too_soon.kind, too_soon.approval_code) == (AnswerKind.APPROVAL_REQUIRED, code)
    tenant.post("approvals", decision="approved", code=code)
    assert await decided(ask, code, AdminDecision.APPROVED)
    another = Ask(ask.intune, ask.send, tenant.truth(other)["intune_id"])
    assert (await another(code)).kind is AnswerKind.FORBIDDEN
    assert tenant.truth(other)["wipes_received"] == []
    assert len(tenant.truth(serial)["wipes_received"]) == before
    assert (await ask(code)).kind is AnswerKind.ACCEPTED
    assert await decided(ask, code, AdminDecision.COMPLETED)
    assert (await ask(code)).kind is AnswerKind.FORBIDDEN, "a code is good for one order"
    assert len(tenant.truth(serial)["wipes_received"]) == before + 1


async def decided(ask: Ask, code: str, decision: AdminDecision) -> bool:
    """Whether this comes to be seen, of a list that may leave it out."""
    seen = AdminDecision.UNKNOWN
    for _ in range(20):
        if (seen := await ask.decision(code)) is not AdminDecision.UNKNOWN:
            break
    return seen is decision


@pytest.mark.parametrize("decision", [AdminDecision.REJECTED, AdminDecision.CANCELLED, AdminDecision.EXPIRED])
async def test_an_order_that_nobody_agreed_to_is_not_carried_out_and_may_be_asked_for_anew(
    tenant: Tenant, ask: Ask, decision: AdminDecision
) -> None:
    late = {"approval_expires_after": "PT0S"} if decision is AdminDecision.EXPIRED else {}
    tenant.quirks(multi_admin_approval="412", **late)
    serial = f"5CG{len(CASES) + 5:04}"
    before = tenant.truth(serial)["wipes_received"]
    code = (await ask()).approval_code
    assert code is not None
    if not late:
        tenant.post("approvals", decision=decision, code=code)
    assert await ask.decision(code) is decision
    refused = await ask(code)
    assert (refused.kind, "approval" in refused.detail) == (AnswerKind.FORBIDDEN, True)
    again = (await ask()).approval_code
    assert again not in (None, code)
    assert tenant.truth(serial)["wipes_received"] == before
    tenant.post("approvals", decision="cancelled")


# Faults of single calls


@pytest.mark.parametrize("fault", ["token_expired", "forbidden", "429", "503", "503_html", "500", "503_acted"])
@pytest.mark.parametrize("operation", ["wipe", "batch"])
async def test_a_fault_of_one_item_or_of_the_whole_batch_is_told_as_it_is(
    tenant: Tenant, intune: GraphIntune, send: Send, fault: str, operation: str
) -> None:
    device = ManagedDeviceId(tenant.truth("5CG0001")["intune_id"])
    before = len(tenant.truth("5CG0001")["wipes_received"])
    expected = {
        "token_expired": AnswerKind.FORBIDDEN,
        "forbidden": AnswerKind.FORBIDDEN,
        "429": AnswerKind.THROTTLED,
    }.get(fault, AnswerKind.UNKNOWN)
    tenant.post("faults", on=operation, fault=fault)
    answer: Answer = (await send(intune, [order(device)]))[device]
    assert answer.kind is expected
    assert len(tenant.truth("5CG0001")["wipes_received"]) - before == (fault == "503_acted")
    if expected is AnswerKind.FORBIDDEN:  # a token that has expired lacks no permission
        assert ("PrivilegedOperations.All" in answer.detail) is (fault == "forbidden")
