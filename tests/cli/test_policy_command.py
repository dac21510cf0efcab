"""`turnaround policy check`: what a policy means, where each value comes from, what deserves a second look."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from shared import wiring
from shared.domain.policy import Policy
from shared.domain.policy_words import Topic

EXPORT = Path(__file__).resolve().parents[2] / "examples" / "export"
PRUDENT = """
protected_devices = ["KIOSK-*"]
approvers = ["*-lead@contoso.example"]
[[requesters]]
name = "desk@contoso.example"
"""


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings at all, no storage and no tenant among them; nothing is cached."""
    for name in [name for name in os.environ if name.upper().startswith("TURNAROUND_")]:
        monkeypatch.delenv(name)
    wiring.settings.cache_clear()
    yield
    wiring.settings.cache_clear()


def written(folder: Path, content: str) -> str:
    path = folder / "policy.toml"
    path.write_text(content, "utf-8")
    return str(path)


def check(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["policy", "check", *arguments])


def line(said: str, name: str) -> str:
    (found,) = [one for one in said.splitlines() if f"[{name}, " in one]
    return found


def test_without_a_file_the_defaults_are_said_in_words() -> None:
    ended = check()
    assert ended.exit_code == 0
    assert "The policy is valid. Its file: none.\n" in ended.stdout
    assert line(ended.stdout, "min_reset_duration") == (
        "  A device that checks in within 15 minutes of taking the reset has not been reset yet."
        "  [min_reset_duration, default]"
    )


def test_every_field_is_said_once_under_the_heading_of_its_topic() -> None:
    said = check().stdout.partition("\nWorth a second look\n")[0].splitlines()
    assert [one for one in said if one in list(Topic)] == list(Topic)
    for name in Policy.model_fields:
        assert len([one for one in said if f"  [{name}, default]" in one]) == 1


def test_each_value_is_said_with_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNAROUND_POLICY__RESETS_PER_HOUR", "20")
    said = check(written(tmp_path, "resets_per_day = 300\nresets_per_hour = 100")).stdout
    assert line(said, "resets_per_day") == "* At most 300 resets on one UTC day.  [resets_per_day, policy.toml]"
    assert line(said, "resets_per_hour").startswith("* At most 20 resets in one hour")
    assert line(said, "resets_per_hour").endswith("  [resets_per_hour, TURNAROUND_POLICY__RESETS_PER_HOUR]")
    assert "2 fields of " in said


def test_without_a_file_the_one_that_the_setting_names_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNAROUND_POLICY_FILE", written(tmp_path, "resets_per_day = 300"))
    assert "At most 300 resets" in check().stdout


def test_what_deserves_a_second_look_is_told_and_does_not_fail(tmp_path: Path) -> None:
    ended = check(written(tmp_path, "resets_per_day = 2000\nresets_per_hour = 100" + PRUDENT))
    assert ended.exit_code == 0
    second_look = ended.stdout.partition("\nWorth a second look\n")[2].splitlines()
    assert len(second_look) == 1
    assert second_look[0].startswith("! resets_per_day: Intune's documented limit is 500 wipes a tenant and day")
    assert second_look[0].endswith("  [policy.toml]")


def test_nothing_is_said_of_a_second_look_where_nothing_deserves_one(tmp_path: Path) -> None:
    assert "second look" not in check(written(tmp_path, PRUDENT)).stdout


def test_a_policy_that_is_not_valid_ends_with_2_and_every_fault_on_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNAROUND_POLICY__APPROVERS", "lead")
    file = written(tmp_path, "resets_per_day = 0\nno_such = 1")
    ended = check(file)
    assert (ended.exit_code, ended.stdout) == (2, "")
    first, *faults = ended.stderr.splitlines()
    assert first == "The policy is not valid:"
    assert {one.rpartition(": ")[0] for one in faults} == {
        "  TURNAROUND_POLICY__APPROVERS",
        f"  {file}: no_such",
        f"  {file}: resets_per_day",
    }


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read: No such file or directory"), ("= 1", "is not TOML: ")]
)
def test_a_file_that_cannot_be_read_is_named_and_no_setting_with_it(
    tmp_path: Path, content: str | None, said: str
) -> None:
    file = tmp_path / "no.toml" if content is None else written(tmp_path, content)
    ended = check(str(file))
    assert ended.exit_code == 2
    assert f"  {file} {said}" in ended.stderr
    assert "TURNAROUND" not in ended.stderr


