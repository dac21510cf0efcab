"""What the simulated tenant answers to Graph's calls, quirk by quirk. In process, with a clock of the test's own."""

import base64
import json
import random
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from sandbox.scenario import Scenario
from sandbox.tenant.approvals import Decision
from sandbox.tenant.calls import Answer, Call, Fault
from sandbox.tenant.devices import Device, User
from sandbox.tenant.graph import ACT, READ_APPROVALS, READ_DEVICES, Tenant
from sandbox.tenant.pace import paced
from sandbox.tenant.quirks import Quirks

START = datetime(2026, 3, 2, 9, 0, 0, 123456, tzinfo=UTC)
DEVICES = "/v1.0/deviceManagement/managedDevices"
BETA = "/beta/deviceManagement/managedDevices"
AUTOPILOT = "/v1.0/deviceManagement/windowsAutopilotDeviceIdentities"
AUDITS = "/beta/deviceManagement/remoteActionAudits"
RESET = {"keepEnrollmentData": True, "keepUserData": False}
JSON = {"content-type": "application/json"}
GROUPS: list[dict[str, object]] = [
    {"count": 8, "name": "LAB-{n:02}", "serial": "SN{n:03}", "group_tag": "LAB", "first_check_in": "PT10M"},
    {"name": "HYB-01", "serial": "HYB1", "join": "hybrid", "first_check_in": "PT10M"},
    {"name": "SHELF-01", "serial": "SHELF1", "enrolled": False},
    {"name": "EMPTY-01", "serial": "EMPTY1", "primary_user": "", "autopilot": False},
]
BOARD, STAFF, SECRET = (f"00000000-0000-4000-9000-00000000000{n}" for n in (1, 2, 3))
ENTRA_GROUPS: list[dict[str, object]] = [
    {"name": "Board", "id": BOARD, "members": ["device:SN001", "user:student2@contoso.example"]},
    {"name": "Staff", "id": STAFF, "members": ["group:Board", "device:HYB*"]},
    {"name": "Secret", "id": SECRET, "members": ["device:SN001"], "hidden": True},
]
USER = User.named("student2@contoso.example").id


class Client:
    """A caller with a token, at a time that the test moves."""

    def __init__(self, quirks: dict[str, object], roles: tuple[str, ...] | None) -> None:
        tenant: dict[str, object] = {"quirks": quirks, "deleted_users": ["student3@contoso.example"]}
        tenant |= {"roles": roles} if roles is not None else {}
        table = {"scenario": {"name": "test"}, "tenant": tenant, "devices": GROUPS, "groups": ENTRA_GROUPS}
        scenario = Scenario.model_validate(table)
        fleet = scenario.fleet(1, START)
        self.tenant = Tenant(
            fleet, random.Random(1), roles=scenario.tenant.roles, token="t", groups=scenario.directory(fleet)
        )
        self.now = START

    def call(
        self,
        method: str,
        url: str,
        body: object = None,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        parts = urlsplit(url)
        content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        sent = {"authorization": "Bearer t", **(JSON if content else {}), **(headers or {})}
        query = tuple(parse_qsl(parts.query, keep_blank_values=True))
        return self.tenant.answer(Call(method, parts.path, query, sent, content, "http://graph.test"), self.now)

    def get(self, url: str, **headers: str) -> Answer:
        return self.call("GET", url, headers=headers)

    def json(self, url: str, **headers: str) -> dict[str, object]:
        answer = self.get(url, **headers)
        assert answer.status == 200, answer.body
        found = json.loads(answer.encoded())
        assert isinstance(found, dict)
        return found

    def value(self, url: str) -> list[dict[str, object]]:
        value = self.json(url)["value"]
        assert isinstance(value, list)
        return value

    def wipe(self, device: Device, body: object = RESET, **headers: str) -> Answer:
        return self.call("POST", f"{DEVICES}/{ident(device)}/wipe", body, headers=headers)

    def device(self, serial: str = "SN001") -> Device:
        return self.tenant.fleet.by_serial(serial)[0]

    def wait(self, minutes: float) -> None:
        self.now += timedelta(minutes=minutes)


def client(roles: tuple[str, ...] | None = None, /, **quirks: object) -> Client:
    return Client({"stale_reads": "PT0S", **quirks}, roles)


def ident(device: Device) -> str:
    assert device.intune is not None
    return device.intune.id


def entra_id(device: Device) -> str:
    assert device.records.entra_device is not None
    return str(device.records.entra_device["deviceId"])


def error(answer: Answer) -> dict[str, object]:
    found = json.loads(answer.encoded())["error"]
    assert isinstance(found, dict)
    return found


def one(c: Client, select: str = "", serial: str = "SN001") -> dict[str, object]:
    return c.json(f"{DEVICES}/{ident(c.device(serial))}" + (f"?$select={select}" if select else ""))


# Tokens, permissions, errors.


def test_without_the_token_every_call_is_refused_and_takes_no_effect() -> None:
    c = client()
    for headers in ({"authorization": ""}, {"authorization": "Bearer wrong"}, {"authorization": "Basic t"}):
        answer = c.call("POST", f"{DEVICES}/{ident(c.device())}/wipe", RESET, headers=headers)
        assert (answer.status, error(answer)["code"]) == (401, "InvalidAuthenticationToken")
        assert c.call("POST", "/v1.0/$batch", {"requests": []}, headers=headers).status == 401
    assert c.device().wipes_received == []


def test_errors_carry_date_and_both_request_ids() -> None:
    answer = client().get("/v1.0/nothing", **{"client-request-id": "mine"})
    inner = error(answer)["innerError"]
    assert isinstance(inner, dict)
    assert inner["client-request-id"] == "mine" == answer.headers["client-request-id"]
    assert inner["request-id"] == answer.headers["request-id"] != "mine"
    assert inner["date"] == "2026-03-02T09:00:00"
    assert answer.headers["Date"] == "Mon, 02 Mar 2026 09:00:00 GMT"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1.0/nothing", 400),
        ("GET", "/v2.0/devices", 400),
        ("GET", f"{DEVICES}/not-a-guid", 400),
        ("GET", f"{DEVICES}/00000000-0000-4000-8000-000000000000", 404),
        ("POST", f"{DEVICES}/00000000-0000-4000-8000-000000000000/wipe", 404),
        ("DELETE", f"{DEVICES}/00000000-0000-4000-8000-000000000000", 405),
        ("POST", DEVICES, 405),
        ("GET", "/v1.0/$batch", 405),
        ("GET", "/v1.0/deviceManagement/remoteActionAudits", 400),
        ("GET", "/v1.0/devices/00000000-0000-4000-8000-000000000000", 404),
        ("GET", "/v1.0/devices(deviceId='00000000-0000-4000-8000-000000000000')", 404),
        ("GET", "/v1.0/devices/x", 400),
        ("GET", f"{AUTOPILOT}/00000000-0000-4000-8000-000000000000", 404),
    ],
)
def test_what_is_not_there_is_refused_with_graphs_status(method: str, path: str, status: int) -> None:
    assert client().call(method, path, RESET if path.endswith("/wipe") else None).status == status


