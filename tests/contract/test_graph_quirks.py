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
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Expected:
    """What a tenant with a quirk lets the gateway see and do; left out, all of it."""

    reads: type[GraphError] | None = None
    """What each read raises."""
    complete: bool = True
    """Whether lists show every record."""
    audited: int = 1
    sync: AnswerKind = AnswerKind.ACCEPTED
    reset: AnswerKind = AnswerKind.ACCEPTED
    wiped: int = 1
    """Resets that the device was really sent."""
    retry_after: timedelta | None = None


ALL = Expected()
THROTTLED = Expected(GraphThrottled, sync=AnswerKind.THROTTLED, reset=AnswerKind.THROTTLED, wiped=0)
FORBIDDEN = Expected(GraphForbidden, sync=AnswerKind.FORBIDDEN, reset=AnswerKind.FORBIDDEN, wiped=0)
DOWN = Expected(GraphUnavailable, sync=AnswerKind.UNKNOWN, reset=AnswerKind.UNKNOWN, wiped=0)
ACTED = Expected(GraphUnavailable, sync=AnswerKind.UNKNOWN, reset=AnswerKind.UNKNOWN)
NO_INTUNE = Expected(GraphRejected, sync=AnswerKind.REJECTED, reset=AnswerKind.REJECTED, wiped=0)


def refused(reset: AnswerKind) -> Expected:
    """Only the reset is refused."""
    return Expected(reset=reset, wiped=0, audited=0)


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
    ({"odd_autopilot_links": False}, ALL),
    ({"serial_oddities": True}, ALL),
    ({"stale_reads": "PT1H"}, ALL),
    ({"audit_lag": "PT1H"}, Expected(audited=0)),
    ({"clock_offset": "PT4H"}, ALL),  # four minutes at this speed
    ({"clock_offset": "-PT4H"}, ALL),
    ({"deleted_record_stub": True}, ALL),
    ({"list_incomplete": 0.5}, Expected(complete=False)),
    ({"list_incomplete": 1.0}, Expected(complete=False)),
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
        {"retry_after": "present", "p429": 1.0},
        Expected(
            GraphThrottled,
            sync=AnswerKind.THROTTLED,
            reset=AnswerKind.THROTTLED,
            wiped=0,
            retry_after=timedelta(seconds=10),
        ),
    ),
    (
        {"retry_after": "present", "p503": 1.0},
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
    ({"multi_admin_approval": "403"}, refused(AnswerKind.APPROVAL_REQUIRED)),
    ({"multi_admin_approval": "412"}, refused(AnswerKind.APPROVAL_REQUIRED)),
    ({"p503": 1.0}, DOWN),
    ({"p503_acted": 1.0}, ACTED),
    ({"lost_answer": 1.0}, ACTED),
]
SPARE = 4
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
"""


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


def order(device: str) -> Order:
    return Order(ManagedDeviceId(device), OrderId(str(uuid.uuid4())), "TICKET-1")


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
async def test_whatever_the_tenant_is_like_each_method_does_right_by_the_one_device(
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

    facts = await attempt(intune.facts([device]), expected)
    if facts is not None:
        one = facts[device]
        assert one is not None
        assert (one.managed.id, one.managed.serial_number, one.managed.name) == (device, serial, name)
        assert one.entra is not None
        assert one.entra.device_id == entra
        assert one.autopilot is not None
        assert one.autopilot.serial_number == serial

    seen = await attempt(intune.look([device]), expected)
    if seen is not None:
        assert (seen[device].exists, seen[device].entra_device_id) == (True, entra)
        assert seen[device].actions is not None

    async def changes() -> list[str]:
        return [change.device async for change in intune.changed_since(datetime(2000, 1, 1, tzinfo=UTC))]

    changed = await attempt(changes(), expected)
    if changed is not None:
        assert len(changed) == len(set(changed))
        assert not expected.complete or (device in changed and len(changed) == everyone)

    synced = (await intune.sync([order(device)]))[device]
    answer = (await intune.reset([order(device)]))[device]
    assert (synced.kind, answer.kind) == (expected.sync, expected.reset), (synced, answer)
    assert answer.retry_after == expected.retry_after
    if expected.reset is AnswerKind.ACCEPTED:
        offset = {"PT4H": 240, "-PT4H": -240}.get(str(quirks.get("clock_offset")), 0)
        assert answer.server_time is not None
        assert abs(answer.server_time - datetime.now(UTC) - timedelta(seconds=offset)) < timedelta(seconds=30)
    received = tenant.truth(serial)["wipes_received"]
    flags = {"keepEnrollmentData": True, "keepUserData": False, "persistEsimDataPlan": False}
    assert [wipe["body"] for wipe in received] == [flags] * expected.wiped

    audited = await attempt(intune.audited_resets([device], began), expected)
    if audited is not None:
        assert [(one.device, len(audited)) for one in audited[device]] == [(device, 1)] * expected.audited


# A record that is gone


@pytest.mark.parametrize(("stub", "number"), [(False, len(CASES) + 1), (True, len(CASES) + 2)])
async def test_a_device_whose_record_is_gone_is_not_taken_for_a_device(
    tenant: Tenant, intune: GraphIntune, stub: bool, number: int
) -> None:
    serial = f"5CG{number:04}"
    device = ManagedDeviceId(tenant.truth(serial)["intune_id"])
    tenant.post(f"devices/{serial}", sync_reaction="PT1S")
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


# Multi Admin Approval, from the request to the person who is asked


@pytest.mark.parametrize(("status", "number"), [("403", len(CASES) + 3), ("412", len(CASES) + 4)])
async def test_where_a_second_administrator_must_agree_nothing_is_reset_and_a_person_is_called(
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
    assert stored.record.state is State.ATTENTION
    assert stored.record.reason is not None
    assert stored.record.reason.code is Code.ADMIN_APPROVAL_REQUIRED
    assert stored.record.order is None, "what is not carried out is forgotten, so that a person may retry"
    assert again.kind is AnswerKind.APPROVAL_REQUIRED, "a request that is pending already is no refusal"
    assert tenant.truth(serial)["wipes_received"] == []
    asked = tenant.get("beta/deviceManagement/operationApprovalRequests")["value"]
    assert "Turnaround, request R1: TICKET-1" in {one["requestJustification"] for one in asked}


# Faults of single calls


@pytest.mark.parametrize("fault", ["token_expired", "forbidden", "429", "503", "503_html", "500", "503_acted"])
@pytest.mark.parametrize("operation", ["wipe", "batch"])
async def test_a_fault_of_one_item_or_of_the_whole_batch_is_told_as_it_is(
    tenant: Tenant, intune: GraphIntune, fault: str, operation: str
) -> None:
    device = ManagedDeviceId(tenant.truth("5CG0001")["intune_id"])
    before = len(tenant.truth("5CG0001")["wipes_received"])
    expected = {
        "token_expired": AnswerKind.FORBIDDEN,
        "forbidden": AnswerKind.FORBIDDEN,
        "429": AnswerKind.THROTTLED,
    }.get(fault, AnswerKind.UNKNOWN)
    tenant.post("faults", on=operation, fault=fault)
    answer: Answer = (await intune.reset([order(device)]))[device]
    assert answer.kind is expected
    assert len(tenant.truth("5CG0001")["wipes_received"]) - before == (fault == "503_acted")
    if expected is AnswerKind.FORBIDDEN:  # a token that has expired lacks no permission
        assert ("PrivilegedOperations.All" in answer.detail) is (fault == "forbidden")
