"""`turnaround plan`: from an export with nothing set at all, and by what Graph and the table show."""

import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from sandbox.memory import MemoryTable
from shared import wiring
from shared.state.store import Store
from tests.pipeline.fakes import Clock, FakeIntune, FaultyTable, asking, device

EXPORT = Path(__file__).resolve().parents[2] / "examples" / "export"
REQUEST = str(EXPORT / "request.json")
MANAGED, ENTRA, AUTOPILOT = "managedDevices.json", "devices.json", "windowsAutopilotDeviceIdentities.json"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings at all; what a command sets is taken back; nothing is cached."""
    for name in [name for name in os.environ if name.startswith("TURNAROUND_")]:
        monkeypatch.delenv(name)
    wiring.settings.cache_clear()
    yield
    wiring.settings.cache_clear()


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A copy of the example export, to be spoilt."""
    return shutil.copytree(EXPORT, tmp_path / "export")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", *arguments])


def plan(folder: Path, *arguments: str, request: str = REQUEST) -> dict[str, Any]:  # Any: JSON
    ended = run(request, "--offline", str(folder), "--json", *arguments)
    assert ended.exit_code in (0, 3), ended.stderr
    return dict(json.loads(ended.stdout))


def verdicts(folder: Path, request: str = REQUEST) -> dict[str, str]:
    """Verdict, or code where there is one, by the device's name, or by the reference where it leads to none."""
    return {
        one["name"] or one["reference"]: one["why"]["code"] if one["why"] else one["verdict"]
        for one in plan(folder, request=request)["devices"]
    }


def asking_for(folder: Path, *devices: dict[str, str], **fields: Any) -> str:  # Any: fields of the request
    path = folder / "asked.json"
    path.write_text(asking(devices=list(devices), **fields), "utf-8")
    return str(path)


def change(path: Path, how: Callable[[Any], Any]) -> None:  # Any: JSON
    path.write_text(json.dumps(how(json.loads(path.read_text("utf-8")))), "utf-8")


EXAMPLE = {
    "FIN-LT-014": "reset",
    "FIN-LT-015": "reset",
    "LAB-07": "reset",
    "LAB-08": "reset",
    "groupTag:LAB": "not_enrolled",
    "HQ-PC-22": "hybrid_joined",
    "KIOSK-03": "not_autopilot_registered",
    "name:LOANER": "ambiguous",
    "CPC-anna-4RT2Q": "cloud_pc",
    "serialNumber:CB-LOST-1": "unknown_device",
}


# --- offline


def test_s8_the_example_export_gives_a_verdict_on_every_device_with_nothing_set() -> None:
    assert verdicts(EXPORT) == EXAMPLE


def test_check_ins_count_as_old_as_they_were_when_the_export_was_taken(export: Path) -> None:
    """Or every device of an old export would count as lost."""

    def of_2020(page: Any) -> Any:  # Any: JSON
        for one in page["value"]:
            one["lastSyncDateTime"] = one["lastSyncDateTime"].replace("2026", "2020")
            if one["deviceName"] == "LAB-07":
                one["lastSyncDateTime"] = "2020-10-01T00:00:00Z"
        return page

    for file in (MANAGED, "managedDevices-2.json"):
        change(export / file, of_2020)
    assert verdicts(export) == EXAMPLE | {"LAB-07": "not_seen_lately"}


def test_an_export_that_was_taken_from_v1_does_not_tell_how_devices_are_joined(export: Path) -> None:
    def of_v1(page: Any) -> Any:  # Any: JSON
        for one in page["value"]:
            del one["joinType"], one["skuFamily"]
        return page

    for file in (MANAGED, "managedDevices-2.json"):
        change(export / file, of_v1)
    assert verdicts(export) == EXAMPLE | dict.fromkeys(
        ["FIN-LT-014", "FIN-LT-015", "LAB-07", "LAB-08"], "join_unknown"
    ) | {"KIOSK-03": "join_unknown"}


def test_a_saved_list_that_shows_pending_actions_tells_of_them(export: Path) -> None:
    def pending(page: Any) -> Any:  # Any: JSON
        page["value"][0]["deviceActionResults"] = [{"actionName": "retire", "actionState": "pending"}]
        page["value"][1]["deviceActionResults"] = []
        return page

    change(export / MANAGED, pending)
    assert verdicts(export) == EXAMPLE | {"FIN-LT-014": "other_action_pending"}


def test_a_plan_in_which_some_devices_would_not_be_reset_ends_with_3() -> None:
    ended = run(REQUEST, "--offline", str(EXPORT))
    assert ended.exit_code == 3
    assert "4 reset, 0 wait, 6 refused" in ended.stdout


