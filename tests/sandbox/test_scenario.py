"""Scenario files: what they say is what the fleet is; what they should not say is refused by name."""

import base64
import json
import random
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from sandbox import scenario as module
from sandbox.scenario import (
    About,
    DeviceEnd,
    DeviceGroup,
    Encoding,
    RequestEnd,
    RequestTable,
    Scenario,
    ScenarioError,
)
from sandbox.tenant.devices import Behaviour, Device, User
from sandbox.tenant.pace import paced
from sandbox.tenant.quirks import Quirks
from sandbox.tenant.records import action_results

ROOT = Path(__file__).parents[2]
MAIN = ROOT / "examples" / "scenarios" / "main.toml"
START = datetime(2026, 3, 2, 9, tzinfo=UTC)


def load(folder: Path, text: str, **kwargs: float) -> Scenario:
    path = folder / "scenario.toml"
    path.write_text(text if "[scenario]" in text else '[scenario]\nname = "x"\n' + text)
    return Scenario.load(path, **kwargs)


def fault(folder: Path, text: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        load(folder, text).fleet(1, START)
    return str(caught.value).removeprefix(f"{folder}/scenario.toml: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[devices]]\ncount = 0", r"\[\[devices\]\] #1: count: "),
        ("[[devices]]\n[[devices]]\nchekin = 1", r"\[\[devices\]\] #2: chekin: unknown key"),
        ('[[devices]]\nreset_duration = "30 minutes"', r"#1: reset_duration: .*ISO 8601"),
        ("[[devices]]\nreset_duration = 30", r"#1: reset_duration: .*ISO 8601"),
        ('[[devices]]\nreset_duration = "-PT5M"', r"#1: reset_duration: "),
        ('[[devices]]\nfailure = "nosuch"', r"#1: failure: "),
        ('[[devices]]\nname = "LAB-{m}"', r"#1: name: .*pattern"),
        ('[[devices]]\nonline_hours = ["PT9H"]', r"#1: online_hours"),
        ('[[devices]]\noff_until = "PT1H"', r"#1: off_until must come after off_from"),
        ('[[devices]]\ncount = 2\nrecords = "x"', r"#1: .*made-up devices only"),
        ('[[devices]]\nrecords = "x"\n[devices.device]\nid = "1"', r"#1: .*not both"),
        ('[[devices]]\n[devices.managed_device]\ndeviceName = "x"', r"#1: managed_device: 'id'"),
        ("[[groups]]", r"\[\[groups\]\] #1: name: "),
        ('[[groups]]\nname = "G"\nid = "x"', r"\[\[groups\]\] #1: id: "),
        ('[[devices]]\npending_actions = [{ name = "x", state = "done" }]', r"#1: pending_actions.0.state: "),
        ("[tenant.quirks]\nnosuch = true", r"\[tenant\]: quirks.nosuch: unknown key"),
        ("[tenant.quirks]\np503 = 3", r"\[tenant\]: quirks.p503: "),
        ("[[devices]]\nquirks = { nosuch = 1 }", r"\[\[devices\]\] #1: quirks.nosuch: unknown key"),
        ("[[devices]]\nquirks = { clock_offset = 'PT1M' }", r"#1: quirks.clock_offset: unknown key"),
        ("[nosuch]\nx = 1", r"\[nosuch\]: unknown key"),
        ("[policy]\nx = [1]", r"\[policy\]: x"),
        ("[[requests]]\nat = 'PT1M'", r"\[\[requests\]\] #1: give exactly one of file, body and raw"),
        ("[[requests]]\nfile = 'nosuch.json'", r"\[\[requests\]\] #1: file: there is no nosuch.json"),
        ("[[references]]\nrequest='R'\nreference='SN1'\nexpect='ready'", r"\[\[references\]\] #1: reference: "),
        ("[[windows]]\nname='w'\ngroup_tag='x'", r"\[\[windows\]\] #1: give exactly one of cron and opens_after"),
        ("[[windows]]\nname='w'\ncron='0 8 * * *'", r"#1: give exactly one of devices and group_tag"),
        ("[[windows]]\nname='w'\ncron='x'\ngroup_tag='x'", r"#1: cron: "),
        ("[[windows]]\nname='w'\nopens_after='PT1M'\ngroup_tag='x'\ntimezone='Mars'", r"no time zone 'Mars'"),
        ('[scenario]\nname = "No Good"', r"\[scenario\]: name: "),
        ('[scenario]\nname = "x"\nspeed = 0', r"\[scenario\]: speed: "),
        ("path = 'x'", r"path: unknown key"),
    ],
)
def test_a_fault_is_named_by_file_table_and_key(tmp_path: Path, text: str, message: str) -> None:
    assert re.search(message, fault(tmp_path, text)), fault(tmp_path, text)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    assert len(fault(tmp_path, "[[devices]]\na = 1\nb = 2").splitlines()) == 2