def test_words_of_a_file_that_would_steer_a_terminal_or_pass_for_a_line_of_ours_are_shown_escaped(
    tmp_path: Path,
) -> None:
    said = check(written(tmp_path, 'protected_devices = ["\\u001b[2JA\\nWorth nothing"]')).stdout
    assert "\\x1b[2JA\\nWorth nothing" in line(said, "protected_devices")
    refused = check(written(tmp_path, '"\\u001b[2J\\n  b" = 1')).stderr
    assert len(refused.splitlines()) == 2
    assert "\x1b" not in said + refused


# In JSON


def as_json(ended: Result) -> dict[str, Any]:  # Any: JSON
    return dict(json.loads(ended.stdout))


def test_in_json_every_field_has_value_topic_origin_and_words(tmp_path: Path) -> None:
    file = written(tmp_path, 'sync_grace = "PT7M"\nprotected_devices = ["C", "A", "B"]')
    ended = check(file, "--json")
    assert ended.exit_code == 0
    found = as_json(ended)
    assert (found["valid"], found["file"]) == (True, file)
    fields = {one["name"]: one for one in found["fields"]}
    assert set(fields) == set(Policy.model_fields)
    assert fields["sync_grace"] == {
        "name": "sync_grace",
        "topic": "How long things may take",
        "value": "PT7M",
        "from": "file",
        "means": "A device has 7 minutes to check in by itself before a sync is forced.",
    }
    assert fields["protected_devices"]["value"] == ["A", "B", "C"], "in order, so that two answers can be compared"
    assert {risk["name"] for risk in found["secondLook"]} == {"requesters", "approvers"}


def test_in_json_the_faults_of_a_policy_that_is_not_valid_are_a_list(tmp_path: Path) -> None:
    file = written(tmp_path, "resets_per_day = 0\nno_such = 1")
    ended = check(file, "--json")
    assert ended.exit_code == 2
    assert as_json(ended) == {
        "valid": False,
        "faults": [
            f"{file}: resets_per_day: Input should be greater than or equal to 1",
            f"{file}: no_such: there is no such field",
        ],
    }


# The other commands read the policy in the same way


def planned(*arguments: str) -> dict[str, str | None]:
    request = str(EXPORT / "request.json")
    ended = CliRunner().invoke(app, ["plan", request, "--offline", str(EXPORT), "--json", *arguments])
    assert ended.exit_code in (0, 3), ended.stderr
    devices = json.loads(ended.stdout)["devices"]
    return {one["name"]: one["why"] and one["why"]["code"] for one in devices if one["name"]}


def test_a_plan_holds_to_the_file_of_the_settings_and_to_the_settings_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNAROUND_POLICY_FILE", written(tmp_path, 'protected_devices = ["FIN-*"]'))
    assert planned()["FIN-LT-014"] == "protected"
    monkeypatch.setenv("TURNAROUND_POLICY__PROTECTED_DEVICES", '["LAB-*"]')
    protected = [name for name, code in planned().items() if code == "protected"]
    assert sorted(protected) == ["LAB-07", "LAB-08"]


def test_a_plan_tells_of_a_bad_setting_by_name_and_speaks_of_no_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNAROUND_POLICY__APPROVERS", "lead")
    ended = CliRunner().invoke(app, ["plan", str(EXPORT / "request.json"), "--offline", str(EXPORT)])
    assert ended.exit_code == 2
    assert "TURNAROUND_POLICY__APPROVERS: give a list" in ended.stderr
    assert "--connection" not in ended.stderr