def test_a_plan_in_which_all_would_be_reset_ends_with_0(tmp_path: Path) -> None:
    ended = run(asking_for(tmp_path, {"serialNumber": "cb4400140"}), "--offline", str(EXPORT))
    assert ended.exit_code == 0
    assert "1 reset, 0 wait, 0 refused" in ended.stdout


def test_the_table_is_whole_and_plain_without_a_terminal() -> None:
    said = run(REQUEST, "--offline", str(EXPORT)).stdout
    (line,) = [line for line in said.splitlines() if line.startswith("FIN-LT-015 ")]
    assert "1d63bf03-ae71-50ab-a3f2-a48c656d5459" in line
    assert "\x1b" not in said
    assert "HQ-PC-22: The device is hybrid-joined" in said
    assert "What to do: Use a full wipe" in said
    assert "an export may be incomplete" in said


def test_s8_nobody_is_connected_to_for_a_plan_from_an_export(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a plan from an export needs no settings, no storage and no Graph")

    for name in ("settings", "store", "queues", "intune", "reading_graph"):
        monkeypatch.setattr(wiring, name, refuse)
    assert run(REQUEST, "--offline", str(EXPORT)).exit_code == 3
    monkeypatch.undo()


def test_one_array_of_pages_is_as_good_as_several_files(export: Path) -> None:
    pages = [json.loads((export / name).read_text("utf-8")) for name in (MANAGED, "managedDevices-2.json")]
    (export / "managedDevices-2.json").unlink()
    (export / MANAGED).write_text(json.dumps(pages), "utf-8")
    assert verdicts(export) == EXAMPLE


def test_an_export_written_by_powershell_in_utf_16_is_read(export: Path) -> None:
    (export / ENTRA).write_text((export / ENTRA).read_text("utf-8"), "utf-16")
    assert verdicts(export) == EXAMPLE


def test_a_policy_file_holds_for_the_plan(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('resets_per_day = 3\nprotected_devices = ["FIN-*"]\nusual_reset_duration = "PT2H"\n', "utf-8")
    made = plan(EXPORT, "--policy", str(policy))
    protected = [one["name"] for one in made["devices"] if one["why"] and one["why"]["code"] == "protected"]
    assert protected == ["FIN-LT-014", "FIN-LT-015"]
    assert "PT2H" in made["estimate"]


@pytest.mark.parametrize(
    ("content", "said"),
    [("resets_per_day = 0", "resets_per_day: "), ("no_such = 1", "no_such: "), ("= 1", "is not TOML")],
)
def test_a_policy_file_that_is_not_valid_is_told_of(tmp_path: Path, content: str, said: str) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(content, "utf-8")
    ended = run(REQUEST, "--offline", str(EXPORT), "--policy", str(policy))
    assert ended.exit_code == 2
    assert said in ended.stderr


def test_a_policy_file_without_an_export_is_refused() -> None:
    ended = run(REQUEST, "--policy", "policy.toml")
    assert (ended.exit_code, "--policy goes with --offline" in ended.stderr) == (2, True)


# --- exports that cannot be used


@pytest.mark.parametrize("name", [MANAGED, ENTRA, AUTOPILOT])
def test_a_missing_file_is_named(export: Path, name: str) -> None:
    (export / name).unlink()
    ended = run(REQUEST, "--offline", str(export))
    assert ended.exit_code == 2
    assert f"there is no {name}" in ended.stderr
    assert ended.stdout == ""


def more(page: dict[str, Any]) -> dict[str, Any]:
    return page | {"@odata.nextLink": "https://graph.microsoft.com/v1.0/devices?$skiptoken=x"}


@pytest.mark.parametrize(
    ("name", "how", "said"),
    [
        (ENTRA, more, "devices.json is incomplete: Graph's list goes on (@odata.nextLink)"),
        (ENTRA, lambda page: page | {"@odata.count": 12}, "Graph counted 12 records, here are 9"),
        (ENTRA, lambda page: page["value"], "devices.json is not an answer of Graph's"),
        (ENTRA, lambda _: [], "devices.json is not an answer of Graph's"),
        (ENTRA, lambda page: page | {"value": ["x"]}, "devices.json is not an answer of Graph's"),
        (ENTRA, lambda _: {"error": {"code": "Forbidden"}}, "devices.json holds an error of Graph's instead"),
        (
            AUTOPILOT,
            lambda page: page | {"@odata.context": "https://graph.microsoft.com/v1.0/$metadata#devices"},
            "holds a list of devices, not of windowsAutopilotDeviceIdentities",
        ),
    ],
)
def test_a_file_that_is_no_whole_list_is_told_of(export: Path, name: str, how: Callable[[Any], Any], said: str) -> None:
    change(export / name, how)
    ended = run(REQUEST, "--offline", str(export))
    assert ended.exit_code == 2
    assert said in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize("content", [b"name,serial\n", b"", b"[" * 100_000, b"\xff\x00\x80"])
def test_a_file_that_is_not_json_is_told_of(export: Path, content: bytes) -> None:
    (export / MANAGED).write_bytes(content)
    ended = run(REQUEST, "--offline", str(export))
    assert ended.exit_code == 2
    assert "managedDevices.json is not JSON" in ended.stderr


@pytest.mark.parametrize("name", ["managedDevices-3.json", "managedDevices-two.json", "managedDevices-02.json"])
def test_pages_are_named_in_a_row(export: Path, name: str) -> None:
    (export / name).write_text('{"value": []}', "utf-8")
    if name.endswith("3.json"):
        (export / "managedDevices-2.json").unlink()
    ended = run(REQUEST, "--offline", str(export))
    assert ended.exit_code == 2
    assert "managedDevices-2.json" in ended.stderr


def test_a_record_without_an_id_is_left_out_and_told_of(export: Path) -> None:
    change(export / ENTRA, lambda page: page | {"value": [*page["value"], {"displayName": "X"}]})
    made = plan(export)
    assert "devices.json, record 10, is left out: an Entra device without a deviceId." in made["notes"]
    assert verdicts(export) == EXAMPLE


def test_a_record_that_lacks_what_must_be_known_refuses_its_device(export: Path, tmp_path: Path) -> None:
    def without_user(page: dict[str, Any]) -> dict[str, Any]:
        return page | {"value": [{k: v for k, v in one.items() if k != "userId"} for one in page["value"]]}

    change(export / MANAGED, without_user)
    assert verdicts(export, asking_for(tmp_path, {"serialNumber": "CB4400140"})) == {"FIN-LT-014": "facts_incomplete"}


def test_a_device_name_that_would_steer_a_terminal_is_shown_escaped(export: Path, tmp_path: Path) -> None:
    def rename(page: dict[str, Any]) -> dict[str, Any]:
        page["value"][0]["deviceName"] = "\x1b[2J\u202eEVIL[red]"
        return page

    change(export / MANAGED, rename)
    said = run(asking_for(tmp_path, {"serialNumber": "CB4400140"}), "--offline", str(export)).stdout
    assert "\\x1b[2J\\u202eEVIL[red]" in said
    assert "\x1b" not in said
    assert "\u202e" not in said


def test_a_part_of_a_request_is_no_whole_request(tmp_path: Path) -> None:
    asked = asking_for(tmp_path, {"serialNumber": "A"}, part={"number": 1, "of": 2})
    ended = run(asked, "--offline", str(EXPORT))
    assert (ended.exit_code, "is part of a request" in ended.stderr) == (2, True)


# --- online


def test_without_an_export_the_engines_settings_are_needed() -> None:
    ended = run(REQUEST)
    assert (ended.exit_code, "TURNAROUND_TENANT_ID" in ended.stderr) == (2, True)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> FakeIntune:
    """A Graph to read, and a table that fails at the first commit."""
    intune = FakeIntune(Clock())
    intune.add(device(1), device(2, operating_system="iOS"))

    @asynccontextmanager
    async def reading_graph() -> AsyncIterator[FakeIntune]:
        yield intune

    monkeypatch.setenv("TURNAROUND_TENANT_ID", "lab")
    monkeypatch.setenv("TURNAROUND_STORAGE", "UseDevelopmentStorage=true")
    monkeypatch.setattr(wiring, "store", lambda: Store(FaultyTable(MemoryTable(), fail_at=1)))
    monkeypatch.setattr(wiring, "reading_graph", reading_graph)
    return intune


def test_online_a_plan_reads_graph_and_the_table_and_writes_and_orders_nothing(
    online: FakeIntune, tmp_path: Path
) -> None:
    file = tmp_path / "request.json"
    file.write_text(asking(1, 2), "utf-8")
    ended = run(str(file), "--json")
    assert ended.exit_code == 3
    made = json.loads(ended.stdout)
    assert [one["verdict"] for one in made["devices"]] == ["reset", "refused"]
    assert (made["offline"], made["notes"]) == (False, [])
    assert set(online.calls) == {"find"}


def test_online_a_graph_that_cannot_be_read_is_told_of(online: FakeIntune, tmp_path: Path) -> None:
    online.down.add("find")
    file = tmp_path / "request.json"
    file.write_text(asking(1), "utf-8")
    ended = run(str(file))
    assert (ended.exit_code, "Graph is down" in ended.stderr) == (1, True)