def test_ids_are_the_same_in_every_run_wherever_a_device_stands_in_the_file(tmp_path: Path) -> None:
    first = load(tmp_path, "[[devices]]\nserial = 'A'\n[[devices]]\nserial = 'B'").fleet(1, START)
    again = load(tmp_path, "[[devices]]\nserial = 'B'\n[[devices]]\nserial = 'A'").fleet(2, START + timedelta(1))
    ids = [
        {d.serial: d.records.managed_device["id"] for d in fleet.devices if d.records.managed_device}
        for fleet in (first, again)
    ]
    assert ids[0] == ids[1]
    other = load(tmp_path, '[scenario]\nname = "y"\n[[devices]]\nserial = "A"').fleet(1, START)
    assert other.devices[0].intune is not None
    assert other.devices[0].intune.id != ids[0]["A"]


def test_devices_that_share_a_serial_number_have_ids_of_their_own(tmp_path: Path) -> None:
    fleet = load(tmp_path, "[[devices]]\ncount = 3\nserial = 'Default string'").fleet(1, START)
    assert len({device.intune.id for device in fleet.devices if device.intune}) == 3


def test_the_same_seed_gives_the_same_fleet(tmp_path: Path) -> None:
    plan = load(tmp_path, "[[devices]]\ncount = 5")
    dues = [[device.due() for device in plan.fleet(seed, START).devices] for seed in (1, 1, 2)]
    assert dues[0] == dues[1] != dues[2]


def test_durations_are_divided_by_the_speed_in_one_step(tmp_path: Path) -> None:
    text = '[scenario]\nname = "x"\nspeed = 120\n[[devices]]\nfirst_check_in = "PT2M"\n'
    text += '[policy]\na = "PT15M"\nb = 3\nc = "POL"'
    plan = load(tmp_path, text)
    (device,) = plan.fleet(1, START).devices
    assert device.due() == START + timedelta(seconds=1)
    assert device.behaviour.reset_duration == timedelta(seconds=15)
    assert device.behaviour.new_enrolment[0] == (timedelta(seconds=7.5), timedelta(seconds=1.5))
    assert plan.quirks().stale_reads == timedelta(seconds=0.5)
    assert plan.real_policy() == {"a": "PT7.500000S", "b": 3, "c": "POL"}
    assert load(tmp_path, text, speed=60).fleet(1, START).devices[0].due() == START + timedelta(seconds=2)


def test_a_devices_own_quirks_come_before_the_tenants_and_run_at_the_scenarios_speed(tmp_path: Path) -> None:
    text = '[scenario]\nname = "x"\nspeed = 60\n[tenant.quirks]\nstale_reads = "PT3M"\naction_done_at = "end"\n'
    text += '[[devices]]\n[[devices]]\nquirks = { stale_reads = "PT2M", action_results = "always_empty" }'
    fleet = load(tmp_path, text).fleet(1, START)
    plain, odd = [fleet.quirks_of(device) for device in fleet.devices]
    assert plain == fleet.quirks
    assert odd == plain.model_copy(update={"stale_reads": timedelta(seconds=2), "action_results": "always_empty"})


def test_pace_can_be_turned_back() -> None:
    behaviour = Behaviour(online_hours=(timedelta(hours=8), timedelta(hours=17)))
    assert paced(paced(behaviour, 8), 1 / 8) == behaviour
    assert paced(Quirks(), 1) == Quirks()


