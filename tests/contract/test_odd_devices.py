"""Devices that must not be reset, from the scenario file through Graph to the verdict; and plain ones, which may be."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sandbox.scenario import Scenario
from sandbox.tenant.graph import Tenant
from sandbox.virtual.graph import TenantTransport
from shared.domain import eligibility
from shared.domain.devices import DeviceFacts, DeviceReference, ReferenceKind
from shared.domain.policy import Policy
from shared.domain.reasons import Code
from shared.graph.credential import StaticTokenCredential
from shared.graph.endpoint import GraphEndpoint
from shared.graph.gateway import GraphIntune, Patience
from shared.pipeline.ports import GraphForbidden

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
BOARD = "99999999-0000-4000-8000-000000000001"
POLICY = Policy.model_validate({"protected_groups": [BOARD]})

type Table = dict[str, object]

ODD: list[tuple[str, Table, Code | None]] = [
    ("plain", {}, None),
    ("virtual", {"manufacturer": "VMware, Inc.", "model": "VMware20,1"}, Code.VIRTUAL_MACHINE),
    ("hyper-v", {"manufacturer": "Microsoft Corporation", "model": "Virtual Machine"}, Code.VIRTUAL_MACHINE),
    ("hub", {"manufacturer": "Microsoft Corporation", "model": "Surface Hub 2S"}, Code.UNSUPPORTED_WINDOWS),
    ("hololens", {"os": "Windows Holographic", "model": "HoloLens 2"}, Code.UNSUPPORTED_WINDOWS),
    ("server", {"os_version": "10.0.20348.2113", "sku_family": "Server"}, Code.UNSUPPORTED_WINDOWS),
    ("windows 7", {"os_version": "6.1.7601.24544"}, Code.WINDOWS_TOO_OLD),
    ("windows 8", {"os_version": "6.3.9600.20778"}, Code.WINDOWS_TOO_OLD),
    ("no version", {"os_version": ""}, Code.FACTS_INCOMPLETE),
    ("co-managed", {"management_agent": "configurationManagerClientMdm"}, Code.CO_MANAGED),
    ("defender", {"management_agent": "msSense"}, Code.NOT_MDM_MANAGED),
    ("new agent", {"management_agent": "mdmOfTomorrow"}, Code.FACTS_INCOMPLETE),
    ("hybrid", {"join": "hybrid"}, Code.HYBRID_JOINED),
    ("hybrid for Intune", {"join_type": "hybridAzureADJoined"}, Code.HYBRID_JOINED),
    ("joined for Intune", {"join": "hybrid", "join_type": "azureADJoined"}, Code.HYBRID_JOINED),
    ("join unknown", {"join_type": "unknown"}, Code.JOIN_UNKNOWN),
    ("registered for Intune", {"join_type": "azureADRegistered"}, Code.JOIN_DISAGREES),
    ("retired", {"pending_actions": [{"name": "retire", "age": "P400D"}]}, Code.OTHER_ACTION_PENDING),
    ("wiped", {"pending_actions": [{"name": "factoryReset", "state": "active"}]}, Code.OTHER_ACTION_PENDING),
    ("on the board", {}, Code.PROTECTED),
    ("of the board", {"primary_user": "chair@contoso.example"}, Code.PROTECTED),
]


def scenario(**quirks: object) -> Scenario:
    plain: Table = {"group_tag": "LAB"}
    return Scenario.model_validate(
        {
            "scenario": {"name": "odd"},
            "tenant": {"quirks": quirks},
            "devices": [{**plain, "name": name, "serial": f"ODD {name}", **table} for name, table, _ in ODD],
            "groups": [
                {"name": "Board", "id": BOARD, "members": ["group:Offices"]},
                {"name": "Offices", "members": ["device:ODD on the board", "user:chair@contoso.example"]},
            ],
        }
    )


@asynccontextmanager
async def connected(plan: Scenario) -> AsyncIterator[GraphIntune]:
    fleet = plan.fleet(1, START)
    roles, groups = plan.tenant.roles, plan.directory(fleet)
    tenant = Tenant(fleet, random.Random(1), roles=roles, token="sandbox", groups=groups)
    transport = TenantTransport(tenant, lambda: START, lambda: 0.0)
    async with await GraphIntune.create(
        GraphEndpoint.parse("http://127.0.0.1:9"),
        StaticTokenCredential("sandbox"),
        transport=transport,
        now=lambda: START,
        patience=Patience(attempts=1),
    ) as intune:
        yield intune


async def told(intune: GraphIntune) -> dict[str, DeviceFacts]:
    """The facts of each device with its groups, by its name."""
    references = [DeviceReference(ReferenceKind.SERIAL_NUMBER, f"ODD {name}") for name, _, _ in ODD]
    ids = [finding.devices[0].managed.id for finding in (await intune.find(references)).values()]
    facts = [one for one in (await intune.facts(ids)).values() if one is not None]
    held = await intune.memberships(facts, POLICY.protected_groups)
    return {str(one.managed.name): replace(one, groups=held.get(one.managed.id)) for one in facts}


@pytest.mark.parametrize("filters", ["reference", "schema"])
async def test_each_odd_device_is_refused_by_what_graph_tells_of_it_and_a_plain_one_is_not(filters: str) -> None:
    async with connected(scenario(filter_support=filters)) as intune:
        facts = await told(intune)
    verdicts = {name: eligibility.refusal(one, POLICY, START) for name, one in facts.items()}
    assert {name: reason and reason.code for name, reason in verdicts.items()} == {name: code for name, _, code in ODD}


@pytest.mark.parametrize(("quirk", "code"), [("unknown", Code.JOIN_UNKNOWN), ("stale", Code.JOIN_DISAGREES)])
async def test_a_tenant_that_does_not_know_how_devices_are_joined_has_them_refused(quirk: str, code: Code) -> None:
    plan = scenario(join_type=quirk)
    plain = plan.devices[0].model_copy(update={"count": 10, "name": "P{n}", "serial": "PLAIN{n:03}"})
    async with connected(plan.model_copy(update={"devices": (plain, *plan.devices)})) as intune:
        references = [DeviceReference(ReferenceKind.SERIAL_NUMBER, f"PLAIN{n:03}") for n in range(1, 11)]
        found = [finding.devices[0] for finding in (await intune.find(references)).values()]
    verdicts = [eligibility.refusal(replace(one, groups=frozenset()), POLICY, START) for one in found]
    assert [reason and reason.code for reason in verdicts] == [code if n % 5 == 3 else None for n in range(10)]


async def test_where_groups_may_not_be_read_nothing_is_known_of_any_device() -> None:
    async with connected(scenario(groups_forbidden=True)) as intune:
        with pytest.raises(GraphForbidden, match=r"GroupMember\.Read\.All"):
            await told(intune)