def test_read_write_all_alone_may_neither_wipe_nor_sync() -> None:
    c = client(("DeviceManagementManagedDevices.ReadWrite.All",), forbidden_shape="403")
    assert c.get(DEVICES).status == 200
    answer = c.wipe(c.device())
    assert (answer.status, error(answer)["code"]) == (403, "Forbidden")
    assert ACT[0] in json.loads(str(error(answer)["message"]))["Message"]
    assert c.call("POST", f"{DEVICES}/{ident(c.device())}/syncDevice").status == 403
    assert c.device().wipes_received == []


def test_a_forbidden_call_may_look_like_401_with_the_word_two_strings_deep() -> None:
    c = client(READ_DEVICES, forbidden_shape="401")
    answer = c.wipe(c.device())
    assert (answer.status, error(answer)["code"]) == (401, "UnknownError")
    outer = json.loads(str(error(answer)["message"]))
    assert outer["ErrorCode"] == "Forbidden"
    assert "not authorized" in json.loads(outer["Message"])["Message"]
    c = client(READ_DEVICES, forbidden_shape="500")
    assert c.wipe(c.device()).status == 500


def test_each_resource_needs_its_own_role() -> None:
    c = client(ACT, forbidden_shape="403")
    assert c.get(DEVICES).status == 403
    assert c.get(AUTOPILOT).status == 403
    assert error(c.get("/v1.0/devices"))["code"] == "Authorization_RequestDenied"


@pytest.mark.parametrize(("kind", "status"), [("401", 401), ("400", 400), ("503", 503)])
def test_a_tenant_without_intune_says_so_in_one_of_three_ways(kind: str, status: int) -> None:
    c = client(no_intune=kind)
    answer = c.get(DEVICES)
    assert answer.status == status
    assert c.get("/v1.0/devices").status == 200
    if kind == "503":
        assert answer.headers["Content-Type"] == "text/html"
        assert answer.encoded().startswith(b"<html>")


# Wipe and sync.


@pytest.mark.parametrize(
    "body",
    [
        {"keepEnrollmentData": "true", "keepUserData": False},
        {"keepEnrollmentData": 1, "keepUserData": False},
        {"keep_enrollment_data": True},
        {"KeepEnrollmentData": True},
        {"macOsUnlockCode": 123456},
        [],
        "x",
    ],
)
def test_a_wipe_body_that_graph_would_not_take_is_refused(body: object) -> None:
    c = client()
    assert c.wipe(c.device(), body).status == 400
    assert c.device().wipes_received == []


@pytest.mark.parametrize(
    ("raw", "kind"), [(b"", "application/json"), (b"{", "application/json"), (b"{}", "text/plain")]
)
def test_a_wipe_needs_json_of_the_right_content_type(raw: bytes, kind: str) -> None:
    c = client()
    path = f"{DEVICES}/{ident(c.device())}/wipe"
    assert c.call("POST", path, raw=raw, headers={"content-type": kind}).status == 400
    assert c.device().wipes_received == []


def test_a_wipe_is_taken_with_204_and_its_body_and_time_are_on_record() -> None:
    c = client()
    answer = c.wipe(c.device())
    assert (answer.status, answer.encoded()) == (204, b"")
    (received,) = c.device().wipes_received
    assert (received.at, received.body, received.intune_id) == (START, RESET, ident(c.device()))


def test_flags_left_out_or_null_are_false_which_is_a_full_wipe() -> None:
    c = client()
    assert c.wipe(c.device("SN001"), {}).status == 204
    assert c.wipe(c.device("SN002"), {"keepEnrollmentData": None, "keepUserData": None}).status == 204
    gone = [ident(c.device("SN001")), ident(c.device("SN002"))]
    c.wait(11)
    for id_ in gone:
        assert c.get(f"{DEVICES}/{id_}").status == 404
    assert [d["serialNumber"] for d in c.value(AUTOPILOT)].count("SN001") == 1


def test_after_a_new_enrolment_the_old_id_is_unknown_and_the_new_record_has_no_history() -> None:
    c = client()
    device = c.device()
    device.behave(device.behaviour.model_copy(update={"reenrols_after": timedelta(minutes=5)}))
    old_id = ident(device)
    c.wipe(device, {"keepEnrollmentData": False, "keepUserData": False})
    c.wait(60)
    c.get(DEVICES)
    assert ident(device) != old_id
    assert c.call("POST", f"{DEVICES}/{old_id}/wipe", RESET).status == 404
    assert c.call("POST", f"{DEVICES}/{old_id}/syncDevice").status == 404
    assert len(device.wipes_received) == 1
    found = one(c)
    assert (found["serialNumber"], found["deviceActionResults"]) == ("SN001", [])


def test_a_vanished_record_may_answer_with_a_stub() -> None:
    c = client(deleted_record_stub=True)
    path = f"{DEVICES}/{ident(c.device())}"
    c.wipe(c.device(), {"keepEnrollmentData": False, "keepUserData": False})
    c.wait(11)
    stub = c.json(path)
    assert (stub["serialNumber"], stub["lastSyncDateTime"]) == (None, "0001-01-01T00:00:00Z")


def test_sync_is_taken_with_204_without_a_body_and_moves_the_check_in() -> None:
    c = client()
    answer = c.call("POST", f"{DEVICES}/{ident(c.device())}/syncDevice")
    assert (answer.status, answer.encoded()) == (204, b"")
    c.wait(3)
    assert str(one(c, "lastSyncDateTime")["lastSyncDateTime"]) > "2026-03-02T09:00:01"


def test_the_wipes_of_a_day_are_limited() -> None:
    c = client(daily_wipe_limit=2)
    assert [c.wipe(c.device(f"SN00{n}")).status for n in (1, 2, 3)] == [204, 204, 429]
    assert c.device("SN003").wipes_received == []
    c.wait(24 * 60)
    assert c.wipe(c.device("SN003")).status == 204


@pytest.mark.parametrize(
    ("shape", "status", "told"), [("429", 429, False), ("429_told", 429, True), ("400_told", 400, True)]
)
def test_a_wipe_over_the_daily_limit_is_refused_with_or_without_saying_so(shape: str, status: int, told: bool) -> None:
    c = client(daily_wipe_limit=0, daily_limit_answer=shape)
    answer = c.wipe(c.device())
    assert answer.status == status
    assert ("daily limit" in str(error(answer)["message"])) is told
    assert c.device().wipes_received == []


WHY = {"x-msft-approval-justification": "cmV0dXJu"}
CODE = "x-msft-approval-code"
APPROVALS = "/beta/deviceManagement/operationApprovalRequests"
FULL_WIPE = {"keepEnrollmentData": False, "keepUserData": False}


def asked(c: Client, body: object = RESET) -> dict[str, str]:
    """File a wipe of SN001 for approval; the header that completes it once it is approved."""
    return {CODE: c.wipe(c.device(), body, **WHY).headers[CODE]}