def test_records_can_be_missing_one_by_one(tmp_path: Path) -> None:
    text = "[[devices]]\nenrolled = false\n[[devices]]\nautopilot = false"
    shelf, bare = load(tmp_path, text).fleet(1, START).devices
    assert (shelf.records.managed_device, shelf.intune, shelf.due()) == (None, None, None)
    assert shelf.records.autopilot_identity is not None
    assert bare.records.managed_device is not None
    assert bare.records.autopilot_identity is None


def test_intune_and_entra_show_of_a_device_what_the_scenario_says(tmp_path: Path) -> None:
    text = """
    [[devices]]
    model = "Virtual Machine"
    manufacturer = "Microsoft Corporation"
    os = "Windows Holographic"
    os_version = "6.1.7601.24544"
    sku_family = "Server"
    management_agent = "configurationManagerClientMdm"
    join = "hybrid"
    join_type = "unknown"
    pending_actions = [{ name = "retire", age = "P40D" }, { name = "quickScan", state = "active" }]
    [[devices]]
    serial = "PLAIN"
    """
    plan = load(tmp_path, text, speed=2)
    odd, plain = plan.fleet(1, START).devices
    managed, entra, identity = (odd.records.managed_device, odd.records.entra_device, odd.records.autopilot_identity)
    assert managed is not None
    assert entra is not None
    assert identity is not None
    for record in (managed, entra, identity):
        assert (record["model"], record["manufacturer"]) == ("Virtual Machine", "Microsoft Corporation")
    assert (managed["operatingSystem"], managed["osVersion"]) == ("Windows Holographic", "6.1.7601.24544")
    assert (entra["operatingSystem"], entra["operatingSystemVersion"]) == ("Windows Holographic", "6.1.7601.24544")
    assert managed["managementAgent"] == "configurationManagerClientMdm"
    assert (odd.records.managed_device_beta["joinType"], entra["trustType"]) == ("unknown", "ServerAd")
    assert odd.records.managed_device_beta["skuFamily"] == "Server"
    assert unsettled(odd) == [
        ("retire", "pending", "2026-02-10T09:00:00.0000000Z"),
        ("quickScan", "active", "2026-03-02T08:30:00.0000000Z"),
    ]
    assert unsettled(plain) == []
    assert plain.records.managed_device_beta["joinType"] == "azureADJoined"


def unsettled(device: Device) -> list[tuple[str, str, str]]:
    """What reads show of its actions that are not over, whatever else is left out."""
    assert device.intune is not None
    shown: Any = action_results(device, device.intune, Quirks(old_action_results=False))
    return [(one["actionName"], one["actionState"], one["startDateTime"]) for one in shown]


def test_groups_hold_those_whom_the_scenario_names(tmp_path: Path) -> None:
    text = """
    [tenant]
    deleted_users = ["Gone@contoso.example"]
    [[devices]]
    count = 3
    serial = "S{n}"
    [[devices]]
    [devices.managed_device]
    id = "AAAAAAAA-0000-4000-8000-000000000001"
    userId = "CCCCCCCC-0000-4000-8000-000000000001"
    userPrincipalName = "real@contoso.example"
    lastSyncDateTime = "2026-03-01T10:00:00Z"
    enrolledDateTime = "2024-01-01T00:00:00Z"
    [[groups]]
    name = "all"
    members = ["device:S*", "user:REAL@contoso.example", "user:gone@contoso.example", "user:new@contoso.example"]
    [[groups]]
    name = "outer"
    id = "99999999-0000-4000-8000-000000000001"
    hidden = true
    members = ["group:all", "group:outer"]
    """
    plan = load(tmp_path, text)
    fleet = plan.fleet(1, START)
    groups = plan.directory(fleet)
    inner, outer = groups.groups.values()
    assert (outer.id, outer.hidden, inner.hidden) == ("99999999-0000-4000-8000-000000000001", True, False)
    assert plan.directory(fleet).groups.keys() == groups.groups.keys(), "made-up ids are the same in every run"
    real, new = "cccccccc-0000-4000-8000-000000000001", User.named("new@contoso.example").id
    entra = [str(one.records.entra_device["id"]) for one in fleet.devices if one.records.entra_device]
    assert len(entra) == 3
    for member in (*entra, real, new):
        assert groups.holding(member, START, timedelta(), random.Random(1)) == {inner.id, outer.id}
    assert [groups.knows(user) for user in (real, new, User.named("gone@contoso.example").id)] == [True, True, False]


