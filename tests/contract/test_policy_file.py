"""Where the policy comes from: app settings, below them policy.toml, below that the defaults. Every fault is named."""

import ast
import inspect
import os
import re
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest

from shared import settings
from shared.domain.policy import Policy
from shared.domain.policy_words import SENTENCES, Topic
from shared.settings import Origin, SettingsError, load, load_policy, load_windows

SHIPPED = Path(__file__).resolve().parents[2] / "policy.toml"
LEAD, TAG = "lead@contoso.example", {"name": "labs@contoso.example", "group_tags": ["LAB-*"]}


@pytest.fixture(autouse=True)
def only_what_an_app_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("TURNAROUND_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TURNAROUND_TENANT_ID", "lab")
    monkeypatch.setenv("TURNAROUND_STORAGE", "UseDevelopmentStorage=true")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the settings name; empty."""
    path = tmp_path / "policy.toml"
    path.touch()
    monkeypatch.setenv("TURNAROUND_POLICY_FILE", str(path))
    return path


def set_(monkeypatch: pytest.MonkeyPatch, **fields: str) -> None:
    for name, value in fields.items():
        monkeypatch.setenv(f"TURNAROUND_POLICY__{name.upper()}", value)


def faults() -> tuple[str, ...]:
    with pytest.raises(SettingsError) as stopped:
        load()
    assert str(stopped.value) == "Turnaround cannot start. " + "; ".join(stopped.value.faults)
    return stopped.value.faults


# What holds


def test_without_file_and_settings_the_defaults_hold() -> None:
    assert load().policy == Policy()
    assert set(load_policy().origins.values()) == {Origin.DEFAULT}


def test_the_file_holds_as_toml_writes_it(file: Path) -> None:
    file.write_text(
        'resets_per_day = 100\nsync_grace = "PT7M"\nfleet_share_per_day = 0.1\nallow_co_managed = true\n'
        'over_cap = "refuse"\napprovers = [\n  "lead@contoso.example",  # the head of the desk\n]\n'
        '[[requesters]]\nname = "labs@contoso.example"\ngroup_tags = ["LAB-*"]\n'
        '[[requesters]]\nname = "desk@contoso.example"\n',
        "utf-8",
    )
    policy = load().policy
    assert (policy.resets_per_day, policy.sync_grace, policy.over_cap) == (100, timedelta(minutes=7), "refuse")
    assert (policy.fleet_share_per_day, policy.allow_co_managed) == (0.1, True)
    assert policy.approvers == {LEAD}
    assert [scope.name for scope in policy.requesters] == ["labs@contoso.example", "desk@contoso.example"]
    assert policy.sync_backoff == Policy().sync_backoff


def test_a_setting_comes_before_the_file_and_the_files_other_fields_stay(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('resets_per_day = 100\nresets_per_hour = 10\nprotected_devices = ["KIOSK-*"]', "utf-8")
    set_(monkeypatch, resets_per_day="7", protected_devices='["SN-1"]')
    policy = load().policy
    assert (policy.resets_per_day, policy.resets_per_hour) == (7, 10)
    assert policy.protected_devices == {"SN-1"}, "a list is replaced, not added to"


def test_each_value_has_the_origin_it_came_from(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("resets_per_day = 100\nresets_per_hour = 200", "utf-8")
    set_(monkeypatch, resets_per_day="7", sync_attempts="3")
    origins = load_policy().origins
    assert {name: origin for name, origin in origins.items() if origin is not Origin.DEFAULT} == {
        "resets_per_day": Origin.SETTING,
        "sync_attempts": Origin.SETTING,
        "resets_per_hour": Origin.FILE,
    }
    assert set(origins) == set(Policy.model_fields)


def test_lists_in_settings_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    set_(
        monkeypatch,
        approvers=f'["{LEAD}", " *-head "]',
        requesters='[{"name": "labs@contoso.example", "group_tags": ["LAB-*"]}]',
    )
    policy = load().policy
    assert policy.approvers == {LEAD, "*-head"}
    assert policy == Policy.model_validate({"approvers": [LEAD, "*-head"], "requesters": [TAG]})


def test_an_empty_setting_is_none_and_an_empty_list_is_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('approvers = ["lead@contoso.example"]\nprotected_devices = ["A"]', "utf-8")
    set_(monkeypatch, approvers="", protected_devices="[]")
    assert load().policy.approvers == {LEAD}
    assert load().policy.protected_devices == frozenset()


def test_a_relative_path_is_from_the_apps_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "own.toml").write_text("resets_per_day = 5", "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "APP", tmp_path / "app")
    monkeypatch.setenv("TURNAROUND_POLICY_FILE", "own.toml")
    assert load().policy.resets_per_day == 5
    assert load_policy().file == tmp_path / "app" / "own.toml"


def test_a_file_given_by_hand_stands_in_for_the_one_of_the_settings(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("resets_per_day = 0\nresets_per_hour = 3", "utf-8")
    (tmp_path / "other.toml").write_text("resets_per_day = 5", "utf-8")
    monkeypatch.chdir(tmp_path)
    read = load_policy(Path("other.toml"))
    assert (read.policy.resets_per_day, read.policy.resets_per_hour) == (5, Policy().resets_per_hour)
    assert read.file == tmp_path / "other.toml"


def test_the_policy_is_read_where_the_app_itself_could_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TURNAROUND_TENANT_ID", "TURNAROUND_STORAGE"):
        monkeypatch.delenv(name)
    assert load_policy().policy == Policy()


def test_a_file_with_a_byte_order_mark_is_read(file: Path) -> None:
    file.write_text("resets_per_day = 5", "utf-8-sig")
    assert load().policy.resets_per_day == 5


# What stops the start


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("resets_per_day = 0", "resets_per_day: Input should be greater than or equal to 1"),
        ("resets_per_dya = 5", "resets_per_dya: there is no such field; is resets_per_day meant?"),
        ("Resets_Per_Day = 5", "Resets_Per_Day: there is no such field; is resets_per_day meant?"),
        ("sync_grace = 15", "sync_grace: write a duration with its units, as ISO 8601 does: PT15M, PT2H or P3D"),
        ('approvers = "lead"', 'approvers: give a list, such as ["one", "another"]'),
        ("requesters = 1", 'requesters: give a list, such as ["one", "another"]'),
        ('[[requesters]]\nname = "a"\n[[requesters]]\ntags = []', "requesters: 1.tags: there is no such field"),
        ("[limits]\nresets_per_day = 5", "limits: there is no such field"),
        (
            'audit_after = "PT2H"',
            "audit_after must be at least reconcile_after, and shorter than sending_for",
        ),
    ],
)
def test_a_bad_file_is_named_with_the_field(file: Path, content: str, fault: str) -> None:
    file.write_text(content, "utf-8")
    assert f"{file}: {fault}" in faults()


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("resets_per_day", "0", "Input should be greater than or equal to 1"),
        ("resets_per_dya", "5", "there is no such field; is resets_per_day meant?"),
        ("sync_grace", "15", "write a duration with its units, as ISO 8601 does: PT15M, PT2H or P3D"),
        ("approvers", LEAD, 'give a list, such as ["one", "another"]'),
        ("approvers", '["a"', 'give a list, such as ["one", "another"]'),
        ("approvers", '["a", ""]', "1: String should have at least 1 character"),
        ("requesters", '[{"nam": "a"}]', "0.nam: there is no such field"),
    ],
)
def test_a_bad_setting_is_named_although_the_file_is_good(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, fault: str
) -> None:
    file.write_text('resets_per_day = 5\nsync_grace = "PT1M"\napprovers = ["b"]\nrequesters = []', "utf-8")
    set_(monkeypatch, **{name: value})
    assert f"TURNAROUND_POLICY__{name.upper()}: {fault}" in faults()
    assert not [fault for fault in faults() if str(file) in fault]


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("TURNAROUND_TENANT_ID", "", "TURNAROUND_TENANT_ID: Field required"),
        ("TURNAROUND_TENANT_ID", "a b", "TURNAROUND_TENANT_ID: String should match pattern"),
        ("TURNAROUND_ROLE", "boss", "TURNAROUND_ROLE: Input should be 'front', 'engine' or 'all'"),
        ("turnaround_role", "boss", "TURNAROUND_ROLE: "),
        ("TURNAROUND_TABLE", "1", "TURNAROUND_TABLE: String should match pattern"),
        ("TURNAROUND_GRAPH__COULD", "usgov", "TURNAROUND_GRAPH__COULD: there is no such field"),
        ("TURNAROUND_GRAPH", "usgov", "TURNAROUND_GRAPH: Input should be a valid dictionary"),
        ("TURNAROUND_STORAGE", "", "TURNAROUND_STORAGE: set TURNAROUND_STORAGE to a connection string, or "),
    ],
)
def test_a_bad_setting_of_the_app_itself_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, fault: str
) -> None:
    monkeypatch.setenv(name, value)
    (found,) = faults()
    assert found.startswith(fault)


def test_storage_by_identity_is_read_as_the_functions_host_spells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TURNAROUND_STORAGE")
    monkeypatch.setenv("TURNAROUND_STORAGE__queueServiceUri", "https://queues")
    monkeypatch.setenv("TURNAROUND_STORAGE__clientId", "id")
    assert faults()[0].startswith("TURNAROUND_STORAGE: ")
    monkeypatch.setenv("TURNAROUND_STORAGE__tableServiceUri", "https://tables")
    read = load().storage_identity
    assert (read.queueserviceuri, read.tableserviceuri, read.clientid) == ("https://queues", "https://tables", "id")


def test_a_policy_that_is_no_policy_at_all_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNAROUND_POLICY", "strict")
    (fault,) = faults()
    assert fault.startswith("TURNAROUND_POLICY: ")


def test_fields_that_do_not_fit_together_are_named_wherever_each_comes_from(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('audit_after = "PT50M"\nsync_grace = "PT1M"', "utf-8")
    set_(monkeypatch, sending_for="PT45M", sync_attempts="3")
    (fault,) = faults()
    assert fault.startswith(f"TURNAROUND_POLICY__SENDING_FOR, {file}: audit_after must be")


def test_all_faults_are_told_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("resets_per_day = 0\nno_such = 1", "utf-8")
    set_(monkeypatch, approvers="x")
    monkeypatch.setenv("TURNAROUND_TENANT_ID", "not a tenant")
    places = sorted(fault.partition(": ")[0] for fault in faults())
    assert places == sorted([str(file), str(file), "TURNAROUND_POLICY__APPROVERS", "TURNAROUND_TENANT_ID"])


def test_a_file_that_is_missing_is_named_with_its_setting(file: Path) -> None:
    file.unlink()
    assert faults() == (f"TURNAROUND_POLICY_FILE: {file} cannot be read: No such file or directory",)


@pytest.mark.parametrize("content", [b"resets_per_day 5", b"\xff\xfe", b"resets_per_day = 1\nresets_per_day = 2"])
def test_a_file_that_is_not_toml_is_named_with_its_setting(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    (fault,) = faults()
    assert fault.startswith(f"TURNAROUND_POLICY_FILE: {file} is not TOML: ")


def test_a_bad_window_is_named_with_its_setting_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "windows.toml").write_text('[[window]]\nname = "a"\ncron = "0 18 * * *"\ngroup_tags = "X"', "utf-8")
    monkeypatch.setenv("TURNAROUND_WINDOWS_FILE", "windows.toml")
    with pytest.raises(SettingsError) as stopped:
        load_windows(load(), tmp_path)
    place = f"TURNAROUND_WINDOWS_FILE: {tmp_path / 'windows.toml'}"
    assert f"{place}: window.0.group_tags: there is no such field" in stopped.value.faults
    (tmp_path / "windows.toml").unlink()
    with pytest.raises(SettingsError, match=re.escape(f"{place} cannot be read: No such file")):
        load_windows(load(), tmp_path)


# policy.toml as it ships


def docstrings() -> dict[str, str]:
    """What stands below each field of Policy, in one line."""
    (policy,) = ast.parse(inspect.getsource(Policy)).body
    assert isinstance(policy, ast.ClassDef)
    found = {}
    for field, words in zip(policy.body, policy.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(words, ast.Expr) and isinstance(words.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(words.value.value).split())
    return found


def entries() -> list[tuple[str, str, str, bool]]:
    """Of each entry of policy.toml: the comment above it, name, value, and whether the entry is commented out."""
    text = SHIPPED.read_text("utf-8")
    found = re.findall(r"^((?:# .*\n)+?)(# )?([a-z_]+) = (.*)$", text, re.MULTILINE)
    return [(" ".join(re.findall("^# (.*)$", words, re.MULTILINE)), *rest, bool(off)) for words, off, *rest in found]


def test_the_shipped_file_is_loaded_and_its_comments_say_what_the_fields_say() -> None:
    load_policy(SHIPPED)
    assert {name: words for words, name, _, _ in entries()} == docstrings()


def test_the_shipped_file_has_every_field_under_its_topic() -> None:
    """The topics in their order, but for the requesters: a table in TOML ends only with the file."""
    topics = sorted(Topic, key=lambda topic: topic is Topic.REQUESTERS)
    headings = re.findall(r"^# --- (.*?) -+$", SHIPPED.read_text("utf-8"), re.MULTILINE)
    assert headings == topics
    assert [name for _, name, _, _ in entries()] == [name for topic in topics for name in SENTENCES[topic]]


def test_what_is_commented_out_in_the_shipped_file_is_the_default() -> None:
    lines = [f"{name} = {value}" for _, name, value, off in entries() if off]
    shown = Policy.model_validate(tomllib.loads("\n".join(lines)))
    differing = [name for name in shown.model_fields_set if getattr(shown, name) != getattr(Policy(), name)]
    assert differing == []


def test_the_example_of_a_requester_in_the_shipped_file_is_valid() -> None:
    example = SHIPPED.read_text("utf-8").partition("#     [[requesters]]")
    lines = "".join(example[1:]).replace("#     ", "")
    assert Policy.model_validate(tomllib.loads(lines)).requesters[0].group_tags == {"LAB-*"}