def statuses(c: Client) -> list[object]:
    """What reads show of all requests, the oldest first."""
    return [found["status"] for found in c.value(APPROVALS)]


def decide(c: Client, decision: Decision, code: str | None = None) -> int:
    return c.tenant.approvals.decide(code, decision, c.now, c.tenant.quirks)


def approving(**quirks: object) -> Client:
    return client(**{"multi_admin_approval": "403", "approval_code_in": "both", "stale_reads": "PT0S"} | quirks)


def test_a_justification_for_multi_admin_approval_has_its_longest_length() -> None:
    c = approving()
    for length, status in ((1025, 400), (1024, 403)):
        why = base64.b64encode(("é" * length).encode()).decode()
        assert c.wipe(c.device(), **{"x-msft-approval-justification": why}).status == status
    for why in ("", "no Base64!", "\N{DIGIT ONE}"):
        assert c.wipe(c.device("SN002"), **{"x-msft-approval-justification": why}).status == 400
    assert c.wipe(c.device("SN002")).status == 400
    assert len(statuses(c)) == 1


@pytest.mark.parametrize("body", [RESET, FULL_WIPE])
def test_multi_admin_approval_intercepts_until_the_same_call_comes_back_with_its_code(body: object) -> None:
    c = approving()
    device = c.device()
    code = asked(c, body)
    assert c.wipe(device, body, **WHY).status == 409
    waits = c.wipe(device, body, **code)
    assert (waits.status, waits.headers[CODE]) == (403, code[CODE]), "nobody has agreed yet"
    assert [(one["status"], one["requestJustification"]) for one in c.value(APPROVALS)] == [("needsApproval", "return")]
    assert decide(c, "approved") == 1
    assert device.wipes_received == []
    assert c.wipe(device, body, **code).status == 204
    assert statuses(c) == ["completed"]
    assert [wipe.body for wipe in device.wipes_received] == [body]


def test_a_code_is_good_for_one_call_of_one_device_with_one_body_and_without_a_justification() -> None:
    c = approving()
    device, code = c.device(), asked(c)
    decide(c, "approved")
    for sent, body, headers, status in (
        (device, FULL_WIPE, code, 403),
        (c.device("SN002"), RESET, code, 403),
        (device, RESET, {CODE: str(uuid.uuid4())}, 403),
        (device, RESET, {CODE: "bm8gR1VJRA=="}, 400),
        (device, RESET, code | WHY, 409),
    ):
        answer = c.wipe(sent, body, **headers)
        assert (answer.status, CODE in answer.headers) == (status, False)
    assert c.wipe(device, **{CODE: code[CODE].upper()}).status == 204
    assert c.wipe(device, **code).status == 403, "a code is used up"
    assert len(device.wipes_received) == 1
    assert c.device("SN002").wipes_received == []


def test_a_code_goes_with_its_item_of_a_batch() -> None:
    c = approving()
    url = f"/deviceManagement/managedDevices/{ident(c.device())}/wipe"
    item = {"method": "POST", "url": url, "body": RESET}

    def send(headers: dict[str, str]) -> dict[str, Any]:
        answer = c.call("POST", "/v1.0/$batch", items({**item, "headers": {**JSON, **headers}}))
        found: dict[str, Any] = json.loads(answer.encoded())["responses"][0]
        return found

    first = send(WHY)
    decide(c, "approved")
    assert (first["status"], send({CODE: first["headers"][CODE]})["status"]) == (403, 204)
    assert statuses(c) == ["completed"]


@pytest.mark.parametrize("decision", ["rejected", "cancelled"])
def test_what_was_declined_is_not_carried_out_and_may_be_asked_for_anew(decision: Decision) -> None:
    c = approving()
    code = asked(c)
    assert decide(c, decision, code[CODE]) == 1
    assert c.wipe(c.device(), **code).status == 403
    again = asked(c)
    assert again != code
    assert statuses(c) == [decision, "needsApproval"]


def test_what_is_approved_may_be_cancelled_and_nothing_is_decided_twice() -> None:
    c = approving()
    asked(c)
    assert [decide(c, one) for one in ("approved", "rejected", "cancelled", "approved")] == [1, 0, 1, 0]
    assert statuses(c) == ["cancelled"]


@pytest.mark.parametrize("decided", [True, False])
@pytest.mark.parametrize("quirk", [{}, {"approval_expires_after": "PT2H"}])
def test_a_request_that_is_not_used_in_three_days_is_lost(quirk: dict[str, object], decided: bool) -> None:
    c = approving(**quirk)
    code = asked(c)
    c.wait(119 if quirk else 3 * 24 * 60 - 1)
    assert statuses(c) == ["needsApproval"]
    if decided:
        decide(c, "approved")
    c.wait(1)
    assert statuses(c) == ["expired"]
    assert c.wipe(c.device(), **code).status == 403
    assert decide(c, "approved") == 0
    asked(c)


def test_the_time_that_a_request_lasts_runs_at_the_pace_of_the_scenario() -> None:
    assert paced(Quirks(), 60).approval_expires_after == timedelta(hours=1, minutes=12)


@pytest.mark.parametrize(("does", "status"), [("approve", "approved"), ("reject", "rejected")])
def test_a_second_administrator_may_decide_by_itself_after_a_while(does: str, status: str) -> None:
    c = approving(admin_decides=does, admin_decides_after="PT30M")
    code = asked(c)
    c.wait(29)
    assert statuses(c) == ["needsApproval"]
    c.wait(1)
    assert c.wipe(c.device(), **code).status == (204 if does == "approve" else 403)
    c = approving(admin_decides=does, admin_decides_after="PT30M")
    asked(c)
    c.wait(45)
    assert statuses(c) == [status]
    assert c.value(APPROVALS)[0]["lastModifiedDateTime"] == "2026-03-02T09:30:00.1234566Z"


def test_reads_show_a_request_and_its_decision_after_a_while() -> None:
    c = approving(stale_reads="PT2M")
    asked(c)
    assert statuses(c) == []
    c.wait(2)
    decide(c, "approved")
    assert statuses(c) == ["needsApproval"]
    c.wait(2)
    assert statuses(c) == ["approved"]


def test_an_order_over_the_daily_limit_does_not_use_up_its_approval() -> None:
    c = approving(daily_wipe_limit=0)
    code = asked(c)
    decide(c, "approved")
    assert c.wipe(c.device(), **code).status == 429
    assert statuses(c) == ["approved"]


@pytest.mark.parametrize(
    ("status", "said"),
    [("400", "BadRequest"), ("403", "ApprovalRequired"), ("409", "Conflict"), ("412", "BadRequest")],
)
@pytest.mark.parametrize(("where", "header", "body"), [("header", 1, 0), ("body", 0, 1), ("both", 1, 1)])
def test_an_interception_shows_its_code_where_the_quirk_says(
    status: str, said: str, where: str, header: bool, body: bool
) -> None:
    c = approving(multi_admin_approval=status, approval_code_in=where, approval_ids="id")
    answer = c.wipe(c.device(), **WHY)
    (code,) = (one["id"] for one in c.value(APPROVALS))
    assert (answer.status, error(answer)["code"]) == (int(status), said)
    assert (answer.headers.get(CODE) == code, str(code) in str(error(answer)["message"])) == (header, body)