@pytest.mark.parametrize("member", ["device:NOSUCH", "group:NOSUCH", "user:", "S1", ""])
def test_a_member_that_there_is_not_is_named(tmp_path: Path, member: str) -> None:
    plan = load(tmp_path, f"[[devices]]\n[[groups]]\nname = 'G'\nmembers = ['{member}']")
    with pytest.raises(ScenarioError, match=r"\[\[groups\]\] #1: members: "):
        plan.directory(plan.fleet(1, START))


def test_leftover_records_share_serial_number_and_are_never_heard_of(tmp_path: Path) -> None:
    plan = load(tmp_path, "[[devices]]\nduplicate_records = 2\nexpect = 'ready'")
    fleet = plan.fleet(1, START)
    now, *older = fleet.devices
    assert [device.serial for device in older] == [now.serial] * 2
    assert now.intune is not None
    for device in older:
        assert device.intune is not None
        assert device.intune.enrolled_at < now.intune.enrolled_at
        fleet.wipe(device, {"keepEnrollmentData": True}, START)
    fleet.advance(START + timedelta(days=30))
    assert [device.truth(START).resets_taken for device in older] == [0, 0]
    assert list(plan.expected()) == [now.intune.id]


def test_an_export_of_a_real_tenant_is_replayed(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    managed = {
        "id": "AAAAAAAA-0000-4000-8000-000000000001",
        "deviceName": "REAL-1",
        "serialNumber": " R1 ",
        "azureADDeviceId": "BBBBBBBB-0000-4000-8000-000000000001",
        "lastSyncDateTime": "2026-03-01T10:00:00.1234567Z",
        "enrolledDateTime": "2024-01-01T00:00:00Z",
        "userPrincipalName": "someone@contoso.example",
        "userId": "cccccccc-0000-4000-8000-000000000001",
        "joinType": "azureADJoined",
    }
    entra = {"id": "1", "deviceId": "bbbbbbbb-0000-4000-8000-000000000001", "trustType": "AzureAd"}
    lonely = {"id": "2", "deviceId": "bbbbbbbb-0000-4000-8000-000000000002", "displayName": "LONELY"}
    identities = [
        {"id": "3", "serialNumber": "R1", "groupTag": "X"},
        {"id": "4", "serialNumber": "R2", "azureActiveDirectoryDeviceId": ""},
    ]
    for name, value in (
        ("managedDevices", [managed]),
        ("devices", [entra, lonely]),
        ("windowsAutopilotDeviceIdentities", identities),
    ):
        (folder / f"{name}.json").write_text(json.dumps({"@odata.context": "x", "value": value}))
    fleet = load(tmp_path, "[[devices]]\nrecords = 'export'").fleet(1, START)
    assert [(device.serial, device.name) for device in fleet.devices] == [
        (" R1 ", "REAL-1"),
        ("R2", "R2"),
        ("", "LONELY"),
    ]
    real = fleet.devices[0]
    assert real.records.entra_device == entra
    assert real.records.autopilot_identity == identities[0]
    assert real.intune is not None
    assert real.intune.user is not None
    assert real.intune.user.id == managed["userId"]
    assert real.intune.last_sync_at == datetime(2026, 3, 1, 10, 0, 0, 123456, tzinfo=UTC)
    (folder / "devices.json").write_text("[]")
    assert "devices.json is not Graph's" in fault(tmp_path, "[[devices]]\nrecords = 'export'")


def test_inline_records_are_a_device(tmp_path: Path) -> None:
    text = "[[devices]]\nautopilot_identity = { id = '1', serialNumber = 'S1' }\nexpect = 'refused'"
    plan = load(tmp_path, text)
    (device,) = plan.fleet(1, START).devices
    assert (device.serial, device.records.managed_device) == ("S1", None)
    assert plan.expected() == {"S1": (DeviceEnd.REFUSED, None)}


def test_messages_are_encoded_as_the_scenario_says(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"a":\n1}')
    text = "[[requests]]\nfile='r.json'\n[[requests]]\nbody={a=1}\nencoding='plain'\n[[requests]]\nraw='x'"
    plan = load(tmp_path, text)
    messages = [plan.message(request) for request in plan.requests]
    assert base64.b64decode(messages[0]).decode() == '{"a":\n1}'
    assert messages[1] == '{"a": 1}'
    assert base64.b64decode(messages[2]) == b"x"


# The demo.


def test_the_demo_holds_what_it_must_show() -> None:
    plan = Scenario.load(MAIN)
    ends = list(plan.expected().values())
    assert len(ends) >= 34
    assert sum(end is DeviceEnd.READY for end, _ in ends) > len(ends) / 2
    reasons = {reason for _, reason in ends} | {one.expect_reason for one in plan.references}
    reasons |= {one.expect_reason for one in plan.requests}
    assert reasons >= {
        "hybrid_joined",
        "not_autopilot_registered",
        "not_enrolled",
        "reset_failed_on_device",
        "not_checked_in",
        "already_in_flight",
        "unknown_device",
        "malformed",
        "ambiguous",
    }
    assert RequestEnd.DUPLICATE in {request.expect for request in plan.requests}
    assert {request.encoding for request in plan.requests} == set(Encoding)
    assert [window.opens_after for window in plan.windows] == [timedelta(minutes=1)]


def test_the_demo_asks_for_devices_that_its_fleet_has() -> None:
    plan = Scenario.load(MAIN)
    devices = plan.fleet(1, START).devices
    known = {"serialNumber": {d.serial for d in devices}, "name": {d.name for d in devices}}
    known["intuneId"] = {d.intune.id for d in devices if d.intune}
    known["entraDeviceId"] = {str((d.records.entra_device or {}).get("deviceId")) for d in devices}
    known["groupTag"] = {str((d.records.autopilot_identity or {}).get("groupTag")) for d in devices}
    unknown = []
    for request in plan.requests:
        if request.expect is RequestEnd.REFUSED:
            continue
        assert request.file is not None
        for asked in json.loads((MAIN.parent / request.file).read_text())["devices"]:
            ((kind, value),) = asked.items()
            if value not in known[kind]:
                unknown.append(value)
    assert sorted(set(unknown)) == ["NOSUCH99"]
    assert plan.windows[0].group_tag in known["groupTag"]


def test_every_device_of_the_demo_that_must_get_ready_does_when_told_and_no_other() -> None:
    plan = Scenario.load(MAIN)
    fleet, expected = plan.fleet(1, START), plan.expected()
    told = [device for device in fleet.devices if device.intune and device.truth(START).intune_id in expected]
    for device in told:
        fleet.wipe(device, {"keepEnrollmentData": True, "keepUserData": False}, START)
    for second in range(1, 60):
        fleet.advance(START + timedelta(seconds=second))
        if second == 3:
            for device in told:
                fleet.request_sync(device, START + timedelta(seconds=3))
    for device in told:
        truth = device.truth(START + timedelta(seconds=60))
        end = expected[str(truth.intune_id)][0]
        if end is DeviceEnd.READY:
            assert truth.resets_taken == 1, device.serial
            assert truth.truly_ready, device.serial
        if end in (DeviceEnd.FAILED, DeviceEnd.ATTENTION):
            assert truth.resets_taken == 0, device.serial


# The reference page.


def models() -> list[type[BaseModel]]:
    found = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, BaseModel)]
    return [one for one in found if one is not BaseModel and not one.__name__.startswith("_")]


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_the_reference_names_every_key(model: type[BaseModel]) -> None:
    page = (ROOT / "docs" / "reference" / "scenarios.md").read_text("utf-8")
    missing = [name for name in model.model_fields if f"`{name}`" not in page]
    assert [name for name in missing if name != "path"] == []


def test_the_reference_gives_the_defaults_as_they_are() -> None:
    page = (ROOT / "docs" / "reference" / "scenarios.md").read_text("utf-8")
    rows = {
        name: json.loads(default) for name, default in re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", page, re.MULTILINE)
    }
    for model in (Quirks(), DeviceGroup(), RequestTable(raw=""), About(name="x")):
        for name, value in model.model_dump().items():
            if isinstance(value, timedelta):
                shown = TypeAdapter(timedelta).validate_python(rows[name])
                assert shown == value, name
            elif isinstance(value, str | int | float) and name not in ("name", "description", "expect", "raw"):
                assert rows[name] == value, name
