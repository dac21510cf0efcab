"""The kept extracts of Graph's schema; and the simulated tenant, which refuses what they do not hold as Graph would."""

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from sandbox.graph_schema.check import check
from sandbox.graph_schema.extract import CsdlError, extract
from sandbox.graph_schema.extract import main as extract_main
from sandbox.graph_schema.extract_beta import SdkError
from sandbox.graph_schema.extract_beta import extract as extract_beta
from sandbox.graph_schema.schema import FOLDER, PRIMITIVES, Property, Schema, Version
from sandbox.tenant.calls import Answer, Fault, FaultKind
from sandbox.tenant.har import HarFile
from sandbox.tenant.quirks import ACTION_NAMES
from sandbox.tenant.server import build_app
from shared.domain.devices import ActionState
from tests.sandbox.test_tenant_graph import (
    AUTOPILOT,
    BOARD,
    DEVICES,
    JSON,
    RESET,
    USER,
    Client,
    client,
    entra_id,
    error,
    ident,
    items,
)

VERSIONS: tuple[Version, ...] = ("v1.0", "beta")
PATHS = [(version, path, type_) for version in VERSIONS for path, type_ in Schema.kept(version).paths.items()]
NOBODY = "00000000-0000-4000-8000-000000000000"
ALL_ROLES = (
    "DeviceManagementManagedDevices.Read.All",
    "DeviceManagementManagedDevices.PrivilegedOperations.All",
    "DeviceManagementServiceConfig.Read.All",
    "Device.Read.All",
    "GroupMember.Read.All",
    "User.ReadBasic.All",
)
SCHEMA = Schema.kept("v1.0")
MANAGED = SCHEMA.types["managedDevice"]
ASKED = {"groupIds": [BOARD]}

# The extracts.

CSDL, SDK = os.environ.get("TURNAROUND_CSDL"), os.environ.get("TURNAROUND_MSGRAPH_BETA")


@pytest.mark.skipif(not CSDL, reason="TURNAROUND_CSDL names no metadata document of Graph v1.0 to compare with")
def test_the_extract_is_what_the_script_makes_of_the_metadata() -> None:
    assert extract(Path(CSDL or "").read_bytes()).text() == (FOLDER / "v1.0.json").read_text("utf-8")


@pytest.mark.skipif(not SDK, reason="TURNAROUND_MSGRAPH_BETA names no folder of msgraph-beta-sdk to compare with")
def test_the_beta_extract_is_what_the_script_makes_of_the_sdk() -> None:
    assert extract_beta(Path(SDK or "")).text() == (FOLDER / "beta.json").read_text("utf-8")


@pytest.mark.parametrize("version", VERSIONS)
def test_an_extract_is_whole_in_itself(version: Version) -> None:
    schema = Schema.kept(version)
    assert schema.version == version
    assert schema.text() == (FOLDER / f"{version}.json").read_text("utf-8"), "edited by hand?"
    assert set(schema.paths.values()) <= set(schema.types)
    for enum in schema.enums.values():
        assert len(set(enum)) == len(enum) > 0
    used: set[str] = set()
    assert all("id" in schema.types[type_].properties for type_ in schema.paths.values())
    for one in schema.types.values():
        for known in [*one.properties.values(), *(p for action in one.actions.values() for p in action.values())]:
            assert set(known.filter) <= {"eq", "ne", "lt", "gt", "contains", "or"}
            used.add(known.item or known.type)
    assert set(schema.enums) <= used
    unknown = used - PRIMITIVES - set(schema.enums) - set(schema.types)
    assert unknown == set() if version == "v1.0" else unknown.isdisjoint({"managedDevice", "deviceActionResult"})


def test_the_extracts_say_where_they_come_from_and_name_nobodys_machine() -> None:
    for version in VERSIONS:
        text = (FOLDER / f"{version}.json").read_text("utf-8")
        assert "MIT, Copyright (c) Microsoft" in text
        assert "python -m sandbox.graph_schema.extract" in text
        assert not re.search(r'"/|[A-Z]:\\', text)