@pytest.mark.parametrize(
    ("ids", "names"), [("id", {"id"}), ("request_id", {"requestId"}), ("both", {"id", "requestId"})]
)
@pytest.mark.parametrize("filters", ["works", "ignored", "refused"])
def test_requests_are_known_by_either_id_and_their_filter_may_not_work(ids: str, names: set[str], filters: str) -> None:
    c = approving(approval_ids=ids, approval_filter=filters, page_size=1)
    code = asked(c)[CODE]
    c.wipe(c.device("SN002"), **WHY)
    (shown,) = c.value(APPROVALS)
    assert {name for name, value in shown.items() if value == code} == names
    assert len(c.value(str(c.json(APPROVALS)["@odata.nextLink"]).removeprefix("http://graph.test"))) == 1
    asked_for = c.get(f"{APPROVALS}?$filter=requestId eq '{code}'")
    if filters == "ignored":
        assert "@odata.nextLink" in json.loads(asked_for.encoded())
    elif filters == "refused" or ids == "id":
        assert asked_for.status == 400
    else:
        assert [one["requestId"] for one in json.loads(asked_for.encoded())["value"]] == [code]


@pytest.mark.parametrize(("roles", "status"), [*(((role,), 200) for role in READ_APPROVALS), (READ_DEVICES + ACT, 403)])
def test_requests_for_approval_have_a_permission_of_their_own(roles: tuple[str, ...], status: int) -> None:
    answer = client(roles, forbidden_shape="403").get(APPROVALS)
    assert answer.status == status
    assert status == 200 or READ_APPROVALS[0] in str(error(answer)["message"])


def test_a_full_wipe_counts_to_the_limits_of_a_day_and_of_writes() -> None:
    c = client(daily_wipe_limit=1)
    assert [c.wipe(c.device(f"SN00{n}"), FULL_WIPE).status for n in (1, 2)] == [204, 429]
    c = client(write_limit=1)
    assert [c.wipe(c.device(f"SN00{n}"), FULL_WIPE).status for n in (1, 2)] == [204, 429]


# What reads show.


def test_a_list_hides_action_results_unless_the_quirk_is_off() -> None:
    for hidden in (True, False):
        c = client(list_without_action_results=hidden)
        c.wipe(c.device())
        listed = c.value(f"{DEVICES}?$select=id,deviceActionResults")[0]["deviceActionResults"]
        assert (listed == []) is hidden
        assert one(c, "deviceActionResults")["deviceActionResults"]


def test_the_name_of_the_reset_varies_by_device() -> None:
    c = client()
    names = set()
    for n in range(1, 5):
        c.wipe(c.device(f"SN00{n}"))
        results = one(c, "deviceActionResults", f"SN00{n}")["deviceActionResults"]
        assert isinstance(results, list)
        names.add(results[-1]["actionName"])
    assert names == {"factoryReset", "factoryResetKeepEnrollmentData", "automaticRedeployment", "cleanWindowsDevice"}


def test_a_device_may_be_shown_in_another_way_than_the_tenants_others() -> None:
    c = client(action_name="factoryReset")
    odd, plain = c.device("SN001"), c.device("SN002")
    own: dict[str, object] = {
        "action_name": "cleanWindowsDevice",
        "management_state": "never",
        "old_action_results": False,
        "stale_reads": timedelta(minutes=2),
    }
    odd.quirks = own
    for device in (odd, plain):
        c.wipe(device)
    c.wait(1)
    shown = {device.serial: one(c, serial=device.serial) for device in (odd, plain)}
    assert shown["SN001"]["deviceActionResults"] == [], "two minutes late"
    assert shown["SN002"]["managementState"] == "wipePending"
    c.wait(1)
    shown["SN001"] = one(c)
    assert shown["SN001"]["managementState"] == "managed"
    names = {serial: [a["actionName"] for a in record["deviceActionResults"]] for serial, record in shown.items()}  # type: ignore[attr-defined]
    assert names["SN001"] == ["cleanWindowsDevice"]
    assert names["SN002"][-1] == "factoryReset"
    assert len(names["SN002"]) > 1
    c.tenant.change_quirks(c.tenant.quirks.model_copy(update={"list_seconds_only": False}))
    assert c.tenant.fleet.quirks_of(odd).list_seconds_only is False, "what it does not have of its own is the tenant's"
    assert c.tenant.fleet.quirks_of(odd).action_name == "cleanWindowsDevice"


def test_old_action_results_pile_up_some_without_a_type() -> None:
    c = client()
    results = one(c)["deviceActionResults"]
    assert isinstance(results, list)
    assert {"factoryReset", "quickScan", "remoteLock"} <= {result["actionName"] for result in results}
    assert {"@odata.type" in result for result in results} == {True, False}
    assert one(client(old_action_results=False))["deviceActionResults"] == []
    plain = one(client(untyped_action_results=False))["deviceActionResults"]
    assert isinstance(plain, list)
    assert all("@odata.type" in result for result in plain)


def test_a_list_cuts_instants_to_the_second_and_a_single_read_has_seven_digits() -> None:
    c = client()
    c.wait(10)
    listed = c.value(f"{DEVICES}?$select=lastSyncDateTime")[0]["lastSyncDateTime"]
    assert listed == "2026-03-02T09:10:00Z"
    assert one(c, "lastSyncDateTime")["lastSyncDateTime"] == "2026-03-02T09:10:00.1234566Z"
    c = client(list_seconds_only=False)
    assert len(str(c.value(DEVICES)[0]["lastSyncDateTime"])) == len("2026-03-02T09:10:00.1234566Z")


def test_absent_strings_swap_between_empty_and_null() -> None:
    c = client()
    listed = next(d for d in c.value(DEVICES) if d["serialNumber"] == "EMPTY1")
    alone = one(c, serial="EMPTY1")
    assert (listed["userId"], listed["userPrincipalName"], listed["jailBroken"]) == ("", "", "Unknown")
    assert (alone["userId"], alone["userPrincipalName"], alone["jailBroken"]) == (None, None, None)
    assert one(client(null_swaps=False), serial="EMPTY1")["userId"] is None
    c = client(null_swaps=False)
    assert next(d for d in c.value(DEVICES) if d["serialNumber"] == "EMPTY1")["userId"] is None


def test_never_is_a_date_of_year_one_unless_the_quirk_is_off() -> None:
    assert one(client())["easActivationDateTime"] == "0001-01-01T00:00:00Z"
    assert one(client())["complianceGracePeriodExpirationDateTime"] == "9999-12-31T23:59:59.9999999Z"
    assert one(client(never_dates=False))["easActivationDateTime"] is None


