"""The sandbox's settings follow from the scenario, and what leads out of the sandbox is left out."""

import json
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from sandbox import commands, stack
from sandbox.scenario import Scenario
from shared.domain.policy import Policy
from shared.domain.timing import open_occurrences
from shared.domain.windows import Windows
from shared.settings import load

START = datetime(2026, 5, 1, 21, 59, 50, tzinfo=UTC)


def scenario(folder: Path, text: str = "") -> Scenario:
    file = folder / "scenario.toml"
    file.write_text(f'[scenario]\nname = "s"\nspeed = 60\n{text}')
    return Scenario.load(file)


def test_the_apps_policy_runs_at_the_scenarios_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '[policy]\nsync_grace = "PT2M"\nsync_attempts = 2\nprotected_devices = ["BOSS-*"]'
    values = stack.app_settings(scenario(tmp_path, text), "connection", "http://127.0.0.1:1", tmp_path / "windows.toml")
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    policy = load().policy
    assert load().policy_file is None, "what the organisation's own policy says is no part of a scenario"
    assert policy.sync_grace == timedelta(seconds=2)
    assert policy.min_reset_duration == Policy().min_reset_duration / 60
    assert (policy.sync_attempts, policy.resets_per_day) == (2, Policy().resets_per_day)
    assert policy.protected_devices == {"BOSS-*"}


def test_a_window_opens_once_to_the_second_whatever_its_time_zone(tmp_path: Path) -> None:
    text = (
        '[[windows]]\nname = "w"\nopens_after = "PT15M"\ntimezone = "Asia/Kolkata"\nopen_for = "PT1H"\ngroup_tag = "A"'
    )
    plan = Windows.model_validate(tomllib.loads(stack.windows_file(scenario(tmp_path, text), START)))
    (window,) = plan.window
    opens = START + timedelta(seconds=15)
    assert window.zone == ZoneInfo("Asia/Kolkata")
    for later, expected in ((-1, []), (0, [opens]), (59, [opens]), (60, []), (86_400, [])):
        now = opens + timedelta(seconds=later)
        assert [one.opens for one in open_occurrences(window.cron, window.zone, window.open_for, now)] == expected


def test_a_window_names_its_devices_and_keeps_a_cron_line_of_its_own(tmp_path: Path) -> None:
    text = '[[windows]]\nname = "w"\ncron = "0 18 * * 1-5"\ndevices = ["serialNumber:A \\"1\\"", "name:B:C"]'
    plan = Windows.model_validate(tomllib.loads(stack.windows_file(scenario(tmp_path, text), START)))
    assert plan.window[0].cron == "0 18 * * 1-5"
    assert [str(device.reference()) for device in plan.window[0].devices] == ['serialNumber:A "1"', "name:B:C"]


def test_settings_that_lead_out_of_the_sandbox_are_left_out_and_named(tmp_path: Path) -> None:
    file = tmp_path / "local.settings.json"
    values = {
        "TURNAROUND_STORAGE": "UseDevelopmentStorage=true",
        "AzureWebJobsStorage": "AccountName=real;AccountKey=x",
        "TURNAROUND_STORAGE__queueServiceUri": "https://real.queue.core.windows.net",
        "TURNAROUND_GRAPH__CLOUD": "global",
        "TURNAROUND_POLICY__SYNC_ATTEMPTS": "9",
    }
    file.write_text(json.dumps({"Values": values}))
    own, left_out = commands.read_settings(file)
    assert own == {"TURNAROUND_POLICY__SYNC_ATTEMPTS": "9"}
    assert left_out == ["AzureWebJobsStorage", "TURNAROUND_STORAGE__queueServiceUri", "TURNAROUND_GRAPH__CLOUD"]


@pytest.mark.parametrize("content", ["no json", "[]", '{"Values": {"A": 1}}'])
def test_a_settings_file_of_another_shape_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(commands.InputError, match=r"s\.json"):
        commands.read_settings(tmp_path / "s.json")