def test_the_extracts_hold_what_turnaround_relies_on() -> None:
    v1, beta = Schema.kept("v1.0"), Schema.kept("beta")
    assert set(v1.types["managedDevice"].actions["wipe"]) >= set(RESET)
    assert v1.types["managedDevice"].actions["syncDevice"] == {}
    assert v1.types["managedDevice"].navigation["users"] == "Collection(user)"
    assert v1.types["device"].keys == ("deviceId",)
    assert v1.types["managedDevice"].properties["lastSyncDateTime"].filter == ("lt", "gt")
    assert set(v1.enums["actionState"]) == set(beta.enums["actionState"])
    assert set(v1.enums["actionState"]) <= {state.value for state in ActionState}
    assert set(v1.types["managedDevice"].properties) <= set(beta.types["managedDevice"].properties)
    assert set(ACTION_NAMES) <= set(beta.enums["remoteAction"])
    assert {"joinType", "autopilotEnrolled"} <= set(beta.types["managedDevice"].properties) - set(MANAGED.properties)


SMALL = """<?xml version="1.0" encoding="utf-8"?>
<edmx:Edmx Version="4.0" xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx"><edmx:DataServices>
<Schema Namespace="microsoft.graph" Alias="graph" xmlns="http://docs.oasis-open.org/odata/ns/edm">
  <EnumType Name="state"><Member Name="on" Value="0" /><Member Name="off" Value="1" /></EnumType>
  <EnumType Name="unused"><Member Name="x" Value="0" /></EnumType>
  <EntityType Name="entity" Abstract="true"><Property Name="id" Type="Edm.String" Nullable="false" /></EntityType>
  <EntityType Name="managedDevice" BaseType="graph.entity">
    <Property Name="state" Type="graph.state" /><Property Name="parts" Type="Collection(graph.part)" />
    <NavigationProperty Name="users" Type="Collection(graph.user)" />
  </EntityType>
  <ComplexType Name="part"><Property Name="at" Type="Edm.DateTimeOffset" Nullable="false" /></ComplexType>
  <EntityType Name="windowsAutopilotDeviceIdentity" BaseType="graph.entity" />
  <EntityType Name="managedDeviceOverview" BaseType="graph.entity" />
  <EntityType Name="directoryObject" BaseType="graph.entity" />
  <EntityType Name="group" BaseType="graph.directoryObject">
    <Property Name="displayName" Type="Edm.String" /><Property Name="visibility" Type="Edm.String" />
  </EntityType>
  <EntityType Name="device" BaseType="graph.directoryObject">
    <Annotation Term="Org.OData.Core.V1.AlternateKeys"><Collection>
    <Record><PropertyValue Property="Alias" String="deviceId" /></Record></Collection></Annotation></EntityType>
  <EntityType Name="user" BaseType="graph.directoryObject">
    <Property Name="displayName" Type="Edm.String" /><Property Name="mail" Type="Edm.String" />
    <Property Name="userPrincipalName" Type="Edm.String" /><Property Name="city" Type="Edm.String" />
  </EntityType>
  <EntityType Name="deviceManagement">
    <NavigationProperty Name="managedDevices" Type="Collection(graph.managedDevice)" />
    <NavigationProperty Name="managedDeviceOverview" Type="graph.managedDeviceOverview" />
    <NavigationProperty Name="windowsAutopilotDeviceIdentities"
      Type="Collection(graph.windowsAutopilotDeviceIdentity)" />
  </EntityType>
  <Action Name="wipe" IsBound="true"><Parameter Name="b" Type="graph.user" /></Action>
  <Action Name="wipe" IsBound="true"><Parameter Name="b" Type="graph.managedDevice" />
    <Parameter Name="keepUserData" Type="Edm.Boolean" /></Action>
  <Action Name="syncDevice" IsBound="true"><Parameter Name="b" Type="graph.managedDevice" /></Action>
  <Action Name="checkMemberGroups" IsBound="true"><Parameter Name="b" Type="graph.directoryObject" />
    <Parameter Name="groupIds" Type="Collection(Edm.String)" Nullable="false" />
    <ReturnType Type="Collection(Edm.String)" Nullable="false" /></Action>
  <EntityContainer Name="GraphService">
    <EntitySet Name="devices" EntityType="microsoft.graph.device" />
    <EntitySet Name="users" EntityType="microsoft.graph.user" />
    <EntitySet Name="groups" EntityType="microsoft.graph.group" />
    <Singleton Name="deviceManagement" Type="microsoft.graph.deviceManagement" />
  </EntityContainer>
</Schema>
<Schema Namespace="other" xmlns="http://docs.oasis-open.org/odata/ns/edm">
  <Annotations Target="microsoft.graph.managedDevice/state">
    <Annotation Term="Org.OData.Core.V1.Description" String="On? Supports $filter operator 'eq' and 'or'. Fine." />
  </Annotations>
</Schema></edmx:DataServices></edmx:Edmx>
"""