def test_reads_are_stale_for_a_while_after_a_write() -> None:
    c = client(stale_reads="PT2M")
    c.wipe(c.device())
    c.wait(1)
    assert one(c)["managementState"] == "managed"
    c.wait(1)
    assert one(c)["managementState"] == "wipePending"


def test_lists_may_be_older_than_single_reads() -> None:
    c = client(stale_lists="PT5M")
    device = c.device()
    c.wipe(device)
    c.wait(4)

    def listed() -> object:
        return next(row for row in c.value(DEVICES) if row["id"] == ident(device))["managementState"]

    assert (one(c)["managementState"], listed()) == ("wipePending", "managed")
    c.wait(1)
    assert listed() == "wipePending"


def test_lists_may_hide_who_uses_a_device_and_how_its_wipe_stands() -> None:
    c = client(list_hides=True)
    listed, alone = c.value(DEVICES)[0], one(c)
    assert (listed["userId"], listed["userPrincipalName"], listed["managementState"]) == ("", "", None)
    assert alone["userId"]
    assert alone["managementState"] == "managed"


def test_members_beyond_the_published_ones_appear() -> None:
    shown = {d["deviceEnrollmentType"] for d in client().value(DEVICES)}
    assert shown == {"windowsAzureADJoin", "windowsAutoEnrollment", "azureAdJoinUsingAzureVmExtension"}


# What only beta tells.


def test_v1_refuses_to_select_what_only_beta_has() -> None:
    c = client()
    for path in (DEVICES, f"{DEVICES}/{ident(c.device())}"):
        for name in ("joinType", "skuFamily"):
            answer = c.get(f"{path}?$select=id,{name}")
            assert (answer.status, name in str(error(answer)["message"])) == (400, True)
            assert c.get(f"{path.replace('v1.0', 'beta')}?$select=id,{name}").status == 200


@pytest.mark.parametrize(
    ("quirk", "odd"), [("right", "azureADJoined"), ("unknown", "unknown"), ("stale", "azureADRegistered")]
)
def test_join_types_may_be_unknown_or_stale_on_one_device_in_five(quirk: str, odd: str) -> None:
    c = client(join_type=quirk)
    shown = [c.json(f"{BETA}/{ident(c.device(f'SN00{n}'))}?$select=joinType")["joinType"] for n in range(1, 9)]
    assert shown == [odd if n == 4 else "azureADJoined" for n in range(1, 9)]
    listed = {row["serialNumber"]: row["joinType"] for row in c.value(f"{BETA}?$select=serialNumber,joinType")}
    assert (listed["SN004"], listed["SN005"]) == (odd, "azureADJoined")


# Groups.


def held(c: Client, path: str, *groups: str) -> list[str]:
    answer = c.call("POST", f"/v1.0/{path}/checkMemberGroups", {"groupIds": groups or [BOARD, STAFF, SECRET]})
    assert answer.status == 200, answer.body
    found: list[str] = json.loads(answer.encoded())["value"]
    return found


def by_key(c: Client, serial: str) -> str:
    return f"devices(deviceId='{entra_id(c.device(serial))}')"


def test_groups_hold_devices_and_users_directly_and_through_other_groups() -> None:
    c = client()
    entra = c.device("SN001").records.entra_device
    assert entra is not None
    assert held(c, by_key(c, "SN001")) == held(c, f"devices/{entra['id']}") == [BOARD, STAFF]
    assert held(c, by_key(c, "HYB1")) == [STAFF]
    assert held(c, by_key(c, "SN002")) == []
    assert held(c, f"users/{USER}") == [BOARD, STAFF]
    assert held(c, f"users/{USER}", STAFF) == [STAFF]
    assert held(c, f"users/{User.named('student1@contoso.example').id}") == []


def test_hidden_members_are_left_out_without_a_word_unless_they_may_be_read() -> None:
    roles = ("Directory.Read.All", "Member.Read.Hidden")
    assert held(client(roles), by_key(client(), "SN001")) == [BOARD, STAFF, SECRET]
    assert held(client(roles[:1]), by_key(client(), "SN001")) == [BOARD, STAFF]
    assert client().json(f"/v1.0/groups/{SECRET}")["visibility"] == "HiddenMembership"
    assert client().json(f"/v1.0/groups/{BOARD}?$select=visibility")["visibility"] is None


def test_a_user_who_was_deleted_is_not_found_though_intune_names_them() -> None:
    c = client()
    user = User.named("student3@contoso.example")
    assert one(c, "userId", "SN003")["userId"] == user.id
    answer = c.call("POST", f"/v1.0/users/{user.id}/checkMemberGroups", {"groupIds": [BOARD]})
    assert (answer.status, error(answer)["code"]) == (404, "Request_ResourceNotFound")
    assert user.id in str(error(answer)["message"])


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"groupIds": []},
        {"groupIds": BOARD},
        {"groupIds": [1]},
        {"groupIds": [BOARD, "not-a-guid"]},
        {"groupIds": [BOARD], "more": 1},
        {"groupIds": [f"00000000-0000-4000-9000-0000000001{n:02}" for n in range(21)]},
    ],
)
def test_a_question_about_groups_that_graph_would_not_take_is_refused_whole(body: object) -> None:
    c = client()
    assert c.call("POST", f"/v1.0/{by_key(c, 'SN001')}/checkMemberGroups", body).status == 400


def test_a_group_that_does_not_exist_is_ignored_or_not_found() -> None:
    nobody = "00000000-0000-4000-9000-00000000000f"
    c = client()
    assert held(c, by_key(c, "SN001"), nobody, BOARD) == [BOARD]
    c = client(unknown_groups="404")
    answer = c.call("POST", f"/v1.0/{by_key(c, 'SN001')}/checkMemberGroups", {"groupIds": [nobody, BOARD]})
    assert (answer.status, nobody in str(error(answer)["message"])) == (404, True)


def test_group_reads_may_be_forbidden_while_other_reads_are_not() -> None:
    c = client(groups_forbidden=True)
    calls = [
        ("GET", f"groups/{BOARD}"),
        *(("POST", f"{of}/checkMemberGroups") for of in (by_key(c, "SN001"), "users/" + USER)),
    ]
    for method, path in calls:
        answer = c.call(method, f"/v1.0/{path}", {"groupIds": [BOARD]} if method == "POST" else None)
        assert (answer.status, error(answer)["code"]) == (403, "Authorization_RequestDenied")
    assert c.get("/v1.0/devices").status == 200


def test_for_a_while_some_reads_show_a_change_of_members_and_others_do_not() -> None:
    c = client(group_lag="PT5M")
    c.tenant.groups.change("Board", ["device:SN005"], ["device:SN001"], c.now)
    c.wait(4)
    for serial in ("SN001", "SN005"):
        assert {tuple(held(c, by_key(c, serial), BOARD)) for _ in range(30)} == {(), (BOARD,)}
    c.wait(1)
    assert {tuple(held(c, by_key(c, "SN001"), BOARD)) for _ in range(30)} == {()}
    assert {tuple(held(c, by_key(c, "SN005"), BOARD, STAFF)) for _ in range(30)} == {(BOARD, STAFF)}