def test_the_script_keeps_what_is_used_with_all_that_it_refers_to() -> None:
    found = extract(SMALL.encode())
    device = found.types["managedDevice"]
    assert device.properties == {
        "id": Property(type="String", nullable=False),
        "state": Property(type="state", filter=("eq", "or")),
        "parts": Property(type="Collection(part)"),
    }
    assert device.actions == {"wipe": {"keepUserData": Property(type="Boolean")}, "syncDevice": {}}
    assert found.types["device"].keys == ("deviceId",)
    assert found.types["part"].properties == {"at": Property(type="DateTimeOffset", nullable=False)}
    assert found.enums == {"state": ("on", "off")}
    for member in ("device", "user", "group"):
        assert found.types[member].actions["checkMemberGroups"] == {
            "groupIds": Property(type="Collection(String)", nullable=False)
        }
        assert found.types[member].returns == {"checkMemberGroups": "Collection(String)"}
    assert (device.returns, found.entities) == ({}, {"users": "user", "groups": "group"})
    assert found.singletons == {"deviceManagement/managedDeviceOverview": "managedDeviceOverview"}
    assert "city" not in found.types["user"].properties
    assert Schema.model_validate_json(found.text()) == found


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ('EntityType Name="managedDevice"', "managedDevice"),
        ('EntityType Name="entity"', "entity"),
        ('EnumType Name="state"', "state"),
        ('Property Name="mail"', "mail"),
        ('NavigationProperty Name="managedDevices"', "deviceManagement/managedDevices"),
        ('EntitySet Name="devices"', "devices"),
        ('EntitySet Name="groups"', "groups"),
        ('NavigationProperty Name="managedDeviceOverview"', "deviceManagement/managedDeviceOverview"),
        ('Action Name="checkMemberGroups"', "checkMemberGroups"),
        ('Action Name="syncDevice"', "syncDevice"),
        ('Schema Namespace="microsoft.graph"', "microsoft.graph"),
        ("</edmx:Edmx>", "XML"),
    ],
)
def test_the_script_says_what_the_document_lacks(change: str, missing: str) -> None:
    assert change in SMALL
    with pytest.raises(CsdlError, match=missing):
        extract(SMALL.replace(change, change.replace('="', '="gone') if '="' in change else "").encode())


def test_the_script_leaves_the_extract_alone_when_it_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (FOLDER / "v1.0.json").read_bytes()
    (tmp_path / "bad.csdl").write_text("<x", "utf-8")
    assert extract_main([str(tmp_path / "bad.csdl")]) == 1
    assert extract_main([str(tmp_path / "missing.csdl")]) == 1
    assert extract_main([]) == 2
    assert "bad.csdl: this is no XML" in capsys.readouterr().err
    assert (FOLDER / "v1.0.json").read_bytes() == before


def model(name: str, base: str, **fields: str) -> str:
    """A model as the SDK's generator writes it: a field's value is the call that reads it."""
    body = "".join(f"            {key!r}: lambda n : setattr(self, 'x', n.{read}),\n" for key, read in fields.items())
    return f"class {name}({base}, Parsable):\n    def f(self):\n        return {{\n{body}        }}\n"


def test_the_beta_script_reads_the_sources_of_the_sdk(tmp_path: Path) -> None:
    models, actions = tmp_path / "generated" / "models", tmp_path / "generated/device_management/managed_devices/item"
    device = {
        "joinType": "get_enum_value(JoinType)",
        "skuNumber": "get_int_value()",
        "roleScopeTagIds": "get_collection_of_primitive_values(str)",
        "deviceActionResults": "get_collection_of_object_values(DeviceActionResult)",
        "users": "get_collection_of_object_values(User)",
    }
    files = {
        models / "entity.py": model(
            "Entity", "AdditionalDataHolder", id="get_str_value()", **{"@odata.type": "get_str_value()"}
        ),
        models / "managed_device.py": model("ManagedDevice", "Entity", **device),
        models / "user.py": model("User", "Entity", mail="get_str_value()", city="get_str_value()"),
        models / "join_type.py": 'class JoinType(str, Enum):\n    A = "unknown",\n    B = "azureADJoined",\n',
        models / "device_action_result.py": model(
            "DeviceActionResult", "Parsable", startDateTime="get_datetime_value()"
        ),
        models / "logged_on_user.py": model("LoggedOnUser", "Parsable"),
        models / "windows_autopilot_device_identity.py": model("WindowsAutopilotDeviceIdentity", "Entity"),
        models / "remote_action_audit.py": model("RemoteActionAudit", "Entity"),
        models / "operation_approval_request.py": model("OperationApprovalRequest", "Entity"),
        models / "some_space" / "device.py": model("Device", "Entity"),
        actions / "wipe" / "wipe_post_request_body.py": model("Body", "Parsable", keepUserData="get_bool_value()"),
        actions / "sync_device" / "sync_device_request_builder.py": "",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    found = extract_beta(tmp_path)
    assert found.types["managedDevice"].properties == {
        "id": Property(type="String"),
        "joinType": Property(type="joinType"),
        "skuNumber": Property(type="Int64"),
        "roleScopeTagIds": Property(type="Collection(String)"),
        "deviceActionResults": Property(type="Collection(deviceActionResult)"),
    }
    assert found.types["managedDevice"].navigation == {"users": "Collection(user)"}
    assert found.types["managedDevice"].actions == {
        "wipe": {"keepUserData": Property(type="Boolean")},
        "syncDevice": {},
    }
    assert set(found.types["user"].properties) == {"id", "mail"}
    assert found.enums == {"joinType": ("unknown", "azureADJoined")}
    (actions / "sync_device" / "sync_device_request_builder.py").unlink()
    (actions / "sync_device").rmdir()
    with pytest.raises(SdkError, match="no action sync_device"):
        extract_beta(tmp_path)


def test_a_folder_that_is_not_the_sdk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SdkError, match="no model managedDevice"):
        extract_beta(tmp_path)


# What the tenant answers to a right call is as published, whatever its quirks.

ODD: list[dict[str, object]] = [
    {},
    {
        "list_without_action_results": False,
        "untyped_action_results": False,
        "list_seconds_only": False,
        "null_swaps": False,
        "strange_enum_members": False,
        "odd_autopilot_links": False,
        "old_action_results": False,
    },
    {"never_dates": False, "serial_oddities": True, "clock_offset": "PT1H", "page_size": 4},
    {"deleted_record_stub": True, "action_results": "always_empty", "management_state": "stuck"},
    {"multi_admin_approval": "412"},
]


def record(
    c: Client, har: HarFile, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
) -> Answer:
    """Make a call and note it as the server does."""
    answer = c.call(method, path, body, headers)
    sent = {"authorization": "Bearer t", **(JSON if body is not None else {}), **(headers or {})}
    har.add(
        began=datetime.now(UTC),
        took_ms=1,
        method=method,
        url="http://graph.test" + path,
        request_headers=sent.items(),
        request_body=b"" if body is None else json.dumps(body).encode(),
        status=answer.status,
        response_headers=answer.headers.items(),
        response_body=answer.encoded(),
    )
    return answer