# How many devices there are.


def test_the_overview_counts_the_devices_that_intune_has() -> None:
    c = client()
    path = "/v1.0/deviceManagement/managedDeviceOverview"
    count = len(c.value(DEVICES))

    def shown() -> tuple[object, object]:
        whole: Any = c.json(path)
        return whole["enrolledDeviceCount"], whole["deviceOperatingSystemSummary"]["windowsCount"]

    assert shown() == (count, count)
    c.wipe(c.device(), FULL_WIPE)
    c.wait(11)
    assert shown() == (count - 1, count - 1)
    assert {d["managementAgent"] for d in client(strange_enum_members=False).value(DEVICES)} == {"mdm"}


def test_hardware_properties_need_a_single_read_with_select() -> None:
    c = client()
    assert c.value(DEVICES)[0]["physicalMemoryInBytes"] == 0
    assert one(c)["physicalMemoryInBytes"] == 0
    assert one(c, "physicalMemoryInBytes")["physicalMemoryInBytes"] == 17_179_869_184


def test_the_users_of_a_device_are_its_primary_user_or_nobody() -> None:
    c = client(primary_user_cleared="trigger")
    path = f"{DEVICES}/{ident(c.device())}/users"
    assert [user["userPrincipalName"] for user in c.value(path)] == ["student1@contoso.example"]
    c.wipe(c.device())
    assert c.value(path) == []


def test_beta_alone_knows_join_type_and_autopilot_enrolment() -> None:
    c = client()
    answer = c.get(f"{DEVICES}?$select=joinType")
    assert answer.status == 400
    assert "Could not find a property named 'joinType'" in str(error(answer)["message"])
    assert "joinType" not in c.value(DEVICES)[0]
    beta = c.value("/beta/deviceManagement/managedDevices?$select=serialNumber,joinType,autopilotEnrolled")
    assert beta[0] == {"serialNumber": "SN001", "joinType": "azureADJoined", "autopilotEnrolled": True}
    assert {"serialNumber": "HYB1", "joinType": "hybridAzureADJoined", "autopilotEnrolled": True} in beta


def test_azure_ad_registered_is_true_on_everything() -> None:
    assert {d["azureADRegistered"] for d in client().value(DEVICES)} == {True}


def test_a_clock_that_is_ahead_shows_in_every_instant() -> None:
    c = client(clock_offset="PT3M")
    c.wait(10)
    assert one(c)["lastSyncDateTime"] == "2026-03-02T09:13:00.1234566Z"
    assert c.get(DEVICES).headers["Date"] == "Mon, 02 Mar 2026 09:13:00 GMT"
    behind = client(clock_offset="-PT3M")
    assert behind.get(DEVICES).headers["Date"] == "Mon, 02 Mar 2026 08:57:00 GMT"
    assert behind.tenant.quirks.model_dump(mode="json")["clock_offset"] == "-PT180S"


def test_a_list_may_leave_devices_out() -> None:
    assert client(list_incomplete=1.0).value(DEVICES) == []
    assert client(list_incomplete=1.0).json(DEVICES + "?$count=true")["value"] == []


# Lists: filters, pages, options.


def test_an_unsupported_filter_returns_everything_or_is_refused() -> None:
    url = f"{DEVICES}?$select=serialNumber&$filter=serialNumber eq 'SN003'"
    assert len(client().value(url)) == 10
    assert client(unsupported_filter_ignored=False).get(url).status == 400
    assert client(filter_support="schema").value(url) == [{"serialNumber": "SN003"}]


@pytest.mark.parametrize(
    "condition",
    [
        "lastSyncDateTime gt",
        "lastSyncDateTime gt 'yesterday'",
        "lastSyncDateTime gt 2026-03-02",
        "lastSyncDateTime gt 2026-13-02T00:00:00Z",
        "serialNumber = 'x'",
        "serialNumber eq x",
        "serialNumber eq 'x",
        "(serialNumber eq 'x'",
        "serialNumber eq 'x')",
        "nosuch eq 'x'",
        "serialNumber eq 'x' also lastSyncDateTime gt 2026-01-01T00:00:00Z",
        "managementState eq 'nosuch'",
        "contains(isEncrypted,'x')",
        "",
    ],
)
def test_a_filter_that_is_no_odata_is_refused_even_where_filters_are_ignored(condition: str) -> None:
    assert client().get(f"{DEVICES}?$filter={condition}").status == 400


def test_the_documented_filters_on_times_work() -> None:
    c = client()
    c.wait(10)
    url = f"{DEVICES}?$select=serialNumber&$filter=lastSyncDateTime "
    assert len(c.value(url + "gt 2026-03-02T09:05:00Z")) == 9
    assert c.value(url + "gt 2026-03-02T09:10:00.1234566Z") == []
    assert len(c.value(url + "gt 2026-03-02T09:10:00Z and lastSyncDateTime lt 2026-03-02T10:10:00Z")) == 9
    assert len(c.value(url + "ge 2026-03-02T09:05:00Z")) == 10  # not documented, hence ignored


def test_or_acts_like_and_under_the_quirk() -> None:
    url = f"{DEVICES}?$select=serialNumber&$filter=serialNumber eq 'SN001' or serialNumber eq 'SN002'"
    assert client(filter_support="schema").value(url) == []
    assert len(client(filter_support="schema", or_acts_like_and=False).value(url)) == 2