@pytest.mark.parametrize("quirks", ODD, ids=range(len(ODD)))
def test_every_answer_is_as_published(quirks: dict[str, object], tmp_path: Path) -> None:
    c = client(audit_lag="PT0S", **quirks)
    gone = ident(c.device("SN001"))
    why = {"x-msft-approval-justification": "cmV0dXJu"}
    with HarFile(tmp_path / "graph.har") as har:
        for minutes in (0, 1, 10, 60):
            c.wait(minutes)
            device = ident(c.device("SN002"))
            for version, path, type_ in PATHS:
                listing = record(c, har, "GET", f"/{version}/{path}")
                assert listing.status == 200
                for one in json.loads(listing.encoded())["value"][:3]:
                    if type_ not in ("remoteActionAudit", "operationApprovalRequest"):
                        assert record(c, har, "GET", f"/{version}/{path}/{one['id']}").status == 200
                record(c, har, "GET", f"/{version}/{path}?$select=id&$top=2&$count=true")
                record(c, har, "GET", f"/{version}/deviceManagement/managedDevices/{device}/users")
            for path in (*SCHEMA.singletons, *(f"{path}?$select=id" for path in SCHEMA.singletons), f"groups/{BOARD}"):
                assert record(c, har, "GET", f"/v1.0/{path}").status == 200
            for holder in (f"devices(deviceId='{entra_id(c.device('SN002'))}')", f"users/{USER}"):
                assert record(c, har, "POST", f"/v1.0/{holder}/checkMemberGroups", ASKED).status == 200
            record(c, har, "GET", f"{DEVICES}/{gone}?$select=id,serialNumber,lastSyncDateTime")
            record(c, har, "POST", f"{DEVICES}/{device}/wipe", RESET, why)
            record(c, har, "POST", f"{DEVICES}/{gone}/wipe", dict.fromkeys(RESET, False))
            record(c, har, "POST", f"{DEVICES}/{device}/syncDevice")
            reads: list[dict[str, object]] = [
                {"url": "/devices"},
                {"url": f"/deviceManagement/managedDevices/{NOBODY}"},
            ]
            record(c, har, "POST", "/v1.0/$batch", items(*reads))
    assert [str(one) for one in check(json.loads((tmp_path / "graph.har").read_text("utf-8")), c.tenant.quirks)] == []


# What the tenant answers to a wrong call.


def refused(answer: Answer, status: int, code: str, said: str = "") -> None:
    """The answer is Graph's error, whole."""
    assert answer.status == status, answer.body
    body = json.loads(answer.encoded())
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "innerError"}
    assert set(body["error"]["innerError"]) == {"date", "request-id", "client-request-id"}
    assert body["error"]["code"] == code
    assert said in body["error"]["message"]
    assert answer.headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize(("version", "path", "type_"), PATHS)
def test_a_property_can_be_selected_in_the_versions_that_have_it(version: Version, path: str, type_: str) -> None:
    c = client(audit_lag="PT0S")
    c.wipe(c.device())
    own = Schema.kept(version).types[type_]
    others = {name for other in VERSIONS for one in Schema.kept(other).types.values() for name in one.properties}
    for name in own.properties:
        assert all(set(row) == {name} for row in c.value(f"/{version}/{path}?$select={name}"))
    for name in [*(others - set(own.properties)), "nosuch", "id nosuch", "*", ""]:
        answer = c.get(f"/{version}/{path}?$select={name}")
        refused(
            answer, 400, "BadRequest", f"Could not find a property named '{name}' on type 'microsoft.graph.{type_}'"
        )


LITERALS = {"String": "'x'", "Boolean": "true", "DateTimeOffset": "2026-01-01T00:00:00Z", "Int64": "1", "Int32": "1"}


def literal(known: Property) -> str:
    enums = Schema.kept("v1.0").enums
    return LITERALS.get(known.type, f"'{enums[known.type][0]}'" if known.type in enums else "null")


@pytest.mark.parametrize("operator", ["eq", "ne", "gt", "ge", "lt", "le", "in", "contains", "startswith", "endswith"])
def test_a_filter_works_with_the_published_operators_alone(operator: str) -> None:
    c = client(filter_support="schema", unsupported_filter_ignored=False)
    for name, known in MANAGED.properties.items():
        value = literal(known)
        if operator in ("contains", "startswith", "endswith"):
            test = f"{operator}({name},{value})"
        else:
            test = f"{name} {operator} ({value})" if operator == "in" else f"{name} {operator} {value}"
        answer = c.get(f"{DEVICES}?$filter={test}")
        if operator in known.filter:
            assert answer.status == 200, test
        else:
            refused(answer, 400, "BadRequest")


@pytest.mark.parametrize(("version", "path", "type_"), PATHS)
def test_a_filter_with_a_value_of_another_type_is_refused_though_filters_may_be_ignored(
    version: Version, path: str, type_: str
) -> None:
    c, schema = client(), Schema.kept(version)
    for name, known in schema.types[type_].properties.items():
        wrong = "1" if known.type == "String" or known.type in schema.enums else "'nosuch'"
        refused(c.get(f"/{version}/{path}?$filter={name} eq {wrong}"), 400, "BadRequest")
        if known.type in schema.enums:
            refused(c.get(f"/{version}/{path}?$filter={name} eq 'nosuch'"), 400, "BadRequest", "enumeration")
    refused(c.get(f"/{version}/{path}?$filter=nosuch eq 'x'"), 400, "BadRequest", "'nosuch' on type")


@pytest.mark.parametrize(
    "name",
    ["nosuch", "wipeDevice", "Wipe", "microsoft.graph.nosuch", "executeAction", "wipe/x", "wipe()", "syncdevice2"],
)
def test_an_unknown_action_is_no_segment(name: str) -> None:
    c = client()
    answer = c.call("POST", f"{DEVICES}/{ident(c.device())}/{name}", RESET)
    refused(answer, 400, "BadRequest", "Resource not found for the segment")
    assert c.device().wipes_received == []


WRONG_VALUES = {
    "Boolean": ["true", 1, 0, [], {}],
    "String": [1, True, [], {}],
    "obliterationBehavior": ["nosuch", 1, True],
}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_parameter_of_another_name_or_type_is_refused_and_takes_no_effect(version: Version) -> None:
    c = client()
    path = f"/{version}/deviceManagement/managedDevices/{ident(c.device())}"
    known = Schema.kept(version).types["managedDevice"].actions["wipe"]
    for name, parameter in known.items():
        for value in WRONG_VALUES[parameter.type]:
            refused(c.call("POST", f"{path}/wipe", {**RESET, name: value}), 400, "BadRequest", name)
    for name in ("nosuch", "KeepUserData", "keep_user_data", "useProtectedWipe", "obliterationBehavior"):
        if name not in known:
            refused(c.call("POST", f"{path}/wipe", {**RESET, name: True}), 400, "BadRequest", name)
    refused(c.call("POST", f"{path}/syncDevice", {"nosuch": True}), 400, "BadRequest", "nosuch")
    assert c.device().wipes_received == []


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", "application/json"),
        (b"", ""),
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b"null", "application/json"),
        (b'"x"', "application/json"),
        (b'{"keepEnrollmentData": true, "keepEnrollmentData": false}', "application/json"),
        (b"keepEnrollmentData=true", "application/x-www-form-urlencoded"),
        (b'{"keepEnrollmentData": true}', "text/plain"),
        (b'{"keepEnrollmentData": true}', ""),
        (b"\xff\xfe", "application/json"),
    ],
)
def test_a_wipe_without_a_json_object_is_refused(raw: bytes, kind: str) -> None:
    c = client()
    answer = c.call("POST", f"{DEVICES}/{ident(c.device())}/wipe", raw=raw, headers={"content-type": kind})
    refused(answer, 400, "BadRequest")
    assert c.device().wipes_received == []


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_a_method_that_the_path_does_not_take_is_refused(method: str) -> None:
    c = client()
    device = ident(c.device())
    paths = {f"/{version}/{path}": "GET" for version, path, _ in PATHS}
    paths |= {f"{DEVICES}/{device}": "GET", f"{DEVICES}/{device}/users": "GET", "/v1.0/$batch": "POST"}
    paths |= {f"{DEVICES}/{device}/wipe": "POST", f"{DEVICES}/{device}/syncDevice": "POST"}
    for path, right in paths.items():
        if method != right:
            refused(c.call(method, path, RESET if method != "GET" else None), 405, "Request_BadRequest", "not allowed")
    assert c.device().wipes_received == []


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", f"{DEVICES}/{NOBODY}", "ResourceNotFound"),
        ("GET", f"{DEVICES}/{NOBODY}/users", "ResourceNotFound"),
        ("POST", f"{DEVICES}/{NOBODY}/wipe", "ResourceNotFound"),
        ("POST", f"{DEVICES}/{NOBODY}/syncDevice", "ResourceNotFound"),
        ("GET", f"{AUTOPILOT}/{NOBODY}", "ResourceNotFound"),
        ("GET", f"/v1.0/devices/{NOBODY}", "Request_ResourceNotFound"),
        ("GET", f"/v1.0/devices(deviceId='{NOBODY}')", "Request_ResourceNotFound"),
        ("GET", f"/v1.0/groups/{NOBODY}", "Request_ResourceNotFound"),
        ("POST", f"/v1.0/devices/{NOBODY}/checkMemberGroups", "Request_ResourceNotFound"),
        ("POST", f"/v1.0/devices(deviceId='{NOBODY}')/checkMemberGroups", "Request_ResourceNotFound"),
        ("POST", f"/v1.0/users/{NOBODY}/checkMemberGroups", "Request_ResourceNotFound"),
    ],
)
def test_an_unknown_id_is_not_found_alone_and_in_a_batch(method: str, path: str, code: str) -> None:
    c, body = client(), RESET if path.endswith("/wipe") else ASKED if path.endswith("Groups") else None
    refused(c.call(method, path, body), 404, code)
    item: dict[str, object] = {"method": method, "url": path.removeprefix("/v1.0")}
    if body:
        item |= {"body": body, "headers": {"Content-Type": "application/json"}}
    (answered,) = json.loads(c.call("POST", "/v1.0/$batch", items(item)).encoded())["responses"]
    assert (answered["status"], answered["body"]["error"]["code"]) == (404, code)