@pytest.mark.parametrize("path", [DEVICES, AUTOPILOT, "/v1.0/devices"])
def test_pages_together_hold_everything_once_and_keep_the_query(path: str) -> None:
    c = client(page_size=3)
    whole = [d["id"] for d in client().value(f"{path}?$select=id")]
    found, url, pages = [], f"{path}?$select=id&$count=false", 0
    while url:
        page = c.json(url)
        value = page["value"]
        assert isinstance(value, list)
        assert len(value) <= 3
        assert all(set(d) == {"id"} for d in value)
        found += [d["id"] for d in value]
        url, pages = str(page.get("@odata.nextLink", "")).removeprefix("http://graph.test"), pages + 1
    assert found == whole
    assert pages == -(-len(whole) // 3)


def test_top_limits_a_page_and_count_counts_everything() -> None:
    page = client().json(f"{DEVICES}?$top=2&$count=true")
    assert isinstance(page["value"], list)
    assert (len(page["value"]), page["@odata.count"]) == (2, 10)
    assert "@odata.nextLink" in page


@pytest.mark.parametrize(
    "query",
    [
        "$top=0",
        "$top=1001",
        "$top=x",
        "$count=yes",
        "$skiptoken=zzz",
        "$expand=users",
        "$orderby=deviceName",
        "$search=x",
        "$nosuch=1",
        "$select=",
        "$select=nosuch",
        "$top=1&$top=2",
    ],
)
def test_options_that_are_wrong_or_not_supported_are_refused(query: str) -> None:
    assert client().get(f"{DEVICES}?{query}").status == 400


def test_a_single_read_refuses_expand_and_filter() -> None:
    c = client()
    path = f"{DEVICES}/{ident(c.device())}"
    assert c.get(f"{path}?$expand=users").status == 400
    assert c.get(f"{path}?$filter=serialNumber eq 'x'").status == 400


def test_a_path_may_be_percent_encoded() -> None:
    c = client()
    assert c.get(f"/v1.0/deviceManagement/managedDevices(%27{ident(c.device())}%27)").status == 200
    assert c.call("POST", "/v1.0/%24batch", items({"url": "/devices"})).status == 200


def test_keys_may_stand_in_parentheses() -> None:
    c = client()
    assert c.json(f"{DEVICES}('{ident(c.device())}')")["serialNumber"] == "SN001"


# Entra devices and Autopilot identities.


def test_entra_devices_are_found_by_device_id_alone_and_in_a_list() -> None:
    c = client()
    ids = [str(d["azureADDeviceId"]) for d in c.value(f"{DEVICES}?$select=azureADDeviceId")][:3]
    found = c.value(f"/v1.0/devices?$filter=deviceId eq '{ids[0]}'&$select=deviceId,trustType")
    assert found == [{"deviceId": ids[0], "trustType": "AzureAd"}]
    listed = ",".join(f"'{one_}'" for one_ in ids)
    assert {str(d["deviceId"]) for d in c.value(f"/v1.0/devices?$filter=deviceId in ({listed})")} == set(ids)
    by_key = c.json(f"/v1.0/devices(deviceId='{ids[1]}')?$select=id,deviceId")
    assert by_key["deviceId"] == ids[1]
    assert c.json(f"/v1.0/devices/{by_key['id']}")["deviceId"] == ids[1]


def test_entra_refuses_too_many_values_and_unsupported_operators() -> None:
    values = ",".join(f"'{n}'" for n in range(16))
    answer = client().get(f"/v1.0/devices?$filter=deviceId in ({values})")
    assert (answer.status, error(answer)["code"]) == (400, "Request_UnsupportedQuery")
    assert client().get("/v1.0/devices?$filter=deviceId ne 'x'").status == 400


def test_trust_type_tells_hybrid_from_joined() -> None:
    trust = {d["displayName"]: d["trustType"] for d in client().value("/v1.0/devices")}
    assert (trust["LAB-01"], trust["HYB-01"]) == ("AzureAd", "ServerAd")


def test_autopilot_serial_numbers_are_found_by_contains_and_not_by_eq() -> None:
    c = client()
    found = c.value(f"{AUTOPILOT}?$filter=contains(serialNumber,'sn00')")
    assert len(found) == 8
    assert c.get(f"{AUTOPILOT}?$filter=serialNumber eq 'SN001'").status == 400
    assert c.get(f"{AUTOPILOT}?$filter=contains(groupTag,'LAB')").status == 400
    assert c.json(f"{AUTOPILOT}/{found[0]['id']}")["serialNumber"] == "SN001"


def test_autopilot_links_cannot_be_trusted_under_the_quirk() -> None:
    c = client()
    identities = {str(d["serialNumber"]): d for d in c.value(AUTOPILOT)}
    lab = [identities[f"SN{n:03}"] for n in range(1, 9)]
    right = [d["managedDeviceId"] == ident(c.device(str(d["serialNumber"]))) for d in lab]
    assert set(right) == {True, False}
    assert {"enrolled", "notContacted"} == {d["enrollmentState"] for d in lab}
    assert "00000000-0000-0000-0000-000000000000" in [d["managedDeviceId"] for d in lab]
    c = client(odd_autopilot_links=False)
    plain = {str(d["serialNumber"]): d for d in c.value(AUTOPILOT)}
    assert all(plain[f"SN{n:03}"]["managedDeviceId"] == ident(c.device(f"SN{n:03}")) for n in range(1, 9))


def test_autopilot_serial_numbers_may_end_in_a_space() -> None:
    serials = [str(d["serialNumber"]) for d in client(serial_oddities=True).value(AUTOPILOT)]
    assert "SN006 " in serials
    assert "SN001" in serials


def test_beta_spells_the_entra_device_id_twice() -> None:
    found = client().value(AUTOPILOT.replace("v1.0", "beta"))[0]
    assert found["azureAdDeviceId"] == found["azureActiveDirectoryDeviceId"]
    assert "azureAdDeviceId" not in client().value(AUTOPILOT)[0]


# Audits.


def test_an_audit_appears_late_and_is_found_by_time() -> None:
    c = client(audit_lag="PT5M", action_name="automaticRedeployment")
    c.wipe(c.device())
    c.wait(4)
    assert c.value(AUDITS) == []
    c.wait(1)
    (audit,) = c.value(f"{AUDITS}?$filter=requestDateTime ge 2026-03-02T09:00:00Z")
    assert (audit["action"], audit["managedDeviceId"]) == ("automaticRedeployment", ident(c.device()))
    assert c.value(f"{AUDITS}?$filter=requestDateTime gt 2026-03-02T09:01:00Z") == []
    other = f"{AUDITS}?$filter=managedDeviceId eq 'x'"
    assert len(c.value(other)) == 1
    assert client(unsupported_filter_ignored=False).get(other).status == 400


# Limits and faults.


def test_writes_are_limited_in_any_twenty_seconds() -> None:
    c = client(write_limit=3)
    path = f"{DEVICES}/{ident(c.device())}/syncDevice"
    assert [c.call("POST", path).status for _ in range(4)] == [204, 204, 204, 429]
    assert c.get(DEVICES).status == 200
    c.wait(20.1 / 60)
    assert c.call("POST", path).status == 204


def test_refused_calls_count_so_that_hammering_never_gets_through() -> None:
    c = client(write_limit=1)
    path = f"{DEVICES}/{ident(c.device())}/syncDevice"
    statuses = []
    for _ in range(5):
        statuses.append(c.call("POST", path).status)
        c.wait(15 / 60)
    assert statuses == [204, 429, 429, 429, 429]


def test_retry_after_is_missing_unless_the_quirk_says_present() -> None:
    for kind in ("missing", "present"):
        c = client(call_limit=1, retry_after=kind)
        c.get(DEVICES)
        answer = c.get(DEVICES)
        assert answer.status == 429
        assert answer.headers.get("Retry-After") == ("20" if kind == "present" else None)
        assert json.loads(str(error(answer)["message"]))["RetryAfter"] is None


@pytest.mark.parametrize(("lasts", "said"), [("PT10S", "10"), ("PT1.5S", "2"), ("PT0.05S", "1")])
def test_a_fault_at_random_lasts_as_long_as_the_quirk_says_in_whole_seconds(lasts: str, said: str) -> None:
    c = client(p429=1, retry_after="present", fault_lasts=lasts)
    assert c.get(DEVICES).headers["Retry-After"] == said


def test_throttling_can_be_switched_off() -> None:
    c = client(call_limit=1, throttle=False)
    assert [c.get(DEVICES).status for _ in range(3)] == [200, 200, 200]


@pytest.mark.parametrize(
    ("fault", "status", "acted"),
    [
        ("429", 429, False),
        ("503", 503, False),
        ("503_html", 503, False),
        ("500", 500, False),
        ("503_acted", 503, True),
        ("lost_answer", None, True),
        ("lost_request", None, False),
    ],
)
def test_an_armed_fault_meets_one_call(fault: str, status: int | None, acted: bool) -> None:
    c = client()
    c.tenant.faults.arm(Fault.model_validate({"on": "wipe", "fault": fault, "serial": "SN002"}))
    assert c.wipe(c.device("SN001")).status == 204
    answer = c.wipe(c.device("SN002"))
    assert answer.cut is (status is None)
    if status is not None:
        assert answer.status == status
    assert len(c.device("SN002").wipes_received) == (1 if acted else 0)
    assert c.wipe(c.device("SN002")).status == 204


@pytest.mark.parametrize(
    ("rate", "status"), [("p429", 429), ("p503", 503), ("p503_acted", 503), ("forbidden", 403), ("lost_answer", None)]
)
def test_fault_rates_meet_calls_at_random(rate: str, status: int | None) -> None:
    c = client(forbidden_shape="403", **{rate: 1.0})
    answer = c.wipe(c.device())
    assert answer.cut if status is None else answer.status == status
    assert len(c.device().wipes_received) == (1 if rate in ("p503_acted", "lost_answer") else 0)
    half = client(throttle=False, forbidden_shape="403", **{rate: 0.5})
    met = [half.get(f"{DEVICES}?$top=1") for _ in range(200)]
    assert 60 < sum(1 for answer in met if answer.cut or answer.status != 200) < 140


# $batch.


def items(*requests: Mapping[str, object]) -> dict[str, object]:
    return {"requests": [{"id": str(n), "method": "GET", **one_} for n, one_ in enumerate(requests)]}


def batch(c: Client, body: object) -> dict[str, dict[str, object]]:
    answer = c.call("POST", "/v1.0/$batch", body)
    assert answer.status == 200, answer.body
    return {one_["id"]: one_ for one_ in json.loads(answer.encoded())["responses"]}


def test_a_batch_answers_each_item_by_itself_in_any_order() -> None:
    c = client()
    wipe = {
        "method": "POST",
        "url": f"/deviceManagement/managedDevices/{ident(c.device())}/wipe",
        "headers": {"Content-Type": "application/json"},
        "body": RESET,
    }
    reads: list[dict[str, object]] = [{"url": f"/devices?$top={n}"} for n in range(1, 7)]
    missing = {"url": "/deviceManagement/managedDevices/00000000-0000-4000-8000-000000000000"}
    answers = batch(c, items(wipe, missing, *reads))
    assert (answers["0"]["status"], "body" in answers["0"]) == (204, False)
    assert answers["1"]["status"] == 404
    assert answers["3"]["body"]["value"][1]  # type: ignore[index]  # JSON of known shape
    assert list(answers) != sorted(answers)
    assert len(c.device().wipes_received) == 1


def test_each_item_of_a_batch_counts_against_the_limits() -> None:
    c = client(write_limit=5)
    sync = {"method": "POST", "url": f"/deviceManagement/managedDevices/{ident(c.device())}/syncDevice"}
    answers = batch(c, items(*[sync] * 8))
    assert sorted(str(one_["status"]) for one_ in answers.values()) == ["204"] * 5 + ["429"] * 3


def test_a_batch_is_counted_once_and_its_items_apart() -> None:
    c = client()
    batch(c, items({"url": "/devices"}, {"url": "/devices"}))
    report = c.tenant.counts.report()
    assert (report["requests"], report["items"]) == (1, 2)
    calls = report["calls"]
    assert isinstance(calls, dict)
    assert calls["GET /v1.0/devices"] == {"alone": 0, "batched": 2, "statuses": {"200": 2}}


def test_depends_on_orders_items_and_a_failure_fails_what_depends_on_it() -> None:
    c = client()
    missing = {"url": "/deviceManagement/managedDevices/00000000-0000-4000-8000-000000000000"}
    answers = batch(c, items(missing, {"url": "/devices", "dependsOn": ["0"]}, {"url": "/devices", "dependsOn": []}))
    assert [answers[key]["status"] for key in ("0", "1", "2")] == [404, 424, 200]


def test_a_lost_answer_inside_a_batch_loses_the_whole_batch_after_its_effects() -> None:
    c = client()
    c.tenant.faults.arm(Fault.model_validate({"on": "sync", "fault": "lost_answer"}))
    sync = {"method": "POST", "url": f"/deviceManagement/managedDevices/{ident(c.device())}/syncDevice"}
    assert c.call("POST", "/v1.0/$batch", items(sync, sync)).cut


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"requests": []},
        {"requests": [{"id": "1", "method": "GET", "url": "/devices"}] * 2},
        {"requests": [{"id": str(n), "method": "GET", "url": "/devices"} for n in range(21)]},
        {"requests": [{"id": 1, "method": "GET", "url": "/devices"}]},
        {"requests": [{"id": "1", "method": "GET"}]},
        {"requests": [{"id": "1", "method": "get", "url": "/devices"}]},
        {"requests": [{"id": "1", "method": "GET", "url": "https://graph.test/v1.0/devices"}]},
        {"requests": [{"id": "1", "method": "POST", "url": "/$batch"}]},
        {"requests": [{"id": "1", "method": "POST", "url": "/x", "body": {}}]},
        {"requests": [{"id": "1", "method": "GET", "url": "/devices", "dependsOn": ["2"]}]},
        {"requests": [{"id": "1", "method": "GET", "url": "/devices", "dependsOn": "2"}]},
        {
            "requests": [
                {"id": "1", "method": "GET", "url": "/devices", "dependsOn": ["2"]},
                {"id": "2", "method": "GET", "url": "/devices", "dependsOn": ["1"]},
            ]
        },
    ],
)
def test_a_malformed_batch_is_refused_whole(body: object) -> None:
    c = client()
    assert c.call("POST", "/v1.0/$batch", body).status == 400


def test_a_body_in_base64_inside_a_batch_is_not_taken_for_json_by_accident() -> None:
    c = client()
    item = {
        "method": "POST",
        "url": f"/deviceManagement/managedDevices/{ident(c.device())}/wipe",
        "headers": {"Content-Type": "application/json"},
        "body": "not base64 and not an object",
    }
    assert batch(c, items(item))["0"]["status"] == 400
    assert c.device().wipes_received == []


def test_every_quirk_is_tried_somewhere() -> None:
    from sandbox.tenant.quirks import Quirks

    here = Path(__file__).parent
    text = "".join(path.read_text("utf-8") for path in here.glob("test_*.py"))
    assert [name for name in Quirks.model_fields if f"{name}=" not in text and f'"{name}"' not in text] == []