def wipe_item(c: Client, **changes: object) -> dict[str, object]:
    url = f"/deviceManagement/managedDevices/{ident(c.device())}/wipe"
    return {
        "id": "0",
        "method": "POST",
        "url": url,
        "headers": {"Content-Type": "application/json"},
        "body": RESET,
    } | changes


def test_a_malformed_batch_is_refused_whole_and_none_of_it_takes_effect() -> None:
    c = client()
    wipe = f"deviceManagement/managedDevices/{ident(c.device())}/wipe"
    more: list[tuple[list[dict[str, object]], str]] = [
        ([{"id": str(n), "method": "GET", "url": "/devices"} for n in range(1, 21)], "maximum value of 20"),
        ([{"id": "0", "method": "GET", "url": "/devices"}], "unique"),
        *(
            ([wipe_item(c, id="1", url=url)], "relative")
            for url in (
                f"http://graph.test/v1.0/{wipe}",
                f"HTTPS://graph.test/v1.0/{wipe}",
                f"//graph.test/{wipe}",
                "//[",
                "/$batch",
                "/%24batch",
            )
        ),
        ([wipe_item(c, id="1", headers={})], "Content-Type"),
        ([wipe_item(c, id="1", headers=[])], "object of strings"),
        ([wipe_item(c, id="1", method="TRACE")], "method"),
        ([wipe_item(c, id="")], "id"),
        ([wipe_item(c, id="1", dependsOn=["9"])], "depends on"),
    ]
    for bad, said in more:
        refused(c.call("POST", "/v1.0/$batch", {"requests": [wipe_item(c), *bad]}), 400, "BadRequest", said)
    for raw, kind in (
        (b"", ""),
        (b"", "application/json"),
        (b"{", "application/json"),
        (b'{"requests": []}', "text/plain"),
    ):
        refused(c.call("POST", "/v1.0/$batch", raw=raw, headers={"content-type": kind}), 400, "BadRequest")
    assert c.device().wipes_received == []
    assert c.call("POST", "/v1.0/$batch", {"requests": [wipe_item(c)]}).status == 200
    assert len(c.device().wipes_received) == 1


@pytest.mark.parametrize("missing", ALL_ROLES)
def test_without_its_permission_a_call_is_forbidden_alone_and_in_a_batch(missing: str) -> None:
    c = client(tuple(role for role in ALL_ROLES if role != missing), forbidden_shape="403")
    device, entra = ident(c.device()), entra_id(c.device())
    needs = {
        ("GET", "/deviceManagement/managedDevices"): ALL_ROLES[0],
        ("GET", f"/deviceManagement/managedDevices/{device}"): ALL_ROLES[0],
        ("GET", f"/deviceManagement/managedDevices/{device}/users"): ALL_ROLES[0],
        ("POST", f"/deviceManagement/managedDevices/{device}/wipe"): ALL_ROLES[1],
        ("POST", f"/deviceManagement/managedDevices/{device}/syncDevice"): ALL_ROLES[1],
        ("GET", "/deviceManagement/windowsAutopilotDeviceIdentities"): ALL_ROLES[2],
        ("GET", "/devices"): ALL_ROLES[3],
        ("GET", "/deviceManagement/managedDeviceOverview"): ALL_ROLES[0],
        ("GET", f"/groups/{BOARD}"): ALL_ROLES[4],
        ("POST", f"/devices(deviceId='{entra}')/checkMemberGroups"): ALL_ROLES[3],
        ("POST", f"/users/{USER}/checkMemberGroups"): ALL_ROLES[5],
    }
    for (method, path), role in needs.items():
        body = RESET if path.endswith("/wipe") else ASKED if path.endswith("Groups") else None
        answer = c.call(method, f"/v1.0{path}", body)
        item = {"method": method, "url": path} | (
            {"body": body, "headers": {"Content-Type": "application/json"}} if body else {}
        )
        (batched,) = json.loads(c.call("POST", "/v1.0/$batch", items(item)).encoded())["responses"]
        assert batched["status"] == answer.status
        if role != missing and not (path.endswith("Groups") and missing == ALL_ROLES[4]):
            assert answer.status < 300
        elif not path.startswith("/deviceManagement"):
            refused(answer, 403, "Authorization_RequestDenied", "Insufficient privileges")
        else:
            refused(answer, 403, "Forbidden", role)
    assert bool(c.device().wipes_received) is (missing != ALL_ROLES[1])


@pytest.mark.parametrize(
    ("header", "said"),
    [("", "Access token is empty"), ("Bearer ", "JWT"), ("Bearer old", "JWT"), ("Basic dDp0", "JWT"), ("t", "JWT")],
)
def test_without_a_good_token_every_path_is_unauthenticated(header: str, said: str) -> None:
    c = client()
    calls = [("GET", f"/{version}/{path}") for version, path, _ in PATHS]
    calls += [("POST", f"{DEVICES}/{ident(c.device())}/wipe"), ("POST", "/v1.0/$batch"), ("GET", "/v1.0/nothing")]
    for method, path in calls:
        answer = c.call(method, path, RESET if method == "POST" else None, {"authorization": header})
        refused(answer, 401, "InvalidAuthenticationToken", said)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
    assert c.device().wipes_received == []


def test_a_token_may_run_out_between_two_calls() -> None:
    c = client()
    c.tenant.faults.arm(Fault(on="wipe", fault=FaultKind.TOKEN_EXPIRED))
    refused(c.wipe(c.device()), 401, "InvalidAuthenticationToken", "the token is expired")
    c.tenant.faults.arm(Fault(on="batch", fault=FaultKind.TOKEN_EXPIRED))
    answer = c.call("POST", "/v1.0/$batch", {"requests": [wipe_item(c)]})
    refused(answer, 401, "InvalidAuthenticationToken", "the token is expired")
    assert c.device().wipes_received == []
    assert c.wipe(c.device()).status == 204


async def test_over_http_an_odd_method_too_is_answered_with_graphs_error() -> None:
    c = client()
    transport = httpx.ASGITransport(build_app(c.tenant))
    async with httpx.AsyncClient(transport=transport, base_url="http://graph.test") as graph:
        answer = await graph.request("OPTIONS", DEVICES, headers={"authorization": "Bearer t"})
    assert answer.status_code == 405
    assert answer.json()["error"]["code"] == "Request_BadRequest"


def test_errors_have_the_shape_that_the_checker_wants(tmp_path: Path) -> None:
    c = client(forbidden_shape="varies")
    device = ident(c.device())
    with HarFile(tmp_path / "graph.har") as har:
        for fault in FaultKind:
            for on, path in (("wipe", f"{DEVICES}/{device}/wipe"), ("sync", f"{DEVICES}/{device}/syncDevice")):
                c.tenant.faults.arm(Fault(on=on, fault=fault))
                answer = record(c, har, "POST", path, RESET if on == "wipe" else None)
                assert answer.cut or answer.status >= 400
                if not answer.cut and not isinstance(answer.body, str):
                    assert error(answer)["code"]
    recorded = json.loads((tmp_path / "graph.har").read_text("utf-8"))
    entries = [one for one in recorded["log"]["entries"] if one["response"]["status"]]
    assert [str(fault) for fault in check({"log": {"entries": entries}}, c.tenant.quirks)] == []
